/* link_conn_internal.h - shared by link_conn.c (life), link_conn_read.c and link_conn_write.c only. */
#ifndef MR_CLUSTER_LINK_CONN_INTERNAL_H
#define MR_CLUSTER_LINK_CONN_INTERNAL_H

#include "cluster/link_conn.h"

enum {
    LINK_RECORD = 16384,        /* TLS's largest record: small frames are joined up to it */
    LINK_WRITE_BUFFERS = 8,     /* chunks in one write */
    LINK_WRITE_NOW = 512 << 10, /* output that does not wait for the end of the turn */
    LINK_IN_KEEP = 512 << 10,   /* a larger input buffer is given back when empty */
    LINK_IN_SPACE = 32 << 10,   /* least room for a read */
};

enum link_conn_state { CONN_NEW, CONN_CONNECTING, CONN_HANDSHAKE, CONN_OPEN, CONN_FAILED, CONN_CLOSED, CONN_STATES };

struct link_conn {
    struct link_env *env;
    const struct link_conn_events *events;
    void *owner;
    enum link_conn_state state;
    uv_tcp_t tcp;
    uv_timer_t timer;
    unsigned handles;
    uv_connect_t connect;
    struct link_turn turn;
    char remote[80];
    char failure[200];
    const char *deadline_reason;
    const char *finish_reason; /* not NULL: fails when the output is written */
    bool nudged;               /* drained is due */

    /* input */
    uint8_t *in;
    size_t in_len, in_cap;
    size_t in_need; /* bytes that the frame at the front of `in` has, as far as known */
    bool trusted;

    /* TLS */
    SSL *ssl;
    BIO *bio;
    const uint8_t *cipher; /* input that OpenSSL has not yet taken */
    size_t cipher_len;
    bool spoke_tls;  /* the other side's first byte was a TLS record's */
    uint8_t *staged; /* plain text that waits to become a record: LINK_RECORD bytes */
    size_t staged_len;

    /* output: chunks; the first write_len bytes are libuv's while it is not 0 */
    struct link_chunk *out, *out_last;
    size_t out_len;
    size_t write_len;
    uint64_t written; /* bytes that the kernel took since the beginning */
    uv_write_t write;
};

void link_conn_become(struct link_conn *c, enum link_conn_state state);
/* The handshake is done (or there is none). */
void link_conn_opened(struct link_conn *c);

/* link_conn_read.c */
/* False: wants more, or has failed. */
bool link_conn_handshake(struct link_conn *c);
void link_conn_read_start(struct link_conn *c);

/* link_conn_write.c */
BIO *link_conn_bio_new(struct link_conn *c);
/* Moves staged plain text on, writes what the kernel takes now. */
void link_conn_flush(struct link_conn *c);
void link_conn_out_free(struct link_conn *c);

#endif
