/* snapshot_write.h - the bytes of a snapshot, which the state machine writes in a thread of its own (PROTOCOL.md 8.3).
 *
 * S1: done comes once, on the loop, never before start has returned, when the thread has ended.
 * S2: the thread takes SNAPSHOT_BYTES_PER_S: its work is not to be seen beside that of the loop.
 * The bytes are kept in memory: raft_uv writes them, and has to have them whole. Thread: the loop's. */
#ifndef MR_RAFT_SNAPSHOT_WRITE_H
#define MR_RAFT_SNAPSHOT_WRITE_H

#include "raft/replica.h"

#include <raft.h>

enum { SNAPSHOT_BYTES_PER_S = 32 << 20 };

struct snapshot_write;

struct snapshot_write *snapshot_write_start(uv_loop_t *loop, const struct replica_fsm *fsm, void *held, void *header,
                                            size_t header_len, void (*done)(void *arg), void *arg);
/* The state machine is told to give up: done comes soon. */
void snapshot_write_stop(struct snapshot_write *w);
/* After done. False: it gave up. *bytes: without the header, which the caller fills before it uses the buffers; they
 * stay the writer's. */
bool snapshot_write_result(struct snapshot_write *w, struct raft_buffer **buffers, unsigned *n, uint64_t *bytes);
void snapshot_write_free(struct snapshot_write *w);

#endif
