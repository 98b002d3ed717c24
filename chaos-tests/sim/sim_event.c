/* The heap of what is to come. Its keys are in it, so that a comparison touches no event, and a place has four
 * children: half the levels of two, in one or two lines of the cache each. Each event knows its place, so that a
 * thread's wake-up can be moved instead of leaving stale ones behind. */
#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

enum { CHILDREN = 4 };

struct entry {
    uint64_t when, order;
    struct sim_event *event;
};

static struct {
    struct entry *entries;
    uint32_t count, room;
    uint64_t next_order;
    struct sim_call *calls;
    struct sim_post *posts;
} heap;

static bool before(const struct entry *a, const struct entry *b)
{
    return a->when != b->when ? a->when < b->when : a->order < b->order;
}

static void put(uint32_t at, struct entry entry)
{
    heap.entries[at] = entry;
    entry.event->at = at;
}

static void up(uint32_t at, struct entry entry)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / CHILDREN;
        if (!before(&entry, &heap.entries[parent]))
            break;
        put(at, heap.entries[parent]);
        at = parent;
    }
    put(at, entry);
}

static void down(uint32_t at, struct entry entry)
{
    for (;;) {
        uint32_t first = at * CHILDREN + 1, child = first;
        if (first >= heap.count)
            break;
        uint32_t end = heap.count - first < CHILDREN ? heap.count : first + CHILDREN;
        for (uint32_t i = first + 1; i < end; i++)
            if (before(&heap.entries[i], &heap.entries[child]))
                child = i;
        if (!before(&heap.entries[child], &entry))
            break;
        put(at, heap.entries[child]);
        at = child;
    }
    put(at, entry);
}

static void place(uint32_t at, struct entry entry)
{
    if (at > 0 && before(&entry, &heap.entries[(at - 1) / CHILDREN]))
        up(at, entry);
    else
        down(at, entry);
}

void sim_event_set(struct sim_event *e, uint64_t when)
{
    struct entry entry = {when < sim_now() ? sim_now() : when, heap.next_order++, e};
    if (e->queued) {
        place(e->at, entry);
        return;
    }
    if (heap.count == heap.room) {
        heap.room = heap.room == 0 ? 1024 : heap.room * 2;
        heap.entries = mr_realloc(heap.entries, heap.room * sizeof(*heap.entries));
    }
    e->queued = true;
    up(heap.count++, entry);
}

void sim_event_remove(struct sim_event *e)
{
    if (!e->queued)
        return;
    e->queued = false;
    struct entry last = heap.entries[--heap.count];
    if (last.event != e)
        place(e->at, last);
}

struct sim_event *sim_event_first(uint64_t *when)
{
    if (heap.count == 0)
        return NULL;
    *when = heap.entries[0].when;
    return heap.entries[0].event;
}

/* ---- pools ---- */

enum { POOL_BLOCK = 256 };

struct sim_call *sim_call_new(void)
{
    if (heap.calls == NULL) {
        struct sim_call *block = mr_calloc(POOL_BLOCK, sizeof(*block)); /* never given back */
        for (int i = 0; i < POOL_BLOCK; i++)
            sim_call_free(&block[i]);
    }
    struct sim_call *c = heap.calls;
    heap.calls = c->next;
    c->event = (struct sim_event){.kind = SIM_EVENT_CALL};
    return c;
}

void sim_call_free(struct sim_call *c)
{
    c->next = heap.calls;
    heap.calls = c;
}

struct sim_post *sim_post_new(void)
{
    if (heap.posts == NULL) {
        struct sim_post *block = mr_calloc(POOL_BLOCK, sizeof(*block));
        for (int i = 0; i < POOL_BLOCK; i++)
            sim_post_free(&block[i]);
    }
    struct sim_post *p = heap.posts;
    heap.posts = p->next;
    p->event = (struct sim_event){.kind = SIM_EVENT_POST};
    p->next = NULL;
    return p;
}

void sim_post_free(struct sim_post *p)
{
    p->next = heap.posts;
    heap.posts = p;
}
