/* test_bodies_read.c - reads over fakes: of what is here, in memory, repaired (B2), and pulled from other holders. */
#include "cluster/test_bodies_fake.h"

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

/* The last copy: a disk that fails for a while must not take it away for ever. */
static void a_bad_copy_that_nobody_can_replace_is_read_again(void **state)
{
    struct fake_cluster *c = cluster_open_fake(3, V3);
    struct fake_spool *sp = &c->nodes[1].spool;
    struct reading r;
    (void)state;
    plant(c, 1, 1, 500, P, 7);
    enqueue(c, V3, 1, 500, V3);
    ruin(c, 1, 1);
    read_begin(c, &r, 1, 1, 0);
    step_all(c);
    assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    assert_int_equal(sp->rechecks, 1);
    assert_false(has(c, 1, 1));
    for (int i = 0; i < 10; i++) { /* however often somebody asks */
        read_begin(c, &r, 1, 1, 0);
        pass_ms(c, 1000);
        assert_true(r.called == 1 && r.status == MR_NOTFOUND);
    }
    assert_int_equal(sp->rechecks, 1);
    assert_true(missing(c, 1) > 0);
    assert_int_equal(c->wires[2][1].sent[FRAME_BODY_PIECE] + c->wires[1][2].sent[FRAME_BODY_PIECE], 0);
    pass_ms(c, BODIES_RECHECK_MS);
    assert_int_equal(sp->rechecks, 2);
    fake_kept(sp, test_id(1))->bad = false;
    pass_ms(c, BODIES_RECHECK_MS + BODIES_RETRY_MS);
    assert_true(has_right(c, 1, 1, 500));
    assert_int_equal(sp->rechecks, 3);
    read_begin(c, &r, 1, 1, 0);
    step_all(c);
    assert_true(r.called == 1 && r.status == 0 && r.right);
    pass_ms(c, 10000);
    assert_int_equal(missing(c, 1), 0);
    for (uint32_t i = 2; i <= 3; i++) /* they lacked it: now they have it from here */
        assert_true(has_right(c, i, 1, 500));
    cluster_close_fake(c);
}

/* The waiting read gets it, as soon as the copy can be read. */
static void a_copy_that_was_bad_for_a_moment_is_read(void **state)
{
    struct fake_cluster *c = cluster_open_fake(1, 2);
    struct fake_spool *sp = &c->nodes[1].spool;
    struct reading r;
    (void)state;
    plant(c, 1, 1, 500, P, 7);
    enqueue(c, 2, 1, 500, 2);
    ruin(c, 1, 1);
    read_begin(c, &r, 1, 1, 0);
    assert_true(fake_spool_step(sp)); /* the read */
    fake_kept(sp, test_id(1))->bad = false;
    step_all(c);
    assert_true(r.called == 1 && r.status == 0 && r.right);
    assert_int_equal(sp->rechecks, 1);
    cluster_close_fake(c);
}

/* While the copy is read once more: a good one comes, the message is finished, a peer comes up, the node closes. */
static void what_comes_while_a_bad_copy_is_read_again(void **state)
{
    (void)state;
    for (int what = 0; what < 5; what++) {
        struct fake_cluster *c = cluster_open_fake(3, V3);
        struct fake_spool *sp = &c->nodes[1].spool;
        struct reading r;
        plant(c, 1, 1, 500, P, 7);
        if (what == 2)
            plant(c, 2, 1, 500, P, 7);
        enqueue(c, V3, 1, 500, V3);
        set_links(c, 1, false);
        ruin(c, 1, 1);
        read_begin(c, &r, 1, 1, 0);
        assert_true(fake_spool_step(sp)); /* the read; nobody can be asked */
        assert_non_null(sp->first);
        assert_non_null(sp->first->recheck);
        if (what == 0) {
            plant(c, 1, 1, 500, P, 7);
        } else if (what == 1 || what == 4) {
            finish(c, 1, 1);
            if (what == 4) { /* and is wanted anew, which has its own time */
                set_links(c, 1, true);
                enqueue(c, 2, 1, 500, V3);
            }
        } else if (what == 2) {
            set_links(c, 1, true);
        } else {
            sp->stalled = true;
            bodies_close(c->nodes[1].b, on_closed, &c->nodes[1]);
            step_all(c);
            assert_false(c->nodes[1].closed); /* the spool still has the request */
            sp->stalled = false;
        }
        step_all(c);
        assert_int_equal(r.called, 1);
        if (what == 0 || what == 2)
            assert_true(r.status == 0 && r.right && has_right(c, 1, 1, 500));
        else
            assert_int_equal(r.status, what == 3 ? MR_CANCELLED : MR_NOTFOUND);
        if (what != 3)
            assert_int_equal(stats_of(c, 1).pulls, what == 2 ? 1 : 0);
        if (what == 3) {
            assert_true(c->nodes[1].closed);
            c->nodes[1].b = NULL;
        }
        cluster_close_fake(c);
    }
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

/* ---- pulled from others ---- */

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
    c->tamper_from = 1;
    c->tamper = flip;
    read_begin(c, &r, 3, 1, 0);
    step_all(c);
    assert_true(c->hits > 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_copy_is_read_here),
        cmocka_unit_test(what_is_in_memory_is_taken_if_it_is_the_envelopes),
        cmocka_unit_test(a_bad_copy_is_repaired_and_never_delivered),
        cmocka_unit_test(a_bad_copy_that_nobody_can_replace_is_read_again),
        cmocka_unit_test(a_copy_that_was_bad_for_a_moment_is_read),
        cmocka_unit_test(what_comes_while_a_bad_copy_is_read_again),
        cmocka_unit_test(a_copy_that_is_not_the_envelopes_is_replaced),
        cmocka_unit_test(the_holder_dies_during_the_pull),
        cmocka_unit_test(a_silent_holder_is_given_up),
        cmocka_unit_test(wrong_bytes_from_a_holder_are_dropped),
        cmocka_unit_test(a_holder_with_another_body_is_not_believed),
        cmocka_unit_test(nobody_has_it_now_but_later),
        cmocka_unit_test(a_read_waits_for_the_push_under_way),
        cmocka_unit_test(finished_while_it_was_pulled),
        cmocka_unit_test(too_many_requests_of_one_peer_are_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
