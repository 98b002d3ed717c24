/* bodies_internal.h - what the files of the body plane share; nobody else includes it (but the unit tests).
 *
 * bodies.c        open, close, frames in, tick, callbacks to owners
 * bodies_put.c    the acceptor's side: a body on its way to this disk and to the peers'; bodies_push.c: to one peer
 * bodies_in.c     a body coming in piece by piece, pushed by a peer or asked for by us
 * bodies_want.c   bodies that this node lacks: which next, from whom, until when
 * bodies_read.c   reads of pieces, with repair
 * bodies_serve.c  a peer's request for a body
 * bodies_scan.c   back-fill scan over the envelopes; the collector
 * bodies_table.c  table by id
 *
 * Flow control between nodes: each piece that is not the last is answered with BODY_ACK_PIECE when it was written to
 * the receiver's spool (not yet synced), the last one with 0 when the whole body is durable there, and an error at any
 * point with the error's number. So a sender knows what a peer has taken, also for one large body. Callbacks to owners
 * run from the loop (bodies_later), never inside a function that the owner or the state called. */
#ifndef MR_CLUSTER_BODIES_INTERNAL_H
#define MR_CLUSTER_BODIES_INTERNAL_H

#include "cluster/bodies.h"
#include "proto/base/mailbox.h"

enum {
    BODIES_NODES = STATE_MAX_NODES + 1, /* raft ids 1..63 index the peers */
    BODIES_TARGETS = 8,                 /* peers that one body goes to at once */
    BODIES_MAX_PIECES = 1 << 16,        /* of one body */
    BODIES_FRAME_COST = 256,     /* bytes that a frame counts beside its tail, so that tiny bodies are bounded too */
    BODIES_PUT_WINDOW = 2 << 20, /* of one body unanswered by the majority: the owner's next piece waits */
    BODIES_SEND_WINDOW = 512 * 1024,  /* of one body read back from the spool (resent, served) and unanswered */
    BODIES_SERVE_QUEUE = 4 << 20,     /* more than this queued on the link: serving waits, puts go first */
    BODIES_SERVES = 2 * BODIES_PULLS, /* requests of one peer that are served at once; more: BODY_MISSING */
    BODIES_MAX_INCOMING = 16384,      /* bodies being pushed by one peer; more: MR_BUSY */
    BODIES_MAX_RECEIVED = 32 << 20,   /* bytes of one peer that wait for the spool; more: MR_BUSY */
    BODIES_MAX_WANTED = 1 << 16,      /* missing bodies remembered by id; the scan counts the rest and comes again */
    BODIES_MAX_READS = 1 << 14,       /* reads under way; more: MR_BUSY */
    BODIES_READ_TRIES = 3,            /* repairs for one read */
    BODIES_PULLS_FOR_READS = 2,       /* of BODIES_PULLS, kept free for reads */
    BODIES_FILL_RATE = 2 << 20,       /* bytes a tick of back-fill */
    BODIES_GRACE_MS = 1000,           /* a push may still be on its way when its envelope is applied */
    BODIES_RETRY_MS = 2000,           /* nobody has it now */
    BODIES_RECHECK_MS = 30000,        /* between two readings of a bad copy that nobody can replace */
    BODIES_LATE_MS = 5000,            /* a push without an answer no longer counts, but its answer is welcome */
    BODIES_LOST_MS = 15000,           /* the answer will not come; a request that we serve was given up */
    BODIES_ROUND_MS = 5000,           /* between two rounds of the collector, and of the scan when nothing lacks */
    BODIES_ACK_RING = 1024,           /* last acknowledgements to a peer, said again when our link to it comes back */
    BODY_ACK_PIECE = 255,             /* BodyAck.status: one more piece is written, not yet durable */
    BODY_META_MAX = 128,              /* packed BodyPiece, BodyAck, ... */
};

/* The neighbours, replaced in unit tests. */
struct bodies_ops {
    int (*spool_put)(struct spool *sp, struct spool_put *req);
    void (*spool_abort)(struct spool *sp, struct mr_id id);
    int (*spool_get)(struct spool *sp, struct spool_get *req);
    int (*spool_recheck)(struct spool *sp, struct spool_recheck *req);
    uint8_t *(*spool_read_now)(struct spool *sp, struct mr_id id, size_t *len);
    bool (*spool_has)(const struct spool *sp, struct mr_id id, struct spool_info *info);
    void (*spool_drop)(struct spool *sp, struct mr_id id);
    size_t (*spool_list)(const struct spool *sp, uint64_t *cursor, struct spool_entry *out, size_t max);
    int (*links_send)(struct links *l, uint32_t peer, enum link_channel channel, enum frame_type type, const void *meta,
                      size_t meta_len, const struct link_buffer *tail, unsigned n_tail);
    size_t (*links_queued)(const struct links *l, uint32_t peer, enum link_channel channel);
    int (*links_when_drained)(struct links *l, uint32_t peer, enum link_channel channel, size_t below,
                              void (*cb)(void *arg, int status), void *arg);
    const struct state_message *(*state_find)(const struct state *s, struct mr_id id);
    void (*state_message_view)(const struct state_message *m, struct message_view *out);
    bool (*state_is_finished)(const struct state *s, struct mr_id id, bool *cancelled);
    const struct state_message *(*state_next_message)(const struct state *s, uint64_t after);
    uint64_t (*state_voters)(const struct state *s);
    unsigned (*state_majority)(const struct state *s);
    const Mailraft__Rules *(*state_rules)(const struct state *s);
    uint64_t (*state_now_ms)(const struct state *s);
    uint32_t (*state_version)(const struct state *s);
    void (*state_counts)(const struct state *s, struct state_counts *out);
};
struct bodies *bodies_open_with(const struct bodies_config *config, const struct bodies_ops *ops);

/* ---- lists and tables ---- */
struct blist {
    struct blist *prev, *next;
};
static inline void blist_init(struct blist *l)
{
    l->prev = l->next = l;
}
static inline bool blist_empty(const struct blist *l)
{
    return l->next == l;
}
static inline void blist_remove(struct blist *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    blist_init(l);
}
static inline void blist_append(struct blist *head, struct blist *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

struct id_entry {
    struct id_entry *next;
    struct mr_id id;
};
struct id_table {
    struct id_entry **buckets;
    size_t mask, count;
};
void id_table_init(struct id_table *t);
void id_table_close(struct id_table *t); /* empty */
struct id_entry *id_table_find(const struct id_table *t, struct mr_id id);
void id_table_add(struct id_table *t, struct id_entry *e);
void id_table_remove(struct id_table *t, struct id_entry *e);

/* ---- shared state ---- */
/* A callback owed to an owner; run comes from the loop. */
struct later {
    struct blist link;
    void (*run)(struct bodies *b, struct later *l);
};

/* Outlives the body plane when the link's answer comes after the close. */
struct drain {
    struct bodies *b; /* NULL: closed meanwhile */
    uint32_t peer;
};

struct body_peer {
    bool up;           /* our bulk connection to it */
    size_t unacked;    /* bytes of puts sent to it and not answered */
    size_t received;   /* bytes from it that wait for the spool */
    unsigned incoming; /* bodies that it is pushing */
    unsigned serves;
    struct drain *drain;
    struct mr_id *acks; /* ring of BODIES_ACK_RING */
    size_t n_acks;      /* ever said */
};

enum want_list {
    WANT_READ,     /* somebody waits for it */
    WANT_MINORITY, /* the envelope names fewer holders than a majority of today's voters */
    WANT_LIVE,     /* just enqueued and not pushed to us */
    WANT_FILL,     /* found by the scan */
    WANT_QUEUES,
    WANT_GRACE = WANT_QUEUES, /* due_ns: a push may still come */
    WANT_BACKOFF,             /* due_ns: nobody had it */
    WANT_ACTIVE,              /* being pulled */
    WANT_LISTS
};

struct bodies {
    struct bodies_config config;
    const struct bodies_ops *ops;
    uint64_t now_ns, second_ns;
    bool ready;
    bool closing, timer_closed;
    void (*close_cb)(void *arg);
    void *close_arg;
    size_t pending; /* spool requests under way */
    uv_timer_t soon;
    struct blist later, failed_reads;
    struct body_peer peers[BODIES_NODES];
    uint64_t up; /* bits of the peers */

    struct id_table puts, incoming, wants;
    struct blist put_list, short_puts; /* short: sees no majority yet */
    struct blist want_lists[WANT_LISTS];
    unsigned active_pulls;
    uint64_t next_request;
    uint64_t held_wants; /* wants of bodies that this node should hold */
    int64_t fill_budget;
    bool refuses;               /* new pushes */
    uint64_t no_space_until_ns; /* a pull found the disk full */
    size_t reads;
    struct blist serves;

    struct {
        bool running, marked; /* marked: a whole pass was made since the start or the last restore */
        uint64_t after;       /* sequence */
        uint64_t seen, overflow, last_overflow;
        uint64_t next_ns;
    } scan;
    struct {
        bool running;
        uint64_t cursor, next_ns;
    } collect;
    struct bodies_stats stats;
};

static inline uint64_t node_bit(uint32_t node)
{
    return node > 0 && node < BODIES_NODES ? (uint64_t)1 << node : 0;
}
static inline unsigned bit_count(uint64_t bits)
{
    return (unsigned)__builtin_popcountll(bits);
}

/* ---- bodies.c ---- */
void bodies_later(struct bodies *b, struct later *l, void (*run)(struct bodies *b, struct later *l));
void bodies_wake(struct bodies *b);
void bodies_spool_done(
    struct bodies *b); /* one spool request less; may complete the close: b is not to be touched after */
int bodies_send(struct bodies *b, uint32_t peer, enum frame_type type, const ProtobufCMessage *message,
                const struct link_buffer *tail);
void bodies_send_abort(struct bodies *b, uint32_t peer, struct mr_id id);
void bodies_send_ack(struct bodies *b, uint32_t peer, struct mr_id id, unsigned status);
bool bodies_peer_behind(const struct bodies *b, uint32_t peer);
/* Bodies that every holder-to-be has: max(replicas, majority), at most n. */
unsigned bodies_replicas(const struct bodies *b, unsigned n);
/* The nth set bit of candidates in an order that depends on the id, so that load is spread: picks the first. 0: none.
 */
uint32_t bodies_pick(struct mr_id id, uint64_t candidates);
/* A put, a push or a pull of it is under way. */
bool bodies_busy(const struct bodies *b, struct mr_id id);

/* ---- bodies_put.c ---- */
void put_ack(struct bodies *b, uint32_t peer, struct mr_id id, unsigned status);
void put_link_down(struct bodies *b, uint32_t peer);
void put_retry_short(struct bodies *b, bool forget_failures);
void put_recount(struct bodies *b); /* the voters changed */
void put_timeouts(struct bodies *b);
void put_close(struct bodies *b);
bool put_running(const struct bodies *b, struct mr_id id); /* its owner still waits */

/* ---- bodies_in.c ---- */
struct want;
struct incoming;
int in_piece(struct bodies *b, uint32_t peer, const Mailraft__BodyPiece *m, struct mr_id id, const uint8_t *tail,
             size_t tail_len);
bool in_pushed(const struct bodies *b, struct mr_id id); /* a peer is pushing it */
struct incoming *in_begin_pull(struct bodies *b, uint32_t peer, struct want *w, struct mr_id id);
void in_end(struct incoming *in); /* given up: what came is forgotten */
void in_abort(struct bodies *b, uint32_t peer, struct mr_id id);
void in_timeouts(struct bodies *b);
void in_link_up(struct bodies *b, uint32_t peer); /* says the last acknowledgements again */
void in_close(struct bodies *b);

/* ---- bodies_want.c ---- */
struct want *want_by_request(const struct bodies *b, uint32_t peer, uint64_t request);
struct incoming *want_incoming(const struct want *w);
void want_progress(struct want *w);
/* Its pull has ended: 0, or why it failed; the next holder is asked, or it waits. */
void want_pulled(struct want *w, int status);
void want_present(struct bodies *b, struct mr_id id); /* durable here now */
void want_missing(struct bodies *b, uint32_t peer, uint64_t request);
/* This node lacks a body that an envelope names. Returns false when there is no room to remember it. */
bool want_add(struct bodies *b, struct mr_id id, enum want_list list, bool bad);
void want_removed(struct bodies *b, struct mr_id id);
void want_link(struct bodies *b, uint32_t peer, bool up);
void want_tick(struct bodies *b);
void want_restored(struct bodies *b);
void want_close(struct bodies *b);
bool want_active(const struct bodies *b, struct mr_id id);
bool want_should_hold(const struct bodies *b, const struct message_view *v);
/* A read waits for the body: read_here or read_fail follows. */
void want_wait(struct bodies *b, struct mr_id id, struct blist *read);

/* ---- bodies_read.c ---- */
void read_here(struct blist *read);
void read_fail(struct blist *read, int status);
void read_failed(struct bodies *b); /* runs the callbacks of those that failed */

/* ---- bodies_serve.c ---- */
void serve_get(struct bodies *b, uint32_t peer, struct mr_id id, uint64_t request);
bool serve_ack(struct bodies *b, uint32_t peer, struct mr_id id);   /* false: serves no such thing */
bool serve_abort(struct bodies *b, uint32_t peer, struct mr_id id); /* same */
void serve_link_down(struct bodies *b, uint32_t peer);
void serve_timeouts(struct bodies *b);
void serve_close(struct bodies *b);

/* ---- bodies_scan.c ---- */
void scan_restart(struct bodies *b);
void scan_tick(struct bodies *b);
uint64_t scan_missing(const struct bodies *b);

#endif
