/* smtp_data.h - the dot reader: what follows DATA, up to and with CR LF . CR LF (RFC 5321 section 4.5.2). Pure,
 * incremental.
 *
 * T1: only the five octets CR LF . CR LF end the data (the line end of the DATA command counts as the first two).
 * T2: a CR without LF behind it, or a LF without CR before it, sets bare_cr or bare_lf, is never taken for a line end,
 * and nothing is produced from there on. The caller refuses the message at its end: a next hop that takes a bare LF for
 * a line end could otherwise be made to see a second message in it. T3: how the input is cut into pieces makes no
 * difference. What is produced has the leading dots taken away and CR LF line ends. Thread: any. */
#ifndef MR_NODE_SMTP_DATA_H
#define MR_NODE_SMTP_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smtp_data {
    enum { DATA_LINE_START, DATA_TEXT, DATA_CR, DATA_DOT, DATA_DOT_CR, DATA_END } state;
    bool bare_cr;
    bool bare_lf;
};

void smtp_data_init(struct smtp_data *d);
/* Consumes from in, produces to out. Stops at the end of the data (state DATA_END), of in, or when out has no room for
 * two more octets; with cap >= 2 some input is always consumed. Returns what was consumed; *produced <= cap. */
size_t smtp_data_feed(struct smtp_data *d, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *produced);
static inline bool smtp_data_ended(const struct smtp_data *d)
{
    return d->state == DATA_END;
}
static inline bool smtp_data_bare(const struct smtp_data *d)
{
    return d->bare_cr || d->bare_lf;
}

#endif
