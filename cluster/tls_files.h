/* tls_files.h - what the links between nodes and SMTP have in common of OpenSSL: PEM files into a context, and errors
 * that a person can read.
 *
 * Errors: MR_TLS, with a text that names the file. OpenSSL's queue of errors is empty after each call. Thread: any. */
#ifndef MR_CLUSTER_TLS_FILES_H
#define MR_CLUSTER_TLS_FILES_H

#include <openssl/ssl.h>
#include <stddef.h>

/* The certificate (with its chain) and the key that belongs to it. A key with a passphrase is an error. */
int tls_files_use(SSL_CTX *ctx, const char *cert, const char *key, char *error, size_t error_len);
/* The certificates of this file are trusted. */
int tls_files_trust(SSL_CTX *ctx, const char *ca, char *error, size_t error_len);
/* "WHAT FILE: OpenSSL's oldest reason"; gives MR_TLS. */
int tls_files_failed(const char *what, const char *file, char *error, size_t error_len);
/* Text of the newest failure on a connection. */
void tls_files_error(const SSL *ssl, char *out, size_t out_len);

#endif
