/* bodies_want.c - bodies that this node lacks: which one next, from whom, until when.
 *
 * Happy path: want_add (scan, enqueue, bad copy) or a read -> a queue by urgency -> want_pump -> pull_next asks a
 * holder -> bodies_in.c takes the pieces -> want_pulled(0) -> waiting reads read it here.
 * Failure: BODY_MISSING, wrong bytes, silence, a lost link: the next holder, those of the envelope first. All tried: a
 * copy here that was found bad may be the last one, and is read once more (begin_recheck -> on_rechecked -> pull_next),
 * at most each BODIES_RECHECK_MS. Still nothing: reads get MR_NOTFOUND, and what this node should hold is tried again
 * after BODIES_RETRY_MS or when a link comes up. No space here: no holder can help; nothing but what is read is pulled
 * for as long. Close: reads get MR_CANCELLED. */
#include "cluster/bodies_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

/* Outlives its want when that is resolved or removed meanwhile. */
struct recheck {
    struct spool_recheck req;
    struct bodies *b;
};

struct want {
    struct id_entry entry;
    struct blist link;
    struct bodies *b;
    enum want_list where;
    enum want_list urgency; /* the queue that it goes to */
    bool hold;              /* this node should have it, reader or not */
    bool bad;               /* there was a copy here, and it was bad */
    bool told;              /* that nobody has a good one */
    uint64_t due_ns;
    uint64_t recheck_ns;   /* not before */
    struct recheck *check; /* of the copy here, under way; active, but nobody is asked */
    uint64_t tried;        /* bits of peers */
    uint32_t peer;         /* asked now */
    uint64_t request;
    uint64_t progress_ns;
    struct incoming *in;
    struct blist reads; /* that wait for it, bodies_read.c */
};

static void want_pump(struct bodies *b);
static void pull_next(struct want *w);

static struct want *find_want(const struct bodies *b, struct mr_id id)
{
    return (struct want *)id_table_find(&b->wants, id);
}

static void want_move(struct want *w, enum want_list to)
{
    struct bodies *b = w->b;

    if (w->where == WANT_ACTIVE)
        b->active_pulls--;
    if (to == WANT_ACTIVE)
        b->active_pulls++;
    blist_remove(&w->link);
    blist_append(&b->want_lists[to], &w->link);
    w->where = to;
}

static struct want *want_new(struct bodies *b, struct mr_id id, enum want_list where)
{
    struct want *w = mr_calloc(1, sizeof(*w));

    w->b = b;
    w->entry.id = id;
    w->where = where;
    w->urgency = where < WANT_QUEUES ? where : WANT_LIVE;
    blist_init(&w->reads);
    blist_append(&b->want_lists[where], &w->link);
    id_table_add(&b->wants, &w->entry);
    return w;
}

static void want_hold(struct want *w, bool hold)
{
    if (w->hold && !hold)
        w->b->held_wants--;
    if (!w->hold && hold)
        w->b->held_wants++;
    w->hold = hold;
}

/* Its pull, if there is one, ends here. */
static void stop_pull(struct want *w, bool tell)
{
    struct incoming *in = w->in;

    if (w->peer != 0 && tell)
        bodies_send_abort(w->b, w->peer, w->entry.id);
    w->peer = 0;
    w->request = 0;
    w->in = NULL;
    if (in != NULL)
        in_end(in);
}

static void want_free(struct want *w)
{
    struct bodies *b = w->b;

    mr_assert(blist_empty(&w->reads));
    stop_pull(w, true);
    want_hold(w, false);
    if (w->where == WANT_ACTIVE)
        b->active_pulls--;
    blist_remove(&w->link);
    id_table_remove(&b->wants, &w->entry);
    free(w);
}

static void fail_reads(struct want *w, int status)
{
    while (!blist_empty(&w->reads)) {
        struct blist *link = w->reads.next;

        blist_remove(link);
        read_fail(link, status);
    }
}

/* There is a copy here now: everyone who waits reads it. */
static void want_resolved(struct want *w)
{
    struct blist reads;

    blist_init(&reads);
    while (!blist_empty(&w->reads)) {
        struct blist *link = w->reads.next;

        blist_remove(link);
        blist_append(&reads, link);
    }
    want_free(w);
    while (!blist_empty(&reads)) {
        struct blist *link = reads.next;

        blist_remove(link);
        read_here(link);
    }
}

void want_wait(struct bodies *b, struct mr_id id, struct blist *read)
{
    struct want *w = find_want(b, id);

    if (w == NULL)
        w = want_new(b, id, WANT_READ);
    blist_append(&w->reads, read);
    w->urgency = WANT_READ;
    if (w->where != WANT_ACTIVE && w->where != WANT_READ) {
        w->tried = 0;
        want_move(w, WANT_READ);
    }
    want_pump(b);
}

/* ---- what should be here ---- */

bool want_should_hold(const struct bodies *b, const struct message_view *v)
{
    uint64_t self = node_bit(b->config.self);
    /* A standby catches up with bodies before it votes. */
    uint64_t members = b->ops->state_voters(b->config.state) | self;
    unsigned replicas = bodies_replicas(b, bit_count(members));
    uint64_t holders = v->holders & members;

    if (holders & self || bit_count(members) <= replicas)
        return true;
    /* Every node finds the same ones to make up for holders that are too few. */
    while (bit_count(holders) < replicas) {
        uint64_t next = node_bit(bodies_pick(v->id, members & ~holders));

        if (next == self)
            return true;
        holders |= next;
    }
    return false;
}

bool want_add(struct bodies *b, struct mr_id id, enum want_list list, bool bad)
{
    const struct state_message *m = b->ops->state_find(b->config.state, id);
    struct want *w = find_want(b, id);
    struct message_view v;

    if (m == NULL)
        return true;
    b->ops->state_message_view(m, &v);
    if (w == NULL) {
        if (b->wants.count >= BODIES_MAX_WANTED)
            return false;
        if (list == WANT_FILL &&
            bit_count(v.holders & b->ops->state_voters(b->config.state)) < b->ops->state_majority(b->config.state))
            list = WANT_MINORITY;
        w = want_new(b, id, list);
        w->due_ns = b->now_ns + BODIES_GRACE_MS * 1000000ULL;
    }
    w->bad |= bad;
    want_hold(w, want_should_hold(b, &v));
    return true;
}

/* ---- pulling ---- */

struct want *want_by_request(const struct bodies *b, uint32_t peer, uint64_t request)
{
    for (struct blist *at = b->want_lists[WANT_ACTIVE].next; at != &b->want_lists[WANT_ACTIVE]; at = at->next) {
        struct want *w = MR_CONTAINER(at, struct want, link);

        if (w->request == request && w->peer == peer)
            return w;
    }
    return NULL;
}

struct incoming *want_incoming(const struct want *w)
{
    return w->in;
}

void want_progress(struct want *w)
{
    w->progress_ns = w->b->now_ns;
}

bool want_active(const struct bodies *b, struct mr_id id)
{
    const struct want *w = find_want(b, id);

    return w != NULL && w->where == WANT_ACTIVE;
}

static void on_rechecked(struct spool_recheck *req, int status)
{
    struct recheck *check = MR_CONTAINER(req, struct recheck, req);
    struct bodies *b = check->b;
    struct want *w = find_want(b, req->id);
    char text[MR_ID_TEXT + 1];

    if (w != NULL && w->check == check) {
        w->check = NULL;
        if ((status == MR_CHECKSUM || status == MR_IO) && !w->told) {
            log_event(LOG_ERROR, "body_copy_bad", LOG_S("id", mr_id_format(req->id, text)),
                      LOG_S("error", mr_strerror(status)), LOG_B("no_peer_has_it", true));
            w->told = true;
        }
        pull_next(w); /* finds what is here now, or who came up meanwhile */
    }
    free(check);
    want_pump(b);
    bodies_spool_done(b);
}

/* False: not now. */
static bool begin_recheck(struct want *w)
{
    struct bodies *b = w->b;
    struct recheck *check;

    if (b->closing || b->now_ns < w->recheck_ns)
        return false;
    check = mr_calloc(1, sizeof(*check));
    check->b = b;
    check->req.id = w->entry.id;
    check->req.cb = on_rechecked;
    if (b->ops->spool_recheck(b->config.spool, &check->req) != 0) {
        free(check);
        return false;
    }
    b->pending++;
    w->check = check;
    w->recheck_ns = b->now_ns + BODIES_RECHECK_MS * 1000000ULL;
    return true;
}

/* Nobody else has it now. w is active, and may be gone after it. */
static void give_up(struct want *w)
{
    if (begin_recheck(w))
        return;
    fail_reads(w, MR_NOTFOUND);
    if (!w->hold) {
        want_free(w);
        return;
    }
    w->tried = 0;
    w->urgency = w->urgency == WANT_READ ? WANT_LIVE : w->urgency;
    w->due_ns = w->b->now_ns + BODIES_RETRY_MS * 1000000ULL;
    want_move(w, WANT_BACKOFF);
}

/* Asks the next holder. w is active, and may be gone after it. */
static void pull_next(struct want *w)
{
    struct bodies *b = w->b;
    struct mr_id id = w->entry.id;
    const struct state_message *m = b->ops->state_find(b->config.state, id);
    struct message_view v;

    if (m == NULL) {
        fail_reads(w, MR_NOTFOUND);
        want_free(w);
        return;
    }
    if (b->ops->spool_has(b->config.spool, id, NULL)) {
        want_resolved(w);
        return;
    }
    if (in_pushed(b, id)) { /* is coming already; its end is told, or the time comes */
        w->due_ns = b->now_ns + BODIES_GRACE_MS * 1000000ULL;
        want_move(w, WANT_GRACE);
        return;
    }
    b->ops->state_message_view(m, &v);
    for (;;) {
        uint64_t reachable = b->up & ~w->tried;
        uint32_t peer = bodies_pick(id, (reachable & v.holders) != 0 ? reachable & v.holders : reachable);
        Mailraft__BodyGet get = MAILRAFT__BODY_GET__INIT;

        if (peer == 0) {
            give_up(w);
            return;
        }
        w->tried |= node_bit(peer);
        w->peer = peer;
        w->request = ++b->next_request;
        w->progress_ns = b->now_ns;
        get.id = (ProtobufCBinaryData){sizeof(id.bytes), id.bytes};
        get.request = w->request;
        if (bodies_send(b, peer, FRAME_BODY_GET, &get.base, NULL) == 0) {
            w->in = in_begin_pull(b, peer, w, id);
            b->stats.pulls++;
            return;
        }
        w->peer = 0;
    }
}

void want_pulled(struct want *w, int status)
{
    struct bodies *b = w->b;
    char text[MR_ID_TEXT + 1];

    if (status == 0) {
        w->in = NULL; /* bodies_in.c has ended it */
        w->peer = 0;
        b->stats.pulled++;
        if (w->bad) {
            b->stats.repaired++;
            log_event(LOG_INFO, "body_repaired", LOG_S("id", mr_id_format(w->entry.id, text)));
        }
        want_resolved(w);
    } else {
        /* A full disk is told once each time, not for each body that does not fit. */
        if (status != MR_NOSPACE || b->now_ns >= b->no_space_until_ns)
            log_event(LOG_WARN, "body_pull_failed", LOG_S("id", mr_id_format(w->entry.id, text)),
                      LOG_N("peer", w->peer), LOG_S("error", mr_strerror(status)));
        stop_pull(w, true);
        if (status == MR_NOSPACE) {
            b->no_space_until_ns = b->now_ns + BODIES_RETRY_MS * 1000000ULL;
            w->tried = UINT64_MAX;
            give_up(w);
        } else {
            pull_next(w);
        }
    }
    want_pump(b);
}

void want_missing(struct bodies *b, uint32_t peer, uint64_t request)
{
    struct want *w = want_by_request(b, peer, request);

    if (w == NULL)
        return;
    stop_pull(w, false);
    pull_next(w);
    want_pump(b);
}

void want_present(struct bodies *b, struct mr_id id)
{
    struct want *w = find_want(b, id);

    if (w == NULL)
        return;
    want_resolved(w);
    want_pump(b);
}

static struct want *next_want(struct bodies *b)
{
    if (b->active_pulls >= BODIES_PULLS)
        return NULL;
    for (int i = 0; i < WANT_QUEUES; i++) {
        if (i > WANT_READ &&
            (b->active_pulls >= BODIES_PULLS - BODIES_PULLS_FOR_READS || b->now_ns < b->no_space_until_ns))
            return NULL;
        if (i == WANT_FILL && b->fill_budget <= 0)
            return NULL;
        if (!blist_empty(&b->want_lists[i]))
            return MR_CONTAINER(b->want_lists[i].next, struct want, link);
    }
    return NULL;
}

static void want_pump(struct bodies *b)
{
    struct want *w;

    while (!b->closing && (b->ready || !blist_empty(&b->want_lists[WANT_READ])) && (w = next_want(b)) != NULL) {
        if (w->where == WANT_FILL) {
            const struct state_message *m = b->ops->state_find(b->config.state, w->entry.id);
            struct message_view v;

            if (m != NULL) {
                b->ops->state_message_view(m, &v);
                b->fill_budget -= v.body_length < INT32_MAX ? (int64_t)v.body_length + BODIES_FRAME_COST : INT32_MAX;
            }
        }
        want_move(w, WANT_ACTIVE);
        pull_next(w);
    }
}

/* ---- from the state, links, the clock ---- */

void want_removed(struct bodies *b, struct mr_id id)
{
    struct want *w = find_want(b, id);

    if (w == NULL)
        return;
    fail_reads(w, MR_NOTFOUND);
    want_free(w);
    want_pump(b);
}

void want_link(struct bodies *b, uint32_t peer, bool up)
{
    struct blist *list = &b->want_lists[up ? WANT_BACKOFF : WANT_ACTIVE];
    size_t n = up ? b->wants.count : BODIES_PULLS;

    /* Those that lose their holder may come to the list's end again: each is looked at once. */
    for (struct blist *at = list->next, *next; at != list && n > 0; at = next, n--) {
        struct want *w = MR_CONTAINER(at, struct want, link);

        next = at->next;
        if (up) {
            want_move(w, w->urgency);
        } else if (w->peer == peer) {
            stop_pull(w, false);
            pull_next(w);
        }
    }
    want_pump(b);
}

static void due(struct bodies *b, enum want_list list)
{
    while (!blist_empty(&b->want_lists[list])) {
        struct want *w = MR_CONTAINER(b->want_lists[list].next, struct want, link);

        if (w->due_ns > b->now_ns)
            return; /* all have the same delay, so the list is in order */
        want_move(w, w->urgency);
    }
}

void want_tick(struct bodies *b)
{
    struct blist *active = &b->want_lists[WANT_ACTIVE];
    struct want *silent[BODIES_PULLS];
    unsigned n = 0;

    for (struct blist *at = active->next; at != active; at = at->next) {
        struct want *w = MR_CONTAINER(at, struct want, link);

        if (w->check == NULL && b->now_ns - w->progress_ns >= BODIES_PULL_TIMEOUT_MS * 1000000ULL) {
            mr_assert(n < BODIES_PULLS);
            silent[n++] = w;
        }
    }
    /* One want's end never ends another's. */
    for (unsigned i = 0; i < n; i++) {
        char text[MR_ID_TEXT + 1];

        log_event(LOG_WARN, "body_pull_failed", LOG_S("id", mr_id_format(silent[i]->entry.id, text)),
                  LOG_N("peer", silent[i]->peer), LOG_S("error", mr_strerror(MR_TIMEOUT)));
        stop_pull(silent[i], true);
        pull_next(silent[i]);
    }
    due(b, WANT_GRACE);
    due(b, WANT_BACKOFF);
    b->fill_budget += BODIES_FILL_RATE;
    if (b->fill_budget > BODIES_FILL_RATE)
        b->fill_budget = BODIES_FILL_RATE;
    want_pump(b);
}

/* Everything but what somebody waits for: the scan finds anew what the restored state names. */
void want_restored(struct bodies *b)
{
    for (int i = 0; i < WANT_LISTS; i++) {
        for (struct blist *at = b->want_lists[i].next, *next; at != &b->want_lists[i]; at = next) {
            struct want *w = MR_CONTAINER(at, struct want, link);

            next = at->next;
            if (b->ops->state_find(b->config.state, w->entry.id) == NULL)
                fail_reads(w, MR_NOTFOUND);
            if (blist_empty(&w->reads))
                want_free(w);
        }
    }
    want_pump(b);
}

void want_close(struct bodies *b)
{
    for (int i = 0; i < WANT_LISTS; i++) {
        while (!blist_empty(&b->want_lists[i])) {
            struct want *w = MR_CONTAINER(b->want_lists[i].next, struct want, link);

            fail_reads(w, MR_CANCELLED);
            want_free(w);
        }
    }
}
