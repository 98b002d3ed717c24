/* Directories as crashes leave them: which segments go, which stay, what is not touched. test_sim_raft in chaos-tests
 * tries the same by crashes at every step. */
#include "raft/unfinished.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static void put(const char *name, const char *content, size_t len)
{
    char *path = mr_asprintf("%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, len), (ssize_t)len);
    close(fd);
    free(path);
}

static bool there(const char *name)
{
    char *path = mr_asprintf("%s/%s", dir, name);
    bool yes = access(path, F_OK) == 0;
    free(path);
    return yes;
}

static void closed(unsigned first, unsigned last)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%016u-%016u", first, last);
    put(name, "x", 1);
}

static bool has(unsigned first, unsigned last)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%016u-%016u", first, last);
    return there(name);
}

static void snapshot(unsigned term, unsigned index)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "snapshot-%u-%u-123", term, index);
    put(name, "x", 1);
    (void)snprintf(name, sizeof(name), "snapshot-%u-%u-123.meta", term, index);
    put(name, "x", 1);
}

static void finish(uint64_t acked)
{
    char error[400] = "";
    assert_int_equal(unfinished_finish(dir, acked, error, sizeof(error)), MR_OK);
    /* Once more: nothing is left to do. */
    assert_int_equal(unfinished_finish(dir, acked, error, sizeof(error)), MR_OK);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/mr-unfinished-XXXXXX");
    assert_non_null(mkdtemp(dir));
    put("metadata1", "x", 1);
    put("open-1", "\0\0\0\0\0\0\0\0\0\0", 10); /* prepared, not used */
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    DIR *d = opendir(dir);
    const struct dirent *e;
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        char *path = mr_asprintf("%s/%s", dir, e->d_name);
        (void)unlink(path);
        free(path);
    }
    closedir(d);
    return rmdir(dir);
}

static void leaves_a_whole_log(void **state)
{
    (void)state;
    closed(5, 10);
    closed(11, 20);
    snapshot(2, 8);
    finish(20);
    assert_true(has(5, 10) && has(11, 20) && there("open-1") && there("metadata1"));
}

static void finishes_a_truncation(void **state)
{
    (void)state;
    closed(1, 10);
    closed(11, 15);
    closed(11, 20);
    closed(21, 30);
    finish(15);
    assert_true(has(1, 10) && has(11, 15));
    assert_false(has(11, 20) || has(21, 30));
}

static void finishes_one_that_left_a_gap(void **state)
{
    (void)state;
    closed(11, 15); /* 11 to 20 is gone already */
    closed(21, 30);
    snapshot(2, 12);
    finish(15);
    assert_true(has(11, 15));
    assert_false(has(21, 30));
}

static void finishes_one_at_the_snapshot(void **state)
{
    (void)state;
    closed(21, 30);
    snapshot(2, 12);
    finish(12);
    assert_false(has(21, 30));
}

static void leaves_what_was_acknowledged(void **state)
{
    (void)state;
    closed(1, 10);
    closed(21, 30); /* a segment was lost: this is for raft_uv to refuse */
    finish(30);
    assert_true(has(1, 10) && has(21, 30));
}

static void leaves_a_log_without_its_begin(void **state)
{
    (void)state;
    closed(21, 30);
    finish(0);
    assert_true(has(21, 30));
}

static void leaves_a_log_that_went_on(void **state)
{
    (void)state;
    closed(1, 10);
    closed(1, 20);
    put("open-2", "\1\0\0\0\0\0\0\0entries", 15);
    finish(10);
    assert_true(has(1, 10) && has(1, 20));
}

static void leaves_old_gaps_before_the_snapshot(void **state)
{
    (void)state;
    closed(1, 10);
    closed(31, 40);
    snapshot(2, 35);
    finish(40);
    assert_true(has(31, 40));
}

static void finishes_an_installation(void **state)
{
    (void)state;
    closed(5, 10);
    closed(11, 20);
    snapshot(1, 8);
    snapshot(3, 100);
    finish(100);
    assert_false(has(5, 10) || has(11, 20));
    assert_true(there("snapshot-3-100-123"));
}

static void takes_no_half_of_a_snapshot(void **state)
{
    (void)state;
    closed(5, 10);
    closed(11, 20);
    snapshot(1, 8);
    put("snapshot-3-100-123.meta", "x", 1);
    finish(20);
    assert_true(has(5, 10) && has(11, 20));
}

static void puts_a_torn_segment_aside(void **state)
{
    (void)state;
    char *torn = calloc(1, 200000);
    assert_non_null(torn);
    torn[150000] = 'x';
    closed(1, 10);
    put("open-2", torn, 200000);
    put("open-3", torn, 100000); /* zeros: prepared only */
    free(torn);
    finish(10);
    assert_true(!there("open-2") && there("torn-segment") && there("open-3") && has(1, 10));
}

/* One bit makes the format of a whole segment 0: but no write loses a part of a sector. */
static void leaves_a_segment_with_a_damaged_format(void **state)
{
    (void)state;
    char segment[8192] = {0};
    segment[9] = 'x'; /* a checksum, behind the format */
    segment[5000] = 'x';
    closed(1, 10);
    put("open-2", segment, sizeof(segment));
    finish(10);
    assert_true(there("open-2") && !there("torn-segment"));
}

/* Entries of a segment get their indices by what is before it: without the torn one those behind it would be others. */
static void leaves_a_torn_segment_before_a_used_one(void **state)
{
    (void)state;
    char torn[8192] = {0};
    torn[5000] = 'x';
    put("open-2", torn, sizeof(torn));
    put("open-3", "\1\0\0\0\0\0\0\0entries", 15);
    finish(0);
    assert_true(there("open-2") && there("open-3") && !there("torn-segment"));
}

/* Segments are written one after the other: a crash tears one. */
static void leaves_two_torn_segments(void **state)
{
    (void)state;
    char torn[8192] = {0};
    torn[5000] = 'x';
    put("open-2", torn, sizeof(torn));
    put("open-3", torn, sizeof(torn));
    finish(0);
    assert_true(there("open-2") && there("open-3") && !there("torn-segment"));
}

static void metadata(const char *name, uint64_t version, uint64_t term, uint64_t vote)
{
    uint64_t words[] = {htole64(1), htole64(version), htole64(term), htole64(vote)};
    put(name, (const char *)words, sizeof(words));
}

static void forget_bootstrap(void)
{
    char error[400] = "";
    assert_int_equal(unfinished_bootstrap(dir, error, sizeof(error)), MR_OK);
}

/* Killed after the term was written, and perhaps again at the next start. */
static void forgets_a_bootstrap_without_a_segment(void **state)
{
    (void)state;
    char *path = mr_asprintf("%s/open-1", dir);
    assert_int_equal(unlink(path), 0);
    free(path);
    metadata("metadata1", 1, 1, 0);
    metadata("metadata2", 2, 1, 0);
    forget_bootstrap();
    assert_true(!there("metadata1") && !there("metadata2"));
    put("metadata1", "torn", 4);
    forget_bootstrap();
    assert_false(there("metadata1"));
    forget_bootstrap(); /* an empty directory */
}

static void leaves_a_log_that_was_bootstrapped(void **state)
{
    (void)state;
    metadata("metadata1", 1, 1, 0);
    forget_bootstrap();
    assert_true(there("metadata1")); /* beside open-1 */
    char *path = mr_asprintf("%s/open-1", dir);
    assert_int_equal(unlink(path), 0);
    free(path);
    closed(1, 1);
    forget_bootstrap();
    assert_true(there("metadata1") && has(1, 1));
    path = mr_asprintf("%s/%016u-%016u", dir, 1, 1);
    assert_int_equal(unlink(path), 0);
    free(path);
    metadata("metadata2", 2, 1, 3); /* it voted */
    forget_bootstrap();
    assert_true(there("metadata1") && there("metadata2"));
    metadata("metadata2", 2, 2, 0); /* it was in a term of its own */
    forget_bootstrap();
    assert_true(there("metadata1") && there("metadata2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(leaves_a_whole_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finishes_a_truncation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finishes_one_that_left_a_gap, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finishes_one_at_the_snapshot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_what_was_acknowledged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_a_log_without_its_begin, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_a_log_that_went_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_old_gaps_before_the_snapshot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finishes_an_installation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(takes_no_half_of_a_snapshot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(puts_a_torn_segment_aside, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_a_segment_with_a_damaged_format, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_a_torn_segment_before_a_used_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_two_torn_segments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(forgets_a_bootstrap_without_a_segment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_a_log_that_was_bootstrapped, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
