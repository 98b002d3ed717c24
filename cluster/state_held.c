/* The state as it was at one index, while the state goes on (PROTOCOL.md 8.3).
 *
 * Happy path: state_hold -> the thread of state_held_write goes from chunk to chunk -> state_release_held. What is
 * short (header, nodes, parts, sites, users) is written by hold itself. Of messages it takes the first and the last
 * chunk: while the state is held, none of them moves or goes, and new messages come into others. The records of a chunk
 * are made once: by the thread when it comes there, or before by the state's own thread, when it is about to change or
 * to drop one of its messages. Finished ids do not change; theirs stay until the release, which tidies up.
 *
 * The mutex guards `saved` and `bytes` of the chunks, and with that who reads their messages; it is held for the
 * records of one chunk, some 20 us. The thread reads nothing of a message but what records tell, and of a next hop its
 * name. */
#include "cluster/state_internal.h"
#include "cluster/state_writer.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <pthread.h>
#include <stdlib.h>

enum { PIECE = 64 * 1024 };

struct state_held {
    struct state *s; /* its own thread's */
    uint64_t number; /* taken from those of chunks: later ones have higher numbers, earlier held states had lower */
    pthread_mutex_t mutex;
    struct state_writer head, tail;
    struct state_chunk *next, *last; /* next: not written yet; NULL: all are. The writing thread's */
    struct finished_held finished;
    struct state_list sparse; /* chunks to tidy. The state's own thread's, as all that follows */
};

struct state_held *state_hold(struct state *s)
{
    struct state_held *held = mr_calloc(1, sizeof(*held));
    struct state_link *last = s->chunks.all.tail;

    mr_assert(s->held == NULL);
    held->s = s;
    if (pthread_mutex_init(&held->mutex, NULL) != 0)
        mr_panic("pthread_mutex_init");
    if (last != NULL) {
        held->next = MR_CONTAINER(s->chunks.all.head, struct state_chunk, in_all);
        held->last = MR_CONTAINER(last, struct state_chunk, in_all);
        held->last->used = STATE_CHUNK; /* full: what comes goes elsewhere */
    }
    held->number = s->chunks.next_number++;
    held->finished = finished_hold(s);
    state_write_head(&held->head, s);
    state_write_tail(&held->tail, s);
    s->held = held;
    return held;
}

/* ---- the state's own thread ---- */

static void write_chunk(struct state_writer *w, const struct state_chunk *chunk)
{
    for (unsigned slot = 0; slot < STATE_CHUNK; slot++)
        if (chunk->messages[slot] != NULL)
            state_write_message(w, chunk->messages[slot]);
}

void state_touch(struct state *s, const struct state_message *m)
{
    struct state_held *held = s->held;
    struct state_chunk *chunk = m->chunk;

    if (held == NULL || chunk->number > held->number)
        return;
    pthread_mutex_lock(&held->mutex);
    if (chunk->saved != held->number) {
        struct state_writer w = {0};
        write_chunk(&w, chunk);
        chunk->saved = held->number;
        chunk->bytes = mr_realloc(w.base, w.len);
        chunk->len = w.len;
    }
    pthread_mutex_unlock(&held->mutex);
}

void state_held_sparse(struct state_held *held, struct state_chunk *chunk)
{
    if (chunk->sparse)
        return;
    chunk->sparse = true;
    state_list_append(&held->sparse, &chunk->in_sparse);
}

void state_release_held(struct state_held *held)
{
    struct state *s = held->s;

    mr_assert(s->held == held);
    s->held = NULL;
    /* Given up half-way. */
    for (struct state_chunk *c = held->next; c != NULL;
         c = c == held->last ? NULL : MR_CONTAINER(c->in_all.next, struct state_chunk, in_all)) {
        free(c->bytes);
        c->bytes = NULL;
    }
    while (held->sparse.head != NULL) {
        struct state_chunk *chunk = MR_CONTAINER(held->sparse.head, struct state_chunk, in_sparse);
        state_list_remove(&held->sparse, &chunk->in_sparse);
        chunk->sparse = false;
        state_chunks_tidy(s, chunk);
    }
    finished_release(s);
    pthread_mutex_destroy(&held->mutex);
    free(held->head.base);
    free(held->tail.base);
    free(held);
}

/* ---- the writing thread ---- */

struct output {
    state_put put;
    void *arg;
    XXH3_state_t *hash;
};

static bool give(struct output *out, const void *data, size_t len)
{
    if (len == 0)
        return true;
    XXH3_128bits_update(out->hash, data, len);
    return out->put(out->arg, data, len);
}

static bool give_piece(struct output *out, struct state_writer *w, size_t above)
{
    if (w->len <= above)
        return true;
    bool more = give(out, w->base, w->len);
    w->len = 0;
    return more;
}

static bool give_chunk(struct state_held *held, struct output *out, struct state_writer *w, struct state_chunk *chunk)
{
    pthread_mutex_lock(&held->mutex);
    bool saved = chunk->saved == held->number;
    if (!saved) {
        write_chunk(w, chunk);
        chunk->saved = held->number;
    }
    uint8_t *bytes = chunk->bytes;
    chunk->bytes = NULL;
    pthread_mutex_unlock(&held->mutex);
    bool more = true;
    if (saved)
        more = give_piece(out, w, 0) && give(out, bytes, chunk->len);
    free(bytes);
    return more && give_piece(out, w, PIECE);
}

static bool give_all(struct state_held *held, struct output *out, struct state_writer *w)
{
    const struct state_finished *f;

    if (!give(out, held->head.base, held->head.len))
        return false;
    while (held->next != NULL) {
        struct state_chunk *chunk = held->next;
        held->next = chunk == held->last ? NULL : MR_CONTAINER(chunk->in_all.next, struct state_chunk, in_all);
        if (!give_chunk(held, out, w, chunk))
            return false;
    }
    while ((f = finished_held_next(&held->finished)) != NULL) {
        state_write_finished(w, f);
        if (!give_piece(out, w, PIECE))
            return false;
    }
    if (!give_piece(out, w, 0) || !give(out, held->tail.base, held->tail.len))
        return false;
    state_write_end(w, XXH3_128bits_digest(out->hash));
    return give_piece(out, w, 0);
}

bool state_held_write(struct state_held *held, state_put put, void *arg)
{
    struct output out = {.put = put, .arg = arg, .hash = XXH3_createState()};
    struct state_writer w = {0};

    if (out.hash == NULL)
        mr_panic("out of memory");
    XXH3_128bits_reset(out.hash);
    bool whole = give_all(held, &out, &w);
    XXH3_freeState(out.hash);
    free(w.base);
    return whole;
}
