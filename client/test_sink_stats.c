/* The sliding second against a count over all times. */
#include "client/sink_stats.h"

#include "client/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void rate_is_the_count_of_the_last_second(void **state)
{
    enum { COUNT = 3000 };
    static uint64_t times[COUNT];
    struct sink_stats stats;
    struct rng rng = rng_seeded(3, 0);
    uint64_t now = 123456;
    uint64_t most = 0;

    (void)state;
    memset(&stats, 0, sizeof(stats));
    for (int i = 0; i < COUNT; i++) {
        now += rng_below(&rng, 100) == 0 ? rng_below(&rng, 3000) : rng_below(&rng, 4);
        times[i] = now;
        sink_stats_message(&stats, now);
        uint64_t count = 0;
        for (int k = i; k >= 0 && times[k] / STATS_STEP_MS + STATS_STEPS > now / STATS_STEP_MS; k--)
            count++;
        assert_int_equal(sink_stats_rate(&stats, now), count);
        most = count > most ? count : most;
    }
    assert_int_equal(stats.rate_max, most);
    assert_int_equal(stats.messages, COUNT);
    assert_int_equal(sink_stats_rate(&stats, now + 1010), 0);
}

static void connections_keep_their_maximum(void **state)
{
    struct sink_stats stats;

    (void)state;
    memset(&stats, 0, sizeof(stats));
    for (int i = 0; i < 5; i++)
        sink_stats_connected(&stats);
    sink_stats_disconnected(&stats);
    sink_stats_disconnected(&stats);
    sink_stats_connected(&stats);
    assert_int_equal(stats.connections_now, 4);
    assert_int_equal(stats.connections_max, 5);
    assert_int_equal(stats.connections, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rate_is_the_count_of_the_last_second),
        cmocka_unit_test(connections_keep_their_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
