/* replica.h - the replicated log: libraft behind a small interface that knows nothing of mail.
 *
 * One replica is one member of a Raft group: log and snapshots on disk by raft_uv, messages over a network that the
 * caller gives. All guards of libraft's known faults live behind this interface (raft/UPSTREAM.md lists them).
 *
 * R1: apply is called once for each index after the restored snapshot, in order, and only for committed entries.
 * R2: a proposal's callback comes exactly once, never before replica_propose returned; MR_OK only after its apply ran
 * here. R3: a failed write, fsync, truncate, term or vote ends the process: nothing is acknowledged after it. R4: a
 * directory whose log ends below what this node acknowledged is refused by replica_open (MR_STALE). Thread: everything
 * on the loop given to replica_open. */
#ifndef MR_RAFT_REPLICA_H
#define MR_RAFT_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct replica;

struct replica_buffer {
    void *base;
    size_t len;
};

/* The state machine. */
struct replica_fsm {
    void *arg;
    /* data is libraft's, valid during the call. *result is handed to the proposal's callback when this node proposed
     * the entry, and dropped otherwise (so it must not need freeing, or must live in the state machine). Cannot fail.
     */
    void (*apply)(void *arg, uint64_t index, const uint8_t *data, size_t len, void **result);
    /* None of these may call a function of this header that changes the replica (propose, receive, transfer, close).
     */
    /* Takes hold of the state as it is now; at most one is held. Runs on the loop: its time stalls Raft. */
    void *(*snapshot)(void *arg);
    /* Writes what is held, in a thread of its own, while entries are applied. put takes the next piece (a copy); false:
     * no more is wanted, which is then the result too. */
    bool (*snapshot_write)(void *arg, void *held, bool (*put)(void *put_arg, const void *data, size_t len),
                           void *put_arg);
    /* On the loop, after the write. */
    void (*snapshot_done)(void *arg, void *held);
    /* Replaces the whole state; index is the snapshot's last. A snapshot that does not decode is MR_MALFORMED or
     * MR_CHECKSUM: the process stops with that message. */
    int (*restore)(void *arg, uint64_t index, const uint8_t *data, size_t len);
    /* The same in two steps, for a snapshot that a leader sent: the long one in a thread of its own, beside the state,
     * which it does not touch; the short one on the loop, or unprepare, if it is not installed after all. prepare's
     * NULL: restore says what is wrong. All three may be NULL. */
    void *(*prepare)(void *arg, uint64_t index, const uint8_t *data, size_t len);
    void (*restore_prepared)(void *arg, uint64_t index, size_t len, void *prepared);
    void (*unprepare)(void *arg, void *prepared);
};

/* The network under it. */
struct replica_net {
    void *arg;
    /* Send one message: head, then tail buffers, to the member with this raft id. bulk: a snapshot (has its own
     * connection). done comes exactly once, later, never before send returned; status 0 or an mr_error: the buffers may
     * go then. head is copied by send; the tail and its array are not. Without bulk a tail has at most 512 KiB, or one
     * entry. What is not done at replica_close must get its done soon, for the close waits for it. */
    void (*send)(void *arg, uint64_t to, bool bulk, const void *head, size_t head_len,
                 const struct replica_buffer *tail, unsigned n_tail, void (*done)(void *done_arg, int status),
                 void *done_arg);
};

enum replica_role { REPLICA_UNAVAILABLE, REPLICA_FOLLOWER, REPLICA_CANDIDATE, REPLICA_LEADER };

struct replica_member {
    uint64_t id;
    const char *name; /* used as libraft's address; not a network address */
};

struct replica_config {
    uv_loop_t *loop;
    const char *dir; /* exists */
    uint64_t id;
    const char *name;
    unsigned election_timeout_ms;
    unsigned heartbeat_ms;
    unsigned snapshot_threshold; /* entries; 0: a good default (4096), see LIBRAFT notes */
    unsigned snapshot_trailing;  /* entries; 0: default (2048) */
    unsigned seed;               /* of libraft's election timeouts */
    struct replica_fsm fsm;
    struct replica_net net;
    /* Role, term or leader changed. leader: 0 when none is known. */
    void (*changed)(void *arg, enum replica_role role, uint64_t term, uint64_t leader);
    void *changed_arg;
};

/* MR_IO, MR_STALE (R4), MR_MALFORMED, MR_INVAL: with a text for the operator in error. config is copied but for the
 * strings that it points to, which must live until the close. After an error some handles may still need a few turns of
 * the loop to close by themselves. */
int replica_open(struct replica **out, const struct replica_config *config, char *error, size_t error_len);
/* Writes the first configuration into an empty directory. MR_EXISTS: it was not empty. Before replica_start. */
int replica_bootstrap(struct replica *r, const struct replica_member *members, unsigned count);
/* Loads the log and begins to take part. apply/restore may run from here on. MR_MALFORMED, MR_CHECKSUM: the snapshot
 * does not decode. MR_IO. After an error only replica_close may follow. */
int replica_start(struct replica *r, char *error, size_t error_len);
/* Waiting proposals get MR_UNKNOWN, then cb; the memory is freed after cb. Waits for fsm.prepare, if it runs. */
void replica_close(struct replica *r, void (*cb)(void *arg), void *arg);

/* A message from a member; head and tail as send was given them (tail joined). Both are copied. MR_MALFORMED,
 * MR_CHECKSUM, MR_VERSION, MR_LIMIT: dropped. MR_CLOSED: closing or not started. */
int replica_receive(struct replica *r, uint64_t from, const uint8_t *head, size_t head_len, const uint8_t *tail,
                    size_t tail_len);
/* The same without the copy: tail was allocated with malloc and belongs to the replica from now on, whatever the
 * result. For snapshots, whose copy would stall the loop. */
int replica_receive_owned(struct replica *r, uint64_t from, const uint8_t *head, size_t head_len, uint8_t *tail,
                          size_t tail_len);

enum {
    REPLICA_MAX_ENTRY = (64 << 10) + 64, /* bytes */
    REPLICA_MAX_PROPOSALS = 8192,        /* waiting for their callback */
};
/* Proposes one entry (1 to 64 KiB + 64; data is copied). Errors, and then cb never comes: MR_NOTLEADER, MR_BUSY
 * (transfer of leadership, too many waiting, the disk is behind), MR_NOSPACE (a majority's disks are full), MR_LIMIT.
 * cb's status: 0 applied here (index, result of apply), MR_UNKNOWN: fate unknown. */
typedef void (*replica_proposed_cb)(void *arg, int status, uint64_t index, void *result);
int replica_propose(struct replica *r, const void *data, size_t len, replica_proposed_cb cb, void *arg);

enum replica_role replica_role(const struct replica *r);
uint64_t replica_term(const struct replica *r);
/* Raft id of the known leader; 0: none. */
uint64_t replica_leader(const struct replica *r);
uint64_t replica_applied(const struct replica *r);
uint64_t replica_commit(const struct replica *r);
/* Index of the log's last entry (leader: the newest proposed). */
uint64_t replica_last(const struct replica *r);
/* Hands leadership to a member (0: the most up to date voter). cb's status 0: another leads; MR_TIMEOUT: none took it;
 * MR_CLOSED. MR_NOTLEADER, MR_BUSY, MR_NOTFOUND (no such voter), and then cb never comes. */
int replica_transfer(struct replica *r, uint64_t to, void (*cb)(void *arg, int status), void *arg);
/* While true a snapshot is being taken or installed here. */
bool replica_snapshotting(const struct replica *r);

struct replica_stats {
    uint64_t snapshots_taken;
    uint64_t snapshots_installed;
    uint64_t snapshots_sent;
    uint64_t last_snapshot_bytes;
    uint64_t last_snapshot_stall_ns; /* on the loop: fsm.snapshot and snapshot_done, or the installation */
    uint64_t installs_dropped;       /* snapshots that came while one was being taken or installed */
    uint64_t oldest_append_ms;       /* a write that has not come back; 0: none waits */
    uint64_t unpersisted_bytes;      /* of entries that wait for the disk */
    uint64_t segments_refused;       /* times the disk had no room for the log since it last took an append */
    uint64_t acknowledged;           /* index that this node acknowledged (R4) */
};
void replica_stats(const struct replica *r, struct replica_stats *out);

#endif
