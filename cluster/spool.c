/* The loop's side of the spool: the index, puts and their completion, drop, list, open and close.
 *
 * Happy path of a put: spool_put -> (writer) write_batch -> spool_batch_done -> put_done -> cb(0); of a get: spool_get
 * -> (reader) read_piece -> get_done -> cb. Failure: no space and a caller's mistakes are answered in order with the
 * puts before them; failed writes and syncs end the process in the writer. Close: nothing is cancelled but compaction;
 * the last answer stops the threads. */
#include "cluster/spool.h"

#include "cluster/spool_internal.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RESERVE_DEFAULT = 256 << 20, RESERVE_PART = 20, SEGMENT_LEAST = 4096, SEGMENT_MOST = 1 << 30 };

char *spool_path(const struct spool *sp, uint32_t segment)
{
    return mr_asprintf("%s/%08x.seg", sp->dir, segment);
}

static struct spool_body *find_body(const struct spool *sp, struct mr_id id)
{
    return (struct spool_body *)spool_table_find(&sp->bodies, id);
}

static struct spool_body *find_good(const struct spool *sp, struct mr_id id)
{
    struct spool_body *body = find_body(sp, id);
    return body != NULL && !body->bad ? body : NULL;
}

static struct spool_build *find_build(const struct spool *sp, struct mr_id id)
{
    return (struct spool_build *)spool_table_find(&sp->builds, id);
}

/* ---- builds ---- */

struct spool_build *spool_build_new(struct spool *sp, struct mr_id id, uint64_t stamp_ms)
{
    struct spool_build *build = mr_calloc(1, sizeof(*build));
    build->node.id = id;
    build->stamp_ms = stamp_ms;
    build->attempt = sp->attempts++;
    build->refs = 1;
    return build;
}

void spool_build_unref(struct spool_build *build)
{
    mr_assert(build->refs > 0);
    if (--build->refs > 0)
        return;
    mr_assert(build->written == 0);
    XXH3_freeState(build->hash);
    free(build->locs);
    free(build);
}

/* No further piece belongs to it. Gives up the table's ref. */
static void leave_table(struct spool *sp, struct spool_build *build)
{
    if (!build->in_table)
        return;
    spool_table_remove(&sp->builds, &build->node);
    build->in_table = false;
    spool_build_unref(build);
}

void spool_build_fail(struct spool *sp, struct spool_build *build, int status)
{
    if (build->failed == 0)
        build->failed = status;
    uint32_t written = build->written;
    build->written = 0;
    for (uint32_t i = 0; i < written; i++)
        spool_segment_dead(sp, build->locs[i]);
    leave_table(sp, build);
}

void spool_build_add(struct spool *sp, struct spool_build *build, struct spool_loc loc)
{
    if (build->written == build->room) {
        build->room = build->room == 0 ? 1 : build->room * 2;
        build->locs = mr_realloc(build->locs, build->room * sizeof(*build->locs));
    }
    build->locs[build->written++] = loc;
    spool_segment_live(sp, loc);
}

void spool_forget(struct spool *sp, struct spool_body *body)
{
    spool_table_remove(&sp->bodies, &body->node);
    if (body->bad)
        spool_bad_forget(sp, body);
    else
        sp->body_bytes -= body->length;
    for (uint32_t i = 0; i < body->pieces; i++)
        spool_segment_dead(sp, body->locs[i]);
    free(body);
}

void spool_install(struct spool *sp, struct spool_build *build)
{
    struct spool_body *old = find_body(sp, build->node.id);
    if (build->copy && old == NULL) { /* dropped while it was copied */
        spool_build_fail(sp, build, MR_CANCELLED);
        return;
    }
    size_t locs = build->written * sizeof(struct spool_loc);
    struct spool_body *body = mr_calloc(1, offsetof(struct spool_body, locs) + locs);
    body->node.id = build->node.id;
    body->stamp_ms = build->stamp_ms;
    body->length = build->length;
    memcpy(body->checksum, build->checksum, sizeof(body->checksum));
    body->pieces = build->written & INT32_MAX;
    memcpy(body->locs, build->locs, locs);
    build->written = 0; /* they are the body's now */
    if (old != NULL)
        spool_forget(sp, old);
    spool_table_add(&sp->bodies, &body->node);
    sp->body_bytes += body->length;
    leave_table(sp, build);
    struct spool_build *other = find_build(sp, body->node.id);
    if (other != NULL && !other->ended) /* begun while the last piece of this one was on its way */
        spool_build_fail(sp, other, MR_EXISTS);
}

/* ---- put ---- */

static void hash_piece(struct spool_build *build, const struct spool_piece *p, uint8_t out[16])
{
    XXH128_canonical_t canonical;
    const void *data = p->len > 0 ? (const void *)p->data : "";
    if (p->last && p->piece == 0) {
        XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, p->len));
    } else {
        if (build->hash == NULL) {
            build->hash = XXH3_createState();
            mr_assert(build->hash != NULL);
            XXH3_128bits_reset(build->hash);
        }
        XXH3_128bits_update(build->hash, data, p->len);
        if (!p->last)
            return;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(build->hash));
    }
    memcpy(out, canonical.digest, 16);
}

/* What the piece continues, or why it is not to be written. */
static int admit(struct spool *sp, const struct spool_piece *p, struct spool_build **out)
{
    if (find_good(sp, p->id) != NULL)
        return MR_EXISTS;
    struct spool_build *build = find_build(sp, p->id);
    if (p->piece == 0) {
        if (build != NULL && build->ended)
            leave_table(sp, build); /* its last piece is on its way and stands for itself */
        else if (build != NULL)
            spool_build_fail(sp, build, MR_CANCELLED);
        build = spool_build_new(sp, p->id, p->stamp_ms);
        build->in_table = true;
        spool_table_add(&sp->builds, &build->node);
    } else if (build == NULL || build->found || build->ended || p->piece != build->next) {
        return MR_INVAL;
    }
    if (p->stamp_ms > build->stamp_ms)
        build->stamp_ms = p->stamp_ms;
    build->next++;
    build->length += p->len;
    build->ended = p->last;
    hash_piece(build, p, build->checksum);
    int rc = 0;
    if (p->last && build->length != p->length)
        rc = MR_INVAL;
    else if (p->last && memcmp(build->checksum, p->checksum, sizeof(p->checksum)) != 0)
        rc = MR_CHECKSUM;
    if (rc != 0)
        spool_build_fail(sp, build, rc);
    else
        *out = build;
    return rc;
}

void spool_submit(struct spool *sp, struct spool_put *req, struct spool_build *build, int status, bool reserve)
{
    struct spool_put_state *st = spool_put_state(req);
    memset(st, 0, sizeof(*st));
    st->build = build;
    st->status = status;
    st->reserve = reserve;
    st->since_ns = mr_boot_ns(&mr_clock_real);
    if (build != NULL) {
        build->refs++;
        st->attempt = build->attempt;
        req->piece.stamp_ms = build->stamp_ms; /* never smaller than that of a piece before */
    }
    *sp->flight_tail = req;
    sp->flight_tail = &st->flight_next;
    sp->queued_bytes += req->piece.len;
    spool_writer_push(&sp->writer, req);
}

int spool_put(struct spool *sp, struct spool_put *req)
{
    const struct spool_piece *p = &req->piece;
    if (sp->closing)
        return MR_CLOSED;
    if (p->len > SPOOL_MAX_PIECE || p->piece >= SPOOL_MAX_PIECES)
        return MR_LIMIT;
    if (sp->queued_bytes + p->len > SPOOL_MAX_QUEUED)
        return MR_BUSY;
    struct spool_build *build = NULL;
    int status = admit(sp, p, &build);
    spool_submit(sp, req, build, status, false);
    return 0;
}

static void put_done(struct spool *sp, struct spool_put *req)
{
    struct spool_put_state *st = spool_put_state(req);
    struct spool_build *build = st->build;
    int status = st->status;
    mr_assert(sp->flight_head == req);
    sp->flight_head = st->flight_next;
    if (sp->flight_head == NULL)
        sp->flight_tail = &sp->flight_head;
    sp->queued_bytes -= req->piece.len;
    if (build != NULL) {
        mr_assert(build->refs > (build->in_table ? 1U : 0U)); /* the table's and this put's: it lives to the end here */
        if (status == 0)                                      /* in the file, alive or not */
            spool_segment_get(sp, st->segment)->size += spool_record_size((uint32_t)req->piece.len);
        if (status == 0 && build->failed == 0) {
            struct spool_loc loc = {st->segment, st->offset, (uint32_t)req->piece.len};
            spool_build_add(sp, build, loc);
            if (req->piece.last)
                spool_install(sp, build);
        } else {
            if (build->failed == 0)
                spool_build_fail(sp, build, status);
            status = build->failed;
        }
        spool_build_unref(build); /* NOLINT(clang-analyzer-unix.Malloc): it does not count refs */
    }
    req->cb(req, status); /* may free req */
}

void spool_batch_done(struct mail *mail)
{
    struct spool_batch *batch = MR_CONTAINER(mail, struct spool_batch, mail);
    struct spool *sp = batch->sp;
    sp->fsyncs += batch->fsyncs;
    sp->pieces_written += batch->pieces;
    struct spool_put *next;
    for (struct spool_put *req = batch->puts; req != NULL; req = next) {
        next = spool_put_state(req)->queue_next;
        put_done(sp, req);
    }
    for (size_t i = 0; i < batch->sealed_count; i++) {
        struct spool_segment *seg = spool_segment_get(sp, batch->sealed[i]);
        seg->sealed = true;
        spool_segment_reclaim(sp, seg);
    }
    free(batch->sealed);
    free(batch);
    spool_check_close(sp);
}

void spool_abort(struct spool *sp, struct mr_id id)
{
    struct spool_build *build = find_build(sp, id);
    if (build != NULL && !build->ended)
        spool_build_fail(sp, build, MR_CANCELLED);
}

void spool_drop(struct spool *sp, struct mr_id id)
{
    struct spool_body *body = find_body(sp, id);
    if (body != NULL)
        spool_forget(sp, body);
    spool_abort(sp, id);
}

/* ---- get, has, list ---- */

int spool_get(struct spool *sp, struct spool_get *req)
{
    if (sp->closing)
        return MR_CLOSED;
    if (sp->reads >= SPOOL_MAX_READS)
        return MR_BUSY;
    const struct spool_body *body = find_good(sp, req->id);
    int status = body != NULL && req->piece < body->pieces ? 0 : MR_NOTFOUND;
    if (status == 0)
        spool_get_state(req)->loc = body->locs[req->piece];
    spool_get_begin(sp, req, status);
    return 0;
}

bool spool_has(const struct spool *sp, struct mr_id id, struct spool_info *info)
{
    const struct spool_body *body = find_good(sp, id);
    if (body == NULL)
        return false;
    if (info != NULL) {
        info->length = body->length;
        memcpy(info->checksum, body->checksum, sizeof(info->checksum));
        info->stamp_ms = body->stamp_ms;
        info->pieces = body->pieces;
    }
    return true;
}

#define CURSOR_BUILDS (1ULL << 63) /* bodies first, then what is not whole */

size_t spool_list(const struct spool *sp, uint64_t *cursor, struct spool_entry *out, size_t max)
{
    enum { AT_ONCE = 256 };
    struct spool_node *nodes[AT_ONCE];
    bool builds = (*cursor & CURSOR_BUILDS) != 0;
    uint64_t from = *cursor & ~CURSOR_BUILDS;
    size_t count;
    if (max == 0)
        return 0;
    bool more =
        spool_table_walk(builds ? &sp->builds : &sp->bodies, &from, max < AT_ONCE ? max : AT_ONCE, nodes, &count);
    for (size_t i = 0; i < count; i++) {
        out[i].id = nodes[i]->id;
        out[i].complete = !builds && !((struct spool_body *)nodes[i])->bad;
        out[i].stamp_ms =
            builds ? ((struct spool_build *)nodes[i])->stamp_ms : ((struct spool_body *)nodes[i])->stamp_ms;
    }
    if (more)
        *cursor = from | (builds ? CURSOR_BUILDS : 0);
    else
        *cursor = builds ? 0 : CURSOR_BUILDS;
    return count;
}

bool spool_low(const struct spool *sp)
{
    return atomic_load(&sp->low);
}

uint64_t spool_reserve(const struct spool *sp)
{
    return sp->reserve;
}

void spool_keep_free(struct spool *sp, uint64_t bytes)
{
    atomic_store(&sp->keep_free, bytes);
}

void spool_stats(const struct spool *sp, struct spool_stats *out)
{
    memset(out, 0, sizeof(*out));
    out->bodies = sp->bodies.count - sp->bad_here;
    out->bytes = sp->body_bytes;
    for (size_t i = 0; i < sp->segments_count; i++)
        out->dead_bytes += sp->segments[i]->size - sp->segments[i]->live;
    out->segments = sp->segments_count;
    out->free_bytes = atomic_load(&sp->free_bytes);
    out->fsyncs = sp->fsyncs;
    out->pieces_written = sp->pieces_written;
    out->compactions = sp->compactions;
    out->bad = sp->bad;
    out->bad_here = sp->bad_here;
    if (sp->flight_head != NULL)
        out->oldest_wait_ns = mr_boot_ns(&mr_clock_real) - spool_put_state(sp->flight_head)->since_ns;
}

/* ---- open, close ---- */

static void free_body(struct spool_node *node)
{
    free(node);
}

static void free_build(struct spool_node *node)
{
    struct spool_build *build = (struct spool_build *)node;
    build->written = 0;
    spool_build_unref(build);
}

static void free_spool(struct spool *sp)
{
    spool_table_clear(&sp->bodies, free_body);
    spool_table_clear(&sp->builds, free_build);
    for (size_t i = 0; i < sp->segments_count; i++) {
        spool_segment_close_fd(sp, sp->segments[i]);
        free(sp->segments[i]);
    }
    free(sp->segments);
    spool_writer_free(&sp->writer);
    spool_spares_free(sp);
    free(sp->dir);
    free(sp);
}

static struct spool *new_spool(const struct spool_config *config)
{
    struct spool *sp = mr_calloc(1, sizeof(*sp));
    struct mr_id chance = mr_id_random();
    sp->io = config->io != NULL ? config->io : &mr_fileio_real;
    sp->disk = config->disk;
    sp->dir = mr_strdup(config->dir);
    sp->segment_bytes = config->segment_bytes != 0 ? config->segment_bytes : SPOOL_SEGMENT;
    memcpy(&sp->attempts, chance.bytes, sizeof(sp->attempts));
    spool_table_init(&sp->bodies);
    spool_table_init(&sp->builds);
    sp->flight_tail = &sp->flight_head;
    sp->writer.sp = sp;
    sp->writer.fd = -1;
    sp->writer.can_allocate = true;
    spool_spares_init(&sp->spares);
    return sp;
}

static int find_reserve(struct spool *sp, uint64_t configured, char *error, size_t error_len)
{
    uint64_t available, total;
    int rc = sp->io->free_space(sp->io, sp->dir, &available, &total);
    if (rc < 0) {
        (void)snprintf(error, error_len, "%s: %s", sp->dir, strerror(-rc));
        return MR_IO;
    }
    sp->reserve = configured;
    if (configured == 0)
        sp->reserve = total / RESERVE_PART < RESERVE_DEFAULT ? total / RESERVE_PART : RESERVE_DEFAULT;
    return 0;
}

static int start(struct spool *sp, const struct spool_config *config, char *error, size_t error_len)
{
    int rc = mailbox_open(&sp->mailbox, config->loop, SPOOL_MAX_READS);
    if (rc != 0)
        goto err;
    rc = spool_readers_start(sp);
    if (rc != 0)
        goto err_after_mailbox;
    spool_writer_space(&sp->writer);
    rc = spool_writer_start(&sp->writer);
    if (rc != 0)
        goto err_after_readers;
    return 0;
err_after_readers:
    spool_readers_stop(sp);
err_after_mailbox:
    mailbox_close(sp->mailbox, NULL, NULL);
err:
    (void)snprintf(error, error_len, "%s: no threads: %s", sp->dir, mr_strerror(rc));
    return rc;
}

int spool_open(struct spool **out, const struct spool_config *config, char *error, size_t error_len)
{
    if (config->segment_bytes != 0 && (config->segment_bytes < SEGMENT_LEAST || config->segment_bytes > SEGMENT_MOST)) {
        (void)snprintf(error, error_len, "segments of %llu bytes", (unsigned long long)config->segment_bytes);
        return MR_INVAL;
    }
    struct spool *sp = new_spool(config);
    int rc = spool_load(sp, error, error_len);
    if (rc == 0)
        rc = find_reserve(sp, config->reserve_bytes, error, error_len);
    if (rc == 0)
        rc = start(sp, config, error, error_len);
    if (rc != 0) {
        free_spool(sp);
        return rc;
    }
    sp->started = true;
    for (size_t i = sp->segments_count; i-- > 0;) /* backwards: what is unlinked leaves the array */
        spool_segment_reclaim(sp, sp->segments[i]);
    *out = sp;
    return 0;
}

static void closed(void *arg)
{
    struct spool *sp = arg;
    void (*cb)(void *) = sp->close_cb;
    void *cb_arg = sp->close_arg;
    free_spool(sp);
    if (cb != NULL)
        cb(cb_arg);
}

void spool_check_close(struct spool *sp)
{
    if (!sp->closing || sp->closed || sp->flight_head != NULL || sp->reads > 0 || sp->jobs > 0 ||
        sp->compaction != NULL)
        return;
    sp->closed = true;
    spool_writer_stop(&sp->writer); /* both idle: no wait to speak of */
    spool_readers_stop(sp);
    mailbox_close(sp->mailbox, closed, sp);
}

void spool_close(struct spool *sp, void (*cb)(void *arg), void *arg)
{
    mr_assert(!sp->closing);
    sp->closing = true;
    sp->close_cb = cb;
    sp->close_arg = arg;
    spool_check_close(sp);
}
