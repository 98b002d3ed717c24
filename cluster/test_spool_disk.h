/* test_spool_disk.h - a disk that fails, for the spool's tests: it refuses, hangs, forgets what was not synced. */
#ifndef MR_CLUSTER_TEST_SPOOL_DISK_H
#define MR_CLUSTER_TEST_SPOOL_DISK_H

#include "cluster/test_spool_util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

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
    _Atomic uint64_t bad_offset;
    _Atomic int reads_there; /* all that began at bad_offset */
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

static inline struct bad_disk *disk_of(const struct mr_fileio *io)
{
    return (struct bad_disk *)(uintptr_t)io;
}

static inline uint64_t chance(struct bad_disk *d)
{
    d->seed = d->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return d->seed >> 33;
}

/* Each unsynced sector stays, is zeros or what it was before (in a spare segment: records of another life of the file);
 * the file may end anywhere behind what was synced. */
static inline void power_cut(struct bad_disk *d)
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

static inline bool power_gone(struct bad_disk *d)
{
    if (!d->dead && d->cut_in > 0 && --d->cut_in == 0)
        power_cut(d);
    return d->dead;
}

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

static inline int bad_sync(const struct mr_fileio *io, int fd)
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
static inline int bad_close(const struct mr_fileio *io, int fd)
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

static inline int bad_open(const struct mr_fileio *io, const char *path, int flags, mode_t mode)
{
    int error = atomic_load(&disk_of(io)->read_error);
    if ((flags & O_ACCMODE) == O_RDONLY && error == -EMFILE)
        return error;
    return mr_fileio_real.open_file(&mr_fileio_real, path, flags, mode);
}

static inline ssize_t bad_read(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    struct bad_disk *d = disk_of(io);
    int error = atomic_load(&d->read_error);
    if (error != 0)
        return error;
    if (offset == atomic_load(&d->bad_offset)) {
        atomic_fetch_add(&d->reads_there, 1);
        if (atomic_load(&d->bad_reads) > 0 && atomic_fetch_sub(&d->bad_reads, 1) > 0)
            return -EIO;
    }
    return mr_fileio_real.read_at(&mr_fileio_real, fd, iov, count, offset);
}

static inline int bad_unlink(const struct mr_fileio *io, const char *path)
{
    struct bad_disk *d = disk_of(io);
    pthread_mutex_lock(&d->mutex);
    int rc = d->dead ? 0 : mr_fileio_real.unlink_file(&mr_fileio_real, path);
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
    int rc = d->dead ? 0 : mr_fileio_real.truncate_file(&mr_fileio_real, fd, size);
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

#endif
