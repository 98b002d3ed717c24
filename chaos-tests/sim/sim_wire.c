/* Happy path: wire_dial -> syn -> on_connected | accept_one -> wire_accept -> wire_send -> transmit -> run_end: frame
 * -> wire_close -> the other end: broken.
 * A coroutine may wait inside an event, or its node may die there; so nothing is kept across one but a reference. What
 * a post to a dead life held is never given back: it goes with the world's process. */
#include "chaos-tests/sim/sim_wire.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "proto/frame.h"

#include <stdlib.h>
#include <string.h>

#define NEVER UINT64_MAX

enum {
    MS = 1000 * 1000,
    USER_TIMEOUT_MS = 3000, /* link_conn.h */
    SYN_TRIES = 3,
    RETRANSMIT_MS = 400, /* a healed path is noticed by the next retransmission */
    LATE_MS = 30,        /* how much later a reordered frame comes */
};

static const char closed_text[] = "closed by the other side";
static const char reset_text[] = "connection reset by peer";
static const char timeout_text[] = "connection timed out";

struct frames {
    struct wire_frame *first, **end;
};

struct wire_end {
    struct wire *wire;
    struct wire_end *other;
    unsigned node;
    uint64_t life;
    uv_loop_t *loop;
    const struct wire_events *events; /* NULL: no program has this end (not yet, or no more) */
    void *arg;
    bool gone;          /* its kernel sends and takes nothing more */
    const char *reason; /* why its kernel gave up, when it did so by itself */

    /* towards the other end */
    struct frames out; /* in the program: the window is full */
    size_t out_bytes;
    struct frames flight; /* in one of the kernels or between */
    size_t flight_bytes;
    struct frames late; /* Raft's frames that lost their place */
    uint64_t last_arrival;
    uint64_t end_arrives; /* FIN or RST; 0: none */
    const char *end_reason;

    uint64_t posted; /* run_end is due then; NEVER: not posted */
    bool room_posted;
    uint64_t quiet_since, unacked_since, full_since; /* 0: not so */
    uint64_t idle_patience;
};

struct wire {
    struct wire *next, **at;
    unsigned refs; /* ends, posts, events */
    unsigned tries;
    uint64_t check_at;
    struct wire_end ends[2]; /* 0 dialled */
};

static struct wire *wires;
static struct listener {
    uv_loop_t *loop;
    uint64_t life;
    void (*incoming)(void *arg);
    void *arg;
    struct wire *waiting[WIRE_BACKLOG];
    unsigned n;
} listeners[SIM_MAX_NODES + 1];

/* ---- memory ---- */

struct wire_frame *wire_frame_new(size_t meta_len, size_t tail_len)
{
    struct wire_frame *f = mr_malloc(sizeof(*f) + meta_len + tail_len);
    f->next = NULL;
    f->arrives = NEVER;
    f->size = FRAME_HEADER + meta_len + tail_len;
    f->meta_len = (uint32_t)meta_len;
    f->tail_len = (uint32_t)tail_len;
    f->type = 0;
    return f;
}

static void frames_init(struct frames *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void push(struct frames *list, struct wire_frame *f)
{
    f->next = NULL;
    *list->end = f;
    list->end = &f->next;
}

static struct wire_frame *pop(struct frames *list)
{
    struct wire_frame *f = list->first;
    list->first = f->next;
    if (list->first == NULL)
        list->end = &list->first;
    f->next = NULL;
    return f;
}

static void drop_all(struct frames *list)
{
    while (list->first != NULL)
        free(pop(list));
}

static void unref(struct wire *w)
{
    mr_assert(w->refs > 0);
    if (--w->refs > 0)
        return;
    *w->at = w->next;
    if (w->next != NULL)
        w->next->at = w->at;
    for (unsigned i = 0; i < 2; i++) {
        drop_all(&w->ends[i].out);
        drop_all(&w->ends[i].flight);
        drop_all(&w->ends[i].late);
    }
    free(w);
}

static void detach(struct wire_end *e)
{
    if (e->events == NULL)
        return;
    e->events = NULL;
    unref(e->wire);
}

static uint64_t later(uint64_t low_ms, uint64_t high_ms)
{
    return sim_now() + sim_between(SIM_NET, low_ms * MS, high_ms * MS);
}

/* ---- events of an end ---- */

static uint64_t next_event(const struct wire_end *e)
{
    const struct wire_end *from = e->other;
    uint64_t next = e->reason != NULL ? sim_now() : NEVER;
    if (from->flight.first != NULL)
        next = from->flight.first->arrives < next ? from->flight.first->arrives : next;
    else if (from->end_arrives != 0 && from->end_arrives < next)
        next = from->end_arrives;
    for (const struct wire_frame *f = from->late.first; f != NULL; f = f->next)
        next = f->arrives < next ? f->arrives : next;
    return next;
}

static void run_end(void *arg);

static void schedule(struct wire_end *e)
{
    if (e->events == NULL)
        return;
    uint64_t next = next_event(e);
    if (next == NEVER || e->posted <= next)
        return;
    e->posted = next > sim_now() ? next : sim_now();
    e->wire->refs++;
    sim_loop_post(e->loop, e->posted, run_end, e);
}

static struct wire_frame *take_due(struct wire_end *from)
{
    uint64_t now = sim_now();
    for (struct wire_frame **at = &from->late.first; *at != NULL; at = &(*at)->next)
        if ((*at)->arrives <= now) {
            struct wire_frame *f = *at;
            *at = f->next;
            if (*at == NULL)
                from->late.end = at;
            return f;
        }
    if (from->flight.first == NULL || from->flight.first->arrives > now)
        return NULL;
    struct wire_frame *f = pop(&from->flight);
    from->flight_bytes -= f->size;
    return f;
}

static void run_room(void *arg);

/* The program at e has read: the window towards it is open again. */
static void has_read(struct wire_end *e)
{
    struct wire_end *from = e->other;
    if (from->out.first == NULL || from->gone || from->events == NULL)
        return;
    from->full_since = sim_now();
    if (from->room_posted || sim_net_is_cut(e->node, from->node))
        return;
    from->room_posted = true;
    e->wire->refs++;
    sim_loop_post(from->loop, net_arrival(e->node, from->node, 0), run_room, from);
}

static void tell_broken(struct wire_end *e)
{
    const struct wire_end *from = e->other;
    const char *reason = e->reason;
    if (reason == NULL && from->flight.first == NULL && from->end_arrives != 0 && from->end_arrives <= sim_now())
        reason = from->end_reason;
    if (reason == NULL)
        return;
    const struct wire_events *events = e->events;
    void *arg = e->arg;
    e->gone = true;
    drop_all(&e->out);
    e->out_bytes = 0;
    detach(e);
    events->broken(arg, reason);
}

static void run_end(void *arg)
{
    struct wire_end *e = arg;
    struct wire_frame *f;
    bool read = false;
    e->posted = NEVER;
    while (e->events != NULL && (f = take_due(e->other)) != NULL) {
        read = true;
        e->events->frame(e->arg, f);
        free(f);
    }
    if (e->events != NULL)
        tell_broken(e);
    if (read)
        has_read(e);
    schedule(e);
    unref(e->wire);
}

/* ---- sending ---- */

static void arm_check(struct wire *w, uint64_t when);

static bool is_quiet(const struct wire_end *e)
{
    return sim_net_is_cut(e->node, e->other->node) || sim_net_is_cut(e->other->node, e->node) ||
           !net_machine_is_up(e->other->node);
}

/* What it sends does not arrive. */
static bool is_stalled(const struct wire_end *e)
{
    return sim_net_is_cut(e->node, e->other->node) || !net_machine_is_up(e->other->node);
}

static uint64_t arrival(struct wire_end *e, size_t size)
{
    if (is_stalled(e))
        return NEVER;
    uint64_t at = net_arrival(e->node, e->other->node, size);
    e->last_arrival = at > e->last_arrival ? at : e->last_arrival;
    return e->last_arrival;
}

static void out_of_place(struct wire_end *e, struct wire_frame *f)
{
    uint64_t at = arrival(e, f->size);
    if (at == NEVER) {
        free(f);
        return;
    }
    f->arrives = at + sim_between(SIM_NET, 0, (uint64_t)LATE_MS * MS);
    push(&e->late, f);
}

static void transmit(struct wire_end *e, struct wire_frame *f)
{
    if (e->quiet_since != 0 && e->unacked_since == 0) {
        e->unacked_since = sim_now();
        arm_check(e->wire, later(USER_TIMEOUT_MS, USER_TIMEOUT_MS + 200));
    }
    if (e->other->gone) {
        free(f); /* its RST is on the way, or it has no power */
        return;
    }
    enum net_fate fate = f->type == FRAME_RAFT ? net_raft_fate() : NET_PASSES;
    if (fate == NET_LOST) {
        free(f);
        return;
    }
    if (fate == NET_LATE) {
        out_of_place(e, f);
        schedule(e->other);
        return;
    }
    if (fate == NET_DOUBLED) {
        struct wire_frame *copy = wire_frame_new(f->meta_len, f->tail_len);
        copy->type = f->type;
        memcpy(copy->bytes, f->bytes, (size_t)f->meta_len + f->tail_len);
        out_of_place(e, copy);
    }
    f->arrives = arrival(e, f->size);
    push(&e->flight, f);
    e->flight_bytes += f->size;
    schedule(e->other);
}

static bool has_room(const struct wire_end *e, size_t size)
{
    return e->flight.first == NULL || e->flight_bytes + size <= net_window();
}

static bool pump(struct wire_end *e)
{
    bool moved = false;
    while (e->out.first != NULL && has_room(e, e->out.first->size)) {
        struct wire_frame *f = pop(&e->out);
        e->out_bytes -= f->size;
        transmit(e, f);
        moved = true;
    }
    if (e->out.first == NULL)
        e->full_since = 0;
    return moved;
}

static void run_room(void *arg)
{
    struct wire_end *e = arg;
    e->room_posted = false;
    if (e->events != NULL && !e->gone && pump(e))
        e->events->room(e->arg);
    unref(e->wire);
}

void wire_send(struct wire_end *e, struct wire_frame *f)
{
    if (e->gone) {
        free(f);
        return;
    }
    if (e->out.first == NULL && has_room(e, f->size)) {
        transmit(e, f);
        return;
    }
    push(&e->out, f);
    e->out_bytes += f->size;
    if (e->full_since == 0) {
        e->full_since = sim_now();
        arm_check(e->wire, later(USER_TIMEOUT_MS, USER_TIMEOUT_MS + 200));
    }
}

size_t wire_queued(const struct wire_end *e)
{
    return e->out_bytes;
}

unsigned wire_peer(const struct wire_end *e)
{
    return e->other->node;
}

/* ---- ends of connections ---- */

/* Of those under way a tail is lost; what has arrived stays. */
static void lose_tail(struct wire_end *e)
{
    struct wire_frame **at = &e->flight.first;
    uint64_t now = sim_now();
    while (*at != NULL && (*at)->arrives <= now)
        at = &(*at)->next;
    while (*at != NULL && (*at)->arrives != NEVER && sim_chance(SIM_NET, 0.5))
        at = &(*at)->next;
    while (*at != NULL) {
        struct wire_frame *f = *at;
        *at = f->next;
        e->flight_bytes -= f->size;
        free(f);
    }
    e->flight.end = at;
    if (e->flight.first == NULL)
        e->flight.end = &e->flight.first;
    drop_all(&e->late);
}

/* FIN or RST leaves. */
static void send_end(struct wire_end *e, const char *reason)
{
    e->end_reason = reason;
    e->end_arrives = arrival(e, 0);
    schedule(e->other);
}

/* Its kernel has done with it. orderly: what it took goes out before the end does. */
static void end_ends(struct wire_end *e, bool orderly, bool silent)
{
    if (e->gone)
        return;
    e->gone = true;
    drop_all(&e->out);
    e->out_bytes = 0;
    e->quiet_since = e->unacked_since = e->full_since = 0;
    if (!orderly)
        lose_tail(e);
    if (!silent && !e->other->gone)
        send_end(e, orderly ? closed_text : reset_text);
    lose_tail(e->other); /* what has not arrived never will */
}

void wire_close(struct wire_end *e)
{
    bool unread = e->other->flight.first != NULL && e->other->flight.first->arrives <= sim_now();
    end_ends(e, !unread, false);
    detach(e);
}

/* The kernel gives up by itself; the program will read what has arrived, then of it. */
static void give_up(struct wire_end *e, const char *reason)
{
    if (e->gone)
        return;
    end_ends(e, false, false);
    e->reason = reason;
    schedule(e);
}

/* ---- silence ---- */

static uint64_t due(const struct wire_end *e)
{
    uint64_t when = NEVER;
    const uint64_t timeout = (uint64_t)USER_TIMEOUT_MS * MS;
    if (e->gone)
        return NEVER;
    if (e->quiet_since != 0)
        when = e->unacked_since != 0 ? e->unacked_since + timeout : e->quiet_since + e->idle_patience;
    if (e->full_since != 0 && e->full_since + timeout < when)
        when = e->full_since + timeout;
    return when;
}

static void check(void *arg)
{
    struct wire *w = arg;
    uint64_t next = NEVER;
    w->check_at = NEVER;
    for (unsigned i = 0; i < 2; i++) {
        struct wire_end *e = &w->ends[i];
        uint64_t when = due(e);
        if (when <= sim_now())
            give_up(e, timeout_text);
        else
            next = when < next ? when : next;
    }
    if (next != NEVER)
        arm_check(w, next);
    unref(w);
}

static void arm_check(struct wire *w, uint64_t when)
{
    if (w->check_at <= when)
        return;
    w->check_at = when;
    w->refs++;
    sim_at(when, check, w);
}

static void note_quiet(struct wire_end *e)
{
    if (e->gone)
        return;
    if (!is_quiet(e)) {
        e->quiet_since = e->unacked_since = 0;
        return;
    }
    if (e->quiet_since != 0)
        return;
    e->quiet_since = sim_now();
    e->unacked_since = e->flight.first != NULL ? sim_now() : 0;
    e->idle_patience = sim_between(SIM_NET, 2000, 4000) * MS; /* since the last probe that was answered */
    arm_check(e->wire, due(e));
}

/* ---- the path ---- */

static void stall(struct wire_end *e)
{
    for (struct wire_frame *f = e->flight.first; f != NULL; f = f->next)
        if (f->arrives > sim_now())
            f->arrives = NEVER;
    drop_all(&e->late);
    if (e->end_arrives > sim_now())
        e->end_arrives = NEVER;
}

static void retime(struct wire_end *e, uint64_t least)
{
    uint64_t now = sim_now();
    e->last_arrival = least;
    for (struct wire_frame *f = e->flight.first; f != NULL; f = f->next)
        if (f->arrives > now)
            f->arrives = arrival(e, f->size);
    if (e->end_arrives > now)
        e->end_arrives = arrival(e, 0);
    schedule(e->other);
}

static void path_changed(struct wire_end *e)
{
    if (is_stalled(e))
        stall(e);
    else
        retime(e, later(0, RETRANSMIT_MS));
    note_quiet(e);
    note_quiet(e->other);
    has_read(e); /* a window update may have been lost */
}

void wires_path_changed(unsigned from, unsigned to)
{
    for (struct wire *w = wires; w != NULL; w = w->next)
        for (unsigned i = 0; i < 2; i++)
            if (w->ends[i].node == from && w->ends[i].other->node == to)
                path_changed(&w->ends[i]);
}

void wires_machine_changed(unsigned node)
{
    for (struct wire *w = wires; w != NULL; w = w->next)
        for (unsigned i = 0; i < 2; i++) {
            struct wire_end *e = &w->ends[i];
            if (e->node != node || e->other->gone)
                continue;
            if (net_machine_is_up(node) && e->gone && e->end_arrives == 0) { /* to what it does not know it says RST */
                e->last_arrival = later(0, 1000);
                send_end(e, reset_text);
            }
            note_quiet(e->other);
        }
}

void wires_retime(void)
{
    for (struct wire *w = wires; w != NULL; w = w->next)
        for (unsigned i = 0; i < 2; i++)
            if (!is_stalled(&w->ends[i]))
                retime(&w->ends[i], sim_now());
}

void wires_drop(unsigned a, unsigned b)
{
    struct wire *next;
    for (struct wire *w = wires; w != NULL; w = next) {
        next = w->next;
        bool between = (w->ends[0].node == a && w->ends[1].node == b) || (w->ends[0].node == b && w->ends[1].node == a);
        if (!between)
            continue;
        w->refs++;
        for (unsigned i = 0; i < 2; i++)
            give_up(&w->ends[i], reset_text);
        unref(w);
    }
}

void wires_node_ended(unsigned node, enum sim_end how)
{
    struct wire *next;
    bool power = how == SIM_POWER;
    struct listener *l = &listeners[node];
    for (struct wire *w = wires; w != NULL; w = next) {
        next = w->next;
        w->refs++;
        for (unsigned i = 0; i < 2; i++) {
            struct wire_end *e = &w->ends[i];
            if (e->node != node || (e->gone && e->events == NULL))
                continue;
            end_ends(e, !power && sim_chance(SIM_NET, 0.5), power);
            detach(e);
        }
        unref(w);
    }
    for (unsigned i = 0; i < l->n; i++)
        unref(l->waiting[i]);
    *l = (struct listener){0};
}

/* ---- beginnings ---- */

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
    schedule(e);
    unref(e->wire);
}

static void on_refused(void *arg)
{
    struct wire_end *e = arg;
    const struct wire_events *events = e->events;
    if (events != NULL) {
        e->gone = true;
        detach(e);
        events->connected(e->arg, "connection refused");
    }
    unref(e->wire);
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
        end_ends(e, false, false);
        unref(w);
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
        unref(w);
        return;
    }
    if (is_quiet(e)) {
        if (++w->tries < SYN_TRIES)
            sim_at(sim_now() + ((uint64_t)1000 << (w->tries - 1)) * MS, syn, w);
        else
            unref(w);
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
        end_ends(&l->waiting[i]->ends[1], false, false);
        unref(l->waiting[i]);
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
    if (is_quiet(e))
        note_quiet(e);
    schedule(e);
    return e;
}

void wires_start(void)
{
    mr_assert(wires == NULL);
    memset(listeners, 0, sizeof(listeners));
}
