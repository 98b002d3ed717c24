/* The scan at open: heads of all segments, then their records in the order in which they were written.
 *
 * Crash argument: what the newest segment holds, and it alone, may be in the page cache only: its life was killed
 * before the sync, also that of its index, or the sync failed, and then the kernel holds the pages for clean and no
 * later sync stores them. From now on it is answered for, and what it is a copy of is reclaimed; so before that its
 * sound records are written again and synced, at most one segment's bytes at a start. Those before it were synced
 * before it began. Its index is believed only if it tells of just the records that are there: of what was not synced a
 * power cut may have kept the index alone. A wrong one is cut off, and the segment not written on.
 *
 * Without an index it is written on behind its last record, over what stands there: zeros, what its file held before
 * (spool_spare.c), the head of a record that was cut short. A record with a sound head and other bytes than it was
 * written with is kept as a bad copy (spool_bad.c): torn, and the collector drops it; or the last one that there is. A
 * segment of which a part could not be read is neither written on nor given back in this life, and its index stays.
 * Damage costs the records that it hit; a segment in which nothing is ours is put aside under another name, never
 * removed. */
#include "cluster/spool_internal.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct found {
    uint32_t number;
    int head; /* of spool_scan_head */
    struct spool_place place;
    uint64_t file_size;
};

struct listing {
    struct found *found;
    size_t count, room;
    uint32_t *spares;
    size_t n_spares;
};

static void each_name(void *arg, const char *name)
{
    struct listing *l = arg;
    if (strlen(name) == 14 && strcmp(name + 8, ".spare") == 0 && strspn(name, "0123456789abcdef") == 8) {
        l->spares = mr_realloc(l->spares, (l->n_spares + 1) * sizeof(*l->spares));
        l->spares[l->n_spares++] = (uint32_t)strtoul(name, NULL, 16);
        return;
    }
    if (strlen(name) != 12 || strcmp(name + 8, ".seg") != 0 || strspn(name, "0123456789abcdef") != 8)
        return;
    if (l->count == l->room) {
        l->room = l->room == 0 ? 64 : l->room * 2;
        l->found = mr_realloc(l->found, l->room * sizeof(*l->found));
    }
    memset(&l->found[l->count], 0, sizeof(*l->found));
    l->found[l->count++].number = (uint32_t)strtoul(name, NULL, 16);
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = ((const struct found *)a)->number, y = ((const struct found *)b)->number;
    return (x > y) - (x < y);
}

static int read_heads(struct spool *sp, struct listing *l, char *error, size_t error_len)
{
    bool salted = false;
    for (size_t i = 0; i < l->count; i++) {
        struct found *f = &l->found[i];
        char *path = spool_path(sp, f->number);
        f->head = spool_scan_head(sp->io, path, &f->place, &f->file_size);
        if (f->head == MR_IO || f->head == MR_VERSION) {
            (void)snprintf(error, error_len, "%s: %s", path, mr_strerror(f->head));
            free(path);
            return f->head;
        }
        free(path);
        if (f->head == 0 && !salted) {
            sp->salt = f->place.salt;
            salted = true;
        }
    }
    if (!salted) {
        struct mr_id chance = mr_id_random();
        memcpy(&sp->salt, chance.bytes, sizeof(sp->salt));
    }
    return 0;
}

/* Kept as one that was found bad later (S5), unless there is another. */
static void replay_bad(struct spool *sp, struct spool_build *build)
{
    struct mr_id id = build->node.id;
    if (spool_table_find(&sp->bodies, id) != NULL) {
        spool_build_fail(sp, build, MR_CHECKSUM);
        return;
    }
    spool_install(sp, build);
    spool_bad_mark(sp, (struct spool_body *)spool_table_find(&sp->bodies, id));
}

static void replay_record(struct spool *sp, uint32_t segment, const struct spool_record *r)
{
    struct spool_build *build = (struct spool_build *)spool_table_find(&sp->builds, r->id);
    if (r->piece == 0) {
        if (build != NULL)
            spool_build_fail(sp, build, MR_CANCELLED);
        build = spool_build_new(sp, r->id, r->stamp_ms);
        build->attempt = r->attempt;
        build->in_table = build->found = true;
        spool_table_add(&sp->builds, &build->node);
    } else if (build == NULL || build->attempt != r->attempt || build->next != r->piece) {
        return; /* what it continues is lost or was replaced */
    }
    if (r->stamp_ms > build->stamp_ms)
        build->stamp_ms = r->stamp_ms;
    spool_build_add(sp, build, (struct spool_loc){segment, r->offset, r->len});
    build->next++;
    build->length += r->len;
    build->bad = build->bad || r->bad;
    if (!r->last)
        return;
    memcpy(build->checksum, r->checksum, sizeof(build->checksum));
    if (build->length != r->whole_length)
        spool_build_fail(sp, build, MR_MALFORMED);
    else if (build->bad)
        replay_bad(sp, build);
    else
        spool_install(sp, build);
}

/* Nothing in it is ours, as far as can be seen. */
static void put_aside(struct spool *sp, uint32_t number)
{
    char *path = spool_path(sp, number);
    char *aside = mr_asprintf("%s.damaged", path);
    int rc = sp->io->rename_file(sp->io, path, aside);
    log_event(LOG_ERROR, "spool_segment_unreadable", LOG_S("path", path), LOG_S("kept_as", rc == 0 ? aside : NULL),
              LOG_S("error", rc < 0 ? strerror(-rc) : NULL));
    free(aside);
    free(path);
}

/* ---- one segment ---- */

struct loading {
    uint32_t number;
    char *path;
    bool newest;
    bool sound; /* its head */
    struct spool_scan scan;
    uint8_t *bytes; /* the newest's file, as it was read */
    int fd;         /* and that */
};

static bool no_space(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT;
}

static int write_range(const struct spool *sp, const struct loading *seg, uint64_t from, uint64_t to)
{
    struct iovec iov = {seg->bytes + from, (size_t)(to - from)};
    return from < to ? mr_fileio_write_full(sp->io, seg->fd, &iov, 1, from) : 0;
}

/* Both copies: one of them may be damaged, or missing. */
static int write_head(const struct spool *sp, const struct loading *seg)
{
    uint8_t head[SPOOL_HEAD];
    struct iovec iov = {head, sizeof(head)};
    spool_head_encode(head, (struct spool_place){.salt = sp->salt, .segment = seg->number});
    return mr_fileio_write_full(sp->io, seg->fd, &iov, 1, 0);
}

/* What counts, and only that: where a read failed, or a record is damaged, the disk may know better. */
static int write_again(const struct spool *sp, const struct loading *seg)
{
    const struct spool_scan *scan = &seg->scan;
    uint64_t from = SPOOL_HEAD, to = SPOOL_HEAD;
    int rc = seg->sound ? write_head(sp, seg) : 0;
    for (size_t i = 0; i < scan->count && rc == 0; i++) {
        const struct spool_record *r = &scan->records[i];
        if (r->bad)
            continue;
        if (r->offset != to) {
            rc = write_range(sp, seg, from, to);
            from = r->offset;
        }
        to = (uint64_t)r->offset + spool_record_size(r->len);
    }
    if (rc == 0) /* the padding of the last one may be missing */
        rc = write_range(sp, seg, from, to < scan->file_size ? to : scan->file_size);
    if (rc == 0 && scan->sealed && scan->wrong_index == 0 && !scan->unread)
        rc = write_range(sp, seg, scan->end, scan->file_size);
    if (rc == 0 && scan->wrong_index != 0 && scan->wrong_index < scan->file_size)
        rc = sp->io->truncate_file(sp->io, seg->fd, scan->wrong_index);
    return rc == 0 ? sp->io->sync_data(sp->io, seg->fd) : rc;
}

/* Where files are not written in place, this takes room, which spares can give. */
static int write_with_room(const struct spool *sp, const struct listing *l, const struct loading *seg)
{
    int rc = write_again(sp, seg);
    if (!no_space(rc) || l->n_spares == 0)
        return rc;
    for (size_t i = 0; i < l->n_spares; i++) {
        char *path = spool_spare_path(sp, l->spares[i]);
        (void)sp->io->unlink_file(sp->io, path);
        free(path);
    }
    return write_again(sp, seg); /* all of it, as a failed sync asks for */
}

/* The writer goes on behind what is there. */
static void continue_segment(struct spool *sp, const struct loading *seg)
{
    struct spool_writer *w = &sp->writer;
    const struct spool_scan *scan = &seg->scan;
    w->fd = seg->fd;
    w->number = seg->number;
    w->offset = w->synced = scan->end;
    w->allocated = w->written = scan->file_size;
    w->records_count = w->records_room = scan->count;
    w->records = mr_malloc(scan->count * sizeof(*w->records));
    if (scan->count > 0)
        memcpy(w->records, scan->records, scan->count * sizeof(*w->records));
}

static int store_newest(struct spool *sp, const struct listing *l, struct loading *seg, bool go_on, char *error,
                        size_t error_len)
{
    seg->fd = sp->io->open_file(sp->io, seg->path, O_RDWR, 0);
    int rc = seg->fd < 0 ? seg->fd : write_with_room(sp, l, seg);
    if (rc < 0)
        (void)snprintf(error, error_len, "%s: storing it again: %s", seg->path, strerror(-rc));
    if (rc == 0 && go_on)
        continue_segment(sp, seg);
    else if (seg->fd >= 0)
        (void)sp->io->close_file(sp->io, seg->fd);
    if (rc < 0)
        return no_space(rc) ? MR_NOSPACE : MR_IO;
    return 0;
}

static int take_segment(struct spool *sp, const struct listing *l, struct loading *seg, char *error, size_t error_len)
{
    const struct spool_scan *scan = &seg->scan;
    bool index = seg->newest ? scan->wrong_index == 0 : scan->sealed;
    if (!seg->sound || scan->skipped > 0 || !index || scan->unread)
        log_event(LOG_WARN, "spool_damage", LOG_S("path", seg->path), LOG_B("head", seg->sound), LOG_B("index", index),
                  LOG_B("unread", scan->unread), LOG_N("skipped", scan->skipped), LOG_N("records", scan->count));
    bool go_on = seg->newest && seg->sound && !scan->sealed && !scan->unread;
    if (scan->count == 0 && !go_on && !scan->unread) {
        put_aside(sp, seg->number);
        return 0;
    }
    struct spool_segment *known = spool_segment_get(sp, seg->number);
    known->size = scan->end - SPOOL_HEAD;
    known->sealed = !go_on;
    known->held += scan->unread; /* S5, for what nobody knows the names of: the next start may read it */
    for (size_t i = 0; i < scan->count; i++)
        replay_record(sp, seg->number, &scan->records[i]);
    return seg->newest ? store_newest(sp, l, seg, go_on, error, error_len) : 0;
}

static int load_segment(struct spool *sp, const struct listing *l, size_t at, char *error, size_t error_len)
{
    const struct found *f = &l->found[at];
    struct spool_place place = {.salt = sp->salt, .segment = f->number};
    struct loading seg = {.number = f->number,
                          .path = spool_path(sp, f->number),
                          .newest = at + 1 == l->count,
                          .sound = f->head == 0 && f->place.salt == sp->salt && f->place.segment == f->number,
                          .fd = -1};
    int rc;
    if (!seg.sound &&
        f->file_size <= SPOOL_HEAD) { /* ended while it was made: a record comes only after the head was synced */
        (void)sp->io->unlink_file(sp->io, seg.path);
        free(seg.path);
        return 0;
    }
    if (seg.newest)
        rc = spool_scan_newest(sp->io, seg.path, place, &seg.scan, &seg.bytes);
    else
        rc = spool_scan_segment(sp->io, seg.path, place, &seg.scan);
    if (rc != 0)
        (void)snprintf(error, error_len, "%s: %s", seg.path, mr_strerror(rc));
    else
        rc = take_segment(sp, l, &seg, error, error_len);
    free(seg.scan.records);
    free(seg.bytes);
    free(seg.path);
    return rc;
}

int spool_load(struct spool *sp, char *error, size_t error_len)
{
    struct listing l = {0};
    int rc = sp->io->make_dir(sp->io, sp->dir);
    if (rc == 0)
        rc = sp->io->list_dir(sp->io, sp->dir, each_name, &l);
    if (rc < 0) {
        (void)snprintf(error, error_len, "%s: %s", sp->dir, strerror(-rc));
        free(l.found);
        free(l.spares);
        return MR_IO;
    }
    if (l.count > 0)
        qsort(l.found, l.count, sizeof(*l.found), by_number);
    rc = read_heads(sp, &l, error, error_len);
    for (size_t i = 0; i < l.count && rc == 0; i++)
        rc = load_segment(sp, &l, i, error, error_len);
    sp->writer.next_number = l.count > 0 ? l.found[l.count - 1].number + 1 : 1;
    free(l.found);
    for (size_t i = 0; i < l.n_spares && rc == 0; i++) {
        if (l.spares[i] >= sp->writer.next_number)
            sp->writer.next_number = l.spares[i] + 1;
        spool_spare_found(sp, l.spares[i]);
    }
    free(l.spares);
    if (rc != 0)
        return rc;
    rc = sp->io->sync_dir(sp->io, sp->dir);
    if (rc < 0) {
        (void)snprintf(error, error_len, "%s: %s", sp->dir, strerror(-rc));
        return MR_IO;
    }
    return 0;
}
