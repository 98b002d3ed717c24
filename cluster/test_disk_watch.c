/* Calls to the disk that do not come back: who is slow, who is dead, and what does not count. */
#include "cluster/disk_watch.h"
#include "proto/base/clock.h"
#include "proto/base/test_dies.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Looks every half second for so long; the age at the end. */
static uint64_t look_for(struct disk_watch *w, uint64_t *now_ms, uint64_t ms)
{
    uint64_t age = 0;

    for (uint64_t end = *now_ms + ms; *now_ms < end;) {
        *now_ms += DISK_LOOK_MS;
        age = disk_watch_look(w, *now_ms * MR_NS_PER_MS);
    }
    return age;
}

static void slow_calls_are_seen(void **state)
{
    struct disk_watch *w = disk_watch_open();
    struct busy *a = disk_watch_add(w, "a"), *b = disk_watch_add(w, "b");
    const char *what = "";
    uint64_t now = 5000;

    (void)state;
    assert_int_equal(look_for(w, &now, 20000), 0); /* idle */
    busy_begin(a);
    assert_int_equal(disk_watch_slow_ms(w, &what), 0);
    assert_null(what);
    assert_true(look_for(w, &now, 2000) < DISK_SLOW_MS); /* its begin is known from the first look at it */
    assert_int_equal(disk_watch_slow_ms(w, NULL), 0);
    busy_begin(b);
    assert_true(look_for(w, &now, 1000) >= DISK_SLOW_MS);
    assert_true(disk_watch_slow_ms(w, &what) >= DISK_SLOW_MS);
    assert_string_equal(what, "a");
    busy_end(a);
    assert_true(look_for(w, &now, 500) < DISK_SLOW_MS);
    assert_int_equal(disk_watch_slow_ms(w, NULL), 0);
    look_for(w, &now, 1500);
    assert_true(disk_watch_slow_ms(w, &what) >= DISK_SLOW_MS);
    assert_string_equal(what, "b");
    busy_end(b);
    disk_watch_close(w);
}

/* Many calls one after the other are no hanging one, however long the line of them is. */
static void progress_is_no_hang(void **state)
{
    struct disk_watch *w = disk_watch_open();
    struct busy *a = disk_watch_add(w, "a");
    uint64_t now = 1;

    (void)state;
    busy_begin(a);
    for (int i = 0; i < 60; i++) {
        assert_true(look_for(w, &now, 1500) < DISK_SLOW_MS);
        if (i % 2 == 0) {
            busy_step(a);
        } else {
            busy_end(a);
            busy_begin(a);
        }
    }
    busy_end(a);
    disk_watch_close(w);
}

/* The process was stopped, or the machine slept, for an hour in the middle of a call (W2). */
static void a_stop_of_the_process_does_not_count(void **state)
{
    struct disk_watch *w = disk_watch_open();
    struct busy *a = disk_watch_add(w, "a");
    uint64_t now = 1;

    (void)state;
    busy_begin(a);
    look_for(w, &now, 500);
    now += 3600 * 1000;
    assert_true(look_for(w, &now, 500) <= DISK_GAP_MS);
    assert_int_equal(disk_watch_slow_ms(w, NULL), 0);
    busy_end(a);
    disk_watch_close(w);
}

static void hang(void)
{
    struct disk_watch *w = disk_watch_open();
    struct busy *a = disk_watch_add(w, "a");
    uint64_t now = 1;

    busy_begin(a);
    if (look_for(w, &now, DISK_DEAD_MS) >= DISK_DEAD_MS) /* too early */
        _exit(8);
    look_for(w, &now, 1000);
}

static void hang_for_real(void)
{
    struct disk_watch *w = disk_watch_open();

    busy_begin(disk_watch_add(w, "a"));
    if (disk_watch_start(w) != 0)
        _exit(9);
    for (;;)
        pause();
}

static void who_hangs_ends_the_process(void **state)
{
    (void)state;
    test_assert_dies(hang);
    test_assert_dies(hang_for_real);
}

static void closes_while_it_waits(void **state)
{
    struct disk_watch *w = disk_watch_open();

    (void)state;
    for (unsigned i = 0; i < DISK_WATCH_SLOTS; i++)
        busy_begin(disk_watch_add(w, "a"));
    assert_int_equal(disk_watch_start(w), 0);
    disk_watch_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_calls_are_seen),
        cmocka_unit_test(progress_is_no_hang),
        cmocka_unit_test(a_stop_of_the_process_does_not_count),
        cmocka_unit_test(who_hangs_ends_the_process),
        cmocka_unit_test(closes_while_it_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
