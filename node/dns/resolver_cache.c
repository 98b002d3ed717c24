#include "node/dns/resolver_cache.h"

#include "proto/base/clock.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

struct cached_resolution {
    struct cached_resolution *next;
    uint64_t until_ns; /* of the clock that counts through sleep */
    struct resolution resolution;
    char key[];
};

static unsigned bucket_of(const char *key)
{
    uint64_t h = 1469598103934665603ULL; /* FNV-1a */
    for (; *key != 0; key++)
        h = (h ^ (unsigned char)*key) * 1099511628211ULL;
    return (unsigned)(h % RESOLVER_CACHE_BUCKETS);
}

static void drop(struct resolver_cache *cache, struct cached_resolution **link)
{
    struct cached_resolution *gone = *link;
    *link = gone->next;
    free(gone);
    cache->size--;
}

const struct resolution *resolver_cache_find(const struct resolver_cache *cache, const char *key)
{
    const struct cached_resolution *c = cache->buckets[bucket_of(key)];
    while (c != NULL && strcmp(c->key, key) != 0)
        c = c->next;
    return c != NULL && c->until_ns > mr_boot_ns(&mr_clock_real) ? &c->resolution : NULL;
}

void resolver_cache_put(struct resolver_cache *cache, const char *key, const struct resolution *resolution,
                        uint32_t ttl_s)
{
    struct cached_resolution **first = &cache->buckets[bucket_of(key)], **link = first;
    while (*link != NULL && strcmp((*link)->key, key) != 0)
        link = &(*link)->next;
    if (*link != NULL)
        drop(cache, link);
    if (ttl_s == 0)
        return;
    while (cache->size >= RESOLVER_MAX_CACHE) { /* bucket by bucket */
        cache->evict = (cache->evict + 1) % RESOLVER_CACHE_BUCKETS;
        if (cache->buckets[cache->evict] != NULL)
            drop(cache, &cache->buckets[cache->evict]);
    }
    size_t len = strlen(key) + 1;
    struct cached_resolution *c = mr_malloc(sizeof(*c) + len);
    memcpy(c->key, key, len);
    c->resolution = *resolution;
    c->until_ns = mr_boot_ns(&mr_clock_real) + (ttl_s > RESOLVER_MAX_TTL_S ? RESOLVER_MAX_TTL_S : ttl_s) * MR_NS_PER_S;
    c->next = *first;
    *first = c;
    cache->size++;
}

void resolver_cache_clear(struct resolver_cache *cache)
{
    for (unsigned i = 0; i < RESOLVER_CACHE_BUCKETS; i++)
        while (cache->buckets[i] != NULL)
            drop(cache, &cache->buckets[i]);
}
