/* Next hops: what takes the mail. They live outside of the nodes and journal what they answered 250.
 *
 * A dot that was written arrives after the wire's time; when its node's process ends before, the kernel may still send
 * it or not. Connections are counted on the nodes' side: the cluster promises how many it holds, not when a next hop
 * reads that one was closed. */
#include "chaos-tests/sim/sim_world.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct hop {
    char name[64];
    uint64_t latency_ns, latency_most_ns;
    double refuse_4, refuse_5, drop;
    enum sim_hop_fault fault;
    uint64_t fault_until;
    uint32_t limit;       /* connections; 0: any number */
    double rate;          /* attempts a second; 0: any */
    uint64_t starts[256]; /* of attempts, newest last, by true time; a ring */
    uint64_t n_starts;
};
struct hop_connection {
    struct hop_connection *next;
    unsigned hop, node;
    uint64_t life;
    bool broken; /* by the next hop; the node has not closed it yet */
};
static struct {
    struct hop hops[WORLD_MAX_HOPS];
    unsigned n;
    struct hop_connection *connections;
} net;

unsigned sim_hops(void)
{
    return net.n;
}

static void set_limit(struct hop *h, const Mailraft__Rules *rules)
{
    const Mailraft__Limit *limit = route_limit(rules, h->name);

    h->limit = limit->connections;
    h->rate = limit->rate;
}

void hops_start(unsigned n)
{
    net.n = n;
    for (unsigned i = 0; i < n; i++) {
        struct hop *h = &net.hops[i];
        (void)snprintf(h->name, sizeof(h->name), "smtp://hop%u.test:25", i);
        h->latency_ns = sim_between(SIM_LOAD, 50000, 5000000);
        h->latency_most_ns = h->latency_ns * sim_between(SIM_LOAD, 1, 8);
        /* A sluggish one has attempts under way at any moment: what goes wrong meets them. */
        if (sim_chance(SIM_LOAD, 0.3)) {
            h->latency_ns = sim_between(SIM_LOAD, 50, 800) * MR_NS_PER_MS;
            h->latency_most_ns = h->latency_ns * 3;
        }
        h->refuse_4 = sim_chance(SIM_LOAD, 0.3) ? 0.1 : 0;
        h->refuse_5 = sim_chance(SIM_LOAD, 0.4) ? 0.08 : sim_chance(SIM_LOAD, 0.2) ? 0.4 : 0;
        h->drop = sim_chance(SIM_LOAD, 0.3) ? 0.03 : 0;
        set_limit(h, world.rules);
    }
}

const char *hop_name(unsigned hop)
{
    return net.hops[hop].name;
}

unsigned hop_by_name(const char *name)
{
    for (unsigned i = 0; i < net.n; i++)
        if (strcmp(net.hops[i].name, name) == 0)
            return i;
    sim_violation(2, "next hop %s is nobody's", name);
}

static enum sim_hop_fault fault_of(const struct hop *h)
{
    return sim_now() < h->fault_until ? h->fault : SIM_HOP_FINE;
}

uint64_t hop_latency(unsigned hop)
{
    const struct hop *h = &net.hops[hop];
    uint64_t ns = sim_between(SIM_LOAD, h->latency_ns, h->latency_most_ns);

    if (fault_of(h) == SIM_HOP_SLOW)
        ns += sim_between(SIM_LOAD, 100, 4000) * MR_NS_PER_MS;
    return ns;
}

/* ---- faults ---- */

static void break_connections(unsigned hop)
{
    for (struct hop_connection *c = net.connections; c != NULL; c = c->next)
        if (c->hop == hop)
            c->broken = true;
}

void sim_hops_fault(unsigned hop, enum sim_hop_fault kind, uint64_t until)
{
    net.hops[hop].fault = kind;
    net.hops[hop].fault_until = until;
    if (kind == SIM_HOP_DEAD)
        break_connections(hop);
}

void sim_hops_heal(void)
{
    for (unsigned i = 0; i < net.n; i++) {
        net.hops[i].fault = SIM_HOP_FINE;
        net.hops[i].refuse_4 = net.hops[i].drop = 0;
        /* What waits for a sluggish one with a single connection would last beyond any patience. */
        net.hops[i].latency_ns = net.hops[i].latency_most_ns = MR_NS_PER_MS;
    }
}

/* ---- exact limits (PROTOCOL.md 6) ---- */

/* Its process runs, and may begin something: one that was paused, or whose lease has ended, closes what it has as soon
 * as it can, and the leader need not wait for that. */
static bool entitled(const struct hop_connection *c)
{
    const struct world_node *n = &world.node[c->node];

    return sim_node_alive(c->node) && !sim_node_paused(c->node) && sim_node_life(c->node) == c->life && n->open &&
           sim_node_boot_ns(c->node) < atomic_load(&n->cluster->lease_end_ns);
}

static void check_connections(unsigned hop)
{
    unsigned n = 0;

    for (const struct hop_connection *c = net.connections; c != NULL; c = c->next)
        n += c->hop == hop && entitled(c);
    if (net.hops[hop].limit > 0 && n > net.hops[hop].limit)
        sim_violation(SIM_LIMITS, "%u connections to %s, where %u are allowed", n, net.hops[hop].name,
                      net.hops[hop].limit);
}

/* sched.h S2: attempts started in any interval t <= rate * (t + 1 s) + burst. What began later than a second after it
 * was granted (a pause, a slow disk) is not counted: grants are what the leader can keep to the rate. */
void hops_started_attempt(struct message *m, uint32_t delivery, uint32_t attempt)
{
    struct hop *h = &net.hops[m->deliveries[delivery].hop];
    const struct attempt_log *l = message_attempt(m, delivery, attempt);
    uint64_t now = sim_now();
    enum { RING = sizeof(h->starts) / sizeof(h->starts[0]) };

    if (!(h->rate > 0) || l == NULL || now - l->assigned_ns > MR_NS_PER_S)
        return;
    h->starts[h->n_starts++ % RING] = now;
    double burst = h->rate * 0.05 > 1 ? h->rate * 0.05 : 1;
    uint64_t have = h->n_starts < RING ? h->n_starts : RING;
    for (uint64_t k = 1; k <= have; k++) {
        double t = (double)(now - h->starts[(h->n_starts - k) % RING]) / (double)MR_NS_PER_S;
        /* A tenth more for clocks that run fast within what is tolerated. */
        if ((double)k > h->rate * (t + 1) * 1.1 + burst + 1)
            sim_violation(SIM_LIMITS, "%llu attempts within %.3f s to %s, where %.1f a second are allowed",
                          (unsigned long long)k, t, h->name, h->rate);
    }
}

/* ---- connections ---- */

struct hop_connection *hop_connect(unsigned hop, uint64_t *ns)
{
    const struct hop *h = &net.hops[hop];

    *ns = hop_latency(hop);
    if (fault_of(h) == SIM_HOP_DEAD) {
        *ns = sim_between(SIM_LOAD, 1, 3000) * MR_NS_PER_MS;
        return NULL;
    }
    struct hop_connection *c = mr_calloc(1, sizeof(*c));
    c->hop = hop;
    c->node = sim_node();
    c->life = sim_node_life(c->node);
    c->next = net.connections;
    net.connections = c;
    check_connections(hop);
    return c;
}

static void forget(struct hop_connection *c)
{
    struct hop_connection **link = &net.connections;

    while (*link != c)
        link = &(*link)->next;
    *link = c->next; /* the memory stays: dots on their way name it */
    c->broken = true;
}

void hop_close(struct hop_connection *c)
{
    forget(c);
}

void hops_node_ended(unsigned node)
{
    for (struct hop_connection *c = net.connections, *next; c != NULL; c = next) {
        next = c->next;
        if (c->node == node)
            forget(c);
    }
}

/* ---- transactions ---- */

bool hop_answers(struct hop_connection *c, struct message *m, const uint32_t *recipients, unsigned n,
                 struct hop_answer *out)
{
    const struct hop *h = &net.hops[c->hop];
    enum sim_hop_fault fault = fault_of(h);
    double p4 = fault == SIM_HOP_REFUSES_4 ? 0.8 : h->refuse_4;
    double p5 = fault == SIM_HOP_REFUSES_5 ? 0.7 : h->refuse_5;

    if (c->broken)
        return false;
    for (unsigned i = 0; i < n; i++) {
        out->codes[i] = sim_chance(SIM_LOAD, p5) ? 550 : sim_chance(SIM_LOAD, p4) ? 450 : 250;
        if (out->codes[i] == 550)
            m->recipients[recipients[i]].refused = true;
    }
    return true;
}

struct flight {
    struct dot d;
    uint64_t life;
    unsigned node;
    int code;
    void (*done)(struct sim_worker *w, uint64_t slot, uint64_t serial, int code);
};

static void reply_comes(void *arg)
{
    struct flight *f = arg;

    f->done(f->d.worker, f->d.slot, f->d.serial, f->code);
    free(f);
}

static void arrives(void *arg)
{
    struct flight *f = arg;
    struct hop_connection *c = f->d.connection;
    const struct hop *h = &net.hops[c->hop];
    enum sim_hop_fault fault = fault_of(h);
    bool ended = !sim_node_alive(f->node) || sim_node_life(f->node) != f->life;
    bool lost = fault == SIM_HOP_DEAD || (ended && sim_chance(SIM_LOAD, 0.5));

    f->code = 0;
    if (!lost) {
        bool drops = sim_chance(SIM_LOAD, fault == SIM_HOP_DROPS ? 0.7 : h->drop);
        if (fault != SIM_HOP_LIES && !MR_MUTANT(MUTANT_LYING_HOP))
            check_copy(f->d.message, &f->d);
        f->code = drops ? 0 : 250;
    }
    if (ended || !sim_worker_lives(f->d.worker)) {
        free(f);
        return;
    }
    uint64_t wire = lost ? sim_between(SIM_LOAD, 1, 5000) * MR_NS_PER_MS : hop_latency(c->hop);
    sim_loop_post(&f->d.worker->loop, sim_now() + wire, reply_comes, f);
}

void hop_dot(const struct dot *d, void (*done)(struct sim_worker *w, uint64_t slot, uint64_t serial, int code))
{
    struct flight *f = mr_malloc(sizeof(*f));

    *f = (struct flight){.d = *d, .node = d->worker->node, .life = d->worker->life, .done = done};
    if (d->connection->broken) { /* nobody hears it */
        f->code = 0;
        sim_loop_post(&d->worker->loop, sim_now() + hop_latency(d->connection->hop), reply_comes, f);
        return;
    }
    sim_at(sim_now() + hop_latency(d->connection->hop), arrives, f);
}
