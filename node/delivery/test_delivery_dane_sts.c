/* Who says what a next hop has to show: TLSA records, MTA-STS, and REQUIRETLS of a message. */
#include "node/delivery/test_delivery_tls.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
        cmocka_unit_test(ended_at_every_turn),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}