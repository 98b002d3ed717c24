/* test_smtp_harness.h - a server on loopback and clients that take turns with it on one loop. Waits are for conditions;
 * the only clock is the limit after which a test has failed. */
#ifndef MR_SERVER_TEST_SMTP_HARNESS_H
#define MR_SERVER_TEST_SMTP_HARNESS_H

#include "node/server/test_smtp_fake.h"
#include "proto/base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* No test uses all of what follows. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"

enum { TEST_LIMIT_MS = 30000 };

static struct {
    struct worker worker;
    struct config config;
    struct listener_config listener;
    struct cluster_counters counters;
    struct cluster_rules rules;
    struct smtp_server *server;
    uv_timer_t tick; /* so that a turn of the loop never lasts */
    int send_buffer; /* of the server's sockets; 0: the system's */
    char bound[64];
    bool closed;
} host;

struct client {
    int fd;
    char in[65536];
    size_t len;
    bool eof;
    bool reset;
};

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

/* One turn; does not wait. What was sent over loopback before is there. */
static void turn(void)
{
    uv_run(&host.worker.loop, UV_RUN_NOWAIT);
    fake_answer();
}

/* One turn, when there is something to do or the tick comes. */
static void pump(void)
{
    uv_run(&host.worker.loop, UV_RUN_ONCE);
    fake_answer();
}

/* ---- the server ---- */

static struct network loopback[2] = {{AF_INET, {127}, 8}, {AF_INET6, {[15] = 1}, 128}};
static Mailraft__Route test_default = MAILRAFT__ROUTE__INIT, test_local = MAILRAFT__ROUTE__INIT;
static Mailraft__Route *test_routes[] = {&test_local, &test_default};
static Mailraft__Rules test_rules = MAILRAFT__RULES__INIT;

/* Strict limits; a test changes host.config before host_start. */
static void host_configure(void)
{
    memset(&host, 0, sizeof(host));
    fake_reset();
    host.config.smtp.hostname = (char *)"mx1.example.net";
    host.listener = (struct listener_config){.listen = (char *)"127.0.0.1:0", .profile = PROFILE_MX};
    host.config.smtp.listeners = &host.listener;
    host.config.smtp.n_listeners = 1;
    host.config.smtp.max_message_size = 3 << 20;
    host.config.smtp.max_recipients = 5;
    host.config.smtp.max_sessions = 50;
    host.config.smtp.max_errors = 10;
    host.config.smtp.max_hops = 3;
    host.config.smtp.max_transactions = 1000;
    host.config.smtp.max_hold_ms = 7 * 86400 * 1000;
    host.config.smtp.min_deliver_by_ms = 60000;
    test_local.domain = (char *)"example.net";
    test_local.route = (char *)"lmtp://store.example:24";
    test_local.local = 1;
    test_default.domain = (char *)"default";
    test_default.route = (char *)"mx";
    test_rules.routes = test_routes;
    test_rules.n_routes = 2;
    host.rules.rules = &test_rules;
    host.worker.rules = &host.rules;
    host.worker.config = &host.config;
    host.worker.counters = &host.counters;
}

static void host_start(void)
{
    char error[256];
    int fd;

    assert_int_equal(uv_loop_init(&host.worker.loop), 0);
    uv_timer_init(&host.worker.loop, &host.tick);
    uv_timer_start(&host.tick, on_tick, 1, 1);
    assert_int_equal(smtp_listen(host.listener.listen, &fd, host.bound, sizeof(host.bound), error, sizeof(error)), 0);
    if (host.send_buffer != 0)
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &host.send_buffer, sizeof(host.send_buffer)), 0);
    assert_int_equal(smtp_server_open_with(&host.server, &host.worker, &fd, 1, &fake_ops), 0);
}

static void on_host_closed(void *arg)
{
    *(bool *)arg = true;
}

#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t since_ = uv_hrtime();                                                                                 \
        while (!(condition)) {                                                                                         \
            assert_true(uv_hrtime() - since_ < TEST_LIMIT_MS * 1000000ULL);                                            \
            pump();                                                                                                    \
        }                                                                                                              \
    } while (0)

static void host_stop(void)
{
    memset(fake.hold, 0, sizeof(fake.hold));
    smtp_server_close(host.server, on_host_closed, &host.closed);
    WAIT_FOR(host.closed);
    assert_int_equal(atomic_load(&host.counters.sessions_open), 0);
    uv_close((uv_handle_t *)&host.tick, NULL);
    uv_run(&host.worker.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host.worker.loop), 0);
    fake_reset();
}

/* ---- clients ---- */

/* receive_buffer 0: the system's. */
static void client_open_with(struct client *c, int family, int receive_buffer)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const void *to = family == AF_INET ? (const void *)&v4 : (const void *)&v6;
    int on = 1;

    memset(c, 0, sizeof(*c));
    v4.sin_port = v6.sin6_port = htons((uint16_t)atoi(strrchr(host.bound, ':') + 1));
    c->fd = socket(family, SOCK_STREAM, 0);
    assert_true(c->fd >= 0);
    if (receive_buffer != 0)
        assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer)), 0);
    assert_int_equal(connect(c->fd, to, family == AF_INET ? sizeof(v4) : sizeof(v6)), 0);
    assert_int_equal(fcntl(c->fd, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
}

static void client_open(struct client *c)
{
    client_open_with(c, AF_INET, 0);
}

static void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void client_read(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->len, sizeof(c->in) - 1 - c->len, 0);

    if (n > 0)
        c->len += (size_t)n;
    else if (n == 0)
        c->eof = true;
    else if (errno != EAGAIN)
        c->eof = c->reset = true;
    c->in[c->len] = '\0';
}

static void client_send_n(struct client *c, const char *data, size_t len)
{
    uint64_t since = uv_hrtime();

    while (len > 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);

        assert_true(n >= 0 || errno == EAGAIN);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
        turn();
        assert_true(uv_hrtime() - since < TEST_LIMIT_MS * 1000000ULL);
    }
}

static void client_send(struct client *c, const char *data)
{
    client_send_n(c, data, strlen(data));
}

static bool client_has_line(struct client *c)
{
    client_read(c);
    return strstr(c->in, "\r\n") != NULL || c->eof;
}

/* The next line, which must begin with this. */
static void client_expect(struct client *c, const char *start)
{
    char *end;

    WAIT_FOR(client_has_line(c));
    end = strstr(c->in, "\r\n");
    if (end == NULL || strncmp(c->in, start, strlen(start)) != 0) {
        fail_msg("expected \"%s\", got \"%s\"%s", start, c->in, c->eof ? " and the end" : "");
        return;
    }
    c->len -= (size_t)(end + 2 - c->in);
    memmove(c->in, end + 2, c->len + 1);
}

/* Does the line that is here already begin with this? */
static bool client_next_is(struct client *c, const char *start)
{
    client_read(c);
    return strstr(c->in, "\r\n") != NULL && strncmp(c->in, start, strlen(start)) == 0;
}

static bool client_at_end(struct client *c)
{
    client_read(c);
    return c->eof;
}

static void client_expect_end(struct client *c)
{
    WAIT_FOR(client_at_end(c));
    assert_false(c->reset);
    assert_string_equal(c->in, "");
    client_close(c);
}

static void client_say(struct client *c, const char *command, const char *expected)
{
    client_send(c, command);
    client_send(c, "\r\n");
    client_expect(c, expected);
}

/* Turns in which everything that was sent is read; then nothing may have been answered. */
static void client_expect_silence(struct client *c)
{
    for (int i = 0; i < 20; i++)
        turn();
    client_read(c);
    assert_string_equal(c->in, "");
    assert_false(c->eof);
}

/* What the last EHLO was answered, line ends as '|'. */
static char ehlo[2048];

static void client_ehlo(struct client *c)
{
    bool last = false;

    client_send(c, "EHLO client.example\r\n");
    ehlo[0] = '\0';
    while (!last) {
        char *end;

        WAIT_FOR(client_has_line(c));
        end = strstr(c->in, "\r\n");
        assert_non_null(end);
        assert_memory_equal(c->in, "250", 3);
        last = c->in[3] == ' ';
        snprintf(ehlo + strlen(ehlo), sizeof(ehlo) - strlen(ehlo), "|%.*s|", (int)(end - c->in - 4), c->in + 4);
        c->len -= (size_t)(end + 2 - c->in);
        memmove(c->in, end + 2, c->len + 1);
    }
    assert_memory_equal(ehlo, "|mx1.example.net|", 17);
}

/* Did it offer this? The whole line. */
static bool ehlo_has(const char *line)
{
    char text[256];

    snprintf(text, sizeof(text), "|%s|", line);
    return strstr(ehlo, text) != NULL;
}

static void client_greet(struct client *c)
{
    client_open(c);
    client_expect(c, "220 mx1.example.net ESMTP");
    client_ehlo(c);
}

/* Up to the 354. */
static void client_begin_data(struct client *c)
{
    client_say(c, "MAIL FROM:<s@sender.example>", "250 2.1.0");
    client_say(c, "RCPT TO:<u@example.net>", "250 2.1.5");
    client_say(c, "DATA", "354 ");
}

/* The stored body without the trace field that the server put before it. */
static const char *stored_text(size_t *len)
{
    const char *end;

    assert_non_null(fake.body);
    assert_memory_equal(fake.body, "Received: from ", 15);
    end = memmem(fake.body, fake.body_len, "+0000\r\n", 7);
    assert_non_null(end);
    *len = fake.body_len - (size_t)(end + 7 - (const char *)fake.body);
    return end + 7;
}

/* The last body that was stored, behind the trace. */
static inline void expect_stored_bytes(const char *bytes, size_t len)
{
    size_t stored_len;
    const char *stored = stored_text(&stored_len);

    assert_int_equal(stored_len, len);
    assert_memory_equal(stored, bytes, len);
}

static inline void expect_stored(const char *text)
{
    expect_stored_bytes(text, strlen(text));
}

#endif
