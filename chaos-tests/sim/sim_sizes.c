/* Sizes that a world makes small, so that what is rare on a real node comes in each short run: snapshots and their
 * transfer, full segments of the spool and their compaction. */
#include "chaos-tests/sim/sim_world.h"

#include "cluster/spool_internal.h"

#include <raft.h>

enum { DEFAULT_THRESHOLD = 4096, DEFAULT_TRAILING = 2048 }; /* of raft/replica.c */

static struct {
    unsigned threshold, trailing; /* entries; 0: as they are */
    uint64_t segment_bytes;
} sizes;

void sim_sizes_start(void)
{
    static const unsigned thresholds[] = {0, 8, 20, 50, 150};
    static const unsigned trailings[] = {1, 4, 30, 200};
    static const uint64_t segments[] = {0, 4096, 32768, 262144};
    uint64_t threshold = sim_below(SIM_LOAD, 5);

    sizes.threshold = thresholds[threshold];
    sizes.trailing = trailings[sim_below(SIM_LOAD, 4)];
    sizes.segment_bytes = segments[sim_below(SIM_LOAD, 4)];
}

void __real_raft_set_snapshot_threshold(struct raft *r, unsigned n);
void __wrap_raft_set_snapshot_threshold(struct raft *r, unsigned n);
void __wrap_raft_set_snapshot_threshold(struct raft *r, unsigned n)
{
    /* A multiple of it stays one: nodes differ, and so do snapshots. */
    bool small = n >= DEFAULT_THRESHOLD && n < DEFAULT_THRESHOLD * 6 && sizes.threshold != 0;
    __real_raft_set_snapshot_threshold(r, small ? sizes.threshold * n / DEFAULT_THRESHOLD : n);
}

void __real_raft_set_snapshot_trailing(struct raft *r, unsigned n);
void __wrap_raft_set_snapshot_trailing(struct raft *r, unsigned n);
void __wrap_raft_set_snapshot_trailing(struct raft *r, unsigned n)
{
    bool small = n == DEFAULT_TRAILING && sizes.threshold != 0;
    __real_raft_set_snapshot_trailing(r, small ? sizes.trailing : n);
}

int __real_spool_open(struct spool **out, const struct spool_config *config, char *error, size_t error_len);
int __wrap_spool_open(struct spool **out, const struct spool_config *config, char *error, size_t error_len);
int __wrap_spool_open(struct spool **out, const struct spool_config *config, char *error, size_t error_len)
{
    struct spool_config small = *config;
    small.segment_bytes = sizes.segment_bytes;
    return __real_spool_open(out, &small, error, error_len);
}

void __real_spool_compact_begin(struct spool *sp, struct spool_segment *seg);
void __wrap_spool_compact_begin(struct spool *sp, struct spool_segment *seg);
void __wrap_spool_compact_begin(struct spool *sp, struct spool_segment *seg)
{
    sim_see("", "spool_compaction"); /* its log line is for debugging only */
    __real_spool_compact_begin(sp, seg);
}
