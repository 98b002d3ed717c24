/* test_smtp_large.c - large messages, and clients that send or read more slowly than the other side. */
#include "node/server/test_smtp_harness.h"

static void send_lines(struct client *c, size_t bytes)
{
    static char line[1000];

    memset(line, 'x', sizeof(line));
    memcpy(line + sizeof(line) - 2, "\r\n", 2);
    for (size_t sent = 0; sent < bytes; sent += sizeof(line))
        client_send_n(c, line, sizeof(line));
}

static void test_large(void **state)
{
    struct client c;
    size_t len;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    send_lines(&c, 3000000);
    client_send(&c, ".\r\n");
    client_expect(&c, "250 2.0.0");
    stored_text(&len);
    assert_int_equal(len, 3000000);
    assert_int_equal(fake.begun, 1);
    assert_int_equal(fake.aborted, 0);
    /* A size near one piece, by octets: the piece before the dot may be full, empty, or hold half a line end. */
    for (size_t size = (256 << 10) - 160; size < (256 << 10) + 8; size++) {
        char *text = malloc(size);

        assert_non_null(text);
        memset(text, 'y', size);
        memcpy(text + size - 2, "\r\n", 2);
        client_begin_data(&c);
        client_send_n(&c, text, size);
        client_send(&c, ".\r\n");
        client_expect(&c, "250 2.0.0");
        assert_memory_equal(stored_text(&len), text, size);
        assert_int_equal(len, size);
        free(text);
    }
    client_close(&c);
    host_stop();
}

static void test_line_without_end(void **state)
{
    static char text[300000];
    struct client c;
    size_t len;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    memset(text, 'z', sizeof(text));
    client_send_n(&c, text, sizeof(text));
    client_send(&c, "\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    stored_text(&len);
    assert_int_equal(len, sizeof(text) + 2);
    client_close(&c);
    host_stop();
}

static void test_too_large(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    send_lines(&c, 5000000);
    client_expect_silence(&c);
    client_send(&c, ".\r\n");
    client_expect(&c, "552 5.3.4");
    assert_int_equal(fake.aborted, 1);
    assert_int_equal(fake.finished, 0);
    client_begin_data(&c);
    client_send(&c, "small\r\n.\r\n");
    client_expect(&c, "250 2.0.0");
    client_close(&c);
    host_stop();
}

/* Nothing is written: the server takes five pieces and then no more from the socket. */
static void test_back_pressure(void **state)
{
    static char block[4000];
    struct client c;
    size_t sent = 0, still = 0;

    (void)state;
    host_configure();
    host.config.smtp.max_message_size = 100 << 20;
    fake.hold[FAKE_PIECE] = true;
    host_start();
    client_open(&c);
    client_expect(&c, "220 ");
    client_say(&c, "HELO c", "250 ");
    client_begin_data(&c);
    memset(block, 'b', sizeof(block));
    memcpy(block + sizeof(block) - 2, "\r\n", 2);
    /* The socket buffers take some megabytes before it shows. */
    while (still < 50 && sent < 64 << 20) {
        ssize_t n = send(c.fd, block + sent % sizeof(block), sizeof(block) - sent % sizeof(block), MSG_NOSIGNAL);

        still = n > 0 ? 0 : still + 1;
        sent += n > 0 ? (size_t)n : 0;
        pump();
    }
    assert_true(sent < 64 << 20);
    assert_int_equal(fake.most_pieces, 4);
    assert_int_equal(fake.waiting[FAKE_PIECE], 4);
    fake.hold[FAKE_PIECE] = false;
    client_send_n(&c, block + sent % sizeof(block), sizeof(block) - sent % sizeof(block));
    client_send(&c, ".\r\n");
    client_expect(&c, "250 2.0.0");
    assert_true(fake.most_pieces <= 4);
    assert_true(fake.body_len > sent);
    client_close(&c);
    host_stop();
}

/* Takes what is there out of the client's buffer; returns how many lines it was. */
static size_t eat_lines(struct client *c)
{
    size_t lines = 0;

    client_read(c);
    for (size_t i = 0; i < c->len; i++)
        lines += c->in[i] == '\n';
    c->len = 0;
    assert_false(c->eof);
    return lines;
}

/* A client that asks much and reads nothing is not read from any more; once it reads, every command has its reply. */
static void test_unread_replies(void **state)
{
    static char many[6 * 1000];
    struct client c;
    size_t sent = 0, still = 0, got = 0;

    (void)state;
    host_configure();
    host.send_buffer = 64 << 10; /* small ones fill soon */
    host_start();
    host.server->limits.junk = UINT32_MAX;
    client_open_with(&c, AF_INET, 64 << 10);
    client_expect(&c, "220 ");
    client_ehlo(&c);
    for (size_t i = 0; i < sizeof(many); i += 6)
        memcpy(many + i, "HELP\r\n", 6);
    while (still < 100) {
        ssize_t n = send(c.fd, many + sent % 6, sizeof(many) - sent % 6, MSG_NOSIGNAL);

        still = n > 0 ? 0 : still + 1;
        sent += n > 0 ? (size_t)n : 0;
        turn();
        assert_true(sent < 256 << 20);
    }
    WAIT_FOR((got += eat_lines(&c)) >= sent / 6);
    client_send(&c, &"HELP\r\n"[sent % 6]);
    WAIT_FOR((got += eat_lines(&c)) >= sent / 6 + 1);
    assert_int_equal(got, sent / 6 + 1);
    client_say(&c, "NOOP", "250 2.0.0");
    client_close(&c);
    host_stop();
}

/* Replies that fill both socket buffers, and a message behind them: it is committed while they are not in the kernel
 * yet. */
static size_t ask_much(struct client *c)
{
    static const char message[] = "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nBDAT 3 LAST\r\nx\r\nNOOP\r\n";
    char batch[150 * 6 + sizeof(message)];

    host.send_buffer = 1;
    fake.hold[FAKE_SUBMIT] = true;
    host_start();
    host.server->limits.junk = UINT32_MAX;
    client_open_with(c, AF_INET, 1);
    client_expect(c, "220 ");
    client_ehlo(c);
    for (int i = 0; i < 150; i++)
        memcpy(batch + 6 * i, "HELP\r\n", 6);
    memcpy(batch + 900, message, sizeof(message));
    assert_int_equal(send(c->fd, batch, sizeof(batch) - 1, MSG_NOSIGNAL), sizeof(batch) - 1);
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 1);
    return 150 + 4; /* lines up to and with the NOOP's */
}

static void test_answer_behind_replies(void **state)
{
    struct client c;
    size_t lines, got = 0;

    (void)state;
    host_configure();
    lines = ask_much(&c);
    fake.hold[FAKE_SUBMIT] = false;
    WAIT_FOR(fake.waiting[FAKE_SUBMIT] == 0);
    while (got < lines - 1) {
        pump();
        got += eat_lines(&c);
        assert_true(got <= lines + 1);
    }
    WAIT_FOR((got += eat_lines(&c)) == lines);
    client_say(&c, "NOOP", "250 2.0.0");
    client_close(&c);
    host_stop();
}

/* The client resets the connection meanwhile: the answer finds nobody; the message stays. */
static void test_reset_behind_replies(void **state)
{
    struct linger now = {1, 0};
    struct client c;

    (void)state;
    host_configure();
    ask_much(&c);
    setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    client_close(&c);
    WAIT_FOR(smtp_server_sessions(host.server) == 0);
    fake.hold[FAKE_SUBMIT] = false;
    WAIT_FOR(atomic_load(&host.counters.messages_received) == 1);
    host_stop();
}

/* The disk fills up in the middle of a large message: swallowed, then refused. */
static void test_piece_fails(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    fake.status[FAKE_PIECE] = MR_NOSPACE;
    host_start();
    client_greet(&c);
    client_begin_data(&c);
    send_lines(&c, 2000000);
    client_expect_silence(&c);
    client_send(&c, ".\r\n");
    client_expect(&c, "452 4.3.1");
    assert_int_equal(fake.aborted, 1);
    client_say(&c, "NOOP", "250");
    client_close(&c);
    host_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_line_without_end),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_unread_replies),
        cmocka_unit_test(test_answer_behind_replies),
        cmocka_unit_test(test_reset_behind_replies),
        cmocka_unit_test(test_piece_fails),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
