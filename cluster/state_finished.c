/* Ids of messages that are gone: remembered for STATE_GRACE_MS, so that an enqueue that is proposed again is known
 * (PROTOCOL.md 4.2, 4.3) and a body that none names may be dropped at once (3.4).
 *
 * In order of finishing, in chunks that do not move (an index hangs in them); the oldest end goes. There is no cap:
 * dropping one early would let an enqueue apply twice; what bounds them is what the cluster can accept in ten minutes.
 */
#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

enum { CHUNK = 1024 };
struct state_finished_chunk {
    struct state_finished_chunk *next;
    struct state_finished_chunk *gone; /* in state.finished.gone */
    size_t used;
    struct state_finished entries[CHUNK];
};

struct state_finished *finished_find(const struct state *s, struct mr_id id)
{
    struct state_index_node *n = state_index_first(&s->finished.index, id_hash(s, id));

    for (; n != NULL; n = state_index_next(n)) {
        struct state_finished *f = MR_CONTAINER(n, struct state_finished, by_id);
        if (mr_id_equal(f->id, id))
            return f;
    }
    return NULL;
}

struct state_finished *finished_add(struct state *s, struct mr_id id, uint64_t finished_ms, bool cancelled)
{
    struct state_finished_chunk *last = s->finished.last;

    if (last == NULL || last->used == CHUNK) {
        struct state_finished_chunk *chunk = mr_malloc(sizeof(*chunk));
        chunk->next = chunk->gone = NULL;
        chunk->used = 0;
        if (last == NULL)
            s->finished.first = chunk;
        else
            last->next = chunk;
        s->finished.last = last = chunk;
        s->memory += sizeof(*chunk);
    }
    struct state_finished *f = &last->entries[last->used++];
    *f = (struct state_finished){.id = id, .finished_ms = finished_ms, .cancelled = cancelled};
    state_index_insert(&s->finished.index, &f->by_id, id_hash(s, id));
    s->finished.count++;
    return f;
}

struct state_finished *finished_first(const struct state *s)
{
    return s->finished.count == 0 ? NULL : &s->finished.first->entries[s->finished.head];
}

const struct state_finished *finished_last(const struct state *s)
{
    return s->finished.count == 0 ? NULL : &s->finished.last->entries[s->finished.last->used - 1];
}

static void drop_first_chunk(struct state *s)
{
    struct state_finished_chunk *chunk = s->finished.first;

    s->finished.first = chunk->next;
    if (chunk->next == NULL)
        s->finished.last = NULL;
    s->finished.head = 0;
    if (s->held != NULL) {
        chunk->gone = s->finished.gone;
        s->finished.gone = chunk;
        return;
    }
    s->memory -= sizeof(*chunk);
    free(chunk);
}

void finished_release(struct state *s)
{
    for (struct state_finished_chunk *chunk = s->finished.gone, *next; chunk != NULL; chunk = next) {
        next = chunk->gone;
        s->memory -= sizeof(*chunk);
        free(chunk);
    }
    s->finished.gone = NULL;
}

void finished_expire(struct state *s, unsigned max)
{
    for (unsigned n = 0; n < max && s->finished.count > 0; n++) {
        struct state_finished *f = finished_first(s);
        if (f->finished_ms + STATE_GRACE_MS >= s->now_ms)
            break;
        state_index_remove(&s->finished.index, &f->by_id);
        s->finished.count--;
        if (++s->finished.head == s->finished.first->used)
            drop_first_chunk(s);
    }
}

const struct state_finished *finished_next(const struct state *s, const struct state_finished_chunk **chunk,
                                           size_t *place)
{
    if (*chunk == NULL) {
        *chunk = s->finished.first;
        *place = s->finished.head;
    } else if (++*place == (*chunk)->used) {
        *chunk = (*chunk)->next;
        *place = 0;
    }
    return *chunk == NULL ? NULL : &(*chunk)->entries[*place];
}

/* All chunks but the last are full, and what was given out in them does not change. */
struct finished_held finished_hold(const struct state *s)
{
    return (struct finished_held){.chunk = s->finished.first, .place = s->finished.head, .left = s->finished.count};
}

const struct state_finished *finished_held_next(struct finished_held *held)
{
    if (held->left == 0)
        return NULL;
    if (held->place == CHUNK) {
        held->chunk = held->chunk->next; /* there is one, for some are left: of it nobody writes next */
        held->place = 0;
    }
    held->left--;
    return &held->chunk->entries[held->place++];
}

void finished_close(struct state *s)
{
    while (s->finished.first != NULL)
        drop_first_chunk(s);
    state_index_close(&s->finished.index);
    s->finished.count = 0;
}
