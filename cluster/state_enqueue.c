/* Enqueue, cancel, and a message's memory. Enqueues in parts: state_parts.c.
 *
 * Happy path: state_enqueue_check -> state_enqueue_do -> state_message_add; each delivery is assigned at once or
 * becomes ready. A check that fails has changed nothing: the same operation, or the operation that carries it, may be
 * proposed again. */
#include "cluster/route.h"
#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

static bool text_valid(const uint8_t *data, size_t len, bool may_be_empty)
{
    if (len == 0)
        return may_be_empty;
    return len <= STATE_MAX_TEXT && memchr(data, '\0', len) == NULL;
}

static bool body_valid(const Mailraft__Body *body)
{
    if (body == NULL || body->checksum.len != 16)
        return false;
    for (size_t i = 0; i < body->n_holders; i++)
        if (body->holders[i] == 0 || body->holders[i] > STATE_MAX_NODES)
            return false;
    return true;
}

/* Every recipient has its delivery and every delivery a recipient, so that each comes to an end. */
static bool recipients_valid(const Mailraft__Enqueue *e)
{
    if (e->n_recipients == 0 || e->n_recipients > STATE_MAX_RECIPIENTS || e->n_next_hops == 0 ||
        e->n_next_hops > e->n_recipients)
        return false;
    for (size_t i = 0; i < e->n_next_hops; i++) {
        size_t len = strnlen(e->next_hops[i], ROUTE_MAX);
        if (len == 0 || len >= ROUTE_MAX)
            return false;
    }
    uint8_t *used = mr_calloc(e->n_next_hops, 1);
    size_t n_used = 0;
    bool valid = true;
    for (size_t i = 0; i < e->n_recipients && valid; i++) {
        const Mailraft__Recipient *r = e->recipients[i];
        valid = r->delivery < e->n_next_hops && text_valid(r->address.data, r->address.len, false) &&
                text_valid(r->orcpt.data, r->orcpt.len, true);
        if (valid && !used[r->delivery]) {
            used[r->delivery] = 1;
            n_used++;
        }
    }
    free(used);
    return valid && n_used == e->n_next_hops;
}

static bool extras_valid(const Mailraft__Enqueue *e)
{
    return e->priority >= STATE_MIN_PRIORITY && e->priority <= STATE_MAX_PRIORITY && e->hold_for_ms <= STATE_MAX_MS &&
           e->deliver_by_for_ms <= STATE_MAX_MS && (unsigned)e->deliver_by <= MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN &&
           strnlen(e->user, STATE_MAX_SITE + 1) <= STATE_MAX_SITE;
}

bool state_enqueue_valid(const Mailraft__Enqueue *e, struct mr_id *id)
{
    return extras_valid(e) && mr_id_from_bytes(e->id.data, e->id.len, id) == 0 && body_valid(e->body) &&
           recipients_valid(e) && text_valid(e->reverse_path.data, e->reverse_path.len, true) &&
           strnlen(e->envid, STATE_MAX_TEXT + 1) <= STATE_MAX_TEXT &&
           strnlen(e->client, STATE_MAX_TEXT + 1) <= STATE_MAX_TEXT;
}

static uint64_t holders_of(const Mailraft__Body *body)
{
    uint64_t holders = 0;

    for (size_t i = 0; i < body->n_holders; i++)
        holders |= UINT64_C(1) << body->holders[i];
    return holders;
}

enum apply_result state_enqueue_check(const struct state *s, const Mailraft__Enqueue *e, struct mr_id *id)
{
    if (!state_enqueue_valid(e, id))
        return APPLY_INVALID;
    for (size_t i = 0; i < e->n_assign; i++)
        if (e->assign[i]->delivery >= e->n_next_hops)
            return APPLY_INVALID;
    if (state_find(s, *id) != NULL)
        return APPLY_DUPLICATE;
    const struct state_finished *finished = finished_find(s, *id);
    if (finished != NULL && !MR_MUTANT(MUTANT_FORGETS_FINISHED))
        return finished->cancelled ? APPLY_CANCELLED : APPLY_DUPLICATE;
    /* Finished ids are remembered for as long as an enqueue is not stale, counted from its stamp
     * (PROTOCOL.md 3.4, 4.2): so a stamp from the future, which no applied state can have given, must not pass. */
    if (e->body->stamp_ms > s->now_ms)
        return APPLY_INVALID;
    if (e->body->stamp_ms + STATE_GRACE_MS < s->now_ms)
        return APPLY_STALE;
    unsigned majority = state_majority(s);
    uint64_t holders = holders_of(e->body) & state_voters(s);
    if (majority == 0 || ((unsigned)__builtin_popcountll(holders) < majority && !MR_MUTANT(MUTANT_ONE_BODY)))
        return APPLY_NOT_MAJORITY;
    return user_check(s, e->user, e->n_recipients);
}

/* ---- a message's memory ---- */

bool state_enqueue_has_extras(const Mailraft__Enqueue *e)
{
    return e->hold_for_ms != 0 || e->deliver_by_for_ms != 0 || e->deliver_by != 0 || e->deliver_by_trace != 0 ||
           e->user[0] != '\0';
}

size_t state_enqueue_texts(const Mailraft__Enqueue *e)
{
    size_t size = e->reverse_path.len + strlen(e->envid) + strlen(e->client) + 3;

    if (state_enqueue_has_extras(e))
        size += strlen(e->user) + 1;
    for (size_t i = 0; i < e->n_recipients; i++)
        size += e->recipients[i]->address.len + e->recipients[i]->orcpt.len + 2;
    return size;
}

static const char *put_text(char **at, const void *data, size_t len)
{
    char *text = *at;

    if (len > 0)
        memcpy(text, data, len);
    text[len] = '\0';
    *at = text + len + 1;
    return text;
}

static void fill_texts(struct state_message *m, const Mailraft__Enqueue *e, char *at)
{
    if (m->has_extras) {
        struct state_extras *x = (struct state_extras *)(uintptr_t)message_extras(m);
        at += sizeof(*x);
        *x = (struct state_extras){
            .hold_for_ms = e->hold_for_ms,
            .deliver_by_for_ms = e->deliver_by_for_ms,
            .user = put_text(&at, e->user, strlen(e->user)),
            .deliver_by = (uint8_t)e->deliver_by,
            .deliver_by_trace = e->deliver_by_trace != 0,
        };
    }
    m->reverse_path = put_text(&at, e->reverse_path.data, e->reverse_path.len);
    m->envid = put_text(&at, e->envid, strlen(e->envid));
    m->client = put_text(&at, e->client, strlen(e->client));
    for (uint32_t i = 0; i < m->n_recipients; i++) {
        const Mailraft__Recipient *from = e->recipients[i];
        struct state_recipient *r = &m->recipients[i];
        r->address = put_text(&at, from->address.data, from->address.len);
        r->address_len = (uint16_t)from->address.len;
        put_text(&at, from->orcpt.data, from->orcpt.len);
        r->delivery = from->delivery;
        r->notify = from->notify;
        m->deliveries[r->delivery].queued++;
    }
}

struct state_message *state_message_add(struct state *s, const Mailraft__Enqueue *e, struct mr_id id, uint64_t sequence)
{
    size_t deliveries = e->n_next_hops * sizeof(struct state_delivery);
    size_t recipients = e->n_recipients * sizeof(struct state_recipient);
    size_t extras = state_enqueue_has_extras(e) ? sizeof(struct state_extras) : 0;
    size_t memory = sizeof(struct state_message) + deliveries + recipients + extras + state_enqueue_texts(e);
    struct state_message *m = mr_calloc(1, memory);

    m->memory = memory;
    m->id = id;
    m->body_length = e->body->length;
    memcpy(m->body_checksum, e->body->checksum.data, sizeof(m->body_checksum));
    m->body_stamp_ms = e->body->stamp_ms;
    m->holders = holders_of(e->body);
    m->arrived_ms = e->arrived_ms;
    m->warn_ms = e->warn_ms;
    m->expire_ms = e->expire_ms;
    m->notice_due_ms = STATE_DUE_NEVER;
    m->ret = e->ret;
    m->flags = e->flags;
    m->acceptor = e->acceptor;
    m->urgency = (uint8_t)(e->priority - STATE_MIN_PRIORITY);
    m->has_extras = extras != 0;
    m->n_recipients = m->queued = (uint32_t)e->n_recipients;
    m->n_deliveries = (uint32_t)e->n_next_hops;
    m->recipients = (struct state_recipient *)(void *)((char *)m->deliveries + deliveries);
    for (uint32_t i = 0; i < m->n_deliveries; i++) {
        m->deliveries[i].index = i;
        m->deliveries[i].hop = next_hop_get(s, e->next_hops[i]);
        m->deliveries[i].state = DELIVERY_DONE; /* until delivery_begin */
    }
    fill_texts(m, e, (char *)m->recipients + recipients);

    state_index_insert(&s->message_index, &m->by_id, id_hash(s, id));
    m->sequence = sequence;
    state_chunks_add(s, m);
    s->counts.messages++;
    s->counts.recipients += m->n_recipients;
    s->counts.body_bytes += m->body_length;
    s->memory += memory;
    s->message_bytes += state_message_bytes(m);
    return m;
}

void state_message_free(struct state *s, struct state_message *m)
{
    state_touch(s, m);
    s->message_bytes -= state_message_bytes(m);
    if (m->notice_kind != MAILRAFT__NOTICE_KIND__NOTICE_NONE)
        state_list_remove(&s->nodes[m->notice_node]->notices, &m->in_node);
    else
        notice_unschedule(s, m);
    for (uint32_t i = 0; i < m->n_deliveries; i++)
        delivery_end(s, &m->deliveries[i]);
    for (uint32_t i = 0; i < m->n_recipients; i++)
        recipient_answer(s, m, i, NULL, 0, "");
    state_index_remove(&s->message_index, &m->by_id);
    state_chunks_remove(s, m);
    s->counts.messages--;
    s->counts.recipients -= m->queued;
    s->counts.body_bytes -= m->body_length;
    s->memory -= m->memory;
    free(m);
}

void state_message_discard(struct state_message *m)
{
    for (uint32_t i = 0; i < m->n_recipients; i++)
        free(m->recipients[i].answer);
    free(m);
}

void state_message_finish(struct state *s, struct state_message *m, uint32_t delivery, uint32_t attempt, uint32_t node)
{
    struct mr_id id = m->id;

    mr_assert(m->queued == 0 && m->assigned == 0);
    state_message_free(s, m);
    struct state_finished *f = finished_add(s, id, s->now_ms, false);
    f->delivery = delivery;
    f->attempt = attempt;
    f->node = (uint8_t)node;
    TELL(s, removed, id);
}

/* ---- operations ---- */

/* FUTURERELEASE (RFC 4865): held mail begins as deferred. */
static void begin_delivery(struct state *s, const struct state_message *m, struct state_delivery *d)
{
    uint64_t hold_for_ms = m->has_extras ? message_extras(m)->hold_for_ms : 0;

    if (hold_for_ms != 0) {
        d->due_ms = (m->arrived_ms < s->now_ms ? m->arrived_ms : s->now_ms) + hold_for_ms;
        delivery_begin(s, d, DELIVERY_DEFERRED);
        return;
    }
    d->order = delivery_order_back(s, d);
    delivery_begin(s, d, DELIVERY_READY);
}

void state_enqueue_do(struct state *s, const Mailraft__Enqueue *e, struct mr_id id)
{
    struct state_parts *parts = state_parts_find(s, id);
    if (parts != NULL)
        state_parts_drop(s, parts);
    struct state_message *m = state_message_add(s, e, id, s->next_sequence++);

    s->counts.accepted++;
    user_charge(s, e->user, e->n_recipients);
    for (uint32_t i = 0; i < m->n_deliveries; i++)
        begin_delivery(s, m, &m->deliveries[i]);
    notice_schedule(s, m, notice_time(m));
    TELL(s, enqueued, m);
    /* An assignment that no longer can be leaves its delivery ready: the message is accepted all the same. */
    for (size_t i = 0; i < e->n_assign; i++)
        (void)delivery_assign(s, m, e->assign[i]);
}

enum apply_result state_enqueue(struct state *s, const Mailraft__Enqueue *e)
{
    struct mr_id id;
    enum apply_result r = state_enqueue_check(s, e, &id);

    if (r == APPLIED)
        state_enqueue_do(s, e, id);
    return r;
}

/* APPLIED means: the message is not in the queue and never will be. Otherwise it is or was: the client may be told 250.
 */
enum apply_result state_cancel(struct state *s, const Mailraft__Cancel *c)
{
    struct mr_id id;

    if (mr_id_from_bytes(c->id.data, c->id.len, &id) != 0)
        return APPLY_INVALID;
    if (state_find(s, id) != NULL)
        return APPLY_DUPLICATE;
    const struct state_finished *f = finished_find(s, id);
    if (f != NULL)
        return f->cancelled ? APPLIED : APPLY_TERMINAL;
    struct state_parts *parts = state_parts_find(s, id);
    if (parts != NULL)
        state_parts_drop(s, parts);
    finished_add(s, id, s->now_ms, true);
    return APPLIED;
}
