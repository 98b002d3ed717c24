#include "cluster/state_arena.h"

#include "proto/base/memory.h"

#include <stdint.h>
#include <stdlib.h>

struct state_arena_block {
    struct state_arena_block *next;
    size_t size, used;
    _Alignas(16) uint8_t data[];
};

static struct state_arena_block *block_new(size_t size)
{
    struct state_arena_block *block = mr_malloc(sizeof(*block) + size);
    block->next = NULL;
    block->size = size;
    block->used = 0;
    return block;
}

void state_arena_close(struct state_arena *arena)
{
    for (struct state_arena_block *block = arena->first, *next; block != NULL; block = next) {
        next = block->next;
        free(block);
    }
    *arena = (struct state_arena){0};
}

void state_arena_reset(struct state_arena *arena)
{
    if (arena->first == NULL)
        return;
    struct state_arena_block *keep = arena->first, *block = keep->next;
    while (block != NULL) {
        struct state_arena_block *next = block->next;
        free(block);
        block = next;
    }
    keep->next = NULL;
    keep->used = 0;
    arena->current = keep;
}

void *state_arena_take(struct state_arena *arena, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    if (arena->current == NULL)
        arena->first = arena->current = block_new(STATE_ARENA_KEEP);
    if (arena->current->size - arena->current->used < size) {
        struct state_arena_block *block = block_new(size > STATE_ARENA_KEEP ? size : STATE_ARENA_KEEP);
        arena->current->next = block;
        arena->current = block;
    }
    void *p = arena->current->data + arena->current->used;
    arena->current->used += size;
    return p;
}

static void *take(void *arg, size_t size)
{
    return state_arena_take(arg, size);
}

static void give_back(void *arg, void *p)
{
    (void)arg;
    (void)p;
}

ProtobufCAllocator state_arena_allocator(struct state_arena *arena)
{
    return (ProtobufCAllocator){.alloc = take, .free = give_back, .allocator_data = arena};
}
