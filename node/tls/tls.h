/* tls.h - TLS on one connection (OpenSSL 3), without any I/O: bytes of the network in and out here, plain text there.
 *
 * For both sides: SMTP server and delivery. The owner reads and writes the socket:
 *     tls_accept | tls_connect, settings, tls_start -> send tls_take's bytes
 *     bytes came: tls_feed, then tls_read until it gives 0 -> look at tls_state, send tls_take's bytes
 *     to say something: tls_write -> send tls_take's bytes
 *     the socket's end came: tls_eof; to end: tls_shutdown -> send tls_take's bytes, close.
 *
 * T1: TLS 1.2 or 1.3, no compression, no renegotiation; a context of tls_context has the ciphers of today.
 * T2: ENDED comes only by the other side's close_notify; a connection that ends without one is BROKEN (truncation).
 * T3: memory is bounded: TLS_MAX_INPUT bytes not looked at (the owner reads no more from the socket while tls_read was
 *     not called until 0), TLS_MAX_HANDSHAKE bytes of handshake, TLS_MAX_OUTPUT bytes not taken. More: BROKEN.
 * T4: an idle connection holds no buffers.
 * T5: bytes may wait in tls_take in every state (an alert in BROKEN); to one that spoke no TLS nothing is said.
 * Thread: the owner's. A context may be used by many. */
#ifndef MR_TLS_TLS_H
#define MR_TLS_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TLS_MAX_INPUT = 256 << 10,
    TLS_MAX_HANDSHAKE = 128 << 10, /* a chain of certificates is a few KiB */
    TLS_MAX_OUTPUT = 1 << 20,
    TLS_FINGERPRINT = 32, /* SHA-256 */
    TLS_MAX_BINDING = 64, /* bytes of channel binding */
    TLS_MAX_COMMENT = 160,
};

enum tls_state {
    TLS_HANDSHAKING,
    TLS_OPEN,
    TLS_ENDED,  /* the other side has said that it says no more; we still may */
    TLS_BROKEN, /* nothing more can be read or written; tls_error says why */
};

struct tls;

/* A context with our settings, for a server or a client (TLS_server_method, TLS_client_method). Clients: no
 * verification (SSL_VERIFY_NONE) until the caller sets it, sessions kept for tls_take_session. NULL: no memory. */
SSL_CTX *tls_context(bool server);

/* The new connection holds a reference to the context. */
struct tls *tls_accept(SSL_CTX *ctx);
/* server_name: for SNI; NULL: none (an address). Verification of a name, DANE and so on: set on tls_ssl before
 * tls_start. */
struct tls *tls_connect(SSL_CTX *ctx, const char *server_name);
/* NULL is allowed. Says nothing to the other side. */
void tls_free(struct tls *t);
/* Once, before anything else; a client's first bytes are then ready to be sent. */
void tls_start(struct tls *t);

enum tls_state tls_state(const struct tls *t);
/* Why it is BROKEN; "" before. */
const char *tls_error(const struct tls *t);

/* Bytes of the network (copied), goes on with the handshake. Ignored in ENDED and BROKEN. */
void tls_feed(struct tls *t, const void *bytes, size_t len);
/* The socket gives no more. */
void tls_eof(struct tls *t);
/* Plain text; 0: none now, or never (look at the state). */
size_t tls_read(struct tls *t, void *out, size_t len);
/* Bytes of the network that were fed and not read yet. Nonzero after tls_read gave 0 only for half a record. */
size_t tls_unread(const struct tls *t);
/* Plain text to be sent; in OPEN and ENDED, else it is dropped. False: BROKEN. */
bool tls_write(struct tls *t, const void *bytes, size_t len);
/* Says close_notify, once. After it nothing can be written; reading goes on. */
void tls_shutdown(struct tls *t);
/* Bytes for the network; the caller's (free). NULL: none. */
uint8_t *tls_take(struct tls *t, size_t *len);
size_t tls_waiting(const struct tls *t); /* what tls_take would give */

/* For settings before tls_start, and for what is not here. */
SSL *tls_ssl(struct tls *t);

/* ---- after the handshake ---- */

const char *tls_version(const struct tls *t); /* "TLSv1.3" */
const char *tls_cipher(const struct tls *t);  /* "TLS_AES_256_GCM_SHA384" */
bool tls_resumed(const struct tls *t);
/* What a client asked for by SNI, what we asked for as one; NULL: nothing. */
const char *tls_server_name(const struct tls *t);
/* "(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))" for Received and logs. */
const char *tls_comment(const struct tls *t, char out[TLS_MAX_COMMENT]);
/* The other side's; NULL: it showed none. Borrowed. */
X509 *tls_peer(const struct tls *t);
/* It showed a certificate and OpenSSL's verification (as set on the context or connection) accepted it. */
bool tls_peer_verified(const struct tls *t);
/* First name of the other side's certificate, for logs; "" without one. */
const char *tls_peer_name(const struct tls *t, char *out, size_t len);
/* SHA-256 of the certificate (DER). False: no certificate. */
bool tls_peer_fingerprint(const struct tls *t, uint8_t out[TLS_FINGERPRINT]);

enum tls_binding {
    TLS_BINDING_EXPORTER, /* "tls-exporter", RFC 9266; for TLS 1.2 only with the extended master secret */
    TLS_BINDING_UNIQUE,   /* "tls-unique", RFC 5929: TLS 1.2 only, with the extended master secret */
};
/* Channel binding data for SCRAM-PLUS. MR_NOTFOUND: this connection has none of this type. */
int tls_channel_binding(const struct tls *t, enum tls_binding type, uint8_t out[TLS_MAX_BINDING], size_t *len);

/* ---- a client's sessions ---- */

/* Before tls_start: try to resume it. Borrowed. The caller sees to it that the session was had from the same server
 * under the same demands on its certificate. */
void tls_offer_session(struct tls *t, SSL_SESSION *session);
/* The newest session that may be resumed, the caller's (SSL_SESSION_free); NULL: none. With TLS 1.3 it comes after the
 * handshake, with the first bytes that are read: ask when the connection ends. */
SSL_SESSION *tls_take_session(struct tls *t);

#endif
