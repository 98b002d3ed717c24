/* delivery_source.c - the addresses that connections come from (delivery.source).
 *
 * Of several of one family each connection takes the next, so that they share the load. A family that has none is left
 * to the system. An address that this host has not (any more) is an event, and the next address of the next hop is
 * tried: what was configured is never silently replaced, for the world knows us by it (SPF, reverse DNS). */
#include "node/delivery/delivery_internal.h"

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

struct source {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    const char *text; /* the configuration's */
    uint64_t used;
};

void delivery_sources_open(struct delivery *d)
{
    const struct config *c = d->w->config;

    d->sources = mr_calloc(c->delivery.n_source + 1, sizeof(*d->sources));
    for (unsigned i = 0; i < c->delivery.n_source; i++) {
        struct source *s = &d->sources[d->n_sources++];
        s->text = c->delivery.source[i];
        if (inet_pton(AF_INET, s->text, &s->address.v4.sin_addr) == 1) {
            s->address.any.sa_family = AF_INET;
        } else {
            mr_assert(inet_pton(AF_INET6, s->text, &s->address.v6.sin6_addr) == 1); /* config_load has looked */
            s->address.any.sa_family = AF_INET6;
        }
    }
}

void delivery_sources_close(struct delivery *d)
{
    free(d->sources);
}

/* The one that was used least; NULL: none of the family. */
static struct source *choose(struct delivery *d, sa_family_t family)
{
    struct source *best = NULL;

    for (unsigned i = 0; i < d->n_sources; i++) {
        struct source *s = &d->sources[i];
        if (s->address.any.sa_family == family && (best == NULL || s->used < best->used))
            best = s;
    }
    return best;
}

int slot_open_socket(struct slot *s, const struct sockaddr *to)
{
    struct source *source = choose(s->d, to->sa_family);
    uv_os_fd_t fd;
    int on = 1;
    int rc = uv_tcp_init_ex(&s->d->w->loop, &s->tcp, to->sa_family);

    if (rc != 0) { /* no descriptor, or no such family here: the handle has to be one that can be closed */
        mr_assert(uv_tcp_init(&s->d->w->loop, &s->tcp) == 0);
        s->tcp.data = s;
        return rc;
    }
    s->tcp.data = s;
    if (source == NULL)
        return 0;
    source->used++;
    /* The port is chosen at connect, so that one address serves far more than 28,000 connections. */
    if (uv_fileno((uv_handle_t *)&s->tcp, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    rc = uv_tcp_bind(&s->tcp, &source->address.any, 0);
    if (rc != 0)
        log_event(LOG_ERROR, "source_failed", LOG_S("source", source->text), LOG_S("peer", s->peer),
                  LOG_S("error", uv_strerror(rc)));
    return rc;
}
