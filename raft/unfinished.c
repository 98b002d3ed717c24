/* unfinished.c - see unfinished.h.
 *
 * A truncation at x writes the segment that holds x anew, without what is behind x, under a new name; then it removes
 * the old one and those after it, from the lowest to the highest, and syncs the directory. A crash between leaves two
 * segments that begin at the same index, or a gap. It is finished by removing what is behind, from the highest to the
 * lowest, so that a crash here leaves the same picture again.
 * An installed snapshot removes all closed segments, in the same way. What a crash leaves of them ends before the
 * snapshot and is removed.
 * Meanwhile no entry is written anywhere: a segment that is open and holds something is a sign that this is not what
 * happened, and nothing is touched.
 * A bootstrap writes the term before the first segment, and raft_uv bootstraps nothing that has a term.
 * An open segment's first write begins with its format. A power cut can leave other sectors of that write without the
 * first: nothing of it was acknowledged. It is put aside under another name. What is anything else is left. */
#include "raft/unfinished.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "raft/log_dir.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 65536, SECTOR = 512 };
#define ASIDE "torn-segment"

/* ---- open segments ---- */

/* Whether it holds anything but zeros. */
static int has_data(int fd, bool *out)
{
    uint8_t *chunk = mr_malloc(CHUNK);
    off_t at = 0;
    int rc = 0;

    *out = false;
    while (rc == 0 && !*out) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;
        at = data < 0 ? at : data; /* a file system that does not know */
        ssize_t n = pread(fd, chunk, CHUNK, at);
        if (n <= 0) {
            rc = n < 0 ? -errno : 0;
            break;
        }
        for (ssize_t i = 0; i < n && !*out; i++)
            *out = chunk[i] != 0;
        at += n;
    }
    free(chunk);
    return rc;
}

enum use { UNUSED, USED, TORN };

static bool is_zero(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (data[i] != 0)
            return false;
    return true;
}

/* A format that is 0 in a sector that is not is no torn write: disks lose whole sectors. */
static int look(const char *path, enum use *out)
{
    uint8_t sector[SECTOR] = {0};
    bool data = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = 0;

    if (fd < 0)
        return -errno;
    *out = USED;
    if (pread(fd, sector, sizeof(sector), 0) < 0)
        rc = -errno;
    else if (is_zero(sector, sizeof(sector))) {
        rc = has_data(fd, &data);
        *out = data ? TORN : UNUSED;
    }
    (void)close(fd);
    return rc;
}

static int put_aside(const char *dir, uint64_t counter)
{
    char name[LOG_DIR_NAME];

    log_dir_open_name(name, counter);
    char *path = mr_asprintf("%s/%s", dir, name);
    char *aside = mr_asprintf("%s/" ASIDE, dir);
    log_event(LOG_WARN, "raft_segment_torn", LOG_S("path", path), LOG_S("kept_as", aside));
    int rc = rename(path, aside) < 0 ? -errno : 0;
    free(aside);
    free(path);
    return rc;
}

/* *used: one of them holds entries, or it is not for us to say. Segments are written one after the other, so a crash
 * tears one, the last that was written to; what looks torn before another would give the entries behind it other
 * indices when it went. */
static int put_torn_aside(const struct log_dir *l, const char *dir, bool *used)
{
    uint64_t last_used = 0, torn = 0;
    unsigned n_torn = 0;
    int rc = 0;

    *used = false;
    for (size_t i = 0; i < l->n_open && rc == 0; i++) {
        char name[LOG_DIR_NAME];
        enum use use = USED;
        log_dir_open_name(name, l->open[i]);
        char *path = mr_asprintf("%s/%s", dir, name);
        rc = look(path, &use);
        free(path);
        if (use == TORN) {
            torn = l->open[i];
            n_torn++;
        } else if (use == USED) {
            *used = true;
            last_used = l->open[i] > last_used ? l->open[i] : last_used;
        }
    }
    if (rc != 0 || n_torn == 0)
        return rc;
    if (n_torn == 1 && (!*used || torn > last_used))
        return put_aside(dir, torn);
    *used = true;
    return 0;
}

/* ---- closed segments ---- */

/* The first that does not follow what is before it; n_closed: all do, or it is not for us to say. *end: the last index
 * before it. */
static size_t first_stray(const struct log_dir *l, uint64_t *end)
{
    *end = l->snapshot;
    for (size_t i = 0; i < l->n_closed; i++) {
        const struct log_dir_closed *s = &l->closed[i];
        bool begins_again = i > 0 && s->first == l->closed[i - 1].first;
        /* Before the snapshot a gap means nothing: older ones go one by one too. Without a snapshot and without the
         * first entries this is not a log that was truncated. */
        bool gap = s->first > l->snapshot + 1 && s->first > *end + 1 && (i > 0 || l->snapshot > 0);
        if (begins_again || gap)
            return i;
        if (i > 0 && s->first <= l->closed[i - 1].last)
            return l->n_closed;
        *end = s->last > *end ? s->last : *end;
    }
    return l->n_closed;
}

/* From the highest down to this one. */
static int remove_down_to(const struct log_dir *l, const char *dir, size_t from)
{
    int rc = 0;

    for (size_t i = l->n_closed; i > from && rc == 0; i--) {
        char name[LOG_DIR_NAME];
        log_dir_closed_name(name, &l->closed[i - 1]);
        char *path = mr_asprintf("%s/%s", dir, name);
        rc = unlink(path) < 0 ? -errno : 0;
        free(path);
    }
    return rc;
}

static int finish(const struct log_dir *l, const char *dir, uint64_t acked)
{
    uint64_t end;
    size_t stray = first_stray(l, &end);

    if (stray < l->n_closed && end >= acked) {
        log_event(LOG_WARN, "raft_truncation_finished", LOG_S("dir", dir), LOG_N("last", end),
                  LOG_N("segments", l->n_closed - stray));
        return remove_down_to(l, dir, stray);
    }
    if (stray == l->n_closed && l->n_closed > 0 && l->closed[l->n_closed - 1].last < l->snapshot &&
        l->snapshot >= acked) {
        log_event(LOG_WARN, "raft_install_finished", LOG_S("dir", dir), LOG_N("snapshot", l->snapshot),
                  LOG_N("segments", l->n_closed));
        return remove_down_to(l, dir, 0);
    }
    return 0;
}

static int sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) < 0 ? -errno : 0;

    if (fd >= 0)
        (void)close(fd);
    return rc;
}

/* ---- a bootstrap ---- */

/* raft_uv's metadata: format, version, term, vote; 64 bits each, little-endian. */
enum { METADATA_WORDS = 4, METADATA_TERM = 2, METADATA_VOTE = 3 };

/* Of a first bootstrap, or not written to its end. */
static bool before_any_vote(const char *path)
{
    uint64_t words[METADATA_WORDS];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return errno == ENOENT;
    ssize_t n = pread(fd, words, sizeof(words), 0);
    (void)close(fd);
    if (n < 0)
        return false;
    return (size_t)n < sizeof(words) || (le64toh(words[METADATA_TERM]) <= 1 && words[METADATA_VOTE] == 0);
}

int unfinished_bootstrap(const char *dir, char *error, size_t error_len)
{
    static const char *const names[] = {"metadata1", "metadata2"};
    struct log_dir l;
    int rc = log_dir_list(&l, dir);
    bool only_term = rc == 0 && l.n_closed == 0 && l.n_open == 0 && l.snapshot == 0;

    log_dir_free(&l);
    for (size_t pass = 0; pass < 2 && only_term && rc == 0; pass++) /* all are looked at before any goes */
        for (size_t i = 0; i < sizeof(names) / sizeof(*names) && only_term && rc == 0; i++) {
            char *path = mr_asprintf("%s/%s", dir, names[i]);
            if (pass == 0)
                only_term = before_any_vote(path);
            else
                rc = unlink(path) < 0 && errno != ENOENT ? -errno : 0;
            free(path);
        }
    if (rc == 0 && only_term)
        rc = sync_dir(dir);
    if (rc == 0)
        return MR_OK;
    (void)snprintf(error, error_len, "raft log in %s: %s", dir, strerror(-rc));
    return MR_IO;
}

int unfinished_finish(const char *dir, uint64_t acked, char *error, size_t error_len)
{
    struct log_dir l;
    bool used = false;
    int rc = log_dir_list(&l, dir);

    if (rc == 0)
        rc = put_torn_aside(&l, dir, &used);
    if (rc == 0 && !used)
        rc = finish(&l, dir, acked);
    if (rc == 0)
        rc = sync_dir(dir);
    log_dir_free(&l);
    if (rc == 0)
        return MR_OK;
    (void)snprintf(error, error_len, "raft log in %s: %s", dir, strerror(-rc));
    return MR_IO;
}
