/* smtp_server_internal.h - what server, session and transaction know of each other.
 *
 * N1: a session is named by its id (slot and generation); who waits for an answer keeps the id and looks it up, so an
 * answer that comes after its session's end finds nobody. N2: the output buffer belongs to the session that runs now;
 * it is empty whenever control goes back to the loop. Thread: the worker's. */
#ifndef MR_SERVER_SMTP_SERVER_INTERNAL_H
#define MR_SERVER_SMTP_SERVER_INTERNAL_H

#include "node/server/smtp_backend.h"
#include "node/server/smtp_reply.h"
#include "node/server/smtp_server.h"
#include "proto/base/id_stock.h"

enum {
    SMTP_READ_BUFFER = 64 << 10,
    SMTP_OUT_HIGH = 16 << 10, /* bytes of replies; then they are written before more commands are looked at */
    SMTP_LINGER_MS = 2000,    /* for the client to read a last reply */
    SMTP_OPENING_MS = 30000,  /* a proxy sends its header at once; a handshake is two round trips */
    SMTP_PACE_MS = 60000,
    SMTP_ENDING_MS = 5000,
    SMTP_MAX_JUNK = 100,
    SMTP_MAX_DEFERRALS_LOGGED = 100, /* of a session, since its last message */
    SMTP_LOG_AWAY_MS = 1000,         /* logins that cannot be checked are logged so often by a worker */
};

struct smtp_session;

struct smtp_limits {
    uint64_t message_size;
    unsigned recipients, sessions, errors, hops, transactions;
    unsigned junk; /* commands that bring no mail, in a row; then 421 */
    uint64_t idle_ms, data_ms, session_ms;
    uint64_t ending_ms;         /* idle_ms of a transaction without data yet, while the server drains */
    uint64_t opening_ms;        /* for the PROXY header and the TLS handshake, together */
    uint64_t greeting_delay_ms; /* 0: none */
    uint64_t line_ms;           /* one command line, from its first octet */
    uint64_t data_rate;         /* octets a second over each pace_ms of a data phase; 0: any */
    uint64_t pace_ms;
};

struct smtp_listener {
    uv_tcp_t tcp;
    struct smtp_server *server;
    enum listener_profile profile;
    enum listener_tls tls;
    bool proxy; /* a PROXY header comes first */
};

struct smtp_server {
    struct worker *worker;
    const struct smtp_cluster_ops *ops;
    struct smtp_limits limits;
    struct smtp_listener *listeners;
    unsigned n_listeners;
    unsigned open_listeners; /* handles not closed yet */
    bool draining;
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
    /* Sessions by slot; a free slot's generation has been raised. */
    struct smtp_slot {
        struct smtp_session *session;
        uint32_t generation;
        uint32_t next_free; /* slot + 1 */
    } * slots;
    uint32_t n_slots;
    uint32_t free_slot;  /* slot + 1; 0: none */
    unsigned n_sessions; /* in slots */
    unsigned n_handles;  /* connections whose uv handles are not closed yet */
    unsigned n_transactions;
    uint64_t away_logged_ms; /* 0: never */
    uint64_t away_unlogged;  /* since then */
    struct mr_id_stock ids;
    char out[SMTP_OUT_HIGH + SMTP_MAX_REPLY];
    size_t out_len;
    uint8_t in[SMTP_READ_BUFFER];
};

/* As smtp_server_open, with another cluster behind it. */
int smtp_server_open_with(struct smtp_server **out, struct worker *w, const int *fds, unsigned n_fds,
                          const struct smtp_cluster_ops *ops);
uint64_t smtp_server_enter(struct smtp_server *s, struct smtp_session *session);
void smtp_server_leave(struct smtp_server *s, uint64_t id);
struct smtp_session *smtp_server_find(const struct smtp_server *s, uint64_t id); /* NULL: gone */
/* Something that close waits for has ended. */
void smtp_server_check_closed(struct smtp_server *s);

#endif
