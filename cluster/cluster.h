/* cluster.h - the whole cluster below one door: what mailraftd's workers and HTTP thread may ask of it.
 *
 * Inside is the core thread (raft, state, scheduler, leases, links, bodies). Everything here is asynchronous: a request
 * goes to the core's mailbox, its answer to the worker's. Requests are bounded; MR_BUSY means: try later, nothing was
 * taken.
 *
 * C1: a submission's callback gives 0 only after its enqueue was committed and applied on the leader.
 * C2: an attempt is handed to a worker only under a lease, and cluster_may_send is true only under one (PROTOCOL.md 5).
 * C3: every attempt handed out ends with exactly one of cluster_outcome or cluster_release.
 * Thread: says each function. */
#ifndef MR_CLUSTER_CLUSTER_H
#define MR_CLUSTER_CLUSTER_H

#include "cluster/route.h"
#include "cluster/state.h"
#include "ops.pb-c.h"
#include "proto/base/clock.h"
#include "proto/base/id.h"
#include "proto/base/mailbox.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cluster;
struct attempt;
struct notice;
struct core_running;

struct cluster_member {
    const char *name;
    const char *address;
};
/* The most for cluster_config.max_state: below the 2 GiB that libraft can store, with room for what has to grow. */
#define CLUSTER_MAX_STATE (UINT64_C(1536) << 20)
#define CLUSTER_MIN_STATE (UINT64_C(1) << 20)
/* For max_attempts: the end of each has to find room among this node's proposals. */
enum { CLUSTER_MAX_ATTEMPTS = 32768 };
struct cluster_config {
    const char *name;
    const char *data_dir;
    const char *listen;
    const struct cluster_member *initial;
    unsigned n_initial;
    bool insecure;
    const char *ca, *cert, *key;
    unsigned heartbeat_ms, election_timeout_ms, lease_ms, node_timeout_ms, commit_timeout_ms;
    const Mailraft__Rules *rules; /* of this node's configuration; without hash */
    unsigned max_attempts;        /* running attempts that this node offers at once; up to CLUSTER_MAX_ATTEMPTS */
    uint64_t max_state;           /* of state_bytes, for mail of clients; 0: CLUSTER_MAX_STATE */
    const char *apply_trace;      /* file (apply_trace.h); NULL: none */
    unsigned state_hash_every;
};

/* Rules in force, shared by reference count. */
struct cluster_rules {
    atomic_uint references;
    const Mailraft__Rules *rules;
};
struct cluster_rules *cluster_rules_ref(struct cluster_rules *r);
void cluster_rules_unref(struct cluster_rules *r);

/* ---- life: main thread ---- */

/* Opens directory, links, log. Strings of config must live as long as the cluster. Errors with a text. */
int cluster_open(struct cluster **out, const struct cluster_config *config, char *error, size_t error_len);
/* A worker's door. Before cluster_start. */
struct cluster_port;
struct cluster_worker {
    void *arg;
    struct mailbox *mailbox; /* the worker's; its loop runs all callbacks below and those of requests */
    uv_loop_t *loop;
    /* One attempt to make; ownership passes (attempt_free). */
    void (*attempt)(void *arg, struct attempt *a);
    /* Write a warning's or an expiry's DSN; ownership passes (notice_free). */
    void (*notice)(void *arg, struct notice *n);
    /* Rules in force; a reference passes. Called before any attempt. */
    void (*rules)(void *arg, struct cluster_rules *r);
    /* The lease ended: connections whose dot was not written are reset, idle ones closed (5.7); attempts not started or
     * before their dot are released. */
    void (*lease_ended)(void *arg);
    /* Assignments ended, wholly or for some recipients, and not by their worker (5.11): attempts of which
     * cluster_withdrawn is true now are released before their dot; connections in the middle of one are reset. */
    void (*withdrawn)(void *arg);
    /* Shutdown begins: take no new mail, start nothing new; attempts not started are released; finish what runs. When
     * it returns, counters.transactions_open counts all mail that is still to be waited for. */
    void (*drain)(void *arg);
};
struct cluster_port *cluster_attach(struct cluster *c, const struct cluster_worker *worker);
/* Closes the port's journal; on the worker's loop, after its last request's callback; cb then, later. */
void cluster_detach(struct cluster_port *p, void (*cb)(void *arg), void *arg);
/* Starts the core thread. */
int cluster_start(struct cluster *c);
/* PROTOCOL.md 9: drains, hands leadership over, waits up to timeout_ms for outstanding attempts and for mail that is
 * coming in, commits outcomes.
 * Blocks. The core still answers until cluster_close. */
void cluster_drain(struct cluster *c, unsigned timeout_ms);
/* The same, but does not block: done comes on the core's thread. */
void cluster_drain_begin(struct cluster *c, unsigned timeout_ms, void (*done)(void *arg), void *arg);
/* After cluster_drain_begin, before its done or after it: the time is up now. */
void cluster_drain_now(struct cluster *c);
/* Ends the core thread and frees everything. No worker may call anything any more. */
void cluster_close(struct cluster *c);
/* May a node have these: MR_LIMIT with a text where they are more than one entry of the log takes. Any thread. */
int cluster_check_rules(const Mailraft__Rules *rules, char *error, size_t error_len);
/* New rules, for which cluster_check_rules gave 0, from a reloaded configuration (a deep copy is made); the files of
 * cluster.tls are read again, and the links go on with the old ones where they are wrong (event reload_failed). Any
 * thread. */
void cluster_reconfigure(struct cluster *c, const Mailraft__Rules *rules);

/* ---- any thread, no waiting ---- */
enum cluster_readiness {
    CLUSTER_READY,
    CLUSTER_STARTING,  /* not formed, replaying, or the node's new incarnation is not committed yet */
    CLUSTER_NO_QUORUM, /* no lease */
    CLUSTER_LOW_DISK,
    CLUSTER_BUSY, /* more proposals wait than are good */
    CLUSTER_DRAINING,
    CLUSTER_REFUSED,    /* this directory may not take part (2.5) */
    CLUSTER_SLOW_DISK,  /* a call to the disk hangs (8.4) */
    CLUSTER_QUEUE_FULL, /* its state has its largest size (4.9) */
};
enum cluster_readiness cluster_readiness(const struct cluster *c);
/* Committed wall-like time for new ids and headers is not needed: workers use their own clock. */

/* Committed version of the cluster (PROTOCOL.md 4.6). Below 2 some member does not know yet what of a message came with
 * it: priority, hold, deliver-by, user, MESSAGE_BINARYMIME, MESSAGE_REQUIRETLS. Extensions that need them are not
 * offered then; a message that has one all the same is refused with APPLY_VERSION (priority and user are left out). */
unsigned cluster_version(const struct cluster *c);

/* ---- a worker's own thread ---- */

/* Proof of life; call at least each second from a timer of the loop (5.10). */
void cluster_worker_beat(struct cluster_port *p);
/* May this attempt still start a transaction or write its dot: lease held, its incarnation is ours, deadline not
 * passed, not withdrawn. */
bool cluster_may_send(const struct cluster_port *p, const struct attempt *a);
/* By the applied state it is not this node's any more, or a recipient of it is terminal. Stays true. */
bool cluster_withdrawn(const struct attempt *a);

/* A body on its way in. One at a time a handle; pieces of at most SPOOL_MAX_PIECE bytes. */
struct cluster_body;
struct cluster_body *cluster_body_begin(struct cluster_port *p, struct mr_id id);
/* data: malloc, ownership passes. written comes on the worker's loop: flow control; keep at most 4 in flight. */
void cluster_body_piece(struct cluster_body *b, uint8_t *data, size_t len, void (*written)(void *arg, int status),
                        void *arg);
/* Last piece; done comes once, on the worker's loop: status 0 and what goes into Enqueue.body (allocated by
 * protobuf-c's default allocator, ownership passes), else MR_NOSPACE, MR_CANCELLED, MR_TIMEOUT (no majority within
 * commit_timeout). Frees b. */
void cluster_body_finish(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                         void (*done)(void *arg, int status, Mailraft__Body *body), void *arg);
/* Last piece and envelope of a message that is to be queued: when a majority has the body, the core fills in
 * message->body, which is NULL, and proposes the enqueue, without a way back to the worker between the two. message:
 * allocated by protobuf-c's default allocator; ownership passes. done on the worker's loop, once: 0 committed; any
 * error of cluster_body_finish; MR_REFUSED (state refused it: reason says why), MR_TIMEOUT, MR_NOQUORUM, MR_CLOSED (a
 * drain's time is up) or MR_BUSY: answer 451 (a cancel follows by itself where it was proposed). Frees b. */
void cluster_body_submit(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                         Mailraft__Enqueue *message, void (*done)(void *arg, int status, enum apply_result reason),
                         void *arg);
/* Gives up, instead of cluster_body_finish or cluster_body_submit. Waiting `written` callbacks still come. */
void cluster_body_abort(struct cluster_body *b);

/* An attempt that the leader assigned to this node. Immutable; freed with attempt_free by its owner. */
struct attempt_recipient {
    uint32_t index; /* in the message */
    const char *address;
    const char *orcpt;
    uint32_t notify;
};
/* What the cluster remembers of the next hop's site (cluster_remember), as of now_ms of the attempt. */
struct attempt_site {
    bool tls_failed; /* STARTTLS does not work there */
    const char *tls_reason;
    const char *sts_id; /* NULL: no MTA-STS policy is known */
    unsigned sts_mode;  /* StsPolicy.mode */
    const char *const *sts_mx;
    unsigned n_sts_mx;
    uint64_t sts_expires_ms; /* committed time */
};
struct attempt {
    struct mail mail; /* the cluster's, until the worker has it */
    struct cluster_port *port;
    struct core_running *running; /* the core's; NULL in tests */
    struct mr_id id;
    uint32_t delivery, attempt, slot;
    uint64_t incarnation;
    bool dotted;          /* cluster_dot was called */
    uint64_t deadline_ns; /* boot time; no dot is written after it */
    uint64_t end_ns; /* boot time: replies to its dot are waited for until then, and it is ended with those it has */
    const char *next_hop; /* canonical, route.h */
    const char *reverse_path;
    const char *envid;
    uint32_t ret, flags;
    uint32_t failures; /* attempts of this delivery that were deferred before */
    uint64_t body_length;
    uint64_t arrived_ms, expire_ms; /* committed time */
    uint64_t now_ms;                /* committed time when it was handed out */
    int32_t priority;               /* MT-PRIORITY, RFC 6710 */
    Mailraft__DeliverBy deliver_by; /* RFC 2852 */
    uint64_t deliver_by_ms;         /* committed time; may have passed; 0: DELIVER_BY_NONE */
    bool deliver_by_trace;
    const char *user; /* who submitted it; "" nobody */
    struct attempt_site site;
    /* The whole body, where this node still had it in memory (verified, as by cluster_body_read): it need not be read.
     * NULL: read it. The attempt's. */
    uint8_t *body;
    size_t body_len;
    atomic_size_t *body_counter; /* body_len counts in it until the attempt is freed; NULL: nowhere */
    uint32_t n_recipients;
    const struct attempt_recipient *recipients; /* those still queued */
};
void attempt_free(struct attempt *a);

/* A notice to be written (7.3): kind WARN or EXPIRE; recipients: those still queued, with the last reply of each. */
struct notice_recipient {
    uint32_t index;
    const char *address;
    const char *orcpt;
    uint32_t notify;
    const char *reply;
    const char *status;
    const char *next_hop;
};
struct notice {
    struct mail mail;
    struct cluster_port *port;
    struct mr_id id;
    Mailraft__NoticeKind kind;
    uint32_t attempt;
    const char *reverse_path;
    const char *envid;
    uint32_t ret, flags;
    uint64_t body_length;
    uint64_t arrived_ms, expire_ms, now_ms;
    int32_t priority;
    /* An EXPIRE of DELIVER_BY_RETURN at deliver_by_ms <= now_ms is for that (5.4.7), not for the queue's own limit. A
     * WARN of DELIVER_BY_NOTIFY is that of RFC 2852; it takes the place of the queue's own. */
    Mailraft__DeliverBy deliver_by;
    uint64_t deliver_by_ms;
    uint32_t n_recipients;
    const struct notice_recipient *recipients;
};
void notice_free(struct notice *n);

/* The final dot is about to be written (5.8); writes the journal. Call right before the write, after cluster_may_send.
 */
void cluster_dot(struct cluster_port *p, struct attempt *a);
/* What came of a dot is known (a reply, or its connection was lost), and the outcome will wait for its DSN, which takes
 * a majority: what is known goes into the journal now (5.8), in the form that it has without a DSN (7.2), so that a
 * crash meanwhile leaves nothing in doubt. After cluster_dot, at most once, before cluster_outcome of the same outcome,
 * which stays the caller's; id, delivery, attempt and node are filled in and long replies cut here. */
void cluster_reply(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome);
/* What came of an attempt. outcome: protobuf-c's default allocator, ownership passes; id, delivery, attempt and node
 * are filled in here. Proposed again until its fate is known; done (may be NULL) comes on the worker's loop once it is.
 * Ends the attempt (free it after the call). A reply to a final dot is journalled first. */
void cluster_outcome(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome,
                     void (*done)(void *arg, int status, enum apply_result reason), void *arg);
/* The attempt was not made (or ended before its dot through no fault of the next hop): gives it back. */
void cluster_release(struct cluster_port *p, const struct attempt *a, const char *reason);
/* The notice's DSN is stored (dsn, may be NULL for a null reverse-path): ownership passes. Ends the notice. */
void cluster_notice_done(struct cluster_port *p, const struct notice *n, Mailraft__Enqueue *dsn,
                         void (*done)(void *arg, int status, enum apply_result reason), void *arg);
/* It could not be written now: another try later. */
void cluster_notice_failed(struct cluster_port *p, const struct notice *n);
/* A slot has no connection and no attempt any more. `attempts`: how many this worker was given for the slot since it
 * last said so (one that is on its way to the worker thus keeps the slot). Every slot that was given an attempt ends
 * with this, also when no connection was made. */
void cluster_slot_closed(struct cluster_port *p, const char *next_hop, uint32_t slot, uint64_t attempts);

/* What this node learned of a site, for all nodes: a hint, proposed once or twice and then forgotten; more than
 * CLUSTER_MAX_REMEMBER under way are dropped. memory: protobuf-c's default allocator, ownership passes. The site is
 * that of route_site; what is remembered comes back in struct attempt. */
enum { CLUSTER_MAX_REMEMBER = 256 };
void cluster_remember(struct cluster_port *p, Mailraft__SiteMemory *memory);

/* Reads one piece of a body (verified; repaired from a peer if need be). done on the worker's loop, once. data: malloc,
 * ownership passes. */
void cluster_body_read(struct cluster_port *p, struct mr_id id, uint32_t piece,
                       void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg);

/* Counters that workers keep for /metrics and status; relaxed atomics. */
struct cluster_counters {
    /* transactions_open: mail on its way in, from MAIL to the answer to its end; a drain waits for it. */
    atomic_ullong sessions_open, transactions_open, sessions_total, messages_received, bytes_received, rejected,
        deliveries_delivered, deliveries_deferred, deliveries_failed, connections_out_open, dsns;
    /* Clients that were over a limit, by the limit; who spoke before the greeting, or too slowly, or brought no mail.
     */
    atomic_ullong limited_connections, limited_network_connections, limited_connection_rate, limited_messages,
        limited_recipients, limited_logins, limited_clients, early_talkers, slow_clients, junk_clients;
    /* Sessions with clients: secured by TLS, of these resumed; handshakes and TLS that failed. */
    atomic_ullong tls_in, tls_in_resumed, tls_in_failed;
    /* Connections to next hops: secured by TLS, of these with the host proven, TLS that failed, plain text instead. */
    atomic_ullong tls_out, tls_out_verified, tls_out_failed, tls_fallbacks;
    /* Policies of MTA-STS: fetched, and not to be had though the domain says that it has one. */
    atomic_ullong sts_fetched, sts_failed;
    /* Users' logins here: let in, turned away, not checked because who checks was away; ours at smarthosts, refused. */
    atomic_ullong logins, logins_failed, logins_unavailable, smarthost_logins_failed;
};
struct cluster_counters *cluster_counters(struct cluster *c);

/* ---- HTTP's thread, or any ---- */
enum cluster_question { CLUSTER_STATUS, CLUSTER_QUEUE, CLUSTER_MESSAGES, CLUSTER_MESSAGE, CLUSTER_METRICS };
struct cluster_query {
    enum cluster_question question;
    struct mr_id id; /* CLUSTER_MESSAGE */
    /* CLUSTER_MESSAGES: filters, NULL or 0: any. Substring of address for sender and recipient, exact (any case) for
     * the others. */
    const char *sender, *recipient, *domain, *next_hop, *state;
    uint64_t older_than_s;
    uint64_t after; /* sequence to go on from */
    unsigned limit; /* 1..1000 */
};
/* Calls done on the core's thread with a new reference (status 0; MR_NOTFOUND, MR_CLOSED), or never where the result is
 * MR_BUSY: too many wait. done must only hand the object on. The query's strings are copied. */
int cluster_ask(struct cluster *c, const struct cluster_query *query,
                void (*done)(void *arg, int status, json_t *answer), void *arg);
/* Streams a body to a file-like consumer: same as cluster_body_read, but done comes on the core's thread. */
int cluster_ask_body(struct cluster *c, struct mr_id id, uint32_t piece,
                     void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg);

#endif
