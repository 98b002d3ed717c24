/* The ballast on a disk that is a number: built, given back, built again; and once on the real one. */
#include "cluster/ballast.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MB ((uint64_t)1 << 20)

/* One file, and others' bytes. */
struct small_disk {
    struct mr_fileio io;
    uint64_t total;
    uint64_t others;
    uint64_t blocks; /* of the ballast */
    uint64_t size;
    bool exists;
    bool cannot_allocate;
    int open_error, space_error, truncate_error;
};

static struct small_disk *disk_of(const struct mr_fileio *io)
{
    return (struct small_disk *)(uintptr_t)io;
}

static uint64_t room(const struct small_disk *d)
{
    return d->total - d->others - d->blocks;
}

static int disk_open(const struct mr_fileio *io, const char *path, int flags, mode_t mode)
{
    (void)flags;
    (void)mode;
    assert_string_equal(path, "data/ballast");
    if (disk_of(io)->open_error != 0)
        return disk_of(io)->open_error;
    disk_of(io)->exists = true;
    return 77;
}

static int disk_close(const struct mr_fileio *io, int fd)
{
    (void)io;
    assert_int_equal(fd, 77);
    return 0;
}

static int take(struct small_disk *d, uint64_t upto)
{
    if (upto <= d->blocks)
        return 0;
    if (upto - d->blocks > room(d))
        return -ENOSPC;
    d->blocks = upto;
    return 0;
}

static int disk_allocate(const struct mr_fileio *io, int fd, uint64_t offset, uint64_t len)
{
    (void)fd;
    return disk_of(io)->cannot_allocate ? -EOPNOTSUPP : take(disk_of(io), offset + len);
}

static ssize_t disk_write(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    struct small_disk *d = disk_of(io);

    (void)fd;
    assert_int_equal(count, 1);
    int rc = take(d, offset + iov->iov_len);
    if (rc < 0)
        return rc;
    d->size = offset + iov->iov_len;
    return (ssize_t)iov->iov_len;
}

static int disk_truncate(const struct mr_fileio *io, int fd, uint64_t size)
{
    struct small_disk *d = disk_of(io);

    (void)fd;
    if (d->truncate_error != 0)
        return d->truncate_error;
    d->size = size;
    if (d->blocks > size)
        d->blocks = size;
    return 0;
}

static int disk_size(const struct mr_fileio *io, int fd, uint64_t *size)
{
    (void)fd;
    *size = disk_of(io)->size;
    return 0;
}

static int disk_space(const struct mr_fileio *io, const char *path, uint64_t *available, uint64_t *total)
{
    assert_string_equal(path, "data");
    *available = room(disk_of(io));
    *total = disk_of(io)->total;
    return disk_of(io)->space_error;
}

static struct small_disk new_disk(uint64_t total)
{
    return (struct small_disk){.io = {.open_file = disk_open,
                                      .close_file = disk_close,
                                      .write_at = disk_write,
                                      .truncate_file = disk_truncate,
                                      .allocate = disk_allocate,
                                      .file_size = disk_size,
                                      .free_space = disk_space},
                               .total = total};
}

static struct ballast *open_on(struct small_disk *d)
{
    struct ballast_config config = {.dir = "data", .io = &d->io};

    return ballast_open(&config);
}

static struct ballast_state ticks(struct ballast *b, uint64_t reserve, unsigned n)
{
    struct ballast_state s;

    while (n-- > 0)
        ballast_tick(b, reserve, false);
    ballast_state(b, &s);
    return s;
}

static void has_a_sensible_size(void **state)
{
    static const struct {
        uint64_t disk, ballast;
    } rows[] = {{20 * MB, 2 * MB},
                {320 * MB, 32 * MB},
                {2048 * MB, 32 * MB},
                {8192 * MB, 128 * MB},
                {(uint64_t)1 << 42, 256 * MB}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct small_disk d = new_disk(rows[i].disk);
        uint64_t want = rows[i].ballast;
        struct ballast *b = open_on(&d);
        struct ballast_state s = ticks(b, MB, 100);

        assert_true(s.bytes == want && s.missing == 0 && !s.full);
        assert_true(d.blocks == want && d.size == want);
        ballast_close(b);
    }
}

/* B1, and what the spool has to keep free in each state. */
static void is_given_back_and_built_again(void **state)
{
    struct small_disk d = new_disk(320 * MB);
    uint64_t reserve = 16 * MB;
    struct ballast *b;
    struct ballast_state s;

    for (unsigned way = 0; way < 2; way++) {
        d = new_disk(320 * MB);
        d.cannot_allocate = way == 1;
        b = open_on(&d);
        s = ticks(b, reserve, 2);
        assert_true(s.bytes > 0 && s.bytes < 32 * MB && s.bytes + s.missing == 32 * MB); /* step by step */
        s = ticks(b, reserve, 40);
        assert_true(s.bytes == 32 * MB);
        /* Low, but not full: it stays. */
        d.others = 320 * MB - 32 * MB - BALLAST_FULL;
        s = ticks(b, reserve, 3);
        assert_true(s.bytes == 32 * MB && !s.full);
        d.others += 1;
        s = ticks(b, reserve, 1);
        assert_true(s.full && s.bytes == 0 && s.missing == 32 * MB);
        assert_true(room(&d) == 32 * MB + BALLAST_FULL - 1);
        assert_true(ballast_missing(b) == 32 * MB);
        assert_false(ballast_release(b)); /* once */
        /* Some room is not enough: it would be what Raft is to use. */
        d.others = 320 * MB - 32 * MB - reserve + 1;
        s = ticks(b, reserve, 10);
        assert_true(s.full && s.bytes == 0);
        d.others--;
        s = ticks(b, reserve, 40);
        assert_true(!s.full && s.bytes == 32 * MB && room(&d) == reserve);
        ballast_close(b);
    }
    (void)state;
}

/* Somebody's write found no room, or a quota that the file system does not tell of. */
static void is_given_back_to_who_asks(void **state)
{
    struct small_disk d = new_disk(320 * MB);
    struct ballast *b = open_on(&d);
    struct ballast_state s = ticks(b, MB, 40);

    (void)state;
    assert_true(ballast_release(b));
    ballast_state(b, &s);
    assert_true(s.full && s.missing == 32 * MB && d.blocks == 0);
    s = ticks(b, MB, 40);
    assert_true(!s.full && s.missing == 0);
    for (int i = 0; i < 5; i++)
        ballast_tick(b, MB, true);
    ballast_state(b, &s);
    assert_true(s.full && d.blocks == 0);
    ballast_close(b);
}

/* A full disk at the start is what the process has to start on. A part of a ballast is gone on with (B2). */
static void is_given_back_at_the_start(void **state)
{
    struct small_disk d = new_disk(320 * MB);
    struct ballast *b = open_on(&d);
    struct ballast_state s = ticks(b, MB, 3);
    uint64_t part = s.bytes;

    (void)state;
    assert_true(part > 0 && part < 32 * MB);
    ballast_close(b);
    b = open_on(&d);
    ballast_state(b, &s);
    assert_true(s.bytes == part);
    s = ticks(b, MB, 40);
    assert_true(s.missing == 0);
    ballast_close(b);
    d.others = 320 * MB - 32 * MB;
    b = open_on(&d);
    ballast_state(b, &s);
    assert_true(s.full && s.bytes == 0 && room(&d) == 32 * MB);
    ballast_close(b);
}

/* A disk on which nothing works is not made worse; when it works again there is a ballast. */
static void does_without(void **state)
{
    struct small_disk d = new_disk(320 * MB);
    struct ballast_state s;

    (void)state;
    d.open_error = -ENOSPC;
    d.space_error = -EIO;
    struct ballast *b = open_on(&d);
    s = ticks(b, MB, 5);
    assert_true(s.bytes == 0 && !s.full && !d.exists);
    d.space_error = 0;
    s = ticks(b, MB, 5);
    assert_true(s.bytes == 0 && s.missing == 32 * MB && !d.exists);
    d.open_error = 0;
    s = ticks(b, MB, 40);
    assert_true(s.bytes == 32 * MB);
    /* Not to be had back: said, and tried again. */
    d.truncate_error = -EIO;
    assert_false(ballast_release(b));
    ballast_state(b, &s);
    assert_true(s.full && s.bytes == 32 * MB);
    d.truncate_error = 0;
    assert_true(ballast_release(b));
    assert_true(d.blocks == 0);
    ballast_close(b);
}

static void real_disk(void **state)
{
    char dir[] = "/tmp/mailraft-ballast-XXXXXX", path[64];
    struct stat st;
    struct ballast_state s;

    (void)state;
    assert_non_null(mkdtemp(dir));
    struct ballast_config config = {.dir = dir, .bytes = 5 * MB};
    struct ballast *b = ballast_open(&config);
    s = ticks(b, 0, 10);
    if (s.full || s.available < 16 * MB) {
        ballast_close(b);
        skip(); /* /tmp is full */
    }
    assert_true(s.bytes == 5 * MB);
    snprintf(path, sizeof(path), "%s/ballast", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_size == 5 * MB);
    assert_true((uint64_t)st.st_blocks * 512 >= 5 * MB); /* no sparse one */
    assert_true(ballast_release(b));
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size == 0 && st.st_blocks == 0);
    ballast_close(b);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_a_sensible_size),
        cmocka_unit_test(is_given_back_and_built_again),
        cmocka_unit_test(is_given_back_to_who_asks),
        cmocka_unit_test(is_given_back_at_the_start),
        cmocka_unit_test(does_without),
        cmocka_unit_test(real_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
