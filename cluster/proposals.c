/* Happy path: proposals_add -> send -> proposals_fate(applied) -> done.
 * Failure: not leader, unknown, no answer -> back among the unsent, sent again by resend or tick. Given up:
 * done(MR_TIMEOUT), fate unknown. An answer that comes from inside of `send` is kept for the next tick (P1).
 * Each waiting proposal stands in one of three rings (unsent, sent by time of sending, decided), in a hash by number,
 * and, if it has a time limit, in a list by that. */
#include "cluster/proposals.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/mailbox.h" /* MR_CONTAINER */
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

enum { BUCKETS = 16384, MOVES = 4096 /* timed out, one tick */ };

/* A ring around a head: taking out needs no head, joining two costs the same for any length. */
struct ring {
    struct ring *prev, *next;
};

struct proposal {
    struct ring place;
    struct ring limit; /* by give_up_ns; to itself: none */
    struct proposal *chain;
    uint64_t request;
    Mailraft__Op *op;
    uint64_t sent_ns;
    uint64_t give_up_ns;
    proposal_done done;
    void *arg;
    bool answered; /* while `send` ran */
    enum proposal_fate fate;
    enum apply_result reason;
};

struct proposals {
    struct proposals_config config;
    struct ring unsent, sent, decided, limits;
    struct proposal *sending; /* `send` runs for it */
    struct proposal *buckets[BUCKETS];
    uint64_t next_request;
    size_t waiting;
    uint64_t now_ns;
    uint64_t pause_until_ns;
};

/* ---- rings ---- */

static void ring_init(struct ring *r)
{
    r->prev = r->next = r;
}

static bool ring_empty(const struct ring *r)
{
    return r->next == r;
}

static void ring_remove(struct ring *at)
{
    at->prev->next = at->next;
    at->next->prev = at->prev;
    ring_init(at);
}

static void ring_append(struct ring *head, struct ring *at)
{
    at->prev = head->prev;
    at->next = head;
    head->prev->next = at;
    head->prev = at;
}

/* All of `from` before the first of `to`. */
static void ring_prepend_all(struct ring *to, struct ring *from)
{
    if (ring_empty(from))
        return;
    from->prev->next = to->next;
    to->next->prev = from->prev;
    from->next->prev = to;
    to->next = from->next;
    ring_init(from);
}

static struct proposal *first_of(const struct ring *head)
{
    return ring_empty(head) ? NULL : MR_CONTAINER(head->next, struct proposal, place);
}

static void move_to(struct proposal *at, struct ring *head)
{
    ring_remove(&at->place);
    ring_append(head, &at->place);
}

/* Nearly always the last: limits are the same few durations from now on. */
static void add_limit(struct proposals *p, struct proposal *at)
{
    struct ring *before = p->limits.prev;

    if (at->give_up_ns == UINT64_MAX)
        return;
    while (before != &p->limits && MR_CONTAINER(before, struct proposal, limit)->give_up_ns > at->give_up_ns)
        before = before->prev;
    ring_append(before->next, &at->limit);
}

/* ---- life ---- */

struct proposals *proposals_open(const struct proposals_config *config)
{
    struct proposals *p = mr_calloc(1, sizeof(*p));
    p->config = *config;
    p->next_request = config->first_request != 0 ? config->first_request : 1;
    ring_init(&p->unsent);
    ring_init(&p->sent);
    ring_init(&p->decided);
    ring_init(&p->limits);
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

    mr_assert(at != p->sending);
    while (*link != at)
        link = &(*link)->chain;
    *link = at->chain;
    ring_remove(&at->place);
    ring_remove(&at->limit);
    p->waiting--;
    mailraft__op__free_unpacked(at->op, NULL);
    proposal_done done = at->done;
    void *arg = at->arg;
    free(at);
    done(arg, status, reason);
}

void proposals_close(struct proposals *p)
{
    const struct ring *heads[] = {&p->decided, &p->sent, &p->unsent};

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        for (struct proposal *at; (at = first_of(heads[i])) != NULL;)
            finish(p, at, MR_CANCELLED, APPLIED);
    mr_assert(p->waiting == 0);
    free(p);
}

/* ---- sending ---- */

/* False: the way is shut for now. */
static bool try_send(struct proposals *p, struct proposal *at)
{
    at->answered = false;
    p->sending = at;
    int rc = p->config.send(p->config.arg, at->request, at->op);
    p->sending = NULL;
    if (rc == MR_LIMIT) {
        at->answered = true;
        at->fate = FATE_APPLIED;
        at->reason = APPLY_INVALID;
    }
    if (at->answered && at->fate == FATE_APPLIED) {
        move_to(at, &p->decided);
        return true;
    }
    if (rc != 0 || at->answered)
        return false;
    at->sent_ns = p->now_ns;
    move_to(at, &p->sent);
    return true;
}

static void send_some(struct proposals *p)
{
    struct proposal *at;

    for (unsigned n = 0; n < PROPOSALS_STEP && p->now_ns >= p->pause_until_ns; n++)
        if ((at = first_of(&p->unsent)) == NULL || !try_send(p, at))
            return;
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
    bool behind = !ring_empty(&p->unsent);
    ring_append(&p->unsent, &at->place);
    ring_init(&at->limit);
    add_limit(p, at);
    struct proposal **bucket = bucket_of(p, at->request);
    at->chain = *bucket;
    *bucket = at;
    p->waiting++;
    if (request != NULL)
        *request = at->request;
    p->now_ns = now_ns;
    if (!behind && now_ns >= p->pause_until_ns && p->sending == NULL)
        (void)try_send(p, at);
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
    if (fate == FATE_BUSY)
        p->pause_until_ns = p->now_ns + PROPOSALS_BUSY_MS * MR_NS_PER_MS;
    if (at == p->sending) {
        at->answered = true;
        at->fate = fate;
        at->reason = reason;
    } else if (fate == FATE_APPLIED) {
        finish(p, at, 0, reason);
    } else {
        move_to(at, &p->unsent);
    }
}

void proposals_resend(struct proposals *p, uint64_t now_ns)
{
    p->now_ns = now_ns;
    p->pause_until_ns = 0;
    ring_prepend_all(&p->unsent, &p->sent);
    send_some(p);
}

void proposals_tick(struct proposals *p, uint64_t now_ns)
{
    struct proposal *at;

    p->now_ns = now_ns;
    /* As many as there are now: done may add more. */
    for (size_t n = p->waiting; n > 0 && (at = first_of(&p->decided)) != NULL; n--)
        finish(p, at, 0, at->reason);
    while (!ring_empty(&p->limits) && MR_CONTAINER(p->limits.next, struct proposal, limit)->give_up_ns <= now_ns)
        finish(p, MR_CONTAINER(p->limits.next, struct proposal, limit), MR_TIMEOUT, APPLIED);
    for (unsigned n = 0; n < MOVES && (at = first_of(&p->sent)) != NULL; n++) {
        if (now_ns - at->sent_ns <= PROPOSALS_AGAIN_MS * MR_NS_PER_MS)
            break;
        move_to(at, &p->unsent);
    }
    send_some(p);
}

size_t proposals_waiting(const struct proposals *p)
{
    return p->waiting;
}
