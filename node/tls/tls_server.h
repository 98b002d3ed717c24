/* tls_server.h - what the SMTP server shows and asks for in TLS: certificates by name, clients' certificates.
 *
 * Made from smtp.tls of the configuration, and never changed: a reload makes another one; connections keep the one that
 * they began with. One serves all workers, so a client's session ticket is good at each of them; a new one takes no
 * tickets of the old one, so who may no longer relay cannot by resuming.
 * The certificate is chosen by SNI from the DNS names (SAN, else CN) of each; "*.example" stands for one label. Several
 * certificates with the same names and keys of different kinds (RSA, ECDSA) serve together. None fits, or no name: the
 * default.
 * Thread: any. Ownership: counted references. */
#ifndef MR_TLS_TLS_SERVER_H
#define MR_TLS_TLS_SERVER_H

#include "node/config/config.h"
#include "node/tls/tls.h"

struct tls_server;

/* *out is NULL when the configuration has no smtp.tls. MR_CONFIG: error names file and key. */
int tls_server_open(struct tls_server **out, const struct config *c, char *error, size_t error_len);
struct tls_server *tls_server_ref(struct tls_server *ts);
void tls_server_unref(struct tls_server *ts); /* NULL is allowed */
/* The events of tls_expiry.h, for each. */
void tls_server_log(const struct tls_server *ts, bool only_warnings);
/* Says on one line each what is wrong with certificates though they can be used: expired, not yet valid. "" else. */
void tls_server_warnings(const struct tls_server *ts, char *text, size_t len);

/* The caller keeps its reference to ts until the handshake is done. */
struct tls *tls_server_accept(const struct tls_server *ts);

enum tls_client {
    TLS_CLIENT_NONE,     /* showed no certificate */
    TLS_CLIENT_UNKNOWN,  /* one that means nothing to us */
    TLS_CLIENT_VERIFIED, /* by client_ca */
    TLS_CLIENT_LISTED,   /* in relay_certs */
};
/* After the handshake: VERIFIED and LISTED may relay. */
enum tls_client tls_server_client(const struct tls_server *ts, const struct tls *t);

#endif
