/* Happy path: journal_dot -> write; journal_reply -> write, timer -> uv_fs_fdatasync; journal_done -> write. The timer
 * goes by the oldest reply that is open and not synced: while outcomes are committed in less than JOURNAL_SYNC_MS there
 * is no sync at all, however many are under way. When nothing is open and the file is larger than ROTATE_IDLE, a new
 * file takes over and the old one goes; the new one's name is synced with the first reply that needs it. Never quite
 * idle: at ROTATE_FULL the open attempts' records are copied to a new file; the old one is removed after the new one
 * and its name were synced. A crash between leaves both: the replay takes a record that it knows once. Failure: a
 * failed write or sync ends the process: a reply that may be lost would be delivered twice, unseen. Close: a sync under
 * way is waited for, replies not yet synced get one more. Bounds: the attempts a worker has open are bounded by its
 * connections; the files by twice ROTATE_FULL. */
#include "cluster/journal.h"

#include "cluster/journal_format.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROTATE_IDLE = 1 << 20, ROTATE_FULL = 64 << 20 };

struct journal {
    uv_loop_t *loop;
    char *dir;
    unsigned worker;
    uint64_t incarnation;
    unsigned seq;
    int dir_fd;
    int fd;
    uint64_t size;
    uint64_t full; /* at this size it is rotated even with open attempts */
    int old_fd;    /* -1; else the file before, until the new one was synced */
    char *old_path;
    bool name_unsynced;                    /* fd's */
    struct journal_table open;             /* attempts with a record and not done */
    uint64_t generation;                   /* of replies: rises when a sync begins */
    struct journal_entry *oldest, *newest; /* open replies of this generation */
    bool syncing;
    uv_timer_t timer;
    uv_fs_t sync;
    struct journal_disk disk;
    bool closing;
    void (*close_cb)(void *arg);
    void *close_arg;
};

static void begin_sync(struct journal *j);
static void sync_due(struct journal *j);

/* ---- files ---- */

static char *file_path(const struct journal *j, unsigned seq)
{
    return mr_asprintf("%s/outcomes-%u.%016llx.%u", j->dir, j->worker, (unsigned long long)j->incarnation, seq);
}

/* The next free name. Negative errno. */
static int open_next(struct journal *j)
{
    for (;;) {
        char *path = file_path(j, j->seq);
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        int error = fd < 0 ? errno : 0;
        free(path);
        if (fd >= 0)
            return fd;
        if (error != EEXIST)
            return -error;
        j->seq++;
    }
}

/* The disk is full, and the ballast, which is there for this, may have given something, to us or just now to another:
 * true once. */
static bool room_made(struct journal *j, int error, bool *tried)
{
    if ((error != ENOSPC && error != EDQUOT) || j->disk.release == NULL || *tried)
        return false;
    *tried = true;
    (void)j->disk.release(j->disk.arg);
    return true;
}

static void append(struct journal *j, const uint8_t *record, size_t len)
{
    size_t done = 0;
    bool tried = false;
    while (done < len) {
        busy_begin(j->disk.writes);
        ssize_t n = pwrite(j->fd, record + done, len - done, (off_t)(j->size + done));
        int error = n < 0 ? errno : 0;
        busy_end(j->disk.writes);
        if (n < 0 && (error == EINTR || room_made(j, error, &tried)))
            continue;
        if (n <= 0)
            mr_panic("journal of worker %u: write: %s", j->worker, n < 0 ? strerror(error) : "no progress");
        done += (size_t)n;
    }
    j->size += len;
}

static void remove_old(struct journal *j)
{
    if (j->old_path == NULL)
        return;
    (void)close(j->old_fd);
    if (unlink(j->old_path) < 0) /* the replay will find what is known already */
        log_event(LOG_WARN, "journal_unlink", LOG_S("path", j->old_path), LOG_S("error", strerror(errno)));
    free(j->old_path);
    j->old_path = NULL;
    j->old_fd = -1;
}

static void copy_record(void *arg, struct journal_entry *e)
{
    struct journal *j = arg;
    uint8_t *record = mr_malloc(e->len);
    ssize_t n;
    do {
        n = pread(j->old_fd, record, e->len, (off_t)e->offset);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)e->len)
        mr_panic("journal of worker %u: reading back: %s", j->worker, n < 0 ? strerror(errno) : "short");
    e->offset = j->size;
    append(j, record, e->len);
    free(record);
}

static void rotate(struct journal *j)
{
    j->old_path = file_path(j, j->seq);
    j->old_fd = j->fd;
    j->seq++;
    bool tried = false;
    busy_begin(j->disk.writes);
    j->fd = open_next(j);
    if (j->fd < 0 && room_made(j, -j->fd, &tried))
        j->fd = open_next(j);
    busy_end(j->disk.writes);
    if (j->fd < 0)
        mr_panic("journal of worker %u: new file: %s", j->worker, strerror(-j->fd));
    j->size = 0;
    j->name_unsynced = true;
    journal_table_each(&j->open, copy_record, j);
    /* Attempts that are open need most of a file by themselves: let them have twice that. */
    j->full = j->size * 2 > ROTATE_FULL ? j->size * 2 : ROTATE_FULL;
    if (j->open.count == 0) {
        remove_old(j);
        return;
    }
    begin_sync(j);
}

static void maybe_rotate(struct journal *j)
{
    if (j->closing || j->syncing || j->old_path != NULL)
        return;
    if ((j->open.count == 0 && j->size > ROTATE_IDLE) || j->size > j->full)
        rotate(j);
}

/* ---- group sync ---- */

static bool is_unsynced(const struct journal *j, const struct journal_entry *e)
{
    return e->reply && e->generation == j->generation;
}

static void unsynced_add(struct journal *j, struct journal_entry *e)
{
    e->generation = j->generation;
    e->since_ms = uv_now(j->loop);
    e->older = j->newest;
    e->newer = NULL;
    *(j->newest != NULL ? &j->newest->newer : &j->oldest) = e;
    j->newest = e;
}

static void unsynced_remove(struct journal *j, struct journal_entry *e)
{
    *(e->older != NULL ? &e->older->newer : &j->oldest) = e->newer;
    *(e->newer != NULL ? &e->newer->older : &j->newest) = e->older;
}

static void finish_close(uv_handle_t *handle)
{
    struct journal *j = handle->data;
    void (*cb)(void *) = j->close_cb;
    void *arg = j->close_arg;
    remove_old(j);
    (void)close(j->fd);
    (void)close(j->dir_fd);
    journal_table_clear(&j->open);
    free(j->dir);
    free(j);
    if (cb != NULL)
        cb(arg);
}

static void after_sync(struct journal *j)
{
    busy_end(j->disk.syncs);
    j->syncing = false;
    maybe_rotate(j); /* first: on a slow disk there may be no other moment between two syncs */
    if (j->syncing)
        return;
    if (j->oldest == NULL && j->closing)
        uv_close((uv_handle_t *)&j->timer, finish_close);
    else if (j->closing)
        begin_sync(j);
    else
        sync_due(j); /* the timer may have had its time while the sync ran */
}

static void name_synced(uv_fs_t *req)
{
    struct journal *j = req->data;
    if (req->result < 0)
        mr_panic("journal of worker %u: fsync of its folder: %s", j->worker, strerror(-(int)req->result));
    uv_fs_req_cleanup(req);
    j->name_unsynced = false;
    remove_old(j);
    after_sync(j);
}

static void data_synced(uv_fs_t *req)
{
    struct journal *j = req->data;
    if (req->result < 0)
        mr_panic("journal of worker %u: fdatasync: %s", j->worker, strerror(-(int)req->result));
    uv_fs_req_cleanup(req);
    if (!j->name_unsynced) {
        after_sync(j);
        return;
    }
    busy_step(j->disk.syncs);
    int rc = uv_fs_fsync(j->loop, &j->sync, j->dir_fd, name_synced);
    mr_assert(rc == 0);
}

static void begin_sync(struct journal *j)
{
    mr_assert(!j->syncing);
    j->syncing = true;
    j->generation++;
    j->oldest = j->newest = NULL;
    j->sync.data = j;
    busy_begin(j->disk.syncs);
    int rc = uv_fs_fdatasync(j->loop, &j->sync, j->fd, data_synced);
    mr_assert(rc == 0);
}

static void on_timer(uv_timer_t *timer)
{
    struct journal *j = timer->data;
    if (!j->syncing)
        sync_due(j);
}

static void sync_due(struct journal *j)
{
    if (j->oldest == NULL)
        return; /* the next reply starts the timer */
    uint64_t age = uv_now(j->loop) - j->oldest->since_ms;
    if (age >= JOURNAL_SYNC_MS)
        begin_sync(j);
    else
        (void)uv_timer_start(&j->timer, on_timer, JOURNAL_SYNC_MS - age, 0);
}

/* ---- records ---- */

void journal_dot(struct journal *j, struct mr_id id, uint32_t delivery, uint32_t attempt)
{
    uint8_t record[JOURNAL_KEY_RECORD];
    struct journal_key key = {id, delivery, attempt};
    mr_assert(!j->closing);
    if (journal_table_find(&j->open, &key) != NULL || MR_MUTANT(MUTANT_DOT_NOT_JOURNALLED))
        return; /* known; a reply says more than a dot */
    journal_key_encode(record, JOURNAL_DOT, &key);
    struct journal_entry *e = journal_table_add(&j->open, &key);
    e->offset = j->size;
    e->len = sizeof(record);
    append(j, record, sizeof(record));
    maybe_rotate(j);
}

void journal_reply(struct journal *j, const Mailraft__Outcome *outcome)
{
    struct journal_key key = {.delivery = outcome->delivery, .attempt = outcome->attempt};
    mr_assert(!j->closing);
    mr_assert(mr_id_from_bytes(outcome->id.data, outcome->id.len, &key.id) == 0);
    size_t len;
    uint8_t *record = journal_reply_encode(outcome, &len);
    struct journal_entry *e = journal_table_find(&j->open, &key);
    if (e == NULL)
        e = journal_table_add(&j->open, &key);
    if (!is_unsynced(j, e))
        unsynced_add(j, e); /* else the older one's time is the newer one's, which counts */
    e->offset = j->size;
    e->len = (uint32_t)len;
    e->reply = true;
    append(j, record, len);
    free(record);
    if (!uv_is_active((uv_handle_t *)&j->timer))
        (void)uv_timer_start(&j->timer, on_timer, JOURNAL_SYNC_MS, 0);
    maybe_rotate(j);
}

void journal_done(struct journal *j, struct mr_id id, uint32_t delivery, uint32_t attempt)
{
    uint8_t record[JOURNAL_KEY_RECORD];
    struct journal_key key = {id, delivery, attempt};
    mr_assert(!j->closing);
    struct journal_entry *e = journal_table_find(&j->open, &key);
    if (e == NULL)
        return;
    if (is_unsynced(j, e))
        unsynced_remove(j, e);
    journal_table_remove(&j->open, e);
    journal_key_encode(record, JOURNAL_DONE, &key);
    append(j, record, sizeof(record));
    maybe_rotate(j);
}

/* ---- open, close ---- */

static int open_files(struct journal *j)
{
    j->dir_fd = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->dir_fd < 0)
        goto err;
    j->fd = open_next(j);
    if (j->fd < 0) {
        errno = -j->fd;
        goto err_after_dir;
    }
    if (fsync(j->dir_fd) < 0)
        goto err_after_file;
    return 0;
err_after_file:
    (void)close(j->fd);
err_after_dir:
    (void)close(j->dir_fd);
err:
    log_event(LOG_ERROR, "journal_open", LOG_S("dir", j->dir), LOG_S("error", strerror(errno)));
    return errno == ENOSPC || errno == EDQUOT ? MR_NOSPACE : MR_IO;
}

int journal_open(struct journal **out, uv_loop_t *loop, const char *dir, unsigned worker, uint64_t incarnation)
{
    struct journal *j = mr_calloc(1, sizeof(*j));
    j->loop = loop;
    j->dir = mr_strdup(dir);
    j->worker = worker;
    j->incarnation = incarnation;
    j->full = ROTATE_FULL;
    j->old_fd = -1;
    int rc = open_files(j);
    if (rc != 0) {
        free(j->dir);
        free(j);
        return rc;
    }
    rc = uv_timer_init(loop, &j->timer);
    mr_assert(rc == 0);
    j->timer.data = j;
    *out = j;
    return 0;
}

void journal_set_disk(struct journal *j, const struct journal_disk *disk)
{
    mr_assert(!j->syncing);
    j->disk = *disk;
}

void journal_close(struct journal *j, void (*cb)(void *arg), void *arg)
{
    mr_assert(!j->closing);
    j->closing = true;
    j->close_cb = cb;
    j->close_arg = arg;
    (void)uv_timer_stop(&j->timer);
    if (j->syncing)
        return; /* after_sync goes on */
    if (j->oldest != NULL)
        begin_sync(j);
    else
        uv_close((uv_handle_t *)&j->timer, finish_close);
}
