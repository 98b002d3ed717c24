/* test_voted.c - the second record of term and vote: kept, compared with what raft_uv loads, doubtful ones ignored. */
#include "proto/base/error.h"
#include "raft/voted.h"

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
    strcpy(dir, "/tmp/mailraft-voted-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/%s", dir, VOTED_FILE);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

/* Whether a directory with this term and vote may be used after what was recorded. */
static int loaded(uint64_t term, uint64_t vote)
{
    struct voted v;
    char error[512] = "";
    int rc;

    assert_int_equal(voted_open(&v, dir, error, sizeof(error)), MR_OK);
    rc = voted_check(&v, dir, term, vote, error, sizeof(error));
    assert_true((rc == MR_OK) == (error[0] == 0));
    if (rc == MR_OK) {
        assert_true(v.term == term);
        assert_true(v.vote == vote);
    }
    voted_close(&v);
    return rc;
}

static void record(uint64_t term, uint64_t vote)
{
    struct voted v;
    char error[256];

    assert_int_equal(voted_open(&v, dir, error, sizeof(error)), MR_OK);
    voted_term(&v, term);
    if (vote != 0)
        voted_for(&v, vote);
    voted_close(&v);
}

static void neither_goes_back(void **state)
{
    (void)state;
    assert_int_equal(loaded(0, 0), MR_OK);
    assert_int_equal(loaded(7, 2), MR_OK); /* a directory from before there was a record */
    record(7, 2);
    assert_int_equal(loaded(7, 2), MR_OK);
    assert_int_equal(loaded(7, 0), MR_STALE);
    assert_int_equal(loaded(7, 3), MR_STALE);
    assert_int_equal(loaded(6, 2), MR_STALE);
    assert_int_equal(loaded(0, 0), MR_STALE);
    /* The process died between raft_uv's record and this one. */
    assert_int_equal(loaded(8, 0), MR_OK);
    assert_int_equal(loaded(8, 1), MR_OK);
    record(8, 0);
    assert_int_equal(loaded(8, 0), MR_OK);
    assert_int_equal(loaded(8, 3), MR_OK);
    assert_int_equal(loaded(7, 2), MR_STALE);
    record(UINT64_MAX, UINT64_MAX);
    assert_int_equal(loaded(UINT64_MAX, UINT64_MAX), MR_OK);
}

static void damage_is_no_evidence(void **state)
{
    (void)state;
    record(9, 1);
    for (unsigned bit = 0; bit < 32 * 8; bit++) {
        uint8_t was, is;
        int fd = open(path, O_RDWR);

        assert_true(fd >= 0);
        assert_int_equal(pread(fd, &was, 1, bit / 8), 1);
        is = (uint8_t)(was ^ (1U << bit % 8));
        assert_int_equal(pwrite(fd, &is, 1, bit / 8), 1);
        assert_int_equal(loaded(3, 0), MR_OK);
        assert_int_equal(pwrite(fd, &was, 1, bit / 8), 1);
        close(fd);
    }
    assert_int_equal(loaded(3, 0), MR_STALE);
    assert_int_equal(truncate(path, 31), 0);
    assert_int_equal(loaded(3, 0), MR_OK);
}

static void a_folder_is_needed(void **state)
{
    struct voted v;
    char error[256] = "";
    (void)state;

    assert_int_equal(voted_open(&v, "/none/such", error, sizeof(error)), MR_IO);
    assert_non_null(strstr(error, "/none/such/voted"));
    voted_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(neither_goes_back, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(damage_is_no_evidence, make_dir, remove_dir),
        cmocka_unit_test(a_folder_is_needed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
