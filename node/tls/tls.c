/* tls.c - OpenSSL between two buffers.
 *
 * Happy path: tls_start -> tls_feed (handshake) -> OPEN -> tls_feed, tls_read, tls_write ... -> tls_shutdown, tls_free.
 * Failure: any of OpenSSL's errors makes it BROKEN, with the text of the first; what OpenSSL wrote about it (an alert)
 * may still be sent. Our BIO takes what OpenSSL writes and gives it what was fed; it never waits. */
#include "node/tls/tls.h"

#include "cluster/tls_files.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

struct tls {
    SSL *ssl;
    enum tls_state state;
    bool shut;        /* close_notify was said */
    bool over_output; /* TLS_MAX_OUTPUT was reached */
    size_t handshake; /* bytes fed while shaking hands */
    uint8_t *in;      /* in[in_at..in_len): not looked at by OpenSSL */
    size_t in_at, in_len;
    uint8_t *out;
    size_t out_len, out_cap;
    SSL_SESSION *session; /* a client's newest */
    char *error;
};

/* Mozilla's intermediate list of 2024: forward secrecy and authenticated encryption only. TLS 1.3's are OpenSSL's. */
static const char ciphers[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
                              "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
                              "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
                              "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305";

/* ---- OpenSSL's side: the BIO ---- */

static int bio_write(BIO *bio, const char *bytes, int len)
{
    struct tls *t = BIO_get_data(bio);
    size_t n = len > 0 ? (size_t)len : 0;

    BIO_clear_retry_flags(bio);
    if (t->out_len + n > TLS_MAX_OUTPUT) {
        t->over_output = true;
        return -1;
    }
    if (t->out_len + n > t->out_cap) {
        size_t cap = t->out_cap * 2 > t->out_len + n ? t->out_cap * 2 : t->out_len + n;

        t->out = mr_realloc(t->out, cap);
        t->out_cap = cap;
    }
    memcpy(t->out + t->out_len, bytes, n);
    t->out_len += n;
    return len;
}

static int bio_read(BIO *bio, char *bytes, int len)
{
    struct tls *t = BIO_get_data(bio);
    size_t have = t->in_len - t->in_at;
    size_t n = (size_t)len < have ? (size_t)len : have;

    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(bytes, t->in + t->in_at, n);
    t->in_at += n;
    if (t->in_at == t->in_len) {
        free(t->in);
        t->in = NULL;
        t->in_at = t->in_len = 0;
    }
    return (int)n;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

/* One for the process, never changed once it is made. */
static BIO_METHOD *method;
static uv_once_t method_once = UV_ONCE_INIT;

static void make_method(void)
{
    method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "mailraft");
    if (method == NULL)
        mr_panic("out of memory for TLS");
    BIO_meth_set_write(method, bio_write);
    BIO_meth_set_read(method, bio_read);
    BIO_meth_set_ctrl(method, bio_ctrl);
}

/* ---- contexts ---- */

static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls *t = SSL_get_app_data(ssl);

    SSL_SESSION_free(t->session);
    t->session = session;
    return 1; /* the reference is ours */
}

SSL_CTX *tls_context(bool server)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

    if (ctx == NULL)
        return NULL;
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 || SSL_CTX_set_cipher_list(ctx, ciphers) != 1 ||
        (server && SSL_CTX_set_dh_auto(ctx, 1) != 1)) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    if (server) {
        /* Tickets only: the sessions of all workers that share the context, and no table of them. */
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(ctx, 1);
    } else {
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(ctx, on_new_session);
    }
    return ctx;
}

/* ---- life ---- */

static struct tls *new_tls(SSL_CTX *ctx)
{
    struct tls *t = mr_calloc(1, sizeof(*t));
    BIO *bio;

    uv_once(&method_once, make_method);
    t->ssl = SSL_new(ctx);
    bio = t->ssl != NULL ? BIO_new(method) : NULL;
    if (bio == NULL)
        mr_panic("out of memory for a TLS connection");
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    SSL_set_app_data(t->ssl, t);
    return t;
}

struct tls *tls_accept(SSL_CTX *ctx)
{
    struct tls *t = new_tls(ctx);

    SSL_set_accept_state(t->ssl);
    return t;
}

struct tls *tls_connect(SSL_CTX *ctx, const char *server_name)
{
    struct tls *t = new_tls(ctx);

    SSL_set_connect_state(t->ssl);
    if (server_name != NULL && SSL_set_tlsext_host_name(t->ssl, server_name) != 1)
        ERR_clear_error(); /* longer than SNI allows: it goes without */
    return t;
}

/* Without this OpenSSL spoils the session of a connection that ends without close_notify, as TLS 1.0 wanted. */
static void keep_session(struct tls *t)
{
    SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
}

void tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    if (t->state != TLS_BROKEN)
        keep_session(t);
    SSL_SESSION_free(t->session);
    SSL_free(t->ssl);
    free(t->in);
    free(t->out);
    free(t->error);
    free(t);
}

static void drop_input(struct tls *t)
{
    free(t->in);
    t->in = NULL;
    t->in_at = t->in_len = 0;
}

/* Takes over text. */
static void broken(struct tls *t, char *text)
{
    if (t->state == TLS_BROKEN) {
        free(text);
        return;
    }
    t->state = TLS_BROKEN;
    t->error = text;
    drop_input(t);
    if (t->over_output)
        t->out_len = 0;
}

/* Of a call that gave rc. Wanting input is no failure. */
static void look_at(struct tls *t, int rc)
{
    char text[200];
    int error = SSL_get_error(t->ssl, rc);

    if (error == SSL_ERROR_WANT_READ)
        return;
    if (error == SSL_ERROR_ZERO_RETURN) {
        t->state = TLS_ENDED;
        drop_input(t);
        return;
    }
    tls_files_error(t->ssl, text, sizeof(text));
    if (t->over_output)
        broken(t, mr_strdup("TLS: too much output waits"));
    else
        broken(t, mr_strdup(text));
}

static void handshake(struct tls *t)
{
    int rc;

    ERR_clear_error();
    rc = SSL_do_handshake(t->ssl);
    if (rc == 1)
        t->state = TLS_OPEN;
    else
        look_at(t, rc);
}

void tls_start(struct tls *t)
{
    mr_assert(t->state == TLS_HANDSHAKING && t->handshake == 0);
    if (!SSL_is_server(t->ssl))
        handshake(t);
}

enum tls_state tls_state(const struct tls *t)
{
    return t->state;
}

const char *tls_error(const struct tls *t)
{
    return t->error != NULL ? t->error : "";
}

SSL *tls_ssl(struct tls *t)
{
    return t->ssl;
}

/* ---- in ---- */

void tls_feed(struct tls *t, const void *bytes, size_t len)
{
    size_t have = t->in_len - t->in_at;

    if (len == 0 || t->state == TLS_ENDED || t->state == TLS_BROKEN)
        return;
    if (len > TLS_MAX_INPUT - have) {
        broken(t, mr_strdup("TLS: too much input waits"));
        return;
    }
    if (t->in_at > 0)
        memmove(t->in, t->in + t->in_at, have);
    t->in = mr_realloc(t->in, have + len);
    memcpy(t->in + have, bytes, len);
    t->in_at = 0;
    t->in_len = have + len;
    if (t->state != TLS_HANDSHAKING)
        return;
    /* A ClientHello, a ServerHello, an alert. */
    if (t->handshake == 0 && t->in[0] != SSL3_RT_HANDSHAKE && t->in[0] != SSL3_RT_ALERT) {
        t->out_len = 0; /* nothing more is said to it */
        broken(t, mr_strdup("the other side does not speak TLS"));
        return;
    }
    t->handshake += len;
    handshake(t);
    if (t->state == TLS_HANDSHAKING && t->handshake > TLS_MAX_HANDSHAKE)
        broken(t, mr_strdup("TLS: the handshake is too long"));
}

void tls_eof(struct tls *t)
{
    if (t->state == TLS_HANDSHAKING)
        broken(t, mr_strdup("the connection ended in the TLS handshake"));
    if (t->state != TLS_OPEN)
        return;
    keep_session(t);
    broken(t, mr_strdup("the connection ended without TLS close_notify"));
}

size_t tls_read(struct tls *t, void *out, size_t len)
{
    size_t got = 0;
    int rc;

    if (t->state != TLS_OPEN || len == 0)
        return 0;
    ERR_clear_error();
    rc = SSL_read_ex(t->ssl, out, len, &got);
    if (rc == 1)
        return got;
    look_at(t, rc);
    return 0;
}

size_t tls_unread(const struct tls *t)
{
    return t->in_len - t->in_at + (size_t)SSL_pending(t->ssl);
}

/* ---- out ---- */

bool tls_write(struct tls *t, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;

    while (len > 0 && (t->state == TLS_OPEN || t->state == TLS_ENDED) && !t->shut) {
        size_t written = 0;
        int rc;

        ERR_clear_error();
        rc = SSL_write_ex(t->ssl, p, len, &written);
        if (rc != 1) {
            look_at(t, rc);
            if (t->state != TLS_BROKEN) /* our BIO takes everything: there is nothing to wait for */
                broken(t, mr_strdup("TLS: cannot write now"));
            break;
        }
        p += written;
        len -= written;
    }
    return t->state != TLS_BROKEN;
}

void tls_shutdown(struct tls *t)
{
    if (t->shut || (t->state != TLS_OPEN && t->state != TLS_ENDED))
        return;
    t->shut = true;
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl);
    ERR_clear_error();
}

uint8_t *tls_take(struct tls *t, size_t *len)
{
    uint8_t *out = t->out_len > 0 ? t->out : NULL;

    *len = t->out_len;
    if (out == NULL)
        free(t->out);
    t->out = NULL;
    t->out_len = t->out_cap = 0;
    return out;
}

size_t tls_waiting(const struct tls *t)
{
    return t->out_len;
}

/* ---- after the handshake ---- */

const char *tls_version(const struct tls *t)
{
    return SSL_get_version(t->ssl);
}

const char *tls_cipher(const struct tls *t)
{
    return SSL_get_cipher_name(t->ssl);
}

bool tls_resumed(const struct tls *t)
{
    return SSL_session_reused(t->ssl) == 1;
}

const char *tls_server_name(const struct tls *t)
{
    return SSL_get_servername(t->ssl, TLSEXT_NAMETYPE_host_name);
}

const char *tls_comment(const struct tls *t, char out[TLS_MAX_COMMENT])
{
    int of = 0;
    int bits = SSL_get_cipher_bits(t->ssl, &of);

    (void)snprintf(out, TLS_MAX_COMMENT, "(using %s with cipher %s (%d/%d bits))", tls_version(t), tls_cipher(t), bits,
                   of);
    return out;
}

X509 *tls_peer(const struct tls *t)
{
    return SSL_get0_peer_certificate(t->ssl);
}

bool tls_peer_verified(const struct tls *t)
{
    return tls_peer(t) != NULL && SSL_get_verify_result(t->ssl) == X509_V_OK;
}

const char *tls_peer_name(const struct tls *t, char *out, size_t len)
{
    X509 *cert = tls_peer(t);

    if (len > 0)
        out[0] = '\0';
    if (cert != NULL && len > 0)
        X509_NAME_oneline(X509_get_subject_name(cert), out, (int)len);
    return out;
}

bool tls_peer_fingerprint(const struct tls *t, uint8_t out[TLS_FINGERPRINT])
{
    const X509 *cert = tls_peer(t);
    unsigned len = 0;

    return cert != NULL && X509_digest(cert, EVP_sha256(), out, &len) == 1 && len == TLS_FINGERPRINT;
}

/* ---- channel binding ---- */

static bool exporter(const struct tls *t, uint8_t out[TLS_MAX_BINDING], size_t *len)
{
    static const char label[] = "EXPORTER-Channel-Binding";

    *len = 32;
    return SSL_export_keying_material(t->ssl, out, *len, label, sizeof(label) - 1, (const uint8_t *)"", 0, 1) == 1;
}

/* RFC 5929 section 3.1: the first Finished message of the handshake, the client's in a full one, the server's in one
 * that resumes. */
static bool unique(const struct tls *t, uint8_t out[TLS_MAX_BINDING], size_t *len)
{
    bool ours = SSL_is_server(t->ssl) == tls_resumed(t);

    *len = ours ? SSL_get_finished(t->ssl, out, TLS_MAX_BINDING) : SSL_get_peer_finished(t->ssl, out, TLS_MAX_BINDING);
    return *len > 0 && *len <= TLS_MAX_BINDING;
}

int tls_channel_binding(const struct tls *t, enum tls_binding type, uint8_t out[TLS_MAX_BINDING], size_t *len)
{
    bool v13 = SSL_version(t->ssl) == TLS1_3_VERSION;
    /* Without it two connections can be made to have the same secrets (RFC 7627). */
    bool extended = v13 || SSL_get_extms_support(t->ssl) == 1;
    bool found = false;

    if (t->state == TLS_OPEN) {
        ERR_clear_error();
        if (type == TLS_BINDING_EXPORTER)
            found = extended && exporter(t, out, len);
        else
            found = !v13 && extended && unique(t, out, len);
        ERR_clear_error();
    }
    return found ? 0 : MR_NOTFOUND;
}

/* ---- a client's sessions ---- */

void tls_offer_session(struct tls *t, SSL_SESSION *session)
{
    if (SSL_set_session(t->ssl, session) != 1)
        ERR_clear_error(); /* a full handshake does as well */
}

SSL_SESSION *tls_take_session(struct tls *t)
{
    SSL_SESSION *session = t->session;

    t->session = NULL;
    if (session != NULL && SSL_SESSION_is_resumable(session) != 1) {
        SSL_SESSION_free(session);
        session = NULL;
    }
    return session;
}
