/* dns_channel.h - a channel of c-ares on a loop: its sockets polled, its timeouts kept, its servers set.
 *
 * H1: nothing runs while no question is under way. Embedded; the caller owns it from open to close's cb. Thread: the
 * loop's. */
#ifndef MR_DNS_DNS_CHANNEL_H
#define MR_DNS_DNS_CHANNEL_H

#include <ares.h>
#include <stdbool.h>
#include <uv.h>

struct resolver_config;

struct dns_channel {
    ares_channel channel; /* for dns_query */
    uv_loop_t *loop;
    uv_timer_t timer;
    struct watched *sockets;
    void (*close_cb)(void *arg);
    void *close_arg;
};

/* config: loop, servers, timeout_ms and tries. MR_CONFIG: the servers cannot be used; MR_NOMEM. */
int dns_channel_open(struct dns_channel *d, const struct resolver_config *config);
/* Every server that is asked is on this host. */
bool dns_channel_only_loopback(const struct dns_channel *d);
/* Questions under way end with ARES_EDESTRUCTION before this returns; cb comes when the handles are closed. */
void dns_channel_close(struct dns_channel *d, void (*cb)(void *arg), void *arg);

#endif
