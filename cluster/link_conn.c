/* Life of a connection.
 *
 * Happy path, dialled: link_conn_connect -> on_connect -> handshake -> link_conn_opened -> frames -> failed -> close.
 * Happy path, accepted: link_conn_accept -> handshake -> link_conn_opened -> ...
 * Any failure: link_conn_fail notes the reason and asks for a turn; on_turn tells the owner and closes the handles;
 * when both have closed, gone. Nothing is freed before, so each callback may look at the connection and finds its
 * state. */
#include "cluster/link_conn_internal.h"

#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TO(state) (1U << (state))
static const unsigned transitions[CONN_STATES] = {
    [CONN_NEW] = TO(CONN_CONNECTING) | TO(CONN_HANDSHAKE) | TO(CONN_FAILED) | TO(CONN_CLOSED),
    [CONN_CONNECTING] = TO(CONN_HANDSHAKE) | TO(CONN_FAILED) | TO(CONN_CLOSED),
    [CONN_HANDSHAKE] = TO(CONN_OPEN) | TO(CONN_FAILED) | TO(CONN_CLOSED),
    [CONN_OPEN] = TO(CONN_FAILED) | TO(CONN_CLOSED),
    [CONN_FAILED] = TO(CONN_CLOSED),
    [CONN_CLOSED] = 0,
};

void link_conn_become(struct link_conn *c, enum link_conn_state state)
{
    mr_assert(transitions[c->state] & TO(state));
    c->state = state;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct link_conn *c = handle->data;
    struct link_env *env = c->env;
    mr_assert(c->handles > 0);
    if (--c->handles == 0) {
        c->events->gone(c);
        link_env_forget(env, &c->turn);
        link_conn_out_free(c);
        SSL_free(c->ssl); /* its BIO too */
        free(c->staged);
        free(c->in);
        free(c);
    }
    link_env_handle_closed(env);
}

void link_conn_close(struct link_conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    link_conn_become(c, CONN_CLOSED);
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void on_turn(struct link_turn *turn)
{
    struct link_conn *c = MR_CONTAINER(turn, struct link_conn, turn);
    if (c->state == CONN_CLOSED)
        return;
    link_conn_flush(c); /* of a failed one too: it may hold a TLS alert, or the answer that refuses */
    if (c->state == CONN_OPEN && c->nudged) {
        c->nudged = false;
        c->events->drained(c);
    }
    if (c->state == CONN_OPEN && c->finish_reason != NULL && c->out_len == 0)
        link_conn_fail(c, "%s", c->finish_reason);
    if (c->state != CONN_FAILED)
        return;
    c->events->failed(c, c->failure);
    link_conn_close(c);
}

void link_conn_fail(struct link_conn *c, const char *format, ...)
{
    if (c->state == CONN_FAILED || c->state == CONN_CLOSED)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(c->failure, sizeof(c->failure), format, args);
    va_end(args);
    link_conn_become(c, CONN_FAILED);
    link_env_turn(c->env, &c->turn);
}

void link_conn_finish(struct link_conn *c, const char *reason)
{
    c->finish_reason = reason;
    link_env_turn(c->env, &c->turn);
}

void link_conn_nudge(struct link_conn *c)
{
    c->nudged = true;
    link_env_turn(c->env, &c->turn);
}

static void on_timer(uv_timer_t *timer)
{
    struct link_conn *c = timer->data;
    link_conn_fail(c, "%s", c->deadline_reason);
}

void link_conn_deadline(struct link_conn *c, unsigned ms, const char *reason)
{
    if (c->state == CONN_CLOSED)
        return;
    c->deadline_reason = reason;
    if (ms == 0)
        uv_timer_stop(&c->timer);
    else
        uv_timer_start(&c->timer, on_timer, ms, 0);
}

struct link_conn *link_conn_new(struct link_env *env, SSL_CTX *tls, bool dialled, const struct link_conn_events *events,
                                void *owner)
{
    struct link_conn *c = mr_calloc(1, sizeof(*c));
    c->env = env;
    c->events = events;
    c->owner = owner;
    c->turn.run = on_turn;
    uv_tcp_init(env->loop, &c->tcp);
    uv_timer_init(env->loop, &c->timer);
    c->tcp.data = c->timer.data = c;
    c->handles = 2;
    link_env_handle_opened(env);
    link_env_handle_opened(env);
    if (tls == NULL)
        return c;
    c->ssl = SSL_new(tls);
    c->bio = c->ssl != NULL ? link_conn_bio_new(c) : NULL;
    if (c->bio == NULL)
        mr_panic("out of memory for a TLS connection");
    SSL_set_bio(c->ssl, c->bio, c->bio);
    if (dialled)
        SSL_set_connect_state(c->ssl);
    else
        SSL_set_accept_state(c->ssl);
    return c;
}

/* A dead peer is noticed within seconds: unacknowledged output by the user time-out, an idle connection by keepalive.
 * Failures are ignored: without the options the connection works, and the heartbeats above it notice the same, later.
 */
static void set_options(struct link_conn *c)
{
    int fd, on = 1, seconds = 1, probes = 3, timeout = LINK_USER_TIMEOUT_MS;
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0)
        return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

static void note_remote(struct link_conn *c, const struct sockaddr *address)
{
    char host[64] = "";
    int port = 0;
    if (address->sa_family == AF_INET6) {
        (void)uv_ip6_name((const struct sockaddr_in6 *)address, host, sizeof(host));
        port = ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
        (void)snprintf(c->remote, sizeof(c->remote), "[%s]:%d", host, port);
    } else if (address->sa_family == AF_INET) {
        (void)uv_ip4_name((const struct sockaddr_in *)address, host, sizeof(host));
        port = ntohs(((const struct sockaddr_in *)address)->sin_port);
        (void)snprintf(c->remote, sizeof(c->remote), "%s:%d", host, port);
    }
}

void link_conn_opened(struct link_conn *c)
{
    link_conn_become(c, CONN_OPEN);
    if (c->events->open != NULL)
        c->events->open(c);
}

static void begin(struct link_conn *c)
{
    set_options(c);
    link_conn_become(c, CONN_HANDSHAKE);
    if (c->ssl == NULL)
        link_conn_opened(c);
    else if (!SSL_is_server(c->ssl))
        (void)link_conn_handshake(c); /* writes the ClientHello and wants an answer */
    if (c->state == CONN_HANDSHAKE || c->state == CONN_OPEN)
        link_conn_read_start(c);
}

static void on_connect(uv_connect_t *request, int status)
{
    struct link_conn *c = request->data;
    if (c->state != CONN_CONNECTING)
        return; /* failed or closed meanwhile */
    if (status != 0)
        link_conn_fail(c, "connect: %s", uv_strerror(status));
    else
        begin(c);
}

void link_conn_connect(struct link_conn *c, const struct sockaddr *address)
{
    note_remote(c, address);
    link_conn_become(c, CONN_CONNECTING);
    c->connect.data = c;
    int rc = uv_tcp_connect(&c->connect, &c->tcp, address, on_connect);
    if (rc != 0)
        link_conn_fail(c, "connect: %s", uv_strerror(rc));
}

void link_conn_accept(struct link_conn *c, uv_stream_t *listener)
{
    struct sockaddr_storage address;
    int len = sizeof(address);
    int rc = uv_accept(listener, (uv_stream_t *)&c->tcp);
    if (rc != 0) {
        link_conn_fail(c, "accept: %s", uv_strerror(rc));
        return;
    }
    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&address, &len) == 0)
        note_remote(c, (struct sockaddr *)&address);
    begin(c);
}

void link_conn_trust(struct link_conn *c)
{
    c->trusted = true;
}

void *link_conn_owner(const struct link_conn *c)
{
    return c->owner;
}

bool link_conn_is_open(const struct link_conn *c)
{
    return c->state == CONN_OPEN;
}

const SSL *link_conn_ssl(const struct link_conn *c)
{
    return c->ssl;
}

const char *link_conn_remote(const struct link_conn *c)
{
    return c->remote;
}
