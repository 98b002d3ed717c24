/* What may follow from what: the entries' rules, and committed time's. They judge what the first node that comes to an
 * entry's end tells, and keep it in the messages of the world. */
#include "chaos-tests/sim/sim_oracle_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

/* Recipients of these failed or expired in this entry: their senders are to be told. */
static struct message *owing[256];
static unsigned n_owing;

/* ---- committed time ---- */

/* Invariant 11: committed time runs with true time. It may fall behind (a cluster without a leader), and an entry's
 * stamp is that of its proposal; but nothing makes it run ahead of the furthest that it was, but for steering and
 * clocks that run fast, which are 5% each. (A step takes a majority whose clocks agree; the plan never has one.) */
static double ahead_ms, since_ms;

void oracle_check_time(const struct state *s)
{
    double now_ms = (double)sim_now() / (double)MR_NS_PER_MS;
    double stamp_ms = (double)state_now_ms(s);
    double most_ms = ahead_ms + (now_ms - since_ms) * 0.12;

    if (state_now_ms(s) == 0)
        return;
    if (since_ms > 0 && stamp_ms - now_ms > most_ms + 250)
        sim_violation(11, "committed time makes a step of %.0f ms at index %llu", stamp_ms - now_ms - most_ms,
                      (unsigned long long)state_index(s));
    if (since_ms > 0 && stamp_ms - now_ms < most_ms)
        return;
    ahead_ms = stamp_ms - now_ms;
    since_ms = now_ms;
}

/* How far committed time is behind the furthest that it was, after a time without a leader: it makes up for that by
 * steering, or when it is more than a minute by a step (committed_time.h, T3), and then what arrived meanwhile expires
 * so much earlier. */
static uint64_t behind_ms(uint64_t stamp_ms)
{
    double lag = ahead_ms - ((double)stamp_ms - (double)sim_now() / (double)MR_NS_PER_MS);
    return lag > 0 ? (uint64_t)lag : 0;
}

/* ---- who is owed a DSN ---- */

static void owe(struct message *m)
{
    for (unsigned i = 0; i < n_owing; i++)
        if (owing[i] == m)
            return;
    mr_assert(n_owing < sizeof(owing) / sizeof(owing[0]));
    owing[n_owing++] = m;
}

/* Invariants 1, 6 and PROTOCOL.md 7.1: who failed or expired is told of in the same entry, once; and a DSN that says so
 * is true by the end of its entry. */
static void check_owed(void)
{
    enum { NEVER = 1, FAILURE = 4 };

    for (unsigned k = 0; k < n_owing; k++) {
        const struct message *m = owing[k];
        for (unsigned i = 0; i < m->n_recipients; i++) {
            const struct recipient_log *r = &m->recipients[i];
            bool ended = r->state == RECIPIENT_FAILED || r->state == RECIPIENT_EXPIRED;
            bool wants = !m->null_sender && (r->notify == 0 || (r->notify & FAILURE)) && !(r->notify & NEVER);
            if (ended && wants && r->told == 0)
                sim_violation(1, "recipient %u of key %llu %s, and its sender is not told", i, key_of(m),
                              r->state == RECIPIENT_FAILED ? "failed" : "expired");
            if (r->told > 0 && r->state == RECIPIENT_QUEUED)
                sim_violation(6, "a final DSN tells of recipient %u of key %llu, which is still queued", i, key_of(m));
        }
    }
    n_owing = 0;
}

/* ---- what follows from what ---- */

static void told_enqueued(const struct telling *t, uint64_t now_ms)
{
    struct message *m = t->m;

    if (m->enqueued_ns != 0)
        sim_violation(4, "the message of key %llu is enqueued a second time", key_of(m));
    if (m->cancelled)
        sim_violation(3, "the message of key %llu is enqueued after its cancel", key_of(m));
    m->enqueued_ns = sim_now();
    m->behind_ms = behind_ms(now_ms);
    world.accepted++;
    if (m->dsn && m->about->null_sender)
        sim_violation(1, "key %llu has no sender, and a DSN goes to it", key_of(m->about));
    if (!m->dsn_final)
        return;
    for (unsigned i = 0; i < m->n_tells; i++)
        if (m->about->recipients[m->tells[i]].told++ > 0)
            sim_violation(6, "a second final DSN for recipient %u of key %llu", m->tells[i], key_of(m->about));
    owe(m->about);
}

static void told_assigned(const struct telling *t, uint64_t now_ms)
{
    struct delivery_log *l = &t->m->deliveries[t->delivery];

    if (now_ms < l->not_before_ms)
        sim_violation(11, "attempt %u of key %llu begins %llu ms before it is due", t->attempt, key_of(t->m),
                      (unsigned long long)(l->not_before_ms - now_ms));

    if (t->attempt <= l->attempt)
        sim_violation(5, "attempt %u of a delivery follows attempt %u", t->attempt, l->attempt);
    if (l->n_attempts > 0 && l->attempts[l->n_attempts - 1].ending == ENDING_NONE)
        sim_violation(5, "attempt %u is assigned while attempt %u runs", t->attempt, l->attempt);
    l->attempt = t->attempt;
    l->attempts = mr_realloc(l->attempts, (l->n_attempts + 1) * sizeof(*l->attempts));
    l->attempts[l->n_attempts++] = (struct attempt_log){.attempt = t->attempt,
                                                        .node = t->node,
                                                        .slot = t->slot,
                                                        .incarnation = t->incarnation,
                                                        .assigned_ns = sim_now()};
}

static void told_unassigned(const struct telling *t)
{
    struct attempt_log *l = message_attempt(t->m, t->delivery, t->attempt);

    if (l == NULL || l->ending != ENDING_NONE)
        sim_violation(5, "attempt %u of key %llu ends twice", t->attempt, key_of(t->m));
    l->ending = t->ending;
    l->ended_ns = sim_now();
    if (l->ending == ENDING_RELEASE && l->dot_ns != 0)
        sim_violation(5, "attempt %u of key %llu is given back after its dot", t->attempt, key_of(t->m));
}

static void told_done(const struct telling *t)
{
    struct message *m = t->m;
    struct recipient_log *r = &m->recipients[t->recipient];
    enum recipient_state state = (enum recipient_state)t->state;

    if (r->state != RECIPIENT_QUEUED)
        sim_violation(6, "recipient %u of key %llu ends twice", t->recipient, key_of(m));
    r->state = state;
    if (state == RECIPIENT_DELIVERED && r->copies == 0)
        sim_violation(1, "recipient %u of key %llu counts as delivered, and its next hop has no copy", t->recipient,
                      key_of(m));
    if (state == RECIPIENT_FAILED && !r->refused)
        sim_violation(6, "recipient %u of key %llu counts as failed, and its next hop never refused it", t->recipient,
                      key_of(m));
    /* Invariant 11. Counted from the session's begin: the entry's stamp is that of its proposal, which may be long
     * before it is committed. A clock that runs fast moves committed time by its share (5%), and so does steering. */
    uint64_t least = world.config.expire_ms * 85 / 100 * MR_NS_PER_MS;
    if (state == RECIPIENT_EXPIRED && sim_now() + 2 * MR_NS_PER_S + m->behind_ms * MR_NS_PER_MS < m->begun_ns + least)
        sim_violation(11, "recipient %u of key %llu expires after %llu ms, the rules say %llu", t->recipient, key_of(m),
                      (unsigned long long)((sim_now() - m->begun_ns) / MR_NS_PER_MS),
                      (unsigned long long)world.config.expire_ms);
    if (state == RECIPIENT_FAILED || state == RECIPIENT_EXPIRED)
        owe(m);
    if (state == RECIPIENT_DELIVERED)
        world.result->delivered++;
    else
        world.result->bounced++;
}

static void told_removed(const struct telling *t)
{
    for (unsigned i = 0; i < t->m->n_recipients; i++)
        if (t->m->recipients[i].state == RECIPIENT_QUEUED)
            sim_violation(6, "the message of key %llu is removed with a recipient queued", key_of(t->m));
    t->m->finished_ns = sim_now();
    world.finished++;
}

static void told_doubt(const struct telling *t)
{
    struct attempt_log *l = message_attempt(t->m, t->delivery, t->attempt);

    world.result->in_doubt++;
    if (l == NULL)
        sim_violation(2, "an attempt is in doubt that never was");
    l->doubt = true;
}

static void told_cancel(const struct telling *t)
{
    if (t->m->enqueued_ns != 0)
        sim_violation(3, "the message of key %llu is cancelled after it was enqueued", key_of(t->m));
    t->m->cancelled = true;
}

/* Invariants 5 and 6: what an outcome may do. Of the running attempt everything; of an older one only `delivered`, and
 * only for who is still queued. */
static void check_outcome(const struct telling *begin, const struct telling *end, const enum recipient_state *before)
{
    bool applied = end->result == APPLIED;

    for (unsigned i = 0; i < begin->n; i++) {
        uint32_t recipient = begin->results[i].recipient;
        if (recipient >= begin->m->n_recipients)
            continue;
        enum recipient_state was = before[recipient], is = begin->m->recipients[recipient].state, want = was;
        if (was == RECIPIENT_QUEUED && begin->results[i].result == MAILRAFT__RESULT__DELIVERED && applied)
            want = RECIPIENT_DELIVERED;
        if (was == RECIPIENT_QUEUED && begin->results[i].result == MAILRAFT__RESULT__FAILED && begin->running &&
            applied)
            want = RECIPIENT_FAILED;
        if (is != want)
            sim_violation(5, "an outcome of attempt %u, %s, moves recipient %u of key %llu from %d to %d",
                          begin->attempt, begin->running ? "which runs" : "which is over", recipient, key_of(begin->m),
                          (int)was, (int)is);
    }
}

/* Invariant 11: what was deferred is not tried again before its time; exact, for both are committed times. */
static void note_due(const struct telling *outcome, uint64_t now_ms)
{
    if (outcome->running && outcome->retry_ms > 0 && outcome->delivery < outcome->m->n_deliveries)
        outcome->m->deliveries[outcome->delivery].not_before_ms = now_ms + outcome->retry_ms;
}

void oracle_judge(const struct applying *a, uint64_t now_ms)
{
    static void (*const tellers[])(const struct telling *t) = {
        [TOLD_UNASSIGNED] = told_unassigned, [TOLD_DONE] = told_done,     [TOLD_REMOVED] = told_removed,
        [TOLD_DOUBT] = told_doubt,           [TOLD_CANCEL] = told_cancel,
    };
    enum recipient_state before[WORLD_MAX_RECIPIENTS] = {0};
    const struct telling *outcome = NULL;

    for (size_t i = 0; i < a->n; i++) {
        const struct telling *t = &a->events[i];
        if (t->what == TOLD_OUTCOME) {
            outcome = t;
            for (unsigned k = 0; k < t->m->n_recipients; k++)
                before[k] = t->m->recipients[k].state;
        } else if (t->what == TOLD_OUTCOME_END) {
            check_outcome(outcome, t, before);
            if (t->result == APPLIED)
                note_due(outcome, now_ms);
            outcome = NULL;
        } else if (t->what == TOLD_ENQUEUED) {
            told_enqueued(t, now_ms);
        } else if (t->what == TOLD_ASSIGNED) {
            told_assigned(t, now_ms);
        } else if (t->what == TOLD_MOVED) {
            if (outcome != NULL && outcome->m == t->m && !outcome->running && t->state != DELIVERY_DONE)
                sim_violation(5, "an outcome of attempt %u, which is over, moves a delivery of key %llu",
                              outcome->attempt, key_of(t->m));
            t->m->deliveries[t->delivery].state = (enum delivery_state)t->state;
        } else {
            tellers[t->what](t);
        }
    }
    check_owed();
}
