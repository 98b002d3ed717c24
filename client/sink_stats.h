/* sink_stats.h - what the sink counts: connections at one time, messages, and the most in any one second.
 *
 * The rate is taken over a window of one second that slides in steps of 10 ms.
 * Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_SINK_STATS_H
#define MR_CLIENT_SINK_STATS_H

#include <stdint.h>

enum { STATS_STEPS = 100, STATS_STEP_MS = 10 };

struct sink_stats {
    uint64_t connections; /* ever */
    uint64_t connections_now;
    uint64_t connections_max;
    uint64_t refused_connections; /* over the limit of connections */
    uint64_t messages;            /* recorded */
    uint64_t recipients;
    uint64_t bytes;
    uint64_t altered; /* checksum does not match */
    uint64_t dsn;
    uint64_t unkeyed; /* neither key nor bounce */
    uint64_t faults;  /* injected */
    uint64_t rate_max;
    uint64_t step; /* number of the newest step in the ring */
    uint64_t window;
    uint32_t ring[STATS_STEPS];
};

void sink_stats_connected(struct sink_stats *stats);
void sink_stats_disconnected(struct sink_stats *stats);
/* now_ms never steps back. */
void sink_stats_message(struct sink_stats *stats, uint64_t now_ms);
/* Messages within the second up to now_ms. */
uint64_t sink_stats_rate(struct sink_stats *stats, uint64_t now_ms);

#endif
