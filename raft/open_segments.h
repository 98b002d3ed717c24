/* open_segments.h - the segments that raft_uv had open when the process ended, made fit to be loaded (UPSTREAM.md 21).
 * Thread: any; nobody else may use the directory. */
#ifndef MR_RAFT_OPEN_SEGMENTS_H
#define MR_RAFT_OPEN_SEGMENTS_H

#include <stddef.h>

/* Writes what each holds again, and syncs it (UPSTREAM.md 38). Lengthens each by zeros, beyond whatever raft_uv reads
 * for a batch whose lengths are damaged. Takes no space on the disk, and lasts until raft_uv cuts the segment behind
 * its last good batch. MR_IO. */
int open_segments_mend(const char *dir, char *error, size_t error_len);

#endif
