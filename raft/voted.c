/* voted.c - see voted.h; the record's layout is in FORMAT.md. */
#include "raft/voted.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/le.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD_SIZE = 32, AT_VERSION = 4, AT_TERM = 8, AT_VOTE = 16, AT_SUM = 24, RECORD_VERSION = 1 };
#define RECORD_MAGIC 0x5456524dU /* "MRVT" */

static bool decode(const uint8_t record[RECORD_SIZE], struct voted *v)
{
    if (mr_get_le32(record) != RECORD_MAGIC || mr_get_le32(record + AT_VERSION) != RECORD_VERSION)
        return false;
    if (mr_get_le64(record + AT_SUM) != XXH3_64bits(record, AT_SUM))
        return false;
    v->term = mr_get_le64(record + AT_TERM);
    v->vote = mr_get_le64(record + AT_VOTE);
    return true;
}

static void save(struct voted *v)
{
    uint8_t record[RECORD_SIZE] = {0};

    mr_put_le32(record, RECORD_MAGIC);
    mr_put_le32(record + AT_VERSION, RECORD_VERSION);
    mr_put_le64(record + AT_TERM, v->term);
    mr_put_le64(record + AT_VOTE, v->vote);
    mr_put_le64(record + AT_SUM, XXH3_64bits(record, AT_SUM));
    /* raft_uv's own files hold: to go on without this second copy breaks no promise. */
    if (pwrite(v->fd, record, sizeof(record), 0) != (ssize_t)sizeof(record) || fdatasync(v->fd) != 0) {
        if (!v->failed)
            log_event(LOG_ERROR, "raft_voted_write_failed", LOG_S("error", strerror(errno)));
        v->failed = true;
        return;
    }
    v->failed = false;
}

int voted_open(struct voted *v, const char *dir, char *error, size_t error_len)
{
    uint8_t record[RECORD_SIZE];
    char *path = mr_asprintf("%s/%s", dir, VOTED_FILE);
    ssize_t n;

    *v = (struct voted){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    n = v->fd < 0 ? -1 : pread(v->fd, record, sizeof(record), 0);
    if (n < 0) {
        snprintf(error, error_len, "%s: %s", path, strerror(errno));
        voted_close(v);
        free(path);
        return MR_IO;
    }
    if (n > 0 && (n != (ssize_t)sizeof(record) || !decode(record, v)))
        log_event(LOG_WARN, "raft_voted_unreadable", LOG_S("file", path));
    free(path);
    return MR_OK;
}

int voted_check(struct voted *v, const char *dir, uint64_t term, uint64_t vote, char *error, size_t error_len)
{
    if (term < v->term || (term == v->term && v->vote != 0 && vote != v->vote)) {
        snprintf(error, error_len,
                 "the raft metadata in %s has term %llu and vote %llu, but this node was in term %llu and voted for "
                 "%llu: it is damaged or an old copy, and the node must not vote again. Start it with its newest data "
                 "directory if there is one, else leave it out: the cluster goes on with the rest",
                 dir, (unsigned long long)term, (unsigned long long)vote, (unsigned long long)v->term,
                 (unsigned long long)v->vote);
        return MR_STALE;
    }
    v->term = term;
    v->vote = vote;
    return MR_OK;
}

void voted_term(struct voted *v, uint64_t term)
{
    v->term = term;
    v->vote = 0;
    save(v);
}

void voted_for(struct voted *v, uint64_t vote)
{
    v->vote = vote;
    save(v);
}

void voted_close(struct voted *v)
{
    if (v->fd >= 0)
        close(v->fd);
    v->fd = -1;
}
