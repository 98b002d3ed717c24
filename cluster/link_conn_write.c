/* Bytes out. Frames are joined in a record's worth of staging, encrypted straight from the caller's memory where they
 * are larger, and OpenSSL's output goes by our own BIO into chunks that one write hands to the kernel. */
#include "cluster/link_conn_internal.h"

#include "cluster/tls_files.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/err.h>
#include <string.h>

static void out_append(struct link_conn *c, const uint8_t *bytes, size_t len)
{
    c->out_len += len;
    while (len > 0) {
        struct link_chunk *last = c->out_last;
        if (last == NULL || last->end == LINK_CHUNK) {
            last = link_env_chunk(c->env);
            if (c->out_last != NULL)
                c->out_last->next = last;
            else
                c->out = last;
            c->out_last = last;
        }
        size_t n = LINK_CHUNK - last->end < len ? LINK_CHUNK - last->end : len;
        memcpy(last->data + last->end, bytes, n);
        last->end += n;
        bytes += n;
        len -= n;
    }
}

static void out_drop_first(struct link_conn *c)
{
    struct link_chunk *chunk = c->out;
    c->out = chunk->next;
    if (c->out == NULL)
        c->out_last = NULL;
    link_env_chunk_free(c->env, chunk);
}

static void out_consume(struct link_conn *c, size_t len)
{
    mr_assert(len <= c->out_len);
    c->out_len -= len;
    c->written += len;
    while (len > 0) {
        size_t n = c->out->end - c->out->begin;
        if (len < n) {
            c->out->begin += len;
            return;
        }
        len -= n;
        out_drop_first(c);
    }
}

void link_conn_out_free(struct link_conn *c)
{
    while (c->out != NULL)
        out_drop_first(c);
}

/* ---- BIO: OpenSSL's side of the connection ---- */

static int bio_write(BIO *bio, const char *bytes, int len)
{
    struct link_conn *c = BIO_get_data(bio);
    if (len > 0)
        out_append(c, (const uint8_t *)bytes, (size_t)len);
    return len;
}

static int bio_read(BIO *bio, char *bytes, int len)
{
    struct link_conn *c = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (c->cipher_len == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t n = (size_t)len < c->cipher_len ? (size_t)len : c->cipher_len;
    memcpy(bytes, c->cipher, n);
    c->cipher += n;
    c->cipher_len -= n;
    return (int)n;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO_METHOD *link_conn_bio_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "link");
    if (method != NULL) {
        BIO_meth_set_write(method, bio_write);
        BIO_meth_set_read(method, bio_read);
        BIO_meth_set_ctrl(method, bio_ctrl);
    }
    return method;
}

BIO *link_conn_bio_new(struct link_conn *c)
{
    BIO *bio = BIO_new(c->env->bio_method);
    if (bio != NULL) {
        BIO_set_data(bio, c);
        BIO_set_init(bio, 1);
    }
    return bio;
}

/* ---- from frames to chunks ---- */

/* Our BIO takes everything, so this never waits. */
static void encrypt(struct link_conn *c, const uint8_t *bytes, size_t len)
{
    ERR_clear_error();
    while (len > 0 && c->state == CONN_OPEN) {
        size_t written = 0;
        if (SSL_write_ex(c->ssl, bytes, len, &written) != 1) {
            char text[160];
            tls_files_error(c->ssl, text, sizeof(text));
            link_conn_fail(c, "%s", text);
            return;
        }
        bytes += written;
        len -= written;
    }
}

static void encrypt_staged(struct link_conn *c)
{
    size_t len = c->staged_len;
    c->staged_len = 0;
    encrypt(c, c->staged, len);
}

static void put(struct link_conn *c, const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return;
    if (c->ssl == NULL) {
        out_append(c, bytes, len);
        return;
    }
    if (c->staged == NULL)
        c->staged = mr_malloc(LINK_RECORD);
    while (len > 0) {
        if (c->staged_len == 0 && len >= LINK_RECORD) {
            size_t whole = len - len % LINK_RECORD;
            encrypt(c, bytes, whole);
            bytes += whole;
            len -= whole;
            continue;
        }
        size_t n = LINK_RECORD - c->staged_len < len ? LINK_RECORD - c->staged_len : len;
        memcpy(c->staged + c->staged_len, bytes, n);
        c->staged_len += n;
        bytes += n;
        len -= n;
        if (c->staged_len == LINK_RECORD)
            encrypt_staged(c);
    }
}

void link_conn_send(struct link_conn *c, enum frame_type type, const void *meta, size_t meta_len,
                    const struct link_buffer *tail, unsigned n_tail, size_t tail_len)
{
    uint8_t header[FRAME_HEADER];
    if (c->state != CONN_OPEN || c->finish_reason != NULL)
        return;
    frame_encode_header(header, type, meta, (uint32_t)meta_len, (uint32_t)tail_len);
    put(c, header, sizeof(header));
    put(c, meta, meta_len);
    for (unsigned i = 0; i < n_tail; i++)
        put(c, tail[i].base, tail[i].len);
    if (c->out_len >= LINK_WRITE_NOW && c->write_len == 0)
        link_conn_flush(c);
    link_env_turn(c->env, &c->turn);
}

size_t link_conn_queued(const struct link_conn *c)
{
    return c->out_len + c->staged_len;
}

uint64_t link_conn_written(const struct link_conn *c)
{
    return c->written;
}

/* ---- from chunks to the kernel ---- */

static void on_write(uv_write_t *request, int status)
{
    struct link_conn *c = request->data;
    size_t len = c->write_len;
    c->write_len = 0;
    if (c->state == CONN_CLOSED)
        return; /* cancelled; the memory goes with the connection */
    if (status != 0) {
        link_conn_fail(c, "write: %s", uv_strerror(status));
        return;
    }
    out_consume(c, len);
    c->nudged = true;
    link_env_turn(c->env, &c->turn);
}

static unsigned gather(const struct link_conn *c, uv_buf_t bufs[LINK_WRITE_BUFFERS], size_t *len)
{
    unsigned n = 0;
    *len = 0;
    for (struct link_chunk *chunk = c->out; chunk != NULL && n < LINK_WRITE_BUFFERS; chunk = chunk->next) {
        size_t part = chunk->end - chunk->begin;
        bufs[n++] = uv_buf_init((char *)chunk->data + chunk->begin, (unsigned)part);
        *len += part;
    }
    return n;
}

void link_conn_flush(struct link_conn *c)
{
    uv_buf_t bufs[LINK_WRITE_BUFFERS];
    if (c->staged_len > 0 && c->state == CONN_OPEN)
        encrypt_staged(c);
    /* To one that failed only what TLS says about it is still told, and only to somebody who speaks TLS. */
    if (c->state == CONN_FAILED && (c->ssl == NULL || !c->spoke_tls))
        return;
    while (c->out != NULL && c->write_len == 0 && c->state != CONN_CLOSED) {
        size_t len;
        unsigned n = gather(c, bufs, &len);
        int rc = uv_try_write((uv_stream_t *)&c->tcp, bufs, n);
        if (rc > 0) {
            out_consume(c, (size_t)rc);
            c->nudged = true;
            continue;
        }
        if (c->state == CONN_FAILED)
            return;
        if (rc != UV_EAGAIN) {
            link_conn_fail(c, "write: %s", uv_strerror(rc));
            return;
        }
        c->write.data = c;
        rc = uv_write(&c->write, (uv_stream_t *)&c->tcp, bufs, n, on_write);
        if (rc != 0) {
            link_conn_fail(c, "write: %s", uv_strerror(rc));
            return;
        }
        c->write_len = len; /* the last chunk may grow meanwhile, behind what libuv was given */
    }
}
