/* sched.c - what is told to the scheduler: leadership, heartbeats, applied assignments and results, rules (see
 * sched.h).
 *
 * Why S1 holds. A slot is in the table from its grant, made here, or from the report or assignment that a new leader
 * finds; it leaves the table only when nothing is assigned or granted in it and a heartbeat, made after its node
 * applied the last unassignment, does not list it: from then on the node has no right to open it. A new leader grants
 * nothing for limited sites before it has such a report of every node that is up, and has itself applied its
 * predecessors' entries. */
#include "cluster/sched_internal.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct sched *sched_open(const struct state *s, const struct sched_config *config)
{
    struct sched *d = mr_calloc(1, sizeof(*d));

    d->state = s;
    d->depth = config != NULL && config->slot_depth > 0 ? config->slot_depth : SCHED_SLOT_DEPTH;
    if (d->depth > SCHED_MAX_DEPTH)
        d->depth = SCHED_MAX_DEPTH;
    d->seed = config != NULL ? config->hash_seed : 0;
    d->rules = 1;
    sched_table_init(&d->hops);
    sched_table_init(&d->sites);
    sched_table_init(&d->grants);
    sched_clear(d);
    return d;
}

void sched_close(struct sched *d)
{
    if (d == NULL)
        return;
    sched_clear(d);
    sched_table_free(&d->hops);
    sched_table_free(&d->sites);
    sched_table_free(&d->grants);
    free(d);
}

static void set_now(struct sched *d, uint64_t now_ns)
{
    if (now_ns > d->now_ns)
        d->now_ns = now_ns;
}

/* S3: every node that is up has reported what it holds open. Once met it stays so: who comes up later has nothing open.
 */
static void gate_check(struct sched *d)
{
    if (d->gate_open || state_index(d->state) < d->first_index)
        return;
    for (uint32_t i = 0; i < SCHED_NODES; i++)
        if (d->nodes[i].up && !d->nodes[i].reported && !MR_MUTANT(MUTANT_EARLY_GRANTS))
            return;
    d->gate_open = true;
    d->changed = true;
}

static void node_set(struct sched *d, const struct node_view *view)
{
    struct node *n = &d->nodes[view->node];

    n->id = view->node;
    n->present = true;
    n->up = view->up;
    n->incarnation = view->incarnation;
    n->reported = n->draining = false;
    n->seen_ns = n->sent_ns = n->applied = 0;
    n->free = 0;
    d->changed = true;
}

/* An assignment that stands in the state, or comes to stand there without a grant of ours. */
static void adopt(struct sched *d, const struct delivery_view *v, uint64_t index)
{
    if (v->slot == 0 || v->slot >= SCHED_SLOT_NUMBERS || v->node >= SCHED_NODES)
        return; /* not one that a scheduler ever makes */
    struct hop *h = sched_hop_get(d, v->next_hop);
    sched_site_refresh(d, h->site, h->name);
    struct slot *s = sched_slot_get(d, h, v->node, v->slot);
    mr_assert(s != NULL);
    if (s->void_) { /* the number of a grant to the node's last life, whose fate is still open */
        s->void_ = false;
        d->nodes[v->node].load += s->granted;
    }
    s->known = true;
    sched_slot_count(d, s, 1, 0);
    sched_node_unseen_add(&d->nodes[v->node], index);
    sched_site_charge(d, h->site, 1.0);
}

/* A notice that stands in the state, or comes to stand there without a proposal of ours. */
static void adopt_notice(struct sched *d, const struct state_message *m, uint64_t index)
{
    struct message_view v;

    state_message_view(m, &v);
    (void)sched_notice_add(d, v.id, v.notice_attempt, v.notice_node, d->now_ns);
    sched_node_unseen_add(&d->nodes[v.notice_node], index);
}

void sched_lead(struct sched *d, uint64_t now_ns, uint64_t first_index)
{
    const void *cursor = NULL;
    struct ready_delivery r;

    sched_clear(d);
    d->active = true;
    d->now_ns = d->lead_ns = now_ns;
    d->first_index = first_index;
    d->rules++;
    d->changed = true;
    d->continues = false;
    for (unsigned i = 0; i < state_nodes(d->state); i++) {
        struct node_view view;
        state_node_view(d->state, i, &view);
        if (view.node < SCHED_NODES)
            node_set(d, &view);
    }
    while (state_assigned_next(d->state, 0, &cursor, &r)) {
        struct delivery_view v;
        state_delivery_view(r.message, r.delivery, &v);
        adopt(d, &v, state_index(d->state));
    }
    for (uint32_t i = 1; i < SCHED_NODES; i++)
        for (const struct state_message *m = NULL; (m = state_notice_assigned_next(d->state, i, m)) != NULL;)
            adopt_notice(d, m, state_index(d->state));
    gate_check(d);
}

void sched_unlead(struct sched *d)
{
    d->active = false;
    sched_clear(d);
}

static void report_slot(struct sched *d, struct hop *h, uint32_t node, uint32_t number)
{
    if (number == 0 || number >= SCHED_SLOT_NUMBERS)
        return;
    struct slot *s = sched_slot_get(d, h, node, number);
    s->seen = d->beats;
    s->known = true;
    if (s->void_ || s->open)
        return; /* void: the number of a grant to the node's last life; the fate of that decides */
    s->open = true;
    sched_slot_place(s);
}

void sched_heartbeat(struct sched *d, uint32_t node, const Mailraft__Heartbeat *hb, uint64_t now_ns)
{
    set_now(d, now_ns);
    if (!d->active || node >= SCHED_NODES)
        return;
    struct node *n = &d->nodes[node];
    /* One that was overtaken on its way says nothing any more. */
    if (!n->up || hb->incarnation != n->incarnation || hb->sent_ns < n->sent_ns || hb->applied < n->applied)
        return;
    n->sent_ns = hb->sent_ns;
    n->seen_ns = now_ns;
    n->applied = hb->applied;
    n->free = hb->free_attempts;
    n->draining = hb->draining;
    sched_node_unseen_applied(n, hb->applied);
    d->beats++;
    d->changed = true;
    for (size_t i = 0; i < hb->n_slots; i++) {
        const Mailraft__OpenSlot *o = hb->slots[i];
        if (o->n_slots == 0 || o->next_hop[0] == 0 || strlen(o->next_hop) >= ROUTE_MAX)
            continue;
        struct hop *h = sched_hop_find(d, o->next_hop);
        struct next_hop_list parsed;
        if (h == NULL && next_hop_list_parse(o->next_hop, &parsed) == 0)
            h = sched_hop_get(d, o->next_hop);
        for (size_t k = 0; h != NULL && k < o->n_slots; k++)
            report_slot(d, h, node, o->slots[k]);
    }
    struct slot *next;
    for (struct slot *s = n->slots; s != NULL; s = next) {
        next = s->node_next;
        if (s->seen == d->beats)
            continue;
        s->open = false;
        sched_slot_place(s);
        if (s->known)
            sched_slot_release(d, s);
    }
    if (n->applied >= d->first_index)
        n->reported = true;
    gate_check(d);
}

void sched_node_changed(struct sched *d, const struct node_view *node, uint64_t now_ns)
{
    set_now(d, now_ns);
    if (!d->active || node->node >= SCHED_NODES)
        return;
    struct node *n = &d->nodes[node->node];
    if (n->present && n->up == node->up && n->incarnation == node->incarnation)
        return; /* its address, say */
    sched_node_drop_slots(d, n);
    node_set(d, node);
    gate_check(d);
}

void sched_rules_changed(struct sched *d, const Mailraft__Rules *rules, uint64_t now_ns)
{
    (void)rules; /* those of the state are in force, also for sites that are made later */
    set_now(d, now_ns);
    d->rules++;
    d->changed = true;
}

void sched_assigned(struct sched *d, const struct state_message *m, uint32_t delivery, uint64_t index)
{
    struct message_view message;
    struct delivery_view v;

    if (!d->active)
        return;
    state_message_view(m, &message);
    state_delivery_view(m, delivery, &v);
    d->changed = true;
    struct grant *g = sched_grant_find(d, message.id, delivery);
    struct slot *s = g != NULL ? g->slot : NULL;
    if (s == NULL || s->void_ || s->number != v.slot || s->lane->node != v.node || g->incarnation != v.incarnation ||
        strcmp(s->lane->hop->name, v.next_hop) != 0) {
        adopt(d, &v, index);
        return;
    }
    s->known = true;
    sched_slot_count(d, s, 1, 0);
    sched_grant_remove(d, g);
    sched_node_unseen_add(&d->nodes[v.node], index);
}

void sched_unassigned(struct sched *d, uint32_t node, uint32_t slot, const char *next_hop, uint64_t index)
{
    if (!d->active)
        return;
    struct hop *h = sched_hop_find(d, next_hop);
    struct slot *s = h != NULL && node < SCHED_NODES ? sched_slot_find(h, node, slot) : NULL;
    d->changed = true;
    /* Its node fell in the same entry, and the slot with it. */
    if (s == NULL || s->void_ || s->assigned == 0)
        return;
    if (index > s->unassigned_index)
        s->unassigned_index = index;
    sched_hop_slot_ended(h, node, slot);
    sched_slot_count(d, s, -1, 0);
}

void sched_notice_assigned(struct sched *d, const struct state_message *m, uint64_t index, uint64_t now_ns)
{
    struct message_view v;

    set_now(d, now_ns);
    if (!d->active)
        return;
    state_message_view(m, &v);
    struct grant *g = sched_grant_find(d, v.id, (uint32_t)SCHED_NOTICE);
    if (g != NULL)
        sched_grant_remove(d, g);
    adopt_notice(d, m, index);
}

void sched_notice_ended(struct sched *d, struct mr_id id)
{
    struct grant *g = d->active ? sched_grant_find(d, id, (uint32_t)SCHED_NOTICE) : NULL;

    if (g != NULL)
        sched_grant_remove(d, g);
}

size_t sched_old_notices(const struct sched *d, uint64_t before_ns, struct sched_notice *out, size_t max)
{
    size_t n = 0;

    for (const struct grant *g = d->notices; g != NULL && n < max; g = g->next)
        if (g->since_ns != 0 && g->since_ns <= before_ns)
            out[n++] = (struct sched_notice){g->id, g->attempt, g->node};
    return n;
}

/* Is there another node that could be used instead? */
static bool others_usable(const struct sched *d, const struct site *s, uint32_t node)
{
    for (uint32_t i = 0; i < SCHED_NODES; i++)
        if (i != node && d->nodes[i].up && !d->nodes[i].draining && !sched_site_avoids(d, s, i))
            return true;
    return false;
}

void sched_result(struct sched *d, uint32_t node, uint32_t slot, const char *next_hop, bool delivered, bool unreached,
                  uint64_t now_ns)
{
    set_now(d, now_ns);
    if (!d->active || node >= SCHED_NODES)
        return;
    bool failed = unreached && !delivered;
    struct hop *h = failed ? sched_hop_get(d, next_hop) : sched_hop_find(d, next_hop);
    if (h == NULL)
        return;
    struct slot *s = sched_slot_find(h, node, slot);
    if (s != NULL && !s->void_)
        sched_slot_outcome(d, s);
    /* A node that fails where others succeed says nothing of the next hop. */
    bool counts = !failed || !sched_site_avoids(d, h->site, node) || !others_usable(d, h->site, node);
    sched_site_result(d, h->site, node, failed);
    sched_hop_result(d, h, failed, counts);
    d->changed = true;
}

void sched_ungrant(struct sched *d, struct mr_id id, uint32_t delivery, uint64_t now_ns)
{
    set_now(d, now_ns);
    struct grant *g = d->active ? sched_grant_find(d, id, delivery) : NULL;
    if (g == NULL)
        return;
    struct slot *s = g->slot;
    sched_grant_remove(d, g);
    if (s == NULL)
        return;
    struct hop *h = s->lane->hop;
    sched_site_charge(d, h->site, -1.0);
    sched_hop_slot_ended(h, s->lane->node, s->number);
    sched_slot_release(d, s);
}

void sched_unnotice(struct sched *d, struct mr_id id)
{
    sched_ungrant(d, id, (uint32_t)SCHED_NOTICE, d->now_ns);
}

/* Only the grant that this operation holds: a later attempt of the same delivery may hold one by now. */
static void settle(struct sched *d, const ProtobufCBinaryData *bytes, uint32_t delivery, uint32_t attempt,
                   uint64_t now_ns)
{
    struct mr_id id;

    if (!d->active || mr_id_from_bytes(bytes->data, bytes->len, &id) != 0)
        return;
    const struct grant *g = sched_grant_find(d, id, delivery);
    if (g != NULL && g->attempt == attempt && g->since_ns == 0)
        sched_ungrant(d, id, delivery, now_ns);
}

void sched_settled(struct sched *d, const Mailraft__Op *op, uint64_t now_ns)
{
    const Mailraft__Assignment *a;

    switch (op->kind_case) {
    case MAILRAFT__OP__KIND_ENQUEUE:
        for (size_t i = 0; i < op->enqueue->n_assign; i++) {
            a = op->enqueue->assign[i];
            settle(d, &op->enqueue->id, a->delivery, a->attempt, now_ns);
        }
        break;
    case MAILRAFT__OP__KIND_ASSIGN:
        a = op->assign->assignment;
        if (a != NULL)
            settle(d, &op->assign->id, a->delivery, a->attempt, now_ns);
        break;
    case MAILRAFT__OP__KIND_ASSIGN_NOTICE:
        settle(d, &op->assign_notice->id, (uint32_t)SCHED_NOTICE, op->assign_notice->attempt, now_ns);
        break;
    default:
        break;
    }
}

uint32_t sched_slots(const struct sched *d, const char *next_hop)
{
    const struct hop *h = sched_hop_find(d, next_hop);

    return h != NULL ? h->n_slots : 0;
}

bool sched_waiting_for_nodes(const struct sched *d)
{
    return d->active && !d->gate_open;
}

uint64_t sched_backoff_until(const struct sched *d, const char *next_hop)
{
    const struct hop *h = sched_hop_find(d, next_hop);

    return h != NULL && h->failing ? h->backoff_until_ns : 0;
}

uint32_t sched_avoided(const struct sched *d, const char *next_hop)
{
    const struct hop *h = sched_hop_find(d, next_hop);

    for (unsigned i = 0; h != NULL && i < h->site->n_nodes; i++)
        if (h->site->nodes[i].avoid_until_ns > d->now_ns)
            return h->site->nodes[i].node;
    return 0;
}
