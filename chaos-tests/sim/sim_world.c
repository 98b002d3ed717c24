/* A world: what the seed chooses, the nodes' main, the phases of a run.
 *
 * form -> load and faults -> heal -> settle (until everything that was accepted has come to its end, everywhere) ->
 * check; some go on until the collector's grace has passed and no body is left. */
#include "chaos-tests/sim/sim_world.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct world world;

enum {
    MAX_DEATHS = 300,   /* of a node; more is a loop of crashes */
    FORM_MS = 60000,    /* within which a cluster forms */
    SETTLE_MS = 900000, /* invariant 13's T: probes of a next hop that was dead come further and further apart */
    BUCKETS = 4096,
    DRAIN_MS = 3000,
};

/* ---- messages ---- */

static struct message *buckets[BUCKETS];

struct message *message_find(struct mr_id id)
{
    struct message *m = buckets[mr_id_hash(id) % BUCKETS];

    while (m != NULL && !mr_id_equal(m->id, id))
        m = m->next;
    return m;
}

struct message *message_new(struct mr_id id)
{
    struct message *m = mr_calloc(1, sizeof(*m));
    struct message **bucket = &buckets[mr_id_hash(id) % BUCKETS];
    static uint64_t seeds;

    if (message_find(id) != NULL)
        sim_violation(2, "an id comes twice");
    m->id = id;
    m->seed = ++seeds;
    m->begun_ns = sim_now();
    m->next = *bucket;
    *bucket = m;
    *world.messages_tail = m;
    world.messages_tail = &m->after;
    return m;
}

/* Bytes by place: a message's content is a function of its seed. */
static uint64_t content_word(const struct message *m, uint64_t number)
{
    uint64_t word = (number + 1) * 0x9E3779B97F4A7C15ULL ^ m->seed * 0xD6E8FEB86659FD93ULL;
    return word ^ word >> 29;
}

void message_content(const struct message *m, uint64_t offset, uint8_t *out, size_t len)
{
    uint64_t number = offset / 8;
    size_t from = offset % 8;

    if (from != 0 && len > 0) {
        uint64_t word = content_word(m, number++);
        size_t n = 8 - from < len ? 8 - from : len;
        memcpy(out, (uint8_t *)&word + from, n);
        out += n;
        len -= n;
    }
    for (; len >= 8; out += 8, len -= 8) {
        uint64_t word = content_word(m, number++);
        memcpy(out, &word, 8);
    }
    if (len > 0) {
        uint64_t word = content_word(m, number);
        memcpy(out, &word, len);
    }
}

void message_checksum(struct message *m)
{
    uint8_t *all = mr_malloc(m->length + 1);
    XXH128_canonical_t checksum;

    message_content(m, 0, all, m->length);
    XXH128_canonicalFromHash(&checksum, XXH3_128bits(all, m->length));
    memcpy(m->checksum, checksum.digest, sizeof(m->checksum));
    free(all);
}

struct attempt_log *message_attempt(struct message *m, uint32_t delivery, uint32_t attempt)
{
    struct delivery_log *d = &m->deliveries[delivery];

    if (delivery >= m->n_deliveries)
        return NULL;
    for (unsigned i = d->n_attempts; i-- > 0;)
        if (d->attempts[i].attempt == attempt)
            return &d->attempts[i];
    return NULL;
}

char *recipient_address(const struct message *m, unsigned recipient, char text[64])
{
    const struct recipient_log *r = &m->recipients[recipient];

    (void)snprintf(text, 64, "u%u@d%u.test", r->user, r->hop);
    return text;
}

/* ---- what the seed chooses ---- */

static void add_limit(Mailraft__Rules *r, unsigned hop)
{
    Mailraft__Limit *limit = mr_malloc(sizeof(*limit));

    mailraft__limit__init(limit);
    limit->site = mr_asprintf("hop%u.test", hop);
    if (sim_chance(SIM_LOAD, 0.7))
        limit->connections = (uint32_t)(sim_chance(SIM_LOAD, 0.4) ? 1 : sim_between(SIM_LOAD, 2, 20));
    if (sim_chance(SIM_LOAD, 0.4))
        limit->rate = (double)sim_between(SIM_LOAD, 2, 50);
    r->limits[r->n_limits++] = limit;
}

static Mailraft__Rules *make_rules(const struct world_config *c)
{
    Mailraft__Rules *r = mr_malloc(sizeof(*r));

    mailraft__rules__init(r);
    r->routes = mr_calloc(c->hops, sizeof(Mailraft__Route *));
    r->limits = mr_calloc(c->hops, sizeof(Mailraft__Limit *));
    for (unsigned i = 0; i < c->hops; i++) {
        Mailraft__Route *route = mr_malloc(sizeof(*route));
        mailraft__route__init(route);
        route->domain = mr_asprintf("d%u.test", i);
        route->route = mr_asprintf("smtp://hop%u.test:25", i);
        r->routes[r->n_routes++] = route;
        if (sim_chance(SIM_LOAD, 0.6))
            add_limit(r, i);
    }
    r->retry_first_for_ms = c->retry_first_ms;
    r->retry_factor = 2;
    r->retry_max_for_ms = c->retry_max_ms;
    r->warn_after_for_ms = c->warn_ms;
    r->expire_after_for_ms = c->expire_ms;
    r->replicas = c->nodes < 3 ? c->nodes : c->nodes / 2 + 1 > 3 ? c->nodes / 2 + 1 : 3;
    return r;
}

static void choose(const struct sim_options *options)
{
    struct world_config *c = &world.config;
    static const unsigned sizes[] = {3, 3, 3, 3, 3, 3, 5, 5, 7};
    unsigned n = sizes[sim_below(SIM_LOAD, sizeof(sizes) / sizeof(sizes[0]))];
    uint64_t seconds = sim_chance(SIM_LOAD, 0.8) ? sim_between(SIM_LOAD, 8, 20) : sim_between(SIM_LOAD, 20, 90);

    c->nodes = options->nodes != 0 ? options->nodes : n;
    c->load_ns = (options->seconds != 0 ? options->seconds : seconds) * MR_NS_PER_S;
    c->hops = (unsigned)sim_between(SIM_LOAD, 1, WORLD_MAX_HOPS);
    c->workers = (unsigned)sim_between(SIM_LOAD, 1, WORLD_MAX_WORKERS);
    c->messages =
        (unsigned)(sim_chance(SIM_LOAD, 0.8) ? sim_between(SIM_LOAD, 10, 60) : sim_between(SIM_LOAD, 60, 300));
    if (options->messages_max != 0 && c->messages > options->messages_max)
        c->messages = (unsigned)options->messages_max;
    bool expires = sim_chance(SIM_LOAD, 0.3);
    c->expire_ms = expires ? sim_between(SIM_LOAD, 10000, 60000) : 3600000;
    c->warn_ms = sim_chance(SIM_LOAD, 0.3) ? sim_between(SIM_LOAD, 4000, 20000) : 0;
    c->retry_first_ms = sim_between(SIM_LOAD, 1000, 5000);
    c->retry_max_ms = sim_between(SIM_LOAD, 5000, 20000);
    c->hash_every = sim_chance(SIM_LOAD, 0.15) ? 1 : 16;
    c->long_settle = sim_chance(SIM_LOAD, 0.02);
    c->max_attempts = sim_chance(SIM_LOAD, 0.2) ? (unsigned)sim_between(SIM_LOAD, 2, 10) : 1000;
    c->long_load = c->long_settle && options->seconds == 0 && sim_chance(SIM_LOAD, 0.3);
    if (c->long_load) {
        c->load_ns = sim_between(SIM_LOAD, 900, 1500) * MR_NS_PER_S;
        c->expire_ms = 3600000;
    }
    if (c->long_settle)
        sim_see("world: ", c->long_load ? "works beyond the grace" : "waits beyond the grace");
    world.rules = make_rules(c);
}

/* ---- a node's process ---- */

struct node_life {
    unsigned node;
    uv_loop_t loop;
    uv_timer_t daily;
    struct cluster_member members[SIM_MAX_NODES];
    struct cluster_config config;
};

static const char *node_name(unsigned node)
{
    static const char *const names[] = {"", "n1", "n2", "n3", "n4", "n5", "n6", "n7"};
    return names[node];
}

static const char *node_address(unsigned node)
{
    static const char *const addresses[] = {"",        "n1:7400", "n2:7400", "n3:7400",
                                            "n4:7400", "n5:7400", "n6:7400", "n7:7400"};
    return addresses[node];
}

static struct node_life *make_life(unsigned node)
{
    struct node_life *l = mr_calloc(1, sizeof(*l));

    l->node = node;
    for (unsigned i = 0; i < world.config.nodes; i++)
        l->members[i] = (struct cluster_member){node_name(i + 1), node_address(i + 1)};
    l->config = (struct cluster_config){
        .name = node_name(node),
        .data_dir = "/data",
        .listen = node_address(node),
        .initial = l->members,
        .n_initial = world.config.nodes,
        .insecure = true,
        .heartbeat_ms = 100,
        .election_timeout_ms = 500,
        .lease_ms = 3000,
        .node_timeout_ms = 5000,
        .commit_timeout_ms = 30000,
        .rules = world.rules,
        .max_attempts = world.config.max_attempts,
    };
    return l;
}

static void on_day(uv_timer_t *timer)
{
    (void)timer;
}

static void refuse(unsigned node, const char *why)
{
    struct world_node *n = &world.node[node];

    n->refused = true;
    (void)snprintf(n->why, sizeof(n->why), "%s", why);
    sim_tracef("refused: %s", why);
}

static bool node_open(struct node_life *l)
{
    struct world_node *n = &world.node[l->node];
    struct cluster *c;
    char error[1024] = "";

    if (cluster_open(&c, &l->config, error, sizeof(error)) != 0) {
        refuse(l->node, error);
        if (!sim_plan_excuses(l->node))
            sim_violation(13, "node %u cannot start: %s", l->node, error);
        n->refused = sim_plan_damaged(l->node); /* a full disk: the supervisor tries again */
        return false;
    }
    n->cluster = c;
    n->life = sim_node_life(l->node);
    check_reopened(l->node);
    for (unsigned i = 0; i < world.config.workers; i++)
        n->workers[i] = sim_worker_open(l->node, i, c);
    for (unsigned i = 0; i < world.config.workers; i++)
        sim_worker_start(n->workers[i]);
    mr_assert(cluster_start(c) == 0);
    n->stopping = false;
    n->open = true;
    return true;
}

static void node_stop(struct node_life *l)
{
    struct world_node *n = &world.node[l->node];

    n->stopping = true;
    cluster_drain(n->cluster, DRAIN_MS);
    for (unsigned i = 0; i < world.config.workers; i++)
        sim_worker_stop(n->workers[i]);
    for (unsigned i = 0; i < world.config.workers; i++)
        sim_worker_join(n->workers[i]);
    check_died(l->node);
    struct cluster *c = n->cluster;
    n->open = false;
    n->cluster = NULL;
    n->closing = c->spool;
    cluster_close(c);
}

static void node_main(void *arg)
{
    struct node_life *l = make_life((unsigned)(uintptr_t)arg);

    mr_assert(uv_loop_init(&l->loop) == 0);
    world.node[l->node].main = l;
    if (!node_open(l))
        return;
    uv_timer_init(&l->loop, &l->daily);
    uv_timer_start(&l->daily, on_day, 86400000, 86400000);
    uv_run(&l->loop, UV_RUN_DEFAULT);
    node_stop(l);
}

void sim_world_boot(unsigned node)
{
    if (sim_node_alive(node))
        return;
    world.node[node].refused = false;
    world.node[node].why[0] = 0;
    sim_node_start(node, node_main, (void *)(uintptr_t)node);
}

static void boot_again(void *arg)
{
    sim_world_boot((unsigned)(uintptr_t)arg);
}

static void terminate(void *arg)
{
    struct node_life *l = arg;

    uv_stop(&l->loop);
}

void sim_world_drain(unsigned node)
{
    struct world_node *n = &world.node[node];

    if (sim_node_alive(node) && n->open && !n->stopping) {
        n->stopping = true;
        sim_loop_post(&n->main->loop, sim_now(), terminate, n->main);
    }
}

static void stall(void *arg)
{
    uint64_t ns = *(uint64_t *)arg;

    free(arg);
    sim_block(ns);
}

void sim_world_stall(unsigned node, unsigned thread, uint64_t ns)
{
    const struct world_node *n = &world.node[node];

    if (!node_serves(node))
        return;
    uv_loop_t *loop = thread == 0 ? &n->cluster->loop : &n->workers[thread % world.config.workers]->loop;
    sim_loop_post(loop, sim_now(), stall, mr_memdup(&ns, sizeof(ns)));
}

void sim_world_wipe(unsigned node)
{
    if (sim_node_alive(node))
        sim_node_crash(node, SIM_KILL);
    world.node[node].wiped = true;
    world.node[node].wiped_ns = sim_now();
    sim_disk_new(node);
}

bool sim_world_lost(unsigned node)
{
    const struct world_node *n = &world.node[node];

    return n->wiped || (n->refused && sim_plan_damaged(node));
}

bool node_serves(unsigned node)
{
    const struct world_node *n = &world.node[node];

    return sim_node_alive(node) && !sim_node_paused(node) && n->open && !n->stopping;
}

/* ---- what the kernel tells ---- */

static void on_end(unsigned node, enum sim_end how, const char *text)
{
    struct world_node *n = &world.node[node];
    bool was_open = n->open;

    n->open = false;
    hops_node_ended(node);
    clients_node_ended(node);
    if (how == SIM_POWER && n->n_power_cuts < WORLD_MAX_POWER_CUTS)
        n->power_cuts[n->n_power_cuts++] = sim_now();
    if (was_open || how == SIM_POWER) /* also of a machine whose process was dead */
        check_died(node);
    if (how != SIM_DIED)
        return;
    if (text[0] != 0 && !sim_plan_excuses(node))
        sim_violation(SIM_PANIC, "node %u: %s", node, text);
    if (++n->deaths > MAX_DEATHS)
        sim_violation(13, "node %u has ended by itself %u times, at last: %s", node, n->deaths, text);
    if (!n->refused)
        sim_at(sim_now() + sim_between(SIM_LOAD, 300, 3000) * MR_NS_PER_MS, boot_again, (void *)(uintptr_t)node);
}

static const struct log_field *field(const struct log_field *fields, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static struct {
    unsigned node;
    uint64_t term;
} leader;

static void on_log(unsigned node, enum log_level level, const char *event, const struct log_field *fields, size_t count)
{
    const struct log_field *f;

    (void)level;
    if (strcmp(event, "leading") == 0 && (f = field(fields, count, "term")) != NULL) {
        check_leading(node, (uint64_t)f->number);
        if ((uint64_t)f->number > leader.term) {
            leader.node = node;
            leader.term = (uint64_t)f->number;
        }
    } else if (strcmp(event, "refused") == 0 && (f = field(fields, count, "reason")) != NULL) {
        refuse(node, f->string);
    } else if (strcmp(event, "formed") == 0) {
        world.node[node].refused = false;
    }
}

unsigned sim_world_leader(void)
{
    return leader.node != 0 && sim_node_alive(leader.node) ? leader.node : 0;
}

/* ---- phases ---- */

static bool all_ready(void *arg)
{
    (void)arg;
    for (unsigned n = 1; n <= world.config.nodes; n++)
        if (!world.node[n].open || atomic_load(&world.node[n].cluster->readiness) != CLUSTER_READY)
            return false;
    return true;
}

static bool drained(void *arg)
{
    (void)arg;
    return check_drained();
}

static bool collected(void *arg)
{
    (void)arg;
    return check_collected();
}

static void form(void)
{
    char why[300];

    sim_net_start(world.config.nodes);
    for (unsigned n = 1; n <= world.config.nodes; n++) {
        sim_disk_new(n);
        sim_at(sim_between(SIM_LOAD, 0, 500) * MR_NS_PER_MS, boot_again, (void *)(uintptr_t)n);
    }
    if (sim_run_while(all_ready, NULL, sim_now() + FORM_MS * MR_NS_PER_MS))
        return;
    check_why(why, sizeof(why));
    sim_violation(13, "no cluster within %d s: %s", FORM_MS / 1000, why);
}

static void settle(void)
{
    char why[300] = "";

    sim_plan_heal();
    sim_hops_heal();
    world.healed = true;
    for (unsigned n = 1; n <= world.config.nodes; n++) {
        if (!sim_node_alive(n) && !sim_world_lost(n))
            sim_world_boot(n);
        if (!sim_world_lost(n))
            clients_probe(n);
    }
    if (!sim_run_while(drained, NULL, sim_now() + SETTLE_MS * MR_NS_PER_MS)) {
        check_why(why, sizeof(why));
        sim_violation(13, "%d s after the faults ended: %s", SETTLE_MS / 1000, why);
    }
    check_end();
    if (!world.config.long_settle)
        return;
    /* Grace, the idle leader's entry that moves committed time, and the collector's round. */
    if (!sim_run_while(collected, NULL, sim_now() + (STATE_GRACE_MS + 300000) * MR_NS_PER_MS))
        sim_violation(10, "bodies are left %d s after everything was delivered", STATE_GRACE_MS / 1000 + 300);
}

void sim_world_run(const struct sim_options *options, struct sim_result *result)
{
    world.result = result;
    world.messages_tail = &world.messages;
    sim_on_end = on_end;
    sim_on_log = on_log;
    choose(options);
    sim_sizes_start();
    hops_start(world.config.hops);
    form();
    uint64_t begin = sim_now(), heal_at = begin + world.config.load_ns;
    clients_start(begin, heal_at);
    sim_plan_start(options, world.config.nodes, begin, heal_at);
    result->faults = sim_plan_faults();
    sim_run_until(heal_at);
    settle();
    result->node_ns = sim_now() * world.config.nodes;
}
