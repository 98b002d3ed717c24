/* test_tls.c - both ends of a TLS connection in memory. */
#include "node/tls/test_tls_cert.h"
#include "node/tls/tls.h"
#include "node/tls/tls_tickets.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

enum { BIG = 300 << 10 };

static struct test_cert authority, server_cert, client_cert;
static SSL_CTX *server_ctx, *client_ctx;

static int setup(void **state)
{
    (void)state;
    test_cert_make(&authority, NULL, "Test CA", NULL, 86400);
    test_cert_make(&server_cert, &authority, "mx.example", "DNS:mx.example", 86400);
    test_cert_make(&client_cert, &authority, "client.example", "DNS:client.example", 86400);
    server_ctx = tls_context(true);
    client_ctx = tls_context(false);
    assert_true(server_ctx != NULL && client_ctx != NULL);
    test_cert_use(&server_cert, server_ctx);
    test_cert_trust(&authority, server_ctx);
    test_cert_trust(&authority, client_ctx);
    SSL_CTX_set_verify(client_ctx, SSL_VERIFY_PEER, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client_ctx);
    test_cert_free(&authority);
    test_cert_free(&server_cert);
    test_cert_free(&client_cert);
    return 0;
}

/* What one has to say goes to the other, in pieces of this size. */
static bool carry(struct tls *from, struct tls *to, size_t piece)
{
    size_t len;
    uint8_t *bytes = tls_take(from, &len);

    for (size_t at = 0; at < len; at += piece)
        tls_feed(to, bytes + at, len - at < piece ? len - at : piece);
    free(bytes);
    return len > 0;
}

static void shake(struct tls *server, struct tls *client, size_t piece)
{
    tls_start(server);
    tls_start(client);
    while (carry(client, server, piece) || carry(server, client, piece))
        continue;
}

static void open_pair(struct tls **server, struct tls **client, size_t piece)
{
    *server = tls_accept(server_ctx);
    *client = tls_connect(client_ctx, "mx.example");
    assert_int_equal(SSL_set1_host(tls_ssl(*client), "mx.example"), 1);
    shake(*server, *client, piece);
    assert_int_equal(tls_state(*server), TLS_OPEN);
    assert_int_equal(tls_state(*client), TLS_OPEN);
}

static void expect_read(struct tls *t, const char *text)
{
    char got[4096];
    size_t len = 0, n;

    while ((n = tls_read(t, got + len, sizeof(got) - len)) > 0)
        len += n;
    assert_int_equal(len, strlen(text));
    assert_memory_equal(got, text, len);
}

static void talk(size_t piece)
{
    struct tls *server, *client;
    char comment[TLS_MAX_COMMENT], name[64];

    open_pair(&server, &client, piece);
    assert_string_equal(tls_version(server), "TLSv1.3");
    assert_string_equal(tls_comment(server, comment),
                        "(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))");
    assert_string_equal(tls_server_name(server), "mx.example");
    assert_null(tls_peer(server));
    assert_false(tls_peer_verified(server));
    assert_true(tls_peer_verified(client));
    assert_string_equal(tls_peer_name(client, name, sizeof(name)), "/CN=mx.example");
    assert_true(tls_write(client, "EHLO a\r\n", 8));
    assert_true(tls_write(client, "", 0));
    carry(client, server, piece);
    expect_read(server, "EHLO a\r\n");
    assert_int_equal(tls_unread(server), 0);
    assert_true(tls_write(server, "250 b\r\n", 7));
    carry(server, client, piece);
    expect_read(client, "250 b\r\n");
    tls_shutdown(client);
    tls_shutdown(client);
    carry(client, server, piece);
    expect_read(server, "");
    assert_int_equal(tls_state(server), TLS_ENDED);
    assert_true(tls_write(server, "bye", 3)); /* one side's end is not the other's */
    tls_shutdown(server);
    carry(server, client, piece);
    expect_read(client, "bye");
    expect_read(client, "");
    assert_int_equal(tls_state(client), TLS_ENDED);
    tls_eof(client);
    assert_int_equal(tls_state(client), TLS_ENDED);
    assert_string_equal(tls_error(client), "");
    tls_free(server);
    tls_free(client);
}

static void test_talk(void **state)
{
    (void)state;
    talk(SIZE_MAX / 2);
    talk(1);
    talk(7);
}

static void test_big(void **state)
{
    struct tls *server, *client;
    char *sent = mr_malloc(BIG), *got = mr_malloc(BIG);
    size_t len = 0;

    (void)state;
    open_pair(&server, &client, 4096);
    for (size_t i = 0; i < BIG; i++)
        sent[i] = (char)(i * 31 >> 3);
    assert_true(tls_write(client, sent, BIG));
    assert_true(tls_waiting(client) > BIG && tls_waiting(client) < BIG + BIG / 50);
    uint8_t *bytes;
    size_t n, waiting;
    bytes = tls_take(client, &waiting);
    for (size_t at = 0; at < waiting; at += 64 << 10) {
        tls_feed(server, bytes + at, waiting - at < 64 << 10 ? waiting - at : 64 << 10);
        while ((n = tls_read(server, got + len, BIG - len < 5000 ? BIG - len : 5000)) > 0)
            len += n;
    }
    assert_int_equal(len, BIG);
    assert_memory_equal(sent, got, BIG);
    free(bytes);
    free(sent);
    free(got);
    tls_free(server);
    tls_free(client);
}

/* The socket's end without close_notify, at each moment. */
static void test_truncated(void **state)
{
    struct tls *server, *client;
    size_t len;
    uint8_t *bytes;

    (void)state;
    server = tls_accept(server_ctx);
    tls_start(server);
    tls_eof(server);
    assert_int_equal(tls_state(server), TLS_BROKEN);
    assert_string_equal(tls_error(server), "the connection ended in the TLS handshake");
    tls_free(server);

    open_pair(&server, &client, 4096);
    tls_write(client, "DATA", 4);
    bytes = tls_take(client, &len);
    tls_feed(server, bytes, len - 1);
    free(bytes);
    expect_read(server, "");
    assert_int_equal(tls_state(server), TLS_OPEN);
    tls_eof(server);
    assert_int_equal(tls_state(server), TLS_BROKEN);
    assert_string_equal(tls_error(server), "the connection ended without TLS close_notify");
    expect_read(server, "");
    assert_false(tls_write(server, "x", 1));
    assert_int_equal(tls_waiting(server), 0);
    tls_free(server);
    tls_free(client);
}

/* A byte changed on the way: an alert, and nothing of it is read. */
static void test_altered(void **state)
{
    struct tls *server, *client;
    size_t len;
    uint8_t *bytes;

    (void)state;
    open_pair(&server, &client, 4096);
    tls_write(client, "RCPT TO:<a@b>\r\n", 15);
    bytes = tls_take(client, &len);
    bytes[len / 2] ^= 1;
    tls_feed(server, bytes, len);
    free(bytes);
    expect_read(server, "");
    assert_int_equal(tls_state(server), TLS_BROKEN);
    assert_string_equal(tls_error(server), "TLS: decryption failed or bad record mac");
    assert_true(tls_waiting(server) > 0);
    carry(server, client, 4096);
    expect_read(client, "");
    assert_int_equal(tls_state(client), TLS_BROKEN);
    assert_string_equal(tls_error(client), "TLS: sslv3 alert bad record mac");
    tls_free(server);
    tls_free(client);
}

static void test_foreign(void **state)
{
    static const char *const texts[] = {"EHLO client.example\r\n", "GET / HTTP/1.0\r\n\r\n",
                                        "\x80\x2e\x01\x00\x02xxxxxx", "\r\n"};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct tls *t = tls_accept(server_ctx);

        tls_start(t);
        tls_feed(t, texts[i], strlen(texts[i]));
        if (tls_state(t) == TLS_HANDSHAKING)
            tls_feed(t, "0123456789", 10);
        assert_int_equal(tls_state(t), TLS_BROKEN);
        assert_string_equal(tls_error(t), "the other side does not speak TLS");
        assert_int_equal(tls_waiting(t), 0);
        tls_feed(t, "more", 4);
        assert_int_equal(tls_unread(t), 0);
        tls_free(t);
    }
    /* A server that answers a ClientHello in plain text. */
    struct tls *t = tls_connect(client_ctx, NULL);
    tls_start(t);
    assert_true(tls_waiting(t) > 0);
    tls_feed(t, "454 4.7.0 no\r\n", 14);
    assert_int_equal(tls_state(t), TLS_BROKEN);
    assert_string_equal(tls_error(t), "the other side does not speak TLS");
    tls_free(t);
}

/* Any bytes in the place of a handshake: it ends, within its bound. */
static void test_garbage(void **state)
{
    uint32_t seed = 1;
    uint8_t bytes[600];

    (void)state;
    for (int round = 0; round < 300; round++) {
        struct tls *t = tls_accept(server_ctx);

        tls_start(t);
        for (int part = 0; part < 400 && tls_state(t) == TLS_HANDSHAKING; part++) {
            for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
            if (part == 0) {
                bytes[0] = 22;
                bytes[1] = 3;
                bytes[2] = 1;
                bytes[5] = 1;
                if (round % 3 == 0)
                    bytes[3] = 2;
            }
            tls_feed(t, bytes, sizeof(bytes));
        }
        assert_int_equal(tls_state(t), TLS_BROKEN);
        assert_true(strlen(tls_error(t)) > 0);
        tls_free(t);
    }
    /* Whole records of a handshake that never ends: a message of 100 KB begins and goes on. */
    struct tls *t = tls_accept(server_ctx);
    tls_start(t);
    memset(bytes, 0, sizeof(bytes));
    for (int part = 0; part < 400 && tls_state(t) == TLS_HANDSHAKING; part++) {
        uint8_t head[9] = {22, 3, 1, 2, 4, 1, 1, 0xff, 0xf0};

        tls_feed(t, head, part == 0 ? 9 : 5);
        tls_feed(t, bytes, part == 0 ? 512 : 516);
    }
    assert_int_equal(tls_state(t), TLS_BROKEN);
    tls_free(t);
}

/* An owner that reads the socket although it does not read what came, or never takes what it says. */
static void test_bounds(void **state)
{
    struct tls *server, *client;
    uint8_t *bytes = mr_calloc(1, 16384);

    (void)state;
    open_pair(&server, &client, 4096);
    for (int i = 0; i < 1000 && tls_state(server) == TLS_OPEN; i++) {
        tls_feed(server, bytes, 16384);
        assert_true(tls_unread(server) <= TLS_MAX_INPUT);
    }
    assert_string_equal(tls_error(server), "TLS: too much input waits");
    for (int i = 0; i < 1000 && tls_write(client, bytes, 16384); i++)
        assert_true(tls_waiting(client) <= TLS_MAX_OUTPUT);
    assert_string_equal(tls_error(client), "TLS: too much output waits");
    assert_int_equal(tls_waiting(client), 0);
    free(bytes);
    tls_free(server);
    tls_free(client);
}

static void test_old_version(void **state)
{
    struct tls *server = tls_accept(server_ctx);
    struct tls *client = tls_connect(client_ctx, NULL);

    (void)state;
    SSL_set_security_level(tls_ssl(client), 0);
    assert_int_equal(SSL_set_cipher_list(tls_ssl(client), "ALL:@SECLEVEL=0"), 1);
    assert_int_equal(SSL_set_min_proto_version(tls_ssl(client), TLS1_VERSION), 1);
    assert_int_equal(SSL_set_max_proto_version(tls_ssl(client), TLS1_1_VERSION), 1);
    shake(server, client, 4096);
    assert_int_equal(tls_state(server), TLS_BROKEN);
    assert_string_equal(tls_error(server), "TLS: unsupported protocol");
    assert_int_equal(tls_state(client), TLS_BROKEN);
    assert_string_equal(tls_error(client), "TLS: tlsv1 alert protocol version");
    tls_free(server);
    tls_free(client);
}

static void test_verification(void **state)
{
    struct tls *server = tls_accept(server_ctx);
    struct tls *client = tls_connect(client_ctx, "other.example");
    uint8_t fingerprint[TLS_FINGERPRINT], expected[EVP_MAX_MD_SIZE];
    unsigned len;

    (void)state;
    assert_int_equal(SSL_set1_host(tls_ssl(client), "other.example"), 1);
    shake(server, client, 4096);
    assert_int_equal(tls_state(client), TLS_BROKEN);
    assert_string_equal(tls_error(client), "certificate not accepted: hostname mismatch");
    assert_false(tls_peer_verified(client));
    assert_int_equal(tls_state(server), TLS_BROKEN);
    tls_free(server);
    tls_free(client);

    /* A client's certificate. */
    server = tls_accept(server_ctx);
    client = tls_connect(client_ctx, NULL);
    SSL_set_verify(tls_ssl(server), SSL_VERIFY_PEER, NULL);
    assert_int_equal(SSL_use_certificate(tls_ssl(client), client_cert.cert), 1);
    assert_int_equal(SSL_use_PrivateKey(tls_ssl(client), client_cert.key), 1);
    assert_int_equal(SSL_set_session_id_context(tls_ssl(server), (const unsigned char *)"x", 1), 1);
    shake(server, client, 4096);
    assert_int_equal(tls_state(server), TLS_OPEN);
    assert_true(tls_peer_verified(server));
    assert_true(tls_peer_fingerprint(server, fingerprint));
    assert_int_equal(X509_digest(client_cert.cert, EVP_sha256(), expected, &len), 1);
    assert_memory_equal(fingerprint, expected, TLS_FINGERPRINT);
    tls_free(server);
    tls_free(client);
}

static void compare_bindings(struct tls *server, struct tls *client, enum tls_binding type, bool there)
{
    uint8_t ours[TLS_MAX_BINDING], theirs[TLS_MAX_BINDING];
    size_t our_len = 0, their_len = 0;
    int expected = there ? 0 : MR_NOTFOUND;

    assert_int_equal(tls_channel_binding(server, type, ours, &our_len), expected);
    assert_int_equal(tls_channel_binding(client, type, theirs, &their_len), expected);
    if (!there)
        return;
    assert_true(our_len >= 12 && our_len <= TLS_MAX_BINDING);
    assert_int_equal(our_len, their_len);
    assert_memory_equal(ours, theirs, our_len);
}

static void test_bindings(void **state)
{
    struct tls *server, *client;
    uint8_t first[TLS_MAX_BINDING], second[TLS_MAX_BINDING];
    size_t len;
    SSL_SESSION *session;

    (void)state;
    open_pair(&server, &client, 4096);
    compare_bindings(server, client, TLS_BINDING_EXPORTER, true);
    compare_bindings(server, client, TLS_BINDING_UNIQUE, false);
    assert_int_equal(tls_channel_binding(server, TLS_BINDING_EXPORTER, first, &len), 0);
    assert_int_equal(len, 32);
    tls_free(server);
    tls_free(client);
    open_pair(&server, &client, 4096);
    assert_int_equal(tls_channel_binding(server, TLS_BINDING_EXPORTER, second, &len), 0);
    assert_memory_not_equal(first, second, 32);
    tls_free(server);
    tls_free(client);

    /* TLS 1.2, in full and resumed: the first Finished is another side's. */
    assert_int_equal(SSL_CTX_set_max_proto_version(client_ctx, TLS1_2_VERSION), 1);
    open_pair(&server, &client, 4096);
    assert_string_equal(tls_version(client), "TLSv1.2");
    compare_bindings(server, client, TLS_BINDING_EXPORTER, true);
    compare_bindings(server, client, TLS_BINDING_UNIQUE, true);
    session = tls_take_session(client);
    assert_non_null(session);
    tls_free(server);
    tls_free(client);
    server = tls_accept(server_ctx);
    client = tls_connect(client_ctx, "mx.example");
    tls_offer_session(client, session);
    shake(server, client, 1);
    assert_true(tls_resumed(server) && tls_resumed(client));
    compare_bindings(server, client, TLS_BINDING_UNIQUE, true);
    compare_bindings(server, client, TLS_BINDING_EXPORTER, true);
    tls_free(server);
    tls_free(client);
    SSL_SESSION_free(session);
    assert_int_equal(SSL_CTX_set_max_proto_version(client_ctx, 0), 1);
}

static void test_resumption(void **state)
{
    struct tls *server, *client;
    SSL_SESSION *session;

    (void)state;
    open_pair(&server, &client, 4096);
    tls_write(server, "hello", 5);
    carry(server, client, 4096);
    expect_read(client, "hello");
    session = tls_take_session(client);
    assert_non_null(session);
    assert_null(tls_take_session(client));
    assert_false(tls_resumed(client));
    tls_free(server);
    tls_free(client);
    server = tls_accept(server_ctx);
    client = tls_connect(client_ctx, "mx.example");
    tls_offer_session(client, session);
    shake(server, client, 4096);
    assert_int_equal(tls_state(server), TLS_OPEN);
    assert_true(tls_resumed(server) && tls_resumed(client));
    assert_true(tls_peer_verified(client));
    compare_bindings(server, client, TLS_BINDING_EXPORTER, true);
    tls_free(server);
    tls_free(client);
    SSL_SESSION_free(session);
}

static uint64_t hours;

static uint64_t boot_by_hand(const struct mr_clock *clock)
{
    (void)clock;
    return hours * 3600 * MR_NS_PER_S;
}

static const struct mr_clock by_hand = {.boot_ns = boot_by_hand};

/* A full handshake, or one that resumes; the session that comes of it takes the place of the one that was given. */
static bool resume(SSL_SESSION **session)
{
    struct tls *server = tls_accept(server_ctx), *client = tls_connect(client_ctx, "mx.example");
    SSL_SESSION *fresh;
    bool resumed;

    if (*session != NULL)
        tls_offer_session(client, *session);
    shake(server, client, 4096);
    assert_int_equal(tls_state(client), TLS_OPEN);
    assert_int_equal(tls_resumed(client), tls_resumed(server));
    resumed = tls_resumed(client);
    tls_write(server, "hello", 5);
    carry(server, client, 4096);
    expect_read(client, "hello");
    fresh = tls_take_session(client);
    if (fresh != NULL) { /* TLS 1.2 gives none while the ticket's key is the newest */
        SSL_SESSION_free(*session);
        *session = fresh;
    }
    assert_non_null(*session);
    tls_free(server);
    tls_free(client);
    return resumed;
}

/* The key of the tickets changes; a ticket of the one before is good once more, an older one is not. */
static void test_tickets(void **state)
{
    struct tls_tickets *tickets = tls_tickets_open(&by_hand);
    SSL_CTX *kept = server_ctx;

    (void)state;
    server_ctx = tls_context(true);
    test_cert_use(&server_cert, server_ctx);
    tls_tickets_use(tickets, server_ctx);
    tls_tickets_close(tickets);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        SSL_SESSION *session = NULL, *old = NULL;

        assert_int_equal(SSL_CTX_set_max_proto_version(client_ctx, version), 1);
        assert_false(resume(&session));
        assert_true(resume(&session));
        old = SSL_SESSION_dup(session);
        hours += 5; /* the next new ticket has a new key */
        assert_true(resume(&session));
        SSL_SESSION *other = NULL;
        assert_false(resume(&other));
        assert_true(resume(&old));
        SSL_SESSION_free(old);
        old = SSL_SESSION_dup(other);
        for (int i = 0; i < 2; i++) {
            hours += 5;
            SSL_SESSION_free(other);
            other = NULL;
            assert_false(resume(&other));
        }
        assert_false(resume(&old));
        SSL_SESSION_free(session);
        SSL_SESSION_free(other);
        SSL_SESSION_free(old);
    }
    assert_int_equal(SSL_CTX_set_max_proto_version(client_ctx, 0), 1);
    SSL_CTX_free(server_ctx);
    server_ctx = kept;
}

/* A client that asks for a new handshake (TLS 1.2) gets none. */
static void test_renegotiation(void **state)
{
    struct tls *server, *client;

    (void)state;
    assert_int_equal(SSL_CTX_set_max_proto_version(client_ctx, TLS1_2_VERSION), 1);
    open_pair(&server, &client, 4096);
    SSL_clear_options(tls_ssl(client), SSL_OP_NO_RENEGOTIATION);
    assert_int_equal(SSL_renegotiate(tls_ssl(client)), 1);
    (void)SSL_do_handshake(tls_ssl(client));
    carry(client, server, 4096);
    expect_read(server, "");
    carry(server, client, 4096);
    expect_read(client, "");
    assert_true(tls_state(client) == TLS_BROKEN || !SSL_is_init_finished(tls_ssl(client)));
    tls_free(server);
    tls_free(client);
    assert_int_equal(SSL_CTX_set_max_proto_version(client_ctx, 0), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_talk),          cmocka_unit_test(test_big),         cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_altered),       cmocka_unit_test(test_foreign),     cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_bounds),        cmocka_unit_test(test_old_version), cmocka_unit_test(test_verification),
        cmocka_unit_test(test_bindings),      cmocka_unit_test(test_resumption),  cmocka_unit_test(test_tickets),
        cmocka_unit_test(test_renegotiation),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
