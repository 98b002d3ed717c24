/* latency.h - a histogram of times with about one percent of error, in fixed memory.
 *
 * Values are nanoseconds. Each power of two is cut into 64 equal steps.
 * Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_LATENCY_H
#define MR_CLIENT_LATENCY_H

#include <stdint.h>

enum { LATENCY_STEPS = 64, LATENCY_BUCKETS = LATENCY_STEPS * 59 };

struct latency {
    uint64_t count;
    uint64_t max; /* exact */
    uint64_t buckets[LATENCY_BUCKETS];
};

void latency_add(struct latency *latency, uint64_t ns);
/* The value that the given share (0..1) of all do not exceed; 0 when there are none. Never over max. */
uint64_t latency_percentile(const struct latency *latency, double share);

#endif
