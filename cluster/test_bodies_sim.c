/* test_bodies_sim.c - random lives of the body plane: puts, reads, lagging states, links that come and go, disks that
 * stall, fill and rot, nodes that restart. A seed tells it all: BODIES_SEED=n runs that one, BODIES_SEEDS=n so many
 * (default 6). */
#include "cluster/test_bodies_fake.h"

#include <stdio.h>

enum { PUTS = 160, READS = 64, ROUNDS = 500 };

struct life {
    struct put put;
    uint32_t node;
    size_t len;
    unsigned pieces, given;
    bool used, lost, aborted, enqueued, finished;
    uint64_t stamp;
    bool told; /* its callback was looked at */
};
/* What the cluster has decided, in order; each node has applied a part of it. */
struct entry {
    enum { ENTRY_ENQUEUE, ENTRY_FINISH, ENTRY_TIME } kind;
    unsigned number;
};
struct sim {
    struct fake_cluster *c;
    uint64_t voters;
    struct life lives[PUTS];
    struct reading reads[READS];
    bool reading[READS];
    uint32_t reader[READS];
    struct entry log[4 * PUTS + ROUNDS];
    uint64_t decided_ms;
    size_t n_log, applied[FAKE_NODES + 1];
};

static uint64_t random_state;
static uint32_t rnd(uint32_t n)
{
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(random_state >> 33) % n;
}

static void decide(struct sim *s, int kind, unsigned number)
{
    assert_true(s->n_log < sizeof(s->log) / sizeof(s->log[0]));
    s->log[s->n_log++] = (struct entry){kind, number};
    if (kind == ENTRY_TIME)
        s->decided_ms += 60 * 1000;
}

static void apply_one(struct sim *s, uint32_t node)
{
    const struct entry *e = &s->log[s->applied[node]++];
    struct life *l = &s->lives[e->number];
    if (e->kind == ENTRY_ENQUEUE)
        enqueue(s->c, node_bit(node), e->number, l->put.len, l->put.holders);
    else if (e->kind == ENTRY_FINISH)
        finish(s->c, node, e->number);
    else
        s->c->nodes[node].state.now_ms += 60 * 1000;
    if (s->applied[node] == s->n_log)
        bodies_ready(s->c->nodes[node].b);
}

/* B1, at the moment of each answer. */
static void look_at_answers(struct sim *s)
{
    for (unsigned i = 0; i < PUTS; i++) {
        struct life *l = &s->lives[i];
        assert_true(l->put.called <= 1);
        if (!l->used || !l->put.called || l->told)
            continue;
        l->told = true;
        if (l->put.status != 0)
            continue;
        if (s->decided_ms > l->stamp + STATE_GRACE_MS)
            continue; /* its enqueue is refused as stale, and its copies may be gone */
        assert_true(bit_count(l->put.holders & s->voters) > bit_count(s->voters) / 2);
        for (uint32_t n = 1; n <= s->c->n; n++)
            if (l->put.holders & node_bit(n))
                assert_true(has_right(s->c, n, i, l->put.len));
        decide(s, ENTRY_ENQUEUE, i);
        l->enqueued = true;
    }
}

static void go_on_with_put(struct sim *s, unsigned i)
{
    struct life *l = &s->lives[i];
    if (!l->used) {
        l->used = true;
        l->node = 1 + rnd(s->c->n);
        l->pieces = rnd(3) == 0 ? 1 + rnd(12) : 1;
        put_begin(s->c, &l->put, l->node, i);
        l->stamp = body_put_stamp(l->put.p);
    }
    if (l->put.p == NULL || l->lost || l->aborted)
        return;
    if (rnd(40) == 0) {
        struct body_put *p = l->put.p;
        l->aborted = true;
        l->put.p = NULL;
        bodies_abort(p);
    } else if (l->given == l->pieces) {
        return;
    } else if (l->given + 1 < l->pieces) {
        put_piece(&l->put, l->put.len, rnd(2) ? P : 1 + rnd(P));
        l->given++;
    } else {
        l->given++;
        put_finish(&l->put, rnd(8) == 0 && l->pieces > 1 ? 0 : 1 + rnd(20000));
        if (l->put.p != NULL)
            l->stamp = body_put_stamp(l->put.p);
    }
}

static void restart(struct sim *s, uint32_t node)
{
    for (uint32_t i = 1; i <= s->c->n; i++) {
        if (i == node)
            continue;
        set_link(s->c, node, i, false);
        set_link(s->c, i, node, false);
    }
    for (unsigned i = 0; i < PUTS; i++)
        if (s->lives[i].used && s->lives[i].node == node && s->lives[i].given < s->lives[i].pieces)
            s->lives[i].lost = true;
    close_node(s->c, node);
    look_at_answers(s);
    open_node(s->c, node);
    if (s->applied[node] == s->n_log)
        bodies_ready(s->c->nodes[node].b);
}

/* A copy cannot be read, or none can be: until the end, when the disks are whole again. */
static void rot(struct sim *s, unsigned i)
{
    uint32_t node = rnd(4) == 0 ? 0 : 1 + rnd(s->c->n); /* 0: all */
    for (uint32_t n = 1; n <= s->c->n; n++) {
        struct fake_body *body = fake_body(&s->c->nodes[n].spool, test_id(i));
        if (s->lives[i].enqueued && (node == 0 || node == n) && body != NULL && body->complete)
            body->bad = true;
    }
}

static void mend_disk(struct fake_spool *sp)
{
    for (size_t i = 0; i < sp->n; i++)
        sp->bodies[i].bad = false;
}

static void read_some(struct sim *s)
{
    unsigned r = rnd(READS), i = rnd(PUTS);
    uint32_t node = 1 + rnd(s->c->n);
    if (s->reading[r] && s->reads[r].called == 0)
        return;
    read_begin(s->c, &s->reads[r], node, i, 0);
    s->reading[r] = true;
    s->reader[r] = node;
}
static void look_at_reads(struct sim *s)
{
    for (unsigned r = 0; r < READS; r++) {
        if (!s->reading[r] || s->reads[r].called == 0)
            continue;
        assert_int_equal(s->reads[r].called, 1);
        if (s->reads[r].status == 0)
            assert_true(s->reads[r].right); /* B2 */
    }
}

/* B3: what an envelope of any node's state names, and was held, is still there (rotten or not). */
static void look_at_copies(struct sim *s)
{
    for (unsigned i = 0; i < PUTS; i++) {
        unsigned copies = 0;
        if (!s->lives[i].enqueued || s->lives[i].finished)
            continue;
        for (uint32_t n = 1; n <= s->c->n; n++)
            copies += has(s->c, n, i) || fake_kept(&s->c->nodes[n].spool, test_id(i)) != NULL;
        assert_true(copies >= 1);
    }
}

static void one_round(struct sim *s)
{
    struct fake_cluster *c = s->c;
    uint32_t a = 1 + rnd(c->n), b = 1 + rnd(c->n);
    unsigned i = rnd(PUTS);
    switch (rnd(20)) {
    case 0:
        if (a != b)
            set_link(c, a, b, !c->wires[a][b].up);
        break;
    case 1:
        if (a != b)
            set_link(c, a, b, true);
        break;
    case 2:
        c->wires[a][b].stalled = rnd(3) == 0;
        break;
    case 3:
        c->nodes[a].spool.stalled = rnd(3) == 0;
        break;
    case 4:
        c->nodes[a].spool.nospace = rnd(4) == 0;
        break;
    case 5:
        if (rnd(10) == 0)
            restart(s, a);
        break;
    case 6:
        rot(s, i);
        break;
    case 7:
        if (s->lives[i].enqueued && !s->lives[i].finished && rnd(2)) {
            s->lives[i].finished = true;
            decide(s, ENTRY_FINISH, i);
        }
        break;
    case 8:
        if (rnd(4) == 0)
            decide(s, ENTRY_TIME, 0);
        break;
    case 9:
    case 10:
        read_some(s);
        break;
    case 11:
    case 12:
        pass_ms(c, 20 * (1 + rnd(rnd(10) == 0 ? 400 : 10)));
        break;
    default:
        go_on_with_put(s, i);
    }
    for (unsigned steps = rnd(6); steps > 0; steps--) {
        step_once(c);
        look_at_answers(s);
    }
    look_at_answers(s);
    for (uint32_t n = 1; n <= c->n; n++)
        for (unsigned k = rnd(4); k > 0 && s->applied[n] < s->n_log; k--)
            apply_one(s, n);
    look_at_reads(s);
    look_at_copies(s);
}

static void heal(struct sim *s)
{
    struct fake_cluster *c = s->c;
    for (uint32_t n = 1; n <= c->n; n++) {
        mend_disk(&c->nodes[n].spool);
        c->nodes[n].spool.stalled = c->nodes[n].spool.nospace = false;
        for (uint32_t m = 1; m <= c->n; m++) {
            c->wires[n][m].stalled = false;
            if (n != m)
                set_link(c, n, m, true);
        }
    }
    for (unsigned i = 0; i < PUTS; i++)
        while (s->lives[i].used && s->lives[i].put.p != NULL && !s->lives[i].lost && !s->lives[i].aborted &&
               s->lives[i].given < s->lives[i].pieces)
            go_on_with_put(s, i);
    for (unsigned k = 0; k < 10; k++) {
        pass_ms(c, 4000);
        look_at_answers(s);
        for (uint32_t n = 1; n <= c->n; n++)
            while (s->applied[n] < s->n_log)
                apply_one(s, n);
    }
    /* Half an hour later nobody waits for anything; what nobody named is gone. */
    for (unsigned i = 0; i < 30; i++)
        decide(s, ENTRY_TIME, 0);
    for (uint32_t n = 1; n <= c->n; n++)
        while (s->applied[n] < s->n_log)
            apply_one(s, n);
    pass_ms(c, 20000);
}

static void run_seed(uint64_t seed)
{
    struct sim *s = mr_calloc(1, sizeof(*s));
    struct fake_cluster *c;
    unsigned n = seed % 3 == 0 ? 5 : 3;
    random_state = seed * 7919 + 1;
    s->voters = ((uint64_t)2 << n) - 2;
    s->c = c = cluster_open_fake(n, s->voters);
    s->decided_ms = c->nodes[1].state.now_ms;
    for (uint32_t i = 1; i <= n; i++)
        c->nodes[i].state.version = 1 + seed % 2;
    if (n == 5)
        for (uint32_t i = 1; i <= n; i++)
            c->nodes[i].state.rules.replicas = 5;
    for (unsigned i = 0; i < ROUNDS; i++)
        one_round(s);
    heal(s);
    for (unsigned i = 0; i < PUTS; i++) {
        struct life *l = &s->lives[i];
        if (!l->used)
            continue;
        if (l->given == l->pieces && !l->lost)
            assert_int_equal(l->put.called, 1);
        if (!l->lost && !l->aborted)
            assert_int_equal(l->put.written, l->given - (l->given == l->pieces));
        for (uint32_t k = 1; k <= n; k++) {
            if (l->enqueued && !l->finished) {
                struct reading r;
                read_begin(c, &r, k, i, 0);
                pass_ms(c, 20);
                step_all(c);
                assert_true(r.called == 1 && r.status == 0 && r.right);
                assert_true(has_right(c, k, i, l->put.len));
            } else {
                assert_null(fake_body(&c->nodes[k].spool, test_id(i)));
            }
            assert_null(fake_kept(&c->nodes[k].spool, test_id(i)));
        }
    }
    for (uint32_t k = 1; k <= n; k++) {
        assert_int_equal(missing(c, k), 0);
        assert_int_equal(c->nodes[k].b->puts.count, 0);
        assert_int_equal(c->nodes[k].b->incoming.count, 0);
        assert_int_equal(c->nodes[k].b->wants.count, 0);
        assert_true(blist_empty(&c->nodes[k].b->serves));
        for (uint32_t m = 1; m <= n; m++) {
            assert_int_equal(c->nodes[k].b->peers[m].unacked, 0);
            assert_int_equal(c->nodes[k].b->peers[m].received, 0);
            assert_int_equal(c->nodes[k].b->peers[m].incoming, 0);
        }
    }
    assert_int_equal(c->frame_error, 0);
    for (unsigned r = 0; r < READS; r++)
        assert_true(!s->reading[r] || s->reads[r].called == 1);
    cluster_close_fake(c);
    free(s);
}

static uint64_t running_seed;
static void say_seed(void)
{
    if (running_seed != 0)
        (void)fprintf(stderr, "BODIES_SEED=%llu\n", (unsigned long long)running_seed);
}

static void random_lives(void **state)
{
    const char *one = getenv("BODIES_SEED"), *many = getenv("BODIES_SEEDS");
    uint64_t first = one != NULL ? strtoull(one, NULL, 10) : 1;
    uint64_t n = one != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 6;
    (void)state;
    for (uint64_t seed = first; seed < first + n; seed++) {
        running_seed = seed;
        run_seed(seed);
    }
    running_seed = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_lives)};
    int failed;
    (void)atexit(say_seed);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    say_seed();
    running_seed = 0;
    return failed;
}
