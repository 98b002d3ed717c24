/* committed_time.c - see committed_time.h.
 *
 * The stamp is a line through (base_ns, base_ms) with the slope of boot time, bent by at most CTIME_SLEW_PPM towards
 * the voters' median. The line is drawn anew each CTIME_REBASE_MS, so that a correction that is less than a millisecond
 * between two stamps adds up instead of being rounded away. */
#include "cluster/committed_time.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum { NS_PER_MS = 1000000 };
static const uint64_t max_wall_ms = (uint64_t)1 << 47; /* the year 6429; beyond it a report is garbage */

void committed_time_lead(struct committed_time *t, uint64_t now_ns, uint64_t state_now_ms, uint64_t own_wall_ms,
                         uint64_t voters)
{
    memset(t, 0, sizeof(*t));
    t->last_ms = state_now_ms != 0 ? state_now_ms : own_wall_ms;
    t->base_ms = t->last_ms;
    t->base_ns = now_ns;
    t->even_ns = now_ns;
    t->voters = voters;
}

void committed_time_voters(struct committed_time *t, uint64_t voters)
{
    t->voters = voters;
}

void committed_time_applied(struct committed_time *t, uint64_t now_ns, uint64_t stamp_ms)
{
    if (stamp_ms <= t->last_ms)
        return;
    t->last_ms = stamp_ms;
    t->base_ms = stamp_ms;
    t->base_ns = now_ns;
    t->even_ns = now_ns;
}

void committed_time_report(struct committed_time *t, uint64_t now_ns, uint32_t node, uint64_t wall_ms)
{
    if (node >= CTIME_MAX_NODES || wall_ms > max_wall_ms)
        return;
    t->wall[node].wall_ms = wall_ms;
    t->wall[node].at_ns = now_ns != 0 ? now_ns : 1;
}

/* Wall clocks of the voters as they should read now, rising. Returns their number; *voters becomes that of all voters.
 */
static size_t clocks(const struct committed_time *t, uint64_t now_ns, uint64_t sorted[CTIME_MAX_NODES], size_t *voters)
{
    size_t n = 0;

    *voters = 0;
    for (uint32_t node = 0; node < CTIME_MAX_NODES; node++) {
        if (!(t->voters >> node & 1))
            continue;
        ++*voters;
        uint64_t at = t->wall[node].at_ns;
        if (at == 0 || at > now_ns || now_ns - at > (uint64_t)CTIME_FRESH_MS * NS_PER_MS)
            continue;
        uint64_t wall = t->wall[node].wall_ms + (now_ns - at) / NS_PER_MS;
        size_t place = n++;
        for (; place > 0 && sorted[place - 1] > wall; place--)
            sorted[place] = sorted[place - 1];
        sorted[place] = wall;
    }
    return n;
}

/* The line bent towards the median. Of two middle clocks the earlier counts: to be late is harmless, to be early
 * bounces mail. */
static uint64_t steered(const struct committed_time *t, uint64_t now_ns, uint64_t median, bool steer)
{
    uint64_t elapsed = (now_ns - t->base_ns) / NS_PER_MS;
    uint64_t line = t->base_ms + elapsed;

    if (!steer)
        return line;
    /* Whole seconds apart, so that the product stays far from overflow however long the pause was. */
    uint64_t bend = elapsed / 1000 * CTIME_SLEW_PPM / 1000 + elapsed % 1000 * CTIME_SLEW_PPM / 1000000;
    if (median > line)
        return line + (median - line < bend ? median - line : bend);
    return line - (line - median < bend ? line - median : bend);
}

/* The earliest clock of the earliest majority whose clocks agree; 0: no majority agrees. */
static uint64_t agreed(const uint64_t sorted[], size_t n, size_t majority)
{
    for (size_t i = 0; i + majority <= n; i++)
        if (sorted[i + majority - 1] - sorted[i] <= CTIME_AGREE_MS)
            return sorted[i];
    return 0;
}

uint64_t committed_time_stamp(struct committed_time *t, uint64_t now_ns)
{
    uint64_t sorted[CTIME_MAX_NODES];
    size_t voters;

    if (now_ns < t->base_ns)
        return t->last_ms;
    size_t n = clocks(t, now_ns, sorted, &voters);
    size_t majority = voters / 2 + 1;
    bool steer = voters > 0 && n >= majority;
    uint64_t stamp = steered(t, now_ns, steer ? sorted[(n - 1) / 2] : 0, steer);
    uint64_t step = steer ? agreed(sorted, n, majority) : 0;
    uint64_t rest_ns = (now_ns - t->base_ns) % NS_PER_MS;
    if (step > stamp && step - stamp > CTIME_STEP_MS) {
        stamp = step;
        t->even_ns = now_ns;
        t->base_ms = stamp;
        t->base_ns = now_ns - rest_ns;
    } else if (now_ns - t->base_ns >= (uint64_t)CTIME_REBASE_MS * NS_PER_MS) {
        t->base_ms = stamp;
        t->base_ns = now_ns - rest_ns;
    }
    if (stamp > t->last_ms)
        t->last_ms = stamp;
    return t->last_ms;
}
