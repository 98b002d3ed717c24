/* test_smtp_extensions.c - what EHLO offers, and each parameter's way into the queue, over loopback. */
#include "node/mail/smtp_text.h"
#include "node/server/smtp_command.h"
#include "node/server/test_smtp_harness.h"

static void relay_configure(void)
{
    host_configure();
    host.config.smtp.relay_from = (struct network_list){loopback, 2};
    host.config.smtp.max_errors = 1000;
}

static void test_offers(void **state)
{
    static const char *const always[] = {
        "PIPELINING", "SIZE 3145728",        "8BITMIME",    "SMTPUTF8",     "CHUNKING", "BINARYMIME",
        "DSN",        "ENHANCEDSTATUSCODES", "MT-PRIORITY", "DELIVERBY 60", "HELP",     "LIMITS MAILMAX=1000 RCPTMAX=5",
    };
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
        if (!ehlo_has(always[i]))
            fail_msg("%s is not in %s", always[i], ehlo);
    assert_null(strstr(ehlo, "FUTURERELEASE"));
    assert_null(strstr(ehlo, "REQUIRETLS"));
    assert_null(strstr(ehlo, "STARTTLS"));
    assert_null(strstr(ehlo, "AUTH"));
    client_say(&c, "MAIL FROM:<a@b> REQUIRETLS", "555 5.5.4");
    client_say(&c, "MAIL FROM:<a@b> AUTH=<>", "555 5.5.4");
    client_close(&c);
    host_stop();
    /* What stands on a disabled one goes with it. */
    host_configure();
    host.config.smtp.disable = SMTP_CHUNKING | SMTP_DSN | SMTP_SIZE | SMTP_MT_PRIORITY;
    host_start();
    client_greet(&c);
    assert_null(strstr(ehlo, "CHUNKING"));
    assert_null(strstr(ehlo, "BINARYMIME"));
    assert_null(strstr(ehlo, "DSN"));
    assert_null(strstr(ehlo, "SIZE"));
    assert_true(ehlo_has("SMTPUTF8"));
    client_say(&c, "MAIL FROM:<a@b> SIZE=1", "555 5.5.4");
    client_say(&c, "MAIL FROM:<a@b> RET=FULL", "555 5.5.4");
    client_say(&c, "MAIL FROM:<a@b> MT-PRIORITY=1", "555 5.5.4");
    client_say(&c, "MAIL FROM:<a@b> BODY=BINARYMIME", "555 5.5.4");
    client_send(&c, "BDAT 5 LAST\r\nRSET\nNOOP\r\n");
    client_expect(&c, "502 5.5.1 CHUNKING");
    client_expect(&c, "250 2.0.0");
    client_close(&c);
    host_stop();
    host_configure();
    host.config.smtp.disable = SMTP_8BITMIME;
    host_start();
    client_greet(&c);
    assert_null(strstr(ehlo, "8BITMIME"));
    assert_null(strstr(ehlo, "SMTPUTF8"));
    assert_null(strstr(ehlo, "BINARYMIME"));
    client_close(&c);
    host_stop();
}

static void test_dsn(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b.example> RET=HDRS ENVID=QQ+2B1 SIZE=10 BODY=7BIT", "250 2.1.0");
    client_say(&c, "RCPT TO:<u@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Bu@example.org", "250 2.1.5");
    client_say(&c, "RCPT TO:<v@example.net> NOTIFY=NEVER", "250 2.1.5");
    client_say(&c, "RCPT TO:<w@example.net>", "250 2.1.5");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->ret, 2);
    assert_string_equal(fake.message->envid, "QQ+2B1");
    assert_int_equal(fake.message->flags, 0);
    assert_int_equal(fake.message->recipients[0]->notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
    assert_memory_equal(fake.message->recipients[0]->orcpt.data, "rfc822;old+2Bu@example.org", 26);
    assert_int_equal(fake.message->recipients[0]->orcpt.len, 26);
    assert_int_equal(fake.message->recipients[1]->notify, NOTIFY_NEVER);
    assert_int_equal(fake.message->recipients[1]->orcpt.len, 0);
    assert_int_equal(fake.message->recipients[2]->notify, 0);
    /* The next transaction begins anew. */
    client_begin_data(&c);
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->ret, 0);
    assert_string_equal(fake.message->envid, "");
    client_close(&c);
    host_stop();
}

static void test_priority(void **state)
{
    struct client c;

    (void)state;
    relay_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b> MT-PRIORITY=-4", "250 2.1.0");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->priority, -4);
    assert_non_null(memmem(fake.body, fake.body_len, "\r\n\tpriority -4;\r\n", 17));
    client_close(&c);
    host_stop();
    /* A stranger's wish is told to be none. */
    host_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b> MT-PRIORITY=9", "250 2.3.6 0 ");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->priority, 0);
    client_say(&c, "MAIL FROM:<a@b> MT-PRIORITY=0", "250 2.1.0");
    client_close(&c);
    host_stop();
}

static void test_deliver_by(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b> BY=59;R", "555 5.5.4");
    client_say(&c, "MAIL FROM:<a@b> BY=60;RT", "250 2.1.0");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->deliver_by, MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN);
    assert_int_equal(fake.message->deliver_by_for_ms, 60000);
    assert_true(fake.message->deliver_by_trace);
    client_say(&c, "MAIL FROM:<a@b> BY=-5;N", "250 2.1.0"); /* over already: told of at once */
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->deliver_by, MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY);
    assert_int_equal(fake.message->deliver_by_for_ms, 1);
    client_close(&c);
    host_stop();
}

static void test_future_release(void **state)
{
    char text[SMTP_TIME_SIZE], line[128];
    uint64_t now = (uint64_t)time(NULL) * 1000;
    struct client c;

    (void)state;
    relay_configure();
    host.listener.profile = PROFILE_SUBMISSION;
    host_start();
    client_greet(&c);
    assert_non_null(strstr(ehlo, "|FUTURERELEASE 604800 20"));
    client_say(&c, "MAIL FROM:<a@b> HOLDFOR=604801", "501 5.5.4");
    client_say(&c, "MAIL FROM:<a@b> HOLDFOR=60 HOLDUNTIL=2030-01-01T00:00:00Z", "501 5.5.4");
    snprintf(line, sizeof(line), "MAIL FROM:<a@b> HOLDUNTIL=%s", smtp_time_format(now + 8ULL * 86400000, text));
    client_say(&c, line, "501 5.5.4");
    client_say(&c, "MAIL FROM:<a@b> HOLDFOR=3600", "250 2.1.0");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->hold_for_ms, 3600000);
    snprintf(line, sizeof(line), "MAIL FROM:<a@b> HOLDUNTIL=%s", smtp_time_format(now + 600000, text));
    client_say(&c, line, "250 2.1.0");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_in_range(fake.message->hold_for_ms, 500000, 600000);
    client_say(&c, "MAIL FROM:<a@b> HOLDUNTIL=2001-01-01T00:00:00Z", "250 2.1.0"); /* nothing to wait for */
    client_say(&c, "RSET", "250");
    client_close(&c);
    host_stop();
}

/* ---- SMTPUTF8 ---- */

static unsigned flags_of(struct client *c, const char *mail, const char *rcpt, const char *text)
{
    char line[512];

    snprintf(line, sizeof(line), "MAIL FROM:%s", mail);
    client_say(c, line, "250 2.1.0");
    snprintf(line, sizeof(line), "RCPT TO:%s", rcpt);
    client_say(c, line, "250 2.1.5");
    client_say(c, "DATA", "354 ");
    client_send(c, text);
    client_expect(c, "250 2.0.0");
    return fake.message->flags;
}

static void test_utf8(void **state)
{
    struct client c;

    (void)state;
    relay_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<j\xc3\xbcrgen@example.org>", "553 5.6.7");
    client_say(&c, "MAIL FROM:<a@example.org>", "250");
    client_say(&c, "RCPT TO:<j\xc3\xbcrgen@example.net>", "553 5.6.7");
    client_say(&c, "RSET", "250");
    client_say(&c, "MAIL FROM:<a@\xe2\x98\x83..example> SMTPUTF8", "501 5.1.7");
    client_say(&c, "MAIL FROM:<a@-\xc3\xbc.example> SMTPUTF8", "501 5.1.7");
    client_say(&c, "MAIL FROM:<a@\xcc\x80x.example> SMTPUTF8", "553 5.1.7"); /* begins with a combining mark */
    client_say(&c,
               "MAIL FROM:<j\xc3\xbcrgen@b\xc3\xbc"
               "cher.example> SMTPUTF8",
               "250 2.1.0");
    client_say(&c, "RCPT TO:<j\xc3\xbcrgen@EXAMPLE.net>", "250 2.1.5");
    client_say(&c, "RCPT TO:<a@\xcc\x80x.example>", "553 5.1.3");
    client_say(&c,
               "RCPT TO:<x@b\xc3\xbc"
               "cher.example>",
               "250 2.1.5");
    client_say(&c,
               "RCPT TO:<x@xn--bcher-kva.example> ORCPT=utf-8;x@b\xc3\xbc"
               "cher.example",
               "250 2.1.5");
    client_say(&c, "DATA", "354 ");
    client_say(&c, "x\r\n.", "250 2.0.0");
    assert_int_equal(fake.message->flags, MESSAGE_SMTPUTF8);
    assert_int_equal(fake.message->n_recipients, 2); /* both ways to write the domain are one */
    assert_memory_equal(fake.message->reverse_path.data, "j\xc3\xbcrgen@xn--bcher-kva.example", 29);
    assert_memory_equal(fake.message->recipients[1]->address.data, "x@xn--bcher-kva.example", 23);
    assert_string_equal(fake.message->next_hops[1], "mx:xn--bcher-kva.example");
    assert_non_null(memmem(fake.body, fake.body_len, " with UTF8SMTP id ", 18));
    /* A domain alone needs no SMTPUTF8 further on; nor does 8-bit text, but where parts may have fields. */
    assert_int_equal(flags_of(&c,
                              "<a@b\xc3\xbc"
                              "cher.example> SMTPUTF8",
                              "<u@example.net>", "A: b\r\n\r\nx\r\n.\r\n"),
                     0);
    assert_int_equal(flags_of(&c, "<a@b> SMTPUTF8", "<\xc3\xbc@example.net>", "x\r\n.\r\n"), MESSAGE_SMTPUTF8);
    assert_int_equal(flags_of(&c, "<a@b> SMTPUTF8", "<u@example.net>", "Subject: \xc3\xbc\r\n\r\nx\r\n.\r\n"),
                     MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME);
    assert_int_equal(flags_of(&c, "<a@b> SMTPUTF8", "<u@example.net>", "A: b\r\n\r\n\xc3\xbc\r\n.\r\n"),
                     MESSAGE_8BITMIME);
    assert_int_equal(
        flags_of(&c, "<a@b> SMTPUTF8", "<u@example.net>", "Content-Type: multipart/mixed\r\n\r\n\xc3\xbc\r\n.\r\n"),
        MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME);
    /* 8-bit text that nobody announced is taken and announced on. */
    assert_int_equal(flags_of(&c, "<a@b>", "<u@example.net>", "Subject: \xe4\r\n\r\nx\r\n.\r\n"), MESSAGE_8BITMIME);
    assert_int_equal(flags_of(&c, "<a@b> BODY=8BITMIME", "<u@example.net>", "x\r\n.\r\n"), MESSAGE_8BITMIME);
    client_say(&c, "VRFY j\xc3\xbcrgen", "553 5.6.7");
    client_say(&c, "VRFY j\xc3\xbcrgen SMTPUTF8", "252 2.5.2");
    client_say(&c, "VRFY \xff SMTPUTF8", "501 5.1.3");
    client_say(&c,
               "EHLO b\xc3\xbc"
               "cher.example",
               "501 5.5.4");
    client_close(&c);
    host_stop();
}

/* ---- submission ---- */

static void submit(struct client *c, const char *text)
{
    client_begin_data(c);
    client_send(c, text);
    client_expect(c, "250 2.0.0");
}

static void expect_parts(const char *before, const char *after, bool date, bool message_id)
{
    size_t len, n = strlen(before), m = strlen(after);
    const char *text = stored_text(&len);
    char own[512];

    assert_true(len >= n + m && len - n - m < sizeof(own));
    assert_memory_equal(text, before, n);
    assert_memory_equal(text + len - m, after, m);
    memcpy(own, text + n, len - n - m);
    own[len - n - m] = '\0';
    assert_int_equal(strncmp(own, "Date: ", 6) == 0, date);
    assert_int_equal(strstr(own, "Message-ID: <") != NULL, message_id);
    if (message_id)
        assert_non_null(strstr(own, "@mx1.example.net>\r\n"));
    if (!date && !message_id)
        assert_string_equal(own, "");
}

static void test_submission(void **state)
{
    static char folded[300000];
    struct client c;

    (void)state;
    relay_configure();
    host.listener.profile = PROFILE_SUBMISSION;
    host_start();
    client_greet(&c);
    submit(&c, "Subject: x\r\n\r\nbody\r\n.\r\n");
    expect_parts("Subject: x\r\n", "\r\nbody\r\n", true, true);
    submit(&c, "Subject: x\r\nDate: now\r\n\r\nbody\r\n.\r\n");
    expect_parts("Subject: x\r\nDate: now\r\n", "\r\nbody\r\n", false, true);
    submit(&c, "message-id : <x>\r\n\r\nbody\r\n.\r\n");
    expect_parts("message-id : <x>\r\n", "\r\nbody\r\n", true, false);
    submit(&c, "Date: x\r\nMessage-ID: <x>\r\n\r\nbody\r\n\r\nmore\r\n.\r\n");
    expect_parts("Date: x\r\nMessage-ID: <x>\r\n\r\nbody\r\n\r\nmore\r\n", "", false, false);
    submit(&c, "Subject: no body\r\n.\r\n");
    expect_parts("Subject: no body\r\n", "", true, true);
    submit(&c, ".\r\n");
    expect_parts("", "", true, true);
    submit(&c, "just text\r\nwithout a header\r\n.\r\n");
    expect_parts("", "\r\njust text\r\nwithout a header\r\n", true, true);
    submit(&c, "Subject: x\r\nno field\r\n.\r\n");
    expect_parts("Subject: x\r\n", "\r\nno field\r\n", true, true);
    /* A header of more than one piece. */
    memset(folded, ' ', sizeof(folded));
    memcpy(folded, "Subject: x\r\n", 12);
    for (size_t at = 1000; at < sizeof(folded) - 1000; at += 900)
        memcpy(folded + at, "y\r\n", 3);
    memcpy(folded + sizeof(folded) - 30, "y\r\n\r\nbody\r\n.\r\n\0", 15);
    submit(&c, folded);
    {
        size_t len;
        const char *text = stored_text(&len);

        assert_memory_equal(text + len - 8, "\r\nbody\r\n", 8);
        assert_non_null(memmem(text + 299000, len - 299000, "Message-ID: <", 13));
    }
    client_close(&c);
    host_stop();
    /* Mail that only passes through is left as it is. */
    host_configure();
    host_start();
    client_greet(&c);
    submit(&c, "Subject: x\r\n\r\nbody\r\n.\r\n");
    expect_parts("Subject: x\r\n\r\nbody\r\n", "", false, false);
    client_close(&c);
    host_stop();
}

static void test_quota(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    fake.status[FAKE_SUBMIT] = MR_REFUSED;
    fake.reason = APPLY_QUOTA;
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    client_say(&c, "x\r\n.", "450 4.7.1");
    fake.reason = APPLY_VERSION;
    client_begin_data(&c);
    client_say(&c, "x\r\n.", "451 4.3.0");
    client_close(&c);
    host_stop();
}

/* Bare line ends of hosts that are known to write them become line ends, and end nothing. */
static void test_normalize(void **state)
{
    static const char *const ends[] = {"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\n.\r"};
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.normalize_from = (struct network_list){loopback, 2};
    host_start();
    client_greet(&c);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        char text[200];
        const char *stored;
        size_t len;

        snprintf(text, sizeof(text), "a%sMAIL FROM:<e@x>\r\n.\r\n", ends[i]);
        for (int cut = 1; cut < 6; cut++) {
            client_begin_data(&c);
            client_send_n(&c, text, (size_t)cut);
            turn();
            client_send(&c, text + cut);
            client_expect(&c, "250 2.0.0");
            stored = stored_text(&len);
            assert_memory_equal(stored, "a\r\n\r\nMAIL FROM:<e@x>\r\n", len);
            assert_null(memmem(stored, len, "\n.", 2));
        }
    }
    client_begin_data(&c);
    client_send(&c, "Subject: a\nTo: b\n\n..dot\n...\rx\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    {
        size_t len;
        const char *stored = stored_text(&len);

        assert_memory_equal(stored, "Subject: a\r\nTo: b\r\n\r\n.dot\r\n..\r\nx\r\n", len);
    }
    client_close(&c);
    host_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offers),         cmocka_unit_test(test_dsn),
        cmocka_unit_test(test_priority),       cmocka_unit_test(test_deliver_by),
        cmocka_unit_test(test_future_release), cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_submission),     cmocka_unit_test(test_quota),
        cmocka_unit_test(test_normalize),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
