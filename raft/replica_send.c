/* replica_send.c - see replica_send.h.
 *
 * A message: send_message -> net.send for each chunk -> chunk_done -> libraft's callback.
 * A snapshot: snapshot_get (empty answer) -> send_message -> start_transfer -> snapshot_loaded -> net.send ->
 * chunk_done. Failure: a full queue or a broken link completes with RAFT_NOCONNECTION; so does a failed load, after a
 * log line. libraft must never see a failed load: it would free a configuration that it did not initialize (UPSTREAM.md
 * 6). Close: nothing is cancelled; raft_io's close waits until outstanding is 0. */
#include "raft/replica_send.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "raft/raft_wire.h"

#include <stdlib.h>
#include <string.h>

struct send_request {
    struct send_request *next; /* in failed */
    struct replica_send *owner;
    struct raft_io_send *req;
    raft_io_send_cb cb;
    unsigned chunks; /* handed to the network and not done */
    int status;
    struct replica_buffer *tails;
    /* Of a snapshot. */
    struct replica_peer *peer;
    struct raft_io_snapshot_get get;
    struct raft_message message;
    struct raft_snapshot *snapshot;
};

void replica_send_init(struct replica_send *s, struct raft_io *io, uv_loop_t *loop, const struct replica_net *net)
{
    memset(s, 0, sizeof(*s));
    s->io = io;
    s->loop = loop;
    s->net = *net;
}

/* The peer's place in the table; a peer that left gives its place up. NULL: all are in use. */
static struct replica_peer *find_peer(struct replica_send *s, uint64_t id)
{
    struct replica_peer *spare = NULL;

    for (unsigned i = 0; i < REPLICA_MAX_PEERS; i++) {
        struct replica_peer *p = &s->peers[i];

        if (p->id == id)
            return p;
        if (p->id == 0) {
            spare = p; /* places are taken in order: all behind it are free too */
            break;
        }
        if (spare == NULL && !p->transferring && !p->behind && p->anchor == 0)
            spare = p;
    }
    if (spare != NULL)
        *spare = (struct replica_peer){.id = id};
    return spare;
}

static struct send_request *new_request(struct replica_send *s, struct raft_io_send *req, raft_io_send_cb cb)
{
    struct send_request *r = mr_calloc(1, sizeof(*r));

    r->owner = s;
    r->req = req;
    r->cb = cb;
    s->outstanding++;
    return r;
}

static void free_snapshot(struct raft_snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    raft_configuration_close(&snapshot->configuration);
    for (unsigned i = 0; i < snapshot->n_bufs; i++)
        raft_free(snapshot->bufs[i].base);
    raft_free(snapshot->bufs);
    raft_free(snapshot);
}

static void complete(struct send_request *r)
{
    struct replica_send *s = r->owner;

    free_snapshot(r->snapshot);
    r->cb(r->req, r->status);
    free(r->tails);
    free(r);
    mr_assert(s->outstanding > 0);
    s->outstanding--;
    if (s->outstanding == 0)
        s->idle(s->arg);
}

static void fail_later(struct send_request *r, int status)
{
    r->status = status;
    r->next = r->owner->failed;
    r->owner->failed = r;
}

void replica_send_turn(struct replica_send *s)
{
    struct send_request *list = s->failed;

    s->failed = NULL;
    while (list != NULL) {
        struct send_request *r = list;

        list = r->next;
        complete(r);
    }
}

static void end_transfer(struct send_request *r)
{
    struct replica_send *s = r->owner;
    struct replica_peer *p = r->peer;

    uint64_t now = uv_now(s->loop);
    uint64_t quiet = (now - p->started) / 2; /* a slow link has more of it still in its queues */

    if (quiet < REPLICA_SNAPSHOT_QUIET_MS)
        quiet = REPLICA_SNAPSHOT_QUIET_MS;
    p->transferring = false;
    p->quiet_until = now + (r->status == 0 ? quiet : REPLICA_SNAPSHOT_RETRY_MS);
    if (r->status == 0)
        s->snapshots_sent++;
    log_event(LOG_INFO, "raft_snapshot_sent", LOG_N("peer", p->id),
              LOG_N("index", r->snapshot ? r->snapshot->index : 0), LOG_N("status", r->status));
}

static void chunk_done(void *arg, int status)
{
    struct send_request *r = arg;

    if (status != 0)
        r->status = RAFT_NOCONNECTION;
    mr_assert(r->chunks > 0);
    r->chunks--;
    if (r->chunks > 0)
        return;
    if (r->peer != NULL)
        end_transfer(r);
    complete(r);
}

/* MR_LIMIT: it does not fit the wire's limits, nothing was sent. */
static int send_chunk(struct send_request *r, const struct raft_message *m, bool bulk,
                      const struct replica_buffer *tail, unsigned n_tail)
{
    const struct replica_net *net = &r->owner->net;
    uint8_t *head;
    size_t head_len;
    int rc;

    rc = raft_wire_encode(m, &head, &head_len);
    if (rc != 0) {
        log_event(LOG_ERROR, "raft_message_too_large", LOG_N("peer", m->server_id), LOG_N("type", m->type));
        return rc;
    }
    r->chunks++;
    net->send(net->arg, m->server_id, bulk, head, head_len, tail, n_tail, chunk_done, r);
    free(head);
    return MR_OK;
}

/* How many of the entries from first fit into one chunk: at least one. */
static unsigned chunk_length(const struct raft_append_entries *m, unsigned first)
{
    size_t bytes = 0;
    unsigned n = 0;

    while (first + n < m->n_entries && n < RAFT_WIRE_MAX_ENTRIES) {
        bytes += m->entries[first + n].buf.len;
        if (n > 0 && bytes > REPLICA_CHUNK_BYTES)
            break;
        n++;
    }
    return n;
}

/* libraft gives up to max_inflight_entries entries in one message, of up to 64 KiB each: as one frame that could be
 * more than a link may queue, and then a peer that is far behind would never get any. So it goes out as several
 * messages that are each valid alone. */
static void send_entries(struct send_request *r, const struct raft_message *message)
{
    const struct raft_append_entries *all = &message->append_entries;
    unsigned first = 0;

    r->tails = mr_calloc(all->n_entries, sizeof(*r->tails));
    for (unsigned i = 0; i < all->n_entries; i++)
        r->tails[i] = (struct replica_buffer){all->entries[i].buf.base, all->entries[i].buf.len};
    while (first < all->n_entries) {
        struct raft_message part = *message;
        unsigned n = chunk_length(all, first);

        part.append_entries.entries = all->entries + first;
        part.append_entries.n_entries = n;
        if (first > 0) {
            part.append_entries.prev_log_index = all->prev_log_index + first;
            part.append_entries.prev_log_term = all->entries[first - 1].term;
        }
        if (send_chunk(r, &part, false, &r->tails[first], n) != 0)
            break; /* the rest would not connect to what the peer has */
        first += n;
    }
}

/* raft_uv zeroes nothing when the directory has no snapshot; our allocator does (replica_io.c). */
static bool is_loaded(const struct raft_snapshot *snapshot, int status)
{
    return status == 0 && snapshot->n_bufs == 1 && snapshot->bufs != NULL;
}

static void snapshot_loaded(struct raft_io_snapshot_get *get, struct raft_snapshot *snapshot, int status)
{
    struct send_request *r = get->data;
    struct raft_install_snapshot *m = &r->message.install_snapshot;
    struct replica_buffer tail;

    if (!is_loaded(snapshot, status)) {
        log_event(LOG_ERROR, "raft_snapshot_load_failed", LOG_N("peer", r->peer->id),
                  LOG_S("error", r->owner->io->errmsg));
        raft_free(snapshot);
        r->status = RAFT_IOERR;
        end_transfer(r);
        complete(r);
        return;
    }
    r->snapshot = snapshot;
    m->last_index = snapshot->index;
    m->last_term = snapshot->term;
    m->conf = snapshot->configuration;
    m->conf_index = snapshot->configuration_index;
    m->data = snapshot->bufs[0];
    r->tails = mr_calloc(1, sizeof(*r->tails));
    tail = (struct replica_buffer){m->data.base, m->data.len};
    r->tails[0] = tail;
    if (send_chunk(r, &r->message, true, r->tails, 1) != 0) {
        r->status = RAFT_TOOBIG;
        end_transfer(r);
        complete(r);
    }
}

static void start_transfer(struct send_request *r, const struct raft_message *message)
{
    struct replica_send *s = r->owner;
    struct replica_peer *p = find_peer(s, message->server_id);

    if (p == NULL) {
        fail_later(r, RAFT_NOCONNECTION);
        return;
    }
    p->anchor = message->install_snapshot.last_index;
    if (*s->taking || p->transferring || uv_now(s->loop) < p->quiet_until) {
        fail_later(r, RAFT_BUSY);
        return;
    }
    r->peer = p;
    r->message = *message;
    r->get.data = r;
    if (s->snapshot_get(s->io, &r->get, snapshot_loaded) != 0) {
        r->peer = NULL;
        fail_later(r, RAFT_IOERR);
        return;
    }
    p->transferring = true;
    p->behind = true;
    p->started = uv_now(s->loop);
    p->heard = p->started;
}

int replica_send_message(struct replica_send *s, struct raft_io_send *req, const struct raft_message *message,
                         raft_io_send_cb cb)
{
    struct send_request *r = new_request(s, req, cb);

    if (message->type == RAFT_INSTALL_SNAPSHOT) {
        start_transfer(r, message);
        return 0;
    }
    if (message->type == RAFT_APPEND_ENTRIES && message->append_entries.n_entries > 0) {
        struct replica_peer *p = find_peer(s, message->server_id);

        if (p != NULL)
            p->anchor = 0; /* with entries: libraft is past the snapshot, or gave it up */
        send_entries(r, message);
    } else {
        (void)send_chunk(r, message, false, NULL, 0);
    }
    if (r->chunks == 0)
        fail_later(r, RAFT_TOOBIG);
    return 0;
}

int replica_send_snapshot_get(struct replica_send *s, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb)
{
    struct raft_snapshot *empty = raft_calloc(1, sizeof(*empty));

    raft_configuration_init(&empty->configuration);
    empty->index = s->snapshot_index;
    empty->bufs = raft_calloc(1, sizeof(*empty->bufs));
    empty->n_bufs = 1;
    /* Inside the call: libraft's callback does nothing but call send, whose completion comes later. */
    cb(req, empty, 0);
    return 0;
}

/* A rejection that came late, or twice: within a term nobody loses again what the leader knows that he has. */
static bool is_late(struct replica_peer *p, uint64_t last, const struct raft_append_entries_result *result)
{
    uint64_t index = result->last_log_index < last ? result->last_log_index : last;

    if (p->matched_term != result->term) {
        p->matched_term = result->term;
        p->matched = 0;
    }
    if (result->rejected == 0 && index > p->matched)
        p->matched = index;
    return result->rejected != 0 && result->last_log_index < p->matched;
}

void replica_send_filter(struct replica_send *s, uint64_t from, uint64_t last,
                         struct raft_append_entries_result *result)
{
    struct replica_peer *p = find_peer(s, from);
    bool quiet;

    if (p == NULL)
        return;
    p->heard = uv_now(s->loop);
    if (is_late(p, last, result)) {
        result->rejected = 0;
        result->last_log_index = 0;
        return;
    }
    if (result->rejected == 0 && result->last_log_index + REPLICA_CAUGHT_UP >= last)
        p->behind = false;
    if (p->anchor == 0)
        return;
    if (result->rejected == 0) {
        if (result->last_log_index >= p->anchor) {
            p->anchor = 0;
            p->quiet_until = 0;
        }
        return;
    }
    quiet = p->transferring || uv_now(s->loop) < p->quiet_until;
    if (quiet && (result->rejected == p->anchor || result->rejected == s->snapshot_index)) {
        /* Contact, no progress: libraft goes on with heartbeats. */
        result->rejected = 0;
        result->last_log_index = 0;
    } else if (!quiet && result->rejected == s->snapshot_index && result->rejected > p->anchor) {
        /* A newer snapshot was taken meanwhile, at which libraft anchors its heartbeats; it knows the transfer only by
         * its old index and would wait for install_snapshot_timeout. Once: if it is past that, the next one says so. */
        result->rejected = p->anchor;
        if (result->last_log_index >= p->anchor)
            result->last_log_index = p->anchor - 1;
        p->anchor = 0;
    }
}

bool replica_send_holds(const struct replica_send *s)
{
    uint64_t now = uv_now(s->loop);

    for (unsigned i = 0; i < REPLICA_MAX_PEERS; i++) {
        const struct replica_peer *p = &s->peers[i];

        if (p->id == 0)
            break; /* the rest was never in use */
        if (p->transferring || (p->behind && now < p->heard + REPLICA_SNAPSHOT_HEARD_MS))
            return true;
    }
    return false;
}

void replica_send_reset(struct replica_send *s)
{
    for (unsigned i = 0; i < REPLICA_MAX_PEERS; i++) {
        s->peers[i].anchor = 0;
        s->peers[i].behind = false;
        s->peers[i].quiet_until = 0;
    }
}
