/* committed_time.h - the stamps of entries (PROTOCOL.md 1.1). Pure; times are arguments.
 *
 * T1: stamps never go back.
 * T2: between entries a leader advances by boot time.
 * T3: the offset to wall time is steered slowly (at most CTIME_SLEW_PPM of elapsed time) to the median of the
 *     voters' wall clocks, and steps forward only when a majority of voters agrees within CTIME_AGREE_MS that
 *     committed time is more than CTIME_STEP_MS behind.
 * T4: a clock counts while its last report is younger than CTIME_FRESH_MS, and nothing is steered without a
 *     majority of them.
 * T5: even_ns tells since when stamps have gone on with boot time, by no more than what is steered.
 * Thread: the core's, on the leader. */
#ifndef MR_CLUSTER_COMMITTED_TIME_H
#define MR_CLUSTER_COMMITTED_TIME_H

#include <stdint.h>

enum {
    CTIME_SLEW_PPM = 50000,
    CTIME_STEP_MS = 60 * 1000,
    CTIME_AGREE_MS = 30 * 1000,
    CTIME_MAX_NODES = 64,
    CTIME_FRESH_MS = 10 * 1000,
    CTIME_REBASE_MS = 1000
};

struct committed_time {
    uint64_t last_ms; /* newest stamp given or applied */
    uint64_t base_ms; /* stamp at base_ns */
    uint64_t base_ns;
    uint64_t even_ns; /* boot time of the last step, or of the beginning */
    uint64_t voters;
    struct {
        uint64_t wall_ms;
        uint64_t at_ns; /* boot time of receipt; 0: none yet */
    } wall[CTIME_MAX_NODES];
};
/* A leader begins; state_now_ms is the newest applied stamp (0 in a new cluster: begins at own wall time). */
void committed_time_lead(struct committed_time *t, uint64_t now_ns, uint64_t state_now_ms, uint64_t own_wall_ms,
                         uint64_t voters);
/* The voters changed. */
void committed_time_voters(struct committed_time *t, uint64_t voters);
/* An entry was applied on the leader: those of its predecessor may come in after its election, with newer stamps than
 * the state had then (T1). */
void committed_time_applied(struct committed_time *t, uint64_t now_ns, uint64_t stamp_ms);
/* A heartbeat's wall clock; the leader reports its own too. A value beyond any calendar is dropped. */
void committed_time_report(struct committed_time *t, uint64_t now_ns, uint32_t node, uint64_t wall_ms);
/* Stamp for an entry proposed now; also what the time is now, for those who ask without proposing. */
uint64_t committed_time_stamp(struct committed_time *t, uint64_t now_ns);

#endif
