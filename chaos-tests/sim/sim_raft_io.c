/* The log of the raft_io in place of raft_uv: appends in order, grouped into one write at a time into prepared
 * segments; truncations and snapshots wait for what comes before them, as raft_uv's barriers do.
 *
 * An append: queued -> (with others that fit) written to the page cache, the sync begins -> the disk's time -> durable,
 * callbacks. So a kill keeps what was handed over, a power cut keeps any of its sectors. A full disk: no segment can be
 * prepared, appends wait, raft_uv's words say so. A failed write or sync: raft_uv's words, on which replica_io.c ends
 * the process; without that the append never comes back. Close: what was not handed over is canceled. */
#include "chaos-tests/sim/sim_raft_io.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HANG_POLL_NS UINT64_C(5000000)

static void name_of(char *out, const struct raft_io_segment *s)
{
    (void)snprintf(out, RAFT_FILE_NAME, "open-%" PRIu64, s->counter);
}

/* ---- segments to come ---- */

static struct raft_io_segment *new_segment(struct raft_io_disk *d)
{
    struct raft_io_segment *s = mr_calloc(1, sizeof(*s));
    s->owner = d;
    s->counter = d->next_counter++;
    s->fd = -1;
    return s;
}

/* Pool. */
static void prepare_segment(struct raft_io_segment *s)
{
    struct raft_file_dir dir = {s->owner->path, true, s->errmsg};
    char name[RAFT_FILE_NAME];
    name_of(name, s);
    char *path = raft_file_path(&dir, name);
    s->status = RAFT_IOERR;
    s->fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (s->fd >= 0) {
        int rc = posix_fallocate(s->fd, 0, (off_t)s->owner->segment_size);
        if (rc != 0) {
            close(s->fd);
            (void)unlink(path);
            s->status = rc == ENOSPC ? RAFT_NOSPACE : RAFT_IOERR;
        } else {
            s->status = raft_file_sync_dir(&dir);
            if (s->status != 0)
                close(s->fd); /* the name stays, and the next try finds it: as raft_uv */
        }
    }
    free(path);
}

static void prepare_run(uv_work_t *work)
{
    prepare_segment(work->data);
}

static void discard(struct raft_io_segment *s)
{
    char name[RAFT_FILE_NAME];
    name_of(name, s);
    close(s->fd);
    (void)raft_file_remove(&s->owner->dir, name);
    free(s);
}

static void prepare_next(struct raft_io_disk *d);
static void prepared(uv_work_t *work, int status);

static void prepare_again(uv_timer_t *timer)
{
    struct raft_io_disk *d = timer->data;
    raft_io_tell(d, "retry creating segment open-%" PRIu64, d->preparing->counter);
    raft_io_work(d, &d->prepare_work, prepare_run, prepared);
}

static void prepared(uv_work_t *work, int status)
{
    struct raft_io_segment *s = work->data;
    struct raft_io_disk *d = s->owner;
    mr_assert(status == 0);
    if (!d->closing && s->status != 0) {
        (void)uv_timer_start(&d->prepare_retry, prepare_again, RAFT_IO_RETRY_MS, 0);
    } else if (d->closing) {
        d->preparing = NULL;
        if (s->status == 0)
            discard(s);
    } else {
        d->preparing = NULL;
        d->pool[d->n_pool++] = s;
        raft_io_run(d);
        prepare_next(d);
    }
    raft_io_done(d);
}

static void prepare_next(struct raft_io_disk *d)
{
    if (d->closing || d->preparing != NULL || d->n_pool == RAFT_IO_POOL)
        return;
    d->preparing = new_segment(d);
    d->prepare_work.data = d->preparing;
    raft_io_work(d, &d->prepare_work, prepare_run, prepared);
}

void raft_io_prepare_first(struct raft_io_disk *d)
{
    while (d->n_pool < RAFT_IO_POOL) {
        struct raft_io_segment *s = new_segment(d);
        prepare_segment(s);
        if (s->status != 0) {
            d->next_counter--;
            free(s);
            return;
        }
        d->pool[d->n_pool++] = s;
        d->io->capacity = (unsigned short)(d->io->capacity + d->nominal_size / 1024);
    }
}

/* NULL: none is ready. */
static struct raft_io_segment *take_segment(struct raft_io_disk *d)
{
    struct raft_io_segment *s = NULL;
    if (d->n_pool > 0) {
        s = d->pool[0];
        d->n_pool--;
        memmove(d->pool, d->pool + 1, d->n_pool * sizeof(struct raft_io_segment *));
    }
    prepare_next(d);
    return s;
}

/* ---- segments that are full ---- */

/* Pool. */
static void finalize_run(uv_work_t *work)
{
    struct raft_io_segment *s = work->data;
    struct raft_file_dir dir = {s->owner->path, true, s->errmsg};
    char name[RAFT_FILE_NAME], closed[RAFT_FILE_NAME];
    name_of(name, s);
    if (s->used == 0) {
        s->status = raft_file_remove(&dir, name);
    } else {
        raft_file_closed_name(closed, s->first, s->last);
        char *from = raft_file_path(&dir, name), *to = raft_file_path(&dir, closed);
        int fd = open(from, O_RDWR);
        bool ok = fd >= 0 && ftruncate(fd, (off_t)s->used) == 0 && fsync(fd) == 0 && rename(from, to) == 0;
        s->status = ok ? 0 : RAFT_IOERR;
        if (fd >= 0)
            close(fd);
        free(to);
        free(from);
    }
    if (s->status == 0)
        s->status = raft_file_sync_dir(&dir);
    if (s->status != 0)
        raft_io_tell(s->owner, "truncate segment %s: %s", name, s->errmsg);
}

static void finalize_next(struct raft_io_disk *d);

/* raft_uv notes a failure and goes on; what it has traced is all that tells. */
static void finalized(uv_work_t *work, int status)
{
    struct raft_io_segment *s = work->data;
    struct raft_io_disk *d = s->owner;
    mr_assert(status == 0);
    free(s);
    d->finalizing = false;
    finalize_next(d);
    raft_io_run(d);
    raft_io_done(d);
}

static void finalize_next(struct raft_io_disk *d)
{
    struct raft_io_segment *s = d->dying;
    if (d->finalizing || s == NULL)
        return;
    d->dying = s->next;
    if (d->dying == NULL)
        d->dying_end = &d->dying;
    d->finalizing = true;
    d->finalize_work.data = s;
    raft_io_work(d, &d->finalize_work, finalize_run, finalized);
}

static void finish_current(struct raft_io_disk *d)
{
    struct raft_io_segment *s = d->current;
    if (s == NULL)
        return;
    d->current = NULL;
    close(s->fd);
    *d->dying_end = s;
    d->dying_end = &s->next;
    finalize_next(d);
}

static bool all_closed(const struct raft_io_disk *d)
{
    return d->current == NULL && !d->finalizing && d->dying == NULL;
}

/* ---- appends ---- */

void raft_io_push(struct raft_io_disk *d, struct raft_io_op op)
{
    *d->ops_end = mr_memdup(&op, sizeof(op));
    d->ops_end = &(*d->ops_end)->next;
}

static struct raft_io_op *pop(struct raft_io_disk *d)
{
    struct raft_io_op *op = d->ops;
    d->ops = op->next;
    if (d->ops == NULL)
        d->ops_end = &d->ops;
    op->next = NULL;
    return op;
}

static void write_done(void *arg)
{
    struct raft_io_disk *d = arg;
    if (sim_disk_mood(sim_node())->hang) {
        sim_loop_post(d->loop, sim_now() + HANG_POLL_NS, write_done, d);
        return;
    }
    if (sim_file_sync_end(d->current->fd) != 0) {
        raft_io_tell(d, "retry failed write (%s)", strerror(EIO));
        return;
    }
    struct raft_io_op *done = d->writing;
    d->writing = NULL;
    d->current->used += d->writing_bytes;
    sim_trace("raft_written", d->current->last);
    while (done != NULL) {
        struct raft_io_op *op = done;
        struct raft_io_append *req = op->append;
        done = op->next;
        free(op);
        req->cb(req, 0);
    }
    if (d->closing)
        finish_current(d);
    raft_io_run(d);
    raft_io_done(d);
}

/* The appends that are next and fit go into one write. */
static void write_some(struct raft_io_disk *d)
{
    struct raft_io_segment *s = d->current;
    struct raft_io_op **end = &d->writing;
    uint64_t size = s->used == 0 ? RAFT_FILE_HEAD : 0;
    uint8_t *bytes = mr_calloc(1, RAFT_FILE_HEAD);
    bytes[0] = 1; /* the format, little endian */
    while (d->ops != NULL && d->ops->kind == OP_APPEND) {
        size_t more = raft_file_batch_size(d->ops->entries, d->ops->n);
        if (d->writing != NULL && s->used + size + more > d->segment_size)
            break;
        struct raft_io_op *op = pop(d);
        bytes = mr_realloc(bytes, size + more);
        raft_file_batch_encode(bytes + size, op->entries, op->n);
        size += more;
        s->first = s->first != 0 ? s->first : op->index;
        s->last = op->index + op->n - 1;
        *end = op;
        end = &op->next;
    }
    d->writing_bytes = size;
    ssize_t n = pwrite(s->fd, bytes, size, (off_t)s->used);
    free(bytes);
    if (n != (ssize_t)size) {
        raft_io_tell(d, "retry failed write (%s)", n < 0 ? strerror(errno) : "short write");
        return;
    }
    sim_file_sync_begin(s->fd);
    uint64_t ns = sim_file_sync_time(sim_node());
    d->busy++;
    sim_loop_post(d->loop, sim_now() + (ns == UINT64_MAX ? HANG_POLL_NS : ns), write_done, d);
}

/* False: it has to wait. */
static bool start_append(struct raft_io_disk *d)
{
    const struct raft_io_op *op = d->ops;
    if (d->current != NULL && d->current->used > 0 &&
        d->current->used + raft_file_batch_size(op->entries, op->n) > d->segment_size)
        finish_current(d);
    if (d->current == NULL)
        d->current = take_segment(d);
    if (d->current == NULL)
        return false;
    write_some(d);
    return false;
}

int raft_io_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                   raft_io_append_cb cb)
{
    struct raft_io_disk *d = io->impl;
    req->cb = cb;
    raft_io_push(
        d, (struct raft_io_op){.kind = OP_APPEND, .append = req, .entries = entries, .n = n, .index = d->next_index});
    d->next_index += n;
    raft_io_run(d);
    return 0;
}

/* ---- truncations ---- */

/* Pool. */
static void truncate_run(uv_work_t *work)
{
    struct raft_io_disk *d = work->data;
    char errmsg[RAFT_ERRMSG_BUF_SIZE];
    struct raft_file_dir dir = {d->path, true, errmsg};
    d->truncate_status = raft_file_truncate(&dir, d->ops->index);
    if (d->truncate_status == 0)
        raft_io_tell(d, "uv truncate work cb ok");
}

static void truncated(uv_work_t *work, int status)
{
    struct raft_io_disk *d = work->data;
    raft_io_tell(d, "uv truncate after work cb status:%d", status);
    sim_trace("raft_truncated", d->ops->index);
    d->truncating = false;
    free(pop(d));
    raft_io_run(d);
    raft_io_done(d);
}

static void start_truncate(struct raft_io_disk *d)
{
    finish_current(d);
    if (d->truncating || !all_closed(d) || (d->put != NULL && d->put->under_way))
        return;
    d->truncating = true;
    d->truncate_work.data = d;
    raft_io_work(d, &d->truncate_work, truncate_run, truncated);
}

int raft_io_truncate(struct raft_io *io, raft_index index)
{
    struct raft_io_disk *d = io->impl;
    if (index >= d->next_index)
        return 0;
    d->next_index = index;
    raft_io_push(d, (struct raft_io_op){.kind = OP_TRUNCATE, .index = index});
    raft_io_run(d);
    return 0;
}

/* ---- what is next ---- */

/* A snapshot of our own waits for the segments before it only; what comes after goes on. */
static void start_put(struct raft_io_disk *d)
{
    finish_current(d);
    struct raft_io_op *op = pop(d);
    op->put->ready = true;
    free(op);
}

void raft_io_run(struct raft_io_disk *d)
{
    bool go = true;
    while (go && d->ops != NULL && d->writing == NULL && !d->closing) {
        switch (d->ops->kind) {
        case OP_APPEND:
            go = start_append(d);
            break;
        case OP_TRUNCATE:
            start_truncate(d);
            go = false;
            break;
        case OP_PUT:
            start_put(d);
            break;
        case OP_INSTALL:
            finish_current(d);
            d->ops->put->ready = true;
            go = false;
            break;
        }
    }
    if (d->put != NULL && d->put->ready && !d->put->under_way && !d->closing && !d->finalizing && d->dying == NULL)
        raft_io_put_go(d->put);
}

/* ---- close ---- */

void raft_io_close_log(struct raft_io_disk *d)
{
    while (d->n_pool > 0)
        discard(d->pool[--d->n_pool]);
    if (d->preparing != NULL && uv_is_active((uv_handle_t *)&d->prepare_retry)) {
        free(d->preparing);
        d->preparing = NULL;
    }
    struct raft_io_op *under_way = d->truncating ? pop(d) : NULL;
    while (d->ops != NULL) {
        struct raft_io_op *op = pop(d);
        if (op->kind == OP_APPEND)
            op->append->cb(op->append, RAFT_CANCELED);
        free(op);
    }
    if (under_way != NULL) {
        d->ops = under_way;
        d->ops_end = &under_way->next;
    }
    if (d->writing == NULL)
        finish_current(d);
}
