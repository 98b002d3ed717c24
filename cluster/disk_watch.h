/* disk_watch.h - calls to the disk that do not come back (PROTOCOL.md 8.4).
 *
 * W1: a call that is inside for DISK_DEAD_MS ends the process: nobody may wait for this node's disk for ever, and the
 *     thread that is inside may be the core itself. W2: a stop of the whole process counts for nothing: only time
 * during which the watching thread ran, DISK_GAP_MS of it at a stretch. The Raft log's appends are not among them:
 * replica.h watches those, which wait for space too, on the core's loop. Thread: one of its own looks, twice a second.
 * add and start: before it; slow: any; who marks a slot: see busy.h. */
#ifndef MR_CLUSTER_DISK_WATCH_H
#define MR_CLUSTER_DISK_WATCH_H

#include "proto/base/busy.h"

#include <stdint.h>

enum {
    DISK_SLOW_MS = 2000,
    DISK_DEAD_MS = 10000,
    DISK_LOOK_MS = 500,
    DISK_GAP_MS = 1000,
    DISK_WATCH_SLOTS = 2 + 2 * 64, /* the core's loop, the spool's writer, and two for each worker's journal */
};

struct disk_watch;
struct disk_watch *disk_watch_open(void);
/* A slot for one line of calls; what names it in the log and must outlive the watch. Valid until close. */
struct busy *disk_watch_add(struct disk_watch *w, const char *what);
/* Starts the thread. MR_NOMEM. */
int disk_watch_start(struct disk_watch *w);
void disk_watch_close(struct disk_watch *w);

/* How long the oldest call has been inside, at the last look; 0: none for DISK_SLOW_MS. what: its slot, may be NULL. */
uint64_t disk_watch_slow_ms(const struct disk_watch *w, const char **what);
/* One look, which the thread makes; for tests, which do not start it. Age of the oldest call in ms. */
uint64_t disk_watch_look(struct disk_watch *w, uint64_t now_ns);

#endif
