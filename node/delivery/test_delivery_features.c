/* Extensions of the next hop, over a real socket: what is sent where they are offered, and what is done where not. */
#include "node/delivery/test_delivery_fake.h"

#define NONE      MAILRAFT__RESULT__RESULT_NONE
#define DELIVERED MAILRAFT__RESULT__DELIVERED
#define DEFERRED  MAILRAFT__RESULT__DEFERRED
#define FAILED    MAILRAFT__RESULT__FAILED

static const char *const modern = "250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
                                  "250-CHUNKING\r\n250-BINARYMIME\r\n250-DSN\r\n250 SIZE 1000000";
static const char *const old = "250 hop.example";

static void start(const char *ehlo)
{
    server_open();
    server.ehlo = ehlo;
    host_open();
}

static void set_body(const char *text, size_t len)
{
    core.body = text;
    core.body_len = len;
}

static struct attempt *attempt(uint32_t recipients, uint32_t flags)
{
    struct attempt *a = make_attempt(server.route, 0, recipients);
    a->reverse_path = "s@example.net";
    a->flags = flags;
    return a;
}

static struct attempt_recipient *recipient(struct attempt *a, uint32_t i)
{
    return (struct attempt_recipient *)(uintptr_t)&a->recipients[i];
}

static void assert_body(const char *body, size_t len)
{
    const struct connection *c = server.connections[server.n - 1];
    assert_int_equal(c->body_len, len);
    assert_memory_equal(c->body, body, len);
}

static void assert_said(const char *text)
{
    const char *commands = server.connections[server.n - 1]->commands;
    if (strstr(commands, text) == NULL)
        fail_msg("\"%s\" was not said: %s", text, commands);
}

static void assert_kept_has(const char *text)
{
    assert_non_null(core.stored);
    if (memmem(core.stored, core.stored_len, text, strlen(text)) == NULL)
        fail_msg("\"%s\" is not in: %.*s", text, (int)core.stored_len, (const char *)core.stored);
}

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

/* ---- limits ---- */

static void only_so_many_recipients(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTMAX=2 MAILMAX=2");
    delivery_attempt(host.delivery, attempt(5, 0));
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.0.0", "taken");
    assert_result(t, 1, DELIVERED, "2.0.0", "taken");
    for (size_t i = 2; i < 5; i++)
        assert_int_equal(t->outcome->results[i]->result, NONE);
    assert_int_equal(t->outcome->retry_for_ms, 0);
    assert_said("RCPT TO:<r0@example.org>|RCPT TO:<r1@example.org>|DATA|");
    struct attempt *a = attempt(3, 0); /* the second attempt begins with others */
    a->attempt = 2;
    a->failures = 1;
    server_rule("RCPT", "450 4.2.0 later", 0, 2);
    delivery_attempt(host.delivery, a);
    t = wait_told(1);
    assert_int_equal(t->outcome->results[1]->result, NONE);
    assert_result(t, 2, DEFERRED, "4.2.0", "later");
    assert_result(t, 0, DEFERRED, "4.2.0", "later");
    assert_true(t->outcome->retry_for_ms > 0); /* nobody was decided: not at once */
    WAIT_FOR(core.n_closed == 1);              /* MAILMAX */
    delivery_attempt(host.delivery, attempt(1, 0));
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    host_close();
}

/* Greylisting, for each recipient by itself: all have to be asked before the pause, or some are asked for the first
 * time when it has become hours; and the rounds of one pause count as one. */
static void all_are_asked_before_the_pause(void **state)
{
    static const struct {
        uint32_t failures;
        uint64_t now_ms, least; /* of the pause; 0: at once */
    } rounds[] = {{0, 0, 0}, {1, 10, 1000}, {2, 1100, 0}, {3, 1110, 2000}, {4, 3500, 0}, {5, 3510, 4000}};
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTMAX=2");
    server_rule("RCPT", "451 4.7.1 greylisted", 0, 0);
    for (uint32_t i = 0; i < 6; i++) {
        struct attempt *a = attempt(3, 0);
        a->attempt = 2 * i + 1; /* one of two went back without asking anybody */
        a->failures = rounds[i].failures;
        a->now_ms = rounds[i].now_ms;
        delivery_attempt(host.delivery, a);
        const Mailraft__Outcome *o = wait_told(i)->outcome;
        assert_in_range(o->retry_for_ms, rounds[i].least, rounds[i].least * 12 / 10);
        assert_int_equal(o->results[(2 * i + 2) % 3]->result, NONE); /* two of three, in turn */
    }
    /* Refused after the recipients it is about the message, or the host: no reason to offer it to the others now. */
    server.n_rules = 0;
    server_rule(".", "451 4.3.1 no room", 0, 0);
    delivery_attempt(host.delivery, attempt(3, 0));
    assert_true(wait_told(6)->outcome->retry_for_ms >= 1000);
    /* So it is where the host says of itself, or of what is behind it, that it is in trouble. */
    static const char *const trouble[] = {"451 4.3.0 no store", "450 4.4.1 no backend", "452 4.5.3 too many"};
    for (uint32_t i = 0; i < 3; i++) {
        server.n_rules = 0;
        server_rule("RCPT", trouble[i], 0, 0);
        delivery_attempt(host.delivery, attempt(3, 0));
        assert_true(wait_told(7 + i)->outcome->retry_for_ms >= 1000);
    }
    static const char *const grey[] = {"450 4.2.0 later", "451 later", "450 4.1.1 being verified"};
    for (uint32_t i = 0; i < 3; i++) {
        server.n_rules = 0;
        server_rule("RCPT", grey[i], 0, 0);
        delivery_attempt(host.delivery, attempt(3, 0));
        assert_int_equal(wait_told(10 + i)->outcome->retry_for_ms, 0);
    }
    host_close();
}

/* A domain that defers for ever must not keep the others from their turn. */
static void other_domains_have_their_turn(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTDOMAINMAX=1");
    server_rule("RCPT TO:<r0@example.org>", "450 4.2.0 later", 0, 0);
    for (uint32_t i = 0; i < 2; i++) {
        struct attempt *a = attempt(2, 0);
        a->attempt = i + 1;
        a->failures = i;
        recipient(a, 1)->address = "x@two.example";
        delivery_attempt(host.delivery, a);
    }
    assert_result(wait_told(0), 0, DEFERRED, "4.2.0", "later");
    assert_true(told_of(0)->outcome->retry_for_ms >= 1000);
    assert_result(wait_told(1), 1, DELIVERED, "2.0.0", "taken");
    host_close();
}

static void only_so_many_domains(void **state)
{
    (void)state;
    start("250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 LIMITS RCPTDOMAINMAX=2");
    struct attempt *a = attempt(4, 0);
    recipient(a, 1)->address = "x@two.example";
    recipient(a, 2)->address = "x@three.example";
    recipient(a, 3)->address = "y@TWO.example";
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.0.0", "taken");
    assert_result(t, 1, DELIVERED, "2.0.0", "taken");
    assert_int_equal(t->outcome->results[2]->result, NONE);
    assert_result(t, 3, DELIVERED, "2.0.0", "taken");
    host_close();
}

/* As many recipients and domains as a message may have: the choice must not keep the worker from its lease. */
static void very_many_domains(void **state)
{
    enum { N = 10000, LEN = 24 };
    (void)state;
    start("250-x\r\n250-8BITMIME\r\n250 LIMITS RCPTDOMAINMAX=5000");
    struct attempt *one = make_attempt(server.route, 0, 1);
    struct attempt *a = mr_calloc(1, sizeof(*a) + N * sizeof(struct attempt_recipient));
    struct attempt_recipient *r = (struct attempt_recipient *)(a + 1);
    char(*addresses)[LEN] = mr_calloc(N, LEN);
    *a = *one;
    attempt_free(one);
    for (uint32_t i = 0; i < N; i++) {
        (void)snprintf(addresses[i], LEN, "r@d%u.example", i);
        r[i] = (struct attempt_recipient){.index = 10 + i, .address = addresses[i]};
    }
    a->n_recipients = N;
    a->recipients = r;
    server_rule("MAIL", "450 4.7.1 not now", 0, 0);
    uint64_t begun = mr_boot_ns(&mr_clock_real);
    delivery_attempt(host.delivery, a);
    (void)wait_told(0);
    assert_true(mr_boot_ns(&mr_clock_real) - begun < 5 * MR_NS_PER_S); /* PROTOCOL.md 5.10 */
    host_close();
    free(addresses);
}

/* RFC 5321 4.5.3.1.10: the rest again at once, and then not more than it took. */
static void too_many_recipients(void **state)
{
    (void)state;
    for (int pipelining = 0; pipelining < 2; pipelining++) {
        start(pipelining ? "250-x\r\n250-8BITMIME\r\n250 PIPELINING" : "250-x\r\n250 8BITMIME");
        server_rule("RCPT", "452 4.5.3 too many", 2, 2);
        delivery_attempt(host.delivery, attempt(4, 0));
        const struct told *t = wait_told(0);
        assert_result(t, 0, DELIVERED, "2.0.0", "taken");
        assert_result(t, 1, DELIVERED, "2.0.0", "taken");
        assert_int_equal(t->outcome->results[2]->result, NONE);
        assert_int_equal(t->outcome->results[3]->result, NONE);
        assert_int_equal(t->outcome->retry_for_ms, 0);
        server.n_rules = 0;
        delivery_attempt(host.delivery, attempt(3, 0));
        t = wait_told(1);
        assert_result(t, 1, DELIVERED, "2.0.0", "taken");
        assert_int_equal(t->outcome->results[2]->result, NONE); /* learned */
        assert_int_equal(server.n, 1);
        host_close();
    }
    start("250-x\r\n250-8BITMIME\r\n250 PIPELINING");
    server_rule("RCPT", "452 4.5.3 too many", 0, 1); /* of the first: none of a transaction's limits */
    delivery_attempt(host.delivery, attempt(2, 0));
    assert_result(wait_told(0), 0, DEFERRED, "4.5.3", "too many");
    assert_result(wait_told(0), 1, DELIVERED, "2.0.0", "taken");
    assert_true(told_of(0)->outcome->retry_for_ms > 0);
    host_close();
}

/* LMTP answers for those who were accepted in the order of their RCPT, which need not be that of the attempt. */
static void lmtp_in_another_order(void **state)
{
    (void)state;
    server_open();
    server_lmtp();
    server.ehlo = "250-x\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=2";
    host_open();
    server_rule(".", "250 2.0.0 first", 0, 1);
    server_rule(".", "450 4.2.2 second", 0, 1);
    struct attempt *a = attempt(3, 0);
    a->attempt = 2;
    a->failures = 1;
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_said("RCPT TO:<r2@example.org>|RCPT TO:<r0@example.org>|DATA|");
    assert_result(t, 2, DELIVERED, "2.0.0", "first");
    assert_result(t, 0, DEFERRED, "4.2.2", "second");
    assert_int_equal(t->outcome->results[1]->result, NONE);
    host_close();
}

/* ---- reports ---- */

static void success_is_passed_on(void **state)
{
    (void)state;
    start(modern);
    struct attempt *a = attempt(1, 0);
    recipient(a, 0)->notify = NOTIFY_SUCCESS;
    delivery_attempt(host.delivery, a);
    assert_null(wait_told(0)->outcome->dsn);
    assert_said("NOTIFY=SUCCESS ORCPT=rfc822;r0@example.org|");
    host_close();
}

static void success_is_reported(void **state)
{
    (void)state;
    for (int lmtp = 0; lmtp < 2; lmtp++) {
        server_open();
        if (lmtp)
            server_lmtp();
        host_open();
        struct attempt *a = attempt(4, 0);
        recipient(a, 0)->notify = NOTIFY_SUCCESS | NOTIFY_FAILURE;
        recipient(a, 1)->notify = NOTIFY_FAILURE;
        recipient(a, 2)->notify = NOTIFY_SUCCESS | NOTIFY_FAILURE;
        recipient(a, 3)->notify = NOTIFY_NEVER;
        a->ret = 1;
        a->envid = "E1";
        server_rule("RCPT TO:<r2", "550 5.1.1 nobody", 0, 0);
        delivery_attempt(host.delivery, a);
        const struct told *t = wait_told(0);
        assert_non_null(t->outcome->dsn);
        assert_result(t, 0, DELIVERED, "2.0.0", "taken");
        assert_kept_has("Final-Recipient: rfc822; r0@example.org\r\n");
        assert_kept_has(lmtp ? "Action: delivered\r\nStatus: 2.0.0\r\n" : "Action: relayed\r\nStatus: 2.0.0\r\n");
        assert_kept_has("Final-Recipient: rfc822; r2@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n");
        assert_kept_has("Original-Envelope-Id: E1\r\n");
        assert_null(memmem(core.stored, core.stored_len, "r1@example.org\r\nAction", 22));
        assert_null(memmem(core.stored, core.stored_len, "r3@example.org", 14));
        host_close();
    }
}

static void success_that_cannot_be_reported(void **state)
{
    (void)state;
    start("250 x");
    core.store_status = MR_NOSPACE;
    struct attempt *a = attempt(1, 0);
    recipient(a, 0)->notify = NOTIFY_SUCCESS;
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken"); /* never sent again for that */
    assert_null(told_of(0)->outcome->dsn);
    host_close();
}

/* What the next hop said to the dot does not wait for the report's majority to be known after a crash (5.8). */
static void a_reply_is_journalled_before_its_report_is_stored(void **state)
{
    (void)state;
    for (int held = 0; held < 2; held++) { /* what does not answer: the read of the original, the report's body */
        start("250 x");
        core.hold[held == 0 ? OWED_READ : OWED_STORED] = true;
        core.along = true;
        struct attempt *a = attempt(3, 0);
        recipient(a, 1)->notify = NOTIFY_SUCCESS;
        server_rule("RCPT TO:<r2", "550 5.1.1 nobody", 0, 0);
        delivery_attempt(host.delivery, a);
        WAIT_FOR(core.owed != NULL && core.owed->kind == (held == 0 ? OWED_READ : OWED_STORED));
        assert_null(told_of(0));
        assert_int_equal(core.n_replies, 1);
        assert_int_equal(core.reply->n_results, 3);
        struct told known = {.outcome = core.reply};
        assert_result(&known, 0, DELIVERED, "2.0.0", "taken");
        assert_result(&known, 1, DELIVERED, "2.0.0", "taken");
        assert_result(&known, 2, FAILED, "5.1.1", "nobody"); /* that nobody was told of yet: cluster_reply's matter */
        core.hold[OWED_READ] = core.hold[OWED_STORED] = false;
        assert_result(wait_told(0), 2, FAILED, "5.1.1", "nobody");
        assert_non_null(told_of(0)->outcome->dsn);
        assert_int_equal(core.n_replies, 1);
        host_close();
    }
}

/* No report, or no dot: nothing is written ahead. */
static void usual_replies_are_journalled_once(void **state)
{
    (void)state;
    start("250 x");
    server_rule("RCPT TO:<r1", "450 4.2.1 later", 0, 1);
    delivery_attempt(host.delivery, attempt(2, 0));
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_result(wait_told(0), 1, DEFERRED, "4.2.1", "later");
    server_rule("RCPT TO:<r", "550 5.1.1 nobody", 0, 0);
    delivery_attempt(host.delivery, attempt(2, 0));
    assert_result(wait_told(1), 1, FAILED, "5.1.1", "nobody");
    assert_non_null(told_of(1)->outcome->dsn);
    struct attempt *a = attempt(2, 0);
    a->reverse_path = ""; /* nobody is told */
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(2), 1, FAILED, "5.1.1", "nobody");
    assert_null(told_of(2)->outcome->dsn);
    assert_int_equal(core.n_replies, 0);
    host_close();
}

/* ---- deliver-by ---- */

static struct attempt *by(Mailraft__DeliverBy mode, int64_t left_ms, bool trace)
{
    struct attempt *a = attempt(1, 0);
    a->now_ms = 1772366400000;
    a->deliver_by = mode;
    a->deliver_by_ms = (uint64_t)(1772366400000 + left_ms);
    a->deliver_by_trace = trace;
    return a;
}

static void in_time(void **state)
{
    static const Mailraft__DeliverBy RETURN = MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN;
    static const Mailraft__DeliverBy TELL = MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY;
    (void)state;
    start("250-x\r\n250-8BITMIME\r\n250 DELIVERBY 60");
    delivery_attempt(host.delivery, by(RETURN, 3600900, false));
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_said("MAIL FROM:<s@example.net> BY=3600;R|");
    assert_null(told_of(0)->outcome->dsn);
    delivery_attempt(host.delivery, by(RETURN, 59000, false));
    assert_result(wait_told(1), 0, FAILED, "5.4.7", "sooner");
    delivery_attempt(host.delivery, by(RETURN, -1, false));
    assert_result(wait_told(2), 0, FAILED, "5.4.7", "passed");
    assert_non_null(told_of(2)->outcome->dsn);
    delivery_attempt(host.delivery, by(TELL, -9000, true));
    assert_result(wait_told(3), 0, DELIVERED, "2.0.0", "taken");
    assert_said(" BY=-9;NT|");
    assert_non_null(told_of(3)->outcome->dsn); /* the trace */
    assert_kept_has("Action: relayed\r\n");
    host_close();
    start("250 8BITMIME");
    delivery_attempt(host.delivery, by(RETURN, 3600000, false));
    assert_result(wait_told(0), 0, FAILED, "5.4.7", "DELIVERBY");
    delivery_attempt(host.delivery, by(TELL, 3600000, false));
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_non_null(told_of(1)->outcome->dsn);
    assert_kept_has("Action: relayed\r\n");
    struct attempt *a = by(TELL, 3600000, false);
    recipient(a, 0)->notify = NOTIFY_NEVER;
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    assert_null(told_of(2)->outcome->dsn);
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
        cmocka_unit_test(only_so_many_recipients),
        cmocka_unit_test(all_are_asked_before_the_pause),
        cmocka_unit_test(only_so_many_domains),
        cmocka_unit_test(other_domains_have_their_turn),
        cmocka_unit_test(very_many_domains),
        cmocka_unit_test(too_many_recipients),
        cmocka_unit_test(lmtp_in_another_order),
        cmocka_unit_test(success_is_passed_on),
        cmocka_unit_test(success_is_reported),
        cmocka_unit_test(success_that_cannot_be_reported),
        cmocka_unit_test(a_reply_is_journalled_before_its_report_is_stored),
        cmocka_unit_test(usual_replies_are_journalled_once),
        cmocka_unit_test(in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
