/* Deliveries: from ready over assigned to done or deferred, and back.
 *
 * Happy path: delivery_begin(READY) -> state_assign -> state_outcome -> DONE; the last one's message is finished.
 * Every other way out of ASSIGNED (release, outcome that defers, fall of the node, a late outcome of an older attempt)
 * goes through delivery_move too, which tells `unassigned` exactly once for each `assigned`. */
#include "cluster/state_internal.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

/* ---- next hops ---- */

uint64_t state_name_hash(const struct state *s, const char *name, size_t len)
{
    return XXH3_64bits_withSeed(name, len, s->seed);
}

static struct state_next_hop *hop_find(const struct state *s, const char *name, size_t len, uint64_t hash)
{
    for (struct state_index_node *n = state_index_first(&s->hop_index, hash); n != NULL; n = state_index_next(n)) {
        struct state_next_hop *hop = MR_CONTAINER(n, struct state_next_hop, by_name);
        if (hop->name_len == len && memcmp(hop->name, name, len) == 0)
            return hop;
    }
    return NULL;
}

const struct state_next_hop *state_next_hop_find(const struct state *s, const char *name)
{
    size_t len = strlen(name);
    return hop_find(s, name, len, state_name_hash(s, name, len));
}

enum { URGENCIES = STATE_PRIORITIES * sizeof(struct state_list) };

/* Interned; the reference is the delivery's. */
struct state_next_hop *next_hop_get(struct state *s, const char *name)
{
    size_t len = strlen(name);
    uint64_t hash = state_name_hash(s, name, len);
    struct state_next_hop *hop = hop_find(s, name, len, hash);

    if (hop == NULL) {
        hop = mr_calloc(1, sizeof(*hop) + len + 1);
        s->memory += sizeof(*hop) + len + 1;
        hop->name_len = (uint16_t)len;
        memcpy(hop->name, name, len + 1);
        state_index_insert(&s->hop_index, &hop->by_name, hash);
        state_list_append(&s->hops, &hop->in_all);
    }
    hop->references++;
    return hop;
}

void next_hop_put(struct state *s, struct state_next_hop *hop)
{
    mr_assert(hop->references > 0);
    if (--hop->references > 0)
        return;
    mr_assert(hop->n_ready == 0 && hop->deferred.count == 0 && hop->assigned == 0 && hop->held == 0);
    state_index_remove(&s->hop_index, &hop->by_name);
    state_list_remove(&s->hops, &hop->in_all);
    next_hop_reply(s, hop, "");
    s->memory -= sizeof(*hop) + hop->name_len + 1U + (hop->urgencies != NULL ? URGENCIES : 0);
    free(hop->urgencies);
    free(hop);
}

void next_hops_close(struct state *s)
{
    for (struct state_link *l = s->hops.head, *next; l != NULL; l = next) {
        struct state_next_hop *hop = MR_CONTAINER(l, struct state_next_hop, in_all);
        next = l->next;
        free(hop->last_reply);
        free(hop->urgencies);
        free(hop);
    }
}

void next_hop_reply(struct state *s, struct state_next_hop *hop, const char *reply)
{
    if (hop->last_reply != NULL) {
        s->memory -= strlen(hop->last_reply) + 1;
        free(hop->last_reply);
        hop->last_reply = NULL;
    }
    if (reply[0] != '\0') {
        hop->last_reply = mr_strdup(reply);
        s->memory += strlen(reply) + 1;
    }
}

/* ---- lists and counts ---- */

/* The place of a next hop among those with something deferred is that of its first. */
static void hop_due_out(struct state *s, struct state_next_hop *hop)
{
    if (hop->deferred.count > 0)
        state_tree_remove(&s->due_hops, &hop->due);
}

/* None that is deferred comes before it: only then it matters for the place of the next hop. */
static bool is_first_due(const struct state_next_hop *hop, uint64_t due_ms, uint64_t key)
{
    return hop->deferred.count == 0 || due_ms < hop->due.major || (due_ms == hop->due.major && key <= hop->due.minor);
}

static void hop_due_in(struct state *s, struct state_next_hop *hop)
{
    const struct state_tree_node *first = state_tree_first(&hop->deferred);
    if (first != NULL)
        state_tree_insert(&s->due_hops, &hop->due, first->major, first->minor);
}

struct state_list *delivery_ready_list(struct state *s, const struct state_delivery *d)
{
    int32_t priority = message_priority(delivery_message(d));

    if (priority == 0)
        return &d->hop->ready;
    if (d->hop->urgencies == NULL) {
        d->hop->urgencies = mr_calloc(1, URGENCIES);
        s->memory += URGENCIES;
    }
    return &d->hop->urgencies[priority - STATE_MIN_PRIORITY];
}

/* The first of the lists of a priority and those below; the next hop has them all. */
static const struct state_delivery *ready_from(const struct state_next_hop *hop, int priority)
{
    for (; priority >= STATE_MIN_PRIORITY; priority--) {
        const struct state_list *list = priority == 0 ? &hop->ready : &hop->urgencies[priority - STATE_MIN_PRIORITY];
        if (list->head != NULL)
            return DELIVERY_OF(list->head, in_list);
    }
    return NULL;
}

const struct state_delivery *ready_first(const struct state_next_hop *hop)
{
    if (hop->urgencies != NULL)
        return ready_from(hop, STATE_MAX_PRIORITY);
    return hop->ready.head == NULL ? NULL : DELIVERY_OF(hop->ready.head, in_list);
}

const struct state_delivery *ready_after(const struct state_delivery *d)
{
    if (d->in_list.next != NULL)
        return DELIVERY_OF(d->in_list.next, in_list);
    return d->hop->urgencies != NULL ? ready_from(d->hop, message_priority(delivery_message(d)) - 1) : NULL;
}

uint64_t delivery_order_back(struct state *s, const struct state_delivery *d)
{
    const struct state_list *list = delivery_ready_list(s, d);

    return list->tail == NULL ? STATE_FIRST_ORDER : DELIVERY_OF(list->tail, in_list)->order + 1;
}

static void enter_ready(struct state *s, struct state_delivery *d, bool front)
{
    struct state_next_hop *hop = d->hop;
    struct state_list *list = delivery_ready_list(s, d);

    if (hop->n_ready++ == 0)
        state_list_append(&s->ready_hops, &hop->in_ready_hops);
    if (front)
        state_list_prepend(list, &d->in_list);
    else
        state_list_append(list, &d->in_list);
    s->counts.ready++;
}

static void enter_deferred(struct state *s, struct state_delivery *d)
{
    struct state_next_hop *hop = d->hop;
    bool first = is_first_due(hop, d->due_ms, delivery_key(d));

    if (first)
        hop_due_out(s, hop);
    state_tree_insert(&hop->deferred, &d->due, d->due_ms, delivery_key(d));
    if (first)
        hop_due_in(s, hop);
    s->counts.deferred++;
}

static void leave_deferred(struct state *s, struct state_delivery *d)
{
    struct state_next_hop *hop = d->hop;
    bool first = is_first_due(hop, d->due.major, d->due.minor);

    if (first)
        hop_due_out(s, hop);
    state_tree_remove(&hop->deferred, &d->due);
    if (first)
        hop_due_in(s, hop);
    s->counts.deferred--;
}

static void enter(struct state *s, struct state_delivery *d, enum delivery_state to, bool front)
{
    struct state_next_hop *hop = d->hop;

    d->state = (uint8_t)to;
    switch (to) {
    case DELIVERY_READY:
        enter_ready(s, d, front);
        break;
    case DELIVERY_ASSIGNED:
        state_list_append(&s->assigned, &d->in_list);
        state_list_append(&s->nodes[d->node]->assigned, &d->in_node);
        hop->assigned++;
        s->counts.assigned++;
        delivery_message(d)->assigned++;
        break;
    case DELIVERY_DEFERRED:
        enter_deferred(s, d);
        break;
    case DELIVERY_HELD:
        hop->held++;
        s->counts.held++;
        break;
    case DELIVERY_DONE:
        break;
    }
}

static void leave(struct state *s, struct state_delivery *d)
{
    struct state_next_hop *hop = d->hop;

    switch ((enum delivery_state)d->state) {
    case DELIVERY_READY:
        state_list_remove(delivery_ready_list(s, d), &d->in_list);
        if (--hop->n_ready == 0)
            state_list_remove(&s->ready_hops, &hop->in_ready_hops);
        s->counts.ready--;
        break;
    case DELIVERY_ASSIGNED:
        state_list_remove(&s->assigned, &d->in_list);
        state_list_remove(&s->nodes[d->node]->assigned, &d->in_node);
        hop->assigned--;
        s->counts.assigned--;
        delivery_message(d)->assigned--;
        break;
    case DELIVERY_DEFERRED:
        leave_deferred(s, d);
        break;
    case DELIVERY_HELD:
        hop->held--;
        s->counts.held--;
        break;
    case DELIVERY_DONE:
        break;
    }
    d->order = 0;
}

void delivery_begin(struct state *s, struct state_delivery *d, enum delivery_state state)
{
    enter(s, d, state, false);
}

void delivery_end(struct state *s, struct state_delivery *d)
{
    leave(s, d);
    d->state = DELIVERY_DONE;
    next_hop_put(s, d->hop);
    d->hop = NULL;
}

#define TO(state) (1U << DELIVERY_##state)
static const unsigned transitions[] = {
    [DELIVERY_READY] = TO(ASSIGNED) | TO(DONE),
    [DELIVERY_ASSIGNED] = TO(READY) | TO(DEFERRED) | TO(DONE),
    [DELIVERY_DEFERRED] = TO(READY) | TO(DEFERRED) | TO(DONE), /* DEFERRED: from its time to never, when expired */
    [DELIVERY_HELD] = TO(DONE),
    [DELIVERY_DONE] = 0,
};

void delivery_move(struct state *s, struct state_delivery *d, enum delivery_state to, enum delivery_place place)
{
    enum delivery_state from = d->state;
    struct state_message *m = delivery_message(d);
    uint32_t node = d->node, slot = d->slot;
    bool front = to == DELIVERY_READY && place == AT_FRONT;

    mr_assert((transitions[from] & 1U << to) != 0);
    state_touch(s, m);
    if (to != DELIVERY_ASSIGNED) {
        leave(s, d);
        d->node = 0;
        d->slot = d->deadline_for_ms = 0;
        d->incarnation = 0;
    }
    if (to != DELIVERY_DEFERRED)
        d->due_ms = to == DELIVERY_ASSIGNED && s->version >= 2 ? s->now_ms : 0;
    if (to == DELIVERY_READY) {
        const struct state_link *head = delivery_ready_list(s, d)->head;
        d->order = front && head != NULL ? DELIVERY_OF(head, in_list)->order - 1 : delivery_order_back(s, d);
        mr_assert(d->order > 0);
    }
    enter(s, d, to, front);
    TELL(s, moved, m, d->index, from, to);
    if (from == DELIVERY_ASSIGNED)
        TELL(s, unassigned, m->id, d->index, d->attempt, node, slot, d->hop->name);
    if (to == DELIVERY_ASSIGNED)
        TELL(s, assigned, m, d->index);
}

void delivery_requeue(struct state *s, struct state_delivery *d, enum delivery_place place)
{
    state_touch(s, delivery_message(d));
    if (message_expired(s, delivery_message(d))) {
        d->due_ms = STATE_DUE_NEVER;
        delivery_move(s, d, DELIVERY_DEFERRED, AT_BACK);
    } else {
        delivery_move(s, d, DELIVERY_READY, place);
    }
}

struct state_delivery *delivery_first_due(const struct state *s)
{
    const struct state_tree_node *first = state_tree_first(&s->due_hops);

    if (first == NULL)
        return NULL;
    const struct state_next_hop *hop = MR_CONTAINER(first, struct state_next_hop, due);
    return DELIVERY_OF(state_tree_first(&hop->deferred), due);
}

void delivery_release_due(struct state *s, unsigned max)
{
    struct state_delivery *d;

    for (unsigned n = 0; n < max && (d = delivery_first_due(s)) != NULL && d->due_ms <= s->now_ms; n++)
        delivery_requeue(s, d, AT_BACK);
}

/* ---- recipients ---- */

void recipient_finish(struct state *s, struct state_message *m, uint32_t recipient, enum recipient_state to)
{
    struct state_recipient *r = &m->recipients[recipient];

    mr_assert(r->state == RECIPIENT_QUEUED && to != RECIPIENT_QUEUED);
    r->state = (uint8_t)to;
    m->queued--;
    m->deliveries[r->delivery].queued--;
    s->counts.recipients--;
    if (to == RECIPIENT_DELIVERED)
        s->counts.delivered++;
    else if (to == RECIPIENT_FAILED)
        s->counts.failed++;
    else if (to == RECIPIENT_EXPIRED)
        s->counts.expired++;
    TELL(s, recipient_done, m, recipient);
}

void recipient_answer(struct state *s, struct state_message *m, uint32_t recipient, const uint8_t *reply, size_t len,
                      const char *status)
{
    struct state_recipient *r = &m->recipients[recipient];
    size_t status_len = strnlen(status, STATE_MAX_STATUS);

    if (len > STATE_MAX_REPLY)
        len = STATE_MAX_REPLY;
    if (len > 0)
        len = strnlen((const char *)reply, len);
    if (r->answer != NULL) {
        size_t old = strlen(r->answer) + 1;
        size_t reply_len = strlen(r->answer + old);
        s->memory -= old + reply_len + 1;
        s->message_bytes -= reply_len;
        free(r->answer);
        r->answer = NULL;
    }
    if (len == 0 && status_len == 0)
        return;
    r->answer = mr_malloc(status_len + len + 2);
    s->memory += status_len + len + 2;
    s->message_bytes += len;
    memcpy(r->answer, status, status_len);
    r->answer[status_len] = '\0';
    if (len > 0)
        memcpy(r->answer + status_len + 1, reply, len);
    r->answer[status_len + 1 + len] = '\0';
}

/* ---- assign, release ---- */

enum apply_result delivery_assign(struct state *s, struct state_message *m, const Mailraft__Assignment *a)
{
    if (a->delivery >= m->n_deliveries)
        return APPLY_INVALID;
    struct state_delivery *d = &m->deliveries[a->delivery];
    if (d->state != DELIVERY_READY || a->attempt == 0 || a->attempt != d->attempt + 1)
        return APPLY_STALE;
    enum apply_result r = node_may_run(s, a->node, a->incarnation);
    if (r != APPLIED)
        return r;
    state_touch(s, m);
    /* Off the ready list before the fields are the assignment's. */
    leave(s, d);
    d->attempt = a->attempt;
    d->node = (uint8_t)a->node;
    d->incarnation = a->incarnation;
    d->slot = a->slot;
    d->deadline_for_ms = a->deadline_for_ms;
    d->order = s->assigned.tail == NULL ? STATE_FIRST_ORDER : DELIVERY_OF(s->assigned.tail, in_list)->order + 1;
    delivery_move(s, d, DELIVERY_ASSIGNED, AT_BACK);
    return APPLIED;
}

static enum apply_result find(const struct state *s, ProtobufCBinaryData bytes, struct mr_id *id,
                              struct state_message **out)
{
    if (mr_id_from_bytes(bytes.data, bytes.len, id) != 0)
        return APPLY_INVALID;
    *out = (struct state_message *)(uintptr_t)state_find(s, *id);
    if (*out != NULL)
        return APPLIED;
    return finished_find(s, *id) != NULL ? APPLY_TERMINAL : APPLY_NOT_FOUND;
}

enum apply_result state_assign(struct state *s, const Mailraft__Assign *a)
{
    struct mr_id id;
    struct state_message *m;
    enum apply_result r = find(s, a->id, &id, &m);

    if (r != APPLIED)
        return r;
    return a->assignment == NULL ? APPLY_INVALID : delivery_assign(s, m, a->assignment);
}

enum apply_result state_release(struct state *s, const Mailraft__Release *release)
{
    struct mr_id id;
    struct state_message *m;
    enum apply_result r = find(s, release->id, &id, &m);

    if (r != APPLIED)
        return r;
    if (release->delivery == STATE_RELEASE_NOTICE)
        return notice_release(s, m, release);
    if (release->delivery >= m->n_deliveries)
        return APPLY_INVALID;
    struct state_delivery *d = &m->deliveries[release->delivery];
    if (d->state != DELIVERY_ASSIGNED || d->attempt != release->attempt || d->node != release->node)
        return APPLY_STALE;
    uint32_t node = d->node;
    delivery_requeue(s, d, AT_FRONT);
    if (release->overdue) { /* its node may have written the dot, and has not said */
        s->counts.possibly_in_doubt++;
        TELL(s, in_doubt, id, d->index, d->attempt, node, true);
    }
    return APPLIED;
}
