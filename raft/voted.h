/* voted.h - the newest term and vote of this node, kept a second time beside raft_uv's files, with a checksum.
 *
 * raft_uv's two files have none: a bit that flips in the newer one is believed, or makes raft_uv fall back on the older
 * one, and so does a file that is too short. The node could then vote a second time in a term (PROTOCOL.md 2.1 is about
 * the same accident). V1: the record is written, and synced, after raft_uv's own: it is never newer than these, and may
 * lag behind by one step of a process that died. V2: a directory that loads an older term than the record's, or another
 * vote in the same term, is not used.
 * Thread: the replica's loop. */
#ifndef MR_RAFT_VOTED_H
#define MR_RAFT_VOTED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VOTED_FILE "voted"

struct voted {
    int fd;
    uint64_t term;
    uint64_t vote; /* raft id; 0: none in this term */
    bool failed;   /* a write failed and was logged */
};

/* A missing record is term 0. One that does not decode is logged and counts as that: it is no evidence. MR_IO. */
int voted_open(struct voted *v, const char *dir, char *error, size_t error_len);
/* What raft_uv loaded. MR_STALE with a text; MR_OK takes it over, and leaves the record as it is. */
int voted_check(struct voted *v, const char *dir, uint64_t term, uint64_t vote, char *error, size_t error_len);
/* raft_uv has stored it. A new term begins without a vote. */
void voted_term(struct voted *v, uint64_t term);
void voted_for(struct voted *v, uint64_t vote);
/* May be called on one whose fd is -1. */
void voted_close(struct voted *v);

#endif
