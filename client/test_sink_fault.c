/* Specifications: taken, refused; rates are kept and a seed repeats. */
#include "client/sink_fault.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct fault_set set;

static int parse(const char *spec)
{
    const char *wrong = NULL;
    size_t len = 0;
    return fault_parse(spec, 1, &set, &wrong, &len);
}

static void takes_every_kind(void **state)
{
    (void)state;
    assert_int_equal(parse("stall@connect=0.25:0.5,refuse@rcpt=451:10%,drop@dot,lie@dot:0.01,accept-drop:1,seed=42"),
                     0);
    assert_int_equal(set.count, 5);
    assert_int_equal(set.seed, 42);
    assert_int_equal(set.clauses[0].kind, FAULT_STALL);
    assert_int_equal(set.clauses[0].verb, FAULT_AT_CONNECT);
    assert_int_equal(set.clauses[0].stall_ms, 250);
    assert_true(set.clauses[0].rate == 0.5);
    assert_int_equal(set.clauses[1].code, 451);
    assert_true(set.clauses[1].rate > 0.0999 && set.clauses[1].rate < 0.1001);
    assert_true(set.clauses[2].rate == 1.0);
    assert_int_equal(set.clauses[4].kind, FAULT_ACCEPT_DROP);
    assert_int_equal(set.clauses[4].verb, FAULT_AT_DOT);
    assert_int_equal(parse(NULL), 0);
    assert_int_equal(set.count, 0);
}

static void refuses_the_rest(void **state)
{
    static const char *const wrong[] = {
        "",
        "drop",
        "drop@",
        "drop@noop",
        "drop@dot=1",
        "stall@mail",
        "stall@mail=",
        "stall@mail=-1",
        "stall@mail=x",
        "stall@mail=1e9",
        "refuse@mail=250",
        "refuse@mail=600",
        "refuse@mail=45",
        "lie@mail",
        "accept-drop@rcpt",
        "drop@dot:1.5",
        "drop@dot:",
        "drop@dot:101%",
        "seed=",
        "seed=x",
        "seed=-1",
        "eat@dot",
        "drop@dot,",
        "drop@dot,,drop@mail",
        "refuse@body=451",
        "stall@mail=nan",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(parse(wrong[i]), MR_INVAL);

    const char *where = NULL;
    size_t len = 0;
    assert_int_equal(fault_parse("drop@dot,bad@x,drop@mail", 1, &set, &where, &len), MR_INVAL);
    assert_int_equal(len, 5);
    assert_memory_equal(where, "bad@x", 5);
}

static void clauses_have_a_maximum(void **state)
{
    char spec[FAULT_CLAUSES_MAX * 10 + 20] = "";

    (void)state;
    for (int i = 0; i < FAULT_CLAUSES_MAX; i++)
        (void)strcat(spec, i == 0 ? "drop@dot" : ",drop@dot");
    assert_int_equal(parse(spec), 0);
    (void)strcat(spec, ",drop@dot");
    assert_int_equal(parse(spec), MR_INVAL);
}

static void rates_and_seed(void **state)
{
    enum { ROLLS = 20000 };
    int hits = 0;
    bool first[64];

    (void)state;
    assert_int_equal(parse("drop@dot:0.1,seed=5"), 0);
    for (int i = 0; i < ROLLS; i++) {
        bool hit = fault_roll(&set, FAULT_AT_DOT).kind == FAULT_DROP;
        hits += hit;
        if (i < 64)
            first[i] = hit;
        assert_int_equal(fault_roll(&set, FAULT_AT_MAIL).kind, FAULT_NONE);
    }
    assert_in_range(hits, ROLLS / 10 - 300, ROLLS / 10 + 300);
    assert_int_equal(parse("drop@dot:0.1,seed=5"), 0);
    for (int i = 0; i < 64; i++)
        assert_true(first[i] == (fault_roll(&set, FAULT_AT_DOT).kind == FAULT_DROP));
    assert_int_equal(parse("drop@dot:0"), 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(fault_roll(&set, FAULT_AT_DOT).kind, FAULT_NONE);
}

static void stalls_add_and_first_of_the_rest_counts(void **state)
{
    (void)state;
    assert_int_equal(parse("stall@dot=1,refuse@dot=451,stall@dot=2,drop@dot"), 0);
    struct fault_hit hit = fault_roll(&set, FAULT_AT_DOT);
    assert_int_equal(hit.stall_ms, 3000);
    assert_int_equal(hit.kind, FAULT_REFUSE);
    assert_int_equal(hit.code, 451);
    hit = fault_roll_others(&set, FAULT_AT_DOT);
    assert_int_equal(hit.kind, FAULT_DROP);
    assert_int_equal(hit.stall_ms, 3000);
    hit = fault_roll_refusals(&set, FAULT_AT_DOT);
    assert_int_equal(hit.kind, FAULT_REFUSE);
    assert_int_equal(hit.stall_ms, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_every_kind),
        cmocka_unit_test(refuses_the_rest),
        cmocka_unit_test(clauses_have_a_maximum),
        cmocka_unit_test(rates_and_seed),
        cmocka_unit_test(stalls_add_and_first_of_the_rest_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
