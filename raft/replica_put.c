/* replica_put.c - see replica_put.h.
 *
 * Taken here: libraft -> replica_put_snapshot -> snapshot_write -> written -> raft_uv -> put_end -> libraft.
 * Installed: libraft -> replica_put_snapshot -> raft_uv and, at the same time, prepare (thread) -> when both are done:
 * put_end -> libraft -> replica_put_prepared.
 *
 * Failure: a write that fails ends the process. Close: the writing thread is told to stop, the reading one goes on to
 * its end; both are waited for. */
#include "raft/replica_put.h"

#include "proto/base/error.h"
#include "proto/base/le.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "proto/base/side_thread.h"
#include "raft/snapshot_write.h"

#include <stdlib.h>

struct put_guard {
    struct replica_io *owner;
    struct raft_io_snapshot_put inner;
    struct raft_io_snapshot_put *outer;
    raft_io_snapshot_put_cb cb;
    bool install;
    uint64_t index;
    int status;         /* of raft_uv */
    unsigned under_way; /* raft_uv, the thread */
    uint64_t log_bytes; /* when it began */
    /* Of one that is installed. */
    struct side_thread thread;
    const uint8_t *data; /* libraft's, until it is told */
    size_t len;
    void *prepared;
    /* Of one that is taken. */
    struct raft_snapshot own; /* libraft's, with the bytes */
    unsigned trailing;
};

int replica_put_bytes(const struct raft_buffer *buf, const uint8_t **data, size_t *len)
{
    const uint8_t *at = buf->base;

    if (buf->len < REPLICA_SNAPSHOT_HEADER || mr_get_le32(at) != REPLICA_SNAPSHOT_MAGIC)
        return MR_MALFORMED;
    if (mr_get_le32(at + 4) != REPLICA_SNAPSHOT_VERSION)
        return MR_VERSION;
    if (mr_get_le64(at + 8) != buf->len - REPLICA_SNAPSHOT_HEADER)
        return MR_MALFORMED;
    *data = at + REPLICA_SNAPSHOT_HEADER;
    *len = buf->len - REPLICA_SNAPSHOT_HEADER;
    return 0;
}

/* libraft restores, or does not, before its callback returns. While it closes, it frees what it gave only when it hears
 * that nothing was stored (UPSTREAM.md 37). */
static void tell_installed(struct replica_io *rio, struct put_guard *g)
{
    rio->installing = false;
    rio->prepared = g->prepared;
    g->cb(g->outer, rio->closing ? RAFT_CANCELED : g->status);
    void *left = replica_put_prepared(rio);
    if (left != NULL)
        rio->fsm->unprepare(rio->fsm->arg, left);
}

static void put_end(struct put_guard *g)
{
    struct replica_io *rio = g->owner;

    if (g->status == 0) {
        rio->send.snapshot_index = g->index;
        rio->log_bytes -= g->log_bytes;
        if (g->install) {
            acked_raise(&rio->acked, g->index);
            rio->snapshots_installed++;
        } else {
            rio->snapshots_taken++;
        }
    }
    if (g->install) {
        tell_installed(rio, g);
    } else {
        rio->taking = false;
        snapshot_write_free(rio->write);
        rio->write = NULL;
        g->cb(g->outer, g->status);
    }
    free(g);
    if (rio->closing)
        replica_io_maybe_closed(rio);
}

static void snapshot_stored(struct raft_io_snapshot_put *inner, int status)
{
    struct put_guard *g = MR_CONTAINER(inner, struct put_guard, inner);
    struct replica_io *rio = g->owner;

    if (status != 0 && !(rio->closing && status == RAFT_CANCELED))
        mr_panic("raft snapshot was not stored in %s: %s (%s)", rio->dir, raft_strerror(status), rio->io.errmsg);
    g->status = status;
    if (--g->under_way == 0)
        put_end(g);
}

/* ---- one that is taken ---- */

/* All bytes are there. */
static void written(void *arg)
{
    struct put_guard *g = arg;
    struct replica_io *rio = g->owner;
    uint64_t started = uv_hrtime(), bytes;

    rio->fsm->snapshot_done(rio->fsm->arg, rio->held);
    rio->held = NULL;
    rio->snapshot_stall_ns = rio->held_ns + (uv_hrtime() - started);
    bool whole = snapshot_write_result(rio->write, &g->own.bufs, &g->own.n_bufs, &bytes);
    if (!whole || rio->closing) {
        mr_assert(rio->closing);
        snapshot_stored(&g->inner, RAFT_CANCELED);
        return;
    }
    /* raft_uv writes it with one call, of which Linux takes no more; cluster/core_full.c stays below. */
    if (bytes + sizeof(rio->header) > REPLICA_SNAPSHOT_MOST)
        mr_panic("raft snapshot of %llu bytes is more than libraft can store", (unsigned long long)bytes);
    rio->snapshot_bytes = bytes;
    mr_put_le32(rio->header, REPLICA_SNAPSHOT_MAGIC);
    mr_put_le32(rio->header + 4, REPLICA_SNAPSHOT_VERSION);
    mr_put_le64(rio->header + 8, bytes);
    int rv = rio->uv.snapshot_put(&rio->io, g->trailing, &g->inner, &g->own, snapshot_stored);
    if (rv != 0)
        mr_panic("raft snapshot is not stored in %s: %s (%s)", rio->dir, raft_strerror(rv), rio->io.errmsg);
}

static void take(struct put_guard *g, const struct raft_snapshot *snapshot, unsigned trailing)
{
    struct replica_io *rio = g->owner;

    g->own = *snapshot;
    g->trailing = trailing;
    rio->taking = true;
    rio->write = snapshot_write_start(rio->loop, rio->fsm, rio->held, rio->header, sizeof(rio->header), written, g);
}

/* ---- one that is installed ---- */

void *replica_put_prepared(struct replica_io *rio)
{
    void *prepared = rio->prepared;

    rio->prepared = NULL;
    return prepared;
}

static void run_prepare(void *arg)
{
    struct put_guard *g = arg;
    const struct replica_fsm *fsm = g->owner->fsm;

    g->prepared = fsm->prepare(fsm->arg, g->index, g->data, g->len);
}

static void prepare_ended(void *arg)
{
    struct put_guard *g = arg;

    if (--g->under_way == 0)
        put_end(g);
}

static void install(struct put_guard *g, const struct raft_snapshot *snapshot)
{
    struct replica_io *rio = g->owner;
    int rv = rio->uv.snapshot_put(&rio->io, 0, &g->inner, snapshot, snapshot_stored);

    if (rv != 0)
        mr_panic("raft snapshot is not stored in %s: %s (%s)", rio->dir, raft_strerror(rv), rio->io.errmsg);
    rio->installing = true;
    rio->installing_index = snapshot->index;
    replica_io_forget_from(rio, snapshot->index + 1);
    rio->next_index = snapshot->index + 1;
    if (rio->fsm->prepare != NULL && replica_put_bytes(&snapshot->bufs[0], &g->data, &g->len) == 0) {
        g->under_way++;
        side_thread_start(&g->thread, rio->loop, run_prepare, prepare_ended, g);
    }
}

int replica_put_snapshot(struct replica_io *rio, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct put_guard *g = mr_calloc(1, sizeof(*g));

    mr_assert(!rio->taking && !rio->installing);
    *g = (struct put_guard){.owner = rio,
                            .outer = req,
                            .cb = cb,
                            .install = trailing == 0,
                            .index = snapshot->index,
                            .under_way = 1,
                            .log_bytes = rio->log_bytes};
    if (g->install)
        install(g, snapshot);
    else
        take(g, snapshot, trailing);
    return 0;
}
