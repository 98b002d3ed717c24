/* How many recipients and domains a next hop takes at once (RFC 9422), and what becomes of the others. */
#include "node/delivery/test_delivery_extensions.h"

static void only_so_many_recipients(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTMAX=2 MAILMAX=2");
    delivery_attempt(host.delivery, attempt(5, 0));
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.0.0", "taken");
    assert_result(t, 1, DELIVERED, "2.0.0", "taken");
    for (size_t i = 2; i < 5; i++)
        assert_int_equal(t->outcome->results[i]->result, NONE);
    assert_int_equal(t->outcome->retry_for_ms, 0);
    assert_said("RCPT TO:<r0@example.org>|RCPT TO:<r1@example.org>|DATA|");
    struct attempt *a = attempt(3, 0); /* the second attempt begins with others */
    a->attempt = 2;
    a->failures = 1;
    server_rule("RCPT", "450 4.2.0 later", 0, 2);
    delivery_attempt(host.delivery, a);
    t = wait_told(1);
    assert_int_equal(t->outcome->results[1]->result, NONE);
    assert_result(t, 2, DEFERRED, "4.2.0", "later");
    assert_result(t, 0, DEFERRED, "4.2.0", "later");
    assert_true(t->outcome->retry_for_ms > 0); /* nobody was decided: not at once */
    WAIT_FOR(core.n_closed == 1);              /* MAILMAX */
    delivery_attempt(host.delivery, attempt(1, 0));
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    host_close();
}

/* Greylisting, for each recipient by itself: all have to be asked before the pause, or some are asked for the first
 * time when it has become hours; and the rounds of one pause count as one. */
static void all_are_asked_before_the_pause(void **state)
{
    static const struct {
        uint32_t failures;
        uint64_t now_ms, least; /* of the pause; 0: at once */
    } rounds[] = {{0, 0, 0}, {1, 10, 1000}, {2, 1100, 0}, {3, 1110, 2000}, {4, 3500, 0}, {5, 3510, 4000}};
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTMAX=2");
    server_rule("RCPT", "451 4.7.1 greylisted", 0, 0);
    for (uint32_t i = 0; i < 6; i++) {
        struct attempt *a = attempt(3, 0);
        a->attempt = 2 * i + 1; /* one of two went back without asking anybody */
        a->failures = rounds[i].failures;
        a->now_ms = rounds[i].now_ms;
        delivery_attempt(host.delivery, a);
        const Mailraft__Outcome *o = wait_told(i)->outcome;
        assert_in_range(o->retry_for_ms, rounds[i].least, rounds[i].least * 12 / 10);
        assert_int_equal(o->results[(2 * i + 2) % 3]->result, NONE); /* two of three, in turn */
    }
    /* Refused after the recipients it is about the message, or the host: no reason to offer it to the others now. */
    server.n_rules = 0;
    server_rule(".", "451 4.3.1 no room", 0, 0);
    delivery_attempt(host.delivery, attempt(3, 0));
    assert_true(wait_told(6)->outcome->retry_for_ms >= 1000);
    /* So it is where the host says of itself, or of what is behind it, that it is in trouble. */
    static const char *const trouble[] = {"451 4.3.0 no store", "450 4.4.1 no backend", "452 4.5.3 too many"};
    for (uint32_t i = 0; i < 3; i++) {
        server.n_rules = 0;
        server_rule("RCPT", trouble[i], 0, 0);
        delivery_attempt(host.delivery, attempt(3, 0));
        assert_true(wait_told(7 + i)->outcome->retry_for_ms >= 1000);
    }
    static const char *const grey[] = {"450 4.2.0 later", "451 later", "450 4.1.1 being verified"};
    for (uint32_t i = 0; i < 3; i++) {
        server.n_rules = 0;
        server_rule("RCPT", grey[i], 0, 0);
        delivery_attempt(host.delivery, attempt(3, 0));
        assert_int_equal(wait_told(10 + i)->outcome->retry_for_ms, 0);
    }
    host_close();
}

/* A domain that defers for ever must not keep the others from their turn. */
static void other_domains_have_their_turn(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTDOMAINMAX=1");
    server_rule("RCPT TO:<r0@example.org>", "450 4.2.0 later", 0, 0);
    for (uint32_t i = 0; i < 2; i++) {
        struct attempt *a = attempt(2, 0);
        a->attempt = i + 1;
        a->failures = i;
        recipient(a, 1)->address = "x@two.example";
        delivery_attempt(host.delivery, a);
    }
    assert_result(wait_told(0), 0, DEFERRED, "4.2.0", "later");
    assert_true(told_of(0)->outcome->retry_for_ms >= 1000);
    assert_result(wait_told(1), 1, DELIVERED, "2.0.0", "taken");
    host_close();
}

static void only_so_many_domains(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTDOMAINMAX=2");
    struct attempt *a = attempt(4, 0);
    recipient(a, 1)->address = "x@two.example";
    recipient(a, 2)->address = "x@three.example";
    recipient(a, 3)->address = "y@TWO.example";
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.0.0", "taken");
    assert_result(t, 1, DELIVERED, "2.0.0", "taken");
    assert_int_equal(t->outcome->results[2]->result, NONE);
    assert_result(t, 3, DELIVERED, "2.0.0", "taken");
    host_close();
}

/* As many recipients and domains as a message may have: the choice must not keep the worker from its lease. */
static void very_many_domains(void **state)
{
    enum { N = 10000, LEN = 24 };
    (void)state;
    start("250-x\r\n250-8BITMIME\r\n250 LIMITS RCPTDOMAINMAX=5000");
    struct attempt *one = make_attempt(server.route, 0, 1);
    struct attempt *a = mr_calloc(1, sizeof(*a) + N * sizeof(struct attempt_recipient));
    struct attempt_recipient *r = (struct attempt_recipient *)(a + 1);
    char(*addresses)[LEN] = mr_calloc(N, LEN);
    *a = *one;
    attempt_free(one);
    for (uint32_t i = 0; i < N; i++) {
        (void)snprintf(addresses[i], LEN, "r@d%u.example", i);
        r[i] = (struct attempt_recipient){.index = 10 + i, .address = addresses[i]};
    }
    a->n_recipients = N;
    a->recipients = r;
    server_rule("MAIL", "450 4.7.1 not now", 0, 0);
    uint64_t begun = mr_boot_ns(&mr_clock_real);
    delivery_attempt(host.delivery, a);
    (void)wait_told(0);
    assert_true(mr_boot_ns(&mr_clock_real) - begun < 5 * MR_NS_PER_S); /* PROTOCOL.md 5.10 */
    host_close();
    free(addresses);
}

/* RFC 5321 4.5.3.1.10: the rest again at once, and then not more than it took. */
static void too_many_recipients(void **state)
{
    (void)state;
    for (int pipelining = 0; pipelining < 2; pipelining++) {
        start(pipelining ? "250-x\r\n250-8BITMIME\r\n250 PIPELINING" : "250-x\r\n250 8BITMIME");
        server_rule("RCPT", "452 4.5.3 too many", 2, 2);
        delivery_attempt(host.delivery, attempt(4, 0));
        const struct told *t = wait_told(0);
        assert_result(t, 0, DELIVERED, "2.0.0", "taken");
        assert_result(t, 1, DELIVERED, "2.0.0", "taken");
        assert_int_equal(t->outcome->results[2]->result, NONE);
        assert_int_equal(t->outcome->results[3]->result, NONE);
        assert_int_equal(t->outcome->retry_for_ms, 0);
        server.n_rules = 0;
        delivery_attempt(host.delivery, attempt(3, 0));
        t = wait_told(1);
        assert_result(t, 1, DELIVERED, "2.0.0", "taken");
        assert_int_equal(t->outcome->results[2]->result, NONE); /* learned */
        assert_int_equal(server.n, 1);
        host_close();
    }
    start("250-x\r\n250-8BITMIME\r\n250 PIPELINING");
    server_rule("RCPT", "452 4.5.3 too many", 0, 1); /* of the first: none of a transaction's limits */
    delivery_attempt(host.delivery, attempt(2, 0));
    assert_result(wait_told(0), 0, DEFERRED, "4.5.3", "too many");
    assert_result(wait_told(0), 1, DELIVERED, "2.0.0", "taken");
    assert_true(told_of(0)->outcome->retry_for_ms > 0);
    host_close();
}

/* LMTP answers for those who were accepted in the order of their RCPT, which need not be that of the attempt. */
static void lmtp_in_another_order(void **state)
{
    (void)state;
    server_open();
    server_lmtp();
    server.ehlo = "250-x\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=2";
    host_open();
    server_rule(".", "250 2.0.0 first", 0, 1);
    server_rule(".", "450 4.2.2 second", 0, 1);
    struct attempt *a = attempt(3, 0);
    a->attempt = 2;
    a->failures = 1;
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_said("RCPT TO:<r2@example.org>|RCPT TO:<r0@example.org>|DATA|");
    assert_result(t, 2, DELIVERED, "2.0.0", "first");
    assert_result(t, 0, DEFERRED, "4.2.2", "second");
    assert_int_equal(t->outcome->results[1]->result, NONE);
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_so_many_recipients), cmocka_unit_test(all_are_asked_before_the_pause),
        cmocka_unit_test(only_so_many_domains),    cmocka_unit_test(other_domains_have_their_turn),
        cmocka_unit_test(very_many_domains),       cmocka_unit_test(too_many_recipients),
        cmocka_unit_test(lmtp_in_another_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
