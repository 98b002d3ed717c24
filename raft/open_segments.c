/* open_segments.c - see open_segments.h.
 *
 * A batch that is cut short, or whose number of entries is damaged, is then "corrupt" for raft_uv, which ends the
 * segment before it; whether what is left is enough, `acked` tells. Without this it is an I/O error for raft_uv, and
 * raft_uv frees the segment's memory twice. */
#include "raft/open_segments.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
};

static int pad(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    int rc;

    if (fd < 0)
        return -1;
    rc = fstat(fd, &st);
    /* An empty one is thrown away as it is. */
    if (rc == 0 && st.st_size > 0 && st.st_size < LARGEST_SEGMENT + LARGEST_HEADER)
        rc = ftruncate(fd, LARGEST_SEGMENT + LARGEST_HEADER);
    close(fd);
    return rc;
}

int open_segments_pad(const char *dir, char *error, size_t error_len)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int rc = MR_OK;

    if (d == NULL) {
        snprintf(error, error_len, "%s: %s", dir, strerror(errno));
        return MR_IO;
    }
    while (rc == MR_OK && (e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, "open-", 5) != 0)
            continue;
        char *path = mr_asprintf("%s/%s", dir, e->d_name);
        if (pad(path) != 0) {
            snprintf(error, error_len, "%s: %s", path, strerror(errno));
            rc = MR_IO;
        }
        free(path);
    }
    closedir(d);
    return rc;
}
