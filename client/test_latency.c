/* Percentiles against sorted values. */
#include "client/latency.h"

#include "client/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct latency latency;

static int order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void close_to_the_sorted_values(void **state)
{
    enum { COUNT = 20000 };
    static uint64_t values[COUNT];
    static const double shares[] = {0.01, 0.5, 0.9, 0.99, 0.999, 1.0};
    struct rng rng = rng_seeded(7, 0);

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        values[i] = rng_next(&rng) >> rng_below(&rng, 64);
        latency_add(&latency, values[i]);
    }
    qsort(values, COUNT, sizeof(values[0]), order);
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        uint64_t exact = values[(size_t)(shares[i] * COUNT + 0.999999) - 1];
        uint64_t got = latency_percentile(&latency, shares[i]);
        assert_true(got >= exact);
        assert_true(got - exact <= exact / 50);
    }
    assert_int_equal(latency_percentile(&latency, 1.0), values[COUNT - 1]);
}

static void borders(void **state)
{
    static struct latency one;

    (void)state;
    assert_int_equal(latency_percentile(&one, 0.5), 0);
    latency_add(&one, 0);
    assert_int_equal(latency_percentile(&one, 0.99), 0);
    latency_add(&one, UINT64_MAX);
    assert_int_equal(latency_percentile(&one, 1.0), UINT64_MAX);
    assert_int_equal(latency_percentile(&one, 0.5), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(close_to_the_sorted_values),
        cmocka_unit_test(borders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
