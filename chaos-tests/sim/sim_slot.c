/* Slots: which attempt a connection has next, and what becomes of those behind it.
 *
 * An attempt waits in its slot's queue until slot_next takes it. Without a connection there is one first; with the last
 * attempt an idle one is kept for a while, then the slot ends and the core is told. */
#include "chaos-tests/sim/sim_worker_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { GRANT_MS = 1000 };

struct queued {
    struct queued *next;
    struct attempt *a;
    uint64_t at_ns;
};

/* ---- posts that find their slot again ---- */

struct post {
    struct sim_worker *w;
    uint64_t slot, serial;
    void (*run)(struct slot *s, int code);
    int code;
};

struct slot *slot_named(struct sim_worker *w, uint64_t name)
{
    for (struct slot *s = w->slots; s != NULL; s = s->next)
        if (s->name == name)
            return s;
    return NULL;
}

static void run_post(void *arg)
{
    struct post *p = arg;
    struct slot *s = slot_named(p->w, p->slot);

    if (s != NULL && s->serial == p->serial)
        p->run(s, p->code);
    free(p);
}

void slot_post(struct slot *s, uint64_t ns, void (*run)(struct slot *s, int code), int code)
{
    struct post *p = mr_malloc(sizeof(*p));

    *p = (struct post){.w = s->w, .slot = s->name, .serial = s->serial, .run = run, .code = code};
    sim_loop_post(&s->w->loop, sim_now() + ns, run_post, p);
}

/* ---- slots, and who waits in them ---- */

static void on_timer(uv_timer_t *timer);

static struct slot *slot_of(struct sim_worker *w, const char *next_hop, uint32_t number)
{
    for (struct slot *s = w->slots; s != NULL; s = s->next)
        if (s->number == number && strcmp(s->next_hop, next_hop) == 0)
            return s;
    struct slot *s = mr_calloc(1, sizeof(*s));
    s->w = w;
    s->name = ++w->serials;
    (void)snprintf(s->next_hop, sizeof(s->next_hop), "%s", next_hop);
    s->hop = hop_by_name(next_hop);
    s->number = number;
    s->last = &s->first;
    s->next = w->slots;
    w->slots = s;
    w->n_slots++;
    uv_timer_init(&w->loop, &s->timer);
    s->timer.data = s;
    return s;
}

static void on_slot_gone(uv_handle_t *handle)
{
    struct slot *s = handle->data;
    struct sim_worker *w = s->w;

    free(s);
    w->n_slots--;
    sim_worker_ended(w);
}

static void slot_free(struct slot *s)
{
    struct slot **link = &s->w->slots;

    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    s->gone = true;
    cluster_slot_closed(s->w->port, s->next_hop, s->number, s->given);
    uv_close((uv_handle_t *)&s->timer, on_slot_gone);
}

void slot_close(struct slot *s)
{
    uv_timer_stop(&s->timer);
    if (s->connection != NULL)
        hop_close(s->connection);
    s->connection = NULL;
    s->serial = ++s->w->serials; /* what is on its way belongs to what was */
    s->phase = PHASE_NONE;
    s->quit = false;
}

void slot_set_timer(struct slot *s, uint64_t ms)
{
    uv_timer_start(&s->timer, on_timer, ms, 0);
}

static struct attempt *dequeue(struct slot *s, uint64_t *at_ns)
{
    struct queued *q = s->first;

    if (q == NULL)
        return NULL;
    struct attempt *a = q->a;
    *at_ns = q->at_ns;
    s->first = q->next;
    if (s->first == NULL)
        s->last = &s->first;
    free(q);
    return a;
}

static void give_back(struct sim_worker *w, struct attempt *a, const char *reason)
{
    cluster_release(w->port, a, reason);
    attempt_free(a);
    mr_assert(w->running > 0);
    w->running--;
}

static void release_queued(struct slot *s, const char *reason)
{
    uint64_t at;

    for (struct attempt *a; (a = dequeue(s, &at)) != NULL;)
        give_back(s->w, a, reason);
}

bool slot_may_send(struct sim_worker *w, const struct attempt *a)
{
    bool yes = cluster_may_send(w->port, a);

    if (yes)
        oracle_may_send(w->node, a);
    return yes;
}

static const char *hindrance(struct slot *s, const struct attempt *a, uint64_t at_ns)
{
    struct sim_worker *w = s->w;

    if (w->draining || w->closing)
        return "shutdown";
    if (!slot_may_send(w, a))
        return "no lease";
    if (w->rules != NULL && route_limit(w->rules->rules, s->next_hop)->rate > 0 &&
        mr_boot_ns(&mr_clock_real) - at_ns > GRANT_MS * MR_NS_PER_MS)
        return "grant unused";
    return NULL;
}

/* ---- its connection ---- */

void slot_lost(struct slot *s)
{
    struct job *j = s->job;

    if (j == NULL) {
        slot_close(s);
        slot_next(s);
        return;
    }
    if (j->dotted) {
        struct attempt_log *l = message_attempt(j->m, j->a->delivery, j->a->attempt);
        if (l != NULL)
            l->reply_lost = true;
    }
    job_fail(j, false);
    slot_close(s);
    job_finish(s);
    slot_next(s);
}

static void on_timer(uv_timer_t *timer)
{
    slot_lost(timer->data);
}

static void on_connected(struct slot *s, int code)
{
    (void)code;
    uv_timer_stop(&s->timer);
    s->phase = PHASE_IDLE;
    if (s->job != NULL)
        transaction_begin(s);
    else
        slot_next(s);
}

/* No connection: the attempt that met it gets the outcome, those behind it go back to the leader, who backs off. */
static void on_unreached(struct slot *s, int code)
{
    (void)code;
    slot_close(s);
    if (s->job != NULL) {
        job_fail(s->job, true);
        job_finish(s);
    }
    release_queued(s, "next hop unreachable");
    slot_next(s);
}

static void slot_connect(struct slot *s)
{
    uint64_t ns;

    s->phase = PHASE_CONNECT;
    s->serial = ++s->w->serials;
    s->connection = hop_connect(s->hop, &ns);
    slot_post(s, ns, s->connection != NULL ? on_connected : on_unreached, 0);
}

void slot_next(struct slot *s)
{
    struct attempt *a;
    uint64_t at_ns;

    if (s->job != NULL || s->gone || s->phase == PHASE_CONNECT)
        return;
    while ((a = dequeue(s, &at_ns)) != NULL) {
        const char *why = hindrance(s, a, at_ns);
        if (why == NULL)
            break;
        give_back(s->w, a, why);
    }
    if (a == NULL) {
        if (s->phase == PHASE_IDLE && (s->w->draining || s->w->closing))
            slot_close(s);
        if (s->phase == PHASE_IDLE)
            slot_set_timer(s, sim_between(SIM_LOAD, 100, 3000)); /* an idle connection is kept so long */
        else if (s->phase == PHASE_NONE && s->reads == 0)
            slot_free(s);
        return;
    }
    uv_timer_stop(&s->timer);
    s->job = job_new(a);
    if (s->phase == PHASE_IDLE)
        transaction_begin(s);
    else
        slot_connect(s);
}

/* ---- for the worker ---- */

void slots_take(struct sim_worker *w, struct attempt *a)
{
    struct slot *s = slot_of(w, a->next_hop, a->slot);
    struct queued *q = mr_calloc(1, sizeof(*q));

    w->running++;
    s->given++;
    q->a = a;
    q->at_ns = mr_boot_ns(&mr_clock_real);
    *s->last = q;
    s->last = &q->next;
    slot_next(s);
}

static void each_slot(struct sim_worker *w, void (*visit)(struct slot *s))
{
    for (struct slot *s = w->slots, *next; s != NULL; s = next) {
        next = s->next;
        visit(s);
    }
}

static void end_lease(struct slot *s)
{
    release_queued(s, "lease ended");
    if (s->job != NULL && s->job->dotted) {
        s->quit = true;
        return;
    }
    if (s->job != NULL)
        job_release(s, "lease ended");
    slot_close(s);
    slot_next(s);
}

void slots_end_lease(struct sim_worker *w)
{
    each_slot(w, end_lease);
}

static void withdraw(struct slot *s)
{
    struct queued **link = &s->first;

    for (struct queued *q; (q = *link) != NULL;) {
        if (!cluster_withdrawn(q->a)) {
            link = &q->next;
            continue;
        }
        *link = q->next;
        give_back(s->w, q->a, "withdrawn");
        free(q);
    }
    s->last = link;
    if (s->job == NULL || s->job->dotted || !cluster_withdrawn(s->job->a))
        return;
    job_release(s, "withdrawn");
    slot_close(s);
    slot_next(s);
}

void slots_withdraw(struct sim_worker *w)
{
    each_slot(w, withdraw);
}

static void drain_slot(struct slot *s)
{
    release_queued(s, "shutdown");
    if (s->job != NULL && s->phase > PHASE_IDLE)
        return;
    if (s->job != NULL)
        job_release(s, "shutdown");
    slot_close(s);
    slot_next(s);
}

void slots_drain(struct sim_worker *w)
{
    each_slot(w, drain_slot);
}

static void close_slot(struct slot *s)
{
    release_queued(s, "shutdown");
    if (s->job != NULL && s->job->dotted) {
        struct attempt_log *l = message_attempt(s->job->m, s->job->a->delivery, s->job->a->attempt);
        if (l != NULL)
            l->reply_lost = true;
        job_fail(s->job, false);
        job_finish(s);
    } else if (s->job != NULL) {
        job_release(s, "shutdown");
    }
    slot_close(s);
    slot_next(s);
}

void slots_close(struct sim_worker *w)
{
    each_slot(w, close_slot);
}
