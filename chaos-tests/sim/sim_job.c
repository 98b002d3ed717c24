/* Jobs: what an attempt has come to, and its outcome, with a DSN's enqueue if one is owed. */
#include "chaos-tests/sim/sim_worker_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct job *job_new(struct attempt *a)
{
    struct job *j = mr_calloc(1, sizeof(*j));

    j->a = a;
    j->m = message_find(a->id);
    if (j->m == NULL)
        sim_violation(2, "node %u was assigned a message that nobody submitted", sim_node());
    j->n = a->n_recipients;
    if (j->n == 0 || j->n > j->m->n_recipients)
        sim_violation(2, "an attempt of %u recipients, of a message of %u", j->n, j->m->n_recipients);
    for (unsigned i = 0; i < j->n; i++) {
        char address[64];
        j->places[i] = a->recipients[i].index;
        if (j->places[i] >= j->m->n_recipients ||
            strcmp(recipient_address(j->m, j->places[i], address), a->recipients[i].address) != 0)
            sim_violation(2, "recipient %s is none of its message", a->recipients[i].address);
    }
    return j;
}

static void job_free(struct job *j)
{
    if (j->hash != NULL)
        XXH3_freeState(j->hash);
    attempt_free(j->a);
    free(j);
}

void job_release(struct slot *s, const char *reason)
{
    struct job *j = s->job;

    s->job = NULL;
    s->serial = ++s->w->serials;
    cluster_release(s->w->port, j->a, reason);
    job_free(j);
    mr_assert(s->w->running > 0);
    s->w->running--;
    sim_worker_ended(s->w);
}

static void decide_rest(struct job *j, int code)
{
    for (unsigned i = 0; i < j->n; i++)
        if (j->codes[i] == 0 || j->codes[i] == RCPT_TAKEN)
            j->codes[i] = code;
}

void job_fail(struct job *j, bool unreached)
{
    j->unreached = j->avoid_node = unreached;
    decide_rest(j, 450);
}

/* ---- the outcome ---- */

static uint64_t retry_for_ms(struct sim_worker *w, const struct attempt *a)
{
    const Mailraft__Rules *rules = w->rules->rules;
    double ms = (double)rules->retry_first_for_ms;
    double most = (double)rules->retry_max_for_ms;

    for (uint32_t i = 0; i < a->failures && ms < most; i++)
        ms *= rules->retry_factor;
    if (ms > most)
        ms = most;
    return (uint64_t)(ms * (1.0 + (double)sim_below(SIM_LOAD, 1000) / 5000.0));
}

static Mailraft__Outcome *make_outcome(struct sim_worker *w, const struct job *j)
{
    Mailraft__Outcome *o = mr_malloc(sizeof(*o));
    bool deferred = false;

    mailraft__outcome__init(o);
    o->n_results = j->n;
    o->results = mr_calloc(j->n, sizeof(Mailraft__RecipientResult *));
    for (unsigned i = 0; i < j->n; i++) {
        Mailraft__RecipientResult *r = mr_malloc(sizeof(*r));
        mailraft__recipient_result__init(r);
        r->recipient = j->places[i];
        r->result = j->codes[i] / 100 == 2   ? MAILRAFT__RESULT__DELIVERED
                    : j->codes[i] / 100 == 5 ? MAILRAFT__RESULT__FAILED
                                             : MAILRAFT__RESULT__DEFERRED;
        deferred = deferred || r->result == MAILRAFT__RESULT__DEFERRED;
        char reply[32];
        r->reply.len = (size_t)snprintf(reply, sizeof(reply), "%d said the hop", j->codes[i]);
        r->reply.data = mr_memdup(reply, r->reply.len);
        r->status = mr_asprintf("%d.0.0", j->codes[i] / 100);
        o->results[i] = r;
    }
    o->retry_for_ms = retry_for_ms(w, j->a);
    o->unreached = j->unreached && deferred;
    o->avoid_node = j->avoid_node && deferred;
    return o;
}

struct ending_job {
    struct sim_worker *w;
    struct job *job;
    Mailraft__Outcome *outcome;
};

static void propose(struct sim_worker *w, struct job *j, Mailraft__Outcome *o)
{
    cluster_outcome(w->port, j->a, o, NULL, NULL);
    job_free(j);
    mr_assert(w->running > 0);
    w->running--;
    sim_worker_ended(w);
}

static void on_dsn(void *arg, int status, Mailraft__Enqueue *dsn)
{
    struct ending_job *e = arg;

    e->outcome->dsn = dsn;
    if (status != 0) /* PROTOCOL.md 7.2 */
        for (size_t i = 0; i < e->outcome->n_results; i++)
            if (e->outcome->results[i]->result == MAILRAFT__RESULT__FAILED)
                e->outcome->results[i]->result = MAILRAFT__RESULT__DEFERRED;
    propose(e->w, e->job, e->outcome);
    free(e);
}

static bool wants_dsn(uint32_t notify, bool failed)
{
    enum { NEVER = 1, SUCCESS = 2, FAILURE = 4 };
    if (notify & NEVER)
        return false;
    return failed ? notify == 0 || (notify & FAILURE) : (notify & SUCCESS) != 0;
}

void job_finish(struct slot *s)
{
    struct job *j = s->job;
    struct sim_worker *w = s->w;
    uint32_t told[WORLD_MAX_RECIPIENTS];
    unsigned n = 0;

    s->job = NULL;
    s->serial = ++w->serials;
    decide_rest(j, 451);
    for (unsigned i = 0; i < j->n; i++) {
        bool fails = j->codes[i] / 100 == 5;
        if (j->a->reverse_path[0] != 0 && (fails || j->codes[i] / 100 == 2) &&
            wants_dsn(j->a->recipients[i].notify, fails))
            told[n++] = j->places[i];
    }
    Mailraft__Outcome *o = make_outcome(w, j);
    if (n == 0) {
        propose(w, j, o);
        return;
    }
    if (j->a->dotted)
        cluster_reply(w->port, j->a, o);
    struct ending_job *e = mr_malloc(sizeof(*e));
    *e = (struct ending_job){w, j, o};
    sim_dsn_make(w, j->m, told, n, true, on_dsn, e);
}
