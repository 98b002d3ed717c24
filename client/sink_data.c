/* Bytes are handed on in runs that are as long as can be: a run ends only where a dot is left out or the input ends. */
#include "client/sink_data.h"

#include "proto/base/error.h"

#include <string.h>

void sink_data_reset(struct sink_data *data)
{
    memset(data, 0, sizeof(*data)); /* DATA_AT_LINE: the line before was DATA's */
}

/* Within a line: goes on behind the next LF, or to the end of the input. Returns the new position. */
static size_t skip_line(struct sink_data *data, const char *in, size_t at, size_t len)
{
    bool after_cr = data->state == DATA_AFTER_CR;
    const char *lf = memchr(in + at, '\n', len - at);
    size_t end = lf != NULL ? (size_t)(lf - in) : len;
    size_t bulk = end > at && in[end - 1] == '\r' ? end - 1 : end; /* without the CR of the line's end */

    if ((after_cr && end > at) || memchr(in + at, '\r', bulk - at) != NULL)
        data->bare_cr = true;
    bool cr = end > at ? in[end - 1] == '\r' : after_cr;
    if (lf == NULL) {
        data->state = cr ? DATA_AFTER_CR : DATA_IN_LINE;
        return len;
    }
    if (!cr)
        data->bare_lf = true;
    data->state = cr ? DATA_AT_LINE : DATA_IN_LINE;
    return end + 1;
}

int sink_data_feed(struct sink_data *data, const char *in, size_t len, size_t *used, sink_data_take take, void *arg)
{
    size_t run = 0; /* where what was not yet handed on begins */
    size_t at = 0;

    while (at < len) {
        switch (data->state) {
        case DATA_AT_LINE:
            if (in[at] != '.') {
                data->state = DATA_IN_LINE;
                break;
            }
            if (at > run)
                take(arg, in + run, at - run);
            run = ++at;
            data->state = DATA_AFTER_DOT;
            break;
        case DATA_AFTER_DOT:
            if (in[at] != '\r') {
                data->state = DATA_IN_LINE;
                break;
            }
            run = ++at; /* held back: it may belong to the final dot */
            data->state = DATA_AFTER_DOT_CR;
            break;
        case DATA_AFTER_DOT_CR:
            if (in[at] == '\n') {
                *used = at + 1;
                return 0;
            }
            take(arg, "\r", 1);
            data->state = DATA_AFTER_CR;
            break;
        case DATA_IN_LINE:
        case DATA_AFTER_CR:
            at = skip_line(data, in, at, len);
            break;
        }
    }
    if (len > run)
        take(arg, in + run, len - run);
    *used = len;
    return MR_MORE;
}
