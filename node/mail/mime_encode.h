/* mime_encode.h - quoted-printable and base64 as streams (RFC 2045 sections 6.7 and 6.8). Pure.
 *
 * Lines of the result have at most 76 characters and end in CR LF. Octets may come in any pieces. Thread: any. */
#ifndef MR_MAIL_MIME_ENCODE_H
#define MR_MAIL_MIME_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef void (*mime_out)(void *arg, const char *data, size_t len);

struct mime_encoder {
    mime_out out;
    void *arg;
    char line[80]; /* what is not yet handed out */
    unsigned n;
    unsigned column;   /* characters of the line that were handed out or wait in it */
    uint8_t octets[3]; /* base64: an unfinished group */
    unsigned n_octets;
    char blank; /* quoted-printable: a space or tab that may end the line; 0: none */
};

void mime_encoder_begin(struct mime_encoder *e, mime_out out, void *arg);

/* Text of a line, which may hold any octets but the line end that counts as one; that one is mime_quoted_line_end. */
void mime_quoted(struct mime_encoder *e, const char *data, size_t len);
void mime_quoted_line_end(struct mime_encoder *e);
/* The last line has no line end. */
void mime_quoted_end(struct mime_encoder *e);

void mime_base64(struct mime_encoder *e, const char *data, size_t len);
void mime_base64_end(struct mime_encoder *e);

#endif
