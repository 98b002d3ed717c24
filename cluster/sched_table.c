/* sched_table.c - sites, next hops, slots, grants: making, finding, counting, dropping (see sched_internal.h).
 *
 * Sizes: next hops are those of the state that were looked at, and those that nodes hold connections to; both go when
 * nothing is known of them any more (sched_sweep). Slots of a lane: SCHED_SLOT_NUMBERS. Grants: SCHED_MAX_GRANTS. */
#include "cluster/sched_internal.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { TABLE_FIRST = 64, LANE_FIRST = 8 };

void sched_table_init(struct table *t)
{
    t->buckets = mr_calloc(TABLE_FIRST, sizeof(*t->buckets));
    t->mask = TABLE_FIRST - 1;
    t->n = 0;
}

void sched_table_free(struct table *t)
{
    free(t->buckets);
    memset(t, 0, sizeof(*t));
}

static void table_grow(struct table *t)
{
    size_t size = (t->mask + 1) * 2;
    struct table_link **buckets = mr_calloc(size, sizeof(*buckets));

    for (size_t i = 0; i <= t->mask; i++) {
        struct table_link *l = t->buckets[i];
        while (l != NULL) {
            struct table_link *next = l->next;
            l->next = buckets[l->hash & (size - 1)];
            buckets[l->hash & (size - 1)] = l;
            l = next;
        }
    }
    free(t->buckets);
    t->buckets = buckets;
    t->mask = size - 1;
}

void sched_table_add(struct table *t, struct table_link *l, uint64_t hash)
{
    if (t->n > t->mask)
        table_grow(t);
    l->hash = hash;
    l->next = t->buckets[hash & t->mask];
    t->buckets[hash & t->mask] = l;
    t->n++;
}

void sched_table_remove(struct table *t, struct table_link *l)
{
    struct table_link **at = &t->buckets[l->hash & t->mask];

    while (*at != l) {
        mr_assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = l->next;
    t->n--;
}

struct table_link *sched_table_chain(const struct table *t, uint64_t hash)
{
    return t->buckets[hash & t->mask];
}

static uint64_t name_hash(const struct sched *d, const char *name)
{
    return XXH3_64bits_withSeed(name, strlen(name), d->seed);
}

/* Sites */

static struct site *site_get(struct sched *d, const char *next_hop)
{
    char name[ROUTE_MAX];
    size_t len = strlen(route_site(next_hop, name));
    uint64_t hash = name_hash(d, name);

    for (struct table_link *l = sched_table_chain(&d->sites, hash); l != NULL; l = l->next) {
        struct site *s = (struct site *)l;
        if (l->hash == hash && strcmp(s->name, name) == 0)
            return s;
    }
    struct site *s = mr_calloc(1, sizeof(*s) + len + 1);
    memcpy(s->name, name, len + 1);
    sched_table_add(&d->sites, &s->link, hash);
    return s;
}

static void site_drop(struct sched *d, struct site *s)
{
    sched_table_remove(&d->sites, &s->link);
    free(s->nodes);
    free(s);
}

struct site_node *sched_site_node_find(const struct site *s, uint32_t node)
{
    for (unsigned i = 0; i < s->n_nodes; i++)
        if (s->nodes[i].node == node)
            return &s->nodes[i];
    return NULL;
}

/* Next hops */

struct hop *sched_hop_find(const struct sched *d, const char *name)
{
    uint64_t hash = name_hash(d, name);

    for (struct table_link *l = sched_table_chain(&d->hops, hash); l != NULL; l = l->next) {
        struct hop *h = (struct hop *)l;
        if (l->hash == hash && strcmp(h->name, name) == 0)
            return h;
    }
    return NULL;
}

struct hop *sched_hop_get(struct sched *d, const char *name)
{
    struct hop *h = sched_hop_find(d, name);
    if (h != NULL)
        return h;
    size_t len = strlen(name);
    h = mr_calloc(1, sizeof(*h) + len + 1);
    memcpy(h->name, name, len + 1);
    h->site = site_get(d, name);
    h->site->n_hops++;
    sched_table_add(&d->hops, &h->link, name_hash(d, name));
    if (d->sweep == NULL) {
        h->prev = h->next = h;
        d->sweep = h;
    } else {
        h->next = d->sweep;
        h->prev = d->sweep->prev;
        h->prev->next = h;
        h->next->prev = h;
    }
    return h;
}

/* Lanes without slots. */
static void hop_drop_lanes(struct hop *h)
{
    struct lane **at = &h->lanes;

    while (*at != NULL) {
        struct lane *l = *at;
        if (l->n_slots > 0) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        free(l->by_number);
        free(l);
    }
}

static void hop_drop(struct sched *d, struct hop *h)
{
    mr_assert(h->n_slots == 0);
    hop_drop_lanes(h);
    if (d->sweep == h)
        d->sweep = h->next != h ? h->next : NULL;
    h->prev->next = h->next;
    h->next->prev = h->prev;
    if (h->site->starved == h)
        h->site->starved = NULL;
    if (--h->site->n_hops == 0)
        site_drop(d, h->site);
    sched_table_remove(&d->hops, &h->link);
    free(h);
}

/* Is there anything about it that a new one would not know? */
static bool hop_idle(const struct sched *d, const struct hop *h)
{
    if (h->n_slots > 0 || h->inflight > 0 || h->proposed > 0)
        return false;
    const struct state_next_hop *in_state = state_next_hop_find(d->state, h->name);
    if (in_state != NULL) {
        struct next_hop_view view;
        state_next_hop_view(in_state, &view);
        if (view.ready > 0 || view.assigned > 0)
            return false;
    }
    /* With nothing left to try, the back-off still holds for what is enqueued next, for as long again. */
    if (h->failing && d->now_ns < h->backoff_until_ns + h->backoff_ms * MR_NS_PER_MS)
        return false;
    return h->site->n_hops > 1 || sched_site_quiet(d, h->site);
}

void sched_sweep(struct sched *d)
{
    for (unsigned i = 0; i < SCHED_SWEEP && d->sweep != NULL; i++) {
        struct hop *h = d->sweep;
        d->sweep = h->next;
        hop_drop_lanes(h);
        if (hop_idle(d, h))
            hop_drop(d, h);
    }
}

/* Slots */

struct lane *sched_lane_find(const struct hop *h, uint32_t node)
{
    struct lane *l = h->lanes;

    while (l != NULL && l->node != node)
        l = l->next;
    return l;
}

static struct lane *lane_get(struct hop *h, uint32_t node)
{
    struct lane *l = sched_lane_find(h, node);

    if (l == NULL) {
        l = mr_calloc(1, sizeof(*l));
        l->hop = h;
        l->node = node;
        l->free_hint = 1;
        l->next = h->lanes;
        h->lanes = l;
    }
    return l;
}

struct slot *sched_slot_find(const struct hop *h, uint32_t node, uint32_t number)
{
    struct lane *l = sched_lane_find(h, node);

    return l != NULL && number < l->numbers ? l->by_number[number] : NULL;
}

static void lane_numbers(struct lane *l, uint32_t number)
{
    uint32_t size = l->numbers > 0 ? l->numbers : LANE_FIRST;

    if (number < l->numbers)
        return;
    while (size <= number)
        size *= 2;
    l->by_number = mr_realloc(l->by_number, size * sizeof(*l->by_number));
    memset(l->by_number + l->numbers, 0, (size - l->numbers) * sizeof(*l->by_number));
    l->numbers = size;
}

static uint32_t lane_free_number(struct lane *l)
{
    while (l->free_hint < l->numbers && l->by_number[l->free_hint] != NULL)
        l->free_hint++;
    return l->free_hint;
}

struct slot *sched_slot_get(struct sched *d, struct hop *h, uint32_t node, uint32_t number)
{
    struct lane *l = lane_get(h, node);

    if (number == 0)
        number = lane_free_number(l);
    if (number >= SCHED_SLOT_NUMBERS)
        return NULL;
    lane_numbers(l, number);
    if (l->by_number[number] != NULL)
        return l->by_number[number];
    struct slot *s = mr_calloc(1, sizeof(*s));
    s->lane = l;
    s->number = number;
    s->list = SLOT_NOWHERE;
    s->node_next = d->nodes[node].slots;
    if (s->node_next != NULL)
        s->node_next->node_prev = s;
    d->nodes[node].slots = s;
    l->by_number[number] = s;
    l->n_slots++;
    h->n_slots++;
    h->site->n_slots++;
    sched_slot_place(s);
    return s;
}

static void slot_unlist(struct slot *s)
{
    if (s->list == SLOT_NOWHERE)
        return;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        s->lane->lists[s->list] = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    if (s->list == SLOT_IDLE)
        s->lane->hop->n_idle--;
    s->list = SLOT_NOWHERE;
    s->prev = s->next = NULL;
}

void sched_slot_place(struct slot *s)
{
    uint32_t load = s->assigned + s->granted;
    uint32_t list = s->open ? SLOT_IDLE : SLOT_QUIET;

    if (load > 0 && s->busy)
        list = SLOT_BUSY;
    else if (load > 0)
        list = SLOT_LOADED + (load < SCHED_MAX_DEPTH ? load : SCHED_MAX_DEPTH) - 1;
    if (s->void_)
        list = SLOT_NOWHERE;
    if (list == s->list)
        return;
    slot_unlist(s);
    if (list == SLOT_NOWHERE)
        return;
    s->list = (uint8_t)list;
    s->next = s->lane->lists[list];
    if (s->next != NULL)
        s->next->prev = s;
    s->lane->lists[list] = s;
    if (list == SLOT_IDLE)
        s->lane->hop->n_idle++;
}

static bool lasts(const struct sched *d, const struct slot *s)
{
    return d->now_ns > s->since_ns && d->now_ns - s->since_ns >= SCHED_BUSY_MS * MR_NS_PER_MS;
}

void sched_slot_outcome(struct sched *d, struct slot *s)
{
    s->busy = lasts(d, s);
    s->since_ns = d->now_ns;
    sched_slot_place(s);
}

struct slot *sched_slot_quick(const struct sched *d, struct lane *l, enum slot_list list)
{
    while (l->lists[list] != NULL && lasts(d, l->lists[list])) {
        l->lists[list]->busy = true;
        sched_slot_place(l->lists[list]);
    }
    return l->lists[list];
}

void sched_slot_count(struct sched *d, struct slot *s, int assigned, int granted)
{
    struct hop *h = s->lane->hop;
    uint32_t more = (uint32_t)(assigned + granted); /* wraps below 0, as do the sums */

    mr_assert((int64_t)s->assigned + assigned >= 0 && (int64_t)s->granted + granted >= 0);
    if (s->assigned + s->granted == 0)
        s->since_ns = d->now_ns;
    s->assigned += (uint32_t)assigned;
    s->granted += (uint32_t)granted;
    s->lane->inflight += more;
    h->inflight += more;
    h->site->inflight += more;
    if (!s->void_)
        d->nodes[s->lane->node].load += more;
    sched_slot_place(s);
}

static void slot_drop(struct sched *d, struct slot *s)
{
    struct lane *l = s->lane;
    struct node *n = &d->nodes[l->node];

    mr_assert(s->assigned == 0 && s->granted == 0);
    slot_unlist(s);
    if (s->node_prev != NULL)
        s->node_prev->node_next = s->node_next;
    else
        n->slots = s->node_next;
    if (s->node_next != NULL)
        s->node_next->node_prev = s->node_prev;
    l->by_number[s->number] = NULL;
    if (s->number < l->free_hint)
        l->free_hint = s->number;
    l->n_slots--;
    l->hop->n_slots--;
    l->hop->site->n_slots--;
    d->changed = true;
    free(s);
}

void sched_slot_release(struct sched *d, struct slot *s)
{
    if (s->assigned > 0 || s->granted > 0)
        return;
    /* Void: its node has fallen since. Not known: the node never heard of it. */
    if (s->void_ || !s->known)
        slot_drop(d, s);
    else if (!s->open && d->nodes[s->lane->node].applied >= s->unassigned_index)
        slot_drop(d, s);
}

void sched_node_drop_slots(struct sched *d, struct node *n)
{
    struct slot *next;

    for (struct slot *s = n->slots; s != NULL; s = next) {
        next = s->node_next;
        sched_hop_slot_ended(s->lane->hop, n->id, s->number);
        sched_slot_count(d, s, -(int)s->assigned, 0);
        if (!s->void_)
            n->load -= s->granted;
        s->void_ = true;
        s->open = false;
        sched_slot_place(s);
        sched_slot_release(d, s);
    }
    n->granted = n->notices = 0;
    n->unseen_n = n->unseen_head = 0;
    n->unseen_sum = 0;
}

/* Assignments that a node may not know yet */

void sched_node_unseen_add(struct node *n, uint64_t index)
{
    n->unseen_sum++;
    if (n->unseen_n > 0) {
        size_t last = (n->unseen_head + n->unseen_n - 1) % n->unseen_cap;
        if (n->unseen[last].index >= index) {
            n->unseen[last].count++;
            return;
        }
    }
    if (n->unseen_n == n->unseen_cap) {
        size_t cap = n->unseen_cap > 0 ? n->unseen_cap * 2 : 16;
        void *copy = mr_malloc(cap * sizeof(*n->unseen));
        for (size_t i = 0; i < n->unseen_n; i++)
            memcpy((char *)copy + i * sizeof(*n->unseen), &n->unseen[(n->unseen_head + i) % n->unseen_cap],
                   sizeof(*n->unseen));
        free(n->unseen);
        n->unseen = copy;
        n->unseen_cap = cap;
        n->unseen_head = 0;
    }
    size_t at = (n->unseen_head + n->unseen_n++) % n->unseen_cap;
    n->unseen[at].index = index;
    n->unseen[at].count = 1;
}

void sched_node_unseen_applied(struct node *n, uint64_t applied)
{
    while (n->unseen_n > 0 && n->unseen[n->unseen_head].index <= applied) {
        n->unseen_sum -= n->unseen[n->unseen_head].count;
        n->unseen_head = (n->unseen_head + 1) % n->unseen_cap;
        n->unseen_n--;
    }
}

/* Grants */

static uint64_t grant_hash(struct mr_id id, uint32_t delivery)
{
    return mr_id_hash(id) ^ (delivery * 0x9E3779B97F4A7C15ULL);
}

struct grant *sched_grant_find(const struct sched *d, struct mr_id id, uint32_t delivery)
{
    uint64_t hash = grant_hash(id, delivery);

    for (struct table_link *l = sched_table_chain(&d->grants, hash); l != NULL; l = l->next) {
        struct grant *g = (struct grant *)l;
        if (l->hash == hash && g->delivery == delivery && mr_id_equal(g->id, id))
            return g;
    }
    return NULL;
}

struct grant *sched_grant_add(struct sched *d, struct mr_id id, uint32_t delivery, struct slot *slot, bool ready)
{
    struct grant *g = mr_calloc(1, sizeof(*g));

    g->id = id;
    g->delivery = delivery;
    g->slot = slot;
    g->ready = ready;
    sched_table_add(&d->grants, &g->link, grant_hash(id, delivery));
    g->incarnation = d->nodes[slot->lane->node].incarnation;
    d->nodes[slot->lane->node].granted++;
    slot->lane->hop->proposed += ready;
    sched_slot_count(d, slot, 0, 1);
    return g;
}

struct grant *sched_notice_add(struct sched *d, struct mr_id id, uint32_t attempt, uint32_t node, uint64_t since_ns)
{
    struct grant *g = mr_calloc(1, sizeof(*g));

    g->id = id;
    g->delivery = (uint32_t)SCHED_NOTICE;
    g->attempt = attempt;
    g->node = node;
    g->since_ns = since_ns;
    g->incarnation = d->nodes[node].incarnation;
    d->nodes[node].granted += since_ns == 0;
    d->nodes[node].notices++;
    sched_table_add(&d->grants, &g->link, grant_hash(id, g->delivery));
    g->next = d->notices;
    if (g->next != NULL)
        g->next->prev = g;
    d->notices = g;
    d->n_notices++;
    return g;
}

static void notice_remove(struct sched *d, struct grant *g)
{
    struct node *n = &d->nodes[g->node];

    if (g->prev != NULL)
        g->prev->next = g->next;
    else
        d->notices = g->next;
    if (g->next != NULL)
        g->next->prev = g->prev;
    d->n_notices--;
    if (g->incarnation != n->incarnation || n->notices == 0) /* it fell meanwhile */
        return;
    n->notices--;
    n->granted -= g->since_ns == 0;
}

void sched_grant_remove(struct sched *d, struct grant *g)
{
    struct slot *s = g->slot;

    sched_table_remove(&d->grants, &g->link);
    if (s == NULL) {
        notice_remove(d, g);
    } else {
        struct node *n = &d->nodes[s->lane->node];
        if (g->incarnation == n->incarnation && n->granted > 0 && !s->void_)
            n->granted--;
        s->lane->hop->proposed -= g->ready;
        sched_slot_count(d, s, 0, -1);
    }
    d->changed = true;
    free(g);
}

void sched_clear(struct sched *d)
{
    for (size_t i = 0; d->grants.n > 0; i++)
        while (d->grants.buckets[i] != NULL)
            sched_grant_remove(d, (struct grant *)d->grants.buckets[i]);
    for (uint32_t i = 0; i < SCHED_NODES; i++) {
        sched_node_drop_slots(d, &d->nodes[i]);
        free(d->nodes[i].unseen);
        memset(&d->nodes[i], 0, sizeof(d->nodes[i]));
        d->nodes[i].id = i;
    }
    while (d->sweep != NULL)
        hop_drop(d, d->sweep);
    mr_assert(d->hops.n == 0 && d->sites.n == 0 && d->grants.n == 0);
    d->cursor[0] = 0;
    d->gate_open = false;
    d->notice_turn = 0;
}
