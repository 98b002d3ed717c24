/* Ports: the way of requests to the core and back, what all workers are told, their proof of life. */
#include "cluster/core_request.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

/* ---- the way there and back ---- */

struct core_request *core_request_new(struct cluster *c, struct cluster_port *port, void *arg)
{
    struct core_request *r = mr_calloc(1, sizeof(*r));
    r->c = c;
    r->port = port;
    r->arg = arg;
    return r;
}

void core_request_free(struct core_request *r)
{
    if (r->op != NULL)
        mailraft__op__free_unpacked(r->op, NULL);
    if (r->fallback != NULL)
        mailraft__outcome__free_unpacked(r->fallback, NULL);
    if (r->result != NULL)
        mailraft__body__free_unpacked(r->result, NULL);
    free(r->data);
    free(r->text);
    free(r);
}

void core_request_to_core(struct core_request *r, void (*run)(struct mail *mail))
{
    r->mail.run = run;
    mailbox_post(r->c->mailbox, &r->mail);
}

void core_request_to_worker(struct core_request *r, void (*run)(struct mail *mail))
{
    r->mail.run = run;
    if (r->port == NULL)
        run(&r->mail);
    else if (r->port->detached)
        core_request_free(r);
    else
        mailbox_post(r->port->worker.mailbox, &r->mail);
}

void core_port_post(struct cluster_port *p, struct mail *mail)
{
    if (p->detached)
        free(mail);
    else
        mailbox_post(p->worker.mailbox, mail);
}

void core_request_wait(struct core_request *r)
{
    struct cluster *c = r->c;
    r->prev = c->waiting_last;
    if (c->waiting_last != NULL)
        c->waiting_last->next = r;
    else
        c->waiting = r;
    c->waiting_last = r;
    r->queued = true;
}

void core_request_unwait(struct core_request *r)
{
    struct cluster *c = r->c;
    if (!r->queued)
        return;
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        c->waiting = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    else
        c->waiting_last = r->prev;
    r->prev = r->next = NULL;
    r->queued = false;
}

void core_request_decided(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    if (r->dotted && r->port != NULL)
        journal_done(r->port->journal, r->id, r->delivery, r->attempt);
    if (r->cb.decided != NULL)
        r->cb.decided(r->arg, r->status, r->reason);
    core_request_free(r);
}

/* ---- time limits, silent workers ---- */

static void watch_workers(struct cluster *c, uint64_t now)
{
    enum { SURE_MS = 1000 }; /* after a pause of the whole process the workers need a moment to say that they live */
    uint64_t cap = UINT64_MAX;
    for (unsigned i = 0; i < c->n_ports; i++) {
        uint64_t beat = atomic_load(&c->ports[i]->beat_ns);
        if (beat != 0 && !c->ports[i]->detached && now > beat && now - beat > CORE_WORKER_SILENT_MS * MR_NS_PER_MS &&
            beat + CORE_WORKER_SILENT_MS * MR_NS_PER_MS < cap)
            cap = beat + CORE_WORKER_SILENT_MS * MR_NS_PER_MS;
    }
    node_lease_cap(&c->lease, cap);
    if (cap == UINT64_MAX) {
        c->hung_since_ns = 0;
        c->hung = false;
    } else if (c->hung_since_ns == 0) {
        c->hung_since_ns = now;
    } else if (!c->hung && now - c->hung_since_ns > SURE_MS * MR_NS_PER_MS) {
        /* A healthy core would keep this node's assignments here for ever: it goes silent, so that others get them, and
         * comes back as a new incarnation when all workers live. */
        log_event(LOG_ERROR, "worker_hangs", LOG_N("silent_ms", (now - cap) / MR_NS_PER_MS + CORE_WORKER_SILENT_MS));
        c->hung = true;
    }
    if (c->hung && c->lead.leading && now - c->hung_since_ns > SURE_MS * MR_NS_PER_MS) {
        c->hung_since_ns = now;
        (void)replica_transfer(c->replica, 0, NULL, NULL);
    }
}

void core_port_tick(struct cluster *c, uint64_t now)
{
    bool no_quorum =
        !c->lease_held && c->lease_lost_ns != 0 && now - c->lease_lost_ns > CORE_NOQUORUM_GRACE_MS * MR_NS_PER_MS;
    watch_workers(c, now);
    for (struct core_request *r = c->waiting, *next; r != NULL; r = next) {
        next = r->next;
        if (no_quorum || now >= r->deadline_ns)
            core_request_expire(r, now, no_quorum);
    }
}

/* ---- ports ---- */

struct cluster_port *cluster_attach(struct cluster *c, const struct cluster_worker *worker)
{
    mr_assert(c->n_ports < CORE_MAX_PORTS && !c->thread_started);
    struct cluster_port *p = mr_calloc(1, sizeof(*p));
    char *dir = mr_asprintf("%s/journal", c->config.data_dir);
    p->c = c;
    p->number = c->n_ports;
    p->worker = *worker;
    if (journal_open(&p->journal, worker->loop, dir, p->number, c->start_incarnation) != 0)
        mr_panic("outcome journal in %s cannot be opened", dir);
    free(dir);
    core_disk_port(c, p);
    c->ports[c->n_ports++] = p;
    return p;
}

static void answer_detached(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    struct cluster_port *p = r->port;
    journal_close(p->journal, r->cb.closed, r->arg);
    p->journal = NULL;
    core_request_free(r);
}

static void run_detach(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    r->port->detached = true;
    r->mail.run = answer_detached;
    mailbox_post(r->port->worker.mailbox, &r->mail); /* the last one */
}

void cluster_detach(struct cluster_port *p, void (*cb)(void *arg), void *arg)
{
    struct core_request *r = core_request_new(p->c, p, arg);
    r->cb.closed = cb;
    core_request_to_core(r, run_detach);
}

void cluster_worker_beat(struct cluster_port *p)
{
    atomic_store(&p->beat_ns, mr_boot_ns(p->c->clock));
}

/* ---- news for all workers ---- */

struct news {
    struct mail mail; /* first */
    struct cluster_port *port;
    struct cluster_rules *rules;
};

static void hand_rules(struct mail *mail)
{
    struct news *n = MR_CONTAINER(mail, struct news, mail);
    n->port->worker.rules(n->port->worker.arg, n->rules);
    free(n);
}

static void hand_lease_ended(struct mail *mail)
{
    struct news *n = MR_CONTAINER(mail, struct news, mail);
    n->port->worker.lease_ended(n->port->worker.arg);
    free(n);
}

static void hand_withdrawn(struct mail *mail)
{
    struct cluster_port *p = MR_CONTAINER(mail, struct cluster_port, withdrawal);
    atomic_store(&p->withdrawing, false); /* first: what is withdrawn from here on needs another mail */
    p->worker.withdrawn(p->worker.arg);
}

static void hand_drain(struct mail *mail)
{
    struct news *n = MR_CONTAINER(mail, struct news, mail);
    n->port->worker.drain(n->port->worker.arg);
    atomic_store(&n->port->drained, true);
    free(n);
}

static void tell_all(struct cluster *c, void (*run)(struct mail *mail), struct cluster_rules *rules)
{
    for (unsigned i = 0; i < c->n_ports; i++) {
        if (c->ports[i]->detached)
            continue;
        struct news *n = mr_calloc(1, sizeof(*n));
        n->port = c->ports[i];
        n->rules = rules == NULL ? NULL : cluster_rules_ref(rules);
        n->mail.run = run;
        core_port_post(n->port, &n->mail);
    }
}

void core_port_rules(struct cluster *c)
{
    const Mailraft__Rules *rules = state_rules(c->state);
    if (rules == NULL)
        return;
    size_t size = mailraft__rules__get_packed_size(rules);
    uint8_t *packed = mr_malloc(size);
    mailraft__rules__pack(rules, packed);
    struct cluster_rules *shared = mr_calloc(1, sizeof(*shared));
    shared->rules = mailraft__rules__unpack(NULL, size, packed);
    free(packed);
    mr_assert(shared->rules != NULL);
    atomic_init(&shared->references, 1);
    cluster_rules_unref(c->rules);
    c->rules = shared;
    tell_all(c, hand_rules, shared);
}

void core_port_lease_ended(struct cluster *c)
{
    tell_all(c, hand_lease_ended, NULL);
}

void core_port_withdrawn(struct cluster_port *p)
{
    if (p->detached || atomic_exchange(&p->withdrawing, true))
        return;
    p->withdrawal.run = hand_withdrawn;
    mailbox_post(p->worker.mailbox, &p->withdrawal);
}

void core_port_drain(struct cluster *c)
{
    tell_all(c, hand_drain, NULL);
}

void core_port_free(struct cluster *c)
{
    while (c->waiting != NULL) {
        struct core_request *r = c->waiting;
        core_request_unwait(r);
        core_request_free(r);
    }
    for (unsigned i = 0; i < c->n_ports; i++)
        free(c->ports[i]);
    cluster_rules_unref(c->rules);
}
