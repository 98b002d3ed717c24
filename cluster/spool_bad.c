/* Bodies of which a piece could not be read, or not as it was written (S5, N3).
 *
 * Happy path: a read fails twice -> spool_bad_mark -> a good copy is pulled from a peer and put -> spool_install ->
 * spool_bad_forget, and only now its bytes are dead. Nobody has one: spool_recheck -> read_next -> on_read for each
 * piece -> the mark is taken off. Failure: a piece that still cannot be read ends it, and the mark stays; without
 * descriptors too. Bounds: one piece in memory for each recheck, of which the caller decides how many there are; a
 * marked body costs a bit in its index entry, and holds its segments from compaction until it is dropped at the
 * latest. Close: no further piece is read. */
#include "cluster/spool_internal.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/panic.h"

#include <stdlib.h>

static struct spool_segment *segment_of(const struct spool *sp, const struct spool_body *body, uint32_t piece)
{
    struct spool_segment *seg = spool_segment_find(sp, body->locs[piece].segment);
    mr_assert(seg != NULL); /* the piece lives in it */
    return seg;
}

void spool_bad_mark(struct spool *sp, struct spool_body *body)
{
    mr_assert(!body->bad);
    body->bad = 1;
    sp->bad_here++;
    sp->body_bytes -= body->length;
    for (uint32_t i = 0; i < body->pieces; i++)
        segment_of(sp, body, i)->held++;
}

void spool_bad_forget(struct spool *sp, struct spool_body *body)
{
    mr_assert(body->bad && sp->bad_here > 0);
    body->bad = 0;
    sp->bad_here--;
    for (uint32_t i = 0; i < body->pieces; i++)
        segment_of(sp, body, i)->held--;
}

/* Compaction that met the bad piece does not begin again before something else in the segment changes (tried_live): a
 * copy that is bad now and then is not tried for ever. */
static void is_good(struct spool *sp, struct spool_body *body)
{
    char text[MR_ID_TEXT + 1];
    log_event(LOG_WARN, "spool_copy_good_again", LOG_S("id", mr_id_format(body->node.id, text)));
    spool_bad_forget(sp, body);
    sp->body_bytes += body->length;
    struct spool_build *build = (struct spool_build *)spool_table_find(&sp->builds, body->node.id);
    if (build != NULL && !build->ended) /* its pieces are not needed any more */
        spool_build_fail(sp, build, MR_EXISTS);
    for (uint32_t i = 0; i < body->pieces; i++)
        spool_segment_reclaim(sp, segment_of(sp, body, i));
}

static void on_read(struct spool_get *get, int status, uint8_t *data, size_t len, bool last);

static struct spool_body *find(const struct spool *sp, struct mr_id id)
{
    return (struct spool_body *)spool_table_find(&sp->bodies, id);
}

/* status 0: reads the piece that internal.get says. Else only the answer is due. */
static void read_next(struct spool *sp, struct spool_recheck *req, int status)
{
    struct spool_get *get = &req->internal.get;
    get->cb = on_read;
    if (status == 0)
        spool_get_state(get)->loc = find(sp, req->id)->locs[get->piece];
    spool_get_begin(sp, get, status);
}

static void on_read(struct spool_get *get, int status, uint8_t *data, size_t len, bool last)
{
    struct spool_recheck *req = MR_CONTAINER(get, struct spool_recheck, internal.get);
    struct spool *sp = spool_get_state(get)->job.sp;
    struct spool_body *body = find(sp, req->id);
    (void)len;
    (void)last; /* the index says how many there are */
    free(data);
    if (body != NULL && !body->bad) {
        status = 0; /* replaced meanwhile, or it was good */
    } else if (body == NULL) {
        status = MR_NOTFOUND;
    } else if (body->locs[0].segment != req->internal.segment || body->locs[0].offset != req->internal.offset) {
        status = MR_BUSY; /* another copy, bad as well: what was read says nothing of it */
    } else if (status == 0 && get->piece + 1 == body->pieces) {
        is_good(sp, body);
    } else if (status == 0 && sp->closing) {
        status = MR_CANCELLED;
    } else if (status == 0) {
        get->piece++;
        read_next(sp, req, 0);
        return;
    }
    req->cb(req, status); /* may free req */
}

int spool_recheck(struct spool *sp, struct spool_recheck *req)
{
    if (sp->closing)
        return MR_CLOSED;
    if (sp->reads >= SPOOL_MAX_READS)
        return MR_BUSY;
    const struct spool_body *body = find(sp, req->id);
    bool bad = body != NULL && body->bad;
    req->internal.get.id = req->id;
    req->internal.get.piece = 0;
    req->internal.segment = bad ? body->locs[0].segment : 0;
    req->internal.offset = bad ? body->locs[0].offset : 0;
    read_next(sp, req, bad ? 0 : MR_NOTFOUND);
    return 0;
}
