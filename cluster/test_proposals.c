/* Proposals against a way to the leader that is open, shut, busy, too small, or answers at once. */
#include "cluster/proposals.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 4096 };

struct way {
    struct proposals *p;
    int result;                 /* of send */
    enum proposal_fate at_once; /* 0: none */
    unsigned sends;
    uint64_t requests[MOST];
    unsigned n_requests;
};
struct fate {
    unsigned calls;
    int status;
    enum apply_result reason;
    struct way *adds; /* not NULL: done adds another one there */
};

static int on_send(void *arg, uint64_t request, const Mailraft__Op *op)
{
    struct way *w = arg;
    assert_int_equal(op->kind_case, MAILRAFT__OP__KIND_CANCEL);
    w->sends++;
    if (w->result != 0)
        return w->result;
    if (w->at_once != 0)
        proposals_fate(w->p, request, w->at_once, APPLY_TERMINAL);
    if (w->n_requests < MOST)
        w->requests[w->n_requests++] = request;
    return 0;
}

static Mailraft__Op *new_op(void)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = MAILRAFT__OP__KIND_CANCEL;
    op->cancel = mr_malloc(sizeof(*op->cancel));
    mailraft__cancel__init(op->cancel);
    return op;
}

static void on_done(void *arg, int status, enum apply_result reason)
{
    struct fate *f = arg;
    f->calls++;
    f->status = status;
    f->reason = reason;
    if (f->adds != NULL) {
        struct way *w = f->adds;
        f->adds = NULL;
        assert_int_equal(proposals_add(w->p, new_op(), 0, UINT64_MAX, on_done, f, NULL), 0);
    }
}

static void open_way(struct way *w)
{
    memset(w, 0, sizeof(*w));
    struct proposals_config config = {.arg = w, .send = on_send, .first_request = 1000};
    w->p = proposals_open(&config);
}

static uint64_t add(struct way *w, struct fate *f, uint64_t now, uint64_t give_up)
{
    uint64_t request;
    assert_int_equal(proposals_add(w->p, new_op(), now, give_up, on_done, f, &request), 0);
    return request;
}

static uint64_t ms(uint64_t n)
{
    return n * MR_NS_PER_MS;
}

static void test_answer(void **state)
{
    (void)state;
    struct way w;
    struct fate f = {0};
    open_way(&w);
    assert_int_equal(add(&w, &f, 1, UINT64_MAX), 1000); /* numbers of this life alone */
    assert_int_equal(w.sends, 1);
    proposals_fate(w.p, 1, FATE_APPLIED, APPLIED); /* another life's */
    assert_int_equal(f.calls, 0);
    proposals_fate(w.p, 1000, FATE_APPLIED, APPLY_DUPLICATE);
    assert_int_equal(f.calls, 1);
    assert_int_equal(f.status, 0);
    assert_int_equal(f.reason, APPLY_DUPLICATE);
    proposals_fate(w.p, 1000, FATE_APPLIED, APPLIED); /* it was sent twice */
    assert_int_equal(f.calls, 1);
    assert_int_equal(proposals_waiting(w.p), 0);
    proposals_close(w.p);
}

static void test_unknown_is_sent_again(void **state)
{
    (void)state;
    struct way w;
    struct fate f = {0};
    open_way(&w);
    uint64_t request = add(&w, &f, 1, UINT64_MAX);
    const enum proposal_fate fates[] = {FATE_NOT_LEADER, FATE_UNKNOWN};
    for (unsigned i = 0; i < 2; i++) {
        proposals_fate(w.p, request, fates[i], APPLIED);
        assert_int_equal(f.calls, 0);
        proposals_tick(w.p, ms(i + 1));
        assert_int_equal(w.sends, i + 2);
    }
    /* No answer. */
    proposals_tick(w.p, ms(2 + PROPOSALS_AGAIN_MS));
    assert_int_equal(w.sends, 3);
    proposals_tick(w.p, ms(3 + PROPOSALS_AGAIN_MS));
    assert_int_equal(w.sends, 4);
    proposals_resend(w.p, ms(4 + PROPOSALS_AGAIN_MS));
    assert_int_equal(w.sends, 5);
    proposals_close(w.p);
    assert_int_equal(f.calls, 1);
    assert_int_equal(f.status, MR_CANCELLED);
}

/* However many wait: while the way is shut a tick tries one, and when it opens they go in their order, in steps. */
static void test_shut(void **state)
{
    (void)state;
    enum { MANY = 2 * PROPOSALS_STEP + 10 };
    struct way w;
    struct fate f = {0};
    open_way(&w);
    w.result = MR_NOTLEADER;
    for (unsigned i = 0; i < MANY; i++)
        add(&w, &f, 1, UINT64_MAX);
    assert_int_equal(w.sends, 1); /* the others know that they stand behind it */
    for (unsigned i = 0; i < 10; i++)
        proposals_tick(w.p, ms(i));
    assert_int_equal(w.sends, 11);
    w.result = 0;
    proposals_resend(w.p, ms(20));
    assert_int_equal(w.n_requests, PROPOSALS_STEP);
    add(&w, &f, ms(20), UINT64_MAX);
    assert_int_equal(w.n_requests, PROPOSALS_STEP);
    proposals_tick(w.p, ms(30));
    proposals_tick(w.p, ms(40));
    assert_int_equal(w.n_requests, MANY + 1);
    for (unsigned i = 0; i < MANY + 1; i++)
        assert_int_equal(w.requests[i], 1000 + i);
    /* A new leader: those that were sent come before those that were not. */
    w.result = MR_UNREACHABLE;
    add(&w, &f, ms(50), UINT64_MAX);
    w.result = 0;
    w.n_requests = 0;
    proposals_resend(w.p, ms(60));
    assert_int_equal(w.requests[0], 1000);
    proposals_tick(w.p, ms(70));
    proposals_tick(w.p, ms(80));
    assert_int_equal(w.n_requests, MANY + 2);
    assert_int_equal(w.requests[MANY + 1], 1000 + MANY + 1);
    proposals_close(w.p);
    assert_int_equal(f.calls, MANY + 2);
}

static void test_busy(void **state)
{
    (void)state;
    struct way w;
    struct fate f = {0};
    open_way(&w);
    uint64_t request = add(&w, &f, ms(1), UINT64_MAX);
    proposals_fate(w.p, request, FATE_BUSY, APPLIED);
    proposals_tick(w.p, ms(2));
    add(&w, &f, ms(3), UINT64_MAX);
    assert_int_equal(w.sends, 1);
    proposals_tick(w.p, ms(1 + PROPOSALS_BUSY_MS));
    assert_int_equal(w.sends, 3);
    proposals_close(w.p);
}

/* P1: also when `send` itself knows the fate. */
static void test_answer_inside_of_send(void **state)
{
    (void)state;
    struct way w;
    struct fate f = {0};
    open_way(&w);
    w.at_once = FATE_APPLIED;
    add(&w, &f, 1, UINT64_MAX);
    assert_int_equal(f.calls, 0);
    proposals_tick(w.p, ms(1));
    assert_int_equal(f.calls, 1);
    assert_int_equal(f.reason, APPLY_TERMINAL);
    w.at_once = FATE_NOT_LEADER;
    add(&w, &f, ms(2), UINT64_MAX);
    w.at_once = 0;
    w.result = MR_LIMIT; /* never fits */
    proposals_tick(w.p, ms(3));
    proposals_tick(w.p, ms(4));
    assert_int_equal(f.calls, 2);
    assert_int_equal(f.status, 0);
    assert_int_equal(f.reason, APPLY_INVALID);
    proposals_close(w.p);
}

static void test_give_up(void **state)
{
    (void)state;
    struct way w;
    struct fate late = {0}, soon = {0}, never = {0};
    open_way(&w);
    add(&w, &never, 1, UINT64_MAX);
    add(&w, &late, 1, ms(30));
    soon.adds = &w;
    add(&w, &soon, 1, ms(10));
    proposals_tick(w.p, ms(9));
    assert_int_equal(soon.calls, 0);
    proposals_tick(w.p, ms(10));
    assert_int_equal(soon.calls, 1);
    assert_int_equal(soon.status, MR_TIMEOUT);
    assert_int_equal(late.calls, 0);
    proposals_tick(w.p, ms(30));
    assert_int_equal(late.calls, 1);
    assert_int_equal(never.calls, 0);
    assert_int_equal(proposals_waiting(w.p), 2);
    proposals_close(w.p);
    assert_int_equal(soon.calls, 2);
    assert_int_equal(never.calls, 1);
}

static void test_forget(void **state)
{
    (void)state;
    struct way w;
    struct fate f = {0};
    open_way(&w);
    uint64_t request = add(&w, &f, 1, ms(10));
    proposals_forget(w.p, request);
    assert_int_equal(f.calls, 1);
    assert_int_equal(f.status, MR_CANCELLED);
    proposals_fate(w.p, request, FATE_APPLIED, APPLIED);
    proposals_forget(w.p, request);
    proposals_tick(w.p, ms(20));
    assert_int_equal(f.calls, 1);
    proposals_close(w.p);
}

static void test_most(void **state)
{
    (void)state;
    struct way w;
    struct fate f = {0};
    open_way(&w);
    w.result = MR_NOTLEADER;
    for (unsigned i = 0; i < PROPOSALS_MAX; i++)
        add(&w, &f, 1, UINT64_MAX);
    Mailraft__Op *op = new_op();
    assert_int_equal(proposals_add(w.p, op, 1, UINT64_MAX, on_done, &f, NULL), MR_BUSY);
    mailraft__op__free_unpacked(op, NULL);
    proposals_close(w.p);
    assert_int_equal(f.calls, PROPOSALS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_unknown_is_sent_again),
        cmocka_unit_test(test_shut),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_answer_inside_of_send),
        cmocka_unit_test(test_give_up),
        cmocka_unit_test(test_forget),
        cmocka_unit_test(test_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
