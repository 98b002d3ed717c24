/* The connection of a slot: addresses one after the other until one greets; EHLO, or HELO where that is refused; the
 * end.
 *
 * Happy path: slot_connect -> lookup -> (demands: delivery_tls.c) -> connect -> greeting -> EHLO -> (STARTTLS, EHLO) ->
 * (login at a smarthost: delivery_login.c) -> idle or transaction.
 * Failure: the next address; when all have failed the job is deferred, and so is told that the next hop was not
 * reached. Every wait has a timer. */
#include "node/delivery/delivery_internal.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"

#include <stdio.h>

/* ---- timers ---- */

unsigned slot_timeout_ms(const struct slot *s)
{
    enum { DATA_MS = 2 * 60 * 1000, BLOCK_MS = 3 * 60 * 1000 };
    unsigned command = s->d->w->config->delivery.command_timeout_ms;
    unsigned data = s->d->w->config->delivery.data_timeout_ms;

    switch (s->phase) {
    case PHASE_CONNECT:
        return s->d->w->config->delivery.connect_timeout_ms;
    case PHASE_DATA:
        return command < DATA_MS ? command : DATA_MS;
    case PHASE_BODY:
        return data < BLOCK_MS ? data : BLOCK_MS;
    case PHASE_QUEUE:
    case PHASE_DOT:
        return data;
    default:
        return command;
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct slot *s = timer->data;
    switch (s->phase) {
    case PHASE_IDLE:
        slot_quit(s);
        break;
    case PHASE_CONNECT:
    case PHASE_GREETING:
    case PHASE_EHLO:
    case PHASE_HELO:
    case PHASE_STARTTLS:
    case PHASE_TLS:
    case PHASE_LOGIN:
        slot_lost(s, "timed out");
        break;
    case PHASE_RSET:
    case PHASE_QUIT:
        slot_close(s, true);
        break;
    case PHASE_NONE:
    case PHASE_RESOLVE:
    case PHASE_SECURE:
    case PHASE_CLOSING:
        break;
    case PHASE_SCAN:
    case PHASE_MAIL:
    case PHASE_RCPT:
    case PHASE_DATA:
    case PHASE_BODY:
    case PHASE_QUEUE:
    case PHASE_DOT:
        transaction_timeout(s);
        break;
    }
}

void slot_timer(struct slot *s, unsigned ms)
{
    uv_timer_start(&s->timer, on_timer, ms, 0);
}

/* ---- closing ---- */

static void on_tcp_closed(uv_handle_t *handle)
{
    struct slot *s = handle->data;
    atomic_fetch_sub(&s->d->w->counters->connections_out_open, 1);
    s->tcp_open = false;
    if (s->tls != NULL)
        slot_tls_end(s);
    if (s->phase == PHASE_CLOSING)
        slot_closed(s);
    else
        slot_try_next(s); /* the one before did not work */
}

static void close_tcp(struct slot *s, bool reset)
{
    slot_login_drop(s); /* what it computes has nobody to say it to */
    if (uv_is_closing((uv_handle_t *)&s->tcp))
        return;
    /* Before a connection stands there is nothing to reset. */
    if (!reset || uv_tcp_close_reset(&s->tcp, on_tcp_closed) != 0)
        uv_close((uv_handle_t *)&s->tcp, on_tcp_closed);
}

void slot_close(struct slot *s, bool reset)
{
    if (s->phase == PHASE_CLOSING || s->phase == PHASE_NONE)
        return;
    uv_timer_stop(&s->timer);
    if (s->lookup != NULL) {
        resolver_cancel(s->lookup);
        s->lookup = NULL;
    }
    slot_secure_reset(s);
    bool connected = s->phase != PHASE_RESOLVE && s->phase != PHASE_SECURE && s->phase != PHASE_CONNECT;
    if (!reset && s->tls != NULL) {
        tls_shutdown(s->tls);
        slot_flush_tls(s);
    }
    s->phase = PHASE_CLOSING;
    if (s->tcp_open)
        close_tcp(s, reset && connected);
    else
        slot_closed(s);
}

/* The reply to QUIT is waited for (RFC 5321 4.1.1.10), though not for long: the slot's next connection may come at
 * once, and to a next hop that has not yet let go of this one it would be one more than the limit. */
void slot_quit(struct slot *s)
{
    enum { QUIT_MS = 2000 };
    s->phase = PHASE_QUIT;
    slot_write(s, "QUIT\r\n", 6);
    slot_timer(s, QUIT_MS);
}

bool slot_by_helo(const struct slot *s)
{
    return s->ehlo_ended == DELIVERY_EHLOS;
}

void slot_idle(struct slot *s)
{
    const struct delivery *d = s->d;
    if (d->draining || d->closing)
        slot_quit(s);
    else
        slot_timer(s, d->w->config->delivery.idle_connection_ms);
}

/* ---- what the next hop says ---- */

static void say_hello(struct slot *s, const char *verb)
{
    char line[400];
    smtp_capabilities_clear(&s->can);
    int n = snprintf(line, sizeof(line), "%s %s\r\n", verb, s->d->w->config->delivery.hostname);
    slot_write(s, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
    slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
}

void slot_ready(struct slot *s)
{
    if (slot_starttls(s) || !slot_may_transfer(s) || slot_login(s))
        return;
    s->phase = PHASE_IDLE;
    uv_timer_stop(&s->timer);
    if (s->job != NULL)
        transaction_begin(s);
    else
        slot_next(s);
}

/* An attempt that came meanwhile has met no demand of its own yet. */
static void on_reset(struct slot *s, int code)
{
    if (code / 100 != 2) {
        slot_close(s, false);
        return;
    }
    s->phase = PHASE_IDLE;
    uv_timer_stop(&s->timer);
    if (s->job != NULL)
        slot_use(s);
    else
        slot_next(s);
}

static void on_greeting(struct slot *s, int code, const char *text)
{
    if (code / 100 == 2)
        slot_remember_success(s);
    if (code / 100 == 2 && slot_by_helo(s)) {
        s->phase = PHASE_HELO;
        say_hello(s, "HELO");
        return;
    }
    if (code / 100 == 2) {
        s->phase = PHASE_EHLO;
        say_hello(s, s->hop.kind == NEXT_HOP_LMTP ? "LHLO" : "EHLO");
        return;
    }
    slot_lost(s, text); /* RFC 5321 5.1: another address may take it; 554 too, as it speaks for this host only */
}

static void on_hello(struct slot *s, int code, const char *text)
{
    if (code / 100 == 2) {
        slot_ready(s);
    } else if (s->phase == PHASE_EHLO && code / 100 == 5 && s->hop.kind != NEXT_HOP_LMTP) {
        s->phase = PHASE_HELO;
        say_hello(s, "HELO");
    } else {
        slot_lost(s, text);
    }
}

void slot_tls_ready(struct slot *s)
{
    smtp_reply_begin(&s->parser); /* X2 */
    s->phase = PHASE_EHLO;
    say_hello(s, s->hop.kind == NEXT_HOP_LMTP ? "LHLO" : "EHLO");
}

void slot_reply(struct slot *s, int code, const char *text, bool more)
{
    switch (s->phase) {
    case PHASE_GREETING:
        on_greeting(s, code, text);
        break;
    case PHASE_EHLO:
    case PHASE_HELO:
        on_hello(s, code, text);
        break;
    case PHASE_STARTTLS:
        slot_starttls_reply(s, code, text, more);
        break;
    case PHASE_LOGIN:
        slot_login_reply(s, code, text);
        break;
    case PHASE_MAIL:
    case PHASE_RCPT:
    case PHASE_DATA:
    case PHASE_BODY:
    case PHASE_QUEUE:
    case PHASE_DOT:
        transaction_reply(s, code, text);
        break;
    case PHASE_RSET:
        on_reset(s, code);
        break;
    case PHASE_SCAN: /* it ends the session before it was told anything */
        slot_lost(s, text);
        break;
    case PHASE_TLS:
    case PHASE_SECURE:
    case PHASE_IDLE: /* "421 idle for too long": the server ends it */
    case PHASE_QUIT:
    case PHASE_NONE:
    case PHASE_RESOLVE:
    case PHASE_CONNECT:
    case PHASE_CLOSING:
        slot_close(s, false);
        break;
    }
}

void slot_ended(struct slot *s, int status)
{
    const char *why = status == UV_EOF ? "connection closed by the next hop" : uv_strerror(status);
    if (s->phase == PHASE_EHLO && s->hop.kind != NEXT_HOP_LMTP && s->tls == NULL) {
        /* It may be overloaded or start again: EHLO once more. Old servers, and boxes before servers, end every such
         * session: then it is HELO, in plain text. */
        if (++s->ehlo_ended == DELIVERY_EHLOS)
            log_event(LOG_WARN, "helo_fallback", LOG_S("next_hop", s->next_hop), LOG_S("peer", s->peer),
                      LOG_S("reason", why));
        uv_timer_stop(&s->timer);
        close_tcp(s, false); /* try_next follows */
        return;
    }
    slot_lost(s, why);
}

/* ---- connecting ---- */

static void on_connected(uv_connect_t *req, int status)
{
    struct slot *s = req->data;
    if (status == UV_ECANCELED)
        return; /* its handle is being closed: on_tcp_closed goes on, perhaps with the next address */
    if (status < 0) {
        s->connect_error = status;
        slot_lost(s, uv_strerror(status));
        return;
    }
    s->phase = PHASE_GREETING;
    uv_tcp_nodelay(&s->tcp, 1);
    slot_timer(s, slot_timeout_ms(s));
    slot_read(s);
}

void slot_dial(struct slot *s)
{
    const struct resolved_address *a = &s->resolution.list[s->address];
    s->phase = PHASE_CONNECT;
    smtp_capabilities_clear(&s->can);
    s->messages = 0;
    s->writes = 0;
    s->connect_error = 0;
    s->tcp_open = true;
    atomic_fetch_add(&s->d->w->counters->connections_out_open, 1);
    s->connect.data = s;
    slot_timer(s, slot_timeout_ms(s));
    int rc = slot_open_socket(s, &a->address.any);
    s->source_failed = rc != 0;
    if (rc == 0)
        rc = uv_tcp_connect(&s->connect, &s->tcp, &a->address.any, on_connected);
    s->connect_error = rc;
    if (rc != 0)
        slot_lost(s, uv_strerror(rc));
}

/* ---- a connection that fails ---- */

static bool greeted(const struct slot *s)
{
    switch (s->phase) {
    case PHASE_RESOLVE:
    case PHASE_SECURE:
    case PHASE_CONNECT:
    case PHASE_GREETING:
    case PHASE_EHLO:
    case PHASE_HELO:
    case PHASE_STARTTLS:
    case PHASE_TLS:
    case PHASE_LOGIN:
        return false;
    default:
        return true;
    }
}

/* The same address again, or the next. */
static void reconnect(struct slot *s)
{
    uv_timer_stop(&s->timer);
    if (s->tcp_open)
        close_tcp(s, false); /* try_next follows when the descriptor is closed */
    else
        slot_try_next(s);
}

bool slot_fresh(const struct slot *s)
{
    return s->messages == 0 || s->job->answered || s->job->dot_written;
}

void slot_again(struct slot *s)
{
    job_rewind(s);
    slot_close(s, true);
}

/* No address could be used. What only this message demanded says nothing about the others of the next hop. */
static void no_address(struct slot *s, const char *why)
{
    const char *status = s->secure.status != NULL ? s->secure.status : "4.4.1";
    bool permanent = status[0] == '5' && !s->secure.temporary;
    bool unreached = !slot_requires_tls(s);

    job_fail(s, permanent, status[0] == '5' && !permanent ? "4.7.0" : status, unreached, "%s: %s",
             s->peer[0] != 0 ? s->peer : s->next_hop, why);
    s->job->avoid_node = s->phase == PHASE_CONNECT;
    job_finish(s);
    if (unreached)
        slot_release_queued(s, "next hop unreachable");
    slot_close(s, true);
}

/* In the middle of a transaction. */
static void break_off(struct slot *s, const char *what, const char *why)
{
    const char *when = s->job->dot_written ? "after the final dot, before its reply (possibly delivered)"
                                           : "before the end of the transaction";
    job_fail(s, false, "4.4.2", false, "%s: %s %s: %s", s->peer, what, when, why);
    job_tell_doubt(s);
    job_finish(s);
    slot_close(s, true);
}

void slot_lost(struct slot *s, const char *why)
{
    struct job *j = s->job;

    if (s->phase == PHASE_CLOSING || s->phase == PHASE_NONE)
        return;
    slot_remember_failure(s);
    if (j == NULL) {
        slot_close(s, true);
    } else if (!greeted(s) && slot_tls_fallback(s, why)) {
        reconnect(s);
    } else if (!greeted(s) && (s->address + 1 < s->resolution.n || s->hop_at + 1 < s->n_hop_order)) {
        s->secure.temporary = s->secure.temporary || s->secure.status == NULL || s->secure.status[0] != '5';
        s->address++;
        s->ehlo_ended = 0;
        slot_secure_forget(s);
        reconnect(s);
    } else if (!greeted(s)) {
        no_address(s, why);
    } else if (!slot_fresh(s)) {
        slot_again(s);
    } else {
        break_off(s, "connection lost", why);
    }
}

bool slot_overdue(const struct slot *s)
{
    const struct job *j = s->job;
    return j != NULL && mr_boot_ns(&mr_clock_real) >= (j->dot_written ? j->a->end_ns : j->a->deadline_ns);
}

void slot_give_up(struct slot *s)
{
    const struct job *j = s->job;
    uint64_t minute_ns = 60 * MR_NS_PER_S, until_ns = j->dot_written ? j->a->end_ns : j->a->deadline_ns;
    unsigned minutes = until_ns > j->given_ns ? (unsigned)((until_ns - j->given_ns + minute_ns / 2) / minute_ns) : 0;
    char why[64];

    (void)snprintf(why, sizeof(why), "took longer than %u minutes", minutes);
    if (greeted(s)) {
        break_off(s, "given up", why);
    } else {
        s->secure.temporary = true; /* not all addresses were tried */
        no_address(s, why);
    }
}
