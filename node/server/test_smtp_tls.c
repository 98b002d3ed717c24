/* test_smtp_tls.c - STARTTLS and TLS from the first byte on, over loopback. Certificates: test_smtp_certificates.c. */
#include "node/server/test_smtp_tls.h"

#include "node/server/smtp_session.h"

static void send_message(struct secure *c)
{
    secure_say(c, "MAIL FROM:<s@sender.example>", "250 2.1.0");
    secure_say(c, "RCPT TO:<u@example.net>", "250 2.1.5");
    secure_say(c, "DATA", "354 ");
    secure_say(c, "Subject: x\r\n\r\nbody\r\n.", "250 2.0.0 Ok: queued as ");
}

static void test_starttls(void **state)
{
    struct secure c;

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    secure_starttls(&c, NULL);
    secure_expect_open(&c);
    assert_string_equal(tls_version(c.t), "TLSv1.3");
    assert_true(tls_peer_verified(c.t));
    secure_say(&c, "MAIL FROM:<s@sender.example>", "503 5.5.1");
    secure_say(&c, "STARTTLS", "503 5.5.1");
    assert_false(secure_reply_has(&c, "EHLO client.example", "250", "STARTTLS"));
    secure_say(&c, "STARTTLS", "503 5.5.1");
    send_message(&c);
    expect_stored("Subject: x\r\n\r\nbody\r\n");
    assert_non_null(memmem(fake.body, fake.body_len,
                           "([127.0.0.1])\r\n\t" USING "\r\n\tby mx1.example.net with ESMTPS id ",
                           strlen("([127.0.0.1])\r\n\t" USING "\r\n\tby mx1.example.net with ESMTPS id ")));
    secure_say(&c, "QUIT", "221 2.0.0");
    secure_expect_end(&c);
    assert_int_equal(fake.submitted, 1);
    host_stop_tls();
}

/* RFC 3207 section 4.2: what was said in plain text is forgotten. */
static void test_forgets(void **state)
{
    struct secure c = {.socket_eof = false};

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    client_open(&c.c);
    client_expect(&c.c, "220 ");
    client_say(&c.c, "STARTTLS", "503 5.5.1");
    assert_true(secure_reply_has(&c, "EHLO client.example", "250", "STARTTLS"));
    client_say(&c.c, "MAIL FROM:<a@b>", "250 2.1.0");
    client_say(&c.c, "RCPT TO:<u@example.net>", "250 2.1.5");
    client_say(&c.c, "STARTTLS", "220 2.0.0");
    secure_shake(&c, NULL, NULL);
    secure_expect_open(&c);
    secure_say(&c, "DATA", "503 5.5.1");
    secure_say(&c, "RCPT TO:<u@example.net>", "503 5.5.1");
    secure_say(&c, "MAIL FROM:<a@b>", "503 5.5.1");
    secure_say(&c, "HELO client.example", "250 mx1.example.net");
    secure_say(&c, "RCPT TO:<u@example.net>", "503 5.5.1");
    secure_close(&c);
    host_stop_tls();
}

static void test_refusals(void **state)
{
    struct client c;
    struct tls_server *kept;

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    client_open(&c);
    client_expect(&c, "220 ");
    client_say(&c, "HELO client.example", "250 ");
    client_say(&c, "STARTTLS now", "501 5.5.4");
    kept = host.worker.tls;
    host.worker.tls = NULL;
    client_say(&c, "STARTTLS", "454 4.7.0");
    host.worker.tls = kept;
    client_say(&c, "NOOP", "250 ");
    host.config.smtp.disable = SMTP_STARTTLS;
    client_say(&c, "STARTTLS", "502 5.5.1");
    client_close(&c);
    host_stop_tls();

    host_configure_tls(TLS_OFF);
    host_start_tls();
    struct secure plain = {.socket_eof = false};
    client_open(&plain.c);
    client_expect(&plain.c, "220 ");
    assert_false(secure_reply_has(&plain, "EHLO client.example", "250", "STARTTLS"));
    client_say(&plain.c, "STARTTLS", "502 5.5.1");
    client_say(&plain.c, "MAIL FROM:<a@b>", "250 2.1.0");
    client_close(&plain.c);
    host_stop_tls();
}

static void test_required(void **state)
{
    struct secure c = {.socket_eof = false};

    (void)state;
    host_configure_tls(TLS_REQUIRED);
    host_start_tls();
    client_open(&c.c);
    client_expect(&c.c, "220 ");
    client_say(&c.c, "MAIL FROM:<a@b>", "530 5.7.0 Must issue a STARTTLS command first");
    assert_true(secure_reply_has(&c, "EHLO client.example", "250", "STARTTLS"));
    client_say(&c.c, "MAIL FROM:<a@b>", "530 5.7.0");
    client_say(&c.c, "VRFY u", "530 5.7.0");
    client_say(&c.c, "DATA", "530 5.7.0");
    client_say(&c.c, "NOOP", "250 ");
    client_say(&c.c, "RSET", "250 ");
    client_say(&c.c, "STARTTLS", "220 ");
    secure_shake(&c, NULL, NULL);
    secure_expect_open(&c);
    secure_say(&c, "HELO client.example", "250 ");
    send_message(&c);
    secure_close(&c);
    host_stop_tls();
}

/* CVE-2011-0411: commands that came in plain text behind STARTTLS. */
static void test_injection(void **state)
{
    static const char *const attacks[] = {
        "STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<a@b>\r\n",
        "STARTTLS\r\nR",
        "NOOP\r\nSTARTTLS\r\n\x16\x03\x01",
    };

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) {
        struct client c;

        client_open(&c);
        client_expect(&c, "220 ");
        client_ehlo(&c);
        client_send(&c, attacks[i]);
        if (attacks[i][0] == 'N')
            client_expect(&c, "250 ");
        client_expect(&c, "421 4.7.0");
        client_expect_end(&c);
    }
    /* The rest of the injected text comes when STARTTLS was answered: no command, and no handshake either. */
    struct client c;
    client_open(&c);
    client_expect(&c, "220 ");
    client_say(&c, "HELO client.example", "250 ");
    client_send(&c, "START");
    turn();
    client_say(&c, "TLS", "220 2.0.0");
    client_send(&c, "MAIL FROM:<a@b>\r\n");
    client_expect_end(&c);
    assert_int_equal(atomic_load(&host.counters.sessions_open), 0);
    host_stop_tls();
}

static void test_implicit(void **state)
{
    struct secure c = {.socket_eof = false};

    (void)state;
    host_configure_tls(TLS_IMPLICIT);
    host_start_tls();
    client_open(&c.c);
    client_expect_silence(&c.c);
    secure_shake(&c, "mx1.example.net", NULL);
    secure_expect_open(&c);
    secure_expect(&c, "220 mx1.example.net ESMTP");
    assert_false(secure_reply_has(&c, "EHLO client.example", "250", "STARTTLS"));
    secure_say(&c, "STARTTLS", "503 5.5.1");
    send_message(&c);
    secure_say(&c, "QUIT", "221 ");
    secure_expect_end(&c);
    host_stop_tls();
}

/* What is no TLS on a port that is TLS only, and half of a handshake: ends, without a word in plain text. */
static void test_no_tls(void **state)
{
    static const char *const texts[] = {"EHLO client.example\r\n", "\x16\x03\x01\xff\xff\x01garbage",
                                        "\x15\x03\x01\x00\x02\x02\x28", "\x80", "\r"};
    struct client c;

    (void)state;
    host_configure_tls(TLS_IMPLICIT);
    host_start_tls();
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        size_t len = i == 2 ? 7 : strlen(texts[i]);

        client_open(&c);
        client_send_n(&c, texts[i], len);
        WAIT_FOR(client_at_end(&c));
        assert_int_not_equal(strncmp(c.in, "421", 3), 0);
        assert_true(c.len == 0 || c.in[0] == 0x15); /* an alert to one that began with TLS */
        client_close(&c);
    }
    client_open(&c); /* the end within the handshake */
    client_send_n(&c, "\x16\x03\x01\x02", 4);
    turn();
    client_close(&c);
    WAIT_FOR(atomic_load(&host.counters.sessions_open) == 0);
    host.server->limits.opening_ms = 30;
    client_open(&c); /* nothing comes */
    client_expect_end(&c);
    client_open(&c); /* half of it comes */
    client_send_n(&c, "\x16\x03\x01\x02", 4);
    client_expect_end(&c);
    host_stop_tls();

    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    host.server->limits.opening_ms = 30;
    client_open(&c);
    client_expect(&c, "220 ");
    client_say(&c, "HELO client.example", "250 ");
    client_say(&c, "STARTTLS", "220 ");
    client_expect_end(&c);
    host_stop_tls();
}

/* Commands in one record, the message in records of one octet. */
static void test_pipelining(void **state)
{
    static const char text[] = "Subject: y\r\n\r\n..\r\n.\r\nQUIT\r\n";
    struct secure c;

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    secure_starttls(&c, NULL);
    secure_expect_open(&c);
    secure_send(&c, "EHLO client.example\r\n");
    secure_expect(&c, "250-mx1");
    while (strncmp(c.c.in, "250 ", 4) != 0)
        secure_expect(&c, "250-");
    secure_expect(&c, "250 ");
    secure_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nDATA\r\n");
    secure_expect(&c, "250 2.1.0");
    secure_expect(&c, "250 2.1.5");
    secure_expect(&c, "354 ");
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        assert_true(tls_write(c.t, text + i, 1));
        if (i % 5 == 0)
            secure_push(&c);
    }
    secure_push(&c);
    secure_expect(&c, "250 2.0.0");
    expect_stored("Subject: y\r\n\r\n.\r\n");
    secure_expect(&c, "221 2.0.0");
    secure_expect_end(&c);
    host_stop_tls();
}

/* What stands behind DATA is seen in whichever record it comes. */
static void test_improper_pipelining(void **state)
{
    struct secure c;

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    secure_starttls(&c, NULL);
    secure_expect_open(&c);
    secure_say(&c, "HELO client.example", "250 ");
    secure_say(&c, "MAIL FROM:<a@b>", "250 ");
    secure_say(&c, "RCPT TO:<u@example.net>", "250 ");
    assert_true(tls_write(c.t, "DATA\r\n", 6));
    assert_true(tls_write(c.t, "Subject: x\r\n\r\n.\r\n", 17));
    secure_push(&c);
    secure_expect(&c, "503 5.5.0");
    secure_close(&c);
    assert_int_equal(fake.submitted, 0);
    host_stop_tls();
}

/* A client that sends and sends and does not read: it is read no further, and at last gets every reply. */
static void test_slow_reader(void **state)
{
    struct secure c = {.socket_eof = false};
    char commands[3000];
    unsigned sent = 0, replies = 0;
    int small = 4096;
    size_t len = 0;

    (void)state;
    for (size_t at = 0; at + 6 < sizeof(commands); at += 6, len = at)
        memcpy(commands + at, "NOOP\r\n", 7);
    host_configure_tls(TLS_IMPLICIT);
    host.send_buffer = 4096;
    host_load_tls();
    host_start();
    host.server->limits.junk = UINT32_MAX;
    client_open_with(&c.c, AF_INET, 4096);
    assert_int_equal(setsockopt(c.c.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    secure_shake(&c, NULL, NULL);
    secure_expect_open(&c);
    secure_expect(&c, "220 ");
    secure_say(&c, "EHLO client.example", "250-");
    while (strncmp(c.c.in, "250 ", 4) != 0)
        secure_expect(&c, "250-");
    secure_expect(&c, "250 ");
    for (bool stuck = false; !stuck && sent < 4000 * 100;) {
        size_t waiting, at = 0;
        uint8_t *bytes;

        assert_true(tls_write(c.t, commands, len));
        bytes = tls_take(c.t, &waiting);
        for (int idle = 0; at < waiting && idle < 200;) {
            ssize_t n = send(c.c.fd, bytes + at, waiting - at, MSG_NOSIGNAL);

            idle = n > 0 ? 0 : idle + 1;
            at += n > 0 ? (size_t)n : 0;
            turn();
        }
        stuck = at < waiting;
        sent += (unsigned)(len / 6);
        while (at < waiting) { /* now it reads, and the rest goes */
            ssize_t n = send(c.c.fd, bytes + at, waiting - at, MSG_NOSIGNAL);

            at += n > 0 ? (size_t)n : 0;
            secure_read(&c);
            for (; strstr(c.c.in, "\r\n") != NULL; replies++)
                secure_expect(&c, "250 2.0.0");
        }
        free(bytes);
        if (stuck)
            while (replies < sent) {
                secure_expect(&c, "250 2.0.0");
                replies++;
            }
    }
    assert_true(sent > 1000);
    assert_int_equal(replies, sent);
    secure_say(&c, "QUIT", "221 ");
    secure_expect_end(&c);
    host_stop_tls();
}

/* The cluster is slow: the client is not read on, and its bytes wait in bounds. */
static void test_large(void **state)
{
    enum { LINES = 30000 };
    struct secure c;
    size_t len;

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    secure_starttls(&c, NULL);
    secure_expect_open(&c);
    secure_say(&c, "HELO client.example", "250 ");
    secure_say(&c, "MAIL FROM:<a@b>", "250 ");
    secure_say(&c, "RCPT TO:<u@example.net>", "250 ");
    secure_say(&c, "DATA", "354 ");
    secure_send(&c, "\r\n");
    fake.hold[FAKE_PIECE] = true;
    for (int i = 0; i < LINES; i++) {
        char line[80];

        snprintf(line, sizeof(line), "%06d................................................................\r\n", i);
        assert_true(tls_write(c.t, line, strlen(line)));
        if (tls_waiting(c.t) > 50000) {
            if (fake.waiting[FAKE_PIECE] == SMTP_PIECES_IN_FLIGHT) {
                for (int k = 0; k < 20; k++)
                    turn();
                for (uint32_t k = 0; k < host.server->n_slots; k++)
                    if (host.server->slots[k].session != NULL)
                        assert_true(tls_unread(host.server->slots[k].session->tls) <= SMTP_READ_BUFFER + 20000);
                fake.hold[FAKE_PIECE] = false;
            }
            secure_push(&c);
        }
    }
    secure_say(&c, ".", "250 2.0.0");
    assert_true(fake.most_pieces <= SMTP_PIECES_IN_FLIGHT);
    const char *text = stored_text(&len);
    assert_int_equal(len, 2 + 72 * LINES);
    for (int i = 0; i < LINES; i++)
        assert_int_equal(atoi(text + 2 + 72 * i), i);
    secure_close(&c);
    host_stop_tls();
}

/* close_notify, or the socket's end, in the data: nothing is accepted. */
static void test_ends(void **state)
{
    struct secure c;

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    for (int i = 0; i < 2; i++) {
        secure_starttls(&c, NULL);
        secure_expect_open(&c);
        secure_say(&c, "HELO client.example", "250 ");
        secure_say(&c, "MAIL FROM:<a@b>", "250 ");
        secure_say(&c, "RCPT TO:<u@example.net>", "250 ");
        secure_say(&c, "DATA", "354 ");
        secure_send(&c, "half a mess");
        if (i == 0) {
            tls_shutdown(c.t);
            secure_push(&c);
            WAIT_FOR(secure_at_end(&c));
        }
        secure_close(&c);
        WAIT_FOR(atomic_load(&host.counters.sessions_open) == 0);
    }
    assert_int_equal(fake.submitted, 0);
    /* The replies to commands that come with close_notify are still written. */
    secure_starttls(&c, NULL);
    tls_write(c.t, "NOOP\r\n", 6);
    tls_shutdown(c.t);
    secure_push(&c);
    secure_expect(&c, "250 2.0.0");
    secure_close(&c);
    host_stop_tls();
}

/* The server drains and closes: the last word is said in TLS. */
static void test_drain(void **state)
{
    struct secure c, half = {.socket_eof = false};

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    secure_starttls(&c, NULL);
    secure_expect_open(&c);
    client_open(&half.c);
    client_expect(&half.c, "220 ");
    client_say(&half.c, "HELO client.example", "250 ");
    client_say(&half.c, "STARTTLS", "220 ");
    smtp_server_drain(host.server);
    secure_expect(&c, "421 4.3.2");
    secure_expect_end(&c);
    client_expect_end(&half.c);
    host_stop_tls();
}

/* A proxy in front of a port that is TLS only: its header, then the client's handshake, in one segment or in octets. */
static void test_behind_proxy(void **state)
{
    static const char header[] = "PROXY TCP4 192.0.2.7 127.0.0.1 4711 465\r\n";

    (void)state;
    host_configure_tls(TLS_IMPLICIT);
    host.listener.proxy = true;
    host.config.smtp.proxy_from = (struct network_list){loopback, 2};
    host.config.smtp.relay_from = (struct network_list){loopback, 2};
    host_start_tls();
    for (int pieces = 0; pieces < 2; pieces++) {
        struct secure c = {.socket_eof = false};
        size_t len;
        uint8_t *hello;
        char all[4096];

        client_open(&c.c);
        c.t = tls_connect(pki.ctx, "mx1.example.net");
        tls_start(c.t);
        hello = tls_take(c.t, &len);
        assert_non_null(hello);
        assert_true(len + sizeof(header) < sizeof(all));
        memcpy(all, header, sizeof(header) - 1);
        memcpy(all + sizeof(header) - 1, hello, len);
        free(hello);
        len += sizeof(header) - 1;
        for (size_t at = 0; at < len; at += pieces ? 1 : len)
            client_send_n(&c.c, all + at, pieces ? 1 : len);
        WAIT_FOR(secure_shaken(&c));
        secure_expect_open(&c);
        secure_expect(&c, "220 ");
        secure_say(&c, "HELO client.example", "250 ");
        secure_say(&c, "MAIL FROM:<a@b>", "250 ");
        secure_say(&c, "RCPT TO:<u@elsewhere.example>", "554 5.7.1"); /* the proxy may relay, its client may not */
        secure_say(&c, "RCPT TO:<u@example.net>", "250 ");
        secure_close(&c);
    }
    assert_int_equal(atomic_load(&host.counters.tls_in), 2);
    assert_int_equal(atomic_load(&host.counters.tls_in_failed), 0);
    host_stop_tls();
}

/* The greeting waits under TLS as well; who speaks before it is told so, in TLS. */
static void test_early(void **state)
{
    struct secure c = {.socket_eof = false};

    (void)state;
    host_configure_tls(TLS_IMPLICIT);
    host_start_tls();
    host.server->limits.greeting_delay_ms = 60000;
    client_table_open(&host.worker.clients, &(struct client_limits){.entries = 1000});
    client_open(&c.c);
    secure_shake(&c, NULL, NULL);
    secure_expect_open(&c);
    secure_send(&c, "EHLO client.example\r\n");
    secure_expect(&c, "554 5.5.1");
    secure_expect_end(&c);
    host_stop_tls();
    client_table_close(host.worker.clients);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starttls),
        cmocka_unit_test(test_forgets),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_required),
        cmocka_unit_test(test_injection),
        cmocka_unit_test(test_implicit),
        cmocka_unit_test(test_no_tls),
        cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_improper_pipelining),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_behind_proxy),
        cmocka_unit_test(test_early),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    return cmocka_run_group_tests(tests, pki_setup, pki_teardown);
}