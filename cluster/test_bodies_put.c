/* test_bodies_put.c - a body on its way to a majority of disks, over fakes: B1, B4, and what may happen to a push. */
#include "cluster/test_bodies_fake.h"

enum { KIB = 1024 };

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
    (void)to;
    if (from == c->tamper_from && f->type == c->tamper_type) {
        c->hits++;
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
    c->tamper_from = 2;
    c->tamper_type = FRAME_BODY_ACK;
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
    c->tamper_from = 2;
    c->tamper_type = FRAME_BODY_ACK;
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

static void a_push_with_wrong_bytes_is_not_acknowledged(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct put put;
    (void)state;
    c->tamper_from = 1;
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
