/* Submissions: body on a majority (core_bodies.c) -> enqueue -> fate -> answer; at the time limit a cancel is proposed
 * first and its fate decides (PROTOCOL.md 4.3). Without a quorum the client is not kept waiting for the limit: after
 * CORE_NOQUORUM_GRACE_MS it reads 451, and the cancel goes out when there is a leader again. */
#include "cluster/core_request.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

/* ---- submissions ---- */
void core_submit_answer(struct core_request *r, int status, enum apply_result reason)
{
    core_request_unwait(r);
    r->status = status;
    r->reason = reason;
    core_request_to_worker(r, core_request_decided);
}

static Mailraft__Op *cancel_op(const struct core_request *r)
{
    Mailraft__Cancel *cancel = mr_malloc(sizeof(*cancel));
    mailraft__cancel__init(cancel);
    cancel->id.data = mr_memdup(r->id.bytes, MR_ID_SIZE);
    cancel->id.len = MR_ID_SIZE;
    cancel->stamp_ms = r->stamp_ms;
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = MAILRAFT__OP__KIND_CANCEL;
    op->cancel = cancel;
    return op;
}

static void disowned(void *arg, int status, enum apply_result reason)
{
    (void)arg;
    (void)status;
    (void)reason;
}

/* Refused for what it is, not for the moment: its body need not lie on the nodes for the grace period; one who is over
 * his limit could fill their disks with such. A cancel that is lost leaves it to the grace period. */
static void disown_body(const struct core_request *r)
{
    struct cluster *c = r->c;
    uint64_t now = core_now(c), until = now + c->config.commit_timeout_ms * MR_NS_PER_MS;
    Mailraft__Op *op = cancel_op(r);

    if (proposals_add(c->proposals, op, now, until, disowned, NULL, NULL) != 0)
        mailraft__op__free_unpacked(op, NULL);
}

/* Why no mail can be taken when there is no lease. */
static int unavailable(const struct cluster *c)
{
    return c->given_up ? MR_CLOSED : MR_NOQUORUM;
}

static void submitted(void *arg, int status, enum apply_result reason)
{
    struct core_request *r = arg;
    if (r->cancelling)
        return; /* forgotten in favour of its cancel */
    if (status != 0) {
        core_submit_answer(r, unavailable(r->c), APPLIED);
    } else if (reason == APPLIED || reason == APPLY_DUPLICATE) {
        core_submit_answer(r, 0, reason);
    } else {
        if (reason == APPLY_QUOTA || reason == APPLY_VERSION)
            disown_body(r);
        core_submit_answer(r, MR_REFUSED, reason);
    }
}

static void cancelled(void *arg, int status, enum apply_result reason)
{
    struct core_request *r = arg;
    if (r->answered) { /* the client has its 451 since long */
        core_request_free(r);
        return;
    }
    /* The message was committed before: 250 after all. */
    if (status == 0 && (reason == APPLY_DUPLICATE || reason == APPLY_TERMINAL))
        core_submit_answer(r, 0, reason);
    else
        core_submit_answer(r, MR_TIMEOUT, APPLIED);
}

/* Time is up. patience_ns: how long the client may still wait for the fate of the cancel. False: it is answered, r is
 * no longer ours. */
static bool cancel_submission(struct core_request *r, uint64_t now, uint64_t patience_ns)
{
    struct cluster *c = r->c;
    Mailraft__Op *op = cancel_op(r);
    r->cancelling = true;
    proposals_forget(c->proposals, r->request);
    if (proposals_add(c->proposals, op, now, now + STATE_GRACE_MS * MR_NS_PER_MS, cancelled, r, &r->request) != 0) {
        mailraft__op__free_unpacked(op, NULL);
        core_submit_answer(r, MR_TIMEOUT, APPLIED);
        return false;
    }
    r->deadline_ns = now + patience_ns;
    return true;
}

/* The client is answered now; the cancel goes on by itself. */
static void answer_early(struct core_request *r, int status)
{
    struct core_request *answer = core_request_new(r->c, r->port, r->arg);
    answer->cb = r->cb;
    core_request_unwait(r);
    r->answered = true;
    core_submit_answer(answer, status, APPLIED);
}

void core_submit_propose(struct core_request *r)
{
    struct cluster *c = r->c;
    uint64_t now = core_now(c);
    Mailraft__Op *op = r->op;

    if (!c->lease_held || c->closing) {
        core_submit_answer(r, unavailable(c), APPLIED);
        return;
    }
    if (proposals_waiting(c->proposals) >= CORE_MAX_SUBMITS) {
        core_submit_answer(r, MR_BUSY, APPLIED);
        return;
    }
    op->enqueue->acceptor = c->self;
    r->deadline_ns = now + c->config.commit_timeout_ms * MR_NS_PER_MS;
    core_request_wait(r);
    r->op = NULL;
    if (proposals_add(c->proposals, op, now, UINT64_MAX, submitted, r, &r->request) != 0) {
        mailraft__op__free_unpacked(op, NULL);
        core_submit_answer(r, MR_BUSY, APPLIED);
        return;
    }
    if (MR_MUTANT(MUTANT_EARLY_250)) {
        answer_early(r, 0);
        r->cb.decided = NULL;
    }
}

/* ---- time is up ---- */

void core_request_expire(struct core_request *r, uint64_t now, bool no_quorum)
{
    if (r->body != NULL) { /* a body without a majority */
        if (r->status == 0) {
            r->status = no_quorum ? unavailable(r->c) : MR_TIMEOUT;
            bodies_abort(r->body->put);
        }
    } else if (no_quorum) {
        if (r->cancelling || cancel_submission(r, now, 0))
            answer_early(r, unavailable(r->c));
    } else if (r->cancelling) {
        answer_early(r, MR_TIMEOUT);
    } else {
        (void)cancel_submission(r, now, CORE_CANCEL_MS * MR_NS_PER_MS);
    }
}
