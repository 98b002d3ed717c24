/* state_testing.h - for tests of the queue's state and of what stands on it: entries made in a line, effects as text.
 *
 * Thread: a test's. What is built lives until rig_close. */
#ifndef MR_CLUSTER_STATE_TESTING_H
#define MR_CLUSTER_STATE_TESTING_H

#include "cluster/state.h"
#include "cluster/state_arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TESTING __attribute__((unused)) static

struct rig {
    struct state *s;
    uint64_t index;
    uint64_t now; /* stamp of the next entry */
    struct state_arena arena;
    char told[8192]; /* effects since rig_quiet */
};

TESTING void rig_tell(struct rig *rig, const char *format, ...)
{
    size_t len = strlen(rig->told);
    va_list args;

    va_start(args, format);
    vsnprintf(rig->told + len, sizeof(rig->told) - len, format, args);
    va_end(args);
}

TESTING void rig_quiet(struct rig *rig)
{
    rig->told[0] = '\0';
}

/* Message number n of a test, as its id. */
TESTING struct mr_id test_id(uint32_t n)
{
    struct mr_id id = {{0x01}};

    for (int i = 0; i < 4; i++)
        id.bytes[15 - i] = (uint8_t)(n >> (8 * i));
    return id;
}

TESTING uint32_t test_number(struct mr_id id)
{
    return (uint32_t)id.bytes[12] << 24 | (uint32_t)id.bytes[13] << 16 | (uint32_t)id.bytes[14] << 8 | id.bytes[15];
}

TESTING uint32_t number_of(const struct state_message *m)
{
    struct message_view v;

    state_message_view(m, &v);
    return test_number(v.id);
}

/* ---- effects ---- */

TESTING void on_assigned(void *arg, const struct state_message *m, uint32_t delivery)
{
    struct delivery_view d;

    state_delivery_view(m, delivery, &d);
    rig_tell(arg, "assigned %u/%u#%u to %u;", number_of(m), delivery, d.attempt, d.node);
}
TESTING void on_unassigned(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node,
                           uint32_t slot, const char *next_hop)
{
    rig_tell(arg, "unassigned %u/%u#%u from %u slot %u %s;", test_number(id), delivery, attempt, node, slot, next_hop);
}
TESTING void on_notice(void *arg, const struct state_message *m)
{
    struct message_view v;

    state_message_view(m, &v);
    rig_tell(arg, "notice %u kind %d#%u to %u;", number_of(m), (int)v.notice_kind, v.notice_attempt, v.notice_node);
}
TESTING void on_enqueued(void *arg, const struct state_message *m)
{
    rig_tell(arg, "enqueued %u;", number_of(m));
}
TESTING void on_done(void *arg, const struct state_message *m, uint32_t recipient)
{
    struct recipient_view r;

    state_recipient_view(m, recipient, &r);
    rig_tell(arg, "done %u:%u=%d;", number_of(m), recipient, (int)r.state);
}
TESTING void on_removed(void *arg, struct mr_id id)
{
    rig_tell(arg, "removed %u;", test_number(id));
}
TESTING void on_node(void *arg, const struct node_view *node)
{
    rig_tell(arg, "node %u %s %llu;", node->node, node->up ? "up" : "down", (unsigned long long)node->incarnation);
}
TESTING void on_rules(void *arg, const Mailraft__Rules *rules)
{
    rig_tell(arg, "rules %02x;", rules->hash.data[0]);
}
TESTING void on_late(void *arg, struct mr_id id, uint32_t recipient, uint32_t attempt, uint32_t node)
{
    rig_tell(arg, "late %u:%u#%u by %u;", test_number(id), recipient, attempt, node);
}
TESTING void on_doubt(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, bool possibly)
{
    rig_tell(arg, "%sdoubt %u/%u#%u by %u;", possibly ? "possibly " : "", test_number(id), delivery, attempt, node);
}
TESTING void on_outcome(void *arg, uint32_t node, uint32_t slot, const char *next_hop, bool delivered, bool unreached)
{
    (void)slot;
    rig_tell(arg, "outcome %u %s%s%s;", node, next_hop, delivered ? " delivered" : "", unreached ? " unreached" : "");
}

/* An empty state that tells the rig. */
TESTING struct state *rig_state(struct rig *rig)
{
    struct state_observer observer = {
        .arg = rig,
        .assigned = on_assigned,
        .unassigned = on_unassigned,
        .notice_assigned = on_notice,
        .enqueued = on_enqueued,
        .recipient_done = on_done,
        .removed = on_removed,
        .node_changed = on_node,
        .rules_changed = on_rules,
        .late_outcome = on_late,
        .in_doubt = on_doubt,
        .outcome = on_outcome,
    };
    return state_open(&observer);
}

TESTING void rig_open(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    rig->s = rig_state(rig);
    rig->now = 1000000;
}

TESTING void rig_close(struct rig *rig)
{
    state_close(rig->s);
    state_arena_close(&rig->arena);
}

/* ---- building ---- */

TESTING void *build(struct rig *rig, size_t size)
{
    return memset(state_arena_take(&rig->arena, size), 0, size);
}

TESTING ProtobufCBinaryData bytes_of(struct rig *rig, const void *data, size_t len)
{
    uint8_t *copy = build(rig, len + 1);

    memcpy(copy, data, len);
    return (ProtobufCBinaryData){.len = len, .data = copy};
}

TESTING ProtobufCBinaryData id_bytes(struct rig *rig, uint32_t n)
{
    struct mr_id id = test_id(n);
    return bytes_of(rig, id.bytes, sizeof(id.bytes));
}

#define BUILD(rig, type, init, var)                                                                                    \
    type *var = build(rig, sizeof(type));                                                                              \
    init(var)

TESTING Mailraft__Op *new_op(struct rig *rig, Mailraft__Op__KindCase kind)
{
    BUILD(rig, Mailraft__Op, mailraft__op__init, op);
    op->kind_case = kind;
    return op;
}

TESTING size_t pack_batch(struct rig *rig, uint64_t stamp, Mailraft__Op **ops, size_t n, uint8_t **out)
{
    Mailraft__Batch batch = MAILRAFT__BATCH__INIT;

    batch.stamp_ms = stamp;
    batch.n_ops = n;
    batch.ops = ops;
    *out = build(rig, mailraft__batch__get_packed_size(&batch) + 1);
    return mailraft__batch__pack(&batch, *out);
}

/* One operation in an entry of its own; negative: an error of state_apply. Checks every invariant afterwards. */
TESTING int apply(struct rig *rig, Mailraft__Op *op)
{
    uint8_t *data, result = 0xff;
    size_t n = 1, len = pack_batch(rig, rig->now, op == NULL ? NULL : &op, op == NULL ? 0 : 1, &data);
    int r = state_apply(rig->s, ++rig->index, data, len, &result, &n);

    state_check(rig->s);
    return r != 0 ? r : op == NULL ? 0 : result;
}

/* An empty entry: time passes. */
TESTING void pass(struct rig *rig, uint64_t ms)
{
    rig->now += ms;
    (void)apply(rig, NULL);
}

struct mail {
    uint32_t n;            /* number: its id */
    unsigned recipients;   /* 0: 1 */
    unsigned hops;         /* 0: 1; recipient i goes by hop i % hops */
    const char *hop;       /* NULL: "mx:hop<i>.example" */
    unsigned holders;      /* the first so many nodes; 0: 2 */
    const char *from;      /* NULL: a sender; "": null */
    uint64_t warn, expire; /* 0: never */
    int64_t stamp_back;    /* ms before now */
    uint32_t flags;
    uint32_t assign_node; /* not 0: delivery 0 is assigned by the enqueue */
    uint64_t assign_incarnation;
    size_t padding; /* bytes added to each address */
    int32_t priority;
    uint64_t hold, deliver_by;
    Mailraft__DeliverBy deliver_by_mode;
    const char *user; /* NULL: "" */
};

TESTING Mailraft__Assignment *assignment(struct rig *rig, uint32_t delivery, uint32_t attempt, uint32_t node,
                                         uint64_t incarnation)
{
    BUILD(rig, Mailraft__Assignment, mailraft__assignment__init, a);
    a->delivery = delivery;
    a->attempt = attempt;
    a->node = node;
    a->incarnation = incarnation;
    a->slot = node * 10;
    a->deadline_for_ms = 60000;
    return a;
}

TESTING char *text(struct rig *rig, const char *format, ...)
{
    char *out = build(rig, 128);
    va_list args;

    va_start(args, format);
    vsnprintf(out, 128, format, args);
    va_end(args);
    return out;
}

TESTING Mailraft__Body *body_of(struct rig *rig, struct mail mail)
{
    BUILD(rig, Mailraft__Body, mailraft__body__init, body);
    uint8_t sum[16] = {(uint8_t)mail.n, 1, 2, 3};
    unsigned holders = mail.holders == 0 ? 2 : mail.holders;

    body->length = 1000 + mail.n;
    body->checksum = bytes_of(rig, sum, sizeof(sum));
    body->stamp_ms = (uint64_t)((int64_t)rig->now - mail.stamp_back);
    body->n_holders = holders;
    body->holders = build(rig, holders * sizeof(uint32_t));
    for (unsigned i = 0; i < holders; i++)
        body->holders[i] = i + 1;
    return body;
}

TESTING Mailraft__Enqueue *enqueue_of(struct rig *rig, struct mail mail)
{
    BUILD(rig, Mailraft__Enqueue, mailraft__enqueue__init, e);
    const char *from = mail.from == NULL ? "sender@example.net" : mail.from;

    e->id = id_bytes(rig, mail.n);
    e->body = body_of(rig, mail);
    e->reverse_path = bytes_of(rig, from, strlen(from));
    e->n_recipients = mail.recipients == 0 ? 1 : mail.recipients;
    e->n_next_hops = mail.hops == 0 ? 1 : mail.hops;
    e->recipients = build(rig, e->n_recipients * sizeof(void *));
    e->next_hops = build(rig, e->n_next_hops * sizeof(char *));
    for (size_t i = 0; i < e->n_recipients; i++) {
        BUILD(rig, Mailraft__Recipient, mailraft__recipient__init, r);
        char *address = build(rig, 64 + mail.padding);
        int len = snprintf(address, 64, "user%zu@hop%zu.example", i, i % e->n_next_hops);
        memset(address + len, 'x', mail.padding);
        r->address = (ProtobufCBinaryData){.len = (size_t)len + mail.padding, .data = (uint8_t *)address};
        r->delivery = (uint32_t)(i % e->n_next_hops);
        r->notify = (uint32_t)(i % 3);
        if (i % 2 == 1)
            r->orcpt = bytes_of(rig, "rfc822;a@b", 10);
        e->recipients[i] = r;
    }
    for (size_t i = 0; i < e->n_next_hops; i++)
        e->next_hops[i] = mail.hop != NULL ? (char *)(uintptr_t)mail.hop : text(rig, "mx:hop%zu.example", i);
    e->flags = mail.flags;
    e->acceptor = 1;
    e->arrived_ms = rig->now;
    e->warn_ms = mail.warn;
    e->expire_ms = mail.expire;
    e->client = text(rig, "client [192.0.2.%u]", mail.n % 250);
    e->envid = text(rig, "%s", mail.n % 2 == 0 ? "env" : "");
    e->priority = mail.priority;
    e->hold_for_ms = mail.hold;
    e->deliver_by_for_ms = mail.deliver_by;
    e->deliver_by = mail.deliver_by_mode;
    e->deliver_by_trace = mail.deliver_by_mode != 0 && mail.n % 2 == 0;
    e->user = text(rig, "%s", mail.user == NULL ? "" : mail.user);
    if (mail.assign_node != 0) {
        e->n_assign = 1;
        e->assign = build(rig, sizeof(void *));
        e->assign[0] = assignment(rig, 0, 1, mail.assign_node, mail.assign_incarnation);
    }
    return e;
}

TESTING int enqueue(struct rig *rig, struct mail mail)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_ENQUEUE);
    op->enqueue = enqueue_of(rig, mail);
    return apply(rig, op);
}

TESTING Mailraft__Op *assign_op(struct rig *rig, uint32_t n, uint32_t delivery, uint32_t attempt, uint32_t node,
                                uint64_t incarnation)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_ASSIGN);
    BUILD(rig, Mailraft__Assign, mailraft__assign__init, a);
    a->id = id_bytes(rig, n);
    a->assignment = assignment(rig, delivery, attempt, node, incarnation);
    op->assign = a;
    return op;
}

TESTING int assign(struct rig *rig, uint32_t n, uint32_t delivery, uint32_t attempt, uint32_t node,
                   uint64_t incarnation)
{
    return apply(rig, assign_op(rig, n, delivery, attempt, node, incarnation));
}

/* results: a letter for each recipient of the delivery in order: d, t (deferred), f, n (none), - (left out). */
TESTING Mailraft__Outcome *outcome_of(struct rig *rig, uint32_t n, uint32_t delivery, uint32_t attempt, uint32_t node,
                                      const char *results, unsigned hops)
{
    BUILD(rig, Mailraft__Outcome, mailraft__outcome__init, o);
    o->id = id_bytes(rig, n);
    o->delivery = delivery;
    o->attempt = attempt;
    o->node = node;
    o->results = build(rig, (strlen(results) + 1) * sizeof(void *));
    for (uint32_t i = 0; results[i] != '\0'; i++) {
        BUILD(rig, Mailraft__RecipientResult, mailraft__recipient_result__init, r);
        if (results[i] == '-')
            continue;
        r->recipient = delivery + i * hops;
        r->result = results[i] == 'd'   ? MAILRAFT__RESULT__DELIVERED
                    : results[i] == 't' ? MAILRAFT__RESULT__DEFERRED
                    : results[i] == 'f' ? MAILRAFT__RESULT__FAILED
                                        : MAILRAFT__RESULT__RESULT_NONE;
        const char *reply = results[i] == 'd' ? "250 ok" : results[i] == 't' ? "451 later" : "550 no";
        r->reply = bytes_of(rig, reply, strlen(reply));
        r->status = text(rig, "%c.0.0", reply[0]);
        o->results[o->n_results++] = r;
    }
    o->retry_for_ms = 300000;
    return o;
}

TESTING int outcome_apply(struct rig *rig, Mailraft__Outcome *o)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_OUTCOME);
    op->outcome = o;
    return apply(rig, op);
}

TESTING int outcome(struct rig *rig, uint32_t n, uint32_t delivery, uint32_t attempt, uint32_t node,
                    const char *results)
{
    return outcome_apply(rig, outcome_of(rig, n, delivery, attempt, node, results, 1));
}

TESTING Mailraft__Op *release_op(struct rig *rig, uint32_t n, uint32_t delivery, uint32_t attempt, uint32_t node)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_RELEASE);
    BUILD(rig, Mailraft__Release, mailraft__release__init, r);
    r->id = id_bytes(rig, n);
    r->delivery = delivery;
    r->attempt = attempt;
    r->node = node;
    op->release = r;
    return op;
}

TESTING int cancel(struct rig *rig, uint32_t n)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_CANCEL);
    BUILD(rig, Mailraft__Cancel, mailraft__cancel__init, c);
    c->id = id_bytes(rig, n);
    c->stamp_ms = rig->now;
    op->cancel = c;
    return apply(rig, op);
}

TESTING Mailraft__NodeUp *node_up_of(struct rig *rig, uint32_t node, uint64_t incarnation)
{
    BUILD(rig, Mailraft__NodeUp, mailraft__node_up__init, up);
    up->node = node;
    up->name = text(rig, "mx%u", node);
    up->directory = id_bytes(rig, 0xd0000000 + node);
    up->incarnation = incarnation;
    up->version = text(rig, "0.1");
    return up;
}

TESTING int node_up_apply(struct rig *rig, Mailraft__NodeUp *up)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_NODE_UP);
    op->node_up = up;
    return apply(rig, op);
}

TESTING int node_up(struct rig *rig, uint32_t node, uint64_t incarnation)
{
    return node_up_apply(rig, node_up_of(rig, node, incarnation));
}

TESTING int node_down(struct rig *rig, uint32_t node, uint64_t incarnation)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_NODE_DOWN);
    BUILD(rig, Mailraft__NodeDown, mailraft__node_down__init, down);
    down->node = node;
    down->incarnation = incarnation;
    op->node_down = down;
    return apply(rig, op);
}

TESTING Mailraft__Form *form_of(struct rig *rig, unsigned n)
{
    BUILD(rig, Mailraft__Form, mailraft__form__init, form);
    form->cluster = id_bytes(rig, 0xc0000000);
    form->n_members = n;
    form->members = build(rig, n * sizeof(void *));
    for (unsigned i = 0; i < n; i++) {
        BUILD(rig, Mailraft__Member, mailraft__member__init, m);
        m->node = i + 1;
        m->name = text(rig, "mx%u", i + 1);
        m->directory = id_bytes(rig, 0xd0000001 + i);
        m->address = text(rig, "127.0.0.1:%u", 7400 + i);
        form->members[i] = m;
    }
    return form;
}

TESTING int form(struct rig *rig, unsigned n)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_FORM);
    op->form = form_of(rig, n);
    return apply(rig, op);
}

TESTING int assign_notice(struct rig *rig, uint32_t n, Mailraft__NoticeKind kind, uint32_t attempt, uint32_t node,
                          uint64_t incarnation)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_ASSIGN_NOTICE);
    BUILD(rig, Mailraft__AssignNotice, mailraft__assign_notice__init, a);
    a->id = id_bytes(rig, n);
    a->kind = kind;
    a->attempt = attempt;
    a->node = node;
    a->incarnation = incarnation;
    op->assign_notice = a;
    return apply(rig, op);
}

/* Names recipients 0..recipients-1. */
TESTING int notice(struct rig *rig, uint32_t n, Mailraft__NoticeKind kind, uint32_t attempt, uint32_t node,
                   unsigned recipients, Mailraft__Enqueue *dsn)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_NOTICE);
    BUILD(rig, Mailraft__Notice, mailraft__notice__init, to);
    to->id = id_bytes(rig, n);
    to->kind = kind;
    to->attempt = attempt;
    to->node = node;
    to->n_recipients = recipients;
    to->recipients = build(rig, (recipients + 1) * sizeof(uint32_t));
    for (unsigned i = 0; i < recipients; i++)
        to->recipients[i] = i;
    to->dsn = dsn;
    op->notice = to;
    return apply(rig, op);
}

TESTING Mailraft__Rules *rules_of(struct rig *rig, uint8_t hash)
{
    BUILD(rig, Mailraft__Rules, mailraft__rules__init, rules);
    uint8_t sum[16] = {hash};
    BUILD(rig, Mailraft__Route, mailraft__route__init, route);
    BUILD(rig, Mailraft__Limit, mailraft__limit__init, limit);
    route->domain = text(rig, "default");
    route->route = text(rig, "mx");
    limit->site = text(rig, "default");
    limit->connections = 20;
    limit->rate = 1.5;
    rules->hash = bytes_of(rig, sum, sizeof(sum));
    rules->routes = build(rig, sizeof(void *));
    rules->limits = build(rig, sizeof(void *));
    rules->routes[0] = route;
    rules->limits[0] = limit;
    rules->n_routes = rules->n_limits = 1;
    rules->retry_factor = 2;
    return rules;
}

TESTING Mailraft__UserLimit *user_limit(struct rig *rig, const char *user, uint32_t limit)
{
    BUILD(rig, Mailraft__UserLimit, mailraft__user_limit__init, out);
    out->user = text(rig, "%s", user);
    out->recipients_per_hour = limit;
    return out;
}

/* Rules with a limit for "default" and one for "bulk"; 0: unlimited. */
TESTING Mailraft__Rules *limits_of(struct rig *rig, uint8_t hash, uint32_t usual, uint32_t bulk)
{
    Mailraft__Rules *rules = rules_of(rig, hash);

    rules->n_user_limits = 2;
    rules->user_limits = build(rig, 2 * sizeof(void *));
    rules->user_limits[0] = user_limit(rig, "default", usual);
    rules->user_limits[1] = user_limit(rig, "bulk", bulk);
    return rules;
}

TESTING int rules_apply(struct rig *rig, Mailraft__Rules *rules)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_RULES);
    op->rules = rules;
    return apply(rig, op);
}

TESTING Mailraft__Op *set_version_op(struct rig *rig, uint32_t version)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_SET_VERSION);
    BUILD(rig, Mailraft__SetVersion, mailraft__set_version__init, v);
    v->version = version;
    op->set_version = v;
    return op;
}

/* fails: STARTTLS, for so many ms; 0: nothing is said of that. */
TESTING Mailraft__Op *site_op(struct rig *rig, const char *site, uint64_t fails)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_SITE_MEMORY);
    BUILD(rig, Mailraft__SiteMemory, mailraft__site_memory__init, m);
    m->site = text(rig, "%s", site);
    m->tls_failed_for_ms = fails;
    if (fails != 0)
        m->tls_reason = text(rig, "no shared cipher");
    op->site_memory = m;
    return op;
}

TESTING Mailraft__StsPolicy *sts_of(struct rig *rig, const char *id, uint32_t mode, unsigned n_mx, uint64_t max_age)
{
    BUILD(rig, Mailraft__StsPolicy, mailraft__sts_policy__init, sts);
    sts->id = text(rig, "%s", id);
    sts->mode = mode;
    sts->n_mx = n_mx;
    sts->mx = build(rig, (n_mx + 1) * sizeof(char *));
    for (unsigned i = 0; i < n_mx; i++)
        sts->mx[i] = text(rig, "mx%u.example", i);
    sts->max_age_for_ms = max_age;
    return sts;
}

/* Three voters, all up in their first life. */
TESTING void rig_cluster(struct rig *rig)
{
    rig_open(rig);
    (void)form(rig, 3);
    for (uint32_t i = 1; i <= 3; i++)
        (void)node_up(rig, i, 1);
    rig_quiet(rig);
}

TESTING struct delivery_view delivery_of(struct rig *rig, uint32_t n, uint32_t delivery)
{
    struct delivery_view v = {0};
    const struct state_message *m = state_find(rig->s, test_id(n));

    if (m != NULL)
        state_delivery_view(m, delivery, &v);
    return v;
}

/* Numbers of the messages ready for a next hop, in order: "3 1 2". */
TESTING char *ready_of(struct rig *rig, const char *hop)
{
    char *out = build(rig, 4096);
    const void *cursor = NULL;
    struct ready_delivery d;
    const struct state_next_hop *h = state_next_hop_find(rig->s, hop);

    while (h != NULL && state_ready_next(h, &cursor, &d) && strlen(out) < 4000)
        snprintf(out + strlen(out), 16, "%s%u", out[0] != '\0' ? " " : "", number_of(d.message));
    return out;
}

#endif
