/* Which segments there are, what in them lives, and when one goes. */
#include "cluster/spool_internal.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COMPACT_BELOW = 4 }; /* less than a quarter lives */

/* Index of the first segment whose number is not below. */
static size_t position(const struct spool *sp, uint32_t number)
{
    size_t low = 0, high = sp->segments_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (sp->segments[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct spool_segment *spool_segment_find(const struct spool *sp, uint32_t number)
{
    size_t at = position(sp, number);
    return at < sp->segments_count && sp->segments[at]->number == number ? sp->segments[at] : NULL;
}

struct spool_segment *spool_segment_get(struct spool *sp, uint32_t number)
{
    size_t at = position(sp, number);
    if (at < sp->segments_count && sp->segments[at]->number == number)
        return sp->segments[at];
    if (sp->segments_count == sp->segments_room) {
        sp->segments_room = sp->segments_room == 0 ? 16 : sp->segments_room * 2;
        sp->segments = mr_realloc(sp->segments, sp->segments_room * sizeof(struct spool_segment *));
    }
    memmove(sp->segments + at + 1, sp->segments + at, (sp->segments_count - at) * sizeof(struct spool_segment *));
    sp->segments_count++;
    struct spool_segment *seg = mr_calloc(1, sizeof(*seg));
    seg->number = number;
    seg->tried_live = UINT64_MAX;
    seg->fd = -1;
    sp->segments[at] = seg;
    return seg;
}

void spool_segment_live(struct spool *sp, struct spool_loc loc)
{
    spool_segment_get(sp, loc.segment)->live += spool_record_size(loc.len);
}

void spool_segment_dead(struct spool *sp, struct spool_loc loc)
{
    struct spool_segment *seg = spool_segment_find(sp, loc.segment);
    mr_assert(seg != NULL && seg->live >= spool_record_size(loc.len));
    seg->live -= spool_record_size(loc.len);
    spool_segment_reclaim(sp, seg);
}

void spool_segment_release(struct spool *sp, uint32_t number)
{
    struct spool_segment *seg = spool_segment_find(sp, number);
    mr_assert(seg != NULL && seg->refs > 0);
    seg->refs--;
    spool_segment_reclaim(sp, seg);
}

void spool_segment_close_fd(const struct spool *sp, struct spool_segment *seg)
{
    if (seg->fd >= 0)
        (void)sp->io->close_file(sp->io, seg->fd);
    seg->fd = -1;
}

/* ---- the end of one, kept as a spare or unlinked: on a reader thread, a big file takes its time ---- */

struct unlink_job {
    struct spool_job job;
    uint32_t number;
    uint64_t size; /* of its records */
};

static void unlink_work(struct spool_job *job)
{
    const struct unlink_job *u = (struct unlink_job *)job;
    if (spool_spare_keep(job->sp, u->number, u->size))
        return;
    char *path = spool_path(job->sp, u->number);
    int rc = job->sp->io->unlink_file(job->sp->io, path);
    if (rc < 0 && rc != -ENOENT) /* found again at the next start */
        log_event(LOG_ERROR, "spool_unlink", LOG_S("path", path), LOG_S("error", strerror(-rc)));
    free(path);
}

static void unlink_done(struct mail *mail)
{
    struct spool_job *job = MR_CONTAINER(mail, struct spool_job, done);
    struct spool *sp = job->sp;
    sp->jobs--;
    free(job);
    spool_check_close(sp);
}

static void unlink_segment(struct spool *sp, struct spool_segment *seg)
{
    struct unlink_job *u = mr_calloc(1, sizeof(*u));
    u->job.work = unlink_work;
    u->job.done.run = unlink_done;
    u->number = seg->number;
    u->size = seg->size;
    spool_segment_close_fd(sp, seg); /* while it has its name: the last one to let go of a big file takes its time */
    size_t at = position(sp, seg->number);
    memmove(sp->segments + at, sp->segments + at + 1, (sp->segments_count - at - 1) * sizeof(struct spool_segment *));
    sp->segments_count--;
    free(seg);
    sp->jobs++;
    spool_readers_push(sp, &u->job);
}

static bool worth_compacting(const struct spool_segment *seg)
{
    return seg->sealed && seg->held == 0 && seg->live > 0 && seg->live < seg->size / COMPACT_BELOW &&
           seg->live != seg->tried_live;
}

void spool_segment_reclaim(struct spool *sp, struct spool_segment *seg)
{
    if (!sp->started || sp->closed || !seg->sealed || seg->held > 0)
        return;
    if (seg->live == 0 && seg->refs == 0)
        unlink_segment(sp, seg);
    else if (sp->compaction == NULL && !sp->closing && worth_compacting(seg))
        spool_compact_begin(sp, seg);
}

void spool_compact_next(struct spool *sp)
{
    for (size_t i = 0; i < sp->segments_count && sp->compaction == NULL && !sp->closing; i++)
        if (worth_compacting(sp->segments[i]))
            spool_compact_begin(sp, sp->segments[i]);
}
