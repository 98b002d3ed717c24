/* Slots and their queues.
 *
 * Happy path: delivery_attempt -> its slot's queue -> slot_next -> (connect) -> transaction -> job_finish -> slot_next
 * ... -> idle -> QUIT
 * -> slot_closed -> the core is told -> the slot is freed.
 * Failure of the connection as a whole: the attempt that met it gets the outcome; those queued behind it go back to the
 * leader, who backs off; so do those that wait behind one that lasts. Each second it is looked who has had his time.
 * Close: what runs is released, connections are reset; the resolver closes last. */
#include "node/delivery/delivery_internal.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct delivery_backend delivery_backend = {
    .may_send = cluster_may_send,
    .withdrawn = cluster_withdrawn,
    .dot = cluster_dot,
    .reply = cluster_reply,
    .outcome = cluster_outcome,
    .release = cluster_release,
    .remember = cluster_remember,
    .slot_closed = cluster_slot_closed,
    .body_read = cluster_body_read,
    .body_begin = cluster_body_begin,
    .body_piece = cluster_body_piece,
    .body_abort = cluster_body_abort,
    .body_finish = cluster_body_finish,
    .notice_done = cluster_notice_done,
    .notice_failed = cluster_notice_failed,
};

uint64_t delivery_random(struct delivery *d)
{
    d->random ^= d->random << 13;
    d->random ^= d->random >> 7;
    d->random ^= d->random << 17;
    return d->random;
}

/* ---- slots ---- */

static struct slot **bucket_of(struct delivery *d, const char *next_hop, uint32_t number)
{
    uint64_t h = 1469598103934665603ULL ^ number;
    for (const char *p = next_hop; *p != 0; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211ULL;
    return &d->slots[h % DELIVERY_BUCKETS];
}

static struct slot *slot_of(struct delivery *d, const char *next_hop, uint32_t number)
{
    struct slot **bucket = bucket_of(d, next_hop, number);
    for (struct slot *s = *bucket; s != NULL; s = s->next)
        if (s->number == number && strcmp(s->next_hop, next_hop) == 0)
            return s;
    struct slot *s = mr_calloc(1, sizeof(*s));
    s->d = d;
    (void)snprintf(s->next_hop, sizeof(s->next_hop), "%s", next_hop);
    mr_assert(next_hop_list_parse(s->next_hop, &s->hops) == 0);
    s->hop = s->hops.at[0];
    s->number = number;
    s->last = &s->first;
    s->phase = PHASE_NONE;
    s->next = *bucket;
    *bucket = s;
    d->n_slots++;
    uv_timer_init(&d->w->loop, &s->timer);
    s->timer.data = s;
    return s;
}

static void on_slot_gone(uv_handle_t *handle)
{
    struct slot *s = handle->data;
    struct delivery *d = s->d;
    free(s);
    d->n_slots--;
    delivery_ended(d);
}

/* Nothing to do, no connection: tell the core, which may then give the slot to another node. */
static void slot_free(struct slot *s)
{
    struct delivery *d = s->d;
    struct slot **link = bucket_of(d, s->next_hop, s->number);
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    delivery_backend.slot_closed(d->w->port, s->next_hop, s->number, s->given);
    uv_close((uv_handle_t *)&s->timer, on_slot_gone);
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

static void give_back(struct delivery *d, struct attempt *a, const char *reason)
{
    delivery_backend.release(d->w->port, a, reason);
    attempt_free(a);
    mr_assert(d->running > 0);
    d->running--;
}

void slot_release_queued(struct slot *s, const char *reason)
{
    uint64_t at;
    for (struct attempt *a; (a = dequeue(s, &at)) != NULL;)
        give_back(s->d, a, reason);
}

/* Why this attempt may not begin now; NULL: it may. */
static const char *hindrance(struct slot *s, const struct attempt *a, uint64_t at_ns)
{
    struct delivery *d = s->d;
    if (d->draining || d->closing)
        return "shutdown";
    if (mr_boot_ns(&mr_clock_real) >= a->deadline_ns)
        return "deadline passed";
    if (!delivery_backend.may_send(d->w->port, a))
        return "no lease";
    if (d->w->rules != NULL && route_limit(d->w->rules->rules, s->next_hop)->rate > 0 &&
        mr_boot_ns(&mr_clock_real) - at_ns > DELIVERY_GRANT_MS * MR_NS_PER_MS)
        return "grant unused";
    return NULL;
}

void slot_next(struct slot *s)
{
    struct delivery *d = s->d;
    struct attempt *a;
    uint64_t at_ns;

    if (s->job != NULL || s->phase == PHASE_QUIT || s->phase == PHASE_CLOSING || s->gone)
        return;
    while ((a = dequeue(s, &at_ns)) != NULL) {
        const char *why = hindrance(s, a, at_ns);
        if (why == NULL)
            break;
        give_back(d, a, why);
    }
    if (a == NULL) {
        if (s->phase == PHASE_IDLE)
            slot_idle(s);
        else if (s->phase == PHASE_NONE && s->reads == 0) {
            s->gone = true;
            slot_free(s);
        }
        return;
    }
    s->job = mr_calloc(1, sizeof(*s->job));
    s->job->a = a;
    s->job->given_ns = at_ns;
    s->busy_ns = mr_boot_ns(&mr_clock_real);
    s->job->results = mr_calloc(a->n_recipients, sizeof(*s->job->results));
    if (s->phase == PHASE_IDLE)
        slot_use(s);
    else if (s->phase == PHASE_NONE)
        slot_connect(s);
}

void slot_use(struct slot *s)
{
    if (slot_secure_enough(s) && !slot_by_helo(s)) {
        transaction_begin(s);
    } else { /* another one for this message: slot_closed goes on with it */
        slot_write(s, "QUIT\r\n", 6);
        slot_close(s, false);
    }
}

void slot_closed(struct slot *s)
{
    s->phase = PHASE_NONE;
    s->messages = 0;
    if (s->job != NULL) /* a cached connection had died: a new one for the same attempt */
        slot_connect(s);
    else
        slot_next(s);
}

/* ---- from the core ---- */

void delivery_attempt(struct delivery *d, struct attempt *a)
{
    struct slot *s = slot_of(d, a->next_hop, a->slot);
    struct queued *q = mr_calloc(1, sizeof(*q));

    mr_assert(a->n_recipients > 0);
    d->running++;
    s->given++;
    q->a = a;
    q->at_ns = mr_boot_ns(&mr_clock_real);
    *s->last = q;
    s->last = &q->next;
    slot_next(s);
}

void delivery_rules(struct delivery *d)
{
    (void)d; /* limits are looked up when they are needed */
}

/* Each slot, which the visitor may not free at once (uv_close comes between). */
static void each_slot(struct delivery *d, void (*visit)(struct slot *s))
{
    for (unsigned i = 0; i < DELIVERY_BUCKETS; i++) {
        for (struct slot *s = d->slots[i], *next; s != NULL; s = next) {
            next = s->next;
            visit(s);
        }
    }
}

/* ---- time ---- */

/* Those that wait behind an attempt that lasts: another slot may take them. The leader gives no slot anything ahead
 * whose attempts last, so they do not come back to this one. */
static void release_waiting(struct slot *s)
{
    uint64_t now = mr_boot_ns(&mr_clock_real), at_ns;
    while (s->first != NULL) {
        uint64_t since = s->first->at_ns > s->busy_ns ? s->first->at_ns : s->busy_ns;
        if (now - since < DELIVERY_BUSY_MS * MR_NS_PER_MS)
            return;
        give_back(s->d, dequeue(s, &at_ns), "slot busy");
    }
}

static void look_after(struct slot *s)
{
    if (slot_overdue(s))
        slot_give_up(s);
    else if (s->job != NULL)
        release_waiting(s);
}

static void on_tick(uv_timer_t *timer)
{
    each_slot(timer->data, look_after);
}

/* ---- leases, shutdown ---- */

static void end_lease(struct slot *s)
{
    slot_release_queued(s, "lease ended");
    if (s->job != NULL && s->job->dot_written) {
        s->quit = true; /* its reply decides; then the connection is no longer ours to keep */
        return;
    }
    if (s->job != NULL)
        job_release(s, "lease ended");
    if (s->phase == PHASE_NONE)
        slot_next(s);
    else
        slot_close(s, true);
}

void delivery_lease_ended(struct delivery *d)
{
    each_slot(d, end_lease);
}

static void release_withdrawn(struct slot *s)
{
    struct queued **link = &s->first;
    for (struct queued *q; (q = *link) != NULL;) {
        if (!delivery_backend.withdrawn(q->a)) {
            link = &q->next;
            continue;
        }
        *link = q->next;
        give_back(s->d, q->a, "withdrawn");
        free(q);
    }
    s->last = link;
}

/* Those behind it need a new connection, as after a lost one: DATA cannot be taken back otherwise. */
static void withdraw(struct slot *s)
{
    release_withdrawn(s);
    if (s->job == NULL || s->job->dot_written || !delivery_backend.withdrawn(s->job->a))
        return;
    job_release(s, "withdrawn");
    if (s->phase == PHASE_NONE)
        slot_next(s);
    else
        slot_close(s, true);
}

void delivery_withdrawn(struct delivery *d)
{
    each_slot(d, withdraw);
}

/* No command of its transaction was sent. */
static bool not_begun(const struct slot *s)
{
    return s->phase <= PHASE_SCAN || s->phase == PHASE_RSET || s->phase == PHASE_CLOSING;
}

static void drain_slot(struct slot *s)
{
    slot_release_queued(s, "shutdown");
    if (s->job != NULL && !not_begun(s))
        return;
    if (s->job != NULL)
        job_release(s, "shutdown");
    if (s->phase == PHASE_IDLE)
        slot_quit(s);
    else if (s->phase == PHASE_NONE)
        slot_next(s);
    else if (s->phase != PHASE_QUIT)
        slot_close(s, true);
}

void delivery_drain(struct delivery *d)
{
    d->draining = true;
    each_slot(d, drain_slot);
}

unsigned delivery_running(const struct delivery *d)
{
    return d->running;
}

/* ---- life ---- */

int delivery_open(struct delivery **out, struct worker *w)
{
    struct delivery *d = mr_calloc(1, sizeof(*d));
    struct mr_id seed = mr_id_random();
    const struct config *config = w->config;
    d->own = own_hosts_make(config);
    struct resolver_config resolver = {.loop = &w->loop,
                                       .servers = config->dns.servers,
                                       .n_servers = config->dns.n_servers,
                                       .timeout_ms = config->dns.timeout_ms,
                                       .tries = config->dns.tries,
                                       .mx_port = config->delivery.port,
                                       .own = d->own,
                                       .trust_ad = config->dns.trust_ad,
                                       .trust_ad_of_loopback = !config->dns.trust_ad_given};
    d->w = w;
    memcpy(&d->random, seed.bytes, sizeof(d->random));
    d->random |= 1;
    int rc = resolver_open(&d->resolver, &resolver);
    if (rc != 0) {
        own_hosts_free(d->own);
        free(d);
        return rc;
    }
    host_memory_open(&d->hosts);
    delivery_sources_open(d);
    rc = sts_open(&d->sts, w, d->resolver);
    mr_assert(rc == 0); /* no memory */
    uv_timer_init(&w->loop, &d->tick);
    d->tick.data = d;
    uv_timer_start(&d->tick, on_tick, DELIVERY_TICK_MS, DELIVERY_TICK_MS);
    *out = d;
    return 0;
}

static void on_resolver_closed(void *arg)
{
    struct delivery *d = arg;
    void (*cb)(void *) = d->close_cb;
    void *cb_arg = d->close_arg;
    delivery_tls_close(d);
    delivery_sources_close(d);
    host_memory_close(d->hosts);
    own_hosts_free(d->own);
    free(d);
    cb(cb_arg);
}

static void on_sts_closed(void *arg)
{
    struct delivery *d = arg;
    resolver_close(d->resolver, on_resolver_closed, d);
}

static void on_tick_closed(uv_handle_t *handle)
{
    struct delivery *d = handle->data;
    sts_close(d->sts, on_sts_closed, d);
}

void delivery_ended(struct delivery *d)
{
    if (!d->closing || d->n_slots > 0 || d->running > 0 || d->ended)
        return;
    d->ended = true;
    uv_close((uv_handle_t *)&d->tick, on_tick_closed);
}

static void close_slot(struct slot *s)
{
    slot_release_queued(s, "shutdown");
    if (s->job != NULL && s->job->dot_written) {
        job_fail(s, false, "4.4.2", false, "shutdown after the final dot, before its reply (possibly delivered)");
        job_tell_doubt(s);
        job_finish(s);
    } else if (s->job != NULL) {
        job_release(s, "shutdown");
    }
    if (s->phase == PHASE_NONE)
        slot_next(s);
    else
        slot_close(s, true);
}

void delivery_close(struct delivery *d, void (*cb)(void *arg), void *arg)
{
    d->closing = true;
    d->close_cb = cb;
    d->close_arg = arg;
    each_slot(d, close_slot);
    delivery_ended(d);
}
