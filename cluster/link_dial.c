/* Our connections to peers.
 *
 * Happy path: WAITING -> LOOKING_UP (not for literal addresses) -> CONNECTING: TCP, TLS, the certificate's name, Hello,
 * HelloReply -> UP.
 * Failure anywhere: on_failed, back to WAITING with a longer delay. A name that does not resolve any more is tried at
 * the addresses that it had; of several addresses each try takes the next. Close: the state is CLOSED, the timer and
 * the connection are closed, a look-up's answer is ignored. */
#include "cluster/link_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const channel_names[LINK_CHANNELS] = {"control", "bulk"};

/* Outlives its dial: a look-up that runs cannot be cancelled. */
struct link_lookup {
    uv_getaddrinfo_t request;
    struct link_env *env;
    struct link_dial *dial;
};

#define TO(state) (1U << (state))
static const unsigned transitions[] = {
    [DIAL_WAITING] = TO(DIAL_LOOKING_UP) | TO(DIAL_CONNECTING) | TO(DIAL_WAITING) | TO(DIAL_CLOSED),
    [DIAL_LOOKING_UP] = TO(DIAL_CONNECTING) | TO(DIAL_WAITING) | TO(DIAL_CLOSED),
    [DIAL_CONNECTING] = TO(DIAL_UP) | TO(DIAL_WAITING) | TO(DIAL_CLOSED),
    [DIAL_UP] = TO(DIAL_WAITING) | TO(DIAL_CLOSED),
    [DIAL_CLOSED] = 0,
};

static void become(struct link_dial *d, enum dial_state state)
{
    mr_assert(transitions[d->state] & TO(state));
    d->state = state;
}

/* The callback may wait again, behind all others. */
static void fire_waiter(struct link_dial *d, unsigned i, int status)
{
    mr_assert(i < d->n_waiters);
    struct link_waiter w = d->waiters[i];
    d->n_waiters--;
    memmove(&d->waiters[i], &d->waiters[i + 1], (d->n_waiters - i) * sizeof(w));
    w.cb(w.arg, status);
}

/* Each of those that wait now, once. */
static void fire_waiters(struct link_dial *d, int status)
{
    for (unsigned left = d->n_waiters; left > 0; left--)
        fire_waiter(d, 0, status);
}

static void on_delay(uv_timer_t *timer);

static void wait_before_next(struct link_dial *d)
{
    become(d, DIAL_WAITING);
    unsigned delay = d->delay_ms / 2 + link_random(d->peer->l, d->delay_ms / 2 + 1);
    d->delay_ms = d->delay_ms * 2 > LINK_BACKOFF_MAX_MS ? LINK_BACKOFF_MAX_MS : d->delay_ms * 2;
    uv_timer_start(&d->timer, on_delay, delay, 0);
}

static void log_failure(struct link_dial *d, const char *reason)
{
    uint64_t now = link_now_ms(d->peer->l);
    unsigned interval = strcmp(d->logged, reason) == 0 ? LINK_LOG_SAME_MS : LINK_LOG_OTHER_MS;
    if (d->logged[0] != 0 && now - d->logged_ms < interval)
        return;
    (void)snprintf(d->logged, sizeof(d->logged), "%s", reason);
    d->logged_ms = now;
    log_event(LOG_WARN, "link_failed", LOG_S("peer", d->peer->name), LOG_S("channel", channel_names[d->channel]),
              LOG_S("host", d->peer->address.host), LOG_S("port", d->peer->address.port), LOG_S("reason", reason));
}

static void dial_failed(struct link_dial *d, const char *reason)
{
    log_failure(d, reason);
    wait_before_next(d);
}

/* ---- connection ---- */

static void on_open(struct link_conn *c)
{
    struct link_dial *d = link_conn_owner(c);
    Mailraft__Hello hello;
    if (link_conn_ssl(c) != NULL && !link_tls_peer_is(link_conn_ssl(c), d->peer->name)) {
        char name[200];
        link_tls_peer_name(link_conn_ssl(c), name, sizeof(name));
        link_conn_fail(c, "the certificate of %s is not for %s but for %s", link_conn_remote(c), d->peer->name, name);
        return;
    }
    link_own_hello(d->peer->l, d->channel, &hello);
    link_pack_and_send(c, FRAME_HELLO, &hello.base, NULL, 0, 0);
}

/* The handler sees the reply as a Hello; NULL: the peer is who it should be. */
static const char *check_reply(struct link_dial *d, const Mailraft__HelloReply *reply)
{
    struct links *l = d->peer->l;
    Mailraft__Hello hello = MAILRAFT__HELLO__INIT;
    if (strcmp(reply->name, d->peer->name) != 0)
        return "another node answers at this address";
    if (reply->version == 0)
        return "unknown protocol version";
    hello.version = reply->version;
    hello.name = reply->name;
    hello.node = reply->node;
    hello.directory = reply->directory;
    hello.cluster = reply->cluster;
    hello.incarnation = reply->incarnation;
    hello.life = reply->life;
    hello.channel = (uint32_t)d->channel;
    return l->handler.check(l->handler.arg, &hello);
}

static void on_reply(struct link_conn *c, struct link_dial *d, const Mailraft__HelloReply *reply)
{
    struct links *l = d->peer->l;
    if (reply->refused[0] != 0) {
        if (l->handler.refused != NULL)
            l->handler.refused(l->handler.arg, d->peer->id, reply->refused);
        link_conn_fail(c, "refused by %s: %s", d->peer->name, reply->refused);
        return;
    }
    const char *problem = check_reply(d, reply);
    if (problem != NULL) {
        link_conn_fail(c, "%s", problem);
        return;
    }
    if (!link_conn_is_open(c))
        return; /* the handler dropped it */
    become(d, DIAL_UP);
    d->delay_ms = LINK_BACKOFF_MIN_MS;
    d->logged[0] = 0;
    link_conn_deadline(c, 0, NULL);
    log_event(LOG_INFO, "link_up", LOG_S("peer", d->peer->name), LOG_S("channel", channel_names[d->channel]),
              LOG_S("address", link_conn_remote(c)));
    l->handler.up(l->handler.arg, d->peer->id, d->channel);
}

static int on_frame(struct link_conn *c, const struct frame_header *h, const uint8_t *meta, const uint8_t *tail)
{
    struct link_dial *d = link_conn_owner(c);
    (void)tail;
    if (h->type != FRAME_HELLO_REPLY || d->state != DIAL_CONNECTING)
        return MR_MALFORMED; /* nothing else comes back on this connection */
    Mailraft__HelloReply *reply = mailraft__hello_reply__unpack(NULL, h->meta_len, meta);
    if (reply == NULL)
        return MR_MALFORMED;
    on_reply(c, d, reply);
    mailraft__hello_reply__free_unpacked(reply, NULL);
    return 0;
}

static bool has_room(const struct link_waiter *w, const struct link_conn *c)
{
    return link_conn_queued(c) < w->below || (w->until > 0 && link_conn_written(c) >= w->until);
}

static void on_drained(struct link_conn *c)
{
    struct link_dial *d = link_conn_owner(c);
    unsigned i = 0;
    for (unsigned left = d->n_waiters; left > 0 && d->state == DIAL_UP && link_conn_is_open(c); left--) {
        if (has_room(&d->waiters[i], c))
            fire_waiter(d, i, 0); /* the next one moves up, and what this one has sent counts */
        else
            i++;
    }
}

static void on_failed(struct link_conn *c, const char *reason)
{
    struct link_dial *d = link_conn_owner(c);
    struct links *l = d->peer->l;
    bool was_up = d->state == DIAL_UP;
    mr_assert(d->conn == c);
    d->conn = NULL;
    dial_failed(d, reason);
    fire_waiters(d, MR_UNREACHABLE);
    if (was_up && d->state != DIAL_CLOSED)
        l->handler.down(l->handler.arg, d->peer->id, d->channel, reason);
}

static void on_gone(struct link_conn *c)
{
    struct link_dial *d = link_conn_owner(c);
    link_peer_unref(d->peer);
}

static const struct link_conn_events events = {
    .open = on_open, .frame = on_frame, .drained = on_drained, .failed = on_failed, .gone = on_gone};

/* ---- dialling ---- */

static void connect_to_next(struct link_dial *d)
{
    struct links *l = d->peer->l;
    uint64_t used = link_now_ms(l) - d->started_ms;
    const struct sockaddr *address = (const struct sockaddr *)&d->addresses[d->next_address++ % d->n_addresses];
    if (l->insecure && !link_address_is_loopback(address)) {
        dial_failed(d, "links without TLS go to loopback addresses only");
        return;
    }
    become(d, DIAL_CONNECTING);
    uv_timer_stop(&d->timer);
    d->peer->refs++;
    d->conn = link_conn_new(&l->env, l->tls.dialling, true, &events, d);
    link_conn_deadline(d->conn, used < LINK_DIAL_MS ? (unsigned)(LINK_DIAL_MS - used) : 1, "no answer in time");
    link_conn_connect(d->conn, address);
}

static void take_addresses(struct link_dial *d, const struct addrinfo *list)
{
    unsigned n = 0;
    for (; list != NULL && n < LINK_MAX_ADDRESSES; list = list->ai_next)
        if (list->ai_addrlen <= sizeof(d->addresses[0]))
            memcpy(&d->addresses[n++], list->ai_addr, list->ai_addrlen);
    if (n > 0)
        d->n_addresses = n;
}

/* The look-up came to nothing in time: with the addresses of the last one, if there was one. */
static void lookup_failed(struct link_dial *d, const char *reason)
{
    if (d->n_addresses > 0)
        connect_to_next(d);
    else
        dial_failed(d, reason);
}

static void on_lookup(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct link_lookup *lookup = request->data;
    struct link_dial *d = lookup->dial;
    struct link_env *env = lookup->env;
    if (d->lookup == lookup) { /* else the address was changed meanwhile */
        d->lookup = NULL;
        if (status == 0)
            take_addresses(d, list);
        if (d->state == DIAL_LOOKING_UP && status == 0 && d->n_addresses > 0)
            connect_to_next(d);
        else if (d->state == DIAL_LOOKING_UP)
            lookup_failed(d, status != 0 ? uv_strerror(status) : "the name has no address");
    }
    uv_freeaddrinfo(list);
    free(lookup);
    link_peer_unref(d->peer);
    link_env_handle_closed(env);
}

static void on_lookup_timeout(uv_timer_t *timer)
{
    struct link_dial *d = timer->data;
    if (d->lookup != NULL)
        (void)uv_cancel((uv_req_t *)&d->lookup->request); /* works while it only waits for a thread */
    lookup_failed(d, "the name server does not answer in time");
}

static void look_up(struct link_dial *d)
{
    static const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct link_peer *p = d->peer;
    become(d, DIAL_LOOKING_UP);
    uv_timer_start(&d->timer, on_lookup_timeout, LINK_DIAL_MS / 2, 0);
    if (d->lookup != NULL)
        return; /* that of the last try still runs: its answer will do */
    struct link_lookup *lookup = mr_calloc(1, sizeof(*lookup));
    lookup->env = &p->l->env;
    lookup->dial = d;
    lookup->request.data = lookup;
    int rc = uv_getaddrinfo(p->l->env.loop, &lookup->request, on_lookup, p->address.host, p->address.port, &hints);
    if (rc != 0) {
        free(lookup);
        lookup_failed(d, uv_strerror(rc));
        return;
    }
    d->lookup = lookup;
    p->refs++;
    link_env_handle_opened(&p->l->env);
}

static void on_delay(uv_timer_t *timer)
{
    struct link_dial *d = timer->data;
    mr_assert(d->state == DIAL_WAITING && d->conn == NULL);
    d->started_ms = link_now_ms(d->peer->l);
    if (!d->peer->address.literal) {
        look_up(d);
        return;
    }
    d->addresses[0] = d->peer->address.address;
    d->n_addresses = 1;
    connect_to_next(d);
}

void link_dial_kick(struct link_dial *d)
{
    d->delay_ms = LINK_BACKOFF_MIN_MS;
    if (d->state == DIAL_WAITING)
        uv_timer_start(&d->timer, on_delay, link_random(d->peer->l, 10), 0);
}

/* ---- waiting for room ---- */

static void on_waiters_turn(struct link_turn *turn)
{
    struct link_dial *d = MR_CONTAINER(turn, struct link_dial, waiters_turn);
    if (d->n_waiters > 0 && d->state == DIAL_UP)
        link_conn_nudge(d->conn); /* came up meanwhile */
    else
        fire_waiters(d, d->peer->l->closing ? MR_CLOSED : MR_UNREACHABLE);
    link_peer_unref(d->peer);
}

static void waiters_turn(struct link_dial *d)
{
    if (d->waiters_turn.queued)
        return;
    d->peer->refs++;
    link_env_turn(&d->peer->l->env, &d->waiters_turn);
}

int link_dial_wait_drained(struct link_dial *d, size_t below, void (*cb)(void *arg, int status), void *arg)
{
    if (d->n_waiters == LINK_MAX_WAITERS)
        return MR_BUSY;
    struct link_waiter *w = &d->waiters[d->n_waiters++];
    *w = (struct link_waiter){.cb = cb, .arg = arg, .below = below};
    if (d->state == DIAL_UP) {
        size_t queued = link_conn_queued(d->conn);
        if (below > 0 && queued >= below)
            w->until = link_conn_written(d->conn) + (queued - below) + LINK_TLS_EXTRA;
        link_conn_nudge(d->conn);
    } else {
        waiters_turn(d);
    }
    return 0;
}

/* ---- life ---- */

void link_dial_open(struct link_dial *d, struct link_peer *peer, enum link_channel channel)
{
    d->peer = peer;
    d->channel = channel;
    d->state = DIAL_WAITING;
    d->delay_ms = LINK_BACKOFF_MIN_MS;
    d->waiters_turn.run = on_waiters_turn;
    uv_timer_init(peer->l->env.loop, &d->timer);
    d->timer.data = d;
    peer->refs++;
    link_env_handle_opened(&peer->l->env);
    uv_timer_start(&d->timer, on_delay, 0, 0);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct link_dial *d = handle->data;
    struct link_env *env = &d->peer->l->env;
    link_peer_unref(d->peer);
    link_env_handle_closed(env);
}

void link_dial_close(struct link_dial *d)
{
    become(d, DIAL_CLOSED);
    uv_close((uv_handle_t *)&d->timer, on_timer_closed);
    if (d->lookup != NULL)
        (void)uv_cancel((uv_req_t *)&d->lookup->request);
    if (d->conn != NULL) {
        link_conn_close(d->conn);
        d->conn = NULL;
    }
    if (d->n_waiters > 0)
        waiters_turn(d);
}
