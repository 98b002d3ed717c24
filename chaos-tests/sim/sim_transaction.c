/* One transaction on a slot's connection: may we? -> MAIL, RCPTs -> the body, piece by piece -> may we still? -> dot ->
 * reply. */
#include "chaos-tests/sim/sim_worker_internal.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { COMMAND_MS = 8000, DATA_MS = 12000 };

static void on_reply(struct slot *s, int code)
{
    struct job *j = s->job;

    if (code == 0) {
        slot_lost(s);
        return;
    }
    for (unsigned i = 0; i < j->n; i++)
        if (j->codes[i] == RCPT_TAKEN)
            j->codes[i] = code;
    uv_timer_stop(&s->timer);
    s->phase = PHASE_IDLE;
    bool quit = s->quit;
    job_finish(s);
    if (quit)
        slot_close(s);
    slot_next(s);
}

static void on_dot_reply(struct sim_worker *w, uint64_t slot, uint64_t serial, int code)
{
    struct slot *s = slot_named(w, slot);

    if (s != NULL && s->serial == serial && s->job != NULL && s->phase == PHASE_DOT)
        on_reply(s, code);
}

/* The body has left for the network: right before its dot. */
static void write_dot(struct slot *s, int code)
{
    struct job *j = s->job;
    struct dot d = {.connection = s->connection,
                    .message = j->m,
                    .delivery = j->a->delivery,
                    .attempt = j->a->attempt,
                    .length = j->length,
                    .worker = s->w,
                    .slot = s->name,
                    .serial = s->serial};
    XXH128_canonical_t checksum;

    (void)code;
    if (!slot_may_send(s->w, j->a)) {
        job_release(s, "lease ended before the final dot");
        slot_close(s);
        slot_next(s);
        return;
    }
    XXH128_canonicalFromHash(&checksum, XXH3_128bits_digest(j->hash));
    memcpy(d.checksum, checksum.digest, sizeof(d.checksum));
    for (unsigned i = 0; i < j->n; i++)
        if (j->codes[i] == RCPT_TAKEN)
            d.recipients[d.n++] = j->places[i];
    struct attempt_log *l = message_attempt(j->m, j->a->delivery, j->a->attempt);
    if (l != NULL)
        l->dot_ns = sim_now();
    cluster_dot(s->w->port, j->a);
    j->dotted = true;
    s->phase = PHASE_DOT;
    sim_trace("dot", d.attempt);
    hop_dot(&d, on_dot_reply);
    slot_set_timer(s, DATA_MS);
}

struct piece_read {
    struct sim_worker *w;
    struct slot *slot; /* lives while reads > 0 */
    uint64_t serial;
};

static void on_piece(void *arg, int status, uint8_t *data, size_t len, bool last);

/* What came along with the attempt is used half the time only: copies on the disk want to be read too. */
static void read_piece(struct slot *s)
{
    struct job *j = s->job;
    struct piece_read *r = mr_malloc(sizeof(*r));

    *r = (struct piece_read){s->w, s, s->serial};
    s->reads++;
    if (j->piece == 0 && j->a->body != NULL && sim_chance(SIM_LOAD, 0.5))
        on_piece(r, 0, mr_memdup(j->a->body, j->a->body_len), j->a->body_len, true);
    else
        cluster_body_read(s->w->port, j->a->id, j->piece++, on_piece, r);
}

static void on_piece(void *arg, int status, uint8_t *data, size_t len, bool last)
{
    struct piece_read *r = arg;
    struct slot *s = r->slot;
    bool current = s->job != NULL && s->serial == r->serial;

    free(r);
    s->reads--;
    if (!current) {
        free(data);
        slot_next(s); /* it may have waited for this only */
        return;
    }
    struct job *j = s->job;
    if (status != 0) { /* held, or fetched elsewhere the next time */
        sim_trace("body-unreadable", (uint64_t)-status);
        job_fail(j, false);
        slot_close(s);
        job_finish(s);
        slot_next(s);
        return;
    }
    XXH3_128bits_update(j->hash, data, len);
    j->length += len;
    free(data);
    uint64_t wire_ns = (uint64_t)len * 8; /* 1 Gbit/s */
    if (last) {
        slot_post(s, wire_ns + sim_between(SIM_LOAD, 10000, 200000), write_dot, 0);
        return;
    }
    read_piece(s);
}

static void on_answers(struct slot *s, int code)
{
    struct job *j = s->job;
    struct hop_answer answer;
    bool any = false;

    (void)code;
    if (!hop_answers(s->connection, j->m, j->places, j->n, &answer)) {
        slot_lost(s);
        return;
    }
    for (unsigned i = 0; i < j->n; i++) {
        j->codes[i] = answer.codes[i] / 100 == 2 ? RCPT_TAKEN : answer.codes[i];
        any = any || j->codes[i] == RCPT_TAKEN;
    }
    if (!any) {
        uv_timer_stop(&s->timer);
        s->phase = PHASE_IDLE;
        job_finish(s);
        slot_next(s);
        return;
    }
    s->phase = PHASE_BODY;
    slot_set_timer(s, DATA_MS);
    j->hash = XXH3_createState();
    XXH3_128bits_reset(j->hash);
    read_piece(s);
}

void transaction_begin(struct slot *s)
{
    struct job *j = s->job;

    s->serial = ++s->w->serials;
    s->quit = false;
    if (!slot_may_send(s->w, j->a)) {
        job_release(s, "lease ended");
        s->phase = PHASE_IDLE;
        slot_next(s);
        return;
    }
    hops_started_attempt(j->m, j->a->delivery, j->a->attempt);
    s->phase = PHASE_RCPT;
    slot_set_timer(s, COMMAND_MS);
    slot_post(s, 2 * hop_latency(s->hop), on_answers, 0);
}
