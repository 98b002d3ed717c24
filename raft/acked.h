/* acked.h - the last log index that this node acknowledged, kept beside the log.
 *
 * raft_uv cuts an open segment at its first bad batch and goes on. A voter whose log got shorter in that way, or was
 * replaced by an old copy, breaks the promise that it gave by its acknowledgements. This record finds it
 * (PROTOCOL 8.7). A1: the record is never above what was acknowledged: it is lowered, and synced, before the log is
 * truncated. A2: it may lag behind (it is raised without a sync, once a heartbeat): best effort, it finds gross loss.
 * Thread: the replica's loop. */
#ifndef MR_RAFT_ACKED_H
#define MR_RAFT_ACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACKED_FILE "acked"

struct acked {
    int fd;
    uint64_t index;   /* acknowledged */
    uint64_t written; /* in the file */
    bool failed;      /* a write failed and was logged */
};

/* A missing record is index 0. One that does not decode is logged and counts as 0: it is no evidence. MR_IO. */
int acked_open(struct acked *a, const char *dir, char *error, size_t error_len);
void acked_raise(struct acked *a, uint64_t index);
void acked_lower(struct acked *a, uint64_t index);
/* Writes what was raised since the last time. */
void acked_flush(struct acked *a);
/* Flushes; may be called on a zeroed struct whose fd is -1. */
void acked_close(struct acked *a);

#endif
