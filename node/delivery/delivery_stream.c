/* The bytes of a slot's connection, plain or within TLS.
 *
 * Happy path: slot_write -> (TLS) -> socket; socket -> on_read -> (TLS) -> whole replies -> slot_reply.
 * Failure: a write that fails is found by reading, an end of the connection goes to slot_ended. */
#include "node/delivery/delivery_internal.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

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

/* ---- reading ---- */

static void on_reply_line(void *arg, unsigned number, const char *text, size_t len)
{
    struct slot *s = arg;
    if (s->phase == PHASE_EHLO && number > 0)
        smtp_capabilities_line(&s->can, text, len);
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
        slot_reply(s, code, text, n > 0);
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
    if (n < 0)
        slot_ended(s, (int)n);
    else if (s->tls != NULL)
        read_tls(s, buffer->base, (size_t)n);
    else
        read_replies(s, buffer->base, (size_t)n);
}

void slot_read(struct slot *s)
{
    smtp_reply_begin(&s->parser);
    s->parser.on_line = on_reply_line;
    s->parser.arg = s;
    uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
}
