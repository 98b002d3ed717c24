/* spool_internal.h - what the files of the spool share; nobody else includes it.
 *
 * Owner of everything is the loop's thread, but: struct spool_writer between its mutex and the writer thread (each
 * member says), a request's or job's own part while a thread works on it, and the two atomics. N1: the live bytes of a
 * segment are the record sizes of the pieces that a body or a build in the tables or in flight names. N2: a segment's
 * file is unlinked, or becomes a spare, only when it is sealed, its live bytes and its refs are 0; so no reader ever
 * opens a name that is gone, nor reads what is written over, and the copies that took a body's place were durable
 * before its old place stopped counting. N3: a body that could not be read lives until a good one takes its place or it
 * is dropped. */
#ifndef MR_CLUSTER_SPOOL_INTERNAL_H
#define MR_CLUSTER_SPOOL_INTERNAL_H

#include "cluster/spool.h"
#include "cluster/spool_format.h"
#include "proto/base/hash.h"
#include "proto/base/mailbox.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- index (spool_index.c) ---- */
struct spool_loc {
    uint32_t segment;
    uint32_t offset;
    uint32_t len; /* of the payload */
};

struct spool_node {
    struct spool_node *next;
    struct mr_id id;
};

enum { SPOOL_SHARD_BITS = 10, SPOOL_SHARDS = 1 << SPOOL_SHARD_BITS };

/* Chained hash by the upper bits of mr_id_hash, so that the order of a walk outlives growth. Shards grow one by one: no
 * single put pays for a whole table. */
struct spool_table {
    struct spool_shard {
        struct spool_node **buckets;
        uint32_t bits;
        uint32_t count;
    } shards[SPOOL_SHARDS];
    size_t count;
};

void spool_table_init(struct spool_table *t);
void spool_table_clear(struct spool_table *t, void (*free_node)(struct spool_node *node));
struct spool_node *spool_table_find(const struct spool_table *t, struct mr_id id);
void spool_table_add(struct spool_table *t, struct spool_node *node); /* id not in the table */
void spool_table_remove(struct spool_table *t, struct spool_node *node);
/* The nodes whose order is at least *from, in order (63 bits); *from becomes that of the first one that did not fit.
 * False: no more. */
bool spool_table_walk(const struct spool_table *t, uint64_t *from, size_t max, struct spool_node **out, size_t *count);

/* A whole and durable body: 80 bytes of heap for one of a single piece. */
struct spool_body {
    struct spool_node node;
    uint64_t stamp_ms;
    uint64_t length;
    uint8_t checksum[16];
    uint32_t pieces : 31;
    uint32_t bad : 1; /* could not be read as it was written: not "here", but its bytes stay (spool_bad.c) */
    struct spool_loc locs[];
};

/* A body that is being put (or that a crash left without its end). */
struct spool_build {
    struct spool_node node;
    uint32_t refs; /* the table's and one for each put in flight */
    uint32_t attempt;
    uint32_t next;    /* the piece to come */
    uint32_t written; /* locs in use */
    uint32_t room;
    int failed; /* first failure; its pieces are dead */
    bool in_table;
    bool ended; /* the last was handed to the writer */
    bool found; /* left by an earlier life: cannot go on */
    bool bad;   /* a scan found that it will not be read as it was written */
    bool copy;  /* of compaction: replaces a body that is still here, else is dropped */
    uint64_t stamp_ms;
    uint64_t length; /* so far */
    uint8_t checksum[16];
    XXH3_state_t *hash; /* NULL for one piece or none */
    struct spool_loc *locs;
};

struct spool_segment {
    uint32_t number;
    uint32_t refs; /* reads under way */
    uint64_t size; /* of its records */
    uint64_t live;
    uint64_t tried_live; /* compaction left this much alive: not again before it changes */
    uint32_t held;       /* pieces of bad bodies, and what no scan could read: while there are any, nothing of it is
                            moved or given back */
    bool sealed;
    int fd; /* kept for spool_read_now; -1: none */
};

/* ---- writer (spool_writer.c) ---- */
struct spool_batch {
    struct mail mail;
    struct spool *sp;
    struct spool_put *puts; /* in the order of arrival */
    uint32_t *sealed;       /* numbers of the segments that it ended */
    size_t sealed_count;
    uint64_t fsyncs, pieces;
};

/* Spare segments (spool_spare.c). */
enum {
    SPOOL_SPARES = 4,
    SPOOL_SPARES_FILLED = 2,
    SPOOL_FILL_STEP = 1 << 20, /* then a sync, and a look whether somebody waits */
    SPOOL_FILL_AFTER = 64,     /* the open segment is filled up when such a part of it is records */
};
struct spool_spares {
    pthread_mutex_t mutex;
    uint32_t numbers[SPOOL_SPARES]; /* mutex */
    unsigned count;                 /* mutex */
    /* the writer thread's: one that is being filled with zeros; fd -1: none */
    int fd;
    uint32_t filling;
    uint64_t filled;
    bool given_up; /* it failed once: not again in this life */
};

struct spool_writer {
    struct spool *sp;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct spool_put *head, **tail; /* mutex */
    bool stop;                      /* mutex */
    /* the thread's own (before it starts: spool_open's) */
    int fd; /* -1: no segment open */
    uint32_t number;
    uint32_t next_number;
    uint64_t offset;    /* where the next record goes: the end of the last good one */
    uint64_t synced;    /* a sync has stored what lies before */
    uint64_t allocated; /* blocks are there up to here */
    uint64_t written;   /* and they, or what lies before offset, are not only allocated */
    bool can_allocate;
    bool unsynced;
    bool has_sealed;              /* a segment, since the start */
    struct spool_record *records; /* of the open segment, for its index record */
    size_t records_count, records_room;
    uint64_t space_left; /* when last asked, less what was written since */
    uint64_t space_ns;   /* boot time of that */
    uint64_t took_ns;    /* the last batch */
};

/* A put's own part, over spool_put.internal. */
struct spool_put_state {
    struct spool_put *queue_next;  /* writer's list */
    struct spool_put *flight_next; /* loop's list of puts without callback yet */
    struct spool_build *build;     /* NULL: nothing is to be written, status says why */
    uint64_t since_ns;
    int32_t status;
    uint32_t attempt;
    uint32_t segment, offset;
    bool reserve; /* may use the reserve: what it writes gives more back */
};
_Static_assert(sizeof(struct spool_put_state) <= sizeof(((struct spool_put *)0)->internal),
               "spool_put.internal too small");

static inline struct spool_put_state *spool_put_state(struct spool_put *req)
{
    return (struct spool_put_state *)&req->internal;
}

/* ---- jobs of the reader threads (spool_reader.c) ---- */
struct spool_job {
    struct spool_job *next;
    struct spool *sp;
    void (*work)(struct spool_job *job); /* on a reader thread */
    struct mail done;                    /* then on the loop */
};

struct spool_get_state {
    struct spool_job job;
    struct spool_loc loc;
    int32_t status;
    uint8_t *data;
    bool last;
    bool held; /* its segment has a ref for it */
    bool keep; /* the descriptor is wanted for the segment */
    int32_t fd;
};
_Static_assert(sizeof(struct spool_get_state) <= sizeof(((struct spool_get *)0)->internal),
               "spool_get.internal too small");

static inline struct spool_get_state *spool_get_state(struct spool_get *req)
{
    return (struct spool_get_state *)&req->internal;
}

struct spool_readers {
    pthread_t threads[SPOOL_READERS];
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct spool_job *head, **tail; /* mutex */
    bool stop;                      /* mutex */
};

struct spool_compaction;

enum { SPOOL_KEPT_FDS = 16 }; /* of segments that were read from lately */

struct spool {
    const struct mr_fileio *io;
    char *dir;
    uint64_t segment_bytes;
    uint64_t reserve;
    uint64_t salt;
    struct mailbox *mailbox;
    struct spool_table bodies;       /* struct spool_body */
    struct spool_table builds;       /* struct spool_build */
    struct spool_segment **segments; /* by number */
    size_t segments_count, segments_room;
    uint32_t kept_fds[SPOOL_KEPT_FDS]; /* numbers of the segments that have one, or had; 0: none */
    unsigned kept_fds_at;              /* the oldest */
    uint32_t attempts;                 /* counter; begins at chance, so that lives do not meet */
    struct spool_put *flight_head, **flight_tail;
    uint64_t queued_bytes;
    uint64_t reads; /* gets without callback yet */
    uint64_t jobs;  /* other jobs of the readers */
    struct spool_compaction *compaction;
    uint64_t body_bytes, fsyncs, pieces_written, compactions, bad, bad_here;
    bool started, closing, closed;
    void (*close_cb)(void *arg);
    void *close_arg;
    struct busy *disk;          /* the writer's */
    _Atomic uint64_t keep_free; /* beside the reserve */
    _Atomic uint64_t free_bytes;
    _Atomic bool low;
    struct spool_writer writer;
    struct spool_spares spares;
    struct spool_readers readers;
};

/* spool.c, loop */
struct spool_build *spool_build_new(struct spool *sp, struct mr_id id, uint64_t stamp_ms);
void spool_build_unref(struct spool_build *build);
/* Its pieces are dead from now on; those in flight will be. Takes it out of the table. */
void spool_build_fail(struct spool *sp, struct spool_build *build, int status);
/* build takes the place of what is known of its id. */
void spool_install(struct spool *sp, struct spool_build *build);
void spool_forget(struct spool *sp, struct spool_body *body);
void spool_build_add(struct spool *sp, struct spool_build *build, struct spool_loc loc);
/* build NULL: nothing is written, req->cb comes with status after what was put before. */
void spool_submit(struct spool *sp, struct spool_put *req, struct spool_build *build, int status, bool reserve);
void spool_batch_done(struct mail *mail);
void spool_check_close(struct spool *sp);
void spool_segment_close_fd(const struct spool *sp, struct spool_segment *seg);
char *spool_path(const struct spool *sp, uint32_t segment);

/* spool_segments.c, loop */
struct spool_segment *spool_segment_find(const struct spool *sp, uint32_t number);
struct spool_segment *spool_segment_get(struct spool *sp, uint32_t number); /* made if unknown */
void spool_segment_live(struct spool *sp, struct spool_loc loc);
void spool_segment_dead(struct spool *sp, struct spool_loc loc);
void spool_segment_release(struct spool *sp, uint32_t number);
/* Unlinks it or has it compacted, if it is time. */
void spool_segment_reclaim(struct spool *sp, struct spool_segment *seg);

/* spool_compact.c, loop */
void spool_compact_begin(struct spool *sp, struct spool_segment *seg);
void spool_compact_next(struct spool *sp); /* looks for a segment worth it */

/* spool_writer.c */
int spool_writer_start(struct spool_writer *w);
void spool_writer_push(struct spool_writer *w, struct spool_put *req);
void spool_writer_stop(struct spool_writer *w); /* nothing may wait; joins */
void spool_writer_free(struct spool_writer *w);
void spool_writer_space(struct spool_writer *w); /* asks the file system */

/* spool_spare.c */
void spool_spares_init(struct spool_spares *s);
void spool_spares_free(struct spool *sp);
char *spool_spare_path(const struct spool *sp, uint32_t number);
/* At open: it is taken over, or unlinked. */
void spool_spare_found(struct spool *sp, uint32_t number);
/* A dead segment's file, of so many bytes, becomes a spare. False: it is to be unlinked. Reader threads. */
bool spool_spare_keep(struct spool *sp, uint32_t number, uint64_t size);
/* The rest: writer thread. A spare's descriptor, and its number and size; it still has its name. -1: there is none. */
int spool_spare_take(struct spool *sp, uint32_t *number, uint64_t *size);
/* There is room enough to write zeros for what may never come. */
bool spool_spare_room(const struct spool_writer *w);
/* A step of filling one. False: nothing is to be done. */
bool spool_spare_fill(struct spool_writer *w);
/* Not synced. 0 or negative errno. */
int spool_write_zeros(struct spool *sp, int fd, uint64_t from, uint64_t len);
/* All are unlinked. */
void spool_spares_drop(struct spool *sp);

/* spool_bad.c, loop */
void spool_bad_mark(struct spool *sp, struct spool_body *body);
void spool_bad_forget(struct spool *sp, struct spool_body *body); /* it is about to go: it holds nothing any more */

/* spool_reader.c */
int spool_readers_start(struct spool *sp);
void spool_readers_push(struct spool *sp, struct spool_job *job);
void spool_readers_stop(struct spool *sp);
/* status 0: reads what state->loc says. Else only the answer is due. */
void spool_get_begin(struct spool *sp, struct spool_get *req, int status);

/* spool_scan.c: pure but for reading the one file; any thread */
struct spool_scan {
    struct spool_record *records; /* malloc */
    size_t count;
    uint64_t file_size;
    uint64_t end;     /* of the last record of a piece, sound or bad */
    uint64_t skipped; /* bytes before the last sound one that belong to no sound one */
    bool sealed;      /* by a sound index record */
    bool unread;      /* record by record, and a part of the file could not be read */
    /* Of the newest: where an index stands that tells of other records than there are; 0: none. */
    uint64_t wrong_index;
};
/* MR_IO: cannot be opened. MR_VERSION: written by a newer program. */
int spool_scan_segment(const struct mr_fileio *io, const char *path, struct spool_place place, struct spool_scan *out);
/* The same of the newest segment, by its records whatever its index says; *bytes (malloc): the file as it was read. */
int spool_scan_newest(const struct mr_fileio *io, const char *path, struct spool_place place, struct spool_scan *out,
                      uint8_t **bytes);
/* MR_MALFORMED, MR_CHECKSUM, MR_VERSION; MR_IO. */
int spool_scan_head(const struct mr_fileio *io, const char *path, struct spool_place *place, uint64_t *file_size);

/* spool_load.c: the scan at open */
int spool_load(struct spool *sp, char *error, size_t error_len);

#endif
