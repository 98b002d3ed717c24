/* replica_put.c - see replica_put.h.
 *
 * One that is taken: libraft -> replica_put_snapshot -> snapshot_write -> written -> raft_uv -> snapshot_stored ->
 * libraft. One that is installed: libraft -> replica_put_snapshot -> raft_uv -> snapshot_stored -> libraft.
 * Failure: a write that fails ends the process. Close: the thread is told to stop, and its end waited for. */
#include "raft/replica_put.h"

#include "proto/base/le.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "raft/snapshot_write.h"

#include <stdlib.h>

struct put_guard {
    struct replica_io *owner;
    struct raft_io_snapshot_put inner;
    struct raft_io_snapshot_put *outer;
    raft_io_snapshot_put_cb cb;
    bool install;
    uint64_t index;
    /* Not of one that is installed. */
    struct raft_snapshot own; /* libraft's, with the bytes */
    unsigned trailing;
    uint64_t log_bytes; /* when it was taken */
};

static void snapshot_stored(struct raft_io_snapshot_put *inner, int status)
{
    struct put_guard *g = MR_CONTAINER(inner, struct put_guard, inner);
    struct replica_io *rio = g->owner;
    raft_io_snapshot_put_cb cb = g->cb;
    struct raft_io_snapshot_put *outer = g->outer;

    if (status != 0 && !(rio->closing && status == RAFT_CANCELED))
        mr_panic("raft snapshot was not stored in %s: %s (%s)", rio->dir, raft_strerror(status), rio->io.errmsg);
    if (status == 0) {
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
        rio->installing = false;
    } else {
        rio->taking = false;
        snapshot_write_free(rio->write);
        rio->write = NULL;
    }
    free(g);
    cb(outer, status);
    if (rio->closing)
        replica_io_maybe_closed(rio);
}

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

int replica_put_snapshot(struct replica_io *rio, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct put_guard *g = mr_calloc(1, sizeof(*g));
    int rv;

    mr_assert(!rio->taking && !rio->installing);
    *g = (struct put_guard){.owner = rio,
                            .outer = req,
                            .cb = cb,
                            .install = trailing == 0,
                            .index = snapshot->index,
                            .log_bytes = rio->log_bytes};
    if (!g->install) {
        g->own = *snapshot;
        g->trailing = trailing;
        rio->taking = true;
        rio->write = snapshot_write_start(rio->loop, rio->fsm, rio->held, rio->header, sizeof(rio->header), written, g);
        return 0;
    }
    rv = rio->uv.snapshot_put(&rio->io, trailing, &g->inner, snapshot, snapshot_stored);
    if (rv != 0)
        mr_panic("raft snapshot is not stored in %s: %s (%s)", rio->dir, raft_strerror(rv), rio->io.errmsg);
    rio->installing = true;
    rio->installing_index = snapshot->index;
    replica_io_forget_from(rio, snapshot->index + 1);
    rio->next_index = snapshot->index + 1;
    return 0;
}
