/* sim_runner.h - runs worlds: a process for each seed, several at once, and what came of them.
 *
 * R1: a world's process always ends: it has limits of CPU time and of real time, and dies with the runner.
 * Thread: the main one. */
#ifndef MR_SIM_RUNNER_H
#define MR_SIM_RUNNER_H

#include "chaos-tests/sim/sim.h"

enum { RUN_MAX_JOBS = 256, RUN_TAIL = 1500 };

struct run_wishes {
    uint64_t first, last; /* seeds */
    unsigned jobs;
    double minutes; /* of real time; 0: no limit */
    unsigned cpu_limit_s;
    bool twice; /* each seed two times, which must agree */
    bool stop;  /* at the first finding */
    bool quiet; /* no progress line */
    bool shrink;
    bool json;
    bool seen;                      /* a table of what was seen */
    bool sums;                      /* a line for each seed with its trace_hash */
    const char *program, *mutation; /* for the commands that are told; mutation NULL: none */
    struct sim_options options;     /* of all seeds */
};

struct run_outcome {
    struct sim_options options;
    struct sim_result result; /* invariant 0: nothing was found */
    char tail[RUN_TAIL];      /* the end of what it said on stderr */
};

struct run_totals {
    uint64_t seeds, findings;
    uint64_t node_ns, events, faults;
    uint64_t submitted, accepted, delivered, bounced, duplicated, in_doubt;
    uint64_t crashes, power_cuts, pauses, cuts, leaders, snapshots;
    double cpu_s, wall_s;
    struct seen_total {
        struct sim_seen sum;
        uint64_t seeds; /* that saw it */
    } seen[SIM_SEEN_MAX];
    unsigned n_seen;
};

/* Runs all, tells what it finds, and the summary; the program's exit status. */
int sim_run_seeds(const struct run_wishes *wishes);
/* One world; waits for it. */
void sim_run_one(const struct run_wishes *wishes, const struct sim_options *options, struct run_outcome *out);
/* The smallest options with the same violation. */
void sim_shrink(const struct run_wishes *wishes, const struct run_outcome *found, struct run_outcome *smallest);
/* The command that runs it again. */
void sim_command(const struct run_wishes *wishes, const struct sim_options *options, char *out, size_t room);

/* sim_seen.c */
void sim_seen_add(struct run_totals *totals, const struct sim_result *result);
void sim_seen_print(const struct run_totals *totals);

/* sim_report.c */
double sim_real_seconds(void);
void sim_report_progress(const struct run_wishes *wishes, const struct run_totals *totals, uint64_t next);
void sim_report_finding(const struct run_wishes *wishes, const struct run_outcome *outcome, bool shrunk);
void sim_report_summary(const struct run_wishes *wishes, const struct run_totals *totals);

#endif
