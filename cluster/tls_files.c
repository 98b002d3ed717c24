#include "cluster/tls_files.h"

#include "proto/base/error.h"

#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <string.h>

/* A key with a passphrase would ask on the terminal; we have none. */
static int no_passphrase(char *buffer, int size, int writing, void *arg)
{
    (void)buffer, (void)size, (void)writing, (void)arg;
    return -1;
}

int tls_files_failed(const char *what, const char *file, char *error, size_t error_len)
{
    unsigned long code = ERR_get_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    char text[160];
    if (ERR_SYSTEM_ERROR(code))
        (void)snprintf(text, sizeof(text), "%s", strerror(ERR_GET_REASON(code)));
    else if (reason == NULL && code != 0)
        ERR_error_string_n(code, text, sizeof(text));
    else
        (void)snprintf(text, sizeof(text), "%s", reason != NULL ? reason : "unknown failure");
    (void)snprintf(error, error_len, "%s %s: %s", what, file, text);
    ERR_clear_error();
    return MR_TLS;
}

int tls_files_use(SSL_CTX *ctx, const char *cert, const char *key, char *error, size_t error_len)
{
    ERR_clear_error();
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return tls_files_failed("cannot read the certificate", cert, error, error_len);
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        return tls_files_failed("cannot use the key", key, error, error_len);
    if (SSL_CTX_check_private_key(ctx) != 1)
        return tls_files_failed("the certificate does not belong to the key", key, error, error_len);
    return 0;
}

int tls_files_trust(SSL_CTX *ctx, const char *ca, char *error, size_t error_len)
{
    ERR_clear_error();
    if (SSL_CTX_load_verify_file(ctx, ca) != 1)
        return tls_files_failed("cannot read the CA certificate", ca, error, error_len);
    return 0;
}

void tls_files_error(const SSL *ssl, char *out, size_t out_len)
{
    unsigned long code = ERR_peek_last_error();
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED)
        (void)snprintf(out, out_len, "certificate not accepted: %s",
                       X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
    else if (code != 0 && ERR_reason_error_string(code) != NULL)
        (void)snprintf(out, out_len, "TLS: %s", ERR_reason_error_string(code));
    else
        (void)snprintf(out, out_len, "TLS failure");
    ERR_clear_error();
}
