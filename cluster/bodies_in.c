/* bodies_in.c - a body that comes in piece by piece: pushed by its acceptor, or sent at our request.
 *
 * Happy path: in_piece checks order and length, copies the piece into the queue; in_pump gives one piece at a time to
 * the spool, which computes the checksum and compares it with what the sender says; on_put answers it and goes on; the
 * last one's answer is the acknowledgement (push) or ends the pull. One piece at a time, so that a beginning from piece
 * 0 (the sender's connection was cut off) never meets a piece of the earlier attempt in the spool's hands: what is
 * there is waited for, then forgotten with spool_abort. Failure: an error goes to the pusher, who counts us out; pieces
 * of it that still come are answered with an error. Close: what the spool has in hand is waited for. */
#include "cluster/bodies_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct in_queued {
    struct blist link;
    struct spool_put req;
    struct incoming *in;
    uint32_t peer;
    uint32_t attempt;
    uint8_t data[];
};

struct incoming {
    struct id_entry entry;
    struct bodies *b;
    uint32_t peer;     /* 0: given up, waits for the spool */
    struct want *want; /* NULL: pushed */
    uint64_t stamp_ms;
    uint32_t next;     /* number of the next piece */
    uint32_t attempt;  /* pieces of an earlier one are not progress */
    uint64_t length;   /* so far */
    bool complete;     /* the last piece came */
    bool forget_first; /* spool_abort before the next piece */
    bool have;         /* is here already: pieces are checked and answered, not written */
    bool writing;      /* the spool has a piece */
    struct blist queue;
};

static struct incoming *find_in(const struct bodies *b, struct mr_id id)
{
    return (struct incoming *)id_table_find(&b->incoming, id);
}

bool in_pushed(const struct bodies *b, struct mr_id id)
{
    const struct incoming *in = find_in(b, id);

    return in != NULL && in->peer != 0 && in->want == NULL;
}

/* ---- beginning and end ---- */

/* Tiny pieces must not hide what they cost. */
static size_t queued_cost(size_t len)
{
    return len + BODIES_FRAME_COST;
}

static void queued_free(struct bodies *b, struct in_queued *q)
{
    mr_assert(b->peers[q->peer].received >= queued_cost(q->req.piece.len));
    b->peers[q->peer].received -= queued_cost(q->req.piece.len);
    blist_remove(&q->link);
    free(q);
}

static void drop_queue(struct incoming *in)
{
    while (!blist_empty(&in->queue)) {
        struct in_queued *q = MR_CONTAINER(in->queue.next, struct in_queued, link);

        queued_free(in->b, q);
    }
}

static void start_over(struct incoming *in)
{
    drop_queue(in);
    in->attempt++;
    in->next = 0;
    in->length = 0;
    in->complete = false;
    in->forget_first = true;
}

static struct incoming *in_begin(struct bodies *b, uint32_t peer, struct want *w, struct mr_id id)
{
    struct incoming *in = find_in(b, id);

    if (in == NULL) {
        in = mr_calloc(1, sizeof(*in));
        in->b = b;
        in->entry.id = id;
        blist_init(&in->queue);
        id_table_add(&b->incoming, &in->entry);
    }
    start_over(in);
    in->peer = peer;
    in->want = w;
    in->have = b->ops->spool_has(b->config.spool, id, NULL);
    if (w == NULL)
        b->peers[peer].incoming++;
    return in;
}

struct incoming *in_begin_pull(struct bodies *b, uint32_t peer, struct want *w, struct mr_id id)
{
    struct incoming *in = find_in(b, id);

    mr_assert(in == NULL || in->peer == 0);
    return in_begin(b, peer, w, id);
}

static void detach(struct incoming *in)
{
    if (in->peer != 0 && in->want == NULL)
        in->b->peers[in->peer].incoming--;
    in->peer = 0;
    in->want = NULL;
}

static void in_free(struct incoming *in)
{
    drop_queue(in);
    id_table_remove(&in->b->incoming, &in->entry);
    free(in);
}

void in_end(struct incoming *in)
{
    struct bodies *b = in->b;

    detach(in);
    start_over(in);
    if (in->writing)
        return; /* on_put goes on */
    if (!b->ops->spool_has(b->config.spool, in->entry.id, NULL))
        b->ops->spool_abort(b->config.spool, in->entry.id);
    in_free(in);
}

static void in_fail(struct incoming *in, int status)
{
    struct want *w = in->want;

    if (w == NULL) {
        bodies_send_ack(in->b, in->peer, in->entry.id, (unsigned)-status);
        in_end(in);
    } else {
        want_pulled(w, status); /* ends or begins `in` again */
    }
}

static void in_done(struct incoming *in)
{
    struct bodies *b = in->b;
    struct mr_id id = in->entry.id;
    struct want *w = in->want;
    bool cancelled;

    if (w == NULL)
        bodies_send_ack(b, in->peer, id, 0);
    detach(in);
    in_free(in);
    if (w != NULL)
        want_pulled(w, 0);
    else
        want_present(b, id);
    /* Finished while it was on its way: nobody else would look at it before the collector's next round. */
    if (b->ready && !bodies_busy(b, id) && b->ops->state_is_finished(b->config.state, id, &cancelled)) {
        b->ops->spool_drop(b->config.spool, id);
        b->stats.collected++;
    }
}

/* ---- into the spool ---- */

static int check_have(struct incoming *in, const struct spool_piece *last)
{
    struct spool_info info;

    if (!in->b->ops->spool_has(in->b->config.spool, in->entry.id, &info))
        return MR_BUSY; /* dropped or found bad meanwhile: let it be sent again */
    if (info.length != last->length || memcmp(info.checksum, last->checksum, sizeof(info.checksum)) != 0)
        return MR_CHECKSUM;
    return 0;
}

/* One piece is dealt with. False: in is gone (or began again). */
static bool answered(struct incoming *in, int status, bool last)
{
    if (status != 0 && status != MR_EXISTS) {
        in_fail(in, status);
        return false;
    }
    if (last) {
        in_done(in);
        return false;
    }
    if (status == MR_EXISTS)
        in->have = true;
    if (in->want != NULL)
        want_progress(in->want);
    bodies_send_ack(in->b, in->peer, in->entry.id, BODY_ACK_PIECE);
    return true;
}

static void on_put(struct spool_put *req, int status);

static void in_pump(struct incoming *in)
{
    struct bodies *b = in->b;

    while (!in->writing && !blist_empty(&in->queue)) {
        struct in_queued *q = MR_CONTAINER(in->queue.next, struct in_queued, link);
        bool last = q->req.piece.last;
        int rc;

        if (in->have) {
            rc = last ? check_have(in, &q->req.piece) : 0;
            queued_free(b, q);
            if (!answered(in, rc, last))
                return;
            continue;
        }
        if (in->forget_first)
            b->ops->spool_abort(b->config.spool, in->entry.id);
        in->forget_first = false;
        q->req.cb = on_put;
        rc = b->ops->spool_put(b->config.spool, &q->req);
        if (rc != 0) {
            in_fail(in, rc);
            return;
        }
        blist_remove(&q->link);
        in->writing = true;
        b->pending++;
    }
}

static void on_put(struct spool_put *req, int status)
{
    struct in_queued *q = MR_CONTAINER(req, struct in_queued, req);
    struct incoming *in = q->in;
    struct bodies *b = in->b;
    bool last = req->piece.last;
    bool current = q->attempt == in->attempt && in->peer != 0;

    queued_free(b, q);
    in->writing = false;
    if (current) {
        if (answered(in, status, last))
            in_pump(in);
    } else if (in->peer == 0) {
        in_end(in);
    } else {
        in->have = b->ops->spool_has(b->config.spool, in->entry.id, NULL);
        in_pump(in);
    }
    bodies_spool_done(b);
}

/* ---- from the peer ---- */

/* What the sender says of the whole body against what came and what the envelope says, if there is one. That the bytes
 * have this checksum is found by the spool. */
static int check_whole(struct incoming *in, const Mailraft__BodyPiece *m)
{
    struct bodies *b = in->b;
    const struct state_message *message = b->ops->state_find(b->config.state, in->entry.id);

    if (m->length != in->length)
        return MR_CHECKSUM;
    if (message != NULL) {
        struct message_view v;

        b->ops->state_message_view(message, &v);
        if (v.body_length != in->length || memcmp(m->checksum.data, v.body_checksum, sizeof(v.body_checksum)) != 0)
            return MR_CHECKSUM;
    } else if (in->want != NULL) {
        return MR_NOTFOUND; /* finished meanwhile */
    }
    return 0;
}

static int in_accept(struct incoming *in, const Mailraft__BodyPiece *m, const uint8_t *tail, size_t len)
{
    struct bodies *b = in->b;
    struct in_queued *q;
    int rc;

    if (in->complete || m->piece != in->next)
        return MR_INVAL;
    if (b->peers[in->peer].received + queued_cost(len) > BODIES_MAX_RECEIVED)
        return MR_BUSY;
    if (in->next == 0 || m->stamp_ms > in->stamp_ms)
        in->stamp_ms = m->stamp_ms;
    in->next++;
    in->length += len;
    if (m->last) {
        in->complete = true;
        rc = check_whole(in, m);
        if (rc != 0)
            return rc;
    }
    q = mr_malloc(sizeof(*q) + len); /* not zeroed: nearly all of it is the piece */
    memset(q, 0, sizeof(*q));
    q->in = in;
    q->peer = in->peer;
    q->attempt = in->attempt;
    if (len > 0)
        memcpy(q->data, tail, len);
    q->req.piece = (struct spool_piece){
        .id = in->entry.id, .piece = m->piece, .last = m->last, .stamp_ms = in->stamp_ms, .data = q->data, .len = len};
    if (m->last) {
        q->req.piece.length = m->length;
        memcpy(q->req.piece.checksum, m->checksum.data, sizeof(q->req.piece.checksum));
    }
    b->peers[in->peer].received += queued_cost(len);
    blist_append(&in->queue, &q->link);
    return 0;
}

static void in_pulled_piece(struct bodies *b, uint32_t peer, const Mailraft__BodyPiece *m, struct mr_id id,
                            const uint8_t *tail, size_t tail_len)
{
    struct want *w = want_by_request(b, peer, m->request);
    struct incoming *in = w != NULL ? want_incoming(w) : NULL;
    int rc;

    if (in == NULL || in->peer != peer || !mr_id_equal(in->entry.id, id))
        return; /* of a request that we gave up */
    want_progress(w);
    rc = in_accept(in, m, tail, tail_len);
    if (rc != 0)
        in_fail(in, rc);
    else
        in_pump(in);
}

int in_piece(struct bodies *b, uint32_t peer, const Mailraft__BodyPiece *m, struct mr_id id, const uint8_t *tail,
             size_t tail_len)
{
    struct incoming *in;
    int rc;

    if (m->request != 0) {
        in_pulled_piece(b, peer, m, id, tail, tail_len);
        return 0;
    }
    in = find_in(b, id);
    if (in != NULL && in->peer != 0 && (in->peer != peer || in->want != NULL)) {
        bodies_send_ack(b, peer, id, (unsigned)-MR_BUSY); /* comes from elsewhere just now */
        return 0;
    }
    if (m->piece == 0) {
        if (in != NULL && in->peer != 0)
            detach(in);
        if (b->refuses || put_running(b, id) || b->peers[peer].incoming >= BODIES_MAX_INCOMING) {
            if (in != NULL)
                in_end(in);
            bodies_send_ack(b, peer, id, (unsigned)-MR_BUSY);
            return 0;
        }
        in = in_begin(b, peer, NULL, id);
    } else if (in == NULL || in->peer == 0) {
        bodies_send_ack(b, peer, id, (unsigned)-MR_INVAL); /* what came before is not here */
        return 0;
    }
    rc = in_accept(in, m, tail, tail_len);
    if (rc != 0)
        in_fail(in, rc);
    else
        in_pump(in);
    return 0;
}

void in_abort(struct bodies *b, uint32_t peer, struct mr_id id)
{
    struct incoming *in = find_in(b, id);

    if (in != NULL && in->peer == peer && in->want == NULL)
        in_end(in);
}

/* ---- links, clock, close ---- */

void in_link_up(struct bodies *b, uint32_t peer)
{
    struct body_peer *p = &b->peers[peer];
    size_t n = p->n_acks < BODIES_ACK_RING ? p->n_acks : BODIES_ACK_RING;

    for (size_t i = p->n_acks - n; i < p->n_acks; i++) {
        struct mr_id id = p->acks[i % BODIES_ACK_RING];
        Mailraft__BodyAck m = MAILRAFT__BODY_ACK__INIT;

        if (!b->ops->spool_has(b->config.spool, id, NULL))
            continue; /* found bad, or finished */
        m.id = (ProtobufCBinaryData){sizeof(id.bytes), id.bytes};
        if (bodies_send(b, peer, FRAME_BODY_ACK, &m.base, NULL) != 0)
            return;
    }
}

/* A push whose enqueue would be refused for its age (PROTOCOL.md 3.4) will never be finished: the acceptor died, or its
 * BODY_ABORT was lost. */
void in_timeouts(struct bodies *b)
{
    uint64_t now = b->ops->state_now_ms(b->config.state);

    for (size_t i = 0; i <= b->incoming.mask && b->incoming.count > 0; i++) {
        for (struct id_entry *e = b->incoming.buckets[i], *next; e != NULL; e = next) {
            struct incoming *in = (struct incoming *)e;

            next = e->next;
            if (in->peer != 0 && in->want == NULL && now >= STATE_GRACE_MS && now - STATE_GRACE_MS > in->stamp_ms)
                in_fail(in, MR_STALE);
        }
    }
}

void in_close(struct bodies *b)
{
    for (size_t i = 0; i <= b->incoming.mask && b->incoming.count > 0; i++) {
        for (struct id_entry *e = b->incoming.buckets[i], *next; e != NULL; e = next) {
            struct incoming *in = (struct incoming *)e;

            next = e->next;
            if (in->peer != 0 || !in->writing)
                in_end(in);
        }
    }
}
