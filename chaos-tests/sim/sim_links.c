/* What link.c, link_dial.c and link_accept.c stand on, over simulated wires: link_conn.h, link_env.h (their real ones
 * are then not taken from the library), the listening socket and the look-up of names.
 *
 * Written to do what link_conn*.c and link_env.c do without TLS: events come in the same order, from a turn of the
 * loop. */
#include "chaos-tests/sim/sim_uv.h"
#include "chaos-tests/sim/sim_wire.h"
#include "cluster/link_conn.h"
#include "cluster/link_internal.h"
#include "proto/base/error.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- link_env.h: turns, by a post to the loop; `own` counts the posts ---- */

static void run_closed(void *arg)
{
    struct link_env *env = arg;
    env->closed_cb(env->closed_arg);
}

static void close_when_unused(struct link_env *env)
{
    if (!env->closing || env->handles > 0 || env->first != NULL || env->own > 0)
        return;
    env->own++; /* the last */
    sim_loop_post(env->loop, sim_now(), run_closed, env);
}

static void run_turns(void *arg)
{
    struct link_env *env = arg;
    struct link_turn *turn = env->first;
    env->first = NULL;
    env->end = &env->first;
    env->flushing = true;
    while (turn != NULL) {
        struct link_turn *next = turn->next;
        turn->queued = false;
        turn->next = NULL;
        turn->run(turn);
        turn = next;
    }
    env->flushing = false;
    env->own--;
    close_when_unused(env);
}

void link_env_init(struct link_env *env, uv_loop_t *loop)
{
    *env = (struct link_env){.loop = loop};
    env->end = &env->first;
}

void link_env_close(struct link_env *env, void (*closed_cb)(void *arg), void *arg)
{
    mr_assert(!env->closing);
    wire_unlisten(); /* links_close has closed the listener */
    env->closing = true;
    env->closed_cb = closed_cb;
    env->closed_arg = arg;
    close_when_unused(env);
}

void link_env_handle_opened(struct link_env *env)
{
    env->handles++;
}

void link_env_handle_closed(struct link_env *env)
{
    mr_assert(env->handles > 0);
    env->handles--;
    close_when_unused(env);
}

void link_env_turn(struct link_env *env, struct link_turn *turn)
{
    if (turn->queued)
        return;
    if (env->first == NULL) {
        env->own++;
        sim_loop_post(env->loop, sim_now(), run_turns, env);
    }
    turn->queued = true;
    turn->next = NULL;
    *env->end = turn;
    env->end = &turn->next;
}

void link_env_forget(struct link_env *env, struct link_turn *turn)
{
    if (!turn->queued)
        return;
    mr_assert(!env->flushing);
    struct link_turn **at = &env->first;
    while (*at != turn)
        at = &(*at)->next;
    *at = turn->next;
    if (env->end == &turn->next)
        env->end = at;
    turn->queued = false;
}

/* ---- link_conn.h ---- */

enum conn_state { CONN_NEW, CONN_CONNECTING, CONN_OPEN, CONN_FAILED, CONN_CLOSED };

struct link_conn {
    struct link_env *env;
    const struct link_conn_events *events;
    void *owner;
    enum conn_state state;
    struct wire_end *wire; /* NULL: none, or broken */
    uv_timer_t timer;
    struct link_turn turn;
    char remote[80];
    char failure[200];
    const char *deadline_reason;
    const char *finish_reason;
    bool nudged, trusted;
    struct wire_frame *staged, **staged_end; /* leave with the turn */
    size_t staged_bytes;
    uint64_t sent_bytes; /* ever */
};

static void drop_staged(struct link_conn *c)
{
    while (c->staged != NULL) {
        struct wire_frame *f = c->staged;
        c->staged = f->next;
        free(f);
    }
    c->staged_end = &c->staged;
    c->staged_bytes = 0;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct link_conn *c = handle->data;
    struct link_env *env = c->env;
    c->events->gone(c);
    link_env_forget(env, &c->turn);
    drop_staged(c);
    free(c);
    link_env_handle_closed(env);
}

static void leave_wire(struct link_conn *c)
{
    struct wire_end *wire = c->wire;
    c->wire = NULL;
    if (wire != NULL)
        wire_close(wire);
}

void link_conn_close(struct link_conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    leave_wire(c);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void flush(struct link_conn *c)
{
    while (c->staged != NULL && c->state == CONN_OPEN && c->wire != NULL) {
        struct wire_frame *f = c->staged;
        c->staged = f->next;
        if (c->staged == NULL)
            c->staged_end = &c->staged;
        c->staged_bytes -= f->size;
        wire_send(c->wire, f);
        c->nudged = true;
    }
}

static void on_turn(struct link_turn *turn)
{
    struct link_conn *c = MR_CONTAINER(turn, struct link_conn, turn);
    if (c->state == CONN_CLOSED)
        return;
    flush(c);
    if (c->state == CONN_OPEN && c->nudged) {
        c->nudged = false;
        c->events->drained(c);
    }
    if (c->state == CONN_OPEN && c->finish_reason != NULL && link_conn_queued(c) == 0)
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
    c->state = CONN_FAILED;
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
    (void)dialled;
    mr_assert(tls == NULL);
    c->env = env;
    c->events = events;
    c->owner = owner;
    c->turn.run = on_turn;
    c->staged_end = &c->staged;
    uv_timer_init(env->loop, &c->timer);
    c->timer.data = c;
    link_env_handle_opened(env);
    return c;
}

static void begin(struct link_conn *c)
{
    c->state = CONN_OPEN;
    if (c->events->open != NULL)
        c->events->open(c);
}

static void on_connected(void *arg, const char *error)
{
    struct link_conn *c = arg;
    if (error != NULL)
        c->wire = NULL;
    if (c->state != CONN_CONNECTING)
        return;
    if (error != NULL)
        link_conn_fail(c, "connect: %s", error);
    else
        begin(c);
}

static size_t max_frame(const struct link_conn *c)
{
    return c->trusted ? (size_t)FRAME_HEADER + FRAME_MAX_META + FRAME_MAX_TAIL
                      : (size_t)FRAME_HEADER + LINK_UNTRUSTED_META;
}

static void on_wire_frame(void *arg, const struct wire_frame *f)
{
    struct link_conn *c = arg;
    struct frame_header h = {.type = f->type, .meta_len = f->meta_len, .tail_len = f->tail_len};
    if (c->state != CONN_OPEN || c->finish_reason != NULL)
        return; /* nobody reads any more */
    if (f->size > max_frame(c)) {
        link_conn_fail(c, "malformed frame: %s", mr_strerror(MR_LIMIT));
        return;
    }
    int rc = c->events->frame(c, &h, f->bytes, f->bytes + f->meta_len);
    if (rc >= 0)
        return;
    sim_trace("frame_malformed", f->type);
    sim_see("", "frame_malformed");
    link_conn_fail(c, "malformed frame of type %u: %s", f->type, mr_strerror(rc));
}

static void on_room(void *arg)
{
    link_conn_nudge(arg);
}

static void on_broken(void *arg, const char *reason)
{
    struct link_conn *c = arg;
    c->wire = NULL;
    sim_trace(reason, 0);
    sim_see("wire: ", reason);
    link_conn_fail(c, "%s", reason);
}

static const struct wire_events wire_events = {
    .connected = on_connected, .frame = on_wire_frame, .room = on_room, .broken = on_broken};

void link_conn_connect(struct link_conn *c, const struct sockaddr *address)
{
    mr_assert(address->sa_family == AF_INET);
    const struct sockaddr_in *a = (const struct sockaddr_in *)address;
    unsigned to = ntohl(a->sin_addr.s_addr) & 0xff;
    (void)snprintf(c->remote, sizeof(c->remote), "127.0.0.%u:%d", to, ntohs(a->sin_port));
    c->state = CONN_CONNECTING;
    if (to == 0 || to > SIM_MAX_NODES)
        link_conn_fail(c, "connect: %s", uv_strerror(UV_ENETUNREACH));
    else
        c->wire = wire_dial(c->env->loop, to, &wire_events, c);
}

void link_conn_accept(struct link_conn *c, uv_stream_t *listener)
{
    (void)listener;
    c->wire = wire_accept(&wire_events, c);
    (void)snprintf(c->remote, sizeof(c->remote), "127.0.0.%u:0", wire_peer(c->wire));
    begin(c);
}

void link_conn_trust(struct link_conn *c)
{
    c->trusted = true;
}

void link_conn_send(struct link_conn *c, enum frame_type type, const void *meta, size_t meta_len,
                    const struct link_buffer *tail, unsigned n_tail, size_t tail_len)
{
    if (c->state != CONN_OPEN || c->finish_reason != NULL)
        return;
    struct wire_frame *f = wire_frame_new(meta_len, tail_len);
    uint8_t *at = f->bytes;
    f->type = (uint8_t)type;
    if (meta_len > 0)
        memcpy(at, meta, meta_len);
    at += meta_len;
    for (unsigned i = 0; i < n_tail; i++) {
        if (tail[i].len > 0)
            memcpy(at, tail[i].base, tail[i].len);
        at += tail[i].len;
    }
    *c->staged_end = f;
    c->staged_end = &f->next;
    c->staged_bytes += f->size;
    c->sent_bytes += f->size;
    link_env_turn(c->env, &c->turn);
}

size_t link_conn_queued(const struct link_conn *c)
{
    return c->staged_bytes + (c->wire != NULL ? wire_queued(c->wire) : 0);
}

uint64_t link_conn_written(const struct link_conn *c)
{
    return c->sent_bytes - link_conn_queued(c);
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
    (void)c;
    return NULL;
}

const char *link_conn_remote(const struct link_conn *c)
{
    return c->remote;
}

BIO_METHOD *link_conn_bio_method(void)
{
    return BIO_meth_new(BIO_TYPE_SOURCE_SINK, "simulated"); /* asked for by links_open, never used */
}

/* ---- names ---- */

/* 0: no node has it. "n3", "mx3.example", "127.0.0.3": the first number of a name, the last of an address. */
static unsigned node_of(const char *host)
{
    struct in_addr address;
    if (inet_pton(AF_INET, host, &address) == 1)
        return ntohl(address.s_addr) & 0xff;
    host += strcspn(host, "123456789");
    unsigned long node = strtoul(host, NULL, 10);
    return node <= SIM_MAX_NODES ? (unsigned)node : 0;
}

static int resolve(const char *host, const char *service, struct addrinfo **out)
{
    struct {
        struct addrinfo info;
        struct sockaddr_in address;
    } * found;
    unsigned node = node_of(host);
    if (node == 0)
        return EAI_NONAME;
    found = mr_calloc(1, sizeof(*found));
    found->address.sin_family = AF_INET;
    found->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + node);
    found->address.sin_port = htons((uint16_t)atoi(service));
    found->info.ai_family = AF_INET;
    found->info.ai_socktype = SOCK_STREAM;
    found->info.ai_addr = (struct sockaddr *)&found->address;
    found->info.ai_addrlen = sizeof(found->address);
    *out = &found->info;
    return 0;
}

struct lookup {
    uv_getaddrinfo_t *request;
    uv_getaddrinfo_cb cb;
    struct addrinfo *found;
};

static void run_lookup(void *arg)
{
    struct lookup l = *(struct lookup *)arg;
    free(arg);
    l.cb(l.request, l.found != NULL ? 0 : UV_EAI_NONAME, l.found);
}

int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *request, uv_getaddrinfo_cb cb, const char *host,
                   const char *service, const struct addrinfo *hints)
{
    struct lookup *l = mr_calloc(1, sizeof(*l));
    (void)hints;
    request->loop = loop;
    request->type = UV_GETADDRINFO;
    l->request = request;
    l->cb = cb;
    if (resolve(host, service, &l->found) != 0)
        l->found = NULL;
    sim_loop_post(loop, sim_now() + sim_between(SIM_NET, 50 * 1000, 5 * 1000 * 1000), run_lookup, l);
    return 0;
}

void uv_freeaddrinfo(struct addrinfo *list)
{
    free(list);
}

/* ---- the listening socket: link.c makes it by hand ---- */

enum { FIRST_SOCKET = 1 << 20 }; /* no descriptor of the process has such a number */

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out);
void __wrap_freeaddrinfo(struct addrinfo *list);
int __wrap_socket(int family, int type, int protocol);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t len);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t len);
int __wrap_listen(int fd, int backlog);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len);

static struct sockaddr_in bound[SIM_MAX_NODES + 1];

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    (void)hints;
    return resolve(host, service, out);
}

void __wrap_freeaddrinfo(struct addrinfo *list)
{
    free(list);
}

int __wrap_socket(int family, int type, int protocol)
{
    (void)type;
    (void)protocol;
    if (family == AF_INET)
        return FIRST_SOCKET + (int)sim_node();
    errno = EAFNOSUPPORT;
    return -1;
}

int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
    (void)fd, (void)level, (void)option, (void)value, (void)len;
    return 0;
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t len)
{
    mr_assert(fd >= FIRST_SOCKET && len == sizeof(struct sockaddr_in));
    memcpy(&bound[fd - FIRST_SOCKET], address, len);
    return 0;
}

int __wrap_listen(int fd, int backlog)
{
    (void)backlog;
    mr_assert(fd >= FIRST_SOCKET);
    return 0;
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
    mr_assert(fd >= FIRST_SOCKET && *len >= sizeof(struct sockaddr_in));
    *len = sizeof(struct sockaddr_in);
    memcpy(address, &bound[fd - FIRST_SOCKET], *len);
    return 0;
}

int uv_tcp_init(uv_loop_t *loop, uv_tcp_t *tcp)
{
    sim_handle_init(loop, (uv_handle_t *)tcp, UV_TCP);
    return 0;
}

int uv_tcp_open(uv_tcp_t *tcp, uv_os_sock_t fd)
{
    (void)tcp;
    mr_assert(fd >= FIRST_SOCKET);
    return 0;
}

static void on_incoming(void *arg)
{
    uv_stream_t *listener = arg;
    listener->connection_cb(listener, 0);
}

int uv_listen(uv_stream_t *stream, int backlog, uv_connection_cb cb)
{
    (void)backlog;
    stream->connection_cb = cb;
    sim_handle_start((uv_handle_t *)stream);
    wire_listen(stream->loop, on_incoming, stream);
    return 0;
}
