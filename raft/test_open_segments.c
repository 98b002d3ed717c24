/* test_open_segments.c - what is done to open segments before raft_uv loads them: pwrite and fdatasync are this file's.
 */
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "raft/open_segments.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
/* cmocka.h wants setjmp, stdarg, stdint and stdlib. */
#include <cmocka.h>

enum { SIZE = 8 << 20, BLOCK = 65536 };

static struct {
    bool written[SIZE / BLOCK]; /* since the last sync */
    unsigned syncs;
    bool synced[SIZE / BLOCK];
    bool fail, full;
} disk;

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    if (disk.full)
        return (ssize_t)len - 1;
    for (size_t i = (size_t)at / BLOCK; i * BLOCK < (size_t)at + len; i++)
        disk.written[i] = true;
    return (ssize_t)syscall(SYS_pwrite64, fd, data, len, at);
}

int fdatasync(int fd)
{
    (void)fd;
    disk.syncs++;
    if (disk.fail) {
        errno = EIO;
        return -1;
    }
    memcpy(disk.synced, disk.written, sizeof(disk.synced));
    return 0;
}

static char dir[] = "/tmp/mailraft-open-XXXXXX";

static char *make_segment(const char *name)
{
    uint8_t *bytes = mr_calloc(1, SIZE);
    char *path = mr_asprintf("%s/%s", dir, name);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);

    memset(bytes, 0x11, 100);
    memset(bytes + 3 * BLOCK + 17, 0x22, 2 * BLOCK);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, SIZE), SIZE);
    close(fd);
    free(bytes);
    return path;
}

static void check_contents(const char *path)
{
    uint8_t *bytes = mr_calloc(1, SIZE);
    int fd = open(path, O_RDONLY);

    assert_int_equal(read(fd, bytes, SIZE), SIZE);
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(bytes[i], i < 100 ? 0x11 : i >= 3 * BLOCK + 17 && i < 5 * BLOCK + 17 ? 0x22 : 0);
    close(fd);
    free(bytes);
}

static void writes_again_what_is_there(void **state)
{
    char error[256] = "";
    char *path = make_segment("open-1");
    (void)state;

    memset(&disk, 0, sizeof(disk));
    assert_int_equal(open_segments_mend(dir, error, sizeof(error)), 0);
    assert_int_equal(disk.syncs, 1);
    for (size_t i = 0; i < SIZE / BLOCK; i++)
        assert_true(disk.synced[i] == (i == 0 || (i >= 3 && i <= 5)));
    check_contents(path);
    assert_int_equal(unlink(path), 0);
    free(path);
}

static void fails_with_the_sync(void **state)
{
    char error[256] = "";
    char *path = make_segment("open-2");
    (void)state;

    memset(&disk, 0, sizeof(disk));
    disk.fail = true;
    assert_int_equal(open_segments_mend(dir, error, sizeof(error)), MR_IO);
    assert_non_null(strstr(error, "open-2"));
    assert_int_equal(unlink(path), 0);
    free(path);
}

static void fails_with_a_write_that_is_cut_short(void **state)
{
    char error[256] = "";
    char *path = make_segment("open-3");
    (void)state;

    memset(&disk, 0, sizeof(disk));
    disk.full = true;
    assert_int_equal(open_segments_mend(dir, error, sizeof(error)), MR_IO);
    assert_non_null(strstr(error, strerror(ENOSPC)));
    assert_int_equal(disk.syncs, 0);
    assert_int_equal(unlink(path), 0);
    free(path);
}

static void leaves_others_alone(void **state)
{
    char error[256] = "";
    char *path = make_segment("0000000000000001-0000000000000002");
    struct stat st;
    (void)state;

    memset(&disk, 0, sizeof(disk));
    assert_int_equal(open_segments_mend(dir, error, sizeof(error)), 0);
    assert_int_equal(disk.syncs, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    assert_int_equal(unlink(path), 0);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_again_what_is_there),
        cmocka_unit_test(fails_with_the_sync),
        cmocka_unit_test(fails_with_a_write_that_is_cut_short),
        cmocka_unit_test(leaves_others_alone),
    };

    if (mkdtemp(dir) == NULL)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)rmdir(dir);
    return failed;
}
