/* The rules of committed_time.h, each named after the accident that it prevents. */
#include "cluster/committed_time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define MS(x)  ((uint64_t)(x)*1000000U)
#define DAY_MS (86400000ULL)
static const uint64_t epoch_ms = 1700000000000ULL;
enum { VOTERS = 1 << 1 | 1 << 2 | 1 << 3 };

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* Runs from..to in steps; the voters' clocks are epoch + now + skew. Returns the last stamp. */
static uint64_t run(struct committed_time *t, uint64_t from_ms, uint64_t to_ms, const int64_t skew[4], unsigned nodes)
{
    uint64_t last = 0;

    for (uint64_t now = from_ms; now <= to_ms; now += 7) {
        for (uint32_t node = 1; node <= 3; node++)
            if (nodes >> node & 1)
                committed_time_report(t, MS(now), node, (uint64_t)((int64_t)(epoch_ms + now) + skew[node]));
        uint64_t stamp = committed_time_stamp(t, MS(now));
        assert_true(stamp >= last);
        last = stamp;
    }
    return last;
}

/* T3: one clock six days ahead must not bounce the queue. */
static void one_wrong_clock_changes_nothing(void **state)
{
    (void)state;
    const int64_t ahead[4] = {0, (int64_t)(6 * DAY_MS), 5, -5};
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, epoch_ms + 6 * DAY_MS, VOTERS);
    uint64_t last = run(&t, 0, 120000, ahead, VOTERS);
    assert_true(distance(last, epoch_ms + 120000) < 100);
    /* Nor when only it and one other are left. */
    last = run(&t, 120000, 240000, ahead, 1 << 1 | 1 << 2);
    assert_true(distance(last, epoch_ms + 240000) < 100);
}

/* T3: two clocks wrong by the same six days, but not the third: the majority says so, and steps. */
static void majority_may_step_forward(void **state)
{
    (void)state;
    const int64_t skew[4] = {0, (int64_t)(6 * DAY_MS), (int64_t)(6 * DAY_MS) + 20000, 0};
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, 0, VOTERS);
    uint64_t last = run(&t, 0, 5000, skew, VOTERS);
    assert_true(distance(last, epoch_ms + 6 * DAY_MS + 5000) < 1000);
}

/* T3: two wrong clocks that do not agree with each other are no majority. */
static void disagreement_steps_nowhere(void **state)
{
    (void)state;
    const int64_t skew[4] = {0, (int64_t)(6 * DAY_MS), (int64_t)(3 * DAY_MS), 0};
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, 0, VOTERS);
    uint64_t last = run(&t, 0, 10000, skew, VOTERS);
    assert_true(last <= epoch_ms + 10000 + 10000 * CTIME_SLEW_PPM / 1000000 + 10);
}

/* T3: after a stop of a week the schedules catch up at once, once a majority says what time it is. */
static void long_stop_steps_once_a_majority_agrees(void **state)
{
    (void)state;
    const int64_t skew[4] = {0, 0, 0, 0};
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms - 7 * DAY_MS, epoch_ms, VOTERS);
    uint64_t last = run(&t, 0, 2000, skew, 1 << 1);
    assert_true(distance(last, epoch_ms - 7 * DAY_MS + 2000) < 10);
    last = run(&t, 2000, 4000, skew, 1 << 1 | 1 << 3);
    assert_true(distance(last, epoch_ms + 4000) < 100);
}

/* T1: the clocks were set back by an hour. */
static void clocks_set_back_never_turn_stamps_back(void **state)
{
    (void)state;
    const int64_t back[4] = {0, -3600000, -3600000, -3600000};
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, 0, VOTERS);
    uint64_t last = run(&t, 0, 100000, back, VOTERS);
    /* It goes on, slower by the slew and not more. */
    uint64_t slow = 100000 * (uint64_t)CTIME_SLEW_PPM / 1000000;
    assert_true(distance(last, epoch_ms + 100000 - slow) < 100);
}

/* T3: small differences are steered away, however often stamps are asked for. */
static void small_offset_is_steered_away(void **state)
{
    (void)state;
    const int64_t skew[4] = {0, 2000, 2000, 2000};
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, 0, VOTERS);
    uint64_t last = run(&t, 0, 20000, skew, VOTERS);
    assert_true(distance(last, epoch_ms + 20000 + 1000) < 30);
    last = run(&t, 20000, 60000, skew, VOTERS);
    assert_true(distance(last, epoch_ms + 60000 + 2000) < 10);
}

/* T2, T4: a leader that hears nobody goes on by its boot clock, however wrong what it heard long ago. */
static void without_reports_boot_time_goes_on(void **state)
{
    (void)state;
    const int64_t skew[4] = {0, 2000, 2000, 2000};
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, 0, VOTERS);
    uint64_t a = run(&t, 0, 1000, skew, VOTERS);
    uint64_t b = committed_time_stamp(&t, MS(1000 + 10 * DAY_MS));
    /* The bend of the unfinished second is dropped with the reports. */
    assert_true(distance(b, a + 10 * DAY_MS) <= 50 + 7);
    uint64_t from = b;
    for (uint64_t ms = 0; ms < 100000; ms += 3)
        b = committed_time_stamp(&t, MS(1000 + 10 * DAY_MS + ms) + 999999);
    assert_true(distance(b, from + 100000) < 10);
}

/* T1: entries of the predecessor are applied after the election. */
static void predecessors_stamps_lift_the_line(void **state)
{
    (void)state;
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, 0, VOTERS);
    committed_time_applied(&t, MS(10), epoch_ms + 5000);
    assert_int_equal(committed_time_stamp(&t, MS(20)), epoch_ms + 5010);
    committed_time_applied(&t, MS(30), epoch_ms + 5005);
    assert_int_equal(committed_time_stamp(&t, MS(40)), epoch_ms + 5030);
}

/* T5: it is known since when stamps and boot time have gone on together. */
static void begin_and_steps_are_remembered(void **state)
{
    (void)state;
    const int64_t right[4] = {0, 0, 0, 0}, ahead[4] = {0, 3600000, 3600000, 3600000};
    struct committed_time t;

    committed_time_lead(&t, MS(70), epoch_ms, 0, VOTERS);
    assert_int_equal(t.even_ns, MS(70));
    committed_time_applied(&t, MS(80), epoch_ms + 5000);
    assert_int_equal(t.even_ns, MS(80));
    committed_time_applied(&t, MS(90), epoch_ms + 5000);
    assert_int_equal(t.even_ns, MS(80));
    (void)run(&t, 700, 7000, right, VOTERS);
    assert_int_equal(t.even_ns, MS(80)); /* what is steered is no step */
    (void)run(&t, 7007, 9000, ahead, VOTERS);
    assert_int_equal(t.even_ns, MS(7007));
}

static void new_cluster_begins_at_wall_time(void **state)
{
    (void)state;
    struct committed_time t;

    committed_time_lead(&t, MS(50), 0, epoch_ms, VOTERS);
    assert_int_equal(committed_time_stamp(&t, MS(60)), epoch_ms + 10);
}

/* What peers say is bounded. */
static void garbage_reports_are_dropped(void **state)
{
    (void)state;
    struct committed_time t;

    committed_time_lead(&t, MS(0), epoch_ms, 0, VOTERS);
    for (uint32_t node = 1; node <= 70; node++)
        committed_time_report(&t, MS(1), node, UINT64_MAX - node);
    assert_int_equal(committed_time_stamp(&t, MS(10)), epoch_ms + 10);
    assert_int_equal(t.wall[1].at_ns, 0);
}

/* T1 and T3 under random clocks: stamps rise, and without agreement never faster than the slew. */
static void random_clocks_never_turn_back(void **state)
{
    (void)state;
    const char *given = getenv("SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);

    print_message("SEED=%u\n", seed);
    srand(seed);
    for (unsigned round = 0; round < 200; round++) {
        struct committed_time t;
        uint64_t now = 0, last = epoch_ms;
        committed_time_lead(&t, now, epoch_ms, 0, VOTERS);
        for (int i = 0; i < 1000; i++) {
            uint64_t step = (uint64_t)(rand() % 100 == 0 ? rand() % 30000 : rand() % 50);
            now += step;
            if (rand() % 2) {
                uint32_t node = 1 + (uint32_t)rand() % 3;
                /* Days apart, ahead and behind, so that no two ever agree. */
                uint64_t wall = epoch_ms + now + ((uint64_t)node - 1 - round % 3) * 2 * DAY_MS;
                wall += (uint64_t)(rand() % 3600000);
                committed_time_report(&t, MS(now), node, wall);
            }
            uint64_t stamp = committed_time_stamp(&t, MS(now));
            assert_true(stamp >= last);
            assert_true(stamp <= epoch_ms + now + now * CTIME_SLEW_PPM / 1000000 + 1000);
            last = stamp;
        }
        assert_true(last + 1000 + now * CTIME_SLEW_PPM / 1000000 >= epoch_ms + now);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_wrong_clock_changes_nothing),
        cmocka_unit_test(majority_may_step_forward),
        cmocka_unit_test(disagreement_steps_nowhere),
        cmocka_unit_test(long_stop_steps_once_a_majority_agrees),
        cmocka_unit_test(clocks_set_back_never_turn_stamps_back),
        cmocka_unit_test(small_offset_is_steered_away),
        cmocka_unit_test(without_reports_boot_time_goes_on),
        cmocka_unit_test(predecessors_stamps_lift_the_line),
        cmocka_unit_test(begin_and_steps_are_remembered),
        cmocka_unit_test(new_cluster_begins_at_wall_time),
        cmocka_unit_test(garbage_reports_are_dropped),
        cmocka_unit_test(random_clocks_never_turn_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
