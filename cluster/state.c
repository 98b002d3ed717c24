/* The replicated queue: its life and its readers. The map of the files is in state_internal.h. */
#include "cluster/state.h"

#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

const char *apply_result_text(enum apply_result r)
{
    static const char *const texts[] = {
        [APPLIED] = "applied",
        [APPLY_DUPLICATE] = "present already",
        [APPLY_CANCELLED] = "cancelled before",
        [APPLY_STALE] = "too old",
        [APPLY_NOT_MAJORITY] = "body not held by a majority of the voters",
        [APPLY_NOT_FOUND] = "not found",
        [APPLY_TERMINAL] = "terminal already",
        [APPLY_INVALID] = "invalid",
        [APPLY_OLD_INCARNATION] = "not the incarnation in force",
        [APPLY_QUOTA] = "over the user's recipients in an hour",
        [APPLY_VERSION] = "not known to all members yet",
        [APPLY_FULL] = "the queue is full",
    };
    return (size_t)r < sizeof(texts) / sizeof(texts[0]) ? texts[r] : "unknown result";
}

void state_init_contents(struct state *s)
{
    struct mr_id random = mr_id_random();

    memcpy(&s->seed, random.bytes, sizeof(s->seed));
    s->version = 1;
    s->next_sequence = 1;
    s->chunks.next_number = 1;
    s->sites.next_number = 1;
    state_index_init(&s->message_index);
    state_index_init(&s->hop_index);
    state_index_init(&s->finished.index);
    state_index_init(&s->parts.index);
    state_index_init(&s->sites.index);
    state_index_init(&s->users.index);
}

void state_close_contents(struct state *s)
{
    mr_assert(s->held == NULL);
    /* Nothing is taken out of lists and trees that go as a whole: it takes as long as it is. */
    state_chunks_close(s);
    next_hops_close(s);
    while (s->parts.all.tail != NULL)
        state_parts_drop(s, MR_CONTAINER(s->parts.all.tail, struct state_parts, in_all));
    finished_close(s);
    for (uint32_t i = 1; i <= STATE_MAX_NODES; i++)
        if (s->nodes[i] != NULL)
            node_free(s->nodes[i]);
    sites_close(s);
    users_close(s);
    if (s->rules != NULL)
        mailraft__rules__free_unpacked(s->rules, NULL);
    state_index_close(&s->message_index);
    state_index_close(&s->hop_index);
    state_index_close(&s->parts.index);
    state_arena_close(&s->arena);
}

struct state *state_open(const struct state_observer *observer)
{
    struct state *s = mr_calloc(1, sizeof(*s));

    if (observer != NULL)
        s->observer = *observer;
    state_init_contents(s);
    return s;
}

void state_close(struct state *s)
{
    if (s == NULL)
        return;
    state_close_contents(s);
    free(s);
}

/* ---- reading: the whole ---- */

uint64_t state_index(const struct state *s)
{
    return s->index;
}

uint64_t state_now_ms(const struct state *s)
{
    return s->now_ms;
}

struct mr_id state_cluster(const struct state *s)
{
    return s->cluster;
}

const Mailraft__Rules *state_rules(const struct state *s)
{
    return s->rules;
}

uint32_t state_version(const struct state *s)
{
    return s->version;
}

static void earlier(uint64_t *due, uint64_t at)
{
    if (at < *due)
        *due = at;
}

uint64_t state_next_due_ms(const struct state *s)
{
    uint64_t due = UINT64_MAX;
    const struct state_delivery *d = delivery_first_due(s);
    /* A notice that is due already needs no entry: it is listed, and waits for the scheduler. */
    const struct state_tree_node *notice = state_tree_after(&s->notices, s->now_ms, UINT64_MAX);

    if (d != NULL)
        earlier(&due, d->due_ms);
    if (notice != NULL)
        earlier(&due, notice->major);
    if (s->finished.count > 0)
        earlier(&due, finished_first(s)->finished_ms + STATE_GRACE_MS + 1);
    if (s->parts.all.head != NULL)
        earlier(&due, MR_CONTAINER(s->parts.all.head, struct state_parts, in_all)->begun_ms + STATE_GRACE_MS + 1);
    return due;
}

void state_counts(const struct state *s, struct state_counts *out)
{
    *out = s->counts;
    out->finished = s->finished.count;
    out->sites = s->sites.index.count;
    out->users = s->users.index.count;
    out->memory_bytes = s->memory + sizeof(*s) + state_index_memory(&s->message_index) +
                        state_index_memory(&s->hop_index) + state_index_memory(&s->finished.index) +
                        state_index_memory(&s->sites.index) + state_index_memory(&s->users.index);
}

/* ---- reading: messages ---- */

const struct state_message *state_find(const struct state *s, struct mr_id id)
{
    struct state_index_node *n = state_index_first(&s->message_index, id_hash(s, id));

    for (; n != NULL; n = state_index_next(n)) {
        const struct state_message *m = MR_CONTAINER(n, struct state_message, by_id);
        if (mr_id_equal(m->id, id))
            return m;
    }
    return NULL;
}

bool state_is_finished(const struct state *s, struct mr_id id, bool *cancelled)
{
    const struct state_finished *f = finished_find(s, id);

    if (f != NULL && cancelled != NULL)
        *cancelled = f->cancelled;
    return f != NULL;
}

const struct state_message *state_next_message(const struct state *s, uint64_t after)
{
    return state_chunks_after(s, after);
}

void state_message_view(const struct state_message *m, struct message_view *out)
{
    *out = (struct message_view){
        .id = m->id,
        .sequence = message_sequence(m),
        .body_length = m->body_length,
        .body_stamp_ms = m->body_stamp_ms,
        .holders = m->holders,
        .reverse_path = m->reverse_path,
        .envid = m->envid,
        .client = m->client,
        .ret = m->ret,
        .flags = m->flags,
        .acceptor = m->acceptor,
        .arrived_ms = m->arrived_ms,
        .warn_ms = m->warn_ms,
        .expire_ms = m->expire_ms,
        .priority = message_priority(m),
        .user = "",
        .n_recipients = m->n_recipients,
        .n_deliveries = m->n_deliveries,
        .n_assigned = m->assigned,
        .notice_kind = m->notice_kind,
        .notice_attempt = m->notice_attempt,
        .notice_node = m->notice_node,
        .notice_incarnation = m->notice_incarnation,
    };
    memcpy(out->body_checksum, m->body_checksum, sizeof(out->body_checksum));
    if (!m->has_extras)
        return;
    const struct state_extras *x = message_extras(m);
    out->release_ms = x->hold_for_ms != 0 ? m->arrived_ms + x->hold_for_ms : 0;
    out->deliver_by = x->deliver_by;
    out->deliver_by_ms = x->deliver_by != 0 ? m->arrived_ms + x->deliver_by_for_ms : 0;
    out->deliver_by_trace = x->deliver_by_trace;
    out->user = x->user;
}

void state_recipient_view(const struct state_message *m, uint32_t recipient, struct recipient_view *out)
{
    mr_assert(recipient < m->n_recipients);
    const struct state_recipient *r = &m->recipients[recipient];
    *out = (struct recipient_view){
        .address = r->address,
        .address_len = r->address_len,
        .delivery = r->delivery,
        .state = r->state,
        .status = r->answer != NULL ? r->answer : "",
        .reply = r->answer != NULL ? r->answer + strlen(r->answer) + 1 : "",
        .orcpt = r->address + r->address_len + 1,
        .notify = r->notify,
    };
}

void state_delivery_view(const struct state_message *m, uint32_t delivery, struct delivery_view *out)
{
    mr_assert(delivery < m->n_deliveries);
    const struct state_delivery *d = &m->deliveries[delivery];
    *out = (struct delivery_view){
        .next_hop = d->hop->name,
        .state = d->state,
        .attempt = d->attempt,
        .failures = d->failures,
        .due_ms = d->state != DELIVERY_DEFERRED || d->due_ms == STATE_DUE_NEVER ? 0 : d->due_ms,
        .assigned_ms = d->state == DELIVERY_ASSIGNED ? d->due_ms : 0,
        .node = d->node,
        .incarnation = d->incarnation,
        .slot = d->slot,
        .deadline_for_ms = d->deadline_for_ms,
        .queued = d->queued,
        .avoid_node = d->avoid_node,
    };
}

/* ---- reading: next hops and lists ---- */

const struct state_next_hop *state_next_hop_next(const struct state *s, const struct state_next_hop *after)
{
    const struct state_link *link = after == NULL ? s->hops.head : after->in_all.next;
    return link == NULL ? NULL : MR_CONTAINER(link, struct state_next_hop, in_all);
}

const struct state_next_hop *state_ready_next_hop(const struct state *s, const struct state_next_hop *after)
{
    const struct state_link *link = after == NULL ? s->ready_hops.head : after->in_ready_hops.next;
    return link == NULL ? NULL : MR_CONTAINER(link, struct state_next_hop, in_ready_hops);
}

void state_next_hop_view(const struct state_next_hop *h, struct next_hop_view *out)
{
    const struct state_tree_node *due = state_tree_first(&h->deferred);

    *out = (struct next_hop_view){
        .name = h->name,
        .ready = h->n_ready,
        .assigned = h->assigned,
        .deferred = h->deferred.count,
        .held = h->held,
        .next_due_ms = due == NULL || due->major == STATE_DUE_NEVER ? 0 : due->major,
        .last_reply = h->last_reply != NULL ? h->last_reply : "",
    };
    const struct state_delivery *first = ready_first(h);
    if (first != NULL)
        out->oldest_ms = delivery_message(first)->arrived_ms;
}

static bool give_delivery(const struct state_delivery *d, const void **cursor, struct ready_delivery *out)
{
    *cursor = d;
    *out = (struct ready_delivery){.message = delivery_message(d), .delivery = d->index};
    return true;
}

bool state_ready_next(const struct state_next_hop *h, const void **cursor, struct ready_delivery *out)
{
    const struct state_delivery *last = *cursor;
    const struct state_delivery *next = last == NULL ? ready_first(h) : ready_after(last);
    return next != NULL && give_delivery(next, cursor, out);
}

bool state_assigned_next(const struct state *s, uint32_t node, const void **cursor, struct ready_delivery *out)
{
    const struct state_delivery *last = *cursor;
    const struct state_node *n = node_find(s, node);
    const struct state_link *link;

    if (node == 0) {
        link = last == NULL ? s->assigned.head : last->in_list.next;
        return link != NULL && give_delivery(DELIVERY_OF(link, in_list), cursor, out);
    }
    if (n == NULL)
        return false;
    link = last == NULL ? n->assigned.head : last->in_node.next;
    return link != NULL && give_delivery(DELIVERY_OF(link, in_node), cursor, out);
}
