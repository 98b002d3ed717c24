/* bodies_read.c - reads of pieces: from this node's spool, after a repair where that is needed (B2).
 *
 * Happy path: bodies_read -> read_local (spool_get) -> on_read -> cb.
 * Failure: no copy, a bad one, or one that is not the envelope's: read_fetch waits (bodies_want.c) until the body was
 * pulled from another holder and stored, then it is read here; nobody has it: MR_NOTFOUND. Refusals come from the loop,
 * never inside the call. Close: MR_CANCELLED, after the spool has answered. */
#include "cluster/bodies_internal.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"

#include <stdlib.h>
#include <string.h>

/* What a read keeps in its own words. */
struct read_words {
    struct blist link;
    struct bodies *b;
    int32_t status;
    uint32_t tries;
};
_Static_assert(sizeof(struct read_words) <= sizeof(((struct body_read *)NULL)->internal.words), "fits");

static void read_local(struct body_read *req);

static struct read_words *words_of(struct body_read *req)
{
    return (struct read_words *)req->internal.words;
}

static struct body_read *read_of(struct blist *link)
{
    return MR_CONTAINER((void *)link, struct body_read, internal.words);
}

/* ---- reads ---- */

static void fail(struct body_read *req, int status)
{
    struct read_words *w = words_of(req);

    w->status = status;
    blist_append(&w->b->failed_reads, &w->link);
    bodies_wake(w->b);
}

void read_fail(struct blist *read, int status)
{
    fail(read_of(read), status);
}

void read_failed(struct bodies *b)
{
    struct blist now;

    if (blist_empty(&b->failed_reads))
        return;
    now = b->failed_reads;
    now.next->prev = &now;
    now.prev->next = &now;
    blist_init(&b->failed_reads);
    while (!blist_empty(&now)) {
        struct body_read *req = read_of(now.next);

        blist_remove(now.next);
        b->reads--;
        req->cb(req, words_of(req)->status, NULL, 0, false);
    }
}

static void read_fetch(struct body_read *req)
{
    struct read_words *words = words_of(req);
    struct bodies *b = words->b;

    if (b->closing) {
        fail(req, MR_CANCELLED);
        return;
    }
    if (b->ops->state_find(b->config.state, req->id) == NULL) {
        fail(req, MR_NOTFOUND); /* nothing says what its bytes should be */
        return;
    }
    want_wait(b, req->id, &words->link);
}

static void on_read(struct spool_get *get, int status, uint8_t *data, size_t len, bool last)
{
    struct body_read *req = MR_CONTAINER(get, struct body_read, internal.get);
    struct read_words *words = words_of(req);
    struct bodies *b = words->b;
    struct spool_info info;

    if (status == 0 && !b->closing) {
        b->reads--;
        req->cb(req, 0, data, len, last);
    } else if (b->closing) {
        free(data);
        fail(req, MR_CANCELLED);
    } else if (++words->tries >= BODIES_READ_TRIES ||
               (status == MR_NOTFOUND && b->ops->spool_has(b->config.spool, req->id, &info) &&
                req->piece >= info.pieces)) {
        fail(req, status);
    } else if (status == MR_CHECKSUM || status == MR_IO || status == MR_NOTFOUND) {
        if (status != MR_NOTFOUND) {
            char text[MR_ID_TEXT + 1];

            log_event(LOG_ERROR, "body_copy_bad", LOG_S("id", mr_id_format(req->id, text)),
                      LOG_S("error", mr_strerror(status)));
            (void)want_add(b, req->id, WANT_READ, true);
        }
        read_fetch(req);
    } else {
        fail(req, status);
    }
    bodies_spool_done(b);
}

static void read_local(struct body_read *req)
{
    struct read_words *words = words_of(req);
    struct bodies *b = words->b;
    const struct state_message *m;
    struct spool_info info;
    int rc;

    if (!b->ops->spool_has(b->config.spool, req->id, &info)) {
        read_fetch(req);
        return;
    }
    m = b->ops->state_find(b->config.state, req->id);
    if (m != NULL) {
        struct message_view v;

        b->ops->state_message_view(m, &v);
        if (info.length != v.body_length || memcmp(info.checksum, v.body_checksum, sizeof(info.checksum)) != 0) {
            char text[MR_ID_TEXT + 1];

            /* A whole body, but not the one that was accepted. */
            log_event(LOG_ERROR, "body_copy_bad", LOG_S("id", mr_id_format(req->id, text)),
                      LOG_S("error", "not the envelope's body"));
            if (++words->tries >= BODIES_READ_TRIES || bodies_busy(b, req->id)) {
                fail(req, MR_CHECKSUM);
                return;
            }
            b->ops->spool_drop(b->config.spool, req->id);
            (void)want_add(b, req->id, WANT_READ, true);
            read_fetch(req);
            return;
        }
    }
    req->internal.get.id = req->id;
    req->internal.get.piece = req->piece;
    req->internal.get.cb = on_read;
    rc = b->ops->spool_get(b->config.spool, &req->internal.get);
    if (rc != 0)
        fail(req, rc);
    else
        b->pending++;
}

void read_here(struct blist *read)
{
    read_local(read_of(read));
}

void bodies_read(struct bodies *b, struct body_read *req)
{
    struct read_words *words = words_of(req);

    memset(&req->internal, 0, sizeof(req->internal));
    words->b = b;
    blist_init(&words->link);
    b->reads++;
    if (b->closing)
        fail(req, MR_CANCELLED);
    else if (b->reads > BODIES_MAX_READS)
        fail(req, MR_BUSY);
    else
        read_local(req);
}

uint8_t *bodies_take(struct bodies *b, const struct message_view *v, size_t *len)
{
    XXH128_canonical_t sum;
    uint8_t *data;

    if (b->closing || v->body_length == 0 || v->body_length > BODIES_TAKE)
        return NULL;
    data = b->ops->spool_read_now(b->config.spool, v->id, len);
    if (data == NULL)
        return NULL;
    XXH128_canonicalFromHash(&sum, XXH3_128bits(data, *len));
    if (*len == v->body_length && memcmp(sum.digest, v->body_checksum, sizeof(sum.digest)) == 0)
        return data;
    free(data); /* a read says what is wrong with it, and mends it */
    return NULL;
}
