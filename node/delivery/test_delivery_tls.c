/* What the rules and the next hop make of a connection. The next hop's TLS is real, and so are its
 * certificates. Records and policies: test_delivery_dane_sts.c. */
#include "node/delivery/test_delivery_tls.h"

/* ---- STARTTLS ---- */

/* What the first EHLO's reply offered is forgotten: the second offers neither PIPELINING nor SIZE. */
static void two_greetings(void **state)
{
    (void)state;
    start(&expired, POLICY(MAY), NULL); /* nobody looks at the certificate */
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_string_equal(commands_of(0), "EHLO out.example.net|STARTTLS|EHLO out.example.net|MAIL FROM:<>|"
                                        "RCPT TO:<r0@example.org>|DATA|");
    assert_int_equal(atomic_load(&host.counters.tls_out), 1);
    assert_int_equal(atomic_load(&host.counters.tls_out_verified), 0);
    give(0, 1); /* over the same connection */
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 1);
    stop();
}

static void never(void **state)
{
    (void)state;
    start(&named, POLICY(NONE), NULL);
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_null(strstr(commands_of(0), "STARTTLS"));
    stop();
}

/* A body of many pieces, larger than all buffers on the way, read slowly. */
static void a_large_body(void **state)
{
    (void)state;
    start(&named, POLICY(ENCRYPT), NULL);
    size_t len = 3 << 20;
    char *body = mr_malloc(len + 1);
    for (size_t i = 0; i < len; i++)
        body[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : i % 64 == 0 ? '.' : (char)('a' + i % 26);
    body[len] = 0;
    core.body = body;
    core.body_len = len;
    core.piece_size = 256 * 1024;
    give(0, 1);
    WAIT_FOR(core.reads > 2);
    server.reading = false;
    for (int i = 0; i < 50; i++)
        turn();
    server.reading = true;
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    const struct connection *c = server.connections[0];
    assert_int_equal(c->body_len, len + len / 64); /* each line's dot is doubled */
    for (size_t i = 0, k = 0; i < len; i++) {
        if (i % 64 == 0)
            assert_int_equal(c->body[k++], '.');
        assert_int_equal(c->body[k++], body[i]);
    }
    stop();
    free(body);
}

/* So many parts that get a header of two fields that a piece grows to more than TLS keeps at a time. */
static void a_piece_that_grows(void **state)
{
    enum { PARTS = 9900 };
    static const char head[] = "Content-Type: multipart/mixed; boundary=b\r\n\r\n",
                      part[] = "--b\r\n\r\n\xe4\xe4\xe4\xe4\xe4\xe4\xe4\r\n";
    size_t len = sizeof(head) - 1;
    char *body = mr_malloc(len + PARTS * sizeof(part) + 8);
    (void)state;
    start(&named, POLICY(ENCRYPT), NULL);
    server.ehlo_tls = "250 hop.example";
    memcpy(body, head, len);
    for (unsigned i = 0; i < PARTS; i++, len += sizeof(part) - 1)
        memcpy(body + len, part, sizeof(part));
    memcpy(body + len, "--b--\r\n", 7);
    core.body = body;
    core.body_len = len + 7;
    core.piece_size = 256 * 1024;
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_true(server.connections[0]->body_len > 1 << 20);
    stop();
    free(body);
}

/* ---- fallback ---- */

static void falls_back(const char *command, const char *reply, const char *reason)
{
    start(&named, POLICY(MAY), NULL);
    server_rule(command, reply, strncmp(command, "EHLO", 4) == 0 ? 1 : 0, 1);
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    assert_null(strstr(commands_of(1), "STARTTLS"));
    assert_has(commands_of(1), "DATA|");
    assert_int_equal(core.n_remembered, 1);
    assert_string_equal(core.remembered->site, "127.0.0.1");
    assert_true(core.remembered->tls_failed_for_ms > 0);
    assert_has(core.remembered->tls_reason, reason);
    assert_int_equal(atomic_load(&host.counters.tls_fallbacks), 1);
    assert_int_equal(atomic_load(&host.counters.tls_out_failed), 1);
    stop();
}

static void a_failure_costs_one_connection(void **state)
{
    (void)state;
    falls_back("STARTTLS", "454 4.7.0 not now", "454");
    falls_back("STARTTLS", "501 what?", "501");
    falls_back("STARTTLS", DROP, "closed");
    falls_back("STARTTLS", "220 go ahead\r\n250-hop.example\r\n250 AUTH PLAIN", "plain text"); /* CVE-2021-38371 */
    falls_back("EHLO", DROP, "");                                                              /* the one under TLS */
}

/* A server that is busy, and a node whose own files cannot be read, switch TLS off for nobody. */
static void failures_that_say_nothing_of_tls(void **state)
{
    (void)state;
    start(&named, POLICY(MAY), NULL);
    server_rule("STARTTLS", "421 4.3.2 too busy", 0, 1);
    give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.4.1", "421");
    assert_true(told_of(0)->outcome->unreached);
    assert_int_equal(server.n, 1);
    assert_int_equal(core.n_remembered, 0);
    stop();
    start(&named, POLICY(MAY), NULL);
    host.config.delivery.tls_cert = (char *)(uintptr_t) "/nonexistent";
    host.config.delivery.tls_key = (char *)(uintptr_t) "/nonexistent";
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    assert_int_equal(core.n_remembered, 0);
    host.config.delivery.tls_cert = host.config.delivery.tls_key = NULL;
    stop();
}

/* Nothing that came before the handshake is read after it, also when it comes in a packet of its own. */
static void plain_text_in_the_handshake(void **state)
{
    (void)state;
    start(&named, POLICY(ENCRYPT), NULL);
    server_rule("STARTTLS", "220 go ahead\r\n250 fine", 0, 0);
    give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.0", "plain text");
    assert_true(told_of(0)->outcome->unreached);
    assert_int_equal(core.n_remembered, 0);
    stop();
    start(&named, POLICY(ENCRYPT), NULL);
    SSL_CTX *ctx = server.tls;
    server.tls = NULL; /* says 220, and then goes on in plain text */
    server_rule("STARTTLS", "220 go ahead", 0, 0);
    give(0, 1);
    WAIT_FOR(server.n == 1 && strstr(commands_of(0), "STARTTLS") != NULL);
    for (int i = 0; i < 5; i++)
        turn();
    connection_send(server.connections[0], "250 fine\r\n", 10);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.0", "does not speak TLS");
    server.tls = ctx;
    stop();
}

static void a_site_that_is_known_to_fail(void **state)
{
    (void)state;
    start(&named, POLICY(MAY), NULL);
    struct attempt *a = make_attempt(server.route, 0, 1);
    a->site.tls_failed = true;
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_null(strstr(commands_of(0), "STARTTLS"));
    assert_int_equal(core.n_remembered, 0);
    stop();
    start(&named, POLICY(ENCRYPT), NULL); /* where TLS is demanded that means nothing */
    a = make_attempt(server.route, 0, 1);
    a->site.tls_failed = true;
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_has(commands_of(0), "STARTTLS");
    stop();
}

/* ---- demands ---- */

static void encrypt_without_an_offer(void **state)
{
    (void)state;
    start(&named, POLICY(ENCRYPT), NULL);
    server.ehlo = "250 hop.example";
    give(0, 1);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DEFERRED, "4.7.4", "STARTTLS");
    assert_true(t->outcome->unreached);
    assert_null(strstr(commands_of(0), "MAIL"));
    stop();
}

static void by_name(void **state)
{
    (void)state;
    verified(&named, NULL, NULL); /* the route's host, an address */
    verified(&named, "secret.example.net", NULL);
    verified(&named, ".example.net", NULL);
    verified(&named, "example.net", "mismatch");
    verified(&expired, "other.example", "expired");
    verified(&stranger, "secret.example.net", "self-signed");
}

/* ---- sessions ---- */

/* The next connection to the same host resumes what the one before had; under another demand it does not. */
static void sessions_are_resumed(void **state)
{
    (void)state;
    start(&named, POLICY(VERIFY), NULL);
    host.limit.messages_per_connection = 1;
    for (unsigned i = 0; i < 3; i++) {
        server_rule("QUIT", SILENT, 0, 0); /* so that the connection can be looked at */
        give(0, 1);
        assert_result(wait_told(i), 0, DELIVERED, "2.0.0", "taken");
        WAIT_FOR(strstr(commands_of(i), "QUIT|") != NULL);
        assert_int_equal(tls_resumed(server.connections[i]->tls), i == 1);
        server.n_rules = 0;
        connection_close(server.connections[i]);
        WAIT_FOR(core.n_closed == i + 1);
        if (i == 1) {
            policy.names[0] = (char *)(uintptr_t) "secret.example.net";
            policy.rule.n_names = 1;
        }
    }
    assert_int_equal(atomic_load(&host.counters.tls_out_verified), 3);
    stop();
}

/* ---- while it is under way ---- */

static void the_rules_change(void **state)
{
    (void)state;
    start(&named, POLICY(NONE), NULL);
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    policy.rule.policy = POLICY(ENCRYPT);
    give(0, 1);
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    assert_has(commands_of(1), "STARTTLS");
    stop();
    start(&named, POLICY(VERIFY), NULL);
    for (uint32_t i = 0; i < 2; i++) {
        give(0, 1);
        assert_result(wait_told(i), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(server.n, 1);
    }
    policy.names[0] = (char *)(uintptr_t) "stranger.example";
    policy.rule.n_names = 1;
    give(0, 1);
    assert_result(wait_told(2), 0, DEFERRED, "4.7.5", "mismatch");
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_greetings),
        cmocka_unit_test(never),
        cmocka_unit_test(a_large_body),
        cmocka_unit_test(a_piece_that_grows),
        cmocka_unit_test(a_failure_costs_one_connection),
        cmocka_unit_test(failures_that_say_nothing_of_tls),
        cmocka_unit_test(plain_text_in_the_handshake),
        cmocka_unit_test(a_site_that_is_known_to_fail),
        cmocka_unit_test(encrypt_without_an_offer),
        cmocka_unit_test(by_name),
        cmocka_unit_test(sessions_are_resumed),
        cmocka_unit_test(the_rules_change),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}