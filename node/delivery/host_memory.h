/* host_memory.h - what a worker remembers of the addresses that it connects to: which do not answer, and whether a
 * whole address family does not. Gives the addresses of a next hop their order. No I/O.
 *
 * M1: an address that refused, timed out or turned us away at its greeting is put behind all others of the next hop
 *     for HOST_AWAY_FIRST_MS, doubled at each failure after that time up to HOST_AWAY_MAX_MS; so while another one
 *     works it is not tried, and when none does it still is. A failure within the time changes nothing (many
 *     connections find the same host down at once); a greeting clears it.
 * M2: within one preference (RFC 5321 section 5.1) IPv6 goes before IPv4, unless IPv6 failed as a whole: the network
 *     said so (ENETUNREACH), or FAMILY_FAILURES different hosts timed out over it with no connection in between.
 *     Then it goes behind IPv4 for FAMILY_AWAY_FIRST_MS, doubled up to FAMILY_AWAY_MAX_MS. The same holds for IPv4.
 * M3: M1 goes before the preference: a backup that works is better than a first choice that is known to be down.
 * M4: bounded: HOST_SETS x HOST_WAYS addresses; of those of a set the one whose time ends first makes room.
 *
 * It is a hint for order only: nothing is kept on disk, and workers do not tell each other. Thread: the owner's. */
#ifndef MR_DELIVERY_HOST_MEMORY_H
#define MR_DELIVERY_HOST_MEMORY_H

#include "node/dns/resolver.h"

#include <stdint.h>

enum {
    HOST_SETS = 512,
    HOST_WAYS = 4,
    HOST_AWAY_FIRST_MS = 60 * 1000,
    HOST_AWAY_MAX_MS = 30 * 60 * 1000,
    FAMILY_FAILURES = 3,
    FAMILY_AWAY_FIRST_MS = 5 * 60 * 1000,
    FAMILY_AWAY_MAX_MS = 60 * 60 * 1000,
};

enum host_failure {
    HOST_REFUSED,     /* the host answered: the connection is refused, or its greeting sends us away */
    HOST_TIMED_OUT,   /* nothing came back */
    HOST_UNREACHABLE, /* the network has no way to the family (ENETUNREACH, EAFNOSUPPORT) */
};

struct host_memory;
void host_memory_open(struct host_memory **out);
void host_memory_close(struct host_memory *m);
/* now_ms: monotonic. */
void host_memory_failed(struct host_memory *m, const struct sockaddr *address, enum host_failure how, uint64_t now_ms);
void host_memory_worked(struct host_memory *m, const struct sockaddr *address);
/* M1 holds for it now. */
bool host_memory_avoids(const struct host_memory *m, const struct sockaddr *address, uint64_t now_ms);
/* Orders list[0..n), which is in order of preference. */
void host_memory_arrange(const struct host_memory *m, struct resolved_address *list, unsigned n, uint64_t now_ms);

#endif
