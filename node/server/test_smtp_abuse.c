/* test_smtp_abuse.c - limits of an address, slow and talkative clients, the greeting delay, over loopback. */
#include "node/server/smtp_transaction.h"
#include "node/server/test_smtp_clients.h"

/* ---- limits of an address ---- */

static void test_connections(void **state)
{
    struct client a, b;

    (void)state;
    host_configure();
    limit_clients((struct client_limits){.connections = 1});
    host_start();
    client_greet(&a);
    client_open(&b);
    client_expect(&b, "421 4.7.0 Too many connections from your address");
    client_expect_end(&b);
    client_close(&a);
    WAIT_FOR(sessions_open() == 0);
    client_greet(&a);
    client_close(&a);
    assert_int_equal(counted(&host.counters.limited_connections), 1);
    stop();

    host_configure();
    limit_clients((struct client_limits){.network_connections = 1});
    host_start();
    client_greet(&a);
    client_open(&b);
    client_expect(&b, "421 4.7.0 Too many connections from your network");
    client_expect_end(&b);
    client_close(&a);
    stop();

    host_configure();
    limit_clients((struct client_limits){.connection_rate = {2, 3600000}});
    host_start();
    for (int i = 0; i < 2; i++) {
        client_greet(&a);
        client_close(&a);
    }
    client_open(&b);
    client_expect(&b, "421 4.7.0 Too many connections in a short time");
    client_expect_end(&b);
    assert_int_equal(counted(&host.counters.limited_connection_rate), 1);
    stop();
}

static void test_rates(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    limit_clients((struct client_limits){.message_rate = {2, 3600000}, .recipient_rate = {3, 3600000}});
    host_start();
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u1@example.net>", "250");
    client_say(&c, "RCPT TO:<u2@example.net>", "250");
    client_say(&c, "RCPT TO:<no@relay.example>", "554"); /* what is refused anyway costs nothing */
    client_say(&c, "RCPT TO:<u3@example.net>", "250");
    client_say(&c, "RCPT TO:<u4@example.net>", "450 4.7.1 Too many recipients");
    client_say(&c, "DATA", "354"); /* the others stand */
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    assert_int_equal(fake.message->n_recipients, 3);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RSET", "250");
    client_say(&c, "MAIL FROM:<a@b>", "450 4.7.1 Too many messages");
    client_close(&c);
    /* Another connection of the same address changes nothing; an exempt one has no limits. */
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "450 4.7.1 Too many messages");
    client_close(&c);
    assert_int_equal(counted(&host.counters.limited_messages), 2);
    assert_int_equal(counted(&host.counters.limited_recipients), 1);
    /* One that does not listen is not told for ever. */
    host.server->limits.junk = 5;
    client_greet(&c);
    for (int i = 0; i < 4; i++)
        client_say(&c, "MAIL FROM:<a@b>", "450 4.7.1 Too many messages");
    client_say(&c, "MAIL FROM:<a@b>", "421 4.7.0 Too many commands without mail");
    client_expect_end(&c);
    stop();

    host_configure();
    limit_clients((struct client_limits){.connections = 1, .message_rate = {1, 3600000}, .exempt = {loopback, 2}});
    host_start();
    client_greet(&c);
    for (int i = 0; i < 3; i++) {
        client_say(&c, "MAIL FROM:<a@b>", "250");
        client_say(&c, "RSET", "250");
    }
    client_close(&c);
    stop();
}

/* ---- slow ones ---- */

static void test_line_timeout(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.line_timeout_ms = 50;
    host_start();
    client_greet(&c);
    WAIT_FOR((send(c.fd, "x", 1, MSG_NOSIGNAL), client_has_line(&c)));
    client_expect(&c, "421 4.4.2 Timed out waiting for the end of a line");
    client_close(&c);
    /* So much that it is no line any more. */
    client_greet(&c);
    WAIT_FOR((send(c.fd, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 64, MSG_NOSIGNAL),
              client_has_line(&c)));
    client_expect(&c, "421 4.4.2 Timed out waiting for the end of a line");
    client_close(&c);
    assert_int_equal(counted(&host.counters.slow_clients), 2);
    stop();
}

static void test_data_rate(void **state)
{
    struct client c;
    uint64_t since;

    (void)state;
    host_configure();
    host.config.smtp.min_data_rate = 1000;
    host_start();
    host.server->limits.pace_ms = 200; /* 200 octets in each */
    /* One that keeps the rate over several windows. */
    client_greet(&c);
    client_begin_data(&c);
    since = uv_hrtime();
    for (unsigned lines = 1; lines <= 100; lines++) { /* 72 octets in 10 ms: seven times the rate */
        client_send(&c, "0123456789012345678901234567890123456789012345678901234567890123456789\r\n");
        WAIT_FOR(uv_hrtime() - since > lines * 10000000ULL);
        assert_false(client_has_line(&c));
    }
    client_send(&c, ".\r\n");
    client_expect(&c, "250 2.0.0");
    assert_int_equal(counted(&host.counters.slow_clients), 0);
    /* Between messages nothing is asked of it; then it drips. */
    since = uv_hrtime();
    WAIT_FOR(uv_hrtime() - since > 500000000);
    client_begin_data(&c);
    since = 0;
    WAIT_FOR((uv_hrtime() - since > 10000000 ? (send(c.fd, "x", 1, MSG_NOSIGNAL), since = uv_hrtime()) : 0,
              client_has_line(&c)));
    client_expect(&c, "421 4.4.2 The message comes too slowly");
    client_close(&c);
    assert_int_equal(fake.finished, 1);
    assert_int_equal(counted(&host.counters.slow_clients), 1);
    stop();
}

/* Chunks of one octet, or the octets of a chunk that was refused, are no way around it. */
static void test_data_rate_of_chunks(void **state)
{
    struct client c;
    uint64_t since = 0;

    (void)state;
    host_configure();
    host.config.smtp.min_data_rate = 1000;
    host_start();
    host.server->limits.pace_ms = 200;
    client_greet(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u@example.net>", "250");
    for (;;) {
        client_send(&c, "BDAT 1\r\nx");
        WAIT_FOR(client_has_line(&c));
        if (client_next_is(&c, "421"))
            break;
        client_expect(&c, "250 2.0.0 Ok: 1 octets");
        since = uv_hrtime();
        WAIT_FOR(uv_hrtime() - since > 10000000 || client_has_line(&c));
        if (client_next_is(&c, "421"))
            break;
    }
    client_expect(&c, "421 4.4.2 The message comes too slowly");
    client_close(&c);
    client_greet(&c);
    client_say(&c, "BDAT 100000 LAST", "503");
    since = 0;
    WAIT_FOR((uv_hrtime() - since > 10000000 ? (send(c.fd, "x", 1, MSG_NOSIGNAL), since = uv_hrtime()) : 0,
              client_has_line(&c)));
    client_expect(&c, "421 4.4.2 The message comes too slowly");
    client_close(&c);
    stop();
}

/* Sends as much of it as the server takes now. */
static void drip(struct client *c, const char *data, size_t len, size_t *sent)
{
    ssize_t n = send(c->fd, data + *sent, len - *sent, MSG_NOSIGNAL);

    if (n > 0)
        *sent += (size_t)n;
}

/* While the cluster is waited for, the client is not slow. */
static void test_data_rate_blocked(void **state)
{
    static char data[2 << 20];
    struct client c;
    uint64_t since;
    size_t sent = 0;

    (void)state;
    host_configure();
    host.config.smtp.min_data_rate = 1000;
    fake.hold[FAKE_PIECE] = true;
    host_start();
    host.server->limits.pace_ms = 50;
    client_greet(&c);
    client_begin_data(&c);
    for (size_t i = 0; i < sizeof(data); i += 64)
        memcpy(data + i, "01234567890123456789012345678901234567890123456789012345678901\r\n", 64);
    WAIT_FOR((drip(&c, data, sizeof(data), &sent), fake.waiting[FAKE_PIECE] == SMTP_PIECES_IN_FLIGHT));
    since = uv_hrtime();
    WAIT_FOR(uv_hrtime() - since > 300000000);
    assert_false(client_has_line(&c));
    fake.hold[FAKE_PIECE] = false;
    WAIT_FOR((drip(&c, data, sizeof(data), &sent), sent == sizeof(data)));
    client_send(&c, ".\r\n");
    client_expect(&c, "250 2.0.0");
    client_close(&c);
    stop();
}

static void test_junk(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    host.server->limits.junk = 5;
    client_greet(&c); /* EHLO is the first */
    client_say(&c, "NOOP", "250");
    client_say(&c, "VRFY <u>", "252");
    client_say(&c, "RSET", "250");
    client_begin_data(&c);
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0"); /* all is forgiven */
    for (int i = 0; i < 5; i++)
        client_say(&c, i % 2 == 0 ? "NOOP" : "HELO client.example", "250");
    client_say(&c, "NOOP", "421 4.7.0 Too many commands without mail");
    client_expect_end(&c);
    assert_int_equal(counted(&host.counters.junk_clients), 1);
    stop();
}

/* ---- greeting delay ---- */

static void test_greeting_delay(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    limit_clients((struct client_limits){.connections = 10});
    host.config.smtp.greeting_delay_ms = 100;
    host_start();
    client_greet(&c); /* who waits is greeted */
    client_close(&c);
    client_open(&c);
    client_send(&c, "EHLO spammer.example\r\nMAIL FROM:<a@b>\r\n");
    client_expect(&c, "554 5.5.1 You have to wait for the greeting");
    client_expect_end(&c);
    assert_int_equal(counted(&host.counters.early_talkers), 1);
    /* Gone before its turn. */
    client_open(&c);
    WAIT_FOR(sessions_open() == 1);
    client_close(&c);
    WAIT_FOR(sessions_open() == 0);
    /* Drained before its turn. */
    client_open(&c);
    WAIT_FOR(sessions_open() == 1);
    host.server->limits.greeting_delay_ms = 100000;
    smtp_server_drain(host.server);
    client_expect(&c, "421 4.3.2");
    client_close(&c);
    stop();
}

/* Exempt networks and submission wait for nothing, though they talk at once. */
static void test_greeting_delay_exempt(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    limit_clients((struct client_limits){.exempt = {loopback, 2}});
    host.config.smtp.greeting_delay_ms = 1000000;
    host_start();
    client_open(&c);
    client_send(&c, "EHLO x\r\n");
    client_expect(&c, "220 ");
    client_close(&c);
    stop();
    /* The PROXY header is no talk. */
    behind_proxy();
    limit_clients((struct client_limits){.connections = 10});
    host.config.smtp.greeting_delay_ms = 50;
    host_start();
    client_open(&c);
    client_send(&c, "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n");
    client_expect(&c, "220 ");
    client_close(&c);
    client_open(&c);
    client_send(&c, "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\nEHLO x\r\n");
    client_expect(&c, "554 5.5.1");
    client_close(&c);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_line_timeout),
        cmocka_unit_test(test_data_rate),
        cmocka_unit_test(test_data_rate_of_chunks),
        cmocka_unit_test(test_data_rate_blocked),
        cmocka_unit_test(test_junk),
        cmocka_unit_test(test_greeting_delay),
        cmocka_unit_test(test_greeting_delay_exempt),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}