/* The ends of attempts and notices: outcome, release, notice; each proposed until its fate is known. */
#include "cluster/core_request.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

/* ---- attempts ---- */

void cluster_dot(struct cluster_port *p, struct attempt *a)
{
    a->dotted = true;
    journal_dot(p->journal, a->id, a->delivery, a->attempt);
}

bool cluster_may_send(const struct cluster_port *p, const struct attempt *a)
{
    uint64_t now = mr_boot_ns(p->c->clock);
    return (now < atomic_load(&p->c->lease_end_ns) || MR_MUTANT(MUTANT_LEASE_IGNORED)) && now < a->deadline_ns &&
           a->incarnation == p->c->incarnation && !cluster_withdrawn(a);
}

/* An outcome must fit into one entry with room to spare: long replies of many recipients are cut. */
static void shorten(Mailraft__Outcome *o)
{
    enum { FITS = 40 * 1024, SHORT_REPLY = 120 };
    size_t most = SHORT_REPLY;
    for (bool shorter = true; shorter && mailraft__outcome__get_packed_size(o) > FITS; most /= 2) {
        shorter = most > 0;
        for (size_t i = 0; i < o->n_results; i++)
            if (o->results[i]->reply.len > most)
                o->results[i]->reply.len = most;
    }
}

void core_outcome_drop_dsn(Mailraft__Outcome *o)
{
    enum { AGAIN_MS = 60 * 1000 };
    mailraft__enqueue__free_unpacked(o->dsn, NULL);
    o->dsn = NULL;
    for (size_t i = 0; i < o->n_results; i++)
        if (o->results[i]->result == MAILRAFT__RESULT__FAILED)
            o->results[i]->result = MAILRAFT__RESULT__DEFERRED;
    if (o->retry_for_ms == 0)
        o->retry_for_ms = AGAIN_MS;
}

static Mailraft__Outcome *make_fallback(const Mailraft__Outcome *o)
{
    size_t size = mailraft__outcome__get_packed_size(o);
    uint8_t *packed = mr_malloc(size);
    mailraft__outcome__pack(o, packed);
    Mailraft__Outcome *copy = mailraft__outcome__unpack(NULL, size, packed);
    free(packed);
    mr_assert(copy != NULL);
    core_outcome_drop_dsn(copy);
    return copy;
}

static void propose_ending(struct core_request *r);

static Mailraft__Op *new_op(Mailraft__Op__KindCase kind)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = kind;
    return op;
}

static void set_id(ProtobufCBinaryData *field, struct mr_id id)
{
    free(field->data);
    field->data = mr_memdup(id.bytes, MR_ID_SIZE);
    field->len = MR_ID_SIZE;
}

static Mailraft__Release *new_release(struct mr_id id, uint32_t delivery, uint32_t attempt, const char *reason)
{
    Mailraft__Release *release = mr_malloc(sizeof(*release));
    mailraft__release__init(release);
    set_id(&release->id, id);
    release->delivery = delivery;
    release->attempt = attempt;
    release->reason = mr_strdup(reason);
    return release;
}

/* A refused operation with a DSN changed nothing: an outcome is said again without it (7.2), a notice is given back;
 * else the delivery or notice would stay this node's for ever. If it was refused because it is done with already, the
 * second one is refused too. */
static bool say_otherwise(struct core_request *r, enum apply_result reason)
{
    if (r->fallback != NULL) {
        char text[MR_ID_TEXT + 1];
        /* What failed is tried again and told then; that something was delivered is told no more. */
        log_event(LOG_WARN, "dsn_refused", LOG_S("id", mr_id_format(r->id, text)), LOG_N("delivery", r->delivery),
                  LOG_N("attempt", r->attempt), LOG_S("reason", apply_result_text(reason)));
        r->op = new_op(MAILRAFT__OP__KIND_OUTCOME);
        r->op->outcome = r->fallback;
        r->fallback = NULL;
    } else if (r->notice && !r->releasing) {
        r->op = new_op(MAILRAFT__OP__KIND_RELEASE);
        r->op->release = new_release(r->id, STATE_RELEASE_NOTICE, r->attempt, apply_result_text(reason));
        r->op->release->node = r->c->self;
        r->releasing = true;
        r->reason = reason;
    } else {
        return false;
    }
    return true;
}

static void ended(void *arg, int status, enum apply_result reason)
{
    struct core_request *r = arg;
    if (status == 0 && reason != APPLIED && say_otherwise(r, reason)) {
        propose_ending(r);
        return;
    }
    core_attempts_end(r->c, r->id, r->delivery, r->attempt, r->notice);
    r->status = status;
    if (!r->releasing)
        r->reason = reason;
    if (status == MR_CANCELLED)
        r->dotted = false; /* closing: the journal keeps it */
    core_request_to_worker(r, core_request_decided);
}

/* Bounded by the attempts and notices that this node offers; submissions leave them room, and as much is left to the
 * rest: cancels, hints, what a start has left. */
_Static_assert(CLUSTER_MAX_ATTEMPTS + 2 * CORE_MAX_SUBMITS <= PROPOSALS_MAX, "ends of attempts always find room");

static void propose_ending(struct core_request *r)
{
    Mailraft__Op *op = r->op;
    r->op = NULL;
    mr_assert(proposals_add(r->c->proposals, op, core_now(r->c), UINT64_MAX, ended, r, NULL) == 0);
}

/* A withdrawn attempt whose assignment has ended has nothing to give back. */
static bool is_given_back(const struct core_request *r, const struct core_running *running)
{
    return r->op->kind_case == MAILRAFT__OP__KIND_RELEASE && running != NULL && atomic_load(&running->withdrawn) &&
           !core_attempts_is_assigned(r->c, running);
}

static void run_ending(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    struct core_running *running = core_attempts_find(r->c, r->id, r->delivery, r->attempt, r->notice);
    if (is_given_back(r, running)) {
        ended(r, 0, APPLIED);
        return;
    }
    if (running != NULL)
        running->ending = true;
    if (r->op->kind_case == MAILRAFT__OP__KIND_OUTCOME) {
        r->op->outcome->node = r->c->self;
        if (r->op->outcome->dsn != NULL)
            r->op->outcome->dsn->acceptor = r->c->self;
        if (r->fallback != NULL)
            r->fallback->node = r->c->self;
    } else if (r->op->kind_case == MAILRAFT__OP__KIND_NOTICE) {
        r->op->notice->node = r->c->self;
        if (r->op->notice->dsn != NULL)
            r->op->notice->dsn->acceptor = r->c->self;
    } else {
        r->op->release->node = r->c->self;
    }
    propose_ending(r);
}

static struct core_request *ending_request(struct cluster_port *p, struct mr_id id, uint32_t delivery, uint32_t attempt,
                                           Mailraft__Op__KindCase kind, void *arg)
{
    struct core_request *r = core_request_new(p->c, p, arg);
    r->id = id;
    r->delivery = delivery;
    r->attempt = attempt;
    r->op = new_op(kind);
    return r;
}

/* Says whose outcome it is. */
static void address_outcome(const struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome)
{
    set_id(&outcome->id, a->id);
    outcome->delivery = a->delivery;
    outcome->attempt = a->attempt;
    outcome->node = p->c->self;
    shorten(outcome);
}

/* As the start would propose it: a recipient who has failed, but of whom nobody was told, is deferred. */
void cluster_reply(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome)
{
    mr_assert(a->dotted && outcome->dsn == NULL);
    address_outcome(p, a, outcome);
    Mailraft__Outcome *fallback = make_fallback(outcome);
    journal_reply(p->journal, fallback);
    mailraft__outcome__free_unpacked(fallback, NULL);
}

void cluster_outcome(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome,
                     void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    struct core_request *r = ending_request(p, a->id, a->delivery, a->attempt, MAILRAFT__OP__KIND_OUTCOME, arg);
    address_outcome(p, a, outcome);
    r->op->outcome = outcome;
    r->cb.decided = done;
    r->dotted = a->dotted;
    if (outcome->dsn != NULL)
        r->fallback = make_fallback(outcome);
    if (a->dotted)
        journal_reply(p->journal, outcome);
    core_request_to_core(r, run_ending);
}

static void release(struct cluster_port *p, struct mr_id id, uint32_t delivery, uint32_t attempt, bool notice,
                    bool dotted, const char *reason)
{
    struct core_request *r = ending_request(p, id, notice ? 0 : delivery, attempt, MAILRAFT__OP__KIND_RELEASE, NULL);
    r->op->release = new_release(id, notice ? STATE_RELEASE_NOTICE : delivery, attempt, reason);
    r->releasing = notice;
    r->notice = notice;
    r->dotted = dotted;
    core_request_to_core(r, run_ending);
}

void cluster_release(struct cluster_port *p, const struct attempt *a, const char *reason)
{
    release(p, a->id, a->delivery, a->attempt, false, a->dotted, reason);
}

void cluster_notice_done(struct cluster_port *p, const struct notice *n, Mailraft__Enqueue *dsn,
                         void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    struct core_request *r = ending_request(p, n->id, 0, n->attempt, MAILRAFT__OP__KIND_NOTICE, arg);
    Mailraft__Notice *op = mr_malloc(sizeof(*op));
    mailraft__notice__init(op);
    set_id(&op->id, n->id);
    op->kind = n->kind;
    op->attempt = n->attempt;
    op->n_recipients = n->n_recipients;
    op->recipients = mr_calloc(n->n_recipients, sizeof(*op->recipients));
    for (uint32_t i = 0; i < n->n_recipients; i++)
        op->recipients[i] = n->recipients[i].index;
    op->dsn = dsn;
    r->op->notice = op;
    r->notice = true;
    r->cb.decided = done;
    core_request_to_core(r, run_ending);
}

void cluster_notice_failed(struct cluster_port *p, const struct notice *n)
{
    release(p, n->id, 0, n->attempt, true, false, "notice could not be written");
}

static void run_slot_closed(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    core_slot_closed(r->c, r->text, r->slot, r->attempts);
    core_request_free(r);
}

void cluster_slot_closed(struct cluster_port *p, const char *next_hop, uint32_t slot, uint64_t attempts)
{
    struct core_request *r = core_request_new(p->c, p, NULL);
    r->text = mr_strdup(next_hop);
    r->slot = slot;
    r->attempts = attempts;
    core_request_to_core(r, run_slot_closed);
}
