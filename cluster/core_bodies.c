/* Bodies between workers and the body plane: pieces in until a majority has the whole, pieces out. */
#include "cluster/core_request.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

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
    struct core_request *r = core_request_of(mail);
    r->cb.written(r->arg, r->status);
    core_request_free(r);
}

static void piece_written(void *arg, int status)
{
    struct core_request *r = arg;
    r->status = status;
    core_request_to_worker(r, answer_written);
}

static void begin_put(struct cluster *c, struct cluster_body *b)
{
    if (b->put == NULL)
        b->put = bodies_begin(c->bodies, b->id);
}

static void run_piece(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    if (r->c->bodies == NULL || r->c->closing) {
        r->status = MR_CANCELLED;
        core_request_to_worker(r, answer_written);
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
    struct core_request *r = core_request_new(b->port->c, b->port, arg);
    r->body = b;
    r->data = data;
    r->len = len;
    r->cb.written = written;
    core_request_to_core(r, run_piece);
}

static void answer_stored(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    Mailraft__Body *result = r->result;
    r->result = NULL;
    r->cb.stored(r->arg, r->status, result);
    core_request_free(r);
}

/* The envelope's part of a body, in protobuf-c's default allocator. */
static Mailraft__Body *stored_body(const struct core_request *r, uint64_t holders)
{
    Mailraft__Body *body = mr_malloc(sizeof(*body));
    mailraft__body__init(body);
    body->length = r->body->length;
    body->checksum.data = mr_memdup(r->body->checksum, sizeof(r->body->checksum));
    body->checksum.len = sizeof(r->body->checksum);
    body->stamp_ms = r->stamp_ms;
    body->holders = mr_calloc((size_t)__builtin_popcountll(holders), sizeof(*body->holders));
    for (uint32_t i = 0; i < 64; i++)
        if (holders & (1ULL << i))
            body->holders[body->n_holders++] = i;
    return body;
}

/* From here on there is only the message. */
static int body_over(struct core_request *r, int status)
{
    core_request_unwait(r);
    free(r->body);
    r->body = NULL;
    /* An abort at the time limit ends here too: r->status says why. */
    if (status == MR_CANCELLED && r->status != 0)
        status = r->status;
    r->status = status;
    return status;
}

static void body_stored(void *arg, int status, uint64_t holders)
{
    struct core_request *r = arg;

    if (status == 0)
        r->result = stored_body(r, holders);
    (void)body_over(r, status);
    core_request_to_worker(r, answer_stored);
}

static void body_stored_for_submit(void *arg, int status, uint64_t holders)
{
    struct core_request *r = arg;

    if (status == 0)
        r->op->enqueue->body = stored_body(r, holders);
    status = body_over(r, status);
    if (status == 0)
        core_submit_propose(r);
    else
        core_submit_answer(r, status, APPLIED);
}

static void finish_put(struct core_request *r, body_put_cb stored)
{
    struct cluster *c = r->c;
    struct cluster_body *b = r->body;
    uint8_t *data = r->data;

    r->data = NULL;
    if (c->bodies == NULL || c->closing) {
        free(data);
        stored(r, MR_CANCELLED, 0);
        return;
    }
    begin_put(c, b);
    r->deadline_ns = core_now(c) + c->config.commit_timeout_ms * MR_NS_PER_MS;
    core_request_wait(r);
    bodies_finish(b->put, data, r->len, b->length, b->checksum, stored, r);
    r->stamp_ms = body_put_stamp(b->put); /* the last piece's (3.4); stored comes later */
}

static void run_finish(struct mail *mail)
{
    finish_put(core_request_of(mail), body_stored);
}

static void run_finish_and_submit(struct mail *mail)
{
    finish_put(core_request_of(mail), body_stored_for_submit);
}

static struct core_request *finish_request(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length,
                                           const uint8_t checksum[16], void *arg)
{
    struct core_request *r = core_request_new(b->port->c, b->port, arg);
    r->body = b;
    r->data = data;
    r->len = len;
    b->length = length;
    memcpy(b->checksum, checksum, sizeof(b->checksum));
    return r;
}

void cluster_body_finish(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                         void (*done)(void *arg, int status, Mailraft__Body *body), void *arg)
{
    struct core_request *r = finish_request(b, data, len, length, checksum, arg);
    r->cb.stored = done;
    core_request_to_core(r, run_finish);
}

void cluster_body_submit(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                         Mailraft__Enqueue *message, void (*done)(void *arg, int status, enum apply_result reason),
                         void *arg)
{
    struct core_request *r = finish_request(b, data, len, length, checksum, arg);
    mr_assert(message->body == NULL && mr_id_from_bytes(message->id.data, message->id.len, &r->id) == 0);
    mr_assert(mr_id_equal(r->id, b->id));
    r->op = mr_malloc(sizeof(*r->op));
    mailraft__op__init(r->op);
    r->op->kind_case = MAILRAFT__OP__KIND_ENQUEUE;
    r->op->enqueue = message;
    r->cb.decided = done;
    core_request_to_core(r, run_finish_and_submit);
}

static void run_abort(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    if (r->body->put != NULL && !r->c->closing)
        bodies_abort(r->body->put);
    free(r->body);
    core_request_free(r);
}

void cluster_body_abort(struct cluster_body *b)
{
    struct core_request *r = core_request_new(b->port->c, b->port, NULL);
    r->body = b;
    core_request_to_core(r, run_abort);
}

/* ---- bodies out ---- */

static void answer_piece(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    uint8_t *data = r->data;
    r->data = NULL;
    r->cb.piece(r->arg, r->status, data, r->len, r->last);
    core_request_free(r);
}

static void piece_read(struct body_read *req, int status, uint8_t *data, size_t len, bool last)
{
    struct core_request *r = MR_CONTAINER(req, struct core_request, read);
    r->status = status;
    r->data = data;
    r->len = len;
    r->last = last;
    core_request_to_worker(r, answer_piece);
}

static void run_read(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    if (r->c->bodies == NULL || r->c->closing) {
        r->status = MR_CLOSED;
        core_request_to_worker(r, answer_piece);
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
    struct core_request *r = core_request_new(c, p, arg);
    r->id = id;
    r->piece = piece;
    r->cb.piece = done;
    return r;
}

void cluster_body_read(struct cluster_port *p, struct mr_id id, uint32_t piece,
                       void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg)
{
    core_request_to_core(read_request(p->c, p, id, piece, done, arg), run_read);
}

int cluster_ask_body(struct cluster *c, struct mr_id id, uint32_t piece,
                     void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg)
{
    struct core_request *r = read_request(c, NULL, id, piece, done, arg);
    r->mail.run = run_read;
    int rc = mailbox_offer(c->mailbox, &r->mail);
    if (rc != 0)
        core_request_free(r);
    return rc;
}
