/* fuzz_smtp_session.c - any octets to a session: commands, DATA and chunks, in pieces cut anywhere.
 *
 * A session without a connection is fed by the stream's way in; its replies are taken from the server's buffer before
 * they would be written, and the cluster answers at once. Fed in pieces it must say and store what it says and stores
 * fed whole (X1, T3), but for pipelining: what is improper depends on what is there already, so that inputs in which
 * that was refused are only looked at for faults. The first octets say how the input is cut. */
#include "node/server/smtp_session_internal.h"

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUTS = 8, MOST = 64 << 10 };

/* ---- the cluster ---- */

struct cluster_body {
    size_t begin; /* in world.bodies */
};

/* What one run came to, and the callbacks that it owes. */
static struct {
    char replies[MOST];
    uint8_t bodies[MOST * 4];
    size_t replies_len, bodies_len, messages;
    void (*submitted)(void *arg, int status, enum apply_result reason);
    void *submitted_arg;
} world;

static enum cluster_readiness readiness(const struct cluster *c)
{
    (void)c;
    return CLUSTER_READY;
}

static unsigned version(const struct cluster *c)
{
    (void)c;
    return 2;
}

static struct cluster_body *body_begin(struct cluster_port *p, struct mr_id id)
{
    struct cluster_body *b = mr_malloc(sizeof(*b));

    (void)p;
    (void)id;
    b->begin = world.bodies_len;
    return b;
}

/* Inputs are smaller than a first piece. */
static void body_piece(struct cluster_body *b, uint8_t *data, size_t len, void (*written)(void *arg, int status),
                       void *arg)
{
    (void)b;
    (void)data;
    (void)len;
    (void)written;
    (void)arg;
    mr_assert(false);
}

static void body_submit(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                        Mailraft__Enqueue *message, void (*done)(void *arg, int status, enum apply_result reason),
                        void *arg)
{
    static const char date[] = "+0000\r\n";
    const uint8_t *text = memmem(data, len, date, sizeof(date) - 1);

    (void)checksum;
    mr_assert(length == len && text != NULL);
    text += sizeof(date) - 1; /* our own field has an id and a time */
    len -= (size_t)(text - data);
    mr_assert(world.bodies_len + len <= sizeof(world.bodies));
    memcpy(world.bodies + world.bodies_len, text, len);
    world.bodies_len += len;
    mr_assert(message->n_recipients > 0 && world.submitted == NULL);
    world.messages++;
    mailraft__enqueue__free_unpacked(message, NULL);
    world.submitted = done;
    world.submitted_arg = arg;
    free(data);
    free(b);
}

static void body_abort(struct cluster_body *b)
{
    free(b);
}

static const struct smtp_cluster_ops ops = {
    .readiness = readiness,
    .version = version,
    .body_begin = body_begin,
    .body_piece = body_piece,
    .body_abort = body_abort,
    .body_submit = body_submit,
};

/* ---- the node ---- */

static struct worker worker;
static struct config config;
static struct cluster_counters counters;
static struct cluster_rules rules;
static struct smtp_server server;
static struct smtp_session session;
static struct network everybody[] = {{AF_INET, {0}, 0}};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static Mailraft__Route local = MAILRAFT__ROUTE__INIT;
    static Mailraft__Route *routes[] = {&local};
    static Mailraft__Rules all = MAILRAFT__RULES__INIT;

    (void)argc;
    (void)argv;
    log_configure(LOG_ERROR, false, "fuzz");
    local.domain = (char *)"default";
    local.route = (char *)"mx";
    local.local = 1;
    all.routes = routes;
    all.n_routes = 1;
    rules.rules = &all;
    config.smtp.hostname = (char *)"mx1.example.net";
    config.smtp.min_deliver_by_ms = 60000;
    worker.config = &config;
    worker.counters = &counters;
    worker.rules = &rules;
    mr_assert(uv_loop_init(&worker.loop) == 0);
    server.worker = &worker;
    server.ops = &ops;
    server.limits = (struct smtp_limits){.message_size = 2000,
                                         .recipients = 3,
                                         .sessions = 10,
                                         .errors = 30,
                                         .hops = 3,
                                         .transactions = 20,
                                         .junk = 40,
                                         .idle_ms = 1000000,
                                         .data_ms = 1000000,
                                         .session_ms = 1000000};
    return 0;
}

/* ---- a run ---- */

/* Replies go no further than here: the ids in them are not the same twice. */
static void take_replies(void)
{
    static const char queued[] = "queued as ";
    char *at;

    mr_assert(world.replies_len + server.out_len < sizeof(world.replies));
    memcpy(world.replies + world.replies_len, server.out, server.out_len);
    world.replies[world.replies_len + server.out_len] = '\0';
    for (at = world.replies + world.replies_len; (at = strstr(at, queued)) != NULL; at += sizeof(queued))
        memset(at + sizeof(queued) - 1, 'x', MR_ID_TEXT);
    world.replies_len += server.out_len;
    server.out_len = 0;
}

/* The cluster's answers, while one is awaited. The session goes on by itself with what it has kept; it is held back
 * from writing, as there is nothing to write to. */
static void answer(void)
{
    while (world.submitted != NULL) {
        void (*submitted)(void *arg, int status, enum apply_result reason) = world.submitted;

        world.submitted = NULL;
        session.writing = true; /* answer queues its reply behind what is being written */
        submitted(world.submitted_arg, 0, APPLIED);
        session.writing = false;
        if (session.queued.bytes != NULL) {
            memcpy(server.out, session.queued.bytes, session.queued.len);
            server.out_len = session.queued.len;
            free(session.queued.bytes);
            session.queued.bytes = NULL;
        }
        take_replies();
        if (session.in.len > 0 && smtp_stream_can_consume(&session))
            smtp_stream_consume_kept(&session);
        take_replies();
    }
}

static void begin(unsigned how)
{
    world.replies[0] = '\0';
    world.bodies_len = world.messages = world.replies_len = 0;
    world.submitted = NULL;
    memset(&session, 0, sizeof(session));
    session.server = &server;
    session.state = SMTP_GREETED;
    session.profile = how & 1 ? PROFILE_SUBMISSION : PROFILE_MX;
    session.relay = true;
    session.lmtp = (how & 2) != 0;
    session.address.v4.sin_family = AF_INET;
    config.smtp.normalize_from = (struct network_list){everybody, how & 4 ? 1 : 0};
    session.timer_ms = 0; /* never moved: it would ring in time */
    session.reading = true;
    session.id = smtp_server_enter(&server, &session);
    snprintf(session.client.address, sizeof(session.client.address), "192.0.2.1");
}

static void end(void)
{
    if (session.transaction != NULL)
        smtp_transaction_drop(session.transaction);
    smtp_stream_free(&session);
    smtp_server_leave(&server, session.id);
    mr_assert(server.n_transactions == 0 && world.submitted == NULL);
}

static void run(const uint8_t *in, size_t len, const uint8_t *cuts, unsigned how)
{
    unsigned turn = 0;

    begin(how);
    while (len > 0 && session.state != SMTP_CLOSING) {
        size_t n = cuts != NULL && cuts[turn % CUTS] > 0 ? cuts[turn % CUTS] : len;

        turn++;
        n = n < len ? n : len;
        smtp_stream_take(&session, in, n);
        take_replies();
        answer();
        in += n;
        len -= n;
    }
    end();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char replies[MOST];
    static uint8_t bodies[sizeof(world.bodies)];
    size_t replies_len, bodies_len, messages;
    unsigned how;

    if (size < CUTS + 1 || size > 2048)
        return 0;
    how = data[CUTS];
    run(data + CUTS + 1, size - CUTS - 1, NULL, how);
    replies_len = world.replies_len;
    bodies_len = world.bodies_len;
    messages = world.messages;
    memcpy(replies, world.replies, replies_len + 1);
    memcpy(bodies, world.bodies, bodies_len);
    run(data + CUTS + 1, size - CUTS - 1, data, how);
    if (memmem(replies, replies_len, "503 5.5.0", 9) != NULL)
        return 0;
    mr_assert(replies_len == world.replies_len && memcmp(replies, world.replies, replies_len) == 0);
    mr_assert(messages == world.messages && bodies_len == world.bodies_len);
    mr_assert(memcmp(bodies, world.bodies, bodies_len) == 0);
    return 0;
}
