/* auth_guard.c - a table of buckets, hashed with a seed that nobody outside knows. */
#include "node/auth_guard.h"

#include "proto/base/memory.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

enum { BUCKETS = 1024, WAYS = 8 };

struct guarded {
    uint64_t address;  /* hash; 0: free */
    uint64_t since_ms; /* of what failures counts from */
    unsigned failures;
};

struct auth_guard {
    uint64_t seed;
    struct guarded at[BUCKETS][WAYS];
};

struct auth_guard *auth_guard_open(void)
{
    struct auth_guard *g = mr_calloc(1, sizeof(*g));

    /* Without a seed of its own the table still counts. */
    (void)!getrandom(&g->seed, sizeof(g->seed), 0);
    return g;
}

void auth_guard_close(struct auth_guard *g)
{
    free(g);
}

static uint64_t hash_of(const struct auth_guard *g, const char *address)
{
    struct in6_addr v6;
    uint64_t hash;

    if (inet_pton(AF_INET6, address, &v6) == 1 && !IN6_IS_ADDR_V4MAPPED(&v6))
        hash = XXH3_64bits_withSeed(&v6, 8, g->seed);
    else
        hash = XXH3_64bits_withSeed(address, strlen(address), g->seed);
    return hash != 0 ? hash : 1;
}

static void forget(struct guarded *e, uint64_t now_ms)
{
    uint64_t n = now_ms > e->since_ms ? (now_ms - e->since_ms) / AUTH_GUARD_FORGET_MS : 0;

    if (n >= e->failures) {
        e->failures = 0;
        e->since_ms = now_ms;
    } else {
        e->failures -= (unsigned)n;
        e->since_ms += n * AUTH_GUARD_FORGET_MS;
    }
}

static struct guarded *find(struct auth_guard *g, const char *address, bool make, uint64_t now_ms)
{
    uint64_t hash = hash_of(g, address);
    struct guarded *bucket = g->at[hash % BUCKETS];
    struct guarded *least = &bucket[0];

    for (int i = 0; i < WAYS; i++) {
        if (bucket[i].address == hash)
            return &bucket[i];
        if (make)
            forget(&bucket[i], now_ms);
        if (bucket[i].failures < least->failures)
            least = &bucket[i];
    }
    if (!make)
        return NULL;
    *least = (struct guarded){.address = hash, .since_ms = now_ms};
    return least;
}

void auth_guard_failed(struct auth_guard *g, const char *address, uint64_t now_ms)
{
    struct guarded *e = find(g, address, true, now_ms);

    forget(e, now_ms);
    if (e->failures < AUTH_GUARD_MOST)
        e->failures++;
}

void auth_guard_worked(struct auth_guard *g, const char *address)
{
    struct guarded *e = find(g, address, false, 0);

    if (e != NULL)
        e->failures = 0;
}

bool auth_guard_closed_to(struct auth_guard *g, const char *address, uint64_t now_ms)
{
    struct guarded *e = find(g, address, false, 0);

    if (e == NULL)
        return false;
    forget(e, now_ms);
    return e->failures >= AUTH_GUARD_MOST;
}
