/* One attempt at a time, from connection to outcome: what each answer of a next hop comes to. */
#include "node/delivery/test_delivery_fake.h"

#define DELIVERED MAILRAFT__RESULT__DELIVERED
#define DEFERRED  MAILRAFT__RESULT__DEFERRED
#define FAILED    MAILRAFT__RESULT__FAILED

static void start(void)
{
    server_open();
    host_open();
}

static void assert_body(const struct connection *c, const char *body)
{
    assert_int_equal(c->body_len, strlen(body));
    assert_memory_equal(c->body, body, c->body_len);
}

/* ---- success ---- */

static void pipelined(void **state)
{
    (void)state;
    start();
    struct attempt *a = make_attempt(server.route, 0, 2);
    a->reverse_path = "from@example.net";
    a->flags = MESSAGE_8BITMIME;
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.0.0", "250 2.0.0 taken");
    assert_result(t, 1, DELIVERED, "2.0.0", "taken");
    assert_false(t->outcome->unreached);
    assert_string_equal(server.connections[0]->commands,
                        "EHLO out.example.net|MAIL FROM:<from@example.net> SIZE=32 BODY=8BITMIME|"
                        "RCPT TO:<r0@example.org>|RCPT TO:<r1@example.org>|DATA|");
    assert_body(server.connections[0], core.body);
    assert_int_equal(core.dots, 1);
    assert_int_equal(atomic_load(&host.counters.deliveries_delivered), 2);
    host_close();
    assert_int_equal(core.n_closed, 1);
}

static void one_command_at_a_time(void **state)
{
    (void)state;
    start();
    server.ehlo = NULL; /* so HELO it is, without any extension */
    server_rule("RCPT TO:<r1", "550 5.1.1 no such user", 0, 0);
    give(0, 3);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.0.0", "taken");
    assert_result(t, 1, FAILED, "5.1.1", "550 5.1.1 no such user");
    assert_result(t, 2, DELIVERED, "2.0.0", "taken");
    assert_string_equal(server.connections[0]->commands,
                        "EHLO out.example.net|HELO out.example.net|MAIL FROM:<>|RCPT TO:<r0@example.org>|"
                        "RCPT TO:<r1@example.org>|RCPT TO:<r2@example.org>|DATA|");
    host_close();
}

/* Dots at line beginnings are doubled wherever the pieces are cut, and a last line without its end gets one. */
static void stuffing_at_every_cut(void **state)
{
    (void)state;
    for (size_t piece = 1; piece <= 24; piece++) {
        start();
        core.body = ".\r\n..two\r\na.b\r\n.\r\n\r\n.end";
        core.body_len = strlen(core.body);
        core.piece_size = piece;
        give(0, 1);
        assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        assert_body(server.connections[0], "..\r\n...two\r\na.b\r\n..\r\n\r\n..end\r\n");
        assert_int_equal(server.connections[0]->dots, 1);
        host_close();
    }
}

static void a_lone_cr_at_the_end(void **state)
{
    (void)state;
    start();
    core.body = "a\r";
    core.body_len = 2;
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_body(server.connections[0], "a\r\n");
    host_close();
}

/* It is used again when the connection turns out to be dead. */
static void a_body_that_came_along(void **state)
{
    (void)state;
    start();
    core.along = true;
    core.piece_size = 7;
    server_rule("MAIL", "421 4.4.2 idle for too long", 1, 1);
    for (uint32_t i = 0; i < 3; i++) {
        give(0, 1);
        assert_result(wait_told(i), 0, DELIVERED, "2.0.0", "taken");
        assert_body(server.connections[server.n - 1], core.body);
    }
    assert_int_equal(server.n, 2);
    assert_int_equal(core.reads, 0);
    host_close();
}

/* ---- refusals ---- */

static void refused_at_mail(void **state)
{
    (void)state;
    for (int pipelining = 0; pipelining < 2; pipelining++) {
        start();
        if (!pipelining)
            server.ehlo = "250 hop.example";
        server_rule("MAIL", "550 5.7.1 not from you", 0, 1);
        server_rule("RCPT", "503 5.5.1 MAIL first", 0, 2);
        give(0, 2);
        give(0, 1);
        const struct told *t = wait_told(0);
        assert_result(t, 0, FAILED, "5.7.1", "not from you");
        assert_result(t, 1, FAILED, "5.7.1", "not from you");
        server.n_rules = 0;
        assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(server.n, 1); /* the connection was of use again */
        assert_int_equal(core.dots, 1);
        host_close();
    }
}

static void some_recipients_refused(void **state)
{
    (void)state;
    start();
    server_rule("RCPT TO:<r0", "450 4.2.1 full", 0, 0);
    server_rule("RCPT TO:<r2", "551 5.1.6 moved", 0, 0);
    server_rule(".", "250 2.6.0 got it", 0, 0);
    give(0, 3);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DEFERRED, "4.2.1", "full");
    assert_result(t, 1, DELIVERED, "2.6.0", "got it");
    assert_result(t, 2, FAILED, "5.1.6", "moved");
    assert_false(t->outcome->unreached);
    assert_false(t->outcome->avoid_node);
    assert_true(t->outcome->retry_for_ms >= 1000 && t->outcome->retry_for_ms <= 1200);
    host_close();
}

static void all_recipients_refused(void **state)
{
    (void)state;
    for (int pipelining = 0; pipelining < 2; pipelining++) {
        start();
        if (!pipelining)
            server.ehlo = "250 hop.example";
        server_rule("RCPT", "550 5.1.1 nobody", 0, 2);
        give(0, 2);
        give(0, 1);
        assert_result(wait_told(0), 0, FAILED, "5.1.1", "nobody");
        assert_result(told_of(0), 1, FAILED, "5.1.1", "nobody");
        assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(server.n, 1);
        assert_non_null(strstr(server.connections[0]->commands, "RSET|MAIL FROM"));
        assert_int_equal(server.connections[0]->dots, 1);
        host_close();
    }
}

/* RFC 2920 3.1: DATA was pipelined and is answered 354 though nobody was accepted: an empty message ends it. */
static void data_taken_for_nobody(void **state)
{
    (void)state;
    start();
    server_rule("RCPT", "550 5.1.1 nobody", 0, 2);
    server_rule("DATA", "354 whatever", 0, 1);
    server_rule(".", "554 5.5.1 no valid recipients", 0, 1);
    give(0, 2);
    give(0, 1);
    assert_result(wait_told(0), 0, FAILED, "5.1.1", "nobody");
    assert_result(told_of(0), 1, FAILED, "5.1.1", "nobody");
    assert_int_equal(core.dots, 0); /* nobody's message: no journal */
    assert_int_equal(server.connections[0]->body_len, 0);
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 1);
    host_close();
}

static void refused_at_data_and_dot(void **state)
{
    (void)state;
    start();
    server_rule("DATA", "451 4.3.0 later", 0, 1);
    server_rule(".", "554 5.6.0 spam", 0, 1);
    server_rule(".", "452 4.3.1 disk", 0, 1);
    server_rule(".", "354 what now", 0, 1);
    for (int i = 0; i < 3; i++)
        give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.3.0", "later");
    assert_int_equal(core.dots, 0);
    assert_result(wait_told(1), 0, FAILED, "5.6.0", "spam");
    assert_result(wait_told(2), 0, DEFERRED, "4.3.1", "disk");
    give(0, 1);
    assert_result(wait_told(3), 0, DEFERRED, "4.0.0", "what now");
    assert_int_equal(core.dots, 3);
    host_close();
}

static void too_large_for_its_size(void **state)
{
    (void)state;
    start();
    server.ehlo = "250-hop.example\r\n250 SIZE 31";
    give(0, 1);
    assert_result(wait_told(0), 0, FAILED, "5.3.4", "limit");
    assert_string_equal(server.connections[0]->commands, "EHLO out.example.net|");
    host_close();
}

/* ---- failures of the connection ---- */

static void assert_unreached(bool avoid_node)
{
    give(0, 1);
    give(0, 1);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DEFERRED, "4.4.1", "");
    assert_true(t->outcome->unreached);
    assert_int_equal(t->outcome->avoid_node, avoid_node);
    assert_released(wait_told(1), "next hop unreachable");
    WAIT_FOR(core.n_closed == 1);
    assert_int_equal(core.closed[0].attempts, 2);
    host_close();
}

static void nobody_listens(void **state)
{
    (void)state;
    start();
    (void)close(server.fd);
    server.fd = -1;
    assert_unreached(true);
}

static void greetings(void **state)
{
    static const char *const greeting[] = {"554 5.3.2 no service", "421 4.3.2 too busy", "450 later", DROP, "what?"};
    (void)state;
    for (size_t i = 0; i < sizeof(greeting) / sizeof(greeting[0]); i++) {
        start();
        server_rule("", greeting[i], 0, 0);
        assert_unreached(false);
    }
}

static void no_greeting_in_time(void **state)
{
    (void)state;
    start();
    host.config.delivery.command_timeout_ms = 50;
    server_rule("", SILENT, 0, 0);
    assert_unreached(false);
}

static void no_hello(void **state)
{
    static const char *const hello[] = {"421 4.3.2 bye", "450 later", DROP};
    (void)state;
    for (size_t i = 0; i < sizeof(hello) / sizeof(hello[0]); i++) {
        start();
        server_rule("EHLO", hello[i], 0, 0);
        server_rule("HELO", DROP, 0, 0);
        assert_unreached(false);
        assert_int_equal(server.n, strcmp(hello[i], DROP) == 0 ? 3 : 1);
    }
    start();
    server_rule("EHLO", "502 what", 0, 0);
    server_rule("HELO", "502 what", 0, 0);
    assert_unreached(false);
}

/* One connection that ends there says little: the peer may be overloaded, or start again. With HELO mail would go in
 * plain text, without what its sender asked for. */
static void hangs_up_at_ehlo_once(void **state)
{
    (void)state;
    start();
    server_rule("EHLO", DROP, 0, 1);
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    assert_non_null(strstr(server.connections[1]->commands, "EHLO out.example.net|MAIL FROM:<>"));
    host_close();
}

/* A server from before RFC 1869 that hangs up at each EHLO is greeted with HELO, for this message. */
static void hangs_up_at_ehlo(void **state)
{
    (void)state;
    start();
    server_rule("EHLO", DROP, 0, 2);
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_string_equal(server.connections[0]->commands, "EHLO out.example.net|");
    assert_string_equal(server.connections[1]->commands, "EHLO out.example.net|");
    WAIT_FOR(server.open == 0);
    assert_string_equal(server.connections[2]->commands,
                        "HELO out.example.net|MAIL FROM:<>|RCPT TO:<r0@example.org>|DATA|QUIT|");
    give(0, 1);
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 4);
    assert_non_null(strstr(server.connections[2]->commands, "|QUIT|"));
    assert_non_null(strstr(server.connections[3]->commands, "EHLO out.example.net|MAIL FROM:<>"));
    assert_int_equal(server.most_open, 1); /* D4 */
    host_close();
}

static void dropped_or_silent_on_the_way(void **state)
{
    static const char *const at[] = {"MAIL", "RCPT", "DATA"};
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        start();
        host.config.delivery.command_timeout_ms = i < 3 ? 20000 : 200;
        server_rule(at[i % 3], i < 3 ? DROP : SILENT, 0, 0);
        give(0, 1);
        const struct told *t = wait_told(0);
        assert_result(t, 0, DEFERRED, "4.4.2", "before the end of the transaction");
        assert_false(t->outcome->unreached);
        assert_int_equal(core.dots, 0);
        assert_int_equal(server.n, 1);
        host_close();
    }
}

static void lost_after_the_dot(void **state)
{
    (void)state;
    for (int silent = 0; silent < 2; silent++) {
        start();
        if (silent)
            host.config.delivery.data_timeout_ms = 200;
        server_rule(".", silent ? SILENT : DROP, 0, 0);
        give(0, 2);
        const struct told *t = wait_told(0);
        assert_result(t, 0, DEFERRED, "4.4.2", "possibly delivered");
        assert_result(t, 1, DEFERRED, "4.4.2", "possibly delivered");
        assert_int_equal(core.dots, 1);
        WAIT_FOR(core.n_closed == 1 && server.open == 0);
        host_close();
    }
}

static void says_421(void **state)
{
    static const char *const at[] = {"MAIL", "RCPT", "DATA", "."};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        start();
        server_rule(at[i], "421 4.7.0 enough of you", 0, 1);
        give(0, 2);
        give(0, 1);
        const struct told *t = wait_told(0);
        assert_result(t, 0, DEFERRED, "4.7.0", "421 4.7.0 enough of you");
        assert_result(t, 1, DEFERRED, "4.7.0", "421 4.7.0 enough of you");
        assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken"); /* over another connection */
        assert_int_equal(server.n, 2);
        assert_int_equal(server.most_open, 1); /* D4 */
        host_close();
    }
}

static void not_smtp_in_the_middle(void **state)
{
    (void)state;
    start();
    server_rule("RCPT", "HTTP/1.1 400 Bad Request", 0, 0);
    give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.4.2", "does not speak SMTP");
    host_close();
}

static void body_cannot_be_read(void **state)
{
    (void)state;
    start();
    core.read_status = MR_NOTFOUND;
    give(0, 1);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DEFERRED, "4.3.0", "body cannot be read");
    assert_false(t->outcome->unreached);
    assert_int_equal(core.dots, 0);
    host_close();
}

/* ---- DNS ---- */

static void by_mx(void **state)
{
    (void)state;
    start();
    dns_mx("example.org", 10, "hop.example.org", 300);
    dns_a("hop.example.org", "127.0.0.1", 300);
    delivery_attempt(host.delivery, make_attempt("mx:example.org", 0, 1));
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    host_close();
}

static void dns_says_no(void **state)
{
    (void)state;
    start();
    dns_mx("null.example", 0, "", 300);
    dns_fault("servfail.example", 0, DNS_SERVFAIL);
    delivery_attempt(host.delivery, make_attempt("mx:missing.example", 0, 1));
    delivery_attempt(host.delivery, make_attempt("mx:null.example", 0, 1));
    delivery_attempt(host.delivery, make_attempt("mx:servfail.example", 0, 1));
    delivery_attempt(host.delivery, make_attempt("mx:servfail.example", 0, 1));
    const struct told *t = wait_told(0);
    assert_result(t, 0, FAILED, "5.1.2", "does not exist");
    assert_false(t->outcome->unreached);
    assert_result(wait_told(1), 0, FAILED, "5.1.10", "null MX");
    t = wait_told(2);
    assert_result(t, 0, DEFERRED, "4.4.3", "servfail.example");
    assert_true(t->outcome->unreached && t->outcome->avoid_node);
    assert_released(wait_told(3), "next hop unreachable");
    WAIT_FOR(core.n_closed == 3);
    host_close();
}

/* The best host's queue of connections is full, so that connecting lasts; the second best has to be tried then. */
static void the_next_address_after_a_timeout(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    int full, filler[8];
    (void)state;
    server_open_at("127.0.0.3", 0, 0);
    at.sin_port = htons(server.port);
    assert_int_equal(inet_pton(AF_INET, "127.0.0.2", &at.sin_addr), 1);
    full = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(full, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(full, 0), 0);
    for (size_t i = 0; i < 8; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(filler[i], (struct sockaddr *)&at, sizeof(at));
    }
    host_open();
    host.config.delivery.connect_timeout_ms = 100;
    dns_mx("example.org", 10, "full.example.org", 300);
    dns_mx("example.org", 20, "good.example.org", 300);
    dns_mx("example.org", 30, "closed.example.org", 300);
    dns_a("full.example.org", "127.0.0.2", 300);
    dns_a("good.example.org", "127.0.0.3", 300);
    dns_a("closed.example.org", "127.0.0.4", 300);
    delivery_attempt(host.delivery, make_attempt("mx:example.org", 0, 1));
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    host_close();
    for (size_t i = 0; i < 8; i++)
        (void)close(filler[i]);
    (void)close(full);
}

/* ---- LMTP ---- */

static void lmtp_answers_for_each(void **state)
{
    (void)state;
    start();
    server_lmtp();
    server_rule("RCPT TO:<r1", "550 5.1.1 no", 0, 0);
    server_rule(".", "250 2.1.5 first", 0, 1);
    server_rule(".", "452 4.2.2 over quota", 0, 1);
    server_rule(".", "550 5.7.0 never", 0, 1);
    give(0, 4);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.1.5", "first");
    assert_result(t, 1, FAILED, "5.1.1", "no");
    assert_result(t, 2, DEFERRED, "4.2.2", "over quota");
    assert_result(t, 3, FAILED, "5.7.0", "never");
    assert_int_equal(strncmp(server.connections[0]->commands, "LHLO out.example.net|", 21), 0);
    host_close();
}

static void lmtp_lost_between_answers(void **state)
{
    (void)state;
    start();
    server_lmtp();
    server_rule(".", "250 2.1.5 first", 0, 1);
    server_rule(".", DROP, 0, 0);
    give(0, 2);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.1.5", "first");
    assert_result(t, 1, DEFERRED, "4.4.2", "possibly delivered");
    host_close();
}

static void retries_grow(void **state)
{
    (void)state;
    start();
    server_rule("MAIL", "451 4.0.0 later", 0, 0);
    static const uint64_t least[] = {1000, 2000, 4000, 4000};
    for (uint32_t i = 0; i < 4; i++) {
        struct attempt *a = make_attempt(server.route, 0, 1);
        a->failures = i;
        for (uint32_t k = 0; k < i; k++)
            a->now_ms += least[k];
        delivery_attempt(host.delivery, a);
        uint64_t ms = wait_told(i)->outcome->retry_for_ms;
        assert_true(ms >= least[i] && ms <= least[i] * 12 / 10);
    }
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelined),
        cmocka_unit_test(one_command_at_a_time),
        cmocka_unit_test(stuffing_at_every_cut),
        cmocka_unit_test(a_lone_cr_at_the_end),
        cmocka_unit_test(a_body_that_came_along),
        cmocka_unit_test(refused_at_mail),
        cmocka_unit_test(some_recipients_refused),
        cmocka_unit_test(all_recipients_refused),
        cmocka_unit_test(data_taken_for_nobody),
        cmocka_unit_test(refused_at_data_and_dot),
        cmocka_unit_test(too_large_for_its_size),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(greetings),
        cmocka_unit_test(no_greeting_in_time),
        cmocka_unit_test(no_hello),
        cmocka_unit_test(hangs_up_at_ehlo_once),
        cmocka_unit_test(hangs_up_at_ehlo),
        cmocka_unit_test(dropped_or_silent_on_the_way),
        cmocka_unit_test(lost_after_the_dot),
        cmocka_unit_test(says_421),
        cmocka_unit_test(not_smtp_in_the_middle),
        cmocka_unit_test(body_cannot_be_read),
        cmocka_unit_test(by_mx),
        cmocka_unit_test(dns_says_no),
        cmocka_unit_test(the_next_address_after_a_timeout),
        cmocka_unit_test(lmtp_answers_for_each),
        cmocka_unit_test(lmtp_lost_between_answers),
        cmocka_unit_test(retries_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
