/* Compaction: the live bodies of one mostly dead segment are put again, then nothing in it lives and it is unlinked.
 *
 * Happy path: begin -> (reader: the segment's records) -> for each body: get a piece, put it, the next ... -> finish.
 * Crash argument: a copy is an ordinary put; the body's old place counts as dead only in the callback of the copy's
 * last piece, after its fsync. A crash before leaves two copies, or one and a part, and the scan takes the whole one.
 * Failure: no space, or no descriptor: given up until the segment's live bytes change. A bad piece: the body is marked
 * bad as by any reader and holds the segment, so moving the rest would give nothing back: given up likewise, and not
 * begun again while the body is bad. Bounds: one segment at a time, one piece in flight, STEP records looked at
 * in one turn of the loop. Close: no further piece is taken. */
#include "cluster/spool_internal.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { STEP = 256 };

struct spool_compaction {
    struct spool_job job;
    struct mail again;
    struct spool *sp;
    struct spool_place place;
    struct spool_scan scan;
    size_t at;
    uint64_t moved;
    struct spool_build *build; /* of the body that is being copied */
    uint8_t *data;
    struct spool_get get;
    struct spool_put put;
};

static void step(struct spool_compaction *c);

static void finish(struct spool_compaction *c)
{
    struct spool *sp = c->sp;
    uint32_t number = c->place.segment;
    struct spool_segment *seg = spool_segment_find(sp, number);
    log_event(LOG_DEBUG, "spool_compacted", LOG_N("segment", number), LOG_N("moved", c->moved),
              LOG_N("left", seg->live));
    seg->tried_live = seg->live;
    sp->compactions++;
    free(c->scan.records);
    free(c);
    sp->compaction = NULL;
    spool_segment_release(sp, number); /* unlinks it if all went well */
    spool_compact_next(sp);
    spool_check_close(sp);
}

static void drop_copy(struct spool_compaction *c, int status)
{
    if (c->build != NULL) {
        spool_build_fail(c->sp, c->build, status);
        spool_build_unref(c->build);
        c->build = NULL;
    }
}

static void piece_written(struct spool_put *req, int status)
{
    struct spool_compaction *c = MR_CONTAINER(req, struct spool_compaction, put);
    bool last = req->piece.last;
    free(c->data);
    c->data = NULL;
    if (status == MR_NOSPACE) {
        drop_copy(c, status);
        finish(c);
        return;
    }
    if (status != 0 || c->sp->closing) {
        drop_copy(c, MR_CANCELLED);
    } else if (last) {
        c->moved++;
        spool_build_unref(c->build);
        c->build = NULL;
    }
    step(c);
}

static void piece_read(struct spool_get *get, int status, uint8_t *data, size_t len, bool last)
{
    struct spool_compaction *c = MR_CONTAINER(get, struct spool_compaction, get);
    struct spool *sp = c->sp;
    const struct spool_body *body = (struct spool_body *)spool_table_find(&sp->bodies, get->id);
    if (status != 0 || body == NULL || sp->closing) {
        free(data);
        drop_copy(c, MR_CANCELLED);
        if (status == MR_BUSY)
            finish(c);
        else
            step(c);
        return;
    }
    c->data = data;
    memset(&c->put, 0, sizeof(c->put));
    c->put.piece = (struct spool_piece){.id = get->id,
                                        .piece = get->piece,
                                        .last = last,
                                        .stamp_ms = body->stamp_ms,
                                        .length = body->length,
                                        .data = data,
                                        .len = len};
    memcpy(c->put.piece.checksum, body->checksum, sizeof(body->checksum));
    memcpy(c->build->checksum, body->checksum, sizeof(body->checksum));
    c->put.cb = piece_written;
    c->build->next++;
    c->build->length += len;
    c->build->ended = last;
    spool_submit(sp, &c->put, c->build, 0, true);
}

static bool read_next(struct spool_compaction *c)
{
    c->get.id = c->build->node.id;
    c->get.piece = c->build->next;
    c->get.cb = piece_read;
    return spool_get(c->sp, &c->get) == 0;
}

static const struct spool_body *lives_here(struct spool_compaction *c, struct mr_id id)
{
    const struct spool_body *body = (struct spool_body *)spool_table_find(&c->sp->bodies, id);
    for (uint32_t i = 0; body != NULL && i < body->pieces; i++)
        if (body->locs[i].segment == c->place.segment)
            return body;
    return NULL;
}

static void step_again(struct mail *mail)
{
    step(MR_CONTAINER(mail, struct spool_compaction, again));
}

static void step(struct spool_compaction *c)
{
    struct spool *sp = c->sp;
    const struct spool_segment *seg = spool_segment_find(sp, c->place.segment);
    for (int looked = 0; c->build == NULL && c->at < c->scan.count && seg->held == 0 && !sp->closing; looked++) {
        if (looked == STEP) {
            mailbox_post(sp->mailbox, &c->again);
            return;
        }
        const struct spool_body *body = lives_here(c, c->scan.records[c->at++].id);
        if (body != NULL) {
            c->build = spool_build_new(sp, body->node.id, body->stamp_ms);
            c->build->copy = true;
        }
    }
    if (c->build != NULL && read_next(c))
        return;
    drop_copy(c, MR_BUSY);
    finish(c);
}

static void scan_work(struct spool_job *job)
{
    struct spool_compaction *c = (struct spool_compaction *)job;
    char *path = spool_path(job->sp, c->place.segment);
    if (spool_scan_segment(job->sp->io, path, c->place, &c->scan) != 0)
        memset(&c->scan, 0, sizeof(c->scan)); /* nothing to copy: reads find out and mark what is bad */
    free(path);
}

static void scan_done(struct mail *mail)
{
    struct spool_compaction *c = MR_CONTAINER(mail, struct spool_compaction, job.done);
    c->sp->jobs--;
    step(c);
}

void spool_compact_begin(struct spool *sp, struct spool_segment *seg)
{
    mr_assert(sp->compaction == NULL);
    struct spool_compaction *c = mr_calloc(1, sizeof(*c));
    c->sp = sp;
    c->place = (struct spool_place){.salt = sp->salt, .segment = seg->number};
    c->job.work = scan_work;
    c->job.done.run = scan_done;
    c->again.run = step_again;
    sp->compaction = c;
    seg->refs++;
    sp->jobs++;
    spool_readers_push(sp, &c->job);
}
