/* The spool under damage, crashes and a failing disk: each body is read back as it was put, or reported missing or bad,
 * and what was acknowledged is there after any crash. */
#include "cluster/spool_format.h"
#include "cluster/test_spool_util.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

/* Each byte has its turn, but for gcc's thread sanitizer, which looks at threads and is slow. Odd: so that bits take
 * turns. */
#ifdef __SANITIZE_THREAD__
enum { EVERY = 5 };
#else
enum { EVERY = 1 };
#endif

/* ---- a disk that fails ---- */

struct bad_disk {
    struct mr_fileio io;
    _Atomic int64_t space;    /* bytes that writes may still take; then `refusal` */
    int refusal;              /* negative errno */
    _Atomic int fail_sync_in; /* the n-th from now: -EIO; 0: never */
    _Atomic int fail_write_in;
    _Atomic bool hold; /* syncs do not come back */
    _Atomic uint64_t free;
    _Atomic int read_error; /* negative errno for opens to read (-EMFILE) or reads */
    /* power: what was written and not synced may be lost */
    pthread_mutex_t mutex;
    uint64_t seed;
    int64_t cut_in; /* write and sync calls until the power goes */
    bool dead;
    struct unsynced {
        int fd;
        uint64_t from, to;
        uint8_t *before; /* what stood there; zeros behind the end of the file */
    } unsynced[4096];
    size_t unsynced_count;
    int kept[256];
    size_t kept_count;
};

static struct bad_disk *disk_of(const struct mr_fileio *io)
{
    return (struct bad_disk *)(uintptr_t)io;
}

static uint64_t chance(struct bad_disk *d)
{
    d->seed = d->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return d->seed >> 33;
}

/* Each unsynced sector stays, is zeros or what it was before (in a spare segment: records of another life of the file);
 * the file may end anywhere behind what was synced. */
static void power_cut(struct bad_disk *d)
{
    static const uint8_t zeros[512];
    for (size_t i = 0; i < d->unsynced_count; i++) {
        const struct unsynced *u = &d->unsynced[i];
        for (uint64_t at = u->from; at < u->to; at += 512)
            if (chance(d) % 3 == 0)
                assert_true(pwrite(u->fd, chance(d) % 2 == 0 ? zeros : u->before + (at - u->from),
                                   u->to - at < 512 ? (size_t)(u->to - at) : 512, (off_t)at) > 0);
        if (i == 0 && chance(d) % 2 == 0)
            assert_int_equal(ftruncate(u->fd, (off_t)(u->from + chance(d) % (u->to - u->from + 1))), 0);
    }
    d->dead = true;
}

static bool power_gone(struct bad_disk *d)
{
    if (!d->dead && d->cut_in > 0 && --d->cut_in == 0)
        power_cut(d);
    return d->dead;
}

static ssize_t bad_write(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    struct bad_disk *d = disk_of(io);
    int64_t want = 0, space = atomic_load(&d->space);
    for (int i = 0; i < count; i++)
        want += (int64_t)iov[i].iov_len;
    if (atomic_load(&d->fail_write_in) > 0 && atomic_fetch_sub(&d->fail_write_in, 1) == 1)
        return -EIO;
    if (space <= 0)
        return d->refusal;
    struct iovec first = *iov;
    if (want > space) { /* some of it fits: a short write comes before the refusal */
        first.iov_len = first.iov_len > (size_t)space ? (size_t)space : first.iov_len;
        iov = &first;
        count = 1;
    }
    pthread_mutex_lock(&d->mutex);
    ssize_t n = want;
    if (!power_gone(d)) {
        uint8_t *before = NULL;
        if (d->cut_in > 0 && d->unsynced_count < 4096) {
            before = mr_calloc(1, (size_t)want + 1);
            assert_true(pread(fd, before, (size_t)want, (off_t)offset) >= 0);
        }
        n = mr_fileio_real.write_at(&mr_fileio_real, fd, iov, count, offset);
        if (n > 0 && before != NULL)
            d->unsynced[d->unsynced_count++] = (struct unsynced){fd, offset, offset + (uint64_t)n, before};
        else
            free(before);
    }
    pthread_mutex_unlock(&d->mutex);
    if (n > 0)
        atomic_fetch_sub(&d->space, n);
    return n;
}

static int bad_sync(const struct mr_fileio *io, int fd)
{
    struct bad_disk *d = disk_of(io);
    while (atomic_load(&d->hold))
        (void)usleep(1000);
    if (atomic_load(&d->fail_sync_in) > 0 && atomic_fetch_sub(&d->fail_sync_in, 1) == 1)
        return -EIO;
    pthread_mutex_lock(&d->mutex);
    if (!power_gone(d)) {
        size_t kept = 0;
        for (size_t i = 0; i < d->unsynced_count; i++)
            if (d->unsynced[i].fd != fd)
                d->unsynced[kept++] = d->unsynced[i];
            else
                free(d->unsynced[i].before);
        d->unsynced_count = kept;
    }
    pthread_mutex_unlock(&d->mutex);
    return 0;
}

/* What was not synced stays so, under a descriptor of its own: the number is used again. */
static int bad_close(const struct mr_fileio *io, int fd)
{
    struct bad_disk *d = disk_of(io);
    int kept = -1;
    pthread_mutex_lock(&d->mutex);
    for (size_t i = 0; i < d->unsynced_count; i++) {
        if (d->unsynced[i].fd != fd)
            continue;
        if (kept < 0) {
            assert_true(d->kept_count < sizeof(d->kept) / sizeof(d->kept[0]));
            kept = d->kept[d->kept_count++] = dup(fd);
        }
        d->unsynced[i].fd = kept;
    }
    pthread_mutex_unlock(&d->mutex);
    return mr_fileio_real.close_file(&mr_fileio_real, fd);
}

static int bad_open(const struct mr_fileio *io, const char *path, int flags, mode_t mode)
{
    int error = atomic_load(&disk_of(io)->read_error);
    if ((flags & O_ACCMODE) == O_RDONLY && error == -EMFILE)
        return error;
    return mr_fileio_real.open_file(&mr_fileio_real, path, flags, mode);
}

static ssize_t bad_read(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    int error = atomic_load(&disk_of(io)->read_error);
    if (error != 0)
        return error;
    return mr_fileio_real.read_at(&mr_fileio_real, fd, iov, count, offset);
}

static int bad_unlink(const struct mr_fileio *io, const char *path)
{
    struct bad_disk *d = disk_of(io);
    pthread_mutex_lock(&d->mutex);
    int rc = d->dead ? 0 : mr_fileio_real.unlink_file(&mr_fileio_real, path);
    pthread_mutex_unlock(&d->mutex);
    return rc;
}

static int bad_rename(const struct mr_fileio *io, const char *from, const char *to)
{
    struct bad_disk *d = disk_of(io);
    pthread_mutex_lock(&d->mutex);
    int rc = d->dead ? 0 : mr_fileio_real.rename_file(&mr_fileio_real, from, to);
    pthread_mutex_unlock(&d->mutex);
    return rc;
}

static int bad_truncate(const struct mr_fileio *io, int fd, uint64_t size)
{
    struct bad_disk *d = disk_of(io);
    pthread_mutex_lock(&d->mutex);
    int rc = d->dead ? 0 : mr_fileio_real.truncate_file(&mr_fileio_real, fd, size);
    pthread_mutex_unlock(&d->mutex);
    return rc;
}

static int bad_allocate(const struct mr_fileio *io, int fd, uint64_t offset, uint64_t len)
{
    struct bad_disk *d = disk_of(io);
    (void)fd, (void)offset;
    return (int64_t)len > atomic_load(&d->space) ? d->refusal : 0;
}

static int bad_sync_dir(const struct mr_fileio *io, const char *path)
{
    (void)io, (void)path;
    return 0;
}

static int bad_free_space(const struct mr_fileio *io, const char *path, uint64_t *available, uint64_t *total)
{
    int rc = mr_fileio_real.free_space(&mr_fileio_real, path, available, total);
    if (atomic_load(&disk_of(io)->free) != 0)
        *available = atomic_load(&disk_of(io)->free);
    return rc;
}

static void bad_disk_init(struct spool_test *t, struct bad_disk *d)
{
    memset(d, 0, sizeof(*d));
    d->io = mr_fileio_real;
    d->io.write_at = bad_write;
    d->io.sync_data = bad_sync;
    d->io.open_file = bad_open;
    d->io.close_file = bad_close;
    d->io.read_at = bad_read;
    d->io.unlink_file = bad_unlink;
    d->io.rename_file = bad_rename;
    d->io.truncate_file = bad_truncate;
    d->io.allocate = bad_allocate;
    d->io.sync_dir = bad_sync_dir;
    d->io.free_space = bad_free_space;
    d->space = INT64_MAX;
    d->refusal = -ENOSPC;
    pthread_mutex_init(&d->mutex, NULL);
    t->io = &d->io;
}

/* ---- files ---- */

static char *segment_path(const struct spool_test *t, uint32_t number)
{
    return mr_asprintf("%s/%08x.seg", t->dir, number);
}

static uint8_t *read_segment(const struct spool_test *t, uint32_t number, size_t *len)
{
    char *path = segment_path(t, number);
    int fd = open(path, O_RDONLY);
    struct stat st;
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *bytes = mr_malloc((size_t)st.st_size);
    assert_int_equal(read(fd, bytes, (size_t)st.st_size), st.st_size);
    close(fd);
    free(path);
    *len = (size_t)st.st_size;
    return bytes;
}

static void write_segment(const struct spool_test *t, uint32_t number, const uint8_t *bytes, size_t len)
{
    char *path = segment_path(t, number);
    int fd = open(path, O_WRONLY | O_CREAT, 0600); /* O_TRUNC would make some file systems sync at close */
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
    free(path);
}

enum { SMALL = 6 };
static const size_t small_sizes[SMALL] = {0, 5, 96, 200, 33, 64};

/* Small bodies; number 3 in three pieces of which the second is empty. */
static void put_small(struct spool_test *t, struct mr_id ids[SMALL])
{
    for (int i = 0; i < SMALL; i++) {
        ids[i] = mr_id_at(1);
        if (i != 3) {
            assert_int_equal(spool_test_put(t, ids[i], small_sizes[i]), 0);
            continue;
        }
        uint8_t *body = spool_test_body(ids[i], 200);
        uint8_t sum[16];
        spool_test_sum(body, 200, sum);
        assert_int_equal(spool_test_piece(t, ids[i], 0, false, body, 150, 0, NULL), 0);
        assert_int_equal(spool_test_piece(t, ids[i], 1, false, body, 0, 0, NULL), 0);
        assert_int_equal(spool_test_piece(t, ids[i], 2, true, body + 150, 50, 200, sum), 0);
        free(body);
    }
}

/* Where the record of the last piece of body i ends, without its padding. */
static size_t small_end(int body)
{
    size_t at = SPOOL_HEAD, end = 0;
    for (int i = 0; i <= body; i++) {
        if (i == 3)
            at += spool_record_size(150) + spool_record_size(0);
        size_t len = i == 3 ? 50 : small_sizes[i];
        end = at + SPOOL_RECORD_HEAD + len;
        at += spool_record_size((uint32_t)len);
    }
    return end;
}

static void cut_at_every_byte(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d); /* thousands of starts: without real syncs */
    struct mr_id ids[SMALL];
    spool_test_open(t, 0);
    put_small(t, ids);
    spool_test_close(t);
    size_t len;
    uint8_t *bytes = read_segment(t, 1, &len);
    for (size_t cut = 0; cut <= len; cut += EVERY) {
        spool_test_clean(t->dir);
        write_segment(t, 1, bytes, cut);
        spool_test_open(t, 0);
        for (int i = 0; i < SMALL; i++)
            assert_int_equal(spool_test_check(t, ids[i], small_sizes[i]), small_end(i) <= cut ? 0 : MR_NOTFOUND);
        struct mr_id more = mr_id_at(2);
        assert_int_equal(spool_test_put(t, more, 77), 0);
        spool_test_close(t);
        spool_test_open(t, 0);
        assert_int_equal(spool_test_check(t, more, 77), 0);
        for (int i = 0; i < SMALL; i++)
            assert_int_equal(spool_test_check(t, ids[i], small_sizes[i]), small_end(i) <= cut ? 0 : MR_NOTFOUND);
        spool_test_close(t);
    }
    free(bytes);
}

static void flip_each(struct spool_test *t, const struct mr_id *ids, const size_t *sizes, int count, uint32_t segment,
                      uint64_t segment_bytes)
{
    static struct bad_disk d;
    bad_disk_init(t, &d);
    size_t len;
    uint8_t *bytes = read_segment(t, segment, &len);
    for (size_t at = 0; at < len; at += EVERY) {
        uint8_t flip = (uint8_t)(1U << at % 8);
        bytes[at] ^= flip;
        write_segment(t, segment, bytes, len);
        bytes[at] ^= flip;
        spool_test_open(t, segment_bytes);
        int lost = 0;
        for (int i = 0; i < count; i++) {
            int rc = spool_test_check(t, ids[i], sizes[i]);
            if (rc == 0)
                continue;
            lost++;
            assert_true(rc == MR_NOTFOUND || rc == MR_CHECKSUM);
            assert_false(spool_has(t->sp, ids[i], NULL)); /* known to be bad from now on */
            assert_int_equal(spool_test_put(t, ids[i], sizes[i]), 0);
            assert_int_equal(spool_test_check(t, ids[i], sizes[i]), 0);
        }
        assert_true(lost <= 1);
        spool_test_close(t);
        spool_test_open(t, segment_bytes); /* the good copy is taken, not the bad one */
        for (int i = 0; i < count; i++)
            assert_int_equal(spool_test_check(t, ids[i], sizes[i]), 0);
        spool_test_close(t);
        if (lost > 0) { /* the mended copies are not to help the next turn */
            spool_test_clean(t->dir);
            write_segment(t, segment, bytes, len);
        }
    }
    free(bytes);
}

static void flip_every_byte_of_an_open_segment(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[SMALL];
    spool_test_open(t, 0);
    put_small(t, ids);
    spool_test_close(t);
    flip_each(t, ids, small_sizes, SMALL, 1, 0);
}

static void flip_every_byte_of_a_sealed_segment(void **state)
{
    enum { N = 17, SIZE = 90, SEGMENT = 4096 };
    struct spool_test *t = *state;
    struct mr_id ids[N];
    size_t sizes[N];
    int n = 0;
    spool_test_open(t, SEGMENT);
    while (spool_test_files(t) < 2) {
        assert_true(n < N);
        sizes[n] = SIZE;
        ids[n] = mr_id_at(1);
        assert_int_equal(spool_test_put(t, ids[n++], SIZE), 0);
    }
    spool_test_close(t);
    char *second = segment_path(t, 2);
    assert_int_equal(unlink(second), 0); /* the last one put: not this test's matter */
    free(second);
    flip_each(t, ids, sizes, n - 1, 1, SEGMENT);
}

static void imitated_records_are_not_taken(void **state)
{
    struct spool_test *t = *state;
    struct mr_id a = mr_id_at(1), b = mr_id_at(2), c = mr_id_at(3);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, a, 100), 0);
    spool_test_close(t);
    size_t len;
    uint8_t *bytes = read_segment(t, 1, &len);
    spool_test_open(t, 0);
    spool_drop(t->sp, a);
    uint8_t sum[16];
    spool_test_sum(bytes, len, sum); /* a mail that holds a segment's bytes, head and all */
    assert_int_equal(spool_test_piece(t, b, 0, true, bytes, len, len, sum), 0);
    assert_int_equal(spool_test_put(t, c, 100), 0);
    spool_test_close(t);
    free(bytes);
    bytes = read_segment(t, 1, &len);
    bytes[SPOOL_HEAD + 10] ^= 1; /* a's own record */
    bytes[SPOOL_HEAD + spool_record_size(100) + SPOOL_RECORD_HEAD - 1] ^=
        1; /* b's: the scan goes through its payload */
    write_segment(t, 1, bytes, len);
    free(bytes);
    spool_test_open(t, 0);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bodies, 1);
    assert_int_equal(spool_test_check(t, c, 100), 0);
}

static void unreadable_segments_are_put_aside(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, id, 100), 0);
    spool_test_close(t);
    size_t len;
    uint8_t *bytes = read_segment(t, 1, &len);
    bytes[20] ^= 1; /* the salt, in both copies */
    bytes[SPOOL_HEAD_COPY + 20] ^= 1;
    write_segment(t, 1, bytes, len);
    free(bytes);
    spool_test_open(t, 0);
    assert_false(spool_has(t->sp, id, NULL));
    assert_int_equal(spool_test_put(t, id, 100), 0);
    char *aside = mr_asprintf("%s/00000001.seg.damaged", t->dir);
    assert_int_equal(access(aside, F_OK), 0);
    free(aside);
    spool_test_close(t);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_check(t, id, 100), 0);
}

static void newer_formats_are_refused(void **state)
{
    struct spool_test *t = *state;
    uint8_t head[SPOOL_HEAD];
    spool_head_encode(head, (struct spool_place){.salt = 5, .segment = 1});
    head[4] = 2;
    XXH64_hash_t sum = XXH3_64bits(head, 24);
    for (int i = 0; i < 8; i++)
        head[24 + i] = (uint8_t)(sum >> (8 * i));
    memcpy(head + SPOOL_HEAD_COPY, head, SPOOL_HEAD_COPY);
    write_segment(t, 1, head, sizeof(head));
    assert_int_equal(spool_test_try_open(t, 0), MR_VERSION);
    assert_int_equal(spool_test_files(t), 1);
}

/* ---- the disk refuses ---- */

static void no_space_at_every_byte(void **state)
{
    enum { N = 12, SEGMENT = 4096 };
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    for (int64_t space = 0; space < 2600; space += 13) {
        struct mr_id ids[N];
        int status[N];
        d.refusal = space % 2 != 0 ? -EDQUOT : -ENOSPC;
        atomic_store(&d.space, space);
        spool_test_open(t, SEGMENT);
        for (int i = 0; i < N; i++) {
            ids[i] = mr_id_at(1);
            status[i] = spool_test_put(t, ids[i], 150);
            assert_true(status[i] == 0 || status[i] == MR_NOSPACE);
        }
        assert_int_equal(status[N - 1], MR_NOSPACE);
        atomic_store(&d.space, INT64_MAX);
        assert_int_equal(spool_test_put(t, ids[N - 1], 150), 0); /* goes on as soon as there is room */
        for (int life = 0; life < 2; life++) {
            for (int i = 0; i < N - 1; i++) {
                assert_int_equal(spool_has(t->sp, ids[i], NULL), status[i] == 0);
                assert_int_equal(spool_test_check(t, ids[i], 150), status[i] == 0 ? 0 : MR_NOTFOUND);
            }
            assert_int_equal(spool_test_check(t, ids[N - 1], 150), 0);
            spool_test_close(t);
            spool_test_open(t, SEGMENT);
        }
        spool_test_close(t);
        spool_test_clean(t->dir);
    }
}

static void no_space_within_a_body_of_pieces(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    spool_test_open(t, 0);
    struct mr_id id = mr_id_at(1);
    atomic_store(&d.space, 400000);
    assert_int_equal(spool_test_put(t, id, 1000000), MR_NOSPACE);
    assert_false(spool_has(t->sp, id, NULL));
    atomic_store(&d.space, INT64_MAX);
    assert_int_equal(spool_test_put(t, id, 1000000), 0);
    assert_int_equal(spool_test_check(t, id, 1000000), 0);
}

/* A tmpfs of its own; the real refusals of a real file system. */
static void no_space_for_real(void **state)
{
    enum { N = 400 };
    struct spool_test *t = *state;
    if (mount("tmpfs", t->dir, "tmpfs", 0, "size=2m") != 0)
        skip();
    struct mr_id ids[N];
    int stored = 0;
    spool_test_open(t, 256 * 1024);
    for (;; stored++) {
        assert_true(stored < N);
        ids[stored] = mr_id_at(1);
        int rc = spool_test_put(t, ids[stored], 9000);
        if (rc == MR_NOSPACE)
            break;
        assert_int_equal(rc, 0);
    }
    assert_true(stored > 100);
    for (int i = 0; i < stored; i++)
        assert_int_equal(spool_test_check(t, ids[i], 9000), 0);
    for (int i = 0; i < stored - 10; i++)
        spool_drop(t->sp, ids[i]);
    struct mr_id more = mr_id_at(2);
    while (spool_test_put(t, more, 200000) == MR_NOSPACE)
        (void)usleep(1000); /* until the unlinks are done */
    spool_test_close(t);
    spool_test_open(t, 256 * 1024);
    for (int i = stored - 10; i < stored; i++)
        assert_int_equal(spool_test_check(t, ids[i], 9000), 0);
    assert_int_equal(spool_test_check(t, more, 200000), 0);
}

static int unmount_teardown(void **state)
{
    struct spool_test *t = *state;
    if (t->sp != NULL)
        spool_test_close(t);
    (void)umount2(t->dir, MNT_DETACH); /* fails where the test was skipped */
    return spool_test_teardown(state);
}

static void read_errors(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    spool_test_open(t, 0);
    struct mr_id id = mr_id_at(1);
    assert_int_equal(spool_test_put(t, id, 5000), 0);
    atomic_store(&d.read_error, -EMFILE);
    assert_int_equal(spool_test_check(t, id, 5000), MR_BUSY);
    assert_true(spool_has(t->sp, id, NULL)); /* nothing is said of the copy */
    atomic_store(&d.read_error, -EIO);
    assert_int_equal(spool_test_check(t, id, 5000), MR_IO);
    assert_false(spool_has(t->sp, id, NULL));
    atomic_store(&d.read_error, 0);
    assert_int_equal(spool_test_put(t, id, 5000), 0);
    assert_int_equal(spool_test_check(t, id, 5000), 0);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bad, 1);
}

/* ---- the end of the process ---- */

/* Runs in a child: puts bodies and writes the ids of those acknowledged to the pipe, then says that it is through. */
static void child_puts(struct spool_test *t, int out, int count)
{
    for (int i = 0; i < count; i++) {
        struct mr_id id = mr_id_at(1);
        if (spool_test_put(t, id, 500 + (size_t)i % 100) != 0 || write(out, id.bytes, MR_ID_SIZE) != MR_ID_SIZE)
            _exit(3);
    }
    _exit(0);
}

static void quiet_child(void)
{
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)signal(SIGABRT, SIG_DFL);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0)
        (void)dup2(null, STDERR_FILENO);
}

static void failed_writes_and_syncs_end_the_process(void **state)
{
    enum { N = 40 };
    struct spool_test *t = *state;
    static struct bad_disk d;
    for (int round = 0; round < 16; round++) {
        int ends[2], status;
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            quiet_child();
            bad_disk_init(t, &d);
            atomic_store(round % 2 == 0 ? &d.fail_sync_in : &d.fail_write_in, 2 + round);
            spool_test_open(t, 8192);
            child_puts(t, ends[1], N);
        }
        close(ends[1]);
        struct mr_id acked[N];
        int count = 0;
        while (count < N && read(ends[0], acked[count].bytes, MR_ID_SIZE) == MR_ID_SIZE)
            count++;
        close(ends[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        assert_true(count < N);
        t->io = NULL;
        spool_test_open(t, 8192);
        for (int i = 0; i < count; i++)
            assert_int_equal(spool_test_check(t, acked[i], 500 + (size_t)i % 100), 0);
        spool_test_close(t);
        spool_test_clean(t->dir);
    }
}

struct wire {
    struct mr_id id;
    uint8_t kind; /* 1: acknowledged, 2: about to be dropped */
};

/* Puts, drops most of the older ones, so that segments are unlinked and compacted all the time. */
static void child_churns(struct spool_test *t, int out)
{
    enum { KEPT = 64 };
    struct mr_id ring[KEPT] = {0};
    for (unsigned i = 0;; i++) {
        struct wire w = {.id = mr_id_at(1), .kind = 1};
        if (spool_test_put(t, w.id, 900) != 0 || write(out, &w, sizeof(w)) != sizeof(w))
            _exit(3);
        struct mr_id *slot = &ring[i % KEPT];
        if (!mr_id_is_zero(*slot) && i % 9 != 0) {
            w = (struct wire){.id = *slot, .kind = 2};
            if (write(out, &w, sizeof(w)) != sizeof(w))
                _exit(3);
            spool_drop(t->sp, *slot);
        }
        *slot = w.kind == 1 ? w.id : ring[i % KEPT];
    }
}

static void remember(struct wire **seen, size_t *count, const struct wire *w)
{
    if (w->kind == 2) {
        for (size_t i = *count; i-- > 0;)
            if (mr_id_equal((*seen)[i].id, w->id)) {
                (*seen)[i] = (*seen)[--*count];
                return;
            }
        return;
    }
    *seen = mr_realloc(*seen, (*count + 1) * sizeof(**seen));
    (*seen)[(*count)++] = *w;
}

static void killed_at_any_moment(void **state)
{
    struct spool_test *t = *state;
    struct wire *seen = NULL;
    size_t count = 0;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (int life = 0; life < 12; life++) {
        int ends[2], status;
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            quiet_child();
            spool_test_open(t, 32 * 1024);
            child_churns(t, ends[1]);
        }
        close(ends[1]);
        unsigned records = 20 + (unsigned)rand_r(&seed) % 600;
        struct wire w;
        for (unsigned i = 0; read(ends[0], &w, sizeof(w)) == sizeof(w); i++) {
            remember(&seen, &count, &w);
            if (i == records)
                (void)kill(pid, SIGKILL);
        }
        close(ends[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        spool_test_open(t, 32 * 1024);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(spool_test_check(t, seen[i].id, 900), 0);
        spool_test_close(t);
    }
    free(seen);
}

enum { CUT_BODIES = 90, CUT_IN_FLIGHT = 6, CUT_SEGMENT = 8192 };

static size_t cut_size(int i)
{
    return 100 + (size_t)i % 40 * 13;
}

/* Most bodies go soon, so that segments are compacted and unlinked meanwhile. */
static bool cut_drops(int i)
{
    return i % 7 != 0;
}

/* Puts and drops until the power has gone and a little longer; safe: acknowledged before. */
static void run_into_the_cut(struct spool_test *t, struct bad_disk *d, struct mr_id *ids, bool *safe)
{
    struct spool_test_put puts[CUT_BODIES];
    for (int i = 0; i < CUT_BODIES + CUT_IN_FLIGHT; i++) {
        int past = i - CUT_IN_FLIGHT;
        if (i < CUT_BODIES) {
            size_t size = cut_size(i);
            uint8_t *body = spool_test_body(ids[i], size);
            uint8_t sum[16];
            spool_test_sum(body, size, sum);
            spool_test_begin(t, &puts[i], ids[i], 0, true, body, size, size, sum);
        }
        if (past < 0)
            continue;
        spool_test_wait(t, &puts[past]);
        pthread_mutex_lock(&d->mutex);
        for (int k = 0; k <= i && k < CUT_BODIES && !d->dead; k++)
            safe[k] = puts[k].done && puts[k].status == 0;
        pthread_mutex_unlock(&d->mutex);
        free((void *)(uintptr_t)puts[past].req.piece.data);
        if (cut_drops(past))
            spool_drop(t->sp, ids[past]);
    }
}

static void power_lost_at_any_moment(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    unsigned cuts = 0;
    for (unsigned round = 1; round <= 200; round++) {
        struct mr_id ids[CUT_BODIES];
        bool safe[CUT_BODIES] = {false};
        for (int i = 0; i < CUT_BODIES; i++)
            ids[i] = mr_id_at(1);
        bad_disk_init(t, &d);
        d.seed = round;
        d.cut_in = 1 + round;
        spool_test_open(t, CUT_SEGMENT);
        run_into_the_cut(t, &d, ids, safe);
        spool_test_close(t);
        cuts += d.dead;
        for (size_t i = 0; i < d.kept_count; i++)
            close(d.kept[i]);
        for (size_t i = 0; i < d.unsynced_count; i++)
            free(d.unsynced[i].before);
        t->io = NULL;
        spool_test_open(t, CUT_SEGMENT);
        for (int i = 0; i < CUT_BODIES; i++) {
            int rc = spool_test_check(t, ids[i], cut_size(i));
            if (rc != 0 && safe[i] && !cut_drops(i))
                fail_msg("seed %u: body %d was acknowledged and is gone: %d", round, i, rc);
            assert_true(rc == 0 || rc == MR_NOTFOUND || rc == MR_CHECKSUM);
        }
        spool_test_close(t);
        spool_test_clean(t->dir);
    }
    assert_true(cuts > 50);
}

/* PROTOCOL.md 8.4: who watches sees one call, the same all the time; and none when the disk is back. */
static void a_hanging_sync_is_seen(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    struct busy disk = {0};
    struct spool_test_put p;
    struct mr_id id = mr_id_at(1);
    uint8_t sum[16];
    unsigned inside;
    bad_disk_init(t, &d);
    t->disk = &disk;
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 100), 0);
    uint8_t *body = spool_test_body(id, 100);
    spool_test_sum(body, 100, sum);
    unsigned before = atomic_load(&disk.turns);
    atomic_store(&d.hold, true);
    spool_test_begin(t, &p, id, 0, true, body, 100, 100, sum);
    /* Through free space and write into the sync: what does not change for a while is it. */
    do {
        inside = atomic_load(&disk.turns);
        (void)usleep(20 * 1000);
    } while (inside % 2 == 0 || inside == before || inside != atomic_load(&disk.turns));
    assert_false(p.done);
    atomic_store(&d.hold, false);
    spool_test_wait(t, &p);
    assert_int_equal(p.status, 0);
    while (atomic_load(&disk.turns) % 2 != 0)
        (void)usleep(1000);
    assert_true(atomic_load(&disk.turns) != inside);
    free(body);
    spool_test_close(t);
    t->disk = NULL;
}

/* PROTOCOL.md 8.5: what is missing of the ballast is not the spool's to take. */
static void keeps_free_what_the_ballast_lacks(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    t->reserve = 1 << 20;
    atomic_store(&d.free, 3 << 20);
    spool_test_open(t, 0);
    assert_true(spool_reserve(t->sp) == 1 << 20);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), 0);
    assert_false(spool_low(t->sp));
    spool_keep_free(t->sp, 2 << 20);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), MR_NOSPACE);
    atomic_store(&d.free, (3 << 20) - 1);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), MR_NOSPACE);
    assert_true(spool_low(t->sp));
    spool_keep_free(t->sp, 0);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), 0);
    assert_false(spool_low(t->sp));
    spool_test_close(t);
    t->reserve = 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, spool_test_setup, spool_test_teardown)
    log_configure((enum log_level)(LOG_ERROR + 1), false, ""); /* damage is what this is about */
    const struct CMUnitTest tests[] = {
        TEST(cut_at_every_byte),
        TEST(flip_every_byte_of_an_open_segment),
        TEST(flip_every_byte_of_a_sealed_segment),
        TEST(imitated_records_are_not_taken),
        TEST(unreadable_segments_are_put_aside),
        TEST(newer_formats_are_refused),
        TEST(no_space_at_every_byte),
        TEST(no_space_within_a_body_of_pieces),
        cmocka_unit_test_setup_teardown(no_space_for_real, spool_test_setup, unmount_teardown),
        TEST(a_hanging_sync_is_seen),
        TEST(keeps_free_what_the_ballast_lacks),
        TEST(read_errors),
        TEST(failed_writes_and_syncs_end_the_process),
        TEST(killed_at_any_moment),
        TEST(power_lost_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
