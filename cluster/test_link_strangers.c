/* Those who may not speak, and those who speak badly: each gets a closed connection, and the nodes go on. Strangers are
 * blocking clients in a thread of their own, while the mesh's loop runs in the test's thread. */
#include "cluster/test_link.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

struct stranger {
    struct test_mesh *m;
    int port;
    /* What it shows and says. */
    const char *ca, *cert; /* files' names without ending; cert NULL: none */
    bool tls;
    int max_version;
    const uint8_t *bytes; /* sent as they are, after the handshake if any */
    size_t len;
    bool keep_silent; /* do not end our side: wait for them to close */
    /* What came of it. */
    uint8_t answer[8192];
    size_t answer_len;
    bool closed;
    double seconds;
    atomic_bool done;
};

static int connect_to(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void talk_plain(struct stranger *s, int fd)
{
    (void)!write(fd, s->bytes, s->len);
    if (!s->keep_silent)
        (void)shutdown(fd, SHUT_WR);
    for (;;) {
        ssize_t n = read(fd, s->answer + s->answer_len, sizeof(s->answer) - s->answer_len);
        if (n > 0)
            s->answer_len += (size_t)n;
        if (n <= 0) {
            s->closed = true;
            return;
        }
    }
}

static void talk_tls(struct stranger *s, int fd)
{
    char path[200];
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    assert_non_null(ctx);
    if (s->max_version != 0)
        SSL_CTX_set_max_proto_version(ctx, s->max_version);
    if (s->cert != NULL) {
        (void)snprintf(path, sizeof(path), "%s/%s.pem", s->m->dir, s->cert);
        assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, path), 1);
        (void)snprintf(path, sizeof(path), "%s/%s.key", s->m->dir, s->cert);
        assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM), 1);
    }
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) == 1) {
        (void)SSL_write(ssl, s->bytes, (int)s->len);
        int n;
        while ((n = SSL_read(ssl, s->answer + s->answer_len, (int)(sizeof(s->answer) - s->answer_len))) > 0)
            s->answer_len += (size_t)n;
    }
    s->closed = true;
    ERR_clear_error();
    SSL_free(ssl);
    SSL_CTX_free(ctx);
}

static void *stranger_main(void *arg)
{
    struct stranger *s = arg;
    struct timeval limit = {.tv_sec = 20};
    uint64_t start = uv_hrtime();
    int fd = connect_to(s->port);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (s->tls)
        talk_tls(s, fd);
    else
        talk_plain(s, fd);
    close(fd);
    s->seconds = (double)(uv_hrtime() - start) / 1e9;
    atomic_store(&s->done, true);
    return NULL;
}

static bool stranger_done(void *arg)
{
    return atomic_load(&((struct stranger *)arg)->done);
}

static void run_stranger(struct test_mesh *m, struct stranger *s)
{
    pthread_t thread;
    unsigned frames = m->nodes[0].frames;
    s->m = m;
    s->port = links_port(m->nodes[0].links);
    assert_int_equal(pthread_create(&thread, NULL, stranger_main, s), 0);
    test_wait(m, stranger_done, s, "the stranger is sent away");
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(s->closed);
    assert_true(s->seconds < 15);
    assert_int_equal(m->nodes[0].frames, frames); /* nothing of it reached the handler */
    assert_true(test_all_up(m));
}

/* ---- bytes to say ---- */

static size_t frame_bytes(uint8_t *out, enum frame_type type, const ProtobufCMessage *message, uint32_t tail_len)
{
    uint8_t meta[8192] = {0};
    size_t len = message != NULL ? protobuf_c_message_pack(message, meta) : 0;
    frame_encode_header(out, type, meta, (uint32_t)len, tail_len);
    memcpy(out + FRAME_HEADER, meta, len);
    return FRAME_HEADER + len;
}

static size_t hello_bytes(uint8_t *out, char *name, uint32_t node, uint32_t channel)
{
    Mailraft__Hello hello = MAILRAFT__HELLO__INIT;
    hello.version = 1;
    hello.name = name;
    hello.node = node;
    hello.incarnation = 7;
    hello.channel = channel;
    return frame_bytes(out, FRAME_HELLO, &hello.base, 0);
}

/* The answer as a HelloReply's `refused`; "" when it is no such thing. */
static void refusal(const struct stranger *s, char *out, size_t out_len)
{
    struct frame_header h;
    out[0] = 0;
    if (frame_decode_header(s->answer, s->answer_len, &h) != 0 || h.type != FRAME_HELLO_REPLY)
        return;
    Mailraft__HelloReply *reply = mailraft__hello_reply__unpack(NULL, h.meta_len, s->answer + FRAME_HEADER);
    assert_non_null(reply);
    (void)snprintf(out, out_len, "%s", reply->refused);
    mailraft__hello_reply__free_unpacked(reply, NULL);
}

/* ---- strangers to TLS links ---- */

static void strangers_to_tls(void **state)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: mx1\r\n\r\n";
    struct test_mesh m;
    uint8_t hello[300];
    char text[300];
    (void)state;
    test_mesh_init(&m, false);
    test_mesh_connect(&m);
    struct test_ca foreign = test_ca_new(m.dir, "foreign-ca");
    test_ca_issue(&foreign, m.dir, "foreign", "mx2", "DNS:mx2");
    test_ca_free(&foreign);
    size_t len = hello_bytes(hello, "mx2", 2, 0);

    struct stranger plain = {.bytes = (const uint8_t *)http, .len = sizeof(http) - 1, .keep_silent = true};
    run_stranger(&m, &plain);
    assert_int_equal(plain.answer_len, 0);
    struct stranger plain_frames = {.bytes = hello, .len = len, .keep_silent = true};
    run_stranger(&m, &plain_frames);
    assert_int_equal(plain_frames.answer_len, 0);
    struct stranger nobody = {.tls = true, .bytes = hello, .len = len};
    run_stranger(&m, &nobody);
    assert_int_equal(nobody.answer_len, 0);
    struct stranger other_ca = {.tls = true, .cert = "foreign", .bytes = hello, .len = len};
    run_stranger(&m, &other_ca);
    assert_int_equal(other_ca.answer_len, 0);
    struct stranger old = {.tls = true, .cert = "mx2", .max_version = TLS1_2_VERSION, .bytes = hello, .len = len};
    run_stranger(&m, &old);
    assert_int_equal(old.answer_len, 0);
    struct stranger liar = {.tls = true, .cert = "mx3", .bytes = hello, .len = len}; /* mx3 says that it is mx2 */
    run_stranger(&m, &liar);
    assert_int_equal(liar.answer_len, 0);

    /* A certificate of the cluster for a name that nobody knows: told so. */
    len = hello_bytes(hello, "localhost", 9, 0);
    struct stranger unknown = {.tls = true, .cert = "mx2", .bytes = hello, .len = len};
    unsigned checks = m.nodes[0].checks;
    run_stranger(&m, &unknown);
    refusal(&unknown, text, sizeof(text));
    assert_non_null(strstr(text, "belongs to the cluster"));
    assert_true(m.nodes[0].checks > checks); /* the handler was asked first */
    test_mesh_close(&m);
}

/* ---- bad bytes on plain links ---- */

static void bad_first_frames(void **state)
{
    struct test_mesh m;
    uint8_t bytes[9000];
    char text[300];
    (void)state;
    test_mesh_init(&m, true);
    test_mesh_connect(&m);

    /* Another frame before the Hello, a reply, a tail on a Hello, a Hello too large, a wrong channel, no name. */
    Mailraft__Heartbeat beat = MAILRAFT__HEARTBEAT__INIT;
    struct stranger early = {
        .keep_silent = true, .bytes = bytes, .len = frame_bytes(bytes, FRAME_HEARTBEAT, &beat.base, 0)};
    run_stranger(&m, &early);
    assert_int_equal(early.answer_len, 0);
    Mailraft__HelloReply reply = MAILRAFT__HELLO_REPLY__INIT;
    struct stranger answer = {
        .keep_silent = true, .bytes = bytes, .len = frame_bytes(bytes, FRAME_HELLO_REPLY, &reply.base, 0)};
    run_stranger(&m, &answer);
    assert_int_equal(answer.answer_len, 0);
    struct stranger tail = {.keep_silent = true, .bytes = bytes, .len = frame_bytes(bytes, FRAME_HELLO, NULL, 10)};
    run_stranger(&m, &tail);
    assert_int_equal(tail.answer_len, 0);
    char *long_name = mr_malloc(5001);
    memset(long_name, 'n', 5000);
    long_name[5000] = 0;
    struct stranger large = {.keep_silent = true, .bytes = bytes, .len = hello_bytes(bytes, long_name, 2, 0)};
    run_stranger(&m, &large);
    assert_int_equal(large.answer_len, 0);
    free(long_name);
    struct stranger channel = {.keep_silent = true, .bytes = bytes, .len = hello_bytes(bytes, "mx2", 2, LINK_CHANNELS)};
    run_stranger(&m, &channel);
    assert_int_equal(channel.answer_len, 0);
    struct stranger nameless = {.keep_silent = true, .bytes = bytes, .len = hello_bytes(bytes, "", 2, 0)};
    run_stranger(&m, &nameless);
    assert_int_equal(nameless.answer_len, 0);
    struct stranger twin = {.keep_silent = true, .bytes = bytes, .len = hello_bytes(bytes, "mx1", 2, 0)};
    run_stranger(&m, &twin);
    refusal(&twin, text, sizeof(text));
    assert_non_null(strstr(text, "same name"));
    test_mesh_close(&m);
}

static void garbage(void **state)
{
    struct test_mesh m;
    uint8_t bytes[2000], hello[300];
    uint32_t seed = 4711;
    (void)state;
    test_mesh_init(&m, true);
    test_mesh_connect(&m);
    size_t len = hello_bytes(hello, "mx9", 9, 0);
    for (int round = 0; round < 60; round++) {
        struct stranger s = {.bytes = bytes, .len = len};
        memset(bytes, 0, sizeof(bytes));
        memcpy(bytes, hello, len);
        seed = seed * 1664525U + 1013904223U;
        if (round % 3 == 0) { /* nothing but noise */
            s.len = sizeof(bytes);
            for (size_t i = 0; i < s.len; i++)
                bytes[i] = (uint8_t)((seed = seed * 1664525U + 1013904223U) >> 24);
        } else if (round % 3 == 1) { /* a flipped bit */
            bytes[(seed >> 8) % len] ^= (uint8_t)(1U << (seed >> 4) % 8);
        } else { /* cut off */
            s.len = (seed >> 8) % len;
        }
        run_stranger(&m, &s);
    }
    test_mesh_close(&m);
}

/* ---- half-open ---- */

static void silent_ones_are_closed(void **state)
{
    struct test_mesh m;
    (void)state;
    test_mesh_init(&m, false);
    test_mesh_connect(&m);
    struct stranger silent = {.keep_silent = true};
    run_stranger(&m, &silent);
    assert_int_equal(silent.answer_len, 0);
    assert_true(silent.seconds > LINK_HELLO_MS / 1000.0 - 0.5 && silent.seconds < LINK_HELLO_MS / 1000.0 + 5);
    test_mesh_close(&m);
}

struct crowd {
    int fds[LINK_MAX_INBOUND + 60];
};

static bool oldest_is_closed(void *arg)
{
    struct crowd *c = arg;
    struct pollfd p = {.fd = c->fds[0], .events = POLLIN};
    char byte;
    return poll(&p, 1, 0) == 1 && read(c->fds[0], &byte, 1) <= 0;
}

static void a_crowd_cannot_keep_peers_out(void **state)
{
    struct test_mesh m;
    struct crowd crowd;
    size_t n = sizeof(crowd.fds) / sizeof(crowd.fds[0]);
    (void)state;
    test_mesh_init(&m, true);
    for (size_t i = 0; i < n; i++) {
        crowd.fds[i] = connect_to(links_port(m.nodes[0].links));
        uv_run(&m.loop, UV_RUN_NOWAIT);
    }
    uint64_t start = uv_hrtime();
    test_wait(&m, oldest_is_closed, &crowd, "the oldest makes room");
    assert_true(uv_hrtime() - start < (LINK_HELLO_MS - 1000) * 1000000ULL); /* not by its time-out */
    test_mesh_connect(&m);
    for (size_t i = 0; i < n; i++)
        close(crowd.fds[i]);
    assert_true(test_all_up(&m));
    test_mesh_close(&m);
}

/* ---- a peer that accepts and then reads nothing ---- */

struct deaf {
    int listener, port, fd;
    atomic_bool welcomed, stop;
};

static void *deaf_main(void *arg)
{
    struct deaf *d = arg;
    uint8_t bytes[300];
    Mailraft__HelloReply reply = MAILRAFT__HELLO_REPLY__INIT;
    reply.version = 1;
    reply.name = "deaf";
    reply.incarnation = 7;
    size_t len = frame_bytes(bytes, FRAME_HELLO_REPLY, &reply.base, 0);
    d->fd = accept(d->listener, NULL, NULL);
    uint8_t hello[1000];
    if (d->fd >= 0 && read(d->fd, hello, sizeof(hello)) > 0)
        (void)!write(d->fd, bytes, len);
    atomic_store(&d->welcomed, true);
    while (!atomic_load(&d->stop))
        (void)poll(NULL, 0, 5);
    close(d->fd);
    return NULL;
}

static bool deaf_control_up(void *arg)
{
    return links_is_up(((struct test_node *)arg)->links, 3, LINK_CONTROL) ||
           links_is_up(((struct test_node *)arg)->links, 3, LINK_BULK);
}

static bool went_down(void *arg)
{
    return ((struct test_node *)arg)->downs > 0;
}

static int room_status;
static void on_room(void *arg, int status)
{
    (void)arg;
    room_status = status;
}

static void queue_is_bounded_and_the_deaf_are_dropped(void **state)
{
    struct test_mesh m;
    struct deaf deaf = {.fd = -1};
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);
    pthread_t thread;
    char text[40];
    uint8_t *bytes = mr_calloc(1, 200000);
    struct link_buffer tail = {bytes, 200000};
    (void)state;
    test_mesh_init(&m, true);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    deaf.listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(deaf.listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(deaf.listener, 1), 0);
    assert_int_equal(getsockname(deaf.listener, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(pthread_create(&thread, NULL, deaf_main, &deaf), 0);
    (void)snprintf(text, sizeof(text), "127.0.0.1:%d", ntohs(address.sin_port));

    struct test_node *n = &m.nodes[0];
    assert_int_equal(links_add_peer(n->links, 3, "deaf", text), 0);
    test_wait(&m, deaf_control_up, n, "the deaf peer is up");
    enum link_channel channel = links_is_up(n->links, 3, LINK_CONTROL) ? LINK_CONTROL : LINK_BULK;
    size_t max = channel == LINK_CONTROL ? LINK_MAX_QUEUE : LINK_MAX_BULK;
    int rc;
    for (;;) {
        while ((rc = links_send(n->links, 3, channel, FRAME_RAFT, NULL, 0, &tail, 1)) == 0)
            assert_true(links_queued(n->links, 3, channel) <= max);
        assert_int_equal(rc, MR_BUSY);
        size_t queued = links_queued(n->links, 3, channel);
        for (int i = 0; i < 20; i++) /* until the kernel takes no more */
            uv_run(&m.loop, UV_RUN_ONCE);
        if (links_queued(n->links, 3, channel) == queued)
            break;
    }
    room_status = 1;
    assert_int_equal(links_when_drained(n->links, 3, channel, 1000, on_room, NULL), 0);
    test_wait(&m, went_down, n, "the kernel gives up on the deaf peer");
    assert_int_equal(room_status, MR_UNREACHABLE);
    assert_int_equal(links_queued(n->links, 3, channel), 0);
    links_remove_peer(n->links, 3);
    atomic_store(&deaf.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    close(deaf.listener);
    free(bytes);
    test_mesh_close(&m);
}

/* ---- the dialler's side: an impostor at the peer's address ---- */

static bool mx1_has_tried(void *arg)
{
    struct test_mesh *m = arg;
    return m->nodes[2].checks > 0 && m->nodes[2].up[2][LINK_CONTROL] && m->nodes[2].up[2][LINK_BULK];
}

static void impostor_is_not_spoken_to(void **state)
{
    struct test_mesh m;
    char at_three[40], at_two[40];
    (void)state;
    test_mesh_init(&m, false);
    (void)snprintf(at_two, sizeof(at_two), "127.0.0.1:%d", links_port(m.nodes[1].links));
    (void)snprintf(at_three, sizeof(at_three), "127.0.0.1:%d", links_port(m.nodes[2].links));
    /* mx1 looks for mx2 where mx3 lives: mx3 must not even see a Hello. mx3 and mx2 connect meanwhile. */
    assert_int_equal(links_add_peer(m.nodes[0].links, 2, "mx2", at_three), 0);
    assert_int_equal(links_add_peer(m.nodes[2].links, 2, "mx2", at_two), 0);
    assert_int_equal(links_add_peer(m.nodes[1].links, 3, "mx3", at_three), 0);
    assert_int_equal(links_add_peer(m.nodes[2].links, 1, "mx1", "127.0.0.1:1"), 0);
    test_wait(&m, mx1_has_tried, &m, "the others are connected");
    for (int i = 0; i < 100; i++)
        uv_run(&m.loop, UV_RUN_ONCE);
    assert_int_equal(m.nodes[0].checks, 0);
    assert_int_equal(m.nodes[0].ups, 0);
    assert_int_equal(m.nodes[0].refusals, 0);
    test_mesh_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strangers_to_tls),
        cmocka_unit_test(bad_first_frames),
        cmocka_unit_test(garbage),
        cmocka_unit_test(silent_ones_are_closed),
        cmocka_unit_test(a_crowd_cannot_keep_peers_out),
        cmocka_unit_test(queue_is_bounded_and_the_deaf_are_dropped),
        cmocka_unit_test(impostor_is_not_spoken_to),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("LINK_TEST_LOG") != NULL ? LOG_DEBUG : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
