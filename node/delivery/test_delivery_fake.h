/* test_delivery_fake.h - a core and a next hop for the tests of the delivery side. The core keeps bodies in memory,
 * writes down every outcome, release and closed slot, and checks what the contract asks of the caller (D1 to D4). The
 * next hop is a scripted SMTP or LMTP server on loopback. Delivery, server and DNS take turns on one thread; waits are
 * for conditions. */
#ifndef MR_DELIVERY_TEST_DELIVERY_FAKE_H
#define MR_DELIVERY_TEST_DELIVERY_FAKE_H

#include "node/delivery/delivery_internal.h"
#include "node/dns/test_dns_server.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <xxhash.h>

#include <cmocka.h>

enum { LIMIT_MS = 30000, MOST_TOLD = 64, MOST_RULES = 16, MOST_CONNECTIONS = 16 };

/* ---- the next hop ---- */

/* Special replies of a rule. */
#define DROP   "drop"   /* closes */
#define SILENT "silent" /* says nothing from here on */

struct rule {
    const char *line;  /* how the command begins; "." the end of data; "" the connection itself (greeting) */
    const char *reply; /* without the last CR LF */
    unsigned skip;     /* so many are answered as usual first */
    unsigned times;    /* then the rule holds so often; 0: always; after that the next one like it */
    unsigned seen;
};

struct connection {
    int fd; /* -1: closed */
    struct tls *tls;
    char in[262144];
    size_t len;
    bool data, mute, ended; /* ended: the peer has closed */
    unsigned accepted;
    char commands[8192]; /* all that came, a "|" behind each */
    char *body;          /* of the last message, as it came: with stuffing, without the final dot */
    size_t body_len, body_cap;
    unsigned dots;
    size_t chunk; /* octets of a BDAT chunk that are to come */
    bool in_chunk, last_chunk;
};

static struct {
    int fd;
    uint16_t port;
    char route[64];
    bool lmtp;
    bool reading;     /* false: takes nothing from its sockets */
    const char *ehlo; /* reply; NULL: 500 */
    SSL_CTX *tls;     /* NULL: STARTTLS is unknown */
    const char *ehlo_tls;
    struct rule rules[MOST_RULES];
    unsigned n_rules;
    struct connection *connections[MOST_CONNECTIONS];
    unsigned n;    /* connections that came */
    unsigned open; /* of these */
    unsigned most_open;
    unsigned messages; /* whose dot came, for somebody who was accepted */
} server;

static inline void server_open_at(const char *address, uint16_t port, int buffer)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof(at);
    int one = 1;
    memset(&server, 0, sizeof(server));
    server.reading = true;
    server.ehlo = "250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000";
    mr_assert(inet_pton(AF_INET, address, &at.sin_addr) == 1);
    server.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)setsockopt(server.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (buffer > 0)
        (void)setsockopt(server.fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    assert_int_equal(bind(server.fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(server.fd, 64), 0);
    assert_int_equal(getsockname(server.fd, (struct sockaddr *)&at, &len), 0);
    server.port = ntohs(at.sin_port);
    (void)snprintf(server.route, sizeof(server.route), "smtp://%s:%u", address, server.port);
}

static inline void server_open(void)
{
    server_open_at("127.0.0.1", 0, 0);
}

static inline void server_lmtp(void)
{
    server.lmtp = true;
    memcpy(server.route, "lmtp", 4);
}

static inline void server_rule(const char *line, const char *reply, unsigned skip, unsigned times)
{
    assert_true(server.n_rules < MOST_RULES);
    server.rules[server.n_rules++] = (struct rule){.line = line, .reply = reply, .skip = skip, .times = times};
}

static inline void connection_close(struct connection *c)
{
    if (c->fd < 0)
        return;
    (void)close(c->fd);
    c->fd = -1;
    tls_free(c->tls);
    c->tls = NULL;
    server.open--;
}

static inline void connection_send(struct connection *c, const void *bytes, size_t len)
{
    assert_int_equal(send(c->fd, bytes, len, MSG_NOSIGNAL), len);
}

static inline void connection_flush(struct connection *c)
{
    size_t len;
    uint8_t *bytes = tls_take(c->tls, &len);
    if (len > 0)
        (void)!send(c->fd, bytes, len, MSG_NOSIGNAL); /* the client may have gone for what it was told before */
    free(bytes);
}

static inline void server_close(void)
{
    for (unsigned i = 0; i < server.n; i++) {
        connection_close(server.connections[i]);
        free(server.connections[i]->body);
        free(server.connections[i]);
    }
    (void)close(server.fd);
}

static inline void say(struct connection *c, const char *reply)
{
    char line[4096];
    c->mute = c->mute || strcmp(reply, SILENT) == 0;
    if (c->fd < 0 || c->mute)
        return;
    if (strcmp(reply, DROP) == 0) {
        connection_close(c);
        return;
    }
    bool close_after = strncmp(reply, "421", 3) == 0;
    int n = snprintf(line, sizeof(line), "%s\r\n", reply);
    if (c->tls == NULL) {
        connection_send(c, line, (size_t)n);
    } else {
        assert_true(tls_write(c->tls, line, (size_t)n));
        connection_flush(c);
    }
    if (close_after)
        connection_close(c);
}

/* The reply that the script has for this command, or the usual one. */
static inline const char *reply_to(const char *line, const char *usual)
{
    for (unsigned i = 0; i < server.n_rules; i++) {
        struct rule *r = &server.rules[i];
        bool same =
            r->line[0] == 0 || line[0] == 0 ? r->line[0] == line[0] : strncmp(line, r->line, strlen(r->line)) == 0;
        if (!same)
            continue;
        unsigned seen = r->seen++;
        if (seen >= r->skip && (r->times == 0 || seen < r->skip + r->times))
            return r->reply;
    }
    return usual;
}

static inline void keep_body(struct connection *c, const char *data, size_t n)
{
    if (c->body_len + n > c->body_cap) {
        c->body_cap = (c->body_len + n) * 2;
        c->body = mr_realloc(c->body, c->body_cap);
    }
    if (n > 0)
        memcpy(c->body + c->body_len, data, n);
    c->body_len += n;
}

static inline void on_dot(struct connection *c);

/* "BDAT n [LAST]"; its reply comes behind the chunk. */
static inline void on_bdat(struct connection *c, const char *line)
{
    char *rest;
    c->chunk = strtoul(line + 5, &rest, 10);
    c->in_chunk = true;
    c->last_chunk = strcmp(rest, " LAST") == 0;
}

static inline void on_command(struct connection *c, const char *line)
{
    const char *reply = "502 5.5.2 what?";
    if (strncmp(line, "BDAT ", 5) == 0) {
        assert_true(strlen(c->commands) + strlen(line) + 2 < sizeof(c->commands));
        (void)strcat(strcat(c->commands, line), "|");
        on_bdat(c, line);
        return;
    }
    assert_true(strlen(c->commands) + strlen(line) + 2 < sizeof(c->commands));
    (void)strcat(strcat(c->commands, line), "|");
    if (strncmp(line, server.lmtp ? "LHLO " : "EHLO ", 5) == 0)
        reply = c->tls != NULL ? server.ehlo_tls : server.ehlo != NULL ? server.ehlo : "500 5.5.1 what?";
    else if (strcmp(line, "STARTTLS") == 0 && server.tls != NULL)
        reply = "220 go ahead";
    else if (strncmp(line, "HELO ", 5) == 0 || strcmp(line, "RSET") == 0 || strncmp(line, "MAIL ", 5) == 0)
        reply = "250 2.0.0 fine";
    else if (strncmp(line, "RCPT ", 5) == 0)
        reply = "250 2.1.5 fine";
    else if (strcmp(line, "DATA") == 0)
        reply = c->accepted > 0 ? "354 go on" : "503 5.5.1 nobody";
    else if (strcmp(line, "QUIT") == 0)
        reply = "221 2.0.0 bye";
    if (strncmp(line, "MAIL ", 5) == 0)
        c->accepted = 0;
    if (strncmp(line, "MAIL ", 5) == 0)
        c->body_len = 0;
    reply = reply_to(line, reply);
    c->accepted += strncmp(line, "RCPT ", 5) == 0 && reply[0] == '2';
    c->data = strcmp(line, "DATA") == 0 && reply[0] == '3';
    if (c->data)
        c->body_len = 0;
    say(c, reply);
    if (strcmp(line, "STARTTLS") == 0 && reply[0] == '2' && c->fd >= 0 && server.tls != NULL) {
        c->tls = tls_accept(server.tls);
        tls_start(c->tls);
    }
}

static inline void on_dot(struct connection *c)
{
    c->data = false;
    c->dots++;
    server.messages += c->accepted > 0;
    for (unsigned i = 0; i < (server.lmtp ? c->accepted : 1); i++)
        say(c, reply_to(".", "250 2.0.0 taken"));
}

/* Eats what is there of a chunk; false: more has to come. */
static inline bool eat_chunk(struct connection *c, size_t *at)
{
    size_t n = c->len - *at < c->chunk ? c->len - *at : c->chunk;
    keep_body(c, c->in + *at, n);
    *at += n;
    c->chunk -= n;
    if (c->chunk > 0)
        return false;
    c->in_chunk = false;
    if (c->last_chunk)
        on_dot(c);
    else
        say(c, reply_to("BDAT", "250 2.0.0 chunk"));
    return true;
}

/* Eats one line of what came from *at on; false: there is none. */
static inline bool eat_line(struct connection *c, size_t *at)
{
    if (c->in_chunk)
        return c->fd >= 0 && eat_chunk(c, at);
    char *line = c->in + *at;
    char *end = memmem(line, c->len - *at, "\r\n", 2);
    if (end == NULL || c->fd < 0)
        return false;
    size_t n = (size_t)(end - line) + 2;
    *at += n;
    if (!c->data) {
        *end = 0;
        on_command(c, line);
    } else if (n == 3 && line[0] == '.') {
        on_dot(c);
    } else {
        keep_body(c, line, n);
    }
    return true;
}

/* Like recv, out of TLS where that is. */
static inline ssize_t connection_recv(struct connection *c)
{
    char bytes[16384];
    if (c->tls == NULL)
        return recv(c->fd, c->in + c->len, sizeof(c->in) - c->len, MSG_DONTWAIT);
    size_t got = tls_read(c->tls, c->in + c->len, sizeof(c->in) - c->len);
    if (got > 0)
        return (ssize_t)got;
    ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n <= 0)
        return n;
    tls_feed(c->tls, bytes, (size_t)n);
    got = tls_read(c->tls, c->in + c->len, sizeof(c->in) - c->len);
    connection_flush(c);
    if (tls_state(c->tls) == TLS_ENDED || tls_state(c->tls) == TLS_BROKEN)
        return got > 0 ? (ssize_t)got : 0;
    errno = EINTR; /* nothing of it is text: look again */
    return got > 0 ? (ssize_t)got : -1;
}

static inline void connection_turn(struct connection *c)
{
    while (c->fd >= 0 && server.reading) {
        ssize_t n = connection_recv(c);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            c->ended = true;
            connection_close(c);
            return;
        }
        size_t at = 0;
        c->len += (size_t)n;
        while (eat_line(c, &at))
            ;
        memmove(c->in, c->in + at, c->len - at);
        c->len -= at;
    }
}

static inline void server_turn(void)
{
    int fd;
    while ((fd = accept4(server.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        assert_true(server.n < MOST_CONNECTIONS);
        struct connection *c = mr_calloc(1, sizeof(*c));
        c->fd = fd;
        server.connections[server.n++] = c;
        server.open++;
        if (server.open > server.most_open)
            server.most_open = server.open;
        say(c, reply_to("", "220 hop.example ESMTP"));
    }
    for (unsigned i = 0; i < server.n; i++)
        connection_turn(server.connections[i]);
}

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
    const char *body;
    size_t body_len, piece_size;
    bool along; /* the body comes with the attempt */
    int read_status, store_status, written_status;
    bool hold[3];
    struct owed *owed;
    unsigned reads, most_reads, waiting_reads;
    struct told told[MOST_TOLD];
    unsigned n_told, dots, aborted;
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

static inline bool fake_may_send(const struct cluster_port *p, const struct attempt *a)
{
    (void)p;
    (void)a;
    return core.lease;
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

static inline struct told *tell(const struct attempt *a)
{
    assert_true(core.n_told < MOST_TOLD);
    for (unsigned i = 0; i < core.n_told; i++) /* D3 */
        assert_int_not_equal(core.told[i].delivery, a->delivery);
    struct told *t = &core.told[core.n_told++];
    t->delivery = a->delivery;
    return t;
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
    (void)done;
    (void)arg;
    assert_null(core.notice_dsn);
    core.notice_dsn = dsn;
    core.notices_done++;
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

#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t end_ = mr_boot_ns(&mr_clock_real) + LIMIT_MS * MR_NS_PER_MS;                                          \
        while (!(condition)) {                                                                                         \
            if (mr_boot_ns(&mr_clock_real) > end_)                                                                     \
                fail_msg("never: %s", #condition);                                                                     \
            turn();                                                                                                    \
        }                                                                                                              \
    } while (0)

static const struct delivery_backend fake_backend = {
    .may_send = fake_may_send,
    .dot = fake_dot,
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

static bool trust_ad; /* of the next host_open */

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

static inline const struct told *told_of(uint32_t delivery)
{
    for (unsigned i = 0; i < core.n_told; i++)
        if (core.told[i].delivery == delivery)
            return &core.told[i];
    return NULL;
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
