/* sim_raft_io.h - inside of the raft_io in place of raft_uv: its log (sim_raft_io.c) and its snapshots and life
 * (sim_raft_life.c). Thread: the replica's loop; what is marked "pool" runs in libuv's. */
#ifndef MR_SIM_RAFT_IO_H
#define MR_SIM_RAFT_IO_H

#include "chaos-tests/sim/sim_fs.h"
#include "chaos-tests/sim/sim_raft_file.h"

#include <raft/uv.h>

enum { RAFT_IO_POOL = 2 /* prepared segments */, RAFT_IO_RETRY_MS = 5000 };

struct raft_io_segment {
    struct raft_io_segment *next; /* dying */
    struct raft_io_disk *owner;
    uint64_t counter;
    int fd;
    uint64_t used; /* bytes written */
    uint64_t first, last;
    int status;
    char errmsg[RAFT_ERRMSG_BUF_SIZE];
};

struct raft_io_put {
    struct raft_io_disk *owner;
    struct raft_io_snapshot_put *req;
    const struct raft_snapshot *snapshot;
    unsigned trailing;
    struct raft_buffer meta;
    int meta_fd, data_fd;
    uint64_t stamp;
    bool ready;   /* the files are written and what comes before is closed */
    bool writing; /* its work is in the pool */
    bool under_way;
    int status;
    char errmsg[RAFT_ERRMSG_BUF_SIZE];
};

/* What happens to the log, in order. */
struct raft_io_op {
    struct raft_io_op *next;
    enum { OP_APPEND, OP_TRUNCATE, OP_PUT, OP_INSTALL } kind;
    struct raft_io_append *append;
    const struct raft_entry *entries;
    unsigned n;
    uint64_t index;
    struct raft_io_put *put;
};

struct raft_io_disk {
    struct raft_io *io;
    uv_loop_t *loop;
    char *path;
    struct raft_file_dir dir;
    struct raft_tracer *tracer;
    uint64_t segment_size, nominal_size; /* as it is here, as it was asked for */
    struct raft_file_meta meta;
    uint64_t next_index;

    uv_timer_t tick, prepare_retry, put_retry;
    uv_prepare_t prepare;
    uv_check_t check;
    raft_io_tick_cb tick_cb;

    struct raft_io_segment *pool[RAFT_IO_POOL];
    unsigned n_pool;
    uint64_t next_counter;
    struct raft_io_segment *preparing;
    uv_work_t prepare_work;
    struct raft_io_segment *current;
    struct raft_io_op *ops, **ops_end;
    struct raft_io_op *writing; /* appends of the write under way */
    uint64_t writing_bytes;
    struct raft_io_segment *dying, **dying_end;
    bool finalizing;
    uv_work_t finalize_work;
    bool truncating;
    int truncate_status;
    uv_work_t truncate_work;
    struct raft_io_put *put;
    uv_work_t put_work;

    unsigned busy; /* handles, work and writes that are under way */
    bool started, closing;
    raft_io_close_cb close_cb;
};

__attribute__((format(printf, 2, 3))) void raft_io_tell(struct raft_io_disk *d, const char *format, ...);
void raft_io_done(struct raft_io_disk *d); /* one thing less is busy */
void raft_io_work(struct raft_io_disk *d, uv_work_t *work, uv_work_cb run, uv_after_work_cb after);

/* ---- the log ---- */
int raft_io_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                   raft_io_append_cb cb);
int raft_io_truncate(struct raft_io *io, raft_index index);
void raft_io_push(struct raft_io_disk *d, struct raft_io_op op);
void raft_io_run(struct raft_io_disk *d);
void raft_io_prepare_first(struct raft_io_disk *d);
void raft_io_close_log(struct raft_io_disk *d);

/* ---- snapshots ---- */
int raft_io_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb);
int raft_io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb);
/* What came before is closed: its names can appear. */
void raft_io_put_go(struct raft_io_put *put);
void raft_io_put_end(struct raft_io_put *put, int status);

#endif
