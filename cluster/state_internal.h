/* state_internal.h - inside of the replicated queue (state.h), shared by its files only:
 *
 *   state.c           open, close, reading
 *   state_apply.c     decoding an entry, what time brings, the table of operations
 *   state_enqueue.c   enqueue, cancel; a message's memory
 *   state_parts.c     enqueues too large for one entry
 *   state_delivery.c  assign, release; the ONE function that moves a delivery; state_outcome.c  what came of it
 *   state_notice.c    expiry and delay warnings
 *   state_nodes.c     members, incarnations, rules, version
 *   state_finished.c  ids that are remembered
 *   state_sites.c     what is remembered of sites
 *   state_users.c     recipients of each user in an hour
 *   state_chunks.c    the messages in order, in chunks; state_held.c  the state of one index, held while it changes
 *   state_snapshot.c  writing (and hashing), state_restore.c reading; state_size.c  how large it may become
 *   state_check.c     every invariant
 *   state_list, state_tree, state_index, state_arena: generic pieces
 *
 * Replicated is what the snapshot holds. All lists, trees, tables and counts are worked out from it, so that they are
 * the same on a node that restored as on one that applied; not so, and not replicated: the order in which next hops are
 * listed, and the last reply of a next hop. Nothing that applies may look at those two. Thread: the core's, but for
 * what state_held.c says. */
#ifndef MR_CLUSTER_STATE_INTERNAL_H
#define MR_CLUSTER_STATE_INTERNAL_H

#include "cluster/state.h"
#include "cluster/state_arena.h"
#include "cluster/state_index.h"
#include "cluster/state_list.h"
#include "cluster/state_tree.h"
#include "proto/base/hash.h"
#include "proto/base/mailbox.h" /* MR_CONTAINER */

enum {
    STATE_NOTICE_AGAIN_MS = 60 * 1000, /* a notice that could not be given: again after so long */
    STATE_MAX_TEXT = 1024,             /* bytes of an address, ORCPT, ENVID, client, node's name or address */
    STATE_MAX_STATUS = 15,             /* bytes of an enhanced status code; more is cut */
    STATE_MAX_PART_SETS = 1024,        /* enqueues in parts that are under way at once; the oldest goes */
    STATE_MAX_PARTS = 4096,            /* of one enqueue */
    STATE_MAX_SITE = 255,              /* bytes of a site, a user, an STS policy's id or pattern */
    STATE_PRIORITIES = STATE_MAX_PRIORITY - STATE_MIN_PRIORITY + 1,
    STATE_USER_MINUTES = 61, /* an hour, and the minute that is not over */
};
#define STATE_MAX_PARTS_BYTES    (UINT64_C(64) * 1024 * 1024) /* of all; the oldest goes */
#define STATE_MAX_PART_SET_BYTES (UINT64_C(32) * 1024 * 1024)
#define STATE_MAX_SITES_BYTES    (UINT64_C(64) * 1024 * 1024) /* of all; the one that expires first goes */
#define STATE_MAX_SITE_FOR_MS    (UINT64_C(31557600) * 1000)  /* the longest max_age of RFC 8461, for all of a site */
#define STATE_DUE_NEVER          UINT64_MAX /* a deferred delivery of an expired message: its notice handles it */
#define STATE_MAX_MS             ((uint64_t)1 << 61) /* committed times and durations above are malformed or cut */
#define STATE_MAX_SEQUENCE       ((uint64_t)1 << 47) /* a delivery's key is sequence * 2^16 + index */
#define STATE_FIRST_ORDER        ((uint64_t)1 << 40) /* of the first in an empty list; 2^40 may still come before it */
#define STATE_MAX_ORDER          ((uint64_t)1 << 62) /* in a snapshot: 2^62 may still come behind it */

struct state_next_hop {
    struct state_index_node by_name;
    struct state_link in_all;
    struct state_link in_ready_hops; /* while ready is not empty */
    uint64_t n_ready;                /* in all lists */
    struct state_list ready;         /* deliveries of priority 0, by order */
    struct state_list *urgencies;    /* of the other priorities; NULL: there was none yet */
    struct state_tree deferred;      /* deliveries, by (due, key) */
    struct state_tree_node due;      /* while deferred is not empty: key of its first */
    uint64_t assigned, held;
    uint64_t references; /* deliveries that name it, in any state */
    char *last_reply;    /* NULL: none; not replicated */
    struct {
        uint64_t ready, assigned, deferred, held, references;
    } tally; /* state_check's */
    uint16_t name_len;
    char name[];
};

struct state_delivery {
    struct state_next_hop *hop;
    union {
        struct {
            struct state_link in_list; /* READY: its next hop's; ASSIGNED: all assigned */
            struct state_link in_node; /* ASSIGNED: its node's */
        };
        struct state_tree_node due; /* DEFERRED */
    };
    uint64_t due_ms;      /* DEFERRED: when again; ASSIGNED: when that was, 0 below version 2 */
    uint64_t order;       /* READY, ASSIGNED: place in the list */
    uint64_t incarnation; /* ASSIGNED, as the next three */
    uint32_t slot;
    uint32_t deadline_for_ms;
    uint32_t attempt;
    uint32_t failures;
    uint32_t index;  /* in its message */
    uint32_t queued; /* recipients */
    uint8_t node;
    uint8_t avoid_node;
    uint8_t state; /* enum delivery_state */
};

struct state_recipient {
    const char *address; /* zero byte, orcpt, zero byte behind it */
    char *answer;        /* NULL, or status, zero byte, reply, zero byte */
    uint32_t delivery;
    uint32_t notify;
    uint16_t address_len;
    uint8_t state; /* enum recipient_state */
    uint8_t mark;  /* scratch of one operation; 0 between */
};

/* What few messages have; behind the recipients. */
struct state_extras {
    uint64_t hold_for_ms, deliver_by_for_ms; /* from arrived_ms */
    const char *user;
    uint8_t deliver_by; /* enum Mailraft__DeliverBy */
    bool deliver_by_trace;
};

/* One allocation: deliveries, recipients, extras and texts lie behind. */
struct state_message {
    struct mr_id id;
    struct state_index_node by_id;
    struct state_chunk *chunk; /* where it stands by sequence */
    uint64_t sequence;
    union {
        struct state_tree_node notice; /* while a notice will be due and none is assigned: (due, sequence) */
        struct state_link in_node;     /* while one is assigned */
    };
    uint64_t body_length;
    uint8_t body_checksum[16];
    uint64_t body_stamp_ms;
    uint64_t holders;
    uint64_t arrived_ms, warn_ms, expire_ms;
    uint64_t notice_due_ms; /* STATE_DUE_NEVER: no more */
    uint64_t notice_incarnation;
    const char *reverse_path, *envid, *client;
    struct state_recipient *recipients;
    size_t memory;
    uint32_t ret, flags, acceptor;
    uint32_t n_recipients, n_deliveries;
    uint32_t queued;   /* recipients */
    uint32_t assigned; /* deliveries */
    uint32_t notice_attempt;
    uint8_t notice_kind; /* assigned now */
    uint8_t notice_node;
    uint8_t urgency; /* priority - STATE_MIN_PRIORITY */
    bool has_extras;
    struct state_delivery deliveries[];
};

struct state_node {
    uint32_t id;
    char *name, *address, *version;
    struct mr_id directory;
    uint64_t incarnation;
    bool up, voter;
    struct state_list assigned; /* deliveries, by order */
    struct state_list notices;  /* messages; no order that anything hangs on */
};

/* A finished id. Which attempt ended it tells a late second copy from the same outcome proposed again. */
struct state_finished {
    struct state_index_node by_id;
    struct mr_id id;
    uint64_t finished_ms;
    uint32_t delivery, attempt;
    uint8_t node; /* 0: no attempt ended it */
    bool cancelled;
};
struct state_finished_chunk;

/* What is remembered of a site; one allocation with its texts, made anew by each change. */
struct state_site {
    struct state_index_node by_name;
    struct state_tree_node by_expiry; /* major: when the last of it expires, minor: number */
    uint64_t number;
    uint64_t tls_failed_until_ms; /* 0: never */
    uint64_t sts_expires_ms;      /* 0: no policy */
    const char *name, *tls_reason, *sts_id;
    const char *const *sts_mx;
    uint32_t sts_mode, n_sts_mx;
    size_t memory;
};

/* Recipients of a user's messages by minute of committed time. */
struct state_user {
    struct state_index_node by_name;
    struct state_link in_all; /* by minute, then in the order in which they were charged */
    uint64_t minute;          /* that of the last charge */
    uint64_t sum;
    uint32_t recipients[STATE_USER_MINUTES]; /* by minute % STATE_USER_MINUTES; those up to `minute` */
    size_t name_len;
    char name[];
};

struct state_parts {
    struct state_index_node by_id;
    struct state_link in_all; /* by begun_ms */
    struct mr_id id;
    uint64_t begun_ms;
    uint32_t parts, have;
    uint8_t *data;
    size_t len;
};

struct state {
    struct state_observer observer;
    struct state_arena arena;
    uint64_t seed; /* of hashes of what strangers choose; nothing that is seen hangs on it */
    uint64_t index;
    uint64_t now_ms;
    struct mr_id cluster;
    uint32_t version;
    uint64_t next_sequence;
    Mailraft__Rules *rules;

    struct {
        struct state_list all; /* by sequence */
        struct state_tree by_first;
        uint64_t next_number;
    } chunks;
    struct state_held *held; /* NULL: nothing is held */
    struct state_index message_index;
    struct state_list hops, ready_hops;
    struct state_index hop_index;
    struct state_tree due_hops; /* next hops by their earliest deferred delivery */
    struct state_list assigned; /* deliveries, by order */
    struct state_tree notices;  /* messages by notice_due_ms */

    struct state_node *nodes[STATE_MAX_NODES + 1]; /* by raft id; NULL: none */
    unsigned n_nodes;

    struct {
        struct state_finished_chunk *first, *last;
        size_t head; /* oldest, in first */
        uint64_t count;
        struct state_index index;
        struct state_finished_chunk *gone; /* dropped while the state was held */
    } finished;

    struct {
        struct state_list all;
        struct state_index index;
        uint64_t bytes;
    } parts;

    struct {
        struct state_tree by_expiry;
        struct state_index index;
        uint64_t next_number;
        uint64_t bytes;
    } sites;

    struct {
        struct state_list all;
        struct state_index index;
        Mailraft__UserLimit **limits; /* those of the rules, sorted by user */
    } users;

    struct state_counts counts; /* finished, memory_bytes: worked out when asked */
    uint64_t memory;
    uint64_t message_bytes; /* of state_bytes: the messages, with their replies */
};

#define DELIVERY_OF(link, member) MR_CONTAINER(link, struct state_delivery, member)
static inline struct state_message *delivery_message(const struct state_delivery *d)
{
    return (struct state_message *)((char *)(uintptr_t)(d - d->index) - offsetof(struct state_message, deliveries));
}
static inline uint64_t message_sequence(const struct state_message *m)
{
    return m->sequence;
}
static inline int32_t message_priority(const struct state_message *m)
{
    return m->urgency + STATE_MIN_PRIORITY;
}
static inline uint64_t delivery_key(const struct state_delivery *d)
{
    return message_sequence(delivery_message(d)) << 16 | d->index;
}
static inline uint64_t id_hash(const struct state *s, struct mr_id id)
{
    return XXH3_64bits_withSeed(id.bytes, sizeof(id.bytes), s->seed);
}
/* Past its end: no delivery of it becomes ready any more. expire_ms 0: it has none. */
static inline bool message_expired(const struct state *s, const struct state_message *m)
{
    return m->expire_ms != 0 && m->expire_ms <= s->now_ms;
}

static inline const struct state_extras *message_extras(const struct state_message *m)
{
    return (const struct state_extras *)(const void *)(m->recipients + m->n_recipients);
}

/* state.c */
void state_init_contents(struct state *s);
void state_close_contents(struct state *s);

/* state_enqueue.c */
/* What the enqueue would come to if it applied now; *id is set unless APPLY_INVALID. Changes nothing. */
enum apply_result state_enqueue_check(const struct state *s, const Mailraft__Enqueue *e, struct mr_id *id);
/* After a check that gave APPLIED. */
void state_enqueue_do(struct state *s, const Mailraft__Enqueue *e, struct mr_id id);
bool state_enqueue_valid(const Mailraft__Enqueue *e, struct mr_id *id);
bool state_enqueue_has_extras(const Mailraft__Enqueue *e);
/* Bytes of its texts with a zero byte behind each, without the next hops. */
size_t state_enqueue_texts(const Mailraft__Enqueue *e);
/* A message with all links but those of its deliveries; told to nobody. The enqueue is valid. */
struct state_message *state_message_add(struct state *s, const Mailraft__Enqueue *e, struct mr_id id,
                                        uint64_t sequence);
void state_message_free(struct state *s, struct state_message *m);
/* Its memory only: the state goes as a whole. */
void state_message_discard(struct state_message *m);
/* Its last recipient is terminal: forgets it. by: the delivery whose attempt ended it; NULL: none did. */
void state_message_finish(struct state *s, struct state_message *m, uint32_t delivery, uint32_t attempt, uint32_t node);
enum apply_result state_enqueue(struct state *s, const Mailraft__Enqueue *e);
enum apply_result state_enqueue_part(struct state *s, const Mailraft__EnqueuePart *p, int *fatal);
enum apply_result state_cancel(struct state *s, const Mailraft__Cancel *c);
struct state_parts *state_parts_find(const struct state *s, struct mr_id id);
struct state_parts *state_parts_add(struct state *s, struct mr_id id, uint32_t parts, uint64_t begun_ms);
void state_parts_extend(struct state *s, struct state_parts *p, const uint8_t *data, size_t len);
void state_parts_drop(struct state *s, struct state_parts *p);
void state_parts_expire(struct state *s);
bool state_known_fields(const ProtobufCMessage *m);

/* state_size.c */
/* Of state_bytes: header, rules (56 KiB at most, by the leader), 63 nodes of three texts each, the end. */
enum { STATE_HEAD_BYTES = 512 * 1024 };

/* state_chunks.c */
/* Messages that follow each other by sequence: what a held state shares, and is written as a whole. No more than
 * STATE_CHUNK of them, nor begun when STATE_CHUNK_BYTES are there. */
enum { STATE_CHUNK = 32, STATE_CHUNK_BYTES = 64 * 1024 };
struct state_chunk {
    struct state_link in_all;
    struct state_tree_node by_first; /* major: a sequence above those of earlier chunks, and not above its own */
    struct state_link in_sparse;     /* state_held.sparse */
    uint64_t number;                 /* rises; from 1 */
    uint64_t saved; /* number of the held state that has its records: under that one's mutex, as bytes */
    uint8_t *bytes; /* of these records until they are written; NULL: they are, or there are none */
    size_t len;
    size_t memory; /* of its messages */
    unsigned used; /* slots that were given out */
    unsigned live; /* those that hold a message */
    bool sparse;
    struct state_message *messages[STATE_CHUNK]; /* NULL: gone */
};
/* Behind all others: its sequence is the highest. */
void state_chunks_add(struct state *s, struct state_message *m);
/* With their messages, which stay in whatever list they are in. */
void state_chunks_close(struct state *s);
void state_chunks_remove(struct state *s, struct state_message *m);
/* In order of sequence; *chunk and *slot: a cursor, NULL and 0 to begin. NULL: no more. */
struct state_message *state_chunks_next(const struct state *s, const struct state_chunk **chunk, unsigned *slot);
/* The first whose sequence is greater; NULL: none. */
struct state_message *state_chunks_after(const struct state *s, uint64_t sequence);
struct state_message *state_chunks_last(const struct state *s);
/* Lets go an empty chunk, or merges one that holds few with a neighbour. */
void state_chunks_tidy(struct state *s, struct state_chunk *chunk);
void state_chunks_check(const struct state *s);

/* state_held.c */
/* Before anything of a message changes that the snapshot tells, or the message goes. */
void state_touch(struct state *s, const struct state_message *m);
/* A chunk of few while the state is held: tidied when it is released. */
void state_held_sparse(struct state_held *held, struct state_chunk *chunk);

/* state_delivery.c */
enum delivery_place { AT_BACK, AT_FRONT };
/* The one way from state to state; checks the declared table, keeps lists and counts, tells the observer. READY: place;
 * DEFERRED: d->due_ms is set before; ASSIGNED: delivery_assign. */
void delivery_move(struct state *s, struct state_delivery *d, enum delivery_state to, enum delivery_place place);
/* A new delivery's first state, or a restored one's: READY and ASSIGNED with d->order set. Tells nobody. */
void delivery_begin(struct state *s, struct state_delivery *d, enum delivery_state state);
/* The list that d stands in while it is ready. */
struct state_list *delivery_ready_list(struct state *s, const struct state_delivery *d);
uint64_t delivery_order_back(struct state *s, const struct state_delivery *d);
/* The ready ones of a next hop: by priority, then order. NULL: none, no more. */
const struct state_delivery *ready_first(const struct state_next_hop *hop);
const struct state_delivery *ready_after(const struct state_delivery *d);
/* Ready again, unless its message has expired: then it waits for the notice. */
void delivery_requeue(struct state *s, struct state_delivery *d, enum delivery_place place);
/* Up to max deferred ones whose time has come. */
void delivery_release_due(struct state *s, unsigned max);
struct state_delivery *delivery_first_due(const struct state *s);
void recipient_finish(struct state *s, struct state_message *m, uint32_t recipient, enum recipient_state to);
enum apply_result delivery_assign(struct state *s, struct state_message *m, const Mailraft__Assignment *a);
/* Forgets a delivery that is about to go with its message. */
void delivery_end(struct state *s, struct state_delivery *d);
struct state_next_hop *next_hop_get(struct state *s, const char *name);
void next_hop_put(struct state *s, struct state_next_hop *hop);
void next_hops_close(struct state *s);
void next_hop_reply(struct state *s, struct state_next_hop *hop, const char *reply);
/* Cuts the texts at their limits and at a zero byte. */
void recipient_answer(struct state *s, struct state_message *m, uint32_t recipient, const uint8_t *reply, size_t len,
                      const char *status);
enum apply_result state_assign(struct state *s, const Mailraft__Assign *a);
enum apply_result state_outcome(struct state *s, const Mailraft__Outcome *o);
enum apply_result state_release(struct state *s, const Mailraft__Release *r);

/* state_notice.c */
/* When the first or next notice of a message is due. */
uint64_t notice_time(const struct state_message *m);
void notice_schedule(struct state *s, struct state_message *m, uint64_t due_ms);
void notice_unschedule(struct state *s, struct state_message *m);
/* The assigned notice ends without effect or with; due_ms: of the next. */
void notice_end(struct state *s, struct state_message *m, uint64_t due_ms);
void notice_assign_to(struct state *s, struct state_message *m, Mailraft__NoticeKind kind, uint32_t node,
                      uint64_t incarnation);
enum apply_result state_assign_notice(struct state *s, const Mailraft__AssignNotice *a);
enum apply_result state_notice(struct state *s, const Mailraft__Notice *n);
enum apply_result notice_release(struct state *s, struct state_message *m, const Mailraft__Release *r);

/* Of names of next hops, sites and users, by the seed. */
uint64_t state_name_hash(const struct state *s, const char *name, size_t len);

/* state_sites.c */
enum apply_result state_site_memory(struct state *s, const Mailraft__SiteMemory *memory);
/* A site with all its links. Texts are copied; sts_expires_ms 0: no policy. */
struct site_texts {
    const char *name, *tls_reason, *sts_id;
    char *const *sts_mx;
    size_t n_sts_mx;
};
bool site_valid(const struct site_texts *t);
void site_add(struct state *s, const struct site_texts *t, uint64_t number, uint64_t tls_failed_until_ms,
              uint32_t sts_mode, uint64_t sts_expires_ms);
struct state_site *site_find(const struct state *s, const char *name);
/* Against STATE_MAX_SITES_BYTES. The same in every program of a cluster, whatever a struct takes there: it decides what
 * applying drops. */
uint64_t site_bytes(const struct state_site *site);
void sites_expire(struct state *s, unsigned max);
void sites_close(struct state *s);

/* state_users.c */
/* APPLIED or APPLY_QUOTA. Changes nothing. */
enum apply_result user_check(const struct state *s, const char *user, size_t recipients);
void user_charge(struct state *s, const char *user, size_t recipients);
struct state_user *user_find(const struct state *s, const char *user);
struct state_user *user_add(struct state *s, const char *user, uint64_t minute);
void users_expire(struct state *s, unsigned max);
/* The rules have changed. */
void users_limits(struct state *s);
void users_close(struct state *s);

/* state_nodes.c */
struct state_node *node_find(const struct state *s, uint32_t node);
struct state_node *node_add(struct state *s, uint32_t node, const char *name, struct mr_id directory);
void node_free(struct state_node *n);
void node_set_texts(struct state *s, struct state_node *n, const char *address, const char *version);
void node_view_of(const struct state_node *n, struct node_view *out);
/* APPLIED: it is up in this life. */
enum apply_result node_may_run(const struct state *s, uint32_t node, uint64_t incarnation);
enum apply_result state_node_up(struct state *s, const Mailraft__NodeUp *n);
enum apply_result state_node_down(struct state *s, const Mailraft__NodeDown *n);
enum apply_result state_form(struct state *s, const Mailraft__Form *f);
enum apply_result state_set_rules(struct state *s, const Mailraft__Rules *r);
enum apply_result state_set_version(struct state *s, const Mailraft__SetVersion *v);
void rules_replace(struct state *s, const Mailraft__Rules *r);

/* state_finished.c */
struct state_finished *finished_find(const struct state *s, struct mr_id id);
/* finished_ms of the newest is never smaller than that of an older one. */
struct state_finished *finished_add(struct state *s, struct mr_id id, uint64_t finished_ms, bool cancelled);
void finished_expire(struct state *s, unsigned max);
struct state_finished *finished_first(const struct state *s);
const struct state_finished *finished_last(const struct state *s);
/* In order of finishing; *chunk and *place: a cursor, NULL and 0 to begin. NULL: no more. */
const struct state_finished *finished_next(const struct state *s, const struct state_finished_chunk **chunk,
                                           size_t *place);
/* Those that are there now, for another thread while the state is held. */
struct finished_held {
    const struct state_finished_chunk *chunk;
    size_t place;
    uint64_t left;
};
struct finished_held finished_hold(const struct state *s);
const struct state_finished *finished_held_next(struct finished_held *held);
/* The state is no longer held. */
void finished_release(struct state *s);
void finished_close(struct state *s);

#define TELL(s, what, ...)                                                                                             \
    do {                                                                                                               \
        if ((s)->observer.what != NULL)                                                                                \
            (s)->observer.what((s)->observer.arg, __VA_ARGS__);                                                        \
    } while (0)

#endif
