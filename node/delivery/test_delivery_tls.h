/* test_delivery_tls.h - a next hop with STARTTLS, its certificates, and the policy for every site. */
#ifndef MR_DELIVERY_TEST_DELIVERY_TLS_H
#define MR_DELIVERY_TEST_DELIVERY_TLS_H

#include "node/delivery/test_delivery_fake.h"
#include "node/tls/test_tls_cert.h"

#include <unistd.h>

#define DELIVERED MAILRAFT__RESULT__DELIVERED
#define DEFERRED  MAILRAFT__RESULT__DEFERRED
#define FAILED    MAILRAFT__RESULT__FAILED

#define WITH_TLS "250-hop.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 STARTTLS"

#define POLICY(x) MAILRAFT__TLS_POLICY__TLS_POLICY_##x

static struct test_cert authority, named, expired, stranger;
static char ca_file[] = "/tmp/mailraft-test-ca-XXXXXX";

static struct {
    Mailraft__TlsRule rule;
    Mailraft__TlsRule *rules[1];
    char *names[1];
} policy;

static inline int setup(void **state)
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

static inline int teardown(void **state)
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
static inline void start(const struct test_cert *cert, Mailraft__TlsPolicy how, const char *name)
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

static inline void stop(void)
{
    SSL_CTX *ctx = server.tls;
    host_close();
    SSL_CTX_free(ctx);
}

static inline const char *commands_of(unsigned connection)
{
    assert_true(connection < server.n);
    return server.connections[connection]->commands;
}

static inline void assert_has(const char *text, const char *what)
{
    if (strstr(text, what) == NULL)
        fail_msg("\"%s\" has no \"%s\"", text, what);
}

static inline void verified(const struct test_cert *cert, const char *name, const char *error)
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

#endif
