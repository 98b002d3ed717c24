/* resolver.h - from a next hop to the addresses to try, in order (RFC 5321 section 5, RFC 7505), by c-ares.
 *
 * N1: MX by preference, ties shuffled at each use; a domain without MX but with addresses is its own MX; a null MX and
 * a name that does not exist are permanent failures, everything else that goes wrong is temporary, and so is a static
 * route's name that does not exist. N2: a host that is ours (own_hosts.h) is dropped together with all of the
 * same or worse preference (RFC 5321 5.1). N3: answers are kept for their TTL, at most RESOLVER_MAX_TTL_S; permanent
 * failures for RESOLVER_NEGATIVE_TTL_S, temporary ones for RESOLVER_FAILED_TTL_S: a probe of a next hop that finds an
 * old failure here doubles the time to the next one, for nothing. N4: an answer counts as validated only when the
 * server says so (AD) and the configuration trusts it (trust_ad); what the hosts file says never does. Thread: the
 * loop's. */
#ifndef MR_DNS_RESOLVER_H
#define MR_DNS_RESOLVER_H

#include "cluster/route.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum {
    RESOLVER_MAX_ADDRESSES = 10, /* tried in one attempt */
    RESOLVER_MAX_HOSTS = 10,     /* MX hosts looked up */
    RESOLVER_MAX_LOOKUPS = 4096, /* under way at one time; more fail for now */
    RESOLVER_MAX_CACHE = 8192,
    RESOLVER_MAX_TTL_S = 3600,
    RESOLVER_NEGATIVE_TTL_S = 30,
    RESOLVER_FAILED_TTL_S = 3,
    RESOLVER_MAX_ANSWER = 65535, /* bytes of a raw answer */
};

enum resolve_result { RESOLVED, RESOLVE_TEMPORARY, RESOLVE_PERMANENT };

struct resolved_address {
    char host[256]; /* name, or the literal */
    uint16_t preference;
    /* The way here was validated: MX (or that there is none), and the host's addresses (RFC 7672 2.2). Its TLSA records
     * may be looked for: at `alias` first, where the host's name leads to, when there is one; then at `host`. */
    bool secure;
    char alias[256];
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address; /* with its port */
};
struct resolution {
    enum resolve_result result;
    char reply[256];          /* why not, for people */
    char status[12];          /* enhanced status code */
    uint16_t best_preference; /* that the domain has, with an address or not */
    unsigned n;
    struct resolved_address list[RESOLVER_MAX_ADDRESSES];
};

struct own_hosts; /* own_hosts.h */

struct resolver;
struct resolver_config {
    uv_loop_t *loop;
    char **servers; /* "host:port"; none: the system's */
    unsigned n_servers;
    unsigned timeout_ms, tries;
    uint16_t mx_port;
    struct own_hosts *own; /* N2; must live as long as the resolver */
    bool trust_ad;         /* N4 */
    /* Without servers of the configuration's: trusted when all of the system's are on this host. */
    bool trust_ad_of_loopback;
};
int resolver_open(struct resolver **out, const struct resolver_config *config);

struct lookup; /* one under way */
typedef void (*resolved_cb)(void *arg, const struct resolution *resolution);
/* cb comes once, on a later turn of the loop, with a resolution that is valid during the call. */
struct lookup *resolver_lookup(struct resolver *r, const struct next_hop *hop, resolved_cb cb, void *arg);
/* Its cb does not come any more. */
void resolver_cancel(struct lookup *l);

/* One question, its answer as it came. */
enum dns_outcome {
    DNS_ANSWERED, /* there are records, though perhaps not of the type that was asked for */
    DNS_NONE,     /* no such name, or no record of the type */
    DNS_FAILED,   /* no answer, or one that failed its validation: SERVFAIL */
};
struct question;
typedef void (*answered_cb)(void *arg, enum dns_outcome outcome, bool secure, const uint8_t *answer, size_t len);
/* type: DNS_TYPE_... (dns_answer.h). cb comes once, on a later turn of the loop; answer is valid during the call. */
struct question *resolver_ask(struct resolver *r, const char *name, int type, answered_cb cb, void *arg);
/* Its cb does not come any more. */
void resolver_ask_cancel(struct question *q);

/* Waiting lookups get a temporary failure and questions DNS_FAILED, then cb. */
void resolver_close(struct resolver *r, void (*cb)(void *arg), void *arg);

#endif
