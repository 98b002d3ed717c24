/* The table of peers, the listener, and what the public functions have in common. Connections live in link_dial.c and
 * link_accept.c. */
#include "cluster/link_internal.h"

#include "proto/base/error.h"
#include "proto/base/id.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LISTEN_BACKLOG = 128, SHORT_MESSAGE = 1024, DAY_MS = 86400000 };

/* ---- listener ---- */

/* By hand, not by libuv: so a failure is known before any handle lives on the loop. */
static int bind_one(const struct addrinfo *a)
{
    int on = 1, off = 0;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int bound_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t len = sizeof(address);
    if (getsockname(fd, &address.any, &len) != 0)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static int bind_listener(struct links *l, const char *text, int *fd, char *error, size_t error_len)
{
    struct link_address address;
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    if (link_address_parse(&address, text) != 0) {
        (void)snprintf(error, error_len, "cluster.listen: \"%s\" is not host:port", text);
        return MR_CONFIG;
    }
    int rc = getaddrinfo(address.host, address.port, &hints, &list);
    if (rc != 0) {
        (void)snprintf(error, error_len, "cluster.listen: %s: %s", text, gai_strerror(rc));
        return MR_CONFIG;
    }
    if (l->insecure && !link_address_is_loopback(list->ai_addr)) {
        (void)snprintf(error, error_len, "cluster.listen: %s: links without TLS are for loopback addresses only", text);
        freeaddrinfo(list);
        return MR_CONFIG;
    }
    *fd = bind_one(list);
    if (*fd < 0 && errno == EAFNOSUPPORT && strcmp(address.host, "::") == 0) { /* a machine without IPv6 */
        struct addrinfo *v4 = NULL;
        if (getaddrinfo("0.0.0.0", address.port, &hints, &v4) == 0) {
            *fd = bind_one(v4);
            freeaddrinfo(v4);
        }
    }
    if (*fd < 0)
        (void)snprintf(error, error_len, "cannot listen on %s: %s", text, strerror(errno));
    freeaddrinfo(list);
    if (*fd < 0)
        return MR_IO;
    l->port = bound_port(*fd);
    return 0;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct links *l = handle->data;
    link_env_handle_closed(&l->env);
}

static void start_listener(struct links *l, int fd)
{
    mr_assert(uv_tcp_init(l->env.loop, &l->listener) == 0);
    l->listener.data = l;
    link_env_handle_opened(&l->env);
    int rc = uv_tcp_open(&l->listener, fd);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&l->listener, LISTEN_BACKLOG, link_on_connection);
    if (rc != 0) /* it listens already: only memory can be lacking */
        mr_panic("cannot watch the listening socket: %s", uv_strerror(rc));
}

/* ---- the certificates' end ---- */

static void on_day(uv_timer_t *timer)
{
    const struct links *l = timer->data;
    link_tls_log(&l->tls, l->ca, l->cert, true);
}

static void watch_certificates(struct links *l)
{
    link_tls_log(&l->tls, l->ca, l->cert, false);
    uv_timer_init(l->env.loop, &l->daily);
    l->daily.data = l;
    link_env_handle_opened(&l->env);
    uv_timer_start(&l->daily, on_day, DAY_MS, DAY_MS);
}

static void on_daily_closed(uv_handle_t *handle)
{
    struct links *l = handle->data;
    link_env_handle_closed(&l->env);
}

/* ---- life ---- */

static void free_links(struct links *l)
{
    link_tls_close(&l->tls);
    BIO_meth_free(l->env.bio_method);
    free(l->name);
    free(l->ca);
    free(l->cert);
    free(l->key);
    free(l);
}

int links_open(struct links **out, const struct links_config *config, char *error, size_t error_len)
{
    struct links *l = mr_calloc(1, sizeof(*l));
    int rc = 0, fd = -1;
    l->handler = config->handler;
    l->insecure = config->insecure;
    l->name = mr_strdup(config->name);
    if (!l->insecure) {
        if (config->ca == NULL || config->cert == NULL || config->key == NULL) {
            (void)snprintf(error, error_len, "cluster.tls: ca, cert and key are all needed");
            rc = MR_CONFIG;
            goto err_after_alloc;
        }
        l->ca = mr_strdup(config->ca);
        l->cert = mr_strdup(config->cert);
        l->key = mr_strdup(config->key);
        rc = link_tls_open(&l->tls, l->ca, l->cert, l->key, error, error_len);
        if (rc != 0)
            goto err_after_alloc;
    }
    rc = bind_listener(l, config->listen, &fd, error, error_len);
    if (rc != 0)
        goto err_after_alloc;
    struct mr_id seed = mr_id_random();
    memcpy(&l->random, seed.bytes, sizeof(l->random));
    l->random |= 1;
    link_env_init(&l->env, config->loop);
    l->env.bio_method = link_conn_bio_method();
    if (l->env.bio_method == NULL)
        mr_panic("out of memory");
    start_listener(l, fd);
    if (!l->insecure)
        watch_certificates(l);
    *out = l;
    return 0;

err_after_alloc:
    free_links(l);
    return rc;
}

int links_port(const struct links *l)
{
    return l->port;
}

static void on_env_closed(void *arg)
{
    struct links *l = arg;
    void (*cb)(void *arg_) = l->close_cb;
    void *cb_arg = l->close_arg;
    free_links(l);
    if (cb != NULL)
        cb(cb_arg);
}

void links_close(struct links *l, void (*cb)(void *arg), void *arg)
{
    mr_assert(!l->closing);
    l->closing = true;
    l->close_cb = cb;
    l->close_arg = arg;
    link_inbound_close_all(l);
    while (l->n_peers > 0)
        links_remove_peer(l, l->peers[0]->id);
    uv_close((uv_handle_t *)&l->listener, on_listener_closed);
    if (!l->insecure)
        uv_close((uv_handle_t *)&l->daily, on_daily_closed);
    link_env_close(&l->env, on_env_closed, l);
}

int links_reload(struct links *l, char *error, size_t error_len)
{
    struct link_tls fresh;
    if (l->insecure)
        return 0;
    int rc = link_tls_open(&fresh, l->ca, l->cert, l->key, error, error_len);
    if (rc != 0)
        return rc;
    link_tls_close(&l->tls);
    l->tls = fresh;
    link_tls_log(&l->tls, l->ca, l->cert, false);
    return 0;
}

/* ---- peers ---- */

static struct link_peer *peer_by_id(const struct links *l, uint32_t id)
{
    for (unsigned i = 0; i < l->n_peers; i++)
        if (l->peers[i]->id == id)
            return l->peers[i];
    return NULL;
}

struct link_peer *link_peer_by_name(const struct links *l, const char *name)
{
    for (unsigned i = 0; i < l->n_peers; i++)
        if (strcmp(l->peers[i]->name, name) == 0)
            return l->peers[i];
    return NULL;
}

void link_peer_unref(struct link_peer *p)
{
    mr_assert(p->refs > 0);
    if (--p->refs > 0)
        return;
    free(p->name);
    free(p);
}

static void change_address(struct link_peer *p, const struct link_address *address)
{
    if (strcmp(p->address.host, address->host) == 0 && strcmp(p->address.port, address->port) == 0)
        return;
    p->address = *address;
    for (int i = 0; i < LINK_CHANNELS; i++) {
        p->dials[i].lookup = NULL; /* its answer is for the old name */
        p->dials[i].n_addresses = 0;
        link_dial_kick(&p->dials[i]);
    }
}

int links_add_peer(struct links *l, uint32_t peer, const char *name, const char *text)
{
    struct link_address address;
    if (peer == 0 || link_address_parse(&address, text) != 0 || name[0] == 0 || strcmp(name, l->name) == 0 ||
        l->closing)
        return MR_INVAL;
    struct link_peer *p = peer_by_id(l, peer);
    if (p != link_peer_by_name(l, name))
        return MR_EXISTS;
    if (p != NULL) {
        change_address(p, &address);
        return 0;
    }
    if (l->n_peers == LINK_MAX_PEERS)
        return MR_LIMIT;
    p = mr_calloc(1, sizeof(*p));
    p->l = l;
    p->id = peer;
    p->name = mr_strdup(name);
    p->address = address;
    p->refs = 1;
    l->peers[l->n_peers++] = p;
    for (int i = 0; i < LINK_CHANNELS; i++)
        link_dial_open(&p->dials[i], p, (enum link_channel)i);
    return 0;
}

void links_remove_peer(struct links *l, uint32_t peer)
{
    unsigned i = 0;
    while (i < l->n_peers && l->peers[i]->id != peer)
        i++;
    if (i == l->n_peers)
        return;
    struct link_peer *p = l->peers[i];
    l->peers[i] = l->peers[--l->n_peers];
    for (int channel = 0; channel < LINK_CHANNELS; channel++) {
        struct link_inbound *in = p->inbound[channel];
        if (in != NULL) {
            in->peer = NULL;
            link_conn_fail(in->conn, "the peer was removed");
        }
        link_dial_close(&p->dials[channel]);
    }
    link_peer_unref(p);
}

void links_drop(struct links *l, uint32_t peer)
{
    struct link_peer *p = peer_by_id(l, peer);
    if (p == NULL)
        return;
    for (int channel = 0; channel < LINK_CHANNELS; channel++) {
        if (p->inbound[channel] != NULL)
            link_conn_fail(p->inbound[channel]->conn, "dropped");
        if (p->dials[channel].conn != NULL)
            link_conn_fail(p->dials[channel].conn, "dropped");
    }
}

/* ---- sending ---- */

static struct link_dial *dial_up(const struct links *l, uint32_t peer, enum link_channel channel)
{
    struct link_peer *p = peer_by_id(l, peer);
    if (p == NULL)
        return NULL;
    struct link_dial *d = &p->dials[channel];
    return d->state == DIAL_UP && link_conn_is_open(d->conn) ? d : NULL;
}

bool links_is_up(const struct links *l, uint32_t peer, enum link_channel channel)
{
    return dial_up(l, peer, channel) != NULL;
}

size_t links_queued(const struct links *l, uint32_t peer, enum link_channel channel)
{
    const struct link_dial *d = dial_up(l, peer, channel);
    return d != NULL ? link_conn_queued(d->conn) : 0;
}

/* MR_UNREACHABLE, MR_BUSY, MR_LIMIT; else the dial to send on. */
static int may_send(struct links *l, uint32_t peer, enum link_channel channel, size_t meta_len,
                    const struct link_buffer *tail, unsigned n_tail, struct link_dial **out, size_t *tail_len)
{
    size_t max = channel == LINK_BULK ? LINK_MAX_BULK : LINK_MAX_QUEUE;
    *tail_len = 0;
    for (unsigned i = 0; i < n_tail; i++)
        *tail_len += tail[i].len;
    if (meta_len > FRAME_MAX_META || *tail_len > FRAME_MAX_TAIL)
        return MR_LIMIT;
    *out = dial_up(l, peer, channel);
    if (*out == NULL)
        return MR_UNREACHABLE;
    if (link_conn_queued((*out)->conn) + FRAME_HEADER + meta_len + *tail_len > max)
        return MR_BUSY;
    return 0;
}

int links_send(struct links *l, uint32_t peer, enum link_channel channel, enum frame_type type, const void *meta,
               size_t meta_len, const struct link_buffer *tail, unsigned n_tail)
{
    struct link_dial *d;
    size_t tail_len;
    int rc = may_send(l, peer, channel, meta_len, tail, n_tail, &d, &tail_len);
    if (rc == 0)
        link_conn_send(d->conn, type, meta, meta_len, tail, n_tail, tail_len);
    return rc;
}

int links_send_message(struct links *l, uint32_t peer, enum link_channel channel, enum frame_type type,
                       const ProtobufCMessage *message, const struct link_buffer *tail, unsigned n_tail)
{
    struct link_dial *d;
    size_t tail_len;
    int rc = may_send(l, peer, channel, protobuf_c_message_get_packed_size(message), tail, n_tail, &d, &tail_len);
    if (rc == 0)
        link_pack_and_send(d->conn, type, message, tail, n_tail, tail_len);
    return rc;
}

void link_pack_and_send(struct link_conn *c, enum frame_type type, const ProtobufCMessage *message,
                        const struct link_buffer *tail, unsigned n_tail, size_t tail_len)
{
    uint8_t small[SHORT_MESSAGE];
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *meta = len <= sizeof(small) ? small : mr_malloc(len);
    (void)protobuf_c_message_pack(message, meta);
    link_conn_send(c, type, meta, len, tail, n_tail, tail_len);
    if (meta != small)
        free(meta);
}

int links_when_drained(struct links *l, uint32_t peer, enum link_channel channel, size_t below,
                       void (*cb)(void *arg, int status), void *arg)
{
    struct link_peer *p = peer_by_id(l, peer);
    if (p == NULL)
        return MR_NOTFOUND;
    return link_dial_wait_drained(&p->dials[channel], below, cb, arg);
}

/* ---- for the other files ---- */

uint64_t link_now_ms(const struct links *l)
{
    return uv_now(l->env.loop);
}

unsigned link_random(struct links *l, unsigned below)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (unsigned)(l->random % below);
}

void link_own_hello(struct links *l, enum link_channel channel, Mailraft__Hello *out)
{
    mailraft__hello__init(out);
    l->handler.hello(l->handler.arg, out);
    out->version = LINK_PROTOCOL;
    out->name = l->name;
    out->channel = (uint32_t)channel;
    out->program = (char *)(uintptr_t)MAILRAFT_VERSION;
}
