/* test_resolver.h - a resolver and the DNS server that it asks, for tests. One loop, one thread; waits are for
 * conditions. */
#ifndef MR_DNS_TEST_RESOLVER_H
#define MR_DNS_TEST_RESOLVER_H

#include "node/dns/own_hosts.h"
#include "node/dns/resolver.h"
#include "node/dns/test_dns_server.h"
#include "proto/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define TEST_FUNCTION __attribute__((unused)) static

static bool trust_ad = true;
static struct config config; /* of the next host_open: what says which hosts are ours */

TEST_FUNCTION char *literal(const char *text)
{
    return (char *)(uintptr_t)text;
}

static struct {
    uv_loop_t loop;
    uv_timer_t tick;
    struct resolver *resolver;
    struct own_hosts *own;
    char *servers[2];
    bool closed;
} host;

struct asked {
    unsigned calls;
    struct resolution got;
};

TEST_FUNCTION void on_tick(uv_timer_t *t)
{
    (void)t;
}

TEST_FUNCTION void turn(void)
{
    uv_run(&host.loop, UV_RUN_ONCE);
    dns_turn();
}

TEST_FUNCTION void host_open_with(unsigned timeout_ms, unsigned tries)
{
    memset(&host, 0, sizeof(host));
    dns_open();
    assert_int_equal(uv_loop_init(&host.loop), 0);
    uv_timer_init(&host.loop, &host.tick);
    uv_timer_start(&host.tick, on_tick, 1, 1);
    host.servers[0] = dns.text;
    config.smtp.hostname = literal("MX1.example.net");
    config.delivery.hostname = literal("out.example.net");
    config.delivery.port = 2525;
    host.own = own_hosts_make(&config);
    struct resolver_config with = {.loop = &host.loop,
                                   .servers = host.servers,
                                   .n_servers = 1,
                                   .timeout_ms = timeout_ms,
                                   .tries = tries,
                                   .mx_port = 2525,
                                   .own = host.own,
                                   .trust_ad = trust_ad};
    assert_int_equal(resolver_open(&host.resolver, &with), 0);
}

TEST_FUNCTION void host_open(void)
{
    host_open_with(5000, 3);
}

TEST_FUNCTION void on_closed(void *arg)
{
    (void)arg;
    host.closed = true;
}

TEST_FUNCTION void host_close(void)
{
    resolver_close(host.resolver, on_closed, NULL);
    WAIT_FOR(host.closed);
    uv_close((uv_handle_t *)&host.tick, NULL);
    uv_run(&host.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host.loop), 0);
    own_hosts_free(host.own);
    memset(&config, 0, sizeof(config));
    dns_close();
}

TEST_FUNCTION void on_resolved(void *arg, const struct resolution *r)
{
    struct asked *a = arg;
    a->calls++;
    a->got = *r;
}

TEST_FUNCTION struct lookup *begin(const char *route, struct asked *a)
{
    struct next_hop hop;
    memset(a, 0, sizeof(*a));
    assert_int_equal(next_hop_parse(route, &hop), 0);
    struct lookup *l = resolver_lookup(host.resolver, &hop, on_resolved, a);
    assert_int_equal(a->calls, 0); /* on a later turn */
    return l;
}

TEST_FUNCTION struct resolution ask(const char *route)
{
    struct asked a;
    (void)begin(route, &a);
    WAIT_FOR(a.calls > 0);
    return a.got;
}

TEST_FUNCTION const char *text_of(const struct resolved_address *a)
{
    static char text[80];
    char address[INET6_ADDRSTRLEN];
    bool v4 = a->address.any.sa_family == AF_INET;
    (void)inet_ntop(a->address.any.sa_family,
                    v4 ? (const void *)&a->address.v4.sin_addr : (const void *)&a->address.v6.sin6_addr, address,
                    sizeof(address));
    (void)snprintf(text, sizeof(text), "%s %u", address, ntohs(v4 ? a->address.v4.sin_port : a->address.v6.sin6_port));
    return text;
}

TEST_FUNCTION void assert_not(const struct resolution *r, enum resolve_result result, const char *status)
{
    assert_int_equal(r->result, result);
    assert_string_equal(r->status, status);
    assert_int_equal(r->n, 0);
    assert_true(r->reply[0] != 0);
}

#endif
