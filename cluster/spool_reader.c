/* The reader threads: a queue of jobs that block on the disk (reads of pieces, unlinks, reading a segment's index).
 *
 * Happy path: job -> (queue, a thread) -> work -> mail -> done on the loop.
 * A segment is opened for each read: thousands of sealed ones need no descriptors. Its file is there, because the loop
 * holds a ref to it (N2). The descriptors of the last few are kept for spool_read_now, which reads on the loop what the
 * kernel has in memory: a queue that is sent out soon after it came in wakes no thread. They are the loop's alone, and
 * closed before their segment's name goes. */
#include "cluster/spool_internal.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"
#include "proto/base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { READ_TRIES = 2 }; /* a disk that failed may have failed once */

static void *run(void *arg)
{
    struct spool *sp = arg;
    struct spool_readers *r = &sp->readers;
    pthread_mutex_lock(&r->mutex);
    for (;;) {
        while (r->head == NULL && !r->stop)
            pthread_cond_wait(&r->wake, &r->mutex);
        struct spool_job *job = r->head;
        if (job == NULL)
            break;
        r->head = job->next;
        if (r->head == NULL)
            r->tail = &r->head;
        pthread_mutex_unlock(&r->mutex);
        job->work(job);
        mailbox_post(sp->mailbox, &job->done); /* job is the loop's again */
        pthread_mutex_lock(&r->mutex);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static void stop_threads(struct spool *sp, int count)
{
    struct spool_readers *r = &sp->readers;
    pthread_mutex_lock(&r->mutex);
    mr_assert(r->head == NULL);
    r->stop = true;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
    for (int i = 0; i < count; i++)
        pthread_join(r->threads[i], NULL);
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->wake);
}

int spool_readers_start(struct spool *sp)
{
    struct spool_readers *r = &sp->readers;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->wake, NULL);
    r->tail = &r->head;
    for (int i = 0; i < SPOOL_READERS; i++) {
        if (mr_thread_start(&r->threads[i], run, sp) != 0) {
            stop_threads(sp, i);
            return MR_NOMEM;
        }
    }
    return 0;
}

void spool_readers_push(struct spool *sp, struct spool_job *job)
{
    struct spool_readers *r = &sp->readers;
    job->next = NULL;
    job->sp = sp;
    pthread_mutex_lock(&r->mutex);
    *r->tail = job;
    r->tail = &job->next;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->mutex);
}

void spool_readers_stop(struct spool *sp)
{
    stop_threads(sp, SPOOL_READERS);
}

/* ---- reading a piece ---- */

static struct spool_get *get_of(struct spool_get_state *st)
{
    return (struct spool_get *)((char *)st - offsetof(struct spool_get, internal));
}

static bool passing(int rc)
{
    return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM;
}

/* Is it what the index says that stands there? */
static int check_record(const struct spool *sp, const struct spool_loc *loc, struct mr_id id, uint32_t piece,
                        const uint8_t *head, const uint8_t *data, bool *last)
{
    struct spool_place place = {.salt = sp->salt, .segment = loc->segment};
    enum spool_record_type type;
    struct spool_record r;
    uint64_t sum;
    if (spool_record_decode(head, place, loc->offset, &type, &r, &sum) != 0 || type != SPOOL_RECORD_PIECE ||
        !mr_id_equal(r.id, id) || r.piece != piece || r.len != loc->len)
        return MR_CHECKSUM;
    if (spool_payload_sum(place, loc->offset, data, loc->len) != sum && !MR_MUTANT(MUTANT_NO_CHECKSUM))
        return MR_CHECKSUM;
    *last = r.last;
    return 0;
}

static int read_record(struct spool *sp, int fd, const struct spool_get *req, struct spool_get_state *st)
{
    uint8_t head[SPOOL_RECORD_HEAD];
    struct iovec iov[] = {{head, sizeof(head)}, {st->data, st->loc.len}};
    ssize_t want = (ssize_t)sizeof(head) + st->loc.len;
    ssize_t n = sp->io->read_at(sp->io, fd, iov, 2, st->loc.offset);
    if (n >= 0 && n < want) { /* short: once more in two steps, which tell an end of the file from an interruption */
        n = mr_fileio_read_full(sp->io, fd, head, sizeof(head), st->loc.offset);
        ssize_t m = n < 0 ? n : mr_fileio_read_full(sp->io, fd, st->data, st->loc.len, st->loc.offset + sizeof(head));
        n = m < 0 ? m : n + m;
    }
    if (n < 0)
        return passing((int)n) ? MR_BUSY : MR_IO;
    return n < want ? MR_CHECKSUM : check_record(sp, &st->loc, req->id, req->piece, head, st->data, &st->last);
}

static void open_and_read(struct spool *sp, struct spool_get_state *st)
{
    char *path = spool_path(sp, st->loc.segment);
    int fd = sp->io->open_file(sp->io, path, O_RDONLY, 0);
    free(path);
    if (fd < 0) {
        st->status = passing(fd) ? MR_BUSY : MR_IO;
        return;
    }
    st->status = read_record(sp, fd, get_of(st), st);
    if (st->keep && st->status == 0)
        st->fd = fd;
    else
        (void)sp->io->close_file(sp->io, fd);
}

static void read_piece(struct spool_job *job)
{
    struct spool_get_state *st = (struct spool_get_state *)job;
    st->data = mr_malloc(st->loc.len);
    for (int tries = 0; tries < READ_TRIES; tries++) {
        open_and_read(job->sp, st);
        if (st->status != MR_IO && st->status != MR_CHECKSUM)
            break;
    }
    if (st->status != 0) {
        free(st->data);
        st->data = NULL;
    }
}

/* A descriptor comes back with the first piece that was read of a segment; the oldest makes room for it. */
static void keep_fd(struct spool *sp, uint32_t number, int fd)
{
    struct spool_segment *seg = spool_segment_find(sp, number), *old;
    uint32_t *at = &sp->kept_fds[sp->kept_fds_at];
    if (seg->fd >= 0 || sp->closing) {
        (void)sp->io->close_file(sp->io, fd);
        return;
    }
    if (*at != 0 && (old = spool_segment_find(sp, *at)) != NULL)
        spool_segment_close_fd(sp, old);
    seg->fd = fd;
    *at = number;
    sp->kept_fds_at = (sp->kept_fds_at + 1) % SPOOL_KEPT_FDS;
}

uint8_t *spool_read_now(struct spool *sp, struct mr_id id, size_t *len)
{
    const struct spool_body *body = (struct spool_body *)spool_table_find(&sp->bodies, id);
    if (body == NULL || body->bad || body->pieces != 1 || body->locs[0].len == 0)
        return NULL;
    const struct spool_loc *loc = &body->locs[0];
    const struct spool_segment *seg = spool_segment_find(sp, loc->segment);
    if (seg == NULL || seg->fd < 0)
        return NULL;
    uint8_t head[SPOOL_RECORD_HEAD];
    uint8_t *data = mr_malloc(loc->len);
    struct iovec iov[] = {{head, sizeof(head)}, {data, loc->len}};
    bool last;
    if (sp->io->read_now(sp->io, seg->fd, iov, 2, loc->offset) != (ssize_t)sizeof(head) + loc->len ||
        check_record(sp, loc, id, 0, head, data, &last) != 0) {
        free(data);
        return NULL;
    }
    *len = loc->len;
    return data;
}

/* If compaction or a new put has replaced the copy meanwhile, the body is not bad. */
static void mark_bad(struct spool *sp, const struct spool_get *req, const struct spool_get_state *st)
{
    char text[MR_ID_TEXT + 1];
    struct spool_body *body = (struct spool_body *)spool_table_find(&sp->bodies, req->id);
    if (body == NULL || body->bad || req->piece >= body->pieces || body->locs[req->piece].segment != st->loc.segment ||
        body->locs[req->piece].offset != st->loc.offset)
        return;
    log_event(LOG_ERROR, "spool_bad_copy", LOG_S("id", mr_id_format(req->id, text)), LOG_N("piece", req->piece),
              LOG_N("segment", st->loc.segment), LOG_N("offset", st->loc.offset),
              LOG_S("error", mr_strerror(st->status)));
    sp->bad++;
    spool_bad_mark(sp, body);
}

static void get_done(struct mail *mail)
{
    struct spool_get_state *st = MR_CONTAINER(MR_CONTAINER(mail, struct spool_job, done), struct spool_get_state, job);
    struct spool_get *req = get_of(st);
    struct spool *sp = st->job.sp;
    if (st->held && (st->status == MR_CHECKSUM || st->status == MR_IO))
        mark_bad(sp, req, st);
    if (st->fd >= 0)
        keep_fd(sp, st->loc.segment, st->fd);
    if (st->held)
        spool_segment_release(sp, st->loc.segment);
    sp->reads--;
    req->cb(req, st->status, st->data, st->status == 0 ? st->loc.len : 0, st->last); /* may free req */
    spool_check_close(sp);
}

void spool_get_begin(struct spool *sp, struct spool_get *req, int status)
{
    struct spool_get_state *st = spool_get_state(req);
    st->job.sp = sp;
    st->job.work = read_piece;
    st->job.done.run = get_done;
    st->status = status;
    st->data = NULL;
    st->last = false;
    st->held = status == 0;
    st->keep = false;
    st->fd = -1;
    sp->reads++;
    if (status != 0) {
        mailbox_post(sp->mailbox, &st->job.done);
        return;
    }
    struct spool_segment *seg = spool_segment_find(sp, st->loc.segment);
    mr_assert(seg != NULL);
    seg->refs++;
    st->keep = seg->fd < 0 && sp->io->read_now != NULL;
    spool_readers_push(sp, &st->job);
}
