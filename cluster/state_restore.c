/* Reading a snapshot: into a state of its own, which takes the old one's place only when all of it was good.
 *
 * Happy path: read_frame (magic, checksum) -> header, nodes, messages, finished, parts in that order -> link_lists ->
 * state_exchange. The checksum finds what a disk or a network did. Every record is checked all the same: whatever
 * passes here has all of state_check's invariants, so that a snapshot of a program with a bug is refused instead of
 * spreading. */
#include "cluster/state_internal.h"
#include "cluster/state_records.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "snapshot.pb-c.h"

#include <stdlib.h>
#include <string.h>

struct reader {
    struct state *s;
    const uint8_t *at, *end;
    /* READY and ASSIGNED deliveries, in order of sequence; sorted by order at the end */
    struct state_delivery **placed;
    size_t n_placed, placed_size;
    uint64_t messages, finished, nodes, parts, sites, users; /* still to come, by the header */
    bool header;
    unsigned last_kind;
};

static uint32_t get_32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int id_of(ProtobufCBinaryData bytes, struct mr_id *id)
{
    return mr_id_from_bytes(bytes.data, bytes.len, id);
}

/* ---- header, nodes ---- */

/* A header that promises more than there are bytes for is found out at the end; until then it gets no memory for it. */
static size_t believable(const struct reader *r, uint64_t count)
{
    enum { SHORTEST = 32 }; /* record of a message or a finished id */
    size_t most = (size_t)(r->end - r->at) / SHORTEST;

    return count < most ? (size_t)count : most;
}

static int read_header(struct reader *r, const Mailraft__SnapshotHeader *h)
{
    struct state *s = r->s;

    if (h->version > STATE_VERSION)
        return MR_VERSION;
    if (h->version == 0 || h->committed_ms > STATE_MAX_MS || h->next_sequence == 0 ||
        h->next_sequence > STATE_MAX_SEQUENCE ||
        (h->cluster.len > 0 && (id_of(h->cluster, &s->cluster) != 0 || mr_id_is_zero(s->cluster))) ||
        (h->rules != NULL && h->rules->hash.len != 16))
        return MR_MALFORMED;
    r->messages = h->messages;
    r->finished = h->finished;
    r->nodes = h->nodes;
    r->parts = h->parts;
    r->sites = h->sites;
    r->users = h->users;
    state_index_reserve(&s->message_index, believable(r, r->messages));
    state_index_reserve(&s->finished.index, believable(r, r->finished));
    if (h->next_site > STATE_MAX_SEQUENCE || h->next_site == 1)
        return MR_MALFORMED;
    if (h->next_site != 0)
        s->sites.next_number = h->next_site;
    s->now_ms = h->committed_ms;
    s->version = h->version;
    s->next_sequence = h->next_sequence;
    if (h->rules != NULL)
        rules_replace(s, h->rules);
    s->counts.in_doubt = h->in_doubt;
    s->counts.possibly_in_doubt = h->possibly_in_doubt;
    s->counts.accepted = h->accepted;
    s->counts.delivered = h->delivered;
    s->counts.failed = h->failed;
    s->counts.expired = h->expired;
    return 0;
}

static int read_node(struct reader *r, const Mailraft__SnapshotNode *n)
{
    struct mr_id directory;

    if (n->node == 0 || n->node > STATE_MAX_NODES || r->s->nodes[n->node] != NULL || r->nodes == 0 ||
        id_of(n->directory, &directory) != 0 || n->name[0] == '\0' || (n->up && n->incarnation == 0))
        return MR_MALFORMED;
    for (uint32_t i = n->node + 1; i <= STATE_MAX_NODES; i++)
        if (r->s->nodes[i] != NULL)
            return MR_MALFORMED;
    r->nodes--;
    struct state_node *node = node_add(r->s, n->node, n->name, directory);
    node->incarnation = n->incarnation;
    node->up = n->up != 0;
    node->voter = n->voter != 0;
    node_set_texts(r->s, node, n->address, n->version);
    return 0;
}

/* ---- messages ---- */

static void place(struct reader *r, struct state_delivery *d)
{
    if (r->n_placed == r->placed_size) {
        r->placed_size = r->placed_size * 2 + 64;
        r->placed = mr_realloc(r->placed, r->placed_size * sizeof(struct state_delivery *));
    }
    r->placed[r->n_placed++] = d;
}

/* The envelope as the enqueue that it came from, so that one function checks and builds both. */
static void as_enqueue(struct state *s, const Mailraft__SnapshotMessage *from, Mailraft__Enqueue *e)
{
    mailraft__enqueue__init(e);
    e->id = from->id;
    e->body = from->body;
    e->reverse_path = from->reverse_path;
    e->flags = from->flags;
    e->acceptor = from->acceptor;
    e->arrived_ms = from->arrived_ms;
    e->warn_ms = from->warn_ms;
    e->expire_ms = from->expire_ms;
    e->envid = from->envid;
    e->ret = from->ret;
    e->client = from->client;
    e->priority = from->priority;
    e->hold_for_ms = from->hold_for_ms;
    e->deliver_by_for_ms = from->deliver_by_for_ms;
    e->deliver_by = from->deliver_by;
    e->deliver_by_trace = from->deliver_by_trace;
    e->user = from->user;
    e->n_recipients = from->n_recipients;
    e->recipients = state_arena_take(&s->arena, from->n_recipients * sizeof(Mailraft__Recipient *));
    for (size_t i = 0; i < from->n_recipients; i++)
        e->recipients[i] = from->recipients[i]->recipient;
    e->n_next_hops = from->n_deliveries;
    e->next_hops = state_arena_take(&s->arena, from->n_deliveries * sizeof(char *));
    for (size_t i = 0; i < from->n_deliveries; i++)
        e->next_hops[i] = from->deliveries[i]->next_hop;
}

static bool delivery_valid(const struct state *s, const Mailraft__SnapshotDelivery *d)
{
    const Mailraft__Assignment *a = d->assignment;
    bool placed = d->state == DELIVERY_READY || d->state == DELIVERY_ASSIGNED;

    if (d->state > DELIVERY_DONE || d->avoid_node > STATE_MAX_NODES)
        return false;
    if (placed != (d->order != 0) || d->order > STATE_MAX_ORDER)
        return false;
    if (d->state == DELIVERY_ASSIGNED ? d->due_ms > s->now_ms : d->due_ms != 0 && d->state != DELIVERY_DEFERRED)
        return false;
    if ((d->due_ms > STATE_MAX_MS * 2 && d->due_ms != STATE_DUE_NEVER))
        return false;
    if (d->state != DELIVERY_ASSIGNED)
        return a == NULL;
    return a != NULL && a->attempt == d->attempt && a->attempt > 0 &&
           node_may_run(s, a->node, a->incarnation) == APPLIED;
}

static bool message_valid(const struct reader *r, const Mailraft__SnapshotMessage *m)
{
    const struct state_message *last = state_chunks_last(r->s);
    uint64_t after = last == NULL ? 0 : message_sequence(last);

    if (r->messages == 0 || m->sequence <= after || m->sequence >= r->s->next_sequence)
        return false;
    for (size_t i = 0; i < m->n_recipients; i++)
        if (m->recipients[i]->recipient == NULL || m->recipients[i]->state > RECIPIENT_CANCELLED)
            return false;
    for (size_t i = 0; i < m->n_deliveries; i++)
        if (!delivery_valid(r->s, m->deliveries[i]))
            return false;
    if (m->notice_due_ms == 0)
        return false;
    if (m->notice_kind == MAILRAFT__NOTICE_KIND__NOTICE_NONE)
        return m->notice_node == 0 && m->notice_incarnation == 0;
    return (m->notice_kind == MAILRAFT__NOTICE_KIND__NOTICE_WARN ||
            m->notice_kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE) &&
           m->notice_attempt > 0 && node_may_run(r->s, m->notice_node, m->notice_incarnation) == APPLIED;
}

static void read_recipient(struct state *s, struct state_message *m, uint32_t i,
                           const Mailraft__SnapshotRecipient *from)
{
    struct state_recipient *to = &m->recipients[i];

    recipient_answer(s, m, i, from->reply.data, from->reply.len, from->status);
    to->state = (uint8_t)from->state;
    if (to->state != RECIPIENT_QUEUED) {
        m->queued--;
        m->deliveries[to->delivery].queued--;
        s->counts.recipients--;
    } else if (to->answer != NULL && to->answer[strlen(to->answer) + 1] != '\0') {
        /* As near to the next hop's last reply as what is replicated tells. */
        next_hop_reply(s, m->deliveries[to->delivery].hop, to->answer + strlen(to->answer) + 1);
    }
}

static int read_delivery(struct reader *r, struct state_delivery *d, const Mailraft__SnapshotDelivery *from)
{
    if ((from->state == DELIVERY_DONE) != (d->queued == 0))
        return MR_MALFORMED;
    d->attempt = from->attempt;
    d->failures = from->failures;
    d->avoid_node = (uint8_t)from->avoid_node;
    d->due_ms = from->due_ms;
    if (from->state == DELIVERY_READY || from->state == DELIVERY_ASSIGNED) {
        d->order = from->order;
        place(r, d);
    }
    if (from->state == DELIVERY_READY) {
        d->node = 0;
    } else if (from->state == DELIVERY_ASSIGNED) {
        d->node = (uint8_t)from->assignment->node;
        d->incarnation = from->assignment->incarnation;
        d->slot = from->assignment->slot;
        d->deadline_for_ms = from->assignment->deadline_for_ms;
    } else {
        delivery_begin(r->s, d, from->state);
    }
    return 0;
}

static int read_message(struct reader *r, const Mailraft__SnapshotMessage *from)
{
    Mailraft__Enqueue e;
    struct mr_id id;

    if (!message_valid(r, from))
        return MR_MALFORMED;
    as_enqueue(r->s, from, &e);
    if (!state_enqueue_valid(&e, &id) || state_find(r->s, id) != NULL)
        return MR_MALFORMED;
    r->messages--;
    struct state_message *m = state_message_add(r->s, &e, id, from->sequence);
    for (uint32_t i = 0; i < m->n_recipients; i++)
        read_recipient(r->s, m, i, from->recipients[i]);
    m->notice_attempt = from->notice_attempt;
    m->notice_due_ms = from->notice_due_ms;
    if (from->notice_kind == MAILRAFT__NOTICE_KIND__NOTICE_NONE)
        notice_schedule(r->s, m, from->notice_due_ms);
    else
        notice_assign_to(r->s, m, from->notice_kind, from->notice_node, from->notice_incarnation);
    if (m->queued == 0)
        return MR_MALFORMED;
    for (uint32_t i = 0; i < m->n_deliveries; i++) {
        int result = read_delivery(r, &m->deliveries[i], from->deliveries[i]);
        /* Kept for link_lists, which is not reached: until then it is in no list. */
        if (result != 0)
            return result;
    }
    return 0;
}

/* ---- finished, parts ---- */

static int read_finished(struct reader *r, const Mailraft__SnapshotFinished *f)
{
    struct state *s = r->s;
    struct mr_id id;

    if (r->finished == 0 || id_of(f->id, &id) != 0 || f->finished_ms > s->now_ms || f->node > STATE_MAX_NODES ||
        state_find(s, id) != NULL || finished_find(s, id) != NULL)
        return MR_MALFORMED;
    if (s->finished.count > 0 && finished_last(s)->finished_ms > f->finished_ms)
        return MR_MALFORMED;
    r->finished--;
    struct state_finished *to = finished_add(s, id, f->finished_ms, f->cancelled != 0);
    to->delivery = f->delivery;
    to->attempt = f->attempt;
    to->node = (uint8_t)f->node;
    return 0;
}

static int read_parts(struct reader *r, const Mailraft__SnapshotParts *p)
{
    struct state *s = r->s;
    struct mr_id id;

    if (r->parts == 0 || r->parts > STATE_MAX_PART_SETS || id_of(p->id, &id) != 0 || p->begun_ms > s->now_ms ||
        p->have == 0 || p->have >= p->parts || p->parts > STATE_MAX_PARTS || p->data.len > STATE_MAX_PART_SET_BYTES ||
        state_parts_find(s, id) != NULL || state_find(s, id) != NULL || finished_find(s, id) != NULL ||
        s->parts.bytes + p->data.len > STATE_MAX_PARTS_BYTES)
        return MR_MALFORMED;
    if (s->parts.all.tail != NULL &&
        MR_CONTAINER(s->parts.all.tail, struct state_parts, in_all)->begun_ms > p->begun_ms)
        return MR_MALFORMED;
    r->parts--;
    struct state_parts *to = state_parts_add(s, id, p->parts, p->begun_ms);
    state_parts_extend(s, to, p->data.data, p->data.len);
    to->have = p->have;
    return 0;
}

/* ---- sites, users ---- */

static int read_site(struct reader *r, const Mailraft__SnapshotSite *from)
{
    struct state *s = r->s;
    struct site_texts t = {.name = from->site,
                           .tls_reason = from->tls_reason,
                           .sts_id = from->sts_id,
                           .sts_mx = from->sts_mx,
                           .n_sts_mx = from->n_sts_mx};
    uint64_t expires =
        from->tls_failed_until_ms > from->sts_expires_ms ? from->tls_failed_until_ms : from->sts_expires_ms;
    const struct state_tree_node *same = state_tree_after(&s->sites.by_expiry, expires, from->number - 1);

    if (r->sites == 0 || s->sites.index.count >= STATE_MAX_SITES || !site_valid(&t) || site_find(s, t.name) != NULL ||
        from->number == 0 || from->number >= s->sites.next_number || expires == 0 || expires > STATE_MAX_MS * 2 ||
        from->sts_mode > 3 || same != NULL)
        return MR_MALFORMED;
    if ((from->sts_expires_ms == 0) != (from->sts_mode == 0) || (from->sts_mode == 0) != (t.sts_id[0] == '\0') ||
        (from->sts_mode == 0 && t.n_sts_mx > 0) || (from->tls_failed_until_ms == 0 && t.tls_reason[0] != '\0'))
        return MR_MALFORMED;
    r->sites--;
    site_add(s, &t, from->number, from->tls_failed_until_ms, from->sts_mode, from->sts_expires_ms);
    return s->sites.bytes > STATE_MAX_SITES_BYTES ? MR_MALFORMED : 0;
}

static int read_user(struct reader *r, const Mailraft__SnapshotUser *from)
{
    struct state *s = r->s;
    size_t len = strnlen(from->user, STATE_MAX_SITE + 1), n = from->n_recipients;
    const struct state_link *last = s->users.all.tail;

    if (r->users == 0 || s->users.all.count >= STATE_MAX_USERS || len == 0 || len > STATE_MAX_SITE ||
        user_find(s, from->user) != NULL || from->minute > s->now_ms / 60000 || n == 0 || n > STATE_USER_MINUTES ||
        from->recipients[n - 1] == 0)
        return MR_MALFORMED;
    if (last != NULL && MR_CONTAINER(last, struct state_user, in_all)->minute > from->minute)
        return MR_MALFORMED;
    r->users--;
    struct state_user *u = user_add(s, from->user, from->minute);
    for (size_t i = 0; i < n; i++) {
        u->recipients[(from->minute + STATE_USER_MINUTES - i) % STATE_USER_MINUTES] = from->recipients[i];
        u->sum += from->recipients[i];
    }
    return 0;
}

/* ---- the whole ---- */

static const struct {
    const ProtobufCMessageDescriptor *descriptor;
} kinds[] = {
    [RECORD_HEADER] = {&mailraft__snapshot_header__descriptor},
    [RECORD_NODE] = {&mailraft__snapshot_node__descriptor},
    [RECORD_MESSAGE] = {&mailraft__snapshot_message__descriptor},
    [RECORD_FINISHED] = {&mailraft__snapshot_finished__descriptor},
    [RECORD_PARTS] = {&mailraft__snapshot_parts__descriptor},
    [RECORD_SITE] = {&mailraft__snapshot_site__descriptor},
    [RECORD_USER] = {&mailraft__snapshot_user__descriptor},
};

static int read_record(struct reader *r, unsigned kind, const uint8_t *data, size_t len)
{
    ProtobufCAllocator allocator = state_arena_allocator(&r->s->arena);

    if (kind >= RECORD_KINDS || kinds[kind].descriptor == NULL)
        return MR_VERSION;
    /* The header first and once; then the kinds in their order. */
    if (kind < r->last_kind || (kind == RECORD_HEADER) == r->header)
        return MR_MALFORMED;
    r->last_kind = kind;
    r->header = true;
    state_arena_reset(&r->s->arena);
    ProtobufCMessage *m = protobuf_c_message_unpack(kinds[kind].descriptor, &allocator, len, data);
    if (m == NULL)
        return MR_MALFORMED;
    if (!state_known_fields(m))
        return MR_VERSION;
    switch (kind) {
    case RECORD_HEADER:
        return read_header(r, (const Mailraft__SnapshotHeader *)m);
    case RECORD_NODE:
        return read_node(r, (const Mailraft__SnapshotNode *)m);
    case RECORD_MESSAGE:
        return read_message(r, (const Mailraft__SnapshotMessage *)m);
    case RECORD_FINISHED:
        return read_finished(r, (const Mailraft__SnapshotFinished *)m);
    case RECORD_PARTS:
        return read_parts(r, (const Mailraft__SnapshotParts *)m);
    case RECORD_SITE:
        return read_site(r, (const Mailraft__SnapshotSite *)m);
    default:
        return read_user(r, (const Mailraft__SnapshotUser *)m);
    }
}

static int by_order(const void *a, const void *b)
{
    const struct state_delivery *x = *(struct state_delivery *const *)a, *y = *(struct state_delivery *const *)b;

    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    uint64_t i = delivery_key(x), k = delivery_key(y);
    return i < k ? -1 : i > k;
}

/* Two in one list never have the same place. */
static int link_lists(struct reader *r)
{
    struct state *s = r->s;

    /* What nobody has tried yet, which is nearly all of a large queue, stands in order already. */
    bool sorted = true;
    for (size_t i = 1; i < r->n_placed && sorted; i++)
        sorted = by_order(&r->placed[i - 1], &r->placed[i]) < 0;
    if (!sorted)
        qsort(r->placed, r->n_placed, sizeof(struct state_delivery *), by_order);
    for (size_t i = 0; i < r->n_placed; i++) {
        struct state_delivery *d = r->placed[i];
        bool assigned = d->node != 0;
        const struct state_link *last = assigned ? s->assigned.tail : delivery_ready_list(s, d)->tail;
        if (last != NULL && DELIVERY_OF(last, in_list)->order == d->order)
            return MR_MALFORMED;
        delivery_begin(s, d, assigned ? DELIVERY_ASSIGNED : DELIVERY_READY);
    }
    return 0;
}

/* MR_MALFORMED, MR_CHECKSUM, MR_VERSION; r then covers the records alone. */
static int read_frame(struct reader *r, const uint8_t *data, size_t len)
{
    enum { END = SNAPSHOT_RECORD_HEADER + SNAPSHOT_CHECKSUM };
    XXH128_canonical_t checksum;

    if (len < SNAPSHOT_PREAMBLE || memcmp(data, SNAPSHOT_MAGIC, 8) != 0)
        return MR_MALFORMED;
    if (get_32(data + 8) != SNAPSHOT_FORMAT || get_32(data + 12) != 0)
        return MR_VERSION;
    if (len < SNAPSHOT_PREAMBLE + END)
        return MR_MALFORMED;
    const uint8_t *end = data + len - END;
    if (get_32(end) != RECORD_END || get_32(end + 4) != SNAPSHOT_CHECKSUM)
        return MR_MALFORMED;
    XXH128_canonicalFromHash(&checksum, XXH3_128bits(data, (size_t)(end - data)));
    if (memcmp(checksum.digest, end + SNAPSHOT_RECORD_HEADER, SNAPSHOT_CHECKSUM) != 0)
        return MR_CHECKSUM;
    r->at = data + SNAPSHOT_PREAMBLE;
    r->end = end;
    return 0;
}

static int read_all(struct reader *r, const uint8_t *data, size_t len)
{
    int result = read_frame(r, data, len);

    while (result == 0 && r->at < r->end) {
        if ((size_t)(r->end - r->at) < SNAPSHOT_RECORD_HEADER)
            return MR_MALFORMED;
        uint32_t kind = get_32(r->at), size = get_32(r->at + 4);
        r->at += SNAPSHOT_RECORD_HEADER;
        if (size > (size_t)(r->end - r->at))
            return MR_MALFORMED;
        result = read_record(r, kind, r->at, size);
        r->at += size;
    }
    if (result == 0 && (!r->header || r->messages + r->finished + r->nodes + r->parts + r->sites + r->users != 0))
        result = MR_MALFORMED;
    return result != 0 ? result : link_lists(r);
}

int state_read(const struct state_observer *observer, uint64_t index, const uint8_t *data, size_t len,
               struct state **out)
{
    struct state *fresh = state_open(observer);
    struct reader r = {.s = fresh};
    int result = read_all(&r, data, len);

    free(r.placed);
    fresh->index = index;
    state_arena_reset(&fresh->arena);
    if (result == 0)
        *out = fresh;
    else
        state_close(fresh);
    return result;
}

void state_exchange(struct state *s, struct state *fresh)
{
    mr_assert(s->held == NULL && fresh->held == NULL);
    /* Nothing in a state points at the struct itself (state_list.h L1). */
    struct state old = *s;
    *s = *fresh;
    *fresh = old;
}

int state_restore(struct state *s, uint64_t index, const uint8_t *data, size_t len)
{
    struct state *fresh;
    int result = state_read(&s->observer, index, data, len, &fresh);

    if (result != 0)
        return result;
    state_exchange(s, fresh);
    state_close(fresh);
    return 0;
}
