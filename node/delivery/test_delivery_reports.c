/* What is told of an attempt: passed on to the next hop, or reported and journalled here; DELIVERBY. */
#include "node/delivery/test_delivery_extensions.h"

/* ---- reports ---- */

static void success_is_passed_on(void **state)
{
    (void)state;
    start(modern);
    struct attempt *a = attempt(1, 0);
    recipient(a, 0)->notify = NOTIFY_SUCCESS;
    delivery_attempt(host.delivery, a);
    assert_null(wait_told(0)->outcome->dsn);
    assert_said("NOTIFY=SUCCESS ORCPT=rfc822;r0@example.org|");
    host_close();
}

static void success_is_reported(void **state)
{
    (void)state;
    for (int lmtp = 0; lmtp < 2; lmtp++) {
        server_open();
        if (lmtp)
            server_lmtp();
        host_open();
        struct attempt *a = attempt(4, 0);
        recipient(a, 0)->notify = NOTIFY_SUCCESS | NOTIFY_FAILURE;
        recipient(a, 1)->notify = NOTIFY_FAILURE;
        recipient(a, 2)->notify = NOTIFY_SUCCESS | NOTIFY_FAILURE;
        recipient(a, 3)->notify = NOTIFY_NEVER;
        a->ret = 1;
        a->envid = "E1";
        server_rule("RCPT TO:<r2", "550 5.1.1 nobody", 0, 0);
        delivery_attempt(host.delivery, a);
        const struct told *t = wait_told(0);
        assert_non_null(t->outcome->dsn);
        assert_result(t, 0, DELIVERED, "2.0.0", "taken");
        assert_kept_has("Final-Recipient: rfc822; r0@example.org\r\n");
        assert_kept_has(lmtp ? "Action: delivered\r\nStatus: 2.0.0\r\n" : "Action: relayed\r\nStatus: 2.0.0\r\n");
        assert_kept_has("Final-Recipient: rfc822; r2@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n");
        assert_kept_has("Original-Envelope-Id: E1\r\n");
        assert_null(memmem(core.stored, core.stored_len, "r1@example.org\r\nAction", 22));
        assert_null(memmem(core.stored, core.stored_len, "r3@example.org", 14));
        host_close();
    }
}

static void success_that_cannot_be_reported(void **state)
{
    (void)state;
    start("250 x");
    core.store_status = MR_NOSPACE;
    struct attempt *a = attempt(1, 0);
    recipient(a, 0)->notify = NOTIFY_SUCCESS;
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken"); /* never sent again for that */
    assert_null(told_of(0)->outcome->dsn);
    host_close();
}

/* What the next hop said to the dot does not wait for the report's majority to be known after a crash (5.8). */
static void a_reply_is_journalled_before_its_report_is_stored(void **state)
{
    (void)state;
    for (int held = 0; held < 2; held++) { /* what does not answer: the read of the original, the report's body */
        start("250 x");
        core.hold[held == 0 ? OWED_READ : OWED_STORED] = true;
        core.along = true;
        struct attempt *a = attempt(3, 0);
        recipient(a, 1)->notify = NOTIFY_SUCCESS;
        server_rule("RCPT TO:<r2", "550 5.1.1 nobody", 0, 0);
        delivery_attempt(host.delivery, a);
        WAIT_FOR(core.owed != NULL && core.owed->kind == (held == 0 ? OWED_READ : OWED_STORED));
        assert_null(told_of(0));
        assert_int_equal(core.n_replies, 1);
        assert_int_equal(core.reply->n_results, 3);
        struct told known = {.outcome = core.reply};
        assert_result(&known, 0, DELIVERED, "2.0.0", "taken");
        assert_result(&known, 1, DELIVERED, "2.0.0", "taken");
        assert_result(&known, 2, FAILED, "5.1.1", "nobody"); /* that nobody was told of yet: cluster_reply's matter */
        core.hold[OWED_READ] = core.hold[OWED_STORED] = false;
        assert_result(wait_told(0), 2, FAILED, "5.1.1", "nobody");
        assert_non_null(told_of(0)->outcome->dsn);
        assert_int_equal(core.n_replies, 1);
        host_close();
    }
}

/* No report, or no dot: nothing is written ahead. */
static void usual_replies_are_journalled_once(void **state)
{
    (void)state;
    start("250 x");
    server_rule("RCPT TO:<r1", "450 4.2.1 later", 0, 1);
    delivery_attempt(host.delivery, attempt(2, 0));
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_result(wait_told(0), 1, DEFERRED, "4.2.1", "later");
    server_rule("RCPT TO:<r", "550 5.1.1 nobody", 0, 0);
    delivery_attempt(host.delivery, attempt(2, 0));
    assert_result(wait_told(1), 1, FAILED, "5.1.1", "nobody");
    assert_non_null(told_of(1)->outcome->dsn);
    struct attempt *a = attempt(2, 0);
    a->reverse_path = ""; /* nobody is told */
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(2), 1, FAILED, "5.1.1", "nobody");
    assert_null(told_of(2)->outcome->dsn);
    assert_int_equal(core.n_replies, 0);
    host_close();
}

/* ---- deliver-by ---- */

static struct attempt *by(Mailraft__DeliverBy mode, int64_t left_ms, bool trace)
{
    struct attempt *a = attempt(1, 0);
    a->now_ms = 1772366400000;
    a->deliver_by = mode;
    a->deliver_by_ms = (uint64_t)(1772366400000 + left_ms);
    a->deliver_by_trace = trace;
    return a;
}

static void in_time(void **state)
{
    static const Mailraft__DeliverBy RETURN = MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN;
    static const Mailraft__DeliverBy TELL = MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY;
    (void)state;
    start("250-x\r\n250-8BITMIME\r\n250 DELIVERBY 60");
    delivery_attempt(host.delivery, by(RETURN, 3600900, false));
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_said("MAIL FROM:<s@example.net> BY=3600;R|");
    assert_null(told_of(0)->outcome->dsn);
    delivery_attempt(host.delivery, by(RETURN, 59000, false));
    assert_result(wait_told(1), 0, FAILED, "5.4.7", "sooner");
    delivery_attempt(host.delivery, by(RETURN, -1, false));
    assert_result(wait_told(2), 0, FAILED, "5.4.7", "passed");
    assert_non_null(told_of(2)->outcome->dsn);
    delivery_attempt(host.delivery, by(TELL, -9000, true));
    assert_result(wait_told(3), 0, DELIVERED, "2.0.0", "taken");
    assert_said(" BY=-9;NT|");
    assert_non_null(told_of(3)->outcome->dsn); /* the trace */
    assert_kept_has("Action: relayed\r\n");
    host_close();
    start("250 8BITMIME");
    delivery_attempt(host.delivery, by(RETURN, 3600000, false));
    assert_result(wait_told(0), 0, FAILED, "5.4.7", "DELIVERBY");
    delivery_attempt(host.delivery, by(TELL, 3600000, false));
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_non_null(told_of(1)->outcome->dsn);
    assert_kept_has("Action: relayed\r\n");
    struct attempt *a = by(TELL, 3600000, false);
    recipient(a, 0)->notify = NOTIFY_NEVER;
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    assert_null(told_of(2)->outcome->dsn);
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(success_is_passed_on),
        cmocka_unit_test(success_is_reported),
        cmocka_unit_test(success_that_cannot_be_reported),
        cmocka_unit_test(a_reply_is_journalled_before_its_report_is_stored),
        cmocka_unit_test(usual_replies_are_journalled_once),
        cmocka_unit_test(in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
