/* Connections that others dialled: only read, but for the one answer to their Hello.
 *
 * Happy path: link_on_connection -> handshake -> Hello: name in the certificate, the handler's check, the table ->
 * HelloReply -> frames to the handler. Failure: the connection fails; a stranger's is logged at most once a second
 * (with the number of those not logged). A peer that dials a channel again has lost the old connection, whether we know
 * it yet or not: the old one goes first, so frames stay in order (K1). */
#include "cluster/link_internal.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void unlink_inbound(struct link_inbound *in)
{
    struct links *l = in->l;
    *(in->previous != NULL ? &in->previous->next : &l->oldest) = in->next;
    *(in->next != NULL ? &in->next->previous : &l->newest) = in->previous;
    l->n_inbound--;
    if (in->peer != NULL && in->peer->inbound[in->channel] == in)
        in->peer->inbound[in->channel] = NULL;
    in->peer = NULL;
}

static void log_rejected(struct links *l, const char *remote, const char *claimed, const char *reason)
{
    uint64_t now = link_now_ms(l);
    if (l->rejected_logged_ms != 0 && now - l->rejected_logged_ms < LINK_LOG_REJECTED_MS) {
        l->rejected_unlogged++;
        return;
    }
    log_event(LOG_WARN, "link_rejected", LOG_S("address", remote), LOG_S("claims", claimed), LOG_S("reason", reason),
              LOG_N("not_logged", l->rejected_unlogged));
    l->rejected_logged_ms = now;
    l->rejected_unlogged = 0;
}

static void reply(struct link_inbound *in, const char *refused)
{
    Mailraft__Hello self;
    Mailraft__HelloReply out = MAILRAFT__HELLO_REPLY__INIT;
    link_own_hello(in->l, in->channel, &self);
    out.version = self.version;
    out.name = self.name;
    out.node = self.node;
    out.directory = self.directory;
    out.cluster = self.cluster;
    out.incarnation = self.incarnation;
    out.life = self.life;
    if (refused != NULL)
        out.refused = (char *)(uintptr_t)refused;
    link_pack_and_send(in->conn, FRAME_HELLO_REPLY, &out.base, NULL, 0, 0);
}

/* NULL: welcome. The text is the handler's or ours, valid until the next call. */
static const char *why_not(struct links *l, const Mailraft__Hello *hello)
{
    if (hello->version == 0)
        return "unknown protocol version";
    if (strcmp(hello->name, l->name) == 0)
        return "this node has the same name: two nodes of a cluster need two names";
    const char *reason = l->handler.check(l->handler.arg, hello);
    if (reason == NULL && link_peer_by_name(l, hello->name) == NULL)
        reason = "no node of this name belongs to the cluster: check node.name and cluster.initial on both";
    return reason;
}

static void welcome(struct link_inbound *in, struct link_peer *peer, enum link_channel channel)
{
    struct link_inbound *old = peer->inbound[channel];
    if (old != NULL) {
        old->peer = NULL;
        link_conn_fail(old->conn, "the peer has dialled again");
    }
    in->peer = peer;
    in->peer_id = peer->id;
    in->channel = channel;
    in->greeted = true;
    peer->inbound[channel] = in;
    link_conn_trust(in->conn);
    link_conn_deadline(in->conn, 0, NULL);
    reply(in, NULL);
    link_dial_kick(&peer->dials[channel]); /* it lives: no need to wait for our back-off */
}

static int on_hello(struct link_inbound *in, const Mailraft__Hello *hello)
{
    struct links *l = in->l;
    const SSL *ssl = link_conn_ssl(in->conn);
    if (hello->channel >= LINK_CHANNELS || hello->name[0] == 0)
        return MR_MALFORMED;
    if (ssl != NULL && !link_tls_peer_is(ssl, hello->name)) {
        char name[160];
        link_tls_peer_name(ssl, name, sizeof(name));
        log_rejected(l, link_conn_remote(in->conn), hello->name, "its certificate has another name");
        link_conn_fail(in->conn, "certificate of %s", name);
        return 0;
    }
    const char *reason = why_not(l, hello);
    if (!link_conn_is_open(in->conn))
        return 0; /* the handler closed or dropped */
    if (reason != NULL) {
        log_rejected(l, link_conn_remote(in->conn), hello->name, reason);
        in->channel = (enum link_channel)hello->channel;
        reply(in, reason);
        link_conn_finish(in->conn, "refused");
        return 0;
    }
    welcome(in, link_peer_by_name(l, hello->name), (enum link_channel)hello->channel);
    return 0;
}

static int on_frame(struct link_conn *c, const struct frame_header *h, const uint8_t *meta, const uint8_t *tail)
{
    struct link_inbound *in = link_conn_owner(c);
    struct links *l = in->l;
    if (in->greeted) {
        if (in->peer == NULL || h->type == FRAME_HELLO || h->type == FRAME_HELLO_REPLY)
            return MR_MALFORMED;
        return l->handler.frame(l->handler.arg, in->peer_id, in->channel, (enum frame_type)h->type, meta, h->meta_len,
                                tail, h->tail_len);
    }
    if (h->type != FRAME_HELLO)
        return MR_MALFORMED;
    Mailraft__Hello *hello = mailraft__hello__unpack(NULL, h->meta_len, meta);
    if (hello == NULL)
        return MR_MALFORMED;
    int rc = on_hello(in, hello);
    mailraft__hello__free_unpacked(hello, NULL);
    return rc;
}

static void on_drained(struct link_conn *c)
{
    (void)c;
}

static void on_failed(struct link_conn *c, const char *reason)
{
    struct link_inbound *in = link_conn_owner(c);
    if (in->greeted)
        log_event(LOG_INFO, "link_inbound_closed", LOG_N("peer_id", in->peer_id), LOG_S("address", link_conn_remote(c)),
                  LOG_S("reason", reason));
    else
        log_rejected(in->l, link_conn_remote(c), "", reason);
    unlink_inbound(in);
}

static void on_gone(struct link_conn *c)
{
    free(link_conn_owner(c));
}

static const struct link_conn_events events = {
    .frame = on_frame, .drained = on_drained, .failed = on_failed, .gone = on_gone};

/* Greeted connections are bounded by the peers; of the others the oldest makes room, so that connections that say
 * nothing cannot keep peers out. */
static void make_room(struct links *l)
{
    struct link_inbound *in = l->oldest;
    if (l->n_inbound < LINK_MAX_INBOUND)
        return;
    while (in != NULL && in->greeted)
        in = in->next;
    mr_assert(in != NULL);
    log_rejected(l, link_conn_remote(in->conn), "", "too many connections that have not said who they are");
    unlink_inbound(in);
    link_conn_close(in->conn);
}

void link_on_connection(uv_stream_t *listener, int status)
{
    struct links *l = listener->data;
    if (status != 0) {
        log_rejected(l, "", "", uv_strerror(status));
        return;
    }
    make_room(l);
    struct link_inbound *in = mr_calloc(1, sizeof(*in));
    in->l = l;
    in->previous = l->newest;
    *(l->newest != NULL ? &l->newest->next : &l->oldest) = in;
    l->newest = in;
    l->n_inbound++;
    in->conn = link_conn_new(&l->env, l->tls.accepting, false, &events, in);
    link_conn_deadline(in->conn, LINK_HELLO_MS, "has not said who it is in time");
    link_conn_accept(in->conn, listener);
}

void link_inbound_close_all(struct links *l)
{
    while (l->oldest != NULL) {
        struct link_inbound *in = l->oldest;
        unlink_inbound(in);
        link_conn_close(in->conn);
    }
}
