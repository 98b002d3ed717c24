/* What peers say, and Raft's messages on the way to them.
 *
 * A Raft message is one frame: 4 bytes of head length, head, tail. One that is larger than a frame (a snapshot) goes in
 * slices on the bulk channel, one transfer a peer at a time, each slice when the one before has left; a further one
 * fails at once (PROTOCOL.md 8.2). */
#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ASSEMBLY_GIB = 8, SINGLE_FRAME = 1 << 20 };

static void put_u32(uint8_t *out, uint32_t v)
{
    out[0] = (uint8_t)(v >> 24);
    out[1] = (uint8_t)(v >> 16);
    out[2] = (uint8_t)(v >> 8);
    out[3] = (uint8_t)v;
}

static uint32_t get_u32(const uint8_t *in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

/* ---- who is there ---- */

static void on_hello(void *arg, Mailraft__Hello *out)
{
    struct cluster *c = arg;
    identity_hello(c->identity, out);
}

static const char *on_check(void *arg, const Mailraft__Hello *peer)
{
    struct cluster *c = arg;
    uint32_t node = formation_node(c->formation, peer->name);
    const char *why = identity_check_peer(c->identity, peer, node);
    if (why == NULL && node != 0)
        formation_peer_seen(c->formation, node, peer);
    return why;
}

static void drop_transfer(struct cluster *c, uint32_t peer, int status);

static void on_up(void *arg, uint32_t peer, enum link_channel channel)
{
    struct cluster *c = arg;
    log_event(LOG_INFO, "link_up", LOG_N("peer", peer), LOG_S("channel", channel == LINK_BULK ? "bulk" : "control"));
    if (c->refusals[peer] != NULL) {
        free(c->refusals[peer]);
        c->refusals[peer] = NULL;
        core_lease_update(c, core_now(c));
    }
    if (channel == LINK_BULK && c->bodies != NULL)
        bodies_link(c->bodies, peer, true);
    if (channel == LINK_CONTROL && peer == c->leader && c->replica != NULL)
        proposals_resend(c->proposals, core_now(c));
}

static void on_down(void *arg, uint32_t peer, enum link_channel channel, const char *reason)
{
    struct cluster *c = arg;
    log_event(LOG_INFO, "link_down", LOG_N("peer", peer), LOG_S("channel", channel == LINK_BULK ? "bulk" : "control"),
              LOG_S("reason", reason));
    if (channel == LINK_BULK) {
        if (c->bodies != NULL)
            bodies_link(c->bodies, peer, false);
        drop_transfer(c, peer, MR_UNREACHABLE);
    }
}

/* Dialling goes on, several times a second: each reason is told once. */
static void on_link_refused(void *arg, uint32_t peer, const char *reason)
{
    enum { MAX_REASON = 512 };
    struct cluster *c = arg;
    char **known = &c->refusals[peer];
    if (*known != NULL && strncmp(*known, reason, MAX_REASON) == 0)
        return;
    free(*known);
    *known = mr_strndup(reason, strnlen(reason, MAX_REASON));
    log_event(LOG_WARN, "peer_refuses", LOG_N("peer", peer), LOG_S("reason", *known));
    core_lease_update(c, core_now(c));
}

/* To be formed, a node needs everybody in `initial` (PROTOCOL.md 2.2); later, a majority. */
const char *core_links_refusal(const struct cluster *c)
{
    bool formed = identity_formed(c->identity);
    unsigned members = formed ? identity_members(c->identity) : c->config.n_initial;
    unsigned refusing = 0;
    const char *reason = NULL;
    for (uint32_t peer = 0; peer < LINK_MAX_PEERS; peer++) {
        if (c->refusals[peer] == NULL)
            continue;
        refusing++;
        reason = c->refusals[peer];
    }
    return formed && (members - refusing) * 2 > members ? NULL : reason;
}

/* ---- frames ---- */

static int on_raft(struct cluster *c, uint32_t peer, const uint8_t *tail, size_t len)
{
    if (len < 4 || get_u32(tail) > len - 4)
        return MR_MALFORMED;
    if (c->replica == NULL)
        return 0; /* not formed yet: Raft sends again */
    size_t head = get_u32(tail);
    return replica_receive(c->replica, peer, tail + 4, head, tail + 4 + head, len - 4 - head);
}

/* A whole message: its head is copied, its tail (a snapshot) moved down over it and given away without a copy. */
static int assembled(struct cluster *c, uint32_t peer, struct core_assembly *a)
{
    uint8_t *data = a->data;
    uint64_t total = a->total;
    *a = (struct core_assembly){0};
    size_t head_len = get_u32(data);
    if (head_len > total - 4 || c->replica == NULL) {
        free(data);
        return c->replica == NULL ? 0 : MR_MALFORMED;
    }
    uint8_t *head = mr_memdup(data + 4, head_len);
    size_t tail_len = total - 4 - head_len;
    memmove(data, data + 4 + head_len, tail_len);
    int rc = replica_receive_owned(c->replica, peer, head, head_len, data, tail_len);
    free(head);
    return rc;
}

static int on_raft_slice(struct cluster *c, uint32_t peer, const uint8_t *meta, size_t meta_len, const uint8_t *tail,
                         size_t len)
{
    Mailraft__RaftSlice *slice = mailraft__raft_slice__unpack(NULL, meta_len, meta);
    struct core_assembly *a = &c->assemblies[peer];
    int rc = 0;

    if (slice == NULL)
        return MR_MALFORMED;
    if (slice->offset == 0) {
        free(a->data);
        *a = (struct core_assembly){0};
        if (slice->total > (uint64_t)MAX_ASSEMBLY_GIB << 30 || slice->total < 4) {
            rc = MR_LIMIT;
            goto out;
        }
        a->data = malloc(slice->total); /* a peer's number: may fail */
        if (a->data == NULL) {
            rc = MR_NOMEM;
            goto out;
        }
        a->total = slice->total;
    }
    if (a->data == NULL || slice->total != a->total || slice->offset != a->have || len > a->total - a->have) {
        rc = MR_MALFORMED;
        goto out;
    }
    memcpy(a->data + a->have, tail, len);
    a->have += len;
    if (a->have == a->total)
        rc = assembled(c, peer, a);
out:
    mailraft__raft_slice__free_unpacked(slice, NULL);
    return rc;
}

static void answer_propose(struct cluster *c, uint32_t peer, uint64_t request, enum proposal_fate fate)
{
    Mailraft__ProposeReply reply = MAILRAFT__PROPOSE_REPLY__INIT;
    reply.request = request;
    reply.fate = fate;
    (void)links_send_message(c->links, peer, LINK_CONTROL, FRAME_PROPOSE_REPLY, &reply.base, NULL, 0);
}

static int on_propose(struct cluster *c, uint32_t peer, const uint8_t *meta, size_t meta_len)
{
    Mailraft__Propose *p = mailraft__propose__unpack(NULL, meta_len, meta);
    if (p == NULL || p->op == NULL || p->op->kind_case == MAILRAFT__OP__KIND__NOT_SET) {
        if (p != NULL)
            mailraft__propose__free_unpacked(p, NULL);
        return MR_MALFORMED;
    }
    int rc = core_lead_stage(c, p->op, peer, p->request);
    if (rc == 0)
        p->op = NULL; /* taken */
    else
        answer_propose(c, peer, p->request, rc == MR_BUSY ? FATE_BUSY : FATE_NOT_LEADER);
    mailraft__propose__free_unpacked(p, NULL);
    return 0;
}

static int on_propose_reply(struct cluster *c, const uint8_t *meta, size_t meta_len)
{
    Mailraft__ProposeReply *r = mailraft__propose_reply__unpack(NULL, meta_len, meta);
    if (r == NULL)
        return MR_MALFORMED;
    proposals_fate(c->proposals, r->request, (enum proposal_fate)r->fate, (enum apply_result)r->reason);
    mailraft__propose_reply__free_unpacked(r, NULL);
    return 0;
}

static int on_heartbeat(struct cluster *c, uint32_t peer, const uint8_t *meta, size_t meta_len)
{
    Mailraft__Heartbeat *hb = mailraft__heartbeat__unpack(NULL, meta_len, meta);
    if (hb == NULL)
        return MR_MALFORMED;
    if (c->lead.leading)
        core_lead_heartbeat(c, peer, hb);
    mailraft__heartbeat__free_unpacked(hb, NULL);
    return 0;
}

static int on_heartbeat_reply(struct cluster *c, const uint8_t *meta, size_t meta_len)
{
    Mailraft__HeartbeatReply *r = mailraft__heartbeat_reply__unpack(NULL, meta_len, meta);
    if (r == NULL)
        return MR_MALFORMED;
    if (c->replica != NULL)
        core_heartbeat_reply(c, r);
    mailraft__heartbeat_reply__free_unpacked(r, NULL);
    return 0;
}

static int on_form(struct cluster *c, uint32_t peer, bool request, const uint8_t *meta, size_t meta_len)
{
    if (request) {
        Mailraft__FormRequest *f = mailraft__form_request__unpack(NULL, meta_len, meta);
        if (f == NULL)
            return MR_MALFORMED;
        formation_request(c->formation, peer, f);
        mailraft__form_request__free_unpacked(f, NULL);
    } else {
        Mailraft__FormReply *f = mailraft__form_reply__unpack(NULL, meta_len, meta);
        if (f == NULL)
            return MR_MALFORMED;
        formation_reply(c->formation, peer, f);
        mailraft__form_reply__free_unpacked(f, NULL);
    }
    return 0;
}

static int on_frame(void *arg, uint32_t peer, enum link_channel channel, enum frame_type type, const uint8_t *meta,
                    size_t meta_len, const uint8_t *tail, size_t tail_len)
{
    struct cluster *c = arg;
    (void)channel;
    if (peer == 0 || peer >= LINK_MAX_PEERS || c->closing)
        return peer == 0 || peer >= LINK_MAX_PEERS ? MR_MALFORMED : 0;
    switch (type) {
    case FRAME_RAFT:
        return on_raft(c, peer, tail, tail_len);
    case FRAME_RAFT_SLICE:
        return on_raft_slice(c, peer, meta, meta_len, tail, tail_len);
    case FRAME_PROPOSE:
        return on_propose(c, peer, meta, meta_len);
    case FRAME_PROPOSE_REPLY:
        return on_propose_reply(c, meta, meta_len);
    case FRAME_HEARTBEAT:
        return on_heartbeat(c, peer, meta, meta_len);
    case FRAME_HEARTBEAT_REPLY:
        return on_heartbeat_reply(c, meta, meta_len);
    case FRAME_FORM_REQUEST:
        return on_form(c, peer, true, meta, meta_len);
    case FRAME_FORM_REPLY:
        return on_form(c, peer, false, meta, meta_len);
    case FRAME_BODY_PIECE:
    case FRAME_BODY_ACK:
    case FRAME_BODY_ABORT:
    case FRAME_BODY_GET:
    case FRAME_BODY_MISSING:
        return c->bodies == NULL ? 0 : bodies_frame(c->bodies, peer, type, meta, meta_len, tail, tail_len);
    case FRAME_HELLO:
    case FRAME_HELLO_REPLY:
    case FRAME_TYPE_END:
        break;
    }
    return MR_MALFORMED;
}

int core_links_open(struct cluster *c, char *error, size_t error_len)
{
    struct links_config config = {
        .loop = &c->loop,
        .listen = c->config.listen,
        .name = c->config.name,
        .insecure = c->config.insecure,
        .ca = c->config.ca,
        .cert = c->config.cert,
        .key = c->config.key,
        .handler = {.arg = c,
                    .hello = on_hello,
                    .check = on_check,
                    .up = on_up,
                    .down = on_down,
                    .refused = on_link_refused,
                    .frame = on_frame},
    };
    return links_open(&c->links, &config, error, error_len);
}

/* ---- Raft's messages out ---- */

static void finish_transfer(struct core_transfer *t, int status)
{
    t->c->transfers[t->to] = NULL;
    core_complete_later(t->c, t->done, t->done_arg, status);
    free(t->head);
    free(t->tail);
    free(t);
}

static void drop_transfer(struct cluster *c, uint32_t peer, int status)
{
    if (c->transfers[peer] != NULL)
        finish_transfer(c->transfers[peer], status);
    free(c->assemblies[peer].data);
    c->assemblies[peer] = (struct core_assembly){0};
}

/* Up to max bytes of the message from t->offset, as buffers into head and tail. */
static unsigned slice_buffers(const struct core_transfer *t, size_t max, struct link_buffer *out, unsigned max_out,
                              size_t *len)
{
    uint64_t skip = t->offset;
    unsigned n = 0;
    *len = 0;
    for (unsigned i = 0; i <= t->n_tail && *len < max && n < max_out; i++) {
        const uint8_t *base = i == 0 ? t->head : t->tail[i - 1].base;
        size_t size = i == 0 ? t->head_len : t->tail[i - 1].len;
        if (skip >= size) {
            skip -= size;
            continue;
        }
        size_t take = size - skip < max - *len ? size - skip : max - *len;
        out[n++] = (struct link_buffer){.base = base + skip, .len = take};
        *len += take;
        skip = 0;
    }
    return n;
}

static void next_slices(void *arg, int status);

/* One at least, also when the link is full of bodies: these come and go all the time, and a transfer that waited for
 * their end would starve. It waits until what was queued up to its last slice has left, so that it never has more than
 * two on the link. */
static void send_slices(struct core_transfer *t)
{
    struct cluster *c = t->c;
    struct link_buffer buffers[16];
    size_t len;
    int rc = 0;

    for (bool first = true;
         t->offset < t->total && (first || links_queued(c->links, t->to, LINK_BULK) < 2 * CORE_TRANSFER_SLICE);
         first = false) {
        Mailraft__RaftSlice slice = MAILRAFT__RAFT_SLICE__INIT;
        slice.total = t->total;
        slice.offset = t->offset;
        unsigned n = slice_buffers(t, CORE_TRANSFER_SLICE, buffers, 16, &len);
        rc = links_send_message(c->links, t->to, LINK_BULK, FRAME_RAFT_SLICE, &slice.base, buffers, n);
        if (rc == MR_BUSY)
            break; /* no room at all */
        if (rc != 0) {
            finish_transfer(t, rc);
            return;
        }
        t->offset += len;
    }
    if (t->offset == t->total) {
        finish_transfer(t, 0);
        return;
    }
    rc = links_when_drained(c->links, t->to, LINK_BULK, CORE_TRANSFER_SLICE, next_slices, t);
    if (rc != 0)
        finish_transfer(t, rc);
}

static void next_slices(void *arg, int status)
{
    struct core_transfer *t = arg;
    struct cluster *c = t->c;
    bool current = false;
    for (unsigned i = 0; i < LINK_MAX_PEERS; i++)
        current = current || c->transfers[i] == t;
    if (!current)
        return; /* dropped with its link */
    if (status != 0)
        finish_transfer(t, status);
    else
        send_slices(t);
}

static void start_transfer(struct cluster *c, uint32_t to, const uint8_t *head, size_t head_len,
                           const struct replica_buffer *tail, unsigned n_tail, uint64_t total,
                           void (*done)(void *arg, int status), void *done_arg)
{
    if (c->transfers[to] != NULL || c->closing) {
        core_complete_later(c, done, done_arg, MR_BUSY);
        return;
    }
    struct core_transfer *t = mr_calloc(1, sizeof(*t));
    t->c = c;
    t->to = to;
    t->head = mr_malloc(head_len + 4);
    put_u32(t->head, (uint32_t)head_len);
    memcpy(t->head + 4, head, head_len);
    t->head_len = head_len + 4;
    t->tail = mr_calloc(n_tail, sizeof(*tail));
    if (n_tail > 0)
        memcpy(t->tail, tail, n_tail * sizeof(*tail));
    t->n_tail = n_tail;
    t->total = total;
    t->done = done;
    t->done_arg = done_arg;
    c->transfers[to] = t;
    send_slices(t);
}

void core_raft_send(void *arg, uint64_t to, bool bulk, const void *head, size_t head_len,
                    const struct replica_buffer *tail, unsigned n_tail, void (*done)(void *arg, int status),
                    void *done_arg)
{
    struct cluster *c = arg;
    enum { INLINE = 1024 };
    struct link_buffer fixed[INLINE / 16];
    struct link_buffer *buffers = n_tail + 2 <= INLINE / 16 ? fixed : mr_calloc(n_tail + 2, sizeof(*buffers));
    uint8_t prefix[4];
    uint64_t total = 4 + head_len;

    mr_assert(to > 0 && to < LINK_MAX_PEERS);
    put_u32(prefix, (uint32_t)head_len);
    buffers[0] = (struct link_buffer){prefix, 4};
    buffers[1] = (struct link_buffer){head, head_len};
    for (unsigned i = 0; i < n_tail; i++) {
        buffers[i + 2] = (struct link_buffer){tail[i].base, tail[i].len};
        total += tail[i].len;
    }
    if (bulk || total > SINGLE_FRAME)
        start_transfer(c, (uint32_t)to, head, head_len, tail, n_tail, total, done, done_arg);
    else
        core_complete_later(c, done, done_arg,
                            links_send(c->links, (uint32_t)to, LINK_CONTROL, FRAME_RAFT, NULL, 0, buffers, n_tail + 2));
    if (buffers != fixed)
        free(buffers);
}

void core_links_close(struct cluster *c)
{
    for (uint32_t i = 0; i < LINK_MAX_PEERS; i++)
        drop_transfer(c, i, MR_CANCELLED);
}
