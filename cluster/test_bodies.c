/* test_bodies.c - the body plane over fakes: each rule of PROTOCOL.md 3 by the accident that it prevents. */
#include "cluster/test_bodies_fake.h"

enum { KIB = 1024, MIB = 1024 * 1024, P = SPOOL_MAX_PIECE };
#define V3 (2 | 4 | 8)
#define V5 (2 | 4 | 8 | 16 | 32)

static unsigned hits;
static uint32_t tamper_from;
static enum frame_type tamper_type;

static struct bodies_stats stats_of(struct fake_cluster *c, uint32_t node)
{
    struct bodies_stats stats;
    bodies_stats(c->nodes[node].b, &stats);
    return stats;
}

/* ---- put ---- */

static void small_body_costs_one_frame_a_peer_and_one_put(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    put_small(c, &put, 1, 1, 1000);
    assert_int_equal(put.called, 0);
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.status, 0);
    assert_true(bit_count(put.holders) >= 2 && put.holders & 2);
    for (uint32_t i = 1; i <= 3; i++) {
        assert_true(has_right(c, i, 1, 1000));
        assert_int_equal(c->nodes[i].spool.puts, 1);
    }
    assert_int_equal(c->wires[1][2].sent[FRAME_BODY_PIECE], 1);
    assert_int_equal(c->wires[1][3].sent[FRAME_BODY_PIECE], 1);
    assert_int_equal(c->wires[2][1].sent[FRAME_BODY_ACK], 1);
    assert_int_equal(c->nodes[1].b->peers[2].unacked, 0);
    assert_int_equal(c->nodes[1].b->puts.count, 0);
    cluster_close_fake(c);
}

static void large_body_in_pieces(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    put_begin(c, &put, 2, 1);
    for (unsigned i = 0; i < 20; i++) {
        put_piece(&put, i * P, P);
        step_all(c);
        assert_int_equal(put.written, i + 1);
    }
    put_finish(&put, 0); /* an empty last piece is a piece */
    step_all(c);
    assert_int_equal(put.status, 0);
    assert_int_equal(put.refused, 0);
    for (uint32_t i = 1; i <= 3; i++)
        assert_true(has_right(c, i, 1, 20 * P));
    assert_int_equal(c->nodes[2].b->peers[1].unacked, 0);
    assert_int_equal(c->nodes[1].b->peers[2].received, 0);
    cluster_close_fake(c);
}

/* B1: both peers have burnt after they took the bytes but before they were on disk. */
static void no_answer_before_a_majority_has_it_on_disk(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    c->nodes[2].spool.stalled = c->nodes[3].spool.stalled = true;
    put_small(c, &put, 1, 1, 1000);
    step_all(c);
    assert_true(has(c, 1, 1));
    assert_int_equal(put.called, 0);
    c->nodes[3].spool.stalled = false;
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.holders, 2 | 8);
    cluster_close_fake(c);
}

static void no_answer_before_the_own_disk(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    c->nodes[1].spool.stalled = true;
    put_small(c, &put, 1, 1, 1000);
    step_all(c);
    assert_true(has(c, 2, 1) && has(c, 3, 1));
    assert_int_equal(put.called, 0);
    c->nodes[1].spool.stalled = false;
    step_all(c);
    assert_int_equal(put.holders, 2 | 4 | 8);
    cluster_close_fake(c);
}

/* B1: a standby's copy helps no election. */
static void a_standby_does_not_count(void **state)
{
    struct fake_cluster *c = cluster_open_fake(4, V3);
    struct put put, other;
    (void)state;
    set_links(c, 3, false);
    c->nodes[1].spool.stalled = true;
    put_small(c, &put, 4, 1, 1000); /* the acceptor is the standby */
    step_all(c);
    assert_true(has(c, 4, 1) && has(c, 2, 1));
    assert_int_equal(put.called, 0);
    c->nodes[1].spool.stalled = false;
    step_all(c);
    assert_int_equal(put.status, 0);
    assert_int_equal(put.holders, 2 | 4);
    set_link(c, 1, 2, false);
    put_small(c, &other, 1, 2, 1000); /* only the standby is reachable */
    step_all(c);
    assert_int_equal(other.called, 0);
    assert_int_equal(c->wires[1][4].sent[FRAME_BODY_PIECE], 0);
    cluster_close_fake(c);
}

/* B4. */
static void a_slow_peer_never_holds_up_and_pulls_later(void **state)
{
    enum { N = 40, LEN = 240 * KIB };
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put puts[N];
    (void)state;
    c->wires[1][3].stalled = true;
    for (unsigned i = 0; i < N; i++) {
        put_small(c, &puts[i], 1, i, LEN);
        step_all(c);
        assert_int_equal(puts[i].status, 0);
        assert_int_equal(puts[i].called, 1);
        assert_int_equal(puts[i].holders, 2 | 4);
        assert_true(c->wires[1][3].queued <= BODIES_PEER_BEHIND + P);
        enqueue(c, V3, i, LEN, puts[i].holders);
    }
    assert_true(stats_of(c, 1).skipped_peers > 0);
    assert_false(has(c, 3, N - 1));
    assert_int_equal(missing(c, 3), N);
    c->wires[1][3].stalled = false;
    pass_ms(c, 4000);
    for (unsigned i = 0; i < N; i++)
        assert_true(has_right(c, 3, i, LEN));
    assert_int_equal(missing(c, 3), 0);
    assert_int_equal(c->nodes[1].b->peers[3].unacked, 0);
    cluster_close_fake(c);
}

/* A client faster than the majority's disks waits for them; nothing piles up without limit. */
static void the_owner_goes_at_the_majoritys_pace(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    unsigned given = 0;
    (void)state;
    c->nodes[2].spool.stalled = c->nodes[3].spool.stalled = true;
    put_begin(c, &put, 1, 1);
    while (given - put.written < 3 && given < 50) {
        put_piece(&put, given++ * P, P);
        step_all(c);
    }
    assert_true(given < 16);
    c->nodes[3].spool.stalled = false;
    while (given < 50) {
        put_piece(&put, given++ * P, P);
        step_all(c);
        assert_int_equal(put.written, given);
    }
    assert_int_equal(c->nodes[1].b->peers[2].unacked, 0); /* behind: left */
    c->nodes[2].spool.stalled = false;
    put_finish(&put, 10);
    step_all(c);
    assert_int_equal(put.status, 0);
    assert_int_equal(put.holders, 2 | 8);
    assert_false(has(c, 2, 1));
    assert_int_equal(c->nodes[2].spool.n == 0 || !c->nodes[2].spool.bodies[0].used, 1); /* its pieces are forgotten */
    cluster_close_fake(c);
}

static void a_link_drops_in_the_middle_and_the_whole_body_goes_again(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    set_link(c, 1, 2, false);
    put_begin(c, &put, 1, 1);
    for (unsigned i = 0; i < 5; i++) {
        put_piece(&put, i * P, P);
        step_all(c);
    }
    put_piece(&put, 5 * P, P);
    set_link(c, 1, 3, false); /* with a piece on its way */
    put_piece(&put, 6 * P, P);
    put_finish(&put, 77);
    step_all(c);
    assert_int_equal(put.written, 7);
    assert_int_equal(put.called, 0);
    assert_true(has(c, 1, 1));
    set_link(c, 1, 3, true);
    step_all(c);
    assert_int_equal(put.status, 0);
    assert_int_equal(put.holders, 2 | 8);
    assert_true(has_right(c, 3, 1, 7 * P + 77));
    cluster_close_fake(c);
}

static void without_a_majority_it_waits_and_the_link_brings_it(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    set_links(c, 1, false);
    put_small(c, &put, 1, 1, 500);
    pass_ms(c, 3000);
    assert_int_equal(put.called, 0);
    set_links(c, 1, true);
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.status, 0);
    cluster_close_fake(c);
}

static void full_disks(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    c->nodes[2].spool.nospace = true; /* one peer: the other counts */
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    assert_int_equal(put.holders, 2 | 8);
    c->nodes[3].spool.nospace = true; /* both: wait until there is space */
    put_small(c, &put, 1, 2, 500);
    pass_ms(c, 2500);
    assert_int_equal(put.called, 0);
    c->nodes[3].spool.nospace = false;
    pass_ms(c, 1500);
    assert_int_equal(put.holders, 2 | 8);
    c->nodes[1].spool.nospace = true; /* here: refused */
    put_small(c, &put, 1, 3, 500);
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.status, MR_NOSPACE);
    put_begin(c, &put, 1, 4);
    put_piece(&put, 0, 1000);
    step_all(c);
    assert_int_equal(put.refused, 1);
    bodies_abort(put.p);
    step_all(c);
    put_begin(c, &put, 1, 5); /* its owner goes on to the end all the same */
    put_piece(&put, 0, 1000);
    step_all(c);
    put_finish(&put, 10);
    step_all(c);
    assert_int_equal(put.written, 1);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.status, MR_NOSPACE);
    assert_int_equal(c->nodes[1].b->puts.count, 0);
    assert_int_equal(c->nodes[3].b->incoming.count, 0);
    cluster_close_fake(c);
}

static void abort_forgets_everywhere(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    put_begin(c, &put, 1, 1);
    put_piece(&put, 0, P);
    put_piece(&put, P, P);
    step_all(c);
    put_piece(&put, 2 * P, P);
    bodies_abort(put.p); /* with a piece in the spool's hands */
    assert_int_equal(put.written, 2);
    step_all(c);
    assert_int_equal(put.written, 3);
    assert_int_equal(put.refused, 1);
    for (uint32_t i = 1; i <= 3; i++) {
        assert_null(fake_body(&c->nodes[i].spool, test_id(1)));
        assert_int_equal(c->nodes[i].b->incoming.count, 0);
        assert_int_equal(c->nodes[i].b->puts.count, 0);
    }
    c->nodes[2].spool.stalled = c->nodes[3].spool.stalled = true;
    put_small(c, &put, 1, 2, 100);
    step_all(c);
    bodies_abort(put.p);
    assert_int_equal(put.called, 0);
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.status, MR_CANCELLED);
    c->nodes[2].spool.stalled = c->nodes[3].spool.stalled = false;
    step_all(c);
    cluster_close_fake(c);
}

static bool lose(struct fake_cluster *c, uint32_t from, uint32_t to, struct fake_frame *f)
{
    (void)c;
    (void)to;
    if (from == tamper_from && f->type == tamper_type) {
        hits++;
        return false;
    }
    return true;
}

/* The peer's own connection broke with the acknowledgement in it. */
static void a_lost_acknowledgement_is_said_again(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    set_links(c, 3, false);
    tamper_from = 2;
    tamper_type = FRAME_BODY_ACK;
    c->tamper = lose;
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    assert_true(has(c, 2, 1));
    assert_int_equal(put.called, 0);
    c->tamper = NULL;
    set_link(c, 2, 1, false);
    set_link(c, 2, 1, true);
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.holders, 2 | 4);
    assert_int_equal(c->wires[1][2].sent[FRAME_BODY_PIECE], 1);
    cluster_close_fake(c);
}

static void a_hung_peer_is_replaced_by_another_voter(void **state)
{
    struct fake_cluster *c = cluster_open_fake(5, V5);
    struct put put;
    uint64_t first = 0, rest;
    (void)state;
    for (uint32_t i = 2; i <= 5; i++)
        c->nodes[i].spool.stalled = true;
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    for (uint32_t i = 2; i <= 5; i++)
        if (c->wires[1][i].sent[FRAME_BODY_PIECE] > 0)
            first |= node_bit(i);
    assert_int_equal(bit_count(first), 2); /* replicas 3 */
    rest = V5 & ~first & ~2ULL;
    for (uint32_t i = 2; i <= 5; i++)
        if (rest & node_bit(i))
            c->nodes[i].spool.stalled = false;
    pass_ms(c, 4000);
    assert_int_equal(put.called, 0);
    pass_ms(c, 2500);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.holders, 2 | rest);
    for (uint32_t i = 2; i <= 5; i++)
        c->nodes[i].spool.stalled = false;
    step_all(c);
    assert_int_equal(c->nodes[1].b->puts.count, 0); /* the late answers ended it */
    cluster_close_fake(c);
}

/* An acknowledgement lost without any link going down. */
static void an_answer_that_never_comes_is_asked_for_again(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    set_links(c, 3, false);
    tamper_from = 2;
    tamper_type = FRAME_BODY_ACK;
    c->tamper = lose;
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    c->tamper = NULL;
    pass_ms(c, 20000);
    assert_int_equal(put.status, 0);
    assert_int_equal(put.called, 1);
    assert_int_equal(c->nodes[1].b->peers[2].unacked, 0);
    cluster_close_fake(c);
}

static void voters_change_during_a_put(void **state)
{
    struct fake_cluster *c = cluster_open_fake(5, V3);
    struct put put;
    (void)state;
    set_link(c, 1, 3, false);
    c->nodes[2].spool.stalled = true;
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    for (uint32_t i = 1; i <= 5; i++) {
        c->nodes[i].state.voters = V5;
        bodies_voters_changed(c->nodes[i].b);
    }
    c->nodes[2].spool.stalled = false;
    pass_ms(c, 100);
    assert_int_equal(put.status, 0);
    assert_int_equal(put.called, 1);
    assert_true(bit_count(put.holders) == 3);
    cluster_close_fake(c);
}

static void copying_further_after_a_refused_enqueue(void **state)
{
    struct fake_cluster *c = cluster_open_fake(5, V3);
    struct put put;
    (void)state;
    plant(c, 1, 1, 3 * P + 5, P, 7);
    plant(c, 2, 1, 3 * P + 5, P, 7);
    for (uint32_t i = 1; i <= 5; i++)
        c->nodes[i].state.voters = V5;
    memset(&put, 0, sizeof(put));
    assert_null(bodies_recopy(c->nodes[1].b, test_id(9), on_stored, &put));
    put.p = bodies_recopy(c->nodes[1].b, test_id(1), on_stored, &put);
    assert_non_null(put.p);
    assert_int_equal(body_put_stamp(put.p), 7);
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.status, 0);
    assert_int_equal(bit_count(put.holders), 3);
    for (uint32_t i = 1; i <= 5; i++)
        assert_int_equal(!(put.holders & node_bit(i)) || has_right(c, i, 1, 3 * P + 5), 1);
    cluster_close_fake(c);
}

static void the_same_body_twice_is_harmless(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    plant(c, 2, 1, 500, P, 7);
    plant(c, 2, 2, 2 * P + 9, P, 7);
    set_links(c, 3, false);
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    assert_int_equal(put.holders, 2 | 4);
    put_begin(c, &put, 1, 2);
    put_piece(&put, 0, P);
    put_piece(&put, P, P);
    put_finish(&put, 9);
    step_all(c);
    assert_int_equal(put.holders, 2 | 4);
    assert_int_equal(c->nodes[2].spool.puts, 0);
    /* The same name for other bytes is no copy. */
    plant(c, 2, 3, 400, P, 7);
    put_small(c, &put, 1, 3, 500);
    step_all(c);
    assert_int_equal(put.called, 0);
    cluster_close_fake(c);
}

static bool flip(struct fake_cluster *c, uint32_t from, uint32_t to, struct fake_frame *f)
{
    (void)c;
    (void)to;
    if (from == tamper_from && f->type == FRAME_BODY_PIECE && f->tail_len > 0) {
        f->tail[f->tail_len / 2] ^= 1;
        hits++;
    }
    return true;
}

static void a_push_with_wrong_bytes_is_not_acknowledged(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    tamper_from = 1;
    c->tamper = flip;
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    assert_int_equal(put.called, 0);
    assert_false(has(c, 2, 1) || has(c, 3, 1));
    c->tamper = NULL;
    pass_ms(c, 1200);
    assert_int_equal(put.called, 1);
    assert_true(has_right(c, 2, 1, 500));
    cluster_close_fake(c);
}

/* ---- read, pull ---- */

static void a_good_copy_is_read_here(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r[3];
    (void)state;
    plant(c, 1, 1, P + 10, P, 7);
    enqueue(c, 2, 1, P + 10, V3);
    for (uint32_t i = 0; i < 3; i++)
        read_begin(c, &r[i], 1, 1, i);
    step_all(c);
    assert_true(r[0].called == 1 && r[0].status == 0 && r[0].right && !r[0].last && r[0].len == P);
    assert_true(r[1].called == 1 && r[1].status == 0 && r[1].last && r[1].len == 10);
    assert_true(r[2].called == 1 && r[2].status == MR_NOTFOUND);
    assert_int_equal(stats_of(c, 1).pulls, 0);
    cluster_close_fake(c);
}

/* B2: a flipped bit at rest. */
/* ---- taken from memory ---- */

static bool take(struct fake_cluster *c, uint32_t node, unsigned number)
{
    struct message_view v;
    size_t len = 0;
    fake_view(fake_find((struct state *)&c->nodes[node].state, test_id(number)), &v);
    uint8_t *data = bodies_take(c->nodes[node].b, &v, &len);
    if (data == NULL)
        return false;
    uint8_t *wanted = content(test_id(number), v.body_length);
    assert_int_equal(len, v.body_length);
    assert_memory_equal(data, wanted, len);
    free(wanted);
    free(data);
    return true;
}

static void what_is_in_memory_is_taken_if_it_is_the_envelopes(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    (void)state;
    plant(c, 1, 1, 1000, P, c->nodes[1].state.now_ms);
    plant(c, 1, 2, BODIES_TAKE + 1, P, c->nodes[1].state.now_ms);
    enqueue(c, 2, 1, 1000, 2 | 4);
    enqueue(c, 2, 2, BODIES_TAKE + 1, 2 | 4);
    assert_false(take(c, 1, 1));
    c->nodes[1].spool.in_memory = true;
    assert_true(take(c, 1, 1));
    assert_true(take(c, 1, 1));                     /* it stays where it was */
    assert_false(take(c, 1, 2));                    /* too much for the loop */
    c->nodes[1].state.messages[0].checksum[3] ^= 1; /* B2 */
    assert_false(take(c, 1, 1));
    c->nodes[1].state.messages[0].checksum[3] ^= 1;
    c->nodes[1].state.messages[0].length--;
    assert_false(take(c, 1, 1));
    c->nodes[1].state.messages[0].length++;
    ruin(c, 1, 1);
    assert_false(take(c, 1, 1));
    cluster_close_fake(c);
}

static void a_bad_copy_is_repaired_and_never_delivered(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r, again;
    (void)state;
    for (uint32_t i = 1; i <= 3; i++)
        plant(c, i, 1, 3 * P, P, 7);
    enqueue(c, V3, 1, 3 * P, V3);
    ruin(c, 1, 1);
    read_begin(c, &r, 1, 1, 0);
    read_begin(c, &again, 1, 1, 2); /* waits for the same repair */
    step_all(c);
    assert_true(r.called == 1 && r.status == 0 && r.right);
    assert_true(again.called == 1 && again.status == 0 && again.last);
    assert_true(has_right(c, 1, 1, 3 * P));
    assert_int_equal(stats_of(c, 1).repaired, 1);
    assert_int_equal(stats_of(c, 1).pulls, 1);
    pass_ms(c, 40);
    assert_int_equal(missing(c, 1), 0);
    cluster_close_fake(c);
}

/* A whole body with a right checksum of its own, but not the one that was accepted. */
static void a_copy_that_is_not_the_envelopes_is_replaced(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    (void)state;
    plant(c, 1, 1, 400, P, 7);
    plant(c, 2, 1, 500, P, 7);
    enqueue(c, V3, 1, 500, V3);
    read_begin(c, &r, 1, 1, 0);
    step_all(c);
    assert_true(r.called == 1 && r.status == 0 && r.right && r.len == 500);
    assert_true(has_right(c, 1, 1, 500));
    cluster_close_fake(c);
}

static uint32_t asked(struct fake_cluster *c, uint32_t by)
{
    for (uint32_t i = 1; i <= c->n; i++)
        if (i != by && c->wires[by][i].sent[FRAME_BODY_GET] > 0)
            return i;
    return 0;
}

static void the_holder_dies_during_the_pull(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    uint32_t holder;
    (void)state;
    plant(c, 1, 1, 6 * P, P, 7);
    plant(c, 2, 1, 6 * P, P, 7);
    enqueue(c, V3, 1, 6 * P, 2 | 4);
    read_begin(c, &r, 3, 1, 0);
    while (c->nodes[3].spool.puts < 2)
        step_once(c);
    holder = asked(c, 3);
    set_links(c, holder, false);
    step_all(c);
    assert_true(r.called == 1 && r.status == 0 && r.right);
    assert_true(has_right(c, 3, 1, 6 * P));
    assert_int_equal(stats_of(c, 3 - holder).served, 1);
    cluster_close_fake(c);
}

static void a_silent_holder_is_given_up(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    uint32_t holder;
    (void)state;
    plant(c, 1, 1, 6 * P, P, 7);
    plant(c, 2, 1, 6 * P, P, 7);
    enqueue(c, V3, 1, 6 * P, 2 | 4);
    read_begin(c, &r, 3, 1, 0);
    while (c->nodes[3].spool.puts < 2)
        step_once(c);
    holder = asked(c, 3);
    c->nodes[holder].spool.stalled = true;
    pass_ms(c, BODIES_PULL_TIMEOUT_MS - 500);
    assert_int_equal(r.called, 0);
    pass_ms(c, 1000);
    assert_true(r.called == 1 && r.status == 0 && r.right);
    c->nodes[holder].spool.stalled = false;
    step_all(c);
    assert_true(blist_empty(&c->nodes[holder].b->serves)); /* told that nobody waits for it */
    cluster_close_fake(c);
}

static void wrong_bytes_from_a_holder_are_dropped(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    (void)state;
    plant(c, 1, 1, 2 * P + 3, P, 7);
    enqueue(c, V3, 1, 2 * P + 3, 2 | 4);
    tamper_from = 1;
    hits = 0;
    c->tamper = flip;
    read_begin(c, &r, 3, 1, 0);
    step_all(c);
    assert_true(hits > 0);
    assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    assert_null(fake_body(&c->nodes[3].spool, test_id(1)));
    plant(c, 2, 1, 2 * P + 3, P, 7);
    read_begin(c, &r, 3, 1, 0);
    step_all(c);
    assert_true(r.called == 1 && r.status == 0 && r.right);
    assert_true(has_right(c, 3, 1, 2 * P + 3));
    cluster_close_fake(c);
}

/* The holder's bytes and its own checksum agree, but they are not what was accepted. */
static void a_holder_with_another_body_is_not_believed(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    (void)state;
    plant(c, 1, 1, 400, P, 7);
    plant(c, 2, 1, 400, P, 7);
    enqueue(c, V3, 1, 500, 2 | 4);
    read_begin(c, &r, 3, 1, 0);
    step_all(c);
    assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    assert_false(has(c, 3, 1));
    cluster_close_fake(c);
}

static void nobody_has_it_now_but_later(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    (void)state;
    plant(c, 1, 1, 500, P, 7);
    enqueue(c, V3, 1, 500, 2);
    set_links(c, 1, false);
    read_begin(c, &r, 3, 1, 0);
    step_all(c);
    assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    assert_int_equal(missing(c, 3), 1);
    pass_ms(c, 5000);
    assert_int_equal(missing(c, 3), 1);
    set_links(c, 1, true);
    pass_ms(c, 2500);
    assert_true(has_right(c, 3, 1, 500));
    read_begin(c, &r, 3, 77, 0); /* no envelope names it */
    step_all(c);
    assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    cluster_close_fake(c);
}

/* The enqueue overtook the push: the assignment is here before the body. */
static void a_read_waits_for_the_push_under_way(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    struct reading r;
    (void)state;
    c->nodes[3].spool.stalled = true;
    put_small(c, &put, 1, 1, 500);
    step_all(c);
    assert_int_equal(put.holders, 2 | 4);
    enqueue(c, V3, 1, 500, put.holders);
    read_begin(c, &r, 3, 1, 0);
    step_all(c);
    assert_int_equal(r.called, 0);
    c->nodes[3].spool.stalled = false;
    step_all(c);
    assert_true(r.called == 1 && r.status == 0 && r.right);
    assert_int_equal(stats_of(c, 3).pulls, 0);
    cluster_close_fake(c);
}

static void finished_while_it_was_pulled(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    (void)state;
    plant(c, 1, 1, 4 * P, P, 7);
    enqueue(c, V3, 1, 4 * P, 2);
    read_begin(c, &r, 3, 1, 0);
    while (c->nodes[3].spool.puts < 2)
        step_once(c);
    finish(c, 3, 1);
    step_all(c);
    assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    assert_null(fake_body(&c->nodes[3].spool, test_id(1)));
    assert_int_equal(c->nodes[3].b->incoming.count, 0);
    assert_int_equal(c->nodes[3].b->wants.count, 0);
    cluster_close_fake(c);
}

static void too_many_requests_of_one_peer_are_answered(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    (void)state;
    plant(c, 1, 1, 500, P, 7);
    c->nodes[1].spool.stalled = true;
    for (uint64_t i = 1; i <= BODIES_SERVES + 5; i++) {
        Mailraft__BodyGet get = MAILRAFT__BODY_GET__INIT;
        struct mr_id id = test_id(1);
        uint8_t meta[64];
        get.id = (ProtobufCBinaryData){16, id.bytes};
        get.request = i;
        assert_int_equal(
            bodies_frame(c->nodes[1].b, 2, FRAME_BODY_GET, meta, mailraft__body_get__pack(&get, meta), NULL, 0), 0);
    }
    assert_int_equal(c->wires[1][2].sent[FRAME_BODY_MISSING], 5);
    c->nodes[1].spool.stalled = false;
    step_all(c);
    assert_int_equal(c->wires[1][2].sent[FRAME_BODY_PIECE], BODIES_SERVES);
    assert_int_equal(c->nodes[1].b->peers[2].serves, 0);
    cluster_close_fake(c);
}

/* ---- back-fill ---- */

static void an_empty_node_gets_everything_and_says_how_much_lacks(void **state)
{
    enum { N = 1500 };
    struct fake_cluster *c = cluster_open_fake(3, V3);
    (void)state;
    set_links(c, 3, false);
    close_node(c, 3);
    for (unsigned i = 0; i < N; i++) {
        plant(c, 1, i, 100 + i, P, 7);
        plant(c, 2, i, 100 + i, P, 7);
        enqueue(c, V3, i, 100 + i, 2 | 4);
    }
    open_node(c, 3);
    assert_int_equal(missing(c, 3), N); /* not looked at is not here */
    pass_ms(c, 200);
    assert_int_equal(missing(c, 3), N); /* nothing is pulled before the log was replayed */
    bodies_ready(c->nodes[3].b);
    pass_ms(c, 200);
    assert_int_equal(missing(c, 3), N); /* every one was looked at; nobody reachable */
    set_links(c, 3, true);
    pass_ms(c, 3000);
    assert_int_equal(missing(c, 3), 0);
    for (unsigned i = 0; i < N; i++)
        assert_true(has_right(c, 3, i, 100 + i));
    assert_int_equal(stats_of(c, 3).pulled, N);
    assert_int_equal(c->nodes[3].b->wants.count, 0);
    cluster_close_fake(c);
}

static void below_majority_first_and_reads_before_all(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct reading r;
    (void)state;
    set_links(c, 3, false);
    close_node(c, 3);
    for (unsigned i = 0; i < 40; i++) {
        plant(c, 1, i, 1000, P, 7);
        enqueue(c, V3, i, 1000, i == 30 ? 2 : 2 | 4); /* 30 has one holder only */
    }
    open_node(c, 3);
    bodies_ready(c->nodes[3].b);
    c->now_ns += 20 * 1000000ULL;
    bodies_tick(c->nodes[3].b, c->now_ns);
    c->nodes[1].spool.stalled = true;
    set_links(c, 3, true);
    pass_ms(c, 100);
    read_begin(c, &r, 3, 39, 0);
    step_all(c); /* six are on their way, two places are kept for reads */
    assert_int_equal(c->nodes[3].b->active_pulls, BODIES_PULLS - BODIES_PULLS_FOR_READS + 1);
    assert_true(want_active(c->nodes[3].b, test_id(30)));
    assert_true(want_active(c->nodes[3].b, test_id(39)));
    c->nodes[1].spool.stalled = false;
    pass_ms(c, 1000);
    assert_int_equal(missing(c, 3), 0);
    assert_true(r.called == 1 && r.right);
    cluster_close_fake(c);
}

static void replicas_below_the_number_of_voters(void **state)
{
    enum { N = 100 };
    struct fake_cluster *c = cluster_open_fake(5, V5);
    unsigned copies = 0;
    (void)state;
    for (unsigned i = 0; i < N; i++) {
        plant(c, 1, i, 1000, P, 7);
        enqueue(c, V5, i, 1000, 2); /* one holder: two more must be found, the same by everybody */
    }
    pass_ms(c, 4000);
    for (unsigned i = 0; i < N; i++) {
        unsigned n = 0;
        for (uint32_t k = 1; k <= 5; k++)
            n += has_right(c, k, i, 1000);
        assert_int_equal(n, 3);
        copies += n;
    }
    for (uint32_t k = 1; k <= 5; k++)
        assert_int_equal(missing(c, k), 0);
    assert_int_equal(copies, 3 * N);
    cluster_close_fake(c);
}

/* ---- collector ---- */

/* B3. The node comes up with the applied state of an hour ago: bodies accepted since then have no envelope yet. */
static void after_a_power_cut_of_an_hour_nothing_goes_before_the_log_was_replayed(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct fake_state *s = &c->nodes[1].state;
    uint64_t hour = 3600 * 1000, then = s->now_ms;
    (void)state;
    close_node(c, 1);
    for (unsigned i = 0; i < 30; i++)
        plant(c, 1, i, 100, P, then + i * hour / 30);
    plant(c, 1, 50, 100, P, then - hour); /* an orphan from before: even that waits */
    open_node(c, 1);
    pass_ms(c, 60000); /* uptime plays no part */
    assert_int_equal(c->nodes[1].spool.dropped, 0);
    for (unsigned i = 0; i < 10; i++) {
        s->now_ms = then + i * hour / 10; /* the log is replayed, its times pass */
        enqueue(c, 2, i, 100, V3);
        pass_ms(c, 20);
    }
    finish(c, 1, 0);
    pass_ms(c, 10000);
    assert_int_equal(c->nodes[1].spool.dropped, 0);
    s->now_ms = then + hour;
    bodies_ready(c->nodes[1].b);
    pass_ms(c, 10000);
    assert_false(has(c, 1, 0));  /* finished */
    assert_false(has(c, 1, 50)); /* orphan */
    for (unsigned i = 1; i < 10; i++)
        assert_true(has(c, 1, i));     /* named */
    for (unsigned i = 10; i < 30; i++) /* no envelope: gone only once committed time has passed stamp + grace */
        assert_int_equal(has(c, 1, i), then + i * hour / 30 + STATE_GRACE_MS >= s->now_ms);
    cluster_close_fake(c);
}

static void a_body_before_its_enqueue_stays_for_the_grace(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    put_small(c, &put, 1, 1, 100);
    step_all(c);
    c->nodes[1].state.now_ms += STATE_GRACE_MS;
    pass_ms(c, 20000);
    assert_true(has(c, 1, 1));
    c->nodes[1].state.now_ms += 1;
    pass_ms(c, 20000);
    assert_false(has(c, 1, 1));
    assert_true(has(c, 2, 1)); /* its own applied state has not passed it */
    assert_int_equal(stats_of(c, 1).collected, 1);
    cluster_close_fake(c);
}

/* A client that takes longer than the grace period for one message: the stamp is that of its last piece, everywhere. */
static void a_slow_body_is_not_stale(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    put_begin(c, &put, 1, 1);
    for (int i = 0; i < 4; i++) {
        put_piece(&put, put.len, P);
        step_all(c);
        for (uint32_t n = 1; n <= 3; n++)
            c->nodes[n].state.now_ms += STATE_GRACE_MS * 3 / 4;
        pass_ms(c, 20000); /* nobody gives the pieces up, no collector takes them */
    }
    uint64_t last = c->nodes[1].state.now_ms;
    put_finish(&put, 100);
    assert_int_equal(body_put_stamp(put.p), last);
    step_all(c);
    assert_int_equal(put.called, 1);
    assert_int_equal(put.status, 0);
    for (uint32_t n = 1; n <= 3; n++) {
        assert_true(has_right(c, n, 1, put.len));
        assert_int_equal(fake_body(&c->nodes[n].spool, test_id(1))->stamp, last);
        c->nodes[n].state.now_ms = last + STATE_GRACE_MS;
    }
    pass_ms(c, 20000);
    for (uint32_t n = 1; n <= 3; n++) {
        assert_true(has(c, n, 1));
        c->nodes[n].state.now_ms++;
    }
    pass_ms(c, 20000);
    for (uint32_t n = 1; n <= 3; n++)
        assert_false(has(c, n, 1));
    cluster_close_fake(c);
}

/* A member of version 1 goes by the first piece's stamp: so do all. */
static void below_version_2_the_first_stamp_counts(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    c->nodes[1].state.version = 1;
    uint64_t first = c->nodes[1].state.now_ms;
    put_begin(c, &put, 1, 1);
    put_piece(&put, 0, P);
    step_all(c);
    c->nodes[1].state.now_ms += 1000;
    put_finish(&put, 100);
    assert_int_equal(body_put_stamp(put.p), first);
    step_all(c);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(fake_body(&c->nodes[n].spool, test_id(1))->stamp, first);
    cluster_close_fake(c);
}

static void a_stamp_at_the_end_of_time_does_not_wrap(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    (void)state;
    plant(c, 1, 1, 100, P, UINT64_MAX - 5);
    pass_ms(c, 20000);
    assert_true(has(c, 1, 1));
    c->nodes[1].state.now_ms = 5; /* committed time younger than the grace: nothing is old */
    plant(c, 1, 2, 100, P, 0);
    pass_ms(c, 20000);
    assert_true(has(c, 1, 2));
    cluster_close_fake(c);
}

static void a_running_put_is_never_collected(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    set_links(c, 1, false);
    put_small(c, &put, 1, 1, 100);
    step_all(c);
    c->nodes[1].state.now_ms += 2 * STATE_GRACE_MS;
    pass_ms(c, 20000);
    assert_true(has(c, 1, 1));
    set_links(c, 1, true);
    step_all(c);
    assert_int_equal(put.status, 0);
    assert_int_equal(put.called, 1);
    pass_ms(c, 10000);
    assert_false(has(c, 1, 1));
    cluster_close_fake(c);
}

static void a_finished_message_frees_its_body_at_once(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    c->nodes[3].spool.stalled = true;
    put_small(c, &put, 1, 1, 100);
    step_all(c);
    enqueue(c, V3, 1, 100, put.holders);
    for (uint32_t i = 1; i <= 3; i++)
        finish(c, i, 1);
    assert_false(has(c, 1, 1) || has(c, 2, 1));
    c->nodes[3].spool.stalled = false; /* its copy comes after the end */
    step_all(c);
    assert_false(has(c, 3, 1));
    cluster_close_fake(c);
}

static void the_acceptor_died_and_its_pieces_are_forgotten(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    put_begin(c, &put, 1, 1);
    put_piece(&put, 0, P);
    step_all(c);
    set_links(c, 1, false);
    close_node(c, 1);
    assert_int_equal(c->nodes[2].b->incoming.count, 1);
    c->nodes[2].state.now_ms += STATE_GRACE_MS + 1;
    pass_ms(c, 10000);
    assert_int_equal(c->nodes[2].b->incoming.count, 0);
    assert_null(fake_body(&c->nodes[2].spool, test_id(1)));
    cluster_close_fake(c);
}

static void a_restored_state_is_marked_in_full(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct fake_state *s = &c->nodes[3].state;
    struct reading r;
    (void)state;
    set_links(c, 3, false);
    for (unsigned i = 0; i < 10; i++)
        enqueue(c, 8, i, 100, 2 | 4);
    read_begin(c, &r, 3, 3, 0);
    plant(c, 3, 20, 100, P, s->now_ms);
    pass_ms(c, 100);
    assert_int_equal(missing(c, 3), 10);
    s->n = s->alive = 0; /* the snapshot knows other messages, and later */
    s->now_ms += 2 * STATE_GRACE_MS;
    bodies_restored(c->nodes[3].b);
    for (unsigned i = 10; i < 15; i++) {
        struct mr_id id = test_id(i);
        plant(c, 1, i, 100, P, 7);
        (void)id;
        enqueue(c, 8, i, 100, 2 | 4);
    }
    set_links(c, 3, true);
    pass_ms(c, 8000);
    assert_int_equal(missing(c, 3), 0);
    assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    assert_false(has(c, 3, 20));
    for (unsigned i = 10; i < 15; i++)
        assert_true(has_right(c, 3, i, 100));
    cluster_close_fake(c);
}

/* ---- close ---- */

static void close_with_everything_under_way(void **state)
{
    (void)state;
    for (unsigned steps = 0; steps < 25; steps++) {
        struct fake_cluster *c = cluster_open_fake(3, V3);
        struct put small, large, lonely;
        struct reading r[3];
        plant(c, 1, 1, 3 * P, P, 7);
        plant(c, 2, 1, 3 * P, P, 7);
        plant(c, 3, 2, 3 * P, P, 7);
        plant(c, 1, 5, 100, P, 7);
        enqueue(c, V3, 1, 3 * P, 2 | 4);
        enqueue(c, V3, 2, 3 * P, 8);
        enqueue(c, V3, 5, 100, 8);
        ruin(c, 1, 5);
        put_small(c, &small, 1, 10, 500);
        put_begin(c, &large, 1, 11);
        put_piece(&large, 0, P);
        put_piece(&large, P, P);
        put_finish(&large, 10);
        put_begin(c, &lonely, 1, 12);
        put_piece(&lonely, 0, P);
        read_begin(c, &r[0], 1, 1, 0);
        read_begin(c, &r[1], 1, 2, 0);
        read_begin(c, &r[2], 1, 5, 0);
        for (unsigned i = 0; i < steps; i++)
            step_once(c);
        close_node(c, 1);
        assert_int_equal(small.called, 1);
        assert_int_equal(large.called, 1);
        assert_int_equal(lonely.called, 0);
        assert_int_equal(large.written, 2);
        assert_int_equal(lonely.written, 1);
        assert_true(small.status == 0 || small.status == MR_CANCELLED);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(r[i].called, 1);
            assert_true(r[i].status == 0 ? r[i].right : r[i].status == MR_CANCELLED || r[i].status == MR_NOTFOUND);
        }
        step_all(c);
        cluster_close_fake(c);
    }
}

/* ---- what a peer may say ---- */

static uint32_t seed_state;
static uint32_t rnd(uint32_t n)
{
    seed_state = seed_state * 1664525U + 1013904223U;
    return (seed_state >> 8) % n;
}

static void hostile_frames(void **state)
{
    static const enum frame_type types[] = {FRAME_BODY_PIECE, FRAME_BODY_ACK,     FRAME_BODY_ABORT,
                                            FRAME_BODY_GET,   FRAME_BODY_MISSING, FRAME_RAFT};
    struct fake_cluster *c = cluster_open_fake(3, V3);
    uint8_t *tail = mr_calloc(1, P + 1);
    (void)state;
    seed_state = 4711;
    enqueue(c, V3, 3, 2 * P, V3);
    plant(c, 1, 3, 2 * P, P, 7);
    for (unsigned round = 0; round < 30000; round++) {
        uint8_t meta[256];
        size_t len;
        enum frame_type type = types[rnd(6)];
        struct mr_id id = test_id(rnd(6));
        size_t tail_len = type == FRAME_BODY_PIECE ? (rnd(50) == 0 ? P + rnd(2) : rnd(40)) : 0;
        Mailraft__BodyPiece m = MAILRAFT__BODY_PIECE__INIT;
        m.id = (ProtobufCBinaryData){rnd(30) == 0 ? 3 : 16, id.bytes};
        m.piece = rnd(3) != 0 ? rnd(4) : (uint32_t)rnd(1 << 24) * 300;
        if (type == FRAME_BODY_PIECE) {
            uint8_t checksum[16];
            m.last = rnd(2) == 1;
            m.length = rnd(2) ? tail_len : UINT64_MAX - rnd(5);
            m.stamp_ms = rnd(2) ? c->nodes[1].state.now_ms : UINT64_MAX;
            checksum_of(tail, tail_len, checksum);
            m.checksum = (ProtobufCBinaryData){rnd(10) == 0 ? 15 : 16, checksum};
            m.request = rnd(3) == 0 ? rnd(20) : 0;
            len = mailraft__body_piece__pack(&m, meta);
        } else {
            /* Field 1 is the id in all of them, field 2 a number. */
            len = mailraft__body_piece__pack(&m, meta);
        }
        for (unsigned flips = rnd(8) == 0 ? 1 + rnd(3) : 0; flips > 0 && len > 0; flips--)
            meta[rnd((uint32_t)len)] ^= (uint8_t)(1 << rnd(8));
        (void)bodies_frame(c->nodes[1].b, rnd(100) == 0 ? rnd(200) : 2 + rnd(2), type, meta, len, tail, tail_len);
        if (rnd(10) == 0)
            step_once(c);
        if (rnd(200) == 0)
            pass_ms(c, 40);
    }
    assert_true(bodies_frame(c->nodes[1].b, 2, FRAME_BODY_ACK, (const uint8_t *)"\xff", 1, NULL, 0) < 0);
    assert_true(bodies_frame(c->nodes[1].b, 2, FRAME_HELLO, NULL, 0, NULL, 0) < 0);
    assert_true(bodies_frame(c->nodes[1].b, 1, FRAME_BODY_ACK, NULL, 0, NULL, 0) < 0);
    assert_true(bodies_frame(c->nodes[1].b, 64, FRAME_BODY_ACK, NULL, 0, NULL, 0) < 0);
    step_all(c);
    assert_true(has_right(c, 1, 3, 2 * P));
    free(tail);
    cluster_close_fake(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_body_costs_one_frame_a_peer_and_one_put),
        cmocka_unit_test(large_body_in_pieces),
        cmocka_unit_test(no_answer_before_a_majority_has_it_on_disk),
        cmocka_unit_test(no_answer_before_the_own_disk),
        cmocka_unit_test(a_standby_does_not_count),
        cmocka_unit_test(a_slow_peer_never_holds_up_and_pulls_later),
        cmocka_unit_test(the_owner_goes_at_the_majoritys_pace),
        cmocka_unit_test(a_link_drops_in_the_middle_and_the_whole_body_goes_again),
        cmocka_unit_test(without_a_majority_it_waits_and_the_link_brings_it),
        cmocka_unit_test(full_disks),
        cmocka_unit_test(abort_forgets_everywhere),
        cmocka_unit_test(a_lost_acknowledgement_is_said_again),
        cmocka_unit_test(a_hung_peer_is_replaced_by_another_voter),
        cmocka_unit_test(an_answer_that_never_comes_is_asked_for_again),
        cmocka_unit_test(voters_change_during_a_put),
        cmocka_unit_test(copying_further_after_a_refused_enqueue),
        cmocka_unit_test(the_same_body_twice_is_harmless),
        cmocka_unit_test(a_push_with_wrong_bytes_is_not_acknowledged),
        cmocka_unit_test(a_good_copy_is_read_here),
        cmocka_unit_test(what_is_in_memory_is_taken_if_it_is_the_envelopes),
        cmocka_unit_test(a_bad_copy_is_repaired_and_never_delivered),
        cmocka_unit_test(a_copy_that_is_not_the_envelopes_is_replaced),
        cmocka_unit_test(the_holder_dies_during_the_pull),
        cmocka_unit_test(a_silent_holder_is_given_up),
        cmocka_unit_test(wrong_bytes_from_a_holder_are_dropped),
        cmocka_unit_test(a_holder_with_another_body_is_not_believed),
        cmocka_unit_test(nobody_has_it_now_but_later),
        cmocka_unit_test(a_read_waits_for_the_push_under_way),
        cmocka_unit_test(finished_while_it_was_pulled),
        cmocka_unit_test(too_many_requests_of_one_peer_are_answered),
        cmocka_unit_test(an_empty_node_gets_everything_and_says_how_much_lacks),
        cmocka_unit_test(below_majority_first_and_reads_before_all),
        cmocka_unit_test(replicas_below_the_number_of_voters),
        cmocka_unit_test(after_a_power_cut_of_an_hour_nothing_goes_before_the_log_was_replayed),
        cmocka_unit_test(a_body_before_its_enqueue_stays_for_the_grace),
        cmocka_unit_test(a_stamp_at_the_end_of_time_does_not_wrap),
        cmocka_unit_test(a_slow_body_is_not_stale),
        cmocka_unit_test(below_version_2_the_first_stamp_counts),
        cmocka_unit_test(a_running_put_is_never_collected),
        cmocka_unit_test(a_finished_message_frees_its_body_at_once),
        cmocka_unit_test(the_acceptor_died_and_its_pieces_are_forgotten),
        cmocka_unit_test(a_restored_state_is_marked_in_full),
        cmocka_unit_test(close_with_everything_under_way),
        cmocka_unit_test(hostile_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
