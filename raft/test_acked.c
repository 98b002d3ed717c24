/* test_acked.c - the record of the last acknowledged index: kept, lowered at once, doubtful ones ignored. */
#include "proto/base/error.h"
#include "raft/acked.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];
static char path[96];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/mailraft-acked-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/%s", dir, ACKED_FILE);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static uint64_t on_disk(void)
{
    struct acked a;
    uint64_t index;
    char error[256];

    assert_int_equal(acked_open(&a, dir, error, sizeof(error)), MR_OK);
    index = a.index;
    acked_close(&a);
    return index;
}

static void is_kept(void **state)
{
    struct acked a;
    char error[256];
    (void)state;

    assert_true(on_disk() == 0);
    assert_int_equal(acked_open(&a, dir, error, sizeof(error)), MR_OK);
    acked_raise(&a, 10);
    acked_raise(&a, 7);
    assert_true(on_disk() == 0);
    acked_flush(&a);
    assert_true(on_disk() == 10);
    acked_raise(&a, 1ULL << 50);
    acked_close(&a);
    assert_true(on_disk() == 1ULL << 50);
}

static void is_lowered_at_once(void **state)
{
    struct acked a;
    char error[256];
    (void)state;

    assert_int_equal(acked_open(&a, dir, error, sizeof(error)), MR_OK);
    acked_raise(&a, 100);
    acked_flush(&a);
    acked_raise(&a, 120);
    acked_lower(&a, 110); /* still above what the file says */
    assert_true(on_disk() == 100);
    acked_lower(&a, 50);
    assert_true(on_disk() == 50);
    acked_lower(&a, 60);
    assert_true(a.index == 50);
    acked_close(&a);
}

static void doubt_is_no_evidence(void **state)
{
    struct acked a;
    char error[256];
    uint8_t record[64];
    ssize_t n;
    int fd;
    (void)state;

    assert_int_equal(acked_open(&a, dir, error, sizeof(error)), MR_OK);
    acked_raise(&a, 100);
    acked_close(&a);
    fd = open(path, O_RDWR);
    n = pread(fd, record, sizeof(record), 0);
    assert_int_equal(n, 32);
    for (unsigned i = 0; i < 32; i++) {
        uint8_t flipped = record[i] ^ 0x10;

        assert_int_equal(pwrite(fd, &flipped, 1, i), 1);
        assert_true(on_disk() == 0);
        assert_int_equal(pwrite(fd, &record[i], 1, i), 1);
    }
    assert_true(on_disk() == 100);
    assert_int_equal(ftruncate(fd, 31), 0);
    assert_true(on_disk() == 0);
    close(fd);
}

static void says_why_it_does_not_open(void **state)
{
    struct acked a;
    char error[256];
    (void)state;

    assert_int_equal(acked_open(&a, "/nonexistent", error, sizeof(error)), MR_IO);
    assert_non_null(strstr(error, "/nonexistent"));
    assert_int_equal(a.fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(is_kept, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(is_lowered_at_once, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(doubt_is_no_evidence, make_dir, remove_dir),
        cmocka_unit_test(says_why_it_does_not_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
