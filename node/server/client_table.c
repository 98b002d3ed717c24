/* client_table.c - shards of chained entries from one array each.
 *
 * An entry is free, or in its chain; one without open connections is also in the shard's list of idle ones, the longest
 * unused first. A token bucket is one number, the time at which it will be full again (the generic cell rate
 * algorithm). */
#include "node/server/client_table.h"

#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RATES = 4, NONE = -1 };
enum { KEY_V4 = 1, KEY_V6, KEY_NETWORK_V4, KEY_NETWORK_V6 };

struct entry {
    struct client_key key; /* kind 0: free */
    unsigned open;
    uint64_t full_ns[RATES]; /* when the bucket is full again; the past: it is */
    int32_t next;            /* in the chain, or of the free ones */
    int32_t older, newer;    /* idle ones */
};

struct shard {
    _Alignas(64) pthread_mutex_t lock;
    struct entry *entries;
    int32_t *chains;
    int32_t free, oldest, newest;
    unsigned used, fresh; /* entries in chains; entries that were ever used: memory behind them was not touched */
};

struct client_table {
    struct client_limits limits;
    uint64_t seed;
    unsigned per_shard; /* entries, and chains */
    struct shard shards[CLIENT_TABLE_SHARDS];
};

const char *client_limit_name(enum client_limit limit)
{
    static const char *const names[CLIENT_LIMITS] = {
        "none",         "connections",    "network_connections", "connection_rate",
        "message_rate", "recipient_rate", "auth_failures",       "client_table",
    };

    return names[limit];
}

/* ---- life ---- */

void client_table_open(struct client_table **out, const struct client_limits *limits)
{
    struct client_table *t = aligned_alloc(64, sizeof(*t));
    unsigned entries = limits->entries != 0 ? limits->entries : CLIENT_TABLE_ENTRIES;

    mr_assert(t != NULL);
    memset(t, 0, sizeof(*t));
    t->limits = *limits;
    t->per_shard = (entries + CLIENT_TABLE_SHARDS - 1) / CLIENT_TABLE_SHARDS;
    if (RAND_bytes((unsigned char *)&t->seed, sizeof(t->seed)) != 1)
        mr_panic("no random numbers");
    for (unsigned i = 0; i < CLIENT_TABLE_SHARDS; i++) {
        struct shard *s = &t->shards[i];

        mr_assert(pthread_mutex_init(&s->lock, NULL) == 0);
        s->entries = mr_calloc(t->per_shard, sizeof(s->entries[0]));
        s->chains = mr_malloc(t->per_shard * sizeof(s->chains[0]));
        s->oldest = s->newest = s->free = NONE;
        for (unsigned n = 0; n < t->per_shard; n++)
            s->chains[n] = NONE;
    }
    *out = t;
}

void client_table_close(struct client_table *t)
{
    for (unsigned i = 0; i < CLIENT_TABLE_SHARDS; i++) {
        pthread_mutex_destroy(&t->shards[i].lock);
        free(t->shards[i].entries);
        free(t->shards[i].chains);
    }
    free(t);
}

/* ---- entries of a locked shard ---- */

static bool same_key(const struct client_key *a, const struct client_key *b)
{
    return a->kind == b->kind && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

/* Locks the shard of the key; *chain: where the key is or would be. */
static struct shard *lock_shard(struct client_table *t, const struct client_key *key, int32_t **chain)
{
    uint64_t hash = XXH3_64bits_withSeed(key, sizeof(*key), t->seed);
    struct shard *s = &t->shards[hash % CLIENT_TABLE_SHARDS];

    pthread_mutex_lock(&s->lock);
    *chain = &s->chains[hash / CLIENT_TABLE_SHARDS % t->per_shard];
    return s;
}

static struct entry *find(struct shard *s, const int32_t *chain, const struct client_key *key)
{
    for (int32_t at = *chain; at != NONE; at = s->entries[at].next)
        if (same_key(&s->entries[at].key, key))
            return &s->entries[at];
    return NULL;
}

static int32_t number(const struct shard *s, const struct entry *e)
{
    return (int32_t)(e - s->entries);
}

static void unlink_idle(struct shard *s, struct entry *e)
{
    *(e->older != NONE ? &s->entries[e->older].newer : &s->oldest) = e->newer;
    *(e->newer != NONE ? &s->entries[e->newer].older : &s->newest) = e->older;
}

static void link_idle(struct shard *s, struct entry *e)
{
    e->older = s->newest;
    e->newer = NONE;
    *(s->newest != NONE ? &s->entries[s->newest].newer : &s->oldest) = number(s, e);
    s->newest = number(s, e);
}

/* Frees the one that was idle longest. False: none is idle. */
static bool make_room(struct client_table *t, struct shard *s)
{
    int32_t at = s->oldest;
    struct entry *e;
    int32_t *link;

    if (at == NONE)
        return false;
    e = &s->entries[at];
    unlink_idle(s, e);
    link = &s->chains[XXH3_64bits_withSeed(&e->key, sizeof(e->key), t->seed) / CLIENT_TABLE_SHARDS % t->per_shard];
    while (*link != at)
        link = &s->entries[*link].next;
    *link = e->next;
    e->key.kind = 0;
    e->next = s->free;
    s->free = at;
    s->used--;
    return true;
}

/* A new one, idle. NULL: no room. */
static struct entry *add(struct client_table *t, struct shard *s, int32_t *chain, const struct client_key *key)
{
    struct entry *e;

    if (s->used == t->per_shard && !make_room(t, s))
        return NULL;
    if (s->free != NONE) {
        e = &s->entries[s->free];
        s->free = e->next;
    } else {
        e = &s->entries[s->fresh++];
    }
    s->used++;
    *e = (struct entry){.key = *key, .next = *chain};
    *chain = number(s, e);
    link_idle(s, e);
    return e;
}

static void open_one(struct shard *s, struct entry *e)
{
    if (e->open++ == 0)
        unlink_idle(s, e);
}

static void close_one(struct shard *s, struct entry *e)
{
    mr_assert(e->open > 0);
    if (--e->open == 0)
        link_idle(s, e);
}

/* ---- rates ---- */

static const struct client_rate *rate_of(const struct client_table *t, enum client_limit limit, unsigned *bucket)
{
    const struct client_rate *const rates[RATES] = {&t->limits.connection_rate, &t->limits.message_rate,
                                                    &t->limits.recipient_rate, &t->limits.auth_failures};

    mr_assert(limit >= CLIENT_CONNECTION_RATE && limit <= CLIENT_AUTH_FAILURES);
    *bucket = limit - CLIENT_CONNECTION_RATE;
    return rates[*bucket];
}

/* Is there a token? Takes it, if so wanted. */
static bool token(const struct client_table *t, struct entry *e, enum client_limit limit, uint64_t now_ns, bool take)
{
    unsigned bucket;
    const struct client_rate *rate = rate_of(t, limit, &bucket);
    uint64_t each, full;

    if (rate->count == 0)
        return true;
    each = (uint64_t)rate->per_ms * 1000000 / rate->count; /* one token comes back in */
    full = e->full_ns[bucket] > now_ns ? e->full_ns[bucket] : now_ns;
    if (full - now_ns > each * (rate->count - 1))
        return false;
    if (take)
        e->full_ns[bucket] = full + each;
    return true;
}

static bool ask(struct client_table *t, const struct client_pass *pass, enum client_limit rate, uint64_t now_ns,
                bool take)
{
    int32_t *chain;
    struct shard *s;
    struct entry *e;
    bool yes;

    if (t == NULL || pass->address.kind == 0)
        return true;
    s = lock_shard(t, &pass->address, &chain);
    e = find(s, chain, &pass->address);
    mr_assert(e != NULL && e->open > 0);
    yes = token(t, e, rate, now_ns, take);
    pthread_mutex_unlock(&s->lock);
    return yes;
}

bool client_take(struct client_table *t, const struct client_pass *pass, enum client_limit rate, uint64_t now_ns)
{
    return ask(t, pass, rate, now_ns, true);
}

bool client_may(struct client_table *t, const struct client_pass *pass, enum client_limit rate, uint64_t now_ns)
{
    return ask(t, pass, rate, now_ns, false);
}

/* ---- connections ---- */

/* False: no IP address. */
static bool make_pass(const struct sockaddr *address, struct client_pass *pass)
{
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
    bool mapped = address->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);

    memset(pass, 0, sizeof(*pass));
    if (address->sa_family == AF_INET || mapped) {
        const void *from = mapped ? (const void *)&v6->sin6_addr.s6_addr[12] : (const void *)&v4->sin_addr;

        memcpy(pass->address.bytes, from, 4);
        memcpy(pass->network.bytes, from, 3);
        pass->address.kind = KEY_V4;
        pass->network.kind = KEY_NETWORK_V4;
        return true;
    }
    if (address->sa_family != AF_INET6)
        return false;
    memcpy(pass->address.bytes, &v6->sin6_addr, 8);
    memcpy(pass->network.bytes, &v6->sin6_addr, 7);
    pass->address.kind = KEY_V6;
    pass->network.kind = KEY_NETWORK_V6;
    return true;
}

static enum client_limit enter(struct client_table *t, const struct client_key *key, bool is_network, uint64_t now_ns)
{
    unsigned most = is_network ? t->limits.network_connections : t->limits.connections;
    enum client_limit limit = CLIENT_OK;
    int32_t *chain;
    struct shard *s = lock_shard(t, key, &chain);
    struct entry *e = find(s, chain, key);

    if (e == NULL)
        e = add(t, s, chain, key);
    if (e == NULL)
        limit = CLIENT_TABLE_FULL;
    else if (most != 0 && e->open >= most)
        limit = is_network ? CLIENT_NETWORK_CONNECTIONS : CLIENT_CONNECTIONS;
    else if (!is_network && !token(t, e, CLIENT_CONNECTION_RATE, now_ns, true))
        limit = CLIENT_CONNECTION_RATE;
    else
        open_one(s, e);
    pthread_mutex_unlock(&s->lock);
    return limit;
}

static void leave(struct client_table *t, const struct client_key *key)
{
    int32_t *chain;
    struct shard *s = lock_shard(t, key, &chain);
    struct entry *e = find(s, chain, key);

    mr_assert(e != NULL);
    close_one(s, e);
    pthread_mutex_unlock(&s->lock);
}

bool client_is_exempt(const struct client_table *t, const struct sockaddr *address)
{
    return t == NULL || network_contains(&t->limits.exempt, address);
}

enum client_limit client_enter(struct client_table *t, const struct sockaddr *address, uint64_t now_ns,
                               struct client_pass *pass)
{
    enum client_limit limit;

    memset(pass, 0, sizeof(*pass));
    if (client_is_exempt(t, address) || !make_pass(address, pass))
        return CLIENT_OK;
    limit = enter(t, &pass->network, true, now_ns);
    if (limit == CLIENT_OK) {
        limit = enter(t, &pass->address, false, now_ns);
        if (limit != CLIENT_OK)
            leave(t, &pass->network);
    }
    if (limit != CLIENT_OK)
        memset(pass, 0, sizeof(*pass));
    return limit;
}

void client_leave(struct client_table *t, struct client_pass *pass)
{
    if (t != NULL && pass->address.kind != 0) {
        leave(t, &pass->address);
        leave(t, &pass->network);
    }
    memset(pass, 0, sizeof(*pass));
}

unsigned client_table_entries(struct client_table *t)
{
    unsigned n = 0;

    for (unsigned i = 0; i < CLIENT_TABLE_SHARDS; i++) {
        pthread_mutex_lock(&t->shards[i].lock);
        n += t->shards[i].used;
        pthread_mutex_unlock(&t->shards[i].lock);
    }
    return n;
}
