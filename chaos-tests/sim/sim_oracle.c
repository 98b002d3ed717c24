/* The oracle: what the cluster has decided, as told by the first node that applies each index; and whether it may.
 *
 * state_open, state_apply, state_restore, state_snapshot, state_outcome, state_cancel, state_node_up and
 * state_node_down are wrapped by the linker: every call of the program's passes through here. Only the first
 * application of an index feeds the oracle; all others, on whatever node and after whatever restart, must do the same
 * to the same state (invariant 7). */
#include "chaos-tests/sim/sim_world.h"
#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct decided {
    uint64_t entry, counts; /* hashes of the entry's bytes, of cheap sums over the state behind it */
    uint8_t hash[16];       /* of the state behind it */
    bool hashed;
    unsigned node;
};
struct watch {
    unsigned node;
    struct state_observer inner;
};
enum context { IN_ENTRY, IN_OUTCOME, IN_UP, IN_DOWN };

static struct {
    struct decided *entries; /* by index */
    uint64_t last, room;
    bool live; /* the first application runs */
    unsigned node;
    enum context context;
    const Mailraft__Outcome *outcome;
    struct message *owing[256]; /* recipients of these failed or expired in this entry: their senders are to be told */
    unsigned n_owing;
} oracle;

uint64_t oracle_index(void)
{
    return oracle.last;
}

/* ---- invariant 7 ---- */

static uint64_t cheap_sums(const struct state *s)
{
    struct state_counts c;
    struct {
        uint64_t words[20];
    } sums = {{0}};

    state_counts(s, &c);
    c.memory_bytes = 0; /* what is kept beside the state is each node's own */
    memcpy(sums.words, &c, sizeof(c));
    sums.words[18] = state_now_ms(s);
    sums.words[19] = state_next_due_ms(s);
    return XXH3_64bits(&sums, sizeof(sums));
}

static struct decided *decided_at(uint64_t index)
{
    while (index >= oracle.room) {
        uint64_t room = oracle.room == 0 ? 4096 : oracle.room * 2;
        oracle.entries = mr_realloc(oracle.entries, room * sizeof(*oracle.entries));
        memset(oracle.entries + oracle.room, 0, (room - oracle.room) * sizeof(*oracle.entries));
        oracle.room = room;
    }
    return &oracle.entries[index];
}

static void compare_hash(const struct state *s, uint64_t index, const char *when)
{
    struct decided *d = decided_at(index);
    uint8_t hash[16];

    state_hash(s, hash);
    if (d->hashed && memcmp(hash, d->hash, sizeof(hash)) != 0)
        sim_violation(7, "state at index %llu differs %s on node %u", (unsigned long long)index, when, sim_node());
    memcpy(d->hash, hash, sizeof(hash));
    d->hashed = true;
}

/* Invariant 11: committed time runs with true time. It may fall behind (a cluster without a leader), and an entry's
 * stamp is that of its proposal; but nothing makes it run ahead of the furthest that it was, but for steering and
 * clocks that run fast, which are 5% each. (A step takes a majority whose clocks agree; the plan never has one.) */
static void check_time(const struct state *s)
{
    static double ahead_ms, since_ms;
    double now_ms = (double)sim_now() / (double)MR_NS_PER_MS;
    double stamp_ms = (double)state_now_ms(s);
    double most_ms = ahead_ms + (now_ms - since_ms) * 0.12;

    if (state_now_ms(s) == 0)
        return;
    if (since_ms > 0 && stamp_ms - now_ms > most_ms + 250)
        sim_violation(11, "committed time makes a step of %.0f ms at index %llu", stamp_ms - now_ms - most_ms,
                      (unsigned long long)state_index(s));
    if (since_ms > 0 && stamp_ms - now_ms < most_ms)
        return;
    ahead_ms = stamp_ms - now_ms;
    since_ms = now_ms;
}

/* ---- what follows from what ---- */

static struct message *known(struct mr_id id)
{
    struct message *m = message_find(id);

    if (m == NULL)
        sim_violation(2, "the log speaks of a message that nobody submitted");
    return m;
}

static struct message *known_view(const struct state_message *sm, struct message_view *v)
{
    state_message_view(sm, v);
    return known(v->id);
}

static void owe(struct message *m)
{
    for (unsigned i = 0; i < oracle.n_owing; i++)
        if (oracle.owing[i] == m)
            return;
    mr_assert(oracle.n_owing < sizeof(oracle.owing) / sizeof(oracle.owing[0]));
    oracle.owing[oracle.n_owing++] = m;
}

/* Invariants 1, 6 and PROTOCOL.md 7.1: who failed or expired is told of in the same entry, once. */
static void check_owed(void)
{
    enum { NEVER = 1, FAILURE = 4 };

    for (unsigned k = 0; k < oracle.n_owing; k++) {
        const struct message *m = oracle.owing[k];
        for (unsigned i = 0; i < m->n_recipients; i++) {
            const struct recipient_log *r = &m->recipients[i];
            bool ended = r->state == RECIPIENT_FAILED || r->state == RECIPIENT_EXPIRED;
            bool wants = !m->null_sender && (r->notify == 0 || (r->notify & FAILURE)) && !(r->notify & NEVER);
            if (ended && wants && r->told == 0)
                sim_violation(1, "recipient %u of key %llu %s, and its sender is not told", i,
                              (unsigned long long)m->key, r->state == RECIPIENT_FAILED ? "failed" : "expired");
        }
    }
    oracle.n_owing = 0;
}

static void check_told(const struct message *dsn)
{
    struct message *m = dsn->about;

    if (!dsn->dsn_final)
        return;
    for (unsigned i = 0; i < dsn->n_tells; i++) {
        struct recipient_log *r = &m->recipients[dsn->tells[i]];
        if (r->told++ > 0)
            sim_violation(6, "a second final DSN for recipient %u of key %llu", dsn->tells[i],
                          (unsigned long long)m->key);
    }
    owe((struct message *)(uintptr_t)dsn->about);
}

/* A DSN that says so must be true by the end of its entry. */
static void check_told_true(const struct message *m)
{
    for (unsigned i = 0; i < m->n_recipients; i++)
        if (m->recipients[i].told > 0 && m->recipients[i].state == RECIPIENT_QUEUED)
            sim_violation(6, "a final DSN tells of recipient %u of key %llu, which is still queued", i,
                          (unsigned long long)m->key);
}

/* ---- the observer ---- */

static void on_assigned(void *arg, const struct state_message *sm, uint32_t delivery)
{
    struct watch *w = arg;

    if (oracle.live) {
        struct message_view v;
        struct delivery_view d;
        struct message *m = known_view(sm, &v);
        state_delivery_view(sm, delivery, &d);
        struct delivery_log *l = &m->deliveries[delivery];
        if (d.attempt <= l->attempt)
            sim_violation(5, "attempt %u of a delivery follows attempt %u", d.attempt, l->attempt);
        if (l->n_attempts > 0 && l->attempts[l->n_attempts - 1].ending == ENDING_NONE)
            sim_violation(5, "attempt %u is assigned while attempt %u runs", d.attempt, l->attempt);
        l->attempt = d.attempt;
        l->attempts = mr_realloc(l->attempts, (l->n_attempts + 1) * sizeof(*l->attempts));
        l->attempts[l->n_attempts++] = (struct attempt_log){.attempt = d.attempt,
                                                            .node = d.node,
                                                            .slot = d.slot,
                                                            .incarnation = d.incarnation,
                                                            .assigned_ns = sim_now()};
    }
    if (w->inner.assigned != NULL)
        w->inner.assigned(w->inner.arg, sm, delivery);
}

/* A late outcome of another attempt may end the delivery: who runs it then is not told, and may go on (5.9). */
static enum ending ending_now(uint32_t attempt)
{
    if (oracle.context == IN_OUTCOME && oracle.outcome->attempt != attempt)
        return ENDING_MESSAGE;
    return oracle.context == IN_OUTCOME ? ENDING_OUTCOME : oracle.context == IN_ENTRY ? ENDING_RELEASE : ENDING_FALL;
}

static void on_unassigned(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, uint32_t slot,
                          const char *next_hop)
{
    struct watch *w = arg;

    if (oracle.live) {
        struct message *m = known(id);
        struct attempt_log *l = message_attempt(m, delivery, attempt);
        if (l == NULL || l->ending != ENDING_NONE)
            sim_violation(5, "attempt %u of key %llu ends twice", attempt, (unsigned long long)m->key);
        l->ending = ending_now(attempt);
        l->ended_ns = sim_now();
        if (l->ending == ENDING_RELEASE && l->dot_ns != 0)
            sim_violation(5, "attempt %u of key %llu is given back after its dot", attempt, (unsigned long long)m->key);
    }
    if (w->inner.unassigned != NULL)
        w->inner.unassigned(w->inner.arg, id, delivery, attempt, node, slot, next_hop);
}

static void on_notice_assigned(void *arg, const struct state_message *m)
{
    struct watch *w = arg;

    if (w->inner.notice_assigned != NULL)
        w->inner.notice_assigned(w->inner.arg, m);
}

static void check_enqueued(const struct state_message *sm, const struct message *m, const struct message_view *v)
{
    bool same = v->n_recipients == m->n_recipients && v->n_deliveries == m->n_deliveries &&
                v->body_length == m->length && memcmp(v->body_checksum, m->checksum, sizeof(m->checksum)) == 0 &&
                (v->reverse_path[0] == 0) == m->null_sender;

    for (unsigned i = 0; i < m->n_recipients && same; i++) {
        struct recipient_view r;
        char address[64];
        state_recipient_view(sm, i, &r);
        same = strcmp(recipient_address(m, i, address), r.address) == 0 && r.notify == m->recipients[i].notify;
    }
    if (!same)
        sim_violation(2, "the message of key %llu is not as it was submitted", (unsigned long long)m->key);
}

static void on_enqueued(void *arg, const struct state_message *sm)
{
    struct watch *w = arg;

    if (oracle.live) {
        struct message_view v;
        struct message *m = known_view(sm, &v);
        check_enqueued(sm, m, &v);
        if (m->enqueued_ns != 0)
            sim_violation(4, "the message of key %llu is enqueued a second time", (unsigned long long)m->key);
        if (m->cancelled)
            sim_violation(3, "the message of key %llu is enqueued after its cancel", (unsigned long long)m->key);
        m->enqueued_ns = sim_now();
        m->enqueued_index = oracle.last + 1;
        world.accepted++;
        if (m->dsn)
            check_told(m);
    }
    if (w->inner.enqueued != NULL)
        w->inner.enqueued(w->inner.arg, sm);
}

static void check_done(struct message *m, unsigned recipient, enum recipient_state state)
{
    struct recipient_log *r = &m->recipients[recipient];

    if (r->state != RECIPIENT_QUEUED)
        sim_violation(6, "recipient %u of key %llu ends twice", recipient, (unsigned long long)m->key);
    r->state = state;
    if (state == RECIPIENT_DELIVERED && r->copies == 0)
        sim_violation(1, "recipient %u of key %llu counts as delivered, and its next hop has no copy", recipient,
                      (unsigned long long)m->key);
    if (state == RECIPIENT_FAILED && !r->refused)
        sim_violation(6, "recipient %u of key %llu counts as failed, and its next hop never refused it", recipient,
                      (unsigned long long)m->key);
    /* Invariant 11. Counted from the session's begin: the entry's stamp is that of its proposal, which may be long
     * before it is committed. A clock that runs fast moves committed time by its share (5%), and so does steering. */
    uint64_t least = world.config.expire_ms * 85 / 100 * MR_NS_PER_MS;
    if (state == RECIPIENT_EXPIRED && sim_now() + 2 * MR_NS_PER_S < m->begun_ns + least)
        sim_violation(11, "recipient %u of key %llu expires after %llu ms, the rules say %llu", recipient,
                      (unsigned long long)m->key, (unsigned long long)((sim_now() - m->enqueued_ns) / 1000000),
                      (unsigned long long)world.config.expire_ms);
    if (state == RECIPIENT_FAILED || state == RECIPIENT_EXPIRED)
        owe(m);
    if (state == RECIPIENT_DELIVERED)
        world.result->delivered++;
    else
        world.result->bounced++;
}

static void on_recipient_done(void *arg, const struct state_message *sm, uint32_t recipient)
{
    struct watch *w = arg;

    if (oracle.live) {
        struct message_view v;
        struct recipient_view r;
        struct message *m = known_view(sm, &v);
        state_recipient_view(sm, recipient, &r);
        check_done(m, recipient, r.state);
    }
    if (w->inner.recipient_done != NULL)
        w->inner.recipient_done(w->inner.arg, sm, recipient);
}

static void on_removed(void *arg, struct mr_id id)
{
    struct watch *w = arg;

    if (oracle.live) {
        struct message *m = known(id);
        for (unsigned i = 0; i < m->n_recipients; i++)
            if (m->recipients[i].state == RECIPIENT_QUEUED)
                sim_violation(6, "the message of key %llu is removed with a recipient queued",
                              (unsigned long long)m->key);
        m->finished_ns = sim_now();
        world.finished++;
    }
    if (w->inner.removed != NULL)
        w->inner.removed(w->inner.arg, id);
}

/* Invariant 5: nobody is declared down who may still send. */
static void check_fallen(const struct node_view *v)
{
    const struct world_node *n = &world.node[v->node];

    if (v->up || v->incarnation == 0 || world.config.wild_clocks || !n->open || !sim_node_alive(v->node))
        return;
    if (n->life != sim_node_life(v->node) || atomic_load(&n->cluster->incarnation) != v->incarnation)
        return;
    if (sim_node_boot_ns(v->node) < atomic_load(&n->cluster->lease_end_ns))
        sim_violation(
            5, "node %u is declared down %llu ms before its lease ends", v->node,
            (unsigned long long)((atomic_load(&n->cluster->lease_end_ns) - sim_node_boot_ns(v->node)) / MR_NS_PER_MS));
}

static void on_node_changed(void *arg, const struct node_view *v)
{
    struct watch *w = arg;

    if (oracle.live)
        check_fallen(v);
    if (w->inner.node_changed != NULL)
        w->inner.node_changed(w->inner.arg, v);
}

static void on_rules_changed(void *arg, const Mailraft__Rules *rules)
{
    struct watch *w = arg;

    if (w->inner.rules_changed != NULL)
        w->inner.rules_changed(w->inner.arg, rules);
}

static void on_late_outcome(void *arg, struct mr_id id, uint32_t recipient, uint32_t attempt, uint32_t node)
{
    struct watch *w = arg;

    if (w->inner.late_outcome != NULL)
        w->inner.late_outcome(w->inner.arg, id, recipient, attempt, node);
}

static void on_in_doubt(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, bool possibly)
{
    struct watch *w = arg;

    if (oracle.live) {
        struct message *m = message_find(id);
        struct attempt_log *l = m == NULL ? NULL : message_attempt(m, delivery, attempt);
        world.result->in_doubt++;
        if (l == NULL)
            sim_violation(2, "an attempt is in doubt that never was");
        l->doubt = true;
    }
    if (w->inner.in_doubt != NULL)
        w->inner.in_doubt(w->inner.arg, id, delivery, attempt, node, possibly);
}

static void on_outcome(void *arg, uint32_t node, const char *next_hop, bool delivered, bool unreached)
{
    struct watch *w = arg;

    if (w->inner.outcome != NULL)
        w->inner.outcome(w->inner.arg, node, next_hop, delivered, unreached);
}

/* Invariant 11, the other way round: a deferred delivery's next attempt is not before its time. Half of it, as
 * committed time may be ahead of what its stamp was made from. */
static void on_moved(void *arg, const struct state_message *sm, uint32_t delivery, enum delivery_state from,
                     enum delivery_state to)
{
    struct watch *w = arg;

    if (oracle.live) {
        struct message_view v;
        known_view(sm, &v)->deliveries[delivery].state = to;
    }
    if (w->inner.moved != NULL)
        w->inner.moved(w->inner.arg, sm, delivery, from, to);
}

/* ---- the wrapped functions ---- */

struct state *__real_state_open(const struct state_observer *observer);
struct state *__wrap_state_open(const struct state_observer *observer);
struct state *__wrap_state_open(const struct state_observer *observer)
{
    if (observer != NULL && observer->enqueued == on_enqueued)
        return __real_state_open(observer); /* by state_restore: it watches already */
    struct watch *w = mr_calloc(1, sizeof(*w));

    w->node = sim_node();
    if (observer != NULL)
        w->inner = *observer;
    struct state_observer mine = {
        .arg = w,
        .assigned = on_assigned,
        .unassigned = on_unassigned,
        .notice_assigned = on_notice_assigned,
        .enqueued = on_enqueued,
        .recipient_done = on_recipient_done,
        .removed = on_removed,
        .node_changed = on_node_changed,
        .rules_changed = on_rules_changed,
        .late_outcome = on_late_outcome,
        .in_doubt = on_in_doubt,
        .outcome = on_outcome,
        .moved = on_moved,
    };
    return __real_state_open(&mine);
}

int __real_state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results,
                       size_t *n_results);
int __wrap_state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results,
                       size_t *n_results);
int __wrap_state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results,
                       size_t *n_results)
{
    uint64_t entry = XXH3_64bits(data, len);
    bool first = index > oracle.last;

    if (!first && decided_at(index)->entry != entry)
        sim_violation(7, "index %llu holds another entry on node %u than on node %u", (unsigned long long)index,
                      sim_node(), decided_at(index)->node);
    oracle.live = first;
    oracle.context = IN_ENTRY;
    int rc = __real_state_apply(s, index, data, len, results, n_results);
    oracle.live = false;
    if (rc != 0)
        return rc;
    uint64_t sums = cheap_sums(s);
    struct decided *d = decided_at(index);
    if (first) {
        *d = (struct decided){.entry = entry, .counts = sums, .node = sim_node()};
        oracle.last = index;
        check_time(s);
        for (unsigned i = 0; i < oracle.n_owing; i++)
            check_told_true(oracle.owing[i]);
        check_owed();
    } else if (d->counts != sums) {
        sim_violation(7, "state at index %llu differs on node %u from that on node %u", (unsigned long long)index,
                      sim_node(), d->node);
    }
    if (index % world.config.hash_every == 0)
        compare_hash(s, index, "after its entry");
    if (index % 512 == 0)
        state_check(s);
    sim_trace("applied", index);
    return rc;
}

int __real_state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len);
int __wrap_state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len);
int __wrap_state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len)
{
    int rc = __real_state_restore(s, index, data, len);

    if (rc != 0)
        return rc;
    if (index > oracle.last)
        sim_violation(7, "a snapshot of index %llu, which no node has applied", (unsigned long long)index);
    state_check(s);
    compare_hash(s, index, "after its snapshot was restored");
    sim_trace("restored", index);
    return rc;
}

void __real_state_snapshot(const struct state *s, struct state_buffer **buffers, unsigned *count);
void __wrap_state_snapshot(const struct state *s, struct state_buffer **buffers, unsigned *count);
void __wrap_state_snapshot(const struct state *s, struct state_buffer **buffers, unsigned *count)
{
    compare_hash(s, state_index(s), "when a snapshot is taken");
    world.result->snapshots++;
    __real_state_snapshot(s, buffers, count);
}

/* Invariants 5 and 6: what an outcome may do. Of the running attempt everything; of an older one only `delivered`, and
 * only for who is still queued. */
enum apply_result __real_state_outcome(struct state *s, const Mailraft__Outcome *o);
enum apply_result __wrap_state_outcome(struct state *s, const Mailraft__Outcome *o);

static void expect(const struct message *m, const Mailraft__Outcome *o, bool running, bool applied,
                   const enum recipient_state *before)
{
    for (size_t i = 0; i < o->n_results; i++) {
        const Mailraft__RecipientResult *r = o->results[i];
        if (r->recipient >= m->n_recipients)
            continue;
        enum recipient_state was = before[r->recipient], is = m->recipients[r->recipient].state, want = was;
        if (was == RECIPIENT_QUEUED && r->result == MAILRAFT__RESULT__DELIVERED && applied)
            want = RECIPIENT_DELIVERED;
        if (was == RECIPIENT_QUEUED && r->result == MAILRAFT__RESULT__FAILED && running && applied)
            want = RECIPIENT_FAILED;
        if (is != want)
            sim_violation(5, "an outcome of attempt %u, %s, moves recipient %u of key %llu from %d to %d", o->attempt,
                          running ? "which runs" : "which is over", r->recipient, (unsigned long long)m->key, (int)was,
                          (int)is);
    }
}

enum apply_result __wrap_state_outcome(struct state *s, const Mailraft__Outcome *o)
{
    struct mr_id id;
    struct message *m = NULL;
    enum recipient_state before[WORLD_MAX_RECIPIENTS];
    enum context outer = oracle.context;
    bool running = false;

    if (!oracle.live)
        return __real_state_outcome(s, o);
    if (mr_id_from_bytes(o->id.data, o->id.len, &id) == 0)
        m = message_find(id);
    if (m == NULL)
        sim_violation(2, "an outcome of a message that nobody submitted");
    const struct state_message *sm = state_find(s, id);
    if (sm != NULL && o->delivery < m->n_deliveries) {
        struct delivery_view d;
        state_delivery_view(sm, o->delivery, &d);
        running = d.state == DELIVERY_ASSIGNED && d.attempt == o->attempt && d.node == o->node;
    }
    for (unsigned i = 0; i < m->n_recipients; i++)
        before[i] = m->recipients[i].state;
    oracle.context = IN_OUTCOME;
    oracle.outcome = o;
    enum apply_result r = __real_state_outcome(s, o);
    oracle.context = outer;
    expect(m, o, running, r == APPLIED, before);
    return r;
}

enum apply_result __real_state_cancel(struct state *s, const Mailraft__Cancel *c);
enum apply_result __wrap_state_cancel(struct state *s, const Mailraft__Cancel *c);
enum apply_result __wrap_state_cancel(struct state *s, const Mailraft__Cancel *c)
{
    enum apply_result r = __real_state_cancel(s, c);
    struct mr_id id;

    if (!oracle.live || r != APPLIED || mr_id_from_bytes(c->id.data, c->id.len, &id) != 0)
        return r;
    struct message *m = known(id);
    if (m->enqueued_ns != 0)
        sim_violation(3, "the message of key %llu is cancelled after it was enqueued", (unsigned long long)m->key);
    m->cancelled = true;
    return r;
}

enum apply_result __real_state_node_up(struct state *s, const Mailraft__NodeUp *up);
enum apply_result __wrap_state_node_up(struct state *s, const Mailraft__NodeUp *up);
enum apply_result __wrap_state_node_up(struct state *s, const Mailraft__NodeUp *up)
{
    oracle.context = IN_UP;
    enum apply_result r = __real_state_node_up(s, up);
    oracle.context = IN_ENTRY;
    return r;
}

enum apply_result __real_state_node_down(struct state *s, const Mailraft__NodeDown *down);
enum apply_result __wrap_state_node_down(struct state *s, const Mailraft__NodeDown *down);
enum apply_result __wrap_state_node_down(struct state *s, const Mailraft__NodeDown *down)
{
    oracle.context = IN_DOWN;
    enum apply_result r = __real_state_node_down(s, down);
    oracle.context = IN_ENTRY;
    return r;
}

/* ---- fencing (5.2, 5.5, 5.7) ---- */

void oracle_may_send(unsigned node, const struct attempt *a)
{
    struct message *m = known(a->id);
    struct attempt_log *l = message_attempt(m, a->delivery, a->attempt);

    if (world.config.wild_clocks)
        return;
    if (l == NULL || l->node != node || l->incarnation != a->incarnation)
        sim_violation(5, "node %u may send attempt %u of key %llu, which was never its own", node, a->attempt,
                      (unsigned long long)m->key);
    if (l->life == 0)
        l->life = sim_node_life(node);
    if (l->ending != ENDING_NONE && l->ending != ENDING_MESSAGE)
        sim_violation(5, "node %u may send attempt %u of key %llu, which ended %llu ms ago", node, a->attempt,
                      (unsigned long long)m->key, (unsigned long long)((sim_now() - l->ended_ns) / MR_NS_PER_MS));
}
