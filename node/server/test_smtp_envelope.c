/* test_smtp_envelope.c - recipients into deliveries. */
#include "node/server/smtp_envelope.h"

#include "cluster/state.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static Mailraft__Limit narrow = MAILRAFT__LIMIT__INIT;
static Mailraft__Limit *limits[] = {&narrow};
static Mailraft__Route by_default = MAILRAFT__ROUTE__INIT, local = MAILRAFT__ROUTE__INIT;
static Mailraft__Route *routes[] = {&by_default, &local};
static Mailraft__Rules rules = MAILRAFT__RULES__INIT;

static int set_rules(void **state)
{
    (void)state;
    narrow.site = (char *)"narrow.example";
    narrow.recipients_per_message = 2;
    rules.limits = limits;
    rules.n_limits = 1;
    by_default.domain = (char *)"default";
    by_default.route = (char *)"mx";
    local.domain = (char *)"local.example";
    local.route = (char *)"lmtp://store.example:24";
    local.local = 1;
    rules.routes = routes;
    rules.n_routes = 2;
    return 0;
}

static void add(struct smtp_envelope *e, const char *address)
{
    assert_int_equal(smtp_envelope_add(e, address, strlen(address), NULL, 0, (struct smtp_slice){"", 0}), 0);
}

static Mailraft__Body *some_body(void)
{
    Mailraft__Body *body = mr_malloc(sizeof(*body));

    mailraft__body__init(body);
    body->length = 5;
    return body;
}

/* E2. */
static void check(const Mailraft__Enqueue *m, const Mailraft__Rules *r)
{
    unsigned *counts = calloc(m->n_next_hops, sizeof(*counts));

    assert_non_null(counts);
    for (size_t i = 0; i < m->n_recipients; i++) {
        char next_hop[320];
        const char *at = memrchr(m->recipients[i]->address.data, '@', m->recipients[i]->address.len);
        uint32_t delivery = m->recipients[i]->delivery;

        assert_true(delivery < m->n_next_hops);
        snprintf(next_hop, sizeof(next_hop), "mx:%.*s",
                 (int)(m->recipients[i]->address.len - (size_t)(at + 1 - (const char *)m->recipients[i]->address.data)),
                 at + 1);
        if (strcmp(next_hop, "mx:local.example") == 0)
            strcpy(next_hop, "lmtp://store.example:24");
        assert_string_equal(m->next_hops[delivery], next_hop);
        counts[delivery]++;
        if (strcmp(next_hop, "mx:narrow.example") == 0 && r->n_limits > 0)
            assert_true(counts[delivery] <= 2);
    }
    for (size_t i = 0; i < m->n_next_hops; i++)
        assert_true(counts[i] > 0);
    free(counts);
}

static void test_groups(void **state)
{
    struct smtp_envelope e = {.reverse_path = "s@x.example",
                              .flags = MESSAGE_8BITMIME,
                              .ret = RET_HDRS,
                              .by = BY_RETURN,
                              .by_trace = true,
                              .by_for_ms = 60000,
                              .hold_for_ms = 5000,
                              .priority = -3,
                              .envid = "QQ+2B1",
                              .user = "jane"};
    Mailraft__Enqueue *m;
    struct mr_id id = mr_id_at(1);

    (void)state;
    add(&e, "a@one.example");
    add(&e, "b@narrow.example");
    add(&e, "c@one.example");
    add(&e, "d@narrow.example");
    add(&e, "e@narrow.example");
    add(&e, "f@local.example");
    add(&e, "a@one.example");
    add(&e, "A@one.example");
    add(&e, "c@ONE.example");
    assert_int_equal(
        smtp_envelope_add(&e, "postmaster", 10, "local.example", NOTIFY_NEVER, (struct smtp_slice){"rfc822;p+2Bx", 12}),
        0);
    assert_int_equal(smtp_envelope_build(&e, &rules, id, some_body(), "c [192.0.2.1]", &m), 0);
    assert_int_equal(m->n_recipients, 8); /* two were given twice; local parts keep their case */
    assert_int_equal(m->n_next_hops, 4);
    check(m, &rules);
    assert_int_equal(m->flags, MESSAGE_8BITMIME);
    assert_int_equal(m->ret, 2);
    assert_int_equal(m->deliver_by, MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN);
    assert_int_equal(m->deliver_by_for_ms, 60000);
    assert_true(m->deliver_by_trace);
    assert_int_equal(m->hold_for_ms, 5000);
    assert_int_equal(m->priority, -3);
    assert_string_equal(m->envid, "QQ+2B1");
    assert_string_equal(m->user, "jane");
    assert_int_equal(m->recipients[7]->notify, NOTIFY_NEVER);
    assert_int_equal(m->recipients[7]->orcpt.len, 12);
    assert_memory_equal(m->recipients[7]->orcpt.data, "rfc822;p+2Bx", 12);
    assert_int_equal(m->recipients[0]->orcpt.len, 0);
    assert_memory_equal(m->reverse_path.data, "s@x.example", 11);
    assert_string_equal(m->client, "c [192.0.2.1]");
    assert_int_equal(m->body->length, 5);
    assert_memory_equal(m->id.data, id.bytes, 16);
    mailraft__enqueue__free_unpacked(m, NULL);
    smtp_envelope_close(&e);
}

enum { MANY = 12000 };

/* Each its own next hop; all with the local part of the first, or each with one of its own. Seconds of this thread's
 * CPU that the Enqueue costs. */
static double build_many(bool one_local_part)
{
    struct smtp_envelope e = {.reverse_path = ""};
    struct timespec begin, end;
    Mailraft__Enqueue *m;
    char address[64];

    for (unsigned n = 0; n < MANY; n++) {
        int len = snprintf(address, sizeof(address), "u%05u@d%05u.example", one_local_part ? 0 : n, n);

        assert_int_equal(smtp_envelope_add(&e, address, (size_t)len, NULL, 0, (struct smtp_slice){"", 0}), 0);
    }
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin), 0);
    assert_int_equal(smtp_envelope_build(&e, &rules, mr_id_at(1), some_body(), "c", &m), 0);
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end), 0);
    assert_int_equal(m->n_recipients, MANY);
    assert_int_equal(m->n_next_hops, MANY);
    assert_int_equal(m->reverse_path.len, 0);
    check(m, &rules);
    mailraft__enqueue__free_unpacked(m, NULL);
    smtp_envelope_close(&e);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

/* Linear, whichever part of the addresses differs. If look-ups went through all recipients with the same local part,
 * it would be some hundred times as much. */
static void test_many(void **state)
{
    double apart = build_many(false), alike = build_many(true);

    (void)state;
    print_message("%d recipients: %.1f ms; with one local part: %.1f ms\n", MANY, apart * 1e3, alike * 1e3);
    assert_true(alike < 10 * apart);
}

/* E1; what fits is built. */
static void test_most(void **state)
{
    struct smtp_envelope e = {.reverse_path = ""};
    Mailraft__Enqueue *m;
    char address[64];
    unsigned n = 0;

    (void)state;
    for (;;) {
        int len = snprintf(address, sizeof(address), "u%u@d%u.example", n, n);

        if (smtp_envelope_add(&e, address, (size_t)len, NULL, 0, (struct smtp_slice){"", 0}) != 0)
            break;
        n++;
    }
    assert_true(n > 10000);
    assert_true(e.used <= SMTP_ENVELOPE_MAX);
    assert_int_equal(smtp_envelope_build(&e, &rules, mr_id_at(1), some_body(), "c", &m), 0);
    assert_int_equal(m->n_recipients, n);
    check(m, &rules);
    mailraft__enqueue__free_unpacked(m, NULL);
    smtp_envelope_close(&e);
}

static void test_no_route(void **state)
{
    Mailraft__Rules none = MAILRAFT__RULES__INIT;
    struct smtp_envelope e = {.reverse_path = "s@x"};
    Mailraft__Enqueue *m;

    (void)state;
    add(&e, "a@one.example");
    assert_int_equal(smtp_envelope_build(&e, &none, mr_id_at(1), some_body(), "c", &m), MR_NOTFOUND);
    assert_null(m);
    smtp_envelope_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_most),
        cmocka_unit_test(test_no_route),
    };

    return cmocka_run_group_tests(tests, set_rules, NULL);
}
