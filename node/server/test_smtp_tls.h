/* test_smtp_tls.h - a client of the harness that speaks TLS, and a host that has certificates. */
#ifndef MR_SERVER_TEST_SMTP_TLS_H
#define MR_SERVER_TEST_SMTP_TLS_H

#include "node/server/test_smtp_harness.h"
#include "node/tls/test_tls_cert.h"
#include "node/tls/tls_server.h"

/* What the trace of a message says of it. */
#define USING "(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))"

/* The client's plain text lies in c.in. */
struct secure {
    struct client c;
    struct tls *t;
    bool socket_eof;
};

static struct {
    char dir[64];
    struct test_cert authority, mx, other, wild, client, stranger, expired;
    struct certificate_config more[2];
    SSL_CTX *ctx; /* of clients; verifies against the authority */
} pki;

static char *pki_file(const char *name)
{
    return mr_asprintf("%s/%s", pki.dir, name);
}

static void pki_write(const struct test_cert *c, const char *name)
{
    char *cert = mr_asprintf("%s/%s.pem", pki.dir, name), *key = mr_asprintf("%s/%s.key", pki.dir, name);

    test_cert_write(c, cert, key);
    free(cert);
    free(key);
}

static int pki_setup(void **state)
{
    (void)state;
    strcpy(pki.dir, "/tmp/mailraft-tls-XXXXXX");
    assert_non_null(mkdtemp(pki.dir));
    test_cert_make(&pki.authority, NULL, "Test CA", NULL, 86400);
    test_cert_make(&pki.mx, &pki.authority, "mx1.example.net", "DNS:mx1.example.net", 86400);
    test_cert_make(&pki.other, &pki.authority, "other", "DNS:Other.example,DNS:second.example", 86400);
    test_cert_make(&pki.wild, &pki.authority, "*.wild.example", NULL, 86400);
    test_cert_make(&pki.client, &pki.authority, "client.example", NULL, 86400);
    test_cert_make(&pki.stranger, NULL, "stranger.example", NULL, 86400);
    test_cert_make(&pki.expired, &pki.authority, "expired.example", NULL, -3600);
    pki_write(&pki.authority, "ca");
    pki_write(&pki.mx, "mx");
    pki_write(&pki.other, "other");
    pki_write(&pki.wild, "wild");
    pki_write(&pki.expired, "expired");
    pki.ctx = tls_context(false);
    assert_non_null(pki.ctx);
    test_cert_trust(&pki.authority, pki.ctx);
    SSL_CTX_set_verify(pki.ctx, SSL_VERIFY_PEER, NULL);
    return 0;
}

static int pki_teardown(void **state)
{
    static const char *const names[] = {"ca", "mx", "other", "wild", "expired"};
    char path[128];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s.pem", pki.dir, names[i]);
        assert_int_equal(unlink(path), 0);
        snprintf(path, sizeof(path), "%s/%s.key", pki.dir, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(pki.dir), 0);
    test_cert_free(&pki.authority);
    test_cert_free(&pki.mx);
    test_cert_free(&pki.other);
    test_cert_free(&pki.wild);
    test_cert_free(&pki.client);
    test_cert_free(&pki.stranger);
    test_cert_free(&pki.expired);
    SSL_CTX_free(pki.ctx);
    return 0;
}

/* ---- the host ---- */

static void host_free_tls(void)
{
    free(host.config.smtp.tls.cert);
    free(host.config.smtp.tls.key);
    free(host.config.smtp.tls.client_ca);
    host.config.smtp.tls.cert = host.config.smtp.tls.key = host.config.smtp.tls.client_ca = NULL;
}

static void host_configure_tls(enum listener_tls mode)
{
    host_configure();
    host.config.file = (char *)"test.yaml";
    host.listener.tls = mode;
    host.config.smtp.tls.cert = pki_file("mx.pem");
    host.config.smtp.tls.key = pki_file("mx.key");
}

static void host_load_tls(void)
{
    char error[500] = "";

    if (tls_server_open(&host.worker.tls, &host.config, error, sizeof(error)) != 0)
        fail_msg("%s", error);
}

static void host_start_tls(void)
{
    host_load_tls();
    host_start();
}

static void host_stop_tls(void)
{
    host_stop();
    tls_server_unref(host.worker.tls);
    host_free_tls();
}

/* ---- clients ---- */

static void secure_push(struct secure *c)
{
    size_t len;
    uint8_t *bytes = tls_take(c->t, &len);
    size_t at = 0;
    uint64_t since = uv_hrtime();

    while (at < len) {
        ssize_t n = send(c->c.fd, bytes + at, len - at, MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN)
            break; /* it has closed; what it said is read */
        if (n > 0)
            at += (size_t)n;
        turn();
        assert_true(uv_hrtime() - since < TEST_LIMIT_MS * 1000000ULL);
    }
    free(bytes);
}

static void secure_read(struct secure *c)
{
    char bytes[16384];
    ssize_t n = recv(c->c.fd, bytes, sizeof(bytes), 0);
    size_t got;

    if (n > 0)
        tls_feed(c->t, bytes, (size_t)n);
    else if (n == 0 || errno != EAGAIN)
        c->socket_eof = true;
    while ((got = tls_read(c->t, c->c.in + c->c.len, sizeof(c->c.in) - 1 - c->c.len)) > 0)
        c->c.len += got;
    c->c.in[c->c.len] = '\0';
    if (c->socket_eof)
        tls_eof(c->t);
    c->c.eof = c->socket_eof || tls_state(c->t) == TLS_ENDED;
    secure_push(c);
}

static bool secure_shaken(struct secure *c)
{
    secure_read(c);
    return tls_state(c->t) != TLS_HANDSHAKING;
}

/* On a connection that is open already: shakes hands, which may fail. server_name may be NULL. */
static void secure_shake(struct secure *c, const char *server_name, const struct test_cert *cert)
{
    c->t = tls_connect(pki.ctx, server_name);
    if (cert != NULL) {
        assert_int_equal(SSL_use_certificate(tls_ssl(c->t), cert->cert), 1);
        assert_int_equal(SSL_use_PrivateKey(tls_ssl(c->t), cert->key), 1);
    }
    tls_start(c->t);
    secure_push(c);
    WAIT_FOR(secure_shaken(c));
}

static void secure_expect_open(struct secure *c)
{
    if (tls_state(c->t) != TLS_OPEN)
        fail_msg("no TLS: %s", tls_error(c->t));
}

static void secure_close(struct secure *c)
{
    tls_free(c->t);
    c->t = NULL;
    client_close(&c->c);
}

static void secure_send(struct secure *c, const char *text)
{
    assert_true(tls_write(c->t, text, strlen(text)));
    secure_push(c);
}

static bool secure_has_line(struct secure *c)
{
    secure_read(c);
    return strstr(c->c.in, "\r\n") != NULL || c->c.eof;
}

static void secure_expect(struct secure *c, const char *start)
{
    char *end;

    WAIT_FOR(secure_has_line(c));
    end = strstr(c->c.in, "\r\n");
    if (end == NULL || strncmp(c->c.in, start, strlen(start)) != 0) {
        fail_msg("expected \"%s\", got \"%s\"%s", start, c->c.in, c->c.eof ? " and the end" : "");
        return;
    }
    c->c.len -= (size_t)(end + 2 - c->c.in);
    memmove(c->c.in, end + 2, c->c.len + 1);
}

static void secure_say(struct secure *c, const char *command, const char *expected)
{
    secure_send(c, command);
    secure_send(c, "\r\n");
    secure_expect(c, expected);
}

static bool secure_at_end(struct secure *c)
{
    secure_read(c);
    return c->socket_eof;
}

/* The server has said close_notify, and closed. */
static void secure_expect_end(struct secure *c)
{
    WAIT_FOR(secure_at_end(c));
    assert_string_equal(c->c.in, "");
    assert_int_equal(tls_state(c->t), TLS_ENDED);
    secure_close(c);
}

/* The lines of a reply, up to the last; does one of them say this? */
static bool secure_reply_has(struct secure *c, const char *command, const char *code, const char *word)
{
    char last[16];
    bool found = false, done = false;

    snprintf(last, sizeof(last), "%s ", code);
    if (c->t != NULL) {
        secure_send(c, command);
        secure_send(c, "\r\n");
    } else {
        client_send(&c->c, command);
        client_send(&c->c, "\r\n");
    }
    while (!done) {
        if (c->t != NULL)
            WAIT_FOR(secure_has_line(c));
        else
            WAIT_FOR(client_has_line(&c->c));
        assert_int_equal(strncmp(c->c.in, code, strlen(code)), 0);
        *strstr(c->c.in, "\r\n") = '\0';
        found = found || strcmp(c->c.in + 4, word) == 0;
        done = strncmp(c->c.in, last, strlen(last)) == 0;
        size_t n = strlen(c->c.in) + 2;
        c->c.len -= n;
        memmove(c->c.in, c->c.in + n, c->c.len + 1);
    }
    return found;
}

/* Up to the handshake's end. */
static void secure_starttls(struct secure *c, const struct test_cert *cert)
{
    memset(c, 0, sizeof(*c));
    client_open(&c->c);
    client_expect(&c->c, "220 ");
    assert_true(secure_reply_has(c, "EHLO client.example", "250", "STARTTLS"));
    client_say(&c->c, "STARTTLS", "220 2.0.0");
    assert_string_equal(c->c.in, "");
    secure_shake(c, "mx1.example.net", cert);
}

#endif
