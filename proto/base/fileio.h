/* fileio.h - the disk as an interface, so that a simulation or a fault test can stand in for it.
 *
 * Functions return 0 (or a count, or a descriptor) or a negative errno, never -1 with errno aside. Calls interrupted by
 * a signal are begun again inside. An implementation embeds struct mr_fileio as its first member. Thread: the real one:
 * any. All calls block but read_now. */
#ifndef MR_BASE_FILEIO_H
#define MR_BASE_FILEIO_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct mr_fileio {
    int (*open_file)(const struct mr_fileio *io, const char *path, int flags, mode_t mode); /* descriptor */
    int (*close_file)(const struct mr_fileio *io, int fd);
    ssize_t (*read_at)(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset);
    /* As read_at, but only of what is in memory: negative (-EAGAIN) or fewer bytes instead of waiting. May be NULL. */
    ssize_t (*read_now)(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset);
    ssize_t (*write_at)(const struct mr_fileio *io, int fd, const struct iovec *iov, int count, uint64_t offset);
    int (*sync_data)(const struct mr_fileio *io, int fd);
    int (*truncate_file)(const struct mr_fileio *io, int fd, uint64_t size);
    /* Blocks for [offset, offset + len) without a change of the size. -EOPNOTSUPP where the file system cannot. */
    int (*allocate)(const struct mr_fileio *io, int fd, uint64_t offset, uint64_t len);
    int (*file_size)(const struct mr_fileio *io, int fd, uint64_t *size);
    int (*unlink_file)(const struct mr_fileio *io, const char *path);
    int (*rename_file)(const struct mr_fileio *io, const char *from, const char *to);
    int (*make_dir)(const struct mr_fileio *io, const char *path); /* 0 also when it is there */
    int (*sync_dir)(const struct mr_fileio *io, const char *path);
    /* Names in no order, without "." and "..". */
    int (*list_dir)(const struct mr_fileio *io, const char *path, void (*each)(void *arg, const char *name), void *arg);
    /* Bytes that an unprivileged process may still write, and all of the file system. */
    int (*free_space)(const struct mr_fileio *io, const char *path, uint64_t *available, uint64_t *total);
};

extern const struct mr_fileio mr_fileio_real;

/* Reads up to len bytes, fewer only at the end of the file. Count or negative errno. */
ssize_t mr_fileio_read_full(const struct mr_fileio *io, int fd, void *data, size_t len, uint64_t offset);
/* Writes all of iov[0..count), which it changes; goes on after a short write. 0 or negative errno; then any part may be
 * written. */
int mr_fileio_write_full(const struct mr_fileio *io, int fd, struct iovec *iov, int count, uint64_t offset);

#endif
