/* Every internal invariant, worked out anew from the messages and compared with lists, trees, tables and counts.
 * O(queue). */
#include "cluster/state_internal.h"
#include "proto/base/panic.h"

#include <string.h>

struct sums {
    uint64_t messages, bytes, recipients, body_bytes, ready, assigned, deferred, held, notices, notices_assigned;
};

static void check_recipients(const struct state_message *m, struct sums *sums)
{
    uint32_t queued = 0;

    for (uint32_t i = 0; i < m->n_recipients; i++) {
        const struct state_recipient *r = &m->recipients[i];
        mr_assert(r->delivery < m->n_deliveries && r->state <= RECIPIENT_CANCELLED && r->mark == 0);
        mr_assert(r->address_len > 0 && strlen(r->address) == r->address_len);
        queued += r->state == RECIPIENT_QUEUED;
        if (r->answer != NULL)
            sums->bytes += strlen(r->answer + strlen(r->answer) + 1);
    }
    /* The last one's end removes the message. */
    mr_assert(queued == m->queued && queued > 0);
    sums->recipients += queued;
}

static void check_assigned(const struct state *s, const struct state_delivery *d)
{
    mr_assert(d->attempt > 0 && node_may_run(s, d->node, d->incarnation) == APPLIED);
    const struct state_link *next = d->in_list.next;
    mr_assert(next == NULL ? s->assigned.tail == &d->in_list : DELIVERY_OF(next, in_list)->order > d->order);
    next = d->in_node.next;
    mr_assert(next == NULL ? s->nodes[d->node]->assigned.tail == &d->in_node
                           : DELIVERY_OF(next, in_node)->order > d->order);
}

/* In the list of its priority, behind those that come before it. */
static void check_ready(const struct state_delivery *d)
{
    int32_t priority = message_priority(delivery_message(d));
    const struct state_list *list = priority == 0 ? &d->hop->ready : &d->hop->urgencies[priority - STATE_MIN_PRIORITY];
    const struct state_link *next = d->in_list.next;

    if (next == NULL) {
        mr_assert(list->tail == &d->in_list);
        return;
    }
    mr_assert(DELIVERY_OF(next, in_list)->order > d->order);
    mr_assert(message_priority(delivery_message(DELIVERY_OF(next, in_list))) == priority);
}

static void check_delivery(const struct state *s, const struct state_delivery *d, struct sums *sums)
{
    struct state_next_hop *hop = d->hop;

    hop->tally.references++;
    mr_assert((d->state == DELIVERY_DONE) == (d->queued == 0));
    mr_assert((d->state == DELIVERY_ASSIGNED) == (d->node != 0));
    mr_assert(d->state == DELIVERY_DEFERRED || d->due_ms == 0 ||
              (d->state == DELIVERY_ASSIGNED && d->due_ms <= s->now_ms));
    mr_assert((d->state == DELIVERY_READY || d->state == DELIVERY_ASSIGNED) == (d->order != 0));
    switch ((enum delivery_state)d->state) {
    case DELIVERY_READY:
        check_ready(d);
        hop->tally.ready++;
        sums->ready++;
        break;
    case DELIVERY_ASSIGNED:
        check_assigned(s, d);
        hop->tally.assigned++;
        sums->assigned++;
        break;
    case DELIVERY_DEFERRED:
        mr_assert(d->due.major == d->due_ms && d->due.minor == delivery_key(d));
        hop->tally.deferred++;
        sums->deferred++;
        break;
    case DELIVERY_HELD:
        hop->tally.held++;
        sums->held++;
        break;
    case DELIVERY_DONE:
        break;
    }
}

static void check_message(const struct state *s, const struct state_message *m, struct sums *sums)
{
    uint64_t assigned = sums->assigned;
    uint32_t queued = 0;

    mr_assert(state_find(s, m->id) == m && finished_find(s, m->id) == NULL);
    mr_assert(state_parts_find(s, m->id) == NULL);
    mr_assert(state_next_message(s, message_sequence(m) - 1) == m && message_sequence(m) < s->next_sequence);
    check_recipients(m, sums);
    for (uint32_t i = 0; i < m->n_deliveries; i++) {
        mr_assert(m->deliveries[i].index == i && delivery_message(&m->deliveries[i]) == m);
        check_delivery(s, &m->deliveries[i], sums);
        queued += m->deliveries[i].queued;
    }
    mr_assert(queued == m->queued && sums->assigned - assigned == m->assigned);
    if (m->notice_kind != MAILRAFT__NOTICE_KIND__NOTICE_NONE) {
        mr_assert(m->notice_attempt > 0 && node_may_run(s, m->notice_node, m->notice_incarnation) == APPLIED);
        sums->notices_assigned++;
    } else if (m->notice_due_ms != STATE_DUE_NEVER) {
        mr_assert(m->notice.major == m->notice_due_ms && m->notice.minor == message_sequence(m));
        sums->notices++;
    }
    sums->messages++;
    sums->bytes += state_message_bytes(m);
    sums->body_bytes += m->body_length;
}

/* The walk by links must meet what the walk by messages counted. */
static uint64_t walk(const struct state_list *list)
{
    uint64_t n = 0;

    for (const struct state_link *l = list->head, *prev = NULL; l != NULL; prev = l, l = l->next, n++)
        mr_assert(l->prev == prev && (l->next != NULL || list->tail == l));
    mr_assert(n == list->count && (n > 0 || list->tail == NULL));
    return n;
}

static void check_hops(const struct state *s)
{
    uint64_t with_ready = 0, with_due = 0;

    mr_assert(walk(&s->hops) == s->hop_index.count);
    for (const struct state_link *l = s->hops.head; l != NULL; l = l->next) {
        const struct state_next_hop *hop = MR_CONTAINER(l, struct state_next_hop, in_all);
        mr_assert(state_next_hop_find(s, hop->name) == hop);
        mr_assert(hop->references > 0 && hop->tally.references == hop->references);
        uint64_t ready = walk(&hop->ready);
        for (int i = 0; hop->urgencies != NULL && i < STATE_PRIORITIES; i++)
            ready += walk(&hop->urgencies[i]);
        mr_assert(ready == hop->tally.ready && ready == hop->n_ready && hop->assigned == hop->tally.assigned);
        mr_assert(hop->deferred.count == hop->tally.deferred && hop->held == hop->tally.held);
        state_tree_check(&hop->deferred);
        with_ready += ready > 0;
        if (hop->deferred.count > 0) {
            const struct state_tree_node *first = state_tree_first(&hop->deferred);
            mr_assert(hop->due.major == first->major && hop->due.minor == first->minor);
            with_due++;
        }
    }
    mr_assert(walk(&s->ready_hops) == with_ready && s->due_hops.count == with_due);
    state_tree_check(&s->due_hops);
}

static void check_nodes(const struct state *s, const struct sums *sums)
{
    uint64_t assigned = 0, notices = 0, nodes = 0;

    for (uint32_t i = 1; i <= STATE_MAX_NODES; i++) {
        const struct state_node *n = s->nodes[i];
        if (n == NULL)
            continue;
        mr_assert(n->id == i && (!n->up || n->incarnation > 0));
        mr_assert(n->up || (n->assigned.count == 0 && n->notices.count == 0));
        assigned += walk(&n->assigned);
        notices += walk(&n->notices);
        nodes++;
    }
    mr_assert(nodes == s->n_nodes && assigned == sums->assigned && notices == sums->notices_assigned);
    mr_assert(walk(&s->assigned) == assigned);
}

static void check_memories(const struct state *s)
{
    const struct state_finished_chunk *chunk = NULL;
    const struct state_finished *f;
    size_t place = 0;
    uint64_t n = 0, last = 0, bytes = 0;

    for (; (f = finished_next(s, &chunk, &place)) != NULL; n++) {
        mr_assert(f->finished_ms >= last && f->finished_ms <= s->now_ms && finished_find(s, f->id) == f);
        last = f->finished_ms;
    }
    mr_assert(n == s->finished.count && n == s->finished.index.count);
    walk(&s->parts.all);
    mr_assert(s->parts.all.count <= STATE_MAX_PART_SETS && s->parts.all.count == s->parts.index.count);
    last = 0;
    for (const struct state_link *l = s->parts.all.head; l != NULL; l = l->next) {
        const struct state_parts *p = MR_CONTAINER(l, struct state_parts, in_all);
        mr_assert(p->have > 0 && p->have < p->parts && p->begun_ms >= last && finished_find(s, p->id) == NULL);
        last = p->begun_ms;
        bytes += p->len;
    }
    mr_assert(bytes == s->parts.bytes && bytes <= STATE_MAX_PARTS_BYTES);
}

static void check_sites(const struct state *s)
{
    uint64_t n = 0, bytes = 0;

    state_tree_check(&s->sites.by_expiry);
    for (const struct state_tree_node *l = state_tree_first(&s->sites.by_expiry); l != NULL;
         l = state_tree_after(&s->sites.by_expiry, l->major, l->minor), n++) {
        const struct state_site *site = MR_CONTAINER(l, struct state_site, by_expiry);
        mr_assert(site_find(s, site->name) == site && l->minor == site->number);
        mr_assert(site->number < s->sites.next_number);
        mr_assert(l->major == (site->tls_failed_until_ms > site->sts_expires_ms ? site->tls_failed_until_ms
                                                                                : site->sts_expires_ms));
        mr_assert((site->sts_expires_ms == 0) == (site->sts_mode == 0));
        bytes += site_bytes(site);
    }
    mr_assert(n == s->sites.index.count && n == s->sites.by_expiry.count && n <= STATE_MAX_SITES);
    mr_assert(bytes == s->sites.bytes && bytes <= STATE_MAX_SITES_BYTES);
}

static void check_users(const struct state *s)
{
    uint64_t last = 0;

    mr_assert(walk(&s->users.all) == s->users.index.count && s->users.all.count <= STATE_MAX_USERS);
    for (const struct state_link *l = s->users.all.head; l != NULL; l = l->next) {
        const struct state_user *u = MR_CONTAINER(l, struct state_user, in_all);
        uint64_t sum = 0;
        for (unsigned i = 0; i < STATE_USER_MINUTES; i++)
            sum += u->recipients[i];
        mr_assert(user_find(s, u->name) == u && sum == u->sum && u->minute >= last);
        last = u->minute;
    }
}

void state_check(const struct state *s)
{
    struct sums sums = {0};
    const struct state_chunk *chunk = NULL;
    const struct state_message *m;
    unsigned slot = 0;

    for (const struct state_link *l = s->hops.head; l != NULL; l = l->next) {
        struct state_next_hop *hop = MR_CONTAINER(l, struct state_next_hop, in_all);
        memset(&hop->tally, 0, sizeof(hop->tally));
    }
    walk(&s->chunks.all);
    state_chunks_check(s);
    while ((m = state_chunks_next(s, &chunk, &slot)) != NULL)
        check_message(s, m, &sums);
    mr_assert(sums.bytes == s->message_bytes);
    mr_assert(sums.messages == s->message_index.count);
    mr_assert(sums.messages == s->counts.messages);
    mr_assert(sums.recipients == s->counts.recipients && sums.body_bytes == s->counts.body_bytes);
    mr_assert(sums.ready == s->counts.ready && sums.assigned == s->counts.assigned);
    mr_assert(sums.deferred == s->counts.deferred && sums.held == s->counts.held);
    mr_assert(sums.notices == s->notices.count);
    state_tree_check(&s->chunks.by_first);
    state_tree_check(&s->notices);
    check_hops(s);
    check_nodes(s, &sums);
    check_memories(s);
    check_sites(s);
    check_users(s);
}
