/* log_dir.c - see log_dir.h. */
#include "raft/log_dir.h"

#include "proto/base/fileio.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define META ".meta" /* of a snapshot: beside the file without it */

enum { CHUNK = 65536 };

static int by_place(const void *a, const void *b)
{
    const struct log_dir_closed *x = a, *y = b;

    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return (x->last > y->last) - (x->last < y->last);
}

void log_dir_closed_name(char name[LOG_DIR_NAME], const struct log_dir_closed *s)
{
    (void)snprintf(name, LOG_DIR_NAME, "%016" PRIu64 "-%016" PRIu64, s->first, s->last);
}

void log_dir_open_name(char name[LOG_DIR_NAME], uint64_t counter)
{
    (void)snprintf(name, LOG_DIR_NAME, "open-%" PRIu64, counter);
}

/* A snapshot counts when both of its files are there. */
static void note_snapshot(struct log_dir *l, const char *dir, const char *name)
{
    uint64_t term, index, stamp;
    char again[LOG_DIR_NAME];
    struct stat st;

    if (sscanf(name, "snapshot-%" SCNu64 "-%" SCNu64 "-%" SCNu64, &term, &index, &stamp) != 3)
        return;
    (void)snprintf(again, sizeof(again), "snapshot-%" PRIu64 "-%" PRIu64 "-%" PRIu64 META, term, index, stamp);
    if (strcmp(name, again) != 0)
        return;
    char *data = mr_asprintf("%s/%.*s", dir, (int)(strlen(name) - strlen(META)), name);
    bool whole = stat(data, &st) == 0 && st.st_size > 0;
    free(data);
    if (!whole || term < l->snapshot_term || (term == l->snapshot_term && index < l->snapshot))
        return;
    l->snapshot_term = term;
    l->snapshot = index;
    (void)snprintf(l->snapshot_meta, sizeof(l->snapshot_meta), "%s", again);
}

struct listing {
    struct log_dir *l;
    const char *dir;
};

static void note(void *arg, const char *name)
{
    const struct listing *listing = arg;
    struct log_dir *l = listing->l;
    struct log_dir_closed s;
    uint64_t counter;
    char again[LOG_DIR_NAME];

    if (sscanf(name, "%" SCNu64 "-%" SCNu64, &s.first, &s.last) == 2) {
        log_dir_closed_name(again, &s);
        if (strcmp(name, again) != 0)
            return;
        l->closed = mr_realloc(l->closed, (l->n_closed + 1) * sizeof(*l->closed));
        l->closed[l->n_closed++] = s;
    } else if (sscanf(name, "open-%" SCNu64, &counter) == 1) {
        log_dir_open_name(again, counter);
        if (strcmp(name, again) != 0)
            return;
        l->open = mr_realloc(l->open, (l->n_open + 1) * sizeof(*l->open));
        l->open[l->n_open++] = counter;
    } else {
        note_snapshot(l, listing->dir, name);
    }
}

int log_dir_list(struct log_dir *l, const char *dir)
{
    struct listing listing = {l, dir};

    *l = (struct log_dir){0};
    int rc = mr_fileio_real.list_dir(&mr_fileio_real, dir, note, &listing);
    if (l->n_closed > 0)
        qsort(l->closed, l->n_closed, sizeof(*l->closed), by_place);
    return rc;
}

void log_dir_free(struct log_dir *l)
{
    free(l->closed);
    free(l->open);
    *l = (struct log_dir){0};
}

static int read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    struct stat st;
    uint8_t *chunk = mr_malloc(CHUNK);
    off_t at = 0;
    ssize_t n = fstat(fd, &st);
    if (n == 0 && S_ISREG(st.st_mode))
        while ((n = pread(fd, chunk, CHUNK, at)) > 0)
            at += n;
    int rc = n < 0 ? -errno : 0;
    free(chunk);
    (void)close(fd);
    return rc;
}

int log_dir_read_snapshot(const struct log_dir *l, const char *dir)
{
    if (l->snapshot == 0)
        return 0;
    char *meta = mr_asprintf("%s/%s", dir, l->snapshot_meta);
    int rc = read_file(meta);
    meta[strlen(meta) - strlen(META)] = 0;
    if (rc == 0)
        rc = read_file(meta);
    free(meta);
    return rc;
}
