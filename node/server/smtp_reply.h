/* smtp_reply.h - the text of SMTP replies (RFC 5321 section 4.2) with enhanced codes (RFC 2034, RFC 3463). Pure.
 *
 * R1: what is written is whole lines of at most 512 octets, CR LF counted, and printable ASCII but for the line ends:
 * text that came from a client can never begin a line of its own. Thread: any. */
#ifndef MR_SERVER_SMTP_REPLY_H
#define MR_SERVER_SMTP_REPLY_H

#include <stddef.h>

enum { SMTP_MAX_REPLY_LINE = 512, SMTP_MAX_REPLY = 4 * SMTP_MAX_REPLY_LINE };

struct smtp_reply {
    unsigned code;      /* 200..599 */
    const char *status; /* "5.7.1"; NULL: none (greeting, EHLO, 354) */
    const char *text;   /* '\n' parts the lines of one reply; other control characters become '?' */
};

/* Writes the reply; lines that do not fit in cap are left out whole, the last one written ends the reply. Returns
 * bytes; 0: not even one line fits. */
size_t smtp_reply_write(char *out, size_t cap, const struct smtp_reply *reply);

#endif
