/* Spare segments: files of written blocks that the next segments are made of.
 *
 * An fdatasync after writing over blocks that hold something stores those blocks; after an append, or into blocks that
 * are only allocated, the file's metadata too, which costs the disk and the processor two to three times as much. So
 * a dead segment is kept under another name (spool_spare_keep, on a reader thread) instead of unlinked, and when a
 * whole segment was needed since the start, the writer thread fills new ones with zeros while nothing is put, a step at
 * a time (spool_spare_fill).
 *
 * What a spare holds does not count: each record's checksum is seeded with its segment's number, and no number is used
 * twice, a spare's neither (spool_load looks at both). Its head is written and synced before it gets its new name, so
 * that a file with a segment's name is one. Failure: a spare that cannot be made, taken or kept is done without; a sync
 * of the directory that fails ends the process; a failed write or sync of one that is to be written on ends the
 * process, as that of any segment. When space is low all are given back. */
#include "cluster/spool_internal.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum {
    FILL_BLOCK = 256 * 1024,
    FILL_ROOM = 16, /* filled only while so many segments' bytes are free beyond the reserve */
};

char *spool_spare_path(const struct spool *sp, uint32_t number)
{
    return mr_asprintf("%s/%08x.spare", sp->dir, number);
}

void spool_spares_init(struct spool_spares *s)
{
    pthread_mutex_init(&s->mutex, NULL);
    s->fd = -1;
}

void spool_spares_free(struct spool *sp)
{
    struct spool_spares *s = &sp->spares;
    if (s->fd >= 0)
        (void)sp->io->close_file(sp->io, s->fd);
    pthread_mutex_destroy(&s->mutex);
}

static unsigned count(struct spool *sp)
{
    pthread_mutex_lock(&sp->spares.mutex);
    unsigned n = sp->spares.count;
    pthread_mutex_unlock(&sp->spares.mutex);
    return n;
}

static bool add(struct spool *sp, uint32_t number)
{
    struct spool_spares *s = &sp->spares;
    pthread_mutex_lock(&s->mutex);
    bool room = s->count < SPOOL_SPARES;
    if (room)
        s->numbers[s->count++] = number;
    pthread_mutex_unlock(&s->mutex);
    return room;
}

static bool take(struct spool *sp, uint32_t *number)
{
    struct spool_spares *s = &sp->spares;
    pthread_mutex_lock(&s->mutex);
    bool any = s->count > 0;
    if (any)
        *number = s->numbers[--s->count];
    pthread_mutex_unlock(&s->mutex);
    return any;
}

static void discard(struct spool *sp, uint32_t number)
{
    char *path = spool_spare_path(sp, number);
    int rc = sp->io->unlink_file(sp->io, path);
    if (rc < 0 && rc != -ENOENT) /* found again at the next start */
        log_event(LOG_ERROR, "spool_unlink", LOG_S("path", path), LOG_S("error", strerror(-rc)));
    free(path);
}

/* ---- at the start ---- */

void spool_spare_found(struct spool *sp, uint32_t number)
{
    char *path = spool_spare_path(sp, number);
    uint64_t size = 0;
    int fd = sp->io->open_file(sp->io, path, O_RDONLY, 0);
    if (fd >= 0) {
        if (sp->io->file_size(sp->io, fd, &size) < 0)
            size = 0;
        (void)sp->io->close_file(sp->io, fd);
    }
    free(path);
    if (size < sp->segment_bytes / 2 || size > sp->segment_bytes || !add(sp, number))
        discard(sp, number);
}

/* ---- a dead segment (reader thread) ---- */

bool spool_spare_keep(struct spool *sp, uint32_t number, uint64_t size)
{
    if (size < sp->segment_bytes / 2 || atomic_load(&sp->low) || count(sp) >= SPOOL_SPARES)
        return false;
    char *from = spool_path(sp, number), *to = spool_spare_path(sp, number);
    int rc = sp->io->rename_file(sp->io, from, to);
    bool renamed = rc == 0;
    /* Before anything is written over it: under its old name it would be a damaged segment. */
    if (renamed)
        rc = sp->io->sync_dir(sp->io, sp->dir);
    /* A failed fsync, which may be told once only: the writer's next one, for a segment's name, could pass. */
    if (renamed && rc < 0 && rc != -EMFILE && rc != -ENFILE && rc != -ENOMEM)
        mr_panic("spool: syncing %s: %s", sp->dir, strerror(-rc));
    if (rc < 0)
        log_event(LOG_WARN, "spool_spare", LOG_S("path", from), LOG_S("error", strerror(-rc)));
    free(from);
    free(to);
    if (renamed && (rc < 0 || !add(sp, number)))
        discard(sp, number);
    return renamed;
}

/* ---- the writer thread's ---- */

int spool_spare_take(struct spool *sp, uint32_t *number, uint64_t *size)
{
    while (take(sp, number)) {
        char *path = spool_spare_path(sp, *number);
        int fd = sp->io->open_file(sp->io, path, O_RDWR, 0);
        free(path);
        if (fd >= 0 && sp->io->file_size(sp->io, fd, size) == 0)
            return fd;
        if (fd >= 0)
            (void)sp->io->close_file(sp->io, fd);
        discard(sp, *number);
    }
    return -1;
}

void spool_spares_drop(struct spool *sp)
{
    struct spool_spares *s = &sp->spares;
    uint32_t number;
    if (s->fd >= 0) {
        (void)sp->io->close_file(sp->io, s->fd);
        s->fd = -1;
        discard(sp, s->filling);
    }
    while (take(sp, &number))
        discard(sp, number);
}

static void give_up(struct spool *sp, const char *what, int rc)
{
    struct spool_spares *s = &sp->spares;
    log_event(LOG_WARN, "spool_spare", LOG_S("failed", what), LOG_S("error", strerror(-rc)));
    (void)sp->io->close_file(sp->io, s->fd);
    s->fd = -1;
    s->given_up = true;
    discard(sp, s->filling);
}

bool spool_spare_room(const struct spool_writer *w)
{
    const struct spool *sp = w->sp;
    uint64_t need = sp->reserve + atomic_load(&sp->keep_free) + FILL_ROOM * sp->segment_bytes;
    return !sp->spares.given_up && w->space_left >= need;
}

int spool_write_zeros(struct spool *sp, int fd, uint64_t from, uint64_t len)
{
    static const uint8_t zeros[FILL_BLOCK];
    int rc = 0;
    for (uint64_t at = 0; at < len && rc == 0; at += FILL_BLOCK) {
        struct iovec iov = {(void *)(uintptr_t)zeros, len - at < FILL_BLOCK ? (size_t)(len - at) : FILL_BLOCK};
        rc = mr_fileio_write_full(sp->io, fd, &iov, 1, from + at);
        busy_step(sp->disk);
    }
    return rc;
}

static bool begin_filling(struct spool_writer *w)
{
    struct spool *sp = w->sp;
    struct spool_spares *s = &sp->spares;
    if (!w->has_sealed || !spool_spare_room(w) || count(sp) >= SPOOL_SPARES_FILLED)
        return false;
    s->filling = w->next_number++;
    char *path = spool_spare_path(sp, s->filling);
    int fd = sp->io->open_file(sp->io, path, O_RDWR | O_CREAT | O_EXCL, 0600);
    free(path);
    if (fd < 0) {
        s->given_up = true;
        return false;
    }
    s->fd = fd;
    s->filled = 0;
    return true;
}

bool spool_spare_fill(struct spool_writer *w)
{
    struct spool *sp = w->sp;
    struct spool_spares *s = &sp->spares;
    if (s->fd < 0 && !begin_filling(w))
        return false;
    uint64_t left = sp->segment_bytes - s->filled;
    uint64_t len = left < SPOOL_FILL_STEP ? left : SPOOL_FILL_STEP;
    int rc = spool_write_zeros(sp, s->fd, s->filled, len);
    if (rc == 0)
        rc = sp->io->sync_data(sp->io, s->fd);
    busy_step(sp->disk);
    if (rc < 0) {
        give_up(sp, "fill", rc);
        return false;
    }
    s->filled += len;
    if (s->filled == sp->segment_bytes) {
        (void)sp->io->close_file(sp->io, s->fd);
        s->fd = -1;
        if (!add(sp, s->filling)) /* dead segments have come meanwhile */
            discard(sp, s->filling);
    }
    return true;
}
