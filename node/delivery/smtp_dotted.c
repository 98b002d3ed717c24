#include "node/delivery/smtp_dotted.h"

#include "proto/base/memory.h"

#include <string.h>

void smtp_dotted_begin(struct smtp_dotted *d, bool stuff)
{
    d->stuff = stuff;
    d->line_start = true;
    d->cr = false;
}

/* Can it go as it is? Two searches a line, no loop over octets: this is what nearly all mail costs. */
static bool clean(const char *data, size_t len, bool stuff)
{
    const char *at = data, *end = data + len;
    while (at < end) {
        const char *lf = memchr(at, '\n', (size_t)(end - at));
        const char *cr = memchr(at, '\r', (size_t)((lf == NULL ? end : lf) - at));
        if (lf == NULL)
            return cr == NULL;
        if (cr == NULL || cr != lf - 1)
            return false;
        at = lf + 1;
        if (stuff && at < end && *at == '.')
            return false;
    }
    return true;
}

static char *mend(struct smtp_dotted *d, const char *data, size_t len, size_t *out_len)
{
    char *out = mr_malloc(len * 2 + 2);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = data[i];
        if (d->cr && c != '\n') {
            out[n++] = ' ';
            d->line_start = false;
        }
        d->cr = c == '\r';
        if (c == '\r')
            continue;
        if (c == '\n')
            out[n++] = '\r';
        else if (d->stuff && d->line_start && c == '.')
            out[n++] = '.';
        out[n++] = c;
        d->line_start = c == '\n';
    }
    *out_len = n;
    return out;
}

char *smtp_dotted_feed(struct smtp_dotted *d, const char *data, size_t len, const char **out, size_t *out_len)
{
    bool cr = len > 0 && data[len - 1] == '\r'; /* what it is is seen with the next octet */
    size_t rest = len - (cr ? 1 : 0);

    *out = data;
    *out_len = 0;
    if (len == 0)
        return NULL;
    if (!d->cr && !(d->stuff && d->line_start && rest > 0 && data[0] == '.') && clean(data, rest, d->stuff)) {
        *out_len = rest;
        if (rest > 0)
            d->line_start = data[rest - 1] == '\n';
        d->cr = cr;
        return NULL;
    }
    char *mended = mend(d, data, len, out_len);
    *out = mended;
    return mended;
}

const char *smtp_dotted_end(struct smtp_dotted *d)
{
    bool complete = d->line_start && !d->cr;
    smtp_dotted_begin(d, d->stuff);
    return complete ? "" : "\r\n";
}
