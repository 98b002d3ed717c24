/* The connection of a slot: addresses one after the other until one greets; EHLO, or HELO where that is refused; the
 * end.
 *
 * Happy path: slot_connect -> lookup -> (demands: delivery_tls.c) -> connect -> greeting -> EHLO -> (STARTTLS, EHLO) ->
 * (login at a smarthost: delivery_login.c) -> idle or transaction.
 * Failure: the next address; when all have failed the job is deferred, and so is told that the next hop was not
 * reached. Everything that arrives goes through one place (on_read), every wait has a timer. */
#include "node/delivery_internal.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

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

void slot_idle(struct slot *s)
{
    const struct delivery *d = s->d;
    if (d->draining || d->closing)
        slot_quit(s);
    else
        slot_timer(s, d->w->config->delivery.idle_connection_ms);
}

/* ---- writing ---- */

struct write {
    uv_write_t req;
    struct slot *slot;
    char data[];
};

/* A write that failed is left to the reader: what the server said before it closed (552, 421) is still to be read, and
 * behind it the end of the connection. */
static void on_written(uv_write_t *req, int status)
{
    struct write *w = MR_CONTAINER(req, struct write, req);
    struct slot *s = w->slot;
    free(w);
    s->writes--;
    if (status == 0 && s->writes == 0 && s->phase == PHASE_BODY)
        body_pump(s);
}

/* Most writes go into the socket's buffer at once; only what does not is kept. */
static void write_socket(struct slot *s, const char *data, size_t len)
{
    uv_buf_t buffer = uv_buf_init((char *)(uintptr_t)data, (unsigned)len);
    int n = s->writes > 0 ? UV_EAGAIN : uv_try_write((uv_stream_t *)&s->tcp, &buffer, 1);
    if (n < 0)
        n = 0; /* EAGAIN, or an error that the write below tells again */
    if ((size_t)n == len)
        return;
    size_t rest = len - (size_t)n;
    struct write *w = mr_malloc(sizeof(*w) + rest);
    w->slot = s;
    memcpy(w->data, data + n, rest);
    buffer = uv_buf_init(w->data, (unsigned)rest);
    s->writes++;
    if (uv_write(&w->req, (uv_stream_t *)&s->tcp, &buffer, 1, on_written) != 0) {
        s->writes--;
        free(w);
        /* Reading finds the broken connection. */
    }
}

void slot_flush_tls(struct slot *s)
{
    size_t len;
    uint8_t *bytes = tls_take(s->tls, &len);
    if (len > 0)
        write_socket(s, (const char *)bytes, len);
    free(bytes);
}

void slot_write(struct slot *s, const char *data, size_t len)
{
    if (s->tls == NULL) {
        write_socket(s, data, len);
        return;
    }
    enum { AT_ONCE = 64 * 1024 }; /* thousands of RCPT, or a piece that grew much, are more than TLS keeps at a time */
    for (size_t n; len > 0; data += n, len -= n) {
        n = len < AT_ONCE ? len : AT_ONCE;
        (void)tls_write(s->tls, data, n); /* what breaks here is found by reading, as with the socket */
        slot_flush_tls(s);
    }
}

static void say_hello(struct slot *s, const char *verb)
{
    char line[400];
    smtp_capabilities_clear(&s->can);
    int n = snprintf(line, sizeof(line), "%s %s\r\n", verb, s->d->w->config->delivery.hostname);
    slot_write(s, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
    slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
}

/* ---- reading ---- */

static void on_reply_line(void *arg, unsigned number, const char *text, size_t len)
{
    struct slot *s = arg;
    if (s->phase == PHASE_EHLO && number > 0)
        smtp_capabilities_line(&s->can, text, len);
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
    if (code / 100 == 2 && s->helo_only) {
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

/* more: bytes stand behind this reply. */
static void on_reply(struct slot *s, int code, const char *text, bool more)
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

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct slot *s = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(s->read_buffer, sizeof(s->read_buffer));
}

static bool reading(const struct slot *s)
{
    return s->tcp_open && s->phase != PHASE_CLOSING && !uv_is_closing((const uv_handle_t *)&s->tcp);
}

/* Text of the next hop, plain or out of TLS; stops where another layer begins. */
static void read_replies(struct slot *s, const char *data, size_t n)
{
    const struct tls *layer = s->tls;
    while (n > 0 && reading(s) && s->tls == layer) {
        size_t used;
        int rc = smtp_reply_feed(&s->parser, data, n, &used);
        data += used;
        n -= used;
        if (rc == MR_MORE)
            return;
        if (rc != 0) {
            slot_lost(s, "the next hop does not speak SMTP");
            return;
        }
        int code = s->parser.code;
        char text[REPLY_TEXT + 1];
        memcpy(text, s->parser.text, s->parser.text_len + 1);
        smtp_reply_begin(&s->parser);
        on_reply(s, code, text, n > 0);
    }
}

static void read_tls(struct slot *s, const char *data, size_t len)
{
    char text[4096];
    size_t n;

    tls_feed(s->tls, data, len);
    slot_tls_progress(s);
    while (reading(s) && (n = tls_read(s->tls, text, sizeof(text))) > 0)
        read_replies(s, text, n);
    if (!reading(s))
        return;
    slot_flush_tls(s);
    if (tls_state(s->tls) == TLS_ENDED)
        slot_lost(s, "connection closed by the next hop");
    else if (tls_state(s->tls) == TLS_BROKEN)
        slot_lost(s, tls_error(s->tls));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
    struct slot *s = stream->data;

    if (n == 0 || s->phase == PHASE_CLOSING)
        return;
    if (n < 0 && s->phase == PHASE_EHLO && s->hop.kind != NEXT_HOP_LMTP && !s->helo_only && s->tls == NULL) {
        /* Old servers, and boxes before servers, that end the session at EHLO: once more, with HELO. */
        s->helo_only = true;
        uv_timer_stop(&s->timer);
        close_tcp(s, false); /* try_next follows */
        return;
    }
    if (n < 0)
        slot_lost(s, n == UV_EOF ? "connection closed by the next hop" : uv_strerror((int)n));
    else if (s->tls != NULL)
        read_tls(s, buffer->base, (size_t)n);
    else
        read_replies(s, buffer->base, (size_t)n);
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
    smtp_reply_begin(&s->parser);
    s->parser.on_line = on_reply_line;
    s->parser.arg = s;
    slot_timer(s, slot_timeout_ms(s));
    uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
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

    job_fail(s, permanent, status[0] == '5' && !permanent ? "4.7.0" : status, unreached, "%s: %s", s->peer, why);
    s->job->avoid_node = s->phase == PHASE_CONNECT;
    job_finish(s);
    if (unreached)
        slot_release_queued(s, "next hop unreachable");
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
        s->helo_only = false;
        slot_secure_forget(s);
        reconnect(s);
    } else if (!greeted(s)) {
        no_address(s, why);
    } else if (!slot_fresh(s)) {
        slot_again(s);
    } else {
        const char *when = j->dot_written ? "after the final dot, before its reply (possibly delivered)"
                                          : "before the end of the transaction";
        job_fail(s, false, "4.4.2", false, "%s: connection lost %s: %s", s->peer, when, why);
        job_tell_doubt(s);
        job_finish(s);
        slot_close(s, true);
    }
}
