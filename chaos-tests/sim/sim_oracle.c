/* The oracle: what the cluster has decided, as told by the first node that applies each index; and whether it may.
 *
 * state_open, state_apply, state_restore, state_hold, state_outcome, state_cancel, state_node_up and
 * state_node_down are wrapped by the linker: every call of the program's passes through here. Only the first
 * application of an index that comes to its end feeds the oracle; all others, on whatever node and after whatever
 * restart, must do the same to the same state (invariant 7). */
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
    struct state_observer inner;
};
enum context { IN_ENTRY, IN_OUTCOME, IN_UP, IN_DOWN };

static struct {
    struct decided *entries; /* by index */
    uint64_t last, room;
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
    _Static_assert(sizeof(c) <= 18 * sizeof(sums.words[0]), "the counts leave room for the times");
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
static double ahead_ms, since_ms;

static void check_time(const struct state *s)
{
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

/* How far committed time is behind the furthest that it was, after a time without a leader: it makes up for that by
 * steering, or when it is more than a minute by a step (committed_time.h, T3), and then what arrived meanwhile expires
 * so much earlier. */
static uint64_t behind_ms(uint64_t stamp_ms)
{
    double lag = ahead_ms - ((double)stamp_ms - (double)sim_now() / (double)MR_NS_PER_MS);
    return lag > 0 ? (uint64_t)lag : 0;
}

/* ---- what an entry did, told after it ---- */

/* A node may die in the middle of applying (a mail to a worker is a step), or wait there while another node applies the
 * same entry. So each gathers what it sees, and the first that comes to the end of the entry tells the oracle. */
enum told {
    TOLD_ASSIGNED,
    TOLD_UNASSIGNED,
    TOLD_ENQUEUED,
    TOLD_DONE,
    TOLD_REMOVED,
    TOLD_DOUBT,
    TOLD_MOVED,
    TOLD_CANCEL,
    TOLD_OUTCOME,     /* begins */
    TOLD_OUTCOME_END, /* result: how */
};
struct telling {
    enum told what;
    struct message *m;
    uint32_t delivery, attempt, node, slot, recipient;
    uint64_t incarnation;
    int state;
    enum ending ending;
    bool running; /* outcome: of the attempt that runs */
    enum apply_result result;
    uint64_t retry_ms; /* outcome: from its entry's committed time on */
    unsigned n;
    struct {
        uint32_t recipient;
        Mailraft__Result result;
    } results[WORLD_MAX_RECIPIENTS];
};
static struct applying {
    bool live; /* an entry that the oracle does not know yet */
    enum context context;
    uint32_t attempt; /* of the outcome that is being applied */
    struct telling *events;
    size_t n, room;
} applying[SIM_MAX_NODES + 1];

static struct applying *here(void)
{
    return &applying[sim_node()];
}

static struct telling *tell(enum told what, struct message *m)
{
    struct applying *a = here();

    if (a->n == a->room) {
        a->room = a->room == 0 ? 64 : a->room * 2;
        a->events = mr_realloc(a->events, a->room * sizeof(*a->events));
    }
    struct telling *t = &a->events[a->n++];
    *t = (struct telling){.what = what, .m = m};
    return t;
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

static unsigned long long key_of(const struct message *m)
{
    return (unsigned long long)m->key;
}

static void owe(struct message *m)
{
    for (unsigned i = 0; i < oracle.n_owing; i++)
        if (oracle.owing[i] == m)
            return;
    mr_assert(oracle.n_owing < sizeof(oracle.owing) / sizeof(oracle.owing[0]));
    oracle.owing[oracle.n_owing++] = m;
}

/* Invariants 1, 6 and PROTOCOL.md 7.1: who failed or expired is told of in the same entry, once; and a DSN that says so
 * is true by the end of its entry. */
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
                sim_violation(1, "recipient %u of key %llu %s, and its sender is not told", i, key_of(m),
                              r->state == RECIPIENT_FAILED ? "failed" : "expired");
            if (r->told > 0 && r->state == RECIPIENT_QUEUED)
                sim_violation(6, "a final DSN tells of recipient %u of key %llu, which is still queued", i, key_of(m));
        }
    }
    oracle.n_owing = 0;
}

static void told_enqueued(const struct telling *t, uint64_t now_ms)
{
    struct message *m = t->m;

    if (m->enqueued_ns != 0)
        sim_violation(4, "the message of key %llu is enqueued a second time", key_of(m));
    if (m->cancelled)
        sim_violation(3, "the message of key %llu is enqueued after its cancel", key_of(m));
    m->enqueued_ns = sim_now();
    m->behind_ms = behind_ms(now_ms);
    world.accepted++;
    if (m->dsn && m->about->null_sender)
        sim_violation(1, "key %llu has no sender, and a DSN goes to it", key_of(m->about));
    if (!m->dsn_final)
        return;
    for (unsigned i = 0; i < m->n_tells; i++)
        if (m->about->recipients[m->tells[i]].told++ > 0)
            sim_violation(6, "a second final DSN for recipient %u of key %llu", m->tells[i], key_of(m->about));
    owe(m->about);
}

static void told_assigned(const struct telling *t, uint64_t now_ms)
{
    struct delivery_log *l = &t->m->deliveries[t->delivery];

    if (now_ms < l->not_before_ms)
        sim_violation(11, "attempt %u of key %llu begins %llu ms before it is due", t->attempt, key_of(t->m),
                      (unsigned long long)(l->not_before_ms - now_ms));

    if (t->attempt <= l->attempt)
        sim_violation(5, "attempt %u of a delivery follows attempt %u", t->attempt, l->attempt);
    if (l->n_attempts > 0 && l->attempts[l->n_attempts - 1].ending == ENDING_NONE)
        sim_violation(5, "attempt %u is assigned while attempt %u runs", t->attempt, l->attempt);
    l->attempt = t->attempt;
    l->attempts = mr_realloc(l->attempts, (l->n_attempts + 1) * sizeof(*l->attempts));
    l->attempts[l->n_attempts++] = (struct attempt_log){.attempt = t->attempt,
                                                        .node = t->node,
                                                        .slot = t->slot,
                                                        .incarnation = t->incarnation,
                                                        .assigned_ns = sim_now()};
}

static void told_unassigned(const struct telling *t)
{
    struct attempt_log *l = message_attempt(t->m, t->delivery, t->attempt);

    if (l == NULL || l->ending != ENDING_NONE)
        sim_violation(5, "attempt %u of key %llu ends twice", t->attempt, key_of(t->m));
    l->ending = t->ending;
    l->ended_ns = sim_now();
    if (l->ending == ENDING_RELEASE && l->dot_ns != 0)
        sim_violation(5, "attempt %u of key %llu is given back after its dot", t->attempt, key_of(t->m));
}

static void told_done(const struct telling *t)
{
    struct message *m = t->m;
    struct recipient_log *r = &m->recipients[t->recipient];
    enum recipient_state state = (enum recipient_state)t->state;

    if (r->state != RECIPIENT_QUEUED)
        sim_violation(6, "recipient %u of key %llu ends twice", t->recipient, key_of(m));
    r->state = state;
    if (state == RECIPIENT_DELIVERED && r->copies == 0)
        sim_violation(1, "recipient %u of key %llu counts as delivered, and its next hop has no copy", t->recipient,
                      key_of(m));
    if (state == RECIPIENT_FAILED && !r->refused)
        sim_violation(6, "recipient %u of key %llu counts as failed, and its next hop never refused it", t->recipient,
                      key_of(m));
    /* Invariant 11. Counted from the session's begin: the entry's stamp is that of its proposal, which may be long
     * before it is committed. A clock that runs fast moves committed time by its share (5%), and so does steering. */
    uint64_t least = world.config.expire_ms * 85 / 100 * MR_NS_PER_MS;
    if (state == RECIPIENT_EXPIRED && sim_now() + 2 * MR_NS_PER_S + m->behind_ms * MR_NS_PER_MS < m->begun_ns + least)
        sim_violation(11, "recipient %u of key %llu expires after %llu ms, the rules say %llu", t->recipient, key_of(m),
                      (unsigned long long)((sim_now() - m->begun_ns) / MR_NS_PER_MS),
                      (unsigned long long)world.config.expire_ms);
    if (state == RECIPIENT_FAILED || state == RECIPIENT_EXPIRED)
        owe(m);
    if (state == RECIPIENT_DELIVERED)
        world.result->delivered++;
    else
        world.result->bounced++;
}

static void told_removed(const struct telling *t)
{
    for (unsigned i = 0; i < t->m->n_recipients; i++)
        if (t->m->recipients[i].state == RECIPIENT_QUEUED)
            sim_violation(6, "the message of key %llu is removed with a recipient queued", key_of(t->m));
    t->m->finished_ns = sim_now();
    world.finished++;
}

static void told_doubt(const struct telling *t)
{
    struct attempt_log *l = message_attempt(t->m, t->delivery, t->attempt);

    world.result->in_doubt++;
    if (l == NULL)
        sim_violation(2, "an attempt is in doubt that never was");
    l->doubt = true;
}

static void told_cancel(const struct telling *t)
{
    if (t->m->enqueued_ns != 0)
        sim_violation(3, "the message of key %llu is cancelled after it was enqueued", key_of(t->m));
    t->m->cancelled = true;
}

/* Invariants 5 and 6: what an outcome may do. Of the running attempt everything; of an older one only `delivered`, and
 * only for who is still queued. */
static void check_outcome(const struct telling *begin, const struct telling *end, const enum recipient_state *before)
{
    bool applied = end->result == APPLIED;

    for (unsigned i = 0; i < begin->n; i++) {
        uint32_t recipient = begin->results[i].recipient;
        if (recipient >= begin->m->n_recipients)
            continue;
        enum recipient_state was = before[recipient], is = begin->m->recipients[recipient].state, want = was;
        if (was == RECIPIENT_QUEUED && begin->results[i].result == MAILRAFT__RESULT__DELIVERED && applied)
            want = RECIPIENT_DELIVERED;
        if (was == RECIPIENT_QUEUED && begin->results[i].result == MAILRAFT__RESULT__FAILED && begin->running &&
            applied)
            want = RECIPIENT_FAILED;
        if (is != want)
            sim_violation(5, "an outcome of attempt %u, %s, moves recipient %u of key %llu from %d to %d",
                          begin->attempt, begin->running ? "which runs" : "which is over", recipient, key_of(begin->m),
                          (int)was, (int)is);
    }
}

/* Invariant 11: what was deferred is not tried again before its time; exact, for both are committed times. */
static void note_due(const struct telling *outcome, uint64_t now_ms)
{
    if (outcome->running && outcome->retry_ms > 0 && outcome->delivery < outcome->m->n_deliveries)
        outcome->m->deliveries[outcome->delivery].not_before_ms = now_ms + outcome->retry_ms;
}

static void tell_oracle(struct applying *a, uint64_t now_ms)
{
    static void (*const tellers[])(const struct telling *t) = {
        [TOLD_UNASSIGNED] = told_unassigned, [TOLD_DONE] = told_done,     [TOLD_REMOVED] = told_removed,
        [TOLD_DOUBT] = told_doubt,           [TOLD_CANCEL] = told_cancel,
    };
    enum recipient_state before[WORLD_MAX_RECIPIENTS] = {0};
    const struct telling *outcome = NULL;

    for (size_t i = 0; i < a->n; i++) {
        const struct telling *t = &a->events[i];
        if (t->what == TOLD_OUTCOME) {
            outcome = t;
            for (unsigned k = 0; k < t->m->n_recipients; k++)
                before[k] = t->m->recipients[k].state;
        } else if (t->what == TOLD_OUTCOME_END) {
            check_outcome(outcome, t, before);
            if (t->result == APPLIED)
                note_due(outcome, now_ms);
            outcome = NULL;
        } else if (t->what == TOLD_ENQUEUED) {
            told_enqueued(t, now_ms);
        } else if (t->what == TOLD_ASSIGNED) {
            told_assigned(t, now_ms);
        } else if (t->what == TOLD_MOVED) {
            if (outcome != NULL && outcome->m == t->m && !outcome->running && t->state != DELIVERY_DONE)
                sim_violation(5, "an outcome of attempt %u, which is over, moves a delivery of key %llu",
                              outcome->attempt, key_of(t->m));
            t->m->deliveries[t->delivery].state = (enum delivery_state)t->state;
        } else {
            tellers[t->what](t);
        }
    }
    check_owed();
}

/* ---- the observer ---- */

static void on_assigned(void *arg, const struct state_message *sm, uint32_t delivery)
{
    struct watch *w = arg;

    if (here()->live) {
        struct message_view v;
        struct delivery_view d;
        struct telling *t = tell(TOLD_ASSIGNED, known_view(sm, &v));
        state_delivery_view(sm, delivery, &d);
        t->delivery = delivery;
        t->attempt = d.attempt;
        t->node = d.node;
        t->slot = d.slot;
        t->incarnation = d.incarnation;
    }
    if (w->inner.assigned != NULL)
        w->inner.assigned(w->inner.arg, sm, delivery);
}

/* A late outcome of another attempt may end the delivery: who runs it then is not told, and may go on (5.9). */
static enum ending ending_now(uint32_t attempt)
{
    const struct applying *a = here();

    if (a->context == IN_OUTCOME)
        return a->attempt == attempt ? ENDING_OUTCOME : ENDING_MESSAGE;
    return a->context == IN_ENTRY ? ENDING_RELEASE : ENDING_FALL;
}

static void on_unassigned(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, uint32_t slot,
                          const char *next_hop)
{
    struct watch *w = arg;

    if (here()->live) {
        struct telling *t = tell(TOLD_UNASSIGNED, known(id));
        t->delivery = delivery;
        t->attempt = attempt;
        t->ending = ending_now(attempt);
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
        sim_violation(2, "the message of key %llu is not as it was submitted", key_of(m));
}

static void on_enqueued(void *arg, const struct state_message *sm)
{
    struct watch *w = arg;

    if (here()->live) {
        struct message_view v;
        struct message *m = known_view(sm, &v);
        check_enqueued(sm, m, &v);
        tell(TOLD_ENQUEUED, m);
    }
    if (w->inner.enqueued != NULL)
        w->inner.enqueued(w->inner.arg, sm);
}

static void on_recipient_done(void *arg, const struct state_message *sm, uint32_t recipient)
{
    struct watch *w = arg;

    if (here()->live) {
        struct message_view v;
        struct recipient_view r;
        struct telling *t = tell(TOLD_DONE, known_view(sm, &v));
        state_recipient_view(sm, recipient, &r);
        t->recipient = recipient;
        t->state = (int)r.state;
    }
    if (w->inner.recipient_done != NULL)
        w->inner.recipient_done(w->inner.arg, sm, recipient);
}

static void on_removed(void *arg, struct mr_id id)
{
    struct watch *w = arg;

    if (here()->live)
        tell(TOLD_REMOVED, known(id));
    if (w->inner.removed != NULL)
        w->inner.removed(w->inner.arg, id);
}

/* Invariant 5: nobody is declared down who may still send. */
static void check_fallen(const struct node_view *v)
{
    const struct world_node *n = &world.node[v->node];

    if (v->up || v->incarnation == 0 || !n->open || !sim_node_alive(v->node))
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

    if (here()->live)
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

    if (here()->live) {
        struct telling *t = tell(TOLD_DOUBT, known(id));
        t->delivery = delivery;
        t->attempt = attempt;
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

static void on_moved(void *arg, const struct state_message *sm, uint32_t delivery, enum delivery_state from,
                     enum delivery_state to)
{
    struct watch *w = arg;

    if (here()->live) {
        struct message_view v;
        struct telling *t = tell(TOLD_MOVED, known_view(sm, &v));
        t->delivery = delivery;
        t->state = (int)to;
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
    struct applying *a = here();

    if (index <= oracle.last && decided_at(index)->entry != entry)
        sim_violation(7, "index %llu holds another entry on node %u than on node %u", (unsigned long long)index,
                      sim_node(), decided_at(index)->node);
    a->live = index > oracle.last;
    a->context = IN_ENTRY;
    a->n = 0;
    int rc = __real_state_apply(s, index, data, len, results, n_results);
    a->live = false;
    if (rc != 0)
        return rc;
    uint64_t sums = cheap_sums(s);
    struct decided *d = decided_at(index);
    if (index > oracle.last) { /* also when another node began with it meanwhile */
        *d = (struct decided){.entry = entry, .counts = sums, .node = sim_node()};
        oracle.last = index;
        check_time(s);
        tell_oracle(a, state_now_ms(s));
    } else if (d->entry != entry || d->counts != sums) {
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
    /* A snapshot may end with entries of libraft's own, which change nothing here. */
    uint64_t last = index;
    while (last > 0 && decided_at(last)->entry == 0)
        last--;
    state_check(s);
    compare_hash(s, last, "after its snapshot was restored");
    sim_trace("restored", index);
    return rc;
}

struct state_held *__real_state_hold(struct state *s);
struct state_held *__wrap_state_hold(struct state *s);
struct state_held *__wrap_state_hold(struct state *s)
{
    compare_hash(s, state_index(s), "when a snapshot is taken");
    world.result->snapshots++;
    return __real_state_hold(s);
}

static void tell_outcome(const struct state *s, const Mailraft__Outcome *o)
{
    struct mr_id id = {{0}};

    (void)mr_id_from_bytes(o->id.data, o->id.len, &id);
    struct telling *t = tell(TOLD_OUTCOME, known(id));
    const struct state_message *sm = state_find(s, id);
    if (sm != NULL && o->delivery < t->m->n_deliveries) {
        struct delivery_view d;
        state_delivery_view(sm, o->delivery, &d);
        t->running = d.state == DELIVERY_ASSIGNED && d.attempt == o->attempt && d.node == o->node;
    }
    t->attempt = o->attempt;
    t->delivery = o->delivery;
    t->retry_ms = o->retry_for_ms;
    for (size_t i = 0; i < o->n_results && i < WORLD_MAX_RECIPIENTS; i++) {
        t->results[i].recipient = o->results[i]->recipient;
        t->results[i].result = o->results[i]->result;
        t->n++;
    }
}

enum apply_result __real_state_outcome(struct state *s, const Mailraft__Outcome *o);
enum apply_result __wrap_state_outcome(struct state *s, const Mailraft__Outcome *o);
enum apply_result __wrap_state_outcome(struct state *s, const Mailraft__Outcome *o)
{
    struct applying *a = here();
    enum context outer = a->context;

    if (!a->live)
        return __real_state_outcome(s, o);
    tell_outcome(s, o);
    a->context = IN_OUTCOME;
    a->attempt = o->attempt;
    enum apply_result r = __real_state_outcome(s, o);
    a->context = outer;
    struct mr_id id = {{0}};
    (void)mr_id_from_bytes(o->id.data, o->id.len, &id);
    tell(TOLD_OUTCOME_END, known(id))->result = r;
    return r;
}

enum apply_result __real_state_cancel(struct state *s, const Mailraft__Cancel *c);
enum apply_result __wrap_state_cancel(struct state *s, const Mailraft__Cancel *c);
enum apply_result __wrap_state_cancel(struct state *s, const Mailraft__Cancel *c)
{
    enum apply_result r = __real_state_cancel(s, c);
    struct mr_id id;

    if (here()->live && r == APPLIED && mr_id_from_bytes(c->id.data, c->id.len, &id) == 0)
        tell(TOLD_CANCEL, known(id));
    return r;
}

enum apply_result __real_state_node_up(struct state *s, const Mailraft__NodeUp *up);
enum apply_result __wrap_state_node_up(struct state *s, const Mailraft__NodeUp *up);
enum apply_result __wrap_state_node_up(struct state *s, const Mailraft__NodeUp *up)
{
    here()->context = IN_UP;
    enum apply_result r = __real_state_node_up(s, up);
    here()->context = IN_ENTRY;
    return r;
}

enum apply_result __real_state_node_down(struct state *s, const Mailraft__NodeDown *down);
enum apply_result __wrap_state_node_down(struct state *s, const Mailraft__NodeDown *down);
enum apply_result __wrap_state_node_down(struct state *s, const Mailraft__NodeDown *down)
{
    here()->context = IN_DOWN;
    enum apply_result r = __real_state_node_down(s, down);
    here()->context = IN_ENTRY;
    return r;
}

bool oracle_removes(const struct message *m)
{
    const struct applying *a = here();

    for (size_t i = a->n; a->live && i-- > 0;)
        if (a->events[i].what == TOLD_REMOVED && a->events[i].m == m)
            return true;
    return false;
}

/* ---- fencing (5.2, 5.5, 5.7) ---- */

void oracle_may_send(unsigned node, const struct attempt *a)
{
    struct message *m = known(a->id);
    struct attempt_log *l = message_attempt(m, a->delivery, a->attempt);

    if (l == NULL || l->node != node || l->incarnation != a->incarnation)
        sim_violation(5, "node %u may send attempt %u of key %llu, which was never its own", node, a->attempt,
                      (unsigned long long)m->key);
    if (l->life == 0)
        l->life = sim_node_life(node);
    if (l->ending != ENDING_NONE && l->ending != ENDING_MESSAGE)
        sim_violation(5, "node %u may send attempt %u of key %llu, which ended %llu ms ago", node, a->attempt,
                      (unsigned long long)m->key, (unsigned long long)((sim_now() - l->ended_ns) / MR_NS_PER_MS));
}
