/* sim_wire_internal.h - the wires' parts to each other: what is sent, read and ended (sim_wire.c), paths that change
 * and ends that hear nothing (sim_wire_path.c), beginnings (sim_wire_open.c).
 *
 * A coroutine may wait inside an event, or its node may die there; so nothing is kept across one but a reference. What
 * a post to a dead life held is never given back: it goes with the world's process. */
#ifndef MR_SIM_WIRE_INTERNAL_H
#define MR_SIM_WIRE_INTERNAL_H

#include "chaos-tests/sim/sim_wire.h"

#define NEVER UINT64_MAX

enum {
    MS = 1000 * 1000,
    USER_TIMEOUT_MS = 3000, /* link_conn.h */
};

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

extern struct wire *wires;      /* all there are */
extern const char wire_reset[]; /* why an end broke */

/* ---- sim_wire.c ---- */
void frames_init(struct frames *list);
void frames_drop(struct frames *list);
void wire_unref(struct wire *w);
void wire_detach(struct wire_end *e);                   /* no event follows */
uint64_t wire_later(uint64_t low_ms, uint64_t high_ms); /* draws */
void wire_schedule(struct wire_end *e);                 /* its next event */
/* The program at e has read: the window towards it is open again. */
void wire_has_read(struct wire_end *e);
uint64_t wire_arrival(struct wire_end *e, size_t size); /* NEVER: its path is cut */
bool wire_is_quiet(const struct wire_end *e);
bool wire_is_stalled(const struct wire_end *e);             /* what it sends does not arrive */
void wire_send_end(struct wire_end *e, const char *reason); /* FIN or RST leaves */
/* Its kernel has done with it. orderly: what it took goes out before the end does. */
void wire_end_ends(struct wire_end *e, bool orderly, bool silent);
/* The kernel gives up by itself; the program will read what has arrived, then of it. */
void wire_give_up(struct wire_end *e, const char *reason);

/* ---- sim_wire_path.c ---- */
void wire_arm_check(struct wire *w, uint64_t when);
void wire_note_quiet(struct wire_end *e);

/* ---- sim_wire_open.c ---- */
void wires_forget_listener(unsigned node); /* its life has ended */

#endif
