/* ballast.h - a file that takes up room, for the day on which the disk is full (PROTOCOL.md 8.5).
 *
 * While it is there, something can be given back: the Raft log and the journals write on, outcomes are committed, what
 * was delivered is dropped, and so space comes back by itself. New bodies are not what it is for: the spool keeps free
 * its reserve and what is missing of the ballast (ballast_missing).
 * B1: nothing but a full disk takes it away, and it is built again only when the spool has its reserve beside it.
 * B2: the file's size is what has been allocated of it.
 * Thread: tick on the core's loop; release and the questions on any. All calls are short (one step of building). */
#ifndef MR_CLUSTER_BALLAST_H
#define MR_CLUSTER_BALLAST_H

#include "proto/base/fileio.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    BALLAST_FULL = 8 << 20,   /* free bytes below which the disk is full: a segment of the Raft log does not fit */
    BALLAST_LEAST = 32 << 20, /* four of those */
    BALLAST_MOST = 256 << 20,
    BALLAST_PART = 64,            /* of the file system, between those two, */
    BALLAST_SMALL_PART = 10,      /* but never more than this part of it */
    BALLAST_STEP = 4 << 20,       /* built at a time */
    BALLAST_WRITE_STEP = 1 << 20, /* where the file system cannot allocate without writing */
};

struct ballast;
struct ballast_config {
    const char *dir;            /* exists; the file is dir/ballast */
    uint64_t bytes;             /* 0: by the size of the file system */
    const struct mr_fileio *io; /* NULL: the real disk */
};
/* Finds what is there, and gives it back when the disk is full, before anybody needs room to start. */
struct ballast *ballast_open(const struct ballast_config *config);
void ballast_close(struct ballast *b);

/* A look at the disk: gives back, or builds one step. reserve: bytes that are to stay free beside it. pressed: somebody
 * did not get the room that he needs, whatever the file system says (a quota). */
void ballast_tick(struct ballast *b, uint64_t reserve, bool pressed);
/* A write found no room. True: some was given back, it may be tried again. */
bool ballast_release(struct ballast *b);

struct ballast_state {
    uint64_t bytes;     /* there */
    uint64_t missing;   /* to be whole */
    uint64_t available; /* free on the disk at the last look */
    bool full;          /* given back, and not whole again */
};
void ballast_state(struct ballast *b, struct ballast_state *out);
uint64_t ballast_missing(struct ballast *b);

#endif
