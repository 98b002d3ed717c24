/* core_full.c - the queue's largest size (PROTOCOL.md 4.9). raft_uv cannot store a snapshot of 2 GiB: all nodes would
 * stop at the same entry and never come back, with all mail. So the leader proposes nothing that may make the state too
 * large, by what the state is now (state_bytes, O(1)) and what is on its way into it.
 *
 * Mail of clients goes to max_state; delay warnings a twentieth beyond, bounces and replies of next hops a tenth, what
 * ends messages by a DSN a fifth; and a DSN that takes no more than what it ends, always. Nothing else grows but by
 * what is limited in itself: sites, parts, assigned attempts, and ids that are remembered for ten minutes. Each node
 * works out from its own state whether clients are to be let in, a little below max_state, so that hardly a body comes
 * in vain. */
#include "cluster/core.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "raft/replica_io.h"

#include <stdlib.h>

enum {
    FULL_SHARE = 64,       /* of max_state: so near to it the node refuses mail */
    FULL_ENDED_SHARE = 32, /* and takes it again below this */
    WARNING_SHARE = 20,    /* beyond max_state: warnings only add, */
    DSN_SHARE = 10,        /* bounces mostly replace, */
    EXPIRY_SHARE = 5,      /* and expiries end messages */
    BEYOND = 192 << 20,    /* what is limited in itself may add to it */
};
_Static_assert(CLUSTER_MAX_STATE + CLUSTER_MAX_STATE / EXPIRY_SHARE + BEYOND < REPLICA_SNAPSHOT_MOST,
               "more than libraft can store");

static uint64_t grown(const struct cluster *c)
{
    return state_bytes(c->state) + c->lead.growing;
}

void core_full_tick(struct cluster *c)
{
    uint64_t max = c->config.max_state, bytes = state_bytes(c->state);
    bool full = bytes >= max - max / (c->full ? FULL_ENDED_SHARE : FULL_SHARE);

    if (full == c->full)
        return;
    c->full = full;
    log_event(LOG_WARN, full ? "queue_full" : "queue_full_ended", LOG_N("bytes", bytes), LOG_N("max", max));
}

/* A cancel of the same id: if an earlier copy of the enqueue got in, the cancel says so, and the client reads 250; else
 * it sees to it that no later copy gets in. A plain no could be wrong either way (PROTOCOL.md 4.1). */
static void make_cancel(Mailraft__Op *op)
{
    Mailraft__Enqueue *e = op->enqueue;
    Mailraft__Cancel *cancel = mr_malloc(sizeof(*cancel));

    mailraft__cancel__init(cancel);
    cancel->id = e->id;
    e->id = (ProtobufCBinaryData){0, NULL};
    cancel->stamp_ms = e->body != NULL ? e->body->stamp_ms : 0;
    mailraft__enqueue__free_unpacked(e, NULL);
    op->kind_case = MAILRAFT__OP__KIND_CANCEL;
    op->cancel = cancel;
}

static uint64_t reply_bytes(const Mailraft__Outcome *o)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < o->n_results; i++)
        bytes += o->results[i]->reply.len < STATE_MAX_REPLY ? o->results[i]->reply.len : STATE_MAX_REPLY;
    return bytes;
}

static enum core_growth admit_enqueue(struct cluster *c, Mailraft__Op *op, uint64_t *bytes)
{
    *bytes = state_enqueue_bytes(op->enqueue);
    if (grown(c) + *bytes <= c->config.max_state)
        return CORE_GROWS;
    *bytes = 0;
    make_cancel(op);
    c->full_refused++;
    return CORE_CANCELS;
}

/* What a message takes of state_bytes, or one of its deliveries; 0: it is not in the queue. */
static uint64_t bytes_of(const struct cluster *c, ProtobufCBinaryData id, bool whole)
{
    struct message_view view;
    struct mr_id key;

    if (mr_id_from_bytes(id.data, id.len, &key) != 0)
        return 0;
    const struct state_message *m = state_find(c->state, key);
    if (m == NULL)
        return 0;
    state_message_view(m, &view);
    return state_message_bytes(m) / (whole ? 1 : view.n_deliveries);
}

static bool is_room(const struct cluster *c, uint64_t bytes, unsigned share)
{
    return grown(c) + bytes <= c->config.max_state + c->config.max_state / share;
}

/* What became of the recipients counts, whatever is said of it. A bounce that takes no more than the delivery that it
 * ends makes nothing larger: so a queue that is far too large, after its limit was lowered, gets smaller. */
static enum core_growth admit_outcome(struct cluster *c, const Mailraft__Outcome *o, uint64_t *bytes)
{
    *bytes = reply_bytes(o) + (o->dsn != NULL ? state_enqueue_bytes(o->dsn) : 0);
    if (is_room(c, *bytes, DSN_SHARE))
        return CORE_GROWS;
    if (o->dsn != NULL && *bytes <= bytes_of(c, o->id, false))
        return CORE_GROWS;
    if (o->dsn != NULL)
        return CORE_REFUSES; /* it is said again without (PROTOCOL.md 7.2) */
    for (size_t i = 0; i < o->n_results; i++)
        o->results[i]->reply.len = 0;
    *bytes = 0;
    return CORE_GROWS;
}

/* A warning for which there is no room is left out: it would come back each minute, with a body each time. */
static enum core_growth admit_notice(struct cluster *c, Mailraft__Notice *n, uint64_t *bytes)
{
    *bytes = n->dsn != NULL ? state_enqueue_bytes(n->dsn) : 0;
    if (n->dsn == NULL)
        return CORE_GROWS;
    if (n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE)
        return is_room(c, *bytes, EXPIRY_SHARE) || *bytes <= bytes_of(c, n->id, true)
                   ? CORE_GROWS
                   : CORE_REFUSES; /* its node gives it back, for a minute (7.3) */
    if (is_room(c, *bytes, WARNING_SHARE))
        return CORE_GROWS;
    mailraft__enqueue__free_unpacked(n->dsn, NULL);
    n->dsn = NULL;
    *bytes = 0;
    c->full_warnings++;
    return CORE_GROWS;
}

enum core_growth core_full_admit(struct cluster *c, Mailraft__Op *op, uint64_t *bytes)
{
    *bytes = 0;
    switch (op->kind_case) {
    case MAILRAFT__OP__KIND_ENQUEUE:
        return admit_enqueue(c, op, bytes);
    case MAILRAFT__OP__KIND_OUTCOME:
        return admit_outcome(c, op->outcome, bytes);
    case MAILRAFT__OP__KIND_NOTICE:
        return admit_notice(c, op->notice, bytes);
    default:
        return CORE_GROWS;
    }
}

enum apply_result core_full_reason(enum apply_result of_cancel)
{
    switch (of_cancel) {
    case APPLIED:
        return APPLY_FULL;
    case APPLY_TERMINAL:
        return APPLY_DUPLICATE;
    default:
        return of_cancel;
    }
}
