/* smtp_session.c - bytes in and out of one connection, its timer and its end.
 *
 * Every way in from the loop (read, written, timer, resume, answer, drain, stop) ends in settle, which writes the
 * replies and decides what the session waits for next: input, the kernel, the cluster, or its end. */
#include "node/smtp_session.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void settle(struct smtp_session *s);

/* ---- states ---- */

void smtp_session_move(struct smtp_session *s, enum smtp_state to)
{
#define TO(state) (1U << SMTP_##state)
    static const unsigned allowed[] = {
        [SMTP_OPENING] = TO(GREETED) | TO(CLOSING),
        [SMTP_GREETED] = TO(READY) | TO(CLOSING),
        [SMTP_READY] = TO(MAIL) | TO(CLOSING),
        [SMTP_MAIL] = TO(RCPT) | TO(READY) | TO(CLOSING),
        [SMTP_RCPT] = TO(DATA) | TO(READY) | TO(CLOSING),
        [SMTP_DATA] = TO(WAIT) | TO(READY) | TO(CLOSING),
        [SMTP_WAIT] = TO(READY) | TO(CLOSING),
        [SMTP_CLOSING] = 0,
    };
#undef TO
    mr_assert(allowed[s->state] & (1U << to));
    s->state = to;
}

static uint64_t now_ms(const struct smtp_session *s)
{
    return uv_now(&s->server->worker->loop);
}

static const char *stage(const struct smtp_session *s)
{
    static const char *const names[] = {"opening", "greeted", "ready", "mail", "rcpt", "data", "dot", "closing"};

    return names[s->state];
}

void smtp_session_reset(struct smtp_session *s)
{
    struct smtp_transaction *t = s->transaction;

    s->transaction = NULL;
    smtp_session_move(s, SMTP_READY);
    smtp_transaction_drop(t);
}

/* ---- the end ---- */

static void on_closed(uv_handle_t *handle)
{
    struct smtp_session *s = handle->data;
    struct smtp_server *server = s->server;

    if (--s->handles > 0)
        return;
    free(s->proxy);
    free(s->in.bytes);
    free(s->unsent.bytes);
    free(s->queued.bytes);
    free(s);
    mr_assert(server->n_handles > 0);
    server->n_handles--;
    smtp_server_check_closed(server);
}

/* At once. What is not written by now is lost. */
static void close_now(struct smtp_session *s)
{
    if (s->id == 0)
        return;
    if (s->transaction != NULL) {
        log_event(LOG_INFO, "connection_lost", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("helo", s->client.helo), LOG_S("stage", stage(s)),
                  LOG_S("sender", s->transaction->envelope.reverse_path));
        smtp_transaction_drop(s->transaction);
        s->transaction = NULL;
    }
    s->state = SMTP_CLOSING;
    s->reading = false;
    s->server->out_len = 0;
    client_leave(s->server->worker->clients, &s->pass);
    atomic_fetch_sub_explicit(&s->server->worker->counters->sessions_open, 1, memory_order_relaxed);
    smtp_server_leave(s->server, s->id);
    s->id = 0;
    uv_close((uv_handle_t *)&s->tcp, on_closed);
    uv_close((uv_handle_t *)&s->timer, on_closed);
}

void smtp_session_drop(struct smtp_session *s)
{
    close_now(s);
}

void smtp_session_bye(struct smtp_session *s, const struct smtp_reply *reply)
{
    if (reply->code >= 400) {
        atomic_fetch_add_explicit(&s->server->worker->counters->rejected, 1, memory_order_relaxed);
        log_event(LOG_INFO, "rejected", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("helo", s->client.helo), LOG_S("stage", stage(s)), LOG_N("code", reply->code),
                  LOG_S("status", reply->status), LOG_S("reply", reply->text));
    }
    smtp_session_reply(s, reply);
    if (s->transaction != NULL) {
        struct smtp_transaction *t = s->transaction;

        s->transaction = NULL;
        smtp_transaction_drop(t);
    }
    s->linger = reply->code >= 400;
    s->active_ms = now_ms(s);
    smtp_session_move(s, SMTP_CLOSING);
}

/* ---- output ---- */

void smtp_session_reply(struct smtp_session *s, const struct smtp_reply *reply)
{
    struct smtp_server *server = s->server;

    /* flush keeps SMTP_MAX_REPLY free for each command; a refusal and a 421 behind it are two lines. */
    server->out_len += smtp_reply_write(server->out + server->out_len, sizeof(server->out) - server->out_len, reply);
}

void smtp_session_refuse(struct smtp_session *s, const struct smtp_reply *reply)
{
    const struct smtp_transaction *t = s->transaction;

    atomic_fetch_add_explicit(&s->server->worker->counters->rejected, 1, memory_order_relaxed);
    log_event(LOG_INFO, "rejected", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
              LOG_S("helo", s->client.helo), LOG_S("stage", stage(s)), LOG_SN("verb", s->verb.at, s->verb.len),
              LOG_SN("argument", s->argument.at, s->argument.len),
              LOG_S("sender", t != NULL ? t->envelope.reverse_path : NULL), LOG_N("code", reply->code),
              LOG_S("status", reply->status), LOG_S("reply", reply->text));
    smtp_session_reply(s, reply);
    if (reply->code >= 500 && ++s->errors >= s->server->limits.errors)
        smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Too many errors"));
}

static void write_rest(struct smtp_session *s, char *bytes, size_t len);

static void on_written(uv_write_t *req, int status)
{
    struct smtp_session *s = req->data;

    free(s->unsent.bytes);
    s->unsent.bytes = NULL;
    s->writing = false;
    if (s->id == 0)
        return;
    if (status != 0) {
        close_now(s);
        return;
    }
    s->active_ms = now_ms(s);
    if (s->queued.bytes != NULL) {
        char *bytes = s->queued.bytes;

        s->queued.bytes = NULL;
        write_rest(s, bytes, s->queued.len);
    }
    smtp_session_resume(s);
}

/* Takes over bytes. */
static void write_rest(struct smtp_session *s, char *bytes, size_t len)
{
    uv_buf_t buf = uv_buf_init(bytes, (unsigned)len);

    s->unsent.bytes = bytes;
    s->unsent.len = len;
    s->write.data = s;
    s->writing = true;
    if (uv_write(&s->write, (uv_stream_t *)&s->tcp, &buf, 1, on_written) != 0) {
        s->writing = false;
        close_now(s);
    }
}

/* While a write is under way no command is looked at, so this is a reply or two at most. */
static void queue_behind(struct smtp_session *s, const char *bytes, size_t len)
{
    size_t have = s->queued.bytes != NULL ? s->queued.len : 0;

    s->queued.bytes = mr_realloc(s->queued.bytes, have + len);
    memcpy(s->queued.bytes + have, bytes, len);
    s->queued.len = have + len;
}

static void flush(struct smtp_session *s)
{
    struct smtp_server *server = s->server;
    uv_buf_t buf = uv_buf_init(server->out, (unsigned)server->out_len);
    size_t len = server->out_len;
    int n;

    if (len == 0)
        return;
    server->out_len = 0;
    if (s->writing) {
        queue_behind(s, server->out, len);
        return;
    }
    n = uv_try_write((uv_stream_t *)&s->tcp, &buf, 1);
    if (n == UV_EAGAIN)
        n = 0;
    if (n < 0)
        close_now(s);
    else if ((size_t)n < len)
        write_rest(s, mr_memdup(server->out + n, len - (size_t)n), len - (size_t)n);
}

/* ---- input ---- */

static bool can_consume(const struct smtp_session *s)
{
    return !s->writing && s->state != SMTP_WAIT && s->state != SMTP_CLOSING &&
           !(s->state == SMTP_DATA && smtp_transaction_blocked(s->transaction));
}

/* Eats one command line; 0: it is not whole yet. */
static size_t consume_command(struct smtp_session *s, const uint8_t *p, size_t len)
{
    const uint8_t *lf = memchr(p, '\n', len);
    size_t n = lf != NULL ? (size_t)(lf - p) + 1 : len;

    if (lf == NULL && !s->skipping && n < SMTP_MAX_COMMAND)
        return 0;
    if (lf == NULL) {
        s->skipping = true;
        return n;
    }
    s->active_ms = now_ms(s);
    if (s->skipping || n > SMTP_MAX_COMMAND)
        smtp_session_refuse(s, SMTP_REPLY(500, "5.5.2", "Line too long"));
    else if (n < 2 || p[n - 2] != '\r')
        smtp_session_refuse(s, SMTP_REPLY(500, "5.5.2", "Lines must end with CR LF"));
    else
        smtp_session_command(s, (const char *)p, n - 2);
    s->skipping = false;
    return n;
}

static size_t consume_data(struct smtp_session *s, const uint8_t *p, size_t len)
{
    size_t n = smtp_transaction_feed(s->transaction, p, len);
    const struct smtp_reply *refusal;

    s->active_ms = now_ms(s);
    if (!smtp_data_ended(&s->transaction->reader))
        return n;
    refusal = smtp_transaction_finish(s->transaction, &s->client);
    if (refusal != NULL) {
        smtp_session_refuse(s, refusal);
        if (s->state == SMTP_DATA)
            smtp_session_reset(s);
    } else {
        smtp_session_move(s, SMTP_WAIT);
    }
    return n;
}

/* Looks at what was read, as far as it may now. */
static size_t consume(struct smtp_session *s, const uint8_t *p, size_t len)
{
    size_t used = 0;

    while (used < len && can_consume(s)) {
        if (s->state == SMTP_OPENING) {
            smtp_opening_early(s);
            break;
        }
        size_t n =
            s->state == SMTP_DATA ? consume_data(s, p + used, len - used) : consume_command(s, p + used, len - used);

        if (n == 0)
            break;
        used += n;
        if (s->server->out_len >= SMTP_OUT_HIGH - SMTP_MAX_REPLY)
            flush(s);
    }
    return s->id == 0 ? len : used;
}

static void keep(struct smtp_session *s, const uint8_t *p, size_t len)
{
    size_t need = s->in.len + len;

    if (need > s->in.cap) {
        s->in.bytes = mr_realloc(s->in.bytes, need);
        s->in.cap = need;
    }
    memcpy(s->in.bytes + s->in.len, p, len);
    s->in.len = need;
}

static void consume_kept(struct smtp_session *s)
{
    size_t used = consume(s, s->in.bytes, s->in.len);

    s->in.len -= used;
    memmove(s->in.bytes, s->in.bytes + used, s->in.len);
    /* An idle session keeps no memory of what a busy one needed. */
    if (s->in.len == 0) {
        free(s->in.bytes);
        s->in.bytes = NULL;
        s->in.cap = 0;
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct smtp_session *s = handle->data;

    (void)suggested;
    *buf = uv_buf_init((char *)s->server->in, sizeof(s->server->in));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct smtp_session *s = stream->data;
    const uint8_t *p = (const uint8_t *)buf->base;

    if (n == 0 || s->id == 0)
        return;
    if (n < 0) {
        close_now(s);
        return;
    }
    if (s->lingering)
        return;
    if (s->state == SMTP_OPENING && s->opening == OPENING_PROXY) {
        size_t used = smtp_opening_feed(s, p, (size_t)n);

        p += used;
        n -= (ssize_t)used;
        if (s->id == 0 || n == 0) {
            settle(s);
            return;
        }
    }
    if (s->in.len > 0) {
        keep(s, p, (size_t)n);
        consume_kept(s);
    } else {
        size_t used = consume(s, p, (size_t)n);

        if (used < (size_t)n)
            keep(s, p + used, (size_t)n - used);
    }
    settle(s);
}

/* ---- time ---- */

/* The cluster is waited for, not the client: its own limits hold. */
static bool waits_for_cluster(const struct smtp_session *s)
{
    return s->state == SMTP_WAIT || (s->state == SMTP_DATA && smtp_transaction_blocked(s->transaction));
}

static uint64_t deadline(const struct smtp_session *s)
{
    const struct smtp_limits *limits = &s->server->limits;
    uint64_t idle = s->active_ms + (s->state == SMTP_DATA ? limits->data_ms : limits->idle_ms);
    uint64_t total = s->started_ms + limits->session_ms;

    if (s->state == SMTP_CLOSING)
        return s->active_ms + SMTP_LINGER_MS;
    if (s->state == SMTP_OPENING)
        return smtp_opening_deadline(s);
    if (waits_for_cluster(s))
        return now_ms(s) + limits->idle_ms;
    return idle < total ? idle : total;
}

static void on_timer(uv_timer_t *timer)
{
    struct smtp_session *s = timer->data;

    s->timer_ms = UINT64_MAX;
    if (s->id == 0)
        return;
    if (now_ms(s) >= deadline(s)) {
        if (s->state == SMTP_CLOSING || s->writing) {
            close_now(s);
            return;
        }
        if (s->state == SMTP_OPENING)
            smtp_opening_timeout(s);
        else if (now_ms(s) >= s->started_ms + s->server->limits.session_ms)
            smtp_session_bye(s, SMTP_REPLY(421, "4.4.2", "The session has lasted too long"));
        else
            smtp_session_bye(s, SMTP_REPLY(421, "4.4.2", "Timed out waiting for input"));
    }
    settle(s);
}

/* The timer is moved only when it would ring too late; when it rings too early it is set again. So commands cost no
 * timer. */
static void set_timer(struct smtp_session *s)
{
    uint64_t at = deadline(s);
    uint64_t now = now_ms(s);

    if (at >= s->timer_ms)
        return;
    s->timer_ms = at;
    uv_timer_start(&s->timer, on_timer, at > now ? at - now : 0, 0);
}

/* ---- what next ---- */

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)req;
    (void)status;
}

static void read_on(struct smtp_session *s, bool on)
{
    if (on == s->reading)
        return;
    s->reading = on;
    if (!on)
        uv_read_stop((uv_stream_t *)&s->tcp);
    else if (uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read) != 0)
        close_now(s);
}

/* The last reply is in the kernel. Closing now, with input unread, would reset the connection and lose it. */
static void finish(struct smtp_session *s)
{
    if (!s->linger) {
        close_now(s);
        return;
    }
    if (!s->lingering) {
        s->lingering = true;
        s->active_ms = now_ms(s);
        if (uv_shutdown(&s->shutdown, (uv_stream_t *)&s->tcp, on_shutdown) != 0) {
            close_now(s);
            return;
        }
    }
    read_on(s, true);
}

/* The server drains: nothing more is wanted of a client that is in no transaction. */
static void end_idle(struct smtp_session *s)
{
    if (s->state == SMTP_OPENING && s->opening != OPENING_DELAY)
        close_now(s);
    else if (s->state == SMTP_OPENING || s->state == SMTP_GREETED || s->state == SMTP_READY)
        smtp_session_bye(s, SMTP_REPLY(421, "4.3.2", "Shutting down"));
}

static void settle(struct smtp_session *s)
{
    if (s->id == 0)
        return;
    if (s->server->draining && !s->writing)
        end_idle(s);
    if (s->id != 0)
        flush(s);
    if (s->id != 0 && s->state == SMTP_CLOSING && !s->writing)
        finish(s);
    else if (s->id != 0)
        read_on(s, can_consume(s));
    if (s->id != 0)
        set_timer(s);
}

void smtp_session_resume(struct smtp_session *s)
{
    if (s->state == SMTP_DATA)
        s->active_ms = now_ms(s); /* the client was not asked for more until now */
    if (s->in.len > 0 && can_consume(s))
        consume_kept(s);
    settle(s);
}

void smtp_session_answer(struct smtp_session *s, const struct smtp_reply *refusal)
{
    char id[MR_ID_TEXT + 1];
    char text[64];

    mr_assert(s->state == SMTP_WAIT);
    s->active_ms = now_ms(s);
    if (refusal != NULL) {
        smtp_session_refuse(s, refusal);
    } else {
        snprintf(text, sizeof(text), "Ok: queued as %s", mr_id_format(s->transaction->id, id));
        smtp_session_reply(s, SMTP_REPLY(250, "2.0.0", text));
    }
    if (s->state == SMTP_WAIT)
        smtp_session_reset(s);
    smtp_session_resume(s);
}

void smtp_session_drain(struct smtp_session *s)
{
    settle(s);
}

void smtp_session_stop(struct smtp_session *s)
{
    if (s->state == SMTP_WAIT)
        return; /* settle after the answer sees that the server drains */
    if (s->state == SMTP_OPENING)
        end_idle(s);
    else if (s->state != SMTP_CLOSING)
        smtp_session_bye(s, SMTP_REPLY(421, "4.3.2", "Shutting down"));
    if (s->id == 0)
        return;
    flush(s);
    close_now(s);
}

/* ---- the beginning ---- */

void smtp_session_open(struct smtp_listener *listener)
{
    struct smtp_server *server = listener->server;
    struct worker *w = server->worker;
    struct smtp_session *s = mr_calloc(1, sizeof(*s));
    int address_len = sizeof(s->address);
    int rc;

    s->server = server;
    s->profile = listener->profile;
    s->lmtp = listener->profile == PROFILE_LMTP;
    s->tls_implicit = listener->tls == TLS_IMPLICIT;
    s->handles = 2;
    s->timer_ms = UINT64_MAX;
    s->tcp.data = s->timer.data = s;
    uv_timer_init(&w->loop, &s->timer);
    rc = uv_tcp_init(&w->loop, &s->tcp);
    mr_assert(rc == 0);
    server->n_handles++;
    s->id = smtp_server_enter(server, s);
    s->started_ms = s->active_ms = now_ms(s);
    atomic_fetch_add_explicit(&w->counters->sessions_open, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->counters->sessions_total, 1, memory_order_relaxed);
    if (uv_accept((uv_stream_t *)&listener->tcp, (uv_stream_t *)&s->tcp) != 0 ||
        uv_tcp_getpeername(&s->tcp, &s->address.any, &address_len) != 0) {
        close_now(s); /* it went away before we looked */
        return;
    }
    uv_tcp_nodelay(&s->tcp, 1);
    smtp_opening_begin(s, listener);
    settle(s);
}
