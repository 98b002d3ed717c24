/* test_host_memory.c - the order of addresses: preference, families, hosts that are down; growing, forgetting. */
#include "node/delivery/host_memory.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MINUTE = 60 * 1000, START = 1000 * MINUTE };

static struct resolved_address at(const char *text, uint16_t preference)
{
    struct resolved_address a = {.preference = preference};

    if (inet_pton(AF_INET, text, &a.address.v4.sin_addr) == 1) {
        a.address.any.sa_family = AF_INET;
        a.address.v4.sin_port = htons(25);
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &a.address.v6.sin6_addr), 1);
        a.address.any.sa_family = AF_INET6;
        a.address.v6.sin6_port = htons(25);
    }
    return a;
}

static const char *const names[] = {"192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "192.0.2.3"};

/* Preferences 10, 10, 10, 20, 20 in this order; expected: the places of names. */
static void expect(const struct host_memory *m, uint64_t now, const char *order)
{
    struct resolved_address list[5];
    char text[6] = "";

    for (unsigned i = 0; i < 5; i++)
        list[i] = at(names[i], i < 3 ? 10 : 20);
    host_memory_arrange(m, list, 5, now);
    for (unsigned i = 0; i < 5; i++)
        for (unsigned k = 0; k < 5; k++) {
            struct resolved_address a = at(names[k], 0);
            if (memcmp(&list[i].address, &a.address, sizeof(a.address)) == 0)
                text[i] = (char)('0' + k);
        }
    assert_string_equal(text, order);
}

static void failed(struct host_memory *m, const char *name, enum host_failure how, uint64_t now)
{
    struct resolved_address a = at(name, 0);

    host_memory_failed(m, &a.address.any, how, now);
}

static void worked(struct host_memory *m, const char *name)
{
    struct resolved_address a = at(name, 0);

    host_memory_worked(m, &a.address.any);
}

static void six_goes_first_within_a_preference(void **state)
{
    struct host_memory *m;

    (void)state;
    host_memory_open(&m);
    expect(m, START, "10234");
    host_memory_close(m);
}

static void one_that_is_down_goes_last_and_comes_back(void **state)
{
    struct host_memory *m;
    uint64_t now = START;

    (void)state;
    host_memory_open(&m);
    failed(m, names[1], HOST_REFUSED, now);
    expect(m, now, "02341");
    failed(m, names[1], HOST_REFUSED, now + 10); /* another connection found the same */
    expect(m, now + MINUTE - 1, "02341");
    expect(m, now + MINUTE, "10234");
    /* Each time that it fails anew it is longer. */
    now += MINUTE;
    failed(m, names[1], HOST_REFUSED, now);
    expect(m, now + 2 * MINUTE - 1, "02341");
    expect(m, now + 2 * MINUTE, "10234");
    now += 2 * MINUTE;
    for (uint64_t length = 4 * MINUTE; length < HOST_AWAY_MAX_MS; length *= 2) {
        failed(m, names[1], HOST_REFUSED, now);
        expect(m, now + length - 1, "02341");
        now += length;
        expect(m, now, "10234");
    }
    failed(m, names[1], HOST_REFUSED, now);
    expect(m, now + HOST_AWAY_MAX_MS - 1, "02341");
    expect(m, now + HOST_AWAY_MAX_MS, "10234");
    /* All down: the order among them is as without. */
    for (int i = 0; i < 5; i++)
        failed(m, names[i], HOST_REFUSED, now);
    expect(m, now, "10234");
    worked(m, names[4]);
    expect(m, now, "41023");
    /* Forgotten by what works: the first length again. */
    worked(m, names[1]);
    failed(m, names[1], HOST_REFUSED, now);
    worked(m, names[0]);
    worked(m, names[2]);
    worked(m, names[3]);
    expect(m, now, "02341");
    expect(m, now + MINUTE, "10234");
    host_memory_close(m);
}

static void a_family_that_fails_goes_behind_the_other(void **state)
{
    struct host_memory *m;
    uint64_t now = START;

    (void)state;
    host_memory_open(&m);
    failed(m, names[1], HOST_UNREACHABLE, now);
    expect(m, now, "02143"); /* within its preference; and no host is to blame */
    expect(m, now + 5 * MINUTE - 1, "02143");
    expect(m, now + 5 * MINUTE, "10234");
    failed(m, names[1], HOST_UNREACHABLE, now + 5 * MINUTE);
    expect(m, now + 15 * MINUTE - 1, "02143");
    worked(m, names[3]);
    expect(m, now + 5 * MINUTE, "10234");
    host_memory_close(m);
}

static void three_hosts_that_time_out_are_a_family(void **state)
{
    struct host_memory *m;
    uint64_t later = START + 2 * MINUTE;

    (void)state;
    host_memory_open(&m);
    for (int i = 0; i < 5; i++)
        failed(m, "2001:db8::a", HOST_TIMED_OUT, START); /* one host is no family */
    failed(m, "2001:db8::b", HOST_TIMED_OUT, START);
    expect(m, later, "10234");
    worked(m, names[1]);
    failed(m, "2001:db8::c", HOST_TIMED_OUT, START);
    failed(m, "2001:db8::d", HOST_TIMED_OUT, START);
    failed(m, "2001:db8::e", HOST_REFUSED, START); /* an answer */
    failed(m, "2001:db8::f", HOST_TIMED_OUT, START);
    failed(m, "2001:db8::1:1", HOST_TIMED_OUT, START);
    expect(m, later, "10234");
    failed(m, "2001:db8::1:2", HOST_TIMED_OUT, START);
    expect(m, later, "02143");
    for (int i = 10; i < 13; i++) {
        char text[32];
        snprintf(text, sizeof(text), "192.0.2.%d", i);
        failed(m, text, HOST_TIMED_OUT, START);
    }
    expect(m, later, "10234"); /* neither works: as without */
    host_memory_close(m);
}

static void the_table_is_bounded(void **state)
{
    struct host_memory *m;
    char text[32];
    unsigned away = 0;

    (void)state;
    host_memory_open(&m);
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(text, sizeof(text), "10.0.%u.%u", i / 256, i % 256);
        failed(m, text, HOST_REFUSED, START + i);
    }
    /* The last ones are known, which are those whose time ends last. */
    for (unsigned i = 19900; i < 20000; i++) {
        struct resolved_address two[2];
        snprintf(text, sizeof(text), "10.0.%u.%u", i / 256, i % 256);
        two[0] = at(text, 10);
        two[1] = at("192.0.2.200", 20);
        host_memory_arrange(m, two, 2, START + 20000);
        away += two[0].preference == 20;
    }
    assert_true(away >= 95);
    host_memory_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_goes_first_within_a_preference),
        cmocka_unit_test(one_that_is_down_goes_last_and_comes_back),
        cmocka_unit_test(a_family_that_fails_goes_behind_the_other),
        cmocka_unit_test(three_hosts_that_time_out_are_a_family),
        cmocka_unit_test(the_table_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
