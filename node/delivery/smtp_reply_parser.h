/* smtp_reply_parser.h - replies of an SMTP or LMTP server, byte by byte (RFC 5321 section 4.2). Pure.
 *
 * Lenient in what it takes: a bare LF ends a line, a missing text or space is fine. Strict in its limits.
 * Thread: any; one parser a connection. */
#ifndef MR_DELIVERY_SMTP_REPLY_PARSER_H
#define MR_DELIVERY_SMTP_REPLY_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REPLY_MAX_LINE = 4096, /* bytes of one line; RFC 5321 asks for 512 */
    REPLY_MAX_LINES = 128,
    REPLY_TEXT = 500, /* bytes kept of the whole text */
};

struct smtp_reply_parser {
    char line[REPLY_MAX_LINE];
    size_t line_len;
    unsigned lines;
    int code;                  /* of the reply that is being read or was read */
    char text[REPLY_TEXT + 1]; /* "250 2.0.0 first line; second line" */
    size_t text_len;
    /* Told of each line's text, for EHLO's keywords; may be NULL. */
    void (*on_line)(void *arg, unsigned number, const char *text, size_t len);
    void *arg;
};

void smtp_reply_begin(struct smtp_reply_parser *p);
/* Reads from data; *used says how much. 0: a reply is complete (code, text; call smtp_reply_begin before the next).
 * MR_MORE: all was used. MR_MALFORMED, MR_LIMIT: not SMTP; the connection has to be closed. */
int smtp_reply_feed(struct smtp_reply_parser *p, const char *data, size_t len, size_t *used);

/* The enhanced status code (RFC 3463) that begins the text of a reply and agrees with its class, else X.0.0 by the
 * reply's first digit. Returns out. */
char *smtp_reply_status(int code, const char *text, char out[16]);

#endif
