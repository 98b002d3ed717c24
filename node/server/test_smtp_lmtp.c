/* test_smtp_lmtp.c - LMTP in: an answer for each recipient, over loopback. */
#include "node/server/smtp_session.h"
#include "node/server/test_smtp_harness.h"

static void as_lmtp(void)
{
    host_configure();
    host.listener.profile = PROFILE_LMTP;
}

/* receive_buffer: in octets; 0: the usual one. */
static void lhlo_with(struct client *c, int receive_buffer)
{
    client_open_with(c, AF_INET, receive_buffer);
    client_expect(c, "220 mx1.example.net LMTP");
    client_send(c, "LHLO client.example\r\n");
    client_expect(c, "250-mx1.example.net");
    do
        WAIT_FOR(client_has_line(c));
    while (strncmp(c->in, "250-", 4) == 0 && (client_expect(c, "250-"), true));
    client_expect(c, "250 ");
}

static void lhlo(struct client *c)
{
    lhlo_with(c, 0);
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
    host_stop();
    /* And SMTP knows no LHLO. */
    host_configure();
    host_start();
    client_greet(&c);
    client_say(&c, "LHLO client.example", "500");
    client_close(&c);
    host_stop();
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
    host_stop();
}

enum { MANY = 1000 };

static void start_many(void)
{
    as_lmtp();
    host.config.smtp.max_recipients = MANY;
    host.send_buffer = 4096;
    host_start();
}

/* More replies than the buffers of both ends hold. */
static void send_many(struct client *c)
{
    char line[80];

    lhlo_with(c, 4096);
    client_say(c, "MAIL FROM:<a@b>", "250");
    for (int i = 0; i < MANY; i++) {
        snprintf(line, sizeof(line), "RCPT TO:<u%d@example.net>", i);
        client_say(c, line, "250");
    }
    client_say(c, "DATA", "354");
    client_send(c, "x\r\n.\r\n");
}

/* To a client that does not read them for a while. */
static void test_lmtp_many(void **state)
{
    struct client c;

    (void)state;
    start_many();
    send_many(&c);
    WAIT_FOR(fake.submitted == 1);
    for (int i = 0; i < MANY; i++)
        client_expect(&c, "250 2.0.0 Ok: queued as");
    client_say(&c, "NOOP", "250 2.0.0 Ok");
    client_close(&c);
    host_stop();
}

static unsigned sessions_writing(void)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < host.server->n_slots; i++)
        n += host.server->slots[i].session != NULL && host.server->slots[i].session->writing;
    return n;
}

/* The server closes while they are on their way: who reads gets them all, who does not is waited for not long. */
static void test_lmtp_close(void **state)
{
    struct client reads, stands;

    (void)state;
    start_many();
    send_many(&reads);
    send_many(&stands);
    WAIT_FOR(sessions_writing() == 2);
    assert_int_equal(atomic_load(&host.counters.transactions_open), 0); /* nothing else is waited for */
    smtp_server_close(host.server, on_host_closed, &host.closed);
    for (int i = 0; i < MANY; i++)
        client_expect(&reads, "250 2.0.0 Ok: queued as");
    client_expect(&reads, "421 4.3.2");
    client_expect_end(&reads);
    WAIT_FOR(host.closed);
    client_close(&stands);
    uv_close((uv_handle_t *)&host.tick, NULL);
    uv_run(&host.worker.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host.worker.loop), 0);
    fake_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lmtp),
        cmocka_unit_test(test_lmtp_chunks),
        cmocka_unit_test(test_lmtp_many),
        cmocka_unit_test(test_lmtp_close),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}