/* test_bodies_scan.c - the two walks, over fakes: what this node lacks is fetched (PROTOCOL.md 3.3), what nobody needs
 * goes (3.4, B3). */
#include "cluster/test_bodies_fake.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
