/* test_smtp_limits.c - limits of time and number, sessions that end early, drain and close. */
#include "node/server/test_smtp_harness.h"

static void test_errors(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.max_errors = 3;
    host_start();
    client_greet(&c);
    client_send(&c, "A\r\nB\r\nC\r\nNOOP\r\nMAIL FROM:<a@b>\r\n");
    client_expect(&c, "500 5.5.2");
    client_expect(&c, "500 5.5.2");
    client_expect(&c, "500 5.5.2");
    client_expect(&c, "421 4.7.0 Too many errors");
    client_expect_end(&c); /* and no reset, though more was sent than was looked at */
    host_stop();
}

/* Lines of the log while it goes to this file instead of stderr. */
static unsigned count_lines(FILE *log)
{
    unsigned n = 0;

    rewind(log);
    for (int ch; (ch = getc(log)) != EOF;)
        n += ch == '\n';
    return n;
}

/* A client may be told "later" as often as it asks, but not write our log as long as it likes. */
static void test_deferrals(void **state)
{
    enum { MANY = 2000 };
    FILE *log = tmpfile();
    int kept = dup(STDERR_FILENO);
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.max_recipients = 1;
    log_configure(LOG_INFO, true, "test");
    assert_non_null(log);
    assert_true(dup2(fileno(log), STDERR_FILENO) >= 0);
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    for (int i = 0; i < MANY; i++)
        client_say(&c, "RCPT TO:<v@example.net>", "452 4.5.3");
    client_say(&c, "DATA", "354");
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    client_close(&c);
    host_stop();
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    log_configure(LOG_ERROR, true, "test");
    assert_in_range(count_lines(log), SMTP_MAX_DEFERRALS_LOGGED, SMTP_MAX_DEFERRALS_LOGGED + 5);
    fclose(log);
}

static void test_transactions(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.max_transactions = 2;
    host_start();
    client_greet(&c);
    for (int i = 0; i < 2; i++) {
        client_begin_data(&c);
        client_send(&c, "x\r\n.\r\n");
        client_expect(&c, "250 2.0.0");
    }
    client_say(&c, "MAIL FROM:<a@b>", "421 4.7.0");
    client_expect_end(&c);
    host_stop();
}

static unsigned sessions_open(void)
{
    return (unsigned)atomic_load(&host.counters.sessions_open);
}

static void test_sessions(void **state)
{
    struct client a, b, c;

    (void)state;
    host_configure();
    host.config.smtp.max_sessions = 2;
    host_start();
    client_greet(&a);
    client_greet(&b);
    client_open(&c);
    client_expect(&c, "421 4.7.0 Too many sessions");
    client_expect_end(&c);
    WAIT_FOR(sessions_open() == 2);
    client_close(&a);
    WAIT_FOR(sessions_open() == 1);
    client_greet(&a);
    assert_int_equal(smtp_server_sessions(host.server), 2);
    client_close(&a);
    client_close(&b);
    host_stop();
}

static void test_idle(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.idle_timeout_ms = 50;
    host_start();
    client_greet(&c);
    client_expect(&c, "421 4.4.2 Timed out");
    client_expect_end(&c);
    /* Octets that make no command do not count. */
    client_greet(&c);
    WAIT_FOR((send(c.fd, "x", 1, MSG_NOSIGNAL), client_has_line(&c)));
    client_expect(&c, "421 4.4.2 Timed out");
    client_close(&c);
    host_stop();
}

static void test_data_timeout(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.data_timeout_ms = 50;
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "half a mess");
    client_expect(&c, "421 4.4.2 Timed out");
    client_expect_end(&c);
    assert_int_equal(fake.finished, 0);
    host_stop();
}

static void test_session_timeout(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.session_timeout_ms = 150;
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    /* However busily it drips. */
    WAIT_FOR((send(c.fd, "x\r\n", 3, MSG_NOSIGNAL), client_has_line(&c)));
    client_expect(&c, "421 4.4.2 The session");
    client_close(&c);
    assert_int_equal(fake.finished, 0);
    host_stop();
}

/* What the cluster takes its time for is not the client's fault. */
static void test_no_timeout_while_waiting(void **state)
{
    struct client c;
    uint64_t since;

    (void)state;
    host_configure();
    host.config.smtp.idle_timeout_ms = 40;
    host.config.smtp.data_timeout_ms = 40;
    host.config.smtp.session_timeout_ms = 80;
    fake.hold[FAKE_SUBMIT] = true;
    host_start();
    client_greet(&c);
    client_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nBDAT 3 LAST\r\nx\r\n");
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1);
    since = uv_hrtime();
    WAIT_FOR(uv_hrtime() - since > 200000000);
    fake.hold[FAKE_SUBMIT] = false;
    client_expect(&c, "250 2.1.0");
    client_expect(&c, "250 2.1.5");
    client_expect(&c, "250 2.0.0 Ok: queued");
    client_expect(&c, "421 4.4.2 The session");
    client_close(&c);
    host_stop();
}

/* ---- early ends ---- */

static void lose(struct client *c)
{
    struct linger now = {1, 0};

    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    client_close(c);
}

/* A connection that breaks in DATA, with pieces under way: nothing is kept, and their callbacks find nobody. */
static void test_lost_in_data(void **state)
{
    static char line[100000];
    struct client c;

    (void)state;
    host_configure();
    fake.hold[FAKE_PIECE] = true;
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    memset(line, 'x', sizeof(line));
    for (int i = 0; i < 6; i++)
        client_send_n(&c, line, sizeof(line));
    WAIT_FOR(fake.waiting[FAKE_PIECE] == 2);
    lose(&c);
    WAIT_FOR(sessions_open() == 0);
    assert_int_equal(fake.aborted, 1);
    assert_int_equal(fake.waiting[FAKE_PIECE], 2);
    /* The slot is used again before the old callbacks come. */
    client_greet(&c);
    client_begin_data(&c);
    fake.hold[FAKE_PIECE] = false;
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    assert_int_equal(fake.finished, 1);
    lose(&c);
    host_stop();
}

/* RSET in the middle, QUIT in the middle, a lost connection: no body was begun. */
static void test_abandoned(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    client_say(&c, "RSET", "250");
    client_say(&c, "RCPT TO:<u@example.net>", "503");
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "QUIT", "221");
    client_expect_end(&c);
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    lose(&c);
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "x\r\n.");
    lose(&c);
    WAIT_FOR(sessions_open() == 0);
    assert_int_equal(fake.begun, 0);
    host_stop();
}

/* The client goes while its message is committed: the message stays, the server goes on. */
static void test_lost_while_waiting(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    fake.hold[FAKE_SUBMIT] = true;
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    client_send(&c, "x\r\n.\r\n");
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1);
    lose(&c);
    fake.hold[FAKE_SUBMIT] = false;
    WAIT_FOR(sessions_open() == 0);
    assert_int_equal(atomic_load(&host.counters.messages_received), 1);
    client_greet(&c);
    client_close(&c);
    host_stop();
}

/* ---- drain and close ---- */

static void test_drain(void **state)
{
    struct client idle, within, waiting, late;

    (void)state;
    host_configure();
    fake.hold[FAKE_SUBMIT] = true;
    host_start();
    client_greet(&idle);
    client_greet(&within);
    client_greet(&waiting);
    client_begin_data(&waiting);
    client_send(&waiting, "x\r\n.\r\nMAIL FROM:<another@x>\r\n");
    client_say(&within, "MAIL FROM:<a@b>", "250");
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1);
    smtp_server_drain(host.server);
    client_expect(&idle, "421 4.3.2");
    client_expect_end(&idle);
    WAIT_FOR(smtp_server_sessions(host.server) == 2);
    client_expect_silence(&within);
    assert_int_equal(atomic_load(&host.counters.transactions_open), 2); /* what a drain has to wait for */
    fake.hold[FAKE_SUBMIT] = false;
    client_expect(&waiting, "250 2.0.0");
    client_expect(&waiting, "421 4.3.2");
    client_expect_end(&waiting);
    client_say(&within, "RCPT TO:<u@example.net>", "250");
    client_say(&within, "DATA", "354");
    client_send(&within, "x\r\n.\r\n");
    client_expect(&within, "250 2.0.0");
    client_expect(&within, "421 4.3.2");
    client_expect_end(&within);
    WAIT_FOR(smtp_server_sessions(host.server) == 0);
    assert_int_equal(atomic_load(&host.counters.transactions_open), 0);
    /* Nobody listens any more. */
    late.fd = socket(AF_INET, SOCK_STREAM, 0);
    {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

        to.sin_port = htons((uint16_t)atoi(strrchr(host.bound, ':') + 1));
        assert_int_equal(connect(late.fd, (struct sockaddr *)&to, sizeof(to)), -1);
        assert_int_equal(errno, ECONNREFUSED);
    }
    client_close(&late);
    host_stop();
}

/* A client that has not begun to send its message is not waited for long. */
static void test_drain_silent(void **state)
{
    struct client sender, recipient, data, chunks;

    (void)state;
    host_configure();
    host_start();
    client_greet(&sender);
    client_say(&sender, "MAIL FROM:<a@b>", "250");
    client_greet(&recipient);
    client_say(&recipient, "MAIL FROM:<a@b>", "250");
    client_say(&recipient, "RCPT TO:<u@example.net>", "250");
    client_greet(&data);
    client_begin_data(&data);
    client_greet(&chunks);
    client_say(&chunks, "MAIL FROM:<a@b>", "250");
    client_say(&chunks, "RCPT TO:<u@example.net>", "250");
    client_send(&chunks, "BDAT 3\r\nx\r\n");
    client_expect(&chunks, "250");
    host.server->limits.ending_ms = 50;
    smtp_server_drain(host.server);
    client_expect(&sender, "421 4.3.2");
    client_expect_end(&sender);
    client_expect(&recipient, "421 4.3.2");
    client_expect_end(&recipient);
    WAIT_FOR(smtp_server_sessions(host.server) == 2);
    client_send(&data, "x\r\n.\r\n");
    client_expect(&data, "250 2.0.0");
    client_send(&chunks, "BDAT 3 LAST\r\ny\r\n");
    client_expect(&chunks, "250 2.0.0");
    client_expect(&data, "421 4.3.2");
    client_expect(&chunks, "421 4.3.2");
    client_expect_end(&data);
    client_expect_end(&chunks);
    assert_int_equal(atomic_load(&host.counters.transactions_open), 0);
    host_stop();
}

/* Close answers a message that is on its way to being committed with what becomes of it. */
static void test_close(void **state)
{
    static char line[300000];
    struct client idle, data, waiting;

    (void)state;
    host_configure();
    fake.hold[FAKE_SUBMIT] = fake.hold[FAKE_PIECE] = true;
    host_start();
    client_greet(&idle);
    client_greet(&data);
    client_greet(&waiting);
    client_begin_data(&data);
    memset(line, 'x', sizeof(line));
    client_send_n(&data, line, sizeof(line));
    client_begin_data(&waiting);
    client_send(&waiting, "x\r\n.\r\n");
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1 && fake.waiting[FAKE_PIECE] == 1);
    smtp_server_close(host.server, on_host_closed, &host.closed);
    client_expect(&idle, "421 4.3.2");
    client_expect(&data, "421 4.3.2");
    for (int i = 0; i < 20; i++)
        turn();
    assert_false(host.closed);
    fake.hold[FAKE_SUBMIT] = false;
    client_expect(&waiting, "250 2.0.0");
    client_expect(&waiting, "421 4.3.2");
    client_close(&waiting);
    for (int i = 0; i < 20; i++)
        turn();
    assert_false(host.closed); /* a piece's callback is still owed */
    fake.hold[FAKE_PIECE] = false;
    WAIT_FOR(host.closed);
    client_close(&idle);
    client_close(&data);
    assert_int_equal(fake.aborted, 1);
    uv_close((uv_handle_t *)&host.tick, NULL);
    uv_run(&host.worker.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host.worker.loop), 0);
    fake_reset();
}

/* ---- opening ---- */

static void test_listen(void **state)
{
    static const struct {
        const char *address;
        int rc;
    } rows[] = {
        {"127.0.0.1:0", 0},
        {"[::1]:0", 0},
        {":0", 0},
        {"127.0.0.1", MR_CONFIG},
        {"127.0.0.1:", MR_CONFIG},
        {"::1:25", MR_CONFIG},
        {"[::1:25", MR_CONFIG},
        {"127.0.0.1:smtp", MR_CONFIG},
        {"192.0.2.1:0", MR_IO},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char bound[80], error[256] = "";
        int fd;

        assert_int_equal(smtp_listen(rows[i].address, &fd, bound, sizeof(bound), error, sizeof(error)), rows[i].rc);
        if (rows[i].rc == 0) {
            assert_int_not_equal(atoi(strrchr(bound, ':') + 1), 0);
            close(fd);
        } else {
            assert_int_equal(strncmp(error, rows[i].address, strlen(rows[i].address)), 0);
        }
    }
}

/* What a listener's socket is set to holds for the connections that it accepts. */
static void test_no_delay(void **state)
{
    struct client c;
    char error[256];
    int fd, taken, on = 0;
    socklen_t len = sizeof(on);

    (void)state;
    assert_int_equal(smtp_listen("127.0.0.1:0", &fd, host.bound, sizeof(host.bound), error, sizeof(error)), 0);
    assert_int_equal(listen(fd, 1), 0);
    client_open(&c);
    taken = accept(fd, NULL, NULL);
    assert_true(taken >= 0);
    assert_int_equal(getsockopt(taken, IPPROTO_TCP, TCP_NODELAY, &on, &len), 0);
    assert_int_not_equal(on, 0);
    close(taken);
    client_close(&c);
    close(fd);
}

/* Plain text is never served where TLS was promised. */
static void test_implicit_tls(void **state)
{
    char error[256];
    int fd;

    (void)state;
    host_configure();
    host.listener.tls = TLS_IMPLICIT;
    assert_int_equal(uv_loop_init(&host.worker.loop), 0);
    assert_int_equal(smtp_listen("127.0.0.1:0", &fd, host.bound, sizeof(host.bound), error, sizeof(error)), 0);
    assert_int_equal(smtp_server_open_with(&host.server, &host.worker, &fd, 1, &fake_ops), MR_CONFIG);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    uv_run(&host.worker.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host.worker.loop), 0);
    fake_reset();
}

/* A listener that cannot be had: the ones before it are closed again. */
static void test_bad_descriptor(void **state)
{
    struct listener_config two[2] = {{.listen = (char *)"one"}, {.listen = (char *)"two"}};
    char error[256];
    int fds[2], pipes[2];

    (void)state;
    host_configure();
    host.config.smtp.listeners = two;
    host.config.smtp.n_listeners = 2;
    assert_int_equal(uv_loop_init(&host.worker.loop), 0);
    assert_int_equal(smtp_listen("127.0.0.1:0", &fds[0], host.bound, sizeof(host.bound), error, sizeof(error)), 0);
    assert_int_equal(pipe(pipes), 0);
    fds[1] = pipes[0];
    log_configure(LOG_ERROR + 1, true, "test");
    assert_int_equal(smtp_server_open_with(&host.server, &host.worker, fds, 2, &fake_ops), MR_IO);
    log_configure(LOG_ERROR, true, "test");
    uv_run(&host.worker.loop, UV_RUN_DEFAULT);
    assert_int_equal(fcntl(fds[0], F_GETFD), -1);
    assert_int_equal(uv_loop_close(&host.worker.loop), 0);
    close(pipes[1]);
    fake_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_deferrals),
        cmocka_unit_test(test_transactions),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_data_timeout),
        cmocka_unit_test(test_session_timeout),
        cmocka_unit_test(test_no_timeout_while_waiting),
        cmocka_unit_test(test_lost_in_data),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_lost_while_waiting),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_drain_silent),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_listen),
        cmocka_unit_test(test_no_delay),
        cmocka_unit_test(test_implicit_tls),
        cmocka_unit_test(test_bad_descriptor),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
