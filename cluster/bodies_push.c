/* bodies_push.c - a put on its way to one peer: choosing peers, sending pieces, counting what is unanswered, sending
 * the whole body again (from the one piece in memory, or read back from the local spool at the peer's pace). */
#include "cluster/bodies_put_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct resend {
    struct spool_get get;
    struct body_put *put;
    unsigned slot;
    uint32_t serial;
};

/* ---- one target ---- */

struct push *push_of(struct body_put *p, uint32_t peer)
{
    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        if (p->pushes[i].mode != PUSH_FREE && p->pushes[i].peer == peer)
            return &p->pushes[i];
    }
    return NULL;
}

void push_credit(struct body_put *p, struct push *push, size_t bytes)
{
    size_t *peer = &p->b->peers[push->peer].unacked;

    if (bytes > push->unacked)
        bytes = push->unacked;
    push->unacked -= bytes;
    mr_assert(*peer >= bytes);
    *peer -= bytes;
    push->since_ns = p->b->now_ns;
}

void push_end(struct body_put *p, struct push *push)
{
    push_credit(p, push, push->unacked);
    push->mode = PUSH_FREE;
    push->serial = ++p->serial;
}

void push_fail(struct body_put *p, struct push *push, bool tell)
{
    if (tell)
        bodies_send_abort(p->b, push->peer, p->entry.id);
    p->failed |= node_bit(push->peer);
    push_end(p, push);
}

void push_send(struct body_put *p, struct push *push, uint32_t number, bool last, const uint8_t *data, size_t len)
{
    struct bodies *b = p->b;
    Mailraft__BodyPiece m = MAILRAFT__BODY_PIECE__INIT;
    struct link_buffer tail = {data, len};
    int rc;

    m.id = (ProtobufCBinaryData){sizeof(p->entry.id.bytes), p->entry.id.bytes};
    m.piece = number;
    m.last = last;
    m.stamp_ms = p->stamp_ms;
    if (last) {
        m.length = p->length;
        m.checksum = (ProtobufCBinaryData){sizeof(p->checksum), p->checksum};
    }
    rc = bodies_send(b, push->peer, FRAME_BODY_PIECE, &m.base, &tail);
    if (rc != 0) {
        push_fail(p, push, number > 0);
        return;
    }
    if (push->unacked == 0)
        push->since_ns = b->now_ns;
    push->unacked += len + BODIES_FRAME_COST;
    b->peers[push->peer].unacked += len + BODIES_FRAME_COST;
    push->sent = number + 1;
    push->sent_last = last;
}

/* ---- sending again ---- */

static void on_resend_read(struct spool_get *get, int status, uint8_t *data, size_t len, bool last)
{
    struct resend *r = MR_CONTAINER(get, struct resend, get);
    struct body_put *p = r->put;
    struct bodies *b = p->b;
    struct push *push = &p->pushes[r->slot];
    bool current = push->mode == PUSH_RESEND && push->serial == r->serial;

    free(r);
    p->inflight--;
    if (current) {
        push->reading = false;
        if (status == 0) {
            uint32_t number = push->sent;

            if (number < p->costs_size)
                p->costs[number] = (uint32_t)(len + BODIES_FRAME_COST);
            push_send(p, push, number, last, data, len);
            if (push->mode == PUSH_RESEND)
                push_resend(p, push);
        } else {
            push_fail(p, push, true);
            if (!p->ended) {
                /* Our own copy does not count any more: nothing is left to make a majority of. */
                char text[MR_ID_TEXT + 1];

                log_event(LOG_ERROR, "body_copy_bad", LOG_S("id", mr_id_format(p->entry.id, text)),
                          LOG_S("error", mr_strerror(status)));
                p->local_done = false;
                p->local_status = status == MR_NOTFOUND ? MR_NOTFOUND : MR_IO;
            }
        }
    }
    free(data);
    put_evaluate(p);
    bodies_spool_done(b);
}

void push_resend(struct body_put *p, struct push *push)
{
    struct bodies *b = p->b;
    struct resend *r;

    if (push->reading || push->sent_last || push->late || push->unacked > BODIES_SEND_WINDOW || b->closing)
        return;
    if (p->only != NULL) {
        push_send(p, push, 0, true, p->only->data, p->only->len);
        return;
    }
    r = mr_calloc(1, sizeof(*r));
    r->put = p;
    r->slot = (unsigned)(push - p->pushes);
    r->serial = push->serial;
    r->get.id = p->entry.id;
    r->get.piece = push->sent;
    r->get.cb = on_resend_read;
    if (b->ops->spool_get(b->config.spool, &r->get) != 0) {
        free(r);
        push_fail(p, push, true);
        return;
    }
    push->reading = true;
    p->inflight++;
    b->pending++;
}

/* ---- choosing targets ---- */

uint64_t push_active(const struct body_put *p)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        if (p->pushes[i].mode != PUSH_FREE && !p->pushes[i].late)
            bits |= node_bit(p->pushes[i].peer);
    }
    return bits;
}

static uint64_t late_bits(const struct body_put *p)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        if (p->pushes[i].mode != PUSH_FREE && p->pushes[i].late)
            bits |= node_bit(p->pushes[i].peer);
    }
    return bits;
}

static struct push *push_begin(struct body_put *p, uint32_t peer, enum push_mode mode)
{
    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        struct push *push = &p->pushes[i];

        if (push->mode != PUSH_FREE)
            continue;
        memset(push, 0, sizeof(*push));
        push->peer = peer;
        push->mode = mode;
        push->serial = ++p->serial;
        push->since_ns = p->b->now_ns;
        return push;
    }
    return NULL;
}

void push_choose(struct body_put *p, unsigned wanted, enum push_mode mode)
{
    struct bodies *b = p->b;
    uint64_t self = node_bit(b->config.self);
    uint64_t voters = b->ops->state_voters(b->config.state);
    uint64_t active = push_active(p);
    uint64_t candidates = voters & b->up & ~self & ~p->failed & ~p->acked & ~active & ~late_bits(p);

    while (candidates != 0 && bit_count((p->acked | self | active) & voters) < wanted) {
        uint32_t peer = bodies_pick(p->entry.id, candidates);
        struct push *push;

        candidates &= ~node_bit(peer);
        if (bodies_peer_behind(b, peer)) {
            b->stats.skipped_peers += mode == PUSH_STREAM; /* B4 */
            continue;
        }
        push = push_begin(p, peer, mode);
        if (push == NULL)
            return;
        if (mode == PUSH_RESEND)
            push_resend(p, push);
        if (push->mode != PUSH_FREE)
            active |= node_bit(peer);
    }
}
