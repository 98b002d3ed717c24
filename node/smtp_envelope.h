/* smtp_envelope.h - sender and recipients of one transaction, and the Enqueue made of them. No I/O.
 *
 * E1: at most SMTP_ENVELOPE_MAX bytes of addresses whatever the client sends.
 * E2: each recipient of the Enqueue is in exactly one delivery; a delivery has one next hop and no more recipients than
 * the limit of its site allows in one transaction; an address given twice is one recipient. Thread: the worker's. */
#ifndef MR_NODE_SMTP_ENVELOPE_H
#define MR_NODE_SMTP_ENVELOPE_H

#include "node/smtp_address.h"
#include "ops.pb-c.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SMTP_ENVELOPE_MAX = 384 << 10 };

struct smtp_envelope {
    char reverse_path[SMTP_MAX_ADDRESS + 1]; /* "": null */
    bool eight_bit;
    uint64_t size;    /* SIZE= of MAIL; 0: not given */
    unsigned n;       /* recipients as given */
    char *addresses;  /* n zero-terminated strings, one after the other */
    size_t used, cap; /* bytes of addresses */
};

void smtp_envelope_close(struct smtp_envelope *e);
/* Adds "address", or "address@domain" when domain is not NULL. MR_LIMIT: E1. */
int smtp_envelope_add(struct smtp_envelope *e, const char *address, size_t len, const char *domain);
/* In protobuf-c's default allocator, as cluster_submit wants it. body becomes part of it, also freed on error.
 * MR_NOTFOUND, MR_MALFORMED: the rules changed and have no next hop for a recipient any more. */
int smtp_envelope_build(const struct smtp_envelope *e, const Mailraft__Rules *rules, struct mr_id id,
                        Mailraft__Body *body, const char *client, Mailraft__Enqueue **out);

#endif
