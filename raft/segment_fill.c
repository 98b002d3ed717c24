/* Segments of the log are written with zeros when they are made, not only allocated.
 *
 * raft_uv prepares its open segments with posix_fallocate, in a thread of libuv's pool, before it needs them. The
 * blocks of such a file are there but "unwritten": the first write to each changes the file's extents too, so every
 * append would sync metadata beside its entries, and may not be done without waiting (RWF_NOWAIT), which sends it
 * through the pool. Over blocks that hold something, an append is one write.
 *
 * libraft lets nobody make its segments, so this takes the place of the C library's function for the whole program: the
 * linker prefers a symbol of the program to one of a library (--undefined in CMakeLists.txt brings this file in). Other
 * callers would get what POSIX promises, and zeros on the disk. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { FILL_BLOCK = 256 * 1024 };

/* 0 or an errno, as posix_fallocate: it does not set errno. */
static int fill(int fd, off_t offset, off_t len)
{
    static const char zeros[FILL_BLOCK];

    while (len > 0) {
        ssize_t n = pwrite(fd, zeros, len < FILL_BLOCK ? (size_t)len : FILL_BLOCK, offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        offset += n;
        len -= n;
    }
    return fdatasync(fd) < 0 ? errno : 0;
}

/* Only for new files: what was in the range is gone. Thread: any; blocks. */
int posix_fallocate(int fd, off_t offset, off_t len)
{
    int rc;

    /* First the blocks: a full disk is found out before anything is written. */
    do {
        rc = fallocate(fd, 0, offset, len) < 0 ? errno : 0;
    } while (rc == EINTR);
    if (rc != 0 && rc != EOPNOTSUPP)
        return rc;
    return fill(fd, offset, len);
}
