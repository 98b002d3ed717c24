/* The oracle: what the cluster has decided, as told by the first node that applies each index; and whether it may.
 *
 * state_open, state_apply, state_restore, state_read, state_exchange, state_hold, state_outcome, state_cancel,
 * state_node_up and state_node_down are wrapped by the linker: every call of the program's passes through here. Only
 * the first application of an index that comes to its end feeds the oracle; all others, on whatever node and after
 * whatever restart, must do the same to the same state (invariant 7). */
#include "chaos-tests/sim/sim_oracle_internal.h"
#include "cluster/state_internal.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

#include <string.h>

struct decided {
    uint64_t entry, counts; /* hashes of the entry's bytes, of cheap sums over the state behind it */
    uint8_t hash[16];       /* of the state behind it */
    bool hashed;
    unsigned node;
};

static struct {
    struct decided *entries; /* by index */
    uint64_t last, room;
} oracle;
static struct applying applying[SIM_MAX_NODES + 1];

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

/* ---- what an entry did, told after it ---- */

struct applying *oracle_here(void)
{
    return &applying[sim_node()];
}

struct telling *oracle_tell(enum told what, struct message *m)
{
    struct applying *a = oracle_here();

    if (a->n == a->room) {
        a->room = a->room == 0 ? 64 : a->room * 2;
        a->events = mr_realloc(a->events, a->room * sizeof(*a->events));
    }
    struct telling *t = &a->events[a->n++];
    *t = (struct telling){.what = what, .m = m};
    return t;
}

struct message *oracle_known(struct mr_id id)
{
    struct message *m = message_find(id);

    if (m == NULL)
        sim_violation(2, "the log speaks of a message that nobody submitted");
    return m;
}

struct message *oracle_known_view(const struct state_message *sm, struct message_view *v)
{
    state_message_view(sm, v);
    return oracle_known(v->id);
}

/* ---- the wrapped functions ---- */

int __real_state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results,
                       size_t *n_results);
int __wrap_state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results,
                       size_t *n_results);
int __wrap_state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results,
                       size_t *n_results)
{
    uint64_t entry = XXH3_64bits(data, len);
    struct applying *a = oracle_here();

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
        oracle_check_time(s);
        oracle_judge(a, state_now_ms(s));
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

static void check_restored(struct state *s, uint64_t index)
{
    /* A snapshot may end with entries of libraft's own, which change nothing here. */
    uint64_t last = index;
    while (last > 0 && decided_at(last)->entry == 0)
        last--;
    state_check(s);
    compare_hash(s, last, "after its snapshot was restored");
    sim_trace("restored", index);
}

int __real_state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len);
int __wrap_state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len);
int __wrap_state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len)
{
    int rc = __real_state_restore(s, index, data, len);

    if (rc == 0)
        check_restored(s, index);
    return rc;
}

/* state_restore calls its own, which is not wrapped. */
int __real_state_read(const struct state_observer *observer, uint64_t index, const uint8_t *data, size_t len,
                      struct state **out);
int __wrap_state_read(const struct state_observer *observer, uint64_t index, const uint8_t *data, size_t len,
                      struct state **out);
int __wrap_state_read(const struct state_observer *observer, uint64_t index, const uint8_t *data, size_t len,
                      struct state **out)
{
    enum { LONGEST_MS = 4096, SELDOM = 4 };
    uint64_t r = sim_random(SIM_SCHEDULE);
    int rc = __real_state_read(observer, index, data, len, out);

    if (r % SELDOM == 0) /* of a large one */
        sim_block(r / SELDOM % LONGEST_MS * MR_NS_PER_MS);
    return rc;
}

void __real_state_exchange(struct state *s, struct state *fresh);
void __wrap_state_exchange(struct state *s, struct state *fresh);
void __wrap_state_exchange(struct state *s, struct state *fresh)
{
    __real_state_exchange(s, fresh);
    check_restored(s, state_index(s));
    sim_trace("installed", state_index(s));
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
    struct telling *t = oracle_tell(TOLD_OUTCOME, oracle_known(id));
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
    struct applying *a = oracle_here();
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
    oracle_tell(TOLD_OUTCOME_END, oracle_known(id))->result = r;
    return r;
}

enum apply_result __real_state_cancel(struct state *s, const Mailraft__Cancel *c);
enum apply_result __wrap_state_cancel(struct state *s, const Mailraft__Cancel *c);
enum apply_result __wrap_state_cancel(struct state *s, const Mailraft__Cancel *c)
{
    enum apply_result r = __real_state_cancel(s, c);
    struct mr_id id;

    if (oracle_here()->live && r == APPLIED && mr_id_from_bytes(c->id.data, c->id.len, &id) == 0)
        oracle_tell(TOLD_CANCEL, oracle_known(id));
    return r;
}

enum apply_result __real_state_node_up(struct state *s, const Mailraft__NodeUp *up);
enum apply_result __wrap_state_node_up(struct state *s, const Mailraft__NodeUp *up);
enum apply_result __wrap_state_node_up(struct state *s, const Mailraft__NodeUp *up)
{
    oracle_here()->context = IN_UP;
    enum apply_result r = __real_state_node_up(s, up);
    oracle_here()->context = IN_ENTRY;
    return r;
}

enum apply_result __real_state_node_down(struct state *s, const Mailraft__NodeDown *down);
enum apply_result __wrap_state_node_down(struct state *s, const Mailraft__NodeDown *down);
enum apply_result __wrap_state_node_down(struct state *s, const Mailraft__NodeDown *down)
{
    oracle_here()->context = IN_DOWN;
    enum apply_result r = __real_state_node_down(s, down);
    oracle_here()->context = IN_ENTRY;
    return r;
}

bool oracle_removes(const struct message *m)
{
    const struct applying *a = oracle_here();

    for (size_t i = a->n; a->live && i-- > 0;)
        if (a->events[i].what == TOLD_REMOVED && a->events[i].m == m)
            return true;
    return false;
}

/* ---- fencing (5.2, 5.5, 5.7) ---- */

void oracle_may_send(unsigned node, const struct attempt *a)
{
    struct message *m = oracle_known(a->id);
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
