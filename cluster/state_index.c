#include "cluster/state_index.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

/* MOVE buckets a step end a resize well before the next can begin: a table doubles only after as many insertions as it
 * had buckets, and halves only after a quarter as many removals. */
enum { MIN_SIZE = 64, MOVE = 8 };

void state_index_init(struct state_index *index)
{
    *index = (struct state_index){.size = MIN_SIZE};
    index->buckets = mr_calloc(MIN_SIZE, sizeof(void *));
}

void state_index_reserve(struct state_index *index, size_t count)
{
    mr_assert(index->count == 0 && index->old == NULL);
    while (index->size < count)
        index->size *= 2;
    free(index->buckets);
    index->buckets = mr_calloc(index->size, sizeof(void *));
}

void state_index_close(struct state_index *index)
{
    free(index->buckets);
    free(index->old);
    *index = (struct state_index){0};
}

/* The one bucket where nodes of this hash hang, now. */
static struct state_index_node **bucket(const struct state_index *index, uint64_t hash)
{
    if (index->old != NULL && (hash & (index->old_size - 1)) >= index->moved)
        return &index->old[hash & (index->old_size - 1)];
    return &index->buckets[hash & (index->size - 1)];
}

static void move_some(struct state_index *index)
{
    for (int i = 0; i < MOVE && index->old != NULL; i++) {
        struct state_index_node *node = index->old[index->moved], *next;
        for (; node != NULL; node = next) {
            next = node->next;
            struct state_index_node **to = &index->buckets[node->hash & (index->size - 1)];
            node->next = *to;
            *to = node;
        }
        if (++index->moved == index->old_size) {
            free(index->old);
            index->old = NULL;
            index->old_size = index->moved = 0;
        }
    }
}

static void resize(struct state_index *index, size_t size)
{
    index->old = index->buckets;
    index->old_size = index->size;
    index->moved = 0;
    index->size = size;
    index->buckets = mr_calloc(size, sizeof(void *));
}

void state_index_insert(struct state_index *index, struct state_index_node *node, uint64_t hash)
{
    move_some(index);
    if (index->old == NULL && index->count >= index->size)
        resize(index, index->size * 2);
    struct state_index_node **to = bucket(index, hash);
    node->hash = hash;
    node->next = *to;
    *to = node;
    index->count++;
}

void state_index_remove(struct state_index *index, struct state_index_node *node)
{
    move_some(index);
    struct state_index_node **place = bucket(index, node->hash);
    while (*place != node) {
        mr_assert(*place != NULL);
        place = &(*place)->next;
    }
    *place = node->next;
    node->next = NULL;
    index->count--;
    if (index->old == NULL && index->size > MIN_SIZE && index->count < index->size / 4)
        resize(index, index->size / 2);
}

struct state_index_node *state_index_first(const struct state_index *index, uint64_t hash)
{
    struct state_index_node *node = *bucket(index, hash);

    while (node != NULL && node->hash != hash)
        node = node->next;
    return node;
}

struct state_index_node *state_index_next(const struct state_index_node *node)
{
    uint64_t hash = node->hash;
    struct state_index_node *next = node->next;

    while (next != NULL && next->hash != hash)
        next = next->next;
    return next;
}

size_t state_index_memory(const struct state_index *index)
{
    return (index->size + index->old_size) * sizeof(void *);
}
