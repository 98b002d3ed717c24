/* delivery_internal.h - a slot: one connection to a next hop and the attempts that go over it, one after the other.
 *
 *   delivery.c              slots and their queues; life
 *   delivery_address.c      which address next: hosts of the route, MX, families, hosts that are down
 *   delivery_source.c       from which address of ours
 *   delivery_connect.c      connect, greeting, EHLO; closing
 *   delivery_stream.c       bytes in and out, plain or within TLS
 *   delivery_tls.c          how the connection is secured
 *   delivery_tls_context.c  what all connections share for that
 *   delivery_form.c         which parameters and encodings a message has for the next hop; pure
 *   delivery_login.c        who we are, at a smarthost
 *   delivery_transaction.c  MAIL to the reply to the final dot
 *   delivery_body.c         the message itself: read, converted, as DATA or BDAT, its last octets withheld
 *   delivery_outcome.c      what came of it: outcome, log, retry time, DSN
 *   delivery_notice.c       warnings and expiries
 * Thread: the worker's. */
#ifndef MR_DELIVERY_DELIVERY_INTERNAL_H
#define MR_DELIVERY_DELIVERY_INTERNAL_H

#include "node/delivery/delivery.h"
#include "node/delivery/delivery_form.h"
#include "node/delivery/delivery_tls.h"
#include "node/delivery/host_memory.h"
#include "node/delivery/smtp_capabilities.h"
#include "node/delivery/smtp_dotted.h"
#include "node/delivery/smtp_reply_parser.h"
#include "node/dns/own_hosts.h"
#include "node/dns/resolver.h"
#include "node/mail/mime_convert.h"
#include "node/tls/tls.h"

enum {
    DELIVERY_BUCKETS = 1024,
    DELIVERY_SESSIONS = 512,  /* of TLS, kept to be resumed */
    DELIVERY_GRANT_MS = 1000, /* PROTOCOL.md 6.2: a grant under a rate that is not used by then goes back */
    DELIVERY_TICK_MS = 1000,  /* how often it is looked whether an attempt has had its time */
    DELIVERY_BUSY_MS = 5000,  /* a slot's attempt has lasted so long: those behind it go back */
    DELIVERY_READ = 16384,
    DELIVERY_EHLOS = 2,
};

enum phase {
    PHASE_NONE, /* no connection */
    PHASE_RESOLVE,
    PHASE_SECURE, /* what the address has to meet is being found out */
    PHASE_CONNECT,
    PHASE_GREETING,
    PHASE_EHLO,
    PHASE_HELO,
    PHASE_STARTTLS, /* its reply */
    PHASE_TLS,      /* handshake */
    PHASE_LOGIN,    /* at a smarthost */
    PHASE_IDLE,     /* ready for a transaction */
    PHASE_SCAN,     /* the message is read to see in which form it can go; nothing was said of it yet */
    PHASE_MAIL,     /* replies to MAIL, RCPT, DATA come in */
    PHASE_RCPT,
    PHASE_DATA,
    PHASE_BODY,
    PHASE_QUEUE, /* body written; waits until all of it has left for the network */
    PHASE_DOT,   /* final dot written; its reply or replies come in */
    PHASE_RSET,
    PHASE_QUIT, /* its reply, or the end of the connection, comes in */
    PHASE_CLOSING,
};

struct job_result {
    Mailraft__Result result; /* RESULT_NONE: not decided */
    bool accepted;           /* RCPT was answered 2xx */
    bool postponed;          /* not part of this transaction, by a limit of the next hop: another follows at once */
    char *reply;
    char status[16];
    char *address; /* as it goes to this next hop; NULL: as it is */
};

/* An attempt under way. */
struct job {
    struct attempt *a;
    struct job_result *results; /* one a recipient of the attempt */
    uint64_t given_ns;          /* when the attempt came */
    bool unreached, avoid_node;
    bool dot_written;
    bool answered; /* some reply of this transaction was read */
    struct send_form form;
    char *reverse_path; /* as it goes to this next hop; NULL: as it is */
    uint32_t *order;    /* recipients of this transaction, in the order of their RCPT */
    uint32_t n_order;
    uint32_t rounds;    /* that ask each once, by a limit of the next hop on recipients; 1: no limit */
    uint32_t next_rcpt; /* of order: whose reply comes next; and, without pipelining, who is to be sent */
    uint32_t n_accepted;
    uint32_t next_lmtp; /* of order */
    bool data_sent;
    int mail_code;
    /* body */
    struct mime_scan *scan;
    struct mime_plan *plan;          /* not NULL: it is converted */
    struct mime_convert *conversion; /* while it is written */
    struct form_text converted;      /* of the current piece */
    uint32_t piece;                  /* number of the next one to ask for */
    bool reading, last_read;
    uint8_t *ready; /* read, not yet written; the attempt's own body, or malloc */
    size_t ready_len;
    bool have_ready, ready_last;
    struct smtp_dotted dotted;
    unsigned chunks; /* BDAT commands whose reply is to come */
    bool body_failed;
};

struct queued {
    struct queued *next;
    struct attempt *a;
    uint64_t at_ns;
};

struct slot {
    struct slot *next; /* bucket */
    struct delivery *d;
    char next_hop[ROUTE_MAX];
    struct next_hop_list hops;
    uint8_t hop_order[2 * NEXT_HOP_MAX_HOSTS]; /* of hops: each once, then again those that were passed over */
    unsigned n_hop_order;
    unsigned hop_at;     /* of hop_order, in use or to be tried */
    struct next_hop hop; /* that one */
    int connect_error;   /* UV_E..., of the address in use */
    bool source_failed;  /* it was not even tried: our own address could not be had */
    uint32_t number;
    uint64_t given;
    struct queued *first, **last;
    struct job *job;
    uint64_t busy_ns; /* since when it has this job */

    enum phase phase;
    struct lookup *lookup;
    struct resolution resolution;
    unsigned address; /* of resolution, in use or to be tried */
    uv_tcp_t tcp;
    bool tcp_open;
    uv_connect_t connect;
    uv_timer_t timer;
    struct smtp_reply_parser parser;
    struct smtp_capabilities can; /* of the last EHLO */
    struct secure secure;
    struct tls *tls;          /* NULL: plain text; freed when the descriptor is closed */
    struct slot_login *login; /* under way; NULL: none */
    bool logged_in;
    unsigned ehlo_ended;     /* so many connections to this address ended at EHLO: DELIVERY_EHLOS, then HELO */
    uint32_t messages;       /* over this connection */
    uint32_t rcpt_learned;   /* so many recipients it took at once before it said "too many"; 0: not known */
    uint64_t serial;         /* of the transaction: what was read for an earlier one is dropped */
    uint64_t queue_begun_ns; /* 0: not waiting for the network */
    char peer[400];          /* host[address]:port */
    char read_buffer[DELIVERY_READ];
    unsigned writes; /* uv_write requests under way */
    unsigned reads;  /* body reads under way: the slot stays until they are back */
    bool quit;       /* close after this reply */
    bool gone;       /* given up; its handles are closing */
};

struct delivery {
    struct worker *w;
    struct own_hosts *own;
    struct resolver *resolver;
    struct host_memory *hosts;
    struct source *sources; /* delivery.source */
    unsigned n_sources;
    struct sts *sts;
    struct tls_made {
        SSL_CTX *ctx;
        uint64_t at_ns;
    } tls[2]; /* for encryption alone, verified; made when they are needed first */
    struct tls_kept {
        char *key;
        SSL_SESSION *session;
        uint64_t at_ns;
    } sessions[DELIVERY_SESSIONS];
    uv_timer_t tick;
    struct slot *slots[DELIVERY_BUCKETS];
    unsigned n_slots;
    unsigned running; /* attempts and notices that have not ended */
    uint64_t random;
    bool draining, closing;
    void (*close_cb)(void *arg);
    void *close_arg;
    bool ended;
};

/* delivery.c */
void slot_next(struct slot *s);
/* In PHASE_IDLE: the connection, which served a message before, for the slot's job; or another one, should it not be
 * what this message asks for (delivery_tls.h, X3), or do without EHLO for no more than the message before. */
void slot_use(struct slot *s);
void slot_release_queued(struct slot *s, const char *reason);
/* The connection is closed (its descriptor too): the next attempt, or the end of the slot. */
void slot_closed(struct slot *s);
void delivery_ended(struct delivery *d);
uint64_t delivery_random(struct delivery *d);

/* delivery_source.c */
void delivery_sources_open(struct delivery *d);
void delivery_sources_close(struct delivery *d);
/* Opens s->tcp for the family of the address that it will connect to, at one of the sources. 0 or UV_E... (logged). */
int slot_open_socket(struct slot *s, const struct sockaddr *to);

/* delivery_address.c */
void slot_connect(struct slot *s);
/* The address that s->address says, or beyond the last the next host of the route. */
void slot_try_next(struct slot *s);
/* The address in use greeted us; it, or the way to it, failed. For the order of addresses the next time. */
void slot_remember_success(struct slot *s);
void slot_remember_failure(struct slot *s);

/* delivery_connect.c */
/* How long the next hop may take for what it is asked now (RFC 5321 section 4.5.3.2). */
unsigned slot_timeout_ms(const struct slot *s);
/* The connection stands, as secure and as known as it has to be. */
void slot_ready(struct slot *s);
/* Connects to the address, which slot_secure has looked at. */
void slot_dial(struct slot *s);
/* The handshake is done: EHLO again. */
void slot_tls_ready(struct slot *s);
/* Ends the connection. reset: RST, nothing unsent goes out any more. slot_closed follows later. */
void slot_close(struct slot *s, bool reset);
void slot_quit(struct slot *s);
/* Is this connection one by HELO because the server ends EHLO? Then it serves one message. */
bool slot_by_helo(const struct slot *s);
void slot_timer(struct slot *s, unsigned ms);
/* The connection failed in the middle: decides what that means for the job. */
void slot_lost(struct slot *s, const char *why);
/* The attempt has had its time: its deadline has passed before the dot, or nothing more that comes behind the dot can
 * be told before the leader takes it back (PROTOCOL.md 5.10). */
bool slot_overdue(const struct slot *s);
/* Ends that attempt with what is known of it, and the connection. */
void slot_give_up(struct slot *s);
void slot_idle(struct slot *s);
/* False: the connection was kept from before and has not answered a word of this transaction. The server ended it
 * meanwhile; that says nothing about the message. */
bool slot_fresh(const struct slot *s);
/* The same attempt over a new connection. */
void slot_again(struct slot *s);
/* A whole reply. more: bytes stand behind it. */
void slot_reply(struct slot *s, int code, const char *text, bool more);
/* Nothing comes any more: UV_EOF, or the socket's error. */
void slot_ended(struct slot *s, int status);

/* delivery_stream.c */
/* What breaks here is found by reading. */
void slot_write(struct slot *s, const char *data, size_t len);
/* Sends what TLS has for the network. */
void slot_flush_tls(struct slot *s);
/* The connection stands: reads from it until it is closed. */
void slot_read(struct slot *s);

/* delivery_login.c */
/* After the last EHLO. False: nothing to do; else slot_ready follows, or the address was given up. */
bool slot_login(struct slot *s);
void slot_login_reply(struct slot *s, int code, const char *text);
/* The connection ends. */
void slot_login_drop(struct slot *s);

/* delivery_transaction.c */
void transaction_begin(struct slot *s);
void transaction_reply(struct slot *s, int code, const char *text);
void transaction_timeout(struct slot *s);
/* PHASE_SCAN is over. */
void transaction_scanned(struct slot *s, const struct mime_found *found);

/* delivery_body.c */
void body_scan(struct slot *s, enum mime_target target);
/* Asks for the first piece, should it not be there. */
void body_prepare(struct slot *s);
/* The next hop is ready for it. */
void body_send(struct slot *s);
/* What was written has left, or a piece has come. */
void body_pump(struct slot *s);
/* In PHASE_QUEUE: has the network got it? */
void body_check_queue(struct slot *s);
/* Drops what of the message is in memory. */
void body_forget(struct job *j);

/* delivery_outcome.c */
void job_decide(struct job *j, uint32_t recipient, int code, const char *text);
void job_decide_all(struct job *j, int code, const char *text);
__attribute__((format(printf, 5, 6))) void job_fail(struct slot *s, bool permanent, const char *status, bool unreached,
                                                    const char *format, ...);
void job_finish(struct slot *s);
/* Nothing was said of the message over this connection, which stays: its attempt ends here. */
void job_finish_idle(struct slot *s);
void job_release(struct slot *s, const char *reason);
/* As it was before its transaction began. */
void job_rewind(struct slot *s);
/* Logs that a message may have been taken though no reply to its dot was read. */
void job_tell_doubt(const struct slot *s);
void job_free(struct job *j);

/* The calls into the cluster, replaced by tests. */
struct delivery_backend {
    bool (*may_send)(const struct cluster_port *p, const struct attempt *a);
    bool (*withdrawn)(const struct attempt *a);
    void (*dot)(struct cluster_port *p, struct attempt *a);
    void (*reply)(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome);
    void (*outcome)(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome,
                    void (*done)(void *arg, int status, enum apply_result reason), void *arg);
    void (*release)(struct cluster_port *p, const struct attempt *a, const char *reason);
    void (*remember)(struct cluster_port *p, Mailraft__SiteMemory *memory);
    void (*slot_closed)(struct cluster_port *p, const char *next_hop, uint32_t slot, uint64_t attempts);
    void (*body_read)(struct cluster_port *p, struct mr_id id, uint32_t piece,
                      void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg);
    struct cluster_body *(*body_begin)(struct cluster_port *p, struct mr_id id);
    void (*body_piece)(struct cluster_body *b, uint8_t *data, size_t len, void (*written)(void *arg, int status),
                       void *arg);
    void (*body_abort)(struct cluster_body *b);
    void (*body_finish)(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                        void (*done)(void *arg, int status, Mailraft__Body *body), void *arg);
    void (*notice_done)(struct cluster_port *p, const struct notice *n, Mailraft__Enqueue *dsn,
                        void (*done)(void *arg, int status, enum apply_result reason), void *arg);
    void (*notice_failed)(struct cluster_port *p, const struct notice *n);
};
extern struct delivery_backend delivery_backend;

#endif
