/* The resolver against a DNS server of the test's own. */
#include "node/dns/test_resolver.h"

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
