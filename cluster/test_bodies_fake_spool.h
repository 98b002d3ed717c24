/* test_bodies_fake_spool.h - a spool in memory, stepped by hand. It checks what the real one checks: order, length,
 * whether a piece comes twice at once. */
#ifndef MR_TEST_BODIES_FAKE_SPOOL_H
#define MR_TEST_BODIES_FAKE_SPOOL_H

#include "cluster/bodies_internal.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FAKE_FUNCTION __attribute__((unused)) static

enum { FAKE_PIECES = 64, FAKE_BODIES = 4096 };

struct fake_body {
    struct mr_id id;
    bool used, complete, bad; /* bad: cannot be read */
    bool kept;                /* was found bad: not here, but not gone either */
    uint64_t stamp, length;
    uint8_t checksum[16];
    uint32_t n;
    struct {
        uint8_t *data;
        size_t len;
    } pieces[FAKE_PIECES];
};
struct fake_spool_op {
    struct fake_spool_op *next;
    struct spool_put *put;
    struct spool_get *get;
    struct spool_recheck *recheck;
    bool cancelled;
};
struct fake_spool {
    struct fake_body *bodies;
    size_t n, puts, dropped, rechecks;
    struct fake_spool_op *first, **end;
    bool in_memory; /* what it has can be read at once */
    bool stalled, nospace;
};

static struct fake_spool *as_spool(const struct spool *sp)
{
    return (struct fake_spool *)(uintptr_t)sp;
}
static struct fake_body *fake_body(const struct fake_spool *sp, struct mr_id id)
{
    for (size_t i = 0; i < sp->n; i++)
        if (sp->bodies[i].used && !sp->bodies[i].kept && mr_id_equal(sp->bodies[i].id, id))
            return &sp->bodies[i];
    return NULL;
}
static struct fake_body *fake_kept(const struct fake_spool *sp, struct mr_id id)
{
    for (size_t i = 0; i < sp->n; i++)
        if (sp->bodies[i].used && sp->bodies[i].kept && mr_id_equal(sp->bodies[i].id, id))
            return &sp->bodies[i];
    return NULL;
}
static void fake_body_free(struct fake_body *body)
{
    for (uint32_t i = 0; i < body->n; i++)
        free(body->pieces[i].data);
    memset(body, 0, sizeof(*body));
}
static void fake_free_kept(const struct fake_spool *sp, struct mr_id id)
{
    struct fake_body *kept = fake_kept(sp, id);
    if (kept != NULL)
        fake_body_free(kept);
}
static void fake_op(struct fake_spool *sp, struct spool_put *put, struct spool_get *get, struct spool_recheck *recheck)
{
    struct fake_spool_op *op = mr_calloc(1, sizeof(*op));
    op->put = put;
    op->get = get;
    op->recheck = recheck;
    *sp->end = op;
    sp->end = &op->next;
}
static int fake_spool_put(struct spool *s, struct spool_put *req)
{
    struct fake_spool *sp = as_spool(s);
    if (req->piece.len > SPOOL_MAX_PIECE)
        return MR_LIMIT;
    sp->puts++;
    fake_op(sp, req, NULL, NULL);
    return 0;
}
static void fake_spool_abort(struct spool *s, struct mr_id id)
{
    struct fake_spool *sp = as_spool(s);
    struct fake_body *body = fake_body(sp, id);
    for (struct fake_spool_op *op = sp->first; op != NULL; op = op->next)
        if (op->put != NULL && mr_id_equal(op->put->piece.id, id))
            op->cancelled = true;
    if (body != NULL && !body->complete)
        fake_body_free(body);
}
static int fake_spool_get(struct spool *s, struct spool_get *req)
{
    fake_op(as_spool(s), NULL, req, NULL);
    return 0;
}
static int fake_spool_recheck(struct spool *s, struct spool_recheck *req)
{
    fake_op(as_spool(s), NULL, NULL, req);
    return 0;
}
static uint8_t *fake_spool_read_now(struct spool *s, struct mr_id id, size_t *len)
{
    const struct fake_body *body = fake_body(as_spool(s), id);
    if (!as_spool(s)->in_memory || body == NULL || !body->complete || body->bad || body->n != 1)
        return NULL;
    *len = body->pieces[0].len;
    return mr_memdup(body->pieces[0].data, *len);
}
static bool fake_spool_has(const struct spool *s, struct mr_id id, struct spool_info *info)
{
    const struct fake_body *body = fake_body(as_spool(s), id);
    if (body == NULL || !body->complete)
        return false;
    if (info != NULL) {
        *info = (struct spool_info){.length = body->length, .stamp_ms = body->stamp, .pieces = body->n};
        memcpy(info->checksum, body->checksum, 16);
    }
    return true;
}
static void fake_spool_drop(struct spool *s, struct mr_id id)
{
    struct fake_spool *sp = as_spool(s);
    struct fake_body *body = fake_body(sp, id);
    fake_free_kept(sp, id);
    if (body != NULL) {
        sp->dropped++;
        fake_body_free(body);
    }
    fake_spool_abort(s, id);
}
static size_t fake_spool_list(const struct spool *s, uint64_t *cursor, struct spool_entry *out, size_t max)
{
    const struct fake_spool *sp = as_spool(s);
    size_t n = 0;
    while (*cursor < sp->n && n < max) {
        const struct fake_body *body = &sp->bodies[(*cursor)++];
        if (body->used)
            out[n++] = (struct spool_entry){body->id, body->stamp, body->complete && !body->kept};
    }
    if (*cursor >= sp->n)
        *cursor = 0;
    return n;
}
static bool fake_sum_is(const struct fake_body *body, const uint8_t checksum[16])
{
    XXH3_state_t *hash = XXH3_createState();
    XXH128_canonical_t canonical;
    assert_non_null(hash);
    XXH3_128bits_reset(hash);
    for (uint32_t i = 0; i < body->n; i++)
        XXH3_128bits_update(hash, body->pieces[i].data, body->pieces[i].len);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
    XXH3_freeState(hash);
    return memcmp(canonical.digest, checksum, 16) == 0;
}
static int fake_store(struct fake_spool *sp, const struct spool_piece *p)
{
    struct fake_body *body = fake_body(sp, p->id);
    size_t length = 0;
    if (body != NULL && body->complete)
        return MR_EXISTS;
    if (sp->nospace)
        return MR_NOSPACE;
    if (body == NULL) {
        size_t i = 0;
        while (i < sp->n && sp->bodies[i].used)
            i++;
        assert_true(i < FAKE_BODIES);
        if (i == sp->n)
            sp->n++;
        body = &sp->bodies[i];
        body->used = true;
        body->id = p->id;
    }
    if (p->stamp_ms > body->stamp)
        body->stamp = p->stamp_ms;
    if (p->piece != body->n || body->n == FAKE_PIECES) {
        fake_body_free(body);
        return MR_INVAL;
    }
    body->pieces[body->n].data = mr_memdup(p->data, p->len);
    body->pieces[body->n++].len = p->len;
    if (p->last) {
        for (uint32_t i = 0; i < body->n; i++)
            length += body->pieces[i].len;
        if (length != p->length) {
            fake_body_free(body);
            return MR_INVAL;
        }
        if (!fake_sum_is(body, p->checksum)) {
            fake_body_free(body);
            return MR_CHECKSUM;
        }
        fake_free_kept(sp, p->id);
        body->complete = true;
        body->length = length;
        memcpy(body->checksum, p->checksum, 16);
    }
    return 0;
}
static int fake_recheck(struct fake_spool *sp, struct mr_id id)
{
    struct fake_body *kept = fake_kept(sp, id), *body = fake_body(sp, id);
    if (body != NULL && body->complete)
        return 0;
    if (kept == NULL)
        return MR_NOTFOUND;
    sp->rechecks++;
    if (kept->bad)
        return MR_CHECKSUM;
    if (body != NULL)
        fake_body_free(body);
    kept->kept = false;
    return 0;
}
static bool fake_spool_step(struct fake_spool *sp)
{
    struct fake_spool_op *op = sp->first;
    if (op == NULL || sp->stalled)
        return false;
    sp->first = op->next;
    if (sp->first == NULL)
        sp->end = &sp->first;
    if (op->put != NULL) {
        struct spool_put *put = op->put;
        int status = op->cancelled ? MR_CANCELLED : fake_store(sp, &put->piece);
        free(op);
        put->cb(put, status);
    } else if (op->recheck != NULL) {
        struct spool_recheck *recheck = op->recheck;
        free(op);
        recheck->cb(recheck, fake_recheck(sp, recheck->id));
    } else {
        struct spool_get *get = op->get;
        struct fake_body *body = fake_body(sp, get->id);
        free(op);
        if (body == NULL || !body->complete || get->piece >= body->n) {
            get->cb(get, MR_NOTFOUND, NULL, 0, false);
        } else if (body->bad) {
            fake_free_kept(sp, get->id);
            body->kept = true;
            get->cb(get, MR_CHECKSUM, NULL, 0, false);
        } else {
            size_t len = body->pieces[get->piece].len;
            get->cb(get, 0, mr_memdup(body->pieces[get->piece].data, len), len, get->piece + 1 == body->n);
        }
    }
    return true;
}

#endif
