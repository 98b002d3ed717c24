/* Paths that are cut and healed, machines that come and go, and ends that hear nothing (W4). */
#include "chaos-tests/sim/sim_wire_internal.h"

enum { RETRANSMIT_MS = 400 }; /* a healed path is noticed by the next retransmission */

static const char timeout_text[] = "connection timed out";

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
            wire_give_up(e, timeout_text);
        else
            next = when < next ? when : next;
    }
    if (next != NEVER)
        wire_arm_check(w, next);
    wire_unref(w);
}

void wire_arm_check(struct wire *w, uint64_t when)
{
    if (w->check_at <= when)
        return;
    w->check_at = when;
    w->refs++;
    sim_at(when, check, w);
}

void wire_note_quiet(struct wire_end *e)
{
    if (e->gone)
        return;
    if (!wire_is_quiet(e)) {
        e->quiet_since = e->unacked_since = 0;
        return;
    }
    if (e->quiet_since != 0)
        return;
    e->quiet_since = sim_now();
    e->unacked_since = e->flight.first != NULL ? sim_now() : 0;
    e->idle_patience = sim_between(SIM_NET, 2000, 4000) * MS; /* since the last probe that was answered */
    wire_arm_check(e->wire, due(e));
}

/* ---- the path ---- */

static void stall(struct wire_end *e)
{
    for (struct wire_frame *f = e->flight.first; f != NULL; f = f->next)
        if (f->arrives > sim_now())
            f->arrives = NEVER;
    frames_drop(&e->late);
    if (e->end_arrives > sim_now())
        e->end_arrives = NEVER;
}

static void retime(struct wire_end *e, uint64_t least)
{
    uint64_t now = sim_now();
    e->last_arrival = least;
    for (struct wire_frame *f = e->flight.first; f != NULL; f = f->next)
        if (f->arrives > now)
            f->arrives = wire_arrival(e, f->size);
    if (e->end_arrives > now)
        e->end_arrives = wire_arrival(e, 0);
    wire_schedule(e->other);
}

static void path_changed(struct wire_end *e)
{
    if (wire_is_stalled(e))
        stall(e);
    else
        retime(e, wire_later(0, RETRANSMIT_MS));
    wire_note_quiet(e);
    wire_note_quiet(e->other);
    wire_has_read(e); /* a window update may have been lost */
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
                e->last_arrival = wire_later(0, 1000);
                wire_send_end(e, wire_reset);
            }
            wire_note_quiet(e->other);
        }
}

void wires_retime(void)
{
    for (struct wire *w = wires; w != NULL; w = w->next)
        for (unsigned i = 0; i < 2; i++)
            if (!wire_is_stalled(&w->ends[i]))
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
            wire_give_up(&w->ends[i], wire_reset);
        wire_unref(w);
    }
}

void wires_node_ended(unsigned node, enum sim_end how)
{
    struct wire *next;
    bool power = how == SIM_POWER;
    for (struct wire *w = wires; w != NULL; w = next) {
        next = w->next;
        w->refs++;
        for (unsigned i = 0; i < 2; i++) {
            struct wire_end *e = &w->ends[i];
            if (e->node != node || (e->gone && e->events == NULL))
                continue;
            wire_end_ends(e, !power && sim_chance(SIM_NET, 0.5), power);
            wire_detach(e);
        }
        wire_unref(w);
    }
    wires_forget_listener(node);
}
