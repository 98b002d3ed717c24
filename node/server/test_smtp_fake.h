/* test_smtp_fake.h - a cluster of one's own for the tests of the SMTP server: keeps bodies and envelopes in memory,
 * answers when told to and as told to, and checks what the contract asks of the caller.
 *
 * Everything runs on one loop in one thread: the server and the client take turns in pump(). */
#ifndef MR_SERVER_TEST_SMTP_FAKE_H
#define MR_SERVER_TEST_SMTP_FAKE_H

#include "node/server/smtp_server_internal.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct cluster_body {
    struct mr_id id;
    uint8_t *bytes;
    size_t len;
};

/* A callback that is owed. */
struct fake_call {
    struct fake_call *next;
    enum { FAKE_PIECE, FAKE_BODY, FAKE_SUBMIT } kind;
    void (*written)(void *arg, int status);
    void (*submitted)(void *arg, int status, enum apply_result reason);
    void *arg;
    Mailraft__Enqueue *message; /* of FAKE_BODY: what follows it */
    uint64_t length;
};

static struct {
    enum cluster_readiness readiness;
    unsigned version;
    bool hold[3]; /* by kind */
    int status[3];
    enum apply_result reason;
    struct fake_call *calls, **tail;
    unsigned waiting[3], most_pieces;
    unsigned begun, finished, aborted, submitted;
    uint8_t *body; /* the last one that was finished */
    size_t body_len;
    Mailraft__Enqueue *message; /* the last one that was submitted */
} fake;

static void fake_owe(struct fake_call call)
{
    struct fake_call *c = mr_memdup(&call, sizeof(call));

    c->next = NULL;
    *fake.tail = c;
    fake.tail = &c->next;
    fake.waiting[c->kind]++;
}

/* The body is stored: the envelope follows by itself. */
static void fake_submit(const struct fake_call *c)
{
    Mailraft__Body *body = mr_malloc(sizeof(*body));

    mailraft__body__init(body);
    body->length = c->length;
    c->message->body = body;
    if (fake.message != NULL)
        mailraft__enqueue__free_unpacked(fake.message, NULL);
    fake.message = c->message;
    fake.submitted++;
    fake_owe((struct fake_call){.kind = FAKE_SUBMIT, .submitted = c->submitted, .arg = c->arg});
}

static void fake_call_one(struct fake_call *c)
{
    int status = fake.status[c->kind];

    fake.waiting[c->kind]--;
    if (c->kind == FAKE_PIECE) {
        c->written(c->arg, status);
    } else if (c->kind == FAKE_SUBMIT) {
        c->submitted(c->arg, status, status == MR_REFUSED ? fake.reason : APPLIED);
    } else if (status != 0) {
        mailraft__enqueue__free_unpacked(c->message, NULL);
        c->submitted(c->arg, status, APPLIED);
    } else {
        fake_submit(c);
    }
    free(c);
}

/* Answers what is owed now and not held. */
static void fake_answer(void)
{
    struct fake_call *all = fake.calls;

    fake.calls = NULL;
    fake.tail = &fake.calls;
    while (all != NULL) {
        struct fake_call *c = all;

        all = all->next;
        if (fake.hold[c->kind]) {
            c->next = NULL;
            *fake.tail = c;
            fake.tail = &c->next;
        } else {
            fake_call_one(c);
        }
    }
}

static enum cluster_readiness fake_readiness(const struct cluster *c)
{
    (void)c;
    return fake.readiness;
}

static unsigned fake_version(const struct cluster *c)
{
    (void)c;
    return fake.version;
}

static struct cluster_body *fake_begin(struct cluster_port *p, struct mr_id id)
{
    struct cluster_body *b = mr_calloc(1, sizeof(*b));

    (void)p;
    assert_false(mr_id_is_zero(id));
    b->id = id;
    fake.begun++;
    return b;
}

static void fake_append(struct cluster_body *b, uint8_t *data, size_t len)
{
    assert_true(len > 0 && len <= 256 << 10);
    b->bytes = mr_realloc(b->bytes, b->len + len);
    memcpy(b->bytes + b->len, data, len);
    b->len += len;
    free(data);
}

static void fake_piece(struct cluster_body *b, uint8_t *data, size_t len, void (*written)(void *arg, int status),
                       void *arg)
{
    fake_append(b, data, len);
    fake_owe((struct fake_call){.kind = FAKE_PIECE, .written = written, .arg = arg});
    if (fake.waiting[FAKE_PIECE] > fake.most_pieces)
        fake.most_pieces = fake.waiting[FAKE_PIECE];
}

static void fake_body_submit(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length,
                             const uint8_t checksum[16], Mailraft__Enqueue *message,
                             void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    XXH128_canonical_t own;

    fake_append(b, data, len);
    assert_int_equal(b->len, length);
    XXH128_canonicalFromHash(&own, XXH3_128bits(b->bytes, b->len));
    assert_memory_equal(own.digest, checksum, 16);
    assert_null(message->body);
    assert_int_equal(message->id.len, sizeof(b->id.bytes));
    assert_memory_equal(message->id.data, b->id.bytes, sizeof(b->id.bytes));
    fake_owe(
        (struct fake_call){.kind = FAKE_BODY, .submitted = done, .arg = arg, .message = message, .length = length});
    free(fake.body);
    fake.body = b->bytes;
    fake.body_len = b->len;
    fake.finished++;
    free(b);
}

static void fake_abort(struct cluster_body *b)
{
    fake.aborted++;
    free(b->bytes);
    free(b);
}

static const struct smtp_cluster_ops fake_ops = {
    .readiness = fake_readiness,
    .version = fake_version,
    .body_begin = fake_begin,
    .body_piece = fake_piece,
    .body_abort = fake_abort,
    .body_submit = fake_body_submit,
};

static void fake_reset(void)
{
    assert_null(fake.calls);
    free(fake.body);
    if (fake.message != NULL)
        mailraft__enqueue__free_unpacked(fake.message, NULL);
    memset(&fake, 0, sizeof(fake));
    fake.version = 2;
    fake.tail = &fake.calls;
}

#endif
