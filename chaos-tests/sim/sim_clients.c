/* Clients: each message has a queue of its own kind behind it, that tries again, at another node, until it reads 250 or
 * gives up: then as a new submission, as a client that cannot know does. */
#include "chaos-tests/sim/sim_world.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { CLIENT_TIMEOUT_MS = 40000, AGAIN_LEAST_MS = 100, AGAIN_MOST_MS = 4000 };

struct client {
    struct client *next;
    uint64_t key;
    unsigned tries, tries_most;
    unsigned only; /* node; 0: any */
    bool done;     /* read 250, or gave up */
    bool taken;
    struct submission *now; /* under way */
    struct submission what; /* its content, copied for each try */
};
static struct {
    struct client *first;
    unsigned n, n_done;
    uint64_t keys;
} clients;

static void try_again(struct client *c);

static void on_try(void *arg)
{
    struct client *c = arg;

    if (!c->done && c->now == NULL)
        try_again(c);
}

static void later(struct client *c)
{
    uint64_t ms = sim_between(SIM_LOAD, AGAIN_LEAST_MS, AGAIN_MOST_MS);

    c->now = NULL;
    bool lost = c->only != 0 && sim_world_lost(c->only);
    if (lost || (c->tries >= c->tries_most && !world.healed)) {
        c->done = true;
        clients.n_done++;
        return;
    }
    sim_at(sim_now() + ms * MR_NS_PER_MS, on_try, c);
}

static void on_reply(struct submission *s, int code)
{
    struct client *c = s->arg;

    if (c->now != s)
        return;
    c->now = NULL;
    if (code / 100 == 2) {
        c->done = c->taken = true;
        clients.n_done++;
        return;
    }
    later(c);
}

/* No reply was read: what became of it is not known. */
static void lose(struct client *c)
{
    c->now->hung_up = true;
    later(c);
}

struct hang_up {
    struct client *c;
    struct submission *s;
};

static void on_hang_up(void *arg)
{
    struct hang_up *h = arg;

    if (h->c->now == h->s && !h->s->hung_up) {
        sim_trace("client-hangs-up", h->c->key);
        lose(h->c);
    }
    free(h);
}

static void hang_up_in(struct client *c, uint64_t ns)
{
    struct hang_up *h = mr_malloc(sizeof(*h));

    *h = (struct hang_up){c, c->now};
    sim_at(sim_now() + ns, on_hang_up, h);
}

static void try_again(struct client *c)
{
    unsigned node = c->only != 0 ? c->only : (unsigned)sim_between(SIM_LOAD, 1, world.config.nodes);

    c->tries++;
    if (!node_serves(node)) { /* nobody listens, or nobody answers */
        later(c);
        return;
    }
    struct submission *s = mr_malloc(sizeof(*s)); /* lives as long as the world: late replies name it */
    *s = c->what;
    s->replied = on_reply;
    s->arg = c;
    s->pace_ns = sim_chance(SIM_LOAD, 0.05) ? sim_between(SIM_LOAD, 1, 3000) * MR_NS_PER_MS : 0;
    c->now = s;
    world.result->submitted++;
    struct world_node *n = &world.node[node];
    sim_session_begin(n->workers[sim_below(SIM_LOAD, world.config.workers)], s);
    if (sim_chance(SIM_LOAD, 0.05) && !world.healed)
        hang_up_in(c, sim_between(SIM_LOAD, 1, 300) * MR_NS_PER_MS);
    else
        hang_up_in(c, CLIENT_TIMEOUT_MS * MR_NS_PER_MS);
}

void clients_node_ended(unsigned node)
{
    for (struct client *c = clients.first; c != NULL; c = c->next)
        if (c->now != NULL && c->now->node == node && !c->now->over) {
            c->now->over = true;
            lose(c);
        }
}

/* ---- content ---- */

static uint64_t length(void)
{
    switch (sim_below(SIM_LOAD, 40)) {
    case 0:
        return 0;
    case 1:
        return sim_between(SIM_LOAD, 1, 64);
    case 2:
        return sim_between(SIM_LOAD, 200000, 300000);
    case 3:
        return sim_chance(SIM_LOAD, 0.3) ? sim_between(SIM_LOAD, 300000, WORLD_MAX_PIECES * 256 * 1024) : 262144;
    default:
        return sim_between(SIM_LOAD, 100, 4000);
    }
}

static struct client *new_client(void)
{
    struct client *c = mr_calloc(1, sizeof(*c));
    struct submission *s = &c->what;
    static const uint32_t notify[] = {0, 0, 0, 0, 0, 0, 1, 2, 4, 2 | 4, 4 | 8, 2 | 4 | 8};

    c->key = s->key = ++clients.keys;
    c->tries_most = (unsigned)sim_between(SIM_LOAD, 1, 30);
    s->null_sender = sim_chance(SIM_LOAD, 0.1);
    s->sender_hop = (unsigned)sim_below(SIM_LOAD, world.config.hops);
    s->sender_user = (unsigned)sim_below(SIM_LOAD, 1000);
    s->n_recipients = sim_chance(SIM_LOAD, 0.7) ? 1 : (unsigned)sim_between(SIM_LOAD, 2, WORLD_MAX_RECIPIENTS);
    for (unsigned i = 0; i < s->n_recipients; i++) {
        s->recipients[i].hop = (unsigned)sim_below(SIM_LOAD, world.config.hops);
        s->recipients[i].user = (unsigned)sim_below(SIM_LOAD, 1000);
        s->recipients[i].notify = notify[sim_below(SIM_LOAD, sizeof(notify) / sizeof(notify[0]))];
    }
    s->length = length();
    s->priority = sim_chance(SIM_LOAD, 0.1) ? (int32_t)sim_between(SIM_LOAD, 0, 18) - 9 : 0;
    s->hold_ms = sim_chance(SIM_LOAD, 0.02) ? sim_between(SIM_LOAD, 1000, 15000) : 0;
    if (world.config.long_load && !world.healed && sim_chance(SIM_LOAD, 0.5)) /* shorter than the world settles */
        s->hold_ms = sim_between(SIM_LOAD, STATE_GRACE_MS / 2, STATE_GRACE_MS + 200000);
    c->next = clients.first;
    clients.first = c;
    clients.n++;
    return c;
}

void clients_start(uint64_t begin, uint64_t end)
{
    bool bursts = sim_chance(SIM_LOAD, 0.2);
    uint64_t at = begin;

    for (unsigned i = 0; i < world.config.messages; i++) {
        if (!bursts || sim_chance(SIM_LOAD, 0.1))
            at = sim_between(SIM_LOAD, begin, end);
        sim_at(at, on_try, new_client());
    }
}

void clients_probe(unsigned node)
{
    struct client *c = new_client();

    c->only = node;
    sim_at(sim_now(), on_try, c);
}

bool clients_done(void)
{
    return clients.n_done == clients.n;
}
