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
 * An open segment's first write begins with its format. A power cut can leave other sectors of that write without the
 * first: nothing of it was acknowledged. It is put aside under another name. What is anything else is left. */
#include "raft/unfinished.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_ROOM = 128, CHUNK = 65536, SECTOR = 512 };
#define ASIDE "torn-segment"

struct closed {
    uint64_t first, last;
};

struct listing {
    struct closed *closed;
    size_t n_closed;
    uint64_t *open;
    size_t n_open;
    uint64_t snapshot_term, snapshot; /* of the newest; 0: none */
};

static int by_place(const void *a, const void *b)
{
    const struct closed *x = a, *y = b;

    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return (x->last > y->last) - (x->last < y->last);
}

static void closed_name(char name[NAME_ROOM], const struct closed *s)
{
    (void)snprintf(name, NAME_ROOM, "%016" PRIu64 "-%016" PRIu64, s->first, s->last);
}

static void open_name(char name[NAME_ROOM], uint64_t counter)
{
    (void)snprintf(name, NAME_ROOM, "open-%" PRIu64, counter);
}

/* ---- what is there ---- */

/* A snapshot counts when both of its files are there. */
static void note_snapshot(struct listing *l, const char *dir, const char *name)
{
    uint64_t term, index, stamp;
    char again[NAME_ROOM];
    struct stat st;

    if (sscanf(name, "snapshot-%" SCNu64 "-%" SCNu64 "-%" SCNu64, &term, &index, &stamp) != 3)
        return;
    (void)snprintf(again, sizeof(again), "snapshot-%" PRIu64 "-%" PRIu64 "-%" PRIu64 ".meta", term, index, stamp);
    if (strcmp(name, again) != 0)
        return;
    char *data = mr_asprintf("%s/%.*s", dir, (int)(strlen(name) - strlen(".meta")), name);
    bool whole = stat(data, &st) == 0 && st.st_size > 0;
    free(data);
    if (!whole || term < l->snapshot_term || (term == l->snapshot_term && index < l->snapshot))
        return;
    l->snapshot_term = term;
    l->snapshot = index;
}

static void note(struct listing *l, const char *dir, const char *name)
{
    struct closed s;
    uint64_t counter;
    char again[NAME_ROOM];

    if (sscanf(name, "%" SCNu64 "-%" SCNu64, &s.first, &s.last) == 2) {
        closed_name(again, &s);
        if (strcmp(name, again) != 0)
            return;
        l->closed = mr_realloc(l->closed, (l->n_closed + 1) * sizeof(*l->closed));
        l->closed[l->n_closed++] = s;
    } else if (sscanf(name, "open-%" SCNu64, &counter) == 1) {
        open_name(again, counter);
        if (strcmp(name, again) != 0)
            return;
        l->open = mr_realloc(l->open, (l->n_open + 1) * sizeof(*l->open));
        l->open[l->n_open++] = counter;
    } else {
        note_snapshot(l, dir, name);
    }
}

static int list(struct listing *l, const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *e;

    if (d == NULL)
        return -errno;
    while ((e = readdir(d)) != NULL)
        note(l, dir, e->d_name);
    (void)closedir(d);
    if (l->n_closed > 0)
        qsort(l->closed, l->n_closed, sizeof(*l->closed), by_place);
    return 0;
}

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
    char name[NAME_ROOM];

    open_name(name, counter);
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
static int put_torn_aside(const struct listing *l, const char *dir, bool *used)
{
    uint64_t last_used = 0, torn = 0;
    unsigned n_torn = 0;
    int rc = 0;

    *used = false;
    for (size_t i = 0; i < l->n_open && rc == 0; i++) {
        char name[NAME_ROOM];
        enum use use = USED;
        open_name(name, l->open[i]);
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
static size_t first_stray(const struct listing *l, uint64_t *end)
{
    *end = l->snapshot;
    for (size_t i = 0; i < l->n_closed; i++) {
        const struct closed *s = &l->closed[i];
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
static int remove_down_to(const struct listing *l, const char *dir, size_t from)
{
    int rc = 0;

    for (size_t i = l->n_closed; i > from && rc == 0; i--) {
        char name[NAME_ROOM];
        closed_name(name, &l->closed[i - 1]);
        char *path = mr_asprintf("%s/%s", dir, name);
        rc = unlink(path) < 0 ? -errno : 0;
        free(path);
    }
    return rc;
}

static int finish(const struct listing *l, const char *dir, uint64_t acked)
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

int unfinished_finish(const char *dir, uint64_t acked, char *error, size_t error_len)
{
    struct listing l = {0};
    bool used = false;
    int rc = list(&l, dir);

    if (rc == 0)
        rc = put_torn_aside(&l, dir, &used);
    if (rc == 0 && !used)
        rc = finish(&l, dir, acked);
    if (rc == 0)
        rc = sync_dir(dir);
    free(l.closed);
    free(l.open);
    if (rc == 0)
        return MR_OK;
    (void)snprintf(error, error_len, "raft log in %s: %s", dir, strerror(-rc));
    return MR_IO;
}
