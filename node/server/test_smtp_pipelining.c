/* test_smtp_pipelining.c - many commands at once, ahead of their time, drop by drop, and line ends that are none. */
#include "node/server/test_smtp_harness.h"

static void test_pipelining(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    fake.hold[FAKE_SUBMIT] = true;
    host_start();
    client_greet(&c);
    client_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nRCPT TO:<u@relay.example>\r\nDATA\r\n");
    client_expect(&c, "250 2.1.0");
    client_expect(&c, "250 2.1.5");
    client_expect(&c, "554 5.7.1");
    client_expect(&c, "354 ");
    client_send(&c, "one\r\n.\r\nMAIL FROM:<b@b>\r\nRCPT TO:<v@example.net>\r\nDATA\r\n");
    client_expect_silence(&c); /* what stands behind the dot waits for the answer */
    assert_int_equal(fake.submitted, 1);
    expect_stored("one\r\n");
    fake.hold[FAKE_SUBMIT] = false;
    client_expect(&c, "250 2.0.0");
    client_expect(&c, "250 2.1.0");
    client_expect(&c, "250 2.1.5");
    client_expect(&c, "354 ");
    client_send(&c, "two\r\n.\r\nRSET\r\nQUIT\r\n");
    client_expect(&c, "250 2.0.0");
    expect_stored("two\r\n");
    client_expect(&c, "250 2.0.0");
    client_expect(&c, "221 2.0.0");
    client_expect_end(&c);
    assert_int_equal(fake.submitted, 2);
    host_stop();
}

/* What comes after the dot, before its answer: words, more words than are kept, the end of the client's side. */
static void test_heard_while_waiting(void **state)
{
    enum { FLOOD = 32 << 20 };
    static char noops[6 * 4000];
    struct client c;
    size_t sent = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(noops); i += 6)
        memcpy(noops + i, "NOOP\r\n", 6);
    host_configure();
    fake.hold[FAKE_SUBMIT] = true;
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "one\r\n.\r\n");
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1);
    client_send(&c, "MAIL FROM:<b@b>\r\n");
    client_send(&c, "RCPT TO:<v@example.net>\r\n");
    client_send(&c, "DATA\r\n");
    client_expect_silence(&c);
    fake.hold[FAKE_SUBMIT] = false;
    client_expect(&c, "250 2.0.0");
    client_expect(&c, "250 2.1.0");
    client_expect(&c, "250 2.1.5");
    client_expect(&c, "354 ");
    fake.hold[FAKE_SUBMIT] = true;
    client_send(&c, "two\r\n.\r\n");
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1);
    assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
    client_expect_silence(&c);
    fake.hold[FAKE_SUBMIT] = false;
    client_expect(&c, "250 2.0.0");
    client_expect_end(&c);
    fake.hold[FAKE_SUBMIT] = true;
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "three\r\n.\r\n");
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1);
    for (unsigned idle = 0; idle < 100 && sent < FLOOD; idle++, turn()) {
        ssize_t n = send(c.fd, noops, sizeof(noops), MSG_NOSIGNAL);

        if (n > 0) {
            sent += (size_t)n;
            idle = 0;
        }
    }
    assert_true(sent > SMTP_READ_BUFFER && sent < FLOOD); /* the kernels' buffers are full: nobody reads */
    client_close(&c);
    fake.hold[FAKE_SUBMIT] = false;
    host_stop();
}

/* RFC 2920 section 3.1: who does not wait where it has to, or was not told that it need not. */
static void test_improper_pipelining(void **state)
{
    static const char *const last[] = {"EHLO c", "VRFY u", "HELO c", "EXPN u"};
    struct client c;

    (void)state;
    host_configure();
    host_start();
    for (size_t i = 0; i < sizeof(last) / sizeof(last[0]); i++) {
        char text[64];

        client_greet(&c);
        snprintf(text, sizeof(text), "%s\r\nRSET\r\n", last[i]);
        client_send(&c, text);
        client_expect(&c, "503 5.5.0");
        client_expect(&c, "250 2.0.0");
        client_close(&c);
    }
    /* HELO tells of no PIPELINING. */
    client_open(&c);
    client_expect(&c, "220 ");
    client_say(&c, "HELO c", "250 ");
    client_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\n");
    client_expect(&c, "503 5.5.0");
    client_expect(&c, "503 5.5.1 MAIL first");
    client_close(&c);
    /* What stands behind DATA is never taken for commands, nor for the text. */
    client_greet(&c);
    client_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nDATA\r\nRSET\r\nMAIL FROM:<evil@b>\r\n.\r\n");
    client_expect(&c, "250 2.1.0");
    client_expect(&c, "250 2.1.5");
    client_expect(&c, "503 5.5.0");
    client_expect_end(&c);
    assert_int_equal(fake.begun, 0);
    host_stop();
    /* Nor is it where PIPELINING is not offered. */
    host_configure();
    host.config.smtp.disable = SMTP_PIPELINING;
    host_start();
    client_greet(&c);
    assert_false(ehlo_has("PIPELINING"));
    client_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\n");
    client_expect(&c, "503 5.5.0");
    client_expect(&c, "503 5.5.1");
    client_close(&c);
    host_stop();
}

/* A client that half-closes after its last command still gets every answer. */
static void test_half_close(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "one\r\n.\r\n");
    assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
    client_expect(&c, "250 2.0.0");
    client_expect_end(&c);
    host_stop();
}

static void test_command_lines(void **state)
{
    static char line[5000];
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    memset(line, 'x', sizeof(line));
    memcpy(line, "NOOP ", 5);
    memcpy(line + 2046, "\r\n", 2);
    client_send_n(&c, line, 2048);
    client_expect(&c, "250 2.0.0");
    memcpy(line + 2046, "x\r\n", 3);
    client_send_n(&c, line, 2049);
    client_expect(&c, "500 5.5.2 Line too long");
    memset(line + 5, 'x', sizeof(line) - 5);
    for (int i = 0; i < 40; i++)
        client_send_n(&c, line, sizeof(line)); /* 200 kB without a line end */
    client_expect_silence(&c);
    client_say(&c, "", "500 5.5.2 Line too long");
    client_send(&c, "NOOP\n");
    client_expect(&c, "500 5.5.2 Lines must end");
    client_send(&c, "\n");
    client_expect(&c, "500 5.5.2 Lines must end");
    client_say(&c, "NO\rOP", "500 5.5.2");
    client_say(&c, "NOOP", "250 2.0.0");
    client_close(&c);
    host_stop();
}

/* A whole session, one octet at a time. */
static void test_drip(void **state)
{
    static const char talk[] =
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nDATA\r\n..one\r\n\r\n.\r\nQUIT\r\n";
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_open(&c);
    for (size_t i = 0; i < sizeof(talk) - 1; i++)
        client_send_n(&c, talk + i, 1);
    client_expect(&c, "220 ");
    while (client_next_is(&c, "250"))
        client_expect(&c, "250");
    client_expect(&c, "354 ");
    client_expect(&c, "250 2.0.0");
    client_expect(&c, "221 ");
    client_expect_end(&c);
    expect_stored(".one\r\n\r\n");
    host_stop();
}

/* Each false end at every cut: no second message, one refusal at the true end, and the session goes on. */
static void test_smuggling(void **state)
{
    static const char *const ends[] = {"\n.\n",   "\n.\r\n", "\r\n.\n",     "\r.\r",       "\r.\r\n",
                                       "\r\n.\r", "\n.\r",   "\r\n.\r\r\n", "\r\n\n.\r\n", "\r\r\n."};
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.max_errors = 10000;
    host.config.smtp.max_transactions = 10000;
    host_start();
    client_greet(&c);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        char text[200];
        int n = snprintf(text, sizeof(text), "x%sMAIL FROM:<e@x>\r\nRCPT TO:<v@example.net>\r\nDATA\r\ny\r\n.\r\n",
                         ends[i]);

        for (int cut = 0; cut <= (int)strlen(ends[i]) + 2; cut++) {
            client_begin_data(&c);
            client_send_n(&c, text, (size_t)cut);
            for (int turns = 0; turns < 3; turns++)
                turn();
            client_send_n(&c, text + cut, (size_t)(n - cut));
            client_expect(&c, "550 5.6.0");
            client_expect_silence(&c);
            client_say(&c, "NOOP", "250 2.0.0");
        }
    }
    assert_int_equal(fake.finished, 0);
    assert_int_equal(fake.submitted, 0);
    client_close(&c);
    host_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipelining),          cmocka_unit_test(test_heard_while_waiting),
        cmocka_unit_test(test_improper_pipelining), cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_command_lines),       cmocka_unit_test(test_drip),
        cmocka_unit_test(test_smuggling),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
