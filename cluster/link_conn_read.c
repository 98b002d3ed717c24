/* Bytes in: plain ones are read straight to where frames are parsed, TLS's through the shared buffer and OpenSSL. */
#include "cluster/link_conn_internal.h"

#include "cluster/tls_files.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

/* Room at the end of `in` for the rest of the frame at its front, and not less than a decent read. */
static void reserve(struct link_conn *c)
{
    size_t cap = c->in_len + LINK_IN_SPACE;
    if (c->in_need > cap)
        cap = c->in_need;
    if (cap <= c->in_cap)
        return;
    c->in = mr_realloc(c->in, cap);
    c->in_cap = cap;
}

static size_t max_frame(const struct link_conn *c)
{
    return c->trusted ? (size_t)FRAME_HEADER + FRAME_MAX_META + FRAME_MAX_TAIL
                      : (size_t)FRAME_HEADER + LINK_UNTRUSTED_META;
}

/* One frame at bytes[0..len): its length, 0 when it is not complete, negative when the connection has failed. */
static ssize_t parse_one(struct link_conn *c, const uint8_t *bytes, size_t len)
{
    struct frame_header h;
    int rc = frame_decode_header(bytes, len, &h);
    c->in_need = 0;
    if (rc == MR_MORE)
        return 0;
    size_t total = FRAME_HEADER;
    if (rc == 0) {
        total += (size_t)h.meta_len + h.tail_len;
        if (total > max_frame(c))
            rc = MR_LIMIT;
    }
    if (rc == 0 && len < total) {
        c->in_need = total;
        return 0;
    }
    if (rc == 0)
        rc = frame_check_meta(bytes, &h, bytes + FRAME_HEADER);
    if (rc != 0) {
        link_conn_fail(c, "malformed frame: %s", mr_strerror(rc));
        return rc;
    }
    const uint8_t *meta = bytes + FRAME_HEADER;
    rc = c->events->frame(c, &h, meta, meta + h.meta_len);
    if (rc < 0) {
        link_conn_fail(c, "malformed frame of type %u: %s", h.type, mr_strerror(rc));
        return rc;
    }
    return (ssize_t)total;
}

static void parse(struct link_conn *c)
{
    size_t at = 0;
    while (c->state == CONN_OPEN && c->finish_reason == NULL) {
        if (c->in_len - at < c->in_need)
            break; /* known to be incomplete */
        ssize_t used = parse_one(c, c->in + at, c->in_len - at);
        if (used <= 0)
            break;
        at += (size_t)used;
    }
    if (c->finish_reason != NULL)
        at = c->in_len; /* nobody reads any more */
    c->in_len -= at;
    if (c->in_len > 0 && at > 0)
        memmove(c->in, c->in + at, c->in_len);
    if (c->in_len == 0 && c->in_cap > LINK_IN_KEEP) {
        free(c->in);
        c->in = NULL;
        c->in_cap = 0;
    }
}

static void tls_failed(struct link_conn *c, int error)
{
    char text[160];
    if (error == SSL_ERROR_ZERO_RETURN) {
        link_conn_fail(c, "closed by the other side");
        return;
    }
    tls_files_error(c->ssl, text, sizeof(text));
    link_conn_fail(c, "%s", text);
}

bool link_conn_handshake(struct link_conn *c)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(c->ssl);
    link_env_turn(c->env, &c->turn); /* it may have written */
    if (rc == 1) {
        link_conn_opened(c);
        return c->state == CONN_OPEN;
    }
    int error = SSL_get_error(c->ssl, rc);
    if (error != SSL_ERROR_WANT_READ)
        tls_failed(c, error);
    return false;
}

static void read_tls(struct link_conn *c, const uint8_t *bytes, size_t len)
{
    if (len > 0 && !c->spoke_tls && c->state == CONN_HANDSHAKE)
        c->spoke_tls = bytes[0] == SSL3_RT_HANDSHAKE;
    c->cipher = bytes;
    c->cipher_len = len;
    if (c->state == CONN_HANDSHAKE && !link_conn_handshake(c))
        return;
    while (c->state == CONN_OPEN) {
        size_t got;
        reserve(c);
        ERR_clear_error();
        int rc = SSL_read_ex(c->ssl, c->in + c->in_len, c->in_cap - c->in_len, &got);
        if (rc == 1) {
            c->in_len += got;
            parse(c);
            continue;
        }
        int error = SSL_get_error(c->ssl, rc);
        if (error != SSL_ERROR_WANT_READ)
            tls_failed(c, error);
        break;
    }
    if (c->cipher_len > 0)
        link_conn_fail(c, "TLS: input left over"); /* it wants more although there is more: not to be waited for */
    c->cipher_len = 0;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct link_conn *c = handle->data;
    (void)suggested;
    if (c->ssl != NULL) {
        *buf = uv_buf_init((char *)c->env->read_buffer, LINK_READ_BUFFER);
        return;
    }
    reserve(c);
    size_t room = c->in_cap - c->in_len;
    *buf = uv_buf_init((char *)c->in + c->in_len, (unsigned)room);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct link_conn *c = stream->data;
    if (c->state != CONN_HANDSHAKE && c->state != CONN_OPEN)
        return;
    if (n < 0) {
        link_conn_fail(c, "%s", n == UV_EOF ? "closed by the other side" : uv_strerror((int)n));
        return;
    }
    if (n == 0)
        return;
    if (c->ssl != NULL) {
        read_tls(c, (const uint8_t *)buf->base, (size_t)n);
    } else {
        c->in_len += (size_t)n;
        parse(c);
    }
}

void link_conn_read_start(struct link_conn *c)
{
    int rc = uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    if (rc != 0)
        link_conn_fail(c, "read: %s", uv_strerror(rc));
}
