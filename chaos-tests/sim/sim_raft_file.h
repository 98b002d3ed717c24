/* sim_raft_file.h - the files of a Raft log as raft_uv of libraft 0.22.1 writes and reads them, over POSIX calls.
 *
 * Names and bytes are raft_uv's: metadata1 and metadata2 (32 bytes, the higher version counts, no checksum), open-<n>
 * (preallocated segments, cut at the first bad batch), <first>-<last> (closed ones, in which nothing may be bad),
 * snapshot-<term>-<index>-<time> and the same with .meta. So its order of steps can be followed one by one, with
 * everything that a crash between two of them leaves. Results: 0 or RAFT_...; blocking. */
#ifndef MR_SIM_RAFT_FILE_H
#define MR_SIM_RAFT_FILE_H

#include <raft.h>
#include <stddef.h>
#include <stdint.h>

enum { RAFT_FILE_HEAD = 8 /* of a segment */, RAFT_FILE_NAME = 128 };

struct raft_file_meta {
    uint64_t version, term, vote;
};

struct raft_file_segment {
    bool open;
    uint64_t first, last, counter;
};

struct raft_file_snapshot {
    uint64_t term, index, stamp;
};

struct raft_file_list {
    struct raft_file_segment *segments;
    size_t n_segments;
    struct raft_file_snapshot *snapshots;
    size_t n_snapshots;
};

struct raft_file_log {
    struct raft_snapshot *snapshot; /* NULL: none */
    raft_index start;
    struct raft_entry *entries;
    size_t n;
};

struct raft_file_dir {
    const char *path;
    bool change; /* false: only look; nothing is closed, renamed or removed */
    char *errmsg;
};

int raft_file_meta_load(const struct raft_file_dir *dir, struct raft_file_meta *meta);
int raft_file_meta_store(const struct raft_file_dir *dir, const struct raft_file_meta *meta);
/* Leftovers of what was not finished. */
void raft_file_maintain(const struct raft_file_dir *dir);
int raft_file_list(const struct raft_file_dir *dir, struct raft_file_list *list);
void raft_file_list_free(struct raft_file_list *list);
/* Adds its entries to the log; an open one is closed. */
int raft_file_segment_load(const struct raft_file_dir *dir, const struct raft_file_segment *s,
                           struct raft_file_log *log);
int raft_file_load(const struct raft_file_dir *dir, struct raft_file_log *log);
void raft_file_log_free(struct raft_file_log *log);
int raft_file_snapshot_load(const struct raft_file_dir *dir, const struct raft_file_snapshot *which,
                            struct raft_snapshot *out);
/* A closed segment of one batch. */
int raft_file_make_closed(const struct raft_file_dir *dir, uint64_t first, uint64_t last,
                          const struct raft_entry *entries, unsigned n);
int raft_file_truncate(const struct raft_file_dir *dir, uint64_t index);
/* Removes what a snapshot at index makes unnecessary. */
int raft_file_trail(const struct raft_file_dir *dir, uint64_t index, size_t trailing);
int raft_file_remove(const struct raft_file_dir *dir, const char *name);
int raft_file_sync_dir(const struct raft_file_dir *dir);
char *raft_file_path(const struct raft_file_dir *dir, const char *name); /* owned by the caller */

size_t raft_file_batch_size(const struct raft_entry *entries, unsigned n);
void raft_file_batch_encode(uint8_t *out, const struct raft_entry *entries, unsigned n);
void raft_file_closed_name(char *out, uint64_t first, uint64_t last); /* RAFT_FILE_NAME */
void raft_file_snapshot_name(char *out, const struct raft_file_snapshot *s, bool meta);
/* The whole content of a snapshot's .meta; owned by the caller. */
int raft_file_snapshot_meta(const struct raft_snapshot *s, struct raft_buffer *out);
/* One vectored write, then fsync. -errno or 0. */
int raft_file_fill(int fd, const struct raft_buffer *bufs, unsigned n);

#endif
