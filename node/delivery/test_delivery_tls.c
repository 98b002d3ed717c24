/* What policies, TLSA records and REQUIRETLS make of a connection. The next hop's TLS is real, and so are its
 * certificates. */
#include "node/delivery/test_delivery_fake.h"
#include "node/tls/test_tls_cert.h"

#include <unistd.h>

#define DELIVERED MAILRAFT__RESULT__DELIVERED
#define DEFERRED  MAILRAFT__RESULT__DEFERRED
#define FAILED    MAILRAFT__RESULT__FAILED

#define WITH_TLS "250-hop.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 STARTTLS"

static struct test_cert authority, named, expired, stranger;
static char ca_file[] = "/tmp/mailraft-test-ca-XXXXXX";

static struct {
    Mailraft__TlsRule rule;
    Mailraft__TlsRule *rules[1];
    char *names[1];
} policy;

static int setup(void **state)
{
    (void)state;
    test_cert_make(&authority, NULL, "Test CA", NULL, 86400);
    test_cert_make(&named, &authority, "mx", "DNS:mx.example.org,DNS:secret.example.net,IP:127.0.0.1", 86400);
    test_cert_make(&expired, &authority, "other", "DNS:other.example", -100);
    test_cert_make(&stranger, NULL, "stranger", "DNS:secret.example.net", 86400);
    int fd = mkstemp(ca_file);
    assert_true(fd >= 0);
    (void)close(fd);
    test_cert_write(&authority, ca_file, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(ca_file);
    test_cert_free(&authority);
    test_cert_free(&named);
    test_cert_free(&expired);
    test_cert_free(&stranger);
    return 0;
}

/* A next hop with STARTTLS under this certificate, and the policy for every site. */
static void start(const struct test_cert *cert, Mailraft__TlsPolicy how, const char *name)
{
    server_open();
    server.tls = tls_context(true);
    test_cert_use(cert, server.tls);
    server.ehlo = WITH_TLS;
    server.ehlo_tls = "250-hop.example\r\n250 8BITMIME";
    trust_ad = true;
    host_open();
    trust_ad = false;
    host.config.delivery.tls_ca = ca_file;
    mailraft__tls_rule__init(&policy.rule);
    policy.rule.site = (char *)(uintptr_t) "default";
    policy.rule.policy = how;
    policy.names[0] = (char *)(uintptr_t)name;
    policy.rule.names = policy.names;
    policy.rule.n_names = name != NULL;
    policy.rules[0] = &policy.rule;
    host.in_force.tls = policy.rules;
    host.in_force.n_tls = 1;
}

static void stop(void)
{
    SSL_CTX *ctx = server.tls;
    host_close();
    SSL_CTX_free(ctx);
}

#define POLICY(x) MAILRAFT__TLS_POLICY__TLS_POLICY_##x

static const char *commands_of(unsigned connection)
{
    assert_true(connection < server.n);
    return server.connections[connection]->commands;
}

static void assert_has(const char *text, const char *what)
{
    if (strstr(text, what) == NULL)
        fail_msg("\"%s\" has no \"%s\"", text, what);
}

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

static void verified(const struct test_cert *cert, const char *name, const char *error)
{
    start(cert, POLICY(VERIFY), name);
    give(0, 1);
    if (error == NULL) {
        assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(atomic_load(&host.counters.tls_out_verified), 1);
    } else {
        assert_result(wait_told(0), 0, DEFERRED, "4.7.5", error);
        assert_null(strstr(commands_of(0), "MAIL"));
        assert_int_equal(atomic_load(&host.counters.tls_fallbacks), 0);
    }
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

/* ---- DANE ---- */

static char tlsa_text[3][80];
static unsigned n_tlsa_text;

static const char *tlsa_of(const struct test_cert *cert, unsigned usage)
{
    uint8_t digest[32];
    unsigned len;
    char *text = tlsa_text[n_tlsa_text++ % 3];
    assert_int_equal(X509_digest(cert->cert, EVP_sha256(), digest, &len), 1);
    int n = snprintf(text, sizeof(tlsa_text[0]), "%u 0 1 ", usage);
    for (unsigned i = 0; i < len; i++)
        n += snprintf(text + n, sizeof(tlsa_text[0]) - (size_t)n, "%02x", digest[i]);
    return text;
}

static const char *tlsa_name(const char *host_name)
{
    static char name[2][80];
    static unsigned n;
    (void)snprintf(name[++n % 2], sizeof(name[0]), "_%u._tcp.%s", server.port, host_name);
    return name[n % 2];
}

/* example.org with one MX host, signed. */
static void start_dane(const struct test_cert *cert)
{
    start(cert, POLICY(DANE), NULL);
    memcpy(server.route, "mx:example.org", 15);
    dns.validates = true;
    dns_mx("example.org", 10, "mx.example.org", 300);
    dns_a("mx.example.org", "127.0.0.1", 300);
}

static void dane(void **state)
{
    (void)state;
    start_dane(&expired); /* usage 3: neither names nor time count */
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&expired, 3)});
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(atomic_load(&host.counters.tls_out_verified), 1);
    stop();

    start_dane(&named); /* one of several records will do */
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&expired, 3)});
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&named, 3)});
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    stop();

    start_dane(&named);
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&expired, 3)});
    give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.5", "(dane)");
    assert_true(told_of(0)->outcome->unreached);
    stop();
}

/* No answer is no "no": the host is left out, another one may do. */
static void records_that_cannot_be_had(void **state)
{
    (void)state;
    start_dane(&named);
    dns_fault(tlsa_name("mx.example.org"), DNS_TLSA, DNS_SERVFAIL);
    give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.5", "TLSA records of mx.example.org");
    assert_int_equal(server.n, 0);
    stop();
    start_dane(&named); /* an answer that cannot be read is no "no" either */
    dns_fault(tlsa_name("mx.example.org"), DNS_TLSA, DNS_GARBAGE);
    give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.5", "TLSA records of mx.example.org");
    stop();
    start_dane(&named);
    dns_fault(tlsa_name("mx.example.org"), DNS_TLSA, DNS_SERVFAIL);
    dns_mx("example.org", 20, "mx2.example.org", 300);
    dns_a("mx2.example.org", "127.0.0.1", 300);
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 1);
    stop();
}

static void records_that_nobody_asks_for(void **state)
{
    (void)state;
    start_dane(&named);
    dns.validates = false;
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(dns_asked(tlsa_name("mx.example.org"), DNS_TLSA), 0);
    stop();
    start_dane(&named);
    policy.rule.policy = POLICY(MAY);
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(dns_asked(tlsa_name("mx.example.org"), DNS_TLSA), 0);
    stop();
}

/* ---- REQUIRETLS ---- */

static void give_required(void)
{
    struct attempt *a = make_attempt(server.route, 0, 1);
    a->flags = MESSAGE_REQUIRETLS;
    delivery_attempt(host.delivery, a);
}

static void required_and_offered(void **state)
{
    (void)state;
    start_dane(&named);
    policy.rule.policy = POLICY(MAY); /* the message asks for more */
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&named, 3)});
    server.ehlo_tls = "250-hop.example\r\n250 REQUIRETLS";
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    give_required(); /* not over the connection that nobody has verified */
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    assert_has(commands_of(0), "QUIT|");
    assert_has(commands_of(1), "MAIL FROM:<> REQUIRETLS|");
    give(0, 1); /* over one that is better than it has to be */
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    stop();
}

/* The same for one that comes while the connection is being reset: what it offers in plain text proves nothing. */
static void required_while_resetting(void **state)
{
    (void)state;
    start_dane(&named);
    dns.validates = false;
    server.ehlo = "250-hop.example\r\n250-PIPELINING\r\n250 REQUIRETLS";
    server_rule("RCPT", "550 5.1.1 nobody", 0, 1);
    server_rule("RSET", SILENT, 0, 1);
    give(0, 1);
    assert_result(wait_told(0), 0, FAILED, "5.1.1", "nobody");
    WAIT_FOR(strstr(commands_of(0), "RSET|") != NULL);
    give_required();
    server.connections[0]->mute = false;
    say(server.connections[0], "250 2.0.0 fine");
    assert_result(wait_told(1), 0, DEFERRED, "4.7.5", "nothing proves that mx.example.org is a host of example.org");
    assert_null(strstr(commands_of(0), "REQUIRETLS"));
    stop();
}

/* It goes back at once, and that says nothing about the messages behind it. */
static void required_and_not_offered(void **state)
{
    (void)state;
    start_dane(&named);
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&named, 3)});
    give_required();
    give(0, 1);
    const struct told *t = wait_told(0);
    assert_result(t, 0, FAILED, "5.7.30", "REQUIRETLS");
    assert_false(t->outcome->unreached);
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_null(strstr(commands_of(0), "MAIL"));
    stop();
}

/* The sender is told, over whatever way there is, and so nothing of the message is in the report (RFC 8689 5). */
static void the_report_shows_nothing(void **state)
{
    (void)state;
    start_dane(&named);
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&named, 3)});
    struct attempt *a = make_attempt(server.route, 0, 1);
    a->flags = MESSAGE_REQUIRETLS;
    a->reverse_path = "from@example.net";
    a->ret = 1; /* FULL */
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_result(t, 0, FAILED, "5.7.30", "REQUIRETLS");
    assert_non_null(t->outcome->dsn);
    assert_int_equal(t->outcome->dsn->flags & MESSAGE_REQUIRETLS, 0);
    assert_non_null(memmem(core.stored, core.stored_len, "5.7.30", 6));
    assert_non_null(memmem(core.stored, core.stored_len, "r0@example.org", 14));
    assert_null(memmem(core.stored, core.stored_len, "hello", 5));
    stop();
}

static void required_and_nobody_to_trust(void **state)
{
    (void)state;
    start_dane(&named);
    dns.validates = false;
    server.ehlo_tls = "250-hop.example\r\n250 REQUIRETLS";
    give_required();
    const struct told *t = wait_told(0);
    assert_result(t, 0, DEFERRED, "4.7.5", "nothing proves that mx.example.org is a host of example.org");
    assert_false(t->outcome->unreached);
    stop();
    start_dane(&named); /* DNSSEC names the host, an authority proves it */
    server.ehlo_tls = "250-hop.example\r\n250 REQUIRETLS";
    give_required();
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    stop();
    start_dane(&expired);
    server.ehlo_tls = "250-hop.example\r\n250 REQUIRETLS";
    give_required();
    assert_result(wait_told(0), 0, DEFERRED, "4.7.5", "not accepted");
    stop();
}

/* ---- MTA-STS ---- */

/* A domain with a record whose policy server is our next hop, which speaks no HTTPS. */
static void start_sts(void)
{
    start_dane(&named);
    policy.rule.policy = POLICY(STS);
    dns.validates = false;
    dns_add((struct dns_record){"_mta-sts.example.org", DNS_TXT, 300, 0, "v=STSv1; id=1;"});
    dns_a("mta-sts.example.org", "127.0.0.1", 300);
}

static void a_policy_that_cannot_be_had(void **state)
{
    (void)state;
    start_sts();
    for (unsigned i = 0; i < 3; i++) {
        give(i, 1); /* slots of their own: three connections */
        assert_result(wait_told(i), 0, DELIVERED, "2.0.0", "taken");
    }
    assert_int_equal(atomic_load(&host.counters.sts_failed), 1);
    assert_int_equal(atomic_load(&host.counters.tls_out), 3);
    assert_int_equal(dns_asked("_mta-sts.example.org", DNS_TXT), 1);
    assert_int_equal(core.n_remembered, 0);
    stop();
}

/* What the cluster knows is enough: nothing is fetched, and the host has to be the policy's. */
static void a_policy_of_the_cluster(const char *mx, unsigned mode, uint64_t expires_ms, const char *error)
{
    const char *const list[] = {mx};
    start_sts();
    struct attempt *a = make_attempt(server.route, 0, 1);
    a->now_ms = 1000000;
    a->site = (struct attempt_site){
        .sts_id = "1", .sts_mode = mode, .sts_mx = list, .n_sts_mx = 1, .sts_expires_ms = expires_ms};
    delivery_attempt(host.delivery, a);
    if (error != NULL)
        assert_result(wait_told(0), 0, DEFERRED, "4.7.5", error);
    else
        assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    stop();
}

static void policies_of_the_cluster(void **state)
{
    const uint64_t later = 1000000 + 86400000;
    (void)state;
    a_policy_of_the_cluster("mx.example.org", 3, later, NULL);
    assert_int_equal(atomic_load(&host.counters.tls_out_verified), 1);
    assert_int_equal(atomic_load(&host.counters.sts_failed), 0);
    a_policy_of_the_cluster("other.example.org", 3, later, "does not name mx.example.org");
    a_policy_of_the_cluster("other.example.org", 2, later, NULL); /* testing */
    assert_int_equal(atomic_load(&host.counters.tls_out_verified), 0);
    a_policy_of_the_cluster("other.example.org", 1, later, NULL);  /* none */
    a_policy_of_the_cluster("other.example.org", 3, 999999, NULL); /* over: it would have to be fetched */
    assert_int_equal(atomic_load(&host.counters.sts_failed), 1);
}

/* RFC 8461 4.2: the name of a certificate's subject is none of the host's. */
static void a_common_name_is_not_enough(void **state)
{
    struct test_cert common;
    const char *const list[] = {"mx.example.org"};
    (void)state;
    test_cert_make(&common, &authority, "mx.example.org", "IP:192.0.2.1", 86400);
    start_dane(&common);
    policy.rule.policy = POLICY(STS);
    dns.validates = false;
    struct attempt *a = make_attempt(server.route, 0, 1);
    a->site = (struct attempt_site){
        .sts_id = "1", .sts_mode = STS_ENFORCE, .sts_mx = list, .n_sts_mx = 1, .sts_expires_ms = 86400000};
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.5", "mismatch");
    stop();
    test_cert_free(&common);
}

/* Records that nobody can use do not switch the policy off. */
static void a_policy_beside_unusable_records(void **state)
{
    const char *const list[] = {"other.example.org"};
    (void)state;
    start_dane(&named);
    policy.rule.policy = POLICY(STS);
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&named, 1)});
    struct attempt *a = make_attempt(server.route, 0, 1);
    a->site = (struct attempt_site){
        .sts_id = "1", .sts_mode = STS_ENFORCE, .sts_mx = list, .n_sts_mx = 1, .sts_expires_ms = 86400000};
    delivery_attempt(host.delivery, a);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.5", "does not name mx.example.org");
    stop();
    start_dane(&named); /* without a policy they say that there is TLS */
    policy.rule.policy = POLICY(STS);
    server.ehlo = "250 hop.example";
    dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&named, 1)});
    give(0, 1);
    assert_result(wait_told(0), 0, DEFERRED, "4.7.4", "STARTTLS");
    stop();
}

/* A connection from before the policy was known serves until then only. */
static void a_policy_that_comes_later(void **state)
{
    const char *const list[] = {"mx.example.org"};
    (void)state;
    start_sts();
    give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(atomic_load(&host.counters.tls_out_verified), 0);
    unsigned before = server.n; /* one of them for the policy */
    for (unsigned i = 1; i < 3; i++) {
        struct attempt *a = make_attempt(server.route, 0, 1);
        a->site = (struct attempt_site){
            .sts_id = "2", .sts_mode = STS_ENFORCE, .sts_mx = list, .n_sts_mx = 1, .sts_expires_ms = 86400000};
        delivery_attempt(host.delivery, a);
        assert_result(wait_told(i), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(server.n, before + 1);
        assert_int_equal(atomic_load(&host.counters.tls_out_verified), 1);
    }
    stop();
}

static void sts_ended_at_every_turn(void **state)
{
    (void)state;
    for (int turns = 0; turns < 24; turns++) {
        start_sts();
        give(0, 1);
        give(1, 1);
        for (int i = 0; i < turns; i++)
            turn();
        if (turns % 2 == 0)
            delivery_lease_ended(host.delivery);
        stop();
    }
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

static void ended_at_every_turn(void **state)
{
    (void)state;
    for (int turns = 0; turns < 24; turns++) {
        start_dane(&named);
        dns_add((struct dns_record){tlsa_name("mx.example.org"), DNS_TLSA, 300, 0, tlsa_of(&named, 3)});
        give(0, 1);
        for (int i = 0; i < turns; i++)
            turn();
        if (turns % 2 == 0)
            delivery_lease_ended(host.delivery);
        stop();
    }
}

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
        cmocka_unit_test(dane),
        cmocka_unit_test(records_that_cannot_be_had),
        cmocka_unit_test(records_that_nobody_asks_for),
        cmocka_unit_test(required_and_offered),
        cmocka_unit_test(required_while_resetting),
        cmocka_unit_test(required_and_not_offered),
        cmocka_unit_test(the_report_shows_nothing),
        cmocka_unit_test(required_and_nobody_to_trust),
        cmocka_unit_test(a_policy_that_cannot_be_had),
        cmocka_unit_test(policies_of_the_cluster),
        cmocka_unit_test(a_common_name_is_not_enough),
        cmocka_unit_test(a_policy_beside_unusable_records),
        cmocka_unit_test(a_policy_that_comes_later),
        cmocka_unit_test(sts_ended_at_every_turn),
        cmocka_unit_test(sessions_are_resumed),
        cmocka_unit_test(ended_at_every_turn),
        cmocka_unit_test(the_rules_change),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
