/* test_client_table.c - connections, rates to the nanosecond, forgetting, many threads. */
#include "node/server/client_table.h"

#include "proto/base/clock.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static union address at(const char *text)
{
    union address a = {.v6 = {0}};

    if (inet_pton(AF_INET, text, &a.v4.sin_addr) == 1) {
        a.any.sa_family = AF_INET;
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &a.v6.sin6_addr), 1);
        a.any.sa_family = AF_INET6;
    }
    return a;
}

static enum client_limit enter(struct client_table *t, const char *text, uint64_t now, struct client_pass *pass)
{
    union address a = at(text);

    return client_enter(t, &a.any, now, pass);
}

static void test_connections(void **state)
{
    const struct client_limits limits = {.connections = 2, .network_connections = 3};
    struct client_pass a, b, c, d, refused;
    struct client_table *t;

    (void)state;
    client_table_open(&t, &limits);
    assert_int_equal(enter(t, "192.0.2.1", 0, &a), CLIENT_OK);
    assert_int_equal(enter(t, "::ffff:192.0.2.1", 0, &b), CLIENT_OK);
    assert_int_equal(enter(t, "192.0.2.1", 0, &refused), CLIENT_CONNECTIONS);
    client_leave(t, &refused);
    assert_int_equal(enter(t, "192.0.2.255", 0, &c), CLIENT_OK);
    assert_int_equal(enter(t, "192.0.2.254", 0, &refused), CLIENT_NETWORK_CONNECTIONS);
    assert_int_equal(enter(t, "192.0.3.1", 0, &d), CLIENT_OK);
    client_leave(t, &c);
    client_leave(t, &c); /* an empty pass by now */
    assert_int_equal(enter(t, "192.0.2.254", 0, &c), CLIENT_OK);
    client_leave(t, &a);
    client_leave(t, &b);
    client_leave(t, &c);
    client_leave(t, &d);
    assert_int_equal(enter(t, "192.0.2.1", 0, &a), CLIENT_OK);
    client_leave(t, &a);
    client_table_close(t);
}

/* IPv6: a /64 is one address, a /56 one network. */
static void test_ipv6(void **state)
{
    const struct client_limits limits = {.connections = 1, .network_connections = 2};
    struct client_pass a, b, c;
    struct client_table *t;

    (void)state;
    client_table_open(&t, &limits);
    assert_int_equal(enter(t, "2001:db8:0:100::1", 0, &a), CLIENT_OK);
    assert_int_equal(enter(t, "2001:db8:0:100::ffff", 0, &b), CLIENT_CONNECTIONS);
    assert_int_equal(enter(t, "2001:db8:0:1ff::1", 0, &b), CLIENT_OK);
    assert_int_equal(enter(t, "2001:db8:0:1fe::1", 0, &c), CLIENT_NETWORK_CONNECTIONS);
    assert_int_equal(enter(t, "2001:db8:0:200::1", 0, &c), CLIENT_OK);
    client_leave(t, &a);
    client_leave(t, &b);
    client_leave(t, &c);
    client_table_close(t);
}

/* Three a second: three at once, then one each third of a second; a refused one costs nothing. */
static void test_rates(void **state)
{
    const uint64_t third = 1000 * MR_NS_PER_MS / 3, start = 77 * MR_NS_PER_S;
    const struct client_limits limits = {.connection_rate = {3, 1000}, .message_rate = {3, 1000}};
    struct client_pass keep, pass;
    struct client_table *t;

    (void)state;
    client_table_open(&t, &limits);
    assert_int_equal(enter(t, "192.0.2.1", start, &keep), CLIENT_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(enter(t, "192.0.2.1", start, &pass), CLIENT_OK);
        client_leave(t, &pass);
    }
    for (int i = 0; i < 5; i++)
        assert_int_equal(enter(t, "192.0.2.1", start + third - 1, &pass), CLIENT_CONNECTION_RATE);
    assert_int_equal(enter(t, "192.0.2.2", start, &pass), CLIENT_OK);
    client_leave(t, &pass);
    assert_int_equal(enter(t, "192.0.2.1", start + third, &pass), CLIENT_OK);
    client_leave(t, &pass);
    assert_int_equal(enter(t, "192.0.2.1", start + third, &pass), CLIENT_CONNECTION_RATE);

    /* Each rate has a bucket of its own. */
    for (int i = 0; i < 3; i++) {
        assert_true(client_may(t, &keep, CLIENT_MESSAGE_RATE, start));
        assert_true(client_take(t, &keep, CLIENT_MESSAGE_RATE, start));
    }
    assert_false(client_may(t, &keep, CLIENT_MESSAGE_RATE, start));
    assert_false(client_take(t, &keep, CLIENT_MESSAGE_RATE, start));
    for (int i = 0; i < 1000; i++) /* unlimited */
        assert_true(client_take(t, &keep, CLIENT_RECIPIENT_RATE, start));
    /* Never more than full, however long it was left alone. */
    for (int i = 0; i < 3; i++)
        assert_true(client_take(t, &keep, CLIENT_MESSAGE_RATE, start + 3600 * MR_NS_PER_S));
    assert_false(client_take(t, &keep, CLIENT_MESSAGE_RATE, start + 3600 * MR_NS_PER_S));
    client_leave(t, &keep);
    client_table_close(t);
}

/* C2: whatever the times of the tries, what passes in any span keeps the bound, and who keeps the rate always passes.
 */
static void test_rate_bound(void **state)
{
    enum { N = 7, PER_MS = 1000, TRIES = 20000 };
    const struct client_limits limits = {.message_rate = {N, PER_MS}};
    static uint64_t passed[TRIES];
    unsigned n = 0, seed = 4711;
    struct client_pass pass;
    struct client_table *t;
    uint64_t now = 0;

    (void)state;
    client_table_open(&t, &limits);
    assert_int_equal(enter(t, "192.0.2.1", 0, &pass), CLIENT_OK);
    for (int i = 0; i < TRIES; i++) {
        seed = seed * 1103515245 + 12345;
        now += (seed >> 8) % (100 * MR_NS_PER_MS);
        if (client_take(t, &pass, CLIENT_MESSAGE_RATE, now))
            passed[n++] = now;
    }
    assert_true(n > 1000);
    for (unsigned from = 0; from < n; from++)
        for (unsigned to = from; to < n && to < from + 50; to++)
            assert_true(to - from + 1 <= N + (passed[to] - passed[from]) * N / (PER_MS * MR_NS_PER_MS) + 1);
    now += MR_NS_PER_S;
    for (int i = 0; i < 1000; i++) {
        now += PER_MS * MR_NS_PER_MS / N + 1;
        assert_true(client_take(t, &pass, CLIENT_MESSAGE_RATE, now));
    }
    client_leave(t, &pass);
    client_table_close(t);
}

static void test_exempt(void **state)
{
    static struct network networks[] = {{AF_INET, {10}, 8}, {AF_INET6, {0xfd}, 8}};
    const struct client_limits limits = {.connections = 1, .message_rate = {1, 1000}, .exempt = {networks, 2}};
    struct client_pass pass, other;
    struct client_table *t;
    struct sockaddr none = {.sa_family = AF_UNSPEC};

    (void)state;
    client_table_open(&t, &limits);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(enter(t, i % 2 == 0 ? "10.1.2.3" : "fd00::1", 0, &pass), CLIENT_OK);
        assert_true(client_take(t, &pass, CLIENT_MESSAGE_RATE, 0));
        assert_int_equal(client_enter(t, &none, 0, &pass), CLIENT_OK);
    }
    assert_int_equal(client_table_entries(t), 0);
    assert_int_equal(enter(t, "11.1.2.3", 0, &pass), CLIENT_OK);
    assert_int_equal(enter(t, "11.1.2.3", 0, &other), CLIENT_CONNECTIONS);
    client_leave(t, &pass);
    client_table_close(t);
    assert_int_equal(enter(NULL, "11.1.2.3", 0, &pass), CLIENT_OK); /* no table: no limits */
    assert_true(client_take(NULL, &pass, CLIENT_MESSAGE_RATE, 0));
    client_leave(NULL, &pass);
}

/* Idle addresses make room for new ones; those with connections do not, and then there is an answer. */
static void test_full(void **state)
{
    enum { ENTRIES = 256, CLIENTS = 4000 };
    const struct client_limits limits = {.entries = ENTRIES, .message_rate = {1, 3600000}};
    static struct client_pass held[CLIENTS];
    unsigned n = 0, full = 0;
    struct client_pass pass;
    struct client_table *t;
    char text[32];

    (void)state;
    client_table_open(&t, &limits);
    for (unsigned i = 0; i < CLIENTS; i++) {
        snprintf(text, sizeof(text), "10.%u.%u.1", i / 256, i % 256);
        assert_int_equal(enter(t, text, i, &pass), CLIENT_OK);
        client_leave(t, &pass);
        assert_true(client_table_entries(t) <= ENTRIES);
    }
    /* What was used last is still known. */
    assert_int_equal(enter(t, "10.99.99.1", 0, &pass), CLIENT_OK);
    assert_true(client_take(t, &pass, CLIENT_MESSAGE_RATE, 0));
    client_leave(t, &pass);
    assert_int_equal(enter(t, "10.99.99.1", 1, &pass), CLIENT_OK);
    assert_false(client_take(t, &pass, CLIENT_MESSAGE_RATE, 1));
    client_leave(t, &pass);
    for (unsigned i = 0; i < CLIENTS; i++) {
        enum client_limit limit;

        snprintf(text, sizeof(text), "10.%u.%u.1", i / 256, i % 256);
        limit = enter(t, text, i, &held[n]);
        assert_true(limit == CLIENT_OK || limit == CLIENT_TABLE_FULL);
        n += limit == CLIENT_OK;
        full += limit == CLIENT_TABLE_FULL;
    }
    assert_true(n >= 32 && n <= ENTRIES / 2 && full == CLIENTS - n);
    assert_int_equal(client_table_entries(t) <= ENTRIES, 1);
    while (n > 0)
        client_leave(t, &held[--n]);
    assert_int_equal(enter(t, "10.0.1.1", CLIENTS, &pass), CLIENT_OK);
    client_leave(t, &pass);
    client_table_close(t);
}

/* ---- many workers ---- */

enum { THREADS = 4, ROUNDS = 20000, MOST = 3 };

struct race {
    struct client_table *t;
    unsigned char last; /* octet of the address */
    unsigned passed;
};
static unsigned open_now;

static void *run(void *arg)
{
    struct race *r = arg;
    char text[32];
    union address own, shared = at("192.0.2.1");

    snprintf(text, sizeof(text), "198.51.100.%u", r->last);
    own = at(text);
    for (int i = 0; i < ROUNDS; i++) {
        struct client_pass pass, mine;

        assert_int_equal(client_enter(r->t, &own.any, 0, &mine), CLIENT_OK);
        if (client_enter(r->t, &shared.any, 0, &pass) == CLIENT_OK) {
            assert_true(__atomic_add_fetch(&open_now, 1, __ATOMIC_SEQ_CST) <= MOST);
            r->passed += client_take(r->t, &pass, CLIENT_MESSAGE_RATE, 0);
            __atomic_sub_fetch(&open_now, 1, __ATOMIC_SEQ_CST);
            client_leave(r->t, &pass);
        }
        client_leave(r->t, &mine);
    }
    return NULL;
}

static void test_threads(void **state)
{
    const struct client_limits limits = {.connections = MOST, .message_rate = {1000, 1000}};
    struct race races[THREADS];
    pthread_t threads[THREADS];
    struct client_table *t;
    unsigned passed = 0;

    (void)state;
    client_table_open(&t, &limits);
    for (unsigned i = 0; i < THREADS; i++) {
        races[i] = (struct race){.t = t, .last = (unsigned char)i};
        assert_int_equal(pthread_create(&threads[i], NULL, run, &races[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        passed += races[i].passed;
    }
    assert_int_equal(passed, 1000); /* exactly: time stood still */
    client_table_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connections), cmocka_unit_test(test_ipv6),   cmocka_unit_test(test_rates),
        cmocka_unit_test(test_rate_bound),  cmocka_unit_test(test_exempt), cmocka_unit_test(test_full),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
