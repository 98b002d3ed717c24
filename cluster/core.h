/* core.h - inside of the cluster (cluster.h): one struct, owned by the core thread, and the files that share it.
 *
 *   core.c            life: open, start, drain, close; the tick
 *   core_drain.c      the end: drain and close
 *   core_links.c      what peers say: hello, formation, frames; Raft's messages over the links
 *   core_raft.c       the log: apply, snapshot, restore, changes of leader
 *   core_lead.c       the leader's duties: batches, fill-in, heartbeats of others, scheduling
 *   core_keep.c       what it keeps in order: formation, version, rules, silent nodes, overdue assignments
 *   core_heartbeat.c  this node's heartbeats and lease
 *   core_attempts.c   assignments of this node to its workers, and its connections
 *   core_request.h    a request of a worker or of HTTP, to the core and back
 *   core_port.c       ports of workers: the way there and back, news, proof of life
 *   core_bodies.c     bodies in and out
 *   core_disk.c       this node's disk: slow, full
 *   core_full.c       the queue's largest size
 *   core_submit.c     submissions and their time limit
 *   core_remember.c   hints about sites
 *   core_endings.c    outcomes, releases, notices
 *   core_query.c      answers for HTTP
 *   core_metrics.c    the numbers among them
 *   proposals.c       operations of this node and their fate
 *
 * Thread: every function here runs on the core's loop, but where it says otherwise. */
#ifndef MR_CLUSTER_CORE_H
#define MR_CLUSTER_CORE_H

#include "cluster/apply_trace.h"
#include "cluster/ballast.h"
#include "cluster/bodies.h"
#include "cluster/cluster.h"
#include "cluster/committed_time.h"
#include "cluster/disk_watch.h"
#include "cluster/identity.h"
#include "cluster/journal.h"
#include "cluster/lease.h"
#include "cluster/link.h"
#include "cluster/proposals.h"
#include "cluster/sched.h"
#include "cluster/spool.h"
#include "cluster/state.h"
#include "raft/replica.h"

enum {
    CORE_MAX_PORTS = 64,
    CORE_MAILBOX = 65536,
    CORE_MAX_BATCH = 60 * 1024, /* bytes of operations in one entry (PROTOCOL.md 4.5), filled in */
    CORE_MAX_RULES = 56 * 1024, /* bytes of the rules */
    CORE_MAX_BATCH_OPS = 1024,
    CORE_INFLIGHT = 4,              /* entries proposed and not yet applied; what comes meanwhile is batched */
    CORE_COMPANY_MS = 5,            /* while mail came in within so long, operations without hurry wait for its next */
    CORE_UNHURRIED = 128,           /* but no more than these */
    CORE_MAX_STAGED = 16384,        /* operations that wait for a batch */
    CORE_BUSY = 8192,               /* own proposals waiting: refuse new mail above */
    CORE_MAX_SUBMITS = 16384,       /* and submissions of sessions that run; room must stay for what ends attempts */
    CORE_IDLE_ENTRY_MS = 60 * 1000, /* without entries for so long the leader makes one that moves committed time on */
    CORE_TICK_MS = 10,
    CORE_WORKER_SILENT_MS = 5000, /* PROTOCOL.md 5.10 */
    /* After an attempt's deadline. A dot written at the last moment has 10 minutes for its reply (RFC 5321 4.5.3.2.6);
     * the replies to it, which may be many, all together CORE_REPLIES_MS; its outcome the rest, to be committed before
     * the leader takes the attempt back. */
    CORE_REPLIES_MS = 12 * 60 * 1000,
    CORE_OVERDUE_MS = 15 * 60 * 1000,
    CORE_NOQUORUM_GRACE_MS = 1000, /* after the lease ended, before waiting clients get 451 */
    CORE_CANCEL_MS = 2000,         /* how long a client waits for the fate of the cancel */
    CORE_TRANSFER_SLICE = 256 * 1024,
    CORE_SLOT_BUCKETS = 4096,
    CORE_MAX_ASKS = 32,         /* questions of HTTP that wait or are being answered */
    CORE_MAX_HANDED = 16 << 20, /* bytes of bodies that workers hold with attempts; the others read them */
};

/* One Raft message too large for a frame on its way to a peer. */
struct core_transfer {
    struct cluster *c;
    uint32_t to;
    uint8_t *head;
    size_t head_len;
    struct replica_buffer *tail;
    unsigned n_tail;
    uint64_t total, offset;
    void (*done)(void *arg, int status);
    void *done_arg;
};
/* And one on its way in. */
struct core_assembly {
    uint8_t *data;
    uint64_t total, have;
};
struct core_completion {
    struct core_completion *next;
    void (*done)(void *arg, int status);
    void *arg;
    int status;
};

/* An operation that waits to be proposed by this leader, and who wants to know. */
struct core_staged {
    struct core_staged *next;
    Mailraft__Op *op;
    size_t size;
    bool urgent;
    bool refused;     /* a cancel in place of an enqueue (core_full.c) */
    uint32_t peer;    /* 0: own */
    uint64_t request; /* the asker's number; 0: nobody waits */
    uint64_t growth;  /* of core_leader.growing */
};
/* One entry on its way. */
struct core_batch {
    struct core_batch *next;
    struct cluster *c;
    struct core_staged *ops;
    uint64_t index;
    uint64_t term;
    uint8_t *results;
    size_t n_results;
    bool recorded; /* results are those of its application */
};

struct core_leader {
    bool leading;
    uint64_t term;
    uint64_t first_index; /* of this term's first own entry; 0: not yet applied */
    struct core_staged *staged, **staged_tail;
    size_t n_staged;
    size_t n_urgent;                            /* of these */
    uint64_t growing;                           /* bytes of state_bytes, by what is staged or in flight */
    uint64_t urgent_ns;                         /* when the last one was proposed */
    struct core_batch *batches, **batches_tail; /* in flight, in order */
    unsigned n_batches;
    uint64_t again_ns;        /* when the scheduler wants its next step */
    uint64_t since_ns;        /* boot time of the term's begin */
    uint64_t housekeeping_ns; /* last proposal of form, version, rules, ticks */
    bool rules_wanted;        /* the operator reloaded this node's configuration */
    struct core_lead_node {
        uint8_t rules_hash[16];
        bool has_hash;
        bool low_disk;
        bool draining;
        bool behind; /* applies nothing any more (lease.h, L8) */
        uint64_t heard_ns;
        uint64_t applied;
        uint64_t bodies_missing;
        uint32_t version;
        uint64_t incarnation;
    } nodes[LEASE_MAX_NODES];
};

/* This node's disk (PROTOCOL.md 8.4, 8.5). */
struct core_disk {
    struct ballast *ballast;
    struct disk_watch *watch;
    struct busy *loop;  /* each turn of the core's: raft_uv, and what keeps identities, write files on it */
    unsigned computing; /* see core_disk_computes */
    struct busy *spool;
    uint64_t looked_ns;
    bool slow;
    bool full;  /* the ballast was given back and is not whole again */
    bool spent; /* and there is hardly any room left: no attempts either, whose journal needs some */
    uint64_t handed_over_ns;
    uint64_t hand_over_wait_ns;
    uint64_t hand_overs;
};

/* A bit a bucket: where something is to be looked for, of thousands that are mostly empty. */
typedef uint64_t core_bucket_bits[CORE_SLOT_BUCKETS / 64];

/* A connection of this node to a next hop, from the first attempt handed to a worker until the worker says it is
 * closed. */
struct core_slot {
    struct core_slot *next;
    uint32_t slot;
    uint64_t handed; /* attempts */
    char next_hop[];
};

/* An attempt or notice of this node that runs. */
struct core_running {
    struct core_running *next;
    struct mr_id id;
    uint32_t delivery;
    uint32_t attempt;
    bool notice;
    bool ended;  /* its fate is known, but not yet from our own state, which has it as ours still */
    bool ending; /* its worker has ended it; the fate is not known */
    /* Of an attempt: */
    uint32_t n_recipients;
    struct cluster_port *port;
    atomic_uint references; /* the table's, and the struct attempt's, on the worker's thread */
    atomic_bool withdrawn;
};

struct core_request; /* core_request.h */
/* Hands a mail to the worker; a detached one's is freed (it must begin a malloc'ed struct that owns nothing else). */
void core_port_post(struct cluster_port *p, struct mail *mail);

struct cluster_port {
    struct cluster *c;
    unsigned number;
    struct cluster_worker worker;
    struct journal *journal; /* worker's thread */
    atomic_ullong beat_ns;
    bool detached;       /* core's: nothing is posted to the worker any more */
    atomic_bool drained; /* the worker was told, and takes no new mail */
    struct mail withdrawal;
    atomic_bool withdrawing; /* that mail is on its way; it tells of what is withdrawn meanwhile too */
};

struct cluster {
    struct cluster_config config;
    const struct mr_clock *clock;
    uv_loop_t loop;
    uv_thread_t thread;
    bool thread_started;
    struct mailbox *mailbox;
    uv_timer_t tick;
    uv_timer_t beat;
    uv_prepare_t prepare;
    uv_idle_t completions_idle;
    struct core_completion *completions, **completions_tail;
    uv_timer_t asking; /* core_query.c: the next step of one of the asks */
    struct core_ask *asks, **asks_tail;
    atomic_uint n_asks; /* with those on their way here */

    struct core_disk disk;
    struct identity *identity;
    struct formation *formation;
    struct links *links;
    struct spool *spool;
    struct state *state;
    struct apply_trace *trace; /* NULL: off */
    struct bodies *bodies;
    struct replica *replica;
    struct sched *sched;
    struct proposals *proposals;
    uint32_t self;
    atomic_ullong incarnation;  /* in force for this process; workers read it */
    uint64_t start_incarnation; /* of the process's start: names its journals */
    char *raft_dir;
    char *refused;                  /* NULL, or why this node may not take part */
    char *refusals[LINK_MAX_PEERS]; /* by raft id: why a peer refuses our links, until one stands; NULL: it does not */

    enum replica_role role;
    uint64_t term;
    uint32_t leader; /* 0: none known */
    struct core_leader lead;
    struct committed_time ctime;
    struct node_lease lease;
    struct leader_lease leader_lease;
    bool lease_held;        /* what was last told to the workers */
    uint64_t lease_lost_ns; /* boot time of the loss; 0: held */
    uint64_t started_ns;
    bool node_up; /* this incarnation is committed and in force */
    bool node_up_proposed;
    bool left_proposed;
    bool caught_up; /* applied what was committed when the first lease came */
    struct journal_left left;
    size_t left_waiting;
    bool draining;
    bool closing;
    bool given_up; /* the lease, for good: this process ends */
    bool hung;     /* a worker is silent: no heartbeats, no new incarnation (5.10) */
    uint64_t hung_since_ns;
    uint64_t takeovers;
    bool full;              /* the queue: no mail is taken here */
    uint64_t full_refused;  /* enqueues, as the leader */
    uint64_t full_warnings; /* left out, as the leader */

    Mailraft__Rules *own_rules;  /* of this node's configuration, with hash */
    struct cluster_rules *rules; /* in force */

    struct cluster_port *ports[CORE_MAX_PORTS];
    unsigned n_ports;
    struct core_slot *slots[CORE_SLOT_BUCKETS]; /* by next hop alone: one's slots stand together */
    core_bucket_bits slots_in;                  /* of the buckets that are not empty */
    uint64_t n_slots;
    struct core_running *running[CORE_SLOT_BUCKETS];
    core_bucket_bits ended_in; /* of the buckets with ended ones */
    uint64_t n_running;        /* without those that have ended */
    uint64_t n_ended;
    struct core_request *waiting; /* bodies and submissions that have a time limit, in order of arrival */
    struct core_request *waiting_last;

    struct core_transfer *transfers[LINK_MAX_PEERS];
    struct core_assembly assemblies[LINK_MAX_PEERS];

    atomic_ullong lease_end_ns; /* published to workers; 0: none */
    atomic_size_t handed_bytes; /* of bodies, with attempts that were not freed yet */
    atomic_int readiness;
    atomic_uint version; /* state_version, for workers */
    unsigned n_remember; /* site memories that are being proposed */
    struct cluster_counters counters;

    uv_sem_t drain_over; /* for who blocks */
    void (*drained)(void *arg);
    void *drained_arg;
    bool drain_wanted;
    bool handing_over;       /* leadership, for a drain */
    uint64_t handed_over_ns; /* when that began the last time */
    bool goodbye, goodbye_said;
    uint64_t drain_until_ns;
    /* Loop health, for /metrics: longest turn of the tick timer over its interval. */
    uint64_t last_tick_ns, max_tick_gap_ns;
    uint64_t batches_total, batched_ops_total;
    uint64_t last_body_tick_ns, last_form_tick_ns;
};

static inline uint64_t core_now(const struct cluster *c)
{
    return mr_boot_ns(c->clock);
}

/* core.c */
/* Calls done on the next turn of the loop. */
void core_complete_later(struct cluster *c, void (*done)(void *arg, int status), void *arg, int status);

/* core_drain.c */
void core_drain_tick(struct cluster *c, uint64_t now);

/* core_links.c */
int core_links_open(struct cluster *c, char *error, size_t error_len);
void core_links_close(struct cluster *c);
/* What peers say who refuse this node, if without them it can take no part; else NULL. Valid until the next callback.
 */
const char *core_links_refusal(const struct cluster *c);
void core_raft_send(void *arg, uint64_t to, bool bulk, const void *head, size_t head_len,
                    const struct replica_buffer *tail, unsigned n_tail, void (*done)(void *arg, int status),
                    void *done_arg);

/* core_raft.c */
int core_raft_open(struct cluster *c, char *error, size_t error_len);
struct state_observer core_observer(struct cluster *c);

/* core_lead.c */
void core_lead_begin(struct cluster *c);
void core_lead_end(struct cluster *c);
/* An operation to propose here; takes it. peer 0: own. MR_NOTLEADER, MR_BUSY: op is still the caller's. */
int core_lead_stage(struct cluster *c, Mailraft__Op *op, uint32_t peer, uint64_t request);
/* The leader's own, whose fate nobody waits for. Takes message. */
void core_lead_stage_own(struct cluster *c, Mailraft__Op__KindCase kind, ProtobufCMessage *message);
void core_lead_flush(struct cluster *c);
void core_lead_tick(struct cluster *c, uint64_t now);
void core_lead_heartbeat(struct cluster *c, uint32_t node, const Mailraft__Heartbeat *hb);
void core_lead_applied(struct cluster *c, uint64_t index, const uint8_t *results, size_t n);

/* core_disk.c */
void core_disk_open(struct cluster *c);
void core_disk_close(struct cluster *c);
void core_disk_tick(struct cluster *c, uint64_t now);
/* The loop computes what may take long, without the disk (begins), or is back. May be nested. Core's thread. */
void core_disk_computes(struct cluster *c, bool begins);
/* Who leads better than this node (the leader), whose disk fails it or which ends: the most up to date voter that
 * lives, has room and stays; 0: none. */
uint32_t core_disk_find_better(const struct cluster *c);
/* Tells a port's journal who watches it and who makes room. Main thread, before the core's starts. */
void core_disk_port(struct cluster *c, struct cluster_port *p);

/* core_full.c */
void core_full_tick(struct cluster *c);
enum core_growth {
    CORE_GROWS,   /* by *bytes: to be proposed as it is now */
    CORE_CANCELS, /* op has become a cancel of the enqueue, and its results are those of core_full_reason */
    CORE_REFUSES, /* APPLY_FULL */
};
/* May the leader propose op, as the queue's size goes? An outcome for which there is hardly any room loses its texts, a
 * warning its DSN.
 */
enum core_growth core_full_admit(struct cluster *c, Mailraft__Op *op, uint64_t *bytes);
enum apply_result core_full_reason(enum apply_result of_cancel);

/* core_keep.c */
void core_keep_tick(struct cluster *c, uint64_t now);

/* Voters by the state, or by the formation while the state knows none: bits (1 << raft id). */
uint64_t core_voters(const struct cluster *c);

/* core_heartbeat.c */
void core_heartbeat_send(struct cluster *c);
void core_heartbeat_reply(struct cluster *c, const Mailraft__HeartbeatReply *reply);
/* Works out lease and readiness anew and publishes them. */
void core_lease_update(struct cluster *c, uint64_t now);
void core_node_up_try(struct cluster *c);

/* core_attempts.c */
void core_attempts_assigned(struct cluster *c, const struct state_message *m, uint32_t delivery);
/* By the applied state the assignment ended, or one of its recipients is terminal: if its worker has not ended the
 * attempt, it is withdrawn (5.11). */
void core_attempts_recipient_done(struct cluster *c, const struct state_message *m, uint32_t recipient);
void core_attempts_unassigned(struct cluster *c, struct mr_id id, uint32_t delivery, uint32_t attempt);
void core_attempts_notice(struct cluster *c, const struct state_message *m);
void core_attempts_restored(struct cluster *c);
/* The first bucket from there on whose bit is set; CORE_SLOT_BUCKETS: none. */
unsigned core_bucket_next(const core_bucket_bits bits, unsigned from);
void core_attempts_tick(struct cluster *c);
void core_attempts_end(struct cluster *c, struct mr_id id, uint32_t delivery, uint32_t attempt, bool notice);
struct core_running *core_attempts_find(struct cluster *c, struct mr_id id, uint32_t delivery, uint32_t attempt,
                                        bool notice);
/* The applied state says that it is this node's to run. */
bool core_attempts_is_assigned(const struct cluster *c, const struct core_running *r);
void core_slot_closed(struct cluster *c, const char *next_hop, uint32_t slot, uint64_t attempts);
void core_attempts_close(struct cluster *c);

/* core_port.c */
/* Hands a mail to the worker; a detached one's is freed (it must begin a malloc'ed struct that owns nothing else). */
void core_port_post(struct cluster_port *p, struct mail *mail);
/* An outcome without its DSN: what would have failed is deferred (7.2). */
void core_outcome_drop_dsn(Mailraft__Outcome *o);
void core_port_rules(struct cluster *c);
void core_port_lease_ended(struct cluster *c);
/* Something of the port's was withdrawn. */
void core_port_withdrawn(struct cluster_port *p);
void core_port_drain(struct cluster *c);
void core_port_tick(struct cluster *c, uint64_t now);
void core_port_free(struct cluster *c);

/* core_query.c */
void core_query_open(struct cluster *c);
/* What was asked is answered with MR_CLOSED. The handle is closed with the others (core_drain.c). */
void core_query_close(struct cluster *c);

/* core_metrics.c */
/* A new object, {"name": number}. */
json_t *core_metrics(struct cluster *c);

#endif
