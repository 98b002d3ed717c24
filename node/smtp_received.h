/* smtp_received.h - the trace field that is put before a message (RFC 5321 section 4.4), and the count of those that it
 * brought, by which loops are found (section 6.3). Pure.
 *
 * Thread: any. */
#ifndef MR_NODE_SMTP_RECEIVED_H
#define MR_NODE_SMTP_RECEIVED_H

#include "proto/base/id.h"

#include <stddef.h>
#include <stdint.h>

enum { SMTP_MAX_RECEIVED = 2048 };

struct smtp_received {
    const char *helo;   /* as the client gave it; checked by smtp_domain_parse */
    const char *client; /* address literal without brackets: "192.0.2.1", "IPv6:2001:db8::1" */
    const char *hostname;
    const char *protocol; /* "SMTP", "ESMTP" */
    struct mr_id id;
    const char *recipient; /* NULL: more than one, which must not see each other */
    size_t recipient_len;
    uint64_t unix_ms;
};
/* Writes the folded field with its CR LF; returns bytes. */
size_t smtp_received_write(const struct smtp_received *r, char out[SMTP_MAX_RECEIVED]);

/* Counts Received fields in a message that comes in pieces, up to the first empty line. */
struct smtp_hops {
    unsigned count;
    unsigned matched; /* octets of "received:" seen at the start of this line; larger: another field */
    unsigned line;    /* octets of this line but CR; saturates at 1: only "none yet" matters */
    int in_body;
};
void smtp_hops_feed(struct smtp_hops *h, const uint8_t *text, size_t len);

#endif
