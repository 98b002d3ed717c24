/* test_moved_clock.h - the real clock, moved on by ahead_ns, and the wall's by wall_ahead_ms more; any thread may
 * change both. */
#ifndef MR_CLUSTER_TEST_MOVED_CLOCK_H
#define MR_CLUSTER_TEST_MOVED_CLOCK_H

#include "proto/base/clock.h"

#include <stdatomic.h>

static atomic_ullong ahead_ns, wall_ahead_ms;

static uint64_t moved_boot(const struct mr_clock *clock)
{
    (void)clock;
    return mr_boot_ns(&mr_clock_real) + atomic_load(&ahead_ns);
}

static uint64_t moved_wall(const struct mr_clock *clock)
{
    (void)clock;
    return mr_wall_ms(&mr_clock_real) + atomic_load(&ahead_ns) / MR_NS_PER_MS + atomic_load(&wall_ahead_ms);
}

static const struct mr_clock moved_clock = {.boot_ns = moved_boot, .wall_ms = moved_wall};

#endif
