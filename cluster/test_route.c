#include "cluster/route.h"
#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void has_one_canonical_text(void **arg)
{
    static const struct {
        const char *text, *canonical;
    } cases[] = {
        {"mx", "mx"},
        {"MX", "mx"},
        {"mx:Example.ORG", "mx:example.org"},
        {"mx:example.org.", "mx:example.org"},
        {"mx:[192.0.2.1]", "mx:192.0.2.1"},
        {"mx:[IPv6:2001:DB8:0::1]", "mx:[2001:db8::1]"},
        {"smtp://Relay.example", "smtp://relay.example:25"},
        {"smtp://relay.example:2525", "smtp://relay.example:2525"},
        {"smtp://User@relay.example:587", "smtp://User@relay.example:587"},
        {"smtp://user@dom.example@relay.example", "smtp://user@dom.example@relay.example:25"},
        {"lmtp://127.0.0.1", "lmtp://127.0.0.1:24"},
        {"lmtp://[::1]:2424", "lmtp://[::1]:2424"},
        {"SMTP://[0:0::1]", "smtp://[::1]:25"},
        {"mx:d\xc3\xbcrer.example", "mx:d\xc3\xbcrer.example"},
    };
    (void)arg;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct next_hop hop, again;
        char text[ROUTE_MAX], twice[ROUTE_MAX];
        assert_int_equal(next_hop_parse(cases[i].text, &hop), 0);
        assert_string_equal(next_hop_format(&hop, text), cases[i].canonical);
        assert_int_equal(next_hop_parse(text, &again), 0);
        assert_string_equal(next_hop_format(&again, twice), text);
    }
}

static void refuses_what_is_none(void **arg)
{
    static const char *const bad[] = {
        "",
        "mx:",
        "mxx",
        "http://a",
        "smtp://",
        "smtp:///",
        "smtp://a:0",
        "smtp://a:65536",
        "smtp://a:",
        "smtp://a:25/",
        "smtp://a:2 5",
        "smtp://a b",
        "smtp://@a",
        "smtp://u:p@a",
        "lmtp://u@a",
        "smtp://[::1",
        "smtp://[::1]x",
        "smtp://[nonsense]",
        "smtp://[]",
        "mx:a..b",
        "mx:.a",
        "mx:a/b",
        "mx:.",
        "mx:a b",
    };
    char text[600] = "mx:";
    struct next_hop hop;
    (void)arg;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(next_hop_parse(bad[i], &hop), MR_MALFORMED);
    memset(text + 3, 'a', 256);
    text[3 + 256] = '\0';
    assert_int_equal(next_hop_parse(text, &hop), MR_MALFORMED);
    text[3 + 255] = '\0';
    assert_int_equal(next_hop_parse(text, &hop), 0);
}

/* A user and a host at their longest would not fit the text together. */
static void every_parsed_text_fits(void **arg)
{
    char text[600], out[ROUTE_MAX];
    struct next_hop hop;
    (void)arg;
    for (size_t user = 1; user < 70; user++) {
        for (size_t host = 230; host < 258; host++) {
            strcpy(text, "smtp://");
            memset(text + 7, 'u', user);
            text[7 + user] = '@';
            memset(text + 8 + user, 'h', host);
            strcpy(text + 8 + user + host, ":65535");
            if (next_hop_parse(text, &hop) == 0)
                assert_string_equal(next_hop_format(&hop, out), text);
        }
    }
}

static void lists(void **state)
{
    static const struct {
        const char *text, *canonical;
        unsigned n;
    } cases[] = {
        {"mx", "mx", 1},
        {"SMTP://A.example", "smtp://a.example:25", 1},
        {"smtp://a.example:25, smtp://B.example:2525", "smtp://a.example:25,smtp://b.example:2525", 2},
        {"lmtp://[::1]:24,lmtp://u", "lmtp://[::1]:24,lmtp://u:24", 2},
        {"smtp://u,v@a.example:25,smtp://w@b.example", "smtp://u,v@a.example:25,smtp://w@b.example:25", 2},
    };
    static const char *const bad[] = {
        "",
        ",",
        "smtp://a.example,",
        ",smtp://a.example",
        "smtp://a.example,,smtp://b.example",
        "smtp://a.example,b.example",
        "smtp://a.example,lmtp://b.example",
        "mx,smtp://b.example",
        "smtp://b.example,mx",
        "smtp://a.example smtp://b.example",
    };
    struct next_hop_list list, again;
    char text[ROUTE_MAX], twice[ROUTE_MAX], many[2 * ROUTE_MAX] = "";
    char site[ROUTE_MAX];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(next_hop_list_parse(cases[i].text, &list), 0);
        assert_int_equal(list.n, cases[i].n);
        assert_string_equal(next_hop_list_format(&list, text), cases[i].canonical);
        assert_int_equal(next_hop_list_parse(text, &again), 0);
        assert_string_equal(next_hop_list_format(&again, twice), text);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(next_hop_list_parse(bad[i], &list), MR_MALFORMED);
    for (int i = 0; i < NEXT_HOP_MAX_HOSTS; i++)
        strcat(many, i == 0 ? "smtp://a" : ",smtp://a");
    assert_int_equal(next_hop_list_parse(many, &list), 0);
    strcat(many, ",smtp://a");
    assert_int_equal(next_hop_list_parse(many, &list), MR_LIMIT);
    many[0] = '\0';
    for (int i = 0; i < 6; i++) {
        strcat(many, i == 0 ? "smtp://" : ",smtp://");
        for (int k = 0; k < 19; k++)
            strcat(many, "abcdefghi.");
        strcat(many, "example");
    }
    assert_int_equal(next_hop_list_parse(many, &list), MR_LIMIT); /* as text, together */
    assert_string_equal(route_site("smtp://a.example:25,smtp://b.example:2525", site), "a.example");
}

static Mailraft__Route route_of(const char *domain, const char *route, bool local)
{
    Mailraft__Route r = MAILRAFT__ROUTE__INIT;
    r.domain = (char *)(uintptr_t)domain;
    r.route = (char *)(uintptr_t)route;
    r.local = local;
    return r;
}

static void exact_name_goes_before_default(void **arg)
{
    Mailraft__Route a = route_of("default", "mx", false),
                    b = route_of("Example.net", "lmtp://mail.example.net:24", true),
                    c = route_of("partner.example", "smtp://10.1.2.3:2525", false),
                    d = route_of("broken.example", "x", 0);
    Mailraft__Route *routes[] = {&a, &b, &c, &d};
    Mailraft__Rules rules = MAILRAFT__RULES__INIT;
    char hop[ROUTE_MAX];
    bool local = true;
    (void)arg;
    rules.routes = routes;
    rules.n_routes = 4;
    assert_int_equal(route_lookup(&rules, "EXAMPLE.NETx", 11, hop, &local), 0);
    assert_string_equal(hop, "lmtp://mail.example.net:24");
    assert_true(local);
    assert_int_equal(route_lookup(&rules, "partner.example", 15, hop, &local), 0);
    assert_string_equal(hop, "smtp://10.1.2.3:2525");
    assert_false(local);
    assert_int_equal(route_lookup(&rules, "Sub.Partner.Example", 19, hop, NULL), 0);
    assert_string_equal(hop, "mx:sub.partner.example");
    assert_int_equal(route_lookup(&rules, "[192.0.2.7]", 11, hop, NULL), 0);
    assert_string_equal(hop, "mx:192.0.2.7");
    assert_int_equal(route_lookup(&rules, "broken.example", 14, hop, NULL), MR_MALFORMED);
    assert_int_equal(route_lookup(&rules, "a b", 3, hop, NULL), MR_MALFORMED);
    assert_int_equal(route_lookup(&rules, "", 0, hop, NULL), MR_MALFORMED);
    rules.routes = routes + 1;
    rules.n_routes = 3;
    assert_int_equal(route_lookup(&rules, "other.example", 13, hop, NULL), MR_NOTFOUND);
}

static void limit_is_the_sites_then_default_then_none(void **arg)
{
    Mailraft__Limit a = MAILRAFT__LIMIT__INIT, b = MAILRAFT__LIMIT__INIT;
    Mailraft__Limit *limits[] = {&a, &b};
    Mailraft__Rules rules = MAILRAFT__RULES__INIT;
    char site[ROUTE_MAX];
    (void)arg;
    assert_int_equal(route_limit(&rules, "mx:gmail.com")->connections, 0);
    assert_int_equal(route_limit(NULL, "mx:gmail.com")->connections, 0);
    a.site = "default";
    a.connections = 20;
    b.site = "Gmail.com";
    b.connections = 50;
    rules.limits = limits;
    rules.n_limits = 2;
    assert_int_equal(route_limit(&rules, "mx:gmail.com")->connections, 50);
    assert_int_equal(route_limit(&rules, "smtp://u@gmail.com:25")->connections, 50);
    assert_int_equal(route_limit(&rules, "mx:mail.gmail.com")->connections, 20);
    assert_int_equal(route_limit(&rules, "nonsense")->connections, 20);
    assert_string_equal(route_site("smtp://[::1]:25", site), "::1");
    assert_string_equal(route_site("mx:a.example", site), "a.example");
    assert_string_equal(route_site("nonsense", site), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists),
        cmocka_unit_test(has_one_canonical_text),
        cmocka_unit_test(refuses_what_is_none),
        cmocka_unit_test(every_parsed_text_fits),
        cmocka_unit_test(exact_name_goes_before_default),
        cmocka_unit_test(limit_is_the_sites_then_default_then_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
