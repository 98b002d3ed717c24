/* Outcome: what came of one attempt.
 *
 * Happy path: of the running attempt: outcome_check -> the DSN's enqueue, if there is one -> apply_current -> the last
 * recipient finishes the message. Of an older attempt (PROTOCOL.md 5.9): apply_late; only `delivered` counts. With a
 * DSN it is all or nothing (7.1): everything is checked before anything changes. */
#include "cluster/state_internal.h"
#include "proto/base/mutation.h"

#include <string.h>

enum { NOTIFY_SUCCESS = 2 }; /* of Recipient.notify */

/* Every result names another recipient of this delivery, and is one that is known. */
static bool results_valid(struct state_message *m, const Mailraft__Outcome *o)
{
    bool valid = true;
    size_t marked = 0;

    for (; marked < o->n_results; marked++) {
        const Mailraft__RecipientResult *r = o->results[marked];
        if (r->recipient >= m->n_recipients || (unsigned)r->result > MAILRAFT__RESULT__FAILED ||
            m->recipients[r->recipient].delivery != o->delivery || m->recipients[r->recipient].mark != 0) {
            valid = false;
            break;
        }
        m->recipients[r->recipient].mark = 1;
    }
    for (size_t i = 0; i < marked; i++)
        m->recipients[o->results[i]->recipient].mark = 0;
    return valid;
}

/* Does the DSN tell of this result? Of failures, and of the deliveries that NOTIFY=SUCCESS asks to hear of (RFC 3461
 * 4.1); if that is nobody, of all that were delivered. Below version 2, as programs of that version decide it: of the
 * failures or, if there are none, of the deliveries. */
static bool told_of(const struct state *s, const struct state_message *m, const Mailraft__RecipientResult *r,
                    bool failed, bool asked)
{
    if (r->result == MAILRAFT__RESULT__FAILED)
        return true;
    if (r->result != MAILRAFT__RESULT__DELIVERED)
        return false;
    if (s->version >= 2 && asked)
        return (m->recipients[r->recipient].notify & NOTIFY_SUCCESS) != 0;
    return !failed;
}

/* Each recipient that the DSN tells of must make its transition now (7.1). */
static enum apply_result dsn_check(const struct state *s, const struct state_message *m, const Mailraft__Outcome *o,
                                   bool current, struct mr_id *dsn)
{
    size_t failed = 0, asked = 0, told = 0;

    for (size_t i = 0; i < o->n_results; i++) {
        const Mailraft__RecipientResult *r = o->results[i];
        failed += r->result == MAILRAFT__RESULT__FAILED;
        asked += r->result == MAILRAFT__RESULT__DELIVERED && (m->recipients[r->recipient].notify & NOTIFY_SUCCESS) != 0;
    }
    if (failed > 0 && !current)
        return APPLY_STALE;
    for (size_t i = 0; i < o->n_results; i++) {
        const Mailraft__RecipientResult *r = o->results[i];
        if (!told_of(s, m, r, failed > 0, asked > 0))
            continue;
        if (m->recipients[r->recipient].state != RECIPIENT_QUEUED)
            return APPLY_TERMINAL;
        told++;
    }
    if (told == 0)
        return APPLY_INVALID;
    return state_enqueue_check(s, o->dsn, dsn);
}

static void defer(struct state *s, struct state_delivery *d, uint64_t for_ms)
{
    if (for_ms == 0) {
        delivery_requeue(s, d, AT_BACK);
        return;
    }
    if (message_expired(s, delivery_message(d)))
        d->due_ms = STATE_DUE_NEVER;
    else
        d->due_ms = s->now_ms + (for_ms < STATE_MAX_MS ? for_ms : STATE_MAX_MS);
    delivery_move(s, d, DELIVERY_DEFERRED, AT_BACK);
}

static void apply_current(struct state *s, struct state_message *m, struct state_delivery *d,
                          const Mailraft__Outcome *o)
{
    bool delivered = false, deferred = false;
    const char *last = NULL;
    uint32_t node = d->node, slot = d->slot;

    for (size_t i = 0; i < o->n_results; i++) {
        const Mailraft__RecipientResult *r = o->results[i];
        struct state_recipient *to = &m->recipients[r->recipient];
        if (r->result == MAILRAFT__RESULT__RESULT_NONE)
            continue;
        delivered = delivered || r->result == MAILRAFT__RESULT__DELIVERED;
        if (to->state != RECIPIENT_QUEUED) {
            if (r->result == MAILRAFT__RESULT__DELIVERED)
                TELL(s, late_outcome, m->id, r->recipient, o->attempt, o->node);
            continue;
        }
        recipient_answer(s, m, r->recipient, r->reply.data, r->reply.len, r->status);
        if (r->result == MAILRAFT__RESULT__DELIVERED) {
            recipient_finish(s, m, r->recipient, RECIPIENT_DELIVERED);
            continue;
        }
        if (to->answer != NULL)
            last = to->answer + strlen(to->answer) + 1;
        if (r->result == MAILRAFT__RESULT__FAILED)
            recipient_finish(s, m, r->recipient, RECIPIENT_FAILED);
        else
            deferred = true;
    }
    if (last != NULL)
        next_hop_reply(s, d->hop, last);
    if (deferred)
        d->failures++;
    d->avoid_node = o->avoid_node ? d->node : 0;
    TELL(s, outcome, node, slot, d->hop->name, delivered, o->unreached != 0);
    if (d->queued > 0)
        defer(s, d, o->retry_for_ms);
    else
        delivery_move(s, d, DELIVERY_DONE, AT_BACK);
}

static enum apply_result apply_late(struct state *s, struct state_message *m, struct state_delivery *d,
                                    const Mailraft__Outcome *o)
{
    size_t delivered = 0, counted = 0;

    for (size_t i = 0; i < o->n_results; i++) {
        const Mailraft__RecipientResult *r = o->results[i];
        if (r->result != MAILRAFT__RESULT__DELIVERED)
            continue;
        delivered++;
        if (m->recipients[r->recipient].state == RECIPIENT_QUEUED) {
            recipient_answer(s, m, r->recipient, r->reply.data, r->reply.len, r->status);
            recipient_finish(s, m, r->recipient, RECIPIENT_DELIVERED);
            counted++;
        } else if (o->attempt != d->attempt || m->recipients[r->recipient].state != RECIPIENT_DELIVERED) {
            /* Else it is, as far as can be told, this very outcome, proposed again. */
            TELL(s, late_outcome, m->id, r->recipient, o->attempt, o->node);
        }
    }
    if (d->queued == 0 && d->state != DELIVERY_DONE)
        delivery_move(s, d, DELIVERY_DONE, AT_BACK);
    if (counted > 0)
        return APPLIED;
    return delivered > 0 ? APPLY_TERMINAL : APPLY_STALE;
}

/* The message is gone. A copy that another attempt than the last one delivered is logged (5.9). */
static enum apply_result of_finished(struct state *s, struct mr_id id, const Mailraft__Outcome *o)
{
    const struct state_finished *f = finished_find(s, id);

    if (f == NULL)
        return APPLY_NOT_FOUND;
    for (size_t i = 0; i < o->n_results; i++)
        if (o->results[i]->result == MAILRAFT__RESULT__DELIVERED &&
            (f->node == 0 || (f->delivery == o->delivery && f->attempt != o->attempt)))
            TELL(s, late_outcome, id, o->results[i]->recipient, o->attempt, o->node);
    return APPLY_TERMINAL;
}

enum apply_result state_outcome(struct state *s, const Mailraft__Outcome *o)
{
    struct mr_id id, dsn;

    if (mr_id_from_bytes(o->id.data, o->id.len, &id) != 0 || o->node == 0 || o->node > STATE_MAX_NODES)
        return APPLY_INVALID;
    struct state_message *m = (struct state_message *)(uintptr_t)state_find(s, id);
    if (m == NULL)
        return of_finished(s, id, o);
    if (o->delivery >= m->n_deliveries || o->attempt == 0 || !results_valid(m, o))
        return APPLY_INVALID;
    struct state_delivery *d = &m->deliveries[o->delivery];
    bool running = d->state == DELIVERY_ASSIGNED && (d->attempt == o->attempt || MR_MUTANT(MUTANT_STALE_OUTCOME));
    /* An attempt that was never given, or given to another node. */
    if (o->attempt > d->attempt || (running && d->node != o->node && !MR_MUTANT(MUTANT_STALE_OUTCOME)))
        return APPLY_STALE;
    if (o->dsn != NULL) {
        enum apply_result r = dsn_check(s, m, o, running, &dsn);
        if (r != APPLIED && !(MR_MUTANT(MUTANT_DSN_APART) && state_enqueue_check(s, o->dsn, &dsn) == APPLIED))
            return r;
        state_enqueue_do(s, o->dsn, dsn);
    }
    enum apply_result result = APPLIED;
    state_touch(s, m);
    if (running)
        apply_current(s, m, d, o);
    else
        result = apply_late(s, m, d, o);
    if (m->queued == 0)
        state_message_finish(s, m, o->delivery, o->attempt, o->node);
    return result;
}
