/* Happy path: proposals_add -> send -> proposals_fate(applied) -> done.
 * Failure: not leader, unknown, no answer -> sent again by resend or tick. Given up: done(MR_TIMEOUT), fate unknown.
 * Waiting proposals stand in a list in order of their numbers and in a hash by number. */
#include "cluster/proposals.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

enum { BUCKETS = 16384 };

struct proposal {
    struct proposal *prev, *next; /* list in order of numbers */
    struct proposal *chain;
    uint64_t request;
    Mailraft__Op *op;
    uint64_t sent_ns; /* 0: not on its way */
    uint64_t give_up_ns;
    proposal_done done;
    void *arg;
};

struct proposals {
    struct proposals_config config;
    struct proposal *first, *last;
    struct proposal *buckets[BUCKETS];
    uint64_t next_request;
    size_t waiting;
    uint64_t now_ns;
};

struct proposals *proposals_open(const struct proposals_config *config)
{
    struct proposals *p = mr_calloc(1, sizeof(*p));
    p->config = *config;
    p->next_request = 1;
    return p;
}

static struct proposal **bucket_of(struct proposals *p, uint64_t request)
{
    return &p->buckets[request % BUCKETS];
}

static struct proposal *find(struct proposals *p, uint64_t request)
{
    for (struct proposal *at = *bucket_of(p, request); at != NULL; at = at->chain)
        if (at->request == request)
            return at;
    return NULL;
}

static void finish(struct proposals *p, struct proposal *at, int status, enum apply_result reason)
{
    struct proposal **link = bucket_of(p, at->request);
    while (*link != at)
        link = &(*link)->chain;
    *link = at->chain;
    if (at->prev != NULL)
        at->prev->next = at->next;
    else
        p->first = at->next;
    if (at->next != NULL)
        at->next->prev = at->prev;
    else
        p->last = at->prev;
    p->waiting--;
    mailraft__op__free_unpacked(at->op, NULL);
    proposal_done done = at->done;
    void *arg = at->arg;
    free(at);
    done(arg, status, reason);
}

void proposals_close(struct proposals *p)
{
    while (p->first != NULL)
        finish(p, p->first, MR_CANCELLED, APPLIED);
    free(p);
}

static void try_send(struct proposals *p, struct proposal *at)
{
    at->sent_ns = p->config.send(p->config.arg, at->request, at->op) == 0 ? p->now_ns : 0;
}

int proposals_add(struct proposals *p, Mailraft__Op *op, uint64_t now_ns, uint64_t give_up_ns, proposal_done done,
                  void *arg, uint64_t *request)
{
    if (p->waiting >= PROPOSALS_MAX)
        return MR_BUSY;
    struct proposal *at = mr_calloc(1, sizeof(*at));
    at->request = p->next_request++;
    at->op = op;
    at->give_up_ns = give_up_ns;
    at->done = done;
    at->arg = arg;
    at->prev = p->last;
    if (p->last != NULL)
        p->last->next = at;
    else
        p->first = at;
    p->last = at;
    struct proposal **bucket = bucket_of(p, at->request);
    at->chain = *bucket;
    *bucket = at;
    p->waiting++;
    if (request != NULL)
        *request = at->request;
    p->now_ns = now_ns;
    try_send(p, at);
    return 0;
}

void proposals_forget(struct proposals *p, uint64_t request)
{
    struct proposal *at = find(p, request);
    if (at != NULL)
        finish(p, at, MR_CANCELLED, APPLIED);
}

void proposals_fate(struct proposals *p, uint64_t request, enum proposal_fate fate, enum apply_result reason)
{
    struct proposal *at = find(p, request);
    if (at == NULL)
        return; /* answered before: it was sent twice */
    if (fate == FATE_APPLIED)
        finish(p, at, 0, reason);
    else
        at->sent_ns = 0; /* the next resend or tick */
}

void proposals_resend(struct proposals *p, uint64_t now_ns)
{
    p->now_ns = now_ns;
    for (struct proposal *at = p->first; at != NULL; at = at->next)
        try_send(p, at);
}

void proposals_tick(struct proposals *p, uint64_t now_ns)
{
    p->now_ns = now_ns;
    for (struct proposal *at = p->first, *next; at != NULL; at = next) {
        next = at->next;
        if (now_ns >= at->give_up_ns) {
            finish(p, at, MR_TIMEOUT, APPLIED);
            continue;
        }
        if (at->sent_ns == 0 || now_ns - at->sent_ns > PROPOSALS_AGAIN_MS * MR_NS_PER_MS)
            try_send(p, at);
    }
}

size_t proposals_waiting(const struct proposals *p)
{
    return p->waiting;
}
