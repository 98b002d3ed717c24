/* The resolver against a DNS server of the test's own. One loop, one thread; waits are for conditions. */
#include "node/dns/own_hosts.h"
#include "node/dns/resolver.h"
#include "node/dns/test_dns_server.h"
#include "proto/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MOST_ANSWERS = 8 };

static bool trust_ad = true;
static struct config config; /* of the next host_open: what says which hosts are ours */

static char *literal(const char *text)
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

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

static void turn(void)
{
    uv_run(&host.loop, UV_RUN_ONCE);
    dns_turn();
}

static void host_open_with(unsigned timeout_ms, unsigned tries)
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

static void host_open(void)
{
    host_open_with(5000, 3);
}

static void on_closed(void *arg)
{
    (void)arg;
    host.closed = true;
}

static void host_close(void)
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

static void on_resolved(void *arg, const struct resolution *r)
{
    struct asked *a = arg;
    a->calls++;
    a->got = *r;
}

static struct lookup *begin(const char *route, struct asked *a)
{
    struct next_hop hop;
    memset(a, 0, sizeof(*a));
    assert_int_equal(next_hop_parse(route, &hop), 0);
    struct lookup *l = resolver_lookup(host.resolver, &hop, on_resolved, a);
    assert_int_equal(a->calls, 0); /* on a later turn */
    return l;
}

static struct resolution ask(const char *route)
{
    struct asked a;
    (void)begin(route, &a);
    WAIT_FOR(a.calls > 0);
    return a.got;
}

static const char *text_of(const struct resolved_address *a)
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

static void assert_not(const struct resolution *r, enum resolve_result result, const char *status)
{
    assert_int_equal(r->result, result);
    assert_string_equal(r->status, status);
    assert_int_equal(r->n, 0);
    assert_true(r->reply[0] != 0);
}

/* ---- tests ---- */

static void by_preference_with_both_families(void **state)
{
    (void)state;
    host_open();
    dns_mx("example.org", 20, "b.example.org", 300);
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_a("a.example.org", "192.0.2.1", 300);
    dns_a("a.example.org", "2001:db8::1", 300);
    dns_a("b.example.org", "192.0.2.2", 300);
    struct resolution r = ask("mx:example.org");
    assert_int_equal(r.result, RESOLVED);
    assert_int_equal(r.n, 3);
    assert_string_equal(r.list[0].host, "a.example.org");
    assert_string_equal(r.list[1].host, "a.example.org");
    assert_true(r.list[0].address.any.sa_family != r.list[1].address.any.sa_family);
    assert_string_equal(r.list[2].host, "b.example.org");
    assert_string_equal(text_of(&r.list[2]), "192.0.2.2 2525");
    host_close();
}

static void ties_are_shuffled_at_each_use(void **state)
{
    (void)state;
    bool first[2] = {false, false};
    host_open();
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_mx("example.org", 10, "b.example.org", 300);
    dns_a("a.example.org", "192.0.2.1", 300);
    dns_a("b.example.org", "192.0.2.2", 300);
    for (int i = 0; i < 100 && !(first[0] && first[1]); i++) { /* 1 in 2^99 that it fails */
        struct resolution r = ask("mx:example.org");
        assert_int_equal(r.n, 2);
        first[r.list[0].host[0] - 'a'] = true;
    }
    assert_true(first[0] && first[1]);
    assert_int_equal(dns_asked("example.org", DNS_MX), 1); /* all but one from the cache */
    host_close();
}

static void a_domain_without_mx_is_its_own(void **state)
{
    (void)state;
    host_open();
    dns_a("example.org", "192.0.2.9", 300);
    struct resolution r = ask("mx:example.org");
    assert_int_equal(r.result, RESOLVED);
    assert_string_equal(text_of(&r.list[0]), "192.0.2.9 2525");
    dns_a("six.example.org", "2001:db8::9", 300);
    r = ask("mx:six.example.org");
    assert_int_equal(r.result, RESOLVED);
    assert_string_equal(text_of(&r.list[0]), "2001:db8::9 2525");
    host_close();
}

static void what_is_permanent(void **state)
{
    char long_label[80];
    (void)state;
    host_open();
    dns_mx("null.example", 0, "", 300);
    dns_mx("loop.example", 10, "mx1.EXAMPLE.net", 300);
    dns_mx("loop.example", 10, "other.example", 300);
    dns_mx("nowhere.example", 10, "gone.nowhere.example", 300);
    dns_add((struct dns_record){"empty.example", 16, 300, 0, ""}); /* exists, has neither MX nor address */
    struct resolution r = ask("mx:nxdomain.example");
    assert_not(&r, RESOLVE_PERMANENT, "5.1.2");
    r = ask("mx:null.example");
    assert_not(&r, RESOLVE_PERMANENT, "5.1.10");
    r = ask("mx:loop.example");
    assert_not(&r, RESOLVE_PERMANENT, "5.4.6");
    assert_int_equal(dns_asked("other.example", DNS_A), 0);
    r = ask("mx:nowhere.example");
    assert_not(&r, RESOLVE_PERMANENT, "5.4.4");
    r = ask("mx:empty.example");
    assert_not(&r, RESOLVE_PERMANENT, "5.4.4");
    memset(long_label, 'a', 70);
    memcpy(long_label, "mx:", 3);
    (void)snprintf(long_label + 70, sizeof(long_label) - 70, ".example");
    r = ask(long_label);
    assert_not(&r, RESOLVE_PERMANENT, "5.1.2");
    host_close();
}

static void ourselves_and_worse_are_dropped(void **state)
{
    (void)state;
    host_open();
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_mx("example.org", 20, "mx1.example.net", 300);
    dns_mx("example.org", 20, "same.example.org", 300);
    dns_mx("example.org", 30, "worse.example.org", 300);
    dns_a("a.example.org", "192.0.2.1", 300);
    dns_a("same.example.org", "192.0.2.2", 300);
    dns_a("worse.example.org", "192.0.2.3", 300);
    struct resolution r = ask("mx:example.org");
    assert_int_equal(r.result, RESOLVED);
    assert_int_equal(r.n, 1);
    assert_string_equal(r.list[0].host, "a.example.org");
    host_close();
}

/* MX 10 with an address that is not ours, and this one with 20: is it left out? */
static bool is_ours(const char *host_name, const char *address)
{
    struct resolution r;
    dns.n_zone = 0;
    dns_mx(host_name, 10, "a.example.org", 300);
    dns_mx(host_name, 20, "backup.example.org", 300);
    dns_a("a.example.org", "198.51.100.1", 300);
    dns_a("backup.example.org", address, 300);
    char route[300];
    (void)snprintf(route, sizeof(route), "mx:%s", host_name);
    r = ask(route);
    assert_int_equal(r.result, RESOLVED);
    assert_string_equal(r.list[0].host, "a.example.org");
    assert_in_range(r.n, 1, 2);
    return r.n == 1;
}

static struct listener_config listeners[3];

static void with_listeners(const char *first, const char *second, const char *lmtp)
{
    listeners[0] = (struct listener_config){.listen = literal(first), .profile = PROFILE_MX};
    listeners[1] = (struct listener_config){.listen = literal(second), .profile = PROFILE_SUBMISSION};
    listeners[2] = (struct listener_config){.listen = literal(lmtp), .profile = PROFILE_LMTP};
    config.smtp.listeners = listeners;
    config.smtp.n_listeners = 3;
}

/* The port of MX hosts is 2525 here. */
static void our_addresses_are_ours_where_we_listen(void **state)
{
    (void)state;
    with_listeners("[::]:2525", "127.0.0.1:587", "127.0.0.1:24");
    host_open();
    assert_true(is_ours("one.example", "127.0.0.1"));
    assert_true(is_ours("two.example", "127.9.9.9"));
    assert_true(is_ours("three.example", "::1"));
    assert_true(is_ours("four.example", "0.0.0.0"));
    assert_true(is_ours("five.example", "::ffff:127.0.0.1"));
    assert_false(is_ours("six.example", "198.51.100.2"));
    host_close();
    with_listeners("127.0.0.2:2525", "[::]:587", "[::]:2525");
    host_open();
    assert_true(is_ours("one.example", "127.0.0.2"));
    assert_false(is_ours("two.example", "127.0.0.1")); /* another server's */
    host_close();
    with_listeners("[::]:25", "[::]:587", "[::]:2525"); /* LMTP is not where mail comes back */
    host_open();
    assert_false(is_ours("one.example", "127.0.0.1"));
    host_close();
}

/* Those of its interfaces too, as far as there are any. */
static void what_the_interfaces_have_is_ours(void **state)
{
    uv_interface_address_t *list;
    char text[INET6_ADDRSTRLEN];
    int n;
    (void)state;
    with_listeners("[::]:2525", "[::]:587", "[::]:24");
    host_open();
    assert_int_equal(uv_interface_addresses(&list, &n), 0);
    for (int i = 0; i < n; i++) {
        char domain[32];
        (void)snprintf(domain, sizeof(domain), "interface%d.example", i);
        bool v4 = list[i].address.address4.sin_family == AF_INET;
        assert_int_equal(v4 ? uv_ip4_name(&list[i].address.address4, text, sizeof(text))
                            : uv_ip6_name(&list[i].address.address6, text, sizeof(text)),
                         0);
        assert_true(is_ours(domain, text));
    }
    uv_free_interface_addresses(list, n);
    host_close();
}

static struct initial_member members[3];

static void with_members(const char *second, const char *third)
{
    members[0] = (struct initial_member){literal("n1"), literal("127.0.0.1:7400")};
    members[1] = (struct initial_member){literal("n2"), literal(second)};
    members[2] = (struct initial_member){literal("n3"), literal(third)};
    config.cluster.initial = members;
    config.cluster.n_initial = 3;
}

static void members_are_ours(void **state)
{
    (void)state;
    with_listeners("[::]:2525", "[::]:587", "[::]:24");
    with_members("10.0.0.2:7400", "[2001:db8::3]:7400");
    host_open();
    assert_true(is_ours("one.example", "10.0.0.2"));
    assert_true(is_ours("two.example", "2001:db8::3"));
    assert_false(is_ours("three.example", "10.0.0.4"));
    host_close();
    with_listeners("[::]:25", "[::]:587", "[::]:24"); /* who is at 2525 there is no member */
    with_members("10.0.0.2:7400", "127.0.0.2:7400");
    host_open();
    assert_false(is_ours("one.example", "10.0.0.2"));
    host_close();
}

/* Is it taken for ours by its name, as the best MX? */
static bool is_our_name(const char *domain, const char *host_name, const char *address)
{
    char route[300];
    struct resolution r;
    dns_mx(domain, 10, host_name, 300);
    dns_a(host_name, address, 300);
    (void)snprintf(route, sizeof(route), "mx:%s", domain);
    r = ask(route);
    if (r.result == RESOLVED)
        return false;
    assert_not(&r, RESOLVE_PERMANENT, "5.4.6");
    return true;
}

/* Another server may be at their port 25, or behind the address translation whose name we say in EHLO. */
static void names_of_members_are_ours_where_we_listen(void **state)
{
    (void)state;
    with_listeners("[::]:587", "[::]:465", "[::]:2525");
    with_members("mail2.example.com:7400", "10.0.0.3:7400");
    host_open();
    assert_false(is_our_name("one.example", "mail2.example.com", "198.51.100.9"));
    assert_false(is_our_name("two.example", "n2", "198.51.100.10"));
    assert_false(is_our_name("three.example", "out.example.net", "198.51.100.10"));
    assert_true(is_our_name("four.example", "MX1.example.net", "198.51.100.10"));
    host_close();
    with_listeners("[::]:2525", "[::]:587", "[::]:24");
    with_members("mail2.example.com:7400", "10.0.0.3:7400");
    host_open();
    assert_true(is_our_name("one.example", "MAIL2.example.com", "198.51.100.9"));
    assert_true(is_our_name("two.example", "N2", "198.51.100.10"));
    assert_false(is_our_name("three.example", "out.example.net", "198.51.100.10"));
    host_close();
}

/* The first address of this machine that is no loopback one; false: there is none. */
static bool interface_address(char *text, size_t len)
{
    uv_interface_address_t *list;
    int n;
    bool found = false;
    assert_int_equal(uv_interface_addresses(&list, &n), 0);
    for (int i = 0; i < n && !found; i++) {
        found = !list[i].is_internal && list[i].address.address4.sin_family == AF_INET;
        if (found)
            assert_int_equal(uv_ip4_name(&list[i].address.address4, text, len), 0);
    }
    uv_free_interface_addresses(list, n);
    return found;
}

/* We listen at an address for this service; another server has port 25 of the machine's own. */
static void members_that_listen_elsewhere(void **state)
{
    char own[INET_ADDRSTRLEN], member[32];
    (void)state;
    with_listeners("203.0.113.1:2525", "[::]:587", "[::]:2525");
    with_members("203.0.113.2:7400", "203.0.113.3:7400");
    host_open();
    assert_false(is_ours("one.example", "203.0.113.2"));
    assert_false(is_ours("two.example", "203.0.113.3"));
    host_close();
    with_listeners("203.0.113.2:2525", "[::]:587", "[::]:2525"); /* each member at its own address */
    with_members("203.0.113.2:7400", "203.0.113.3:7400");
    host_open();
    assert_true(is_ours("one.example", "203.0.113.2"));
    assert_true(is_ours("two.example", "203.0.113.3"));
    host_close();
    if (!interface_address(own, sizeof(own)))
        return;
    (void)snprintf(member, sizeof(member), "%s:7400", own);
    with_listeners("203.0.113.2:2525", "[::]:587", "[::]:2525");
    with_members("203.0.113.2:7400", member);
    host_open();
    assert_false(is_ours("one.example", own)); /* this machine's: its listeners say it */
    assert_true(is_ours("two.example", "203.0.113.2"));
    host_close();
}

/* A name of many addresses that is none of the members' own; and one that gets known when an answer with it is kept. */
static void a_balancer_before_the_members_is_ours(void **state)
{
    struct resolution r;
    (void)state;
    with_listeners("[::]:2525", "[::]:587", "[::]:24");
    with_members("mx2.example.net:7400", "mx3.example.net:7400");
    host_open();
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_mx("example.org", 20, "mx.example.net", 300);
    dns_mx("example.org", 20, "same.example.org", 300);
    dns_a("a.example.org", "198.51.100.1", 300);
    dns_a("same.example.org", "198.51.100.2", 300);
    dns_a("mx.example.net", "198.51.100.12", 300);
    dns_a("mx.example.net", "198.51.100.13", 300);
    dns_fault("mx2.example.net", 0, DNS_SILENT);
    dns_fault("mx3.example.net", DNS_A, DNS_HELD);
    dns_a("mx3.example.net", "198.51.100.13", 300);
    r = ask("mx:example.org");
    assert_int_equal(r.n, 4); /* it does not wait for what may never come */
    WAIT_FOR(dns.held_len > 0);
    dns.n_faults = 1;
    dns_let_go();
    WAIT_FOR((r = ask("mx:example.org"), r.n == 1));
    assert_string_equal(r.list[0].host, "a.example.org");
    assert_int_equal(dns_asked("example.org", DNS_MX), 1);
    host_close();
}

static void own_hosts_of_the_configuration(void **state)
{
    char *own[] = {literal("mx.example.net"), literal("203.0.113.7"), literal("2001:db8::7")};
    struct resolution r;
    (void)state;
    config.smtp.own_hosts = own;
    config.smtp.n_own_hosts = 3;
    host_open();
    assert_true(is_ours("one.example", "203.0.113.7"));
    assert_true(is_ours("two.example", "2001:db8::7"));
    assert_false(is_ours("three.example", "203.0.113.8"));
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_mx("example.org", 20, "MX.example.net", 300);
    r = ask("mx:example.org"); /* its a.example.org is still there */
    assert_int_equal(r.n, 1);
    assert_int_equal(dns_asked("MX.example.net", DNS_A), 1); /* for its own sake */
    host_close();
}

static void nothing_better_than_ours(void **state)
{
    struct resolution r;
    (void)state;
    with_listeners("[::]:2525", "[::]:587", "[::]:24");
    host_open();
    dns_mx("best.example", 10, "here.example", 300);
    dns_mx("best.example", 20, "other.example", 300);
    dns_a("here.example", "127.0.0.1", 300);
    dns_a("other.example", "198.51.100.2", 300);
    r = ask("mx:best.example");
    assert_not(&r, RESOLVE_PERMANENT, "5.4.6");
    assert_non_null(strstr(r.reply, "here.example"));
    r = ask("mx:here.example"); /* without MX */
    assert_not(&r, RESOLVE_PERMANENT, "5.4.6");
    r = ask("mx:[127.0.0.1]");
    assert_not(&r, RESOLVE_PERMANENT, "5.4.6");
    dns_mx("waits.example", 10, "down.example", 300);
    dns_mx("waits.example", 20, "here.example", 300);
    dns_fault("down.example", 0, DNS_SERVFAIL);
    r = ask("mx:waits.example");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.4");
    r = ask("smtp://here.example:2525"); /* a route that somebody wrote is followed */
    assert_int_equal(r.result, RESOLVED);
    host_close();
}

static void what_is_temporary(void **state)
{
    (void)state;
    host_open_with(20, 2);
    dns_fault("servfail.example", 0, DNS_SERVFAIL);
    dns_fault("refused.example", 0, DNS_REFUSED);
    dns_fault("silent.example", 0, DNS_SILENT);
    dns_fault("garbage.example", 0, DNS_GARBAGE);
    dns_mx("hosts.example", 10, "a.hosts.example", 300);
    dns_fault("a.hosts.example", 0, DNS_SERVFAIL);
    struct resolution r = ask("mx:servfail.example");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.3");
    r = ask("mx:refused.example");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.3");
    r = ask("mx:silent.example");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.3");
    assert_int_equal(dns_asked("silent.example", DNS_MX), 2);
    r = ask("mx:garbage.example");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.3");
    r = ask("mx:hosts.example");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.3");
    host_close();
}

/* One family's "no data" must not hide the other's failure, whichever comes later. */
static void half_an_answer(uint16_t failing, uint16_t empty)
{
    struct asked a;
    host_open();
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_add((struct dns_record){"a.example.org", 16, 300, 0, ""}); /* it exists, without addresses */
    dns_fault("a.example.org", failing, DNS_SERVFAIL);
    dns_fault("a.example.org", empty, DNS_HELD);
    (void)begin("mx:example.org", &a);
    WAIT_FOR(dns.held_len > 0 && dns_asked("a.example.org", failing) == 3); /* all its tries */
    for (int i = 0; i < 20; i++)
        turn();
    dns.n_faults = 1;
    dns_let_go();
    WAIT_FOR(a.calls == 1);
    assert_not(&a.got, RESOLVE_TEMPORARY, "4.4.3");
    host_close();
}

static void half_an_answer_is_temporary(void **state)
{
    (void)state;
    half_an_answer(DNS_A, DNS_AAAA);
    half_an_answer(DNS_AAAA, DNS_A);
}

/* Ten addresses at most; the best host's answer comes last and must not be the one that is left out. */
static void the_best_host_has_room(void **state)
{
    static char names[8][32], addresses[16][16];
    struct asked a;
    (void)state;
    host_open();
    dns_mx("example.org", 1, "best.example.org", 300);
    dns_a("best.example.org", "192.0.2.200", 300);
    dns_fault("best.example.org", DNS_A, DNS_HELD);
    for (unsigned i = 0; i < 8; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "h%u.example.org", i);
        dns_mx("example.org", (uint16_t)(10 + i), names[i], 300);
        for (unsigned k = 0; k < 2; k++) {
            (void)snprintf(addresses[i * 2 + k], sizeof(addresses[0]), "192.0.2.%u", 1 + i * 2 + k);
            dns_a(names[i], addresses[i * 2 + k], 300);
        }
    }
    (void)begin("mx:example.org", &a);
    for (unsigned i = 0; i < 8; i++)
        WAIT_FOR(dns_asked(names[i], DNS_AAAA) > 0);
    WAIT_FOR(dns.held_len > 0);
    for (int i = 0; i < 20; i++) /* the others' answers are read */
        turn();
    assert_int_equal(a.calls, 0);
    dns_let_go();
    WAIT_FOR(a.calls == 1);
    assert_int_equal(a.got.n, RESOLVER_MAX_ADDRESSES);
    assert_string_equal(text_of(&a.got.list[0]), "192.0.2.200 2525");
    for (unsigned i = 1; i < a.got.n; i++)
        assert_true(a.got.list[i - 1].preference <= a.got.list[i].preference);
    assert_true(a.got.list[9].preference <= 14);
    host_close();
}

static void kept_for_the_ttl_only(void **state)
{
    (void)state;
    host_open();
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_a("a.example.org", "192.0.2.1", 1); /* the smallest on the way counts */
    struct resolution r = ask("mx:example.org");
    uint64_t known = mr_boot_ns(&mr_clock_real);
    assert_int_equal(r.n, 1);
    r = ask("mx:example.org");
    if (mr_boot_ns(&mr_clock_real) - known < 900 * MR_NS_PER_MS)
        assert_int_equal(dns_asked("example.org", DNS_MX), 1);
    WAIT_FOR(mr_boot_ns(&mr_clock_real) - known > 1010 * MR_NS_PER_MS);
    (void)ask("mx:example.org");
    assert_int_equal(dns_asked("example.org", DNS_MX), 2);
    host_close();
}

static void a_ttl_of_zero_is_not_kept(void **state)
{
    (void)state;
    host_open();
    dns_mx("example.org", 10, "a.example.org", 0);
    dns_a("a.example.org", "192.0.2.1", 300);
    (void)ask("mx:example.org");
    (void)ask("mx:example.org");
    assert_int_equal(dns_asked("example.org", DNS_MX), 2);
    host_close();
}

static void failures_are_kept_for_a_while(void **state)
{
    (void)state;
    host_open();
    for (int i = 0; i < 3; i++) {
        struct resolution r = ask("mx:nxdomain.example");
        assert_not(&r, RESOLVE_PERMANENT, "5.1.2");
    }
    assert_int_equal(dns_asked("nxdomain.example", DNS_MX), 1);
    host_close();
}

/* A site is tried again, a second after a failure at the soonest: an answer from then is not to be held against it. */
static void temporary_failures_are_forgotten_soon(void **state)
{
    (void)state;
    host_open();
    dns_fault("later.example", DNS_MX, DNS_SERVFAIL);
    struct resolution r = ask("mx:later.example");
    uint64_t failed = mr_boot_ns(&mr_clock_real);
    unsigned asked = dns_asked("later.example", DNS_MX);
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.3");
    r = ask("mx:later.example");
    if (mr_boot_ns(&mr_clock_real) - failed < 900 * MR_NS_PER_MS)
        assert_int_equal(dns_asked("later.example", DNS_MX), asked);
    WAIT_FOR(mr_boot_ns(&mr_clock_real) - failed > (RESOLVER_FAILED_TTL_S * 1000 + 10) * MR_NS_PER_MS);
    r = ask("mx:later.example");
    assert_true(dns_asked("later.example", DNS_MX) > asked);
    host_close();
}

static void one_host_of_two_will_do(void **state)
{
    (void)state;
    host_open_with(20, 1);
    dns_mx("example.org", 10, "silent.example.org", 300);
    dns_mx("example.org", 20, "b.example.org", 300);
    dns_fault("silent.example.org", 0, DNS_SILENT);
    dns_a("b.example.org", "192.0.2.2", 300);
    struct resolution r = ask("mx:example.org");
    assert_int_equal(r.result, RESOLVED);
    assert_int_equal(r.n, 1);
    assert_string_equal(r.list[0].host, "b.example.org");
    host_close();
}

static void static_routes(void **state)
{
    (void)state;
    host_open();
    dns_mx("relay.example", 10, "never.example", 300);
    dns_a("relay.example", "192.0.2.7", 300);
    struct resolution r = ask("smtp://relay.example:2600");
    assert_int_equal(r.result, RESOLVED);
    assert_string_equal(text_of(&r.list[0]), "192.0.2.7 2600");
    assert_int_equal(dns_asked("relay.example", DNS_MX), 0);
    r = ask("lmtp://192.0.2.8:24");
    assert_string_equal(text_of(&r.list[0]), "192.0.2.8 24");
    r = ask("smtp://[2001:db8::8]:25");
    assert_string_equal(text_of(&r.list[0]), "2001:db8::8 25");
    r = ask("mx:[192.0.2.10]");
    assert_string_equal(text_of(&r.list[0]), "192.0.2.10 2525");
    r = ask("smtp://missing.example:25");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.4");
    host_close();
}

static void cancelled_and_closed(void **state)
{
    struct asked cancelled, waiting;
    (void)state;
    host_open();
    dns_fault("silent.example", 0, DNS_SILENT);
    resolver_cancel(begin("mx:silent.example", &cancelled));
    (void)begin("mx:silent.example", &waiting);
    WAIT_FOR(dns_asked("silent.example", DNS_MX) == 2);
    host_close();
    assert_int_equal(cancelled.calls, 0);
    assert_int_equal(waiting.calls, 1);
    assert_int_equal(waiting.got.result, RESOLVE_TEMPORARY);
}

static void a_server_that_is_not_there(void **state)
{
    (void)state;
    host_open_with(50, 2);
    dns_close();
    struct resolution r = ask("mx:example.org");
    assert_not(&r, RESOLVE_TEMPORARY, "4.4.3");
    host_close();
}

static void a_server_from_before_edns(void **state)
{
    (void)state;
    host_open();
    dns.no_edns = true;
    dns_mx("example.org", 10, "a.example.org", 0);
    dns_a("a.example.org", "192.0.2.1", 0);
    for (int i = 0; i < 3; i++) {
        struct resolution r = ask("mx:example.org");
        assert_int_equal(r.result, RESOLVED);
        assert_int_equal(r.n, 1);
    }
    host_close();
}

/* ---- what was validated ---- */

static void open_signed(void)
{
    host_open();
    dns.validates = true;
    dns.unsigned_zone = "unsigned.example";
    dns_mx("example.org", 10, "a.example.org", 300);
    dns_mx("example.org", 20, "b.unsigned.example", 300);
    dns_mx("example.org", 30, "c.example.org", 300);
    dns_mx("example.org", 40, "d.example.org", 300);
    dns_add((struct dns_record){"c.example.org", DNS_CNAME, 300, 0, "real.example.org"});
    dns_add((struct dns_record){"d.example.org", DNS_CNAME, 300, 0, "real.unsigned.example"});
    dns_a("a.example.org", "192.0.2.1", 300);
    dns_a("b.unsigned.example", "192.0.2.2", 300);
    dns_a("real.example.org", "192.0.2.3", 300);
    dns_a("real.unsigned.example", "192.0.2.4", 300);
    dns_mx("unsigned.example", 10, "a.example.org", 300);
}

static void each_host_is_told_whether_it_is_secure(void **state)
{
    (void)state;
    open_signed();
    struct resolution r = ask("mx:example.org");
    assert_int_equal(r.n, 4);
    assert_true(r.list[0].secure);
    assert_string_equal(r.list[0].alias, "");
    assert_false(r.list[1].secure); /* its address could be anybody's */
    assert_true(r.list[2].secure);
    assert_string_equal(r.list[2].host, "c.example.org");
    assert_string_equal(r.list[2].alias, "real.example.org");
    assert_true(r.list[3].secure); /* the alias itself is signed: its own name counts, not where it leads */
    assert_string_equal(r.list[3].alias, "");
    assert_int_equal(dns_asked("d.example.org", DNS_CNAME), 1);
    r = ask("mx:unsigned.example"); /* anybody could have named this host */
    assert_int_equal(r.n, 1);
    assert_false(r.list[0].secure);
    r = ask("smtp://a.example.org:25");
    assert_true(r.list[0].secure);
    r = ask("mx:a.example.org"); /* that there is no MX was validated */
    assert_true(r.list[0].secure);
    host_close();
}

static void ad_from_a_server_that_is_not_trusted(void **state)
{
    (void)state;
    trust_ad = false;
    open_signed();
    trust_ad = true;
    struct resolution r = ask("mx:example.org");
    assert_int_equal(r.n, 4);
    for (unsigned i = 0; i < r.n; i++)
        assert_false(r.list[i].secure);
    assert_int_equal(dns_asked("d.example.org", DNS_CNAME), 0);
    host_close();
}

struct answered {
    unsigned calls;
    enum dns_outcome outcome;
    bool secure;
    size_t len;
};

static void on_answered(void *arg, enum dns_outcome outcome, bool secure, const uint8_t *bytes, size_t len)
{
    struct answered *a = arg;
    a->calls++;
    a->outcome = outcome;
    a->secure = secure;
    a->len = len;
    assert_true((bytes != NULL) == (len > 0));
}

static struct answered ask_one(const char *name, int type)
{
    struct answered a = {0};
    (void)resolver_ask(host.resolver, name, type, on_answered, &a);
    assert_int_equal(a.calls, 0);
    WAIT_FOR(a.calls > 0);
    assert_int_equal(a.calls, 1);
    return a;
}

static void single_questions(void **state)
{
    struct answered a, waiting = {0}, cancelled = {0};
    (void)state;
    host_open_with(20, 2);
    dns.validates = true;
    dns.unsigned_zone = "unsigned.example";
    dns_add((struct dns_record){"_25._tcp.a.example.org", DNS_TLSA, 300, 0, "3 1 1 00ff"});
    dns_add((struct dns_record){"_25._tcp.b.unsigned.example", DNS_TLSA, 300, 0, "3 1 1 00ff"});
    dns_fault("_25._tcp.bogus.example", 0, DNS_SERVFAIL);
    dns_fault("_25._tcp.silent.example", 0, DNS_SILENT);
    a = ask_one("_25._tcp.a.example.org", DNS_TLSA);
    assert_true(a.outcome == DNS_ANSWERED && a.secure && a.len > 0);
    a = ask_one("_25._tcp.b.unsigned.example", DNS_TLSA);
    assert_true(a.outcome == DNS_ANSWERED && !a.secure);
    a = ask_one("_25._tcp.a.example.org", DNS_TXT);
    assert_true(a.outcome == DNS_NONE && a.secure);
    a = ask_one("_25._tcp.nobody.example.org", DNS_TLSA);
    assert_true(a.outcome == DNS_NONE && a.secure);
    a = ask_one("_25._tcp.bogus.example", DNS_TLSA);
    assert_true(a.outcome == DNS_FAILED && !a.secure);
    a = ask_one("_25._tcp.silent.example", DNS_TLSA);
    assert_true(a.outcome == DNS_FAILED && !a.secure);
    (void)resolver_ask(host.resolver, "_25._tcp.silent.example", DNS_TLSA, on_answered, &waiting);
    resolver_ask_cancel(resolver_ask(host.resolver, "_25._tcp.silent.example", DNS_TLSA, on_answered, &cancelled));
    host_close();
    assert_true(waiting.calls == 1 && waiting.outcome == DNS_FAILED);
    assert_int_equal(cancelled.calls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_preference_with_both_families),
        cmocka_unit_test(ties_are_shuffled_at_each_use),
        cmocka_unit_test(a_domain_without_mx_is_its_own),
        cmocka_unit_test(what_is_permanent),
        cmocka_unit_test(ourselves_and_worse_are_dropped),
        cmocka_unit_test(our_addresses_are_ours_where_we_listen),
        cmocka_unit_test(what_the_interfaces_have_is_ours),
        cmocka_unit_test(members_are_ours),
        cmocka_unit_test(names_of_members_are_ours_where_we_listen),
        cmocka_unit_test(members_that_listen_elsewhere),
        cmocka_unit_test(a_balancer_before_the_members_is_ours),
        cmocka_unit_test(own_hosts_of_the_configuration),
        cmocka_unit_test(nothing_better_than_ours),
        cmocka_unit_test(what_is_temporary),
        cmocka_unit_test(half_an_answer_is_temporary),
        cmocka_unit_test(the_best_host_has_room),
        cmocka_unit_test(kept_for_the_ttl_only),
        cmocka_unit_test(a_ttl_of_zero_is_not_kept),
        cmocka_unit_test(failures_are_kept_for_a_while),
        cmocka_unit_test(temporary_failures_are_forgotten_soon),
        cmocka_unit_test(one_host_of_two_will_do),
        cmocka_unit_test(static_routes),
        cmocka_unit_test(cancelled_and_closed),
        cmocka_unit_test(a_server_that_is_not_there),
        cmocka_unit_test(a_server_from_before_edns),
        cmocka_unit_test(each_host_is_told_whether_it_is_secure),
        cmocka_unit_test(ad_from_a_server_that_is_not_trusted),
        cmocka_unit_test(single_questions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
