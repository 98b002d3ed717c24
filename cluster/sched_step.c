/* sched_step.c - which node and which slot; grants for new messages, steps over the ready next hops, notices (sched.h).
 *
 * A step goes round robin over the next hops that have ready deliveries, SCHED_QUANTUM assignments each, and stops when
 * it has seen every one without being able to grant anything since anything changed, or when its budget is used up. */
#include "cluster/sched_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

/* A delivery that wants a node. */
struct want {
    uint64_t holders;
    uint32_t acceptor;
    uint32_t avoid_node;
};

/* What one node can offer; compared member by member, less is better. */
struct offer {
    struct node *node;
    struct slot *slot; /* NULL: a new one */
    uint32_t avoided;  /* by the delivery */
    uint32_t run;      /* its failures in a row, while the next hop fails */
    uint32_t away;     /* has not the body */
    uint32_t tier;     /* 0 open and idle, 1 quiet or new, 2 shared */
    uint32_t load;     /* of the slot */
    uint32_t not_acceptor;
    uint32_t lane_load, node_load;
};

static bool node_usable(const struct sched *d, const struct node *n)
{
    return n->up && !n->draining && n->seen_ns != 0 && d->now_ns - n->seen_ns <= SCHED_FRESH_MS * MR_NS_PER_MS;
}

/* S4 */
static bool node_has_room(const struct node *n)
{
    return (uint64_t)n->granted + n->unseen_sum < n->free;
}

static bool may_open(const struct sched *d, const struct hop *h, const struct lane *l)
{
    const struct site *s = h->site;

    if (l != NULL && l->n_slots >= SCHED_SLOT_NUMBERS - 1)
        return false;
    if (s->connections == 0)
        return l == NULL || l->n_slots < SCHED_UNLIMITED_SLOTS;
    if (s->starved != NULL && s->starved != h && s->starved_until_ns > d->now_ns &&
        h->n_slots >= s->connections / s->n_hops)
        return false;
    return s->n_slots < s->connections;
}

/* While no node has room nothing can be given, and only a heartbeat can change that. */
static bool any_room(const struct sched *d)
{
    for (uint32_t i = 1; i < SCHED_NODES; i++)
        if (d->nodes[i].up && node_usable(d, &d->nodes[i]) && node_has_room(&d->nodes[i]))
            return true;
    return false;
}

static bool find_slot(const struct sched *d, const struct hop *h, struct lane *l, struct offer *o)
{
    uint32_t depth = h->site->rate > 0 ? 1 : d->depth;

    if (l != NULL && l->lists[SLOT_IDLE] != NULL) {
        o->slot = l->lists[SLOT_IDLE];
        return true;
    }
    o->tier = 1;
    if (l != NULL && l->lists[SLOT_QUIET] != NULL) {
        o->slot = l->lists[SLOT_QUIET];
        return true;
    }
    if (may_open(d, h, l))
        return true;
    o->tier = 2;
    /* A probe stands alone: what is queued before it in a slot has failed or hangs. */
    for (uint32_t load = 1; l != NULL && !h->failing && load < depth; load++) {
        o->slot = sched_slot_quick(d, l, SLOT_LOADED + load - 1);
        o->load = load;
        if (o->slot != NULL)
            return true;
    }
    return false;
}

static bool make_offer(struct sched *d, const struct hop *h, struct node *n, const struct want *w, struct offer *o)
{
    struct lane *l = sched_lane_find(h, n->id);
    const struct site_node *fares = h->failing ? sched_site_node_find(h->site, n->id) : NULL;

    *o = (struct offer){.node = n};
    if (!node_has_room(n) || !find_slot(d, h, l, o))
        return false;
    o->avoided = n->id == w->avoid_node;
    o->run = fares != NULL ? fares->run : 0;
    o->away = !(w->holders >> n->id & 1);
    o->not_acceptor = n->id != w->acceptor;
    o->lane_load = l != NULL ? l->inflight : 0;
    o->node_load = n->load;
    return true;
}

static bool better(const struct offer *a, const struct offer *b)
{
    const uint32_t x[] = {a->avoided, a->run, a->away, a->tier, a->load, a->not_acceptor, a->lane_load, a->node_load};
    const uint32_t y[] = {b->avoided, b->run, b->away, b->tier, b->load, b->not_acceptor, b->lane_load, b->node_load};

    for (size_t i = 0; i < sizeof(x) / sizeof(x[0]); i++)
        if (x[i] != y[i])
            return x[i] < y[i];
    return false;
}

/* The best node and slot now. Nodes that the site avoids count only when there is no other to wait for. */
static bool choose(struct sched *d, struct hop *h, const struct want *w, struct offer *best)
{
    bool found = false;
    bool others = false;

    for (uint32_t i = 1; i < SCHED_NODES && !others; i++)
        others = node_usable(d, &d->nodes[i]) && !sched_site_avoids(d, h->site, i);
    for (uint32_t i = 1; i < SCHED_NODES; i++) {
        struct node *n = &d->nodes[i];
        struct offer o;
        if (!node_usable(d, n) || (others && sched_site_avoids(d, h->site, i)))
            continue;
        if (make_offer(d, h, n, w, &o) && (!found || better(&o, best))) {
            *best = o;
            found = true;
        }
    }
    return found;
}

/* Nothing could be given: if that is because others hold all connections of the site, they must leave it its share. */
static void note_starved(struct sched *d, struct hop *h)
{
    struct site *s = h->site;

    if (s->connections == 0 || h->n_slots > 0 || s->n_slots < s->connections || s->n_hops < 2)
        return;
    if (s->starved != NULL && s->starved != h && s->starved_until_ns > d->now_ns)
        return;
    s->starved = h;
    s->starved_until_ns = d->now_ns + SCHED_STARVED_MS * MR_NS_PER_MS;
}

static void give(struct sched *d, struct hop *h, const struct offer *o, struct mr_id id, uint32_t delivery,
                 uint32_t attempt, bool ready, Mailraft__Assignment *out)
{
    struct slot *s = o->slot != NULL ? o->slot : sched_slot_get(d, h, o->node->id, 0);

    mr_assert(s != NULL);
    sched_grant_add(d, id, delivery, s, ready)->attempt = attempt;
    sched_hop_granted(d, h, s);
    out->delivery = delivery;
    out->attempt = attempt;
    out->node = o->node->id;
    out->incarnation = o->node->incarnation;
    out->slot = s->number;
}

uint32_t sched_deadline_for_ms(uint64_t body_length, uint32_t recipients, uint64_t now_ms, uint64_t expire_ms)
{
    uint64_t ms =
        SCHED_DEADLINE_MS + (uint64_t)recipients * SCHED_DEADLINE_RCPT_MS + body_length / SCHED_DEADLINE_RATE * 1000;
    uint64_t left = expire_ms > now_ms ? expire_ms - now_ms : 0;

    if (expire_ms != 0 && left < ms)
        ms = left > SCHED_DEADLINE_MS ? left : SCHED_DEADLINE_MS;
    return ms < SCHED_DEADLINE_MAX_MS ? (uint32_t)ms : SCHED_DEADLINE_MAX_MS;
}

static bool deliveries_start(const struct sched *d)
{
    const Mailraft__Rules *rules = state_rules(d->state);

    return d->active && rules != NULL && !rules->suspended;
}

bool sched_grant(struct sched *d, struct mr_id id, uint32_t delivery, const char *next_hop, uint32_t node,
                 uint64_t now_ns, Mailraft__Assignment *out)
{
    uint64_t wake = UINT64_MAX;
    struct want w = {.holders = UINT64_MAX, .acceptor = node};
    struct next_hop_view view;
    struct offer o;

    if (now_ns > d->now_ns)
        d->now_ns = now_ns;
    if (!deliveries_start(d) || node >= SCHED_NODES || !node_usable(d, &d->nodes[node]) ||
        sched_grant_find(d, id, delivery) != NULL)
        return false;
    struct hop *h = sched_hop_get(d, next_hop);
    const struct state_next_hop *in_state = state_next_hop_find(d->state, next_hop);
    if (in_state != NULL) {
        state_next_hop_view(in_state, &view);
        if (view.ready > h->proposed)
            return false;
    }
    if (sched_hop_blocked(d, h, &wake) || (sched_site_avoids(d, h->site, node)))
        return false;
    if (!make_offer(d, h, &d->nodes[node], &w, &o))
        return false;
    /* Rather than wait behind another in a slot here: a connection that idles elsewhere. */
    if (o.tier == 2 && h->n_idle > 0)
        return false;
    give(d, h, &o, id, delivery, 1, false, out);
    return true;
}

static Mailraft__Op *new_op(Mailraft__Op__KindCase kind)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));

    mailraft__op__init(op);
    op->kind_case = kind;
    return op;
}

static void set_id(ProtobufCBinaryData *field, struct mr_id id)
{
    field->data = mr_memdup(id.bytes, MR_ID_SIZE);
    field->len = MR_ID_SIZE;
}

static Mailraft__Op *assign_op(struct mr_id id, Mailraft__Assignment **assignment)
{
    Mailraft__Op *op = new_op(MAILRAFT__OP__KIND_ASSIGN);

    op->assign = mr_malloc(sizeof(*op->assign));
    mailraft__assign__init(op->assign);
    set_id(&op->assign->id, id);
    op->assign->assignment = *assignment = mr_malloc(sizeof(**assignment));
    mailraft__assignment__init(*assignment);
    return op;
}

/* Assigns up to max ready deliveries of one next hop. *exhausted: all that were ready are proposed now. */
static size_t step_hop(struct sched *d, const struct state_next_hop *in_state, Mailraft__Op **ops, size_t max,
                       bool *exhausted)
{
    struct next_hop_view view;
    const void *cursor = NULL;
    struct ready_delivery r;
    struct offer o;
    size_t n = 0;

    state_next_hop_view(in_state, &view);
    struct hop *h = sched_hop_get(d, view.name);
    while (!(*exhausted = view.ready <= h->proposed) && n < max && !sched_hop_blocked(d, h, &d->wake_ns)) {
        const struct want any = {.holders = UINT64_MAX};
        struct message_view m;
        struct delivery_view v;
        /* Ask first whether anybody is free, before the walk over what is proposed already. */
        if (!choose(d, h, &any, &o)) {
            note_starved(d, h);
            break;
        }
        do {
            if (!state_ready_next(in_state, &cursor, &r))
                return n; /* a proposed one left the list by another way */
            state_message_view(r.message, &m);
        } while (sched_grant_find(d, m.id, r.delivery) != NULL);
        state_delivery_view(r.message, r.delivery, &v);
        const struct want w = {.holders = m.holders, .acceptor = m.acceptor, .avoid_node = v.avoid_node};
        if (!choose(d, h, &w, &o))
            break;
        Mailraft__Assignment *a;
        ops[n++] = assign_op(m.id, &a);
        give(d, h, &o, m.id, r.delivery, v.attempt + 1, true, a);
        a->deadline_for_ms = sched_deadline_for_ms(m.body_length, v.queued, state_now_ms(d->state), m.expire_ms);
    }
    return n;
}

/* Where the last step ended, if that next hop is in the ready list still. */
static const struct state_next_hop *resume(const struct sched *d)
{
    struct next_hop_view view;
    const struct state_next_hop *h = d->cursor[0] != 0 ? state_next_hop_find(d->state, d->cursor) : NULL;

    if (h == NULL)
        return NULL;
    state_next_hop_view(h, &view);
    return view.ready > 0 ? h : NULL;
}

static void remember(struct sched *d, const struct state_next_hop *h)
{
    struct next_hop_view view;

    d->cursor[0] = 0;
    if (h == NULL)
        return;
    state_next_hop_view(h, &view);
    size_t len = strlen(view.name);
    if (len < sizeof(d->cursor))
        memcpy(d->cursor, view.name, len + 1);
}

static void new_round(struct sched *d)
{
    d->quiet_rounds = 0;
    d->wake_ns = UINT64_MAX;
}

static size_t step_deliveries(struct sched *d, Mailraft__Op **ops, size_t max, uint64_t *again_ns)
{
    const struct state_next_hop *at = resume(d);
    const struct state_next_hop *stuck = NULL; /* last one that keeps ready deliveries: it will be there next time */
    unsigned visited = 0;
    size_t n = 0;
    bool room = true;

    if (d->changed || !d->continues || d->wake_ns <= d->now_ns)
        new_round(d);
    d->changed = false;
    while (visited < SCHED_STEP && n < max && (room = any_room(d))) {
        const struct state_next_hop *next = state_ready_next_hop(d->state, at);
        if (next == NULL) {
            /* Twice round the end with nothing granted or changed: every one was seen in between. */
            if (++d->quiet_rounds >= 2 || state_ready_next_hop(d->state, NULL) == NULL)
                break;
            at = NULL;
            continue;
        }
        at = next;
        visited++;
        bool exhausted = false;
        size_t share = max - n < SCHED_QUANTUM ? max - n : SCHED_QUANTUM;
        size_t given = step_hop(d, at, ops + n, share, &exhausted);
        if (!exhausted)
            stuck = at;
        n += given;
        if (given > 0)
            new_round(d);
    }
    remember(d, stuck != NULL ? stuck : at);
    d->continues = visited >= SCHED_STEP || n >= max;
    if (n >= max)
        *again_ns = d->now_ns;
    else if (d->continues)
        *again_ns = d->now_ns + (n > 0 ? 0 : SCHED_PACE_MS * MR_NS_PER_MS);
    else if (room && d->wake_ns < *again_ns)
        *again_ns = d->wake_ns;
    return n;
}

/* A share of its room alone: each has a text and a body made at once, and deliveries go on beside them. */
static bool takes_notices(const struct sched *d, const struct node *n)
{
    return node_usable(d, n) && node_has_room(n) && n->notices < SCHED_NODE_NOTICES;
}

static bool any_takes_notices(const struct sched *d)
{
    for (uint32_t i = 1; i < SCHED_NODES; i++)
        if (d->nodes[i].up && takes_notices(d, &d->nodes[i]))
            return true;
    return false;
}

/* A node for a notice: the acceptor if it holds the body, else the next holder in turn, else the next node in turn. */
static struct node *notice_node(struct sched *d, const struct message_view *m)
{
    struct node *any = NULL;

    if (m->acceptor < SCHED_NODES && (m->holders >> m->acceptor & 1) && takes_notices(d, &d->nodes[m->acceptor]))
        return &d->nodes[m->acceptor];
    for (uint32_t i = 1; i <= SCHED_NODES; i++) {
        uint32_t id = (d->notice_turn + i) % SCHED_NODES;
        if (!takes_notices(d, &d->nodes[id]))
            continue;
        if (m->holders >> id & 1)
            return &d->nodes[id];
        if (any == NULL)
            any = &d->nodes[id];
    }
    return any;
}

static size_t step_notices(struct sched *d, Mailraft__Op **ops, size_t max, uint64_t *again_ns)
{
    const void *cursor = NULL;
    const struct state_message *message;
    Mailraft__NoticeKind kind;
    size_t n = 0;

    while (any_takes_notices(d) && state_notice_next(d->state, &cursor, &message, &kind)) {
        struct message_view m;
        state_message_view(message, &m);
        if (sched_grant_find(d, m.id, (uint32_t)SCHED_NOTICE) != NULL)
            continue;
        if (kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE && m.n_assigned > 0)
            continue; /* it would not be taken: what runs may still deliver it */
        if (n == max) {
            *again_ns = d->now_ns;
            break;
        }
        struct node *node = notice_node(d, &m);
        if (node == NULL)
            break;
        d->notice_turn = node->id;
        Mailraft__Op *op = new_op(MAILRAFT__OP__KIND_ASSIGN_NOTICE);
        Mailraft__AssignNotice *a = op->assign_notice = mr_malloc(sizeof(*a));
        mailraft__assign_notice__init(a);
        set_id(&a->id, m.id);
        a->kind = kind;
        a->attempt = m.notice_attempt + 1;
        a->node = node->id;
        a->incarnation = node->incarnation;
        (void)sched_notice_add(d, m.id, a->attempt, node->id, 0);
        ops[n++] = op;
    }
    return n;
}

size_t sched_step(struct sched *d, uint64_t now_ns, Mailraft__Op **ops, size_t max, uint64_t *again_ns)
{
    *again_ns = UINT64_MAX;
    if (now_ns > d->now_ns)
        d->now_ns = now_ns;
    if (!d->active || max == 0)
        return 0;
    if (max > SCHED_MAX_ASSIGN)
        max = SCHED_MAX_ASSIGN;
    sched_sweep(d);
    /* A quarter at most: expiring mail must not stop the rest, nor the other way round. */
    size_t n = step_notices(d, ops, max / 4 + 1, again_ns);
    if (deliveries_start(d) && n < max) {
        uint64_t again = UINT64_MAX;
        n += step_deliveries(d, ops + n, max - n, &again);
        if (again < *again_ns)
            *again_ns = again;
    } else if (n == max) {
        *again_ns = d->now_ns;
    }
    return n;
}
