/* sim_uv.h - the parts of our libuv to each other. */
#ifndef MR_SIM_UV_H
#define MR_SIM_UV_H

#include "chaos-tests/sim/sim_kernel.h"

/* In uv_handle_t.flags. */
enum { HANDLE_ACTIVE = 1, HANDLE_REF = 2, HANDLE_CLOSING = 4, HANDLE_CLOSED = 8 };

/* A ring of handles, through their two queue pointers. */
typedef void *sim_ring[2]; /* next, previous */

/* What a loop has beyond uv_loop_t, in its internal_fields. */
struct sim_loop {
    unsigned node;
    uint64_t life;
    struct sim_thread *waiting; /* the thread that is in its poll; else NULL */
    unsigned active;            /* handles that are active and have a ref */
    unsigned requests;          /* posts and work that are under way */
    unsigned handles;           /* initialised, not closed */
    uv_handle_t *closing;       /* newest first, as libuv does */
    sim_ring idle, prepare, check, asyncs;
    unsigned asyncs_pending;
    struct sim_post *posts, *posts_last; /* they are due; last: when there are any */
    uv_timer_t **timers;                 /* a heap */
    uint32_t timers_count, timers_room;
    uint64_t next_timer;
};

static inline struct sim_loop *sim_loop_of(const uv_loop_t *loop)
{
    return loop->internal_fields;
}

void sim_ring_init(sim_ring *ring);
bool sim_ring_empty(const sim_ring *ring);
void sim_ring_add_first(sim_ring *ring, void **queue);
void sim_ring_add_last(sim_ring *ring, void **queue);
void sim_ring_remove(void **queue);
/* Takes all of ring over into to. */
void sim_ring_move(sim_ring *ring, sim_ring *to);

void sim_handle_init(uv_loop_t *loop, uv_handle_t *handle, uv_handle_type type);
void sim_handle_start(uv_handle_t *handle);
void sim_handle_stop(uv_handle_t *handle);

void sim_timers_run(uv_loop_t *loop);
/* False: there is none. */
bool sim_timers_next(const uv_loop_t *loop, uint64_t *timeout_ms);
void sim_watchers_run(uv_loop_t *loop, uv_handle_type type);
void sim_loop_wake(struct sim_loop *l);

#endif
