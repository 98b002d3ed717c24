/* bodies_table.c - hash table by id, entries embedded in their owners; grows, never shrinks. */
#include "cluster/bodies_internal.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

enum { FIRST_BUCKETS = 256 };

/* The high half: the low bits of a product depend on few bits of its factors. */
static size_t bucket_of(const struct id_table *t, struct mr_id id)
{
    return (size_t)(mr_id_hash(id) >> 32) & t->mask;
}

void id_table_init(struct id_table *t)
{
    t->buckets = mr_calloc(FIRST_BUCKETS, sizeof(struct id_entry *));
    t->mask = FIRST_BUCKETS - 1;
    t->count = 0;
}

void id_table_close(struct id_table *t)
{
    mr_assert(t->count == 0);
    free(t->buckets);
    t->buckets = NULL;
}

struct id_entry *id_table_find(const struct id_table *t, struct mr_id id)
{
    struct id_entry *e = t->buckets[bucket_of(t, id)];

    while (e != NULL && !mr_id_equal(e->id, id))
        e = e->next;
    return e;
}

static void grow(struct id_table *t)
{
    struct id_entry **old = t->buckets;
    size_t n = t->mask + 1;

    t->buckets = mr_calloc(n * 2, sizeof(struct id_entry *));
    t->mask = n * 2 - 1;
    for (size_t i = 0; i < n; i++) {
        for (struct id_entry *e = old[i], *next; e != NULL; e = next) {
            size_t to = bucket_of(t, e->id);

            next = e->next;
            e->next = t->buckets[to];
            t->buckets[to] = e;
        }
    }
    free(old);
}

void id_table_add(struct id_table *t, struct id_entry *e)
{
    size_t to;

    if (t->count > t->mask)
        grow(t);
    to = bucket_of(t, e->id);
    e->next = t->buckets[to];
    t->buckets[to] = e;
    t->count++;
}

void id_table_remove(struct id_table *t, struct id_entry *e)
{
    struct id_entry **at = &t->buckets[bucket_of(t, e->id)];

    while (*at != e) {
        mr_assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = e->next;
    t->count--;
}
