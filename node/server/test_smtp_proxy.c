/* test_smtp_proxy.c - who is on the other side: PROXY headers and XCLIENT, over loopback. */
#include "node/server/test_smtp_clients.h"

static void helo(struct client *c)
{
    client_say(c, "HELO client.example", "250 ");
}

/* ---- PROXY ---- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proxy),           cmocka_unit_test(test_proxy_v2),    cmocka_unit_test(test_proxy_local),
        cmocka_unit_test(test_proxy_refused),   cmocka_unit_test(test_proxy_drain), cmocka_unit_test(test_xclient),
        cmocka_unit_test(test_xclient_refused),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}