/* replica_io.h - raft_uv's raft_io with our network under it and our guards around it (UPSTREAM.md says which fault
 * each guard is for).
 *
 * I1: a failed append, truncation, term, vote or snapshot write ends the process, unless the replica is closing.
 * I2: nothing is acknowledged that acked does not soon know of, and a directory that ends below it does not load; nor
 * does one whose term or vote is older than voted's.
 * I3: an InstallSnapshot reaches libraft only while no snapshot is being taken or installed here.
 * Thread: the replica's loop, but for the tracer, which raft_uv calls from libuv's pool too. */
#ifndef MR_RAFT_REPLICA_IO_H
#define MR_RAFT_REPLICA_IO_H

#include "raft/acked.h"
#include "raft/replica_send.h"
#include "raft/voted.h"

#include <raft/uv.h>
#include <stdatomic.h>

enum {
    REPLICA_SNAPSHOT_MOST = 0x7ffff000, /* bytes with the header: what Linux takes in one write */
    REPLICA_SEGMENT_SIZE = 8 << 20,     /* raft_uv's capacity field wraps at 64 MiB for its pool of open segments */
    REPLICA_DISK_SLOW_MS = 2000,        /* an append this old: leadership is handed over (PROTOCOL.md 8.4) */
    REPLICA_DISK_DEAD_MS = 10000,       /* this old: the process stops */
    REPLICA_MAX_UNPERSISTED = 16 << 20,
};

/* Before the state machine's bytes. It tells our snapshots from anything else: raft_uv ignores an empty one and unpacks
 * what looks like LZ4. The state machine's own checksums guard what follows. */
#define REPLICA_SNAPSHOT_MAGIC 0x5352524dU /* "MRRS" */
enum { REPLICA_SNAPSHOT_HEADER = 16, REPLICA_SNAPSHOT_VERSION = 1 };

struct append_guard;
struct snapshot_write;

/* What load read, between replica_open (which checks it) and libraft's start. */
struct loaded_log {
    bool valid;
    raft_term term;
    raft_id voted_for;
    struct raft_snapshot *snapshot;
    raft_index start_index;
    struct raft_entry *entries;
    size_t n_entries;
};

struct replica_io {
    struct raft_io io; /* given to libraft; also raft_uv's */
    struct raft_io uv; /* raft_uv's own functions */
    struct raft_uv_transport transport;
    struct raft_tracer tracer;
    uv_loop_t *loop;
    const char *dir;
    struct replica_send send;
    struct acked acked;
    struct voted voted;
    struct loaded_log loaded;

    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    void (*ticked)(void *arg); /* after libraft's tick */
    void *arg;

    uint64_t next_index;          /* of the next append, as raft_uv counts */
    struct append_guard *appends; /* oldest first */
    struct append_guard **appends_end;
    uint64_t log_bytes;    /* appended since the last snapshot: about what libraft keeps in memory */
    size_t unpersisted;    /* bytes of entries in appends */
    uint64_t running_ms;   /* time during which the loop turned */
    uint64_t last_tick_ms; /* uv_now */
    uint64_t disk_full_ms; /* running_ms when the disk was last found full under a segment's preparation; 0: never */
    uint64_t disk_full_logged_ms;
    atomic_uint prepare_retries; /* failed segment preparations since the last append that came through */
    atomic_int truncated_ok;     /* successful truncations whose end the loop has not seen */

    const struct replica_fsm *fsm;
    /* The snapshot being taken: at most one. */
    void *held;                   /* of the state machine; NULL: nothing */
    struct snapshot_write *write; /* NULL: what was held is written */
    uint8_t header[REPLICA_SNAPSHOT_HEADER];
    uint64_t held_ns, snapshot_stall_ns; /* the loop's time */
    uint64_t snapshot_bytes;             /* of the last one, taken, loaded or installed */

    bool taking;
    bool installing;
    uint64_t installing_index;
    void *prepared; /* while libraft is told that it is stored: of the state machine */
    bool closing;
    bool uv_closed;
    raft_io_close_cb close_cb;
    uint64_t snapshots_taken;
    uint64_t snapshots_installed;
    uint64_t installs_dropped;
};

/* Allocation failure in libraft leaves its state half changed: its memory is ours, which never fails, and comes zeroed.
 */
void replica_io_heap(void);
/* MR_IO: no asynchronous I/O to be had, or raft_uv's own reasons. */
int replica_io_init(struct replica_io *rio, uv_loop_t *loop, const char *dir, const struct replica_net *net,
                    char *error, size_t error_len);
/* Index of the loaded snapshot while libraft starts. */
uint64_t replica_io_loaded_snapshot(const struct replica_io *rio);
/* Age in ms of the oldest append that did not come back; a stop of the whole process does not count. */
uint64_t replica_io_append_age(const struct replica_io *rio);
/* Entries from index on are no longer what was acknowledged. */
void replica_io_forget_from(struct replica_io *rio, uint64_t index);
/* Something that the close waits for has ended. */
void replica_io_maybe_closed(struct replica_io *rio);
/* Once a tick: stops the process when the disk is dead. True: slow, leadership should go. */
bool replica_io_watch(struct replica_io *rio);
/* After libraft's close callback. */
void replica_io_free(struct replica_io *rio);

#endif
