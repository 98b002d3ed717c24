/* resolver_cache.h - resolutions that stay good for their TTL, by the text of the next hop. Part of resolver.c.
 *
 * C1: at most RESOLVER_MAX_CACHE stand in it; when it is full some other one goes. C2: none stays longer than
 * RESOLVER_MAX_TTL_S. Thread: the resolver's. */
#ifndef MR_DNS_RESOLVER_CACHE_H
#define MR_DNS_RESOLVER_CACHE_H

#include "node/dns/resolver.h"

enum { RESOLVER_CACHE_BUCKETS = 4096 };

/* All zero: empty. */
struct resolver_cache {
    struct cached_resolution *buckets[RESOLVER_CACHE_BUCKETS];
    unsigned size;
    unsigned evict; /* the bucket that gives one up next */
};

/* NULL: none that is still good. Valid until the next put. */
const struct resolution *resolver_cache_find(const struct resolver_cache *cache, const char *key);
/* Replaces what is there under the key; with a TTL of 0 that goes and nothing takes its place. */
void resolver_cache_put(struct resolver_cache *cache, const char *key, const struct resolution *resolution,
                        uint32_t ttl_s);
void resolver_cache_clear(struct resolver_cache *cache);

#endif
