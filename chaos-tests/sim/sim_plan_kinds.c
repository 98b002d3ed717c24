/* What each kind of fault does at its begin and at its end. Durations and how often: the table at the end. */
#include "chaos-tests/sim/sim_plan.h"

#include "proto/base/panic.h"

#define MS UINT64_C(1000000)

/* ---- targets ---- */

static unsigned any_node(struct plan_fault *f)
{
    return 1 + (unsigned)plan_below(f, plan.nodes);
}

/* The leader more often than its share: most rules are about it. */
static unsigned target(struct plan_fault *f)
{
    bool leader = plan_chance(f, 0.4);
    unsigned node = any_node(f);
    if (leader && sim_world_leader() != 0)
        node = sim_world_leader();
    return f->node = node;
}

static unsigned victim(struct plan_fault *f)
{
    return f->node = plan.order[plan_below(f, (plan.nodes - 1) / 2)];
}

static bool in(unsigned mask, unsigned node)
{
    return (mask >> node & 1) != 0;
}

static void for_nodes(unsigned mask, void (*run)(unsigned node))
{
    for (unsigned node = 1; node <= plan.nodes; node++)
        if (in(mask, node))
            run(node);
}

/* ---- crashes ---- */

static void down_begin(struct plan_fault *f, enum sim_end how)
{
    plan_down(target(f), how);
    f->mask = 1U << f->node;
}

static void kill_begin(struct plan_fault *f)
{
    down_begin(f, SIM_KILL);
}

static void power_begin(struct plan_fault *f)
{
    down_begin(f, SIM_POWER);
}

static void down_end(struct plan_fault *f)
{
    for_nodes(f->mask, plan_up);
}

static void arm_begin(struct plan_fault *f)
{
    f->a = plan_log_between(f, 1, 3000);
    sim_arm(target(f), f->a, plan_chance(f, 0.5) ? SIM_POWER : SIM_KILL);
}

static void arm_end(struct plan_fault *f)
{
    sim_arm(f->node, 0, SIM_KILL);
}

static uint64_t killed_life[SIM_MAX_NODES + 1];

/* Killed, and without power soon after it has started again: what the killed life only wrote must not count until the
 * next one has stored it. a: after so many steps of that one. */
static void twice_step(struct plan_fault *f)
{
    if (sim_node_alive(f->node) && sim_node_life(f->node) == killed_life[f->node]) {
        plan_later(f, sim_now() + 5 * MS, twice_step);
        return;
    }
    plan_boot(f->node);
    sim_arm(f->node, f->a, SIM_POWER);
}

static void twice_begin(struct plan_fault *f)
{
    uint64_t steps = plan_log_between(f, 1, 1000);
    f->a = plan_log_between(f, 1, 3000);
    unsigned node = target(f);
    killed_life[node] = sim_node_life(node);
    sim_arm(f->node, steps, SIM_KILL);
    twice_step(f);
}

static void some_down(struct plan_fault *f, unsigned mask, enum sim_end how)
{
    f->mask = mask;
    for (unsigned node = 1; node <= plan.nodes; node++)
        if (in(mask, node))
            plan_down(node, how);
}

static void all_begin(struct plan_fault *f)
{
    some_down(f, (1U << (plan.nodes + 1)) - 2, plan_chance(f, 0.6) ? SIM_POWER : SIM_KILL);
}

static void some_begin(struct plan_fault *f)
{
    unsigned mask = (unsigned)plan_below(f, 1U << plan.nodes) << 1;
    some_down(f, mask, plan_chance(f, 0.5) ? SIM_POWER : SIM_KILL);
}

/* One comes back before the next goes; a is how many have gone. */
static void roll_step(struct plan_fault *f)
{
    if (f->mask != 0)
        for_nodes(f->mask, plan_up);
    f->mask = 0;
    if (f->a == plan.nodes)
        return;
    f->node = plan.order[f->a++];
    some_down(f, 1U << f->node, plan_chance(f, 0.3) ? SIM_POWER : SIM_KILL);
    plan_later(f, sim_now() + (f->end - f->begin) / (plan.nodes + 1), roll_step);
}

static void drain_begin(struct plan_fault *f)
{
    sim_world_drain(target(f)); /* the supervisor starts it again */
}

/* ---- pauses ---- */

static void pause_begin(struct plan_fault *f)
{
    plan_pause(target(f), true);
}

static void pause_end(struct plan_fault *f)
{
    plan_pause(f->node, false);
}

static void pause_some_begin(struct plan_fault *f)
{
    f->mask = (unsigned)plan_below(f, 1U << plan.nodes) << 1;
    for (unsigned node = 1; node <= plan.nodes; node++)
        if (in(f->mask, node))
            plan_pause(node, true);
}

static void resume(unsigned node)
{
    plan_pause(node, false);
}

static void pause_some_end(struct plan_fault *f)
{
    for_nodes(f->mask, resume);
}

static void stall_begin(struct plan_fault *f)
{
    f->a = plan_below(f, 3);
    plan_excuse(target(f), f->end + 15000 * MS); /* the watch on the core's loop may end it */
    sim_world_stall(f->node, (unsigned)f->a, f->end - f->begin);
}

/* ---- net ---- */

static void cut_sides(unsigned mask, unsigned bridge, bool to_mask, bool from_mask, bool cut)
{
    for (unsigned a = 1; a <= plan.nodes; a++)
        for (unsigned b = 1; b <= plan.nodes; b++) {
            if (in(mask, a) == in(mask, b) || a == bridge || b == bridge)
                continue;
            if (in(mask, b) ? to_mask : from_mask)
                plan_cut(a, b, cut);
        }
}

/* a: bit 0 the way to them, bit 1 the way from them is cut. */
static void split(struct plan_fault *f, bool cut)
{
    cut_sides(f->mask, f->node, (f->a & 1) != 0, (f->a & 2) != 0, cut);
}

static unsigned long long ways(struct plan_fault *f)
{
    return plan_chance(f, 0.5) ? 3 : 1 + plan_below(f, 2);
}

static void split_begin(struct plan_fault *f)
{
    f->mask = (unsigned)plan_below(f, 1U << plan.nodes) << 1;
    f->a = ways(f);
    split(f, true);
}

static void split_end(struct plan_fault *f)
{
    split(f, false);
}

static void alone_begin(struct plan_fault *f)
{
    f->mask = 1U << target(f);
    f->node = 0;
    f->a = ways(f);
    split(f, true);
}

/* Two sides that see one node both. */
static void bridge_begin(struct plan_fault *f)
{
    f->mask = (unsigned)plan_below(f, 1U << plan.nodes) << 1;
    f->a = 3;
    (void)target(f);
    split(f, true);
}

static void pair_begin(struct plan_fault *f)
{
    unsigned from = target(f);
    f->a = 1 + (from - 1 + plan_between(f, 1, plan.nodes - 1)) % plan.nodes;
    if (plan_chance(f, 0.5)) {
        f->node = (unsigned)f->a;
        f->a = from;
    }
    plan_cut(f->node, (unsigned)f->a, true);
}

static void pair_end(struct plan_fault *f)
{
    plan_cut(f->node, (unsigned)f->a, false);
}

/* Each link in turn, in one order cut and in another restored. a: bit i of it is set while pair i is cut. */
static void toggle_pair(struct plan_fault *f, unsigned i)
{
    bool cut = (f->a >> i & 1) == 0;
    f->a ^= UINT64_C(1) << i;
    for (unsigned a = 1; a <= plan.nodes; a++)
        for (unsigned b = a + 1; b <= plan.nodes; b++)
            if (i-- == 0) {
                plan_cut(a, b, cut);
                plan_cut(b, a, cut);
            }
}

static void one_by_one_step(struct plan_fault *f)
{
    unsigned pairs = plan.nodes * (plan.nodes - 1) / 2, first = (unsigned)plan_below(f, pairs);
    bool cutting = sim_now() < f->begin + (f->end - f->begin) / 2;
    for (unsigned i = 0; i < pairs; i++) {
        unsigned pair = (first + i) % pairs;
        if (((f->a >> pair & 1) == 0) == cutting) {
            toggle_pair(f, pair);
            break;
        }
    }
    plan_later(f, sim_now() + (f->end - f->begin) / (2 * pairs + 1), one_by_one_step);
}

static void one_by_one_end(struct plan_fault *f)
{
    for (unsigned i = 0; i < plan.nodes * (plan.nodes - 1) / 2; i++)
        if ((f->a >> i & 1) != 0)
            toggle_pair(f, i);
}

static void drop_step(struct plan_fault *f)
{
    unsigned a = target(f), b = 1 + (a - 1 + (unsigned)plan_between(f, 1, plan.nodes - 1)) % plan.nodes;
    sim_net_drop(a, b);
    plan_later(f, sim_now() + plan_log_between(f, 20, 5000) * MS, drop_step);
}

/* The settings that are one for all nodes: those of the last fault of the kind that is still active. */
static void raft_frames_set(struct plan_fault *without);
static void delays_set(struct plan_fault *without);

static void raft_frames_begin(struct plan_fault *f)
{
    f->chances[0] = plan_chance(f, 0.7) ? 0.002 * (double)plan_log_between(f, 1, 200) : 0;
    f->chances[1] = plan_chance(f, 0.5) ? 0.002 * (double)plan_log_between(f, 1, 100) : 0;
    f->chances[2] = plan_chance(f, 0.5) ? 0.002 * (double)plan_log_between(f, 1, 150) : 0;
    raft_frames_set(NULL);
}

static void delay_begin(struct plan_fault *f)
{
    f->a = plan_log_between(f, 100, 400000) * 1000; /* the most; ns */
    f->chances[0] = plan_chance(f, 0.5) ? 0 : 0.8;  /* the least, as a part of it */
    f->chances[1] = plan_chance(f, 0.5) ? 0.01 : 0; /* spikes */
    delays_set(NULL);
}

static void raft_frames_end(struct plan_fault *f)
{
    raft_frames_set(f);
}

static void delay_end(struct plan_fault *f)
{
    delays_set(f);
}

static const struct plan_fault *last_active(void (*begin)(struct plan_fault *f), const struct plan_fault *without)
{
    const struct plan_fault *last = NULL;
    for (unsigned i = 0; i < plan.n; i++)
        if (plan.faults[i].active && plan.faults[i].kind->begin == begin && &plan.faults[i] != without)
            last = &plan.faults[i];
    return last;
}

static void raft_frames_set(struct plan_fault *without)
{
    const struct plan_fault *f = last_active(raft_frames_begin, without);
    if (f != NULL)
        sim_net_raft(f->chances[0], f->chances[1], f->chances[2]);
    else
        sim_net_raft(0, 0, 0);
}

static void delays_set(struct plan_fault *without)
{
    const struct plan_fault *f = last_active(delay_begin, without);
    if (f != NULL)
        sim_net_delay((uint64_t)((double)f->a * f->chances[0]), f->a, f->chances[1], 2000 * MS);
    else
        sim_net_delay(0, 0, 0, 0);
}

static void slow_begin(struct plan_fault *f)
{
    f->a = plan_log_between(f, 10000, 10000000);
    sim_net_slow(target(f), f->a);
}

static void slow_end(struct plan_fault *f)
{
    sim_net_slow(f->node, 0);
}

/* ---- disks ---- */

static void disk(struct plan_fault *f, enum sim_disk_fault fault, uint64_t value)
{
    f->a = value;
    sim_disk_fault(target(f), fault, value);
    plan_excuse(f->node, f->end + 15000 * MS); /* watchdogs stop a node some time after */
}

static void disk_slow_begin(struct plan_fault *f)
{
    disk(f, SIM_DISK_SLOW, plan_log_between(f, 1, 3000) * MS);
}

static void disk_slow_end(struct plan_fault *f)
{
    sim_disk_fault(f->node, SIM_DISK_SLOW, 0);
}

static void disk_hang_begin(struct plan_fault *f)
{
    disk(f, SIM_DISK_HANG, 1);
}

static void disk_hang_end(struct plan_fault *f)
{
    sim_disk_fault(f->node, SIM_DISK_HANG, 0);
}

static void disk_full_begin(struct plan_fault *f)
{
    disk(f, SIM_DISK_FULL, 1);
}

static void disk_full_end(struct plan_fault *f)
{
    sim_disk_fault(f->node, SIM_DISK_FULL, 0);
}

static void full_majority_begin(struct plan_fault *f)
{
    unsigned first = (unsigned)plan_below(f, plan.nodes);
    for (unsigned i = 0; i <= plan.nodes / 2; i++) {
        unsigned node = 1 + (first + i) % plan.nodes;
        f->mask |= 1U << node;
        sim_disk_fault(node, SIM_DISK_FULL, 1);
        plan_excuse(node, f->end + 15000 * MS);
    }
}

static void space_again(unsigned node)
{
    sim_disk_fault(node, SIM_DISK_FULL, 0);
}

static void full_majority_end(struct plan_fault *f)
{
    for_nodes(f->mask, space_again);
}

static void write_fails_begin(struct plan_fault *f)
{
    disk(f, SIM_DISK_WRITE_FAILS, plan_log_between(f, 1, 500));
}

static void write_fails_end(struct plan_fault *f)
{
    sim_disk_fault(f->node, SIM_DISK_WRITE_FAILS, 0);
}

static void sync_fails_begin(struct plan_fault *f)
{
    disk(f, SIM_DISK_SYNC_FAILS, plan_log_between(f, 1, 200));
}

static void boot_step(struct plan_fault *f)
{
    plan_boot(f->node);
}

/* Most is read at a start. */
static void reads_fail_begin(struct plan_fault *f)
{
    disk(f, SIM_DISK_READS_FAIL, plan_log_between(f, 2, 50));
    if (plan_chance(f, 0.3))
        return;
    plan_kill(f->node, plan_chance(f, 0.5) ? SIM_POWER : SIM_KILL);
    plan_later(f, sim_now() + 50 * MS, boot_step);
}

static void reads_fail_end(struct plan_fault *f)
{
    sim_disk_fault(f->node, SIM_DISK_READS_FAIL, 0);
}

static void sync_fails_end(struct plan_fault *f)
{
    sim_disk_fault(f->node, SIM_DISK_SYNC_FAILS, 0);
}

/* ---- damage: to victims only ---- */

static void flip(unsigned node, const char *where)
{
    if (sim_disk_flip(node, where))
        sim_see("flipped: ", where);
}

static void flip_spool_begin(struct plan_fault *f)
{
    unsigned node = victim(f);
    bool restart = plan_chance(f, 0.4);
    f->a = plan_between(f, 1, 8);
    for (unsigned i = 0; i < f->a; i++)
        flip(node, "spool");
    plan_excuse(node, UINT64_MAX);
    if (restart) {
        f->mask = 1U << node;
        plan_down(node, SIM_KILL);
    }
}

/* What is read at start only: so it is started. */
static void flip_other_begin(struct plan_fault *f)
{
    static const char *const where[] = {"raft", "raft", "journal", "identity"};
    unsigned node = victim(f);
    f->a = plan_below(f, 4);
    f->mask = 1U << node;
    plan_excuse(node, UINT64_MAX);
    plan_down(node, SIM_KILL);
    flip(node, where[f->a]);
}

static void truncate_begin(struct plan_fault *f)
{
    static const char *const where[] = {"spool", "journal"};
    unsigned node = victim(f);
    f->a = plan_below(f, 2);
    f->mask = 1U << node;
    plan_excuse(node, UINT64_MAX);
    plan_down(node, SIM_KILL);
    if (sim_disk_truncate(node, where[f->a]))
        sim_see("truncated: ", where[f->a]);
}

static void wipe_begin(struct plan_fault *f)
{
    unsigned node = victim(f);
    plan_excuse(node, UINT64_MAX);
    f->mask = 1U << node;
    plan_down(node, SIM_KILL);
    if (!sim_world_lost(node))
        sim_world_wipe(node);
}

/* ---- clocks ---- */

/* On a minority at one time: committed time follows the median of the clocks. */
static void jump_begin(struct plan_fault *f)
{
    static const unsigned most_ms[] = {2000, 60 * 1000, 3600 * 1000, 6 * 86400 * 1000U};
    f->node = plan.order[plan_below(f, (plan.nodes - 1) / 2)];
    f->a = 1 + plan_below(f, most_ms[plan_below(f, 4)]);
    if (plan_chance(f, 0.5))
        f->a = -f->a;
    sim_clock_jump(f->node, (int64_t)f->a);
}

static void jump_end(struct plan_fault *f)
{
    sim_clock_jump(f->node, -(int64_t)f->a);
}

static void rate_begin(struct plan_fault *f)
{
    static const int beyond[] = {-50000, 50000, -5000, 5000};
    f->a = plan_below(f, 4);
    sim_clock_rate(target(f), beyond[f->a]);
}

static void rate_end(struct plan_fault *f)
{
    sim_clock_rate(f->node, (int64_t)plan_below(f, 401) - 200);
}

/* ---- next hops ---- */

static void hop_begin(struct plan_fault *f)
{
    static const enum sim_hop_fault kinds[] = {SIM_HOP_SLOW, SIM_HOP_DEAD, SIM_HOP_REFUSES_4, SIM_HOP_REFUSES_5,
                                               SIM_HOP_DROPS};
    f->a = plan_below(f, sim_hops());
    sim_hops_fault((unsigned)f->a, kinds[plan_below(f, sizeof(kinds) / sizeof(*kinds))], f->end);
}

const struct plan_kind plan_kinds[] = {
    {"kill", PLAN_CRASH, 12, 10, 20000, kill_begin, down_end},
    {"power", PLAN_CRASH, 12, 50, 20000, power_begin, down_end},
    {"step", PLAN_CRASH, 20, 200, 10000, arm_begin, arm_end},
    {"twice", PLAN_CRASH, 8, 500, 15000, twice_begin, arm_end},
    {"all", PLAN_CRASH, 3, 10, 8000, all_begin, down_end},
    {"some", PLAN_CRASH, 4, 10, 8000, some_begin, down_end},
    {"roll", PLAN_CRASH, 2, 2000, 40000, roll_step, down_end},
    {"drain", PLAN_CRASH, 5, 10, 5000, drain_begin, NULL},
    {"pause", PLAN_PAUSE, 12, 50, 15000, pause_begin, pause_end},
    {"pause_some", PLAN_PAUSE, 4, 50, 15000, pause_some_begin, pause_some_end},
    {"stall", PLAN_PAUSE, 10, 50, 25000, stall_begin, NULL},
    {"split", PLAN_NET, 8, 100, 20000, split_begin, split_end},
    {"alone", PLAN_NET, 10, 100, 20000, alone_begin, split_end},
    {"bridge", PLAN_NET, 4, 1000, 20000, bridge_begin, split_end},
    {"pair", PLAN_NET, 8, 100, 20000, pair_begin, pair_end},
    {"one_by_one", PLAN_NET, 2, 3000, 40000, one_by_one_step, one_by_one_end},
    {"drop", PLAN_NET, 8, 50, 10000, drop_step, NULL},
    {"raft_frames", PLAN_NET, 8, 500, 30000, raft_frames_begin, raft_frames_end},
    {"delay", PLAN_NET, 5, 200, 20000, delay_begin, delay_end},
    {"slow", PLAN_NET, 4, 500, 20000, slow_begin, slow_end},
    {"disk_slow", PLAN_DISK, 6, 200, 20000, disk_slow_begin, disk_slow_end},
    {"disk_hang", PLAN_DISK, 4, 200, 15000, disk_hang_begin, disk_hang_end},
    {"disk_full", PLAN_DISK, 5, 500, 20000, disk_full_begin, disk_full_end},
    {"full_majority", PLAN_DISK, 1, 500, 10000, full_majority_begin, full_majority_end},
    {"write_fails", PLAN_DISK, 5, 200, 10000, write_fails_begin, write_fails_end},
    {"sync_fails", PLAN_DISK, 5, 200, 10000, sync_fails_begin, sync_fails_end},
    {"reads_fail", PLAN_DISK, 5, 200, 20000, reads_fail_begin, reads_fail_end},
    {"flip_spool", PLAN_DAMAGE, 6, 50, 3000, flip_spool_begin, down_end},
    {"flip_other", PLAN_DAMAGE, 1, 50, 3000, flip_other_begin, down_end},
    {"truncate", PLAN_DAMAGE, 1, 50, 3000, truncate_begin, down_end},
    {"wipe", PLAN_DAMAGE, 1, 50, 5000, wipe_begin, down_end},
    {"clock_jump", PLAN_CLOCK, 5, 500, 30000, jump_begin, jump_end},
    {"clock_rate", PLAN_CLOCK, 4, 1000, 30000, rate_begin, rate_end},
    {"hop", PLAN_HOPS, 12, 200, 20000, hop_begin, NULL},
};
const unsigned plan_n_kinds = sizeof(plan_kinds) / sizeof(*plan_kinds);
