/* Delay warnings and expiry (PROTOCOL.md 7.3).
 *
 * Happy path: notice_schedule at enqueue -> its time comes, state_notice_next lists it -> AssignNotice -> Notice.
 * WARN marks the message and schedules the expiry; EXPIRE ends what is still queued. One that cannot be given now
 * (refused, given back) is due again in 60 s of committed time; when its node falls, at once. */
#include "cluster/state_internal.h"
#include "proto/base/panic.h"

static bool wants_warning(const struct state_message *m)
{
    return m->warn_ms != 0 && (m->flags & (MESSAGE_DSN | MESSAGE_WARNED)) == 0 && m->reverse_path[0] != '\0';
}

uint64_t notice_time(const struct state_message *m)
{
    uint64_t due = m->expire_ms != 0 ? m->expire_ms : STATE_DUE_NEVER;

    return wants_warning(m) && m->warn_ms < due ? m->warn_ms : due;
}

void notice_schedule(struct state *s, struct state_message *m, uint64_t due_ms)
{
    m->notice_due_ms = due_ms;
    if (due_ms != STATE_DUE_NEVER)
        state_tree_insert(&s->notices, &m->notice, due_ms, message_sequence(m));
}

void notice_unschedule(struct state *s, struct state_message *m)
{
    if (m->notice_due_ms != STATE_DUE_NEVER)
        state_tree_remove(&s->notices, &m->notice);
}

static Mailraft__NoticeKind wanted(const struct state *s, const struct state_message *m)
{
    if (m->notice_due_ms > s->now_ms)
        return MAILRAFT__NOTICE_KIND__NOTICE_NONE;
    return message_expired(s, m) ? MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE : MAILRAFT__NOTICE_KIND__NOTICE_WARN;
}

bool state_notice_next(const struct state *s, const void **cursor, const struct state_message **out,
                       Mailraft__NoticeKind *kind)
{
    const struct state_message *last = *cursor;
    const struct state_tree_node *next = last == NULL
                                             ? state_tree_first(&s->notices)
                                             : state_tree_after(&s->notices, last->notice.major, last->notice.minor);

    if (next == NULL || next->major > s->now_ms)
        return false;
    *out = *cursor = MR_CONTAINER(next, struct state_message, notice);
    *kind = wanted(s, *out);
    return true;
}

const struct state_message *state_notice_assigned_next(const struct state *s, uint32_t node,
                                                       const struct state_message *after)
{
    const struct state_node *n = node_find(s, node);
    const struct state_link *next = after != NULL ? after->in_node.next : n != NULL ? n->notices.head : NULL;

    return next != NULL ? MR_CONTAINER(next, struct state_message, in_node) : NULL;
}

void notice_assign_to(struct state *s, struct state_message *m, Mailraft__NoticeKind kind, uint32_t node,
                      uint64_t incarnation)
{
    m->notice_kind = (uint8_t)kind;
    m->notice_node = (uint8_t)node;
    m->notice_incarnation = incarnation;
    state_list_append(&s->nodes[node]->notices, &m->in_node);
}

void notice_end(struct state *s, struct state_message *m, uint64_t due_ms)
{
    mr_assert(m->notice_kind != MAILRAFT__NOTICE_KIND__NOTICE_NONE);
    state_touch(s, m);
    state_list_remove(&s->nodes[m->notice_node]->notices, &m->in_node);
    m->notice_kind = MAILRAFT__NOTICE_KIND__NOTICE_NONE;
    m->notice_node = 0;
    m->notice_incarnation = 0;
    notice_schedule(s, m, due_ms);
    TELL(s, notice_ended, m->id);
}

static struct state_message *find(const struct state *s, ProtobufCBinaryData bytes, enum apply_result *result)
{
    struct mr_id id;

    if (mr_id_from_bytes(bytes.data, bytes.len, &id) != 0) {
        *result = APPLY_INVALID;
        return NULL;
    }
    const struct state_message *m = state_find(s, id);
    *result = m != NULL ? APPLIED : finished_find(s, id) != NULL ? APPLY_TERMINAL : APPLY_NOT_FOUND;
    return (struct state_message *)(uintptr_t)m;
}

enum apply_result state_assign_notice(struct state *s, const Mailraft__AssignNotice *a)
{
    enum apply_result r;
    struct state_message *m = find(s, a->id, &r);

    if (m == NULL)
        return r;
    if (a->kind == MAILRAFT__NOTICE_KIND__NOTICE_NONE || m->notice_kind != MAILRAFT__NOTICE_KIND__NOTICE_NONE ||
        a->kind != wanted(s, m) || a->attempt == 0 || a->attempt != m->notice_attempt + 1)
        return APPLY_STALE;
    r = node_may_run(s, a->node, a->incarnation);
    if (r != APPLIED)
        return r;
    state_touch(s, m);
    notice_unschedule(s, m);
    m->notice_attempt = a->attempt;
    notice_assign_to(s, m, a->kind, a->node, a->incarnation);
    TELL(s, notice_assigned, m);
    return APPLIED;
}

static bool running(const struct state_message *m, uint32_t attempt, uint32_t node)
{
    return m->notice_kind != MAILRAFT__NOTICE_KIND__NOTICE_NONE && m->notice_attempt == attempt &&
           m->notice_node == node;
}

enum apply_result notice_release(struct state *s, struct state_message *m, const Mailraft__Release *r)
{
    if (!running(m, r->attempt, r->node))
        return APPLY_STALE;
    notice_end(s, m, s->now_ms + STATE_NOTICE_AGAIN_MS);
    return APPLIED;
}

/* APPLIED; APPLY_INVALID; APPLY_TERMINAL: one of them is terminal already. */
static enum apply_result recipients_check(struct state_message *m, const Mailraft__Notice *n)
{
    enum apply_result r = APPLIED;
    size_t marked = 0;

    for (; marked < n->n_recipients; marked++) {
        if (n->recipients[marked] >= m->n_recipients || m->recipients[n->recipients[marked]].mark != 0) {
            r = APPLY_INVALID;
            break;
        }
        if (m->recipients[n->recipients[marked]].state != RECIPIENT_QUEUED)
            r = APPLY_TERMINAL;
        m->recipients[n->recipients[marked]].mark = 1;
    }
    for (size_t i = 0; i < marked; i++)
        m->recipients[n->recipients[i]].mark = 0;
    return r;
}

static void expire(struct state *s, struct state_message *m, const Mailraft__Notice *n)
{
    for (size_t i = 0; i < n->n_recipients; i++) {
        struct state_recipient *r = &m->recipients[n->recipients[i]];
        if (r->state != RECIPIENT_QUEUED)
            continue;
        recipient_finish(s, m, n->recipients[i], RECIPIENT_EXPIRED);
        if (m->deliveries[r->delivery].queued == 0)
            delivery_move(s, &m->deliveries[r->delivery], DELIVERY_DONE, AT_BACK);
    }
}

enum apply_result state_notice(struct state *s, const Mailraft__Notice *n)
{
    struct mr_id dsn;
    enum apply_result r;
    struct state_message *m = find(s, n->id, &r);

    if (m == NULL)
        return r;
    if (!running(m, n->attempt, n->node) || m->notice_kind != (uint8_t)n->kind)
        return APPLY_STALE;
    r = recipients_check(m, n);
    if (r == APPLY_INVALID)
        return r;
    bool expires = n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE;
    /* A DSN must not tell of a recipient that went another way meanwhile, or may do so by an attempt that runs. A
     * warning is true while one runs, so it does not wait: in a message of many deliveries one always may. */
    if ((r == APPLY_TERMINAL && n->dsn != NULL) || (expires && m->assigned > 0)) {
        notice_end(s, m, s->now_ms + STATE_NOTICE_AGAIN_MS);
        return m->assigned > 0 && r == APPLIED ? APPLY_STALE : APPLY_TERMINAL;
    }
    if (n->n_recipients == 0) { /* given up for now */
        notice_end(s, m, s->now_ms + STATE_NOTICE_AGAIN_MS);
        return APPLIED;
    }
    if (n->dsn != NULL) {
        r = state_enqueue_check(s, n->dsn, &dsn);
        if (r != APPLIED)
            return r; /* still its node's to give */
        state_enqueue_do(s, n->dsn, dsn);
    }
    state_touch(s, m);
    if (!expires) {
        m->flags |= MESSAGE_WARNED;
        notice_end(s, m, notice_time(m));
        return APPLIED;
    }
    expire(s, m, n);
    notice_end(s, m, s->now_ms + STATE_NOTICE_AGAIN_MS);
    if (m->queued == 0)
        state_message_finish(s, m, 0, 0, 0);
    return APPLIED;
}
