/* bodies_serve.c - a peer lacks a body that is here: read piece by piece and sent at its pace.
 *
 * Happy path: serve_get -> serve_step (spool_get) -> on_serve_read sends it -> the peer's BODY_ACK_PIECE -> serve_step
 * ... until the last piece is sent. Pace: at most BODIES_SEND_WINDOW unanswered, and nothing while the link has
 * BODIES_SERVE_QUEUE to write: new mail goes first. Failure: not here, found bad, too many at once: BODY_MISSING, and
 * the peer asks another. A lost link, BODY_ABORT, silence: ends. Close: what the spool reads is waited for. */
#include "cluster/bodies_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct serve {
    struct blist link; /* in serves */
    struct bodies *b;
    struct spool_get get;
    uint32_t peer; /* 0: ended, waits for the spool */
    struct mr_id id;
    uint64_t request;
    struct spool_info info;
    uint32_t next;     /* piece to be read */
    uint32_t answered; /* pieces */
    bool reading;
    uint64_t since_ns;
};

static void serve_step(struct serve *s);

static void say_missing(struct bodies *b, uint32_t peer, struct mr_id id, uint64_t request)
{
    Mailraft__BodyMissing m = MAILRAFT__BODY_MISSING__INIT;

    m.id = (ProtobufCBinaryData){sizeof(id.bytes), id.bytes};
    m.request = request;
    (void)bodies_send(b, peer, FRAME_BODY_MISSING, &m.base, NULL);
}

static void serve_end(struct serve *s)
{
    if (s->peer != 0)
        s->b->peers[s->peer].serves--;
    s->peer = 0;
    if (s->reading)
        return;
    blist_remove(&s->link);
    free(s);
}

static void on_drained(void *arg, int status)
{
    struct drain *d = arg;
    struct bodies *b = d->b;
    uint32_t peer = d->peer;

    (void)status;
    free(d);
    if (b == NULL)
        return;
    b->peers[peer].drain = NULL;
    for (struct blist *at = b->serves.next, *next; at != &b->serves; at = next) {
        struct serve *s = MR_CONTAINER(at, struct serve, link);

        next = at->next;
        if (s->peer == peer)
            serve_step(s);
    }
}

/* False: the link has enough to write; serving goes on when it has less. */
static bool link_has_room(struct bodies *b, uint32_t peer)
{
    struct drain *d;

    if (b->peers[peer].drain != NULL)
        return false;
    if (b->ops->links_queued(b->config.links, peer, LINK_BULK) <= BODIES_SERVE_QUEUE)
        return true;
    d = mr_calloc(1, sizeof(*d));
    d->b = b;
    d->peer = peer;
    if (b->ops->links_when_drained(b->config.links, peer, LINK_BULK, BODIES_SERVE_QUEUE / 2, on_drained, d) != 0) {
        free(d);
        return true; /* links_send has the last word */
    }
    b->peers[peer].drain = d;
    return false;
}

static void send_piece(struct serve *s, const uint8_t *data, size_t len, bool last)
{
    Mailraft__BodyPiece m = MAILRAFT__BODY_PIECE__INIT;
    struct link_buffer tail = {data, len};

    m.id = (ProtobufCBinaryData){sizeof(s->id.bytes), s->id.bytes};
    m.piece = s->next;
    m.last = last;
    m.stamp_ms = s->info.stamp_ms;
    m.request = s->request;
    if (last) {
        m.length = s->info.length;
        m.checksum = (ProtobufCBinaryData){sizeof(s->info.checksum), s->info.checksum};
    }
    if (bodies_send(s->b, s->peer, FRAME_BODY_PIECE, &m.base, &tail) != 0) {
        say_missing(s->b, s->peer, s->id, s->request);
        serve_end(s);
        return;
    }
    s->next++;
    s->since_ns = s->b->now_ns;
    if (last) {
        s->b->stats.served++;
        serve_end(s);
    } else {
        serve_step(s);
    }
}

static void on_serve_read(struct spool_get *get, int status, uint8_t *data, size_t len, bool last)
{
    struct serve *s = MR_CONTAINER(get, struct serve, get);
    struct bodies *b = s->b;

    s->reading = false;
    if (s->peer == 0) {
        serve_end(s);
    } else if (status != 0) {
        char text[MR_ID_TEXT + 1];
        struct mr_id id = s->id;

        say_missing(b, s->peer, id, s->request);
        serve_end(s);
        if (status == MR_CHECKSUM || status == MR_IO) {
            log_event(LOG_ERROR, "body_copy_bad", LOG_S("id", mr_id_format(id, text)),
                      LOG_S("error", mr_strerror(status)));
            (void)want_add(b, id, WANT_LIVE, true);
        }
    } else {
        send_piece(s, data, len, last);
    }
    free(data);
    bodies_spool_done(b);
}

static void serve_step(struct serve *s)
{
    struct bodies *b = s->b;
    /* All pieces but the last have about the same size; counted whole, the window is in pieces. */
    uint32_t window = BODIES_SEND_WINDOW / SPOOL_MAX_PIECE;

    if (s->reading || b->closing || s->next - s->answered >= window || !link_has_room(b, s->peer))
        return;
    s->get.id = s->id;
    s->get.piece = s->next;
    s->get.cb = on_serve_read;
    if (b->ops->spool_get(b->config.spool, &s->get) != 0) {
        say_missing(b, s->peer, s->id, s->request);
        serve_end(s);
        return;
    }
    s->reading = true;
    b->pending++;
}

void serve_get(struct bodies *b, uint32_t peer, struct mr_id id, uint64_t request)
{
    struct spool_info info;
    struct serve *s;

    if (!b->peers[peer].up)
        return; /* no way to answer; the peer's time-out does it */
    if (b->peers[peer].serves >= BODIES_SERVES || !b->ops->spool_has(b->config.spool, id, &info)) {
        say_missing(b, peer, id, request);
        return;
    }
    s = mr_calloc(1, sizeof(*s));
    s->b = b;
    s->peer = peer;
    s->id = id;
    s->request = request;
    s->info = info;
    s->since_ns = b->now_ns;
    b->peers[peer].serves++;
    blist_append(&b->serves, &s->link);
    serve_step(s);
}

static struct serve *find_serve(struct bodies *b, uint32_t peer, struct mr_id id)
{
    if (b->peers[peer].serves == 0)
        return NULL;
    for (struct blist *at = b->serves.next; at != &b->serves; at = at->next) {
        struct serve *s = MR_CONTAINER(at, struct serve, link);

        if (s->peer == peer && mr_id_equal(s->id, id))
            return s;
    }
    return NULL;
}

bool serve_ack(struct bodies *b, uint32_t peer, struct mr_id id)
{
    struct serve *s = find_serve(b, peer, id);

    if (s == NULL)
        return false;
    if (s->answered < s->next)
        s->answered++;
    s->since_ns = b->now_ns;
    serve_step(s);
    return true;
}

bool serve_abort(struct bodies *b, uint32_t peer, struct mr_id id)
{
    struct serve *s = find_serve(b, peer, id);

    if (s == NULL)
        return false;
    serve_end(s);
    return true;
}

static void end_where(struct bodies *b, uint32_t peer, uint64_t older_than_ns)
{
    for (struct blist *at = b->serves.next, *next; at != &b->serves; at = next) {
        struct serve *s = MR_CONTAINER(at, struct serve, link);

        next = at->next;
        if (s->peer != 0 && (s->peer == peer || peer == 0) && b->now_ns - s->since_ns >= older_than_ns)
            serve_end(s);
    }
}

void serve_link_down(struct bodies *b, uint32_t peer)
{
    end_where(b, peer, 0);
}

/* The peer has asked another long ago, or is gone. */
void serve_timeouts(struct bodies *b)
{
    end_where(b, 0, BODIES_LOST_MS * 1000000ULL);
}

void serve_close(struct bodies *b)
{
    end_where(b, 0, 0);
}
