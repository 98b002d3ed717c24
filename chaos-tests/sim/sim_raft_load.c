/* What the files of a Raft log mean together, by raft_uv's rules: which snapshot, which segments belong to it, what is
 * refused; and the changes of more than one file, in raft_uv's order of steps. */
#include "chaos-tests/sim/sim_raft_file.h"

#include "proto/base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuse(const struct raft_file_dir *dir, int rv, const char *why)
{
    (void)snprintf(dir->errmsg, RAFT_ERRMSG_BUF_SIZE, "%s", why);
    return rv;
}

/* ---- names ---- */

static bool parse_snapshot(const char *name, bool meta, struct raft_file_snapshot *out)
{
    char again[RAFT_FILE_NAME];
    if (sscanf(name, "snapshot-%" SCNu64 "-%" SCNu64 "-%" SCNu64, &out->term, &out->index, &out->stamp) != 3)
        return false;
    raft_file_snapshot_name(again, out, meta);
    return strcmp(again, name) == 0;
}

static bool parse_segment(const char *name, struct raft_file_segment *out)
{
    char again[RAFT_FILE_NAME];
    *out = (struct raft_file_segment){0};
    if (sscanf(name, "%" SCNu64 "-%" SCNu64, &out->first, &out->last) == 2) {
        raft_file_closed_name(again, out->first, out->last);
        return strcmp(again, name) == 0;
    }
    out->open = true;
    if (sscanf(name, "open-%" SCNu64, &out->counter) != 1)
        return false;
    (void)snprintf(again, sizeof(again), "open-%" PRIu64, out->counter);
    return strcmp(again, name) == 0;
}

static bool exists(const struct raft_file_dir *dir, const char *name, bool filled)
{
    struct stat st;
    char *path = raft_file_path(dir, name);
    bool there = stat(path, &st) == 0 && (!filled || st.st_size > 0);
    free(path);
    return there;
}

/* names: all in the directory, by the caller freed. */
static int read_names(const struct raft_file_dir *dir, char ***names, size_t *count)
{
    DIR *d = opendir(dir->path);
    const struct dirent *e;
    *names = NULL;
    *count = 0;
    if (d == NULL)
        return refuse(dir, RAFT_IOERR, "scan data directory");
    while ((e = readdir(d)) != NULL) {
        *names = mr_realloc(*names, (*count + 1) * sizeof(char *));
        (*names)[(*count)++] = mr_strdup(e->d_name);
    }
    (void)closedir(d);
    return 0;
}

static void free_names(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

static int by_age(const void *a, const void *b)
{
    const struct raft_file_snapshot *x = a, *y = b;
    if (x->term != y->term)
        return x->term < y->term ? -1 : 1;
    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return (x->stamp > y->stamp) - (x->stamp < y->stamp);
}

/* raft_uv's order is not one for segments that overlap; here the shorter comes first. */
static int by_place(const void *a, const void *b)
{
    const struct raft_file_segment *x = a, *y = b;
    if (x->open != y->open)
        return x->open ? 1 : -1;
    if (x->open)
        return (x->counter > y->counter) - (x->counter < y->counter);
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return (x->last > y->last) - (x->last < y->last);
}

int raft_file_list(const struct raft_file_dir *dir, struct raft_file_list *list)
{
    char **names;
    size_t count;
    *list = (struct raft_file_list){0};
    int rv = read_names(dir, &names, &count);
    for (size_t i = 0; i < count; i++) {
        struct raft_file_snapshot snapshot;
        struct raft_file_segment segment;
        char data[RAFT_FILE_NAME];
        if (parse_snapshot(names[i], true, &snapshot)) {
            raft_file_snapshot_name(data, &snapshot, false);
            if (!exists(dir, data, true))
                continue;
            list->snapshots = mr_realloc(list->snapshots, (list->n_snapshots + 1) * sizeof(snapshot));
            list->snapshots[list->n_snapshots++] = snapshot;
        } else if (parse_segment(names[i], &segment)) {
            list->segments = mr_realloc(list->segments, (list->n_segments + 1) * sizeof(segment));
            list->segments[list->n_segments++] = segment;
        }
    }
    free_names(names, count);
    if (list->n_snapshots > 0)
        qsort(list->snapshots, list->n_snapshots, sizeof(*list->snapshots), by_age);
    if (list->n_segments > 0)
        qsort(list->segments, list->n_segments, sizeof(*list->segments), by_place);
    return rv;
}

void raft_file_list_free(struct raft_file_list *list)
{
    free(list->segments);
    free(list->snapshots);
    *list = (struct raft_file_list){0};
}

void raft_file_maintain(const struct raft_file_dir *dir)
{
    char **names;
    size_t count;
    (void)read_names(dir, &names, &count);
    for (size_t i = 0; i < count; i++) {
        struct raft_file_snapshot s;
        char other[RAFT_FILE_NAME];
        bool meta = parse_snapshot(names[i], true, &s);
        bool leftover = strncmp(names[i], "tmp-", 4) == 0;
        if (meta || parse_snapshot(names[i], false, &s)) {
            raft_file_snapshot_name(other, &s, !meta);
            leftover = !exists(dir, other, false);
        }
        if (leftover)
            (void)raft_file_remove(dir, names[i]);
    }
    free_names(names, count);
}

/* ---- load ---- */

static void free_snapshot(struct raft_snapshot *s)
{
    raft_configuration_close(&s->configuration);
    for (unsigned i = 0; i < s->n_bufs; i++)
        raft_free(s->bufs[i].base);
    raft_free(s->bufs);
    raft_free(s);
}

void raft_file_log_free(struct raft_file_log *log)
{
    const void *batch = NULL;
    for (size_t i = 0; i < log->n; i++) {
        if (log->entries[i].batch != batch)
            raft_free(log->entries[i].batch);
        batch = log->entries[i].batch;
    }
    raft_free(log->entries);
    if (log->snapshot != NULL)
        free_snapshot(log->snapshot);
    *log = (struct raft_file_log){0};
}

static int load_snapshot(const struct raft_file_dir *dir, const struct raft_file_list *list, struct raft_file_log *log)
{
    int rv = 0;
    for (size_t i = list->n_snapshots; i > 0; i--) {
        struct raft_snapshot *s = raft_calloc(1, sizeof(*s));
        rv = raft_file_snapshot_load(dir, &list->snapshots[i - 1], s);
        if (rv == 0) {
            log->snapshot = s;
            return 0;
        }
        raft_free(s);
    }
    return rv;
}

/* Which segments belong to the snapshot: from *from on, or none (*from is n_segments). */
static int choose_segments(const struct raft_file_dir *dir, const struct raft_file_list *list, uint64_t index,
                           size_t *from)
{
    size_t closed = 0;
    while (closed < list->n_segments && !list->segments[closed].open)
        closed++;
    *from = 0;
    if (closed == 0)
        return 0;
    if (list->segments[closed - 1].last < index && closed == list->n_segments) {
        *from = list->n_segments;
        return 0;
    }
    size_t i = closed - 1;
    while (i > 0 && list->segments[i - 1].last == list->segments[i].first - 1)
        i--;
    if (list->segments[i].first > index + 1)
        return refuse(dir, RAFT_CORRUPT, "closed segment is past the last snapshot");
    *from = i;
    return 0;
}

static int load_segments(const struct raft_file_dir *dir, const struct raft_file_list *list, size_t from,
                         struct raft_file_log *log)
{
    for (size_t i = from; i < list->n_segments; i++) {
        const struct raft_file_segment *s = &list->segments[i];
        if (!s->open && s->first != log->start + log->n)
            return refuse(dir, RAFT_CORRUPT, "unexpected closed segment");
        int rv = raft_file_segment_load(dir, s, log);
        if (rv != 0)
            return rv;
    }
    return 0;
}

int raft_file_load(const struct raft_file_dir *dir, struct raft_file_log *log)
{
    struct raft_file_list list;
    size_t from = 0;
    *log = (struct raft_file_log){.start = 1};
    int rv = raft_file_list(dir, &list);
    if (rv == 0)
        rv = load_snapshot(dir, &list, log);
    if (rv == 0 && log->snapshot != NULL) {
        rv = choose_segments(dir, &list, log->snapshot->index, &from);
        bool closed = from < list.n_segments && !list.segments[from].open;
        log->start = closed ? list.segments[from].first : log->snapshot->index + 1;
    }
    if (rv == 0)
        rv = load_segments(dir, &list, from, log);
    if (rv == 0 && log->snapshot != NULL && from < list.n_segments && log->start + log->n - 1 < log->snapshot->index)
        rv = refuse(dir, RAFT_CORRUPT, "last entry on disk is behind the last snapshot");
    raft_file_list_free(&list);
    if (rv != 0)
        raft_file_log_free(log);
    return rv;
}

/* ---- changes ---- */

static int remove_closed(const struct raft_file_dir *dir, const struct raft_file_segment *s)
{
    char name[RAFT_FILE_NAME];
    raft_file_closed_name(name, s->first, s->last);
    return raft_file_remove(dir, name);
}

static int shorten(const struct raft_file_dir *dir, const struct raft_file_segment *s, uint64_t index)
{
    struct raft_file_log log = {.start = s->first};
    int rv = raft_file_segment_load(dir, s, &log);
    if (rv == 0)
        rv = raft_file_make_closed(dir, s->first, index - 1, log.entries, (unsigned)(index - s->first));
    raft_file_log_free(&log);
    return rv;
}

int raft_file_truncate(const struct raft_file_dir *dir, uint64_t index)
{
    struct raft_file_list list;
    int rv = raft_file_list(dir, &list);
    size_t i = 0;
    while (i < list.n_segments &&
           (list.segments[i].open || index < list.segments[i].first || index > list.segments[i].last))
        i++;
    if (rv == 0 && i == list.n_segments)
        rv = refuse(dir, RAFT_CORRUPT, "no segment to truncate");
    if (rv == 0 && index > list.segments[i].first)
        rv = shorten(dir, &list.segments[i], index);
    for (; i < list.n_segments && rv == 0; i++)
        if (!list.segments[i].open)
            rv = remove_closed(dir, &list.segments[i]);
    if (rv == 0)
        rv = raft_file_sync_dir(dir);
    raft_file_list_free(&list);
    return rv;
}

static int trail_snapshots(const struct raft_file_dir *dir, const struct raft_file_list *list)
{
    int rv = 0;
    for (size_t i = 0; i + 2 < list->n_snapshots && rv == 0; i++) {
        char name[RAFT_FILE_NAME];
        raft_file_snapshot_name(name, &list->snapshots[i], true);
        rv = raft_file_remove(dir, name);
        if (rv != 0)
            break;
        raft_file_snapshot_name(name, &list->snapshots[i], false);
        rv = raft_file_remove(dir, name);
    }
    return rv;
}

int raft_file_trail(const struct raft_file_dir *dir, uint64_t index, size_t trailing)
{
    struct raft_file_list list;
    int rv = raft_file_list(dir, &list);
    if (rv == 0)
        rv = trail_snapshots(dir, &list);
    for (size_t i = 0; i < list.n_segments && rv == 0 && index > trailing; i++) {
        const struct raft_file_segment *s = &list.segments[i];
        if (s->open || (trailing > 0 && s->last >= index - trailing + 1))
            break;
        rv = remove_closed(dir, s);
    }
    if (rv == 0)
        rv = raft_file_sync_dir(dir);
    raft_file_list_free(&list);
    return rv;
}
