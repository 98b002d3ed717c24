/* replica_load.c - see replica_load.h. */
#include "raft/replica_load.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "raft/log_dir.h"
#include "raft/open_segments.h"
#include "raft/unfinished.h"

#include <stdio.h>
#include <string.h>

int replica_load_take(struct replica_io *rio, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                      raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    struct loaded_log *l = &rio->loaded;
    int rv;

    if (!l->valid) {
        rv = rio->uv.load(&rio->io, &l->term, &l->voted_for, &l->snapshot, &l->start_index, &l->entries, &l->n_entries);
        if (rv != 0)
            return rv;
    }
    *term = l->term;
    *voted_for = l->voted_for;
    *snapshot = l->snapshot;
    *start_index = l->start_index;
    *entries = l->entries;
    *n_entries = l->n_entries;
    rio->next_index = l->start_index + l->n_entries;
    rio->send.snapshot_index = l->snapshot != NULL ? l->snapshot->index : 0;
    rio->log_bytes = 0;
    for (size_t i = 0; i < l->n_entries; i++)
        if (l->start_index + i > rio->send.snapshot_index)
            rio->log_bytes += l->entries[i].buf.len;
    *l = (struct loaded_log){0};
    return 0;
}

void replica_load_forget(struct replica_io *rio)
{
    struct loaded_log *l = &rio->loaded;
    void *batch = NULL;

    for (size_t i = 0; i < l->n_entries; i++) {
        if (l->entries[i].batch != batch)
            raft_free(l->entries[i].batch);
        batch = l->entries[i].batch;
    }
    raft_free(l->entries);
    if (l->snapshot != NULL) {
        raft_configuration_close(&l->snapshot->configuration);
        for (unsigned i = 0; i < l->snapshot->n_bufs; i++)
            raft_free(l->snapshot->bufs[i].base);
        raft_free(l->snapshot->bufs);
        raft_free(l->snapshot);
    }
    *l = (struct loaded_log){0};
}

/* Committed entries that a leader of before may replace, should this node take its term for the newest. */
static int check_terms(const struct replica_io *rio, char *error, size_t error_len)
{
    const struct loaded_log *l = &rio->loaded;
    raft_term newest = l->snapshot != NULL ? l->snapshot->term : 0;

    if (l->n_entries > 0 && l->entries[l->n_entries - 1].term > newest)
        newest = l->entries[l->n_entries - 1].term;
    if (newest <= l->term)
        return MR_OK;
    snprintf(error, error_len,
             "the raft log in %s has entries of term %llu, but its metadata has term %llu: it lost data or is an old "
             "copy, and the node must not vote. Start it with its newest data directory if there is one, else leave it "
             "out: the cluster goes on with the rest",
             rio->dir, newest, l->term);
    return MR_STALE;
}

static int check_last(struct replica_io *rio, char *error, size_t error_len)
{
    const struct loaded_log *l = &rio->loaded;
    uint64_t last = l->start_index + l->n_entries - 1;

    if (l->snapshot != NULL && l->snapshot->index > last)
        last = l->snapshot->index;
    if (last < rio->acked.index) {
        snprintf(
            error, error_len,
            "the raft log in %s ends at index %llu, but this node acknowledged entries up to %llu: it lost data or is "
            "an old copy and must not vote. Start it with its newest data directory if there is one, else leave it "
            "out: the cluster goes on with the rest",
            rio->dir, (unsigned long long)last, (unsigned long long)rio->acked.index);
        return MR_STALE;
    }
    acked_raise(&rio->acked, last);
    return MR_OK;
}

/* What was read may be what a process wrote that was killed before its sync came back, or whose sync failed: it is in
 * the page cache, and libraft, which is in that term already, would never store it. A power cut then turns the term
 * back behind entries that were acknowledged in it, and a leader of before may replace them (UPSTREAM.md 39).
 * raft_uv takes the older of its two files for it, so that a kill or a power cut leaves the newer one as it was; a
 * start that fails here writes again at the next. */
static int store_again(struct replica_io *rio, char *error, size_t error_len)
{
    const struct loaded_log *l = &rio->loaded;

    if (l->term == 0) /* a first start: there is nothing, and bootstrap wants it so */
        return MR_OK;
    if (rio->uv.set_vote(&rio->io, l->voted_for) != 0) {
        snprintf(error, error_len, "raft term and vote were not stored in %s: %s", rio->dir, rio->io.errmsg);
        return MR_IO;
    }
    voted_for(&rio->voted, l->voted_for);
    return MR_OK;
}

static int load(struct replica_io *rio, char *error, size_t error_len)
{
    struct loaded_log *l = &rio->loaded;
    int rv = rio->uv.load(&rio->io, &l->term, &l->voted_for, &l->snapshot, &l->start_index, &l->entries, &l->n_entries);

    if (rv != 0) {
        snprintf(error, error_len, "raft log in %s: %s (%s)", rio->dir, raft_strerror(rv), rio->io.errmsg);
        *l = (struct loaded_log){0};
        /* A file that was cut short is an I/O error for raft_uv, but no other start mends it. */
        bool damaged = rv == RAFT_CORRUPT || rv == RAFT_MALFORMED || strstr(rio->io.errmsg, "short read") != NULL ||
                       strstr(rio->io.errmsg, "file has only") != NULL;
        return damaged ? MR_MALFORMED : MR_IO;
    }
    l->valid = true;
    return MR_OK;
}

/* Entries that follow the older snapshot by their names; an open segment has no index of its own, and may belong to the
 * newest. */
static bool connected(const struct replica_io *rio, const struct log_dir *dir)
{
    const struct loaded_log *l = &rio->loaded;
    uint64_t next = l->snapshot != NULL ? l->snapshot->index + 1 : 1;

    for (size_t i = 0; i < dir->n_closed; i++)
        if (dir->closed[i].first <= next && dir->closed[i].last >= next)
            return l->start_index + l->n_entries > dir->snapshot;
    return false;
}

/* What is wrong with the newest snapshot is wrong in its files, once these were read: the one before it is as good if
 * the log goes on behind it to where the newest ended. */
static int check_snapshot(const struct replica_io *rio, const struct log_dir *dir, char *error, size_t error_len)
{
    uint64_t taken = rio->loaded.snapshot != NULL ? rio->loaded.snapshot->index : 0;

    if (dir->snapshot <= taken)
        return MR_OK;
    log_event(LOG_WARN, "raft_snapshot_skipped", LOG_S("dir", rio->dir), LOG_N("index", dir->snapshot),
              LOG_N("taken", taken));
    if (connected(rio, dir))
        return MR_OK;
    snprintf(
        error, error_len,
        "the newest raft snapshot in %s, of index %llu, is damaged, and the log does not go on from the one before "
        "(%llu): this node lost data and must not vote. Start it with its newest data directory if there is one, "
        "else leave it out: the cluster goes on with the rest",
        rio->dir, (unsigned long long)dir->snapshot, (unsigned long long)taken);
    return MR_STALE;
}

/* raft_uv says nothing when it can not read the newest snapshot, takes the one before it, and gives open segments names
 * that follow it, also when the disk had but a bad moment (UPSTREAM.md 41): so the snapshot is read here before. A disk
 * that does not give it ends this start, and the next one may be well. */
static int load_newest(struct replica_io *rio, char *error, size_t error_len)
{
    struct log_dir dir;
    int rc = log_dir_list(&dir, rio->dir);

    if (rc == 0)
        rc = log_dir_read_snapshot(&dir, rio->dir);
    if (rc == 0) {
        rc = load(rio, error, error_len);
        if (rc == MR_OK)
            rc = check_snapshot(rio, &dir, error, error_len);
    } else {
        snprintf(error, error_len, "raft log in %s: snapshot: %s", rio->dir, strerror(-rc));
        rc = MR_IO;
    }
    log_dir_free(&dir);
    return rc;
}

int replica_load(struct replica_io *rio, char *error, size_t error_len)
{
    struct loaded_log *l = &rio->loaded;
    int rv;

    rv = unfinished_finish(rio->dir, rio->acked.index, error, error_len);
    if (rv == MR_OK)
        rv = open_segments_mend(rio->dir, error, error_len);
    if (rv == MR_OK)
        rv = load_newest(rio, error, error_len);
    if (rv != MR_OK)
        return rv;
    rv = voted_check(&rio->voted, rio->dir, l->term, l->voted_for, error, error_len);
    if (rv == MR_OK)
        rv = check_terms(rio, error, error_len);
    if (rv == MR_OK)
        rv = check_last(rio, error, error_len);
    return rv == MR_OK ? store_again(rio, error, error_len) : rv;
}

bool replica_load_is_empty(const struct replica_io *rio)
{
    return rio->loaded.term == 0 && rio->loaded.n_entries == 0 && rio->loaded.snapshot == NULL;
}
