/* The writer thread: what has arrived -> records by few pwritev -> one fdatasync -> one mail to the loop.
 *
 * Crash argument: a callback with 0 for a last piece follows an fdatasync of every segment that holds a piece of the
 * body: those sealed on the way were synced before the next one was opened, the open one at the end of the batch. A new
 * segment's head and name are synced before its first record is written. Failure: no space (before or at a write)
 * refuses the puts concerned and the file is cut back to its last good record; any other failed write, truncate or sync
 * ends the process: what was acknowledged could be lost. Close: the loop stops the thread when no put is in flight. */
#include "cluster/spool_internal.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"
#include "proto/base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BATCH_BYTES = 8 << 20,  /* of payload; bounds what the first of a batch waits for */
    CHUNK_RECORDS = 256,    /* of one pwritev */
    SPACE_NEAR = 256 << 20, /* bytes above the reserve: below, the file system is asked before each batch */
    SPACE_MS = 100,
    GATHER_MAX_NS = 1000000,
    IDLE_MS = 100,            /* without puts, then zeros are written ahead */
    LOOK_MS = 1000,           /* for free space, while there is nothing to do */
    ALLOCATE_BYTES = 8 << 20, /* blocks taken ahead: an append then changes no extent tree, its fdatasync is cheaper */
};

struct chunk {
    struct spool_put *puts[CHUNK_RECORDS];
    struct iovec iov[CHUNK_RECORDS * 3];
    uint8_t heads[CHUNK_RECORDS][SPOOL_RECORD_HEAD];
    int count, iov_count;
    uint64_t bytes;
};

static const uint8_t zeros[SPOOL_ALIGN];

static bool no_space(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT;
}

static uint64_t ask_space(const struct spool *sp)
{
    uint64_t available = 0, total = 0;
    int rc = sp->io->free_space(sp->io, sp->dir, &available, &total);
    if (rc < 0)
        log_event(LOG_ERROR, "spool_space", LOG_S("error", strerror(-rc)));
    return rc < 0 ? 0 : available;
}

void spool_writer_space(struct spool_writer *w)
{
    struct spool *sp = w->sp;
    uint64_t reserve = sp->reserve + atomic_load(&sp->keep_free);
    uint64_t available = ask_space(sp);
    if (available < reserve) {
        spool_spares_drop(sp);
        available = ask_space(sp);
    }
    bool low = available < reserve;
    w->space_ns = mr_boot_ns(&mr_clock_real);
    w->space_left = available;
    atomic_store(&sp->free_bytes, available);
    if (atomic_exchange(&sp->low, low) != low)
        log_event(LOG_WARN, low ? "spool_low" : "spool_low_ended", LOG_N("free", available), LOG_N("reserve", reserve));
}

/* With room to spare not before each batch. */
static void look_at_space(struct spool_writer *w)
{
    uint64_t near = w->sp->reserve + atomic_load(&w->sp->keep_free) + SPACE_NEAR;
    if (w->space_left < near || mr_boot_ns(&mr_clock_real) - w->space_ns > SPACE_MS * MR_NS_PER_MS)
        spool_writer_space(w);
}

/* ---- segments ---- */

static struct spool_place place_of(const struct spool_writer *w)
{
    return (struct spool_place){.salt = w->sp->salt, .segment = w->number};
}

/* A failed fsync leaves what it was to store in the page cache, clean and readable. It is cut off before this life
 * ends; what earlier syncs have stored stays. Where that does not come about, the next life writes it again
 * (spool_load.c) before it answers for it. */
static void sync_segment(struct spool_writer *w, struct spool_batch *batch)
{
    int rc = MR_MUTANT(MUTANT_NO_FSYNC) ? 0 : w->sp->io->sync_data(w->sp->io, w->fd);
    if (rc < 0) {
        (void)w->sp->io->truncate_file(w->sp->io, w->fd, w->synced);
        mr_panic("spool: fdatasync of segment %08x: %s", w->number, strerror(-rc));
    }
    busy_step(w->sp->disk);
    w->synced = w->offset;
    w->unsynced = false;
    batch->fsyncs++;
}

static void cut_back(struct spool_writer *w)
{
    int rc = w->sp->io->truncate_file(w->sp->io, w->fd, w->offset);
    if (rc < 0)
        mr_panic("spool: truncating segment %08x: %s", w->number, strerror(-rc));
    w->allocated = w->written = w->offset;
}

static void allocate_ahead(struct spool_writer *w, uint64_t upto)
{
    struct spool *sp = w->sp;
    if (w->allocated < w->offset)
        w->allocated = w->offset;
    while (w->can_allocate && w->allocated < upto) {
        uint64_t len = ALLOCATE_BYTES;
        if (w->allocated + len > sp->segment_bytes)
            len = sp->segment_bytes > w->allocated ? sp->segment_bytes - w->allocated : 0;
        if (len == 0 || w->space_left < sp->reserve + atomic_load(&sp->keep_free) + len)
            return;
        int rc = sp->io->allocate(sp->io, w->fd, w->allocated, len);
        busy_step(sp->disk);
        if (no_space(rc))
            return; /* the writes find out how much there is */
        if (rc < 0) {
            w->can_allocate = false;
            return;
        }
        w->allocated += len;
        w->space_left -= len;
    }
}

/* The file of a new segment, a spare's or a new one; *spare tells. MR_NOSPACE: none. */
static int make_file(struct spool_writer *w, uint32_t *spare, bool *is_spare)
{
    struct spool *sp = w->sp;
    w->written = 0;
    w->fd = spool_spare_take(sp, spare, &w->written);
    w->allocated = w->written;
    *is_spare = w->fd >= 0;
    if (*is_spare)
        return 0;
    char *path = spool_path(sp, w->next_number);
    w->fd = sp->io->open_file(sp->io, path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (w->fd < 0 && !no_space(w->fd))
        mr_panic("spool: creating %s: %s", path, strerror(-w->fd));
    free(path);
    return w->fd < 0 ? MR_NOSPACE : 0;
}

static int open_segment(struct spool_writer *w, struct spool_batch *batch)
{
    struct spool *sp = w->sp;
    uint32_t spare = 0;
    bool is_spare;
    if (make_file(w, &spare, &is_spare) != 0) {
        w->fd = -1;
        return MR_NOSPACE;
    }
    w->number = w->next_number++;
    w->offset = SPOOL_HEAD;
    w->synced = 0;
    w->records_count = 0;
    uint8_t head[SPOOL_HEAD];
    spool_head_encode(head, place_of(w));
    struct iovec iov = {head, sizeof(head)};
    int rc = mr_fileio_write_full(sp->io, w->fd, &iov, 1, 0);
    char *path = spool_path(sp, w->number), *from = is_spare ? spool_spare_path(sp, spare) : NULL;
    if (no_space(rc)) {
        (void)sp->io->close_file(sp->io, w->fd);
        (void)sp->io->unlink_file(sp->io, is_spare ? from : path); /* left behind it is removed at the next start */
        w->fd = -1;
    } else if (rc < 0) {
        mr_panic("spool: writing %s: %s", path, strerror(-rc));
    } else {
        sync_segment(w, batch);
        if (is_spare)
            rc = sp->io->rename_file(sp->io, from, path);
        if (rc == 0)
            rc = sp->io->sync_dir(sp->io, sp->dir);
        if (rc < 0)
            mr_panic("spool: making %s: %s", path, strerror(-rc));
    }
    free(path);
    free(from);
    return w->fd < 0 ? MR_NOSPACE : 0;
}

/* Ends the open segment with its index. MR_NOSPACE: it stays open. Killed before the sync, it looks sealed to the next
 * life and is not stored: spool_load.c trusts no index of the newest. */
static int seal_segment(struct spool_writer *w, struct spool_batch *batch)
{
    struct spool *sp = w->sp;
    size_t len;
    uint8_t *index = spool_index_make(place_of(w), (uint32_t)w->offset, w->records, w->records_count, &len);
    struct iovec iov = {index, len};
    int rc = mr_fileio_write_full(sp->io, w->fd, &iov, 1, w->offset);
    free(index);
    if (no_space(rc)) {
        cut_back(w);
        return MR_NOSPACE;
    }
    if (rc < 0)
        mr_panic("spool: writing the index of segment %08x: %s", w->number, strerror(-rc));
    w->offset += len;
    cut_back(w); /* gives back blocks that were taken ahead */
    sync_segment(w, batch);
    (void)sp->io->close_file(sp->io, w->fd);
    w->fd = -1;
    w->has_sealed = true;
    batch->sealed = mr_realloc(batch->sealed, (batch->sealed_count + 1) * sizeof(*batch->sealed));
    batch->sealed[batch->sealed_count++] = w->number;
    return 0;
}

/* ---- records ---- */

static void note_record(struct spool_writer *w, const struct spool_record *r)
{
    if (w->records_count == w->records_room) {
        w->records_room = w->records_room == 0 ? 256 : w->records_room * 2;
        w->records = mr_realloc(w->records, w->records_room * sizeof(*w->records));
    }
    w->records[w->records_count++] = *r;
}

static void add_record(struct spool_writer *w, struct chunk *c, struct spool_put *req)
{
    const struct spool_piece *p = &req->piece;
    struct spool_put_state *st = spool_put_state(req);
    struct spool_record r = {.id = p->id,
                             .attempt = st->attempt,
                             .piece = p->piece,
                             .last = p->last,
                             .stamp_ms = p->stamp_ms,
                             .len = (uint32_t)p->len,
                             .offset = (uint32_t)(w->offset + c->bytes)};
    if (p->last) {
        r.whole_length = p->length;
        memcpy(r.checksum, p->checksum, sizeof(r.checksum));
    }
    uint8_t *head = c->heads[c->count];
    uint32_t size = spool_record_size(r.len);
    spool_record_encode(head, place_of(w), SPOOL_RECORD_PIECE, &r,
                        spool_payload_sum(place_of(w), r.offset, p->data, p->len));
    c->iov[c->iov_count++] = (struct iovec){head, SPOOL_RECORD_HEAD};
    if (p->len > 0)
        c->iov[c->iov_count++] = (struct iovec){(void *)(uintptr_t)p->data, p->len};
    if (size > SPOOL_RECORD_HEAD + r.len)
        c->iov[c->iov_count++] = (struct iovec){(void *)(uintptr_t)zeros, size - SPOOL_RECORD_HEAD - r.len};
    st->segment = w->number;
    st->offset = r.offset;
    c->puts[c->count++] = req;
    c->bytes += size;
    note_record(w, &r);
}

/* MR_NOSPACE: none of the chunk's puts was written; each has its status. */
static int flush(struct spool_writer *w, struct chunk *c, struct spool_batch *batch)
{
    if (c->count == 0)
        return 0;
    allocate_ahead(w, w->offset + c->bytes);
    int rc = mr_fileio_write_full(w->sp->io, w->fd, c->iov, c->iov_count, w->offset);
    busy_step(w->sp->disk);
    if (no_space(rc)) {
        for (int i = 0; i < c->count; i++)
            spool_put_state(c->puts[i])->status = MR_NOSPACE;
        w->records_count -= (size_t)c->count;
        cut_back(w);
    } else if (rc < 0) {
        mr_panic("spool: writing segment %08x: %s", w->number, strerror(-rc));
    } else {
        w->offset += c->bytes;
        w->unsynced = true;
        batch->pieces += (uint64_t)c->count;
    }
    c->count = c->iov_count = 0;
    c->bytes = 0;
    return rc < 0 ? MR_NOSPACE : 0;
}

static bool fits(const struct spool_writer *w, const struct chunk *c, uint32_t size)
{
    uint64_t index = spool_record_size((uint32_t)((w->records_count + 1) * SPOOL_INDEX_ENTRY)) + SPOOL_TAIL;
    return w->records_count == 0 || w->offset + c->bytes + size + index <= w->sp->segment_bytes;
}

/* A segment is open and has room for a record of this size. */
static int make_room(struct spool_writer *w, struct chunk *c, struct spool_batch *batch, uint32_t size)
{
    int rc = 0;
    if (w->fd >= 0 && !fits(w, c, size)) {
        rc = flush(w, c, batch);
        if (rc == 0)
            rc = seal_segment(w, batch);
    }
    if (rc == 0 && w->fd < 0)
        rc = open_segment(w, batch);
    if (rc == 0 && c->count == CHUNK_RECORDS)
        rc = flush(w, c, batch);
    return rc;
}

static void write_batch(struct spool_writer *w, struct chunk *c, struct spool_batch *batch)
{
    bool full = false, last = false;
    for (struct spool_put *req = batch->puts; req != NULL; req = spool_put_state(req)->queue_next) {
        struct spool_put_state *st = spool_put_state(req);
        uint32_t size = spool_record_size((uint32_t)req->piece.len);
        uint64_t extra = atomic_load(&w->sp->keep_free);
        uint64_t keep = st->reserve ? extra / 2 : w->sp->reserve + extra;
        if (st->build == NULL)
            continue;
        if (full || w->space_left < keep + size) {
            st->status = MR_NOSPACE;
            continue;
        }
        if (make_room(w, c, batch, size) != 0) {
            full = true;
            st->status = MR_NOSPACE;
            continue;
        }
        if (w->offset + c->bytes + size > w->allocated)
            w->space_left -= size;
        add_record(w, c, req);
        last = last || req->piece.last;
    }
    (void)flush(w, c, batch);
    if (last && w->unsynced && w->fd >= 0)
        sync_segment(w, batch);
}

/* ---- while nobody comes ---- */

/* A step of writing zeros behind the records of the open segment (spool_spare.c says what for). False: not needed. */
static bool fill_segment(struct spool_writer *w)
{
    struct spool *sp = w->sp;
    uint64_t from = w->written > w->offset ? w->written : w->offset;
    if (w->fd < 0 || w->offset < sp->segment_bytes / SPOOL_FILL_AFTER || from >= sp->segment_bytes ||
        !spool_spare_room(w))
        return false;
    uint64_t left = sp->segment_bytes - from;
    struct spool_batch batch = {0};
    int rc = spool_write_zeros(sp, w->fd, from, left < SPOOL_FILL_STEP ? left : SPOOL_FILL_STEP);
    if (no_space(rc)) {
        sp->spares.given_up = true;
        cut_back(w);
        return false;
    }
    if (rc < 0)
        mr_panic("spool: writing segment %08x: %s", w->number, strerror(-rc));
    sync_segment(w, &batch);
    w->written = from + (left < SPOOL_FILL_STEP ? left : SPOOL_FILL_STEP);
    if (w->allocated < w->written)
        w->allocated = w->written;
    return true;
}

/* ---- thread ---- */

static struct timespec from_now(uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    ns += (uint64_t)t.tv_nsec;
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}

/* Puts that came while the disk worked on the batch before are no lone session's, which waits for its answer: more are
 * on their way, and are waited for as long as that batch took, so that one sync does for them too. */
static void gather(struct spool_writer *w)
{
    struct timespec until = from_now(w->took_ns < GATHER_MAX_NS ? w->took_ns : GATHER_MAX_NS);
    int rc = 0;
    while (w->head != NULL && !w->stop && rc == 0)
        rc = pthread_cond_timedwait(&w->wake, &w->mutex, &until);
}

/* Waits for puts, at most so long; NULL: none came. */
static struct spool_put *take(struct spool_writer *w, unsigned wait_ms, bool *stop)
{
    struct timespec until = from_now(wait_ms * MR_NS_PER_MS);
    pthread_mutex_lock(&w->mutex);
    gather(w);
    int rc = 0;
    while (w->head == NULL && !w->stop && rc == 0 && wait_ms > 0)
        rc = pthread_cond_timedwait(&w->wake, &w->mutex, &until);
    struct spool_put *first = w->head;
    struct spool_put *end = first;
    if (first != NULL) {
        size_t bytes = end->piece.len;
        while (spool_put_state(end)->queue_next != NULL && bytes < BATCH_BYTES) {
            end = spool_put_state(end)->queue_next;
            bytes += end->piece.len;
        }
        w->head = spool_put_state(end)->queue_next;
        if (w->head == NULL)
            w->tail = &w->head;
        spool_put_state(end)->queue_next = NULL;
    }
    *stop = w->stop && first == NULL;
    pthread_mutex_unlock(&w->mutex);
    return first;
}

static void *run(void *arg)
{
    struct spool_writer *w = arg;
    struct chunk *chunk = mr_calloc(1, sizeof(*chunk));
    unsigned wait_ms = IDLE_MS;
    for (;;) {
        bool stop;
        struct spool_put *puts = take(w, wait_ms, &stop);
        if (stop)
            break;
        busy_begin(w->sp->disk);
        look_at_space(w);
        if (puts == NULL) {
            bool filled = fill_segment(w) || spool_spare_fill(w);
            busy_end(w->sp->disk);
            wait_ms = filled ? 0 : LOOK_MS;
            continue;
        }
        wait_ms = IDLE_MS;
        struct spool_batch *batch = mr_calloc(1, sizeof(*batch));
        batch->mail.run = spool_batch_done;
        batch->sp = w->sp;
        batch->puts = puts;
        uint64_t begun = mr_boot_ns(&mr_clock_real);
        write_batch(w, chunk, batch);
        w->took_ns = mr_boot_ns(&mr_clock_real) - begun;
        busy_end(w->sp->disk);
        mailbox_post(w->sp->mailbox, &batch->mail);
    }
    free(chunk);
    return NULL;
}

int spool_writer_start(struct spool_writer *w)
{
    mr_cond_init(&w->wake);
    pthread_mutex_init(&w->mutex, NULL);
    w->tail = &w->head;
    if (mr_thread_start(&w->thread, run, w) == 0)
        return 0;
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->wake);
    return MR_NOMEM;
}

void spool_writer_push(struct spool_writer *w, struct spool_put *req)
{
    spool_put_state(req)->queue_next = NULL;
    pthread_mutex_lock(&w->mutex);
    bool wake = w->head == NULL;
    *w->tail = req;
    w->tail = &spool_put_state(req)->queue_next;
    if (wake)
        pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->mutex);
}

void spool_writer_stop(struct spool_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    mr_assert(w->head == NULL);
    w->stop = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->wake);
}

void spool_writer_free(struct spool_writer *w)
{
    if (w->fd >= 0)
        (void)w->sp->io->close_file(w->sp->io, w->fd);
    free(w->records);
}
