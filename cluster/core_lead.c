/* The leader's duties.
 *
 * Happy path of an operation: core_lead_stage -> (end of the loop's turn) core_lead_flush: fill-in, one entry for all
 * that came -> replica_propose -> applied (core_lead_applied keeps the results) -> batch_done answers everybody.
 * Batching adapts by itself: while CORE_INFLIGHT entries are on their way, what arrives is gathered for the next. What
 * ends or moves deliveries makes no entry of its own while another is on its way or mail is coming in: it goes with the
 * next new message, else when the loop's tick finds none. An entry costs every voter a write to its disk and a message
 * or two, an outcome in a batch next to nothing.
 * Failure: leadership lost: what is staged is answered "not leader", what is in flight "unknown"; the askers propose
 * again to the next leader (every operation is idempotent). */
#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum {
    PART_BYTES = 48 * 1024,
    MAX_FILL_IN = 64, /* deliveries of a message that are assigned with it */
};

/* ---- answers ---- */

static void answer(struct cluster *c, uint32_t peer, uint64_t request, enum proposal_fate fate,
                   enum apply_result reason, uint64_t index)
{
    if (request == 0)
        return;
    if (peer == 0) {
        proposals_fate(c->proposals, request, fate, reason);
        return;
    }
    Mailraft__ProposeReply reply = MAILRAFT__PROPOSE_REPLY__INIT;
    reply.request = request;
    reply.fate = fate;
    reply.reason = reason;
    reply.index = index;
    /* Lost with its connection: the asker proposes again. */
    (void)links_send_message(c->links, peer, LINK_CONTROL, FRAME_PROPOSE_REPLY, &reply.base, NULL, 0);
}

static void free_staged(struct cluster *c, struct core_staged *s)
{
    c->lead.growing -= s->growth;
    mailraft__op__free_unpacked(s->op, NULL);
    free(s);
}

/* ---- staging ---- */

/* Does a client wait for it, or the cluster itself? The others free a slot or use one, which a few milliseconds more or
 * less do not change: deliveries queue in slots. */
static bool is_urgent(const Mailraft__Op *op)
{
    switch (op->kind_case) {
    case MAILRAFT__OP__KIND_ASSIGN:
    case MAILRAFT__OP__KIND_OUTCOME:
    case MAILRAFT__OP__KIND_RELEASE:
    case MAILRAFT__OP__KIND_NOTICE:
    case MAILRAFT__OP__KIND_ASSIGN_NOTICE:
    case MAILRAFT__OP__KIND_SITE_MEMORY:
        return false;
    default:
        return true;
    }
}

static struct core_staged *append_staged(struct cluster *c, Mailraft__Op *op, size_t size, uint32_t peer,
                                         uint64_t request)
{
    struct core_staged *s = mr_calloc(1, sizeof(*s));
    s->op = op;
    s->size = size;
    s->peer = peer;
    s->request = request;
    s->urgent = is_urgent(op);
    *c->lead.staged_tail = s;
    c->lead.staged_tail = &s->next;
    c->lead.n_staged++;
    c->lead.n_urgent += s->urgent;
    return s;
}

/* It will make the state grow by so many bytes, until that is seen there. */
static void set_growth(struct cluster *c, struct core_staged *s, uint64_t growth)
{
    s->growth = growth;
    c->lead.growing += growth;
}

/* What an operation may grow by when it is filled in: three times, and an assignment for each delivery. */
static size_t filled_size(const Mailraft__Op *op)
{
    enum { FRAME = 8, TIMES = 40, ASSIGNMENT = 48 };
    size_t size = mailraft__op__get_packed_size(op) + FRAME;
    if (op->kind_case == MAILRAFT__OP__KIND_ENQUEUE) {
        size_t n = op->enqueue->n_next_hops;
        return size + TIMES + ASSIGNMENT * (n < MAX_FILL_IN ? n : MAX_FILL_IN);
    }
    if (op->kind_case == MAILRAFT__OP__KIND_OUTCOME || op->kind_case == MAILRAFT__OP__KIND_NOTICE)
        return size + TIMES;
    return size;
}

static Mailraft__Op *new_op(Mailraft__Op__KindCase kind, ProtobufCMessage *message)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = kind;
    op->enqueue = (Mailraft__Enqueue *)message; /* one of a union of pointers */
    return op;
}

void core_lead_stage_own(struct cluster *c, Mailraft__Op__KindCase kind, ProtobufCMessage *message)
{
    Mailraft__Op *op = new_op(kind, message);
    (void)append_staged(c, op, mailraft__op__get_packed_size(op) + 8, 0, 0);
}

/* The queue's own times count from the release of held mail (RFC 4865); DELIVERBY's (RFC 2852) from its arrival. Who
 * asks to be told of a delay at a time is told then, and not at the queue's own; an entry of RETURN ends the message no
 * later. NOTIFY with a time of nought: the one before us has told of it. */
static void fill_times(Mailraft__Enqueue *e, const Mailraft__Rules *rules)
{
    uint64_t released = e->arrived_ms + e->hold_for_ms;
    uint64_t by = e->arrived_ms + e->deliver_by_for_ms;

    e->warn_ms = rules->warn_after_for_ms == 0 ? 0 : released + rules->warn_after_for_ms;
    e->expire_ms = released + rules->expire_after_for_ms;
    if (e->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY)
        e->warn_ms = e->deliver_by_for_ms != 0 ? by : 0;
    else if (e->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN && by < e->expire_ms)
        e->expire_ms = by;
}

/* counts[i]: recipients of the delivery i, of n. */
static void count_recipients(const Mailraft__Enqueue *e, uint32_t *counts, size_t n)
{
    memset(counts, 0, n * sizeof(*counts));
    for (size_t i = 0; i < e->n_recipients; i++)
        if (e->recipients[i]->delivery < n)
            counts[e->recipients[i]->delivery]++;
}

/* Times and first assignments of a new message: what only the leader knows (PROTOCOL.md 1.2). */
static void fill_enqueue(struct cluster *c, Mailraft__Enqueue *e, uint64_t stamp, bool assign)
{
    const Mailraft__Rules *rules = state_rules(c->state);
    e->arrived_ms = stamp;
    fill_times(e, rules);
    for (size_t i = 0; i < e->n_assign; i++)
        mailraft__assignment__free_unpacked(e->assign[i], NULL);
    free(e->assign);
    e->assign = NULL;
    e->n_assign = 0;
    if (!assign || e->n_next_hops > MAX_FILL_IN || e->hold_for_ms != 0)
        return; /* the scheduler's step spreads the many */
    uint64_t now = core_now(c);
    struct mr_id id;
    if (mr_id_from_bytes(e->id.data, e->id.len, &id) != 0)
        return;
    uint32_t recipients[MAX_FILL_IN];
    count_recipients(e, recipients, e->n_next_hops);
    for (uint32_t i = 0; i < e->n_next_hops; i++) {
        Mailraft__Assignment grant = MAILRAFT__ASSIGNMENT__INIT;
        if (!sched_grant(c->sched, id, i, e->next_hops[i], e->acceptor, now, &grant))
            continue;
        grant.delivery = i;
        grant.attempt = 1;
        grant.deadline_for_ms =
            sched_deadline_for_ms(e->body != NULL ? e->body->length : 0, recipients[i], stamp, e->expire_ms);
        Mailraft__Assignment *copy = mr_malloc(sizeof(*copy));
        *copy = grant;
        e->assign = mr_realloc(e->assign, (e->n_assign + 1) * sizeof(*e->assign));
        e->assign[e->n_assign++] = copy;
    }
}

/* An enqueue over the size of an entry goes as parts (4.5). Its deliveries begin ready. */
static void stage_parts(struct cluster *c, Mailraft__Op *op, uint32_t peer, uint64_t request, uint64_t growth)
{
    fill_enqueue(c, op->enqueue, committed_time_stamp(&c->ctime, core_now(c)), false);
    size_t size = mailraft__enqueue__get_packed_size(op->enqueue);
    uint8_t *packed = mr_malloc(size);
    mailraft__enqueue__pack(op->enqueue, packed);
    uint32_t parts = (uint32_t)((size + PART_BYTES - 1) / PART_BYTES);
    for (uint32_t i = 0; i < parts; i++) {
        size_t from = (size_t)i * PART_BYTES;
        size_t len = size - from < PART_BYTES ? size - from : PART_BYTES;
        Mailraft__EnqueuePart *part = mr_malloc(sizeof(*part));
        mailraft__enqueue_part__init(part);
        part->id.data = mr_memdup(op->enqueue->id.data, op->enqueue->id.len);
        part->id.len = op->enqueue->id.len;
        part->part = i;
        part->parts = parts;
        part->data.data = mr_memdup(packed + from, len);
        part->data.len = len;
        bool last = i + 1 == parts;
        set_growth(
            c,
            append_staged(c, new_op(MAILRAFT__OP__KIND_ENQUEUE_PART, &part->base), len + 64, peer, last ? request : 0),
            last ? growth : 0);
    }
    free(packed);
    mailraft__op__free_unpacked(op, NULL);
}

/* ---- what members of version 1 do not know (PROTOCOL.md 4.6) ---- */

static bool enqueue_known(Mailraft__Enqueue *e)
{
    if (e == NULL)
        return true;
    e->priority = 0; /* it goes all the same, in no hurry; and is charged to nobody */
    if (e->user[0] != '\0')
        e->user[0] = '\0';
    return e->hold_for_ms == 0 && e->deliver_by_for_ms == 0 && e->deliver_by == 0 && !e->deliver_by_trace &&
           (e->flags & (MESSAGE_BINARYMIME | MESSAGE_REQUIRETLS)) == 0;
}

static bool known_to_all(const struct cluster *c, const Mailraft__Op *op)
{
    if (state_version(c->state) >= 2)
        return true;
    switch (op->kind_case) {
    case MAILRAFT__OP__KIND_ENQUEUE:
        return enqueue_known(op->enqueue);
    case MAILRAFT__OP__KIND_OUTCOME:
        return enqueue_known(op->outcome->dsn);
    case MAILRAFT__OP__KIND_NOTICE:
        return enqueue_known(op->notice->dsn);
    default:
        return op->kind_case != MAILRAFT__OP__KIND_SITE_MEMORY;
    }
}

int core_lead_stage(struct cluster *c, Mailraft__Op *op, uint32_t peer, uint64_t request)
{
    if (!c->lead.leading || c->lead.first_index == 0)
        return c->lead.leading ? MR_BUSY : MR_NOTLEADER;
    if (c->lead.n_staged >= CORE_MAX_STAGED)
        return MR_BUSY;
    /* Rules come before the first message: without them nothing could be filled in. */
    bool mail = op->kind_case == MAILRAFT__OP__KIND_ENQUEUE || op->kind_case == MAILRAFT__OP__KIND_OUTCOME ||
                op->kind_case == MAILRAFT__OP__KIND_NOTICE;
    if (mail && state_rules(c->state) == NULL)
        return MR_BUSY;
    if (!known_to_all(c, op)) {
        answer(c, peer, request, FATE_APPLIED, APPLY_VERSION, 0);
        mailraft__op__free_unpacked(op, NULL);
        return 0;
    }
    uint64_t growth;
    enum core_growth fate = core_full_admit(c, op, &growth);
    if (fate == CORE_REFUSES) {
        answer(c, peer, request, FATE_APPLIED, APPLY_FULL, 0);
        mailraft__op__free_unpacked(op, NULL);
        return 0;
    }
    size_t size = mailraft__op__get_packed_size(op);
    if (size > CORE_MAX_BATCH && op->kind_case == MAILRAFT__OP__KIND_ENQUEUE) {
        stage_parts(c, op, peer, request, growth);
        return 0;
    }
    if (size > CORE_MAX_BATCH) {
        answer(c, peer, request, FATE_APPLIED, APPLY_INVALID, 0);
        mailraft__op__free_unpacked(op, NULL);
        return 0;
    }
    struct core_staged *s = append_staged(c, op, filled_size(op), peer, request);
    set_growth(c, s, growth);
    s->refused = fate == CORE_CANCELS;
    return 0;
}

/* ---- one entry ---- */

static void batch_done(void *arg, int status, uint64_t index, void *result);

/* Takes staged operations into one entry and proposes it; an empty one too, which only moves committed time on. */
static void propose_batch(struct cluster *c)
{
    struct core_batch *b = mr_calloc(1, sizeof(*b));
    Mailraft__Op *ops[CORE_MAX_BATCH_OPS];
    Mailraft__Batch batch = MAILRAFT__BATCH__INIT;
    struct core_staged **tail = &b->ops;
    size_t bytes = 0, n = 0;
    /* A term's first own entry moves time nowhere: what came before it is not in the state yet, after a restart of all
     * nothing is, and then this node's own clock alone would say what time it is (PROTOCOL.md 1.1). */
    uint64_t stamp = c->lead.first_index == 0 && !MR_MUTANT(MUTANT_OWN_CLOCK)
                         ? state_now_ms(c->state)
                         : committed_time_stamp(&c->ctime, core_now(c));
    bool may_grant = c->lead.first_index != 0 && leader_lease_may_grant(&c->leader_lease, core_now(c));

    while (c->lead.staged != NULL && n < CORE_MAX_BATCH_OPS) {
        struct core_staged *s = c->lead.staged;
        if (n > 0 && bytes + s->size > CORE_MAX_BATCH)
            break;
        c->lead.staged = s->next;
        s->next = NULL;
        c->lead.n_staged--;
        c->lead.n_urgent -= s->urgent;
        if (s->op->kind_case == MAILRAFT__OP__KIND_ENQUEUE)
            fill_enqueue(c, s->op->enqueue, stamp, may_grant);
        else if (s->op->kind_case == MAILRAFT__OP__KIND_OUTCOME && s->op->outcome->dsn != NULL)
            fill_enqueue(c, s->op->outcome->dsn, stamp, false);
        else if (s->op->kind_case == MAILRAFT__OP__KIND_NOTICE && s->op->notice->dsn != NULL)
            fill_enqueue(c, s->op->notice->dsn, stamp, false);
        *tail = s;
        tail = &s->next;
        ops[n++] = s->op;
        bytes += s->size;
    }
    if (c->lead.staged == NULL)
        c->lead.staged_tail = &c->lead.staged;

    batch.stamp_ms = stamp;
    batch.term = c->term;
    batch.ops = ops;
    batch.n_ops = n;
    size_t size = mailraft__batch__get_packed_size(&batch);
    uint8_t *packed = mr_malloc(size);
    mailraft__batch__pack(&batch, packed);
    b->c = c;
    b->term = c->lead.term;
    b->results = mr_calloc(n > 0 ? n : 1, 1);
    b->n_results = n;
    *c->lead.batches_tail = b;
    c->lead.batches_tail = &b->next;
    c->lead.n_batches++;
    int rc = replica_propose(c->replica, packed, size, batch_done, b);
    free(packed);
    if (rc == MR_LIMIT) /* a bug of the sums above: what is in it would come back for ever */
        mr_panic("an entry of %zu operations has %zu bytes", n, size);
    if (rc != 0) {
        batch_done(b, rc, 0, NULL);
        return;
    }
    b->index = replica_last(c->replica);
    c->batches_total++;
    c->batched_ops_total += n;
}

static void batch_done(void *arg, int status, uint64_t index, void *result)
{
    struct core_batch *b = arg;
    struct cluster *c = b->c;
    (void)result;

    struct core_batch **link = &c->lead.batches;
    while (*link != b)
        link = &(*link)->next;
    *link = b->next;
    if (c->lead.batches_tail == &b->next)
        c->lead.batches_tail = link;
    c->lead.n_batches--;

    /* Results begin as 0, which is APPLIED: without those of its application a 250 would be said for what may have been
     * refused. No way to this is known. */
    if (status == 0 && !b->recorded)
        status = MR_UNKNOWN;
    enum proposal_fate fate = status == 0                                 ? FATE_APPLIED
                              : status == MR_UNKNOWN                      ? FATE_UNKNOWN
                              : status == MR_BUSY || status == MR_NOSPACE ? FATE_BUSY
                                                                          : FATE_NOT_LEADER;
    size_t i = 0;
    for (struct core_staged *s = b->ops, *next; s != NULL; s = next, i++) {
        next = s->next;
        /* With an unknown fate grants stay held until sched_unlead. */
        bool settled = c->lead.leading && b->term == c->lead.term && status != MR_UNKNOWN;
        if (settled)
            sched_settled(c->sched, s->op, core_now(c));
        /* Without effect, or never proposed (a transfer, a slow disk): it may be declared down again. */
        if (settled && s->op->kind_case == MAILRAFT__OP__KIND_NODE_DOWN && (status != 0 || b->results[i] != APPLIED))
            leader_lease_pardon(&c->leader_lease, s->op->node_down->node);
        enum apply_result reason = status == 0 ? (enum apply_result)b->results[i] : APPLIED;
        answer(c, s->peer, s->request, fate, status == 0 && s->refused ? core_full_reason(reason) : reason, index);
        free_staged(c, s);
    }
    free(b->results);
    free(b);
}

void core_lead_applied(struct cluster *c, uint64_t index, const uint8_t *results, size_t n)
{
    struct core_batch *b = c->lead.batches;
    while (b != NULL && b->index != index)
        b = b->next;
    committed_time_applied(&c->ctime, core_now(c), state_now_ms(c->state));
    if (b == NULL || b->term != c->lead.term)
        return;
    memcpy(b->results, results, n < b->n_results ? n : b->n_results);
    b->recorded = true;
    if (c->lead.first_index == 0) {
        c->lead.first_index = index;
        /* Only now is everything of earlier terms in the state. */
        committed_time_lead(&c->ctime, core_now(c), state_now_ms(c->state), mr_wall_ms(c->clock), core_voters(c));
        leader_lease_started(&c->leader_lease);
        leader_lease_voters(&c->leader_lease, core_voters(c));
        sched_lead(c->sched, core_now(c), index);
    }
    c->lead.again_ns = 0;
}

/* ---- scheduling ---- */

static void schedule(struct cluster *c, uint64_t now)
{
    Mailraft__Op *ops[SCHED_MAX_ASSIGN];
    size_t room = c->lead.n_staged < CORE_MAX_STAGED ? CORE_MAX_STAGED - c->lead.n_staged : 0;
    if (room == 0 || c->lead.first_index == 0 || state_rules(c->state) == NULL || now < c->lead.again_ns ||
        !leader_lease_may_grant(&c->leader_lease, now))
        return;
    size_t n = sched_step(c->sched, now, ops, room < SCHED_MAX_ASSIGN ? room : SCHED_MAX_ASSIGN, &c->lead.again_ns);
    for (size_t i = 0; i < n; i++)
        (void)append_staged(c, ops[i], mailraft__op__get_packed_size(ops[i]) + 8, 0, 0);
    if (n > 0)
        c->lead.again_ns = now; /* there may be more; look again when these are on their way */
}

/* So many entries may be on their way for the next one to be proposed now. */
static unsigned may_fly(struct cluster *c, uint64_t now)
{
    if (c->lead.n_urgent > 0)
        c->lead.urgent_ns = now;
    if (c->lead.n_urgent > 0 || c->lead.n_staged >= CORE_UNHURRIED)
        return CORE_INFLIGHT;
    return now - c->lead.urgent_ns < CORE_COMPANY_MS * MR_NS_PER_MS ? 0 : 1;
}

void core_lead_flush(struct cluster *c)
{
    uint64_t now = core_now(c);
    if (c->lead.first_index != 0 && c->lead.n_batches < CORE_INFLIGHT)
        schedule(c, now);
    while (c->lead.leading && c->lead.staged != NULL && c->lead.n_batches < may_fly(c, now))
        propose_batch(c);
}

/* ---- heartbeats of nodes, this one's too ---- */

static void tell_behind(struct cluster *c, uint32_t node, const Mailraft__Heartbeat *hb, bool follows)
{
    bool *behind = &c->lead.nodes[node].behind;
    if (*behind != follows)
        return;
    *behind = !follows;
    if (follows)
        log_event(LOG_INFO, "node_caught_up", LOG_N("raft_id", node), LOG_N("applied", hb->applied));
    else
        log_event(LOG_WARN, "node_behind", LOG_N("raft_id", node), LOG_N("applied", hb->applied),
                  LOG_N("commit", replica_commit(c->replica)));
}

void core_lead_heartbeat(struct cluster *c, uint32_t node, const Mailraft__Heartbeat *hb)
{
    struct node_view view;
    uint64_t now = core_now(c);
    bool known = state_node_by_id(c->state, node, &view);
    bool up = known && view.up && view.incarnation == hb->incarnation;

    if (node >= LEASE_MAX_NODES)
        return;
    uint64_t commit = replica_commit(c->replica);
    bool follows = !up || leader_lease_follows(&c->leader_lease, now, node, hb->applied, commit);
    if (up)
        tell_behind(c, node, hb, follows);
    else
        c->lead.nodes[node].behind = false; /* it was declared down, and will say when it is up */
    /* A voter's echo counts whoever it is; but a process that is not the one in force does not keep that one's
     * assignments alive: a restarted one that cannot announce itself, a refused copy (5.3, 5.5); nor does one that
     * applies nothing any more. */
    if (known && view.up && (!up || !follows))
        leader_lease_echo(&c->leader_lease, now, node, hb->term, hb->echo_ns);
    else
        leader_lease_heard(&c->leader_lease, now, node, hb->term, hb->echo_ns);
    committed_time_report(&c->ctime, now, node, hb->wall_ms);
    c->lead.nodes[node].has_hash = hb->rules_hash.len == sizeof(c->lead.nodes[node].rules_hash);
    if (c->lead.nodes[node].has_hash)
        memcpy(c->lead.nodes[node].rules_hash, hb->rules_hash.data, hb->rules_hash.len);
    c->lead.nodes[node].low_disk = hb->low_disk;
    c->lead.nodes[node].draining = hb->draining;
    c->lead.nodes[node].heard_ns = now;
    c->lead.nodes[node].applied = hb->applied;
    c->lead.nodes[node].bodies_missing = hb->bodies_missing;
    c->lead.nodes[node].version = hb->version;
    c->lead.nodes[node].incarnation = hb->incarnation;
    if (up && c->lead.first_index != 0) {
        sched_heartbeat(c->sched, node, hb, now);
        c->lead.again_ns = 0;
    }

    Mailraft__HeartbeatReply reply = MAILRAFT__HEARTBEAT_REPLY__INIT;
    reply.sent_ns = hb->sent_ns;
    reply.term = c->term;
    reply.incarnation = known ? view.incarnation : 0;
    reply.commit = commit;
    reply.stamp_ns = now;
    reply.lease = up && leader_lease_may_answer(&c->leader_lease, now, node);
    reply.refused = (char *)(uintptr_t)(reply.lease ? ""
                                        : !known    ? "not a member yet"
                                        : !up       ? "declared down, or another incarnation is in force"
                                        : !follows  ? "it has not applied what was committed long ago"
                                                    : "the leader has no quorum");
    if (node == c->self)
        node_lease_own(&c->lease, &c->leader_lease, now, reply.commit, up);
    else
        (void)links_send_message(c->links, node, LINK_CONTROL, FRAME_HEARTBEAT_REPLY, &reply.base, NULL, 0);
}

/* ---- the tick ---- */

/* Something falls due; or nothing has come for so long that the applied states' time, which new bodies are stamped
 * with, falls behind: after the grace period every enqueue would be refused (3.4), and no orphan be collected. */
static bool time_wants_entry(struct cluster *c, uint64_t now)
{
    uint64_t stamp = committed_time_stamp(&c->ctime, now);
    return state_next_due_ms(c->state) <= stamp || stamp - state_now_ms(c->state) >= CORE_IDLE_ENTRY_MS;
}

void core_lead_tick(struct cluster *c, uint64_t now)
{
    leader_lease_tick(&c->leader_lease, now);
    if (c->lead.first_index == 0) {
        if (c->lead.n_batches == 0)
            propose_batch(c);
        return;
    }
    core_keep_tick(c, now);
    if (c->lead.staged == NULL && c->lead.n_batches == 0 && time_wants_entry(c, now))
        propose_batch(c);
}

/* ---- begin and end ---- */

uint64_t core_voters(const struct cluster *c)
{
    uint64_t voters = state_voters(c->state);
    /* Before the Form operation was applied the state knows no member: those of the formation. */
    if (voters == 0)
        for (unsigned i = 0; i < identity_members(c->identity); i++)
            voters |= 1ULL << identity_member(c->identity, i)->node;
    return voters;
}

void core_lead_begin(struct cluster *c)
{
    uint64_t now = core_now(c);
    mr_assert(c->lead.staged == NULL);
    c->lead.leading = true;
    c->lead.term = c->term;
    c->lead.first_index = 0;
    c->lead.again_ns = 0;
    c->lead.housekeeping_ns = 0;
    c->lead.since_ns = now;
    c->lead.rules_wanted = false;
    memset(c->lead.nodes, 0, sizeof(c->lead.nodes));
    committed_time_lead(&c->ctime, now, state_now_ms(c->state), mr_wall_ms(c->clock), core_voters(c));
    leader_lease_lead(&c->leader_lease, now, c->term, core_voters(c));
    log_event(LOG_INFO, "leading", LOG_N("term", c->term));
    propose_batch(c); /* this term's first own entry */
}

void core_lead_end(struct cluster *c)
{
    c->lead.leading = false;
    leader_lease_unlead(&c->leader_lease);
    sched_unlead(c->sched);
    struct core_staged *s = c->lead.staged;
    c->lead.staged = NULL;
    c->lead.staged_tail = &c->lead.staged;
    c->lead.n_staged = 0;
    c->lead.n_urgent = 0;
    for (struct core_staged *next; s != NULL; s = next) {
        next = s->next;
        answer(c, s->peer, s->request, FATE_NOT_LEADER, APPLIED, 0);
        free_staged(c, s);
    }
    log_event(LOG_INFO, "leading_ended", LOG_N("term", c->lead.term));
}
