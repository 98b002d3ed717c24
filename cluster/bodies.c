/* bodies.c - the body plane's entrance: open, close, frames, links, tick, and the callbacks that owners are owed.
 *
 * Close: every owner's callback is queued with MR_CANCELLED; what the spool still works on is waited for; then cb. */
#include "cluster/bodies_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

static void on_soon(uv_timer_t *timer);

struct bodies *bodies_open_with(const struct bodies_config *config, const struct bodies_ops *ops)
{
    struct bodies *b = mr_calloc(1, sizeof(*b));
    int rc;

    b->config = *config;
    b->ops = ops;
    id_table_init(&b->puts);
    id_table_init(&b->incoming);
    id_table_init(&b->wants);
    blist_init(&b->later);
    blist_init(&b->failed_reads);
    blist_init(&b->put_list);
    blist_init(&b->short_puts);
    blist_init(&b->serves);
    for (int i = 0; i < WANT_LISTS; i++)
        blist_init(&b->want_lists[i]);
    rc = uv_timer_init(config->loop, &b->soon);
    mr_assert(rc == 0);
    b->soon.data = b;
    return b;
}

/* ---- callbacks to owners ---- */

void bodies_wake(struct bodies *b)
{
    int rc;

    if (b->timer_closed || uv_is_active((uv_handle_t *)&b->soon))
        return;
    rc = uv_timer_start(&b->soon, on_soon, 0, 0);
    mr_assert(rc == 0);
}

void bodies_later(struct bodies *b, struct later *l, void (*run)(struct bodies *b, struct later *l))
{
    l->run = run;
    blist_append(&b->later, &l->link);
    bodies_wake(b);
}

void bodies_spool_done(struct bodies *b)
{
    mr_assert(b->pending > 0);
    b->pending--;
    if (b->closing)
        bodies_wake(b);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct bodies *b = handle->data;
    void (*cb)(void *arg) = b->close_cb;
    void *arg = b->close_arg;

    id_table_close(&b->puts);
    id_table_close(&b->incoming);
    id_table_close(&b->wants);
    for (uint32_t i = 0; i < BODIES_NODES; i++)
        free(b->peers[i].acks);
    free(b);
    if (cb != NULL)
        cb(arg);
}

static void on_soon(uv_timer_t *timer)
{
    struct bodies *b = timer->data;
    struct blist now;

    /* Only what waits at this moment: a callback may queue more, and other handles of the loop want their turn. */
    blist_init(&now);
    if (!blist_empty(&b->later)) {
        now = b->later;
        now.next->prev = &now;
        now.prev->next = &now;
        blist_init(&b->later);
    }
    while (!blist_empty(&now)) {
        struct later *l = MR_CONTAINER(now.next, struct later, link);

        blist_remove(&l->link);
        l->run(b, l);
    }
    read_failed(b);
    if (!blist_empty(&b->later) || !blist_empty(&b->failed_reads)) {
        bodies_wake(b);
    } else if (b->closing && b->pending == 0 && !b->timer_closed) {
        b->timer_closed = true;
        uv_close((uv_handle_t *)&b->soon, on_timer_closed);
    }
}

void bodies_close(struct bodies *b, void (*cb)(void *arg), void *arg)
{
    mr_assert(!b->closing);
    b->closing = true;
    b->close_cb = cb;
    b->close_arg = arg;
    serve_close(b);
    want_close(b);
    in_close(b);
    put_close(b);
    for (uint32_t i = 0; i < BODIES_NODES; i++) {
        if (b->peers[i].drain != NULL)
            b->peers[i].drain->b = NULL;
        b->peers[i].drain = NULL;
    }
    bodies_wake(b);
}

/* ---- what the files share ---- */

int bodies_send(struct bodies *b, uint32_t peer, enum frame_type type, const ProtobufCMessage *message,
                const struct link_buffer *tail)
{
    uint8_t meta[BODY_META_MAX];
    size_t len = protobuf_c_message_get_packed_size(message);

    mr_assert(len <= sizeof(meta));
    protobuf_c_message_pack(message, meta);
    if (!b->peers[peer].up)
        return MR_UNREACHABLE;
    return b->ops->links_send(b->config.links, peer, LINK_BULK, type, meta, len, tail, tail != NULL ? 1 : 0);
}

/* Best effort: a receiver forgets a push by itself when its stamp is too old to be enqueued. */
void bodies_send_abort(struct bodies *b, uint32_t peer, struct mr_id id)
{
    Mailraft__BodyAbort m = MAILRAFT__BODY_ABORT__INIT;

    m.id = (ProtobufCBinaryData){sizeof(id.bytes), id.bytes};
    (void)bodies_send(b, peer, FRAME_BODY_ABORT, &m.base, NULL);
}

/* "Durable here" stays true, so the last ones are kept and said again when the link comes back: an acknowledgement lost
 * with a connection must not cost its sender a time-out. */
void bodies_send_ack(struct bodies *b, uint32_t peer, struct mr_id id, unsigned status)
{
    Mailraft__BodyAck m = MAILRAFT__BODY_ACK__INIT;
    struct body_peer *p = &b->peers[peer];

    if (status == 0) {
        if (p->acks == NULL)
            p->acks = mr_calloc(BODIES_ACK_RING, sizeof(struct mr_id));
        p->acks[p->n_acks++ % BODIES_ACK_RING] = id;
    }
    m.id = (ProtobufCBinaryData){sizeof(id.bytes), id.bytes};
    m.status = status;
    (void)bodies_send(b, peer, FRAME_BODY_ACK, &m.base, NULL);
}

bool bodies_peer_behind(const struct bodies *b, uint32_t peer)
{
    return b->peers[peer].unacked > BODIES_PEER_BEHIND ||
           b->ops->links_queued(b->config.links, peer, LINK_BULK) > BODIES_PEER_BEHIND;
}

unsigned bodies_replicas(const struct bodies *b, unsigned n)
{
    const Mailraft__Rules *rules = b->ops->state_rules(b->config.state);
    unsigned replicas = rules != NULL && rules->replicas != 0 ? rules->replicas : 3;
    unsigned majority = b->ops->state_majority(b->config.state);

    if (replicas < majority)
        replicas = majority;
    return replicas < n ? replicas : n;
}

uint32_t bodies_pick(struct mr_id id, uint64_t candidates)
{
    uint32_t start = (uint32_t)(mr_id_hash(id) >> 58);
    uint64_t turned;

    if (candidates == 0)
        return 0;
    turned = start == 0 ? candidates : candidates >> start | candidates << (64 - start);
    return ((uint32_t)__builtin_ctzll(turned) + start) % 64;
}

bool bodies_busy(const struct bodies *b, struct mr_id id)
{
    return put_running(b, id) || want_active(b, id) || id_table_find(&b->incoming, id) != NULL;
}

/* ---- from the core ---- */

void bodies_ready(struct bodies *b)
{
    if (b->ready)
        return;
    b->ready = true;
    scan_restart(b);
}

void bodies_restored(struct bodies *b)
{
    if (b->closing)
        return;
    want_restored(b);
    scan_restart(b);
    put_recount(b);
}

void bodies_voters_changed(struct bodies *b)
{
    if (b->closing)
        return;
    put_recount(b);
    scan_restart(b);
}

void bodies_link(struct bodies *b, uint32_t peer, bool up)
{
    if (b->closing || node_bit(peer) == 0 || peer == b->config.self || b->peers[peer].up == up)
        return;
    b->peers[peer].up = up;
    if (up) {
        b->up |= node_bit(peer);
        in_link_up(b, peer);
        put_retry_short(b, true);
    } else {
        b->up &= ~node_bit(peer);
        put_link_down(b, peer);
        serve_link_down(b, peer);
    }
    want_link(b, peer, up);
}

static int frame_piece(struct bodies *b, uint32_t peer, const uint8_t *meta, size_t meta_len, const uint8_t *tail,
                       size_t tail_len)
{
    Mailraft__BodyPiece *m = mailraft__body_piece__unpack(NULL, meta_len, meta);
    struct mr_id id;
    int rc = MR_MALFORMED;

    if (m == NULL)
        return MR_MALFORMED;
    if (mr_id_from_bytes(m->id.data, m->id.len, &id) == 0 && m->piece < BODIES_MAX_PIECES &&
        tail_len <= SPOOL_MAX_PIECE && (m->last ? m->checksum.len == 16 : tail_len > 0))
        rc = in_piece(b, peer, m, id, tail, tail_len);
    mailraft__body_piece__free_unpacked(m, NULL);
    return rc;
}

static int frame_ack(struct bodies *b, uint32_t peer, const uint8_t *meta, size_t meta_len)
{
    Mailraft__BodyAck *m = mailraft__body_ack__unpack(NULL, meta_len, meta);
    struct mr_id id;
    int rc;

    if (m == NULL)
        return MR_MALFORMED;
    rc = mr_id_from_bytes(m->id.data, m->id.len, &id);
    if (rc == 0 && !(m->status == BODY_ACK_PIECE && serve_ack(b, peer, id)))
        put_ack(b, peer, id, m->status);
    mailraft__body_ack__free_unpacked(m, NULL);
    return rc;
}

static int frame_abort(struct bodies *b, uint32_t peer, const uint8_t *meta, size_t meta_len)
{
    Mailraft__BodyAbort *m = mailraft__body_abort__unpack(NULL, meta_len, meta);
    struct mr_id id;
    int rc;

    if (m == NULL)
        return MR_MALFORMED;
    rc = mr_id_from_bytes(m->id.data, m->id.len, &id);
    /* From one who asked us for the body: he wants no more of it. Else from one who was giving it to us. */
    if (rc == 0 && !serve_abort(b, peer, id))
        in_abort(b, peer, id);
    mailraft__body_abort__free_unpacked(m, NULL);
    return rc;
}

static int frame_get(struct bodies *b, uint32_t peer, const uint8_t *meta, size_t meta_len)
{
    Mailraft__BodyGet *m = mailraft__body_get__unpack(NULL, meta_len, meta);
    struct mr_id id;
    int rc = MR_MALFORMED;

    if (m == NULL)
        return MR_MALFORMED;
    if (mr_id_from_bytes(m->id.data, m->id.len, &id) == 0 && m->request != 0) {
        serve_get(b, peer, id, m->request);
        rc = 0;
    }
    mailraft__body_get__free_unpacked(m, NULL);
    return rc;
}

static int frame_missing(struct bodies *b, uint32_t peer, const uint8_t *meta, size_t meta_len)
{
    Mailraft__BodyMissing *m = mailraft__body_missing__unpack(NULL, meta_len, meta);

    if (m == NULL)
        return MR_MALFORMED;
    want_missing(b, peer, m->request);
    mailraft__body_missing__free_unpacked(m, NULL);
    return 0;
}

int bodies_frame(struct bodies *b, uint32_t peer, enum frame_type type, const uint8_t *meta, size_t meta_len,
                 const uint8_t *tail, size_t tail_len)
{
    if (b->closing)
        return 0;
    if (node_bit(peer) == 0 || peer == b->config.self)
        return MR_MALFORMED;
    if (tail_len != 0 && type != FRAME_BODY_PIECE)
        return MR_MALFORMED;
    switch (type) {
    case FRAME_BODY_PIECE:
        return frame_piece(b, peer, meta, meta_len, tail, tail_len);
    case FRAME_BODY_ACK:
        return frame_ack(b, peer, meta, meta_len);
    case FRAME_BODY_ABORT:
        return frame_abort(b, peer, meta, meta_len);
    case FRAME_BODY_GET:
        return frame_get(b, peer, meta, meta_len);
    case FRAME_BODY_MISSING:
        return frame_missing(b, peer, meta, meta_len);
    default:
        return MR_MALFORMED;
    }
}

void bodies_enqueued(struct bodies *b, const struct state_message *m)
{
    struct message_view v;

    if (b->closing || !b->ready)
        return; /* the scan comes to it */
    b->ops->state_message_view(m, &v);
    if (b->ops->spool_has(b->config.spool, v.id, NULL) || !want_should_hold(b, &v))
        return;
    if (!want_add(b, v.id, WANT_GRACE, false))
        b->scan.overflow++;
}

void bodies_removed(struct bodies *b, struct mr_id id)
{
    if (b->closing)
        return;
    want_removed(b, id);
    if (!b->ready || bodies_busy(b, id))
        return; /* B3; the collector comes to it */
    if (b->ops->spool_has(b->config.spool, id, NULL))
        b->stats.collected++;
    b->ops->spool_drop(b->config.spool, id);
}

void bodies_tick(struct bodies *b, uint64_t now_ns)
{
    if (b->closing)
        return;
    b->now_ns = now_ns;
    put_retry_short(b, false);
    if (now_ns - b->second_ns >= 1000000000ULL) {
        b->second_ns = now_ns;
        put_retry_short(b, true);
        put_timeouts(b);
        in_timeouts(b);
        serve_timeouts(b);
    }
    scan_tick(b);
    want_tick(b);
}

void bodies_refuse_pushes(struct bodies *b, bool refuse)
{
    b->refuses = refuse;
}

void bodies_stats(const struct bodies *b, struct bodies_stats *out)
{
    *out = b->stats;
    out->missing = scan_missing(b);
}
