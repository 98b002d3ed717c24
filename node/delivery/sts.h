/* sts.h - which policy of MTA-STS is in force for a domain (RFC 8461), as one worker knows it.
 *
 * The cluster remembers policies (cluster_remember), each attempt brings what it knows; this is the worker's table on
 * top of that, which knows besides when the TXT record was looked at last, and which fetches are under way.
 * S1: the TXT record is asked for at most every STS_CHECK_MIN_MS for a domain, by one question at a time; a policy is
 * fetched when its id is new, and again when half of its life is over; one fetch at a time. S2: a policy that has not
 * expired stays in force whatever happens to record and fetches (5.1). S3: a fetch that failed is not tried again for
 * STS_FAILED_MS unless the id changes. S4: at most STS_MAX_DOMAINS are known, and their policies take not much more
 * than STS_MAX_BYTES; one that somebody waits for is not forgotten. Thread: the worker's. */
#ifndef MR_DELIVERY_STS_H
#define MR_DELIVERY_STS_H

#include "node/delivery/sts_policy.h"
#include "node/dns/resolver.h"
#include "node/worker.h"

enum {
    STS_MAX_DOMAINS = 16384,
    STS_MAX_BYTES = 32 << 20,
    STS_CHECK_MIN_MS = 1000, /* between these two as long as the record's TTL says */
    STS_CHECK_MAX_MS = 300 * 1000,
    STS_FAILED_MS = 300 * 1000,
};

struct sts;
int sts_open(struct sts **out, struct worker *w, struct resolver *resolver);

struct sts_wait;
/* policy: NULL: none is in force. Valid during the call; sts_ref keeps it. */
typedef void (*sts_found_cb)(void *arg, struct sts_policy *policy);
/* site, now_ms: of the attempt. cb comes once, on a later turn of the loop, at the latest after a fetch's time. */
struct sts_wait *sts_find(struct sts *t, const char *domain, const struct attempt_site *site, uint64_t now_ms,
                          sts_found_cb cb, void *arg);
/* Its cb does not come any more. */
void sts_cancel(struct sts_wait *w);
/* Waiting ones are told that there is no policy, then cb. Before the resolver. */
void sts_close(struct sts *t, void (*cb)(void *arg), void *arg);

/* Replaced by tests. */
extern void (*sts_remember)(struct cluster_port *p, Mailraft__SiteMemory *memory);

#endif
