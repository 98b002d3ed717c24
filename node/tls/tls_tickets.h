/* tls_tickets.h - the keys of a server's session tickets (RFC 5077, RFC 8446 section 4.6.1), changed every few hours,
 * so that a key that is stolen opens the resumed sessions of a few hours only.
 *
 * A ticket lives two hours at most (OpenSSL's default for sessions); the key before the present one still opens it.
 * Thread: any; the contexts of all workers share one. */
#ifndef MR_TLS_TLS_TICKETS_H
#define MR_TLS_TLS_TICKETS_H

#include "proto/base/clock.h"

#include <openssl/ssl.h>

enum { TLS_TICKETS_CHANGE_MS = 4 * 3600 * 1000 };

struct tls_tickets;

/* clock: kept. The keys are random: OpenSSL's generator, which no simulation replaces. */
struct tls_tickets *tls_tickets_open(const struct mr_clock *clock);
/* The contexts that use them keep them for as long as they live. NULL is allowed. */
void tls_tickets_close(struct tls_tickets *k);
/* Tickets of this context's connections from now on. */
void tls_tickets_use(struct tls_tickets *k, SSL_CTX *ctx);

#endif
