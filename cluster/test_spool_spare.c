/* Spare segments: made of dead ones and of zeros, used again under new numbers, given back when space is low; nothing
 * that was in one is ever taken for a body. */
#include "cluster/spool_internal.h"
#include "cluster/test_spool_disk.h"
#include "proto/base/test_dies.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { SEGMENT = 64 * 1024, BODY = 2000, A_SEGMENT_S = SEGMENT / (BODY + 200) };

struct file {
    uint32_t number;
    ino_t inode;
    off_t size;
    bool hole;
};

/* The files with this ending, by number, at most max; returns how many there are. */
static size_t files(const struct spool_test *t, const char *ending, struct file *out, size_t max)
{
    DIR *d = opendir(t->dir);
    size_t count = 0;
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        struct stat st;
        if (strlen(e->d_name) != 8 + strlen(ending) || strcmp(e->d_name + 8, ending) != 0)
            continue;
        int fd = openat(dirfd(d), e->d_name, O_RDONLY);
        if (fd < 0)
            continue; /* renamed or unlinked meanwhile */
        assert_int_equal(fstat(fd, &st), 0);
        if (count < max)
            out[count] = (struct file){(uint32_t)strtoul(e->d_name, NULL, 16), st.st_ino, st.st_size,
                                       lseek(fd, 0, SEEK_HOLE) < st.st_size};
        count++;
        close(fd);
    }
    closedir(d);
    return count;
}

/* A spare has its name before it is in the spool's list. */
static unsigned listed(struct spool *sp)
{
    pthread_mutex_lock(&sp->spares.mutex);
    unsigned n = sp->spares.count;
    pthread_mutex_unlock(&sp->spares.mutex);
    return n;
}

/* Until there are n whole spares: they come from other threads. */
static void wait_for_spares(struct spool_test *t, size_t n, struct file out[SPOOL_SPARES])
{
    uint64_t until = uv_hrtime() + 60 * 1000000000ULL;
    for (;;) {
        size_t whole = 0, count = files(t, ".spare", out, SPOOL_SPARES);
        for (size_t i = 0; i < count && i < SPOOL_SPARES; i++)
            whole += out[i].size >= SEGMENT / 2;
        if (count == n && whole == n && listed(t->sp) == n)
            return;
        if (uv_hrtime() > until)
            fail_msg("%zu spares, %zu of them whole, instead of %zu", count, whole, n);
        (void)uv_run(&t->loop, UV_RUN_NOWAIT);
        (void)usleep(1000);
    }
}

static void put_segments(struct spool_test *t, struct mr_id *ids, size_t segments)
{
    for (size_t i = 0; i < segments * A_SEGMENT_S; i++)
        ids[i] = mr_id_at(1);
    spool_test_put_many(t, ids, segments * A_SEGMENT_S, BODY, 1);
}

static void dead_segments_are_used_again(void **state)
{
    enum { SEGMENTS = 8 };
    struct spool_test *t = *state;
    struct mr_id first[SEGMENTS * A_SEGMENT_S], second[SEGMENTS * A_SEGMENT_S];
    struct file spares[SPOOL_SPARES], segments[64];
    spool_test_open(t, SEGMENT);
    put_segments(t, first, SEGMENTS);
    for (size_t i = 0; i < SEGMENTS * A_SEGMENT_S; i++)
        spool_drop(t->sp, first[i]);
    wait_for_spares(t, SPOOL_SPARES, spares);
    put_segments(t, second, SEGMENTS);
    size_t n = files(t, ".seg", segments, 64), again = 0;
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < SPOOL_SPARES; k++)
            if (segments[i].inode == spares[k].inode) {
                again++;
                assert_true(segments[i].number > spares[k].number);
            }
    assert_int_equal(again, SPOOL_SPARES);
    spool_test_close(t);
    spool_test_open(t, SEGMENT);
    /* Nothing marks a deletion: of the first ones, those are back that stood in the segment that was not sealed then.
     */
    size_t back = 0;
    for (size_t i = 0; i < SEGMENTS * A_SEGMENT_S; i++) {
        assert_int_equal(spool_test_check(t, second[i], BODY), 0);
        back += spool_has(t->sp, first[i], NULL);
    }
    assert_true(back <= SEGMENT / BODY);
}

/* A spare that is the newest file: the next segment, made of it, may not have its number, for which its records are
 * still sound. */
static void numbers_are_not_used_twice(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[3 * A_SEGMENT_S], more[A_SEGMENT_S];
    struct file spares[SPOOL_SPARES], segments[64];
    char open_one[512];
    spool_test_open(t, SEGMENT);
    put_segments(t, ids, 3);
    spool_test_close(t);
    /* Without the open segment, as if it had been emptied: all others are sealed. */
    size_t n = files(t, ".seg", segments, 64);
    uint32_t newest = 0;
    for (size_t i = 0; i < n; i++)
        newest = segments[i].number > newest ? segments[i].number : newest;
    (void)snprintf(open_one, sizeof(open_one), "%s/%08x.seg", t->dir, newest);
    assert_int_equal(unlink(open_one), 0);
    spool_test_open(t, SEGMENT);
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        spool_drop(t->sp, ids[i]);
    wait_for_spares(t, n - 1, spares);
    spool_test_close(t);
    uint32_t highest = 0;
    for (size_t i = 0; i < n - 1; i++)
        highest = spares[i].number > highest ? spares[i].number : highest;
    spool_test_open(t, SEGMENT);
    more[0] = mr_id_at(1);
    assert_int_equal(spool_test_put(t, more[0], BODY), 0);
    n = files(t, ".seg", segments, 64);
    for (size_t i = 0; i < n; i++)
        assert_true(segments[i].number > highest);
    spool_test_close(t);
    spool_test_open(t, SEGMENT); /* the unsealed one is read record by record, behind the new ones lie old ones */
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bodies, 1);
    assert_int_equal(spool_test_check(t, more[0], BODY), 0);
}

static void spares_are_filled_while_nobody_comes(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[2 * A_SEGMENT_S], more[2 * A_SEGMENT_S];
    struct file spares[SPOOL_SPARES], segments[64];
    spool_test_open(t, SEGMENT);
    put_segments(t, ids, 2);
    wait_for_spares(t, SPOOL_SPARES_FILLED, spares);
    for (size_t i = 0; i < SPOOL_SPARES_FILLED; i++) {
        assert_int_equal(spares[i].size, SEGMENT);
        assert_false(spares[i].hole);
    }
    put_segments(t, more, 2);
    size_t n = files(t, ".seg", segments, 64), used = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < SPOOL_SPARES_FILLED; k++)
            used += segments[i].inode == spares[k].inode;
    assert_true(used > 0);
    spool_test_close(t);
    spool_test_open(t, SEGMENT);
    for (size_t i = 0; i < 2 * A_SEGMENT_S; i++) {
        assert_int_equal(spool_test_check(t, ids[i], BODY), 0);
        assert_int_equal(spool_test_check(t, more[i], BODY), 0);
    }
}

/* The open segment too, behind the few records that it has, and then it is read, written on and sealed as any. */
static void the_open_segment_is_filled(void **state)
{
    enum { FEW = 3 };
    struct spool_test *t = *state;
    struct mr_id ids[FEW], more[2 * A_SEGMENT_S];
    struct file segments[4];
    spool_test_open(t, SEGMENT);
    for (int i = 0; i < FEW; i++) {
        ids[i] = mr_id_at(1);
        assert_int_equal(spool_test_put(t, ids[i], BODY), 0);
    }
    uint64_t until = uv_hrtime() + 60 * 1000000000ULL;
    while (files(t, ".seg", segments, 4) != 1 || segments[0].size != SEGMENT || segments[0].hole) {
        assert_true(uv_hrtime() < until);
        (void)usleep(1000);
    }
    assert_int_equal(files(t, ".spare", segments, 4), 0);
    for (int life = 0; life < 2; life++) {
        spool_test_close(t);
        spool_test_open(t, SEGMENT);
        for (int i = 0; i < FEW; i++)
            assert_int_equal(spool_test_check(t, ids[i], BODY), 0);
        if (life == 0)
            put_segments(t, more, 2);
        for (size_t i = 0; i < 2 * A_SEGMENT_S; i++)
            assert_int_equal(spool_test_check(t, more[i], BODY), 0);
    }
}

static uint64_t pretended_free;

static int little_space(const struct mr_fileio *io, const char *path, uint64_t *available, uint64_t *total)
{
    (void)io;
    (void)path;
    *available = pretended_free;
    *total = 1ULL << 40;
    return 0;
}

static void spares_are_given_back_when_space_is_low(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[6 * A_SEGMENT_S];
    struct file spares[SPOOL_SPARES];
    struct mr_fileio io = mr_fileio_real;
    io.free_space = little_space;
    t->io = &io;
    t->reserve = 1 << 20;
    pretended_free = 64 << 20;
    spool_test_open(t, SEGMENT);
    put_segments(t, ids, 6);
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        spool_drop(t->sp, ids[i]);
    wait_for_spares(t, SPOOL_SPARES, spares);
    pretended_free = 1 << 19;
    struct mr_id id = mr_id_at(1);
    assert_int_equal(spool_test_put(t, id, BODY), MR_NOSPACE);
    wait_for_spares(t, 0, spares);
    pretended_free = 64 << 20;
    assert_int_equal(spool_test_put(t, id, BODY), 0);
    spool_test_close(t);
}

/* ---- a directory that cannot be synced ---- */

/* Only after a rename to a name with this ending, in the same thread: dead segments become spares on one, spares
 * segments on another. */
struct bad_dir {
    struct mr_fileio io;
    const char *ending;
    int error;
    _Atomic bool fails;
    atomic_uint failed;
};

static _Thread_local bool renamed;

static int rename_in_bad_dir(const struct mr_fileio *io, const char *from, const char *to)
{
    const struct bad_dir *d = (const struct bad_dir *)io; /* io is first in it */
    const char *dot = strrchr(to, '.');
    renamed = dot != NULL && strcmp(dot, d->ending) == 0;
    return mr_fileio_real.rename_file(&mr_fileio_real, from, to);
}

static int sync_bad_dir(const struct mr_fileio *io, const char *path)
{
    struct bad_dir *d = (struct bad_dir *)(uintptr_t)io;
    bool here = renamed;
    renamed = false;
    if (!here || !atomic_load(&d->fails))
        return mr_fileio_real.sync_dir(&mr_fileio_real, path);
    atomic_fetch_add(&d->failed, 1);
    return d->error;
}

static void bad_dir_init(struct spool_test *t, struct bad_dir *d, const char *ending)
{
    d->io = mr_fileio_real;
    d->ending = ending;
    d->error = -EIO;
    d->io.rename_file = rename_in_bad_dir;
    d->io.sync_dir = sync_bad_dir;
    atomic_store(&d->fails, false);
    atomic_store(&d->failed, 0);
    t->io = &d->io;
}

static bool has_number(const struct file *list, size_t count, uint32_t number)
{
    bool has = false;
    for (size_t i = 0; i < count; i++)
        has = has || list[i].number == number;
    return has;
}

/* No descriptor to sync it by: its new name may not be on the disk, and under the old one it would be a damaged segment
 * once it is written over: the dead segment is no spare, then, and its file is gone. What is put afterwards does not
 * suffer from it. */
static void a_dead_segment_whose_name_is_not_synced_is_no_spare(void **state)
{
    enum { SEGMENTS = 8 };
    struct spool_test *t = *state;
    struct mr_id first[SEGMENTS * A_SEGMENT_S], second[SEGMENTS * A_SEGMENT_S];
    struct file dead[64], spares[SPOOL_SPARES], left[64];
    struct bad_dir bad;
    bad_dir_init(t, &bad, ".spare");
    bad.error = -EMFILE;
    spool_test_open(t, SEGMENT);
    put_segments(t, first, SEGMENTS);
    wait_for_spares(t, SPOOL_SPARES_FILLED, spares);
    size_t n = files(t, ".seg", dead, 64);
    assert_true(n > 2 && n <= 64);
    atomic_store(&bad.fails, true); /* nothing is put: only dead segments have their directory synced */
    for (size_t i = 0; i < SEGMENTS * A_SEGMENT_S; i++)
        spool_drop(t->sp, first[i]);
    uint64_t until = uv_hrtime() + 60 * 1000000000ULL;
    while (files(t, ".seg", left, 64) > 1 || files(t, ".spare", spares, SPOOL_SPARES) != SPOOL_SPARES_FILLED) {
        assert_true(uv_hrtime() < until);
        (void)uv_run(&t->loop, UV_RUN_NOWAIT);
        (void)usleep(1000);
    }
    assert_int_equal(atomic_load(&bad.failed), n - 1); /* each was to become one; the open segment is not dead */
    for (size_t i = 0; i < SPOOL_SPARES_FILLED; i++)
        assert_false(has_number(dead, n, spares[i].number));
    atomic_store(&bad.fails, false);
    put_segments(t, second, SEGMENTS);
    spool_test_close(t);
    spool_test_open(t, SEGMENT);
    for (size_t i = 0; i < SEGMENTS * A_SEGMENT_S; i++)
        assert_int_equal(spool_test_check(t, second[i], BODY), 0);
    spool_test_close(t);
    t->io = NULL;
}

static struct spool_test *dying; /* its folder is the parent's to remove */

static void drop_where_nothing_is_synced(void)
{
    enum { SEGMENTS = 8 };
    struct spool_test *t = dying;
    struct mr_id ids[SEGMENTS * A_SEGMENT_S];
    struct bad_dir bad;
    bad_dir_init(t, &bad, ".spare");
    atomic_store(&bad.fails, true);
    spool_test_open(t, SEGMENT);
    put_segments(t, ids, SEGMENTS);
    for (size_t i = 0; i < SEGMENTS * A_SEGMENT_S; i++)
        spool_drop(t->sp, ids[i]);
    uint64_t until = uv_hrtime() + 60 * 1000000000ULL;
    while (uv_hrtime() < until) {
        (void)uv_run(&t->loop, UV_RUN_NOWAIT);
        (void)usleep(1000);
    }
}

/* The kernel may tell of it once only, and the next sync of that directory may be for a segment that takes mail. */
static void a_failed_sync_of_a_spare_s_name_ends_the_process(void **state)
{
    dying = *state;
    test_assert_dies(drop_where_nothing_is_synced);
}

struct shared {
    struct bad_dir bad;
    struct mr_id kept[2 * A_SEGMENT_S], acked[8 * A_SEGMENT_S];
    size_t n_acked;
};

/* Ends by the spool's panic; any other end is told by its status. */
__attribute__((noreturn)) static void child_takes_a_spare(struct spool_test *t, struct shared *s)
{
    const struct rlimit none = {0, 0};
    struct mr_id dropped[6 * A_SEGMENT_S];
    struct file spares[SPOOL_SPARES];
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)signal(SIGABRT, SIG_DFL);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0)
        (void)dup2(null, STDERR_FILENO);
    bad_dir_init(t, &s->bad, ".seg");
    spool_test_open(t, SEGMENT);
    put_segments(t, dropped, 6);
    put_segments(t, s->kept, 2);
    for (size_t i = 0; i < sizeof(dropped) / sizeof(dropped[0]); i++)
        spool_drop(t->sp, dropped[i]);
    wait_for_spares(t, SPOOL_SPARES, spares);
    atomic_store(&s->bad.fails, true);
    while (s->n_acked < sizeof(s->acked) / sizeof(s->acked[0])) {
        struct mr_id id = mr_id_at(1);
        if (spool_test_put(t, id, BODY) != 0)
            _exit(2);
        if (atomic_load(&s->bad.failed) != 0)
            _exit(3); /* acknowledged in a segment that may have no name */
        s->acked[s->n_acked++] = id;
    }
    _exit(4);
}

/* A spare that becomes the open segment has to have its name: nothing is acknowledged in one without, and a failed sync
 * is not tried again. The process ends, and what it has acknowledged before is there after the next start. */
static void a_spare_that_cannot_be_named_ends_the_process(void **state)
{
    struct spool_test *t = *state;
    int status;
    struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(s != MAP_FAILED);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child_takes_a_spare(t, s);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        fail_msg("the process did not end by its panic, but with wait status %d", status);
    assert_int_equal(atomic_load(&s->bad.failed), 1);
    t->io = NULL;
    spool_test_open(t, SEGMENT);
    for (size_t i = 0; i < sizeof(s->kept) / sizeof(s->kept[0]); i++)
        assert_int_equal(spool_test_check(t, s->kept[i], BODY), 0);
    for (size_t i = 0; i < s->n_acked; i++)
        assert_int_equal(spool_test_check(t, s->acked[i], BODY), 0);
    spool_test_close(t);
    assert_int_equal(munmap(s, sizeof(*s)), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, spool_test_setup, spool_test_teardown)

/* Leaves spares, and one body in the newest segment. */
static struct mr_id make_spares(struct spool_test *t)
{
    enum { SEGMENTS = 8 };
    struct mr_id ids[SEGMENTS * A_SEGMENT_S], one = mr_id_at(1);
    struct file spares[SPOOL_SPARES];
    spool_test_open(t, SEGMENT);
    put_segments(t, ids, SEGMENTS);
    for (size_t i = 0; i < SEGMENTS * A_SEGMENT_S; i++)
        spool_drop(t->sp, ids[i]);
    wait_for_spares(t, SPOOL_SPARES, spares);
    assert_int_equal(spool_test_put(t, one, BODY), 0);
    spool_test_close(t);
    return one;
}

/* Where files are not written in place, writing the newest segment again at the start takes room. */
static void spares_are_given_back_for_a_start(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    struct file spares[SPOOL_SPARES];
    bad_disk_init(t, &d);
    for (int enough = 0; enough < 2; enough++) {
        struct mr_id one = make_spares(t);
        atomic_store(&d.space, 1000);
        d.room_of_unlink = enough != 0 ? SEGMENT : 0;
        d.refusal = enough != 0 ? -ENOSPC : -EDQUOT;
        assert_int_equal(spool_test_try_open(t, SEGMENT), enough != 0 ? 0 : MR_NOSPACE);
        assert_true(files(t, ".spare", spares, SPOOL_SPARES) == 0 || enough != 0);
        if (enough == 0) {
            atomic_store(&d.space, INT64_MAX);
            spool_test_open(t, SEGMENT);
        }
        assert_int_equal(spool_test_check(t, one, BODY), 0);
        spool_test_close(t);
        atomic_store(&d.space, INT64_MAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(dead_segments_are_used_again),
        TEST(numbers_are_not_used_twice),
        TEST(spares_are_filled_while_nobody_comes),
        TEST(the_open_segment_is_filled),
        TEST(spares_are_given_back_when_space_is_low),
        TEST(a_dead_segment_whose_name_is_not_synced_is_no_spare),
        TEST(a_failed_sync_of_a_spare_s_name_ends_the_process),
        TEST(a_spare_that_cannot_be_named_ends_the_process),
        TEST(spares_are_given_back_for_a_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
