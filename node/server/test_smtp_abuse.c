/* test_smtp_abuse.c - who may speak, how much and how slowly: PROXY headers, XCLIENT, the client table, slow clients,
 * the greeting delay, LMTP. */
#include "node/server/test_smtp_harness.h"

#include "node/server/client_table.h"
#include "node/server/smtp_transaction.h"

static struct network elsewhere[] = {{AF_INET, {192, 0, 2}, 24}};

/* The client table of the node, which the harness has not. */
static void limit_clients(struct client_limits limits)
{
    client_table_open(&host.worker.clients, &limits);
}

static void stop(void)
{
    host_stop();
    if (host.worker.clients != NULL)
        client_table_close(host.worker.clients);
    host.worker.clients = NULL;
}

static unsigned long long counted(atomic_ullong *counter)
{
    return atomic_load(counter);
}

static unsigned sessions_open(void)
{
    return (unsigned)atomic_load(&host.counters.sessions_open);
}

static void helo(struct client *c)
{
    client_say(c, "HELO client.example", "250 ");
}

/* ---- PROXY ---- */

static void behind_proxy(void)
{
    host_configure();
    host.listener.proxy = true;
    host.config.smtp.proxy_from = (struct network_list){loopback, 2};
    host.config.smtp.relay_from = (struct network_list){elsewhere, 1};
}

/* The address that the proxy tells counts for relaying, the trace field and limits. */
static void test_proxy(void **state)
{
    struct client c;

    (void)state;
    behind_proxy();
    limit_clients((struct client_limits){.connections = 1});
    host_start();
    client_open(&c);
    client_expect_silence(&c); /* no greeting before the header */
    client_send(&c, "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n");
    client_expect(&c, "220 mx1.example.net ESMTP");
    helo(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<far@away.example>", "250 2.1.5"); /* relay_from */
    client_say(&c, "DATA", "354");
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    assert_non_null(memmem(fake.body, fake.body_len, "([192.0.2.7])", 13));
    {
        struct client second, other;

        client_open(&second);
        client_send(&second, "PROXY TCP4 192.0.2.7 198.51.100.1 4712 25\r\n");
        client_expect(&second, "421 4.7.0 Too many connections from your address");
        client_expect_end(&second);
        client_open(&other);
        client_send(&other, "PROXY TCP4 203.0.113.9 198.51.100.1 4712 25\r\n");
        client_expect(&other, "220 ");
        helo(&other);
        client_say(&other, "MAIL FROM:<a@b>", "250");
        client_say(&other, "RCPT TO:<far@away.example>", "554 5.7.1");
        client_close(&other);
    }
    client_close(&c);
    stop();
}

/* Version 2, in pieces, with the first command in the same segment as its end. */
static void test_proxy_v2(void **state)
{
    static const char header[] = "\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24"
                                 "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
                                 "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
                                 "\x12\x67\x00\x19"
                                 "EHLO x\r\n";
    struct client c;

    (void)state;
    behind_proxy();
    host_start();
    client_open(&c);
    for (size_t i = 0; i < 40; i++)
        client_send_n(&c, header + i, 1);
    client_send_n(&c, header + 40, sizeof(header) - 1 - 40);
    client_expect(&c, "220 ");
    client_expect(&c, "250-mx1");
    while (!client_next_is(&c, "250 "))
        client_expect(&c, "250-");
    client_expect(&c, "250 ");
    client_begin_data(&c);
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    assert_non_null(memmem(fake.body, fake.body_len, "([IPv6:2001:db8::7])", 20));
    client_close(&c);
    stop();
}

/* LOCAL and UNKNOWN: the proxy itself, a health check. */
static void test_proxy_local(void **state)
{
    struct client c;

    (void)state;
    behind_proxy();
    host_start();
    client_open(&c);
    client_send_n(&c, "\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", 16);
    client_expect(&c, "220 ");
    client_say(&c, "QUIT", "221");
    client_expect_end(&c);
    client_open(&c);
    client_send(&c, "PROXY UNKNOWN\r\n");
    client_expect(&c, "220 ");
    helo(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_close(&c);
    stop();
}

/* No header, a wrong one, one that does not come, one from a stranger: the connection ends without a word. */
static void test_proxy_refused(void **state)
{
    struct client c;

    (void)state;
    behind_proxy();
    host_start();
    host.server->limits.opening_ms = 50;
    client_open(&c);
    client_send(&c, "EHLO x\r\n");
    WAIT_FOR(client_at_end(&c));
    assert_string_equal(c.in, "");
    client_close(&c);
    client_open(&c);
    client_send(&c, "PROXY TCP4 192.0.2.7 198.51.100.1 4711 99999\r\n");
    WAIT_FOR(client_at_end(&c));
    assert_string_equal(c.in, "");
    client_close(&c);
    client_open(&c);
    client_send(&c, "PROXY TCP4 192");
    WAIT_FOR(client_at_end(&c));
    assert_string_equal(c.in, "");
    client_close(&c);
    WAIT_FOR(sessions_open() == 0);
    stop();

    behind_proxy();
    host.config.smtp.proxy_from = (struct network_list){elsewhere, 1};
    host_start();
    client_open(&c);
    WAIT_FOR(client_at_end(&c));
    assert_string_equal(c.in, "");
    assert_int_equal(counted(&host.counters.rejected), 1);
    client_close(&c);
    stop();
}

/* Closing while a header is awaited. */
static void test_proxy_drain(void **state)
{
    struct client c;

    (void)state;
    behind_proxy();
    host_start();
    client_open(&c);
    client_send(&c, "PROXY ");
    WAIT_FOR(sessions_open() == 1);
    smtp_server_drain(host.server);
    WAIT_FOR(client_at_end(&c));
    client_close(&c);
    stop();
}

/* ---- XCLIENT ---- */

static void test_xclient(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.xclient_from = (struct network_list){loopback, 2};
    host.config.smtp.relay_from = (struct network_list){elsewhere, 1};
    limit_clients((struct client_limits){.connections = 1, .message_rate = {1, 3600000}});
    host_start();
    client_open(&c);
    client_expect(&c, "220 ");
    client_send(&c, "EHLO proxy.example\r\n");
    {
        const char *offer = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n";
        bool offered = false, last = false;

        while (!last) {
            WAIT_FOR(client_has_line(&c));
            offered = offered || strncmp(c.in + 4, offer, strlen(offer)) == 0;
            last = c.in[3] == ' ';
            client_expect(&c, "250");
        }
        assert_true(offered);
    }
    client_say(&c, "XCLIENT ADDR=192.0.2", "501 5.5.4");
    client_say(&c, "XCLIENT NAME=spike.example ADDR=192.0.2.7 PORT=99", "220 mx1.example.net ESMTP");
    client_say(&c, "MAIL FROM:<a@b>", "503 5.5.1"); /* at the greeting again */
    helo(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "XCLIENT ADDR=192.0.2.8", "503 5.5.1");
    client_say(&c, "RCPT TO:<far@away.example>", "250");
    client_say(&c, "DATA", "354");
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    assert_non_null(memmem(fake.body, fake.body_len, "([192.0.2.7])", 13));
    client_say(&c, "MAIL FROM:<a@b>", "450 4.7.1 Too many messages");
    /* Another client now, with rights and limits of its own; and HELO said for it. */
    client_say(&c, "XCLIENT ADDR=IPV6:2001:db8::9 HELO=other.example PROTO=SMTP", "220 ");
    client_say(&c, "MAIL FROM:<a@b> SIZE=1", "555 5.5.4"); /* nothing was offered to it */
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<far@away.example>", "554 5.7.1");
    client_say(&c, "RSET", "250");
    client_say(&c, "XCLIENT ADDR=[UNAVAILABLE] LOGIN=someone", "220 ");
    helo(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<far@away.example>", "250"); /* as the user that it is */
    client_say(&c, "RSET", "250");
    {
        struct client d;

        /* Over the limit of the one that it becomes. */
        client_say(&c, "XCLIENT ADDR=192.0.2.9 LOGIN=[UNAVAILABLE]", "220 ");
        client_open(&d);
        client_expect(&d, "220 ");
        client_say(&d, "XCLIENT ADDR=192.0.2.9", "421 4.7.0 Too many connections");
        client_expect_end(&d);
    }
    client_close(&c);
    stop();
}

static void test_xclient_refused(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.xclient_from = (struct network_list){elsewhere, 1};
    host_start();
    client_greet(&c); /* not offered */
    client_say(&c, "XCLIENT ADDR=192.0.2.7", "550 5.7.0");
    client_close(&c);
    stop();
}

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

/* ---- LMTP ---- */

static void as_lmtp(void)
{
    host_configure();
    host.listener.profile = PROFILE_LMTP;
}

static void lhlo(struct client *c)
{
    client_open(c);
    client_expect(c, "220 mx1.example.net LMTP");
    client_send(c, "LHLO client.example\r\n");
    client_expect(c, "250-mx1.example.net");
    do
        WAIT_FOR(client_has_line(c));
    while (strncmp(c->in, "250-", 4) == 0 && (client_expect(c, "250-"), true));
    client_expect(c, "250 ");
}

static void test_lmtp(void **state)
{
    struct client c;

    (void)state;
    as_lmtp();
    host_start();
    lhlo(&c);
    client_say(&c, "EHLO client.example", "500 5.5.1");
    client_say(&c, "HELO client.example", "500 5.5.1");
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<no@relay.example>", "554 5.7.1");
    client_say(&c, "DATA", "503 5.5.1");
    client_say(&c, "RCPT TO:<u1@example.net>", "250");
    client_say(&c, "RCPT TO:<bad", "501");
    client_say(&c, "RCPT TO:<u2@example.net>", "250");
    client_say(&c, "RCPT TO:<u1@example.net>", "250"); /* again: a reply of its own */
    client_say(&c, "DATA", "354");
    client_send(&c, "x\r\n.\r\nNOOP\r\n");
    for (int i = 0; i < 3; i++)
        client_expect(&c, "250 2.0.0 Ok: queued as");
    client_expect(&c, "250 2.0.0 Ok\0");
    assert_non_null(memmem(fake.body, fake.body_len, "with LMTP", 9));
    /* Refused after the dot: each is told. */
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u1@example.net>", "250");
    client_say(&c, "RCPT TO:<u2@example.net>", "250");
    client_say(&c, "DATA", "354");
    client_send(&c, "Received: x\r\nReceived: x\r\nReceived: x\r\nReceived: x\r\n\r\n.\r\nNOOP\r\n");
    client_expect(&c, "554 5.4.6");
    client_expect(&c, "554 5.4.6");
    client_expect(&c, "250 2.0.0 Ok");
    /* And by the cluster. */
    fake.status[FAKE_SUBMIT] = MR_NOQUORUM;
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u1@example.net>", "250");
    client_say(&c, "RCPT TO:<u2@example.net>", "250");
    client_say(&c, "DATA", "354");
    client_send(&c, "x\r\n.\r\n");
    client_expect(&c, "451 4.3.0");
    client_expect(&c, "451 4.3.0");
    client_say(&c, "QUIT", "221");
    client_expect_end(&c);
    stop();
    /* And SMTP knows no LHLO. */
    host_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "LHLO client.example", "500");
    client_close(&c);
    stop();
}

/* BDAT: one reply for each chunk, but for the last one of each recipient (RFC 3030 section 2, RFC 2033 section 4.2). */
static void test_lmtp_chunks(void **state)
{
    struct client c;

    (void)state;
    as_lmtp();
    host_start();
    lhlo(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u1@example.net>", "250");
    client_say(&c, "RCPT TO:<u2@example.net>", "250");
    client_send(&c, "BDAT 3\r\nx\r\n");
    client_expect(&c, "250 2.0.0 Ok: 3 octets");
    client_send(&c, "BDAT 0 LAST\r\nNOOP\r\n");
    client_expect(&c, "250 2.0.0 Ok: queued as");
    client_expect(&c, "250 2.0.0 Ok: queued as");
    client_expect(&c, "250 2.0.0 Ok");
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u1@example.net>", "250");
    client_say(&c, "RCPT TO:<u2@example.net>", "250");
    client_say(&c, "BDAT 99999999999 LAST", "552 5.3.4"); /* so much that the session ends */
    client_expect_end(&c);
    lhlo(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_say(&c, "RCPT TO:<u1@example.net>", "250");
    client_say(&c, "RCPT TO:<u2@example.net>", "250");
    host.server->limits.message_size = 8;
    client_send(&c, "BDAT 10 LAST\r\n01234567\r\nNOOP\r\n");
    client_expect(&c, "552 5.3.4");
    client_expect(&c, "552 5.3.4");
    client_expect(&c, "250 2.0.0 Ok");
    client_close(&c);
    stop();
}

/* More replies than the buffer holds, to a client that does not read them for a while. */
static void test_lmtp_many(void **state)
{
    enum { MANY = 1000 };
    struct client c;
    char line[80];

    (void)state;
    as_lmtp();
    host.config.smtp.max_recipients = MANY;
    host.send_buffer = 4096;
    host_start();
    lhlo(&c);
    client_say(&c, "MAIL FROM:<a@b>", "250");
    for (int i = 0; i < MANY; i++) {
        snprintf(line, sizeof(line), "RCPT TO:<u%d@example.net>", i);
        client_say(&c, line, "250");
    }
    client_say(&c, "DATA", "354");
    client_send(&c, "x\r\n.\r\n");
    WAIT_FOR(fake.submitted == 1);
    for (int i = 0; i < MANY; i++)
        client_expect(&c, "250 2.0.0 Ok: queued as");
    client_say(&c, "NOOP", "250 2.0.0 Ok");
    client_close(&c);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proxy),
        cmocka_unit_test(test_proxy_v2),
        cmocka_unit_test(test_proxy_local),
        cmocka_unit_test(test_proxy_refused),
        cmocka_unit_test(test_proxy_drain),
        cmocka_unit_test(test_xclient),
        cmocka_unit_test(test_xclient_refused),
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_line_timeout),
        cmocka_unit_test(test_data_rate),
        cmocka_unit_test(test_data_rate_of_chunks),
        cmocka_unit_test(test_data_rate_blocked),
        cmocka_unit_test(test_junk),
        cmocka_unit_test(test_greeting_delay),
        cmocka_unit_test(test_greeting_delay_exempt),
        cmocka_unit_test(test_lmtp),
        cmocka_unit_test(test_lmtp_chunks),
        cmocka_unit_test(test_lmtp_many),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
