/* sim_world.h - what the world's own files share: who submitted what, what the committed log made of it, what next hops
 * took. sim_world.c (phases, nodes), sim_worker.c (with the parts that sim_worker_internal.h names) and sim_sessions.c
 * (what node/ does above cluster.h), sim_clients.c, sim_hops.c, sim_oracle.c (watches the state machine;
 * sim_oracle_internal.h names its parts), sim_check.c (the rest of the invariants).
 *
 * The oracle: the first node that applies an index tells what the cluster has decided; all others must do the same. So
 * the world knows the committed queue at each moment without a model of its own, and models only what may follow from
 * what.
 * Thread: the one. Everything here is the world's memory: it outlives the nodes' lives. */
#ifndef MR_SIM_WORLD_H
#define MR_SIM_WORLD_H

#include "chaos-tests/sim/sim.h"
#include "cluster/cluster.h"
#include "cluster/core.h"

enum {
    WORLD_MAX_HOPS = 8,
    WORLD_MAX_RECIPIENTS = 5,
    WORLD_MAX_WORKERS = 2,
    WORLD_MAX_PIECES = 5,
};

/* ---- what the seed chose ---- */
struct world_config {
    unsigned nodes, hops, workers;
    uint64_t load_ns;
    unsigned messages;
    uint64_t expire_ms, warn_ms, retry_first_ms, retry_max_ms;
    uint64_t hash_every;
    bool long_settle; /* beyond the collector's grace */
    bool long_load;   /* too, with mail that is held for about as long: the collector works while faults happen */
    unsigned max_attempts;
};

/* ---- messages ---- */
enum reply { REPLY_NONE, REPLY_OK, REPLY_LATER };

enum ending {
    ENDING_NONE, /* runs, or was never assigned */
    ENDING_OUTCOME,
    ENDING_RELEASE,
    ENDING_FALL,    /* node down or its next incarnation */
    ENDING_MESSAGE, /* its message ended otherwise */
};
/* One attempt as assigned by the log, and what its node did. */
struct attempt_log {
    uint32_t attempt, node, slot;
    uint64_t incarnation, life;
    uint64_t assigned_ns, dot_ns, ended_ns; /* true time; 0: not */
    enum ending ending;
    bool doubt;      /* the log counted it in doubt, or possibly */
    bool reply_lost; /* the worker read no reply to its dot, and said so */
};
struct delivery_log {
    unsigned hop;
    enum delivery_state state;
    uint32_t attempt;
    uint64_t not_before_ms; /* committed time of its next attempt, at the earliest */
    struct attempt_log *attempts;
    unsigned n_attempts;
};
struct recipient_log {
    unsigned hop, user, delivery;
    uint32_t notify;
    enum recipient_state state;
    unsigned told;    /* final DSNs that name it */
    unsigned copies;  /* that its hop took */
    uint32_t copy_of; /* attempt of the last one */
    bool refused;     /* its hop said 5xx once */
};
struct message {
    struct message *next; /* bucket */
    struct message *after;
    struct mr_id id;
    uint64_t key;
    bool null_sender, dsn, dsn_final;
    unsigned sender_hop, sender_user;
    uint64_t length, seed;
    uint8_t checksum[16];
    uint64_t hold_ms;
    int32_t priority;
    unsigned node; /* acceptor */
    uint64_t begun_ns, replied_ns;
    enum reply reply;
    unsigned n_recipients, n_deliveries;
    struct recipient_log recipients[WORLD_MAX_RECIPIENTS];
    struct delivery_log deliveries[WORLD_MAX_RECIPIENTS];
    /* DSN: of whom it tells */
    struct message *about;
    unsigned tells[WORLD_MAX_RECIPIENTS], n_tells;
    /* committed */
    uint64_t enqueued_ns, finished_ns;
    uint64_t behind_ms; /* committed time was, when it was enqueued */
    bool cancelled;
    uint64_t had; /* nodes whose spool said that it is durable there */
};
struct message *message_find(struct mr_id id);
struct message *message_new(struct mr_id id);
void message_content(const struct message *m, uint64_t offset, uint8_t *out, size_t len);
void message_checksum(struct message *m);
struct attempt_log *message_attempt(struct message *m, uint32_t delivery, uint32_t attempt);
char *recipient_address(const struct message *m, unsigned recipient, char text[64]);

/* ---- nodes ---- */
struct sim_worker;
struct node_life; /* sim_world.c */
enum { WORLD_MAX_POWER_CUTS = 256 };
struct world_node {
    struct cluster *cluster; /* newest; of the life before until the next is open; NULL: none, or closed in order */
    uint64_t life;           /* of cluster */
    struct sim_worker *workers[WORLD_MAX_WORKERS];
    struct node_life *main;
    bool open; /* cluster is of this life, workers run */
    bool stopping;
    bool wiped, refused;
    uint64_t wiped_ns;
    char why[300];
    struct spool *closing; /* of a process that ends in order: its core may still store bodies */
    unsigned deaths;       /* by itself */
    uint64_t term;         /* durable when it last ended */
    unsigned n_power_cuts;
    uint64_t power_cuts[WORLD_MAX_POWER_CUTS]; /* true times, also of a machine whose process was dead */
};
struct world {
    struct world_config config;
    struct sim_result *result;
    struct world_node node[SIM_MAX_NODES + 1];
    Mailraft__Rules *rules;
    struct message *messages, **messages_tail;
    uint64_t accepted, finished; /* committed */
    bool healed;
};
extern struct world world;
bool node_serves(unsigned node); /* alive, not paused, workers run, not draining */

/* ---- sim_sizes.c ---- */
void sim_sizes_start(void); /* draws them */

/* ---- sim_hops.c ---- */
struct hop_connection;
struct hop_answer {
    int codes[WORLD_MAX_RECIPIENTS]; /* by place */
};
void hops_start(unsigned n);
const char *hop_name(unsigned hop); /* canonical next hop */
unsigned hop_by_name(const char *name);
uint64_t hop_latency(unsigned hop);
/* The node dials; NULL and *refused_ns: no connection comes about, known after so long. */
struct hop_connection *hop_connect(unsigned hop, uint64_t *ns);
void hop_close(struct hop_connection *c);
/* The next hop's answers to MAIL and each RCPT. False: it has broken the connection. */
bool hop_answers(struct hop_connection *c, struct message *m, const uint32_t *recipients, unsigned n,
                 struct hop_answer *out);
/* The dot was written to the socket; it arrives by itself. done comes on the worker's loop by sim_loop_post, with the
 * code of the reply or 0: connection lost. slot: what done is given back. */
struct dot {
    struct hop_connection *connection;
    struct message *message;
    uint32_t delivery, attempt;
    unsigned n;
    uint32_t recipients[WORLD_MAX_RECIPIENTS];
    uint64_t length;
    uint8_t checksum[16];
    struct sim_worker *worker;
    uint64_t slot, serial;
};
void hop_dot(const struct dot *d, void (*done)(struct sim_worker *w, uint64_t slot, uint64_t serial, int code));
/* Connections of lives that ended. */
void hops_node_ended(unsigned node);
void hops_started_attempt(struct message *m, uint32_t delivery, uint32_t attempt);

/* ---- sim_worker.c ---- */
struct sim_worker *sim_worker_open(unsigned node, unsigned number, struct cluster *c);
void sim_worker_start(struct sim_worker *w);
void sim_worker_stop(struct sim_worker *w);
void sim_worker_join(struct sim_worker *w);
/* Something of its life may still be posted to its loop. */
bool sim_worker_lives(const struct sim_worker *w);

/* ---- sim_sessions.c: a client's message on a worker's loop ---- */
struct submission { /* world's memory */
    uint64_t key;   /* of the client's message; equal for each try */
    unsigned node;
    uint64_t life;
    bool hung_up; /* the client is gone */
    bool over;    /* replied, or its node's life ended */
    bool delivered_reply;
    struct message *message;                         /* NULL: refused before it had an id */
    void (*replied)(struct submission *s, int code); /* in the world, after the wire's time; 0: connection lost */
    void *arg;
    uint64_t pace_ns; /* between pieces */
    /* what it submits */
    bool null_sender;
    unsigned sender_hop, sender_user, n_recipients;
    struct {
        unsigned hop, user;
        uint32_t notify;
    } recipients[WORLD_MAX_RECIPIENTS];
    uint64_t length;
    uint64_t hold_ms;
    int32_t priority;
};
void sim_session_begin(struct sim_worker *w, struct submission *s);
/* One worker thread of a node's life. Never freed, so that late events may look at closed. */
struct slot;
struct sim_worker {
    unsigned node, number;
    uint64_t life;
    uv_loop_t loop;
    uv_thread_t thread;
    uv_timer_t beat;
    struct mailbox *mailbox;
    struct cluster *cluster;
    struct cluster_port *port;
    struct cluster_rules *rules;
    struct slot *slots;
    uint64_t serials;
    unsigned sessions, running, n_slots; /* sessions, attempts and notices, slots that have not ended */
    bool draining, closing, detaching, closed;
};
void sim_worker_ended(struct sim_worker *w); /* something of it ended: may it close? */

/* ---- sim_dsn: in sim_sessions.c ---- */
void sim_dsn_make(struct sim_worker *w, struct message *about, const uint32_t *recipients, unsigned n, bool final,
                  void (*done)(void *arg, int status, Mailraft__Enqueue *dsn), void *arg);

/* ---- sim_clients.c ---- */
void clients_start(uint64_t begin, uint64_t end);
bool clients_done(void);
void clients_probe(unsigned node);
void clients_node_ended(unsigned node);

/* ---- sim_oracle.c ---- */
uint64_t oracle_index(void);
/* The entry that this node applies just now removes it. */
bool oracle_removes(const struct message *m);
/* Right after cluster_may_send said yes (5): is this attempt what the committed queue says? */
void oracle_may_send(unsigned node, const struct attempt *a);

/* ---- sim_check.c ---- */
void check_250(struct message *m);                       /* in the node that is about to answer */
void check_copy(struct message *m, const struct dot *d); /* its hop takes it now */
void check_reopened(unsigned node);                      /* its new life's cluster is open */
void check_died(unsigned node);                          /* also right before an orderly close */
void check_leading(unsigned node, uint64_t term);
/* Everything that was accepted has come to its end, everywhere (13). why: what is missing; 300 bytes. */
bool check_drained(void);
void check_why(char *why, size_t len);
void check_end(void);
bool check_collected(void); /* no body is left (10) */

#endif
