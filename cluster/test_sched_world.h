/* test_sched_world.h - a real state and a scheduler that hears of it, for the scheduler's tests. */
#ifndef MR_CLUSTER_TEST_SCHED_WORLD_H
#define MR_CLUSTER_TEST_SCHED_WORLD_H

#include "cluster/sched.h"
#include "proto/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WORLD_OPS = 1024, WORLD_EPOCH_S = 1700000000 };

struct world {
    struct state *state;
    struct sched *sched;
    uint64_t index;
    uint64_t now_ns;
    uint64_t next_id;
    uint32_t n_nodes;
    uint8_t results[WORLD_OPS];
    bool quiet; /* the scheduler is not told (another node leads) */
    /* Hooks of the random test. */
    void (*assigned)(struct world *w, const struct state_message *m, uint32_t delivery);
    void (*unassigned)(struct world *w, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node);
};

static inline void on_assigned(void *arg, const struct state_message *m, uint32_t delivery)
{
    struct world *w = arg;

    if (!w->quiet)
        sched_assigned(w->sched, m, delivery, state_index(w->state));
    if (w->assigned != NULL)
        w->assigned(w, m, delivery);
}

static inline void on_unassigned(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node,
                                 uint32_t slot, const char *next_hop)
{
    struct world *w = arg;

    if (!w->quiet)
        sched_unassigned(w->sched, node, slot, next_hop, state_index(w->state));
    if (w->unassigned != NULL)
        w->unassigned(w, id, delivery, attempt, node);
}

static inline void on_notice_assigned(void *arg, const struct state_message *m)
{
    struct world *w = arg;

    if (!w->quiet)
        sched_notice_assigned(w->sched, m, state_index(w->state), w->now_ns);
}

static inline void on_notice_ended(void *arg, struct mr_id id)
{
    struct world *w = arg;

    if (!w->quiet)
        sched_notice_ended(w->sched, id);
}

static inline void on_node_changed(void *arg, const struct node_view *node)
{
    struct world *w = arg;

    if (!w->quiet)
        sched_node_changed(w->sched, node, w->now_ns);
}

static inline void on_rules_changed(void *arg, const Mailraft__Rules *rules)
{
    struct world *w = arg;

    if (!w->quiet)
        sched_rules_changed(w->sched, rules, w->now_ns);
}

static inline void on_outcome(void *arg, uint32_t node, uint32_t slot, const char *next_hop, bool delivered,
                              bool unreached)
{
    struct world *w = arg;

    if (!w->quiet)
        sched_result(w->sched, node, slot, next_hop, delivered, unreached, w->now_ns);
}

/* Applies the operations as one entry; results are in w->results. */
static inline void world_apply(struct world *w, Mailraft__Op **ops, size_t n)
{
    Mailraft__Batch batch = MAILRAFT__BATCH__INIT;
    size_t n_results = WORLD_OPS;

    batch.stamp_ms = (uint64_t)WORLD_EPOCH_S * 1000 + w->now_ns / MR_NS_PER_MS;
    batch.n_ops = n;
    batch.ops = ops;
    size_t len = mailraft__batch__get_packed_size(&batch);
    uint8_t *packed = malloc(len + 1);
    mailraft__batch__pack(&batch, packed);
    assert_int_equal(state_apply(w->state, ++w->index, packed, len, w->results, &n_results), 0);
    free(packed);
}

/* One operation; frees nothing. */
static inline enum apply_result world_do(struct world *w, Mailraft__Op *op)
{
    world_apply(w, &op, 1);
    return (enum apply_result)w->results[0];
}

static inline void world_nothing(struct world *w)
{
    world_apply(w, NULL, 0);
}

#define WORLD_OP(name, kind, field)                                                                                    \
    Mailraft__Op name = MAILRAFT__OP__INIT;                                                                            \
    name.kind_case = MAILRAFT__OP__KIND_##kind;                                                                        \
    name.field

static inline void world_node_up(struct world *w, uint32_t node, uint64_t incarnation)
{
    Mailraft__NodeUp up = MAILRAFT__NODE_UP__INIT;
    char name[16];
    uint8_t directory[16] = {(uint8_t)node, 1};

    snprintf(name, sizeof(name), "n%u", node);
    up.node = node;
    up.name = name;
    up.directory.data = directory;
    up.directory.len = sizeof(directory);
    up.incarnation = incarnation;
    WORLD_OP(op, NODE_UP, node_up) = &up;
    assert_int_equal(world_do(w, &op), APPLIED);
}

static inline void world_node_down(struct world *w, uint32_t node, uint64_t incarnation)
{
    Mailraft__NodeDown down = MAILRAFT__NODE_DOWN__INIT;

    down.node = node;
    down.incarnation = incarnation;
    WORLD_OP(op, NODE_DOWN, node_down) = &down;
    assert_int_equal(world_do(w, &op), APPLIED);
}

static inline void world_form(struct world *w)
{
    Mailraft__Form form = MAILRAFT__FORM__INIT;
    Mailraft__Member members[8], *pointers[8];
    char names[8][16];
    uint8_t directories[8][16] = {{0}}, cluster[16] = {1};

    for (uint32_t i = 0; i < w->n_nodes; i++) {
        mailraft__member__init(&members[i]);
        snprintf(names[i], sizeof(names[i]), "n%u", i + 1);
        directories[i][0] = (uint8_t)(i + 1);
        directories[i][1] = 1;
        members[i].node = i + 1;
        members[i].name = names[i];
        members[i].address = names[i];
        members[i].directory.data = directories[i];
        members[i].directory.len = 16;
        pointers[i] = &members[i];
    }
    form.cluster.data = cluster;
    form.cluster.len = sizeof(cluster);
    form.members = pointers;
    form.n_members = w->n_nodes;
    WORLD_OP(op, FORM, form) = &form;
    assert_int_equal(world_do(w, &op), APPLIED);
}

struct world_limit {
    const char *site;
    uint32_t connections;
    double rate;
};

static inline void world_rules(struct world *w, const struct world_limit *limits, size_t n, bool suspended)
{
    Mailraft__Rules rules = MAILRAFT__RULES__INIT;
    Mailraft__Limit list[16], *pointers[16];
    uint8_t hash[16];

    memset(hash, 0, sizeof(hash));
    memcpy(hash, &w->index, sizeof(w->index));
    for (size_t i = 0; i < n; i++) {
        mailraft__limit__init(&list[i]);
        list[i].site = (char *)(uintptr_t)limits[i].site;
        list[i].connections = limits[i].connections;
        list[i].rate = limits[i].rate;
        pointers[i] = &list[i];
    }
    rules.hash.data = hash;
    rules.hash.len = sizeof(hash);
    rules.limits = pointers;
    rules.n_limits = n;
    rules.suspended = suspended;
    rules.expire_after_for_ms = 86400000;
    rules.retry_first_for_ms = 1000;
    rules.retry_max_for_ms = 1000;
    rules.retry_factor = 1;
    rules.replicas = 3;
    WORLD_OP(op, RULES, rules) = &rules;
    assert_int_equal(world_do(w, &op), APPLIED);
}

/* n nodes, all up in incarnation 1; the scheduler leads nothing yet. */
static inline struct world *world_open(uint32_t nodes)
{
    struct world *w = calloc(1, sizeof(*w));
    const struct state_observer observer = {.arg = w,
                                            .assigned = on_assigned,
                                            .unassigned = on_unassigned,
                                            .notice_assigned = on_notice_assigned,
                                            .notice_ended = on_notice_ended,
                                            .removed = on_notice_ended,
                                            .node_changed = on_node_changed,
                                            .rules_changed = on_rules_changed,
                                            .outcome = on_outcome};
    w->n_nodes = nodes;
    w->now_ns = 1000 * MR_NS_PER_MS;
    w->state = state_open(&observer);
    w->sched = sched_open(w->state, NULL);
    world_form(w);
    for (uint32_t i = 1; i <= nodes; i++)
        world_node_up(w, i, 1);
    return w;
}

static inline void world_close(struct world *w)
{
    sched_check(w->sched);
    sched_close(w->sched);
    state_close(w->state);
    free(w);
}

static inline struct mr_id world_new_id(struct world *w)
{
    struct mr_id id = {{0}};
    uint64_t n = ++w->next_id;

    memcpy(id.bytes, &n, sizeof(n));
    id.bytes[15] = 7;
    return id;
}

/* A message with one recipient for one next hop, as a leader fills it in; assignment may be NULL. Takes no memory
 * along: to be applied or packed before any other. */
struct world_enqueue {
    Mailraft__Enqueue enqueue;
    Mailraft__Body body;
    Mailraft__Recipient recipient, *recipients[1];
    Mailraft__Assignment *assign[1];
    char *next_hops[1];
    uint8_t checksum[16];
    uint32_t holders[8];
    struct mr_id id;
    Mailraft__Op op;
};

static inline void world_enqueue_init(struct world *w, struct world_enqueue *e, const char *next_hop, uint32_t acceptor,
                                      uint64_t holders, Mailraft__Assignment *assignment)
{
    static uint8_t address[] = "a@example.net";

    memset(e, 0, sizeof(*e));
    mailraft__enqueue__init(&e->enqueue);
    mailraft__body__init(&e->body);
    mailraft__recipient__init(&e->recipient);
    e->id = world_new_id(w);
    e->enqueue.id.data = e->id.bytes;
    e->enqueue.id.len = MR_ID_SIZE;
    e->body.length = 10;
    e->body.checksum.data = e->checksum;
    e->body.checksum.len = sizeof(e->checksum);
    e->body.stamp_ms = state_now_ms(w->state);
    for (uint32_t i = 1; i <= w->n_nodes; i++)
        if (holders >> i & 1)
            e->holders[e->body.n_holders++] = i;
    e->body.holders = e->holders;
    e->recipient.address.data = address;
    e->recipient.address.len = sizeof(address) - 1;
    e->recipients[0] = &e->recipient;
    e->next_hops[0] = (char *)(uintptr_t)next_hop;
    e->assign[0] = assignment;
    e->enqueue.body = &e->body;
    e->enqueue.recipients = e->recipients;
    e->enqueue.n_recipients = 1;
    e->enqueue.next_hops = e->next_hops;
    e->enqueue.n_next_hops = 1;
    e->enqueue.acceptor = acceptor;
    e->enqueue.arrived_ms = e->body.stamp_ms;
    e->enqueue.expire_ms = e->body.stamp_ms + 86400000;
    e->enqueue.assign = e->assign;
    e->enqueue.n_assign = assignment != NULL;
    mailraft__op__init(&e->op);
    e->op.kind_case = MAILRAFT__OP__KIND_ENQUEUE;
    e->op.enqueue = &e->enqueue;
}

static inline struct mr_id world_mail_held_by(struct world *w, const char *next_hop, uint32_t acceptor,
                                              uint64_t holders)
{
    struct world_enqueue e;

    world_enqueue_init(w, &e, next_hop, acceptor, holders, NULL);
    assert_int_equal(world_do(w, &e.op), APPLIED);
    return e.id;
}

/* Ready, accepted by a node, held by all. */
static inline struct mr_id world_mail(struct world *w, const char *next_hop, uint32_t acceptor)
{
    return world_mail_held_by(w, next_hop, acceptor, UINT64_MAX);
}

struct world_beat {
    uint32_t node;
    uint64_t incarnation; /* 0: 1 */
    uint64_t applied;     /* 0: all */
    uint32_t free;
    bool draining;
    const char *next_hop; /* NULL: nothing open */
    uint32_t slots[8];
    size_t n_slots;
};

static inline void world_beat(struct world *w, struct world_beat b)
{
    Mailraft__Heartbeat hb = MAILRAFT__HEARTBEAT__INIT;
    Mailraft__OpenSlot open = MAILRAFT__OPEN_SLOT__INIT, *pointer = &open;

    hb.incarnation = b.incarnation != 0 ? b.incarnation : 1;
    hb.sent_ns = w->now_ns;
    hb.applied = b.applied != 0 ? b.applied : w->index;
    hb.free_attempts = b.free;
    hb.draining = b.draining;
    open.next_hop = (char *)(uintptr_t)b.next_hop;
    open.slots = b.slots;
    open.n_slots = b.n_slots;
    hb.slots = &pointer;
    hb.n_slots = b.next_hop != NULL;
    sched_heartbeat(w->sched, b.node, &hb, w->now_ns);
}

/* All nodes that are up report nothing open and much room. */
static inline void world_beats(struct world *w)
{
    for (uint32_t i = 1; i <= w->n_nodes; i++) {
        struct node_view v;
        if (state_node_by_id(w->state, i, &v) && v.up)
            world_beat(w, (struct world_beat){.node = i, .incarnation = v.incarnation, .free = 100});
    }
}

/* Leads, and everybody has reported. */
static inline void world_lead(struct world *w)
{
    world_nothing(w);
    sched_lead(w->sched, w->now_ns, w->index);
    world_beats(w);
}

static inline void world_advance(struct world *w, uint64_t ms)
{
    w->now_ns += ms * MR_NS_PER_MS;
}

static inline void world_free_ops(Mailraft__Op **ops, size_t n)
{
    for (size_t i = 0; i < n; i++)
        mailraft__op__free_unpacked(ops[i], NULL);
}

/* One step; what it gives is applied and settled at once. Returns the number of assignments that applied. */
static inline size_t world_step(struct world *w)
{
    Mailraft__Op *ops[SCHED_MAX_ASSIGN];
    uint64_t again;
    size_t applied = 0;
    size_t n = sched_step(w->sched, w->now_ns, ops, SCHED_MAX_ASSIGN, &again);

    sched_check(w->sched);
    if (n > 0)
        world_apply(w, ops, n);
    for (size_t i = 0; i < n; i++) {
        applied += w->results[i] == APPLIED;
        sched_settled(w->sched, ops[i], w->now_ns);
    }
    world_free_ops(ops, n);
    sched_check(w->sched);
    return applied;
}

static inline struct delivery_view world_delivery(struct world *w, struct mr_id id)
{
    struct delivery_view v = {0};
    const struct state_message *m = state_find(w->state, id);

    if (m != NULL)
        state_delivery_view(m, 0, &v);
    return v;
}

static inline uint32_t world_node_of(struct world *w, struct mr_id id)
{
    struct delivery_view v = world_delivery(w, id);
    return v.state == DELIVERY_ASSIGNED ? v.node : 0;
}

enum world_outcome { WORLD_DELIVERED, WORLD_DEFERRED, WORLD_UNREACHED };

static inline enum apply_result world_end_at(struct world *w, struct mr_id id, enum world_outcome what,
                                             uint32_t attempt, uint32_t node, uint64_t retry_for_ms)
{
    Mailraft__Outcome o = MAILRAFT__OUTCOME__INIT;
    Mailraft__RecipientResult r = MAILRAFT__RECIPIENT_RESULT__INIT, *pointer = &r;

    o.id.data = id.bytes;
    o.id.len = MR_ID_SIZE;
    o.attempt = attempt;
    o.node = node;
    o.results = &pointer;
    o.n_results = 1;
    o.retry_for_ms = retry_for_ms;
    o.unreached = o.avoid_node = what == WORLD_UNREACHED;
    r.result = what == WORLD_DELIVERED ? MAILRAFT__RESULT__DELIVERED : MAILRAFT__RESULT__DEFERRED;
    WORLD_OP(op, OUTCOME, outcome) = &o;
    return world_do(w, &op);
}

/* The running attempt ends; a deferred one is ready again at once. */
static inline void world_end(struct world *w, struct mr_id id, enum world_outcome what)
{
    struct delivery_view v = world_delivery(w, id);

    assert_int_equal(v.state, DELIVERY_ASSIGNED);
    assert_int_equal(world_end_at(w, id, what, v.attempt, v.node, 0), APPLIED);
}

/* Two next hops of one site, and one of another. */
static const char *const world_hop_a = "smtp://a.example:25";
static const char *const world_hop_a2 = "smtp://a.example:2525";
static const char *const world_hop_b = "smtp://b.example:25";

/* Nodes that are up, a limit for world_hop_a's site, and the scheduler leads. */
static inline struct world *world_limited(uint32_t nodes, uint32_t connections, double rate)
{
    struct world *w = world_open(nodes);
    const struct world_limit limits[] = {{"a.example", connections, rate}};

    world_rules(w, limits, 1, false);
    world_lead(w);
    return w;
}

/* How many of so many attempts for a next hop the first node may begin now. */
static inline unsigned world_grants(struct world *w, const char *next_hop, unsigned asked)
{
    unsigned given = 0;

    for (unsigned i = 0; i < asked; i++) {
        Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;
        given += sched_grant(w->sched, world_new_id(w), 0, next_hop, 1, w->now_ns, &a);
    }
    return given;
}

#endif
