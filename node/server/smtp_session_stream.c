/* smtp_session_stream.c - bytes in and out of one connection: replies gathered and written once, commands and data
 * looked at as far as they may be, the rest kept. A plain session's bytes are looked at where they were read; with TLS
 * they take the way through smtp_session_tls.c and come back as plain text. */
#include "node/server/smtp_session_internal.h"

#include "node/tls/tls.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* ---- output ---- */

void smtp_session_reply(struct smtp_session *s, const struct smtp_reply *reply)
{
    struct smtp_server *server = s->server;

    /* flush keeps SMTP_MAX_REPLY free for each command; a refusal and a 421 behind it are two lines. */
    server->out_len += smtp_reply_write(server->out + server->out_len, sizeof(server->out) - server->out_len, reply);
}

void smtp_session_challenge(struct smtp_session *s, const char *base64)
{
    struct smtp_server *server = s->server;
    int n = snprintf(server->out + server->out_len, sizeof(server->out) - server->out_len, "334 %s\r\n", base64);

    mr_assert(n > 0 && (size_t)n < sizeof(server->out) - server->out_len);
    server->out_len += (size_t)n;
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
        smtp_session_drop(s);
        return;
    }
    s->active_ms = smtp_session_now_ms(s);
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
        smtp_session_drop(s);
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

/* Number of octets that the kernel took, or UV_EAGAIN or another error. */
static int try_write(struct smtp_session *s, char *bytes, size_t len)
{
    uv_buf_t buf = uv_buf_init(bytes, (unsigned)len);
    uv_os_fd_t fd;
    ssize_t n;

    if (!s->parting || uv_fileno((uv_handle_t *)&s->tcp, &fd) != 0)
        return uv_try_write((uv_stream_t *)&s->tcp, &buf, 1);
    /* The close that follows sends them, in one packet with the end of the connection. */
    n = send(fd, bytes, len, MSG_MORE | MSG_NOSIGNAL);
    if (n >= 0)
        return (int)n;
    return errno == EINTR ? UV_EAGAIN : uv_translate_sys_error(errno);
}

/* To the network as they are. */
static void send_bytes(struct smtp_session *s, char *bytes, size_t len)
{
    int n;

    if (s->writing) {
        queue_behind(s, bytes, len);
        return;
    }
    n = try_write(s, bytes, len);
    if (n == UV_EAGAIN)
        n = 0;
    if (n < 0)
        smtp_session_drop(s);
    else if ((size_t)n < len)
        write_rest(s, mr_memdup(bytes + n, len - (size_t)n), len - (size_t)n);
}

/* In the handshake no reply goes out: there is nobody yet to read it. */
static void flush_tls(struct smtp_session *s, const char *text, size_t len)
{
    uint8_t *bytes;

    (void)tls_write(s->tls, text, len);
    bytes = tls_take(s->tls, &len);
    if (bytes != NULL)
        send_bytes(s, (char *)bytes, len);
    free(bytes);
}

void smtp_stream_flush(struct smtp_session *s)
{
    struct smtp_server *server = s->server;
    size_t len = server->out_len;

    server->out_len = 0;
    if (s->tls != NULL)
        flush_tls(s, server->out, len);
    else if (len > 0)
        send_bytes(s, server->out, len);
}

/* ---- input ---- */

bool smtp_stream_can_consume(const struct smtp_session *s)
{
    return !s->writing && s->state != SMTP_WAIT && s->state != SMTP_CLOSING && !s->login.waiting &&
           !smtp_session_blocked(s);
}

/* RFC 4954 section 4 lets the lines of an exchange be much longer, AUTH with an initial response too. */
static size_t longest_line(const struct smtp_session *s, const uint8_t *p, size_t len)
{
    if (s->state == SMTP_LOGIN)
        return SASL_BASE64_MAX + 2;
    if (len >= 5 && strncasecmp((const char *)p, "AUTH ", 5) == 0)
        return SASL_BASE64_MAX + 64;
    return SMTP_MAX_COMMAND;
}

/* Eats one command line; 0: it is not whole yet. */
static size_t consume_command(struct smtp_session *s, const uint8_t *p, size_t len)
{
    static const struct smtp_reply too_long = {500, "5.5.2", "Line too long"};
    const uint8_t *lf = memchr(p, '\n', len);
    size_t n = lf != NULL ? (size_t)(lf - p) + 1 : len;
    size_t most = longest_line(s, p, len);

    if (lf == NULL) {
        if (s->line_ms == 0)
            s->line_ms = smtp_session_now_ms(s);
        if (!s->skipping && n < most)
            return 0;
        if (!s->skipping && s->state != SMTP_LOGIN && smtp_line_is_bdat((const char *)p, n))
            smtp_session_unreadable(s, (const char *)p, n, &too_long); /* the rest of the line is of no use */
        s->skipping = true;
        return n;
    }
    s->line_ms = 0;
    s->active_ms = smtp_session_now_ms(s);
    s->behind = len - n;
    if (s->state == SMTP_LOGIN && (s->skipping || n > most))
        smtp_login_line(s, NULL, 0);
    else if (s->skipping)
        smtp_session_refuse(s, &too_long);
    else if (n > most)
        smtp_session_unreadable(s, (const char *)p, n, &too_long);
    else if (n < 2 || p[n - 2] != '\r')
        smtp_session_unreadable(s, (const char *)p, n, SMTP_REPLY(500, "5.5.2", "Lines must end with CR LF"));
    else if (s->state == SMTP_LOGIN)
        smtp_login_line(s, (const char *)p, n - 2);
    else
        smtp_session_command(s, (const char *)p, n - 2);
    s->skipping = false;
    return n;
}

/* Whatever the state is for; 0: nothing more for now. */
static size_t consume_some(struct smtp_session *s, const uint8_t *p, size_t len)
{
    size_t n;

    if (!smtp_session_in_text(s))
        return consume_command(s, p, len);
    s->active_ms = smtp_session_now_ms(s);
    n = s->skip > 0 ? smtp_session_skip(s, len) : smtp_session_text(s, p, len);
    s->pace_octets += n;
    return n;
}

/* Looks at what was read, as far as it may now. */
static size_t consume(struct smtp_session *s, const uint8_t *p, size_t len)
{
    size_t used = 0;

    while (used < len && smtp_stream_can_consume(s)) {
        size_t n;

        if (s->state == SMTP_OPENING) {
            smtp_opening_early(s);
            break;
        }
        n = consume_some(s, p + used, len - used);

        if (n == 0)
            break;
        used += n;
        if (s->starttls) {
            smtp_tls_decide(s, len - used);
            return len;
        }
        if (s->server->out_len >= SMTP_OUT_HIGH - SMTP_MAX_REPLY)
            smtp_stream_flush(s);
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

void smtp_stream_consume_kept(struct smtp_session *s)
{
    size_t used = consume(s, s->in.bytes, s->in.len);

    s->in.len -= used;
    memmove(s->in.bytes, s->in.bytes + used, s->in.len);
    /* An idle session keeps no memory of what a busy one needed. */
    if (s->in.len == 0)
        smtp_stream_free(s);
}

void smtp_stream_free(struct smtp_session *s)
{
    free(s->in.bytes);
    s->in.bytes = NULL;
    s->in.len = s->in.cap = 0;
}

void smtp_stream_take(struct smtp_session *s, const uint8_t *p, size_t len)
{
    size_t used;

    if (s->in.len > 0) {
        keep(s, p, len);
        smtp_stream_consume_kept(s);
        return;
    }
    used = consume(s, p, len);
    if (used < len)
        keep(s, p + used, len - used);
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
    if (s->state == SMTP_WAIT) {
        /* It is kept until the answer was given, and nothing more is taken in. A client that has ended its side may
         * still wait for the answer: the end is met again after it. */
        smtp_stream_read_on(s, false);
        if (n < 0)
            return;
    }
    if (n < 0) {
        if (s->tls != NULL)
            smtp_tls_ended(s, NULL);
        else
            smtp_session_drop(s);
        return;
    }
    if (s->lingering)
        return;
    if (s->state == SMTP_OPENING && s->opening == OPENING_PROXY) {
        size_t used = smtp_opening_feed(s, p, (size_t)n);

        p += used;
        n -= (ssize_t)used;
        if (s->id == 0 || n == 0) {
            smtp_session_settle(s);
            return;
        }
    }
    if (s->tls != NULL)
        smtp_tls_feed(s, p, (size_t)n);
    else
        smtp_stream_take(s, p, (size_t)n);
    smtp_session_settle(s);
}

void smtp_stream_read_on(struct smtp_session *s, bool on)
{
    if (on == s->reading)
        return;
    s->reading = on;
    if (!on)
        uv_read_stop((uv_stream_t *)&s->tcp);
    else if (uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read) != 0)
        smtp_session_drop(s);
}
