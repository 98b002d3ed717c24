/* spool.h - this node's durable store of message bodies.
 *
 * A body is immutable, named by its message id, and comes in pieces of at most SPOOL_MAX_PIECE bytes, numbered from 0,
 * in order; storing one twice is harmless. Append-only segment files; the index is in memory and is rebuilt by a scan
 * at open.
 *
 * S1: once spool_put's callback for the last piece has given 0, the whole body survives any crash of this node.
 * S2: a piece is handed out only after its checksum was verified.
 * S3: nothing here decides that a body may go: spool_drop is called by the collector (PROTOCOL.md 3.4).
 * S4: a failed or short write (but for no space) and any failed fsync end the process.
 * S5: a body that cannot be read, or not as it was written, is not here any more (spool_has), but what is there of it
 * stays until a good one was put or it is dropped: it may be the last copy.
 * S6: below the reserve of free space puts are refused with MR_NOSPACE before anything is written.
 * Thread: all functions on the core's loop; inside are one writer and a few reader threads. Callbacks on that loop,
 * never before the call returned. */
#ifndef MR_CLUSTER_SPOOL_H
#define MR_CLUSTER_SPOOL_H

#include "proto/base/busy.h"
#include "proto/base/fileio.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum {
    SPOOL_MAX_PIECE = 256 * 1024,
    SPOOL_MAX_PIECES = 65536, /* of one body */
    SPOOL_SEGMENT = 64 << 20,
    SPOOL_READERS = 2,
    SPOOL_MAX_QUEUED = 128 << 20, /* bytes in puts that wait for the writer */
    SPOOL_MAX_READS = 4096,       /* gets under way */
};

struct spool;
struct spool_config {
    uv_loop_t *loop;
    const char *dir;            /* created if missing */
    uint64_t segment_bytes;     /* 0: SPOOL_SEGMENT */
    uint64_t reserve_bytes;     /* free space kept; 0: default (256 MiB or 5% of the file system, the smaller) */
    const struct mr_fileio *io; /* NULL: the real disk */
    struct busy *disk;          /* marks the writer's calls to the disk; NULL: nobody watches */
};
/* Scans segments; damage is logged (the peers have copies): what it hit, or a write that was cut short, is not here, or
 * is a bad copy (S5). What the last one holds is written again and synced before it counts: at most a
 * segment's bytes. MR_NOSPACE, where a file system does not write in place: the spares are given back by then. MR_IO,
 * MR_VERSION, MR_NOMEM. */
int spool_open(struct spool **out, const struct spool_config *config, char *error, size_t error_len);
/* Waiting requests still run their callbacks, then cb. */
void spool_close(struct spool *sp, void (*cb)(void *arg), void *arg);

struct spool_piece {
    struct mr_id id;
    uint32_t piece;
    bool last;
    uint64_t stamp_ms;    /* a body's is the largest of its pieces' */
    uint64_t length;      /* with last: of the whole body */
    uint8_t checksum[16]; /* with last: XXH3-128 of the whole body, canonical */
    const uint8_t *data;
    size_t len;
};
struct spool_put {
    struct spool_piece piece;
    /* status 0: written (not last) or, with last, the whole body durable. MR_NOSPACE. MR_EXISTS: had it already,
     * durable. MR_INVAL: out of order, or length is not the sum of the pieces. MR_CHECKSUM: the pieces do not have the
     * checksum given with the last. MR_CANCELLED: aborted or dropped meanwhile. After any of them but MR_EXISTS the
     * body begins again from piece 0. */
    void (*cb)(struct spool_put *req, int status);
    struct { /* spool's own */
        void *next;
        uint64_t words[8];
    } internal;
};
/* Caller keeps *req and the data until cb. Errors (then no cb): MR_LIMIT piece too large or too many, MR_BUSY over
 * SPOOL_MAX_QUEUED, MR_CLOSED. One put of a body at a time: the pieces of two would be taken for one. */
int spool_put(struct spool *sp, struct spool_put *req);
/* Pieces of a body whose last will never come are forgotten. */
void spool_abort(struct spool *sp, struct mr_id id);

struct spool_get {
    struct mr_id id;
    uint32_t piece;
    /* status 0: data (malloc, the callee's to free), last. MR_NOTFOUND; MR_CHECKSUM, MR_IO: the copy is bad, also when
     * tried once more, and has been marked so (spool_has is false from now on); fetch it from a peer. MR_BUSY: no
     * descriptor or memory for it now, the copy may be good. */
    void (*cb)(struct spool_get *req, int status, uint8_t *data, size_t len, bool last);
    struct {
        void *next;
        uint64_t words[8];
    } internal;
};
/* Errors (then no cb): MR_BUSY over SPOOL_MAX_READS, MR_CLOSED. */
int spool_get(struct spool *sp, struct spool_get *req);
/* The whole of a body of one piece, verified, if that takes no waiting for the disk: its segment was read from lately
 * and the kernel has these bytes in memory. malloc, the caller's. NULL: use spool_get, which also says why. */
uint8_t *spool_read_now(struct spool *sp, struct mr_id id, size_t *len);

struct spool_recheck {
    struct mr_id id;
    /* status 0: the body is here and is not known to be bad. MR_CHECKSUM, MR_IO: it is as bad as before. MR_NOTFOUND:
     * there is none, good or bad. MR_BUSY: no descriptor or memory for it now. MR_CANCELLED: the spool is closing. */
    void (*cb)(struct spool_recheck *req, int status);
    struct { /* spool's own */
        struct spool_get get;
        uint32_t segment, offset; /* of the copy's first piece */
    } internal;
};
/* Reads all of a copy that was found bad once more, for when no peer has the body: a disk or a controller may have
 * failed only for a while. Errors (then no cb) as of spool_get. */
int spool_recheck(struct spool *sp, struct spool_recheck *req);

struct spool_info {
    uint64_t length;
    uint8_t checksum[16];
    uint64_t stamp_ms;
    uint32_t pieces;
};
/* A whole, durable and not known-bad body is here. info may be NULL. */
bool spool_has(const struct spool *sp, struct mr_id id, struct spool_info *info);
/* The queue has no use for the body any more. Segments are unlinked or compacted later. Unknown id: nothing. */
void spool_drop(struct spool *sp, struct mr_id id);
/* The bodies here, whole or not, good or bad, some at a time; *cursor 0 to begin, 0 again at the end. Bodies put
 * meanwhile may or may not be seen. Returns how many were filled in. */
struct spool_entry {
    struct mr_id id;
    uint64_t stamp_ms;
    bool complete; /* and good */
};
size_t spool_list(const struct spool *sp, uint64_t *cursor, struct spool_entry *out, size_t max);
bool spool_low(const struct spool *sp); /* below the reserve */
/* The reserve that the configuration or the size of the file system makes; in bytes. */
uint64_t spool_reserve(const struct spool *sp);
/* So much is to stay free beside the reserve (the ballast that is missing, PROTOCOL.md 8.5). Compaction, which gives
 * more back than it takes, may have half of it. */
void spool_keep_free(struct spool *sp, uint64_t bytes);

struct spool_stats {
    uint64_t bodies, bytes, dead_bytes, segments, free_bytes, fsyncs, pieces_written, compactions;
    uint64_t bad;            /* found by reads since the start */
    uint64_t bad_here;       /* held now, in the place of a good one; not among the bodies and their bytes */
    uint64_t oldest_wait_ns; /* of a put that still waits for its fsync; for the watchdog */
};
void spool_stats(const struct spool *sp, struct spool_stats *out);

#endif
