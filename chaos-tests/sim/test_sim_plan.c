/* The plan of faults against a machine that only notes what is done to it. */
#include "chaos-tests/sim/sim_kernel.h"
#include "chaos-tests/sim/sim_plan.h"

#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS MR_NS_PER_MS
enum { BEGIN_MS = 1000, HEAL_MS = 60000, SEEDS = 60 };

/* ---- the machine ---- */

static struct noted {
    struct plan_fault faults[PLAN_MAX];
    unsigned n;
    unsigned damaged, wiped; /* masks */
    bool cut[SIM_MAX_NODES + 1][SIM_MAX_NODES + 1];
    uint64_t disk[SIM_MAX_NODES + 1][SIM_DISK_FAULTS];
    double raft;
    uint64_t slow, delay;
    bool all_up, none_paused;
} * noted, now;

void sim_disk_power(unsigned node)
{
    (void)node;
}

void sim_net_node_ended(unsigned node, enum sim_end how)
{
    (void)node;
    (void)how;
}

void sim_net_cut(unsigned from, unsigned to, bool cut)
{
    now.cut[from][to] = cut;
}

void sim_net_drop(unsigned a, unsigned b)
{
    assert(a != b);
}

void sim_net_raft(double loss, double duplicate, double reorder)
{
    now.raft = loss + duplicate + reorder;
}

void sim_net_delay(uint64_t least, uint64_t most, double spike, uint64_t spike_ns)
{
    (void)spike;
    (void)spike_ns;
    assert(least <= most);
    now.delay = most;
}

void sim_net_slow(unsigned node, uint64_t bytes_per_s)
{
    (void)node;
    now.slow = bytes_per_s;
}

void sim_net_heal(void)
{
    memset(now.cut, 0, sizeof(now.cut));
    now.raft = 0;
    now.slow = now.delay = 0;
}

void sim_disk_fault(unsigned node, enum sim_disk_fault fault, uint64_t value)
{
    now.disk[node][fault] = value;
}

bool sim_disk_flip(unsigned node, const char *where)
{
    (void)where;
    now.damaged |= 1U << node;
    return true;
}

bool sim_disk_truncate(unsigned node, const char *where)
{
    assert(!sim_node_alive(node));
    return sim_disk_flip(node, where);
}

static void live(void *arg)
{
    uv_loop_t loop;
    uv_timer_t timer;
    (void)arg;
    uv_loop_init(&loop);
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, NULL, 0, 0);
    sim_block(UINT64_MAX / 4);
}

void sim_world_boot(unsigned node)
{
    sim_node_start(node, live, NULL);
}

unsigned sim_world_leader(void)
{
    return 0; /* so that no target depends on what happened */
}

bool sim_world_lost(unsigned node)
{
    return (now.wiped >> node & 1) != 0;
}

void sim_world_drain(unsigned node)
{
    if (sim_node_alive(node))
        sim_node_crash(node, SIM_KILL);
}

void sim_world_stall(unsigned node, unsigned thread, uint64_t ns)
{
    (void)node;
    (void)thread;
    assert(ns <= HEAL_MS * MS);
}

void sim_world_wipe(unsigned node)
{
    now.wiped |= 1U << node;
    now.damaged |= 1U << node;
}

unsigned sim_hops(void)
{
    return 3;
}

void sim_hops_fault(unsigned hop, enum sim_hop_fault kind, uint64_t until)
{
    assert(hop < 3 && kind != SIM_HOP_LIES && until <= HEAL_MS * MS);
}

void sim_hops_heal(void)
{
}

/* ---- runs ---- */

static void world_run(uint64_t seed, const struct sim_options *options)
{
    static struct sim_result result;
    struct sim_options o = *options;
    unsigned nodes = 3 + 2 * (unsigned)(seed % 3);
    o.seed = seed;
    sim_kernel_init(&o, &result);
    for (unsigned n = 1; n <= nodes; n++)
        sim_world_boot(n);
    sim_plan_start(&o, nodes, BEGIN_MS * MS, HEAL_MS * MS);
    sim_run_until(HEAL_MS * MS);
    sim_plan_heal();
    sim_run_until((HEAL_MS + 30000) * MS);
    now.n = plan.n;
    memcpy(now.faults, plan.faults, sizeof(now.faults));
    now.all_up = now.none_paused = true;
    for (unsigned n = 1; n <= nodes; n++) {
        now.all_up = now.all_up && (sim_node_alive(n) || sim_world_lost(n));
        now.none_paused = now.none_paused && !sim_node_paused(n);
    }
    *noted = now;
}

static void run(uint64_t seed, const struct sim_options *options, struct noted *out)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        world_run(seed, options);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("seed %llu", (unsigned long long)seed);
    *out = *noted;
}

static bool same(const struct plan_fault *a, const struct plan_fault *b)
{
    return a->kind == b->kind && a->begin == b->begin && a->end == b->end && a->random == b->random &&
           a->node == b->node && a->mask == b->mask && a->a == b->a &&
           memcmp(a->chances, b->chances, sizeof(a->chances)) == 0;
}

/* M2: to leave faults out changes none of the others, neither when they come nor what they do. */
static void test_left_out(void **state)
{
    static struct noted whole, part;
    unsigned compared = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct sim_options all = {.faults_max = UINT64_MAX}, some = all, first = all;
        run(seed, &all, &whole);
        some.faults_off = seed * 0x9e3779b97f4a7c15;
        run(seed, &some, &part);
        assert_int_equal(whole.n, part.n);
        for (unsigned i = 0; i < whole.n; i++) {
            bool off = i < 64 && (some.faults_off >> i & 1) != 0;
            assert_true(off || same(&whole.faults[i], &part.faults[i]));
            compared += !off;
        }
        first.faults_max = whole.n / 2;
        run(seed, &first, &part);
        for (unsigned i = 0; i < whole.n / 2; i++)
            assert_true(same(&whole.faults[i], &part.faults[i]));
        for (unsigned i = whole.n / 2; i < whole.n; i++)
            assert_int_equal(part.faults[i].mask | part.faults[i].node, 0);
    }
    assert_true(compared > 500);
}

static unsigned bits(unsigned mask)
{
    return (unsigned)__builtin_popcount(mask);
}

/* Damage stays with a minority; healed is healed; all kinds come. */
static void test_healed(void **state)
{
    static struct noted n;
    static const struct noted nothing;
    bool seen[64] = {false};
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS * 4; seed++) {
        struct sim_options all = {.faults_max = UINT64_MAX};
        run(seed, &all, &n);
        assert_true(n.all_up && n.none_paused);
        assert_true(bits(n.damaged) <= 1 + seed % 3);
        assert_memory_equal(n.cut, nothing.cut, sizeof(n.cut));
        assert_memory_equal(n.disk, nothing.disk, sizeof(n.disk));
        assert_true(n.raft <= 0 && n.slow == 0 && n.delay == 0);
        for (unsigned i = 0; i < n.n; i++) {
            assert_true(n.faults[i].begin >= BEGIN_MS * MS && n.faults[i].end <= HEAL_MS * MS);
            seen[n.faults[i].kind - plan_kinds] = true;
        }
    }
    for (unsigned i = 0; i < plan_n_kinds; i++)
        if (!seen[i])
            fail_msg("no fault of kind %s", plan_kinds[i].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_left_out), cmocka_unit_test(test_healed)};
    noted = mmap(NULL, sizeof(*noted), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return noted == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
