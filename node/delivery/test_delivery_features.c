/* Extensions of the next hop, over a real socket: what is sent where they are offered, and what is done where not. */
#include "node/delivery/test_delivery_extensions.h"

/* ---- BDAT ---- */

static const char binary[] = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\nContent-Type: image/x\r\n\r\n"
                             "\x00\xff\n.\r\n..\r.\r\n.\r\nQUIT\r\nlast";

/* Pieces of any size, with and without PIPELINING; what DATA would not carry arrives octet by octet. */
static void binary_by_bdat(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < sizeof(binary) + 5; piece += 7) {
        start(piece % 2 == 0 ? modern : "250-x\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 BINARYMIME");
        set_body(binary, sizeof(binary) - 1);
        core.piece_size = piece;
        delivery_attempt(host.delivery, attempt(2, MESSAGE_BINARYMIME));
        assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        assert_body(binary, sizeof(binary) - 1);
        assert_said("BODY=BINARYMIME");
        assert_said("|BDAT 0 LAST|");
        assert_null(strstr(server.connections[0]->commands, "DATA|"));
        assert_int_equal(core.dots, 1);
        host_close();
    }
}

/* The fence: when the lease ends before LAST was written, it never is. */
static void bdat_without_a_lease(void **state)
{
    enum { SIZE = 200 << 10 };
    char *body = mr_malloc(SIZE);
    (void)state;
    memset(body, 0xff, SIZE);
    server_open_at("127.0.0.1", 0, 4096);
    server.ehlo = modern;
    host_open();
    set_body(body, SIZE);
    core.piece_size = SIZE;
    delivery_attempt(host.delivery, attempt(1, MESSAGE_BINARYMIME));
    WAIT_FOR(server.n == 1 && strstr(server.connections[0]->commands, "RCPT") != NULL);
    server.reading = false; /* the chunk stays in our kernel */
    for (int i = 0; i < 50; i++)
        turn();
    assert_int_equal(core.dots, 0);
    core.lease = false;
    delivery_lease_ended(host.delivery);
    assert_released(wait_told(0), "lease ended");
    server.reading = true;
    WAIT_FOR(server.connections[0]->ended);
    assert_null(strstr(server.connections[0]->commands, "LAST"));
    assert_int_equal(server.messages, 0);
    core.lease = true;
    host_close();
    free(body);
}

/* Without PIPELINING each chunk waits for the reply to the one before it, and LAST for all. */
static void chunk_by_chunk(void **state)
{
    (void)state;
    start("250-x\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 BINARYMIME");
    set_body(binary, sizeof(binary) - 1);
    core.piece_size = 20;
    server_rule("BDAT", SILENT, 1, 1);
    host.config.delivery.data_timeout_ms = 300;
    delivery_attempt(host.delivery, attempt(1, MESSAGE_BINARYMIME));
    assert_result(wait_told(0), 0, DEFERRED, "4.4.2", "timed out");
    assert_int_equal(core.dots, 0);
    assert_said("|BDAT 20|BDAT 20|");
    assert_null(strstr(server.connections[0]->commands, "BDAT 20|BDAT 20|BDAT 20|"));
    host_close();
}

/* Not declared binary: by BDAT too it has clean lines and an end. */
static void text_by_bdat(void **state)
{
    static const char text[] = "Subject: x\r\n\r\n.\r\na\nb\rc";
    static const char wanted[] = "Subject: x\r\n\r\n.\r\na\r\nb c\r\n";
    (void)state;
    for (size_t piece = 1; piece < 30; piece += 3) {
        start(modern);
        set_body(text, sizeof(text) - 1);
        core.piece_size = piece;
        delivery_attempt(host.delivery, attempt(1, 0));
        assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        assert_body(wanted, sizeof(wanted) - 1);
        host_close();
    }
}

static void chunk_refused(void **state)
{
    (void)state;
    for (int pipelining = 0; pipelining < 2; pipelining++) {
        start(pipelining ? modern : "250-x\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 BINARYMIME");
        set_body(binary, sizeof(binary) - 1);
        core.piece_size = 20;
        server_rule("BDAT", "552 5.3.4 too much", 1, 1);
        server_rule(".", "503 5.5.1 no transaction", 0, 1);
        delivery_attempt(host.delivery, attempt(1, MESSAGE_BINARYMIME));
        assert_result(wait_told(0), 0, FAILED, "5.3.4", "too much");
        host_close();
    }
}

static void all_refused_before_bdat(void **state)
{
    (void)state;
    start(modern);
    server_rule("RCPT", "550 5.1.1 nobody", 0, 2);
    delivery_attempt(host.delivery, attempt(2, MESSAGE_BINARYMIME));
    delivery_attempt(host.delivery, attempt(1, MESSAGE_BINARYMIME));
    assert_result(wait_told(0), 1, FAILED, "5.1.1", "nobody");
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_said("|RSET|");
    assert_int_equal(server.n, 1);
    host_close();
}

/* ---- conversion ---- */

static const char eight[] = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
                            "Content-Transfer-Encoding: 8bit\r\n\r\n.\xc3\xa4\r\n";
static const char eight_quoted[] = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
                                   "Content-Transfer-Encoding: quoted-printable\r\n\r\n..=C3=A4\r\n";

static void converted_down(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < 200; piece += 13) {
        start("250-x\r\n250-PIPELINING\r\n250 SIZE 1000");
        set_body(eight, sizeof(eight) - 1);
        core.piece_size = piece;
        delivery_attempt(host.delivery, attempt(1, piece % 2 == 0 ? MESSAGE_8BITMIME : 0));
        assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        assert_body(eight_quoted, sizeof(eight_quoted) - 1);
        assert_said("MAIL FROM:<s@example.net>|"); /* its size is another now */
        host_close();
    }
}

static void binary_converted(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME");
    set_body(binary, sizeof(binary) - 1);
    delivery_attempt(host.delivery, attempt(1, MESSAGE_BINARYMIME));
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_said("MAIL FROM:<s@example.net> BODY=8BITMIME|");
    assert_said("|DATA|");
    static const char wanted[] =
        "MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\nContent-Type: image/x\r\n\r\n"
        "AP8KLg0KLi4NLg0KLg0KUVVJVA0KbGFzdA==\r\n";
    assert_body(wanted, sizeof(wanted) - 1);
    host_close();
}

static void not_touched_without_need(void **state)
{
    static const char ascii[] = "Content-Transfer-Encoding: 8bit\r\n\r\nall ascii\r\n";
    (void)state;
    for (int along = 0; along < 2; along++) {
        start(old);
        set_body(ascii, sizeof(ascii) - 1);
        core.along = along;
        delivery_attempt(host.delivery, attempt(1, MESSAGE_8BITMIME));
        assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        assert_body(ascii, sizeof(ascii) - 1);
        assert_int_equal(core.reads, along ? 0 : 1); /* one piece: it is not read again */
        host_close();
    }
}

static void cannot_be_converted(void **state)
{
    static const char partial[] = "MIME-Version: 1.0\r\nContent-Type: message/partial; id=1\r\n\r\n\xe4\r\n";
    (void)state;
    for (int turn = 0; turn < 4; turn++) {
        bool declared = turn & 1;
        start(old);
        set_body(partial, sizeof(partial) - 1);
        core.along = turn >= 2;
        delivery_attempt(host.delivery, attempt(1, declared ? MESSAGE_8BITMIME : 0));
        if (declared)
            assert_result(wait_told(0), 0, FAILED, "5.6.3", "message/partial");
        else
            assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        if (!declared)
            assert_body(partial, sizeof(partial) - 1);
        assert_int_equal(core.dots, declared ? 0 : 1);
        delivery_attempt(host.delivery, attempt(1, 0)); /* the connection is of use still */
        assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(server.n, 1);
        host_close();
    }
}

static void body_lost_while_scanning(void **state)
{
    (void)state;
    start(old);
    core.read_status = MR_IO;
    delivery_attempt(host.delivery, attempt(1, MESSAGE_8BITMIME));
    assert_result(wait_told(0), 0, DEFERRED, "4.3.0", "cannot be read");
    assert_string_equal(server.connections[0]->commands, "EHLO out.example.net|");
    host_close();
}

static void server_gone_while_scanning(void **state)
{
    (void)state;
    start(old);
    core.hold[OWED_READ] = true;
    delivery_attempt(host.delivery, attempt(1, MESSAGE_8BITMIME));
    WAIT_FOR(core.reads == 1);
    connection_close(server.connections[0]);
    assert_result(wait_told(0), 0, DEFERRED, "4.4.2", "connection lost");
    core.hold[OWED_READ] = false;
    host_close();
}

/* Scanned, converted, written in chunks: the end comes at every turn of it. */
static void ended_at_every_turn(void **state)
{
    static const char *const next_hops[] = {"250-x\r\n250 PIPELINING", "250-x\r\n250-8BITMIME\r\n250 CHUNKING"};
    (void)state;
    for (int i = 0; i < 120; i++) {
        start(next_hops[i % 2]);
        set_body(binary, sizeof(binary) - 1);
        core.piece_size = 20;
        delivery_attempt(host.delivery, attempt(2, MESSAGE_BINARYMIME));
        delivery_attempt(host.delivery, attempt(1, 0));
        for (int k = 0; k < i / 4; k++)
            turn();
        core.lease = i / 2 % 2 == 0;
        if (!core.lease)
            delivery_lease_ended(host.delivery);
        else if (i % 3 == 0)
            delivery_drain(host.delivery);
        unsigned dots = core.dots;
        if (!core.lease)
            for (int k = 0; k < 5; k++)
                turn();
        assert_true(core.lease || core.dots == dots);
        core.lease = true;
        host_close();
    }
}

/* ---- SMTPUTF8 ---- */

static void passed_on_as_utf8(void **state)
{
    (void)state;
    start(modern);
    set_body("Subject: \xc3\xa4\r\n\r\nx\r\n", 17);
    struct attempt *a = attempt(1, MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME);
    recipient(a, 0)->address = "\xc3\xa4@b\xc3\xbc.example";
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_said("BODY=8BITMIME SMTPUTF8|RCPT TO:<\xc3\xa4@b\xc3\xbc.example>|");
    host_close();
}

/* Addresses with an ASCII form get it; who has none bounces alone. */
static void utf8_without_the_extension(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250 8BITMIME");
    struct attempt *a = attempt(3, MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME);
    a->reverse_path = "s@b\xc3\xbc"
                      "cher.example";
    recipient(a, 0)->address = "\xc3\xa4@example.org";
    recipient(a, 2)->address = "x@b\xc3\xbc"
                               "cher.example";
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_result(t, 0, FAILED, "5.6.7", "SMTPUTF8");
    assert_result(t, 1, DELIVERED, "2.0.0", "taken");
    assert_result(t, 2, DELIVERED, "2.0.0", "taken");
    assert_said("MAIL FROM:<s@xn--bcher-kva.example> BODY=8BITMIME|RCPT TO:<r1@example.org>|"
                "RCPT TO:<x@xn--bcher-kva.example>|DATA|");
    assert_non_null(t->outcome->dsn);
    assert_int_equal(t->outcome->dsn->flags, MESSAGE_DSN | MESSAGE_8BITMIME | MESSAGE_SMTPUTF8);
    assert_kept_has("Content-Type: message/global-delivery-status\r\n");
    assert_kept_has("Final-Recipient: utf-8; \xc3\xa4@example.org\r\n");
    host_close();
}

static void utf8_header_without_the_extension(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250 8BITMIME");
    set_body("Subject: \xc3\xa4\r\n\r\nx\r\n", 17);
    delivery_attempt(host.delivery, attempt(1, MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME));
    assert_result(wait_told(0), 0, FAILED, "5.6.7", "header");
    struct attempt *a = attempt(1, MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME);
    a->reverse_path = "\xc3\xa4@example.net";
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(1), 0, FAILED, "5.6.7", "sender");
    delivery_attempt(host.delivery, attempt(1, 0)); /* undeclared, it goes as it is */
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    assert_string_equal(server.connections[0]->commands,
                        "EHLO out.example.net|MAIL FROM:<s@example.net>|RCPT TO:<r0@example.org>|DATA|");
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(binary_by_bdat),
        cmocka_unit_test(bdat_without_a_lease),
        cmocka_unit_test(chunk_by_chunk),
        cmocka_unit_test(text_by_bdat),
        cmocka_unit_test(chunk_refused),
        cmocka_unit_test(all_refused_before_bdat),
        cmocka_unit_test(converted_down),
        cmocka_unit_test(binary_converted),
        cmocka_unit_test(not_touched_without_need),
        cmocka_unit_test(cannot_be_converted),
        cmocka_unit_test(body_lost_while_scanning),
        cmocka_unit_test(server_gone_while_scanning),
        cmocka_unit_test(ended_at_every_turn),
        cmocka_unit_test(passed_on_as_utf8),
        cmocka_unit_test(utf8_without_the_extension),
        cmocka_unit_test(utf8_header_without_the_extension),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
