/* Nodes: their lives, clocks, pauses and steps.
 *
 * A life ends on the world's stack. When a step of the node itself ends it (an armed crash, a panic), the step is left
 * where it stands, and the world's loop does the rest (sim_node_ending). */
#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <string.h>

static struct sim_node_state nodes[SIM_MAX_NODES + 1]; /* 0 is unused */

static struct {
    unsigned node; /* 0: none */
    enum sim_end how;
    char text[512];
} ending;

void (*sim_on_end)(unsigned node, enum sim_end how, const char *text);

struct sim_node_state *sim_node_get(unsigned node)
{
    mr_assert(node >= 1 && node <= SIM_MAX_NODES);
    return &nodes[node];
}

unsigned sim_node(void)
{
    const struct sim_thread *t = sim_self();
    return t == NULL ? 0 : t->node;
}

bool sim_node_alive(unsigned node)
{
    return sim_node_get(node)->alive;
}

bool sim_node_paused(unsigned node)
{
    return sim_node_get(node)->paused;
}

uint64_t sim_node_life(unsigned node)
{
    return sim_node_get(node)->life;
}

/* ---- clocks ---- */

/* 2026-01-01 00:00 UTC, when every world begins, but for what the clocks of its nodes differ. */
#define WALL_BEGIN_NS (1767225600ULL * MR_NS_PER_S)

static void new_boot(struct sim_node_state *n)
{
    n->boot_base = sim_between(SIM_SCHEDULE, MR_NS_PER_S, 100000 * MR_NS_PER_S);
}

void sim_nodes_init(void)
{
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        nodes[i].rate = 1ULL << 32;
        nodes[i].wall_base = WALL_BEGIN_NS + sim_below(SIM_SCHEDULE, 20 * MR_NS_PER_MS);
        new_boot(&nodes[i]);
    }
}

static uint64_t elapsed(const struct sim_node_state *n)
{
    return (uint64_t)(((unsigned __int128)(sim_now() - n->since) * n->rate) >> 32);
}

uint64_t sim_node_boot_ns(unsigned node)
{
    const struct sim_node_state *n = sim_node_get(node);
    return n->boot_base + elapsed(n);
}

static uint64_t wall_ns(const struct sim_node_state *n)
{
    return n->wall_base + elapsed(n);
}

uint64_t sim_node_wall_ms(unsigned node)
{
    return wall_ns(sim_node_get(node)) / MR_NS_PER_MS;
}

/* The clocks' base becomes the present time. */
static void rebase(struct sim_node_state *n)
{
    uint64_t ns = elapsed(n);
    n->boot_base += ns;
    n->wall_base += ns;
    n->since = sim_now();
}

uint64_t sim_boot_to_world(unsigned node, uint64_t boot_ns)
{
    const struct sim_node_state *n = sim_node_get(node);
    if (boot_ns <= n->boot_base)
        return n->since;
    uint64_t ns = boot_ns - n->boot_base;
    if (n->rate == 1ULL << 32)
        return n->since + ns;
    return n->since + (uint64_t)((((unsigned __int128)ns << 32) + n->rate - 1) / n->rate);
}

void sim_clock_rate(unsigned node, int64_t ppm)
{
    struct sim_node_state *n = sim_node_get(node);
    mr_assert(ppm > -1000000);
    rebase(n);
    n->rate = (uint64_t)((1ULL << 32) * (1.0 + (double)ppm / 1e6));
    for (struct sim_thread *t = n->threads; t != NULL; t = t->next)
        if (t->state == SIM_PARKED && t->deadline != SIM_NEVER && !t->held)
            sim_event_set(&t->wake, sim_boot_to_world(node, t->deadline) + sim_latency());
    sim_trace("clock rate", (uint64_t)ppm);
}

void sim_clock_jump(unsigned node, int64_t wall_ms)
{
    struct sim_node_state *n = sim_node_get(node);
    int64_t ns = wall_ms * (int64_t)MR_NS_PER_MS;
    if (ns < 0 && wall_ns(n) < (uint64_t)-ns + MR_NS_PER_S)
        return; /* not before 1970 */
    rebase(n);
    n->wall_base += (uint64_t)ns;
    sim_trace("clock jump", (uint64_t)wall_ms);
}

/* ---- lives ---- */

static void *run_main(void *arg)
{
    struct sim_node_state *n = arg;
    n->main(n->main_arg);
    sim_die(SIM_DIED, "");
}

void sim_node_start(unsigned node, void (*main)(void *arg), void *arg)
{
    struct sim_node_state *n = sim_node_get(node);
    mr_assert(!n->alive && n->threads == NULL);
    n->alive = true;
    n->life++;
    n->next_thread = 0;
    n->main = main;
    n->main_arg = arg;
    n->alive_since = sim_now();
    sim_trace("node starts", node);
    (void)sim_thread_new(node, run_main, n);
}

static void end_life(unsigned node, enum sim_end how, const char *text)
{
    struct sim_node_state *n = sim_node_get(node);
    mr_assert(n->alive && sim_self() == NULL);
    n->alive = n->paused = false;
    n->steps_left = 0;
    n->alive_ns += sim_now() - n->alive_since;
    while (n->threads != NULL)
        sim_thread_free(n->threads);
    n->pool = NULL; /* its memory goes with the process, as all of the life's */
    *(how == SIM_POWER ? &sim_result()->power_cuts : &sim_result()->crashes) += how != SIM_DIED;
    if (how == SIM_DIED)
        sim_see("end: ", text[0] == 0 ? "by itself" : text);
    sim_trace(how == SIM_KILL ? "node killed" : how == SIM_POWER ? "node lost power" : "node died", node);
    if (text[0] != 0)
        sim_tracef("node %u: %s", node, text);
    if (how == SIM_POWER) {
        rebase(n);
        if (sim_chance(SIM_SCHEDULE, 0.5))
            new_boot(n);
        sim_disk_power(node);
    }
    sim_net_node_ended(node, how);
    if (sim_on_end != NULL)
        sim_on_end(node, how, text);
}

void sim_die(enum sim_end how, const char *text)
{
    const struct sim_thread *t = sim_self();
    if (t == NULL)
        sim_violation(SIM_PANIC, "in the world: %s", text);
    ending.node = t->node;
    ending.how = how;
    (void)snprintf(ending.text, sizeof(ending.text), "%s", text);
    sim_thread_abandon();
}

void sim_node_ending(void)
{
    unsigned node = ending.node;
    if (node == 0)
        return;
    ending.node = 0;
    end_life(node, ending.how, ending.text);
}

void sim_node_crash(unsigned node, enum sim_end how)
{
    if (sim_node() == node)
        sim_die(how, "");
    mr_assert(sim_node() == 0); /* one node does not end another */
    if (sim_node_get(node)->alive)
        end_life(node, how, "");
}

void sim_node_pause(unsigned node)
{
    struct sim_node_state *n = sim_node_get(node);
    if (!n->alive || n->paused)
        return;
    n->paused = true;
    sim_result()->pauses++;
    sim_trace("node paused", node);
}

void sim_node_resume(unsigned node)
{
    struct sim_node_state *n = sim_node_get(node);
    if (!n->paused)
        return;
    n->paused = false;
    sim_trace("node resumed", node);
    for (struct sim_thread *t = n->threads; t != NULL; t = t->next) {
        if (!t->held)
            continue;
        t->held = false;
        sim_event_set(&t->wake, sim_now() + sim_latency());
    }
}

/* ---- steps ---- */

/* How long a runnable thread waits for its processor: nearly always some microseconds. */
uint64_t sim_latency(void)
{
    uint64_t r = sim_random(SIM_SCHEDULE);
    uint64_t kind = r & 0xFFFF, part = r >> 16; /* 48 bits */
    uint64_t most = kind == 0 ? 30 * MR_NS_PER_MS : kind < 48 ? 2 * MR_NS_PER_MS : 50000;
    return 1000 + (uint64_t)(((unsigned __int128)part * most) >> 48);
}

void sim_step(const char *what)
{
    const struct sim_thread *t = sim_self();
    if (t == NULL)
        return; /* the world's own use of a file system */
    struct sim_node_state *n = sim_node_get(t->node);
    if (n->steps_left > 0 && --n->steps_left == 0) {
        sim_trace(what, 0);
        sim_node_crash(t->node, n->armed);
    }
    uint64_t r = sim_random(SIM_SCHEDULE);
    if ((r & 0xFFF) == 0)
        sim_yield(0); /* another thread's turn comes between */
}

void sim_arm(unsigned node, uint64_t steps, enum sim_end how)
{
    struct sim_node_state *n = sim_node_get(node);
    if (!n->alive)
        return;
    n->steps_left = steps;
    n->armed = how;
}
