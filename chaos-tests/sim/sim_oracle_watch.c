/* The oracle's ears: an observer before each state's own, which gathers what an entry does while it is applied. */
#include "chaos-tests/sim/sim_oracle_internal.h"
#include "proto/base/memory.h"

#include <string.h>

struct watch {
    struct state_observer inner;
};

static void on_assigned(void *arg, const struct state_message *sm, uint32_t delivery)
{
    struct watch *w = arg;

    if (oracle_here()->live) {
        struct message_view v;
        struct delivery_view d;
        struct telling *t = oracle_tell(TOLD_ASSIGNED, oracle_known_view(sm, &v));
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
    const struct applying *a = oracle_here();

    if (a->context == IN_OUTCOME)
        return a->attempt == attempt ? ENDING_OUTCOME : ENDING_MESSAGE;
    return a->context == IN_ENTRY ? ENDING_RELEASE : ENDING_FALL;
}

static void on_unassigned(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, uint32_t slot,
                          const char *next_hop)
{
    struct watch *w = arg;

    if (oracle_here()->live) {
        struct telling *t = oracle_tell(TOLD_UNASSIGNED, oracle_known(id));
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

static void on_notice_ended(void *arg, struct mr_id id)
{
    struct watch *w = arg;

    if (w->inner.notice_ended != NULL)
        w->inner.notice_ended(w->inner.arg, id);
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

    if (oracle_here()->live) {
        struct message_view v;
        struct message *m = oracle_known_view(sm, &v);
        check_enqueued(sm, m, &v);
        oracle_tell(TOLD_ENQUEUED, m);
    }
    if (w->inner.enqueued != NULL)
        w->inner.enqueued(w->inner.arg, sm);
}

static void on_recipient_done(void *arg, const struct state_message *sm, uint32_t recipient)
{
    struct watch *w = arg;

    if (oracle_here()->live) {
        struct message_view v;
        struct recipient_view r;
        struct telling *t = oracle_tell(TOLD_DONE, oracle_known_view(sm, &v));
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

    if (oracle_here()->live)
        oracle_tell(TOLD_REMOVED, oracle_known(id));
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

    if (oracle_here()->live)
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

    if (oracle_here()->live) {
        struct telling *t = oracle_tell(TOLD_DOUBT, oracle_known(id));
        t->delivery = delivery;
        t->attempt = attempt;
    }
    if (w->inner.in_doubt != NULL)
        w->inner.in_doubt(w->inner.arg, id, delivery, attempt, node, possibly);
}

static void on_outcome(void *arg, uint32_t node, uint32_t slot, const char *next_hop, bool delivered, bool unreached)
{
    struct watch *w = arg;

    if (w->inner.outcome != NULL)
        w->inner.outcome(w->inner.arg, node, slot, next_hop, delivered, unreached);
}

static void on_moved(void *arg, const struct state_message *sm, uint32_t delivery, enum delivery_state from,
                     enum delivery_state to)
{
    struct watch *w = arg;

    if (oracle_here()->live) {
        struct message_view v;
        struct telling *t = oracle_tell(TOLD_MOVED, oracle_known_view(sm, &v));
        t->delivery = delivery;
        t->state = (int)to;
    }
    if (w->inner.moved != NULL)
        w->inner.moved(w->inner.arg, sm, delivery, from, to);
}

struct state *__real_state_open(const struct state_observer *observer);
struct state *__wrap_state_open(const struct state_observer *observer);
struct state *__wrap_state_open(const struct state_observer *observer)
{
    if (observer != NULL && observer->enqueued == on_enqueued)
        return __real_state_open(observer); /* state_restore's: it watches already */
    struct watch *w = mr_calloc(1, sizeof(*w));
    if (observer != NULL)
        w->inner = *observer;
    struct state_observer mine = {
        .arg = w,
        .assigned = on_assigned,
        .unassigned = on_unassigned,
        .notice_assigned = on_notice_assigned,
        .notice_ended = on_notice_ended,
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
