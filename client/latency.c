/* Bucket of v: below 64 v itself; above, 64 steps for each leading bit. */
#include "client/latency.h"

#include "proto/base/panic.h"

static unsigned bucket_of(uint64_t v)
{
    if (v < LATENCY_STEPS)
        return (unsigned)v;
    unsigned top = 63U - (unsigned)__builtin_clzll(v);
    return (top - 5U) * LATENCY_STEPS + (unsigned)((v >> (top - 6U)) & (LATENCY_STEPS - 1));
}

/* The largest value of a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    if (bucket < LATENCY_STEPS)
        return bucket;
    unsigned shift = bucket / LATENCY_STEPS - 1U;
    uint64_t low = (uint64_t)(LATENCY_STEPS + bucket % LATENCY_STEPS) << shift;
    return low + (((uint64_t)1 << shift) - 1);
}

void latency_add(struct latency *latency, uint64_t ns)
{
    unsigned bucket = bucket_of(ns);

    mr_assert(bucket < LATENCY_BUCKETS);
    latency->buckets[bucket]++;
    latency->count++;
    if (ns > latency->max)
        latency->max = ns;
}

uint64_t latency_percentile(const struct latency *latency, double share)
{
    uint64_t rank = (uint64_t)(share * (double)latency->count + 0.999999);
    uint64_t seen = 0;

    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += latency->buckets[i];
        if (seen > 0 && seen >= rank)
            return bucket_top(i) < latency->max ? bucket_top(i) : latency->max;
    }
    return latency->max;
}
