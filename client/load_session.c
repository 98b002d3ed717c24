/* Happy path: wake -> take -> connect -> banner -> EHLO -> attempt ... -> next -> attempt ... -> QUIT -> close -> done.
 * Failure: break or move_on -> close -> pause -> the next node, with the same message.
 * Close: a session that has nothing left to do closes its connection and its timer, and tells the run. */
#include "client/load_session.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TO(state) (1U << (state))

static const unsigned transitions[LOAD_STATES] = {
    [LOAD_IDLE] = TO(LOAD_RESOLVE) | TO(LOAD_CONNECT) | TO(LOAD_DONE),
    [LOAD_BACKOFF] = TO(LOAD_IDLE),
    [LOAD_RESOLVE] = TO(LOAD_CONNECT) | TO(LOAD_CLOSING),
    [LOAD_CONNECT] = TO(LOAD_BANNER) | TO(LOAD_CLOSING),
    [LOAD_BANNER] = TO(LOAD_EHLO) | TO(LOAD_QUIT) | TO(LOAD_CLOSING),
    [LOAD_EHLO] = TO(LOAD_READY) | TO(LOAD_HELO) | TO(LOAD_QUIT) | TO(LOAD_CLOSING),
    [LOAD_HELO] = TO(LOAD_READY) | TO(LOAD_QUIT) | TO(LOAD_CLOSING),
    [LOAD_READY] = TO(LOAD_ENVELOPE) | TO(LOAD_QUIT) | TO(LOAD_CLOSING),
    [LOAD_ENVELOPE] = TO(LOAD_ENVELOPE) | TO(LOAD_BODY) | TO(LOAD_DOT) | TO(LOAD_RSET) | TO(LOAD_READY) |
                      TO(LOAD_QUIT) | TO(LOAD_CLOSING),
    [LOAD_BODY] = TO(LOAD_BODY) | TO(LOAD_DOT) | TO(LOAD_QUIT) | TO(LOAD_CLOSING),
    [LOAD_DOT] = TO(LOAD_READY) | TO(LOAD_RSET) | TO(LOAD_QUIT) | TO(LOAD_CLOSING),
    [LOAD_RSET] = TO(LOAD_READY) | TO(LOAD_CLOSING),
    [LOAD_QUIT] = TO(LOAD_CLOSING),
    [LOAD_CLOSING] = TO(LOAD_IDLE) | TO(LOAD_BACKOFF),
    [LOAD_DONE] = 0,
};

static void work(struct load_session *s);

void load_session_enter(struct load_session *s, enum load_state state)
{
    mr_assert(transitions[s->state] & TO(state));
    s->state = state;
    bool waits = state == LOAD_CONNECT || (state >= LOAD_BANNER && state <= LOAD_QUIT && state != LOAD_READY);
    double limit = state == LOAD_QUIT ? fmin(2, s->run->options->timeout_s) : s->run->options->timeout_s;
    s->deadline_ns = waits ? load_run_now() + (uint64_t)(limit * (double)MR_NS_PER_S) : 0;
}

static void timer_closed(uv_handle_t *handle)
{
    struct load_session *s = handle->data;
    load_run_session_done(s->run);
}

static void done(struct load_session *s)
{
    load_session_enter(s, LOAD_DONE);
    uv_close((uv_handle_t *)&s->pause, timer_closed);
}

static void pause_over(uv_timer_t *timer)
{
    struct load_session *s = timer->data;

    load_session_enter(s, LOAD_IDLE);
    work(s);
}

/* 20 ms after the first failure, doubled for each further one, less up to a half: sessions do not come back in step. */
static uint64_t pause_ms(struct load_session *s)
{
    unsigned doublings = s->failures > 1 ? s->failures - 1 : 0;
    double ms = 20.0 * (double)(UINT64_C(1) << (doublings < 20 ? doublings : 20));

    ms = fmin(ms, s->run->options->backoff_max_s * 1000);
    return (uint64_t)(ms * (1 - rng_unit(&s->run->rng) / 2));
}

static void next_target(struct load_session *s)
{
    s->target = (s->target + 1) % s->run->options->target_count;
}

static void connection_gone(struct load_session *s)
{
    s->writing = false;
    if (s->then == LOAD_THEN_BACKOFF && !s->run->stopping) {
        load_session_enter(s, LOAD_BACKOFF);
        mr_assert(uv_timer_start(&s->pause, pause_over, pause_ms(s), 0) == 0);
        return;
    }
    load_session_enter(s, LOAD_IDLE);
    if (s->then == LOAD_THEN_DONE)
        done(s);
    else if (!s->parked)
        work(s);
}

static void tcp_closed(uv_handle_t *handle)
{
    connection_gone(handle->data);
}

static void close_connection(struct load_session *s)
{
    if (s->state == LOAD_CLOSING)
        return;
    load_session_enter(s, LOAD_CLOSING);
    uv_close((uv_handle_t *)&s->tcp, tcp_closed);
}

void load_session_break(struct load_session *s, const char *why)
{
    if (s->state == LOAD_CLOSING)
        return;
    if (s->state == LOAD_QUIT) {
        close_connection(s); /* what follows was decided before QUIT */
        return;
    }
    s->then = LOAD_THEN_WORK;
    if (s->busy) {
        s->failures++;
        load_attempt_broken(s, why);
        s->then = LOAD_THEN_BACKOFF;
    }
    next_target(s);
    close_connection(s);
}

static void quit(struct load_session *s)
{
    if (s->writing) {
        close_connection(s);
        return;
    }
    load_session_enter(s, LOAD_QUIT);
    (void)load_session_send(s, "QUIT\r\n", 6);
}

void load_session_move_on(struct load_session *s)
{
    s->failures++;
    s->then = LOAD_THEN_BACKOFF;
    next_target(s);
    if (s->reply.code == 421)
        close_connection(s);
    else
        quit(s);
}

void load_session_next(struct load_session *s, bool reset)
{
    const uint64_t limit = s->run->options->per_session;

    s->sent_here++;
    if (s->reply.code == 421 || (limit > 0 && s->sent_here >= limit)) {
        s->then = LOAD_THEN_WORK;
        next_target(s);
        quit(s);
    } else if (reset) {
        load_session_enter(s, LOAD_RSET);
        (void)load_session_send(s, "RSET\r\n", 6);
    } else {
        load_session_enter(s, LOAD_READY);
        work(s);
    }
}

static void written(uv_write_t *write, int status)
{
    struct load_session *s = MR_CONTAINER(write, struct load_session, write);

    s->writing = false;
    if (s->state == LOAD_CLOSING)
        return;
    if (status != 0)
        load_session_break(s, uv_strerror(status));
    else
        load_attempt_written(s);
}

bool load_session_send(struct load_session *s, const char *data, size_t len)
{
    uv_buf_t buf = uv_buf_init((char *)data, (unsigned)len);

    mr_assert(!s->writing);
    int n = uv_try_write((uv_stream_t *)&s->tcp, &buf, 1);
    if (n == (int)len)
        return true;
    if (n < 0 && n != UV_EAGAIN) {
        load_session_break(s, uv_strerror(n));
        return false;
    }
    size_t sent = n > 0 ? (size_t)n : 0;
    buf = uv_buf_init((char *)data + sent, (unsigned)(len - sent));
    s->writing = true;
    mr_assert(uv_write(&s->write, (uv_stream_t *)&s->tcp, &buf, 1, written) == 0);
    return false;
}

static void say_hello(struct load_session *s, const char *verb)
{
    const char *name = s->run->options->helo != NULL ? s->run->options->helo : "[127.0.0.1]";

    int n = snprintf(s->out, s->out_cap, "%s %s\r\n", verb, name);
    mr_assert(n > 0 && (size_t)n < s->out_cap);
    (void)load_session_send(s, s->out, (size_t)n);
}

static void session_ready(struct load_session *s)
{
    s->pipelining = s->state == LOAD_EHLO && s->run->options->pipelining && smtp_reply_offers(&s->reply, "PIPELINING");
    s->size_offered = s->state == LOAD_EHLO && smtp_reply_offers(&s->reply, "SIZE");
    s->sent_here = 0;
    load_session_enter(s, LOAD_READY);
    if (s->busy)
        load_attempt_begin(s);
    else
        work(s);
}

/* A reply outside of a transaction. */
static void session_reply(struct load_session *s)
{
    const int code = s->reply.code;

    switch (s->state) {
    case LOAD_BANNER:
        if (code == 220) {
            load_session_enter(s, LOAD_EHLO);
            say_hello(s, "EHLO");
            return;
        }
        break;
    case LOAD_EHLO:
        if (code / 100 == 2) {
            session_ready(s);
            return;
        }
        if (code == 500 || code == 502) { /* RFC 5321 section 3.2: a server of the old kind */
            load_session_enter(s, LOAD_HELO);
            say_hello(s, "HELO");
            return;
        }
        break;
    case LOAD_HELO:
        if (code / 100 == 2) {
            session_ready(s);
            return;
        }
        break;
    case LOAD_RSET:
        if (code / 100 == 2) {
            load_session_enter(s, LOAD_READY);
            work(s);
            return;
        }
        load_session_break(s, "RSET refused");
        return;
    case LOAD_QUIT:
        close_connection(s);
        return;
    default:
        load_session_break(s, "a reply that nothing asked for");
        return;
    }
    load_attempt_refused_session(s);
    load_session_move_on(s);
}

static void take_replies(struct load_session *s, const char *in, size_t len)
{
    while (len > 0 && s->state != LOAD_CLOSING) {
        size_t used = 0;
        int rc = smtp_reply_feed(&s->reply, in, len, &used);
        if (rc == MR_MORE)
            return;
        if (rc != 0) {
            load_session_break(s, rc == MR_LIMIT ? "reply too long" : "no SMTP reply");
            return;
        }
        in += used;
        len -= used;
        if (s->state == LOAD_ENVELOPE || s->state == LOAD_BODY || s->state == LOAD_DOT)
            load_attempt_reply(s);
        else
            session_reply(s);
        smtp_reply_reset(&s->reply);
    }
}

static void alloc_shared(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct load_session *s = handle->data;

    (void)suggested;
    *buf = uv_buf_init(s->run->read_buffer, LOAD_READ_SIZE);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct load_session *s = stream->data;

    if (n > 0)
        take_replies(s, buf->base, (size_t)n);
    else if (n == UV_EOF)
        load_session_break(s, "closed by the peer");
    else if (n < 0)
        load_session_break(s, uv_strerror((int)n));
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct load_session *s = MR_CONTAINER(connect, struct load_session, connect);

    if (s->state == LOAD_CLOSING)
        return;
    if (status == 0) {
        load_session_enter(s, LOAD_BANNER);
        (void)uv_tcp_nodelay(&s->tcp, 1);
        status = uv_read_start((uv_stream_t *)&s->tcp, alloc_shared, on_read);
    }
    if (status != 0)
        load_session_break(s, uv_strerror(status));
}

static void connect_to(struct load_session *s, const struct sockaddr *address)
{
    load_session_enter(s, LOAD_CONNECT);
    int rc = uv_tcp_connect(&s->connect, &s->tcp, address, on_connected);
    if (rc != 0)
        load_session_break(s, uv_strerror(rc));
}

/* Of several addresses another one after each failure. */
static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct load_session *s = MR_CONTAINER(request, struct load_session, resolve);
    unsigned count = 0;

    for (const struct addrinfo *ai = list; status == 0 && ai != NULL; ai = ai->ai_next)
        count++;
    if (count == 0) {
        load_session_break(s, status != 0 ? uv_strerror(status) : "no address");
    } else {
        const struct addrinfo *ai = list;
        for (unsigned i = (s->number + s->failures) % count; i > 0; i--)
            ai = ai->ai_next;
        connect_to(s, ai->ai_addr);
    }
    uv_freeaddrinfo(list);
}

static void open_connection(struct load_session *s)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const struct endpoint *ep = &s->run->options->targets[s->target];
    struct sockaddr_storage address;
    char port[8];

    smtp_reply_reset(&s->reply);
    mr_assert(uv_tcp_init(&s->run->loop, &s->tcp) == 0);
    s->tcp.data = s;
    if (endpoint_literal(ep, &address) == 0) {
        connect_to(s, (const struct sockaddr *)&address);
        return;
    }
    load_session_enter(s, LOAD_RESOLVE);
    (void)snprintf(port, sizeof(port), "%u", ep->port);
    int rc = uv_getaddrinfo(&s->run->loop, &s->resolve, on_resolved, ep->host, port, &hints);
    if (rc != 0)
        load_session_break(s, uv_strerror(rc));
}

static void take_message(struct load_session *s, uint64_t number)
{
    s->busy = true;
    s->rendered = false;
    s->message_number = number;
    s->attempt = 0;
    s->first_ns = load_run_now();
    memset(s->recipients, LOAD_RCPT_WAITING, s->run->options->recipients);
    (void)snprintf(s->key, sizeof(s->key), "%s%llu", s->run->options->prefix, (unsigned long long)number);
}

/* In IDLE or READY: takes a message when there is none, and tries it. */
static void work(struct load_session *s)
{
    if (!s->busy) {
        uint64_t number = 0;
        switch (load_run_take(s->run, s, &number)) {
        case LOAD_TURN_NOW:
            take_message(s, number);
            break;
        case LOAD_TURN_WAIT:
            return;
        case LOAD_TURN_NONE:
            s->then = LOAD_THEN_DONE;
            if (s->state == LOAD_READY)
                quit(s);
            else
                done(s);
            return;
        }
    }
    s->attempt++;
    if (s->state == LOAD_READY)
        load_attempt_begin(s);
    else
        open_connection(s);
}

void load_session_wake(struct load_session *s)
{
    if (s->state == LOAD_IDLE || s->state == LOAD_READY)
        work(s);
    /* CLOSING: work follows when the connection is gone */
}

void load_session_check_deadline(struct load_session *s, uint64_t now_ns)
{
    if (s->deadline_ns != 0 && now_ns >= s->deadline_ns)
        load_session_break(s, "timed out");
}

void load_session_stop(struct load_session *s, bool at_once)
{
    if (s->state == LOAD_BACKOFF) {
        (void)uv_timer_stop(&s->pause);
        if (s->busy)
            load_attempt_give_up(s, UINT64_MAX);
        load_session_enter(s, LOAD_IDLE);
        work(s);
    } else if (at_once && s->state == LOAD_RESOLVE) {
        (void)uv_cancel((uv_req_t *)&s->resolve);
    } else if (at_once && s->state >= LOAD_CONNECT && s->state < LOAD_CLOSING) {
        load_session_break(s, "interrupted");
    }
}

void load_session_init(struct load_session *s, struct load_run *run, unsigned number)
{
    s->run = run;
    s->number = number;
    s->target = number % run->options->target_count;
    s->recipients = mr_calloc(run->options->recipients, sizeof(*s->recipients));
    s->tried = mr_calloc(run->options->recipients, sizeof(*s->tried));
    s->out_cap = 1024;
    s->out = mr_malloc(s->out_cap);
    mr_assert(uv_timer_init(&run->loop, &s->pause) == 0);
    s->pause.data = s;
}

void load_session_free(struct load_session *s)
{
    load_message_free(&s->message);
    free(s->recipients);
    free(s->tried);
    free(s->out);
}
