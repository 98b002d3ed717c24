/* sched_budget.c - when a site or a next hop may be tried: rates, back-off, avoidance (PROTOCOL.md 6.2, 6.4, 6.5).
 *
 * A next hop goes from free to failing at the first attempt that does not reach it; then one probe at a time, further
 * and further apart; the first attempt that reaches it opens a window of 2, which each further one doubles until it is
 * none. */
#include "cluster/sched_internal.h"
#include "proto/base/memory.h"

/* Seconds of the rate that a site may save up. */
static const double burst_s = 0.05;

static double site_burst(const struct site *s)
{
    double burst = s->rate * burst_s;

    return burst > 1.0 ? burst : 1.0;
}

static void site_refill(const struct sched *d, struct site *s)
{
    double burst = site_burst(s);

    if (d->now_ns > s->tokens_ns) {
        s->tokens += s->rate * ((double)(d->now_ns - s->tokens_ns) / (double)MR_NS_PER_S);
        s->tokens_ns = d->now_ns;
    }
    if (s->tokens > burst)
        s->tokens = burst;
}

void sched_site_refresh(struct sched *d, struct site *s, const char *next_hop)
{
    if (s->rules == d->rules)
        return;
    const Mailraft__Rules *rules = state_rules(d->state);
    const Mailraft__Limit *limit = rules != NULL ? route_limit(rules, next_hop) : NULL;
    double rate = limit != NULL && limit->rate > 0 ? limit->rate : 0;
    bool fresh = s->rules == 0;

    s->rules = d->rules;
    s->connections = limit != NULL ? limit->connections : 0;
    if (rate > 0 && fresh) {
        /* As full as it would be had it stood here unused since the term began: nobody is dropped with less. */
        s->tokens = 0;
        s->tokens_ns = d->lead_ns;
    } else if (rate > 0 && !(s->rate > 0)) {
        s->tokens = -(double)s->inflight;
        s->tokens_ns = d->now_ns;
    } else if (rate > 0) {
        site_refill(d, s);
    }
    s->rate = rate;
    if (rate > 0)
        site_refill(d, s);
}

void sched_site_charge(struct sched *d, struct site *s, double tokens)
{
    if (!(s->rate > 0))
        return;
    site_refill(d, s);
    s->tokens -= tokens;
    site_refill(d, s);
}

bool sched_site_limited(const struct site *s)
{
    return s->connections > 0 || s->rate > 0;
}

static uint64_t since(const struct sched *d, uint64_t then_ns)
{
    return d->now_ns > then_ns ? d->now_ns - then_ns : 0;
}

static bool reached_by_other(const struct sched *d, const struct site *s, uint32_t node)
{
    for (unsigned i = 0; i < s->n_nodes; i++) {
        const struct site_node *other = &s->nodes[i];
        if (other->node != node && other->reached_ns != 0 &&
            since(d, other->reached_ns) <= SCHED_AVOID_SEEN_MS * MR_NS_PER_MS)
            return true;
    }
    return false;
}

void sched_site_result(struct sched *d, struct site *s, uint32_t node, bool unreached)
{
    struct site_node *n = sched_site_node_find(s, node);

    if (n == NULL) {
        s->nodes = mr_realloc(s->nodes, (s->n_nodes + 1) * sizeof(*s->nodes));
        n = &s->nodes[s->n_nodes++];
        *n = (struct site_node){.node = node};
    }
    if (since(d, n->last_ns) > SCHED_STATS_MS * MR_NS_PER_MS)
        n->run = 0;
    n->last_ns = d->now_ns;
    if (!unreached) {
        n->run = 0;
        n->avoid_until_ns = 0;
        n->reached_ns = d->now_ns;
        return;
    }
    if (n->run < UINT32_MAX)
        n->run++;
    if (n->run >= SCHED_AVOID_RUN && reached_by_other(d, s, node))
        n->avoid_until_ns = d->now_ns + SCHED_AVOID_MS * MR_NS_PER_MS;
}

bool sched_site_avoids(const struct sched *d, const struct site *s, uint32_t node)
{
    const struct site_node *n = sched_site_node_find(s, node);

    return n != NULL && n->avoid_until_ns > d->now_ns;
}

bool sched_site_quiet(const struct sched *d, const struct site *s)
{
    for (unsigned i = 0; i < s->n_nodes; i++) {
        const struct site_node *n = &s->nodes[i];
        uint64_t keep_ms = n->run >= SCHED_AVOID_RUN ? SCHED_STATS_MS : SCHED_AVOID_SEEN_MS;
        if (n->avoid_until_ns > d->now_ns || since(d, n->last_ns) <= keep_ms * MR_NS_PER_MS)
            return false;
    }
    double saved = s->tokens + s->rate * ((double)since(d, s->tokens_ns) / (double)MR_NS_PER_S);
    return !(s->rate > 0) || saved >= site_burst(s);
}

static void wake_at(uint64_t *wake_ns, uint64_t at_ns)
{
    if (at_ns < *wake_ns)
        *wake_ns = at_ns;
}

/* The site has no more to give to this next hop now. */
static bool site_blocked(struct sched *d, struct hop *h, uint64_t *wake_ns)
{
    struct site *s = h->site;

    if (sched_site_limited(s) && !d->gate_open)
        return true;
    if (s->connections > 0 && s->n_slots > s->connections)
        return true;
    if (s->starved != NULL && s->starved != h && s->starved_until_ns > d->now_ns &&
        h->n_slots > s->connections / s->n_hops) {
        wake_at(wake_ns, s->starved_until_ns);
        return true;
    }
    if (s->rate > 0) {
        site_refill(d, s);
        if (s->tokens < 1.0) {
            double wait = (1.0 - s->tokens) / s->rate * (double)MR_NS_PER_S;
            wake_at(wake_ns, d->now_ns + (wait < 1e15 ? (uint64_t)wait + 1 : (uint64_t)1e15));
            return true;
        }
    }
    return false;
}

bool sched_hop_blocked(struct sched *d, struct hop *h, uint64_t *wake_ns)
{
    sched_site_refresh(d, h->site, h->name);
    if (d->grants.n - d->n_notices >= SCHED_MAX_GRANTS)
        return true;
    if (h->failing && h->probing)
        return true;
    if (h->failing && h->backoff_until_ns > d->now_ns) {
        wake_at(wake_ns, h->backoff_until_ns);
        return true;
    }
    if (h->window > 0 && h->inflight >= h->window)
        return true;
    return site_blocked(d, h, wake_ns);
}

void sched_hop_granted(struct sched *d, struct hop *h, const struct slot *s)
{
    sched_site_charge(d, h->site, 1.0);
    if (h->site->starved == h)
        h->site->starved = NULL;
    if (!h->failing)
        return;
    h->probing = true;
    h->probe_counted = false;
    h->probe_node = s->lane->node;
    h->probe_slot = s->number;
    /* Should the probe end without a result (its node falls), the next one keeps the distance all the same. */
    h->backoff_until_ns = d->now_ns + h->backoff_ms * MR_NS_PER_MS;
}

void sched_hop_slot_ended(struct hop *h, uint32_t node, uint32_t slot)
{
    if (h->probing && h->probe_node == node && h->probe_slot == slot)
        h->probing = false;
}

void sched_hop_result(struct sched *d, struct hop *h, bool unreached, bool counts)
{
    if (!unreached && h->failing) {
        h->failing = h->probing = false;
        h->backoff_ms = h->backoff_until_ns = 0;
        h->window = 2;
    } else if (!unreached && h->window > 0) {
        h->window = h->window * 2 < SCHED_WINDOW_MAX ? h->window * 2 : 0;
    } else if (unreached && counts && !h->failing) {
        h->failing = true;
        h->probing = false;
        h->probe_counted = true; /* what was under way with this attempt says nothing new */
        h->window = 0;
        h->backoff_ms = SCHED_BACKOFF_MIN_MS;
        h->backoff_until_ns = d->now_ns + h->backoff_ms * MR_NS_PER_MS;
    } else if (unreached && counts && !h->probe_counted) {
        h->probe_counted = true;
        h->backoff_ms = h->backoff_ms * 2 < SCHED_BACKOFF_MAX_MS ? h->backoff_ms * 2 : SCHED_BACKOFF_MAX_MS;
        h->backoff_until_ns = d->now_ns + h->backoff_ms * MR_NS_PER_MS;
    }
}
