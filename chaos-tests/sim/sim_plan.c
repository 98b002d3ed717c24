/* What happens when: the seed's faults are drawn before anything runs (sim_plan_start), each has a begin and an end; a
 * supervisor starts nodes that died, as systemd would. Swarm: a seed switches groups and kinds off at random, so that
 * those left meet each other more often and in purity. */
#include "chaos-tests/sim/sim_plan.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)

enum { SUPERVISE_MS = 100, LOST_BOOTS = 3, LONG_MS = 300000 /* more faults than PLAN_MAX would come early */ };

struct plan plan;

/* ---- chance of one fault ---- */

static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

uint64_t plan_below(struct plan_fault *f, uint64_t n)
{
    return n == 0 ? 0 : mix(&f->random) % n;
}

uint64_t plan_between(struct plan_fault *f, uint64_t low, uint64_t high)
{
    return low + plan_below(f, high - low + 1);
}

uint64_t plan_log_between(struct plan_fault *f, uint64_t low, uint64_t high)
{
    double at = (double)(mix(&f->random) >> 11) / (double)(UINT64_C(1) << 53);
    return (uint64_t)(exp(log((double)low) + at * (log((double)high + 1) - log((double)low))));
}

bool plan_chance(struct plan_fault *f, double p)
{
    return (double)(mix(&f->random) >> 11) / (double)(UINT64_C(1) << 53) < p;
}

/* ---- what faults do to nodes ---- */

void plan_kill(unsigned node, enum sim_end how)
{
    if (sim_node_alive(node)) {
        sim_node_crash(node, how);
    } else if (how == SIM_POWER) { /* the process was dead, its machine was not */
        sim_disk_power(node);
        sim_net_node_ended(node, how);
        if (sim_on_end != NULL)
            sim_on_end(node, how, "");
    }
}

void plan_down(unsigned node, enum sim_end how)
{
    plan.down[node]++;
    plan_kill(node, how);
}

void plan_boot(unsigned node)
{
    if (sim_node_alive(node) || plan.down[node] > 0)
        return;
    sim_tracef("plan: starts node %u", node);
    sim_world_boot(node);
    if (plan.paused[node] > 0)
        sim_node_pause(node);
}

void plan_up(unsigned node)
{
    mr_assert(plan.down[node] > 0);
    --plan.down[node];
    plan_boot(node);
}

void plan_pause(unsigned node, bool paused)
{
    plan.paused[node] += paused ? 1 : -1U;
    if (!sim_node_alive(node))
        return;
    if (paused && plan.paused[node] == 1)
        sim_node_pause(node);
    else if (!paused && plan.paused[node] == 0)
        sim_node_resume(node);
}

void plan_cut(unsigned from, unsigned to, bool cut)
{
    plan.cut[from][to] += cut ? 1 : -1U;
    sim_net_cut(from, to, plan.cut[from][to] > 0);
}

void plan_excuse(unsigned node, uint64_t until)
{
    if (until == UINT64_MAX)
        plan.excused[node] = true;
    else if (until > plan.excused_until[node])
        plan.excused_until[node] = until;
}

bool sim_plan_damaged(unsigned node)
{
    return plan.excused[node];
}

bool sim_plan_excuses(unsigned node)
{
    return plan.excused[node] || sim_now() <= plan.excused_until[node];
}

/* ---- supervisor ---- */

struct rest {
    uint64_t boot_at; /* 0: not due */
    uint64_t random;
    unsigned lost_boots;
};
static struct rest rests[SIM_MAX_NODES + 1];

static void supervise_node(unsigned node)
{
    struct rest *r = &rests[node];
    if (sim_node_alive(node) || plan.down[node] > 0) {
        r->boot_at = 0;
        return;
    }
    if (r->boot_at == 0) {
        uint64_t mean = sim_world_lost(node) ? 5000 : plan.healed ? 200 : UINT64_C(50) << mix(&r->random) % 8;
        r->boot_at = sim_now() + (mean + mix(&r->random) % mean) * MS;
        return;
    }
    if (sim_now() < r->boot_at || (sim_world_lost(node) && r->lost_boots == LOST_BOOTS))
        return;
    r->boot_at = 0;
    r->lost_boots += sim_world_lost(node);
    plan_boot(node);
}

static void supervise(void *arg)
{
    for (unsigned node = 1; node <= plan.nodes; node++)
        supervise_node(node);
    sim_at(sim_now() + SUPERVISE_MS * MS, supervise, arg);
}

/* ---- begin and end ---- */

static void end_fault(void *arg)
{
    struct plan_fault *f = arg;
    if (!f->active)
        return;
    f->active = false;
    sim_trace("fault_end", f->index);
    sim_tracef("plan: fault %u %s ends", f->index, f->kind->name);
    if (f->kind->end != NULL)
        f->kind->end(f);
}

static void begin_fault(void *arg)
{
    struct plan_fault *f = arg;
    if (plan.healed)
        return;
    f->active = true;
    sim_trace("fault_begin", f->index);
    f->kind->begin(f);
    sim_tracef("plan: fault %u %s begins, node %u, nodes %x, %llu, for %llu ms", f->index, f->kind->name, f->node,
               f->mask, f->a, (unsigned long long)((f->end - f->begin) / MS));
    sim_see("fault: ", f->kind->name);
    sim_at(f->end, end_fault, f);
}

struct inner {
    struct plan_fault *f;
    void (*step)(struct plan_fault *f);
};

static void run_inner(void *arg)
{
    struct inner i = *(struct inner *)arg;
    free(arg);
    if (i.f->active)
        i.step(i.f);
}

void plan_later(struct plan_fault *f, uint64_t when, void (*step)(struct plan_fault *f))
{
    struct inner *i = mr_malloc(sizeof(*i));
    *i = (struct inner){f, step};
    sim_at(when, run_inner, i);
}

/* ---- drawing ---- */

/* Kinds that this seed has: weights, 0 for those that are off. */
static uint64_t draw_weights(unsigned *weights)
{
    enum { QUIET, CRASHES, NET, DISK, TIME, SWARM, ALL };
    static const unsigned char themes[] = {QUIET, CRASHES, CRASHES, NET,   NET,   DISK,  TIME,  ALL,   ALL,   SWARM,
                                           SWARM, SWARM,   SWARM,   SWARM, SWARM, SWARM, SWARM, SWARM, SWARM, SWARM};
    static const unsigned of_theme[] = {
        [QUIET] = 0,
        [CRASHES] = 1U << PLAN_CRASH,
        [NET] = 1U << PLAN_NET,
        [DISK] = 1U << PLAN_DISK | 1U << PLAN_DAMAGE,
        [TIME] = 1U << PLAN_PAUSE | 1U << PLAN_CLOCK,
        [SWARM] = (1U << PLAN_GROUPS) - 1,
        [ALL] = (1U << PLAN_GROUPS) - 1,
    };
    unsigned theme = themes[sim_below(SIM_PLAN, sizeof(themes))];
    double keep = 0.2 + 0.2 * (double)sim_below(SIM_PLAN, 4);
    uint64_t sum = 0;
    for (unsigned i = 0; i < plan_n_kinds; i++) {
        bool kept = sim_chance(SIM_PLAN, keep);
        unsigned boost = sim_chance(SIM_PLAN, 0.2) ? 4 : 1;
        bool on = (of_theme[theme] >> plan_kinds[i].group & 1) != 0 && (theme != SWARM || kept);
        weights[i] = on ? plan_kinds[i].weight * boost : 0;
        sum += weights[i];
    }
    return sum;
}

static const struct plan_kind *pick(const unsigned *weights, uint64_t at)
{
    unsigned i = 0;
    while (at >= weights[i])
        at -= weights[i++];
    return &plan_kinds[i];
}

static void draw_order(void)
{
    for (unsigned i = 0; i < plan.nodes; i++)
        plan.order[i] = i + 1;
    for (unsigned i = plan.nodes - 1; i > 0; i--) {
        uint64_t j = sim_below(SIM_PLAN, i + 1);
        unsigned other = plan.order[j];
        plan.order[j] = plan.order[i];
        plan.order[i] = other;
    }
    for (unsigned i = 0; i < (plan.nodes - 1) / 2; i++)
        plan.victims |= 1U << plan.order[i];
}

static void draw_faults(uint64_t begin)
{
    unsigned *weights = mr_calloc(plan_n_kinds, sizeof(*weights));
    uint64_t sum = draw_weights(weights);
    uint64_t gap_ms = UINT64_C(250) << sim_below(SIM_PLAN, 7); /* mean time between two begins */
    if (plan.heal_at - begin > LONG_MS * MS)
        gap_ms *= 16;
    uint64_t at = begin;
    while (sum > 0 && plan.n < PLAN_MAX) {
        struct plan_fault *f = &plan.faults[plan.n];
        f->index = plan.n;
        f->random = sim_random(SIM_PLAN);
        f->kind = pick(weights, sim_below(SIM_PLAN, sum));
        at += plan_between(f, 0, 2 * gap_ms) * MS;
        if (at >= plan.heal_at)
            break;
        f->begin = at;
        f->end = at + plan_log_between(f, f->kind->least_ms, f->kind->most_ms) * MS;
        if (f->end > plan.heal_at)
            f->end = plan.heal_at;
        plan.n++;
    }
    free(weights);
}

/* Real clocks differ a little, always. */
static void draw_rates(void)
{
    for (unsigned node = 1; node <= plan.nodes; node++)
        sim_clock_rate(node, (int64_t)sim_below(SIM_PLAN, 401) - 200);
}

void sim_plan_start(const struct sim_options *options, unsigned nodes, uint64_t begin, uint64_t heal_at)
{
    memset(&plan, 0, sizeof(plan));
    memset(rests, 0, sizeof(rests));
    plan.nodes = nodes;
    plan.heal_at = heal_at;
    draw_order();
    draw_rates();
    for (unsigned node = 1; node <= nodes; node++)
        rests[node].random = sim_random(SIM_PLAN);
    draw_faults(begin);
    for (unsigned i = 0; i < plan.n; i++)
        if (i < options->faults_max && !(i < 64 && (options->faults_off >> i & 1) != 0))
            sim_at(plan.faults[i].begin, begin_fault, &plan.faults[i]);
    sim_at(begin, supervise, NULL);
}

uint64_t sim_plan_faults(void)
{
    return plan.n;
}

void sim_plan_heal(void)
{
    plan.healed = true;
    for (unsigned i = 0; i < plan.n; i++)
        end_fault(&plan.faults[i]);
    sim_net_heal();
    sim_hops_heal();
    for (unsigned node = 1; node <= plan.nodes; node++) {
        mr_assert(plan.down[node] == 0 && plan.paused[node] == 0);
        sim_arm(node, 0, SIM_KILL);
        for (unsigned fault = SIM_DISK_SLOW; fault < SIM_DISK_FAULTS; fault++)
            sim_disk_fault(node, (enum sim_disk_fault)fault, 0);
        plan_boot(node);
    }
}
