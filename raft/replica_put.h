/* replica_put.h - snapshots on their way to raft_uv's disk: those taken here, those that a leader sent.
 *
 * Part of replica_io, which says what holds. Thread: the replica's loop. */
#ifndef MR_RAFT_REPLICA_PUT_H
#define MR_RAFT_REPLICA_PUT_H

#include "raft/replica_io.h"

/* raft_io's snapshot_put. */
int replica_put_snapshot(struct replica_io *rio, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb);
/* What the state machine wrote, behind our header. MR_MALFORMED, MR_VERSION. */
int replica_put_bytes(const struct raft_buffer *buf, const uint8_t **data, size_t *len);
/* What the state machine made of the snapshot that is being installed, ours from now on; NULL: nothing. */
void *replica_put_prepared(struct replica_io *rio);

#endif
