/* link_tls.h - TLS of the links: contexts from three PEM files and the check of a peer's name.
 *
 * T1: TLS 1.3 only, both sides show a certificate of the one CA file; no tickets, no sessions, no system trust store.
 * T2: the names that count are the certificate's SAN DNS names and its common names, compared byte for byte: a node
 *     name is ours, not the DNS's.
 * Thread: the loop's. Running connections keep what they need of a context that was freed. */
#ifndef MR_CLUSTER_LINK_TLS_H
#define MR_CLUSTER_LINK_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

struct link_tls {
    SSL_CTX *accepting, *dialling;
};

/* MR_TLS with a text that names the file. */
int link_tls_open(struct link_tls *tls, const char *ca, const char *cert, const char *key, char *error,
                  size_t error_len);
void link_tls_close(struct link_tls *tls);
/* The events of tls_expiry.h for our certificate (key "cluster.tls.cert") and those of the authority
 * ("cluster.tls.ca").
 */
void link_tls_log(const struct link_tls *tls, const char *ca, const char *cert, bool only_warnings);
/* Does the certificate that the other side has shown (and that was verified) carry this name? */
bool link_tls_peer_is(const SSL *ssl, const char *name);
/* First name of the other side's certificate, for logs; "" without one. */
void link_tls_peer_name(const SSL *ssl, char *out, size_t out_len);

#endif
