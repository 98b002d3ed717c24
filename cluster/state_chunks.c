/* The messages by sequence, in chunks of a few dozen.
 *
 * A message comes in at the end and goes from anywhere. Neighbours that have become nearly empty are merged, so that
 * what waits for days does not keep the memory of what was delivered around it; not while the state is held, which
 * walks the chunks as they were: state_held.c makes up for it. */
#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { FEW = STATE_CHUNK / 4, MERGED = STATE_CHUNK / 2 };

#define CHUNK_OF(link) MR_CONTAINER(link, struct state_chunk, in_all)

static struct state_chunk *chunk_new(struct state *s, uint64_t first)
{
    struct state_chunk *chunk = mr_calloc(1, sizeof(*chunk));

    chunk->number = s->chunks.next_number++;
    state_list_append(&s->chunks.all, &chunk->in_all);
    state_tree_insert(&s->chunks.by_first, &chunk->by_first, first, 0);
    s->memory += sizeof(*chunk);
    return chunk;
}

static void chunk_free(struct state *s, struct state_chunk *chunk)
{
    mr_assert(chunk->bytes == NULL && !chunk->sparse);
    state_list_remove(&s->chunks.all, &chunk->in_all);
    state_tree_remove(&s->chunks.by_first, &chunk->by_first);
    s->memory -= sizeof(*chunk);
    free(chunk);
}

void state_chunks_add(struct state *s, struct state_message *m)
{
    struct state_link *last = s->chunks.all.tail;
    struct state_chunk *chunk = last == NULL ? NULL : CHUNK_OF(last);

    if (chunk == NULL || chunk->used == STATE_CHUNK || chunk->memory >= STATE_CHUNK_BYTES)
        chunk = chunk_new(s, message_sequence(m));
    chunk->messages[chunk->used++] = m;
    chunk->live++;
    chunk->memory += m->memory;
    m->chunk = chunk;
}

void state_chunks_remove(struct state *s, struct state_message *m)
{
    struct state_chunk *chunk = m->chunk;
    unsigned slot = 0;

    while (chunk->messages[slot] != m)
        slot++;
    chunk->messages[slot] = NULL;
    chunk->live--;
    chunk->memory -= m->memory;
    m->chunk = NULL;
    if (s->held != NULL)
        state_held_sparse(s->held, chunk);
    else
        state_chunks_tidy(s, chunk);
}

void state_chunks_close(struct state *s)
{
    for (struct state_link *l = s->chunks.all.head, *next; l != NULL; l = next) {
        struct state_chunk *chunk = CHUNK_OF(l);
        next = l->next;
        for (unsigned slot = 0; slot < chunk->used; slot++)
            if (chunk->messages[slot] != NULL)
                state_message_discard(chunk->messages[slot]);
        free(chunk);
    }
}

/* ---- merging ---- */

static void compact(struct state_chunk *chunk)
{
    unsigned to = 0;

    for (unsigned slot = 0; slot < chunk->used; slot++)
        if (chunk->messages[slot] != NULL)
            chunk->messages[to++] = chunk->messages[slot];
    memset(chunk->messages + to, 0, (STATE_CHUNK - to) * sizeof(chunk->messages[0]));
    chunk->used = to;
}

/* What is in the second of two neighbours goes into the first; the second goes. */
static bool merge(struct state *s, struct state_chunk *into, struct state_chunk *from)
{
    if (into->live + from->live > MERGED || into->memory + from->memory >= STATE_CHUNK_BYTES || from->sparse ||
        into->sparse)
        return false;
    compact(into);
    for (unsigned slot = 0; slot < from->used; slot++) {
        struct state_message *m = from->messages[slot];
        if (m == NULL)
            continue;
        into->messages[into->used++] = m;
        m->chunk = into;
    }
    into->live += from->live;
    into->memory += from->memory;
    chunk_free(s, from);
    return true;
}

void state_chunks_tidy(struct state *s, struct state_chunk *chunk)
{
    mr_assert(s->held == NULL);
    if (chunk->live > FEW)
        return;
    if (chunk->live == 0) {
        chunk_free(s, chunk);
        return;
    }
    struct state_link *next = chunk->in_all.next, *prev = chunk->in_all.prev;
    if (next != NULL && merge(s, chunk, CHUNK_OF(next)))
        return;
    if (prev != NULL)
        (void)merge(s, CHUNK_OF(prev), chunk);
}

/* ---- reading ---- */

struct state_message *state_chunks_next(const struct state *s, const struct state_chunk **chunk, unsigned *slot)
{
    if (*chunk == NULL) {
        if (s->chunks.all.head == NULL)
            return NULL;
        *chunk = CHUNK_OF(s->chunks.all.head);
        *slot = 0;
    }
    for (;;) {
        while (*slot < (*chunk)->used)
            if ((*chunk)->messages[(*slot)++] != NULL)
                return (*chunk)->messages[*slot - 1];
        if ((*chunk)->in_all.next == NULL)
            return NULL;
        *chunk = CHUNK_OF((*chunk)->in_all.next);
        *slot = 0;
    }
}

struct state_message *state_chunks_after(const struct state *s, uint64_t sequence)
{
    const struct state_tree_node *later = state_tree_after(&s->chunks.by_first, sequence, UINT64_MAX);
    const struct state_link *link =
        later != NULL ? MR_CONTAINER(later, struct state_chunk, by_first)->in_all.prev : s->chunks.all.tail;
    const struct state_chunk *chunk = link != NULL ? CHUNK_OF(link) : NULL;
    struct state_message *m;
    unsigned slot = 0;

    do
        m = state_chunks_next(s, &chunk, &slot);
    while (m != NULL && message_sequence(m) <= sequence);
    return m;
}

struct state_message *state_chunks_last(const struct state *s)
{
    /* Empty ones stay only while the state is held. */
    for (const struct state_link *l = s->chunks.all.tail; l != NULL; l = l->prev)
        for (unsigned slot = CHUNK_OF(l)->used; slot > 0; slot--)
            if (CHUNK_OF(l)->messages[slot - 1] != NULL)
                return CHUNK_OF(l)->messages[slot - 1];
    return NULL;
}

void state_chunks_check(const struct state *s)
{
    uint64_t sequence = 0, number = 0;

    for (const struct state_link *l = s->chunks.all.head; l != NULL; l = l->next) {
        const struct state_chunk *chunk = CHUNK_OF(l);
        unsigned live = 0;
        mr_assert(chunk->by_first.major > sequence);
        size_t memory = 0;
        for (unsigned slot = 0; slot < STATE_CHUNK; slot++) {
            const struct state_message *m = chunk->messages[slot];
            if (m == NULL)
                continue;
            mr_assert(slot < chunk->used && m->chunk == chunk && message_sequence(m) > sequence);
            mr_assert(message_sequence(m) >= chunk->by_first.major);
            sequence = message_sequence(m);
            memory += m->memory;
            live++;
        }
        mr_assert(live == chunk->live && memory == chunk->memory && chunk->used <= STATE_CHUNK);
        mr_assert(chunk->number >= number && chunk->number < s->chunks.next_number);
        number = chunk->number + 1;
        mr_assert(s->held != NULL || (live > 0 && !chunk->sparse && chunk->bytes == NULL));
    }
}
