/* The simulated disk by its own calls, as the world sees it: what a power cut leaves, what a sync promises. */
#include "chaos-tests/sim/sim_fs.h"
#include "chaos-tests/sim/sim_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cmocka.h>

enum { NODE = 1, SEEDS = 200 };

static void begin(uint64_t seed)
{
    static struct sim_options options;
    static struct sim_result result;
    options = (struct sim_options){.seed = seed};
    memset(&result, 0, sizeof(result));
    sim_kernel_init(&options, &result);
    sim_disk_new(NODE);
    sim_files_as(NODE);
    assert_int_equal(mkdir("/data", 0700), 0);
    int fd = open("/", O_RDONLY | O_DIRECTORY);
    assert_int_equal(fsync(fd), 0);
    close(fd);
}

static int make(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void put(int fd, char what, size_t len, off_t offset)
{
    char *data = malloc(len);
    assert_non_null(data);
    memset(data, what, len);
    assert_int_equal(pwrite(fd, data, len, offset), (ssize_t)len);
    free(data);
}

static char get(int fd, off_t offset)
{
    char c = '?';
    return pread(fd, &c, 1, offset) == 1 ? c : 0;
}

static void sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    assert_int_equal(fsync(fd), 0);
    close(fd);
}

static off_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : -1;
}

static void keeps_what_was_synced(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(seed);
        int fd = make("/data/a");
        put(fd, 'x', 10000, 0);
        assert_int_equal(fdatasync(fd), 0);
        sync_dir("/data");
        put(fd, 'y', 3000, 5000);
        sim_disk_power(NODE);
        fd = open("/data/a", O_RDONLY);
        assert_true(fd >= 0);
        assert_int_equal(size_of("/data/a"), 10000);
        for (off_t i = 0; i < 10000; i++) {
            char c = get(fd, i);
            /* What was written after the sync is there or not, in whole sectors. */
            assert_true(c == 'x' || (c == 'y' && i >= 5000 && i < 8000));
            if (i % 512 != 0 && i != 5000 && i != 8000)
                assert_int_equal(c, get(fd, i - 1));
        }
        close(fd);
    }
}

static void tears_what_was_not(void **state)
{
    (void)state;
    unsigned whole = 0, none = 0, torn = 0, gone = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(seed);
        int fd = make("/data/a");
        put(fd, 'x', 8192, 0);
        assert_int_equal(fdatasync(fd), 0);
        sync_dir("/data");
        put(fd, 'y', 8192, 0);
        int other = make("/data/b");
        put(other, 'z', 100, 0);
        assert_int_equal(fdatasync(other), 0); /* its name is not */
        sim_disk_power(NODE);
        fd = open("/data/a", O_RDONLY);
        unsigned y = 0;
        for (off_t i = 0; i < 8192; i += 512)
            y += get(fd, i) == 'y';
        whole += y == 16;
        none += y == 0;
        torn += y > 0 && y < 16;
        gone += size_of("/data/b") < 0;
        assert_true(size_of("/data/b") == 100 || size_of("/data/b") == -1);
        close(fd);
    }
    assert_true(whole > 0 && none > 0 && torn > 0);
    assert_true(gone > 0 && gone < SEEDS);
}

static void a_kill_keeps_the_cache(void **state)
{
    (void)state;
    begin(1);
    int fd = make("/data/a");
    put(fd, 'x', 100, 0);
    sim_files_drop(NODE); /* the process is gone */
    assert_int_equal(pread(fd, &(char){0}, 1, 0), -1);
    assert_int_equal(errno, EBADF);
    fd = open("/data/a", O_RDONLY);
    assert_int_equal(get(fd, 99), 'x');
}

static void names_survive_in_order(void **state)
{
    (void)state;
    unsigned seen[4] = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(seed);
        close(make("/data/one"));
        close(make("/data/two"));
        assert_int_equal(rename("/data/two", "/data/one"), 0);
        sim_disk_power(NODE);
        bool one = size_of("/data/one") >= 0, two = size_of("/data/two") >= 0;
        assert_true(one || !two); /* a prefix: "two" was made after "one" */
        seen[(one ? 1 : 0) + (two ? 2 : 0)]++;
    }
    assert_true(seen[0] > 0 && seen[1] > 0 && seen[3] > 0);
    assert_int_equal(seen[2], 0);
}

static void replaces_by_rename(void **state)
{
    (void)state;
    unsigned old = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(seed);
        int fd = make("/data/f");
        put(fd, 'o', 10, 0);
        assert_int_equal(fsync(fd), 0);
        sync_dir("/data");
        fd = make("/data/f.new");
        put(fd, 'n', 20, 0);
        assert_int_equal(fsync(fd), 0);
        assert_int_equal(rename("/data/f.new", "/data/f"), 0);
        sim_disk_power(NODE);
        fd = open("/data/f", O_RDONLY);
        assert_true(fd >= 0);
        assert_int_equal(size_of("/data/f"), get(fd, 0) == 'o' ? 10 : 20);
        old += get(fd, 0) == 'o';
        close(fd);
    }
    assert_true(old > 0 && old < SEEDS);
}

/* What is written while a sync runs is not that sync's. */
static void a_sync_covers_what_came_before(void **state)
{
    (void)state;
    unsigned lost = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(seed);
        int fd = make("/data/a");
        sync_dir("/data");
        put(fd, 'x', 512, 0);
        sim_file_sync_begin(fd);
        put(fd, 'y', 512, 0);
        put(fd, 'z', 512, 8192);
        assert_int_equal(sim_file_sync_end(fd), 0);
        sim_disk_power(NODE);
        fd = open("/data/a", O_RDONLY);
        assert_true(get(fd, 0) == 'x' || get(fd, 0) == 'y');
        assert_true(size_of("/data/a") >= 512);
        lost += get(fd, 0) == 'x' && get(fd, 8192) != 'z';
        close(fd);
    }
    assert_true(lost > 0);
}

static void a_failed_sync_drops_what_it_had(void **state)
{
    struct sim_file *f = NULL;
    (void)state;
    begin(1);
    int fd = make("/data/a");
    put(fd, 'x', 512, 0);
    assert_int_equal(fdatasync(fd), 0);
    sync_dir("/data");
    put(fd, 'y', 512, 0);
    assert_int_equal(sim_fs_find(NODE, "/data/a", &f), 0);
    sim_fs_sync_begin(NODE, f);
    sim_fs_sync_end(NODE, f, false);
    assert_int_equal(get(fd, 0), 'y');
    assert_int_equal(fdatasync(fd), 0); /* and says nothing of it */
    sim_disk_power(NODE);
    fd = open("/data/a", O_RDONLY);
    assert_int_equal(get(fd, 0), 'x');
}

static void truncates(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(seed);
        int fd = make("/data/a");
        put(fd, 'x', 6000, 0);
        assert_int_equal(fdatasync(fd), 0);
        sync_dir("/data");
        assert_int_equal(ftruncate(fd, 100), 0);
        assert_int_equal(get(fd, 100), 0);
        assert_int_equal(ftruncate(fd, 6000), 0);
        assert_int_equal(get(fd, 99), 'x');
        assert_int_equal(pread(fd, &(char){1}, 1, 5000), 1);
        assert_int_equal(get(fd, 5000), 0);
        if (seed % 2 == 0)
            assert_int_equal(fdatasync(fd), 0);
        sim_disk_power(NODE);
        fd = open("/data/a", O_RDONLY);
        assert_int_equal(get(fd, 99), 'x');
        assert_true(get(fd, 4999) == 0 || seed % 2 == 1);
        close(fd);
    }
}

static void ends_with_its_space(void **state)
{
    struct statvfs fs;
    (void)state;
    begin(1);
    sim_disk_size(NODE, 1 << 20);
    int fd = make("/data/a");
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 512 << 10), 0);
    assert_int_equal(size_of("/data/a"), 0);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 2 << 20), -1);
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(statvfs("/data", &fs), 0);
    assert_int_equal(fs.f_bavail * fs.f_frsize, 512 << 10);
    int other = make("/data/b");
    put(other, 'x', 512 << 10, 0);
    assert_int_equal(pwrite(other, "y", 1, 512 << 10), -1);
    assert_int_equal(errno, ENOSPC);
    put(fd, 'x', 512 << 10, 0); /* that was taken ahead */
    close(other);
    assert_int_equal(unlink("/data/b"), 0);
    char *big = calloc(1, 1 << 20);
    assert_int_equal(pwrite(fd, big, 1 << 20, 512 << 10), 512 << 10); /* short */
    free(big);
    sim_disk_size(NODE, 2 << 20);
    sim_disk_fault(NODE, SIM_DISK_FULL, 1);
    assert_int_equal(pwrite(fd, "y", 1, 1 << 20), -1);
    sim_disk_fault(NODE, SIM_DISK_FULL, 0);
    assert_int_equal(pwrite(fd, "y", 1, 1 << 20), 1);
}

static void has_descriptors_and_locks(void **state)
{
    (void)state;
    begin(1);
    int one = make("/data/lock"), two = open("/data/lock", O_RDWR);
    assert_int_not_equal(one, two);
    assert_int_equal(flock(one, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(flock(two, LOCK_EX | LOCK_NB), -1);
    assert_int_equal(errno, EWOULDBLOCK);
    close(one);
    assert_int_equal(flock(two, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(open("/data/lock", O_RDWR | O_CREAT | O_EXCL, 0600), -1);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(open("/data/nothing", O_RDWR), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(open("/nothing/a", O_RDWR | O_CREAT, 0600), -1);
    assert_int_equal(errno, ENOENT);
    /* An unlinked file lives on in its descriptor. */
    put(two, 'x', 10, 0);
    assert_int_equal(unlink("/data/lock"), 0);
    assert_int_equal(get(two, 9), 'x');
    close(two);
    assert_int_equal(close(two), -1);
}

static void flips_and_cuts_at_rest(void **state)
{
    (void)state;
    begin(7);
    int fd = make("/data/journal");
    put(fd, 'x', 9000, 0);
    assert_int_equal(fdatasync(fd), 0);
    sync_dir("/data");
    assert_false(sim_disk_flip(NODE, "spool"));
    assert_true(sim_disk_flip(NODE, "journal"));
    unsigned changed = 0;
    for (off_t i = 0; i < 9000; i++)
        changed += get(fd, i) != 'x';
    assert_int_equal(changed, 1);
    assert_true(sim_disk_truncate(NODE, "journal"));
    assert_true(size_of("/data/journal") < 9000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_was_synced),
        cmocka_unit_test(tears_what_was_not),
        cmocka_unit_test(a_kill_keeps_the_cache),
        cmocka_unit_test(names_survive_in_order),
        cmocka_unit_test(replaces_by_rename),
        cmocka_unit_test(a_sync_covers_what_came_before),
        cmocka_unit_test(a_failed_sync_drops_what_it_had),
        cmocka_unit_test(truncates),
        cmocka_unit_test(ends_with_its_space),
        cmocka_unit_test(has_descriptors_and_locks),
        cmocka_unit_test(flips_and_cuts_at_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
