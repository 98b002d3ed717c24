/* Which hosts of an answer are ourselves (own_hosts.h). */
#include "node/dns/test_resolver.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ourselves_and_worse_are_dropped),
        cmocka_unit_test(our_addresses_are_ours_where_we_listen),
        cmocka_unit_test(what_the_interfaces_have_is_ours),
        cmocka_unit_test(members_are_ours),
        cmocka_unit_test(names_of_members_are_ours_where_we_listen),
        cmocka_unit_test(members_that_listen_elsewhere),
        cmocka_unit_test(a_balancer_before_the_members_is_ours),
        cmocka_unit_test(own_hosts_of_the_configuration),
        cmocka_unit_test(nothing_better_than_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
