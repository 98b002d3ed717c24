/* Happy path: wire_dial -> syn -> on_connected | accept_one -> wire_accept (sim_wire_open.c) -> wire_send -> transmit
 * -> run_end: frame -> wire_close -> the other end: broken. */
#include "chaos-tests/sim/sim_wire_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "proto/frame.h"

#include <stdlib.h>
#include <string.h>

enum { LATE_MS = 30 }; /* how much later a reordered frame comes */

struct wire *wires;
const char wire_reset[] = "connection reset by peer";
static const char closed_text[] = "closed by the other side";

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

void frames_init(struct frames *list)
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

void frames_drop(struct frames *list)
{
    while (list->first != NULL)
        free(pop(list));
}

void wire_unref(struct wire *w)
{
    mr_assert(w->refs > 0);
    if (--w->refs > 0)
        return;
    *w->at = w->next;
    if (w->next != NULL)
        w->next->at = w->at;
    for (unsigned i = 0; i < 2; i++) {
        frames_drop(&w->ends[i].out);
        frames_drop(&w->ends[i].flight);
        frames_drop(&w->ends[i].late);
    }
    free(w);
}

void wire_detach(struct wire_end *e)
{
    if (e->events == NULL)
        return;
    e->events = NULL;
    wire_unref(e->wire);
}

uint64_t wire_later(uint64_t low_ms, uint64_t high_ms)
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

void wire_schedule(struct wire_end *e)
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

void wire_has_read(struct wire_end *e)
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
    frames_drop(&e->out);
    e->out_bytes = 0;
    wire_detach(e);
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
        wire_has_read(e);
    wire_schedule(e);
    wire_unref(e->wire);
}

/* ---- sending ---- */

bool wire_is_quiet(const struct wire_end *e)
{
    return sim_net_is_cut(e->node, e->other->node) || sim_net_is_cut(e->other->node, e->node) ||
           !net_machine_is_up(e->other->node);
}

bool wire_is_stalled(const struct wire_end *e)
{
    return sim_net_is_cut(e->node, e->other->node) || !net_machine_is_up(e->other->node);
}

uint64_t wire_arrival(struct wire_end *e, size_t size)
{
    if (wire_is_stalled(e))
        return NEVER;
    uint64_t at = net_arrival(e->node, e->other->node, size);
    e->last_arrival = at > e->last_arrival ? at : e->last_arrival;
    return e->last_arrival;
}

static void out_of_place(struct wire_end *e, struct wire_frame *f)
{
    uint64_t at = wire_arrival(e, f->size);
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
        wire_arm_check(e->wire, wire_later(USER_TIMEOUT_MS, USER_TIMEOUT_MS + 200));
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
        wire_schedule(e->other);
        return;
    }
    if (fate == NET_DOUBLED) {
        struct wire_frame *copy = wire_frame_new(f->meta_len, f->tail_len);
        copy->type = f->type;
        memcpy(copy->bytes, f->bytes, (size_t)f->meta_len + f->tail_len);
        out_of_place(e, copy);
    }
    f->arrives = wire_arrival(e, f->size);
    push(&e->flight, f);
    e->flight_bytes += f->size;
    wire_schedule(e->other);
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
    wire_unref(e->wire);
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
        wire_arm_check(e->wire, wire_later(USER_TIMEOUT_MS, USER_TIMEOUT_MS + 200));
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
    frames_drop(&e->late);
}

void wire_send_end(struct wire_end *e, const char *reason)
{
    e->end_reason = reason;
    e->end_arrives = wire_arrival(e, 0);
    wire_schedule(e->other);
}

void wire_end_ends(struct wire_end *e, bool orderly, bool silent)
{
    if (e->gone)
        return;
    e->gone = true;
    frames_drop(&e->out);
    e->out_bytes = 0;
    e->quiet_since = e->unacked_since = e->full_since = 0;
    if (!orderly)
        lose_tail(e);
    if (!silent && !e->other->gone)
        wire_send_end(e, orderly ? closed_text : wire_reset);
    lose_tail(e->other); /* what has not arrived never will */
}

void wire_close(struct wire_end *e)
{
    bool unread = e->other->flight.first != NULL && e->other->flight.first->arrives <= sim_now();
    wire_end_ends(e, !unread, false);
    wire_detach(e);
}

void wire_give_up(struct wire_end *e, const char *reason)
{
    if (e->gone)
        return;
    wire_end_ends(e, false, false);
    e->reason = reason;
    wire_schedule(e);
}
