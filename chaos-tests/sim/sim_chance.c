/* Chance: a generator for each stream (xoshiro256**), all begun from the seed by SplitMix64. */
#include "chaos-tests/sim/sim_chance.h"

#include "proto/base/panic.h"

static struct {
    uint64_t s[4];
} streams[SIM_STREAMS];

static uint64_t split_mix(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

void sim_chance_init(uint64_t seed)
{
    for (unsigned i = 0; i < SIM_STREAMS; i++) {
        uint64_t state = seed * SIM_STREAMS + i;
        for (int j = 0; j < 4; j++)
            streams[i].s[j] = split_mix(&state);
    }
}

static uint64_t rotate(uint64_t x, int by)
{
    return (x << by) | (x >> (64 - by));
}

uint64_t sim_random(enum sim_stream stream)
{
    uint64_t *s = streams[stream].s;
    uint64_t result = rotate(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

/* The product's upper half; that some numbers come oftener by 2^-40 or so is nothing here. */
uint64_t sim_below(enum sim_stream s, uint64_t n)
{
    mr_assert(n > 0);
    return (uint64_t)(((unsigned __int128)sim_random(s) * n) >> 64);
}

uint64_t sim_between(enum sim_stream s, uint64_t low, uint64_t high)
{
    mr_assert(low <= high);
    if (low == 0 && high == UINT64_MAX)
        return sim_random(s);
    return low + sim_below(s, high - low + 1);
}

/* One draw whatever p is, so that another p moves no other choice. */
bool sim_chance(enum sim_stream s, double p)
{
    return (double)(sim_random(s) >> 11) * 0x1p-53 < p;
}
