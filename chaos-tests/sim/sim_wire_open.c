/* Beginnings: who listens, handshakes on their way, the backlog. */
#include "chaos-tests/sim/sim_wire_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <string.h>

enum { SYN_TRIES = 3 };

static struct listener {
    uv_loop_t *loop;
    uint64_t life;
    void (*incoming)(void *arg);
    void *arg;
    struct wire *waiting[WIRE_BACKLOG];
    unsigned n;
} listeners[SIM_MAX_NODES + 1];

void wires_forget_listener(unsigned node)
{
    struct listener *l = &listeners[node];
    for (unsigned i = 0; i < l->n; i++)
        wire_unref(l->waiting[i]);
    *l = (struct listener){0};
}

static void end_init(struct wire *w, unsigned i, unsigned node, uv_loop_t *loop)
{
    struct wire_end *e = &w->ends[i];
    e->wire = w;
    e->other = &w->ends[1 - i];
    e->node = node;
    e->life = sim_node_life(node);
    e->loop = loop;
    e->posted = NEVER;
    frames_init(&e->out);
    frames_init(&e->flight);
    frames_init(&e->late);
}

static void on_connected(void *arg)
{
    struct wire_end *e = arg;
    if (e->events != NULL && !e->gone)
        e->events->connected(e->arg, NULL);
    wire_schedule(e);
    wire_unref(e->wire);
}

static void on_refused(void *arg)
{
    struct wire_end *e = arg;
    const struct wire_events *events = e->events;
    if (events != NULL) {
        e->gone = true;
        wire_detach(e);
        events->connected(e->arg, "connection refused");
    }
    wire_unref(e->wire);
}

static void run_incoming(void *arg)
{
    struct listener *l = arg;
    if (l->n > 0)
        l->incoming(l->arg);
}

/* The last packet of the handshake has come. */
static void accept_one(void *arg)
{
    struct wire *w = arg;
    struct wire_end *e = &w->ends[1];
    struct listener *l = &listeners[e->node];
    if (e->gone || l->loop == NULL || l->life != e->life || l->n == WIRE_BACKLOG) {
        wire_end_ends(e, false, false);
        wire_unref(w);
        return;
    }
    e->loop = l->loop;
    l->waiting[l->n++] = w; /* with the reference */
    sim_loop_post(l->loop, sim_now(), run_incoming, l);
}

static void syn(void *arg)
{
    struct wire *w = arg;
    struct wire_end *e = &w->ends[0];
    struct listener *l = &listeners[e->other->node];
    if (e->gone || e->events == NULL) {
        wire_unref(w);
        return;
    }
    if (wire_is_quiet(e)) {
        if (++w->tries < SYN_TRIES)
            sim_at(sim_now() + ((uint64_t)1000 << (w->tries - 1)) * MS, syn, w);
        else
            wire_unref(w);
        return;
    }
    uint64_t back = net_arrival(e->other->node, e->node, 0);
    if (l->loop == NULL || l->life != sim_node_life(e->other->node)) {
        sim_loop_post(e->loop, back, on_refused, e); /* with the reference */
        return;
    }
    e->other->life = l->life;
    e->other->gone = false;
    w->refs++;
    sim_loop_post(e->loop, back, on_connected, e);
    sim_at(back + (back - sim_now()), accept_one, w);
}

struct wire_end *wire_dial(uv_loop_t *loop, unsigned to, const struct wire_events *events, void *arg)
{
    struct wire *w = mr_calloc(1, sizeof(*w));
    w->check_at = NEVER;
    w->next = wires;
    w->at = &wires;
    if (wires != NULL)
        wires->at = &w->next;
    wires = w;
    end_init(w, 0, sim_node(), loop);
    end_init(w, 1, to, NULL);
    w->ends[1].gone = true; /* until the handshake */
    w->ends[0].events = events;
    w->ends[0].arg = arg;
    w->refs = 2; /* the dialled end, and syn's */
    sim_at(net_arrival(sim_node(), to, 0), syn, w);
    return &w->ends[0];
}

void wire_listen(uv_loop_t *loop, void (*incoming)(void *arg), void *arg)
{
    unsigned node = sim_node();
    listeners[node] = (struct listener){.loop = loop, .life = sim_node_life(node), .incoming = incoming, .arg = arg};
    net_machine_started(node);
}

void wire_unlisten(void)
{
    struct listener *l = &listeners[sim_node()];
    for (unsigned i = 0; i < l->n; i++) {
        wire_end_ends(&l->waiting[i]->ends[1], false, false);
        wire_unref(l->waiting[i]);
    }
    l->n = 0;
    l->loop = NULL;
}

struct wire_end *wire_accept(const struct wire_events *events, void *arg)
{
    struct listener *l = &listeners[sim_node()];
    mr_assert(l->n > 0);
    struct wire *w = l->waiting[0];
    l->n--;
    memmove(l->waiting, l->waiting + 1, l->n * sizeof(struct wire *));
    struct wire_end *e = &w->ends[1];
    e->events = events; /* the backlog's reference is the end's now */
    e->arg = arg;
    if (wire_is_quiet(e))
        wire_note_quiet(e);
    wire_schedule(e);
    return e;
}

void wires_start(void)
{
    mr_assert(wires == NULL);
    memset(listeners, 0, sizeof(listeners));
}
