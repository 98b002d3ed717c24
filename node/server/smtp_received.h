/* smtp_received.h - the trace field that is put before a message (RFC 5321 section 4.4). Pure.
 *
 * Thread: any. */
#ifndef MR_SERVER_SMTP_RECEIVED_H
#define MR_SERVER_SMTP_RECEIVED_H

#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SMTP_MAX_RECEIVED = 2048 };

/* What the name of the protocol says (RFC 3848). */
enum smtp_protocol {
    PROTOCOL_EXTENDED = 1, /* EHLO */
    PROTOCOL_LMTP = 2,
    PROTOCOL_UTF8 = 4, /* SMTPUTF8 was given */
    PROTOCOL_TLS = 8,
    PROTOCOL_AUTH = 16,
};
const char *smtp_protocol_name(unsigned how);

struct smtp_received {
    const char *helo;   /* as the client gave it; checked by smtp_domain_parse */
    const char *client; /* address literal without brackets: "192.0.2.1", "IPv6:2001:db8::1" */
    const char *hostname;
    unsigned how;    /* enum smtp_protocol */
    const char *tls; /* a comment in parentheses; NULL: none */
    bool has_priority;
    int priority; /* RFC 6710 section 4.3 */
    struct mr_id id;
    const char *recipient; /* NULL: more than one, which must not see each other */
    size_t recipient_len;
    uint64_t unix_ms;
};
/* Writes the folded field with its CR LF; returns bytes. */
size_t smtp_received_write(const struct smtp_received *r, char out[SMTP_MAX_RECEIVED]);

#endif
