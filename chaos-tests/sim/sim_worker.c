/* What node/ does above cluster.h, without SMTP: slots, attempts, notices, drain and close as delivery*.c does them.
 *
 * Happy path of an attempt: on_attempt -> its slot's queue -> slot_next -> connect -> may we? -> MAIL, RCPTs -> the
 * body, piece by piece -> may we still? -> journal -> dot -> reply -> outcome (with a DSN's enqueue, if one is owed) ->
 * slot_next ... -> idle -> closed -> the core is told. What comes from outside (answers, replies) finds its slot by
 * number: slots end. */
#include "chaos-tests/sim/sim_world.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MAILBOX_CAPACITY = 65536, BEAT_MS = 500, GRANT_MS = 1000, COMMAND_MS = 8000, DATA_MS = 12000 };
enum { RCPT_TAKEN = 200 }; /* the recipient, not yet the message */

enum phase { PHASE_NONE, PHASE_CONNECT, PHASE_IDLE, PHASE_RCPT, PHASE_BODY, PHASE_DOT };

struct queued {
    struct queued *next;
    struct attempt *a;
    uint64_t at_ns;
};
struct job {
    struct attempt *a;
    struct message *m;
    uint32_t places[WORLD_MAX_RECIPIENTS]; /* recipients of the message, as the attempt lists them */
    int codes[WORLD_MAX_RECIPIENTS];       /* 0: not decided */
    unsigned n;
    bool unreached, avoid_node, dotted;
    uint32_t piece;
    uint64_t length;
    XXH3_state_t *hash;
};
struct slot {
    struct slot *next;
    struct sim_worker *w;
    uint64_t name; /* for what comes back from outside */
    char next_hop[64];
    unsigned hop;
    uint32_t number;
    uint64_t given, serial;
    struct queued *first, **last;
    struct job *job;
    enum phase phase;
    struct hop_connection *connection;
    uv_timer_t timer;
    unsigned reads;
    bool quit, gone;
};

static void slot_next(struct slot *s);
static void job_finish(struct slot *s);

bool sim_worker_lives(const struct sim_worker *w)
{
    return !w->closed && sim_node_alive(w->node) && sim_node_life(w->node) == w->life;
}

/* ---- posts that find their slot again ---- */

struct post {
    struct sim_worker *w;
    uint64_t slot, serial;
    void (*run)(struct slot *s, int code);
    int code;
};

static struct slot *slot_named(struct sim_worker *w, uint64_t name)
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

static void post_in(struct slot *s, uint64_t ns, void (*run)(struct slot *s, int code), int code)
{
    struct post *p = mr_malloc(sizeof(*p));

    *p = (struct post){.w = s->w, .slot = s->name, .serial = s->serial, .run = run, .code = code};
    sim_loop_post(&s->w->loop, sim_now() + ns, run_post, p);
}

/* ---- slots ---- */

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

static void slot_close(struct slot *s)
{
    uv_timer_stop(&s->timer);
    if (s->connection != NULL)
        hop_close(s->connection);
    s->connection = NULL;
    s->serial = ++s->w->serials; /* what is on its way belongs to what was */
    s->phase = PHASE_NONE;
    s->quit = false;
}

static void set_timer(struct slot *s, uint64_t ms)
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

static bool may_send(struct sim_worker *w, const struct attempt *a)
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
    if (!may_send(w, a))
        return "no lease";
    if (w->rules != NULL && route_limit(w->rules->rules, s->next_hop)->rate > 0 &&
        mr_boot_ns(&mr_clock_real) - at_ns > GRANT_MS * MR_NS_PER_MS)
        return "grant unused";
    return NULL;
}

/* ---- jobs ---- */

static struct job *job_new(struct attempt *a)
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

static void job_release(struct slot *s, const char *reason)
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

static void job_fail(struct job *j, bool unreached)
{
    j->unreached = j->avoid_node = unreached;
    decide_rest(j, 450);
}

/* The connection is gone in the middle. */
static void slot_lost(struct slot *s)
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

static void job_finish(struct slot *s)
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
    struct ending_job *e = mr_malloc(sizeof(*e));
    *e = (struct ending_job){w, j, o};
    sim_dsn_make(w, j->m, told, n, true, on_dsn, e);
}

/* ---- a transaction ---- */

static void on_reply(struct slot *s, int code)
{
    struct job *j = s->job;

    if (code == 0) {
        slot_lost(s);
        return;
    }
    for (unsigned i = 0; i < j->n; i++)
        if (j->codes[i] == RCPT_TAKEN)
            j->codes[i] = code;
    uv_timer_stop(&s->timer);
    s->phase = PHASE_IDLE;
    bool quit = s->quit;
    job_finish(s);
    if (quit)
        slot_close(s);
    slot_next(s);
}

static void on_dot_reply(struct sim_worker *w, uint64_t slot, uint64_t serial, int code)
{
    struct slot *s = slot_named(w, slot);

    if (s != NULL && s->serial == serial && s->job != NULL && s->phase == PHASE_DOT)
        on_reply(s, code);
}

/* The body has left for the network: right before its dot. */
static void write_dot(struct slot *s, int code)
{
    struct job *j = s->job;
    struct dot d = {.connection = s->connection,
                    .message = j->m,
                    .delivery = j->a->delivery,
                    .attempt = j->a->attempt,
                    .length = j->length,
                    .worker = s->w,
                    .slot = s->name,
                    .serial = s->serial};
    XXH128_canonical_t checksum;

    (void)code;
    if (!may_send(s->w, j->a)) {
        job_release(s, "lease ended before the final dot");
        slot_close(s);
        slot_next(s);
        return;
    }
    XXH128_canonicalFromHash(&checksum, XXH3_128bits_digest(j->hash));
    memcpy(d.checksum, checksum.digest, sizeof(d.checksum));
    for (unsigned i = 0; i < j->n; i++)
        if (j->codes[i] == RCPT_TAKEN)
            d.recipients[d.n++] = j->places[i];
    struct attempt_log *l = message_attempt(j->m, j->a->delivery, j->a->attempt);
    if (l != NULL)
        l->dot_ns = sim_now();
    cluster_dot(s->w->port, j->a);
    j->dotted = true;
    s->phase = PHASE_DOT;
    sim_trace("dot", d.attempt);
    hop_dot(&d, on_dot_reply);
    set_timer(s, DATA_MS);
}

struct piece_read {
    struct sim_worker *w;
    struct slot *slot; /* lives while reads > 0 */
    uint64_t serial;
};

static void on_piece(void *arg, int status, uint8_t *data, size_t len, bool last);

/* What came along with the attempt is used half the time only: copies on the disk want to be read too. */
static void read_piece(struct slot *s)
{
    struct job *j = s->job;
    struct piece_read *r = mr_malloc(sizeof(*r));

    *r = (struct piece_read){s->w, s, s->serial};
    s->reads++;
    if (j->piece == 0 && j->a->body != NULL && sim_chance(SIM_LOAD, 0.5))
        on_piece(r, 0, mr_memdup(j->a->body, j->a->body_len), j->a->body_len, true);
    else
        cluster_body_read(s->w->port, j->a->id, j->piece++, on_piece, r);
}

static void on_piece(void *arg, int status, uint8_t *data, size_t len, bool last)
{
    struct piece_read *r = arg;
    struct slot *s = r->slot;
    bool current = s->job != NULL && s->serial == r->serial;

    free(r);
    s->reads--;
    if (!current) {
        free(data);
        slot_next(s); /* it may have waited for this only */
        return;
    }
    struct job *j = s->job;
    if (status != 0) { /* held, or fetched elsewhere the next time */
        sim_trace("body-unreadable", (uint64_t)-status);
        job_fail(j, false);
        slot_close(s);
        job_finish(s);
        slot_next(s);
        return;
    }
    XXH3_128bits_update(j->hash, data, len);
    j->length += len;
    free(data);
    uint64_t wire_ns = (uint64_t)len * 8; /* 1 Gbit/s */
    if (last) {
        post_in(s, wire_ns + sim_between(SIM_LOAD, 10000, 200000), write_dot, 0);
        return;
    }
    read_piece(s);
}

static void on_answers(struct slot *s, int code)
{
    struct job *j = s->job;
    struct hop_answer answer;
    bool any = false;

    (void)code;
    if (!hop_answers(s->connection, j->m, j->places, j->n, &answer)) {
        slot_lost(s);
        return;
    }
    for (unsigned i = 0; i < j->n; i++) {
        j->codes[i] = answer.codes[i] / 100 == 2 ? RCPT_TAKEN : answer.codes[i];
        any = any || j->codes[i] == RCPT_TAKEN;
    }
    if (!any) {
        uv_timer_stop(&s->timer);
        s->phase = PHASE_IDLE;
        job_finish(s);
        slot_next(s);
        return;
    }
    s->phase = PHASE_BODY;
    set_timer(s, DATA_MS);
    j->hash = XXH3_createState();
    XXH3_128bits_reset(j->hash);
    read_piece(s);
}

static void transaction_begin(struct slot *s)
{
    struct job *j = s->job;

    s->serial = ++s->w->serials;
    s->quit = false;
    if (!may_send(s->w, j->a)) {
        job_release(s, "lease ended");
        s->phase = PHASE_IDLE;
        slot_next(s);
        return;
    }
    hops_started_attempt(j->m, j->a->delivery, j->a->attempt);
    s->phase = PHASE_RCPT;
    set_timer(s, COMMAND_MS);
    post_in(s, 2 * hop_latency(s->hop), on_answers, 0);
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
    post_in(s, ns, s->connection != NULL ? on_connected : on_unreached, 0);
}

static void slot_next(struct slot *s)
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
            set_timer(s, sim_between(SIM_LOAD, 100, 3000)); /* an idle connection is kept so long */
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

/* ---- from the core ---- */

static void on_attempt(void *arg, struct attempt *a)
{
    struct sim_worker *w = arg;

    if (w->detaching) {
        cluster_release(w->port, a, "shutdown");
        cluster_slot_closed(w->port, a->next_hop, a->slot, 1);
        attempt_free(a);
        return;
    }
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

struct telling {
    struct sim_worker *w;
    struct notice *notice;
};

static void notice_ended(struct sim_worker *w, struct notice *n)
{
    notice_free(n);
    mr_assert(w->running > 0);
    w->running--;
    sim_worker_ended(w);
}

static void on_notice_dsn(void *arg, int status, Mailraft__Enqueue *dsn)
{
    struct telling *t = arg;

    if (status == 0)
        cluster_notice_done(t->w->port, t->notice, dsn, NULL, NULL);
    else
        cluster_notice_failed(t->w->port, t->notice);
    notice_ended(t->w, t->notice);
    free(t);
}

static void on_notice(void *arg, struct notice *n)
{
    struct sim_worker *w = arg;
    bool expired = n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE;
    enum { FAILURE = 4, DELAY = 8 };
    uint32_t told[WORLD_MAX_RECIPIENTS];
    unsigned count = 0;
    struct message *m = message_find(n->id);

    if (w->detaching) {
        cluster_notice_failed(w->port, n);
        notice_free(n);
        return;
    }
    w->running++;
    if (w->draining || w->closing) {
        cluster_notice_failed(w->port, n);
        notice_ended(w, n);
        return;
    }
    if (m == NULL || n->n_recipients > m->n_recipients)
        sim_violation(2, "a notice of a message that nobody submitted");
    for (uint32_t i = 0; i < n->n_recipients; i++) {
        uint32_t notify = n->recipients[i].notify;
        if (notify == 0 || (notify & (expired ? FAILURE : DELAY)))
            told[count++] = n->recipients[i].index;
    }
    if (count == 0 || n->reverse_path[0] == 0) {
        cluster_notice_done(w->port, n, NULL, NULL, NULL);
        notice_ended(w, n);
        return;
    }
    struct telling *t = mr_malloc(sizeof(*t));
    *t = (struct telling){w, n};
    sim_dsn_make(w, m, told, count, expired, on_notice_dsn, t);
}

static void on_rules(void *arg, struct cluster_rules *rules)
{
    struct sim_worker *w = arg;

    cluster_rules_unref(w->rules);
    w->rules = rules;
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

static void on_lease_ended(void *arg)
{
    sim_trace("lease-ended", 0);
    each_slot(arg, end_lease);
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

static void on_drain(void *arg)
{
    struct sim_worker *w = arg;

    if (w->draining)
        return;
    w->draining = true;
    each_slot(w, drain_slot);
}

/* ---- life ---- */

static void on_beat(uv_timer_t *timer)
{
    struct sim_worker *w = timer->data;

    cluster_worker_beat(w->port);
}

struct sim_worker *sim_worker_open(unsigned node, unsigned number, struct cluster *c)
{
    struct sim_worker *w = mr_calloc(1, sizeof(*w));

    w->node = node;
    w->number = number;
    w->life = sim_node_life(node);
    w->cluster = c;
    mr_assert(uv_loop_init(&w->loop) == 0);
    mr_assert(mailbox_open(&w->mailbox, &w->loop, MAILBOX_CAPACITY) == 0);
    uv_timer_init(&w->loop, &w->beat);
    w->beat.data = w;
    struct cluster_worker door = {.arg = w,
                                  .mailbox = w->mailbox,
                                  .loop = &w->loop,
                                  .attempt = on_attempt,
                                  .notice = on_notice,
                                  .rules = on_rules,
                                  .lease_ended = on_lease_ended,
                                  .drain = on_drain};
    w->port = cluster_attach(c, &door);
    return w;
}

static void run_worker(void *arg)
{
    struct sim_worker *w = arg;

    uv_timer_start(&w->beat, on_beat, 0, BEAT_MS);
    uv_run(&w->loop, UV_RUN_DEFAULT);
}

void sim_worker_start(struct sim_worker *w)
{
    mr_assert(uv_thread_create(&w->thread, run_worker, w) == 0);
}

static void mailbox_closed(void *arg)
{
    struct sim_worker *w = arg;

    w->closed = true;
    uv_close((uv_handle_t *)&w->beat, NULL);
}

static void detached(void *arg)
{
    struct sim_worker *w = arg;

    mailbox_close(w->mailbox, mailbox_closed, w);
}

void sim_worker_ended(struct sim_worker *w)
{
    if (!w->closing || w->detaching || w->sessions > 0 || w->running > 0 || w->n_slots > 0)
        return;
    w->detaching = true;
    cluster_detach(w->port, detached, w);
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

struct stop {
    struct mail mail;
    struct sim_worker *worker;
};

static void run_stop(struct mail *mail)
{
    struct stop *stop = MR_CONTAINER(mail, struct stop, mail);
    struct sim_worker *w = stop->worker;

    free(stop);
    w->closing = true;
    each_slot(w, close_slot);
    sim_worker_ended(w);
}

void sim_worker_stop(struct sim_worker *w)
{
    struct stop *stop = mr_calloc(1, sizeof(*stop));

    stop->worker = w;
    stop->mail.run = run_stop;
    mailbox_post(w->mailbox, &stop->mail);
}

void sim_worker_join(struct sim_worker *w)
{
    uv_thread_join(&w->thread);
    cluster_rules_unref(w->rules);
    if (uv_loop_close(&w->loop) != 0)
        mr_panic("worker %u's loop has handles left", w->number);
}
