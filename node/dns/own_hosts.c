/* Happy path: resolver_lookup of an MX -> own_hosts_refresh: interfaces at once, names by lookups of their own, which
 * end meanwhile -> the MX records are there -> own_hosts_has_name, own_hosts_cut.
 * An answer is cut when it is handed out, not when it is kept: what is ours may be learned later. */
#include "node/dns/own_hosts.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* IPv4 as IPv4-mapped IPv6: one form to compare. */
struct plain_address {
    uint8_t bytes[16];
};

/* A host whose addresses are ours. */
struct own_host {
    struct next_hop hop;
    bool any_port; /* O4 */
    bool asked;    /* its lookup is under way */
    unsigned n;
    struct plain_address at[RESOLVER_MAX_ADDRESSES];
};

struct own_hosts {
    const struct config *config;
    struct own_host *hosts;
    unsigned n_hosts;
    struct plain_address *interfaces;
    unsigned n_interfaces;
    uint64_t fresh_until_ns; /* boot time */
};

/* ---- addresses ---- */

static struct plain_address plain(const struct sockaddr *address)
{
    struct plain_address p = {{0}};
    if (address->sa_family == AF_INET) {
        p.bytes[10] = p.bytes[11] = 0xff;
        memcpy(p.bytes + 12, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    } else {
        memcpy(p.bytes, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
    }
    return p;
}

static uint16_t port_of(const struct sockaddr *address)
{
    return ntohs(address->sa_family == AF_INET ? ((const struct sockaddr_in *)(const void *)address)->sin_port
                                               : ((const struct sockaddr_in6 *)(const void *)address)->sin6_port);
}

static bool is_in(const struct plain_address *list, unsigned n, const struct plain_address *a)
{
    for (unsigned i = 0; i < n; i++)
        if (memcmp(list[i].bytes, a->bytes, sizeof(a->bytes)) == 0)
            return true;
    return false;
}

/* Who connects to the unspecified address comes to this host. */
static bool is_loopback(const struct plain_address *a)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, zero[16];
    if (memcmp(a->bytes, mapped, 12) == 0)
        return a->bytes[12] == 127 || memcmp(a->bytes + 12, zero, 4) == 0;
    return memcmp(a->bytes, zero, 15) == 0 && a->bytes[15] <= 1;
}

static bool is_unspecified(const struct plain_address *a)
{
    static const uint8_t zero[4];
    return is_loopback(a) && memcmp(a->bytes + 12, zero, 4) == 0;
}

/* "host:port" of the configuration; false: not a fixed port. */
static bool parse(const char *text, struct next_hop *out)
{
    char url[NEXT_HOP_MAX];
    int n = snprintf(url, sizeof(url), "smtp://%s", text);
    return n > 0 && (size_t)n < sizeof(url) && next_hop_parse(url, out) == 0;
}

static bool literal(const char *host, struct plain_address *out)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a;
    if (uv_ip4_addr(host, 0, &a.v4) != 0 && uv_ip6_addr(host, 0, &a.v6) != 0)
        return false;
    *out = plain(&a.any);
    return true;
}

/* Does a listener take SMTP at this port? Then *at is its address; one that is given by a name may be any. */
static bool takes_smtp(const struct listener_config *l, uint16_t port, struct plain_address *at)
{
    static const struct plain_address any;
    struct next_hop hop;
    if (l->profile == PROFILE_LMTP || !parse(l->listen, &hop) || hop.port != port)
        return false;
    if (!literal(hop.host, at))
        *at = any;
    return true;
}

/* Does one of our listeners take SMTP at this port and, unless it is NULL, this address of the machine? */
static bool listens(const struct own_hosts *o, const struct plain_address *at, uint16_t port)
{
    struct plain_address own;
    for (unsigned i = 0; i < o->config->smtp.n_listeners; i++)
        if (takes_smtp(&o->config->smtp.listeners[i], port, &own) &&
            (at == NULL || is_unspecified(&own) || is_unspecified(at) || is_in(&own, 1, at)))
            return true;
    return false;
}

/* Has smtp.own_hosts (any_port), or cluster.initial, this address? */
static bool is_host(const struct own_hosts *o, const struct plain_address *a, bool any_port)
{
    for (unsigned i = 0; i < o->n_hosts; i++)
        if (o->hosts[i].any_port == any_port && is_in(o->hosts[i].at, o->hosts[i].n, a))
            return true;
    return false;
}

/* O3. What we listen at besides is ours alone: nothing is known of the others by it. */
static bool members_listen(const struct own_hosts *o, uint16_t port)
{
    struct plain_address own;
    for (unsigned i = 0; i < o->config->smtp.n_listeners; i++)
        if (takes_smtp(&o->config->smtp.listeners[i], port, &own) && (is_unspecified(&own) || is_host(o, &own, false)))
            return true;
    return false;
}

static bool has_address(const struct own_hosts *o, const struct sockaddr *address)
{
    struct plain_address a = plain(address);
    uint16_t port = port_of(address);
    if (is_host(o, &a, true))
        return true;
    if (is_loopback(&a) || is_in(o->interfaces, o->n_interfaces, &a))
        return listens(o, &a, port);
    return is_host(o, &a, false) && members_listen(o, port);
}

/* ---- what is asked for ---- */

static void on_known(void *arg, const struct resolution *resolution)
{
    struct own_host *h = arg;
    h->asked = false;
    if (resolution->result != RESOLVED)
        return;
    h->n = 0;
    for (unsigned i = 0; i < resolution->n; i++)
        h->at[h->n++] = plain(&resolution->list[i].address.any);
}

static void read_interfaces(struct own_hosts *o)
{
    uv_interface_address_t *list;
    int n;
    int rc = uv_interface_addresses(&list, &n);
    if (rc != 0) {
        log_event(LOG_WARN, "interfaces_unknown", LOG_S("error", uv_strerror(rc)));
        return;
    }
    free(o->interfaces);
    o->interfaces = mr_calloc((size_t)n + 1, sizeof(*o->interfaces));
    o->n_interfaces = 0;
    for (int i = 0; i < n; i++)
        o->interfaces[o->n_interfaces++] = plain((const struct sockaddr *)&list[i].address);
    uv_free_interface_addresses(list, n);
}

void own_hosts_refresh(struct own_hosts *o, struct resolver *r)
{
    uint64_t now_ns = mr_boot_ns(&mr_clock_real);
    if (now_ns < o->fresh_until_ns)
        return;
    o->fresh_until_ns = now_ns + OWN_HOSTS_FRESH_MS * MR_NS_PER_MS;
    read_interfaces(o);
    for (unsigned i = 0; i < o->n_hosts; i++) {
        if (o->hosts[i].asked)
            continue;
        o->hosts[i].asked = true;
        (void)resolver_lookup(r, &o->hosts[i].hop, on_known, &o->hosts[i]);
    }
}

/* ---- MX ---- */

bool own_hosts_has_name(const struct own_hosts *o, const char *name)
{
    if (strcasecmp(name, o->config->smtp.hostname) == 0)
        return true;
    bool members = listens(o, NULL, o->config->delivery.port);
    for (unsigned i = 0; members && i < o->config->cluster.n_initial; i++)
        if (strcasecmp(name, o->config->cluster.initial[i].name) == 0)
            return true;
    for (unsigned i = 0; i < o->n_hosts; i++)
        if ((o->hosts[i].any_port || members) && strcasecmp(name, o->hosts[i].hop.host) == 0)
            return true;
    return false;
}

void own_hosts_cut(const struct own_hosts *o, const char *domain, struct resolution *resolution)
{
    enum { NONE = UINT16_MAX + 1 };
    unsigned cut = NONE, n = 0;
    char host[sizeof(resolution->list[0].host)];

    if (resolution->result != RESOLVED)
        return;
    for (unsigned i = 0; i < resolution->n; i++) {
        const struct resolved_address *a = &resolution->list[i];
        if (a->preference < cut && (own_hosts_has_name(o, a->host) || has_address(o, &a->address.any))) {
            cut = a->preference;
            memcpy(host, a->host, sizeof(host));
        }
    }
    for (unsigned i = 0; i < resolution->n; i++)
        if (resolution->list[i].preference < cut)
            resolution->list[n++] = resolution->list[i];
    resolution->n = n;
    if (n > 0)
        return;
    bool best = cut <= resolution->best_preference;
    resolution->result = best ? RESOLVE_PERMANENT : RESOLVE_TEMPORARY;
    (void)snprintf(resolution->status, sizeof(resolution->status), "%s", best ? "5.4.6" : "4.4.4");
    (void)snprintf(resolution->reply, sizeof(resolution->reply),
                   best ? "mail for %s loops back to this host: %s is ours"
                        : "no host of %s that is better than ours, %s, has an address",
                   domain, host);
}

/* ---- life ---- */

static void add_host(struct own_hosts *o, const struct next_hop *hop, bool any_port)
{
    struct own_host *h = &o->hosts[o->n_hosts++];
    h->hop = *hop;
    h->any_port = any_port;
}

struct own_hosts *own_hosts_make(const struct config *config)
{
    struct own_hosts *o = mr_calloc(1, sizeof(*o));
    struct next_hop hop;

    o->config = config;
    o->hosts = mr_calloc(config->cluster.n_initial + config->smtp.n_own_hosts + 1, sizeof(*o->hosts));
    for (unsigned i = 0; i < config->cluster.n_initial; i++)
        if (parse(config->cluster.initial[i].address, &hop))
            add_host(o, &hop, false);
    for (unsigned i = 0; i < config->smtp.n_own_hosts; i++) {
        hop = (struct next_hop){.kind = NEXT_HOP_SMTP, .port = 25};
        (void)snprintf(hop.host, sizeof(hop.host), "%s", config->smtp.own_hosts[i]);
        add_host(o, &hop, true);
    }
    return o;
}

void own_hosts_free(struct own_hosts *o)
{
    free(o->hosts);
    free(o->interfaces);
    free(o);
}
