/* Requests of workers and of the HTTP thread.
 *
 * One struct serves all kinds: it goes to the core's mailbox (run: the request's step on the core), and comes back by
 * the worker's (run: its answer). The struct owns what is in it until the answer hands it on. Body: piece* -> finish ->
 * majority -> answer. Submission: enqueue -> fate -> answer; at the time limit a cancel is proposed first and its fate
 * decides (PROTOCOL.md 4.3). Without a quorum the client is not kept waiting for the limit: after
 * CORE_NOQUORUM_GRACE_MS it reads 451, and the cancel goes out when there is a leader again. */
#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct core_request {
    struct mail mail; /* first: core_port_post may free it */
    struct cluster *c;
    struct cluster_port *port; /* NULL: answered on the core's thread */
    struct mr_id id;
    struct cluster_body *body;
    Mailraft__Op *op;
    Mailraft__Outcome *fallback; /* of an outcome with a DSN: what to say when the DSN cannot be stored (7.2) */
    uint64_t request;            /* of proposals */
    uint64_t stamp_ms;
    uint32_t delivery, attempt, slot, piece;
    bool notice, dotted, cancelling, answered, queued, releasing;
    uint64_t attempts;
    uint8_t *data;
    size_t len;
    bool last;
    char *text;
    uint64_t deadline_ns;
    int status;
    enum apply_result reason;
    Mailraft__Body *result;
    struct body_read read;
    union {
        void (*written)(void *arg, int status);
        void (*stored)(void *arg, int status, Mailraft__Body *body);
        void (*decided)(void *arg, int status, enum apply_result reason);
        void (*piece)(void *arg, int status, uint8_t *data, size_t len, bool last);
        void (*closed)(void *arg);
    } cb;
    void *arg;
    struct core_request *prev, *next; /* c->waiting */
};

struct cluster_body {
    struct cluster_port *port;
    struct mr_id id;
    struct body_put *put; /* core's; NULL until its first piece came */
    uint64_t length;
    uint8_t checksum[16];
};

/* ---- the way there and back ---- */

static struct core_request *new_request(struct cluster *c, struct cluster_port *port, void *arg)
{
    struct core_request *r = mr_calloc(1, sizeof(*r));
    r->c = c;
    r->port = port;
    r->arg = arg;
    return r;
}

static void free_request(struct core_request *r)
{
    if (r->op != NULL)
        mailraft__op__free_unpacked(r->op, NULL);
    if (r->fallback != NULL)
        mailraft__outcome__free_unpacked(r->fallback, NULL);
    if (r->result != NULL)
        mailraft__body__free_unpacked(r->result, NULL);
    free(r->data);
    free(r->text);
    free(r);
}

static void to_core(struct core_request *r, void (*run)(struct mail *mail))
{
    r->mail.run = run;
    mailbox_post(r->c->mailbox, &r->mail);
}

static void to_worker(struct core_request *r, void (*run)(struct mail *mail))
{
    r->mail.run = run;
    if (r->port == NULL)
        run(&r->mail);
    else if (r->port->detached)
        free_request(r);
    else
        mailbox_post(r->port->worker.mailbox, &r->mail);
}

void core_port_post(struct cluster_port *p, struct mail *mail)
{
    if (p->detached)
        free(mail);
    else
        mailbox_post(p->worker.mailbox, mail);
}

static struct core_request *of(struct mail *mail)
{
    return MR_CONTAINER(mail, struct core_request, mail);
}

static void wait_add(struct core_request *r)
{
    struct cluster *c = r->c;
    r->prev = c->waiting_last;
    if (c->waiting_last != NULL)
        c->waiting_last->next = r;
    else
        c->waiting = r;
    c->waiting_last = r;
    r->queued = true;
}

static void wait_remove(struct core_request *r)
{
    struct cluster *c = r->c;
    if (!r->queued)
        return;
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        c->waiting = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    else
        c->waiting_last = r->prev;
    r->prev = r->next = NULL;
    r->queued = false;
}

/* ---- bodies in ---- */

struct cluster_body *cluster_body_begin(struct cluster_port *p, struct mr_id id)
{
    struct cluster_body *b = mr_calloc(1, sizeof(*b));
    b->port = p;
    b->id = id;
    return b;
}

static void answer_written(struct mail *mail)
{
    struct core_request *r = of(mail);
    r->cb.written(r->arg, r->status);
    free_request(r);
}

static void piece_written(void *arg, int status)
{
    struct core_request *r = arg;
    r->status = status;
    to_worker(r, answer_written);
}

static void begin_put(struct cluster *c, struct cluster_body *b)
{
    if (b->put == NULL)
        b->put = bodies_begin(c->bodies, b->id);
}

static void run_piece(struct mail *mail)
{
    struct core_request *r = of(mail);
    if (r->c->bodies == NULL || r->c->closing) {
        r->status = MR_CANCELLED;
        to_worker(r, answer_written);
        return;
    }
    uint8_t *data = r->data;
    begin_put(r->c, r->body);
    r->data = NULL;
    bodies_piece(r->body->put, data, r->len, piece_written, r);
}

void cluster_body_piece(struct cluster_body *b, uint8_t *data, size_t len, void (*written)(void *arg, int status),
                        void *arg)
{
    struct core_request *r = new_request(b->port->c, b->port, arg);
    r->body = b;
    r->data = data;
    r->len = len;
    r->cb.written = written;
    to_core(r, run_piece);
}

static void answer_stored(struct mail *mail)
{
    struct core_request *r = of(mail);
    Mailraft__Body *result = r->result;
    r->result = NULL;
    r->cb.stored(r->arg, r->status, result);
    free_request(r);
}

static void body_stored(void *arg, int status, uint64_t holders)
{
    struct core_request *r = arg;
    struct cluster_body *b = r->body;

    wait_remove(r);
    /* An abort at the time limit ends here too: r->status says why. */
    r->status = status == MR_CANCELLED && r->status != 0 ? r->status : status;
    if (status == 0) {
        r->status = 0;
        Mailraft__Body *body = mr_malloc(sizeof(*body));
        mailraft__body__init(body);
        body->length = b->length;
        body->checksum.data = mr_memdup(b->checksum, sizeof(b->checksum));
        body->checksum.len = sizeof(b->checksum);
        body->stamp_ms = r->stamp_ms;
        body->holders = mr_calloc(64, sizeof(*body->holders));
        for (uint32_t i = 0; i < 64; i++)
            if (holders & (1ULL << i))
                body->holders[body->n_holders++] = i;
        r->result = body;
    }
    free(b);
    to_worker(r, answer_stored);
}

static void run_finish(struct mail *mail)
{
    struct core_request *r = of(mail);
    struct cluster *c = r->c;
    struct cluster_body *b = r->body;
    uint8_t *data = r->data;

    r->data = NULL;
    if (c->bodies == NULL || c->closing) {
        free(data);
        body_stored(r, MR_CANCELLED, 0);
        return;
    }
    begin_put(c, b);
    r->stamp_ms = body_put_stamp(b->put);
    r->deadline_ns = core_now(c) + c->config.commit_timeout_ms * MR_NS_PER_MS;
    wait_add(r);
    bodies_finish(b->put, data, r->len, b->length, b->checksum, body_stored, r);
}

void cluster_body_finish(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                         void (*done)(void *arg, int status, Mailraft__Body *body), void *arg)
{
    struct core_request *r = new_request(b->port->c, b->port, arg);
    r->body = b;
    r->data = data;
    r->len = len;
    r->cb.stored = done;
    b->length = length;
    memcpy(b->checksum, checksum, sizeof(b->checksum));
    to_core(r, run_finish);
}

static void run_abort(struct mail *mail)
{
    struct core_request *r = of(mail);
    if (r->body->put != NULL && !r->c->closing)
        bodies_abort(r->body->put);
    free(r->body);
    free_request(r);
}

void cluster_body_abort(struct cluster_body *b)
{
    struct core_request *r = new_request(b->port->c, b->port, NULL);
    r->body = b;
    to_core(r, run_abort);
}

/* ---- submissions ---- */

static void answer_decided(struct mail *mail)
{
    struct core_request *r = of(mail);
    if (r->dotted && r->port != NULL)
        journal_done(r->port->journal, r->id, r->delivery, r->attempt);
    if (r->cb.decided != NULL)
        r->cb.decided(r->arg, r->status, r->reason);
    free_request(r);
}

static void submit_answer(struct core_request *r, int status, enum apply_result reason)
{
    wait_remove(r);
    r->status = status;
    r->reason = reason;
    to_worker(r, answer_decided);
}

static void submitted(void *arg, int status, enum apply_result reason)
{
    struct core_request *r = arg;
    if (r->cancelling)
        return; /* forgotten in favour of its cancel */
    if (status != 0)
        submit_answer(r, MR_NOQUORUM, APPLIED);
    else if (reason == APPLIED || reason == APPLY_DUPLICATE)
        submit_answer(r, 0, reason);
    else
        submit_answer(r, MR_REFUSED, reason);
}

static void cancelled(void *arg, int status, enum apply_result reason)
{
    struct core_request *r = arg;
    if (r->answered) { /* the client has its 451 since long */
        free_request(r);
        return;
    }
    /* The message was committed before: 250 after all. */
    if (status == 0 && (reason == APPLY_DUPLICATE || reason == APPLY_TERMINAL))
        submit_answer(r, 0, reason);
    else
        submit_answer(r, MR_TIMEOUT, APPLIED);
}

/* Time is up. patience_ns: how long the client may still wait for the fate of the cancel. False: it is answered, r is
 * no longer ours. */
static bool cancel_submission(struct core_request *r, uint64_t now, uint64_t patience_ns)
{
    struct cluster *c = r->c;
    Mailraft__Cancel *cancel = mr_malloc(sizeof(*cancel));
    mailraft__cancel__init(cancel);
    cancel->id.data = mr_memdup(r->id.bytes, MR_ID_SIZE);
    cancel->id.len = MR_ID_SIZE;
    cancel->stamp_ms = r->stamp_ms;
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = MAILRAFT__OP__KIND_CANCEL;
    op->cancel = cancel;
    r->cancelling = true;
    proposals_forget(c->proposals, r->request);
    if (proposals_add(c->proposals, op, now, now + STATE_GRACE_MS * MR_NS_PER_MS, cancelled, r, &r->request) != 0) {
        mailraft__op__free_unpacked(op, NULL);
        submit_answer(r, MR_TIMEOUT, APPLIED);
        return false;
    }
    r->deadline_ns = now + patience_ns;
    return true;
}

/* The client is answered now; the cancel goes on by itself. */
static void answer_early(struct core_request *r, int status)
{
    struct core_request *answer = new_request(r->c, r->port, r->arg);
    answer->cb = r->cb;
    wait_remove(r);
    r->answered = true;
    submit_answer(answer, status, APPLIED);
}

static void run_submit(struct mail *mail)
{
    struct core_request *r = of(mail);
    struct cluster *c = r->c;
    uint64_t now = core_now(c);
    Mailraft__Op *op = r->op;

    if (!c->lease_held || c->closing) {
        submit_answer(r, MR_NOQUORUM, APPLIED);
        return;
    }
    if (proposals_waiting(c->proposals) >= CORE_MAX_SUBMITS) {
        submit_answer(r, MR_BUSY, APPLIED);
        return;
    }
    op->enqueue->acceptor = c->self;
    if (op->enqueue->body != NULL)
        r->stamp_ms = op->enqueue->body->stamp_ms;
    r->deadline_ns = now + c->config.commit_timeout_ms * MR_NS_PER_MS;
    wait_add(r);
    r->op = NULL;
    if (proposals_add(c->proposals, op, now, UINT64_MAX, submitted, r, &r->request) != 0) {
        mailraft__op__free_unpacked(op, NULL);
        submit_answer(r, MR_BUSY, APPLIED);
    }
}

void cluster_submit(struct cluster_port *p, Mailraft__Enqueue *message,
                    void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    struct core_request *r = new_request(p->c, p, arg);
    mr_assert(mr_id_from_bytes(message->id.data, message->id.len, &r->id) == 0);
    r->op = mr_malloc(sizeof(*r->op));
    mailraft__op__init(r->op);
    r->op->kind_case = MAILRAFT__OP__KIND_ENQUEUE;
    r->op->enqueue = message;
    r->cb.decided = done;
    to_core(r, run_submit);
}

/* ---- time limits, silent workers ---- */

static void expire(struct core_request *r, uint64_t now, bool no_quorum)
{
    if (r->body != NULL) { /* a body without a majority */
        if (r->status == 0) {
            r->status = no_quorum ? MR_NOQUORUM : MR_TIMEOUT;
            bodies_abort(r->body->put);
        }
    } else if (no_quorum) {
        if (r->cancelling || cancel_submission(r, now, 0))
            answer_early(r, MR_NOQUORUM);
    } else if (r->cancelling) {
        answer_early(r, MR_TIMEOUT);
    } else {
        (void)cancel_submission(r, now, CORE_CANCEL_MS * MR_NS_PER_MS);
    }
}

static void watch_workers(struct cluster *c, uint64_t now)
{
    enum { SURE_MS = 1000 }; /* after a pause of the whole process the workers need a moment to say that they live */
    uint64_t cap = UINT64_MAX;
    for (unsigned i = 0; i < c->n_ports; i++) {
        uint64_t beat = atomic_load(&c->ports[i]->beat_ns);
        if (beat != 0 && !c->ports[i]->detached && now > beat && now - beat > CORE_WORKER_SILENT_MS * MR_NS_PER_MS &&
            beat + CORE_WORKER_SILENT_MS * MR_NS_PER_MS < cap)
            cap = beat + CORE_WORKER_SILENT_MS * MR_NS_PER_MS;
    }
    node_lease_cap(&c->lease, cap);
    if (cap == UINT64_MAX) {
        c->hung_since_ns = 0;
        c->hung = false;
    } else if (c->hung_since_ns == 0) {
        c->hung_since_ns = now;
    } else if (!c->hung && now - c->hung_since_ns > SURE_MS * MR_NS_PER_MS) {
        /* A healthy core would keep this node's assignments here for ever: it goes silent, so that others get them, and
         * comes back as a new incarnation when all workers live. */
        log_event(LOG_ERROR, "worker_hangs", LOG_N("silent_ms", (now - cap) / MR_NS_PER_MS + CORE_WORKER_SILENT_MS));
        c->hung = true;
    }
    if (c->hung && c->lead.leading && now - c->hung_since_ns > SURE_MS * MR_NS_PER_MS) {
        c->hung_since_ns = now;
        (void)replica_transfer(c->replica, 0, NULL, NULL);
    }
}

void core_port_tick(struct cluster *c, uint64_t now)
{
    bool no_quorum =
        !c->lease_held && c->lease_lost_ns != 0 && now - c->lease_lost_ns > CORE_NOQUORUM_GRACE_MS * MR_NS_PER_MS;
    watch_workers(c, now);
    for (struct core_request *r = c->waiting, *next; r != NULL; r = next) {
        next = r->next;
        if (no_quorum || now >= r->deadline_ns)
            expire(r, now, no_quorum);
    }
}

/* ---- attempts ---- */

void cluster_dot(struct cluster_port *p, struct attempt *a)
{
    a->dotted = true;
    journal_dot(p->journal, a->id, a->delivery, a->attempt);
}

bool cluster_may_send(const struct cluster_port *p, const struct attempt *a)
{
    uint64_t now = mr_boot_ns(p->c->clock);
    return now < atomic_load(&p->c->lease_end_ns) && now < a->deadline_ns && a->incarnation == p->c->incarnation;
}

/* An outcome must fit into one entry with room to spare: long replies of many recipients are cut. */
static void shorten(Mailraft__Outcome *o)
{
    enum { FITS = 40 * 1024, SHORT_REPLY = 120 };
    size_t most = SHORT_REPLY;
    for (bool shorter = true; shorter && mailraft__outcome__get_packed_size(o) > FITS; most /= 2) {
        shorter = most > 0;
        for (size_t i = 0; i < o->n_results; i++)
            if (o->results[i]->reply.len > most)
                o->results[i]->reply.len = most;
    }
}

void core_outcome_drop_dsn(Mailraft__Outcome *o)
{
    enum { AGAIN_MS = 60 * 1000 };
    mailraft__enqueue__free_unpacked(o->dsn, NULL);
    o->dsn = NULL;
    for (size_t i = 0; i < o->n_results; i++)
        if (o->results[i]->result == MAILRAFT__RESULT__FAILED)
            o->results[i]->result = MAILRAFT__RESULT__DEFERRED;
    if (o->retry_for_ms == 0)
        o->retry_for_ms = AGAIN_MS;
}

static Mailraft__Outcome *make_fallback(const Mailraft__Outcome *o)
{
    size_t size = mailraft__outcome__get_packed_size(o);
    uint8_t *packed = mr_malloc(size);
    mailraft__outcome__pack(o, packed);
    Mailraft__Outcome *copy = mailraft__outcome__unpack(NULL, size, packed);
    free(packed);
    mr_assert(copy != NULL);
    core_outcome_drop_dsn(copy);
    return copy;
}

static void propose_ending(struct core_request *r);

static Mailraft__Op *new_op(Mailraft__Op__KindCase kind)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = kind;
    return op;
}

static void set_id(ProtobufCBinaryData *field, struct mr_id id)
{
    free(field->data);
    field->data = mr_memdup(id.bytes, MR_ID_SIZE);
    field->len = MR_ID_SIZE;
}

static Mailraft__Release *new_release(struct mr_id id, uint32_t delivery, uint32_t attempt, const char *reason)
{
    Mailraft__Release *release = mr_malloc(sizeof(*release));
    mailraft__release__init(release);
    set_id(&release->id, id);
    release->delivery = delivery;
    release->attempt = attempt;
    release->reason = mr_strdup(reason);
    return release;
}

/* A refused operation with a DSN changed nothing: an outcome is said again without it (7.2), a notice is given back;
 * else the delivery or notice would stay this node's for ever. If it was refused because it is done with already, the
 * second one is refused too. */
static bool say_otherwise(struct core_request *r, enum apply_result reason)
{
    if (r->fallback != NULL) {
        r->op = new_op(MAILRAFT__OP__KIND_OUTCOME);
        r->op->outcome = r->fallback;
        r->fallback = NULL;
    } else if (r->notice && !r->releasing) {
        r->op = new_op(MAILRAFT__OP__KIND_RELEASE);
        r->op->release = new_release(r->id, STATE_RELEASE_NOTICE, r->attempt, apply_result_text(reason));
        r->op->release->node = r->c->self;
        r->releasing = true;
        r->reason = reason;
    } else {
        return false;
    }
    return true;
}

static void ended(void *arg, int status, enum apply_result reason)
{
    struct core_request *r = arg;
    if (status == 0 && reason != APPLIED && say_otherwise(r, reason)) {
        propose_ending(r);
        return;
    }
    core_attempts_end(r->c, r->id, r->delivery, r->attempt, r->notice);
    r->status = status;
    if (!r->releasing)
        r->reason = reason;
    if (status == MR_CANCELLED)
        r->dotted = false; /* closing: the journal keeps it */
    to_worker(r, answer_decided);
}

/* Bounded by the attempts that run; submissions leave them room (CORE_MAX_SUBMITS). */
static void propose_ending(struct core_request *r)
{
    Mailraft__Op *op = r->op;
    r->op = NULL;
    mr_assert(proposals_add(r->c->proposals, op, core_now(r->c), UINT64_MAX, ended, r, NULL) == 0);
}

static void run_ending(struct mail *mail)
{
    struct core_request *r = of(mail);
    if (r->op->kind_case == MAILRAFT__OP__KIND_OUTCOME) {
        r->op->outcome->node = r->c->self;
        if (r->op->outcome->dsn != NULL)
            r->op->outcome->dsn->acceptor = r->c->self;
        if (r->fallback != NULL)
            r->fallback->node = r->c->self;
    } else if (r->op->kind_case == MAILRAFT__OP__KIND_NOTICE) {
        r->op->notice->node = r->c->self;
        if (r->op->notice->dsn != NULL)
            r->op->notice->dsn->acceptor = r->c->self;
    } else {
        r->op->release->node = r->c->self;
    }
    propose_ending(r);
}

static struct core_request *ending_request(struct cluster_port *p, struct mr_id id, uint32_t delivery, uint32_t attempt,
                                           Mailraft__Op__KindCase kind, void *arg)
{
    struct core_request *r = new_request(p->c, p, arg);
    r->id = id;
    r->delivery = delivery;
    r->attempt = attempt;
    r->op = new_op(kind);
    return r;
}

void cluster_outcome(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome,
                     void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    struct core_request *r = ending_request(p, a->id, a->delivery, a->attempt, MAILRAFT__OP__KIND_OUTCOME, arg);
    set_id(&outcome->id, a->id);
    outcome->delivery = a->delivery;
    outcome->attempt = a->attempt;
    outcome->node = p->c->self;
    shorten(outcome);
    r->op->outcome = outcome;
    r->cb.decided = done;
    r->dotted = a->dotted;
    if (outcome->dsn != NULL)
        r->fallback = make_fallback(outcome);
    if (a->dotted)
        journal_reply(p->journal, outcome);
    to_core(r, run_ending);
}

static void release(struct cluster_port *p, struct mr_id id, uint32_t delivery, uint32_t attempt, bool notice,
                    bool dotted, const char *reason)
{
    struct core_request *r = ending_request(p, id, notice ? 0 : delivery, attempt, MAILRAFT__OP__KIND_RELEASE, NULL);
    r->op->release = new_release(id, notice ? STATE_RELEASE_NOTICE : delivery, attempt, reason);
    r->releasing = notice;
    r->notice = notice;
    r->dotted = dotted;
    to_core(r, run_ending);
}

void cluster_release(struct cluster_port *p, const struct attempt *a, const char *reason)
{
    release(p, a->id, a->delivery, a->attempt, false, a->dotted, reason);
}

void cluster_notice_done(struct cluster_port *p, const struct notice *n, Mailraft__Enqueue *dsn,
                         void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    struct core_request *r = ending_request(p, n->id, 0, n->attempt, MAILRAFT__OP__KIND_NOTICE, arg);
    Mailraft__Notice *op = mr_malloc(sizeof(*op));
    mailraft__notice__init(op);
    set_id(&op->id, n->id);
    op->kind = n->kind;
    op->attempt = n->attempt;
    op->n_recipients = n->n_recipients;
    op->recipients = mr_calloc(n->n_recipients, sizeof(*op->recipients));
    for (uint32_t i = 0; i < n->n_recipients; i++)
        op->recipients[i] = n->recipients[i].index;
    op->dsn = dsn;
    r->op->notice = op;
    r->notice = true;
    r->cb.decided = done;
    to_core(r, run_ending);
}

void cluster_notice_failed(struct cluster_port *p, const struct notice *n)
{
    release(p, n->id, 0, n->attempt, true, false, "notice could not be written");
}

static void run_slot_closed(struct mail *mail)
{
    struct core_request *r = of(mail);
    core_slot_closed(r->c, r->text, r->slot, r->attempts);
    free_request(r);
}

void cluster_slot_closed(struct cluster_port *p, const char *next_hop, uint32_t slot, uint64_t attempts)
{
    struct core_request *r = new_request(p->c, p, NULL);
    r->text = mr_strdup(next_hop);
    r->slot = slot;
    r->attempts = attempts;
    to_core(r, run_slot_closed);
}

/* ---- bodies out ---- */

static void answer_piece(struct mail *mail)
{
    struct core_request *r = of(mail);
    uint8_t *data = r->data;
    r->data = NULL;
    r->cb.piece(r->arg, r->status, data, r->len, r->last);
    free_request(r);
}

static void piece_read(struct body_read *req, int status, uint8_t *data, size_t len, bool last)
{
    struct core_request *r = MR_CONTAINER(req, struct core_request, read);
    r->status = status;
    r->data = data;
    r->len = len;
    r->last = last;
    to_worker(r, answer_piece);
}

static void run_read(struct mail *mail)
{
    struct core_request *r = of(mail);
    if (r->c->bodies == NULL || r->c->closing) {
        r->status = MR_CLOSED;
        to_worker(r, answer_piece);
        return;
    }
    r->read.id = r->id;
    r->read.piece = r->piece;
    r->read.cb = piece_read;
    bodies_read(r->c->bodies, &r->read);
}

static struct core_request *read_request(struct cluster *c, struct cluster_port *p, struct mr_id id, uint32_t piece,
                                         void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last),
                                         void *arg)
{
    struct core_request *r = new_request(c, p, arg);
    r->id = id;
    r->piece = piece;
    r->cb.piece = done;
    return r;
}

void cluster_body_read(struct cluster_port *p, struct mr_id id, uint32_t piece,
                       void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg)
{
    to_core(read_request(p->c, p, id, piece, done, arg), run_read);
}

int cluster_ask_body(struct cluster *c, struct mr_id id, uint32_t piece,
                     void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg)
{
    struct core_request *r = read_request(c, NULL, id, piece, done, arg);
    r->mail.run = run_read;
    int rc = mailbox_offer(c->mailbox, &r->mail);
    if (rc != 0)
        free_request(r);
    return rc;
}

/* ---- ports ---- */

struct cluster_port *cluster_attach(struct cluster *c, const struct cluster_worker *worker)
{
    mr_assert(c->n_ports < CORE_MAX_PORTS && !c->thread_started);
    struct cluster_port *p = mr_calloc(1, sizeof(*p));
    char *dir = mr_asprintf("%s/journal", c->config.data_dir);
    p->c = c;
    p->number = c->n_ports;
    p->worker = *worker;
    if (journal_open(&p->journal, worker->loop, dir, p->number, c->start_incarnation) != 0)
        mr_panic("outcome journal in %s cannot be opened", dir);
    free(dir);
    c->ports[c->n_ports++] = p;
    return p;
}

static void answer_detached(struct mail *mail)
{
    struct core_request *r = of(mail);
    struct cluster_port *p = r->port;
    journal_close(p->journal, r->cb.closed, r->arg);
    p->journal = NULL;
    free_request(r);
}

static void run_detach(struct mail *mail)
{
    struct core_request *r = of(mail);
    r->port->detached = true;
    r->mail.run = answer_detached;
    mailbox_post(r->port->worker.mailbox, &r->mail); /* the last one */
}

void cluster_detach(struct cluster_port *p, void (*cb)(void *arg), void *arg)
{
    struct core_request *r = new_request(p->c, p, arg);
    r->cb.closed = cb;
    to_core(r, run_detach);
}

void cluster_worker_beat(struct cluster_port *p)
{
    atomic_store(&p->beat_ns, mr_boot_ns(p->c->clock));
}

/* ---- news for all workers ---- */

struct news {
    struct mail mail; /* first */
    struct cluster_port *port;
    struct cluster_rules *rules;
};

static void hand_rules(struct mail *mail)
{
    struct news *n = MR_CONTAINER(mail, struct news, mail);
    n->port->worker.rules(n->port->worker.arg, n->rules);
    free(n);
}

static void hand_lease_ended(struct mail *mail)
{
    struct news *n = MR_CONTAINER(mail, struct news, mail);
    n->port->worker.lease_ended(n->port->worker.arg);
    free(n);
}

static void hand_drain(struct mail *mail)
{
    struct news *n = MR_CONTAINER(mail, struct news, mail);
    n->port->worker.drain(n->port->worker.arg);
    free(n);
}

static void tell_all(struct cluster *c, void (*run)(struct mail *mail), struct cluster_rules *rules)
{
    for (unsigned i = 0; i < c->n_ports; i++) {
        if (c->ports[i]->detached)
            continue;
        struct news *n = mr_calloc(1, sizeof(*n));
        n->port = c->ports[i];
        n->rules = rules == NULL ? NULL : cluster_rules_ref(rules);
        n->mail.run = run;
        core_port_post(n->port, &n->mail);
    }
}

void core_port_rules(struct cluster *c)
{
    const Mailraft__Rules *rules = state_rules(c->state);
    if (rules == NULL)
        return;
    size_t size = mailraft__rules__get_packed_size(rules);
    uint8_t *packed = mr_malloc(size);
    mailraft__rules__pack(rules, packed);
    struct cluster_rules *shared = mr_calloc(1, sizeof(*shared));
    shared->rules = mailraft__rules__unpack(NULL, size, packed);
    free(packed);
    mr_assert(shared->rules != NULL);
    atomic_init(&shared->references, 1);
    cluster_rules_unref(c->rules);
    c->rules = shared;
    tell_all(c, hand_rules, shared);
}

void core_port_lease_ended(struct cluster *c)
{
    tell_all(c, hand_lease_ended, NULL);
}

void core_port_drain(struct cluster *c)
{
    tell_all(c, hand_drain, NULL);
}

void core_port_free(struct cluster *c)
{
    while (c->waiting != NULL) {
        struct core_request *r = c->waiting;
        wait_remove(r);
        free_request(r);
    }
    for (unsigned i = 0; i < c->n_ports; i++)
        free(c->ports[i]);
    cluster_rules_unref(c->rules);
}
