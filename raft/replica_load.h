/* replica_load.h - what a replica finds in its directory: mended, read, checked and, what it will build upon, stored
 * again.
 *
 * L1: what was loaded is on the disk, and not in the page cache alone, where an earlier life may have left it.
 * L2: a directory is refused (MR_STALE) that ends below what this node acknowledged, that has forgotten a term or a
 * vote, or whose entries are of a newer term than its own; no term, vote or acknowledgement is stored then.
 * Thread: the replica's loop, which it blocks. */
#ifndef MR_RAFT_REPLICA_LOAD_H
#define MR_RAFT_REPLICA_LOAD_H

#include "raft/replica_io.h"

/* After raft_init, before raft_start. MR_STALE, MR_IO, MR_MALFORMED with a text. */
int replica_load(struct replica_io *rio, char *error, size_t error_len);
bool replica_load_is_empty(const struct replica_io *rio);
/* raft_io's load: what replica_load read, then libraft's; it is read again when that was forgotten. */
int replica_load_take(struct replica_io *rio, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                      raft_index *start_index, struct raft_entry *entries[], size_t *n_entries);
/* What was loaded is read again at start (bootstrap has written). */
void replica_load_forget(struct replica_io *rio);

#endif
