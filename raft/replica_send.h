/* replica_send.h - what libraft sends: messages to the caller's network, snapshots one at a time to a peer.
 *
 * N1: every request that libraft handed over is completed exactly once, never before the call returned; a failure is a
 *     completion like any other, since libraft tolerates loss and skips a commit when send itself fails.
 * N2: at most one snapshot is loaded or under way to a peer; libraft's further ones fail at once and cost nothing.
 * N3: while one is under way, and for a moment after, the peer's rejections at the snapshot's index do not reach
 * libraft, which would send the snapshot again for each (PROTOCOL.md 8.2). Memory: the entries and snapshots stay
 * libraft's until the network's done. Thread: the replica's loop. */
#ifndef MR_RAFT_REPLICA_SEND_H
#define MR_RAFT_REPLICA_SEND_H

#include "raft/replica.h"

#include <raft.h>

enum {
    REPLICA_MAX_PEERS = 64,
    REPLICA_CHUNK_BYTES = 512 << 10, /* of entries in one message on the wire; a longer AppendEntries is split */
    REPLICA_SNAPSHOT_QUIET_MS =
        2000, /* after a snapshot went out, until it is taken for lost; or half of what it took */
    REPLICA_SNAPSHOT_HEARD_MS = 2000, /* a peer that was silent for so long is not waited for */
    REPLICA_CAUGHT_UP = 256,          /* entries behind the newest: no snapshot can cut these off */
    REPLICA_SNAPSHOT_RETRY_MS = 500,  /* after one failed to go out */
};

struct send_request;

struct replica_peer {
    uint64_t id; /* 0: free */
    bool transferring;
    uint64_t anchor;      /* index of libraft's last InstallSnapshot to this peer, 0: it got past it */
    bool behind;          /* got a snapshot, has not caught up with the log since */
    uint64_t started;     /* uv_now, ms */
    uint64_t heard;       /* its last answer; uv_now, ms */
    uint64_t quiet_until; /* uv_now, ms */
    uint64_t matched;     /* the largest index that it acknowledged in matched_term, as libraft counts */
    uint64_t matched_term;
};

struct replica_send {
    struct raft_io *io;
    uv_loop_t *loop;
    struct replica_net net;
    int (*snapshot_get)(struct raft_io *io, struct raft_io_snapshot_get *req,
                        raft_io_snapshot_get_cb cb); /* raft_uv's */
    const bool *taking;                              /* a snapshot is being taken */
    void (*idle)(void *arg);                         /* the last outstanding request was completed */
    void *arg;
    uint64_t snapshot_index; /* of the newest snapshot on this disk */
    struct replica_peer peers[REPLICA_MAX_PEERS];
    unsigned outstanding;
    struct send_request *failed; /* to be completed at the loop's next turn */
    uint64_t snapshots_sent;
};

void replica_send_init(struct replica_send *s, struct raft_io *io, uv_loop_t *loop, const struct replica_net *net);
/* raft_io's send; returns 0 always. */
int replica_send_message(struct replica_send *s, struct raft_io_send *req, const struct raft_message *message,
                         raft_io_send_cb cb);
/* raft_io's snapshot_get: answers at once with an empty snapshot, since only send is told for which peer it is; the
 * real load begins there. */
int replica_send_snapshot_get(struct replica_send *s, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb);
/* Before a leader's libraft sees this result of a peer, of its own term: rewrites what N3 says, and takes a rejection
 * for contact alone that is older than what the peer has acknowledged since (UPSTREAM.md 35). last: index of the
 * leader's newest entry. */
void replica_send_filter(struct replica_send *s, uint64_t from, uint64_t last,
                         struct raft_append_entries_result *result);
/* A peer is on its way from a snapshot to the log: N4. */
bool replica_send_holds(const struct replica_send *s);
/* This node became leader: libraft's progress of each peer starts anew. */
void replica_send_reset(struct replica_send *s);
/* Each turn of the loop: completes what failed at once. */
void replica_send_turn(struct replica_send *s);

#endif
