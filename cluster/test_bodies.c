/* test_bodies.c - the body plane over fakes: its end with everything under way, and what a peer may say. Puts, reads
 * and the walks have tests of their own. */
#include "cluster/test_bodies_fake.h"

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
        cmocka_unit_test(close_with_everything_under_way),
        cmocka_unit_test(hostile_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
