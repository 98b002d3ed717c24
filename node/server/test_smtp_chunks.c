/* test_smtp_chunks.c - BDAT over loopback: chunks that come, chunks that are refused, and what comes behind them. */
#include "node/server/test_smtp_harness.h"

static void client_envelope(struct client *c, const char *parameters)
{
    char line[128];

    snprintf(line, sizeof(line), "MAIL FROM:<s@sender.example>%s", parameters);
    client_say(c, line, "250 2.1.0");
    client_say(c, "RCPT TO:<u@example.net>", "250 2.1.5");
}

static void test_chunks(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    /* Dots mean nothing, and the end of a chunk means nothing to the text. */
    client_envelope(&c, "");
    client_send(&c, "BDAT 7\r\nA: b\r\n\r");
    client_expect(&c, "250 2.0.0 Ok: 7 octets");
    client_send(&c, "BDAT 0\r\n");
    client_expect(&c, "250 2.0.0 Ok: 0 octets");
    client_send(&c, "BDAT 10\r\n\n.\r\n..x\r\n.");
    client_expect(&c, "250 2.0.0");
    client_send(&c, "BDAT 2 LAST\r\n\r\n");
    client_expect(&c, "250 2.0.0 Ok: queued as ");
    expect_stored_bytes("A: b\r\n\r\n.\r\n..x\r\n.\r\n", 19);
    /* All at once, with the next message behind it. */
    client_send(&c, "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nBDAT 3\r\nxy\rBDAT 1\r\n\nBDAT 0 last\r\n"
                    "MAIL FROM:<a@b>\r\nRCPT TO:<u@example.net>\r\nBDAT 2 LAST\r\nzzRSET\r\n");
    for (int i = 0; i < 2; i++) {
        client_expect(&c, "250 2.1.0");
        client_expect(&c, "250 2.1.5");
        if (i == 0) {
            client_expect(&c, "250 2.0.0 Ok: 3");
            client_expect(&c, "250 2.0.0 Ok: 1");
        }
        client_expect(&c, "250 2.0.0 Ok: queued as ");
    }
    client_expect(&c, "250 2.0.0 Ok");
    expect_stored_bytes("zz\r\n", 4); /* no next hop could be sent a line without its end */
    /* Octet by octet. */
    client_envelope(&c, "");
    for (const char *p = "BDAT 4\r\na\r\nbBDAT 3 LAST\r\n\r\nc"; *p != '\0'; p++)
        client_send_n(&c, p, 1);
    client_expect(&c, "250 2.0.0 Ok: 4");
    client_expect(&c, "250 2.0.0 Ok: queued as ");
    expect_stored_bytes("a\r\nb\r\nc\r\n", 9);
    assert_int_equal(fake.submitted, 4);
    client_close(&c);
    host_stop();
}

static void test_binary(void **state)
{
    static char body[70000];
    char head[128];
    struct client c;
    int n;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_envelope(&c, " BODY=BINARYMIME");
    client_say(&c, "DATA", "503 5.5.1 BODY=BINARYMIME needs BDAT");
    for (size_t i = 0; i < sizeof(body); i++)
        body[i] = (char)(i * 7 + i / 256);
    memcpy(body + 100, "\n.\n\r\r\n.\r\n\0\r", 11);
    n = snprintf(head, sizeof(head), "BDAT %zu LAST\r\nSubject: x\r\n\r\n", sizeof(body) + 14);
    client_send_n(&c, head, (size_t)n);
    client_send_n(&c, body, sizeof(body));
    client_expect(&c, "250 2.0.0 Ok: queued as ");
    assert_int_equal(fake.message->flags, MESSAGE_BINARYMIME | MESSAGE_8BITMIME);
    {
        size_t len;
        const char *text = stored_text(&len);

        assert_int_equal(len, sizeof(body) + 14);
        assert_memory_equal(text, "Subject: x\r\n\r\n", 14);
        assert_memory_equal(text + 14, body, sizeof(body));
    }
    /* Its header is text like any other. */
    client_envelope(&c, " BODY=BINARYMIME");
    client_send(&c, "BDAT 13 LAST\r\nA: b\nC: d\r\n\r\n");
    client_expect(&c, "550 5.6.0");
    client_say(&c, "NOOP", "250 2.0.0");
    client_close(&c);
    host_stop();
}

/* Binary text is stored as it is or not at all, also of hosts whose line ends are mended, and wherever it is cut. */
static void test_binary_is_not_mended(void **state)
{
    static const char odd[] = "A: b\r\rxyz\r\nrest";
    static const char plain[] = "A: b\r\n\r\n\rx\ny\r\r\nrest\r";
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.normalize_from = (struct network_list){loopback, 2};
    host.config.smtp.max_errors = 1000;
    host_start();
    client_greet(&c);
    for (size_t cut = 1; cut < sizeof(odd) - 1; cut++) {
        client_envelope(&c, " BODY=BINARYMIME");
        client_send(&c, "BDAT 15 LAST\r\n");
        client_send_n(&c, odd, cut);
        turn();
        client_send(&c, odd + cut);
        client_expect(&c, "550 5.6.0");
    }
    for (size_t cut = 1; cut < sizeof(plain) - 1; cut++) {
        client_envelope(&c, " BODY=BINARYMIME");
        client_send(&c, "BDAT 20 LAST\r\n");
        client_send_n(&c, plain, cut);
        turn();
        client_send(&c, plain + cut);
        client_expect(&c, "250 2.0.0");
        expect_stored_bytes(plain, sizeof(plain) - 1);
    }
    client_close(&c);
    host_stop();
}

/* Each refusal: its chunk is skipped, whatever stands in it, and further chunks meet 503. */
static void test_refused(void **state)
{
    static const char evil[] = "RSET\r\nMAIL FROM:<evil@x>\r\nQUIT\r\n";
    char chunk[128];
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.max_errors = 1000;
    host.config.smtp.max_message_size = 100;
    host_start();
    client_greet(&c);
    snprintf(chunk, sizeof(chunk), "BDAT %zu\r\n%s", strlen(evil), evil);
    /* No transaction. */
    client_send(&c, chunk);
    client_expect(&c, "503 5.5.1");
    client_say(&c, "NOOP", "250 2.0.0");
    /* No recipient: and the transaction is over. */
    client_say(&c, "MAIL FROM:<a@b>", "250");
    client_send(&c, chunk);
    client_expect(&c, "554 5.5.1");
    client_say(&c, "RCPT TO:<u@example.net>", "503 5.5.1");
    client_send(&c, chunk);
    client_expect(&c, "503 5.5.1");
    /* Too large, alone and together. */
    client_envelope(&c, "");
    client_send(&c, "BDAT 101 LAST\r\n");
    client_expect(&c, "552 5.3.4"); /* before it comes */
    client_send(
        &c, "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789R");
    client_send(&c, "BDAT 3\r\nabc");
    client_expect(&c, "503 5.5.1");
    client_envelope(&c, "");
    client_send(&c, "BDAT 50\r\n01234567890123456789012345678901234567890123456789");
    client_expect(&c, "250 2.0.0");
    client_send(&c, "BDAT 51 LAST\r\nRSET\r\n55555555555555555555555555555555555555555555\rBDAT 5\r\nQUIT\r");
    client_expect(&c, "552 5.3.4");
    client_expect(&c, "503 5.5.1");
    /* Bare line ends: found in the chunk, told at its end. */
    client_envelope(&c, "");
    client_send(&c, "BDAT 9\r\na\nRSET\r\nbBDAT 6 LAST\r\nRSET\r\n");
    client_expect(&c, "550 5.6.0");
    client_expect(&c, "503 5.5.1");
    client_envelope(&c, "");
    client_send(&c, "BDAT 2 LAST\r\nx\r");
    client_expect(&c, "550 5.6.0");
    /* DATA does not go with chunks; what came before stays. */
    client_envelope(&c, "");
    client_send(&c, "BDAT 2\r\nxx");
    client_expect(&c, "250 2.0.0");
    client_say(&c, "DATA", "503 5.5.1");
    client_say(&c, "RCPT TO:<v@example.net>", "503 5.5.1");
    client_say(&c, "MAIL FROM:<v@example.net>", "503 5.5.1");
    client_say(&c, "NOOP", "250");
    client_send(&c, "BDAT 0 LAST\r\n");
    client_expect(&c, "250 2.0.0 Ok: queued as");
    expect_stored_bytes("xx\r\n", 4);
    /* RSET, EHLO between chunks: forgotten. */
    client_envelope(&c, "");
    client_send(&c, "BDAT 2\r\nxx");
    client_expect(&c, "250 2.0.0");
    client_say(&c, "RSET", "250");
    client_send(&c, "BDAT 2 LAST\r\nxx");
    client_expect(&c, "503 5.5.1");
    assert_int_equal(fake.submitted, 1);
    client_close(&c);
    host_stop();
}

/* Where a chunk ends nobody can know, or nobody wants to wait for it: the connection ends. */
static void test_hopeless(void **state)
{
    static const struct {
        const char *command, *reply;
    } rows[] = {
        {"BDAT", "521 5.5.4"},
        {"BDAT x", "521 5.5.4"},
        {"BDAT -1", "521 5.5.4"},
        {"BDAT 5 FIRST", "521 5.5.4"},
        {"BDAT 999999999999999999999", "521 5.5.4"},
        {"BDAT 18446744073709551615", "552 5.3.4"},
        {"BDAT 18446744073709551616 LAST", "552 5.3.4"},
        {"BDAT 9223372036854775808 LAST", "552 5.3.4"},
        {"BDAT 6291458", "552 5.3.4"},
    };
    static const char *const unreadable[] = {"BDAT 12\n", "bdat 12 LAST\001\r\n", " BDAT\r12\r\n", "BDAT\n"};
    struct client c;

    (void)state;
    host_configure();
    host_start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        client_greet(&c);
        client_envelope(&c, "");
        client_send(&c, rows[i].command);
        client_send(&c, "\r\nRSET\r\nQUIT\r\n");
        client_expect(&c, rows[i].reply);
        client_expect_end(&c);
    }
    /* Lines that nobody can read, too: what is behind them must not become commands. */
    for (size_t i = 0; i < sizeof(unreadable) / sizeof(unreadable[0]); i++) {
        client_greet(&c);
        client_envelope(&c, "");
        client_send(&c, unreadable[i]);
        client_send(&c, "RSET\r\nQUIT\r\n");
        client_expect(&c, "521 5.5.4");
        client_expect_end(&c);
    }
    for (size_t blanks = 2100; blanks <= 100100; blanks += 49000) {
        client_greet(&c);
        client_envelope(&c, "");
        client_send(&c, "BDAT 12");
        for (size_t i = 0; i < blanks; i += 50)
            client_send(&c, "                                                  ");
        client_send(&c, "LAST\r\nRSET\r\nQUIT\r\n");
        client_expect(&c, "521 5.5.4");
        client_expect_end(&c);
    }
    client_greet(&c);
    client_send(&c, "BDAT 6291458\r\n");
    client_expect(&c, "503 5.5.1");
    client_expect_end(&c);
    assert_int_equal(fake.begun, 0);
    host_stop();
}

/* A stream of tiny chunks costs what its octets cost: no memory for each, no time that grows. */
static void test_tiny(void **state)
{
    enum { CHUNKS = 100000 };
    char *talk = mr_malloc(CHUNKS * 12 + 32);
    struct client c;
    size_t len = 0, at = 0, lines = 0, stored_len;
    uint64_t since;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_envelope(&c, "");
    for (int i = 0; i < CHUNKS; i++)
        len += (size_t)sprintf(talk + len, i % 3 == 0 ? "BDAT 0\r\n" : "BDAT 1\r\nx");
    len += (size_t)sprintf(talk + len, "BDAT 2 LAST\r\n\r\n");
    since = uv_hrtime();
    while (at < len || lines < CHUNKS + 1) {
        ssize_t n = at < len ? send(c.fd, talk + at, len - at, MSG_NOSIGNAL) : 0;

        at += n > 0 ? (size_t)n : 0;
        turn();
        client_read(&c);
        for (size_t i = 0; i < c.len; i++)
            lines += c.in[i] == '\n';
        assert_null(strstr(c.in, "\r\n5"));
        c.len = 0;
        assert_true(uv_hrtime() - since < TEST_LIMIT_MS * 1000000ULL);
    }
    assert_int_equal(fake.submitted, 1);
    stored_text(&stored_len);
    assert_int_equal(stored_len, CHUNKS - (CHUNKS + 2) / 3 + 2);
    assert_int_equal(fake.most_pieces, 0); /* it never left its first piece */
    free(talk);
    client_close(&c);
    host_stop();
}

/* Pieces that are not written stop a chunk in its middle, and a refusal found there is told at its end. */
static void test_large(void **state)
{
    enum { SIZE = 2 << 20 };
    char *text = mr_malloc(SIZE), head[64];
    struct client c;
    size_t len;

    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        text[i] = i % 80 == 78 ? '\r' : i % 80 == 79 ? '\n' : 'a';
    text[SIZE - 2] = '\r';
    text[SIZE - 1] = '\n';
    host_configure();
    host_start();
    client_greet(&c);
    client_envelope(&c, "");
    snprintf(head, sizeof(head), "BDAT %d\r\n", SIZE);
    client_send(&c, head);
    client_send_n(&c, text, SIZE);
    client_expect(&c, "250 2.0.0 Ok: 2097152");
    client_say(&c, "BDAT 0 LAST", "250 2.0.0 Ok: queued");
    stored_text(&len);
    assert_int_equal(len, SIZE);
    assert_true(fake.most_pieces > 0 && fake.most_pieces <= 4);
    fake.status[FAKE_PIECE] = MR_NOSPACE;
    client_envelope(&c, "");
    client_send(&c, head);
    client_send_n(&c, text, SIZE);
    client_expect(&c, "452 4.3.1");
    client_send(&c, "BDAT 1\r\nx");
    client_expect(&c, "503 5.5.1");
    client_close(&c);
    free(text);
    host_stop();
}

static void test_cluster_says_no(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host_start();
    client_greet(&c);
    client_envelope(&c, "");
    fake.readiness = CLUSTER_NO_QUORUM;
    client_send(&c, "BDAT 6\r\nRSET\r\n");
    client_expect(&c, "451 4.3.0");
    fake.readiness = CLUSTER_READY;
    client_send(&c, "BDAT 6 LAST\r\nRSET\r\n");
    client_expect(&c, "503 5.5.1");
    client_envelope(&c, "");
    fake.status[FAKE_SUBMIT] = MR_NOQUORUM;
    client_send(&c, "BDAT 3 LAST\r\nx\r\n");
    client_expect(&c, "451 4.3.0");
    client_send(&c, "BDAT 3 LAST\r\nx\r\n");
    client_expect(&c, "503 5.5.1");
    client_close(&c);
    host_stop();
}

/* A client that never sends its chunk, wanted or not, is not waited for. */
static void test_timeout(void **state)
{
    struct client c;

    (void)state;
    host_configure();
    host.config.smtp.data_timeout_ms = 60;
    host_start();
    client_greet(&c);
    client_envelope(&c, "");
    client_send(&c, "BDAT 100\r\nabc");
    client_expect(&c, "421 4.4.2");
    client_expect_end(&c);
    client_greet(&c);
    client_send(&c, "BDAT 100\r\nabc");
    client_expect(&c, "503 5.5.1");
    client_expect(&c, "421 4.4.2");
    client_expect_end(&c);
    host_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_binary_is_not_mended),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hopeless),
        cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_cluster_says_no),
        cmocka_unit_test(test_timeout),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    fake.tail = &fake.calls;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
