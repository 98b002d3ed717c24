/* A client's message on a worker's loop, as the SMTP server takes it; and DSNs, as node/ makes them.
 *
 * Happy path: sim_session_begin -> ready? -> an id -> pieces (at most four in flight) -> submit -> a majority has the
 * body -> enqueue proposed -> committed -> 250. The client's bytes are a function of the message alone, so nobody needs
 * to keep them. Failure: 4xx; a client that hangs up has its body given up, or is not told what came of it. */
#include "chaos-tests/sim/sim_world.h"
#include "cluster/spool.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { IN_FLIGHT = 4, WIRE_LEAST_NS = 100000, WIRE_MOST_NS = 20000000 };

struct session {
    struct sim_worker *w;
    struct submission *s;
    struct message *m;
    struct cluster_body *body;
    uint64_t sent;
    unsigned in_flight, pending; /* pieces; callbacks and posts that are to come */
    bool wanting;                /* a piece is due */
    bool failed;
    int status;
};

static uint64_t wire(void)
{
    return sim_between(SIM_LOAD, WIRE_LEAST_NS, WIRE_MOST_NS);
}

/* ---- the end ---- */

struct reply_event {
    struct submission *s;
    int code;
};

static void reply_arrives(void *arg)
{
    struct reply_event *e = arg;

    if (!e->s->hung_up) {
        e->s->hung_up = true;
        e->s->replied(e->s, e->code);
    }
    free(e);
}

static void reply(struct submission *s, int code)
{
    struct reply_event *e = mr_malloc(sizeof(*e));

    *e = (struct reply_event){s, code};
    s->over = true;
    if (s->message != NULL) {
        s->message->replied_ns = sim_now();
        s->message->reply = code / 100 == 2 ? REPLY_OK : REPLY_LATER;
    }
    if (code == 250)
        check_250(s->message);
    sim_trace(code == 250 ? "250" : "4xx", (uint64_t)code);
    sim_at(sim_now() + wire(), reply_arrives, e);
}

static void release(struct session *x)
{
    struct sim_worker *w = x->w;

    if (x->pending > 0 || !x->s->over)
        return;
    free(x);
    w->sessions--;
    sim_worker_ended(w);
}

static int code_of(int status)
{
    return status == MR_NOSPACE ? 452 : 451;
}

static void end(struct session *x, int code)
{
    if (!x->s->over)
        reply(x->s, code);
}

/* ---- enqueue ---- */

static ProtobufCBinaryData bytes(const void *data, size_t len)
{
    return (ProtobufCBinaryData){.len = len, .data = mr_memdup(data, len)};
}

static Mailraft__Enqueue *make_enqueue(struct message *m, Mailraft__Body *body)
{
    Mailraft__Enqueue *e = mr_malloc(sizeof(*e));
    char text[64];

    mailraft__enqueue__init(e);
    e->id = bytes(m->id.bytes, MR_ID_SIZE);
    e->body = body;
    if (!m->null_sender) {
        (void)snprintf(text, sizeof(text), "s%u@d%u.test", m->sender_user, m->sender_hop);
        e->reverse_path = bytes(text, strlen(text));
    }
    e->n_next_hops = m->n_deliveries;
    e->next_hops = mr_calloc(m->n_deliveries, sizeof(char *));
    for (unsigned i = 0; i < m->n_deliveries; i++)
        e->next_hops[i] = mr_strdup(hop_name(m->deliveries[i].hop));
    e->n_recipients = m->n_recipients;
    e->recipients = mr_calloc(m->n_recipients, sizeof(Mailraft__Recipient *));
    for (unsigned i = 0; i < m->n_recipients; i++) {
        Mailraft__Recipient *r = mr_malloc(sizeof(*r));
        mailraft__recipient__init(r);
        recipient_address(m, i, text);
        r->address = bytes(text, strlen(text));
        r->delivery = m->recipients[i].delivery;
        r->notify = m->recipients[i].notify;
        e->recipients[i] = r;
    }
    e->flags = m->dsn ? MESSAGE_DSN : 0;
    e->priority = m->priority;
    e->hold_for_ms = m->hold_ms;
    return e;
}

static void submitted(void *arg, int status, enum apply_result reason)
{
    struct session *x = arg;

    x->pending--;
    sim_trace("submitted", (uint64_t)(status == 0 ? 0 : reason + 1));
    bool taken = status == 0 || (status == MR_REFUSED && reason == APPLY_DUPLICATE);
    end(x, taken ? 250 : code_of(status));
    release(x);
}

/* ---- the body ---- */

static void want_piece(struct session *x);

static void written(void *arg, int status)
{
    struct session *x = arg;

    x->in_flight--;
    x->pending--;
    if (status != 0 && x->body != NULL) {
        cluster_body_abort(x->body);
        x->body = NULL;
        end(x, code_of(status));
    }
    if (x->wanting && x->body != NULL)
        want_piece(x);
    release(x);
}

static void piece_due(void *arg)
{
    struct session *x = arg;
    uint64_t left = x->m->length - x->sent;
    size_t len = left > SPOOL_MAX_PIECE ? SPOOL_MAX_PIECE : (size_t)left;

    x->pending--;
    if (x->body == NULL) {
        release(x);
        return;
    }
    if (x->s->hung_up || x->w->closing) {
        cluster_body_abort(x->body);
        x->body = NULL;
        x->s->over = true;
        release(x);
        return;
    }
    uint8_t *data = mr_malloc(len + 1);
    message_content(x->m, x->sent, data, len);
    x->sent += len;
    if (len < left) {
        x->in_flight++;
        x->pending++;
        cluster_body_piece(x->body, data, len, written, x);
        want_piece(x);
        return;
    }
    struct cluster_body *body = x->body;
    x->body = NULL;
    x->pending++;
    /* A version 1 cluster refuses what it does not know. */
    if (cluster_version(x->w->cluster) < 2)
        x->m->hold_ms = 0;
    cluster_body_submit(body, data, len, x->m->length, x->m->checksum, make_enqueue(x->m, NULL), submitted, x);
}

static void want_piece(struct session *x)
{
    x->wanting = x->in_flight >= IN_FLIGHT;
    if (x->wanting)
        return;
    x->pending++;
    sim_loop_post(&x->w->loop, sim_now() + x->s->pace_ns + wire(), piece_due, x);
}

/* ---- the beginning ---- */

static struct message *new_message(struct sim_worker *w, const struct submission *s)
{
    struct message *m = message_new(mr_id_at(mr_wall_ms(&mr_clock_real)));

    m->key = s->key;
    m->node = w->node;
    m->null_sender = s->null_sender;
    m->sender_hop = s->sender_hop;
    m->sender_user = s->sender_user;
    m->length = s->length;
    m->hold_ms = s->hold_ms;
    m->priority = s->priority;
    m->n_recipients = s->n_recipients;
    for (unsigned i = 0; i < s->n_recipients; i++) {
        struct recipient_log *r = &m->recipients[i];
        r->hop = s->recipients[i].hop;
        r->user = s->recipients[i].user;
        r->notify = s->recipients[i].notify;
        unsigned d = 0;
        while (d < m->n_deliveries && m->deliveries[d].hop != r->hop)
            d++;
        if (d == m->n_deliveries)
            m->deliveries[m->n_deliveries++].hop = r->hop;
        r->delivery = d;
    }
    message_checksum(m);
    return m;
}

static void session_begins(void *arg)
{
    struct session *x = arg;
    enum cluster_readiness readiness = cluster_readiness(x->w->cluster);

    x->pending--;
    if (x->s->hung_up) {
        x->s->over = true;
    } else if (readiness != CLUSTER_READY || x->w->draining || x->w->closing || x->w->rules == NULL) {
        end(x, readiness == CLUSTER_LOW_DISK ? 452 : 421);
    } else {
        x->m = x->s->message = new_message(x->w, x->s);
        x->body = cluster_body_begin(x->w->port, x->m->id);
        want_piece(x);
    }
    release(x);
}

void sim_session_begin(struct sim_worker *w, struct submission *s)
{
    struct session *x = mr_calloc(1, sizeof(*x));

    x->w = w;
    x->s = s;
    x->pending = 1;
    w->sessions++;
    s->node = w->node;
    s->life = w->life;
    sim_loop_post(&w->loop, sim_now() + wire(), session_begins, x);
}

/* ---- DSNs ---- */

struct making {
    struct sim_worker *w;
    struct message *m;
    struct cluster_body *body;
    void (*done)(void *arg, int status, Mailraft__Enqueue *dsn);
    void *arg;
};

static void dsn_stored(void *arg, int status, Mailraft__Body *body)
{
    struct making *k = arg;

    k->done(k->arg, status, status == 0 ? make_enqueue(k->m, body) : NULL);
    free(k);
}

static void on_original(void *arg, int status, uint8_t *data, size_t len, bool last)
{
    struct making *k = arg;

    (void)status; /* an original that cannot be read leaves its part out */
    (void)len;
    (void)last;
    free(data);
    uint8_t *text = mr_malloc(k->m->length + 1);
    message_content(k->m, 0, text, k->m->length);
    k->body = cluster_body_begin(k->w->port, k->m->id);
    cluster_body_finish(k->body, text, k->m->length, k->m->length, k->m->checksum, dsn_stored, k);
}

void sim_dsn_make(struct sim_worker *w, struct message *about, const uint32_t *recipients, unsigned n, bool final,
                  void (*done)(void *arg, int status, Mailraft__Enqueue *dsn), void *arg)
{
    struct making *k = mr_calloc(1, sizeof(*k));
    struct message *m = message_new(mr_id_at(mr_wall_ms(&mr_clock_real)));

    m->dsn = m->null_sender = true;
    m->dsn_final = final;
    m->about = about;
    m->node = w->node;
    m->n_tells = n;
    for (unsigned i = 0; i < n; i++)
        m->tells[i] = recipients[i];
    m->length = sim_between(SIM_LOAD, 300, 2000);
    m->n_recipients = m->n_deliveries = 1;
    m->recipients[0].hop = m->deliveries[0].hop = about->sender_hop;
    m->recipients[0].user = about->sender_user;
    message_checksum(m);
    *k = (struct making){.w = w, .m = m, .done = done, .arg = arg};
    cluster_body_read(w->port, about->id, 0, on_original, k);
}
