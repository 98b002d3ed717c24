/* raft_uv's functions in front of the simulated disk: life, metadata, snapshots. The linker finds these instead of
 * libraft's, so replica_io.c's guards wrap this raft_io and its code runs as it is.
 *
 * A snapshot: two files without names are written and synced (pool; tried again while that fails) -> the log before it
 * is closed -> names, the directory's sync, older files go (pool) -> callback. */
#include "chaos-tests/sim/sim_raft_io.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void LegacyFireCompletedRequests(struct raft *r); /* libraft.a; raft_uv calls it too */

static struct {
    char *dir;
    struct raft_file_meta told; /* what the program was told to be stored */
} known[SIM_MAX_NODES + 1];     /* for sim_raft_view */

void raft_io_tell(struct raft_io_disk *d, const char *format, ...)
{
    char text[256];
    va_list args;
    if (d->tracer == NULL)
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    struct raft_tracer_info info = {.version = 1, .diagnostic = {.level = 5, .message = text, .file = __FILE__}};
    d->tracer->emit(d->tracer, RAFT_TRACER_DIAGNOSTIC, &info);
}

void raft_io_work(struct raft_io_disk *d, uv_work_t *work, uv_work_cb run, uv_after_work_cb after)
{
    d->busy++;
    int rc = uv_queue_work(d->loop, work, run, after);
    mr_assert(rc == 0);
}

void raft_io_done(struct raft_io_disk *d)
{
    mr_assert(d->busy > 0);
    if (--d->busy > 0 || d->close_cb == NULL)
        return;
    raft_io_close_cb cb = d->close_cb;
    d->close_cb = NULL;
    cb(d->io);
}

/* ---- metadata, load ---- */

static int store_meta(struct raft_io_disk *d)
{
    int rv = raft_file_meta_store(&d->dir, &d->meta);
    if (rv == 0)
        known[sim_node()].told = d->meta;
    return rv;
}

static int set_term(struct raft_io *io, raft_term term)
{
    struct raft_io_disk *d = io->impl;
    d->meta = (struct raft_file_meta){.version = d->meta.version + 1, .term = term};
    return store_meta(d);
}

static int set_vote(struct raft_io *io, raft_id id)
{
    struct raft_io_disk *d = io->impl;
    d->meta.version++;
    d->meta.vote = id;
    return store_meta(d);
}

static int load_all(struct raft_io *io, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                    raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    struct raft_io_disk *d = io->impl;
    struct raft_file_log log;
    int rv = raft_file_load(&d->dir, &log);
    if (rv != 0)
        return rv;
    *term = d->meta.term;
    *voted_for = d->meta.vote;
    *snapshot = log.snapshot;
    *start_index = log.start;
    *entries = log.entries;
    *n_entries = log.n;
    d->next_index = log.start + log.n;
    return 0;
}

static int configuration_entry(const struct raft_configuration *conf, uint64_t term, struct raft_entry *out)
{
    *out = (struct raft_entry){.term = term, .type = RAFT_CHANGE};
    return raft_configuration_encode(conf, &out->buf);
}

static int bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    struct raft_io_disk *d = io->impl;
    struct raft_entry entry;
    if (d->meta.term != 0)
        return RAFT_CANTBOOTSTRAP;
    int rv = set_term(io, 1);
    if (rv == 0)
        rv = configuration_entry(conf, 1, &entry);
    if (rv == 0) {
        rv = raft_file_make_closed(&d->dir, 1, 1, &entry, 1);
        raft_free(entry.buf.base);
    }
    return rv;
}

static int recover(struct raft_io *io, const struct raft_configuration *conf)
{
    struct raft_io_disk *d = io->impl;
    struct raft_file_log log;
    struct raft_entry entry;
    int rv = raft_file_load(&d->dir, &log);
    if (rv != 0)
        return rv;
    uint64_t next = log.start + log.n;
    uint64_t term = log.n > 0 ? log.entries[log.n - 1].term : log.snapshot != NULL ? log.snapshot->term : 1;
    rv = configuration_entry(conf, term, &entry);
    if (rv == 0) {
        rv = raft_file_make_closed(&d->dir, next, next, &entry, 1);
        raft_free(entry.buf.base);
    }
    raft_file_log_free(&log);
    return rv;
}

/* ---- snapshots ---- */

void raft_io_put_end(struct raft_io_put *put, int status)
{
    struct raft_io_disk *d = put->owner;
    struct raft_io_snapshot_put *req = put->req;
    d->put = NULL;
    free(put->meta.base);
    free(put);
    req->cb(req, status);
}

/* Pool. */
static int write_unnamed(const char *path, const struct raft_buffer *bufs, unsigned n, int *fd)
{
    uint64_t size = 0;
    for (unsigned i = 0; i < n; i++)
        size += bufs[i].len;
    *fd = open(path, O_TMPFILE | O_WRONLY, 0600);
    if (*fd < 0)
        return RAFT_IOERR;
    int rc = posix_fallocate(*fd, 0, (off_t)size);
    if (rc == 0)
        rc = raft_file_fill(*fd, bufs, n);
    if (rc == 0)
        return 0;
    close(*fd);
    return RAFT_IOERR;
}

/* Pool. */
static void put_write_run(uv_work_t *work)
{
    struct raft_io_put *put = work->data;
    put->status = write_unnamed(put->owner->path, &put->meta, 1, &put->meta_fd);
    if (put->status != 0)
        return;
    put->status = write_unnamed(put->owner->path, put->snapshot->bufs, put->snapshot->n_bufs, &put->data_fd);
    if (put->status != 0)
        close(put->meta_fd);
}

static void put_written(uv_work_t *work, int status);

static void put_again(uv_timer_t *timer)
{
    struct raft_io_disk *d = timer->data;
    d->put->writing = true;
    raft_io_work(d, &d->put_work, put_write_run, put_written);
}

static void put_written(uv_work_t *work, int status)
{
    struct raft_io_put *put = work->data;
    struct raft_io_disk *d = put->owner;
    mr_assert(status == 0);
    put->writing = false;
    if (d->closing) {
        if (put->status == 0) {
            close(put->meta_fd);
            close(put->data_fd);
        }
        raft_io_put_end(put, RAFT_CANCELED);
    } else if (put->status != 0) {
        raft_io_tell(d, "retry snapshot write");
        (void)uv_timer_start(&d->put_retry, put_again, RAFT_IO_RETRY_MS, 0);
    } else {
        if (put->trailing == 0)
            d->next_index = put->snapshot->index + 1;
        raft_io_push(d, (struct raft_io_op){.kind = put->trailing == 0 ? OP_INSTALL : OP_PUT, .put = put});
        raft_io_run(d);
    }
    raft_io_done(d);
}

/* Pool. */
static void put_name_run(uv_work_t *work)
{
    struct raft_io_put *put = work->data;
    struct raft_file_dir dir = {put->owner->path, true, put->errmsg};
    struct raft_file_snapshot s = {put->snapshot->term, put->snapshot->index, put->stamp};
    char meta[RAFT_FILE_NAME], data[RAFT_FILE_NAME];
    raft_file_snapshot_name(meta, &s, true);
    raft_file_snapshot_name(data, &s, false);
    char *meta_path = raft_file_path(&dir, meta), *data_path = raft_file_path(&dir, data);
    int rc = sim_file_link(put->meta_fd, meta_path);
    close(put->meta_fd);
    if (rc == 0)
        rc = sim_file_link(put->data_fd, data_path);
    close(put->data_fd);
    free(meta_path);
    free(data_path);
    put->status = rc == 0 ? raft_file_sync_dir(&dir) : RAFT_IOERR;
    if (put->status == 0)
        put->status = raft_file_trail(&dir, put->snapshot->index, put->trailing);
}

static void put_named(uv_work_t *work, int status)
{
    struct raft_io_put *put = work->data;
    struct raft_io_disk *d = put->owner;
    bool install = put->trailing == 0;
    mr_assert(status == 0);
    sim_trace("raft_snapshot", put->snapshot->index);
    raft_io_put_end(put, put->status);
    if (install && d->ops != NULL && d->ops->kind == OP_INSTALL) {
        struct raft_io_op *op = d->ops;
        d->ops = op->next;
        if (d->ops == NULL)
            d->ops_end = &d->ops;
        free(op);
    }
    raft_io_run(d);
    raft_io_done(d);
}

void raft_io_put_go(struct raft_io_put *put)
{
    put->under_way = true;
    raft_io_work(put->owner, &put->owner->put_work, put_name_run, put_named);
}

int raft_io_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct raft_io_disk *d = io->impl;
    if (d->closing)
        return RAFT_CANCELED;
    mr_assert(d->put == NULL);
    struct raft_io_put *put = mr_calloc(1, sizeof(*put));
    *put = (struct raft_io_put){
        .owner = d, .req = req, .snapshot = snapshot, .trailing = trailing, .stamp = uv_now(d->loop)};
    int rv = raft_file_snapshot_meta(snapshot, &put->meta);
    if (rv != 0) {
        free(put);
        return rv;
    }
    req->cb = cb;
    d->put = put;
    d->put_work.data = put;
    put->writing = true;
    raft_io_work(d, &d->put_work, put_write_run, put_written);
    return 0;
}

struct get {
    struct raft_io_disk *owner;
    struct raft_io_snapshot_get *req;
    struct raft_snapshot *snapshot;
    uv_work_t work;
    int status;
};

/* Pool. */
static void get_run(uv_work_t *work)
{
    struct get *g = work->data;
    char errmsg[RAFT_ERRMSG_BUF_SIZE];
    struct raft_file_dir dir = {g->owner->path, true, errmsg};
    struct raft_file_list list;
    g->status = raft_file_list(&dir, &list);
    if (g->status == 0 && list.n_snapshots > 0)
        g->status = raft_file_snapshot_load(&dir, &list.snapshots[list.n_snapshots - 1], g->snapshot);
    raft_file_list_free(&list);
}

static void got(uv_work_t *work, int status)
{
    struct get *g = work->data;
    struct raft_io_disk *d = g->owner;
    mr_assert(status == 0);
    g->req->cb(g->req, g->snapshot, g->status);
    free(g);
    raft_io_done(d);
}

int raft_io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb)
{
    struct get *g = mr_calloc(1, sizeof(*g));
    *g = (struct get){.owner = io->impl, .req = req, .snapshot = raft_calloc(1, sizeof(*g->snapshot))};
    req->cb = cb;
    g->work.data = g;
    raft_io_work(g->owner, &g->work, get_run, got);
    return 0;
}

/* ---- life ---- */

static void on_tick(uv_timer_t *timer)
{
    struct raft_io_disk *d = timer->data;
    d->tick_cb(d->io);
}

static void each_turn(struct raft_io_disk *d)
{
    /* libraft refuses entries below 4 MiB: what small segments have counts as what full ones would have. */
    uint64_t bytes = d->n_pool * d->nominal_size;
    if (d->current != NULL && d->current->used < d->segment_size)
        bytes += d->nominal_size - d->nominal_size * d->current->used / d->segment_size;
    d->io->capacity = (unsigned short)(bytes / 1024);
    if (d->io->data != NULL)
        LegacyFireCompletedRequests(d->io->data);
}

static void on_prepare(uv_prepare_t *handle)
{
    each_turn(handle->data);
}

static void on_check(uv_check_t *handle)
{
    each_turn(handle->data);
}

static int init(struct raft_io *io, raft_id id, const char *address)
{
    struct raft_io_disk *d = io->impl;
    (void)id, (void)address;
    int fd = open(d->path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) {
        (void)snprintf(io->errmsg, RAFT_ERRMSG_BUF_SIZE, "%s: %s", d->path, strerror(errno));
        return errno == ENOENT ? RAFT_NOTFOUND : RAFT_INVALID;
    }
    close(fd);
    raft_file_maintain(&d->dir);
    int rv = raft_file_meta_load(&d->dir, &d->meta);
    if (rv != 0)
        return rv;
    (void)uv_timer_init(d->loop, &d->tick);
    (void)uv_timer_init(d->loop, &d->prepare_retry);
    (void)uv_timer_init(d->loop, &d->put_retry);
    (void)uv_prepare_init(d->loop, &d->prepare);
    (void)uv_check_init(d->loop, &d->check);
    d->tick.data = d->prepare_retry.data = d->put_retry.data = d->prepare.data = d->check.data = d;
    d->busy = 5;
    return 0;
}

static int start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct raft_io_disk *d = io->impl;
    (void)recv; /* replica_io.c's network calls it */
    d->tick_cb = tick;
    (void)uv_timer_start(&d->tick, on_tick, msecs, msecs);
    (void)uv_prepare_start(&d->prepare, on_prepare);
    (void)uv_check_start(&d->check, on_check);
    raft_io_prepare_first(d);
    return 0;
}

static void handle_closed(uv_handle_t *handle)
{
    raft_io_done(handle->data);
}

static void close_io(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_io_disk *d = io->impl;
    struct raft_io_put *waiting = d->put;
    d->closing = true;
    d->close_cb = cb;
    raft_io_close_log(d);
    if (waiting != NULL && !waiting->under_way && !waiting->writing)
        raft_io_put_end(waiting, RAFT_CANCELED);
    uv_close((uv_handle_t *)&d->tick, handle_closed);
    uv_close((uv_handle_t *)&d->prepare_retry, handle_closed);
    uv_close((uv_handle_t *)&d->put_retry, handle_closed);
    uv_close((uv_handle_t *)&d->prepare, handle_closed);
    uv_close((uv_handle_t *)&d->check, handle_closed);
}

static raft_time time_now(struct raft_io *io)
{
    return uv_now(((struct raft_io_disk *)io->impl)->loop);
}

static int random_between(struct raft_io *io, int min, int max)
{
    (void)io;
    return min + (int)sim_below(SIM_PROGRAM, (uint64_t)(max - min));
}

int raft_uv_init(struct raft_io *io, struct uv_loop_s *loop, const char *dir, struct raft_uv_transport *transport)
{
    (void)transport;
    struct raft_io_disk *d = mr_calloc(1, sizeof(*d));
    void *data = io->data;
    short version = io->version;
    d->io = io;
    d->loop = loop;
    d->path = mr_strdup(dir);
    d->dir = (struct raft_file_dir){d->path, true, io->errmsg};
    d->segment_size = d->nominal_size = 8 << 20;
    d->next_index = 1;
    d->next_counter = 1;
    d->ops_end = &d->ops;
    d->dying_end = &d->dying;
    free(known[sim_node()].dir);
    known[sim_node()].dir = mr_strdup(dir);
    *io = (struct raft_io){.version = version,
                           .data = data,
                           .impl = d,
                           .init = init,
                           .close = close_io,
                           .load = load_all,
                           .start = start,
                           .bootstrap = bootstrap,
                           .recover = recover,
                           .set_term = set_term,
                           .set_vote = set_vote,
                           .append = raft_io_append,
                           .truncate = raft_io_truncate,
                           .snapshot_put = raft_io_snapshot_put,
                           .snapshot_get = raft_io_snapshot_get,
                           .time = time_now,
                           .random = random_between};
    return 0;
}

void raft_uv_close(struct raft_io *io)
{
    struct raft_io_disk *d = io->impl;
    io->impl = NULL;
    free(d->path);
    free(d);
}

/* Full segments and what comes with them would be rare in a world of minutes: some lives have small ones. */
void raft_uv_set_segment_size(struct raft_io *io, size_t size)
{
    struct raft_io_disk *d = io->impl;
    d->nominal_size = size;
    d->segment_size = sim_chance(SIM_DISK, 0.5) ? size : UINT64_C(4096) << sim_below(SIM_DISK, 8);
}

void raft_uv_set_auto_recovery(struct raft_io *io, bool flag)
{
    (void)io;
    mr_assert(!flag);
}

void raft_uv_set_tracer(struct raft_io *io, struct raft_tracer *tracer)
{
    struct raft_io_disk *d = io->impl;
    d->tracer = tracer;
}

void sim_raft_view(unsigned node, struct sim_raft_view *out)
{
    char errmsg[RAFT_ERRMSG_BUF_SIZE] = "";
    struct raft_file_dir dir = {known[node].dir, false, errmsg};
    struct raft_file_meta meta = {0};
    struct raft_file_log log;
    *out = (struct sim_raft_view){.told_term = known[node].told.term, .told_vote = known[node].told.vote};
    if (dir.path == NULL)
        return;
    sim_files_as(node);
    int rv = raft_file_meta_load(&dir, &meta);
    out->term = meta.term;
    out->vote = meta.vote;
    if (rv == 0)
        rv = raft_file_load(&dir, &log);
    sim_files_as(0);
    if (rv != 0) {
        sim_tracef("raft log of node %u is not readable: %s (%s)", node, raft_strerror(rv), errmsg);
        return;
    }
    out->readable = true;
    out->first = log.start;
    out->last = log.start + log.n - 1;
    out->snapshot = log.snapshot != NULL ? log.snapshot->index : 0;
    raft_file_log_free(&log);
}
