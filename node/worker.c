/* Life of a worker: worker_open (main thread) -> worker_start -> its loop -> worker_stop: server closes, deliveries
 * close, logins close, the port is detached, the mailbox closes, the loop ends -> joined. */
#include "node/worker.h"

#include "node/auth/auth.h"
#include "node/delivery/delivery.h"
#include "node/server/smtp_server.h"
#include "node/tls/tls_server.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

enum { MAILBOX_CAPACITY = 65536, BEAT_MS = 500 };

/* ---- what the core says ---- */

/* Between the end of its deliveries and of its port a worker is still told news. */
static void on_attempt(void *arg, struct attempt *a)
{
    struct worker *w = arg;
    if (w->delivery == NULL) {
        cluster_release(w->port, a, "shutdown");
        cluster_slot_closed(w->port, a->next_hop, a->slot, 1);
        attempt_free(a);
        return;
    }
    delivery_attempt(w->delivery, a);
}

static void on_notice(void *arg, struct notice *n)
{
    struct worker *w = arg;
    if (w->delivery == NULL) {
        cluster_notice_failed(w->port, n);
        notice_free(n);
        return;
    }
    delivery_notice(w->delivery, n);
}

static void on_rules(void *arg, struct cluster_rules *rules)
{
    struct worker *w = arg;
    cluster_rules_unref(w->rules);
    w->rules = rules;
    if (w->delivery != NULL)
        delivery_rules(w->delivery);
}

static void on_lease_ended(void *arg)
{
    struct worker *w = arg;
    if (w->delivery != NULL)
        delivery_lease_ended(w->delivery);
}

static void on_withdrawn(void *arg)
{
    struct worker *w = arg;
    if (w->delivery != NULL)
        delivery_withdrawn(w->delivery);
}

static void on_drain(void *arg)
{
    struct worker *w = arg;
    if (w->draining)
        return;
    w->draining = true;
    smtp_server_drain(w->server);
    delivery_drain(w->delivery);
}

static void on_beat(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    cluster_worker_beat(w->port);
}

/* ---- life ---- */

int worker_open(struct worker **out, unsigned number, struct cluster *cluster, const struct config *config,
                struct client_table *clients, struct tls_server *tls, struct auth_store *auth_store, const int *fds,
                unsigned n_fds)
{
    struct worker *w = mr_calloc(1, sizeof(*w));
    w->number = number;
    w->cluster = cluster;
    w->config = config;
    w->tls = tls_server_ref(tls);
    w->counters = cluster_counters(cluster);
    w->clients = clients;
    w->auth_store = auth_store;
    mr_assert(uv_loop_init(&w->loop) == 0);
    mr_assert(mailbox_open(&w->mailbox, &w->loop, MAILBOX_CAPACITY) == 0);
    auth_open(&w->auth, &w->loop, w->mailbox, auth_store, config);
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
    w->port = cluster_attach(cluster, &door);
    int rc = delivery_open(&w->delivery, w);
    if (rc == 0)
        rc = smtp_server_open(&w->server, w, fds, n_fds);
    *out = w;
    return rc;
}

static void run_worker(void *arg)
{
    struct worker *w = arg;
    uv_timer_start(&w->beat, on_beat, 0, BEAT_MS);
    uv_run(&w->loop, UV_RUN_DEFAULT);
}

int worker_start(struct worker *w)
{
    return uv_thread_create(&w->thread, run_worker, w) == 0 ? 0 : MR_IO;
}

static void mailbox_closed(void *arg)
{
    struct worker *w = arg;
    uv_close((uv_handle_t *)&w->beat, NULL);
}

static void detached(void *arg)
{
    struct worker *w = arg;
    mailbox_close(w->mailbox, mailbox_closed, w);
}

static void auth_closed(void *arg)
{
    struct worker *w = arg;
    w->auth = NULL; /* freed */
    cluster_detach(w->port, detached, w);
}

static void delivery_closed(void *arg)
{
    struct worker *w = arg;
    w->delivery = NULL; /* freed */
    auth_close(w->auth, auth_closed, w);
}

static void server_closed(void *arg)
{
    struct worker *w = arg;
    delivery_close(w->delivery, delivery_closed, w);
}

struct set_tls {
    struct mail mail;
    struct worker *worker;
    struct tls_server *tls;
};

static void run_set_tls(struct mail *mail)
{
    struct set_tls *set = MR_CONTAINER(mail, struct set_tls, mail);

    tls_server_unref(set->worker->tls);
    set->worker->tls = set->tls;
    free(set);
}

void worker_set_tls(struct worker *w, struct tls_server *tls)
{
    struct set_tls *set = mr_calloc(1, sizeof(*set));

    set->worker = w;
    set->tls = tls_server_ref(tls);
    set->mail.run = run_set_tls;
    mailbox_post(w->mailbox, &set->mail);
}

struct stop {
    struct mail mail;
    struct worker *worker;
};

static void run_stop(struct mail *mail)
{
    struct stop *s = MR_CONTAINER(mail, struct stop, mail);
    struct worker *w = s->worker;
    free(s);
    smtp_server_close(w->server, server_closed, w);
}

void worker_stop(struct worker *w)
{
    struct stop *s = mr_calloc(1, sizeof(*s));
    s->worker = w;
    s->mail.run = run_stop;
    mailbox_post(w->mailbox, &s->mail);
}

void worker_join(struct worker *w)
{
    uv_thread_join(&w->thread);
    cluster_rules_unref(w->rules);
    tls_server_unref(w->tls);
    if (uv_loop_close(&w->loop) != 0)
        mr_panic("worker %u's loop has handles left", w->number);
    free(w);
}
