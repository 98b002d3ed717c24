/* sim_kernel.h - the kernel's own parts to each other: events, coroutines, nodes. The rest of the simulation needs
 * sim.h only.
 *
 * A thread (struct sim_thread) is a coroutine. It is RUNNING (one at most), SCHEDULED (its event stands in the heap) or
 * PARKED (it waits for sim_unpark, perhaps also for a time). A step is what a thread does between two parks; the
 * world's loop on the main stack picks them by the heap's order.
 *
 * K1: an event's time is never before now; equal times run in the order of adding.
 * K2: a thread of an ended life is in no heap and on no list, and nothing points to it from outside its own life. */
#ifndef MR_SIM_KERNEL_H
#define MR_SIM_KERNEL_H

#include "chaos-tests/sim/sim.h"

#define SIM_NEVER UINT64_MAX

/* ---- the run ---- */

/* Before anything else. Both stay the caller's. */
void sim_kernel_init(const struct sim_options *options, struct sim_result *result);
/* Fills in what the kernel counts: node_ns, events, trace_hash. */
void sim_kernel_finish(void);
/* Into trace_hash, without a line. */
void sim_mix(const char *what, uint64_t number);

/* ---- events (sim_event.c) ---- */

struct sim_event {
    uint32_t at; /* place in the heap */
    enum sim_event_kind { SIM_EVENT_WAKE, SIM_EVENT_CALL, SIM_EVENT_POST } kind;
    bool queued;
};

struct sim_call { /* of sim_at */
    struct sim_event event;
    void (*run)(void *arg);
    void *arg;
    struct sim_call *next; /* free ones */
};

struct sim_post { /* of sim_loop_post: first in the heap, then in its loop's line */
    struct sim_event event;
    unsigned node;
    uint64_t life;
    uv_loop_t *loop;
    void (*run)(void *arg);
    void *arg;
    struct sim_post *next; /* in the line; free ones */
};

/* Adds it, or gives it a new time. */
void sim_event_set(struct sim_event *e, uint64_t when);
void sim_event_remove(struct sim_event *e);
struct sim_event *sim_event_first(uint64_t *when); /* NULL: none */
struct sim_call *sim_call_new(void);
void sim_call_free(struct sim_call *c);
struct sim_post *sim_post_new(void);
void sim_post_free(struct sim_post *p);

/* ---- threads (sim_thread.c) ---- */

struct sim_stack;

struct sim_thread {
    struct sim_event wake; /* first */
    void *sp;              /* while it does not run */
    struct sim_stack *stack;
    void *fake_stack; /* the address sanitizer's */
    unsigned node, number;
    uint64_t life;
    void *(*run)(void *arg);
    void *arg, *result;
    enum sim_thread_state { SIM_SCHEDULED, SIM_RUNNING, SIM_PARKED, SIM_DONE } state;
    bool woken;                     /* by sim_unpark, not by its time */
    bool held;                      /* it is due, but its node is paused */
    uint64_t deadline;              /* of the node's boot clock; SIM_NEVER: none */
    struct sim_thread *next_waiter; /* on a mutex, condition, semaphore, or on the end of a thread */
    struct sim_thread *joiner;
    struct sim_thread *next, **link; /* the node's threads */
};

struct sim_thread *sim_self(void); /* NULL in the world */
struct sim_thread *sim_thread_new(unsigned node, void *(*run)(void *arg), void *arg);
void *sim_thread_join(struct sim_thread *t);
/* The running thread waits; true: sim_unpark came, false: the node's boot clock has reached the deadline. */
bool sim_park(uint64_t deadline_boot);
/* Only a parked one; it runs after the scheduler's latency. Nothing for one that was woken already. */
void sim_unpark(struct sim_thread *t);
/* Lets others run: back after `ns` and the scheduler's latency. */
void sim_yield(uint64_t ns);
__attribute__((noreturn)) void sim_thread_leave(void *result);
/* Leaves the running thread for ever; what ends its life has been noted. */
__attribute__((noreturn)) void sim_thread_abandon(void);
void sim_thread_run(struct sim_thread *t); /* the world's loop: one step */
void sim_thread_free(struct sim_thread *t);

/* A line of waiting threads, first come first served. All zero: empty. */
struct sim_waiters {
    struct sim_thread *first, *last;
};
void sim_wait_add(struct sim_waiters *w, struct sim_thread *t);
struct sim_thread *sim_wait_take(struct sim_waiters *w); /* NULL: empty */
void sim_wait_remove(struct sim_waiters *w, struct sim_thread *t);

/* ---- nodes (sim_node.c) ---- */

struct sim_pool; /* the node's libuv threads (sim_pool.c) */

struct sim_node_state {
    bool alive, paused;
    uint64_t life;
    struct sim_thread *threads;
    unsigned next_thread;
    struct sim_pool *pool;
    void (*main)(void *arg);
    void *main_arg;
    /* clock: boot = boot_base + (now - since) * rate / 2^32 */
    uint64_t since, rate, boot_base, wall_base; /* both in ns */
    uint64_t alive_since, alive_ns;
    /* an armed crash */
    uint64_t steps_left; /* 0: none */
    enum sim_end armed;
};
void sim_nodes_init(void);
struct sim_node_state *sim_node_get(unsigned node);
uint64_t sim_boot_to_world(unsigned node, uint64_t boot_ns); /* when the clock reaches it, at its present rate */
/* The running step's node ends by itself. */
__attribute__((noreturn)) void sim_die(enum sim_end how, const char *text);
/* What a step has noted for the world's loop: the end of its own node. */
void sim_node_ending(void);
uint64_t sim_latency(void); /* of the scheduler */

/* ---- loops (sim_uv.c) ---- */
void sim_loop_deliver(struct sim_post *p); /* the world's loop: its time has come */
/* At once, from a step of the same node. */
void sim_loop_complete(uv_loop_t *loop, void (*run)(void *arg), void *arg);

#endif
