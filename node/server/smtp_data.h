/* smtp_data.h - the reader of message text: what follows DATA, up to and with CR LF . CR LF (RFC 5321 section 4.5.2),
 * or what BDAT's chunks hold (RFC 3030). Pure, incremental.
 *
 * T1: after DATA only the five octets CR LF . CR LF end the text (the line end of the DATA command counts as the first
 * two), however it is mended. A text in chunks has no end of its own, and dots mean nothing in it.
 * T2: a CR without LF behind it, or a LF without CR before it, is never taken for an SMTP line end: a next hop that
 * takes it for one could be made to see a second message. Without `mend` it sets bare_cr or bare_lf, and nothing is
 * produced from there on: the caller refuses the message at its end. With `mend` each becomes CR LF. The client that
 * writes such lines has stuffed dots by them, so a dot behind a mended line end is taken away like any other: a line
 * that is one dot comes out empty, and nothing that is produced holds CR LF . CR LF but where the client wrote
 * CR LF . . CR LF.
 * T3: how the input is cut into pieces makes no difference.
 * What is produced has CR LF line ends, without the dots of stuffing. Thread: any. */
#ifndef MR_SERVER_SMTP_DATA_H
#define MR_SERVER_SMTP_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smtp_data {
    /* MENDED_START: the line begins behind a mended line end: its dot is stuffing, never the end's. */
    enum { DATA_LINE_START, DATA_MENDED_START, DATA_TEXT, DATA_CR, DATA_DOT, DATA_DOT_CR, DATA_END } state;
    bool dots; /* after DATA; false: chunks */
    bool mend;
    bool bare_cr;
    bool bare_lf;
};

void smtp_data_init(struct smtp_data *d, bool dots, bool mend);
/* Consumes from in, produces to out. Stops at the end of the data (state DATA_END), of in, or when out has no room for
 * two more octets; with cap >= 2 some input is always consumed, or something produced. Returns what was consumed;
 * *produced <= cap. */
size_t smtp_data_feed(struct smtp_data *d, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *produced);
/* The last chunk was fed: a CR at its very end is bare, and a last line without line end gets one, as no next hop could
 * be sent it otherwise. Returns octets written to out, 0 or 2. */
size_t smtp_data_finish(struct smtp_data *d, uint8_t out[2]);
static inline bool smtp_data_ended(const struct smtp_data *d)
{
    return d->state == DATA_END;
}
static inline bool smtp_data_bare(const struct smtp_data *d)
{
    return d->bare_cr || d->bare_lf;
}

#endif
