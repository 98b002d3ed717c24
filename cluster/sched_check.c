/* sched_check.c - the invariants of sched_internal.h, counted anew. */
#include "cluster/sched_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

struct sums {
    uint32_t slots, inflight, idle;
};

static void check_slot(const struct sched *d, const struct slot *s, struct sums *sums)
{
    uint32_t load = s->assigned + s->granted;

    sums->slots++;
    sums->inflight += load;
    if (s->void_) {
        mr_assert(s->list == SLOT_NOWHERE && s->granted > 0 && s->assigned == 0);
        return;
    }
    mr_assert(s->list < SLOT_LISTS);
    if (load == 0)
        mr_assert(s->list == (s->open ? SLOT_IDLE : SLOT_QUIET));
    else if (s->busy)
        mr_assert(s->list == SLOT_BUSY);
    else
        mr_assert(s->list == SLOT_LOADED + (load < SCHED_MAX_DEPTH ? load : SCHED_MAX_DEPTH) - 1);
    sums->idle += s->list == SLOT_IDLE;
    bool listed = false;
    for (const struct slot *at = s->lane->lists[s->list]; at != NULL; at = at->next) {
        mr_assert(at->next == NULL || at->next->prev == at);
        listed = listed || at == s;
    }
    mr_assert(listed);
    bool of_node = false;
    for (const struct slot *at = d->nodes[s->lane->node].slots; at != NULL; at = at->node_next)
        of_node = of_node || at == s;
    mr_assert(of_node);
}

static void check_hop(const struct sched *d, const struct hop *h)
{
    struct sums hop = {0};

    for (const struct lane *l = h->lanes; l != NULL; l = l->next) {
        struct sums lane = {0};
        mr_assert(l->hop == h);
        for (uint32_t i = 0; i < l->numbers; i++) {
            if (l->by_number[i] == NULL) {
                mr_assert(i == 0 || i >= l->free_hint);
                continue;
            }
            mr_assert(l->by_number[i]->number == i && l->by_number[i]->lane == l);
            check_slot(d, l->by_number[i], &lane);
        }
        mr_assert(l->n_slots == lane.slots && l->inflight == lane.inflight);
        hop.slots += lane.slots;
        hop.inflight += lane.inflight;
        hop.idle += lane.idle;
    }
    mr_assert(h->n_slots == hop.slots && h->inflight == hop.inflight && h->n_idle == hop.idle);
}

static void check_notices(const struct sched *d)
{
    uint32_t notices[SCHED_NODES] = {0};
    size_t n = 0;

    for (const struct grant *g = d->notices; g != NULL; g = g->next, n++)
        notices[g->node] += g->incarnation == d->nodes[g->node].incarnation;
    mr_assert(n == d->n_notices);
    for (uint32_t i = 0; i < SCHED_NODES; i++)
        mr_assert(!d->nodes[i].up || notices[i] == d->nodes[i].notices);
}

static void check_grants(const struct sched *d)
{
    size_t notices = 0;

    for (size_t i = 0; i <= d->grants.mask; i++)
        for (const struct table_link *l = d->grants.buckets[i]; l != NULL; l = l->next) {
            const struct grant *g = (const struct grant *)l;
            if (g->slot == NULL) {
                notices++;
                continue;
            }
            /* I3: as many grants point to the slot as it counts. */
            uint32_t same = 0;
            for (size_t k = 0; k <= d->grants.mask; k++)
                for (const struct table_link *o = d->grants.buckets[k]; o != NULL; o = o->next)
                    same += ((const struct grant *)o)->slot == g->slot;
            mr_assert(same == g->slot->granted);
        }
    mr_assert(notices == d->n_notices);
}

void sched_check(const struct sched *d)
{
    const struct hop *h = d->sweep;
    size_t hops = 0;

    for (; h != NULL && (hops == 0 || h != d->sweep); h = h->next, hops++)
        check_hop(d, h);
    mr_assert(hops == d->hops.n);
    for (size_t i = 0; i <= d->sites.mask; i++)
        for (const struct table_link *l = d->sites.buckets[i]; l != NULL; l = l->next) {
            const struct site *s = (const struct site *)l;
            uint32_t slots = 0, inflight = 0, n = 0;
            for (h = d->sweep; h != NULL && (n == 0 || h != d->sweep); h = h->next, n++)
                if (h->site == s) {
                    slots += h->n_slots;
                    inflight += h->inflight;
                }
            mr_assert(s->n_slots == slots && s->inflight == inflight && s->n_hops > 0);
        }
    for (uint32_t i = 0; i < SCHED_NODES; i++) {
        uint32_t load = 0;
        for (const struct slot *s = d->nodes[i].slots; s != NULL; s = s->node_next)
            load += s->void_ ? 0 : s->assigned + s->granted;
        mr_assert(load == d->nodes[i].load);
    }
    check_grants(d);
    check_notices(d);
}
