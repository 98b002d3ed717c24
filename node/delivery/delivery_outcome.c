/* What came of an attempt: results by recipient -> one outcome operation, a line in the log each way, the time of the
 * next attempt, and the DSN when there is a sender to tell: of those that failed for good, and of those that were
 * delivered or passed on to where nobody would report it (RFC 3461 section 5.2). A DSN is stored on a majority before
 * the outcome is proposed; the reply to a dot does not wait for that but goes into the journal at once. */
#include "node/delivery/delivery_internal.h"
#include "node/delivery/dsn.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

void job_decide(struct job *j, uint32_t recipient, int code, const char *text)
{
    struct job_result *r = &j->results[recipient];
    if (r->result != MAILRAFT__RESULT__RESULT_NONE)
        return;
    r->result = code / 100 == 2   ? MAILRAFT__RESULT__DELIVERED
                : code / 100 == 5 ? MAILRAFT__RESULT__FAILED
                                  : MAILRAFT__RESULT__DEFERRED;
    r->accepted = false;
    r->reply = mr_strdup(text);
    smtp_reply_status(r->result == MAILRAFT__RESULT__DEFERRED ? 450 : code, text, r->status);
}

void job_decide_all(struct job *j, int code, const char *text)
{
    for (uint32_t i = 0; i < j->a->n_recipients; i++)
        job_decide(j, i, code, text);
}

void job_fail(struct slot *s, bool permanent, const char *status, bool unreached, const char *format, ...)
{
    struct job *j = s->job;
    char text[REPLY_TEXT];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    j->unreached = unreached;
    for (uint32_t i = 0; i < j->a->n_recipients; i++) {
        if (j->results[i].result != MAILRAFT__RESULT__RESULT_NONE)
            continue;
        job_decide(j, i, permanent ? 550 : 450, text);
        (void)snprintf(j->results[i].status, sizeof(j->results[i].status), "%s", status);
    }
}

static void clear(struct job *j)
{
    for (uint32_t i = 0; j->a != NULL && i < j->a->n_recipients; i++) {
        free(j->results[i].reply);
        free(j->results[i].address);
    }
    free(j->results);
    free(j->reverse_path);
    free(j->order);
    body_forget(j);
}

void job_free(struct job *j)
{
    clear(j);
    if (j->a != NULL)
        attempt_free(j->a);
    free(j);
}

void job_release(struct slot *s, const char *reason)
{
    struct job *j = s->job;
    struct delivery *d = s->d;
    s->job = NULL;
    s->serial++;
    delivery_backend.release(d->w->port, j->a, reason);
    job_free(j);
    mr_assert(d->running > 0);
    d->running--;
    delivery_ended(d);
}

void job_rewind(struct slot *s)
{
    struct job *j = s->job;
    struct attempt *a = j->a;
    uint64_t given_ns = j->given_ns;

    clear(j);
    memset(j, 0, sizeof(*j));
    j->a = a;
    j->given_ns = given_ns;
    j->results = mr_calloc(a->n_recipients, sizeof(*j->results));
    s->serial++; /* a piece that is still on its way belongs to what was */
}

void job_tell_doubt(const struct slot *s)
{
    char id[MR_ID_TEXT + 1];
    const struct job *j = s->job;
    if (!j->dot_written)
        return;
    log_event(LOG_WARN, "in_doubt", LOG_S("id", mr_id_format(j->a->id, id)), LOG_N("delivery", j->a->delivery),
              LOG_N("attempt", j->a->attempt), LOG_S("next_hop", s->next_hop), LOG_S("peer", s->peer),
              LOG_N("recipients", j->n_accepted));
}

/* ---- retry ---- */

/* First, growing by the factor with each deferral, up to the maximum; and up to a fifth more, so that what failed
 * together does not come back together. No more deferrals count than had their pauses since the message came: rounds
 * without one (goes_on_at_once) do not make the next one longer. */
static uint64_t retry_for_ms(struct delivery *d, const struct attempt *a)
{
    const Mailraft__Rules *rules = d->w->rules->rules;
    double ms = (double)rules->retry_first_for_ms;
    double most = (double)rules->retry_max_for_ms;
    double passed = a->now_ms > a->arrived_ms ? (double)(a->now_ms - a->arrived_ms) : 0;
    for (uint32_t i = 0; i < a->failures && ms < most && passed >= ms; i++) {
        passed -= ms;
        ms *= rules->retry_factor;
    }
    if (ms > most)
        ms = most;
    return (uint64_t)(ms * (1.0 + (double)(delivery_random(d) % 1000) / 5000.0));
}

/* ---- logs ---- */

static const char *const events[] = {
    [MAILRAFT__RESULT__DELIVERED] = "delivered",
    [MAILRAFT__RESULT__DEFERRED] = "deferred",
    [MAILRAFT__RESULT__FAILED] = "bounced",
};

static void log_recipient(const struct slot *s, const struct job *j, uint32_t i, uint64_t delay_ms)
{
    char id[MR_ID_TEXT + 1];
    const struct job_result *r = &j->results[i];
    enum log_level level = r->result == MAILRAFT__RESULT__DELIVERED ? LOG_INFO : LOG_WARN;
    log_event(level, events[r->result], LOG_S("id", mr_id_format(j->a->id, id)),
              LOG_S("recipient", j->a->recipients[i].address), LOG_S("sender", j->a->reverse_path),
              LOG_S("next_hop", s->next_hop), LOG_S("peer", s->peer[0] != 0 ? s->peer : NULL), LOG_S("reply", r->reply),
              LOG_S("status", r->status), LOG_B("tls", s->tls != NULL),
              LOG_S("tls_version", s->tls != NULL ? tls_version(s->tls) : NULL),
              LOG_S("tls_cipher", s->tls != NULL ? tls_cipher(s->tls) : NULL),
              LOG_S("tls_verified", s->tls != NULL ? s->secure.verified : NULL), LOG_N("attempt", j->a->attempt),
              LOG_N("delay_ms", delay_ms), LOG_B("reused", s->messages > 0), LOG_B("bdat", j->form.bdat),
              LOG_B("converted", j->plan != NULL));
}

/* What the next hop said. Whether a failure stands is known only when its DSN is stored: dsn_failed takes it back. */
static void log_recipients(const struct slot *s, const struct job *j)
{
    enum { LOG_MOST = 100 }; /* told one by one; the queue tells the rest */
    uint64_t now = mr_wall_ms(&mr_clock_real);
    uint64_t delay = now > j->a->arrived_ms ? now - j->a->arrived_ms : 0;
    for (uint32_t i = 0; i < j->a->n_recipients && i < LOG_MOST; i++)
        if (j->results[i].result != MAILRAFT__RESULT__RESULT_NONE)
            log_recipient(s, j, i, delay);
}

static void count(struct cluster_counters *counters, const Mailraft__Outcome *o)
{
    for (size_t i = 0; i < o->n_results; i++) {
        switch (o->results[i]->result) {
        case MAILRAFT__RESULT__DELIVERED:
            atomic_fetch_add(&counters->deliveries_delivered, 1);
            break;
        case MAILRAFT__RESULT__FAILED:
            atomic_fetch_add(&counters->deliveries_failed, 1);
            break;
        case MAILRAFT__RESULT__RESULT_NONE: /* its turn is still to come */
            break;
        default:
            atomic_fetch_add(&counters->deliveries_deferred, 1);
            break;
        }
    }
}

/* ---- the outcome ---- */

static Mailraft__RecipientResult *make_result(const struct job *j, uint32_t i)
{
    const struct job_result *from = &j->results[i];
    const char *reply = from->reply == NULL ? "" : from->reply;
    Mailraft__RecipientResult *r = mr_malloc(sizeof(*r));
    mailraft__recipient_result__init(r);
    r->recipient = j->a->recipients[i].index;
    r->result = from->result;
    r->status = mr_strdup(from->status);
    r->reply.len = strnlen(reply, STATE_MAX_REPLY);
    r->reply.data = mr_memdup(reply, r->reply.len);
    return r;
}

/* Does the status tell of the recipient, or of what is allowed for it? Greylisting says such, or nothing of its own.
 * Else it is of the host or of what is behind it, which is in trouble, and more of the same would add to that. */
static bool of_recipient(const char *status)
{
    return strlen(status) > 2 && strchr("0127", status[2]) != NULL;
}

/* Those whose turn did not come have it now: when this round decided somebody, so that there is an end to such rounds;
 * or when all that were asked were deferred at their RCPT for what is their own (each), until each had a turn.
 * Greylisted ones then come back together, instead of each group after a longer pause than the one before. A round
 * counts by what it deferred: attempts that went back without asking anybody are none. */
static bool goes_on_at_once(const struct job *j, bool decided, bool each)
{
    return decided || (each && j->n_accepted == 0 && (j->a->failures + 1) % j->rounds != 0);
}

static Mailraft__Outcome *make_outcome(struct delivery *d, const struct job *j)
{
    Mailraft__Outcome *o = mr_malloc(sizeof(*o));
    mailraft__outcome__init(o);
    o->n_results = j->a->n_recipients;
    o->results = mr_calloc(o->n_results, sizeof(*o->results));
    bool deferred = false, decided = false, postponed = false, each = true;
    for (uint32_t i = 0; i < j->a->n_recipients; i++) {
        Mailraft__Result result = j->results[i].result;
        o->results[i] = make_result(j, i);
        deferred = deferred || result == MAILRAFT__RESULT__DEFERRED;
        each = each && (result != MAILRAFT__RESULT__DEFERRED || of_recipient(j->results[i].status));
        postponed = postponed || result == MAILRAFT__RESULT__RESULT_NONE;
        decided = decided || result == MAILRAFT__RESULT__DELIVERED || result == MAILRAFT__RESULT__FAILED;
    }
    /* Said always: should a DSN be impossible, what failed is deferred instead (7.2). 0: ready again at once. */
    o->retry_for_ms = postponed && goes_on_at_once(j, decided, each) ? 0 : retry_for_ms(d, j->a);
    o->unreached = j->unreached && deferred;
    o->avoid_node = j->avoid_node && deferred;
    return o;
}

struct ending {
    struct delivery *d;
    struct job *job;
    Mailraft__Outcome *outcome;
};

static void propose(struct delivery *d, struct job *j, Mailraft__Outcome *o)
{
    count(d->w->counters, o);
    delivery_backend.outcome(d->w->port, j->a, o, NULL, NULL);
    job_free(j);
    mr_assert(d->running > 0);
    d->running--;
    delivery_ended(d);
}

/* 7.2: what failed is deferred. With a pause for those, too, whose turn did not come: this round may have
 * decided nobody. */
static void without_dsn(struct delivery *d, const struct job *j, Mailraft__Outcome *o, int status)
{
    char id[MR_ID_TEXT + 1];
    unsigned deferred = 0;
    for (size_t i = 0; i < o->n_results; i++) {
        if (o->results[i]->result != MAILRAFT__RESULT__FAILED)
            continue;
        o->results[i]->result = MAILRAFT__RESULT__DEFERRED;
        deferred++;
    }
    if (deferred > 0 && o->retry_for_ms == 0)
        o->retry_for_ms = retry_for_ms(d, j->a);
    log_event(LOG_WARN, "dsn_failed", LOG_S("id", mr_id_format(j->a->id, id)), LOG_N("delivery", j->a->delivery),
              LOG_S("sender", j->a->reverse_path), LOG_N("deferred", deferred), LOG_S("reason", mr_strerror(status)));
}

static void on_dsn(void *arg, int status, Mailraft__Enqueue *dsn)
{
    struct ending *e = arg;
    Mailraft__Outcome *o = e->outcome;

    o->dsn = dsn;
    if (status != 0)
        without_dsn(e->d, e->job, o, status);
    else
        atomic_fetch_add(&e->d->w->counters->dsns, 1);
    propose(e->d, e->job, o);
    free(e);
}

/* What the sender is to be told of a recipient; DSN_NONE: nothing. lmtp: the next hop is where the message was to get
 * to, so that nobody further on could report. */
static enum dsn_action action_of(const struct job *j, uint32_t i, bool lmtp)
{
    uint32_t notify = j->a->recipients[i].notify;
    if (notify & NOTIFY_NEVER)
        return DSN_NONE;
    if (j->results[i].result == MAILRAFT__RESULT__FAILED)
        return notify == 0 || (notify & NOTIFY_FAILURE) ? DSN_FAILED : DSN_NONE;
    if (j->results[i].result != MAILRAFT__RESULT__DELIVERED)
        return DSN_NONE;
    if ((notify & NOTIFY_SUCCESS) && !j->form.dsn)
        return lmtp ? DSN_DELIVERED : DSN_RELAYED;
    if (lmtp || j->a->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_NONE)
        return DSN_NONE;
    /* RFC 2852 section 4: beyond this next hop nobody looks at the time; or a trace was asked for. */
    return !j->form.deliver_by || j->a->deliver_by_trace ? DSN_RELAYED : DSN_NONE;
}

/* Whom the DSN tells of; NULL: there is none to be made. Points into the job. */
static struct dsn_recipient *tell_of(const struct slot *s, const struct job *j, uint32_t *n)
{
    struct dsn_recipient *told = mr_calloc(j->a->n_recipients, sizeof(*told));
    *n = 0;
    for (uint32_t i = 0; i < j->a->n_recipients && j->a->reverse_path[0] != 0; i++) {
        enum dsn_action action = action_of(j, i, s->hop.kind == NEXT_HOP_LMTP);
        if (action != DSN_NONE)
            told[(*n)++] = (struct dsn_recipient){.address = j->a->recipients[i].address,
                                                  .orcpt = j->a->recipients[i].orcpt,
                                                  .action = action,
                                                  .status = j->results[i].status,
                                                  .reply = j->results[i].reply,
                                                  .remote = s->peer};
    }
    if (*n > 0)
        return told;
    free(told);
    return NULL;
}

static void make_dsn(struct slot *s, struct job *j, Mailraft__Outcome *o, const struct dsn_recipient *told, uint32_t n)
{
    struct ending *e = mr_malloc(sizeof(*e));
    *e = (struct ending){s->d, j, o};
    struct dsn_report report = {.id = j->a->id,
                                .reverse_path = j->a->reverse_path,
                                .envid = j->a->envid,
                                .ret = j->a->ret,
                                .utf8 = (j->a->flags & MESSAGE_SMTPUTF8) != 0,
                                .redacted = (j->a->flags & MESSAGE_REQUIRETLS) != 0,
                                .arrived_ms = j->a->arrived_ms,
                                .expire_ms = j->a->expire_ms,
                                .recipients = told,
                                .n_recipients = n};
    dsn_make(s->d->w, &report, on_dsn, e);
}

void job_finish(struct slot *s)
{
    struct job *j = s->job;
    uint32_t n_told;
    s->job = NULL;
    s->serial++;
    for (uint32_t i = 0; i < j->a->n_recipients; i++)
        if (!j->results[i].postponed)
            job_decide(j, i, 451, "451 not attempted"); /* whoever is still undecided */
    Mailraft__Outcome *o = make_outcome(s->d, j);
    struct dsn_recipient *told = tell_of(s, j, &n_told);
    if (told != NULL && j->a->dotted) /* else the outcome, which comes at once, says it; or there is nothing to keep */
        delivery_backend.reply(s->d->w->port, j->a, o);
    log_recipients(s, j);
    if (told != NULL)
        make_dsn(s, j, o, told, n_told);
    else
        propose(s->d, j, o);
    free(told);
}

void job_finish_idle(struct slot *s)
{
    job_finish(s);
    if (slot_by_helo(s)) {
        slot_quit(s);
        return;
    }
    s->phase = PHASE_IDLE;
    uv_timer_stop(&s->timer);
    slot_next(s);
}
