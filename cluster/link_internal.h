/* link_internal.h - shared by link.c (peers), link_dial.c (our connections), link_accept.c (theirs) only. */
#ifndef MR_CLUSTER_LINK_INTERNAL_H
#define MR_CLUSTER_LINK_INTERNAL_H

#include "cluster/link.h"
#include "cluster/link_conn.h"
#include "cluster/link_env.h"
#include "cluster/link_tls.h"

enum {
    LINK_PROTOCOL = 1,      /* Hello.version; a newer program speaks to an older one, so a higher one is welcome */
    LINK_MAX_ADDRESSES = 8, /* of one host name */
    LINK_BACKOFF_MIN_MS = 50,
    LINK_BACKOFF_MAX_MS = 1000,
    LINK_LOG_SAME_MS = 60000,    /* a dial that goes on failing for one reason is logged so often */
    LINK_LOG_OTHER_MS = 5000,    /* and for another reason than the last */
    LINK_LOG_REJECTED_MS = 1000, /* refused strangers: one line in this time, with their number */
    LINK_REASON = 300,
    LINK_TLS_EXTRA = 64, /* bytes; more than TLS adds to the text that waits to become a record */
};

/* A place to connect to. */
struct link_address {
    char host[256];
    char port[8];
    bool literal; /* then `address` is it */
    struct sockaddr_storage address;
};
/* "host:port", "1.2.3.4:port", "[v6]:port"; MR_INVAL. */
int link_address_parse(struct link_address *out, const char *text);
bool link_address_is_loopback(const struct sockaddr *address);

enum dial_state { DIAL_WAITING, DIAL_LOOKING_UP, DIAL_CONNECTING, DIAL_UP, DIAL_CLOSED };

struct link_peer;

/* Our connection to one peer on one channel: made again as long as the peer stays. */
struct link_dial {
    struct link_peer *peer;
    enum link_channel channel;
    enum dial_state state;
    uv_timer_t timer; /* WAITING: the next try; LOOKING_UP: its time-out */
    unsigned delay_ms;
    uint64_t started_ms;
    struct link_lookup *lookup; /* NULL: none is under way */
    struct sockaddr_storage addresses[LINK_MAX_ADDRESSES];
    unsigned n_addresses, next_address;
    struct link_conn *conn;
    struct link_waiter {
        void (*cb)(void *arg, int status);
        void *arg;
        size_t below;
        uint64_t until;          /* link_conn_written; 0: not up then */
    } waiters[LINK_MAX_WAITERS]; /* the oldest first */
    unsigned n_waiters;
    struct link_turn waiters_turn;
    char logged[LINK_REASON]; /* the last failure that was logged */
    uint64_t logged_ms;
};

struct link_inbound {
    struct links *l;
    struct link_inbound *next, *previous;
    struct link_conn *conn;
    struct link_peer *peer; /* NULL: no Hello accepted yet, or the peer was removed */
    uint32_t peer_id;
    enum link_channel channel;
    bool greeted;
};

struct link_peer {
    struct links *l;
    uint32_t id;
    char *name;
    struct link_address address;
    struct link_dial dials[LINK_CHANNELS];
    struct link_inbound *inbound[LINK_CHANNELS];
    unsigned refs; /* the table, timers, connections, look-ups, waiters' turns */
};

struct links {
    struct link_env env;
    struct links_handler handler;
    char *name, *ca, *cert, *key;
    bool insecure, closing;
    struct link_tls tls;
    uv_timer_t daily; /* not where insecure */
    uv_tcp_t listener;
    int port;
    struct link_peer *peers[LINK_MAX_PEERS];
    unsigned n_peers;
    struct link_inbound *oldest, *newest;
    unsigned n_inbound;
    uint64_t rejected_logged_ms;
    uint64_t rejected_unlogged;
    uint64_t random;
    void (*close_cb)(void *arg);
    void *close_arg;
};

/* link.c */
struct link_peer *link_peer_by_name(const struct links *l, const char *name);
void link_peer_unref(struct link_peer *p);
uint64_t link_now_ms(const struct links *l);
/* 0 to below - 1. For jitter only. */
unsigned link_random(struct links *l, unsigned below);
/* The handler's Hello, completed with what the links know. */
void link_own_hello(struct links *l, enum link_channel channel, Mailraft__Hello *out);
void link_pack_and_send(struct link_conn *c, enum frame_type type, const ProtobufCMessage *message,
                        const struct link_buffer *tail, unsigned n_tail, size_t tail_len);

/* link_dial.c */
void link_dial_open(struct link_dial *d, struct link_peer *peer, enum link_channel channel);
/* Tries at once instead of at the end of the back-off. */
void link_dial_kick(struct link_dial *d);
void link_dial_close(struct link_dial *d);
/* MR_BUSY. */
int link_dial_wait_drained(struct link_dial *d, size_t below, void (*cb)(void *arg, int status), void *arg);

/* link_accept.c */
void link_on_connection(uv_stream_t *listener, int status);
void link_inbound_close_all(struct links *l);

#endif
