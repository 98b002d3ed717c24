/* sim_worker_internal.h - a simulated worker's parts to each other: the core's calls and its life (sim_worker.c), slots
 * (sim_slot.c), one transaction (sim_transaction.c), what an attempt has come to (sim_job.c).
 *
 * A slot is one connection to a next hop, and has one job at a time. What comes from outside (answers, replies) finds
 * its slot by number: slots end; and a slot's serial, which changes with each thing it begins, tells what is late.
 * Thread: its worker's. A slot is its worker's until slot_next ends it; a job is its slot's until job_release or
 * job_finish. */
#ifndef MR_SIM_WORKER_INTERNAL_H
#define MR_SIM_WORKER_INTERNAL_H

#include "chaos-tests/sim/sim_world.h"
#include "proto/base/hash.h"

enum { RCPT_TAKEN = 200 }; /* the recipient, not yet the message */

enum phase { PHASE_NONE, PHASE_CONNECT, PHASE_IDLE, PHASE_RCPT, PHASE_BODY, PHASE_DOT };

struct queued;
struct job {
    struct attempt *a;
    struct message *m;
    uint32_t places[WORLD_MAX_RECIPIENTS]; /* recipients of the message, as the attempt lists them */
    int codes[WORLD_MAX_RECIPIENTS];       /* 0: not decided */
    unsigned n;
    bool unreached, avoid_node, dotted;
    uint32_t piece;
    uint64_t length;
    XXH3_state_t *hash;
};
struct slot {
    struct slot *next;
    struct sim_worker *w;
    uint64_t name; /* for what comes back from outside */
    char next_hop[64];
    unsigned hop;
    uint32_t number;
    uint64_t given, serial;
    struct queued *first, **last;
    struct job *job;
    enum phase phase;
    struct hop_connection *connection;
    uv_timer_t timer;
    unsigned reads;
    bool quit, gone;
};

/* ---- sim_slot.c ---- */
void slots_take(struct sim_worker *w, struct attempt *a);
void slots_end_lease(struct sim_worker *w); /* what has not reached its dot goes back */
void slots_withdraw(struct sim_worker *w);  /* what is withdrawn, and has not reached its dot, goes back */
void slots_drain(struct sim_worker *w);     /* transactions that have begun end by themselves */
void slots_close(struct sim_worker *w);
struct slot *slot_named(struct sim_worker *w, uint64_t name); /* NULL: it has ended */
/* run comes after ns, if the slot is still about what it is about now. */
void slot_post(struct slot *s, uint64_t ns, void (*run)(struct slot *s, int code), int code);
void slot_set_timer(struct slot *s, uint64_t ms); /* then slot_lost */
bool slot_may_send(struct sim_worker *w, const struct attempt *a);
void slot_close(struct slot *s); /* its connection */
void slot_lost(struct slot *s);  /* the connection is gone in the middle */
void slot_next(struct slot *s);  /* the next attempt in line, or none: then it may end */

/* ---- sim_transaction.c ---- */
void transaction_begin(struct slot *s);

/* ---- sim_job.c ---- */
struct job *job_new(struct attempt *a);
void job_release(struct slot *s, const char *reason); /* the attempt goes back: nothing was sent */
void job_fail(struct job *j, bool unreached);         /* who is not decided yet is deferred */
void job_finish(struct slot *s);                      /* proposes the outcome */

#endif
