#include "proto/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static void boot_time_never_steps_back(void **state)
{
    (void)state;
    uint64_t before = mr_boot_ns(&mr_clock_real);
    assert_true(before > 0);
    for (int i = 0; i < 10000; i++) {
        uint64_t now = mr_boot_ns(&mr_clock_real);
        assert_true(now >= before);
        before = now;
    }
}

static void wall_time_is_the_system_s(void **state)
{
    (void)state;
    time_t before = time(NULL);
    uint64_t wall = mr_wall_ms(&mr_clock_real);
    time_t after = time(NULL);
    /* time() may lag the clock by a tick. */
    assert_true(wall / 1000 >= (uint64_t)before && wall / 1000 <= (uint64_t)after + 1);
}

static const struct {
    uint64_t ms;
    const char *rfc3339, *rfc5322;
} times[] = {
    {0, "1970-01-01T00:00:00.000Z", "Thu, 01 Jan 1970 00:00:00 +0000"},
    {999, "1970-01-01T00:00:00.999Z", "Thu, 01 Jan 1970 00:00:00 +0000"},
    {1709164800005, "2024-02-29T00:00:00.005Z", "Thu, 29 Feb 2024 00:00:00 +0000"},
    {1772366400123, "2026-03-01T12:00:00.123Z", "Sun, 01 Mar 2026 12:00:00 +0000"},
    {4102444799999, "2099-12-31T23:59:59.999Z", "Thu, 31 Dec 2099 23:59:59 +0000"},
};

static void texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        char a[MR_RFC3339_SIZE], b[MR_RFC5322_DATE_SIZE];
        assert_string_equal(mr_rfc3339(times[i].ms, a), times[i].rfc3339);
        assert_string_equal(mr_rfc5322_date(times[i].ms, b), times[i].rfc5322);
    }
}

static void texts_know_no_time_zone(void **state)
{
    assert_int_equal(setenv("TZ", "America/St_Johns", 1), 0);
    tzset();
    texts(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boot_time_never_steps_back),
        cmocka_unit_test(wall_time_is_the_system_s),
        cmocka_unit_test(texts),
        cmocka_unit_test(texts_know_no_time_zone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
