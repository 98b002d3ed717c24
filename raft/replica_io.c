/* replica_io.c - see replica_io.h.
 *
 * An append: libraft -> guarded_append -> raft_uv -> appended (oldest first) -> libraft.
 * A snapshot: replica_put.c.
 * Close: raft_uv's close, the network's last done and the threads of snapshots, then libraft's close callback. */
#include "raft/replica_io.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "raft/replica_load.h"
#include "raft/replica_put.h"
#include "raft/snapshot_write.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

struct append_guard {
    struct append_guard *next;
    struct replica_io *owner;
    struct raft_io_append inner; /* raft_uv's request */
    struct raft_io_append *outer;
    raft_io_append_cb cb;
    uint64_t last; /* index of its last entry that no truncation took */
    size_t bytes;
    uint64_t started_ms; /* running_ms */
};

static struct replica_io *owner_of(struct raft_io *io)
{
    return MR_CONTAINER(io, struct replica_io, io);
}

/* --- memory ---------------------------------------------------------------------------------------------------- */

static void *heap_malloc(void *data, size_t size)
{
    (void)data;
    return mr_calloc(1, size);
}

static void heap_free(void *data, void *p)
{
    (void)data;
    free(p);
}

static void *heap_calloc(void *data, size_t count, size_t size)
{
    (void)data;
    return mr_calloc(count, size);
}

static void *heap_realloc(void *data, void *p, size_t size)
{
    (void)data;
    return mr_realloc(p, size);
}

static void *heap_aligned_alloc(void *data, size_t alignment, size_t size)
{
    void *p = NULL;

    (void)data;
    if (posix_memalign(&p, alignment, size) != 0)
        mr_panic("out of memory: %zu bytes", size);
    return p;
}

static void heap_aligned_free(void *data, size_t alignment, void *p)
{
    (void)data;
    (void)alignment;
    free(p);
}

static void set_heap(void)
{
    static struct raft_heap heap = {NULL,         heap_malloc,        heap_free,        heap_calloc,
                                    heap_realloc, heap_aligned_alloc, heap_aligned_free};

    raft_heap_set(&heap);
}

void replica_io_heap(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* a replica of another thread may be in it */

    if (pthread_once(&once, set_heap) != 0)
        mr_panic("pthread_once");
}

/* --- raft_uv's words: what it tells no other way ------------------------------------------------------------------ */

static bool begins(const char *message, const char *prefix)
{
    return strncmp(message, prefix, strlen(prefix)) == 0;
}

/* For want of space raft_uv unlinks what it began and tries again, and so it may for long. A segment that is there was
 * allocated, and its directory not synced: a failed fsync, and each further try would only find the file (UPSTREAM.md
 * 36). */
static void on_segment_retried(struct replica_io *rio, const char *name)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof(path), "%s/%s", rio->dir, name);
    if (access(path, F_OK) == 0)
        mr_panic(
            "raft log in %s: the name of segment %s was not synced (its directory's fsync failed, or no descriptor "
            "was left to open it); nothing more is acknowledged",
            rio->dir, name);
    atomic_fetch_add(&rio->prepare_retries, 1);
}

static void trace(struct raft_tracer *tracer, int type, const void *data)
{
    static const char segment_retried[] = "retry creating segment ";
    struct replica_io *rio = tracer->impl;
    const struct raft_tracer_info *info = data;
    const char *message;

    if (type != RAFT_TRACER_DIAGNOSTIC)
        return;
    message = info->diagnostic.message;
    if (begins(message, "retry failed write"))
        mr_panic("raft log in %s: %s; nothing more is acknowledged", rio->dir, message);
    /* It stays open behind a snapshot that is newer than its first entries: the next start would count them from there.
     */
    if (begins(message, "truncate segment "))
        mr_panic("raft log in %s: a segment was not closed: %s; nothing more is acknowledged", rio->dir, message);
    if (begins(message, segment_retried))
        on_segment_retried(rio, message + sizeof(segment_retried) - 1);
    else if (begins(message, "retry snapshot write"))
        log_event(LOG_WARN, "raft_snapshot_write_retried", LOG_S("dir", rio->dir));
    else if (begins(message, "uv truncate work cb ok"))
        atomic_store(&rio->truncated_ok, 1);
    else if (begins(message, "uv truncate after work cb") && atomic_exchange(&rio->truncated_ok, 0) == 0)
        mr_panic("raft log in %s: a truncation failed; nothing more is acknowledged", rio->dir);
}

/* --- guards ----------------------------------------------------------------------------------------------------- */

static int guarded_set_term(struct raft_io *io, raft_term term)
{
    struct replica_io *rio = owner_of(io);
    int rv;

    /* libraft says so with each vote that it gives, also when it has given it before: raft_uv would store the term
     * without the vote first, and who dies then votes a second time (UPSTREAM.md 31). */
    if (term == rio->voted.term)
        return 0;
    rv = rio->uv.set_term(io, term);
    if (rv != 0)
        mr_panic("raft term %llu was not stored in %s: %s", term, rio->dir, io->errmsg);
    voted_term(&rio->voted, term);
    return 0;
}

static int guarded_set_vote(struct raft_io *io, raft_id id)
{
    struct replica_io *rio = owner_of(io);
    int rv = rio->uv.set_vote(io, id);

    if (rv != 0)
        mr_panic("raft vote was not stored in %s: %s", rio->dir, io->errmsg);
    voted_for(&rio->voted, id);
    return 0;
}

static void appended(struct raft_io_append *inner, int status)
{
    struct append_guard *g = MR_CONTAINER(inner, struct append_guard, inner);
    struct replica_io *rio = g->owner;
    raft_io_append_cb cb = g->cb;
    struct raft_io_append *outer = g->outer;
    struct append_guard **at = &rio->appends;

    if (status != 0 && !(rio->closing && status == RAFT_CANCELED))
        mr_panic("raft log in %s was not written: %s (%s)", rio->dir, raft_strerror(status), rio->io.errmsg);
    while (*at != g)
        at = &(*at)->next;
    *at = g->next;
    if (*at == NULL)
        rio->appends_end = at;
    rio->unpersisted -= g->bytes;
    if (status == 0) {
        acked_raise(&rio->acked, g->last);
        atomic_store(&rio->prepare_retries, 0);
    }
    free(g);
    cb(outer, status);
}

static int guarded_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                          raft_io_append_cb cb)
{
    struct replica_io *rio = owner_of(io);
    struct append_guard *g = mr_calloc(1, sizeof(*g));
    int rv;

    *g = (struct append_guard){.owner = rio, .outer = req, .cb = cb, .started_ms = rio->running_ms};
    for (unsigned i = 0; i < n; i++)
        g->bytes += entries[i].buf.len;
    rio->next_index += n;
    g->last = rio->next_index - 1;
    rio->unpersisted += g->bytes;
    rio->log_bytes += g->bytes;
    *rio->appends_end = g;
    rio->appends_end = &g->next;
    rv = rio->uv.append(io, &g->inner, entries, n, appended);
    if (rv != 0)
        mr_panic("raft log in %s does not take entries: %s (%s)", rio->dir, raft_strerror(rv), io->errmsg);
    return 0;
}

void replica_io_forget_from(struct replica_io *rio, uint64_t index)
{
    for (struct append_guard *g = rio->appends; g != NULL; g = g->next)
        if (g->last >= index)
            g->last = index - 1;
    acked_lower(&rio->acked, index - 1);
}

static int guarded_truncate(struct raft_io *io, raft_index index)
{
    struct replica_io *rio = owner_of(io);
    int rv;

    /* libraft calls it before each append, where it has nothing to do. */
    if (index < rio->next_index) {
        replica_io_forget_from(rio, index);
        rio->next_index = index;
    }
    rv = rio->uv.truncate(io, index);
    if (rv != 0)
        mr_panic("raft log in %s was not truncated: %s (%s)", rio->dir, raft_strerror(rv), io->errmsg);
    return 0;
}

static int guarded_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                                const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    return replica_put_snapshot(owner_of(io), trailing, req, snapshot, cb);
}

/* --- network ----------------------------------------------------------------------------------------------------- */

/* libraft refuses a pre-vote of an older term with that term: who asks would never learn how far terms have gone, and
 * ask the same for ever (UPSTREAM.md 29). */
static int own_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                    raft_io_send_cb cb)
{
    struct replica_io *rio = owner_of(io);
    struct raft_message answer;

    if (message->type == RAFT_REQUEST_VOTE_RESULT && message->request_vote_result.pre_vote &&
        !message->request_vote_result.vote_granted && message->request_vote_result.term < rio->voted.term) {
        answer = *message;
        answer.request_vote_result.term = rio->voted.term;
        message = &answer;
    }
    return replica_send_message(&rio->send, req, message, cb);
}

static int own_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb)
{
    return replica_send_snapshot_get(&owner_of(io)->send, req, cb);
}

static void own_tick(struct raft_io *io)
{
    struct replica_io *rio = owner_of(io);

    if (rio->closing)
        return;
    rio->tick(io);
    acked_flush(&rio->acked);
    rio->ticked(rio->arg);
}

static int own_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct replica_io *rio = owner_of(io);

    rio->tick = tick;
    rio->recv = recv;
    rio->last_tick_ms = uv_now(rio->loop);
    int rv = rio->uv.start(io, msecs, own_tick, recv);
    if (rv != 0)
        return rv;
    /* raft_uv does not try again to get its first segments, and without any libraft refuses every entry for ever
     * (UPSTREAM.md 32): better to end, and be started again when there is room. */
    if (io->capacity == 0) {
        (void)snprintf(io->errmsg, RAFT_ERRMSG_BUF_SIZE, "no room for a segment of %d MiB", REPLICA_SEGMENT_SIZE >> 20);
        return RAFT_NOSPACE;
    }
    return 0;
}

/* The transport that raft_uv wants; nothing ever comes in by it. */
static int stub_init(struct raft_uv_transport *t, raft_id id, const char *address)
{
    (void)t;
    (void)id;
    (void)address;
    return 0;
}

static int stub_listen(struct raft_uv_transport *t, raft_uv_accept_cb cb)
{
    (void)t;
    (void)cb;
    return 0;
}

static int stub_connect(struct raft_uv_transport *t, struct raft_uv_connect *req, raft_id id, const char *address,
                        raft_uv_connect_cb cb)
{
    (void)t;
    (void)req;
    (void)id;
    (void)address;
    (void)cb;
    return RAFT_NOCONNECTION;
}

static void stub_close(struct raft_uv_transport *t, raft_uv_transport_close_cb cb)
{
    cb(t);
}

/* --- close ------------------------------------------------------------------------------------------------------- */

void replica_io_maybe_closed(struct replica_io *rio)
{
    raft_io_close_cb cb = rio->close_cb;

    if (!rio->uv_closed || rio->send.outstanding > 0 || rio->write != NULL || rio->installing || cb == NULL)
        return;
    rio->close_cb = NULL;
    cb(&rio->io);
}

static void sends_idle(void *arg)
{
    replica_io_maybe_closed(arg);
}

static void uv_part_closed(struct raft_io *io)
{
    owner_of(io)->uv_closed = true;
    replica_io_maybe_closed(owner_of(io));
}

/* raft_uv's close waits for its own sends; ours still hold libraft's entries, so libraft may not go before them. */
static void own_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct replica_io *rio = owner_of(io);

    rio->closing = true;
    rio->close_cb = cb;
    if (rio->held != NULL)
        snapshot_write_stop(rio->write);
    rio->uv.close(io, uv_part_closed);
}

/* --- load --------------------------------------------------------------------------------------------------------- */

static int own_load(struct raft_io *io, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                    raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    return replica_load_take(owner_of(io), term, voted_for, snapshot, start_index, entries, n_entries);
}

uint64_t replica_io_loaded_snapshot(const struct replica_io *rio)
{
    return rio->send.snapshot_index;
}

/* --- watchdog ------------------------------------------------------------------------------------------------------
 */

uint64_t replica_io_append_age(const struct replica_io *rio)
{
    return rio->appends == NULL ? 0 : rio->running_ms - rio->appends->started_ms;
}

static bool disk_is_full(const struct replica_io *rio)
{
    struct statvfs fs;

    if (statvfs(rio->dir, &fs) != 0)
        return false;
    return (uint64_t)fs.f_bavail * fs.f_frsize < REPLICA_SEGMENT_SIZE || fs.f_favail == 0;
}

bool replica_io_watch(struct replica_io *rio)
{
    uint64_t now = uv_now(rio->loop);
    uint64_t gap = now - rio->last_tick_ms;
    uint64_t age;

    /* A stopped process reads the clock before it reads what the disk had ready: such a gap is not the disk's. */
    rio->running_ms += gap > 1000 ? 1000 : gap;
    rio->last_tick_ms = now;
    age = replica_io_append_age(rio);
    if (age < REPLICA_DISK_SLOW_MS)
        return rio->unpersisted > REPLICA_MAX_UNPERSISTED;
    /* A full disk is no dead one: the node stays as a follower until there is space again (PROTOCOL.md 8.5), and then
     * raft_uv has as long as any write to come through. */
    bool full = atomic_load(&rio->prepare_retries) > 0 && disk_is_full(rio);
    if (full)
        rio->disk_full_ms = rio->running_ms;
    if (age >= REPLICA_DISK_DEAD_MS) {
        if (rio->running_ms - rio->disk_full_ms >= REPLICA_DISK_DEAD_MS)
            mr_panic("raft log in %s: a write has not come back for %llu ms (%u failed segment preparations)", rio->dir,
                     (unsigned long long)age, atomic_load(&rio->prepare_retries));
        if (full && now - rio->disk_full_logged_ms >= REPLICA_DISK_DEAD_MS) {
            rio->disk_full_logged_ms = now;
            log_event(LOG_ERROR, "raft_disk_full", LOG_S("dir", rio->dir));
        }
    }
    return true;
}

/* --- life cycle -----------------------------------------------------------------------------------------------------
 */

/* raft_uv sets up one context for each open segment and fails its appends when the machine has none left. */
static int check_aio(char *error, size_t error_len)
{
    aio_context_t context = 0;

    if (syscall(SYS_io_setup, 64, &context) == 0) {
        syscall(SYS_io_destroy, context);
        return MR_OK;
    }
    if (errno == EAGAIN)
        snprintf(error, error_len,
                 "no asynchronous I/O contexts are left on this machine: raise fs.aio-max-nr (sysctl), fs.aio-nr shows "
                 "what is in use");
    else
        snprintf(error, error_len, "asynchronous I/O (io_setup) is not available here: %s", strerror(errno));
    return MR_IO;
}

static void wrap(struct replica_io *rio)
{
    rio->uv = rio->io;
    rio->io.close = own_close;
    rio->io.load = own_load;
    rio->io.start = own_start;
    rio->io.set_term = guarded_set_term;
    rio->io.set_vote = guarded_set_vote;
    rio->io.append = guarded_append;
    rio->io.truncate = guarded_truncate;
    rio->io.snapshot_put = guarded_snapshot_put;
    rio->io.snapshot_get = own_snapshot_get;
    rio->io.send = own_send;
}

int replica_io_init(struct replica_io *rio, uv_loop_t *loop, const char *dir, const struct replica_net *net,
                    char *error, size_t error_len)
{
    int rc;
    int rv;

    memset(rio, 0, sizeof(*rio));
    rio->loop = loop;
    rio->dir = dir;
    rio->appends_end = &rio->appends;
    rio->acked.fd = rio->voted.fd = -1;
    rc = check_aio(error, error_len);
    if (rc != 0)
        return rc;
    rio->transport = (struct raft_uv_transport){
        .version = 1, .init = stub_init, .listen = stub_listen, .connect = stub_connect, .close = stub_close};
    rio->io.version = 2;
    rv = raft_uv_init(&rio->io, loop, dir, &rio->transport);
    if (rv != 0) {
        snprintf(error, error_len, "%s: %s (%s)", dir, raft_strerror(rv), rio->io.errmsg);
        return MR_IO;
    }
    raft_uv_set_segment_size(&rio->io, REPLICA_SEGMENT_SIZE);
    raft_uv_set_auto_recovery(&rio->io, false);
    rio->tracer = (struct raft_tracer){.impl = rio, .version = 2, .emit = trace};
    raft_uv_set_tracer(&rio->io, &rio->tracer);
    wrap(rio);
    replica_send_init(&rio->send, &rio->io, loop, net);
    rio->send.snapshot_get = rio->uv.snapshot_get;
    rio->send.taking = &rio->taking;
    rio->send.idle = sends_idle;
    rio->send.arg = rio;
    rc = acked_open(&rio->acked, dir, error, error_len);
    if (rc == 0)
        rc = voted_open(&rio->voted, dir, error, error_len);
    if (rc != 0) {
        acked_close(&rio->acked);
        raft_uv_close(&rio->io);
    }
    return rc;
}

void replica_io_free(struct replica_io *rio)
{
    replica_load_forget(rio);
    acked_close(&rio->acked);
    voted_close(&rio->voted);
    raft_uv_close(&rio->io);
}
