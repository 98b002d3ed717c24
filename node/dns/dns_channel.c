/* Happy path: a question -> c-ares opens a socket -> on_socket polls it -> on_poll -> the question's callback.
 * Failure: a socket's error is c-ares' to find; what gets no answer ends by its timeout, which on_timer looks after. */
#include "node/dns/dns_channel.h"

#include "node/dns/resolver.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

/* What stands in both c-ares 1.18 (Debian 12) and 1.34 (Debian 13) is used; the second would like others. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

enum { POLL_MS = 100 };

struct watched {
    uv_poll_t poll;
    struct watched *next;
    struct dns_channel *owner;
    ares_socket_t fd;
};

static void on_timer(uv_timer_t *timer)
{
    struct dns_channel *d = timer->data;
    ares_process_fd(d->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    if (d->sockets == NULL)
        uv_timer_stop(timer);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watched *w = poll->data;
    struct dns_channel *d = w->owner;
    ares_socket_t fd = w->fd;
    if (status < 0)
        events = UV_READABLE | UV_WRITABLE; /* c-ares finds out what is wrong */
    ares_process_fd(d->channel, events & UV_READABLE ? fd : ARES_SOCKET_BAD,
                    events & UV_WRITABLE ? fd : ARES_SOCKET_BAD);
}

static void on_watched_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_socket(void *arg, ares_socket_t fd, int readable, int writable)
{
    struct dns_channel *d = arg;
    struct watched **link = &d->sockets;
    while (*link != NULL && (*link)->fd != fd)
        link = &(*link)->next;
    struct watched *w = *link;
    if (!readable && !writable) {
        if (w != NULL) {
            *link = w->next;
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, on_watched_closed);
        }
        return;
    }
    if (w == NULL) {
        w = mr_calloc(1, sizeof(*w));
        w->owner = d;
        w->fd = fd;
        w->poll.data = w;
        mr_assert(uv_poll_init_socket(d->loop, &w->poll, fd) == 0);
        w->next = d->sockets;
        d->sockets = w;
    }
    uv_poll_start(&w->poll, (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0), on_poll);
    if (!uv_is_active((uv_handle_t *)&d->timer))
        uv_timer_start(&d->timer, on_timer, POLL_MS, POLL_MS);
}

static int set_servers(ares_channel channel, const struct resolver_config *config)
{
    char list[1024];
    size_t used = 0;
    if (config->n_servers == 0)
        return 0;
    for (unsigned i = 0; i < config->n_servers; i++) {
        int n = snprintf(list + used, sizeof(list) - used, "%s%s", i > 0 ? "," : "", config->servers[i]);
        if (n < 0 || (size_t)n >= sizeof(list) - used)
            return MR_CONFIG;
        used += (size_t)n;
    }
    return ares_set_servers_ports_csv(channel, list) == ARES_SUCCESS ? 0 : MR_CONFIG;
}

bool dns_channel_only_loopback(const struct dns_channel *d)
{
    struct ares_addr_port_node *servers;
    if (ares_get_servers_ports(d->channel, &servers) != ARES_SUCCESS)
        return false;
    bool all = servers != NULL;
    for (const struct ares_addr_port_node *n = servers; n != NULL; n = n->next)
        all =
            all && (n->family == AF_INET ? (ntohl(n->addr.addr4.s_addr) >> 24) == IN_LOOPBACKNET
                                         : IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)(const void *)&n->addr.addr6));
    ares_free_data(servers);
    return all;
}

int dns_channel_open(struct dns_channel *d, const struct resolver_config *config)
{
    *d = (struct dns_channel){.loop = config->loop};
    /* Each thread's first channel initialises the library; it counts. */
    if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS)
        return MR_NOMEM;
    struct ares_options options = {.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_EDNS,
                                   .timeout = (int)config->timeout_ms,
                                   .tries = (int)config->tries,
                                   .sock_state_cb = on_socket,
                                   .sock_state_cb_data = d};
    int mask = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB;
#ifdef ARES_OPT_QUERY_CACHE
    /* Newer c-ares (1.31) keeps answers of its own accord; options.qcache_max_ttl = 0 leaves that to our cache, which
     * goes by the smallest TTL on the way to a host's address. */
    mask |= ARES_OPT_QUERY_CACHE;
#endif
    if (ares_init_options(&d->channel, &options, mask) != ARES_SUCCESS)
        return MR_CONFIG;
    int rc = set_servers(d->channel, config);
    if (rc != 0) {
        ares_destroy(d->channel);
        return rc;
    }
    uv_timer_init(config->loop, &d->timer);
    d->timer.data = d;
    return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct dns_channel *d = handle->data;
    d->close_cb(d->close_arg);
}

void dns_channel_close(struct dns_channel *d, void (*cb)(void *arg), void *arg)
{
    d->close_cb = cb;
    d->close_arg = arg;
    ares_destroy(d->channel);
    uv_close((uv_handle_t *)&d->timer, on_timer_closed);
}
