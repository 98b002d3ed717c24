#include "cluster/link_tls.h"

#include "cluster/tls_expiry.h"
#include "cluster/tls_files.h"
#include "proto/base/error.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

static int load(SSL_CTX *ctx, const char *ca, const char *cert, const char *key, char *error, size_t error_len)
{
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1)
        return tls_files_failed("TLS 1.3", "", error, error_len);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    int rc = tls_files_trust(ctx, ca, error, error_len);
    return rc != 0 ? rc : tls_files_use(ctx, cert, key, error, error_len);
}

int link_tls_open(struct link_tls *tls, const char *ca, const char *cert, const char *key, char *error,
                  size_t error_len)
{
    ERR_clear_error();
    tls->accepting = SSL_CTX_new(TLS_server_method());
    tls->dialling = SSL_CTX_new(TLS_client_method());
    int rc = MR_TLS;
    if (tls->accepting == NULL || tls->dialling == NULL)
        (void)tls_files_failed("TLS", "", error, error_len);
    else
        rc = load(tls->accepting, ca, cert, key, error, error_len);
    if (rc == 0)
        rc = load(tls->dialling, ca, cert, key, error, error_len);
    if (rc != 0)
        link_tls_close(tls);
    return rc;
}

void link_tls_close(struct link_tls *tls)
{
    SSL_CTX_free(tls->accepting);
    SSL_CTX_free(tls->dialling);
    tls->accepting = tls->dialling = NULL;
}

static void log_one(const X509 *cert, const char *key, const char *file, bool only_warnings)
{
    char name[200] = "";
    if (X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof(name)) < 0)
        name[0] = 0;
    tls_expiry_log(cert, key, file, name, only_warnings);
}

void link_tls_log(const struct link_tls *tls, const char *ca, const char *cert, bool only_warnings)
{
    /* No other thread has a hand on this store. */
    const STACK_OF(X509_OBJECT) *trusted = X509_STORE_get0_objects(SSL_CTX_get_cert_store(tls->accepting));
    log_one(SSL_CTX_get0_certificate(tls->accepting), "cluster.tls.cert", cert, only_warnings);
    for (int i = 0; i < sk_X509_OBJECT_num(trusted); i++) {
        const X509 *authority = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(trusted, i));
        if (authority != NULL)
            log_one(authority, "cluster.tls.ca", ca, only_warnings);
    }
}

/* Compared with its length: a name with a zero byte inside is no name of ours. */
static bool same(const ASN1_STRING *value, const char *name)
{
    size_t len = strlen(name);
    return value != NULL && ASN1_STRING_length(value) == (int)len &&
           memcmp(ASN1_STRING_get0_data(value), name, len) == 0;
}

static bool alt_name_is(X509 *cert, const char *name)
{
    bool found = false;
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && !found; i++) {
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        found = type == GEN_DNS && same(value, name);
    }
    GENERAL_NAMES_free(names);
    return found;
}

bool link_tls_peer_is(const SSL *ssl, const char *name)
{
    X509 *cert = SSL_get0_peer_certificate(ssl);
    if (cert == NULL || SSL_get_verify_result(ssl) != X509_V_OK)
        return false;
    if (alt_name_is(cert, name))
        return true;
    const X509_NAME *subject = X509_get_subject_name(cert);
    for (int at = -1; (at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0;)
        if (same(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)), name))
            return true;
    return false;
}

void link_tls_peer_name(const SSL *ssl, char *out, size_t out_len)
{
    X509 *cert = ssl != NULL ? SSL_get0_peer_certificate(ssl) : NULL;
    if (out_len > 0)
        out[0] = 0;
    if (cert != NULL)
        X509_NAME_oneline(X509_get_subject_name(cert), out, (int)out_len);
}
