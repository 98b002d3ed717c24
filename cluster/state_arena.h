/* state_arena.h - memory for what one entry decodes to: given out in order, taken back all at once.
 *
 * Decoding an entry makes some dozen small objects an operation; they all die with the entry. Blocks above
 * STATE_ARENA_KEEP are given back at reset. Allocation never fails (memory.h), so that decoding fails only for
 * malformed data, on all nodes alike. Thread: the state's. */
#ifndef MR_CLUSTER_STATE_ARENA_H
#define MR_CLUSTER_STATE_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

enum { STATE_ARENA_KEEP = 256 * 1024 };

struct state_arena_block;
struct state_arena {
    struct state_arena_block *first, *current;
};

void state_arena_close(struct state_arena *arena);
void state_arena_reset(struct state_arena *arena);
void *state_arena_take(struct state_arena *arena, size_t size);
/* Allocator over the arena; its free does nothing. Valid while *arena stays where it is. */
ProtobufCAllocator state_arena_allocator(struct state_arena *arena);

#endif
