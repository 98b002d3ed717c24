/* unfinished.h - finishes what a crash left half done in a Raft log's directory, before raft_uv reads it (UPSTREAM.md,
 * 23 to 25). Each case is taken for what it is only if the log that remains still holds all that was acknowledged;
 * everything else is left for raft_uv to refuse. Blocking; before the log is loaded. */
#ifndef MR_RAFT_UNFINISHED_H
#define MR_RAFT_UNFINISHED_H

#include <stddef.h>
#include <stdint.h>

/* MR_IO. acked: the last index that this node acknowledged, as far as it is known. */
int unfinished_finish(const char *dir, uint64_t acked, char *error, size_t error_len);

/* Removes what a bootstrap left that did not come to its first segment: the metadata of term 1, without a vote. Before
 * replica_open, and only in a directory that the caller knows as never bootstrapped: Raft never ran there. Anything
 * else is left as it is. MR_IO. */
int unfinished_bootstrap(const char *dir, char *error, size_t error_len);

#endif
