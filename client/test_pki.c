/* pki.c: what it issues is accepted by TLS for both ends and names the node; it overwrites nothing and leaves no
 * halves. */
#include "client/pki.h"

#include "proto/base/error.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], error[600];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/mailraft-pki-XXXXXX");
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    char command[100];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static const char *path(const char *name)
{
    static char out[2][200];
    static int at;
    at = !at;
    (void)snprintf(out[at], sizeof(out[at]), "%s/%s", dir, name);
    return out[at];
}

static X509 *read_cert(const char *name)
{
    FILE *file = fopen(path(name), "r");
    assert_non_null(file);
    X509 *cert = PEM_read_X509(file, NULL, NULL, NULL);
    (void)fclose(file);
    assert_non_null(cert);
    return cert;
}

static mode_t mode_of(const char *name)
{
    struct stat st;
    assert_int_equal(stat(path(name), &st), 0);
    return st.st_mode & 0777;
}

static bool exists(const char *name)
{
    return access(path(name), F_OK) == 0;
}

static void ok(int rc)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, error);
}

static SSL_CTX *context(const SSL_METHOD *method, const char *cert, const char *key)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    assert_int_equal(SSL_CTX_load_verify_file(ctx, path("ca.pem")), 1);
    assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, path(cert)), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, path(key), SSL_FILETYPE_PEM), 1);
    assert_int_equal(SSL_CTX_check_private_key(ctx), 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return ctx;
}

/* A whole handshake in memory, both sides with certificates. */
static void handshake(const char *server_name, const char *client_name)
{
    char pem[2][40], key[2][40];
    (void)snprintf(pem[0], sizeof(pem[0]), "%s.pem", server_name);
    (void)snprintf(key[0], sizeof(key[0]), "%s.key", server_name);
    (void)snprintf(pem[1], sizeof(pem[1]), "%s.pem", client_name);
    (void)snprintf(key[1], sizeof(key[1]), "%s.key", client_name);
    SSL_CTX *server_ctx = context(TLS_server_method(), pem[0], key[0]);
    SSL_CTX *client_ctx = context(TLS_client_method(), pem[1], key[1]);
    SSL *server = SSL_new(server_ctx), *client = SSL_new(client_ctx);
    BIO *a, *b;
    assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
    SSL_set_bio(server, a, a);
    SSL_set_bio(client, b, b);
    int client_rc = 0, server_rc = 0;
    for (int i = 0; i < 20 && (client_rc != 1 || server_rc != 1); i++) {
        client_rc = SSL_connect(client);
        server_rc = SSL_accept(server);
    }
    assert_int_equal(client_rc, 1);
    assert_int_equal(server_rc, 1);
    assert_int_equal(SSL_get_verify_result(client), X509_V_OK);
    assert_int_equal(SSL_get_verify_result(server), X509_V_OK);
    SSL_free(client);
    SSL_free(server);
    SSL_CTX_free(client_ctx);
    SSL_CTX_free(server_ctx);
}

static void issues_what_links_need(void **state)
{
    static const char *const alt[] = {"mx1.example.net", "192.0.2.1", "2001:db8::1", "localhost", "mx1"};
    (void)state;
    (void)umask(0);
    ok(pki_init(dir, "test cluster", error, sizeof(error)));
    ok(pki_issue(dir, "mx1", alt, 5, 30, error, sizeof(error)));
    ok(pki_issue(dir, "mx2", NULL, 0, PKI_NODE_DAYS, error, sizeof(error)));
    assert_int_equal(mode_of("ca.key"), 0600);
    assert_int_equal(mode_of("mx1.key"), 0600);
    assert_int_equal(mode_of("ca.pem"), 0644);
    assert_int_equal(mode_of("mx1.pem"), 0644);
    X509 *cert = read_cert("mx1.pem");
    assert_int_equal(X509_check_host(cert, "mx1", 0, 0, NULL), 1);
    assert_int_equal(X509_check_host(cert, "mx1.example.net", 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(cert, "192.0.2.1", 0), 1);
    assert_int_equal(X509_check_ip_asc(cert, "2001:db8::1", 0), 1);
    assert_int_equal(X509_check_host(cert, "mx2", 0, 0, NULL), 0);
    assert_int_equal(X509_check_ca(cert), 0);
    char name[100];
    assert_true(X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof(name)) > 0);
    assert_string_equal(name, "mx1");
    int days, seconds;
    assert_int_equal(ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert)), 1);
    assert_in_range(days, 29, 30);
    X509_free(cert);
    handshake("mx1", "mx2");
    handshake("mx2", "mx1");
}

static void never_outlives_the_authority(void **state)
{
    (void)state;
    ok(pki_init(dir, "c", error, sizeof(error)));
    ok(pki_issue(dir, "mx1", NULL, 0, 36500, error, sizeof(error)));
    X509 *cert = read_cert("mx1.pem"), *ca = read_cert("ca.pem");
    assert_int_equal(ASN1_TIME_compare(X509_get0_notAfter(cert), X509_get0_notAfter(ca)), 0);
    X509_free(cert);
    X509_free(ca);
}

static void overwrites_nothing(void **state)
{
    (void)state;
    ok(pki_init(dir, "c", error, sizeof(error)));
    assert_int_equal(pki_init(dir, "c", error, sizeof(error)), MR_EXISTS);
    ok(pki_issue(dir, "mx1", NULL, 0, 30, error, sizeof(error)));
    assert_int_equal(pki_issue(dir, "mx1", NULL, 0, 30, error, sizeof(error)), MR_EXISTS);
    assert_non_null(strstr(error, "not overwritten"));
    assert_int_equal(unlink(path("mx1.pem")), 0); /* the key alone is kept too */
    assert_int_equal(pki_issue(dir, "mx1", NULL, 0, 30, error, sizeof(error)), MR_EXISTS);
    assert_false(exists("mx1.pem"));
    assert_int_equal(unlink(path("ca.key")), 0);
    assert_int_equal(pki_init(dir, "c", error, sizeof(error)), MR_EXISTS);
    assert_int_equal(pki_issue(dir, "mx2", NULL, 0, 30, error, sizeof(error)), MR_NOTFOUND);
    assert_non_null(strstr(error, "pki init"));
    assert_false(exists("mx2.key"));
    assert_int_equal(mode_of("mx1.key"), 0600);
}

static void bad_names_are_refused(void **state)
{
    static const char *const names[] = {"", "ca", "../x", ".x", "-x", "a b", "a/b", "a,DNS:b", "a\nb"};
    static const char *const alts[] = {"", "a b", "a,DNS:mx2", "*", "1.2.3.4,IP:5.6.7.8", "x/y"};
    (void)state;
    ok(pki_init(dir, "c", error, sizeof(error)));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_int_equal(pki_issue(dir, names[i], NULL, 0, 30, error, sizeof(error)), MR_INVAL);
    for (size_t i = 0; i < sizeof(alts) / sizeof(alts[0]); i++)
        assert_int_equal(pki_issue(dir, "mx1", &alts[i], 1, 30, error, sizeof(error)), MR_INVAL);
    assert_int_equal(pki_issue(dir, "mx1", NULL, 0, 0, error, sizeof(error)), MR_INVAL);
    assert_false(exists("mx1.key"));
    char long_name[80];
    memset(long_name, 'a', 79);
    long_name[79] = 0;
    assert_int_equal(pki_issue(dir, long_name, NULL, 0, 30, error, sizeof(error)), MR_INVAL);
    assert_int_equal(pki_init(dir, "", error, sizeof(error)), MR_INVAL);
    assert_int_equal(pki_init(dir, "a\nb", error, sizeof(error)), MR_INVAL);
}

static void damaged_authority(void **state)
{
    (void)state;
    ok(pki_init(dir, "c", error, sizeof(error)));
    assert_int_equal(truncate(path("ca.key"), 40), 0);
    assert_int_equal(pki_issue(dir, "mx1", NULL, 0, 30, error, sizeof(error)), MR_TLS);
    assert_int_equal(truncate(path("ca.pem"), 0), 0);
    assert_int_equal(pki_issue(dir, "mx1", NULL, 0, 30, error, sizeof(error)), MR_TLS);
    assert_false(exists("mx1.key"));
    assert_int_equal(pki_init("/proc/nowhere", "c", error, sizeof(error)), MR_IO);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(issues_what_links_need), TEST(never_outlives_the_authority),
        TEST(overwrites_nothing),     TEST(bad_names_are_refused),
        TEST(damaged_authority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
