/* What node/ does above cluster.h, without SMTP: attempts, notices, drain and close as delivery*.c does them.
 *
 * Happy path of an attempt: on_attempt -> its slot's queue (sim_slot.c) -> slot_next -> connect -> may we? -> MAIL,
 * RCPTs -> the body, piece by piece -> may we still? -> journal -> dot -> reply (sim_transaction.c) -> outcome (with a
 * DSN's enqueue, if one is owed; sim_job.c) -> slot_next ... -> idle -> closed -> the core is told. */
#include "chaos-tests/sim/sim_worker_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

enum { MAILBOX_CAPACITY = 65536, BEAT_MS = 500 };

bool sim_worker_lives(const struct sim_worker *w)
{
    return !w->closed && sim_node_alive(w->node) && sim_node_life(w->node) == w->life;
}

/* ---- from the core ---- */

static void on_attempt(void *arg, struct attempt *a)
{
    struct sim_worker *w = arg;

    if (w->detaching) {
        cluster_release(w->port, a, "shutdown");
        cluster_slot_closed(w->port, a->next_hop, a->slot, 1);
        attempt_free(a);
        return;
    }
    slots_take(w, a);
}

struct telling {
    struct sim_worker *w;
    struct notice *notice;
};

static void notice_ended(struct sim_worker *w, struct notice *n)
{
    notice_free(n);
    mr_assert(w->running > 0);
    w->running--;
    sim_worker_ended(w);
}

static void on_notice_dsn(void *arg, int status, Mailraft__Enqueue *dsn)
{
    struct telling *t = arg;

    if (status == 0)
        cluster_notice_done(t->w->port, t->notice, dsn, NULL, NULL);
    else
        cluster_notice_failed(t->w->port, t->notice);
    notice_ended(t->w, t->notice);
    free(t);
}

static void on_notice(void *arg, struct notice *n)
{
    struct sim_worker *w = arg;
    bool expired = n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE;
    enum { FAILURE = 4, DELAY = 8 };
    uint32_t told[WORLD_MAX_RECIPIENTS];
    unsigned count = 0;
    struct message *m = message_find(n->id);

    if (w->detaching) {
        cluster_notice_failed(w->port, n);
        notice_free(n);
        return;
    }
    w->running++;
    if (w->draining || w->closing) {
        cluster_notice_failed(w->port, n);
        notice_ended(w, n);
        return;
    }
    if (m == NULL || n->n_recipients > m->n_recipients)
        sim_violation(2, "a notice of a message that nobody submitted");
    for (uint32_t i = 0; i < n->n_recipients; i++) {
        uint32_t notify = n->recipients[i].notify;
        if (notify == 0 || (notify & (expired ? FAILURE : DELAY)))
            told[count++] = n->recipients[i].index;
    }
    if (count == 0 || n->reverse_path[0] == 0) {
        cluster_notice_done(w->port, n, NULL, NULL, NULL);
        notice_ended(w, n);
        return;
    }
    struct telling *t = mr_malloc(sizeof(*t));
    *t = (struct telling){w, n};
    sim_dsn_make(w, m, told, count, expired, on_notice_dsn, t);
}

static void on_rules(void *arg, struct cluster_rules *rules)
{
    struct sim_worker *w = arg;

    cluster_rules_unref(w->rules);
    w->rules = rules;
}

static void on_lease_ended(void *arg)
{
    sim_trace("lease-ended", 0);
    slots_end_lease(arg);
}

static void on_withdrawn(void *arg)
{
    sim_trace("withdrawn", 0);
    slots_withdraw(arg);
}

static void on_drain(void *arg)
{
    struct sim_worker *w = arg;

    if (w->draining)
        return;
    w->draining = true;
    slots_drain(w);
}

/* ---- life ---- */

static void on_beat(uv_timer_t *timer)
{
    struct sim_worker *w = timer->data;

    cluster_worker_beat(w->port);
}

struct sim_worker *sim_worker_open(unsigned node, unsigned number, struct cluster *c)
{
    struct sim_worker *w = mr_calloc(1, sizeof(*w));

    w->node = node;
    w->number = number;
    w->life = sim_node_life(node);
    w->cluster = c;
    mr_assert(uv_loop_init(&w->loop) == 0);
    mr_assert(mailbox_open(&w->mailbox, &w->loop, MAILBOX_CAPACITY) == 0);
    uv_timer_init(&w->loop, &w->beat);
    w->beat.data = w;
    struct cluster_worker door = {.arg = w,
                                  .mailbox = w->mailbox,
                                  .loop = &w->loop,
                                  .attempt = on_attempt,
                                  .notice = on_notice,
                                  .rules = on_rules,
                                  .lease_ended = on_lease_ended,
                                  .withdrawn = on_withdrawn,
                                  .drain = on_drain};
    w->port = cluster_attach(c, &door);
    return w;
}

static void run_worker(void *arg)
{
    struct sim_worker *w = arg;

    uv_timer_start(&w->beat, on_beat, 0, BEAT_MS);
    uv_run(&w->loop, UV_RUN_DEFAULT);
}

void sim_worker_start(struct sim_worker *w)
{
    mr_assert(uv_thread_create(&w->thread, run_worker, w) == 0);
}

static void mailbox_closed(void *arg)
{
    struct sim_worker *w = arg;

    w->closed = true;
    uv_close((uv_handle_t *)&w->beat, NULL);
}

static void detached(void *arg)
{
    struct sim_worker *w = arg;

    mailbox_close(w->mailbox, mailbox_closed, w);
}

void sim_worker_ended(struct sim_worker *w)
{
    if (!w->closing || w->detaching || w->sessions > 0 || w->running > 0 || w->n_slots > 0)
        return;
    w->detaching = true;
    cluster_detach(w->port, detached, w);
}

struct stop {
    struct mail mail;
    struct sim_worker *worker;
};

static void run_stop(struct mail *mail)
{
    struct stop *stop = MR_CONTAINER(mail, struct stop, mail);
    struct sim_worker *w = stop->worker;

    free(stop);
    w->closing = true;
    slots_close(w);
    sim_worker_ended(w);
}

void sim_worker_stop(struct sim_worker *w)
{
    struct stop *stop = mr_calloc(1, sizeof(*stop));

    stop->worker = w;
    stop->mail.run = run_stop;
    mailbox_post(w->mailbox, &stop->mail);
}

void sim_worker_join(struct sim_worker *w)
{
    uv_thread_join(&w->thread);
    cluster_rules_unref(w->rules);
    if (uv_loop_close(&w->loop) != 0)
        mr_panic("worker %u's loop has handles left", w->number);
}
