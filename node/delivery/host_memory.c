/* host_memory.c - a set-associative table of addresses, and two families. */
#include "node/delivery/host_memory.h"

#include "proto/base/hash.h"
#include "proto/base/id.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

/* A time of being put back, which grows with each failure after it. */
struct away {
    uint64_t until_ms; /* 0: never */
    uint32_t length_ms;
};

struct remembered {
    uint8_t key[20]; /* family, port, address; family 0: free */
    struct away away;
};

struct family {
    struct away away;
    uint64_t suspects[FAMILY_FAILURES]; /* hosts that timed out since the last connection */
    unsigned n_suspects;
};

struct host_memory {
    uint64_t seed;
    struct family v4, v6;
    struct remembered sets[HOST_SETS][HOST_WAYS];
};

void host_memory_open(struct host_memory **out)
{
    struct host_memory *m = mr_calloc(1, sizeof(*m));
    struct mr_id seed = mr_id_random();

    memcpy(&m->seed, seed.bytes, sizeof(m->seed));
    *out = m;
}

void host_memory_close(struct host_memory *m)
{
    free(m);
}

/* ---- times ---- */

static bool is_away(const struct away *a, uint64_t now_ms)
{
    return now_ms < a->until_ms;
}

static void send_away(struct away *a, uint32_t first_ms, uint32_t max_ms, uint64_t now_ms)
{
    if (is_away(a, now_ms))
        return;
    /* One that worked for as long as it was away begins anew. */
    if (a->until_ms == 0 || now_ms - a->until_ms > a->length_ms)
        a->length_ms = first_ms;
    else
        a->length_ms = a->length_ms > max_ms / 2 ? max_ms : a->length_ms * 2;
    a->until_ms = now_ms + a->length_ms;
}

/* ---- hosts ---- */

static void make_key(const struct sockaddr *address, uint8_t key[20])
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;

    memset(key, 0, 20);
    key[0] = (uint8_t)(address->sa_family == AF_INET6 ? 6 : 4);
    if (address->sa_family == AF_INET6) {
        memcpy(key + 2, &v6->sin6_port, 2);
        memcpy(key + 4, &v6->sin6_addr, 16);
    } else {
        memcpy(key + 2, &v4->sin_port, 2);
        memcpy(key + 4, &v4->sin_addr, 4);
    }
}

static const struct remembered *find(const struct host_memory *m, const struct sockaddr *address)
{
    uint8_t key[20];
    const struct remembered *set;

    make_key(address, key);
    set = m->sets[XXH3_64bits_withSeed(key, sizeof(key), m->seed) % HOST_SETS];
    for (unsigned i = 0; i < HOST_WAYS; i++)
        if (memcmp(set[i].key, key, sizeof(key)) == 0)
            return &set[i];
    return NULL;
}

static struct remembered *find_or_add(struct host_memory *m, const struct sockaddr *address)
{
    struct remembered *at;
    uint8_t key[20];

    make_key(address, key);
    at = m->sets[XXH3_64bits_withSeed(key, sizeof(key), m->seed) % HOST_SETS];
    struct remembered *oldest = at;
    for (unsigned i = 0; i < HOST_WAYS; i++) {
        if (memcmp(at[i].key, key, sizeof(key)) == 0)
            return &at[i];
        if (at[i].away.until_ms < oldest->away.until_ms)
            oldest = &at[i];
    }
    *oldest = (struct remembered){.key = {0}};
    memcpy(oldest->key, key, sizeof(key));
    return oldest;
}

/* ---- families ---- */

static struct family *family_of(struct host_memory *m, const struct sockaddr *address)
{
    return address->sa_family == AF_INET6 ? &m->v6 : &m->v4;
}

static void family_failed(struct family *f, uint64_t now_ms)
{
    send_away(&f->away, FAMILY_AWAY_FIRST_MS, FAMILY_AWAY_MAX_MS, now_ms);
    f->n_suspects = 0;
}

static void family_suspect(struct host_memory *m, struct family *f, const struct sockaddr *address, uint64_t now_ms)
{
    uint8_t key[20];
    uint64_t host;

    make_key(address, key);
    memset(key + 2, 0, 2); /* another port is no other host */
    host = XXH3_64bits_withSeed(key, sizeof(key), m->seed);
    for (unsigned i = 0; i < f->n_suspects; i++)
        if (f->suspects[i] == host)
            return;
    f->suspects[f->n_suspects++] = host;
    if (f->n_suspects == FAMILY_FAILURES)
        family_failed(f, now_ms);
}

/* ---- */

void host_memory_failed(struct host_memory *m, const struct sockaddr *address, enum host_failure how, uint64_t now_ms)
{
    struct family *f = family_of(m, address);

    if (how == HOST_UNREACHABLE) { /* says nothing about the host */
        family_failed(f, now_ms);
        return;
    }
    send_away(&find_or_add(m, address)->away, HOST_AWAY_FIRST_MS, HOST_AWAY_MAX_MS, now_ms);
    if (how == HOST_TIMED_OUT)
        family_suspect(m, f, address, now_ms);
    else
        f->n_suspects = 0; /* something came back over it */
}

void host_memory_worked(struct host_memory *m, const struct sockaddr *address)
{
    struct remembered *r = (struct remembered *)(uintptr_t)find(m, address);
    struct family *f = family_of(m, address);

    if (r != NULL)
        *r = (struct remembered){.key = {0}};
    *f = (struct family){.n_suspects = 0};
}

bool host_memory_avoids(const struct host_memory *m, const struct sockaddr *address, uint64_t now_ms)
{
    const struct remembered *r = find(m, address);

    return r != NULL && is_away(&r->away, now_ms);
}

/* What goes first has the smaller number. */
static uint64_t rank(const struct host_memory *m, const struct resolved_address *a, uint64_t now_ms)
{
    bool six = a->address.any.sa_family == AF_INET6;
    bool failed = is_away(six ? &m->v6.away : &m->v4.away, now_ms);
    bool away = host_memory_avoids(m, &a->address.any, now_ms);

    return (uint64_t)away << 32 | (uint64_t)a->preference << 8 | (uint64_t)failed << 1 | !six;
}

void host_memory_arrange(const struct host_memory *m, struct resolved_address *list, unsigned n, uint64_t now_ms)
{
    /* n is small; insertion keeps equal ones in their order, which was drawn by lot. */
    for (unsigned i = 1; i < n; i++) {
        struct resolved_address moving = list[i];
        uint64_t own = rank(m, &moving, now_ms);
        unsigned k = i;

        while (k > 0 && rank(m, &list[k - 1], now_ms) > own) {
            list[k] = list[k - 1];
            k--;
        }
        list[k] = moving;
    }
}
