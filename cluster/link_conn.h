/* link_conn.h - one connection between nodes: TCP, TLS or plain, frames in, frames out. Knows no peers and no policy.
 *
 * C1: open comes at most once, frame only after open, failed at most once and as the last but gone; gone comes always,
 *     and exactly once: the memory is freed after it.
 * C2: no event comes from inside a call of this interface (but open of a plain one from link_conn_accept).
 * C3: frames are delivered in the order of the bytes; a malformed one ends the connection.
 * C4: what is sent is encrypted or copied before the call returns and written once a turn of the loop (link_env.h).
 *
 * State: CONNECTING -> HANDSHAKE -> OPEN -> FAILED -> CLOSED; an accepted one begins at HANDSHAKE; from each straight
 * to FAILED or CLOSED. Thread: the loop's. */
#ifndef MR_CLUSTER_LINK_CONN_H
#define MR_CLUSTER_LINK_CONN_H

#include "cluster/link.h"
#include "cluster/link_env.h"

#include <openssl/ssl.h>

enum {
    LINK_UNTRUSTED_META = 4096,  /* largest meta before the Hello was accepted; no tail then */
    LINK_USER_TIMEOUT_MS = 3000, /* a peer that acknowledges nothing for so long is gone */
};

struct link_conn;
struct link_conn_events {
    void (*open)(struct link_conn *c); /* may be NULL */
    /* Negative: malformed. The bytes are valid during the call. */
    int (*frame)(struct link_conn *c, const struct frame_header *h, const uint8_t *meta, const uint8_t *tail);
    /* Some output has left; once a turn. */
    void (*drained)(struct link_conn *c);
    void (*failed)(struct link_conn *c, const char *reason);
    void (*gone)(struct link_conn *c);
};

/* tls: NULL for plain. owner: for the events. */
struct link_conn *link_conn_new(struct link_env *env, SSL_CTX *tls, bool dialled, const struct link_conn_events *events,
                                void *owner);
void *link_conn_owner(const struct link_conn *c);
/* Failures of both come as event failed. */
void link_conn_connect(struct link_conn *c, const struct sockaddr *address);
void link_conn_accept(struct link_conn *c, uv_stream_t *listener);
/* Fails the connection when this long has passed; 0: never. */
void link_conn_deadline(struct link_conn *c, unsigned ms, const char *reason);
/* Allows frames of full size. */
void link_conn_trust(struct link_conn *c);
/* The connection must be open (else the frame is dropped with the connection). Sizes: the caller's duty. */
void link_conn_send(struct link_conn *c, enum frame_type type, const void *meta, size_t meta_len,
                    const struct link_buffer *tail, unsigned n_tail, size_t tail_len);
/* Bytes of output that the kernel has not taken yet. */
size_t link_conn_queued(const struct link_conn *c);
/* Bytes of output that it has taken, in all. */
uint64_t link_conn_written(const struct link_conn *c);
bool link_conn_is_open(const struct link_conn *c);
/* Event drained comes within this turn of the loop, also when nothing waits. */
void link_conn_nudge(struct link_conn *c);
/* Event failed comes, within this turn of the loop. */
__attribute__((format(printf, 2, 3))) void link_conn_fail(struct link_conn *c, const char *format, ...);
/* Same, once all output has been written. */
void link_conn_finish(struct link_conn *c, const char *reason);
/* Ends it without event failed. */
void link_conn_close(struct link_conn *c);
/* NULL: plain. */
const SSL *link_conn_ssl(const struct link_conn *c);
/* "host:port" of the other side, as far as known. */
const char *link_conn_remote(const struct link_conn *c);

/* BIO_METHOD of connections; one for all, made once by links_open. NULL without memory. */
BIO_METHOD *link_conn_bio_method(void);

#endif
