/* smtp_envelope.h - sender and recipients of one transaction, and the Enqueue made of them. No I/O.
 *
 * E1: at most SMTP_ENVELOPE_MAX bytes of addresses whatever the client sends.
 * E2: each recipient of the Enqueue is in exactly one delivery; a delivery has one next hop and no more recipients than
 * the limit of its site allows in one transaction; an address given twice is one recipient. Thread: the worker's. */
#ifndef MR_SERVER_SMTP_ENVELOPE_H
#define MR_SERVER_SMTP_ENVELOPE_H

#include "node/auth/sasl.h"
#include "node/server/smtp_command.h"
#include "ops.pb-c.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SMTP_ENVELOPE_MAX = 384 << 10 };

struct smtp_envelope {
    char reverse_path[SMTP_MAX_ADDRESS + 1]; /* "": null */
    unsigned flags;                          /* enum message_flag */
    uint64_t size;                           /* SIZE= of MAIL; 0: not given */
    enum smtp_body body;
    bool utf8;           /* SMTPUTF8 was given; the flag is set only if the message needs it */
    bool utf8_addresses; /* an address has octets over 127 */
    bool has_priority;
    bool by_trace;
    enum smtp_ret ret;
    enum smtp_by by;
    int priority;
    uint64_t by_for_ms;
    uint64_t hold_for_ms;
    char envid[SMTP_MAX_ENVID + 1]; /* as it came, in xtext; "": none */
    char user[SASL_USER_MAX + 1];   /* "": not authenticated */
    unsigned n;                     /* recipients as given */
    char *records;                  /* n of them, one after the other: notify, address, zero, orcpt, zero */
    size_t used, cap;               /* bytes of records */
};

void smtp_envelope_close(struct smtp_envelope *e);
/* Domains are in ASCII (A-labels), so that all ways to write one are one. Adds "address", or "address@domain" when
 * domain is not NULL; notify, orcpt (may be empty): RFC 3461. MR_LIMIT: E1. */
int smtp_envelope_add(struct smtp_envelope *e, const char *address, size_t len, const char *domain, unsigned notify,
                      struct smtp_slice orcpt);
/* The first one; there is one. */
const char *smtp_envelope_first(const struct smtp_envelope *e);
/* In protobuf-c's default allocator, as cluster_body_submit wants it. body may be NULL; it becomes part of it, also
 * freed on error. MR_NOTFOUND, MR_MALFORMED: the rules changed and have no next hop for a recipient any more. */
int smtp_envelope_build(const struct smtp_envelope *e, const Mailraft__Rules *rules, struct mr_id id,
                        Mailraft__Body *body, const char *client, Mailraft__Enqueue **out);

#endif
