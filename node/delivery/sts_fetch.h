/* sts_fetch.h - gets the policies of MTA-STS by HTTPS (RFC 8461 section 3.3), on a loop, by libcurl.
 *
 * F1: https://mta-sts.DOMAIN/.well-known/mta-sts.txt, verified for that name; 200 and text/plain, or nothing; no
 * redirect is followed, no proxy used, no more than STS_MAX_POLICY bytes taken, no more than STS_FETCH_MS waited.
 * F2: names are looked up by our resolver alone. F3: at most STS_MAX_FETCHES at a time. Thread: the loop's. */
#ifndef MR_DELIVERY_STS_FETCH_H
#define MR_DELIVERY_STS_FETCH_H

#include "node/dns/resolver.h"

#include <stddef.h>
#include <uv.h>

enum { STS_FETCH_MS = 60 * 1000, STS_MAX_FETCHES = 64 };

struct sts_fetcher;
struct sts_fetcher_config {
    uv_loop_t *loop;
    struct resolver *resolver; /* closed after the fetcher */
    const char *ca;            /* PEM file; NULL: the system's */
    uint16_t port;
};
/* MR_NOMEM. */
int sts_fetcher_open(struct sts_fetcher **out, const struct sts_fetcher_config *config);

/* error: "" and a policy's text (valid during the call, not looked into), or why there is none. */
typedef void (*sts_fetched_cb)(void *arg, const char *error, const char *text, size_t len);
/* cb comes once, on a later turn of the loop. MR_BUSY: F3, or closing; cb never comes. */
int sts_fetch(struct sts_fetcher *f, const char *domain, sts_fetched_cb cb, void *arg);
/* What is under way ends with an error, then cb. */
void sts_fetcher_close(struct sts_fetcher *f, void (*cb)(void *arg), void *arg);

#endif
