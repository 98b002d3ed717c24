/* rng.h - seeded random numbers of the load generator and of the sink.
 *
 * The same seed gives the same numbers, so a failed run can be played again. Not for secrets.
 * Thread: a generator belongs to one thread. */
#ifndef MR_CLIENT_RNG_H
#define MR_CLIENT_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state;
};

/* The finaliser of splitmix64: every bit of x moves every bit of the result. */
static inline uint64_t rng_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static inline struct rng rng_seeded(uint64_t seed, uint64_t stream)
{
    return (struct rng){rng_mix(seed ^ rng_mix(stream + 0x9e3779b97f4a7c15ULL))};
}

static inline uint64_t rng_next(struct rng *rng)
{
    rng->state += 0x9e3779b97f4a7c15ULL;
    return rng_mix(rng->state);
}

/* 0 <= result < limit; limit is not 0. */
static inline uint64_t rng_below(struct rng *rng, uint64_t limit)
{
    return (uint64_t)(((unsigned __int128)rng_next(rng) * limit) >> 64);
}

/* 0 <= result < 1. */
static inline double rng_unit(struct rng *rng)
{
    return (double)(rng_next(rng) >> 11) * 0x1.0p-53;
}

#endif
