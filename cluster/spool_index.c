#include "cluster/spool_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BITS = 2, LOAD = 2 }; /* nodes a bucket before a shard doubles */

static struct spool_shard *shard_of(struct spool_table *t, uint64_t hash)
{
    return &t->shards[hash >> (64 - SPOOL_SHARD_BITS)];
}

static size_t bucket_of(const struct spool_shard *shard, uint64_t hash)
{
    return (size_t)((hash << SPOOL_SHARD_BITS) >> (64 - shard->bits));
}

void spool_table_init(struct spool_table *t)
{
    memset(t, 0, sizeof(*t));
}

void spool_table_clear(struct spool_table *t, void (*free_node)(struct spool_node *node))
{
    for (size_t s = 0; s < SPOOL_SHARDS; s++) {
        struct spool_shard *shard = &t->shards[s];
        for (size_t b = 0; shard->buckets != NULL && b < (size_t)1 << shard->bits; b++) {
            struct spool_node *next;
            for (struct spool_node *n = shard->buckets[b]; n != NULL; n = next) {
                next = n->next;
                free_node(n);
            }
        }
        free(shard->buckets);
    }
    memset(t, 0, sizeof(*t));
}

struct spool_node *spool_table_find(const struct spool_table *t, struct mr_id id)
{
    uint64_t hash = mr_id_hash(id);
    const struct spool_shard *shard = &t->shards[hash >> (64 - SPOOL_SHARD_BITS)];
    if (shard->buckets == NULL)
        return NULL;
    struct spool_node *n = shard->buckets[bucket_of(shard, hash)];
    while (n != NULL && !mr_id_equal(n->id, id))
        n = n->next;
    return n;
}

/* Chains are in the order of the hash: the walk depends on it. */
static void link_node(struct spool_shard *shard, struct spool_node *node, uint64_t hash)
{
    struct spool_node **at = &shard->buckets[bucket_of(shard, hash)];
    while (*at != NULL && mr_id_hash((*at)->id) < hash)
        at = &(*at)->next;
    node->next = *at;
    *at = node;
}

static void grow(struct spool_shard *shard)
{
    struct spool_node **old = shard->buckets;
    size_t count = old == NULL ? 0 : (size_t)1 << shard->bits;
    shard->bits = old == NULL ? FIRST_BITS : shard->bits + 1;
    shard->buckets = mr_calloc((size_t)1 << shard->bits, sizeof(struct spool_node *));
    for (size_t b = 0; b < count; b++) {
        struct spool_node *next;
        for (struct spool_node *n = old[b]; n != NULL; n = next) {
            next = n->next;
            link_node(shard, n, mr_id_hash(n->id));
        }
    }
    free(old);
}

void spool_table_add(struct spool_table *t, struct spool_node *node)
{
    uint64_t hash = mr_id_hash(node->id);
    struct spool_shard *shard = shard_of(t, hash);
    if (shard->buckets == NULL || shard->count >= (uint32_t)LOAD << shard->bits)
        grow(shard);
    link_node(shard, node, hash);
    shard->count++;
    t->count++;
}

void spool_table_remove(struct spool_table *t, struct spool_node *node)
{
    uint64_t hash = mr_id_hash(node->id);
    struct spool_shard *shard = shard_of(t, hash);
    struct spool_node **at = &shard->buckets[bucket_of(shard, hash)];
    while (*at != node) {
        mr_assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = node->next;
    node->next = NULL;
    shard->count--;
    t->count--;
}

bool spool_table_walk(const struct spool_table *t, uint64_t *from, size_t max, struct spool_node **out, size_t *count)
{
    uint64_t start = *from << 1;
    *count = 0;
    for (size_t s = (size_t)(start >> (64 - SPOOL_SHARD_BITS)); s < SPOOL_SHARDS; s++) {
        const struct spool_shard *shard = &t->shards[s];
        if (shard->buckets == NULL)
            continue;
        bool first = s == start >> (64 - SPOOL_SHARD_BITS);
        for (size_t b = first ? bucket_of(shard, start) : 0; b < (size_t)1 << shard->bits; b++) {
            for (struct spool_node *n = shard->buckets[b]; n != NULL; n = n->next) {
                uint64_t order = mr_id_hash(n->id) >> 1;
                if (order < *from)
                    continue;
                if (*count == max) {
                    *from = order;
                    return true;
                }
                out[(*count)++] = n;
            }
        }
    }
    return false;
}
