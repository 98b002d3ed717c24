/* log_dir.h - which files raft_uv has in its directory: closed segments, open ones, snapshots. Blocking. */
#ifndef MR_RAFT_LOG_DIR_H
#define MR_RAFT_LOG_DIR_H

#include <stddef.h>
#include <stdint.h>

enum { LOG_DIR_NAME = 128 };

struct log_dir_closed {
    uint64_t first, last;
};

struct log_dir {
    struct log_dir_closed *closed; /* by first, then by last */
    size_t n_closed;
    uint64_t *open; /* counters, in no order */
    size_t n_open;
    uint64_t snapshot_term, snapshot; /* of the newest of which both files are there; 0: none */
    char snapshot_meta[LOG_DIR_NAME]; /* its second file's name */
};

/* 0 or -errno. To be freed in any case. */
int log_dir_list(struct log_dir *out, const char *dir);
void log_dir_free(struct log_dir *l);

void log_dir_closed_name(char name[LOG_DIR_NAME], const struct log_dir_closed *s);
void log_dir_open_name(char name[LOG_DIR_NAME], uint64_t counter);

/* Reads the newest snapshot's files, for what the disk says to it: 0 or -errno. */
int log_dir_read_snapshot(const struct log_dir *l, const char *dir);

#endif
