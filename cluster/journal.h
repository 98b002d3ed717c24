/* journal.h - the outcome journal of one worker (PROTOCOL.md 5.8).
 *
 * Order on disk for one attempt: DOT (about to be written; unsynced), REPLY (the packed Outcome operation; group
 * fsync), then nothing: the file is cut down when what it holds is committed. A kill -9 loses nothing of it; a power
 * cut may lose records that were not yet synced. J1: a DOT without REPLY found at start is in doubt. J2: a REPLY whose
 * outcome is not done is handed out at start. Thread: the worker's own, but journal_replay, which runs before workers
 * start. The group fsync runs on libuv's pool. */
#ifndef MR_CLUSTER_JOURNAL_H
#define MR_CLUSTER_JOURNAL_H

#include "ops.pb-c.h"
#include "proto/base/busy.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct journal;
/* DIR/outcomes-<worker>. New records go to a new file; those of earlier lives stay until journal_forget_replayed. */
int journal_open(struct journal **out, uv_loop_t *loop, const char *dir, unsigned worker, uint64_t incarnation);
/* What may be known of its calls to the disk, and who may find room for them; all may be NULL. After release, which is
 * called on the worker's thread, a write without room is tried once more. Valid until the close's callback. */
struct journal_disk {
    struct busy *writes; /* on the worker's own thread */
    struct busy *syncs;  /* on libuv's pool */
    bool (*release)(void *arg);
    void *arg;
};
void journal_set_disk(struct journal *j, const struct journal_disk *disk);
void journal_close(struct journal *j, void (*cb)(void *arg), void *arg);
/* write(2) before it returns; a failed write ends the process, one without room after release could find none. */
void journal_dot(struct journal *j, struct mr_id id, uint32_t delivery, uint32_t attempt);
/* Written before it returns; synced within JOURNAL_SYNC_MS unless journal_done comes first (a committed outcome needs
 * no journal), so that at high load the Raft log's fsync serves for both. Of several for one attempt the last counts.
 */
enum { JOURNAL_SYNC_MS = 20 };
void journal_reply(struct journal *j, const Mailraft__Outcome *outcome);
/* The outcome is committed, or the attempt ended without a dot's reply mattering (released, counted in doubt). */
void journal_done(struct journal *j, struct mr_id id, uint32_t delivery, uint32_t attempt);

/* What all earlier lives of this node left in DIR (all workers' files): outcomes with a reply, and dots in doubt. Torn
 * tails are cut, a bad record ends its file with a warning in the log. Allocated by protobuf-c's default allocator /
 * malloc; the caller frees. */
struct journal_left {
    Mailraft__Outcome **outcomes;
    size_t n_outcomes;
    Mailraft__InDoubt **in_doubt;
    size_t n_in_doubt;
};
int journal_replay(const char *dir, struct journal_left *out);
void journal_left_free(struct journal_left *left);
/* The replayed ones are committed (NodeUp applied): removes files of incarnations below this. */
int journal_forget_replayed(const char *dir, uint64_t incarnation);

#endif
