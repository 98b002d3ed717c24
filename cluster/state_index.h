/* state_index.h - intrusive hash table of the queue's state, by a 64-bit hash that its user computes.
 *
 * It grows and shrinks a few buckets at a time, with each insertion and removal: no apply pays for the whole table
 * (state.h Q4). Nothing iterates it. X1: nodes of equal hash hang in one bucket; telling them apart is the user's.
 * Thread: the state's. */
#ifndef MR_CLUSTER_STATE_INDEX_H
#define MR_CLUSTER_STATE_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct state_index_node {
    struct state_index_node *next;
    uint64_t hash;
};
struct state_index {
    struct state_index_node **buckets, **old; /* old: being emptied; NULL: none */
    size_t size, old_size;                    /* powers of two */
    size_t moved;                             /* buckets of old that are empty already */
    size_t count;
};

void state_index_init(struct state_index *index);
/* Room for so many at once, in an empty table: where a whole state comes in. */
void state_index_reserve(struct state_index *index, size_t count);
/* The nodes stay their owner's. */
void state_index_close(struct state_index *index);
void state_index_insert(struct state_index *index, struct state_index_node *node, uint64_t hash);
void state_index_remove(struct state_index *index, struct state_index_node *node);
/* Nodes of a hash, one after the other; NULL: no more. */
struct state_index_node *state_index_first(const struct state_index *index, uint64_t hash);
struct state_index_node *state_index_next(const struct state_index_node *node);
/* Bytes that the table itself takes. */
size_t state_index_memory(const struct state_index *index);

#endif
