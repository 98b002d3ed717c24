/* test_tls_cert.h - certificates for tests, made when they are needed: nothing in the sources expires. */
#ifndef MR_TLS_TEST_TLS_CERT_H
#define MR_TLS_TEST_TLS_CERT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

/* No test uses all of what follows. */
#pragma GCC diagnostic ignored "-Wunused-function"

struct test_cert {
    EVP_PKEY *key;
    X509 *cert;
};

static void test_cert_extension(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    assert_non_null(e);
    assert_int_equal(X509_add_ext(cert, e, -1), 1);
    X509_EXTENSION_free(e);
}

/* issuer NULL: signs itself, and may sign others. names: "DNS:a.example,DNS:*.b.example"; NULL: none. Valid from an
 * hour ago (or, when seconds is negative, until then) for this many seconds from now. */
static void test_cert_make(struct test_cert *c, const struct test_cert *issuer, const char *name, const char *names,
                           long seconds)
{
    static long serial = 1;
    X509_NAME *subject;

    c->key = EVP_EC_gen("P-256");
    c->cert = X509_new();
    assert_true(c->key != NULL && c->cert != NULL);
    assert_int_equal(X509_set_version(c->cert, X509_VERSION_3), 1);
    assert_int_equal(ASN1_INTEGER_set(X509_get_serialNumber(c->cert), serial++), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(c->cert), -86400));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(c->cert), seconds));
    assert_int_equal(X509_set_pubkey(c->cert, c->key), 1);
    subject = X509_get_subject_name(c->cert);
    assert_int_equal(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0),
                     1);
    assert_int_equal(X509_set_issuer_name(c->cert, issuer != NULL ? X509_get_subject_name(issuer->cert) : subject), 1);
    test_cert_extension(c->cert, NID_basic_constraints, issuer == NULL ? "critical,CA:TRUE" : "CA:FALSE");
    if (names != NULL)
        test_cert_extension(c->cert, NID_subject_alt_name, names);
    assert_true(X509_sign(c->cert, issuer != NULL ? issuer->key : c->key, EVP_sha256()) > 0);
}

static void test_cert_free(struct test_cert *c)
{
    EVP_PKEY_free(c->key);
    X509_free(c->cert);
}

/* Either file may be NULL. */
static void test_cert_write(const struct test_cert *c, const char *cert_file, const char *key_file)
{
    FILE *f;

    if (cert_file != NULL) {
        f = fopen(cert_file, "w");
        assert_non_null(f);
        assert_int_equal(PEM_write_X509(f, c->cert), 1);
        assert_int_equal(fclose(f), 0);
    }
    if (key_file != NULL) {
        f = fopen(key_file, "w");
        assert_non_null(f);
        assert_int_equal(PEM_write_PrivateKey(f, c->key, NULL, NULL, 0, NULL, NULL), 1);
        assert_int_equal(fclose(f), 0);
    }
}

static void test_cert_use(const struct test_cert *c, SSL_CTX *ctx)
{
    assert_int_equal(SSL_CTX_use_certificate(ctx, c->cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, c->key), 1);
}

static void test_cert_trust(const struct test_cert *c, SSL_CTX *ctx)
{
    assert_int_equal(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), c->cert), 1);
}

#endif
