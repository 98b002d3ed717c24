/* smtp_session.c - one connection: its states, its timer, its beginning and its end.
 *
 * Every way in from the loop (read, written, timer, resume, answer, drain, stop) ends in smtp_session_settle, which
 * writes the replies and decides what the session waits for next: input, the kernel, the cluster, or its end. */
#include "node/server/smtp_session_internal.h"

#include "node/tls/tls.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- states ---- */

void smtp_session_move(struct smtp_session *s, enum smtp_state to)
{
#define TO(state) (1U << SMTP_##state)
    static const unsigned allowed[] = {
        [SMTP_OPENING] = TO(GREETED) | TO(CLOSING),
        [SMTP_GREETED] = TO(READY) | TO(CLOSING),
        [SMTP_READY] = TO(MAIL) | TO(LOGIN) | TO(GREETED) | TO(CLOSING),
        [SMTP_LOGIN] = TO(READY) | TO(CLOSING),
        [SMTP_MAIL] = TO(RCPT) | TO(READY) | TO(CLOSING),
        [SMTP_RCPT] = TO(DATA) | TO(CHUNK) | TO(READY) | TO(CLOSING),
        [SMTP_DATA] = TO(WAIT) | TO(READY) | TO(CLOSING),
        [SMTP_BDAT] = TO(CHUNK) | TO(READY) | TO(CLOSING),
        [SMTP_CHUNK] = TO(BDAT) | TO(WAIT) | TO(READY) | TO(CLOSING),
        [SMTP_WAIT] = TO(READY) | TO(CLOSING),
        [SMTP_CLOSING] = 0,
    };
#undef TO
    mr_assert(allowed[s->state] & (1U << to));
    s->state = to;
    /* A message in chunks is one data phase. */
    if ((to == SMTP_DATA || to == SMTP_CHUNK) && s->pace_ms == 0)
        smtp_session_pace_anew(s);
    else if (to <= SMTP_READY || to == SMTP_CLOSING)
        s->pace_ms = 0;
}

uint64_t smtp_session_now_ms(const struct smtp_session *s)
{
    return uv_now(&s->server->worker->loop);
}

const char *smtp_session_stage(const struct smtp_session *s)
{
    static const char *const names[] = {"opening", "greeted", "ready", "login", "mail",   "rcpt",
                                        "data",    "bdat",    "chunk", "dot",   "closing"};

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
    smtp_stream_free(s);
    tls_free(s->tls);
    tls_server_unref(s->contexts);
    free(s->unsent.bytes);
    free(s->queued.bytes);
    free(s);
    mr_assert(server->n_handles > 0);
    server->n_handles--;
    smtp_server_check_closed(server);
}

void smtp_session_drop(struct smtp_session *s)
{
    if (s->id == 0)
        return;
    if (s->transaction != NULL) {
        log_event(LOG_INFO, "connection_lost", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("helo", s->client.helo), LOG_S("stage", smtp_session_stage(s)),
                  LOG_S("sender", s->transaction->envelope.reverse_path));
        smtp_transaction_drop(s->transaction);
        s->transaction = NULL;
    }
    smtp_login_drop(s);
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

void smtp_session_bye(struct smtp_session *s, const struct smtp_reply *reply)
{
    if (reply->code >= 400) {
        atomic_fetch_add_explicit(&s->server->worker->counters->rejected, 1, memory_order_relaxed);
        log_event(LOG_INFO, "rejected", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("helo", s->client.helo), LOG_S("stage", smtp_session_stage(s)), LOG_N("code", reply->code),
                  LOG_S("status", reply->status), LOG_S("reply", reply->text));
    }
    smtp_session_reply(s, reply);
    if (s->transaction != NULL) {
        struct smtp_transaction *t = s->transaction;

        s->transaction = NULL;
        smtp_transaction_drop(t);
    }
    smtp_login_drop(s);
    s->linger = reply->code >= 400;
    s->parting = !s->linger && s->behind == 0;
    s->active_ms = smtp_session_now_ms(s);
    smtp_session_move(s, SMTP_CLOSING);
}

/* ---- refusals ---- */

static void log_refusal(const struct smtp_session *s, const struct smtp_reply *reply)
{
    const struct smtp_transaction *t = s->transaction;
    bool last = reply->code < 500 && s->deferrals == SMTP_MAX_DEFERRALS_LOGGED;

    log_event(LOG_INFO, "rejected", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
              LOG_S("helo", s->client.helo), LOG_S("stage", smtp_session_stage(s)),
              LOG_SN("verb", s->verb.at, s->verb.len), LOG_SN("argument", s->argument.at, s->argument.len),
              LOG_S("sender", t != NULL ? t->envelope.reverse_path : NULL), LOG_N("code", reply->code),
              LOG_S("status", reply->status), LOG_S("reply", reply->text),
              LOG_S("note", last ? "further ones are not logged" : NULL));
}

void smtp_session_error(struct smtp_session *s)
{
    if (++s->errors >= s->server->limits.errors)
        smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Too many errors"));
}

void smtp_session_refuse(struct smtp_session *s, const struct smtp_reply *reply)
{
    atomic_fetch_add_explicit(&s->server->worker->counters->rejected, 1, memory_order_relaxed);
    /* "452 Too many recipients" may rightly come thousands of times, and must not be a way to fill our disk. */
    if (reply->code >= 500 || ++s->deferrals <= SMTP_MAX_DEFERRALS_LOGGED)
        log_refusal(s, reply);
    smtp_session_reply(s, reply);
    if (reply->code >= 500)
        smtp_session_error(s);
}

/* ---- time ---- */

/* The cluster is waited for, not the client: its own limits hold. */
static bool waits_for_cluster(const struct smtp_session *s)
{
    return s->state == SMTP_WAIT || smtp_session_blocked(s);
}

void smtp_session_pace_anew(struct smtp_session *s)
{
    s->pace_ms = smtp_session_now_ms(s);
    s->pace_octets = 0;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* A server that drains waits for this client, which has not begun to send its message. */
static bool holds_up_drain(const struct smtp_session *s)
{
    return s->server->draining && (s->state == SMTP_MAIL || s->state == SMTP_RCPT) && !smtp_session_in_text(s);
}

/* The next whole thing that the client has to say, in time. */
static uint64_t idle_deadline(const struct smtp_session *s)
{
    const struct smtp_limits *limits = &s->server->limits;

    if (holds_up_drain(s))
        return s->active_ms + earlier(limits->ending_ms, limits->idle_ms);
    return s->active_ms + (smtp_session_in_text(s) ? limits->data_ms : limits->idle_ms);
}

/* For who speaks, but drips: the rest of a line, the data of this window. */
static uint64_t line_deadline(const struct smtp_session *s)
{
    return s->line_ms != 0 ? s->line_ms + s->server->limits.line_ms : UINT64_MAX;
}

static uint64_t pace_deadline(const struct smtp_session *s)
{
    return s->pace_ms != 0 && s->server->limits.data_rate != 0 ? s->pace_ms + s->server->limits.pace_ms : UINT64_MAX;
}

/* One of the deadlines has passed: the last words; NULL: the client keeps its pace. */
static const struct smtp_reply *overdue(struct smtp_session *s)
{
    static const struct smtp_reply total = {421, "4.4.2", "The session has lasted too long"};
    static const struct smtp_reply ending = {421, "4.3.2", "Shutting down"};
    static const struct smtp_reply idle = {421, "4.4.2", "Timed out waiting for input"};
    static const struct smtp_reply line = {421, "4.4.2", "Timed out waiting for the end of a line"};
    static const struct smtp_reply slow = {421, "4.4.2", "The message comes too slowly"};
    const struct smtp_limits *limits = &s->server->limits;
    const struct smtp_reply *why = NULL;
    uint64_t now = smtp_session_now_ms(s);

    if (now >= s->started_ms + limits->session_ms)
        return &total;
    if (now >= idle_deadline(s))
        return holds_up_drain(s) ? &ending : &idle;
    if (now >= line_deadline(s)) {
        why = &line;
    } else if (now >= pace_deadline(s)) {
        why = s->pace_octets < limits->data_rate * limits->pace_ms / 1000 ? &slow : NULL;
        smtp_session_pace_anew(s);
    }
    if (why != NULL)
        atomic_fetch_add_explicit(&s->server->worker->counters->slow_clients, 1, memory_order_relaxed);
    return why;
}

static uint64_t deadline(const struct smtp_session *s)
{
    const struct smtp_limits *limits = &s->server->limits;
    uint64_t total = s->started_ms + limits->session_ms;

    if (s->state == SMTP_CLOSING)
        return s->active_ms + SMTP_LINGER_MS;
    if (s->state == SMTP_OPENING)
        return smtp_opening_deadline(s);
    if (s->login.waiting)
        return smtp_login_deadline(s);
    if (s->handshaking)
        return s->handshake_ms + limits->opening_ms;
    if (waits_for_cluster(s))
        return smtp_session_now_ms(s) + limits->idle_ms;
    total = earlier(total, idle_deadline(s));
    return s->writing ? total : earlier(total, earlier(line_deadline(s), pace_deadline(s)));
}

static void on_timer(uv_timer_t *timer)
{
    struct smtp_session *s = timer->data;

    s->timer_ms = UINT64_MAX;
    if (s->id == 0)
        return;
    if (smtp_session_now_ms(s) >= deadline(s)) {
        if (s->state == SMTP_CLOSING || (s->writing && !s->handshaking)) {
            smtp_session_drop(s);
            return;
        }
        const struct smtp_reply *why = NULL;

        if (s->login.waiting) {
            smtp_login_timeout(s);
            smtp_session_resume(s);
            return;
        }
        if (s->state == SMTP_OPENING)
            smtp_opening_timeout(s);
        else if (s->handshaking)
            smtp_tls_ended(s, "the TLS handshake took too long");
        else
            why = overdue(s);
        if (why != NULL)
            smtp_session_bye(s, why);
    }
    smtp_session_settle(s);
}

/* The timer is moved only when it would ring too late; when it rings too early it is set again. So commands cost no
 * timer. */
static void set_timer(struct smtp_session *s)
{
    uint64_t at = deadline(s);
    uint64_t now = smtp_session_now_ms(s);

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

/* The last reply is in the kernel. Closing now, with input unread, would reset the connection and lose it. */
static void finish(struct smtp_session *s)
{
    if (s->tls != NULL) {
        tls_shutdown(s->tls);
        smtp_stream_flush(s);
        if (s->id == 0 || s->writing)
            return;
    }
    if (!s->linger) {
        smtp_session_drop(s);
        return;
    }
    if (!s->lingering) {
        s->lingering = true;
        s->active_ms = smtp_session_now_ms(s);
        if (uv_shutdown(&s->shutdown, (uv_stream_t *)&s->tcp, on_shutdown) != 0) {
            smtp_session_drop(s);
            return;
        }
    }
    smtp_stream_read_on(s, true);
}

/* The server drains: nothing more is wanted of a client that is in no transaction. */
static void end_idle(struct smtp_session *s)
{
    if (s->handshaking || (s->state == SMTP_OPENING && s->opening != OPENING_DELAY))
        smtp_session_drop(s);
    else if (s->state == SMTP_OPENING || s->state == SMTP_GREETED || s->state == SMTP_READY ||
             (s->state == SMTP_LOGIN && !s->login.waiting))
        smtp_session_bye(s, SMTP_REPLY(421, "4.3.2", "Shutting down"));
}

/* Few clients say anything before the answer to the final dot: reading is stopped only for one that does, as to stop
 * and start it takes two calls to the kernel for each message. */
static bool may_speak(const struct smtp_session *s)
{
    return s->state == SMTP_WAIT && s->reading && s->in.len == 0;
}

void smtp_session_settle(struct smtp_session *s)
{
    if (s->id == 0)
        return;
    if (s->server->draining && !s->writing)
        end_idle(s);
    if (s->id != 0)
        smtp_stream_flush(s);
    if (s->id != 0 && s->state == SMTP_CLOSING && !s->writing)
        finish(s);
    else if (s->id != 0)
        smtp_stream_read_on(s, smtp_stream_can_consume(s) || may_speak(s));
    if (s->id != 0)
        set_timer(s);
}

void smtp_session_resume(struct smtp_session *s)
{
    if (s->pace_ms != 0) { /* the client was not asked for more until now */
        s->active_ms = smtp_session_now_ms(s);
        smtp_session_pace_anew(s);
    }
    if (s->in.len > 0 && smtp_stream_can_consume(s))
        smtp_stream_consume_kept(s);
    if (s->tls != NULL && smtp_stream_can_consume(s))
        smtp_tls_pump(s);
    smtp_session_settle(s);
}

void smtp_session_answer_each(struct smtp_session *s, const struct smtp_reply *reply)
{
    unsigned n = s->lmtp ? s->transaction->envelope.n : 1;

    mr_assert(n > 0);
    for (unsigned i = 1; i < n && s->id != 0; i++) {
        smtp_session_reply(s, reply);
        if (s->server->out_len >= SMTP_OUT_HIGH - SMTP_MAX_REPLY)
            smtp_stream_flush(s);
    }
    if (s->id == 0)
        return;
    /* The last of them counts as the error that it may be, and may end the session. */
    if (reply->code >= 400)
        smtp_session_refuse(s, reply);
    else
        smtp_session_reply(s, reply);
}

void smtp_session_answer(struct smtp_session *s, const struct smtp_reply *refusal)
{
    char id[MR_ID_TEXT + 1];
    char text[64];

    mr_assert(s->state == SMTP_WAIT);
    s->active_ms = smtp_session_now_ms(s);
    if (refusal != NULL) {
        smtp_session_answer_each(s, refusal);
    } else {
        (void)stpcpy(stpcpy(text, "Ok: queued as "), mr_id_format(s->transaction->id, id));
        smtp_session_answer_each(s, SMTP_REPLY(250, "2.0.0", text));
        s->junk = s->deferrals = 0;
    }
    if (s->state == SMTP_WAIT)
        smtp_session_reset(s);
    smtp_session_resume(s);
}

void smtp_session_drain(struct smtp_session *s)
{
    smtp_session_settle(s);
}

void smtp_session_stop(struct smtp_session *s)
{
    if (s->state == SMTP_WAIT)
        return; /* settle after the answer sees that the server drains */
    if (s->state == SMTP_OPENING || s->handshaking)
        end_idle(s);
    else if (s->state != SMTP_CLOSING)
        smtp_session_bye(s, SMTP_REPLY(421, "4.3.2", "Shutting down"));
    if (s->id == 0)
        return;
    smtp_stream_flush(s);
    if (s->id != 0 && s->writing)
        smtp_session_settle(s); /* a message's 250 may be in that; its timer ends it */
    else
        smtp_session_drop(s);
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
    s->tls_mode = listener->tls;
    s->login.plain = w->config->smtp.auth.without_tls && listener->tls == TLS_OFF;
    s->handles = 2;
    s->timer_ms = UINT64_MAX;
    s->tcp.data = s->timer.data = s;
    uv_timer_init(&w->loop, &s->timer);
    rc = uv_tcp_init(&w->loop, &s->tcp);
    mr_assert(rc == 0);
    server->n_handles++;
    s->id = smtp_server_enter(server, s);
    s->started_ms = s->active_ms = smtp_session_now_ms(s);
    atomic_fetch_add_explicit(&w->counters->sessions_open, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->counters->sessions_total, 1, memory_order_relaxed);
    if (uv_accept((uv_stream_t *)&listener->tcp, (uv_stream_t *)&s->tcp) != 0 ||
        uv_tcp_getpeername(&s->tcp, &s->address.any, &address_len) != 0) {
        smtp_session_drop(s); /* it went away before we looked */
        return;
    }
    smtp_opening_begin(s, listener);
    smtp_session_settle(s);
}
