/* Happy path of "mx:DOMAIN": cache -> MX query -> addresses of each host, all at once -> sorted, shuffled, kept -> cb.
 * A static route skips the MX query; an address literal skips DNS.
 * Failure: see N1. c-ares bounds each query by timeout x tries x servers.
 * Close: c-ares ends its queries (ARES_EDESTRUCTION), each lookup gets a temporary failure, then the handles close. */
#include "node/dns/resolver.h"

#include "node/dns/dns_answer.h"
#include "node/dns/dns_channel.h"
#include "node/dns/dns_query.h"
#include "node/dns/own_hosts.h"
#include "node/dns/resolver_cache.h"
#include "proto/base/id.h"
#include "proto/base/memory.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct resolver {
    struct resolver_config config;
    struct dns_channel dns;
    uv_idle_t idle;
    struct lookup *done, **done_tail; /* results wait for the next turn */
    struct question *answered, **answered_tail;
    unsigned lookups;
    struct resolver_cache cache;
    uint64_t random;
    bool closing;
    unsigned closing_handles;
    void (*close_cb)(void *arg);
    void *close_arg;
};

struct lookup {
    struct lookup *next;
    struct resolver *resolver;
    struct next_hop hop;
    char key[NEXT_HOP_MAX];
    resolved_cb cb;
    void *arg;
    struct resolution resolution;
    uint32_t ttl;
    bool from_cache;
    bool mx_secure; /* or there was no MX to look for */
    /* hosts whose addresses are asked for */
    unsigned n_hosts, waiting;
    struct host {
        struct lookup *lookup;
        char name[256];
        uint16_t preference;
        struct address_answer {
            struct host *host;
            bool came;
            int status;
            bool ad;
        } answers[2]; /* A, AAAA */
        char alias[256];
        bool alias_secure; /* the name leads elsewhere, and that was validated though the addresses there were not */
    } hosts[RESOLVER_MAX_HOSTS];
};

struct question {
    struct question *next;
    struct resolver *resolver;
    answered_cb cb;
    void *arg;
    enum dns_outcome outcome;
    bool secure;
    uint8_t *answer;
    size_t len;
};

/* ---- random order ---- */

static uint64_t next_random(struct resolver *r)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return r->random;
}

static int by_preference(const void *a, const void *b)
{
    const struct resolved_address *x = a, *y = b;
    return (x->preference > y->preference) - (x->preference < y->preference);
}

/* Shuffles, then sorts by preference: ties stay shuffled. A host's addresses come together by chance only: each is a
 * way in. */
static void arrange(struct resolver *r, struct resolution *res)
{
    for (unsigned i = res->n; i > 1; i--) {
        unsigned k = (unsigned)(next_random(r) % i);
        struct resolved_address t = res->list[i - 1];
        res->list[i - 1] = res->list[k];
        res->list[k] = t;
    }
    /* n is small; insertion keeps equal ones in their shuffled order, which qsort does not promise. */
    for (unsigned i = 1; i < res->n; i++)
        for (unsigned k = i; k > 0 && by_preference(&res->list[k - 1], &res->list[k]) > 0; k--) {
            struct resolved_address t = res->list[k];
            res->list[k] = res->list[k - 1];
            res->list[k - 1] = t;
        }
}

/* ---- the end of a lookup ---- */

static void tell_answered(struct resolver *r)
{
    struct question *q = r->answered;
    r->answered = NULL;
    r->answered_tail = &r->answered;
    while (q != NULL) {
        struct question *next = q->next;
        if (q->cb != NULL)
            q->cb(q->arg, q->outcome, q->secure, q->answer, q->len);
        r->lookups--;
        free(q->answer);
        free(q);
        q = next;
    }
}

static void on_idle(uv_idle_t *idle)
{
    struct resolver *r = idle->data;
    struct lookup *l = r->done;
    r->done = NULL;
    r->done_tail = &r->done;
    uv_idle_stop(idle);
    while (l != NULL) {
        struct lookup *next = l->next;
        if (l->hop.kind == NEXT_HOP_MX)
            own_hosts_cut(r->config.own, l->hop.host, &l->resolution);
        arrange(r, &l->resolution);
        if (l->cb != NULL)
            l->cb(l->arg, &l->resolution);
        r->lookups--;
        free(l);
        l = next;
    }
    tell_answered(r);
}

static void finish(struct lookup *l)
{
    struct resolver *r = l->resolver;
    if (!l->from_cache && !r->closing)
        resolver_cache_put(&r->cache, l->key, &l->resolution, l->ttl);
    l->next = NULL;
    *r->done_tail = l;
    r->done_tail = &l->next;
    if (!r->closing)
        uv_idle_start(&r->idle, on_idle);
}

__attribute__((format(printf, 4, 5))) static void fail(struct lookup *l, enum resolve_result result, const char *status,
                                                       const char *format, ...)
{
    va_list args;
    l->resolution.result = result;
    l->resolution.n = 0;
    l->ttl = result == RESOLVE_TEMPORARY ? RESOLVER_FAILED_TTL_S : RESOLVER_NEGATIVE_TTL_S;
    (void)snprintf(l->resolution.status, sizeof(l->resolution.status), "%s", status);
    va_start(args, format);
    (void)vsnprintf(l->resolution.reply, sizeof(l->resolution.reply), format, args);
    va_end(args);
    finish(l);
}

static bool does_not_exist(int status)
{
    return status == ARES_ENOTFOUND || status == ARES_ENODATA || status == ARES_EBADNAME;
}

/* ---- addresses ---- */

/* h: NULL for an address literal. */
static void add_address(struct lookup *l, const struct host *h, const struct sockaddr *address)
{
    struct resolution *res = &l->resolution;
    const char *host = h == NULL ? l->hop.host : h->name;
    uint16_t preference = h == NULL ? 0 : h->preference;
    uint16_t port = l->hop.kind == NEXT_HOP_MX ? l->resolver->config.mx_port : l->hop.port;
    struct resolved_address *a = &res->list[res->n];
    if (address->sa_family != AF_INET && address->sa_family != AF_INET6)
        return;
    if (res->n == RESOLVER_MAX_ADDRESSES) { /* answers come in any order: the least preferred one makes room */
        a = &res->list[0];
        for (unsigned i = 1; i < res->n; i++)
            if (res->list[i].preference > a->preference)
                a = &res->list[i];
        if (a->preference <= preference)
            return;
        res->n--;
    }
    memset(a, 0, sizeof(*a));
    (void)snprintf(a->host, sizeof(a->host), "%s", host);
    a->preference = preference;
    if (address->sa_family == AF_INET) {
        memcpy(&a->address.v4, address, sizeof(a->address.v4));
        a->address.v4.sin_port = htons(port);
    } else {
        memcpy(&a->address.v6, address, sizeof(a->address.v6));
        a->address.v6.sin6_port = htons(port);
    }
    res->n++;
}

static int host_status(const struct host *h)
{
    int first = h->answers[0].status, second = h->answers[1].status;
    if (first == ARES_SUCCESS || second == ARES_SUCCESS)
        return ARES_SUCCESS;
    return does_not_exist(first) ? second : first; /* "none" must not hide that the other got no answer */
}

static void all_hosts_known(struct lookup *l)
{
    bool temporary = false;
    for (unsigned i = 0; i < l->n_hosts; i++) {
        int status = host_status(&l->hosts[i]);
        temporary = temporary || (status != ARES_SUCCESS && !does_not_exist(status));
    }
    if (l->resolution.n > 0) {
        l->resolution.result = RESOLVED;
        if (temporary && l->ttl > RESOLVER_NEGATIVE_TTL_S)
            l->ttl = RESOLVER_NEGATIVE_TTL_S; /* a host is missing, perhaps the best one: ask again soon */
        finish(l);
    } else if (l->hop.kind != NEXT_HOP_MX && !temporary) {
        /* Somebody's configuration or a name service that is being set up: no reason to bounce all of a site's mail. */
        fail(l, RESOLVE_TEMPORARY, "4.4.4", "%s has no address", l->hosts[0].name);
    } else if (temporary) {
        fail(l, RESOLVE_TEMPORARY, "4.4.3", "no address of %s can be found for now: %s", l->hosts[0].name,
             ares_strerror(host_status(&l->hosts[0])));
    } else {
        fail(l, RESOLVE_PERMANENT, "5.4.4", "%s has no address", l->hosts[0].name);
    }
}

/* Whether TLSA records may be looked for, and where (RFC 7672 2.2.2), goes to each of the host's addresses. */
static void mark_security(struct host *h)
{
    struct lookup *l = h->lookup;
    bool secure = l->resolver->config.trust_ad && l->mx_secure;
    bool validated = true;
    for (unsigned i = 0; i < 2; i++)
        validated = validated && (h->answers[i].ad || h->answers[i].status != ARES_SUCCESS);
    for (unsigned i = 0; i < l->resolution.n; i++) {
        struct resolved_address *a = &l->resolution.list[i];
        if (strcmp(a->host, h->name) != 0)
            continue;
        a->secure = secure && (validated || h->alias_secure);
        if (a->secure && validated)
            memcpy(a->alias, h->alias, sizeof(a->alias));
    }
}

static void host_known(struct host *h)
{
    struct lookup *l = h->lookup;
    mark_security(h);
    if (--l->waiting == 0)
        all_hosts_known(l);
}

static void on_alias(void *arg, int status, bool ad, const uint8_t *answer, size_t len)
{
    struct host *h = arg;
    (void)answer;
    (void)len;
    h->alias_secure = status == ARES_SUCCESS && ad;
    host_known(h);
}

static void both_families_known(struct host *h)
{
    struct lookup *l = h->lookup;
    bool validated = true;
    for (unsigned i = 0; i < 2; i++)
        validated = validated && (h->answers[i].ad || h->answers[i].status != ARES_SUCCESS);
    if (!validated && h->alias[0] != 0 && l->mx_secure && l->resolver->config.trust_ad && !l->resolver->closing)
        dns_query(l->resolver->dns.channel, h->name, DNS_TYPE_CNAME, on_alias, h);
    else
        host_known(h);
}

static void use_addresses(struct host *h, const struct dns_address_answer *found)
{
    struct lookup *l = h->lookup;
    for (unsigned i = 0; i < found->n; i++) {
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        memcpy(&v4.sin_addr, found->list[i].bytes, sizeof(v4.sin_addr));
        memcpy(&v6.sin6_addr, found->list[i].bytes, sizeof(v6.sin6_addr));
        if (found->list[i].family == AF_INET)
            add_address(l, h, (const struct sockaddr *)&v4);
        else
            add_address(l, h, (const struct sockaddr *)&v6);
    }
    if (found->name[0] != 0)
        memcpy(h->alias, found->name, sizeof(h->alias));
    if (found->ttl < l->ttl)
        l->ttl = found->ttl;
}

static void on_addresses(void *arg, int status, bool ad, const uint8_t *answer, size_t len)
{
    struct address_answer *a = arg;
    struct host *h = a->host;
    struct dns_address_answer found;

    if (status == ARES_SUCCESS && dns_read_addresses(answer, len, &found) != 0)
        status = ARES_EBADRESP;
    else if (status == ARES_SUCCESS && found.n == 0)
        status = ARES_ENODATA; /* aliases that lead to nothing */
    a->came = true;
    a->status = status;
    a->ad = ad;
    if (status == ARES_SUCCESS)
        use_addresses(h, &found);
    if (h->answers[0].came && h->answers[1].came)
        both_families_known(h);
}

/* The hosts file goes first, as everywhere: it is how names of containers and of this host are known. */
static bool use_hosts_file(struct host *h)
{
    static const int families[] = {AF_INET, AF_INET6};
    bool found = false;
    for (unsigned i = 0; i < 2; i++) {
        struct hostent *entry = NULL;
        struct dns_address_answer answer = {.ttl = RESOLVER_NEGATIVE_TTL_S};
        h->answers[i].status = ARES_ENODATA;
        if (ares_gethostbyname_file(h->lookup->resolver->dns.channel, h->name, families[i], &entry) != ARES_SUCCESS)
            continue;
        for (char **a = entry->h_addr_list; *a != NULL && answer.n < DNS_MAX_ADDRESSES; a++) {
            struct dns_address *address = &answer.list[answer.n++];
            address->family = families[i];
            memcpy(address->bytes, *a, families[i] == AF_INET ? 4 : 16);
        }
        ares_free_hostent(entry);
        use_addresses(h, &answer);
        h->answers[i].status = ARES_SUCCESS;
        found = true;
    }
    return found;
}

static void ask_addresses(struct lookup *l)
{
    static const int types[] = {DNS_TYPE_A, DNS_TYPE_AAAA};
    unsigned n = l->n_hosts;
    l->waiting = n;
    /* The last callback may come from inside the last call and end the lookup. */
    for (unsigned i = 0; i < n; i++) {
        struct host *h = &l->hosts[i];
        if (use_hosts_file(h)) {
            host_known(h);
            continue;
        }
        for (unsigned k = 0; k < 2; k++) {
            h->answers[k].host = h;
            dns_query(l->resolver->dns.channel, h->name, types[k], on_addresses, &h->answers[k]);
        }
    }
}

static void add_host(struct lookup *l, const char *name, uint16_t preference)
{
    if (l->n_hosts == RESOLVER_MAX_HOSTS)
        return;
    struct host *h = &l->hosts[l->n_hosts++];
    h->lookup = l;
    h->preference = preference;
    (void)snprintf(h->name, sizeof(h->name), "%s", name);
}

/* ---- MX ---- */

static int mx_order(const void *a, const void *b)
{
    const struct dns_mx *x = a, *y = b;
    return (x->preference > y->preference) - (x->preference < y->preference);
}

static void use_mx(struct lookup *l, struct dns_mx_answer *mx)
{
    unsigned named = 0;
    for (unsigned i = 0; i < mx->n; i++)
        named += mx->list[i].host[0] != 0;
    if (named == 0) { /* RFC 7505 */
        fail(l, RESOLVE_PERMANENT, "5.1.10", "%s accepts no mail (null MX)", l->hop.host);
        return;
    }
    unsigned best_own = 65536;
    for (unsigned i = 0; i < mx->n; i++)
        if (mx->list[i].preference < best_own && own_hosts_has_name(l->resolver->config.own, mx->list[i].host))
            best_own = mx->list[i].preference;
    qsort(mx->list, mx->n, sizeof(mx->list[0]), mx_order);
    l->resolution.best_preference = mx->list[0].preference;
    for (unsigned i = 0; i < mx->n; i++)
        if (mx->list[i].preference < best_own && mx->list[i].host[0] != 0)
            add_host(l, mx->list[i].host, mx->list[i].preference);
    if (l->n_hosts == 0)
        fail(l, RESOLVE_PERMANENT, "5.4.6", "mail for %s loops back to this host", l->hop.host);
    else
        ask_addresses(l);
}

static void on_mx(void *arg, int status, bool ad, const uint8_t *answer, size_t len)
{
    struct lookup *l = arg;
    struct dns_mx_answer mx;

    l->mx_secure = ad;
    if (status == ARES_ENOTFOUND || status == ARES_EBADNAME) {
        fail(l, RESOLVE_PERMANENT, "5.1.2", "the domain %s does not exist", l->hop.host);
    } else if (status == ARES_ENODATA) {
        add_host(l, l->hop.host, 0); /* implicit MX */
        ask_addresses(l);
    } else if (status != ARES_SUCCESS) {
        fail(l, RESOLVE_TEMPORARY, "4.4.3", "no answer for MX of %s: %s", l->hop.host, ares_strerror(status));
    } else if (dns_read_mx(answer, len, &mx) != 0) {
        fail(l, RESOLVE_TEMPORARY, "4.4.3", "malformed answer for MX of %s", l->hop.host);
    } else if (mx.n == 0) {
        add_host(l, l->hop.host, 0);
        ask_addresses(l);
    } else {
        l->ttl = mx.ttl;
        use_mx(l, &mx);
    }
}

static bool use_literal(struct lookup *l)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, l->hop.host, &v4.sin_addr) == 1)
        add_address(l, NULL, (const struct sockaddr *)&v4);
    else if (inet_pton(AF_INET6, l->hop.host, &v6.sin6_addr) == 1)
        add_address(l, NULL, (const struct sockaddr *)&v6);
    else
        return false;
    l->from_cache = true; /* nothing to keep */
    finish(l);
    return true;
}

struct lookup *resolver_lookup(struct resolver *r, const struct next_hop *hop, resolved_cb cb, void *arg)
{
    struct lookup *l = mr_calloc(1, sizeof(*l));
    l->resolver = r;
    l->hop = *hop;
    l->cb = cb;
    l->arg = arg;
    l->ttl = RESOLVER_MAX_TTL_S;
    if (hop->kind == NEXT_HOP_MX && !r->closing)
        own_hosts_refresh(r->config.own, r);
    next_hop_format(hop, l->key);
    r->lookups++;
    const struct resolution *known = resolver_cache_find(&r->cache, l->key);
    if (known != NULL) {
        l->resolution = *known;
        l->from_cache = true;
        finish(l);
    } else if (use_literal(l)) {
        /* done */
    } else if (r->lookups > RESOLVER_MAX_LOOKUPS || r->closing) {
        l->from_cache = true;
        fail(l, RESOLVE_TEMPORARY, "4.3.2", "too many DNS lookups are under way");
    } else if (hop->kind == NEXT_HOP_MX) {
        dns_query(r->dns.channel, hop->host, DNS_TYPE_MX, on_mx, l);
    } else {
        l->mx_secure = true;
        add_host(l, hop->host, 0);
        ask_addresses(l);
    }
    return l;
}

void resolver_cancel(struct lookup *l)
{
    l->cb = NULL;
}

/* ---- one question ---- */

static void on_answer(void *arg, int status, bool ad, const uint8_t *answer, size_t len)
{
    struct question *q = arg;
    struct resolver *r = q->resolver;
    q->outcome = status == ARES_SUCCESS ? DNS_ANSWERED : does_not_exist(status) ? DNS_NONE : DNS_FAILED;
    q->secure = ad && r->config.trust_ad;
    if (len > 0 && len <= RESOLVER_MAX_ANSWER) {
        q->answer = mr_memdup(answer, len);
        q->len = len;
    }
    *r->answered_tail = q;
    r->answered_tail = &q->next;
    if (!r->closing)
        uv_idle_start(&r->idle, on_idle);
}

struct question *resolver_ask(struct resolver *r, const char *name, int type, answered_cb cb, void *arg)
{
    struct question *q = mr_calloc(1, sizeof(*q));
    q->resolver = r;
    q->cb = cb;
    q->arg = arg;
    r->lookups++;
    if (r->lookups > RESOLVER_MAX_LOOKUPS || r->closing)
        on_answer(q, ARES_ECANCELLED, false, NULL, 0);
    else
        dns_query(r->dns.channel, name, type, on_answer, q);
    return q;
}

void resolver_ask_cancel(struct question *q)
{
    q->cb = NULL;
}

/* ---- open and close ---- */

int resolver_open(struct resolver **out, const struct resolver_config *config)
{
    static const struct resolver none;
    struct resolver *r = mr_malloc(sizeof(*r));
    struct mr_id seed = mr_id_random();
    *r = none;
    r->config = *config;
    r->done_tail = &r->done;
    r->answered_tail = &r->answered;
    memcpy(&r->random, seed.bytes, sizeof(r->random));
    r->random |= 1;
    int rc = dns_channel_open(&r->dns, config);
    if (rc != 0) {
        free(r);
        return rc;
    }
    if (config->n_servers == 0 && config->trust_ad_of_loopback)
        r->config.trust_ad = dns_channel_only_loopback(&r->dns);
    uv_idle_init(config->loop, &r->idle);
    r->idle.data = r;
    *out = r;
    return 0;
}

static void handle_closed(struct resolver *r)
{
    if (--r->closing_handles > 0)
        return;
    resolver_cache_clear(&r->cache);
    void (*cb)(void *) = r->close_cb;
    void *arg = r->close_arg;
    free(r);
    cb(arg);
}

static void on_dns_closed(void *arg)
{
    handle_closed(arg);
}

static void on_idle_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

void resolver_close(struct resolver *r, void (*cb)(void *arg), void *arg)
{
    r->closing = true;
    r->close_cb = cb;
    r->close_arg = arg;
    r->closing_handles = 2;
    dns_channel_close(&r->dns, on_dns_closed, r); /* ends every query: their lookups stand in `done` now */
    on_idle(&r->idle);
    uv_close((uv_handle_t *)&r->idle, on_idle_closed);
}
