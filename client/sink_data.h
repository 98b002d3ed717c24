/* sink_data.h - the bytes between DATA and the final dot: finds the end, takes away the doubled dots.
 *
 * Pure (RFC 5321 section 4.5.2). Only CRLF starts a line: a bare LF or CR is content, is noted, and never ends a
 * message. D1: the pieces given to take are, in order, the message without transparency dots and without the final
 * dot's line. Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_SINK_DATA_H
#define MR_CLIENT_SINK_DATA_H

#include <stdbool.h>
#include <stddef.h>

struct sink_data {
    enum { DATA_AT_LINE, DATA_IN_LINE, DATA_AFTER_CR, DATA_AFTER_DOT, DATA_AFTER_DOT_CR } state;
    bool bare_lf;
    bool bare_cr;
};

typedef void (*sink_data_take)(void *arg, const char *bytes, size_t len);

void sink_data_reset(struct sink_data *data);
/* 0: the final dot was read, *used bytes belong to the message. MR_MORE: all was used. */
int sink_data_feed(struct sink_data *data, const char *in, size_t len, size_t *used, sink_data_take take, void *arg);

#endif
