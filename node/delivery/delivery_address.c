/* delivery_address.c - which address a slot connects to next: those of the route's hosts in order, hosts that are known
 * to be down last; and what came of it, for the next time.
 *
 * connect -> resolve (first host) -> try_next -> slot_secure, slot_dial -> ... fails -> try_next -> ... -> next host's
 * resolve -> ... The last failure is the answer. */
#include "node/delivery/delivery_internal.h"

#include "proto/base/clock.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static void name_peer(struct slot *s, const struct resolved_address *a)
{
    char text[INET6_ADDRSTRLEN] = "";
    uint16_t port;
    if (a->address.any.sa_family == AF_INET6) {
        (void)inet_ntop(AF_INET6, &a->address.v6.sin6_addr, text, sizeof(text));
        port = ntohs(a->address.v6.sin6_port);
    } else {
        (void)inet_ntop(AF_INET, &a->address.v4.sin_addr, text, sizeof(text));
        port = ntohs(a->address.v4.sin_port);
    }
    (void)snprintf(s->peer, sizeof(s->peer), "%s[%s]:%u", a->host, text, port);
}

static uint64_t now_ms(void)
{
    return mr_boot_ns(&mr_clock_real) / MR_NS_PER_MS;
}

static void on_resolved(void *arg, const struct resolution *resolution)
{
    struct slot *s = arg;
    s->lookup = NULL;
    s->resolution = *resolution;
    s->address = 0;
    if (resolution->result == RESOLVED) {
        host_memory_arrange(s->d->hosts, s->resolution.list, s->resolution.n, now_ms());
        /* A host of several that is known to be down is left for last. */
        if (s->hop_at < s->hops.n && s->hops.n > 1 &&
            host_memory_avoids(s->d->hosts, &s->resolution.list[0].address.any, now_ms())) {
            s->hop_order[s->n_hop_order++] = s->hop_order[s->hop_at];
            s->address = s->resolution.n;
        }
        slot_try_next(s);
        return;
    }
    if (s->hop_at + 1 < s->n_hop_order) { /* another host of the route may be known */
        s->address = s->resolution.n = 0;
        slot_try_next(s);
        return;
    }
    s->phase = PHASE_NONE;
    bool temporary = resolution->result == RESOLVE_TEMPORARY;
    job_fail(s, !temporary, resolution->status, temporary, "%s", resolution->reply);
    s->job->avoid_node = temporary;
    job_finish(s);
    if (temporary)
        slot_release_queued(s, "next hop unreachable");
    slot_next(s);
}

static void resolve(struct slot *s)
{
    s->hop = s->hops.at[s->hop_order[s->hop_at]];
    slot_secure_reset(s);
    s->phase = PHASE_RESOLVE;
    s->lookup = resolver_lookup(s->d->resolver, &s->hop, on_resolved, s);
}

/* The address that s->address says, or beyond the last the next host of the route. */
void slot_try_next(struct slot *s)
{
    if (s->address < s->resolution.n) {
        name_peer(s, &s->resolution.list[s->address]);
        slot_secure(s);
    } else {
        mr_assert(s->hop_at + 1 < s->n_hop_order);
        s->hop_at++;
        resolve(s);
    }
}

void slot_connect(struct slot *s)
{
    s->peer[0] = 0;
    s->ehlo_ended = 0;
    s->secure.temporary = false;
    s->n_hop_order = s->hops.n;
    for (unsigned i = 0; i < s->hops.n; i++)
        s->hop_order[i] = (uint8_t)i;
    s->hop_at = 0;
    resolve(s);
}

/* ---- memory ---- */

void slot_remember_success(struct slot *s)
{
    host_memory_worked(s->d->hosts, &s->resolution.list[s->address].address.any);
}

/* For the order of addresses the next time. What failed later than the greeting says little about the host. */
void slot_remember_failure(struct slot *s)
{
    const struct sockaddr *address = &s->resolution.list[s->address].address.any;
    enum host_failure how = HOST_REFUSED;

    if ((s->phase != PHASE_CONNECT && s->phase != PHASE_GREETING) || s->source_failed)
        return;
    if (s->connect_error == UV_ENETUNREACH || s->connect_error == UV_EAFNOSUPPORT)
        how = HOST_UNREACHABLE;
    else if (s->phase == PHASE_CONNECT && (s->connect_error == 0 || s->connect_error == UV_ETIMEDOUT))
        how = HOST_TIMED_OUT;
    host_memory_failed(s->d->hosts, address, how, now_ms());
}
