/* What the leader assigned to this node, on its way to the workers; and which connections to next hops are open.
 *
 * Happy path: applied assignment -> struct attempt (one allocation) -> the worker that its slot belongs to -> outcome
 * or release proposed -> its fate known -> core_attempts_end. A slot stays with one worker: the worker is chosen by
 * next hop and slot number. */
#include "cluster/core.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

/* ---- one allocation for a struct with strings ---- */

struct packer {
    char *at;
    size_t left;
};

static const char *pack_string(struct packer *p, const char *s, size_t len)
{
    char *start = p->at;
    mr_assert(len + 1 <= p->left);
    if (len > 0)
        memcpy(start, s, len);
    start[len] = 0;
    p->at += len + 1;
    p->left -= len + 1;
    return start;
}

static const char *pack_text(struct packer *p, const char *s)
{
    return pack_string(p, s == NULL ? "" : s, s == NULL ? 0 : strlen(s));
}

static size_t text_size(const char *s)
{
    return s == NULL ? 1 : strlen(s) + 1;
}

/* ---- running ---- */

static struct core_running **running_bucket(struct cluster *c, struct mr_id id)
{
    return &c->running[mr_id_hash(id) % CORE_SLOT_BUCKETS];
}

struct core_running *core_attempts_find(struct cluster *c, struct mr_id id, uint32_t delivery, uint32_t attempt,
                                        bool notice)
{
    for (struct core_running *r = *running_bucket(c, id); r != NULL; r = r->next)
        if (mr_id_equal(r->id, id) && r->delivery == delivery && r->attempt == attempt && r->notice == notice)
            return r;
    return NULL;
}

static void drop_running(struct core_running *r)
{
    if (atomic_fetch_sub(&r->references, 1) == 1)
        free(r);
}

static struct core_running *add_running(struct cluster *c, struct mr_id id, uint32_t delivery, uint32_t attempt,
                                        bool notice)
{
    struct core_running **bucket = running_bucket(c, id);
    struct core_running *r = mr_calloc(1, sizeof(*r));
    atomic_init(&r->references, 1);
    r->id = id;
    r->delivery = delivery;
    r->attempt = attempt;
    r->notice = notice;
    r->next = *bucket;
    *bucket = r;
    c->n_running++;
    return r;
}

bool core_attempts_is_assigned(const struct cluster *c, const struct core_running *r)
{
    const struct state_message *m = state_find(c->state, r->id);
    struct message_view mv;
    struct delivery_view dv;
    if (m == NULL)
        return false;
    state_message_view(m, &mv);
    if (r->notice)
        return mv.notice_kind != MAILRAFT__NOTICE_KIND__NOTICE_NONE && mv.notice_node == c->self &&
               mv.notice_attempt == r->attempt;
    if (r->delivery >= mv.n_deliveries)
        return false;
    state_delivery_view(m, r->delivery, &dv);
    return dv.node == c->self && dv.attempt == r->attempt;
}

/* When the leader told the fate, our own state may be behind it, and a snapshot may be restored that is newer than the
 * state and older than the end: it names the attempt as ours again. It must not run twice, so it is remembered until
 * the state has moved on. */
void core_attempts_end(struct cluster *c, struct mr_id id, uint32_t delivery, uint32_t attempt, bool notice)
{
    struct core_running *r = core_attempts_find(c, id, delivery, attempt, notice);
    struct core_running **link = running_bucket(c, id);
    if (r == NULL || r->ended)
        return;
    c->n_running--;
    if (core_attempts_is_assigned(c, r)) {
        unsigned bucket = (unsigned)(link - c->running);
        r->ended = true;
        c->n_ended++;
        c->ended_in[bucket / 64] |= (uint64_t)1 << bucket % 64;
        return;
    }
    while (*link != r)
        link = &(*link)->next;
    *link = r->next;
    drop_running(r);
}

unsigned core_bucket_next(const core_bucket_bits bits, unsigned from)
{
    for (unsigned word = from / 64; word < CORE_SLOT_BUCKETS / 64; word++) {
        uint64_t left = bits[word];
        if (word == from / 64)
            left &= UINT64_MAX << from % 64;
        if (left != 0)
            return word * 64 + (unsigned)__builtin_ctzll(left);
    }
    return CORE_SLOT_BUCKETS;
}

/* True: ended ones are left in it. */
static bool forget_ended(struct cluster *c, struct core_running **link)
{
    bool left = false;
    for (struct core_running *r; (r = *link) != NULL;) {
        if (!r->ended || core_attempts_is_assigned(c, r)) {
            left = left || r->ended;
            link = &r->next;
            continue;
        }
        *link = r->next;
        drop_running(r);
        c->n_ended--;
    }
    return left;
}

void core_attempts_tick(struct cluster *c)
{
    for (unsigned i = 0; (i = core_bucket_next(c->ended_in, i)) < CORE_SLOT_BUCKETS; i++)
        if (!forget_ended(c, &c->running[i]))
            c->ended_in[i / 64] &= ~((uint64_t)1 << i % 64);
}

/* ---- withdrawn (PROTOCOL.md 5.11) ---- */

/* The attempt itself is its worker's, which may be ending it: the two share r alone. */
static void withdraw(struct core_running *r)
{
    if (r->notice || r->ended || r->ending || atomic_load(&r->withdrawn))
        return;
    atomic_store(&r->withdrawn, true);
    core_port_withdrawn(r->port);
    if (log_enabled(LOG_INFO)) {
        char text[MR_ID_TEXT + 1];
        log_event(LOG_INFO, "withdrawn", LOG_S("id", mr_id_format(r->id, text)), LOG_N("delivery", r->delivery),
                  LOG_N("attempt", r->attempt));
    }
}

void core_attempts_unassigned(struct cluster *c, struct mr_id id, uint32_t delivery, uint32_t attempt)
{
    struct core_running *r = core_attempts_find(c, id, delivery, attempt, false);
    if (r != NULL)
        withdraw(r);
}

void core_attempts_recipient_done(struct cluster *c, const struct state_message *m, uint32_t recipient)
{
    struct recipient_view rv;
    struct delivery_view dv;
    struct message_view mv;
    state_recipient_view(m, recipient, &rv);
    state_delivery_view(m, rv.delivery, &dv);
    if (dv.node != c->self)
        return;
    state_message_view(m, &mv);
    core_attempts_unassigned(c, mv.id, rv.delivery, dv.attempt);
}

bool cluster_withdrawn(const struct attempt *a)
{
    return a->running != NULL && atomic_load(&a->running->withdrawn);
}

/* ---- slots ---- */

static uint64_t name_hash(const char *next_hop)
{
    return XXH3_64bits(next_hop, strlen(next_hop));
}

static unsigned slot_bucket(const char *next_hop)
{
    return (unsigned)(name_hash(next_hop) % CORE_SLOT_BUCKETS);
}

static struct core_slot **find_slot(struct cluster *c, const char *next_hop, uint32_t slot)
{
    struct core_slot **link = &c->slots[slot_bucket(next_hop)];
    while (*link != NULL && ((*link)->slot != slot || strcmp((*link)->next_hop, next_hop) != 0))
        link = &(*link)->next;
    return link;
}

static void count_slot(struct cluster *c, const char *next_hop, uint32_t slot)
{
    struct core_slot **link = find_slot(c, next_hop, slot);
    if (*link == NULL) {
        size_t len = strlen(next_hop) + 1;
        struct core_slot *s = mr_calloc(1, sizeof(*s) + len);
        memcpy(s->next_hop, next_hop, len);
        s->slot = slot;
        *link = s;
        c->n_slots++;
        unsigned bucket = slot_bucket(next_hop);
        c->slots_in[bucket / 64] |= (uint64_t)1 << bucket % 64;
    }
    (*link)->handed++;
}

void core_slot_closed(struct cluster *c, const char *next_hop, uint32_t slot, uint64_t attempts)
{
    struct core_slot **link = find_slot(c, next_hop, slot);
    struct core_slot *s = *link;
    if (s == NULL)
        return;
    mr_assert(attempts <= s->handed);
    s->handed -= MR_MUTANT(MUTANT_SLOT_FORGOTTEN) ? s->handed : attempts;
    if (s->handed > 0)
        return; /* one is on its way to the worker */
    unsigned bucket = slot_bucket(next_hop);
    *link = s->next;
    free(s);
    c->n_slots--;
    if (c->slots[bucket] == NULL)
        c->slots_in[bucket / 64] &= ~((uint64_t)1 << bucket % 64);
}

/* ---- attempts ---- */

static struct cluster_port *port_of(struct cluster *c, uint64_t hash)
{
    mr_assert(c->n_ports > 0);
    return c->ports[hash % c->n_ports];
}

static void hand_attempt(struct mail *mail)
{
    struct attempt *a = MR_CONTAINER(mail, struct attempt, mail);
    if (cluster_withdrawn(a)) { /* the mail that told of it may have come before this one */
        cluster_release(a->port, a, "withdrawn");
        cluster_slot_closed(a->port, a->next_hop, a->slot, 1);
        attempt_free(a);
        return;
    }
    a->port->worker.attempt(a->port->worker.arg, a);
}

void attempt_free(struct attempt *a)
{
    if (a->body_counter != NULL)
        atomic_fetch_sub(a->body_counter, a->body_len);
    if (a->running != NULL)
        drop_running(a->running);
    free(a->body);
    free(a);
}

/* One that is in memory: the worker need not ask for it. */
static void attach_body(struct cluster *c, struct attempt *a, const struct message_view *mv)
{
    if (c->bodies == NULL || c->closing || mv->body_length > BODIES_TAKE ||
        atomic_load(&c->handed_bytes) + mv->body_length > CORE_MAX_HANDED)
        return;
    a->body = bodies_take(c->bodies, mv, &a->body_len);
    if (a->body == NULL)
        return;
    a->body_counter = &c->handed_bytes;
    atomic_fetch_add(a->body_counter, a->body_len);
}

/* ---- what is remembered of the site ---- */

static size_t site_size(const struct site_view *v)
{
    size_t size = text_size(v->tls_reason) + (v->sts_id != NULL ? text_size(v->sts_id) : 0);

    for (unsigned i = 0; i < v->n_sts_mx; i++)
        size += text_size(v->sts_mx[i]);
    return size;
}

/* mx: room for v->n_sts_mx pointers. */
static void pack_site(struct packer *p, const struct site_view *v, const char **mx, struct attempt_site *out)
{
    for (unsigned i = 0; i < v->n_sts_mx; i++)
        mx[i] = pack_text(p, v->sts_mx[i]);
    *out = (struct attempt_site){
        .tls_failed = v->tls_failed_until_ms != 0,
        .tls_reason = pack_text(p, v->tls_reason),
        .sts_id = v->sts_id != NULL ? pack_text(p, v->sts_id) : NULL,
        .sts_mode = v->sts_mode,
        .sts_mx = mx,
        .n_sts_mx = v->n_sts_mx,
        .sts_expires_ms = v->sts_expires_ms,
    };
}

static struct attempt *make_attempt(struct cluster *c, const struct state_message *m, const struct message_view *mv,
                                    uint32_t delivery, const struct delivery_view *dv)
{
    struct recipient_view rv;
    struct site_view site;
    char name[ROUTE_MAX];
    (void)state_site(c->state, route_site(dv->next_hop, name), &site);
    size_t strings = text_size(dv->next_hop) + text_size(mv->reverse_path) + text_size(mv->envid) +
                     text_size(mv->user) + site_size(&site);
    uint32_t n = 0;
    for (uint32_t i = 0; i < mv->n_recipients; i++) {
        state_recipient_view(m, i, &rv);
        if (rv.delivery != delivery || rv.state != RECIPIENT_QUEUED)
            continue;
        n++;
        strings += rv.address_len + 1 + text_size(rv.orcpt);
    }
    size_t array = n * sizeof(struct attempt_recipient) + site.n_sts_mx * sizeof(char *);
    struct attempt *a = mr_calloc(1, sizeof(*a) + array + strings);
    struct attempt_recipient *recipients = (struct attempt_recipient *)(a + 1);
    struct packer p = {(char *)(a + 1) + array, strings};

    pack_site(&p, &site, (const char **)(void *)(recipients + n), &a->site);

    a->id = mv->id;
    a->delivery = delivery;
    a->attempt = dv->attempt;
    a->slot = dv->slot;
    a->incarnation = dv->incarnation;
    a->deadline_ns = core_now(c) + dv->deadline_for_ms * MR_NS_PER_MS;
    a->end_ns = a->deadline_ns + CORE_REPLIES_MS * MR_NS_PER_MS;
    a->next_hop = pack_text(&p, dv->next_hop);
    a->reverse_path = pack_text(&p, mv->reverse_path);
    a->envid = pack_text(&p, mv->envid);
    a->ret = mv->ret;
    a->flags = mv->flags;
    a->failures = dv->failures;
    a->body_length = mv->body_length;
    a->arrived_ms = mv->arrived_ms;
    a->expire_ms = mv->expire_ms;
    a->now_ms = state_now_ms(c->state);
    a->priority = mv->priority;
    a->deliver_by = mv->deliver_by;
    a->deliver_by_ms = mv->deliver_by_ms;
    a->deliver_by_trace = mv->deliver_by_trace;
    a->user = pack_text(&p, mv->user);
    a->n_recipients = n;
    a->recipients = recipients;
    uint32_t k = 0;
    for (uint32_t i = 0; i < mv->n_recipients; i++) {
        state_recipient_view(m, i, &rv);
        if (rv.delivery != delivery || rv.state != RECIPIENT_QUEUED)
            continue;
        recipients[k].index = i;
        recipients[k].address = pack_string(&p, rv.address, rv.address_len);
        recipients[k].orcpt = pack_text(&p, rv.orcpt);
        recipients[k].notify = rv.notify;
        k++;
    }
    return a;
}

void core_attempts_assigned(struct cluster *c, const struct state_message *m, uint32_t delivery)
{
    struct message_view mv;
    struct delivery_view dv;
    state_delivery_view(m, delivery, &dv);
    if (dv.node != c->self || dv.incarnation != c->incarnation || c->n_ports == 0)
        return;
    state_message_view(m, &mv);
    if (core_attempts_find(c, mv.id, delivery, dv.attempt, false) != NULL)
        return;
    struct attempt *a = make_attempt(c, m, &mv, delivery, &dv);
    a->port = port_of(c, name_hash(a->next_hop) + a->slot);
    a->running = add_running(c, mv.id, delivery, dv.attempt, false);
    a->running->port = a->port;
    a->running->n_recipients = a->n_recipients;
    atomic_fetch_add(&a->running->references, 1);
    count_slot(c, a->next_hop, a->slot);
    a->mail.run = hand_attempt;
    if (log_enabled(LOG_INFO)) {
        char text[MR_ID_TEXT + 1];
        log_event(LOG_INFO, "assigned", LOG_S("id", mr_id_format(a->id, text)), LOG_S("next_hop", a->next_hop),
                  LOG_N("delivery", delivery), LOG_N("attempt", a->attempt), LOG_N("slot", a->slot));
    }
    if (a->port->detached) {
        attempt_free(a);
        return;
    }
    attach_body(c, a, &mv);
    core_port_post(a->port, &a->mail);
}

/* ---- notices ---- */

static void hand_notice(struct mail *mail)
{
    struct notice *n = MR_CONTAINER(mail, struct notice, mail);
    n->port->worker.notice(n->port->worker.arg, n);
}

void notice_free(struct notice *n)
{
    free(n);
}

static struct notice *make_notice(struct cluster *c, const struct state_message *m, const struct message_view *mv)
{
    struct recipient_view rv;
    struct delivery_view dv;
    size_t strings = text_size(mv->reverse_path) + text_size(mv->envid);
    uint32_t n = 0;
    for (uint32_t i = 0; i < mv->n_recipients; i++) {
        state_recipient_view(m, i, &rv);
        if (rv.state != RECIPIENT_QUEUED)
            continue;
        state_delivery_view(m, rv.delivery, &dv);
        n++;
        strings += rv.address_len + 1 + text_size(rv.orcpt) + text_size(rv.reply) + text_size(rv.status) +
                   text_size(dv.next_hop);
    }
    size_t array = n * sizeof(struct notice_recipient);
    struct notice *out = mr_calloc(1, sizeof(*out) + array + strings);
    struct notice_recipient *recipients = (struct notice_recipient *)(out + 1);
    struct packer p = {(char *)(out + 1) + array, strings};

    out->id = mv->id;
    out->kind = mv->notice_kind;
    out->attempt = mv->notice_attempt;
    out->reverse_path = pack_text(&p, mv->reverse_path);
    out->envid = pack_text(&p, mv->envid);
    out->ret = mv->ret;
    out->flags = mv->flags;
    out->body_length = mv->body_length;
    out->arrived_ms = mv->arrived_ms;
    out->expire_ms = mv->expire_ms;
    out->now_ms = state_now_ms(c->state);
    out->priority = mv->priority;
    out->deliver_by = mv->deliver_by;
    out->deliver_by_ms = mv->deliver_by_ms;
    out->n_recipients = n;
    out->recipients = recipients;
    uint32_t k = 0;
    for (uint32_t i = 0; i < mv->n_recipients; i++) {
        state_recipient_view(m, i, &rv);
        if (rv.state != RECIPIENT_QUEUED)
            continue;
        state_delivery_view(m, rv.delivery, &dv);
        recipients[k].index = i;
        recipients[k].address = pack_string(&p, rv.address, rv.address_len);
        recipients[k].orcpt = pack_text(&p, rv.orcpt);
        recipients[k].notify = rv.notify;
        recipients[k].reply = pack_text(&p, rv.reply);
        recipients[k].status = pack_text(&p, rv.status);
        recipients[k].next_hop = pack_text(&p, dv.next_hop);
        k++;
    }
    return out;
}

void core_attempts_notice(struct cluster *c, const struct state_message *m)
{
    struct message_view mv;
    state_message_view(m, &mv);
    if (mv.notice_kind == MAILRAFT__NOTICE_KIND__NOTICE_NONE || mv.notice_node != c->self ||
        mv.notice_incarnation != c->incarnation || c->n_ports == 0 ||
        core_attempts_find(c, mv.id, 0, mv.notice_attempt, true) != NULL)
        return;
    struct notice *n = make_notice(c, m, &mv);
    (void)add_running(c, mv.id, 0, mv.notice_attempt, true);
    n->port = port_of(c, mr_id_hash(mv.id));
    n->mail.run = hand_notice;
    core_port_post(n->port, &n->mail);
}

/* ---- after a snapshot (PROTOCOL.md 4.4) ---- */

/* A recipient became terminal since it was assigned. */
static bool has_fewer(const struct cluster *c, const struct core_running *r)
{
    struct delivery_view dv;
    state_delivery_view(state_find(c->state, r->id), r->delivery, &dv);
    return dv.queued < r->n_recipients;
}

/* What ended between the state and the snapshot that took its place, wholly or for some. */
static void withdraw_gone(struct cluster *c)
{
    for (unsigned i = 0; i < CORE_SLOT_BUCKETS; i++)
        for (struct core_running *r = c->running[i]; r != NULL; r = r->next)
            if (!core_attempts_is_assigned(c, r) || (!r->notice && has_fewer(c, r)))
                withdraw(r);
}

void core_attempts_restored(struct cluster *c)
{
    const void *cursor = NULL;
    struct ready_delivery d;
    withdraw_gone(c);
    while (state_assigned_next(c->state, c->self, &cursor, &d))
        core_attempts_assigned(c, d.message, d.delivery);
    for (const struct state_message *m = NULL; (m = state_notice_assigned_next(c->state, c->self, m)) != NULL;)
        core_attempts_notice(c, m);
}

void core_attempts_close(struct cluster *c)
{
    for (unsigned i = 0; i < CORE_SLOT_BUCKETS; i++) {
        for (struct core_running *r = c->running[i], *next; r != NULL; r = next) {
            next = r->next;
            drop_running(r);
        }
        for (struct core_slot *s = c->slots[i], *next; s != NULL; s = next) {
            next = s->next;
            free(s);
        }
    }
}
