/* Invariants that are not the state machine's: what clients were told, what next hops took, what disks hold, how it
 * ends. */
#include "chaos-tests/sim/sim_world.h"
#include "proto/base/memory.h"

#include <raft.h>
#include <stdlib.h>
#include <string.h>

static unsigned majority(void)
{
    return world.config.nodes / 2 + 1;
}

/* It may have had it, and said so, before its disk was damaged or taken away. */
static bool may_have_lost(unsigned node, const struct message *m)
{
    const struct world_node *n = &world.node[node];

    return n->wiped ? m->begun_ns < n->wiped_ns : sim_plan_damaged(node);
}

/* What a node that is down had is asked of its last life, whose memory is still there. */
static bool holds(unsigned node, const struct message *m)
{
    const struct world_node *n = &world.node[node];

    if (n->wiped)
        return false;
    if (n->cluster == NULL && n->closing != NULL)
        return spool_has(n->closing, m->id, NULL);
    if (n->cluster == NULL)
        return (m->had & (1ULL << node)) != 0;
    return n->cluster->spool != NULL && spool_has(n->cluster->spool, m->id, NULL);
}

/* ---- 250 (1, 9) ---- */

void check_250(struct message *m)
{
    unsigned have = 0;

    world.result->accepted++;
    if (m->enqueued_ns == 0)
        sim_violation(9, "key %llu gets 250 before it is committed", (unsigned long long)m->key);
    if (m->cancelled)
        sim_violation(9, "key %llu gets 250 though it was cancelled", (unsigned long long)m->key);
    if (m->finished_ns != 0)
        return; /* delivered meanwhile */
    for (unsigned n = 1; n <= world.config.nodes; n++)
        have += holds(n, m) || may_have_lost(n, m);
    if (have < majority())
        sim_violation(9, "key %llu gets 250 with its body on %u of %u nodes", (unsigned long long)m->key, have,
                      world.config.nodes);
}

/* ---- copies (2, 3, 4, 12) ---- */

/* Its machine lost power, and with it the journal's unsynced records (5.8), before the log learned of its end. */
static bool lost_power(const struct attempt_log *l)
{
    const struct world_node *n = &world.node[l->node];

    for (unsigned i = 0; i < n->n_power_cuts; i++)
        if (n->power_cuts[i] >= l->dot_ns && (l->ended_ns == 0 || n->power_cuts[i] <= l->ended_ns))
            return true;
    return false;
}

/* PROTOCOL.md 5.7 to 5.9: another copy may follow an attempt whose dot was written, and only when its end was counted
 * in doubt, or the next hop never answered it (the node said so: deferred), or its journal is gone. */
static bool may_have_another(const struct message *m, uint32_t delivery, uint32_t attempt)
{
    const struct attempt_log *l = message_attempt((struct message *)(uintptr_t)m, delivery, attempt);

    if (l == NULL || l->dot_ns == 0)
        return false;
    return l->doubt || l->reply_lost || lost_power(l) || sim_plan_damaged(l->node) || world.node[l->node].wiped;
}

static void another_copy(const struct message *m, const struct dot *d, unsigned recipient)
{
    const struct recipient_log *r = &m->recipients[recipient];
    uint32_t first = d->attempt < r->copy_of ? d->attempt : r->copy_of;

    world.result->duplicated++;
    if (d->attempt == r->copy_of || !may_have_another(m, d->delivery, first))
        sim_violation(4, "recipient %u of key %llu has copies of attempts %u and %u, and nothing says so", recipient,
                      (unsigned long long)m->key, r->copy_of, d->attempt);
}

void check_copy(struct message *m, const struct dot *d)
{
    if (m->enqueued_ns == 0)
        sim_violation(2, "key %llu is delivered before it is committed", (unsigned long long)m->key);
    if (d->length != m->length || memcmp(d->checksum, m->checksum, sizeof(m->checksum)) != 0)
        sim_violation(12, "key %llu is delivered with other bytes (%llu, were %llu)", (unsigned long long)m->key,
                      (unsigned long long)d->length, (unsigned long long)m->length);
    for (unsigned i = 0; i < d->n; i++) {
        struct recipient_log *r = &m->recipients[d->recipients[i]];
        if (r->delivery != d->delivery)
            sim_violation(2, "recipient %u of key %llu gets another delivery's copy", d->recipients[i],
                          (unsigned long long)m->key);
        if (r->copies++ > 0)
            another_copy(m, d, d->recipients[i]);
        if (d->attempt > r->copy_of)
            r->copy_of = d->attempt;
    }
}

/* ---- lives (8, 9) ---- */

/* Term and vote that the dead process was told to be stored, and may have answered with, are on its disk. */
static void check_vote(unsigned node)
{
    struct sim_raft_view view;

    if (sim_plan_damaged(node) || world.node[node].wiped)
        return;
    sim_raft_view(node, &view);
    if (view.term < view.told_term)
        sim_violation(8, "node %u goes back from term %llu to %llu", node, (unsigned long long)view.told_term,
                      (unsigned long long)view.term);
    if (view.term == view.told_term && view.told_vote != 0 && view.vote != view.told_vote)
        sim_violation(8, "node %u has vote %llu in term %llu on disk, but was told that %llu is stored", node,
                      (unsigned long long)view.vote, (unsigned long long)view.term, (unsigned long long)view.told_vote);
}

void check_died(unsigned node)
{
    const struct world_node *n = &world.node[node];

    check_vote(node);
    if (n->cluster == NULL || n->life != sim_node_life(node))
        return;
    for (struct message *m = world.messages; m != NULL; m = m->after) {
        if (m->finished_ns != 0)
            continue;
        uint64_t bit = 1ULL << node;
        m->had = holds(node, m) ? m->had | bit : m->had & ~bit;
    }
}

/* spool.h S1. */
void check_reopened(unsigned node)
{
    if (sim_plan_damaged(node) || world.node[node].wiped)
        return;
    for (const struct message *m = world.messages; m != NULL; m = m->after)
        if (m->finished_ns == 0 && m->enqueued_ns != 0 && (m->had & (1ULL << node)) && !holds(node, m))
            sim_violation(9, "node %u had the body of key %llu, and has lost it over its restart", node,
                          (unsigned long long)m->key);
}

void check_leading(unsigned node, uint64_t term)
{
    static struct {
        uint64_t term;
        unsigned node;
    } * leaders;
    static size_t n;

    world.result->leaders++;
    /* Newest first. A list: one flipped bit may make a term of any size. */
    for (size_t i = n; i-- > 0;)
        if (leaders[i].term == term && leaders[i].node != node)
            sim_violation(8, "nodes %u and %u both lead term %llu", leaders[i].node, node, (unsigned long long)term);
    leaders = mr_realloc(leaders, (n + 1) * sizeof(*leaders));
    leaders[n].term = term;
    leaders[n++].node = node;
}

/* ---- the end (1, 7, 10, 13) ---- */

/* In the world: cluster_readiness asks the clock of the node, which nobody is then. */
static bool ready(unsigned node)
{
    const struct world_node *n = &world.node[node];

    return n->open && sim_node_alive(node) && !sim_node_paused(node) &&
           atomic_load(&n->cluster->readiness) == CLUSTER_READY &&
           sim_node_boot_ns(node) < atomic_load(&n->cluster->lease_end_ns);
}

bool check_drained(void)
{
    if (world.accepted != world.finished || !clients_done())
        return false;
    for (unsigned n = 1; n <= world.config.nodes; n++)
        if (!sim_world_lost(n) && (!ready(n) || state_index(world.node[n].cluster->state) != oracle_index()))
            return false;
    return true;
}

static const char *state_name(enum delivery_state s)
{
    static const char *const names[] = {"ready", "assigned", "deferred", "held", "done"};
    return names[s];
}

void check_why(char *why, size_t len)
{
    for (unsigned n = 1; n <= world.config.nodes; n++) {
        const struct world_node *w = &world.node[n];
        if (sim_world_lost(n) || ready(n))
            continue;
        (void)snprintf(why, len, "node %u is not ready (%s, readiness %d%s%s)", n,
                       !sim_node_alive(n) ? "dead"
                       : !w->open         ? "not open"
                                          : "up",
                       w->cluster == NULL ? -1 : (int)atomic_load(&w->cluster->readiness), w->why[0] ? ": " : "",
                       w->why);
        return;
    }
    if (!clients_done()) {
        (void)snprintf(why, len, "clients still wait for 250");
        return;
    }
    for (const struct message *m = world.messages; m != NULL; m = m->after) {
        if (m->enqueued_ns == 0 || m->finished_ns != 0)
            continue;
        const struct delivery_log *d = &m->deliveries[0];
        for (unsigned i = 0; i < m->n_deliveries && d->state == DELIVERY_DONE; i++)
            d = &m->deliveries[i];
        (void)snprintf(
            why, len,
            "%llu messages are queued; the first is key %llu%s, of %llu ms, its delivery to hop %u %s, attempt %u",
            (unsigned long long)(world.accepted - world.finished), (unsigned long long)m->key, m->dsn ? " (DSN)" : "",
            (unsigned long long)(m->enqueued_ns / MR_NS_PER_MS), d->hop, state_name(d->state), d->attempt);
        return;
    }
    (void)snprintf(why, len, "nodes do not catch up");
}

static void check_states(void)
{
    uint8_t first[16], hash[16];
    unsigned of = 0;

    for (unsigned n = 1; n <= world.config.nodes; n++) {
        struct state_counts counts;
        if (sim_world_lost(n))
            continue;
        state_hash(world.node[n].cluster->state, hash);
        if (of != 0 && memcmp(first, hash, sizeof(hash)) != 0)
            sim_violation(7, "nodes %u and %u end with different states", of, n);
        memcpy(first, hash, sizeof(hash));
        of = n;
        state_check(world.node[n].cluster->state);
        state_counts(world.node[n].cluster->state, &counts);
        if (counts.messages != 0)
            sim_violation(13, "node %u keeps %llu messages that have ended", n, (unsigned long long)counts.messages);
    }
}

void check_end(void)
{
    check_states();
    for (const struct message *m = world.messages; m != NULL; m = m->after) {
        if (m->reply == REPLY_OK && m->enqueued_ns == 0)
            sim_violation(1, "key %llu got 250 and is nowhere", (unsigned long long)m->key);
        if (m->enqueued_ns == 0)
            continue;
        for (unsigned i = 0; i < m->n_recipients; i++)
            if (m->recipients[i].state == RECIPIENT_QUEUED || m->recipients[i].state == RECIPIENT_CANCELLED)
                sim_violation(1, "recipient %u of key %llu has no end", i, (unsigned long long)m->key);
    }
}

bool check_collected(void)
{
    for (unsigned n = 1; n <= world.config.nodes; n++) {
        struct spool_entry entry;
        uint64_t cursor = 0;
        if (sim_world_lost(n))
            continue;
        if (!world.node[n].open || world.node[n].cluster->spool == NULL ||
            spool_list(world.node[n].cluster->spool, &cursor, &entry, 1) > 0)
            return false;
    }
    return true;
}

/* ---- bodies that go (10) ---- */

void __real_spool_close(struct spool *sp, void (*cb)(void *arg), void *arg);
void __wrap_spool_close(struct spool *sp, void (*cb)(void *arg), void *arg);
void __wrap_spool_close(struct spool *sp, void (*cb)(void *arg), void *arg)
{
    struct world_node *n = &world.node[sim_node()];

    for (struct message *m = world.messages; m != NULL && n->closing == sp; m = m->after)
        if (m->finished_ns == 0 && spool_has(sp, m->id, NULL))
            m->had |= 1ULL << sim_node();
    n->closing = NULL;
    __real_spool_close(sp, cb, arg);
}

void __real_spool_drop(struct spool *sp, struct mr_id id);
void __wrap_spool_drop(struct spool *sp, struct mr_id id);
void __wrap_spool_drop(struct spool *sp, struct mr_id id)
{
    const struct message *m = message_find(id);

    if (m != NULL && m->enqueued_ns != 0 && m->finished_ns == 0 && !oracle_removes(m) && spool_has(sp, id, NULL) &&
        !sim_plan_damaged(sim_node()))
        sim_violation(10, "node %u drops the body of key %llu, which is queued", sim_node(),
                      (unsigned long long)m->key);
    if (m != NULL && m->enqueued_ns == 0 && spool_has(sp, id, NULL))
        sim_see("body without envelope: ", world.healed ? "collected" : "collected under load");
    __real_spool_drop(sp, id);
}
