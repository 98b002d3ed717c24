/* test_spool_disk.h - a disk that fails, for the spool's tests: it refuses, hangs, forgets what was not synced.
 *
 * With a cache, what is written is dirty until a sync of its file, by whatever descriptor. A sync that fails leaves it
 * clean and readable, and no later one stores it, unless it is written again. A killed process leaves the cache as it
 * is; a power cut leaves what was stored and any part of what was dirty. Names, and files cut shorter, are stored at
 * once. After either end no call does anything, so that the test can end the threads and open the spool anew. */
#ifndef MR_CLUSTER_TEST_SPOOL_DISK_H
#define MR_CLUSTER_TEST_SPOOL_DISK_H

#include "cluster/test_spool_util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

enum { BAD_SECTOR = 512 };

struct bad_disk {
    struct mr_fileio io;
    _Atomic int64_t space;    /* bytes that writes may still take; then `refusal` */
    int refusal;              /* negative errno */
    _Atomic int fail_sync_in; /* the n-th from now: -EIO; 0: never */
    _Atomic int fail_write_in;
    _Atomic bool hold; /* syncs do not come back */
    _Atomic uint64_t free;
    _Atomic int read_error; /* negative errno for opens to read (-EMFILE) or reads */
    _Atomic int bad_reads;  /* so many reads that begin at bad_offset fail: -EIO */
    _Atomic int good_reads; /* so many go well before */
    _Atomic uint64_t bad_offset;
    _Atomic int reads_there; /* all that began at bad_offset */
    int64_t room_of_unlink;  /* what space gains with a file less */
    pthread_mutex_t mutex;
    bool caches;
    uint64_t seed;
    int64_t end_in; /* write, truncate and sync calls until the process ends; 0: never */
    enum { BY_POWER, BY_KILL, BY_KILL_AT_FAILED_SYNC } end;
    bool dead;
    struct cached_file {
        ino_t number;
        int fd;          /* own */
        uint64_t stored; /* size */
    } files[256];
    size_t files_count;
    struct cached_sector {
        ino_t file;
        uint64_t number;
        bool failed;                /* clean, and not stored */
        uint8_t before[BAD_SECTOR]; /* what is stored; zeros behind the end of the file */
    } * sectors;
    size_t sectors_count, sectors_room;
};

static inline struct bad_disk *disk_of(const struct mr_fileio *io)
{
    return (struct bad_disk *)(uintptr_t)io;
}

/* ---- cache; with the mutex ---- */

static inline struct cached_file *cached_file(struct bad_disk *d, int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    for (size_t i = 0; i < d->files_count; i++)
        if (d->files[i].number == st.st_ino)
            return &d->files[i];
    assert_true(d->files_count < sizeof(d->files) / sizeof(d->files[0]));
    struct cached_file *f = &d->files[d->files_count++];
    *f = (struct cached_file){.number = st.st_ino, .fd = dup(fd), .stored = (uint64_t)st.st_size};
    assert_true(f->fd >= 0);
    return f;
}

/* Forgets the sectors of a file from this one on, or, not all, those that are not failed. */
static inline void drop_sectors(struct bad_disk *d, ino_t file, uint64_t from, bool all)
{
    size_t kept = 0;
    for (size_t i = 0; i < d->sectors_count; i++) {
        const struct cached_sector *s = &d->sectors[i];
        if (s->file != file || s->number < from || (s->failed && !all))
            d->sectors[kept++] = *s;
    }
    d->sectors_count = kept;
}

static inline void drop_file(struct bad_disk *d, struct cached_file *f)
{
    drop_sectors(d, f->number, 0, true);
    close(f->fd);
    *f = d->files[--d->files_count];
}

static inline void forget_cache(struct bad_disk *d)
{
    while (d->files_count > 0)
        drop_file(d, &d->files[0]);
    free(d->sectors);
    d->sectors = NULL;
    d->sectors_room = 0;
}

static inline void make_dirty(struct bad_disk *d, const struct cached_file *f, uint64_t number)
{
    for (size_t i = 0; i < d->sectors_count; i++)
        if (d->sectors[i].file == f->number && d->sectors[i].number == number) {
            d->sectors[i].failed = false;
            return;
        }
    if (d->sectors_count == d->sectors_room) {
        d->sectors_room = d->sectors_room == 0 ? 256 : d->sectors_room * 2;
        d->sectors = mr_realloc(d->sectors, d->sectors_room * sizeof(*d->sectors));
    }
    struct cached_sector *s = &d->sectors[d->sectors_count++];
    memset(s, 0, sizeof(*s));
    s->file = f->number;
    s->number = number;
    assert_true(pread(f->fd, s->before, BAD_SECTOR, (off_t)(number * BAD_SECTOR)) >= 0);
}

static inline void cache_sync(struct bad_disk *d, int fd, bool ok)
{
    struct cached_file *f = cached_file(d, fd);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    if (ok) {
        drop_sectors(d, f->number, 0, false);
        f->stored = (uint64_t)st.st_size;
    }
    for (size_t i = 0; i < d->sectors_count && !ok; i++)
        if (d->sectors[i].file == f->number)
            d->sectors[i].failed = true;
}

static inline uint64_t chance(struct bad_disk *d)
{
    d->seed = d->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return d->seed >> 33;
}

/* Each dirty sector stays, or is what it was before (in a spare segment: records of another life of the file), or zeros
 * where the file did not reach; the file may end anywhere behind what was stored. */
static inline void power_cut(struct bad_disk *d)
{
    static const uint8_t zeros[BAD_SECTOR];
    struct stat st;
    for (size_t i = 0; i < d->sectors_count; i++) {
        const struct cached_sector *s = &d->sectors[i];
        const struct cached_file *f = d->files;
        while (f->number != s->file)
            f++;
        uint64_t at = s->number * BAD_SECTOR;
        assert_int_equal(fstat(f->fd, &st), 0);
        if (at >= (uint64_t)st.st_size || (!s->failed && chance(d) % 3 != 0))
            continue;
        uint64_t len = (uint64_t)st.st_size - at;
        const uint8_t *bytes = at >= f->stored && chance(d) % 2 == 0 ? zeros : s->before;
        assert_true(pwrite(f->fd, bytes, len < BAD_SECTOR ? (size_t)len : BAD_SECTOR, (off_t)at) > 0);
    }
    for (size_t i = 0; i < d->files_count; i++) {
        const struct cached_file *f = &d->files[i];
        assert_int_equal(fstat(f->fd, &st), 0);
        if ((uint64_t)st.st_size > f->stored && chance(d) % 2 == 0)
            assert_int_equal(ftruncate(f->fd, (off_t)(f->stored + chance(d) % ((uint64_t)st.st_size - f->stored + 1))),
                             0);
    }
    d->dead = true;
    forget_cache(d);
}

/* fd: of a sync; else -1. */
static inline bool ended(struct bad_disk *d, int fd)
{
    if (d->dead || d->end_in <= 0 || --d->end_in > 0)
        return d->dead;
    if (d->end == BY_POWER)
        power_cut(d);
    else if (fd >= 0 && d->end == BY_KILL_AT_FAILED_SYNC)
        cache_sync(d, fd, false);
    d->dead = true;
    return true;
}

/* ---- calls ---- */

static inline ssize_t bad_write(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
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
    if (!ended(d, -1)) {
        if (d->caches && want > 0) {
            const struct cached_file *f = cached_file(d, fd);
            uint64_t end = offset + (uint64_t)(want < space ? want : space);
            for (uint64_t at = offset / BAD_SECTOR; at * BAD_SECTOR < end; at++)
                make_dirty(d, f, at);
        }
        n = mr_fileio_real.write_at(&mr_fileio_real, fd, iov, count, offset);
    }
    pthread_mutex_unlock(&d->mutex);
    if (n > 0)
        atomic_fetch_sub(&d->space, n);
    return n;
}

static inline int bad_sync(const struct mr_fileio *io, int fd)
{
    struct bad_disk *d = disk_of(io);
    while (atomic_load(&d->hold))
        (void)usleep(1000);
    bool fails = atomic_load(&d->fail_sync_in) > 0 && atomic_fetch_sub(&d->fail_sync_in, 1) == 1;
    pthread_mutex_lock(&d->mutex);
    if (!ended(d, fd) && d->caches)
        cache_sync(d, fd, !fails);
    pthread_mutex_unlock(&d->mutex);
    return fails ? -EIO : 0;
}

static inline int bad_open(const struct mr_fileio *io, const char *path, int flags, mode_t mode)
{
    struct bad_disk *d = disk_of(io);
    int error = atomic_load(&d->read_error);
    if ((flags & O_ACCMODE) == O_RDONLY && error == -EMFILE)
        return error;
    pthread_mutex_lock(&d->mutex);
    int fd = mr_fileio_real.open_file(&mr_fileio_real, d->dead && (flags & O_CREAT) != 0 ? "/dev/null" : path,
                                      d->dead ? flags & ~(O_CREAT | O_EXCL) : flags, mode);
    pthread_mutex_unlock(&d->mutex);
    return fd;
}

static inline ssize_t bad_read(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    struct bad_disk *d = disk_of(io);
    int error = atomic_load(&d->read_error);
    if (error != 0)
        return error;
    if (offset == atomic_load(&d->bad_offset)) {
        atomic_fetch_add(&d->reads_there, 1);
        if (atomic_load(&d->good_reads) > 0 && atomic_fetch_sub(&d->good_reads, 1) > 0)
            return mr_fileio_real.read_at(&mr_fileio_real, fd, iov, count, offset);
        if (atomic_load(&d->bad_reads) > 0 && atomic_fetch_sub(&d->bad_reads, 1) > 0)
            return -EIO;
    }
    return mr_fileio_real.read_at(&mr_fileio_real, fd, iov, count, offset);
}

static inline int bad_unlink(const struct mr_fileio *io, const char *path)
{
    struct bad_disk *d = disk_of(io);
    struct stat st;
    pthread_mutex_lock(&d->mutex);
    int rc = 0;
    if (!d->dead) {
        bool there = stat(path, &st) == 0;
        rc = mr_fileio_real.unlink_file(&mr_fileio_real, path);
        for (size_t i = 0; there && i < d->files_count; i++)
            if (d->files[i].number == st.st_ino)
                drop_file(d, &d->files[i]);
        if (there && d->room_of_unlink > 0)
            atomic_fetch_add(&d->space, d->room_of_unlink);
    }
    pthread_mutex_unlock(&d->mutex);
    return rc;
}

static inline int bad_rename(const struct mr_fileio *io, const char *from, const char *to)
{
    struct bad_disk *d = disk_of(io);
    pthread_mutex_lock(&d->mutex);
    int rc = d->dead ? 0 : mr_fileio_real.rename_file(&mr_fileio_real, from, to);
    pthread_mutex_unlock(&d->mutex);
    return rc;
}

static inline int bad_truncate(const struct mr_fileio *io, int fd, uint64_t size)
{
    struct bad_disk *d = disk_of(io);
    pthread_mutex_lock(&d->mutex);
    int rc = 0;
    if (!ended(d, -1)) {
        if (d->caches) {
            struct cached_file *f = cached_file(d, fd);
            f->stored = f->stored < size ? f->stored : size;
            drop_sectors(d, f->number, (size + BAD_SECTOR - 1) / BAD_SECTOR, true);
        }
        rc = mr_fileio_real.truncate_file(&mr_fileio_real, fd, size);
    }
    pthread_mutex_unlock(&d->mutex);
    return rc;
}

static inline int bad_allocate(const struct mr_fileio *io, int fd, uint64_t offset, uint64_t len)
{
    struct bad_disk *d = disk_of(io);
    (void)fd, (void)offset;
    return (int64_t)len > atomic_load(&d->space) ? d->refusal : 0;
}

static inline int bad_sync_dir(const struct mr_fileio *io, const char *path)
{
    (void)io, (void)path;
    return 0;
}

static inline int bad_free_space(const struct mr_fileio *io, const char *path, uint64_t *available, uint64_t *total)
{
    int rc = mr_fileio_real.free_space(&mr_fileio_real, path, available, total);
    if (atomic_load(&disk_of(io)->free) != 0)
        *available = atomic_load(&disk_of(io)->free);
    return rc;
}

static inline void bad_disk_init(struct spool_test *t, struct bad_disk *d)
{
    memset(d, 0, sizeof(*d));
    d->io = mr_fileio_real;
    d->io.write_at = bad_write;
    d->io.sync_data = bad_sync;
    d->io.open_file = bad_open;
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

#endif
