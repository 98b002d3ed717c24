/* bodies_put.c - the acceptor's side: one body on its way to this disk and, at once, to the peers' disks.
 *
 * Happy path: bodies_begin -> bodies_piece / bodies_finish -> piece_add (frame to each target, spool_put) -> piece_done
 * and put_ack -> put_evaluate finds a majority durable -> cb(0, holders); later acknowledgements end the pushes, then
 * the memory goes. Failure: a target whose link drops, that answers with an error, is behind or silent (push_fail,
 * late) no longer counts. With less than a majority left the put is short: the whole body is sent again, to another
 * voter or to the same one, from the piece in memory or, several pieces, from the local spool once it is durable there.
 * A refusal of the local spool ends it. Close, abort: pieces in the spool's hands are waited for, then the unfinished
 * body is forgotten there. */
#include "cluster/bodies_put_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

static struct body_put *find_put(const struct bodies *b, struct mr_id id)
{
    return (struct body_put *)id_table_find(&b->puts, id);
}

bool put_running(const struct bodies *b, struct mr_id id)
{
    const struct body_put *p = find_put(b, id);

    return p != NULL && !p->ended;
}

/* ---- memory ---- */

static void piece_free(struct body_put *p, struct piece *piece)
{
    free(piece->data);
    piece->data = NULL;
    if (piece != &p->first)
        free(piece);
}

static bool pushing(const struct body_put *p)
{
    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        if (p->pushes[i].mode != PUSH_FREE)
            return true;
    }
    return false;
}

static void put_maybe_free(struct body_put *p)
{
    struct bodies *b = p->b;

    if (!p->ended || p->owed || p->inflight > 0 || p->owed_pieces > 0 || pushing(p))
        return;
    if (p->only != NULL)
        piece_free(p, p->only);
    if (!p->local_done && p->n_pieces > 0)
        b->ops->spool_abort(b->config.spool, p->entry.id);
    blist_remove(&p->link);
    blist_remove(&p->short_link);
    id_table_remove(&b->puts, &p->entry);
    free(p->costs);
    free(p);
}

/* ---- what a put has come to ---- */

static void run_written(struct bodies *b, struct later *l)
{
    struct piece *piece = MR_CONTAINER(l, struct piece, later);
    struct body_put *p = piece->put;
    void (*written)(void *arg, int status) = piece->written;
    void *arg = piece->arg;
    int status = p->aborted ? MR_CANCELLED : piece->status;

    (void)b;
    p->owed_pieces--;
    piece_free(p, piece);
    put_maybe_free(p);
    if (written != NULL)
        written(arg, status);
}

static void release_held(struct body_put *p)
{
    while (!blist_empty(&p->held)) {
        struct later *l = MR_CONTAINER(p->held.next, struct later, link);

        blist_remove(&l->link);
        bodies_later(p->b, l, run_written);
    }
}

/* The owner is asked for more only while a majority keeps up, so that it goes at the pace of the majority's slowest;
 * one that is slower than that is left behind. */
static bool keeps_up(const struct body_put *p, uint64_t voters, unsigned majority)
{
    uint64_t ok = p->acked | node_bit(p->b->config.self);
    bool somebody_lags = false;

    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        if (p->pushes[i].mode != PUSH_STREAM || p->pushes[i].late)
            continue;
        if (p->pushes[i].unacked <= BODIES_PUT_WINDOW)
            ok |= node_bit(p->pushes[i].peer);
        else
            somebody_lags = true;
    }
    return bit_count(ok & voters) >= majority || !somebody_lags;
}

static void run_cb(struct bodies *b, struct later *l)
{
    struct body_put *p = MR_CONTAINER(l, struct body_put, later);
    body_put_cb cb = p->cb;
    void *arg = p->arg;
    int status = p->aborted ? MR_CANCELLED : p->status;
    uint64_t holders = status == 0 ? p->holders : 0;

    (void)b;
    p->owed = false;
    put_maybe_free(p);
    if (cb != NULL)
        cb(arg, status, holders);
}

static void put_complete(struct body_put *p, int status, uint64_t holders)
{
    p->ended = true;
    p->owed = true;
    p->status = status;
    p->holders = holders;
    /* Nothing follows for a peer that has not been sent the end. */
    for (unsigned i = 0; status != 0 && i < BODIES_TARGETS; i++) {
        if (p->pushes[i].mode != PUSH_FREE && !p->pushes[i].sent_last)
            push_fail(p, &p->pushes[i], true);
    }
    blist_remove(&p->short_link);
    bodies_later(p->b, &p->later, run_cb);
}

void put_evaluate(struct body_put *p)
{
    struct bodies *b = p->b;
    uint64_t voters = b->ops->state_voters(b->config.state);
    unsigned majority = MR_MUTANT(MUTANT_ONE_BODY) ? 1 : b->ops->state_majority(b->config.state);
    uint64_t self = node_bit(b->config.self);
    uint64_t durable = (p->acked | (p->local_done ? self : 0)) & voters;

    if (p->ended) {
        release_held(p);
        put_maybe_free(p);
        return;
    }
    if (p->finished && p->local_status != 0) {
        put_complete(p, p->local_status, 0);
        return;
    }
    if (p->finished && p->local_done && majority > 0 && bit_count(durable) >= majority) { /* B1 */
        put_complete(p, 0, durable);
        return;
    }
    if (p->n_pieces > 0 && bit_count((p->acked | push_active(p) | self) & voters) < majority) {
        if (p->finished && (p->only != NULL || p->local_done))
            push_choose(p, majority, PUSH_RESEND);
        if (blist_empty(&p->short_link))
            blist_append(&b->short_puts, &p->short_link);
    } else {
        blist_remove(&p->short_link);
    }
    if (!blist_empty(&p->held) && keeps_up(p, voters, majority))
        release_held(p);
}

/* ---- pieces ---- */

static void on_piece(struct spool_put *req, int status)
{
    struct piece *piece = MR_CONTAINER(req, struct piece, req);
    struct body_put *p = piece->put;
    struct bodies *b = p->b;

    p->inflight--;
    if (status == MR_EXISTS)
        status = 0;
    if (status != 0 && p->local_status == 0)
        p->local_status = status;
    if (piece->req.piece.last) {
        p->local_done = status == 0;
        if (piece != p->only)
            piece_free(p, piece);
    } else {
        piece->status = status;
        free(piece->data);
        piece->data = NULL;
        blist_append(&p->held, &piece->later.link);
        if (status != 0)
            release_held(p);
    }
    put_evaluate(p);
    bodies_spool_done(b);
}

static void add_cost(struct body_put *p, uint32_t number, size_t len)
{
    if (number >= p->costs_size) {
        p->costs_size = p->costs_size == 0 ? 16 : p->costs_size * 2;
        p->costs = mr_realloc(p->costs, p->costs_size * sizeof(*p->costs));
    }
    p->costs[number] = (uint32_t)(len + BODIES_FRAME_COST);
}

static void piece_refused(struct piece *piece, int status)
{
    struct body_put *p = piece->put;

    if (p->local_status == 0)
        p->local_status = status;
    if (piece->req.piece.last) {
        piece_free(p, piece);
        p->only = NULL;
    } else {
        piece->status = status;
        bodies_later(p->b, &piece->later, run_written);
    }
}

static void piece_add(struct body_put *p, struct piece *piece, bool last)
{
    struct bodies *b = p->b;
    uint32_t number = p->n_pieces++;
    uint64_t now_ms = b->ops->state_now_ms(b->config.state);
    int rc = p->local_status;

    if (b->ops->state_version(b->config.state) >= 2 && now_ms > p->stamp_ms)
        p->stamp_ms = now_ms;

    piece->req.piece.last = last;
    if (rc == 0 && (piece->len > SPOOL_MAX_PIECE || number >= BODIES_MAX_PIECES))
        rc = MR_LIMIT;
    if (rc != 0) {
        piece_refused(piece, rc);
        return;
    }
    if (!last)
        add_cost(p, number, piece->len);
    if (number == 0)
        push_choose(p, bodies_replicas(b, bit_count(b->ops->state_voters(b->config.state))), PUSH_STREAM);
    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        struct push *push = &p->pushes[i];

        if (push->mode != PUSH_STREAM)
            continue;
        if (number > 0 && bodies_peer_behind(b, push->peer)) {
            b->stats.skipped_peers++;
            push_fail(p, push, true);
        } else {
            push_send(p, push, number, last, piece->data, piece->len);
        }
    }
    piece->req.piece = (struct spool_piece){.id = p->entry.id,
                                            .piece = number,
                                            .last = last,
                                            .stamp_ms = p->stamp_ms,
                                            .data = piece->data,
                                            .len = piece->len};
    if (last) {
        piece->req.piece.length = p->length;
        memcpy(piece->req.piece.checksum, p->checksum, sizeof(p->checksum));
        if (number == 0)
            p->only = piece;
    }
    piece->req.cb = on_piece;
    rc = b->ops->spool_put(b->config.spool, &piece->req);
    if (rc != 0) {
        piece_refused(piece, rc);
        return;
    }
    p->inflight++;
    b->pending++;
}

static struct piece *new_piece(struct body_put *p, uint8_t *data, size_t len)
{
    struct piece *piece = p->n_pieces == 0 ? &p->first : mr_calloc(1, sizeof(*piece));

    piece->put = p;
    piece->data = data;
    piece->len = len;
    return piece;
}

/* ---- the owner's calls ---- */

static struct body_put *new_put(struct bodies *b, struct mr_id id, uint64_t stamp_ms)
{
    struct body_put *p = find_put(b, id);

    if (p != NULL) {
        /* Its owner has his answer; what is left of it makes way. */
        mr_assert(p->ended && !p->owed && p->inflight == 0 && p->owed_pieces == 0);
        for (unsigned i = 0; i < BODIES_TARGETS; i++) {
            if (p->pushes[i].mode != PUSH_FREE)
                push_end(p, &p->pushes[i]);
        }
        put_maybe_free(p);
    }
    p = mr_calloc(1, sizeof(*p));
    p->b = b;
    p->entry.id = id;
    p->stamp_ms = stamp_ms;
    blist_init(&p->short_link);
    blist_init(&p->held);
    blist_append(&b->put_list, &p->link);
    id_table_add(&b->puts, &p->entry);
    b->stats.puts++;
    return p;
}

struct body_put *bodies_begin(struct bodies *b, struct mr_id id)
{
    return new_put(b, id, b->ops->state_now_ms(b->config.state));
}

uint64_t body_put_stamp(const struct body_put *p)
{
    return p->stamp_ms;
}

void bodies_piece(struct body_put *p, uint8_t *data, size_t len, void (*written)(void *arg, int status), void *arg)
{
    struct piece *piece = new_piece(p, data, len);

    mr_assert(!p->finished && !p->aborted);
    piece->written = written;
    piece->arg = arg;
    p->owed_pieces++;
    piece_add(p, piece, false);
    put_evaluate(p);
}

void bodies_finish(struct body_put *p, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                   body_put_cb cb, void *arg)
{
    struct piece *piece = new_piece(p, data, len);

    mr_assert(!p->finished && !p->aborted);
    p->finished = true;
    p->length = length;
    memcpy(p->checksum, checksum, sizeof(p->checksum));
    p->cb = cb;
    p->arg = arg;
    piece_add(p, piece, true);
    put_evaluate(p);
}

void bodies_abort(struct body_put *p)
{
    mr_assert(!p->aborted && (!p->ended || p->owed));
    p->aborted = true;
    for (unsigned i = 0; i < BODIES_TARGETS; i++) {
        if (p->pushes[i].mode != PUSH_FREE)
            push_fail(p, &p->pushes[i], true);
    }
    if (!p->ended) {
        if (p->finished)
            put_complete(p, MR_CANCELLED, 0);
        p->ended = true;
    }
    blist_remove(&p->short_link);
    release_held(p);
    put_maybe_free(p);
}

struct body_put *bodies_recopy(struct bodies *b, struct mr_id id, body_put_cb cb, void *arg)
{
    struct body_put *p = find_put(b, id);
    struct spool_info info;

    if (b->closing || (p != NULL && (!p->ended || p->owed || p->inflight > 0 || p->owed_pieces > 0)) ||
        !b->ops->spool_has(b->config.spool, id, &info))
        return NULL;
    p = new_put(b, id, info.stamp_ms);
    p->finished = true;
    p->local_done = true;
    p->n_pieces = info.pieces;
    p->length = info.length;
    memcpy(p->checksum, info.checksum, sizeof(p->checksum));
    if (info.pieces > 1) {
        p->costs_size = info.pieces;
        p->costs = mr_calloc(info.pieces, sizeof(*p->costs));
    }
    p->cb = cb;
    p->arg = arg;
    put_evaluate(p);
    return p;
}

/* ---- from peers, links, the clock ---- */

void put_ack(struct bodies *b, uint32_t peer, struct mr_id id, unsigned status)
{
    struct body_put *p = find_put(b, id);
    struct push *push = p != NULL ? push_of(p, peer) : NULL;

    if (p == NULL)
        return;
    if (status == 0) {
        if (!p->finished || p->aborted)
            return; /* says more than it can know */
        p->acked |= node_bit(peer);
        if (push != NULL)
            push_end(p, push);
    } else if (push == NULL) {
        return;
    } else if (status == BODY_ACK_PIECE) {
        if (push->answered >= push->sent || push->answered >= p->costs_size)
            return; /* of an earlier push */
        push_credit(p, push, p->costs[push->answered++]);
        push->late = false;
        if (push->mode == PUSH_RESEND)
            push_resend(p, push);
    } else {
        char text[MR_ID_TEXT + 1];

        log_event(LOG_WARN, "body_refused", LOG_S("id", mr_id_format(id, text)), LOG_N("peer", peer),
                  LOG_S("error", status < BODY_ACK_PIECE ? mr_strerror(-(int)status) : "unknown error"));
        push_fail(p, push, false);
    }
    put_evaluate(p);
}

/* put_evaluate may free p: the next one is taken first. It never frees another put. */
#define FOR_EACH_PUT(b, p, at, next)                                                                                   \
    for (struct blist *at = (b)->put_list.next, *next;                                                                 \
         next = at->next, (p) = MR_CONTAINER(at, struct body_put, link), at != &(b)->put_list; at = next)

void put_link_down(struct bodies *b, uint32_t peer)
{
    struct body_put *p;

    FOR_EACH_PUT(b, p, at, next)
    {
        struct push *push = push_of(p, peer);

        if (push == NULL)
            continue;
        push_fail(p, push, false);
        put_evaluate(p);
    }
}

void put_retry_short(struct bodies *b, bool forget_failures)
{
    for (struct blist *at = b->short_puts.next, *next; at != &b->short_puts; at = next) {
        struct body_put *p = MR_CONTAINER(at, struct body_put, short_link);

        next = at->next;
        if (forget_failures)
            p->failed = 0;
        put_evaluate(p);
    }
}

void put_recount(struct bodies *b)
{
    struct body_put *p;

    FOR_EACH_PUT(b, p, at, next)
    {
        put_evaluate(p);
    }
}

void put_timeouts(struct bodies *b)
{
    struct body_put *p;

    FOR_EACH_PUT(b, p, at, next)
    {
        bool changed = false;

        for (unsigned i = 0; i < BODIES_TARGETS; i++) {
            struct push *push = &p->pushes[i];
            uint64_t silent = b->now_ns - push->since_ns;

            if (push->mode == PUSH_FREE || push->unacked == 0)
                continue;
            if (silent >= BODIES_LOST_MS * 1000000ULL) {
                push_fail(p, push, !p->ended);
                changed = true;
            } else if (silent >= BODIES_LATE_MS * 1000000ULL && !push->late) {
                push->late = true;
                b->stats.skipped_peers++;
                changed = true;
            }
        }
        if (changed)
            put_evaluate(p);
    }
}

void put_close(struct bodies *b)
{
    struct body_put *p;

    FOR_EACH_PUT(b, p, at, next)
    {
        if (!p->aborted && (!p->ended || p->owed)) {
            bodies_abort(p);
            continue;
        }
        for (unsigned i = 0; i < BODIES_TARGETS; i++) {
            if (p->pushes[i].mode != PUSH_FREE)
                push_end(p, &p->pushes[i]);
        }
        put_maybe_free(p);
    }
}
