/* open_segments.c - see open_segments.h.
 *
 * A batch that is cut short, or whose number of entries is damaged, is then "corrupt" for raft_uv, which ends the
 * segment before it; whether what is left is enough, `acked` tells. Without this it is an I/O error for raft_uv, and
 * raft_uv frees the segment's memory twice.
 * What a write has left whose sync failed lies in the page cache, clean and readable: raft_uv would load and count it,
 * close the segment under a name that says that it is there, and no later sync would store it: a power cut takes it
 * away. So what is there is written again, and synced, before anything counts it. */
#include "raft/open_segments.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    /* raft_uv's UV__MAX_SEGMENT_SIZE, and the largest header of a batch that it believes: 16 octets for each of as many
     * entries as could be in such a segment, at 32 octets each. */
    LARGEST_SEGMENT = 8 << 20,
    LARGEST_HEADER = LARGEST_SEGMENT / 32 * 16 + 24,
    CHUNK = 65536,
};

static bool is_zero(const uint8_t *at, size_t len)
{
    return len == 0 || (at[0] == 0 && memcmp(at, at + 1, len - 1) == 0);
}

/* Zeros are what a segment is made of, and no entry. */
static int write_again(int fd)
{
    uint8_t chunk[CHUNK];
    ssize_t n;

    for (off_t at = 0; (n = pread(fd, chunk, sizeof(chunk), at)) > 0; at += n)
        if (!is_zero(chunk, (size_t)n)) {
            errno = ENOSPC; /* of a write that is cut short, which says nothing itself */
            if (pwrite(fd, chunk, (size_t)n, at) != n)
                return -1;
        }
    return n < 0 ? -1 : fdatasync(fd);
}

static int mend(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    int rc;

    if (fd < 0)
        return -1;
    rc = write_again(fd);
    if (rc == 0)
        rc = fstat(fd, &st);
    /* An empty one is thrown away as it is. */
    if (rc == 0 && st.st_size > 0 && st.st_size < LARGEST_SEGMENT + LARGEST_HEADER)
        rc = ftruncate(fd, LARGEST_SEGMENT + LARGEST_HEADER);
    close(fd);
    return rc;
}

int open_segments_mend(const char *dir, char *error, size_t error_len)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int rc = MR_OK;

    if (d == NULL) {
        snprintf(error, error_len, "%s: %s", dir, strerror(errno));
        return MR_IO;
    }
    while (rc == MR_OK && (errno = 0, (e = readdir(d)) != NULL)) {
        if (strncmp(e->d_name, "open-", 5) != 0)
            continue;
        char *path = mr_asprintf("%s/%s", dir, e->d_name);
        if (mend(path) != 0) {
            snprintf(error, error_len, "%s: %s", path, strerror(errno));
            rc = MR_IO;
        }
        free(path);
    }
    if (rc == MR_OK && errno != 0) { /* the end is no error */
        snprintf(error, error_len, "%s: %s", dir, strerror(errno));
        rc = MR_IO;
    }
    closedir(d);
    return rc;
}
