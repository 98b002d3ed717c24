/* test_smtp_session.c - sessions over loopback: commands, data, limits, what the cluster may answer. */
#include "node/server/test_smtp_harness.h"

static void test_message(void **state)
{
    struct client c;
    char id[MR_ID_TEXT + 1];
    struct mr_id message_id;
    char expected[128];

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "Subject: x\r\n\r\n..dots\r\n...\r\nend\r\n.\r\n");
    client_expect(&c, "250 2.0.0 Ok: queued as ");
    expect_stored("Subject: x\r\n\r\n.dots\r\n..\r\nend\r\n");
    assert_int_equal(fake.submitted, 1);
    assert_int_equal(fake.message->n_recipients, 1);
    assert_memory_equal(fake.message->recipients[0]->address.data, "u@example.net", 13);
    assert_string_equal(fake.message->next_hops[0], "lmtp://store.example:24");
    assert_string_equal(fake.message->client, "client.example [127.0.0.1]");
    assert_int_equal(fake.message->body->length, fake.body_len);
    assert_int_equal(mr_id_from_bytes(fake.message->id.data, fake.message->id.len, &message_id), 0);
    snprintf(expected, sizeof(expected),
             "Received: from client.example ([127.0.0.1])\r\n\tby mx1.example.net with ESMTP id %s\r\n\tfor "
             "<u@example.net>;\r\n\t",
             mr_id_format(message_id, id));
    assert_memory_equal(fake.body, expected, strlen(expected));
    client_say(&c, "QUIT", "221 2.0.0");
    client_expect_end(&c);
    assert_int_equal(atomic_load(&host.counters.messages_received), 1);
    assert_int_equal(atomic_load(&host.counters.bytes_received), fake.body_len);
    host_stop();
}

/* Far more behind it than is read at once: the close resets the connection, and the reply is there all the same. */
static void test_quit_with_more(void **state)
{
    static char talk[1 << 20];
    struct client c;
    ssize_t sent;

    (void)state;
    memset(talk, 'x', sizeof(talk));
    memcpy(talk, "QUIT\r\n", 6);
    host_configure();
    host_start();
    client_open(&c);
    client_expect(&c, "220 ");
    sent = send(c.fd, talk, sizeof(talk), MSG_NOSIGNAL);
    assert_true(sent > SMTP_READ_BUFFER);
    client_expect(&c, "221 2.0.0");
    client_close(&c);
    host_stop();
}

static void test_helo(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.relay_from.at = loopback;
    host.config.smtp.relay_from.n = 2;
    host_start();
    client_open(&c);
    client_expect(&c, "220 ");
    client_say(&c, "HELO [127.0.0.1]", "250 mx1.example.net");
    client_say(&c, "MAIL FROM:<>", "250 2.1.0");
    client_say(&c, "RCPT TO:<a@example.net>", "250 2.1.5");
    client_say(&c, "RCPT TO:<b@elsewhere.example>", "250 2.1.5");
    client_say(&c, "DATA", "354 ");
    client_send(&c, ".\r\n");
    client_expect(&c, "250 2.0.0");
    expect_stored("");
    assert_non_null(memmem(fake.body, fake.body_len, " with SMTP id ", 14));
    assert_null(memmem(fake.body, fake.body_len, "for <", 5));
    assert_int_equal(fake.message->reverse_path.len, 0);
    assert_int_equal(fake.message->n_next_hops, 2);
    client_close(&c);
    host_stop();
}

/* One command, one reply, in one session with room for all the errors. */
static void test_replies(void **state)
{
    static const char *const talk[][2] = {
        {"MAIL FROM:<a@b>", "503 5.5.1"},
        {"NOOP", "250 2.0.0"},
        {"EHLO", "501 5.5.4"},
        {"EHLO a b", "501 5.5.4"},
        {"EHLO x(y", "501 5.5.4"},
        {"HELO client.example", "250 mx1.example.net"},
        {"RCPT TO:<u@example.net>", "503 5.5.1"},
        {"DATA", "503 5.5.1"},
        {"VRFY u", "252 2.5.2"},
        {"VRFY", "501 5.5.4"},
        {"HELP", "214 2.0.0"},
        {"EXPN list", "502 5.5.1"},
        {"STARTTLS", "502 5.5.1"},
        {"BDAT 0 LAST", "502 5.5.1"},
        {"AUTH PLAIN x", "502 5.5.1"},
        {"WHAT", "500 5.5.2"},
        {"", "500 5.5.2"},
        {"NO\x01OP", "500 5.5.2"},
        {"RSET x", "501 5.5.4"},
        {"RSET", "250 2.0.0"},
        {"MAIL", "501 5.5.4"},
        {"MAIL FROM:a@b", "501 5.1.7"},
        {"MAIL FROM:<a@b> SIZE=1", "555 5.5.4"}, /* HELO offered nothing */
        {"EHLO client.example", "250-mx1.example.net"},
        {"MAIL FROM:<a@b> SIZE=3145729", "552 5.3.4"},
        {"MAIL FROM:<a@b> HOLDFOR=60", "555 5.5.4"},
        {"MAIL FROM:<\xc3\xa4@b>", "553 5.6.7"},
        {"MAIL FROM:<a@b> SIZE=3145728 BODY=8BITMIME", "250 2.1.0"},
        {"MAIL FROM:<a@b>", "503 5.5.1"},
        {"DATA", "554 5.5.1"},
        {"RCPT TO:<>", "501 5.1.3"},
        {"RCPT TO:<u@example.net> NOTIFY=OFTEN", "501 5.5.4"},
        {"RCPT TO:<u@\xc3\xa4>", "553 5.6.7"},
        {"RCPT TO:<u@elsewhere.example>", "554 5.7.1 Relay access denied"},
        {"RCPT TO:<u@sub.example.net>", "554 5.7.1"},
        {"RCPT TO:<1@example.net>", "250 2.1.5"},
        {"RCPT TO:<2@EXAMPLE.NET>", "250 2.1.5"},
        {"RCPT TO:<Postmaster>", "250 2.1.5"},
        {"RCPT TO:<4@example.net>", "250 2.1.5"},
        {"RCPT TO:<5@example.net>", "250 2.1.5"},
        {"RCPT TO:<6@example.net>", "452 4.5.3"},
        {"DATA now", "501 5.5.4"},
        {"NOOP anything", "250 2.0.0"},
        {"DATA", "354 "},
        {"x\r\n.", "250 2.0.0"},
        {"rset", "250 2.0.0"},
        {"mail from: <a@b>", "250 2.1.0"},
        {"EHLO again.example", "250-"},
    };
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.max_errors = 1000;
    host_start();
    client_open(&c);
    client_expect(&c, "220 ");
    for (size_t i = 0; i < sizeof(talk) / sizeof(talk[0]); i++) {
        client_say(&c, talk[i][0], talk[i][1]);
        if (strncmp(talk[i][1], "250-", 4) == 0)
            while (client_next_is(&c, "250"))
                client_expect(&c, "250");
    }
    assert_int_equal(fake.message->n_recipients, 5);
    assert_int_equal(fake.message->flags, MESSAGE_8BITMIME);
    assert_memory_equal(fake.message->recipients[2]->address.data, "Postmaster@example.net", 22);
    client_say(&c, "RCPT TO:<u@example.net>", "503 5.5.1"); /* EHLO forgot the MAIL before it */
    client_close(&c);
    host_stop();
}

static void test_no_postmaster(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.hostname = (char *)"mx1.example.net";
    test_local.domain = (char *)"other.example";
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<postmaster>", "550 5.1.1");
    client_close(&c);
    host_stop();
}

static void test_submission(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.listener.profile = PROFILE_SUBMISSION;
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "530 5.7.0 Authentication required");
    client_close(&c);
    host_stop();
}

/* ---- what the cluster says ---- */

static void test_cluster_failures(void **state)
{
    static const struct {
        int kind, status;
        enum apply_result reason;
        const char *reply;
    } rows[] = {
        {FAKE_BODY, MR_NOSPACE, APPLIED, "452 4.3.1"},
        {FAKE_BODY, MR_TIMEOUT, APPLIED, "451 4.3.0"},
        {FAKE_BODY, MR_CANCELLED, APPLIED, "451 4.3.0"},
        {FAKE_SUBMIT, MR_TIMEOUT, APPLIED, "451 4.3.0"},
        {FAKE_SUBMIT, MR_NOQUORUM, APPLIED, "451 4.3.0 No quorum"},
        {FAKE_SUBMIT, MR_BUSY, APPLIED, "451 4.3.2"},
        {FAKE_SUBMIT, MR_UNKNOWN, APPLIED, "451 4.3.0"},
        {FAKE_SUBMIT, MR_REFUSED, APPLY_NOT_MAJORITY, "451 4.3.0"},
        {FAKE_SUBMIT, MR_REFUSED, APPLY_STALE, "451 4.3.0"},
        {FAKE_SUBMIT, MR_REFUSED, APPLY_FULL, "452 4.3.1 Queue full"},
        {FAKE_SUBMIT, MR_REFUSED, APPLY_CANCELLED, "451 4.3.0"},
        {FAKE_SUBMIT, MR_REFUSED, APPLY_INVALID, "451 4.3.0"},
        {FAKE_SUBMIT, MR_REFUSED, APPLY_DUPLICATE, "250 2.0.0"},
        {FAKE_SUBMIT, 0, APPLIED, "250 2.0.0"},
    };
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        memset(fake.status, 0, sizeof(fake.status));
        fake.status[rows[i].kind] = rows[i].status;
        fake.reason = rows[i].reason;
        client_begin_data(&c);
        client_send(&c, "x\r\n.\r\n");
        client_expect(&c, rows[i].reply);
    }
    assert_int_equal(atomic_load(&host.counters.messages_received), 2);
    client_close(&c);
    host_stop();
}

/* While a node of the cluster knows version 1 only, what it would not honour is neither offered nor taken. */
static void test_old_cluster(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    fake.version = 1;
    client_greet(&c);
    assert_null(strstr(ehlo, "MT-PRIORITY"));
    assert_null(strstr(ehlo, "BINARYMIME"));
    client_say(&c, "MAIL FROM:<a@b> MT-PRIORITY=3", "555");
    client_say(&c, "MAIL FROM:<a@b> BY=120;R", "555");
    fake.version = 2;
    client_ehlo(&c);
    assert_non_null(strstr(ehlo, "MT-PRIORITY"));
    client_say(&c, "MAIL FROM:<a@b> MT-PRIORITY=3 BY=120;R", "250");
    client_close(&c);
    host_stop();
}

static void test_readiness(void **state)
{
    static const struct {
        enum cluster_readiness is;
        const char *greeting, *mail, *data;
    } rows[] = {
        {CLUSTER_STARTING, "421 4.3.2", "451 4.3.0", "451 4.3.0"},
        {CLUSTER_NO_QUORUM, "421 4.3.2", "451 4.3.0", "451 4.3.0"},
        {CLUSTER_REFUSED, "421 4.3.2", "451 4.3.0", "451 4.3.0"},
        {CLUSTER_LOW_DISK, "220 ", "452 4.3.1", "452 4.3.1"},
        {CLUSTER_BUSY, "220 ", "451 4.3.2", "451 4.3.2"},
        {CLUSTER_SLOW_DISK, "220 ", "451 4.3.2", "451 4.3.2"},
        {CLUSTER_QUEUE_FULL, "220 ", "452 4.3.1", "452 4.3.1"},
        {CLUSTER_DRAINING, "421 4.3.2", "421 4.3.2", "354 "},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct client before, within, after;

        host_configure();
        host_start();
        client_greet(&before);
        client_greet(&within);
        client_say(&within, "MAIL FROM:<a@b>", "250");
        client_say(&within, "RCPT TO:<u@example.net>", "250");
        fake.readiness = rows[i].is;
        client_open(&after);
        client_expect(&after, rows[i].greeting);
        if (rows[i].greeting[0] == '4')
            client_expect_end(&after);
        client_say(&before, "MAIL FROM:<a@b>", rows[i].mail);
        if (memcmp(rows[i].mail, "421", 3) == 0)
            client_expect_end(&before);
        client_say(&within, "DATA", rows[i].data);
        client_close(&before);
        client_close(&within);
        client_close(&after);
        host_stop();
    }
    /* No rules have come yet. */
    {
        struct client c;

        host_configure();
        host.worker.rules = NULL;
        host_start();
        client_open(&c);
        client_expect(&c, "421 4.3.2");
        client_expect_end(&c);
        host_stop();
    }
}

static void test_loop(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "Received: 1\r\nReceived: 2\r\nReceived: 3\r\n\r\nReceived: body\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    client_begin_data(&c);
    client_send(&c, "Received: 1\r\nReceived: 2\r\nReceived: 3\r\nreceived: 4\r\n\r\nx\r\n.\r\n");
    client_expect(&c, "554 5.4.6");
    assert_int_equal(fake.submitted, 1);
    client_close(&c);
    host_stop();
}

/* The routes change while the text comes: no recipient may fall between. */
static void test_rules_change(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    test_rules.n_routes = 0;
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "451 4.3.0 Routes");
    assert_int_equal(fake.finished, 0);
    client_close(&c);
    host_stop();
}

/* One socket for both families; a mapped address is written, and matched, as the IPv4 address that it is. */
static void test_families(void **state)
{
    static const struct {
        int family;
        const char *from;
    } rows[] = {
        {AF_INET, "Received: from c ([127.0.0.1])\r\n"},
        {AF_INET6, "Received: from c ([IPv6:::1])\r\n"},
    };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct client c;

        host_configure();
        host.listener.listen = (char *)"[::]:0";
        host.config.smtp.relay_from.at = loopback;
        host.config.smtp.relay_from.n = 2;
        host_start();
        client_open_with(&c, rows[i].family, 0);
        client_expect(&c, "220 ");
        client_say(&c, "HELO c", "250 ");
        client_say(&c, "MAIL FROM:<a@b>", "250 ");
        client_say(&c, "RCPT TO:<u@relay.example>", "250 ");
        client_say(&c, "DATA", "354 ");
        client_send(&c, "x\r\n.\r\n");
        client_expect(&c, "250 2.0.0");
        assert_memory_equal(fake.body, rows[i].from, strlen(rows[i].from));
        client_close(&c);
        host_stop();
    }
}

/* The events, with stderr in a file for as long as they are made. */
static void test_log(void **state)
{
    char path[] = "/tmp/mailraft-test-XXXXXX", text[8192];
    int file = mkstemp(path), own = dup(2);
    struct client c;
    ssize_t n;

    (void)state;
    assert_true(file >= 0 && own >= 0);
    unlink(path);
    host_configure();
    host_start();
    log_configure(LOG_INFO, true, "test");
    dup2(file, 2);
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    client_say(&c, "AUTH PLAIN c2VjcmV0", "502");
    client_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@relay.example>\r\nWHAT x\r\n");
    client_expect(&c, "250");
    client_expect(&c, "554");
    client_expect(&c, "500");
    client_close(&c);
    WAIT_FOR(smtp_server_sessions(host.server) == 0);
    dup2(own, 2);
    close(own);
    log_configure(LOG_ERROR, true, "test");
    n = pread(file, text, sizeof(text) - 1, 0);
    assert_true(n > 0);
    text[n] = '\0';
    close(file);
    assert_non_null(strstr(text, "\"event\":\"accepted\""));
    assert_non_null(strstr(text, "\"sender\":\"s@sender.example\",\"recipients\":1,"));
    assert_non_null(strstr(text, "\"helo\":\"client.example\""));
    assert_non_null(
        strstr(text, "\"argument\":\"TO:<u@relay.example>\",\"sender\":\"a@b\",\"code\":554,\"status\":\"5.7.1\""));
    assert_non_null(strstr(text, "\"event\":\"connection_lost\""));
    assert_null(strstr(text, "c2VjcmV0")); /* a password sent to a server that has no AUTH */
    host_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_message),
        cmocka_unit_test(test_quit_with_more),
        cmocka_unit_test(test_helo),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_no_postmaster),
        cmocka_unit_test(test_submission),
        cmocka_unit_test(test_cluster_failures),
        cmocka_unit_test(test_readiness),
        cmocka_unit_test(test_old_cluster),
        cmocka_unit_test(test_loop),
        cmocka_unit_test(test_rules_change),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_log),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
