/* test_delivery_fake.h - a core for the tests of the delivery side, and the whole with the next hop of
 * test_delivery_hop.h. The core keeps bodies in memory, writes down every outcome, release and closed slot, and checks
 * what the contract asks of the caller (D1 to D4). Delivery, server and DNS take turns on one thread; waits are for
 * conditions. */
#ifndef MR_DELIVERY_TEST_DELIVERY_FAKE_H
#define MR_DELIVERY_TEST_DELIVERY_FAKE_H

#include "node/delivery/delivery_internal.h"
#include "node/delivery/test_delivery_hop.h"
#include "node/dns/test_dns_server.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MOST_TOLD = 64 };

/* ---- the core ---- */

struct cluster_body {
    uint8_t *bytes;
    size_t len;
};

struct told {
    uint32_t delivery; /* which attempt */
    bool released;
    char reason[64];
    Mailraft__Outcome *outcome;
};

struct owed {
    struct owed *next;
    enum { OWED_READ, OWED_STORED, OWED_WRITTEN } kind;
    uint32_t piece;
    void (*read)(void *arg, int status, uint8_t *data, size_t len, bool last);
    void (*stored)(void *arg, int status, Mailraft__Body *body);
    void (*written)(void *arg, int status);
    void *arg;
};

static struct {
    bool lease;
    uint64_t withdrawn; /* a bit a delivery */
    const char *body;
    size_t body_len, piece_size;
    bool along; /* the body comes with the attempt */
    int read_status, store_status, written_status;
    bool hold[3];
    struct owed *owed;
    unsigned reads, most_reads, waiting_reads;
    struct told told[MOST_TOLD];
    unsigned n_told, dots, aborted;
    Mailraft__Outcome *reply; /* a copy of the last that was journalled ahead of its outcome */
    unsigned n_replies;
    struct {
        uint32_t slot;
        uint64_t attempts;
        unsigned server_open;
    } closed[MOST_TOLD];
    unsigned n_closed;
    uint8_t *stored; /* the last body that was finished */
    size_t stored_len;
    Mailraft__Enqueue *notice_dsn;
    unsigned notices_done, notices_failed;
    Mailraft__SiteMemory *remembered; /* the last */
    unsigned n_remembered;
} core;

static inline bool fake_withdrawn(const struct attempt *a)
{
    return (core.withdrawn >> a->delivery & 1) != 0;
}

static inline bool fake_may_send(const struct cluster_port *p, const struct attempt *a)
{
    (void)p;
    return core.lease && !fake_withdrawn(a) && mr_boot_ns(&mr_clock_real) < a->deadline_ns;
}

static inline void fake_dot(struct cluster_port *p, struct attempt *a)
{
    (void)p;
    assert_true(core.lease);
    assert_false(a->dotted);
    assert_true(server.messages <= core.dots); /* D2: not yet with the server */
    a->dotted = true;
    core.dots++;
}

static inline const struct told *told_of(uint32_t delivery)
{
    for (unsigned i = 0; i < core.n_told; i++)
        if (core.told[i].delivery == delivery)
            return &core.told[i];
    return NULL;
}

static inline struct told *tell(const struct attempt *a)
{
    assert_true(core.n_told < MOST_TOLD);
    for (unsigned i = 0; i < core.n_told; i++) /* D3 */
        assert_int_not_equal(core.told[i].delivery, a->delivery);
    struct told *t = &core.told[core.n_told++];
    t->delivery = a->delivery;
    return t;
}

static inline void fake_reply(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome)
{
    (void)p;
    assert_true(a->dotted);
    assert_null(outcome->dsn);
    assert_null(told_of(a->delivery));
    outcome->delivery = a->delivery;
    size_t size = mailraft__outcome__get_packed_size(outcome);
    uint8_t *packed = mr_malloc(size);
    mailraft__outcome__pack(outcome, packed);
    if (core.reply != NULL) {
        assert_int_not_equal(core.reply->delivery, a->delivery); /* once */
        mailraft__outcome__free_unpacked(core.reply, NULL);
    }
    core.reply = mailraft__outcome__unpack(NULL, size, packed);
    free(packed);
    core.n_replies++;
}

static inline void fake_outcome(struct cluster_port *p, const struct attempt *a, Mailraft__Outcome *outcome,
                                void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    (void)p;
    (void)arg;
    assert_null(done);
    assert_int_equal(outcome->n_results, a->n_recipients);
    bool undecided = false; /* only these may be ready again at once */
    for (size_t i = 0; i < outcome->n_results; i++)
        undecided = undecided || outcome->results[i]->result == MAILRAFT__RESULT__RESULT_NONE;
    assert_true(outcome->retry_for_ms > 0 || undecided);
    tell(a)->outcome = outcome;
}

static inline void fake_release(struct cluster_port *p, const struct attempt *a, const char *reason)
{
    (void)p;
    assert_false(a->dotted);
    struct told *t = tell(a);
    t->released = true;
    (void)snprintf(t->reason, sizeof(t->reason), "%s", reason);
}

static inline void fake_remember(struct cluster_port *p, Mailraft__SiteMemory *memory)
{
    (void)p;
    if (core.remembered != NULL)
        mailraft__site_memory__free_unpacked(core.remembered, NULL);
    core.remembered = memory;
    core.n_remembered++;
}

static inline void fake_slot_closed(struct cluster_port *p, const char *next_hop, uint32_t slot, uint64_t attempts)
{
    (void)p;
    assert_true(next_hop[0] != 0 && attempts > 0);
    assert_true(core.n_closed < MOST_TOLD);
    core.closed[core.n_closed].slot = slot;
    core.closed[core.n_closed++].attempts = attempts;
}

static inline void owe(struct owed what)
{
    struct owed **end = &core.owed;
    while (*end != NULL)
        end = &(*end)->next;
    *end = mr_memdup(&what, sizeof(what));
}

static inline void fake_body_read(struct cluster_port *p, struct mr_id id, uint32_t piece,
                                  void (*done)(void *arg, int status, uint8_t *data, size_t len, bool last), void *arg)
{
    (void)p;
    (void)id;
    core.reads++;
    if (++core.waiting_reads > core.most_reads)
        core.most_reads = core.waiting_reads;
    owe((struct owed){.kind = OWED_READ, .piece = piece, .read = done, .arg = arg});
}

static inline struct cluster_body *fake_body_begin(struct cluster_port *p, struct mr_id id)
{
    (void)p;
    assert_false(mr_id_is_zero(id));
    return mr_calloc(1, sizeof(struct cluster_body));
}

static inline void append(struct cluster_body *b, uint8_t *data, size_t len)
{
    assert_true(len > 0 && len <= 256 * 1024);
    b->bytes = mr_realloc(b->bytes, b->len + len);
    memcpy(b->bytes + b->len, data, len);
    b->len += len;
    free(data);
}

static inline void fake_body_piece(struct cluster_body *b, uint8_t *data, size_t len,
                                   void (*written)(void *arg, int status), void *arg)
{
    append(b, data, len);
    owe((struct owed){.kind = OWED_WRITTEN, .written = written, .arg = arg});
}

static inline void fake_body_abort(struct cluster_body *b)
{
    core.aborted++;
    free(b->bytes);
    free(b);
}

static inline void fake_body_finish(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length,
                                    const uint8_t checksum[16],
                                    void (*done)(void *arg, int status, Mailraft__Body *body), void *arg)
{
    XXH128_canonical_t own;
    append(b, data, len);
    assert_int_equal(b->len, length);
    XXH128_canonicalFromHash(&own, XXH3_128bits(b->bytes, b->len));
    assert_memory_equal(own.digest, checksum, 16);
    free(core.stored);
    core.stored = b->bytes;
    core.stored_len = b->len;
    free(b);
    owe((struct owed){.kind = OWED_STORED, .stored = done, .arg = arg});
}

static inline void fake_notice_done(struct cluster_port *p, const struct notice *n, Mailraft__Enqueue *dsn,
                                    void (*done)(void *arg, int status, enum apply_result reason), void *arg)
{
    (void)p;
    (void)n;
    assert_null(core.notice_dsn);
    core.notice_dsn = dsn;
    core.notices_done++;
    done(arg, 0, APPLIED);
}

static inline void fake_notice_failed(struct cluster_port *p, const struct notice *n)
{
    (void)p;
    (void)n;
    core.notices_failed++;
}

static inline void answer_read(const struct owed *o)
{
    size_t at = o->piece * core.piece_size;
    size_t len = at > core.body_len ? 0 : core.body_len - at;
    bool last = len <= core.piece_size;
    core.waiting_reads--;
    if (core.read_status != 0)
        o->read(o->arg, core.read_status, NULL, 0, false);
    else
        o->read(o->arg, 0, mr_memdup(core.body + (len > 0 ? at : 0), last ? len : core.piece_size),
                last ? len : core.piece_size, last);
}

static inline void answer(const struct owed *o)
{
    if (o->kind == OWED_READ) {
        answer_read(o);
    } else if (o->kind == OWED_WRITTEN) {
        o->written(o->arg, core.written_status);
    } else {
        Mailraft__Body *body = NULL;
        if (core.store_status == 0) {
            body = mr_malloc(sizeof(*body));
            mailraft__body__init(body);
        }
        o->stored(o->arg, core.store_status, body);
    }
}

static inline void core_turn(void)
{
    struct owed *all = core.owed, **end = &core.owed;
    core.owed = NULL;
    while (all != NULL) {
        struct owed *o = all;
        all = o->next;
        o->next = NULL;
        if (core.hold[o->kind]) {
            *end = o;
            end = &o->next;
            continue;
        }
        answer(o);
        free(o);
        while (*end != NULL)
            end = &(*end)->next;
    }
}

/* ---- the whole ---- */

static struct {
    struct worker worker;
    struct config config;
    struct cluster_counters counters;
    struct cluster_rules rules;
    Mailraft__Rules in_force;
    Mailraft__Limit limit;
    Mailraft__Limit *limits[1];
    Mailraft__Route route;
    Mailraft__Route *routes[1];
    char *servers[1];
    struct delivery *delivery;
    uv_timer_t tick;
    uint32_t given;
    bool closed;
} host;

static inline void on_tick(uv_timer_t *t)
{
    (void)t;
}

static inline void turn(void)
{
    uv_run(&host.worker.loop, UV_RUN_ONCE);
    core_turn();
    server_turn();
    dns_turn();
}

static const struct delivery_backend fake_backend = {
    .may_send = fake_may_send,
    .withdrawn = fake_withdrawn,
    .dot = fake_dot,
    .reply = fake_reply,
    .outcome = fake_outcome,
    .release = fake_release,
    .remember = fake_remember,
    .slot_closed = fake_slot_closed,
    .body_read = fake_body_read,
    .body_begin = fake_body_begin,
    .body_piece = fake_body_piece,
    .body_abort = fake_body_abort,
    .body_finish = fake_body_finish,
    .notice_done = fake_notice_done,
    .notice_failed = fake_notice_failed,
};

static inline void host_rules(void)
{
    mailraft__rules__init(&host.in_force);
    mailraft__limit__init(&host.limit);
    mailraft__route__init(&host.route);
    host.limit.site = (char *)(uintptr_t) "default";
    host.limit.connections = 20;
    host.limit.messages_per_connection = 100;
    host.limits[0] = &host.limit;
    host.route.domain = (char *)(uintptr_t) "default";
    host.route.route = (char *)(uintptr_t) "mx";
    host.routes[0] = &host.route;
    host.in_force.n_limits = host.in_force.n_routes = 1;
    host.in_force.limits = host.limits;
    host.in_force.routes = host.routes;
    host.in_force.retry_first_for_ms = 1000;
    host.in_force.retry_factor = 2;
    host.in_force.retry_max_for_ms = 4000;
    host.rules.rules = &host.in_force;
    host.worker.rules = &host.rules;
}

static bool trust_ad;           /* of the next host_open */
static void (*configure)(void); /* of the next host_open, for what is looked at only once; NULL: nothing */

/* After server_open; a test changes host.config and host.limit behind it. */
static inline void host_open(void)
{
    memset(&host, 0, sizeof(host));
    memset(&core, 0, sizeof(core));
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    core.lease = true;
    core.body = "Subject: hello\r\n\r\nHow are you?\r\n";
    core.body_len = strlen(core.body);
    core.piece_size = 4096;
    dns_open();
    delivery_backend = fake_backend;
    assert_int_equal(uv_loop_init(&host.worker.loop), 0);
    uv_timer_init(&host.worker.loop, &host.tick);
    uv_timer_start(&host.tick, on_tick, 1, 1);
    host.servers[0] = dns.text;
    host.config.dns.servers = host.servers;
    host.config.dns.n_servers = 1;
    host.config.dns.timeout_ms = 5000;
    host.config.dns.tries = 2;
    host.config.dns.trust_ad = trust_ad;
    host.config.dns.trust_ad_given = true;
    host.config.smtp.hostname = (char *)(uintptr_t) "mx1.example.net";
    host.config.delivery.hostname = (char *)(uintptr_t) "out.example.net";
    host.config.delivery.port = host.config.delivery.sts_port = server.port;
    host.config.delivery.connect_timeout_ms = 20000;
    host.config.delivery.command_timeout_ms = 20000;
    host.config.delivery.data_timeout_ms = 20000;
    host.config.delivery.idle_connection_ms = 600 * 1000; /* no test waits for it by chance */
    host.worker.config = &host.config;
    host.worker.counters = &host.counters;
    host_rules();
    if (configure != NULL)
        configure();
    configure = NULL;
    assert_int_equal(delivery_open(&host.delivery, &host.worker), 0);
}

static inline void on_closed(void *arg)
{
    (void)arg;
    host.closed = true;
}

/* Every attempt that was given must have ended, and every slot be closed, once and with its count. */
static inline void assert_settled(void)
{
    uint64_t attempts = 0;
    for (unsigned i = 0; i < core.n_closed; i++)
        attempts += core.closed[i].attempts;
    assert_int_equal(attempts, host.given);
    assert_int_equal(core.n_told, host.given);
    assert_int_equal(atomic_load(&host.counters.connections_out_open), 0);
}

static inline void host_close(void)
{
    delivery_close(host.delivery, on_closed, NULL);
    WAIT_FOR(host.closed);
    assert_settled();
    uv_close((uv_handle_t *)&host.tick, NULL);
    uv_run(&host.worker.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host.worker.loop), 0);
    for (unsigned i = 0; i < core.n_told; i++)
        if (core.told[i].outcome != NULL)
            mailraft__outcome__free_unpacked(core.told[i].outcome, NULL);
    if (core.notice_dsn != NULL)
        mailraft__enqueue__free_unpacked(core.notice_dsn, NULL);
    if (core.remembered != NULL)
        mailraft__site_memory__free_unpacked(core.remembered, NULL);
    if (core.reply != NULL)
        mailraft__outcome__free_unpacked(core.reply, NULL);
    free(core.stored);
    assert_null(core.owed);
    server_close();
    dns_close();
}

/* An attempt for recipients r0@example.org, r1@... ; its delivery number counts up from 0. */
static inline struct attempt *make_attempt(const char *next_hop, uint32_t slot, uint32_t recipients)
{
    static char addresses[16][24];
    struct attempt *a = mr_calloc(1, sizeof(*a) + recipients * sizeof(struct attempt_recipient));
    struct attempt_recipient *r = (struct attempt_recipient *)(a + 1);
    assert_true(recipients <= 16);
    for (uint32_t i = 0; i < recipients; i++) {
        (void)snprintf(addresses[i], sizeof(addresses[i]), "r%u@example.org", i);
        r[i] = (struct attempt_recipient){.index = 10 + i, .address = addresses[i]};
    }
    a->id = mr_id_at(1);
    a->delivery = host.given++;
    a->attempt = 1;
    a->slot = slot;
    a->next_hop = next_hop;
    a->reverse_path = "";
    a->body_length = core.body_len;
    a->deadline_ns = a->end_ns = UINT64_MAX;
    a->n_recipients = recipients;
    a->recipients = r;
    if (core.along) {
        a->body = mr_memdup(core.body, core.body_len);
        a->body_len = core.body_len;
    }
    return a;
}

static inline void give(uint32_t slot, uint32_t recipients)
{
    delivery_attempt(host.delivery, make_attempt(server.route, slot, recipients));
}

static inline const struct told *wait_told(uint32_t delivery)
{
    WAIT_FOR(told_of(delivery) != NULL);
    return told_of(delivery);
}

static inline void assert_result(const struct told *t, size_t i, Mailraft__Result result, const char *status,
                                 const char *reply_has)
{
    char reply[STATE_MAX_REPLY + 1];
    assert_false(t->released);
    assert_true(i < t->outcome->n_results);
    const Mailraft__RecipientResult *r = t->outcome->results[i];
    (void)snprintf(reply, sizeof(reply), "%.*s", (int)r->reply.len, (const char *)r->reply.data);
    assert_int_equal(r->recipient, 10 + i);
    assert_int_equal(r->result, result);
    assert_string_equal(r->status, status);
    if (strstr(reply, reply_has) == NULL)
        fail_msg("reply \"%s\" has no \"%s\"", reply, reply_has);
}

static inline void assert_released(const struct told *t, const char *reason)
{
    assert_true(t->released);
    assert_string_equal(t->reason, reason);
}

#endif
