#include "proto/base/fileio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RETRY(result, call)                                                                                            \
    do {                                                                                                               \
        (result) = (call);                                                                                             \
    } while ((result) < 0 && errno == EINTR)

static int outcome(int result)
{
    return result < 0 ? -errno : result;
}

static int real_open(const struct mr_fileio *io, const char *path, int flags, mode_t mode)
{
    int fd;
    (void)io;
    RETRY(fd, open(path, flags | O_CLOEXEC, mode));
    return outcome(fd);
}

static int real_close(const struct mr_fileio *io, int fd)
{
    (void)io;
    /* Not again after EINTR: Linux has closed it by then. */
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static ssize_t real_read_at(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    ssize_t n;
    (void)io;
    RETRY(n, preadv(fd, iov, count, (off_t)offset));
    return n < 0 ? -errno : n;
}

static ssize_t real_read_now(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    (void)io;
    ssize_t n = preadv2(fd, iov, count, (off_t)offset, RWF_NOWAIT);
    return n < 0 ? -errno : n;
}

static ssize_t real_write_at(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset)
{
    ssize_t n;
    (void)io;
    RETRY(n, pwritev(fd, iov, count, (off_t)offset));
    return n < 0 ? -errno : n;
}

static int real_sync_data(const struct mr_fileio *io, int fd)
{
    (void)io;
    /* Not tried again, whatever the error: the kernel may have dropped the dirty pages with the first report. */
    return outcome(fdatasync(fd));
}

static int real_truncate(const struct mr_fileio *io, int fd, uint64_t size)
{
    int result;
    (void)io;
    RETRY(result, ftruncate(fd, (off_t)size));
    return outcome(result);
}

static int real_allocate(const struct mr_fileio *io, int fd, uint64_t offset, uint64_t len)
{
    int result;
    (void)io;
    RETRY(result, fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len));
    return outcome(result);
}

static int real_file_size(const struct mr_fileio *io, int fd, uint64_t *size)
{
    struct stat st;
    (void)io;
    if (fstat(fd, &st) < 0)
        return -errno;
    *size = (uint64_t)st.st_size;
    return 0;
}

static int real_unlink(const struct mr_fileio *io, const char *path)
{
    (void)io;
    return outcome(unlink(path));
}

static int real_rename(const struct mr_fileio *io, const char *from, const char *to)
{
    (void)io;
    return outcome(rename(from, to));
}

static int real_make_dir(const struct mr_fileio *io, const char *path)
{
    (void)io;
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int real_sync_dir(const struct mr_fileio *io, const char *path)
{
    int fd = real_open(io, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    int result = outcome(fsync(fd));
    (void)close(fd);
    return result;
}

static int real_list_dir(const struct mr_fileio *io, const char *path, void (*each)(void *arg, const char *name),
                         void *arg)
{
    (void)io;
    DIR *dir = opendir(path);
    if (dir == NULL)
        return -errno;
    int result = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            result = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            each(arg, entry->d_name);
    }
    (void)closedir(dir);
    return result;
}

static int real_free_space(const struct mr_fileio *io, const char *path, uint64_t *available, uint64_t *total)
{
    struct statvfs st;
    (void)io;
    int result;
    RETRY(result, statvfs(path, &st));
    if (result < 0)
        return -errno;
    *available = (uint64_t)st.f_bavail * st.f_frsize;
    *total = (uint64_t)st.f_blocks * st.f_frsize;
    return 0;
}

const struct mr_fileio mr_fileio_real = {
    .open_file = real_open,
    .close_file = real_close,
    .read_at = real_read_at,
    .read_now = real_read_now,
    .write_at = real_write_at,
    .sync_data = real_sync_data,
    .truncate_file = real_truncate,
    .allocate = real_allocate,
    .file_size = real_file_size,
    .unlink_file = real_unlink,
    .rename_file = real_rename,
    .make_dir = real_make_dir,
    .sync_dir = real_sync_dir,
    .list_dir = real_list_dir,
    .free_space = real_free_space,
};

ssize_t mr_fileio_read_full(const struct mr_fileio *io, int fd, void *data, size_t len, uint64_t offset)
{
    size_t have = 0;
    while (have < len) {
        struct iovec iov = {(uint8_t *)data + have, len - have};
        ssize_t n = io->read_at(io, fd, &iov, 1, offset + have);
        if (n < 0)
            return n;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

int mr_fileio_write_full(const struct mr_fileio *io, int fd, struct iovec *iov, int count, uint64_t offset)
{
    while (count > 0) {
        if (iov->iov_len == 0) {
            iov++;
            count--;
            continue;
        }
        ssize_t n = io->write_at(io, fd, iov, count, offset);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return -EIO; /* no progress and no reason */
        offset += (uint64_t)n;
        size_t left = (size_t)n;
        while (count > 0 && left >= iov->iov_len) {
            left -= iov->iov_len;
            iov++;
            count--;
        }
        if (left > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + left;
            iov->iov_len -= left;
        }
    }
    return 0;
}
