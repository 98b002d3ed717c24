/* state_bytes: no snapshot is larger, whatever is in it. That its sum is kept and that the snapshot is not larger is
 * checked at each entry and each snapshot of every test of the state; here with the longest of everything. */
#include "cluster/state_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

enum { LONG = 1024, REPLY = 500 };

/* state_snapshot and the restored state check themselves (state_snapshot.c, state_check). */
static void check(struct rig *rig)
{
    struct state_buffer *buffers;
    unsigned count;

    state_snapshot(rig->s, &buffers, &count);
    struct state *fresh = state_open(NULL);
    assert_int_equal(state_restore(fresh, rig->index, buffers->base, buffers->len), 0);
    state_check(fresh);
    assert_true(state_bytes(fresh) == state_bytes(rig->s));
    assert_true(buffers->len < state_bytes(rig->s));
    state_close(fresh);
    state_snapshot_free(buffers, count);
}

static char *long_text(struct rig *rig, size_t len)
{
    return memset(build(rig, len + 1), 'x', len);
}

static Mailraft__Enqueue *largest(struct rig *rig, uint32_t n)
{
    enum { HOLDERS = 63, HOP = 1023, USER = 255 };
    Mailraft__Enqueue *e = enqueue_of(rig, (struct mail){.n = n, .recipients = 3, .holders = HOLDERS});

    e->body->length = UINT64_MAX;
    e->arrived_ms = e->warn_ms = e->expire_ms = UINT64_MAX;
    e->ret = e->acceptor = UINT32_MAX;
    e->flags = UINT32_MAX;
    e->reverse_path = bytes_of(rig, long_text(rig, LONG), LONG);
    e->client = long_text(rig, LONG);
    e->envid = long_text(rig, LONG);
    e->user = long_text(rig, USER);
    e->next_hops[0] = long_text(rig, HOP);
    e->priority = -9;
    e->deliver_by = MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN;
    e->deliver_by_for_ms = (uint64_t)1 << 61;
    e->deliver_by_trace = 1;
    for (size_t i = 0; i < e->n_recipients; i++) {
        e->recipients[i]->address = bytes_of(rig, long_text(rig, LONG), LONG);
        e->recipients[i]->orcpt = bytes_of(rig, long_text(rig, LONG), LONG);
        e->recipients[i]->notify = UINT32_MAX;
    }
    return e;
}

static void open_largest(struct rig *rig)
{
    rig_cluster(rig);
    rig->now = (uint64_t)1 << 60;
    assert_int_equal(apply(rig, set_version_op(rig, 2)), APPLIED);
    for (uint32_t i = 1; i <= 3; i++)
        assert_int_equal(node_up(rig, i, UINT64_MAX - 1), APPLIED);
}

static void add_largest(struct rig *rig, uint32_t n)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_ENQUEUE);
    uint64_t before = state_bytes(rig->s);

    op->enqueue = largest(rig, n);
    assert_int_equal(apply(rig, op), APPLIED);
    assert_true(state_bytes(rig->s) > before && state_bytes(rig->s) <= before + state_enqueue_bytes(op->enqueue));
}

static int assign_largest(struct rig *rig, uint32_t n, uint32_t attempt)
{
    Mailraft__Op *op = assign_op(rig, n, 0, attempt, 1, UINT64_MAX - 1);

    op->assign->assignment->slot = op->assign->assignment->deadline_for_ms = UINT32_MAX;
    return apply(rig, op);
}

static Mailraft__Outcome *deferred(struct rig *rig, uint32_t n, uint32_t attempt, size_t reply)
{
    Mailraft__Outcome *o = outcome_of(rig, n, 0, attempt, 1, "ttt", 1);

    for (size_t i = 0; i < o->n_results; i++) {
        o->results[i]->reply = bytes_of(rig, long_text(rig, reply), reply);
        o->results[i]->status = text(rig, "4.123456789012.3");
    }
    return o;
}

static void no_snapshot_is_larger(void **state)
{
    enum { MESSAGES = 5 };
    struct rig rig;
    (void)state;
    open_largest(&rig);
    check(&rig);
    uint64_t empty = state_bytes(rig.s);
    for (uint32_t n = 1; n <= MESSAGES; n++)
        add_largest(&rig, n);
    check(&rig);
    uint64_t ready = state_bytes(rig.s);
    for (uint32_t n = 1; n <= MESSAGES; n++)
        assert_int_equal(assign_largest(&rig, n, 1), APPLIED);
    check(&rig);
    /* Deferred without a word: prepaid. */
    for (uint32_t n = 1; n <= MESSAGES; n++)
        assert_int_equal(outcome_apply(&rig, deferred(&rig, n, 1, 0)), APPLIED);
    check(&rig);
    assert_true(state_bytes(rig.s) == ready);
    pass(&rig, 301 * 1000);
    for (uint32_t n = 1; n <= MESSAGES; n++)
        assert_int_equal(assign_largest(&rig, n, 2), APPLIED);
    for (uint32_t n = 1; n <= MESSAGES; n++)
        assert_int_equal(outcome_apply(&rig, deferred(&rig, n, 2, REPLY)), APPLIED);
    check(&rig);
    assert_true(state_bytes(rig.s) == ready + (uint64_t)MESSAGES * 3 * REPLY);
    pass(&rig, 301 * 1000);
    for (uint32_t n = 1; n <= MESSAGES; n++) {
        assert_int_equal(assign_largest(&rig, n, 3), APPLIED);
        assert_int_equal(outcome_apply(&rig, outcome_of(&rig, n, 0, 3, 1, "ddd", 1)), APPLIED);
    }
    check(&rig); /* what is remembered of them */
    assert_true(state_bytes(rig.s) > empty && state_bytes(rig.s) < empty + MESSAGES * 100);
    pass(&rig, STATE_GRACE_MS + 1);
    assert_true(state_bytes(rig.s) == empty);
    rig_close(&rig);
}

static void notices_and_sites_count(void **state)
{
    struct rig rig;
    (void)state;
    open_largest(&rig);
    for (uint32_t n = 1; n <= 20; n++) {
        Mailraft__Op *op = new_op(&rig, MAILRAFT__OP__KIND_ENQUEUE);
        op->enqueue = largest(&rig, n);
        op->enqueue->expire_ms = rig.now;
        assert_int_equal(apply(&rig, op), APPLIED);
    }
    uint64_t before = state_bytes(rig.s);
    for (uint32_t n = 1; n <= 20; n++)
        assert_int_equal(assign_notice(&rig, n, MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, 1, 1, UINT64_MAX - 1), APPLIED);
    check(&rig);
    assert_true(state_bytes(rig.s) > before);
    before = state_bytes(rig.s);
    for (uint32_t n = 1; n <= 50; n++) {
        Mailraft__Op *op = site_op(&rig, text(&rig, "s%u.example", n), 3600 * 1000);
        op->site_memory->sts = sts_of(&rig, "20260101", 1 + n % 3, n, 3600 * 1000);
        assert_int_equal(apply(&rig, op), APPLIED);
        check(&rig);
    }
    assert_true(state_bytes(rig.s) > before);
    rig_close(&rig);
}

static void users_and_cancels_count(void **state)
{
    struct rig rig;
    (void)state;
    open_largest(&rig);
    assert_int_equal(rules_apply(&rig, limits_of(&rig, 1, UINT32_MAX, 0)), APPLIED);
    for (unsigned minute = 0; minute < 61; minute++) {
        for (uint32_t n = 1; n <= 3; n++) {
            uint32_t number = minute * 3 + n;
            assert_int_equal(enqueue(&rig, (struct mail){.n = number, .recipients = 200, .user = text(&rig, "u%u", n)}),
                             APPLIED);
        }
        assert_int_equal(cancel(&rig, 10000 + minute), APPLIED);
        pass(&rig, 60 * 1000);
    }
    check(&rig);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_snapshot_is_larger),
        cmocka_unit_test(notices_and_sites_count),
        cmocka_unit_test(users_and_cancels_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
