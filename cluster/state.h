/* state.h - the replicated queue: every node holds the same one at the same index.
 *
 * Q1: apply is a pure function of state and entry: no clock, chance, environment, I/O, address order, hash-table order.
 *     What is iterated is a list in apply order, or a heap whose order is total (time, then sequence).
 * Q2: a recipient moves only queued -> {delivered, failed, expired, cancelled}; a terminal state never changes.
 * Q3: attempt numbers of a delivery rise.
 * Q4: the cost of applying one operation does not grow with the queue (but for log factors of heaps).
 * Q5: ready lists, deferred heaps and expiry order are kept here, on every node: becoming leader costs nothing.
 * Effects are told to an observer after the change, in order; the observer changes nothing here (PROTOCOL.md 4.7).
 * Thread: a state is one thread's at a time, the queue's the core's; two states share nothing. Pointers handed out stay
 * valid until the next apply or restore. */
#ifndef MR_CLUSTER_STATE_H
#define MR_CLUSTER_STATE_H

#include "ops.pb-c.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STATE_GRACE_MS = 600 * 1000,  /* PROTOCOL.md 3.4, 4.2 */
    STATE_MAX_RECIPIENTS = 50000, /* of one message; SMTP's limit is lower */
    STATE_MAX_NODES = 63,         /* raft ids of holders fit a 64-bit set: ids 1..63 */
    STATE_MAX_REPLY = 500,        /* bytes of a stored reply */
    STATE_RELEASE_BATCH = 1000,   /* deferred deliveries that one entry makes ready at most */
    STATE_VERSION = 2,            /* highest cluster version that this program knows */
    STATE_MAX_SITES = 50000,      /* remembered; the one that expires first goes */
    STATE_MAX_STS_MX = 100,       /* patterns of one MTA-STS policy */
    STATE_MAX_USERS = 50000,      /* whose recipients are counted; the one that was quiet the longest goes */
    STATE_MIN_PRIORITY = -9,      /* MT-PRIORITY, RFC 6710 */
    STATE_MAX_PRIORITY = 9,
};
/* Release.delivery that means the message's notice instead of a delivery: it could not be given, again in 60 s. */
#define STATE_RELEASE_NOTICE UINT32_MAX

enum recipient_state {
    RECIPIENT_QUEUED,
    RECIPIENT_DELIVERED,
    RECIPIENT_FAILED,
    RECIPIENT_EXPIRED,
    RECIPIENT_CANCELLED,
};
enum delivery_state {
    DELIVERY_READY,
    DELIVERY_ASSIGNED,
    DELIVERY_DEFERRED,
    DELIVERY_HELD,
    DELIVERY_DONE,
};
/* Enqueue.flags */
enum message_flag {
    MESSAGE_8BITMIME = 1,
    MESSAGE_SMTPUTF8 = 2,
    MESSAGE_DSN = 4,    /* is itself a delivery status notification */
    MESSAGE_WARNED = 8, /* a delay warning was sent */
    MESSAGE_BINARYMIME = 16,
    MESSAGE_REQUIRETLS = 32,
};

/* What applying one operation came to. */
enum apply_result {
    APPLIED = 0,
    APPLY_DUPLICATE,       /* enqueue: present already, or finished by delivery: the sender may be told 250 */
    APPLY_CANCELLED,       /* enqueue: a cancel came first */
    APPLY_STALE,           /* enqueue: its stamp is older than grace; outcome or notice of an old attempt: no effect */
    APPLY_NOT_MAJORITY,    /* enqueue: its holders are no majority of the voters */
    APPLY_NOT_FOUND,       /* no such message, delivery, node */
    APPLY_TERMINAL,        /* outcome or cancel: terminal already */
    APPLY_INVALID,         /* indices out of range, limits exceeded */
    APPLY_OLD_INCARNATION, /* node_up, node_down: not the one in force */
    APPLY_QUOTA,           /* enqueue: more recipients in an hour than its user may send to */
    APPLY_VERSION,         /* never by apply: the leader proposes it not before all members know it (4.6) */
    APPLY_FULL,            /* never by apply: the leader finds the state too large for it (4.9) */
};
const char *apply_result_text(enum apply_result r);

struct state;
struct state_message;
struct state_next_hop;

/* Views for readers. */
struct recipient_view {
    const char *address;
    size_t address_len;
    uint32_t delivery;
    enum recipient_state state;
    const char *reply; /* "" when none; zero-terminated */
    const char *status;
    const char *orcpt;
    uint32_t notify;
};
struct delivery_view {
    const char *next_hop;
    enum delivery_state state;
    uint32_t attempt; /* number of the running or last one; 0: none yet */
    uint32_t failures;
    uint64_t due_ms;      /* while deferred; 0: not again, its message has expired and waits for the notice */
    uint64_t assigned_ms; /* while assigned: since when; 0: since before cluster version 2 */
    uint32_t node;        /* while assigned */
    uint64_t incarnation;
    uint32_t slot;
    uint32_t deadline_for_ms;
    uint32_t avoid_node; /* 0: none */
    uint32_t queued;     /* recipients that are not terminal */
};
struct message_view {
    struct mr_id id;
    uint64_t sequence;
    uint64_t body_length;
    uint8_t body_checksum[16];
    uint64_t body_stamp_ms;
    uint64_t holders;         /* bit (1 << raft id) */
    const char *reverse_path; /* zero-terminated; "" null */
    const char *envid;
    const char *client;
    uint32_t ret;
    uint32_t flags;
    uint32_t acceptor;
    uint64_t arrived_ms, warn_ms, expire_ms;
    int32_t priority;    /* STATE_MIN_PRIORITY..STATE_MAX_PRIORITY */
    uint64_t release_ms; /* no attempt before (FUTURERELEASE); 0: was never held */
    Mailraft__DeliverBy deliver_by;
    uint64_t deliver_by_ms; /* 0 when deliver_by is DELIVER_BY_NONE */
    bool deliver_by_trace;
    const char *user; /* "" none */
    uint32_t n_recipients, n_deliveries;
    uint32_t n_assigned;              /* deliveries */
    Mailraft__NoticeKind notice_kind; /* a notice that is assigned now, else NOTICE_NONE */
    uint32_t notice_attempt, notice_node;
    uint64_t notice_incarnation;
};
/* What is remembered of a site (SiteMemory); only what has not expired by committed time. */
struct site_view {
    uint64_t tls_failed_until_ms; /* 0: STARTTLS is not known to fail there */
    const char *tls_reason;       /* "" none */
    const char *sts_id;           /* NULL: no MTA-STS policy is known */
    unsigned sts_mode;            /* StsPolicy.mode */
    const char *const *sts_mx;
    unsigned n_sts_mx;
    uint64_t sts_expires_ms;
};
struct node_view {
    uint32_t node;
    const char *name;
    const char *address;
    const char *version;
    struct mr_id directory;
    uint64_t incarnation;
    bool up;
    bool voter;
};

/* What applying did, for this node's own doings. Called inside state_apply; must not call state_apply. Any may be NULL.
 * None is called by restore: after it the owner looks at the whole state. */
struct state_observer {
    void *arg;
    void (*assigned)(void *arg, const struct state_message *m, uint32_t delivery);
    /* The assignment ended: by outcome, release, or its node's fall. */
    void (*unassigned)(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, uint32_t slot,
                       const char *next_hop);
    void (*notice_assigned)(void *arg, const struct state_message *m);
    /* By what was written, by release, or its node's fall; not when its message is removed meanwhile. */
    void (*notice_ended)(void *arg, struct mr_id id);
    void (*enqueued)(void *arg, const struct state_message *m);
    void (*recipient_done)(void *arg, const struct state_message *m, uint32_t recipient);
    void (*removed)(void *arg, struct mr_id id); /* the last recipient is terminal: the body may go */
    void (*node_changed)(void *arg, const struct node_view *node);
    void (*rules_changed)(void *arg, const Mailraft__Rules *rules);
    /* A delivered outcome that came for a recipient that was terminal already. */
    void (*late_outcome)(void *arg, struct mr_id id, uint32_t recipient, uint32_t attempt, uint32_t node);
    void (*in_doubt)(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, bool possibly);
    /* An outcome of a running attempt applied: what it says of its next hop (PROTOCOL.md 6.4, 6.5). */
    void (*outcome)(void *arg, uint32_t node, uint32_t slot, const char *next_hop, bool delivered, bool unreached);
    /* Trace point: a delivery went from one state to another. */
    void (*moved)(void *arg, const struct state_message *m, uint32_t delivery, enum delivery_state from,
                  enum delivery_state to);
};

struct state *state_open(const struct state_observer *observer);
void state_close(struct state *s);

/* Applies one entry (a packed Batch). results: filled with one apply_result an operation, at most *n_results;
 * *n_results becomes the number of operations. MR_MALFORMED, MR_VERSION: unknown or undecodable: the caller stops the
 * process (4.6). */
int state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results, size_t *n_results);

/* Snapshot as one or more buffers of records (FORMAT.md) with a checksum; free with state_snapshot_free. */
struct state_buffer {
    void *base;
    size_t len;
};
void state_snapshot(const struct state *s, struct state_buffer **buffers, unsigned *count);
void state_snapshot_free(struct state_buffer *buffers, unsigned count);
/* The state as it is now, to be written while it changes: what costs something is done by write, and by whoever is
 * about to change something that is not written yet. At most one at a time, and none at restore and close.
 *
 * H1: write gives the bytes that state_snapshot would have given at the time of hold, in order.
 * H2: hold costs what nodes, parts, sites and users take, which are limited; nothing that grows with the queue.
 * Thread: hold and release the state's, write any one; release after write has returned. */
struct state_held;
/* Takes the next piece; false: no more is wanted. */
typedef bool (*state_put)(void *arg, const void *data, size_t len);
struct state_held *state_hold(struct state *s);
/* False: put said so. Once. */
bool state_held_write(struct state_held *held, state_put put, void *arg);
void state_release_held(struct state_held *held);
/* Never less than the bytes of a snapshot taken now, and about twice as many. Of what is in the queue only replies of
 * next hops make it grow, and assignments while they run. O(1). */
uint64_t state_bytes(const struct state *s);
/* Of a message in it, without its replies. */
uint64_t state_message_bytes(const struct state_message *m);
/* At least what the message will add to it. */
uint64_t state_enqueue_bytes(const Mailraft__Enqueue *e);
/* Replaces the whole state, all or nothing. MR_MALFORMED, MR_CHECKSUM, MR_VERSION: the state is as it was. */
int state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len);
/* The same in two steps, of which the first is O(queue): a state of its own, in *out, to be closed by the caller. Tells
 * the observer nothing. */
int state_read(const struct state_observer *observer, uint64_t index, const uint8_t *data, size_t len,
               struct state **out);
/* Each is the other afterwards. Nothing is held of either. */
void state_exchange(struct state *s, struct state *fresh);
/* XXH3-128 over everything that is replicated; equal on all nodes at the same index. O(queue). */
void state_hash(const struct state *s, uint8_t hash[16]);
/* Checks every internal invariant (counts, lists, heaps, links); panics on a violation. For tests and debug builds. */
void state_check(const struct state *s);

/* Reading. */
uint64_t state_index(const struct state *s);
uint64_t state_now_ms(const struct state *s); /* committed time; 0 before the first entry */
struct mr_id state_cluster(const struct state *s);
const Mailraft__Rules *state_rules(const struct state *s); /* NULL before the first rules operation */
uint32_t state_version(const struct state *s);

const struct state_message *state_find(const struct state *s, struct mr_id id); /* NULL: none */
bool state_is_finished(const struct state *s, struct mr_id id, bool *cancelled);
void state_message_view(const struct state_message *m, struct message_view *out);
void state_recipient_view(const struct state_message *m, uint32_t recipient, struct recipient_view *out);
void state_delivery_view(const struct state_message *m, uint32_t delivery, struct delivery_view *out);
/* Messages in sequence order; after: 0 for the first, else the sequence of the last one seen (it may be gone). The cost
 * is that of the step, not of the queue. NULL at the end. */
const struct state_message *state_next_message(const struct state *s, uint64_t after);

unsigned state_nodes(const struct state *s); /* views by position 0..n-1, ordered by raft id */
void state_node_view(const struct state *s, unsigned position, struct node_view *out);
bool state_node_by_id(const struct state *s, uint32_t node, struct node_view *out);
/* Voters in the state, as a set of bits (1 << raft id), and the number that makes a majority. */
uint64_t state_voters(const struct state *s);
unsigned state_majority(const struct state *s);

/* By the site's name in lower case. False: nothing is remembered. */
bool state_site(const struct state *s, const char *site, struct site_view *out);
/* Recipients that count against a user's limit now; 0 too for one without limit. */
uint64_t state_user_recipients(const struct state *s, const char *user);

/* Next hops that have at least one delivery, in the order of their creation. position: opaque cursor, NULL to begin. */
struct next_hop_view {
    const char *name;
    uint64_t ready, assigned, deferred, held; /* deliveries */
    uint64_t oldest_ms;                       /* smallest arrived_ms seen among those ready now at the list's head; 0 */
    uint64_t next_due_ms;                     /* earliest deferred; 0: none */
    const char *last_reply;                   /* of the last attempt that did not deliver; "" */
};
const struct state_next_hop *state_next_hop_next(const struct state *s, const struct state_next_hop *after);
const struct state_next_hop *state_next_hop_find(const struct state *s, const char *name);
void state_next_hop_view(const struct state_next_hop *h, struct next_hop_view *out);

/* For the scheduler: next hops with ready deliveries, each O(1). */
const struct state_next_hop *state_ready_next_hop(const struct state *s, const struct state_next_hop *after);
/* The ready deliveries of a next hop: strictly by priority (MT-PRIORITY, RFC 6710), those of one priority in the order
 * in which they became ready. So as long as a next hop is given more urgent mail than it takes, the rest waits, until
 * it expires: who may submit with a high priority is for the SMTP server to say. Next hops do not compete: the
 * scheduler goes round them, and what was assigned ahead into a connection is not overtaken. *cursor NULL to begin.
 * Skips nothing.
 */
struct ready_delivery {
    const struct state_message *message;
    uint32_t delivery;
};
bool state_ready_next(const struct state_next_hop *h, const void **cursor, struct ready_delivery *out);
/* Assigned deliveries of a node (0: of all), in assignment order; *cursor NULL to begin. */
bool state_assigned_next(const struct state *s, uint32_t node, const void **cursor, struct ready_delivery *out);
/* Messages whose notice is assigned to a node, in no order; after: the one before, NULL to begin. */
const struct state_message *state_notice_assigned_next(const struct state *s, uint32_t node,
                                                       const struct state_message *after);
/* Messages that want a notice now (warn_ms or expire_ms has passed and none is assigned), earliest first. */
bool state_notice_next(const struct state *s, const void **cursor, const struct state_message **out,
                       Mailraft__NoticeKind *kind);
/* Committed time at which the next deferred delivery, warning, expiry or finished record falls due; UINT64_MAX: none.
 * The leader proposes an entry then, if nothing else does. */
uint64_t state_next_due_ms(const struct state *s);

struct state_counts {
    uint64_t messages, ready, assigned, deferred, held, recipients, finished, body_bytes; /* recipients: queued ones */
    uint64_t accepted, delivered, failed, expired, in_doubt, possibly_in_doubt;           /* since the cluster began */
    uint64_t sites, users;
    uint64_t memory_bytes; /* allocated for the state, about */
};
void state_counts(const struct state *s, struct state_counts *out);

#endif
