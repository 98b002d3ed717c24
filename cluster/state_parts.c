/* Enqueues too large for one entry: their parts, until the last one comes (PROTOCOL.md 4.5).
 *
 * Parts come in order; part 0 begins anew, so that a series may be proposed again from its start. What never completes
 * goes after the grace period, or when the room for all parts is used up: the oldest first. */
#include "cluster/state_internal.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

struct state_parts *state_parts_find(const struct state *s, struct mr_id id)
{
    struct state_index_node *n = state_index_first(&s->parts.index, id_hash(s, id));

    for (; n != NULL; n = state_index_next(n)) {
        struct state_parts *p = MR_CONTAINER(n, struct state_parts, by_id);
        if (mr_id_equal(p->id, id))
            return p;
    }
    return NULL;
}

void state_parts_drop(struct state *s, struct state_parts *p)
{
    state_index_remove(&s->parts.index, &p->by_id);
    state_list_remove(&s->parts.all, &p->in_all);
    s->parts.bytes -= p->len;
    s->memory -= sizeof(*p) + p->len;
    free(p->data);
    free(p);
}

static struct state_parts *oldest(const struct state *s)
{
    return s->parts.all.head == NULL ? NULL : MR_CONTAINER(s->parts.all.head, struct state_parts, in_all);
}

struct state_parts *state_parts_add(struct state *s, struct mr_id id, uint32_t parts, uint64_t begun_ms)
{
    if (s->parts.all.count >= STATE_MAX_PART_SETS)
        state_parts_drop(s, oldest(s));
    struct state_parts *p = mr_calloc(1, sizeof(*p));

    p->id = id;
    p->parts = parts;
    p->begun_ms = begun_ms;
    state_index_insert(&s->parts.index, &p->by_id, id_hash(s, id));
    state_list_append(&s->parts.all, &p->in_all);
    s->memory += sizeof(*p);
    return p;
}

void state_parts_extend(struct state *s, struct state_parts *p, const uint8_t *data, size_t len)
{
    if (len > 0) {
        p->data = mr_realloc(p->data, p->len + len);
        memcpy(p->data + p->len, data, len);
    }
    p->len += len;
    p->have++;
    s->parts.bytes += len;
    s->memory += len;
}

void state_parts_expire(struct state *s)
{
    /* At most STATE_MAX_PART_SETS. */
    while (s->parts.all.count > 0 && oldest(s)->begun_ms + STATE_GRACE_MS < s->now_ms)
        state_parts_drop(s, oldest(s));
}

/* All parts are here. MR_VERSION by *fatal: it has a field that this program does not know, so nodes may differ about
 * it. */
static enum apply_result complete(struct state *s, struct state_parts *p, int *fatal)
{
    ProtobufCAllocator allocator = state_arena_allocator(&s->arena);
    Mailraft__Enqueue *e = mailraft__enqueue__unpack(&allocator, p->len, p->data);
    struct mr_id id;
    enum apply_result r = APPLY_INVALID;

    if (e != NULL && !state_known_fields(&e->base)) {
        *fatal = MR_VERSION;
        return APPLY_INVALID;
    }
    if (e != NULL)
        r = state_enqueue_check(s, e, &id);
    if (r != APPLY_INVALID && !mr_id_equal(id, p->id))
        r = APPLY_INVALID;
    if (r == APPLIED)
        state_enqueue_do(s, e, id); /* drops p */
    else
        state_parts_drop(s, p);
    return r;
}

enum apply_result state_enqueue_part(struct state *s, const Mailraft__EnqueuePart *part, int *fatal)
{
    struct mr_id id;

    if (mr_id_from_bytes(part->id.data, part->id.len, &id) != 0 || part->parts == 0 || part->parts > STATE_MAX_PARTS ||
        part->part >= part->parts)
        return APPLY_INVALID;
    if (state_find(s, id) != NULL)
        return APPLY_DUPLICATE;
    const struct state_finished *f = finished_find(s, id);
    if (f != NULL)
        return f->cancelled ? APPLY_CANCELLED : APPLY_DUPLICATE;
    struct state_parts *p = state_parts_find(s, id);
    if (part->part == 0) {
        if (p != NULL)
            state_parts_drop(s, p);
        p = state_parts_add(s, id, part->parts, s->now_ms);
    }
    if (p == NULL || p->parts != part->parts || part->part > p->have)
        return APPLY_STALE;
    if (part->part < p->have)
        return APPLY_DUPLICATE;
    if (part->data.len > STATE_MAX_PART_SET_BYTES - p->len) {
        state_parts_drop(s, p);
        return APPLY_INVALID;
    }
    state_parts_extend(s, p, part->data.data, part->data.len);
    /* p alone is smaller than the room for all: the others give it, the oldest first. */
    for (struct state_link *l = s->parts.all.head, *next; l != NULL && s->parts.bytes > STATE_MAX_PARTS_BYTES;
         l = next) {
        next = l->next;
        if (l != &p->in_all)
            state_parts_drop(s, MR_CONTAINER(l, struct state_parts, in_all));
    }
    return p->have == p->parts ? complete(s, p, fatal) : APPLIED;
}
