/* The window is a ring of steps; going on by a step takes the oldest out of the sum. */
#include "client/sink_stats.h"

#include "proto/base/panic.h"

#include <string.h>

void sink_stats_connected(struct sink_stats *stats)
{
    stats->connections++;
    stats->connections_now++;
    if (stats->connections_now > stats->connections_max)
        stats->connections_max = stats->connections_now;
}

void sink_stats_disconnected(struct sink_stats *stats)
{
    mr_assert(stats->connections_now > 0);
    stats->connections_now--;
}

static void advance(struct sink_stats *stats, uint64_t now_ms)
{
    uint64_t step = now_ms / STATS_STEP_MS;

    if (step >= stats->step + STATS_STEPS) {
        memset(stats->ring, 0, sizeof(stats->ring));
        stats->window = 0;
        stats->step = step;
    }
    while (stats->step < step) {
        stats->step++;
        uint32_t *oldest = &stats->ring[stats->step % STATS_STEPS];
        stats->window -= *oldest;
        *oldest = 0;
    }
}

void sink_stats_message(struct sink_stats *stats, uint64_t now_ms)
{
    advance(stats, now_ms);
    stats->ring[stats->step % STATS_STEPS]++;
    stats->window++;
    stats->messages++;
    if (stats->window > stats->rate_max)
        stats->rate_max = stats->window;
}

uint64_t sink_stats_rate(struct sink_stats *stats, uint64_t now_ms)
{
    advance(stats, now_ms);
    return stats->window;
}
