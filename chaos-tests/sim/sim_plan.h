/* sim_plan.h - between sim_plan.c (what happens when) and sim_plan_kinds.c (what each fault does) only.
 *
 * P1: all that a fault chooses comes from its own generator, seeded by one draw of SIM_PLAN for each fault: so to leave
 *     one out changes no other's choices. (Whom "the leader" means is seen when it begins.)
 * P2: damage that a restart does not mend (flips, cut files, wiped disks) comes to the plan's victims only: a minority,
 *     the same through the whole world.
 * P3: holds are counted, so that faults of one kind on one node may overlap and each ends only its own. */
#ifndef MR_SIM_PLAN_H
#define MR_SIM_PLAN_H

#include "chaos-tests/sim/sim.h"

enum { PLAN_MAX = 256 };

struct plan_fault {
    unsigned index;
    const struct plan_kind *kind;
    uint64_t begin, end;
    uint64_t random; /* state of its generator */
    bool active;
    unsigned node;        /* 0: none chosen */
    unsigned mask;        /* nodes, or one side of a partition: bit of node n is 1 << n */
    unsigned long long a; /* the kind's own */
    double chances[3];
};

enum plan_group { PLAN_CRASH, PLAN_PAUSE, PLAN_NET, PLAN_DISK, PLAN_DAMAGE, PLAN_CLOCK, PLAN_HOPS, PLAN_GROUPS };

struct plan_kind {
    const char *name;
    enum plan_group group;
    unsigned weight;
    uint64_t least_ms, most_ms; /* how long it lasts; drawn on a logarithmic scale */
    void (*begin)(struct plan_fault *f);
    void (*end)(struct plan_fault *f); /* NULL: nothing to undo */
};
extern const struct plan_kind plan_kinds[];
extern const unsigned plan_n_kinds;

struct plan {
    unsigned nodes;
    uint64_t heal_at;
    bool healed;
    struct plan_fault faults[PLAN_MAX];
    unsigned n;
    unsigned victims;                  /* mask */
    unsigned order[SIM_MAX_NODES + 1]; /* a permutation: of its beginning are the victims */
    unsigned down[SIM_MAX_NODES + 1];  /* faults that want it down */
    unsigned paused[SIM_MAX_NODES + 1];
    unsigned cut[SIM_MAX_NODES + 1][SIM_MAX_NODES + 1];
    bool excused[SIM_MAX_NODES + 1]; /* for good */
    uint64_t excused_until[SIM_MAX_NODES + 1];
};
extern struct plan plan;

/* From the fault's generator. */
uint64_t plan_below(struct plan_fault *f, uint64_t n);
uint64_t plan_between(struct plan_fault *f, uint64_t low, uint64_t high);
uint64_t plan_log_between(struct plan_fault *f, uint64_t low, uint64_t high); /* each order of magnitude alike */
bool plan_chance(struct plan_fault *f, double p);

void plan_kill(unsigned node, enum sim_end how);
/* Down until as many plan_up. */
void plan_down(unsigned node, enum sim_end how);
void plan_up(unsigned node);
void plan_boot(unsigned node); /* if it is dead and no fault wants it so */
void plan_pause(unsigned node, bool paused);
void plan_cut(unsigned from, unsigned to, bool cut);
void plan_excuse(unsigned node, uint64_t until);
/* Calls step(f) at `when` if the fault is still active then. */
void plan_later(struct plan_fault *f, uint64_t when, void (*step)(struct plan_fault *f));

#endif
