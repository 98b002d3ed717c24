/* The scan at open: heads of all segments, then their records in the order in which they were written.
 *
 * The newest segment, if it has no index, is written on behind its last good record, over what stands there: zeros,
 * what its file held before (spool_spare.c), a torn record. It is synced before that, because what a killed process
 * wrote may be in the page cache only, and from now on it is answered for. Damage costs
 * the records that it hit; a segment of which nothing can be read is put aside under another name, never removed. */
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
    if (!r->last)
        return;
    memcpy(build->checksum, r->checksum, sizeof(build->checksum));
    if (build->length == r->whole_length)
        spool_install(sp, build);
    else
        spool_build_fail(sp, build, MR_MALFORMED);
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

/* Makes what is there durable; the writer goes on behind it. */
static int continue_segment(struct spool *sp, const struct found *f, const struct spool_scan *scan, char *error,
                            size_t error_len)
{
    struct spool_writer *w = &sp->writer;
    char *path = spool_path(sp, f->number);
    int fd = sp->io->open_file(sp->io, path, O_RDWR, 0);
    int rc = fd < 0 ? fd : 0;
    if (rc == 0)
        rc = sp->io->sync_data(sp->io, fd);
    if (rc < 0) {
        (void)snprintf(error, error_len, "%s: %s", path, strerror(-rc));
        if (fd >= 0)
            (void)sp->io->close_file(sp->io, fd);
        free(path);
        return MR_IO;
    }
    free(path);
    w->fd = fd;
    w->number = f->number;
    w->offset = w->synced = scan->end;
    w->allocated = w->written = scan->file_size;
    w->records_count = w->records_room = scan->count;
    w->records = mr_malloc(scan->count * sizeof(*w->records));
    if (scan->count > 0)
        memcpy(w->records, scan->records, scan->count * sizeof(*w->records));
    return 0;
}

static int load_segment(struct spool *sp, const struct found *f, bool newest, char *error, size_t error_len)
{
    struct spool_place place = {.salt = sp->salt, .segment = f->number};
    struct spool_scan scan;
    char *path = spool_path(sp, f->number);
    bool sound = f->head == 0 && f->place.salt == sp->salt && f->place.segment == f->number;
    if (!sound &&
        f->file_size <= SPOOL_HEAD) { /* ended while it was made: a record comes only after the head was synced */
        (void)sp->io->unlink_file(sp->io, path);
        free(path);
        return 0;
    }
    int rc = spool_scan_segment(sp->io, path, place, &scan);
    if (rc != 0) {
        (void)snprintf(error, error_len, "%s: %s", path, mr_strerror(rc));
        free(path);
        return rc;
    }
    if (!sound || scan.skipped > 0 || (!newest && !scan.sealed))
        log_event(LOG_WARN, "spool_damage", LOG_S("path", path), LOG_B("head", sound), LOG_B("index", scan.sealed),
                  LOG_N("skipped", scan.skipped), LOG_N("records", scan.count));
    free(path);
    bool go_on = newest && sound && !scan.sealed;
    if (scan.count == 0 && !go_on) {
        put_aside(sp, f->number);
        return 0;
    }
    struct spool_segment *seg = spool_segment_get(sp, f->number);
    seg->size = scan.end - SPOOL_HEAD;
    seg->sealed = !go_on;
    for (size_t i = 0; i < scan.count; i++)
        replay_record(sp, f->number, &scan.records[i]);
    if (go_on)
        rc = continue_segment(sp, f, &scan, error, error_len);
    free(scan.records);
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
        rc = load_segment(sp, &l.found[i], i + 1 == l.count, error, error_len);
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
