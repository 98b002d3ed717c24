/* test_bodies_fake.h - a cluster of body planes over spools, links and states in memory, stepped by hand.
 *
 * Everything is deterministic: step_all runs until nothing moves; time passes only by pass_ms. */
#ifndef MR_TEST_BODIES_FAKE_H
#define MR_TEST_BODIES_FAKE_H

#include "cluster/test_bodies_fake_spool.h"
#include "proto/base/panic.h"

/* Voters: nodes 1 to 3, 1 to 5. */
#define V3 (2 | 4 | 8)
#define V5 (2 | 4 | 8 | 16 | 32)

enum { FAKE_NODES = 6, FAKE_LINK_MAX = 16 << 20, P = SPOOL_MAX_PIECE };

struct fake_frame {
    struct fake_frame *next;
    enum frame_type type;
    size_t meta_len, tail_len;
    uint8_t *meta, *tail;
};
struct fake_wire {
    struct fake_frame *first, **end;
    size_t queued, sent[FRAME_TYPE_END];
    bool up, stalled;
    void (*drained)(void *arg, int status);
    void *drained_arg;
    size_t below;
};
struct state_message {
    struct mr_id id;
    uint64_t sequence, length, stamp, holders;
    uint8_t checksum[16];
    bool gone;
};
struct fake_state {
    struct state_message *messages;
    size_t n, alive;
    struct mr_id *finished;
    size_t n_finished;
    uint64_t voters, now_ms, sequence;
    uint32_t version;
    Mailraft__Rules rules;
};
struct fake_node {
    uint32_t id;
    struct fake_cluster *cluster;
    struct fake_spool spool;
    struct fake_state state;
    struct bodies *b;
    bool closed;
};
struct fake_cluster {
    uv_loop_t loop;
    unsigned n;
    struct fake_node nodes[FAKE_NODES + 1];
    struct fake_wire wires[FAKE_NODES + 1][FAKE_NODES + 1];
    uint64_t now_ns;
    /* May change a frame on its way; false: it is lost. Which ones, and how many those were. */
    bool (*tamper)(struct fake_cluster *c, uint32_t from, uint32_t to, struct fake_frame *f);
    uint32_t tamper_from;
    enum frame_type tamper_type;
    unsigned hits;
    int frame_error;
};

/* ---- links ---- */
static struct fake_node *node_of(const struct links *l)
{
    return (struct fake_node *)(uintptr_t)l;
}
static int fake_links_send(struct links *l, uint32_t peer, enum link_channel channel, enum frame_type type,
                           const void *meta, size_t meta_len, const struct link_buffer *tail, unsigned n_tail)
{
    struct fake_node *from = node_of(l);
    struct fake_wire *w = &from->cluster->wires[from->id][peer];
    struct fake_frame *f;
    size_t tail_len = n_tail > 0 ? tail[0].len : 0;
    assert_int_equal(channel, LINK_BULK);
    assert_true(n_tail <= 1);
    if (!w->up)
        return MR_UNREACHABLE;
    if (w->queued + tail_len > FAKE_LINK_MAX)
        return MR_BUSY;
    f = mr_calloc(1, sizeof(*f));
    f->type = type;
    f->meta_len = meta_len;
    f->meta = mr_memdup(meta, meta_len);
    f->tail_len = tail_len;
    f->tail = n_tail > 0 ? mr_memdup(tail[0].base, tail_len) : mr_calloc(1, 1);
    w->queued += meta_len + tail_len;
    w->sent[type]++;
    *w->end = f;
    w->end = &f->next;
    return 0;
}
static size_t fake_links_queued(const struct links *l, uint32_t peer, enum link_channel channel)
{
    (void)channel;
    return node_of(l)->cluster->wires[node_of(l)->id][peer].queued;
}
static int fake_links_when_drained(struct links *l, uint32_t peer, enum link_channel channel, size_t below,
                                   void (*cb)(void *arg, int status), void *arg)
{
    struct fake_wire *w = &node_of(l)->cluster->wires[node_of(l)->id][peer];
    (void)channel;
    if (w->drained != NULL)
        return MR_BUSY;
    w->drained = cb;
    w->drained_arg = arg;
    w->below = below;
    return 0;
}
static void frame_free(struct fake_frame *f)
{
    free(f->meta);
    free(f->tail);
    free(f);
}
static bool fake_wire_step(struct fake_cluster *c, uint32_t from, uint32_t to)
{
    struct fake_wire *w = &c->wires[from][to];
    struct fake_frame *f = w->first;
    bool moved = false;
    if (f != NULL && !w->stalled) {
        w->first = f->next;
        if (w->first == NULL)
            w->end = &w->first;
        w->queued -= f->meta_len + f->tail_len;
        if ((c->tamper == NULL || c->tamper(c, from, to, f)) && c->nodes[to].b != NULL && !c->nodes[to].closed) {
            int rc = bodies_frame(c->nodes[to].b, from, f->type, f->meta, f->meta_len, f->tail, f->tail_len);
            if (rc != 0)
                c->frame_error = rc;
        }
        frame_free(f);
        moved = true;
    }
    if (w->drained != NULL && (w->queued < w->below || !w->up)) {
        void (*cb)(void *arg, int status) = w->drained;
        w->drained = NULL;
        cb(w->drained_arg, w->up ? 0 : MR_UNREACHABLE);
        moved = true;
    }
    return moved;
}

/* ---- state ---- */
static struct fake_state *as_state(const struct state *s)
{
    return (struct fake_state *)(uintptr_t)s;
}
static const struct state_message *fake_find(const struct state *s, struct mr_id id)
{
    const struct fake_state *st = as_state(s);
    for (size_t i = 0; i < st->n; i++)
        if (!st->messages[i].gone && mr_id_equal(st->messages[i].id, id))
            return &st->messages[i];
    return NULL;
}
static void fake_view(const struct state_message *m, struct message_view *out)
{
    memset(out, 0, sizeof(*out));
    out->id = m->id;
    out->sequence = m->sequence;
    out->body_length = m->length;
    out->body_stamp_ms = m->stamp;
    out->holders = m->holders;
    memcpy(out->body_checksum, m->checksum, 16);
}
static bool fake_is_finished(const struct state *s, struct mr_id id, bool *cancelled)
{
    const struct fake_state *st = as_state(s);
    *cancelled = false;
    for (size_t i = 0; i < st->n_finished; i++)
        if (mr_id_equal(st->finished[i], id))
            return true;
    return false;
}
static const struct state_message *fake_next(const struct state *s, uint64_t after)
{
    const struct fake_state *st = as_state(s);
    for (size_t i = 0; i < st->n; i++)
        if (!st->messages[i].gone && st->messages[i].sequence > after)
            return &st->messages[i];
    return NULL;
}
static uint64_t fake_voters(const struct state *s)
{
    return as_state(s)->voters;
}
static unsigned fake_majority(const struct state *s)
{
    return bit_count(as_state(s)->voters) / 2 + 1;
}
static const Mailraft__Rules *fake_rules(const struct state *s)
{
    return &as_state(s)->rules;
}
static uint64_t fake_now_ms(const struct state *s)
{
    return as_state(s)->now_ms;
}
static uint32_t fake_version(const struct state *s)
{
    return as_state(s)->version;
}
static void fake_counts(const struct state *s, struct state_counts *out)
{
    memset(out, 0, sizeof(*out));
    out->messages = as_state(s)->alive;
}

static const struct bodies_ops fake_ops = {
    .spool_put = fake_spool_put,
    .spool_abort = fake_spool_abort,
    .spool_get = fake_spool_get,
    .spool_recheck = fake_spool_recheck,
    .spool_read_now = fake_spool_read_now,
    .spool_has = fake_spool_has,
    .spool_drop = fake_spool_drop,
    .spool_list = fake_spool_list,
    .links_send = fake_links_send,
    .links_queued = fake_links_queued,
    .links_when_drained = fake_links_when_drained,
    .state_find = fake_find,
    .state_message_view = fake_view,
    .state_is_finished = fake_is_finished,
    .state_next_message = fake_next,
    .state_voters = fake_voters,
    .state_majority = fake_majority,
    .state_rules = fake_rules,
    .state_now_ms = fake_now_ms,
    .state_version = fake_version,
    .state_counts = fake_counts,
};

/* ---- the cluster ---- */
static bool step_once(struct fake_cluster *c)
{
    bool moved = false;
    for (uint32_t i = 1; i <= c->n; i++)
        moved |= fake_spool_step(&c->nodes[i].spool);
    for (uint32_t i = 1; i <= c->n; i++)
        for (uint32_t j = 1; j <= c->n; j++)
            moved |= i != j && fake_wire_step(c, i, j);
    for (uint32_t i = 1; i <= c->n; i++) {
        struct bodies *b = c->nodes[i].b;
        moved |= b != NULL && !c->nodes[i].closed &&
                 (!blist_empty(&b->later) || !blist_empty(&b->failed_reads) || (b->closing && b->pending == 0));
    }
    uv_run(&c->loop, UV_RUN_NOWAIT);
    return moved;
}
static void step_all(struct fake_cluster *c)
{
    unsigned still = 0;
    while (still < 3)
        still = step_once(c) ? 0 : still + 1;
}
static void pass_ms(struct fake_cluster *c, unsigned ms)
{
    for (unsigned t = 0; t < ms; t += BODIES_TICK_MS) {
        c->now_ns += BODIES_TICK_MS * 1000000ULL;
        for (uint32_t i = 1; i <= c->n; i++)
            if (c->nodes[i].b != NULL && !c->nodes[i].closed)
                bodies_tick(c->nodes[i].b, c->now_ns);
        step_all(c);
    }
}
/* The connection from one node to another. What was on its way is lost when it drops. */
static void set_link(struct fake_cluster *c, uint32_t from, uint32_t to, bool up)
{
    struct fake_wire *w = &c->wires[from][to];
    w->up = up;
    while (!up && w->first != NULL) {
        struct fake_frame *f = w->first;
        w->first = f->next;
        frame_free(f);
    }
    if (w->first == NULL) {
        w->end = &w->first;
        w->queued = 0;
    }
    if (c->nodes[from].b != NULL && !c->nodes[from].closed)
        bodies_link(c->nodes[from].b, to, up);
}
FAKE_FUNCTION void set_links(struct fake_cluster *c, uint32_t node, bool up)
{
    for (uint32_t i = 1; i <= c->n; i++) {
        if (i == node)
            continue;
        set_link(c, node, i, up);
        set_link(c, i, node, up);
    }
}
static void open_node(struct fake_cluster *c, uint32_t id)
{
    struct fake_node *n = &c->nodes[id];
    struct bodies_config config = {.loop = &c->loop,
                                   .spool = (struct spool *)&n->spool,
                                   .state = (struct state *)&n->state,
                                   .links = (struct links *)n,
                                   .self = id};
    n->closed = false;
    n->b = bodies_open_with(&config, &fake_ops);
    bodies_tick(n->b, c->now_ns);
    for (uint32_t i = 1; i <= c->n; i++)
        if (i != id && c->wires[id][i].up)
            bodies_link(n->b, i, true);
}
static struct fake_cluster *cluster_open_fake(unsigned n, uint64_t voters)
{
    struct fake_cluster *c = mr_calloc(1, sizeof(*c));
    uv_loop_init(&c->loop);
    c->n = n;
    c->now_ns = 1000000000000ULL;
    for (uint32_t i = 1; i <= n; i++) {
        struct fake_node *node = &c->nodes[i];
        node->id = i;
        node->cluster = c;
        node->spool.bodies = mr_calloc(FAKE_BODIES, sizeof(*node->spool.bodies));
        node->spool.end = &node->spool.first;
        node->state.messages = mr_calloc(FAKE_BODIES, sizeof(*node->state.messages));
        node->state.finished = mr_calloc(FAKE_BODIES, sizeof(*node->state.finished));
        mailraft__rules__init(&node->state.rules);
        node->state.voters = voters;
        node->state.now_ms = 1000 * 1000 * 1000;
        node->state.version = 2;
        for (uint32_t j = 1; j <= n; j++) {
            c->wires[i][j].end = &c->wires[i][j].first;
            c->wires[i][j].up = i != j;
        }
    }
    for (uint32_t i = 1; i <= n; i++) {
        open_node(c, i);
        bodies_ready(c->nodes[i].b);
    }
    step_all(c);
    return c;
}
static void on_closed(void *arg)
{
    ((struct fake_node *)arg)->closed = true;
}
static void close_node(struct fake_cluster *c, uint32_t id)
{
    struct fake_node *n = &c->nodes[id];
    n->spool.stalled = false;
    bodies_close(n->b, on_closed, n);
    step_all(c);
    assert_true(n->closed);
    assert_null(n->spool.first);
    n->b = NULL;
}
static void cluster_close_fake(struct fake_cluster *c)
{
    for (uint32_t i = 1; i <= c->n; i++) {
        if (c->nodes[i].b != NULL)
            close_node(c, i);
        for (uint32_t j = 1; j <= c->n; j++) {
            set_link(c, i, j, false);
            fake_wire_step(c, i, j);
        }
    }
    for (uint32_t i = 1; i <= c->n; i++) {
        struct fake_node *n = &c->nodes[i];
        for (size_t k = 0; k < n->spool.n; k++)
            fake_body_free(&n->spool.bodies[k]);
        free(n->spool.bodies);
        free(n->state.messages);
        free(n->state.finished);
    }
    assert_int_equal(uv_run(&c->loop, UV_RUN_NOWAIT), 0);
    assert_int_equal(uv_loop_close(&c->loop), 0);
    free(c);
}

/* ---- bodies ---- */
/* Content that depends on the id alone. */
static uint8_t *content(struct mr_id id, size_t len)
{
    uint8_t *data = mr_malloc(len + 1);
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(id.bytes[i % 16] + i / 16 * 7);
    return data;
}
static void checksum_of(const uint8_t *data, size_t len, uint8_t out[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, len));
    memcpy(out, canonical.digest, 16);
}
static struct mr_id test_id(unsigned n)
{
    struct mr_id id;
    for (unsigned i = 0; i < 16; i++)
        id.bytes[i] = (uint8_t)(n * 2654435761U >> (i % 4 * 8) ^ i * 31);
    return id;
}
struct put {
    struct body_put *p;
    struct mr_id id;
    size_t len;
    unsigned called, written, refused;
    int status;
    uint64_t holders;
};
static void on_stored(void *arg, int status, uint64_t holders)
{
    struct put *put = arg;
    put->called++;
    put->status = status;
    put->holders = holders;
    put->p = NULL;
}
static void on_written(void *arg, int status)
{
    struct put *put = arg;
    put->written++;
    if (status != 0)
        put->refused++;
}
FAKE_FUNCTION void put_begin(struct fake_cluster *c, struct put *put, uint32_t node, unsigned id)
{
    memset(put, 0, sizeof(*put));
    put->id = test_id(id);
    put->p = bodies_begin(c->nodes[node].b, put->id);
}
FAKE_FUNCTION void put_piece(struct put *put, size_t from, size_t len)
{
    uint8_t *all = content(put->id, from + len);
    uint8_t *data = mr_memdup(all + from, len);
    free(all);
    put->len = from + len;
    bodies_piece(put->p, data, len, on_written, put);
}
FAKE_FUNCTION void put_finish(struct put *put, size_t len)
{
    size_t whole = put->len + len;
    uint8_t *all = content(put->id, whole);
    uint8_t *data = mr_memdup(all + put->len, len);
    uint8_t checksum[16];
    checksum_of(all, whole, checksum);
    free(all);
    put->len = whole;
    bodies_finish(put->p, data, len, whole, checksum, on_stored, put);
}
FAKE_FUNCTION void put_small(struct fake_cluster *c, struct put *put, uint32_t node, unsigned id, size_t len)
{
    put_begin(c, put, node, id);
    put_finish(put, len);
}
/* Applies the enqueue on these nodes. */
FAKE_FUNCTION void enqueue(struct fake_cluster *c, uint64_t nodes, unsigned number, size_t len, uint64_t holders)
{
    struct mr_id id = test_id(number);
    uint8_t *data = content(id, len);
    for (uint32_t i = 1; i <= c->n; i++) {
        struct fake_state *s = &c->nodes[i].state;
        struct state_message *m;
        if (!(nodes & node_bit(i)))
            continue;
        m = &s->messages[s->n++];
        memset(m, 0, sizeof(*m));
        m->id = id;
        m->sequence = ++s->sequence;
        m->length = len;
        m->stamp = s->now_ms;
        m->holders = holders;
        checksum_of(data, len, m->checksum);
        s->alive++;
        if (c->nodes[i].b != NULL)
            bodies_enqueued(c->nodes[i].b, m);
    }
    free(data);
}
/* Applies the last outcome. */
FAKE_FUNCTION void finish(struct fake_cluster *c, uint32_t node, unsigned number)
{
    struct fake_state *s = &c->nodes[node].state;
    struct state_message *m = (struct state_message *)(uintptr_t)fake_find((struct state *)s, test_id(number));
    assert_non_null(m);
    m->gone = true;
    s->alive--;
    s->finished[s->n_finished++] = m->id;
    bodies_removed(c->nodes[node].b, m->id);
}
/* Puts a body into a spool behind everybody's back. */
FAKE_FUNCTION void plant(struct fake_cluster *c, uint32_t node, unsigned number, size_t len, size_t piece,
                         uint64_t stamp)
{
    struct mr_id id = test_id(number);
    uint8_t *data = content(id, len);
    struct spool_piece p = {.id = id, .stamp_ms = stamp, .length = len};
    checksum_of(data, len, p.checksum);
    for (size_t at = 0; !p.last; at += p.len, p.piece++) {
        p.data = data + at;
        p.len = len - at > piece ? piece : len - at;
        p.last = at + p.len == len;
        assert_int_equal(fake_store(&c->nodes[node].spool, &p), 0);
    }
    free(data);
}
FAKE_FUNCTION bool has(struct fake_cluster *c, uint32_t node, unsigned number)
{
    return fake_spool_has((struct spool *)&c->nodes[node].spool, test_id(number), NULL);
}
FAKE_FUNCTION bool has_right(struct fake_cluster *c, uint32_t node, unsigned number, size_t len)
{
    const struct fake_body *body = fake_body(&c->nodes[node].spool, test_id(number));
    uint8_t *data = content(test_id(number), len);
    bool right = body != NULL && body->complete && body->length == len;
    for (uint32_t i = 0, at = 0; right && i < body->n; at += (uint32_t)body->pieces[i].len, i++)
        right = memcmp(data + at, body->pieces[i].data, body->pieces[i].len) == 0;
    free(data);
    return right;
}
FAKE_FUNCTION void ruin(struct fake_cluster *c, uint32_t node, unsigned number)
{
    fake_body(&c->nodes[node].spool, test_id(number))->bad = true;
}

struct reading {
    struct body_read req;
    unsigned called;
    int status;
    size_t len;
    bool last, right;
};
static void on_reading(struct body_read *req, int status, uint8_t *data, size_t len, bool last)
{
    struct reading *r = (struct reading *)req;
    r->called++;
    r->status = status;
    r->len = len;
    r->last = last;
    if (status == 0) {
        uint8_t *all = content(req->id, len);
        r->right = req->piece != 0 || memcmp(all, data, len) == 0;
        free(all);
    }
    free(data);
}
FAKE_FUNCTION void read_begin(struct fake_cluster *c, struct reading *r, uint32_t node, unsigned number, uint32_t piece)
{
    memset(r, 0, sizeof(*r));
    r->req.id = test_id(number);
    r->req.piece = piece;
    r->req.cb = on_reading;
    bodies_read(c->nodes[node].b, &r->req);
    assert_int_equal(r->called, 0); /* never before the call returned */
}
FAKE_FUNCTION struct bodies_stats stats_of(struct fake_cluster *c, uint32_t node)
{
    struct bodies_stats stats;
    bodies_stats(c->nodes[node].b, &stats);
    return stats;
}
FAKE_FUNCTION uint64_t missing(struct fake_cluster *c, uint32_t node)
{
    return stats_of(c, node).missing;
}
/* A tamper: pieces of one sender are not what it sent. */
FAKE_FUNCTION bool flip(struct fake_cluster *c, uint32_t from, uint32_t to, struct fake_frame *f)
{
    (void)to;
    if (from == c->tamper_from && f->type == FRAME_BODY_PIECE && f->tail_len > 0) {
        f->tail[f->tail_len / 2] ^= 1;
        c->hits++;
    }
    return true;
}

#endif
