/* core_request.h - a request of a worker or of the HTTP thread: to the core and back.
 *
 * One struct serves all kinds: it goes to the core's mailbox (run: the request's step on the core), and comes back by
 * the worker's (run: its answer). The struct owns what is in it until the answer hands it on. Thread: its fields belong
 * to the core between the two mails. */
#ifndef MR_CLUSTER_CORE_REQUEST_H
#define MR_CLUSTER_CORE_REQUEST_H

#include "cluster/core.h"

struct core_request {
    struct mail mail; /* first: core_port_post may free it */
    struct cluster *c;
    struct cluster_port *port; /* NULL: answered on the core's thread */
    struct mr_id id;
    struct cluster_body *body;
    Mailraft__Op *op;
    Mailraft__Outcome *fallback; /* of an outcome with a DSN: what to say when the DSN cannot be stored (7.2) */
    uint64_t request;            /* of proposals */
    uint64_t stamp_ms;
    uint32_t delivery, attempt, slot, piece;
    bool notice, dotted, cancelling, answered, queued, releasing;
    uint64_t attempts;
    uint8_t *data;
    size_t len;
    bool last;
    char *text;
    uint64_t deadline_ns;
    int status;
    enum apply_result reason;
    Mailraft__Body *result;
    struct body_read read;
    union {
        void (*written)(void *arg, int status);
        void (*stored)(void *arg, int status, Mailraft__Body *body);
        void (*decided)(void *arg, int status, enum apply_result reason);
        void (*piece)(void *arg, int status, uint8_t *data, size_t len, bool last);
        void (*closed)(void *arg);
    } cb;
    void *arg;
    struct core_request *prev, *next; /* c->waiting */
};

struct cluster_body {
    struct cluster_port *port;
    struct mr_id id;
    struct body_put *put; /* core's; NULL until its first piece came */
    uint64_t length;
    uint8_t checksum[16];
};

/* port NULL: answered on the core's thread. */
struct core_request *core_request_new(struct cluster *c, struct cluster_port *port, void *arg);
void core_request_free(struct core_request *r);
void core_request_to_core(struct core_request *r, void (*run)(struct mail *mail));
/* Hands the answer on; to a detached worker it is dropped. */
void core_request_to_worker(struct core_request *r, void (*run)(struct mail *mail));
/* Into and out of the list of those that have a time limit. */
void core_request_wait(struct core_request *r);
void core_request_unwait(struct core_request *r);
/* Answers a submission (core_submit.c); proposes r->op, the enqueue of a body that a majority has. */
void core_submit_answer(struct core_request *r, int status, enum apply_result reason);
void core_submit_propose(struct core_request *r);
/* The answer with cb.decided, on the worker's loop. */
void core_request_decided(struct mail *mail);
/* Its time is up, or nobody has had a quorum for too long (core_submit.c). */
void core_request_expire(struct core_request *r, uint64_t now, bool no_quorum);

static inline struct core_request *core_request_of(struct mail *mail)
{
    return MR_CONTAINER(mail, struct core_request, mail);
}

#endif
