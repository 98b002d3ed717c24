/* sim.h - one world in one thread: N nodes that run the real code of cluster/ and raft/ over simulated time, threads,
 * disks and links, with faults by a seed.
 *
 * Nothing of mailraft is changed for it. The program is linked with the real static libraries, and what they ask of
 * libuv, of POSIX and of raft_uv is answered here: uv_* by our own functions (sim_uv.c), threads and conditions
 * (sim_threads.c), clocks, chance, log and panic (sim_system.c) and files (sim_files.c) by the linker's --wrap,
 * raft_uv_init by a raft_io over the simulated disk (sim_raft_io.c), and below link.c, link_dial.c and link_accept.c,
 * which are the real ones, link_conn_*, link_env_* and the listening socket by connections between simulated nodes
 * (sim_links.c over sim_wire.c).
 *
 * A thread of a node is a coroutine: it runs until it waits (uv_run without work, a condition, a semaphore, a join, a
 * blocking sync that takes its time). So everything that happens is an order of steps that the seed decides, and a seed
 * replays exactly. One process runs one world (the substituted calls have no argument that could name it); the runner
 * forks one for each seed, and what a crashed node leaves in memory goes with the process.
 *
 * M1: no step of a node runs while it is dead or paused; what was to come to a dead life of a node never comes.
 * M2: every choice comes from sim_random, of the stream that it belongs to: to take a fault out of the plan changes no
 *     other choice of the plan.
 * Thread: there is one. "In a node" means: called from a coroutine of it. "In the world": from an event of sim_at. */
#ifndef MR_SIM_SIM_H
#define MR_SIM_SIM_H

#include "proto/base/clock.h"
#include "proto/base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum { SIM_MAX_NODES = 7 }; /* 1..SIM_MAX_NODES; 0 is the world */

/* ---- the runner's wishes and the world's answer ---- */

struct sim_options {
    uint64_t seed;
    bool trace;            /* one line an event on stdout */
    unsigned nodes;        /* 0: by the seed, 3, 5 or 7 */
    uint64_t seconds;      /* of load and faults; 0: by the seed */
    uint64_t faults_max;   /* only the first so many faults of the plan (shrinking); UINT64_MAX: all */
    uint64_t faults_off;   /* bit i: leave out fault i of the plan (shrinking) */
    uint64_t messages_max; /* 0: by the seed */
};

/* How often something was seen: log events, faults of each kind, ends of lives. What no world ever sees, no fault has
 * reached. */
enum { SIM_SEEN_MAX = 192, SIM_SEEN_NAME = 40 };
struct sim_seen {
    char name[SIM_SEEN_NAME];
    uint64_t count;
};

struct sim_result { /* shared memory between the runner and the world's process */
    bool finished;
    int invariant; /* of CONTRIBUTING.md; 0: none violated; SIM_PANIC.. below for what is not in the list */
    char what[512];
    uint64_t node_ns; /* simulated time of machines: sum over the nodes */
    uint64_t events;  /* steps of the scheduler */
    uint64_t faults;  /* in the plan */
    uint64_t submitted, accepted, delivered, bounced, duplicated, in_doubt;
    uint64_t crashes, power_cuts, pauses, cuts, leaders, snapshots;
    uint64_t trace_hash; /* over all events: two runs of a seed must agree */
    struct sim_seen seen[SIM_SEEN_MAX];
    unsigned n_seen;
};
enum {
    SIM_PANIC = 100,    /* a program's assertion, unexcused */
    SIM_STUCK = 101,    /* the world does not end */
    SIM_LIMITS = 102,   /* more connections or a higher rate at a next hop than the rules allow (PROTOCOL.md 6) */
    SIM_CRASHED = 103,  /* a signal, a sanitizer */
    SIM_DIVERGED = 104, /* the same seed ran another way */
};

/* sim_world.c: makes nodes, load and faults, runs, heals, settles, checks. Ends by returning (no violation), or by
 * sim_violation. */
void sim_world_run(const struct sim_options *options, struct sim_result *result);

/* Of this world. */
struct sim_result *sim_result(void);
/* Ends the world: writes what into the result and leaves the process. */
__attribute__((noreturn, format(printf, 2, 3))) void sim_violation(int invariant, const char *format, ...);

/* ---- chance ---- */
enum sim_stream {
    SIM_SCHEDULE, /* how long steps take, who runs first */
    SIM_PROGRAM,  /* getrandom and libraft's random of the nodes */
    SIM_DISK,     /* times of the disks, what a power cut tears */
    SIM_NET,
    SIM_LOAD, /* clients and next hops */
    SIM_PLAN, /* the plan of faults */
    SIM_STREAMS
};
uint64_t sim_random(enum sim_stream s);
uint64_t sim_below(enum sim_stream s, uint64_t n); /* 0..n-1 */
uint64_t sim_between(enum sim_stream s, uint64_t low, uint64_t high);
bool sim_chance(enum sim_stream s, double p);

/* ---- time and events ---- */
uint64_t sim_now(void); /* true time of the world, ns from its begin */
/* In the world, at that time (or now, if it has passed). No program code may be called from it but through
 * sim_loop_post. */
void sim_at(uint64_t when, void (*run)(void *arg), void *arg);
/* On this loop of a node (in its coroutine, as if a descriptor had become ready), not before `when`; wakes the loop.
 * Never when the node's life has ended by then. Posts to one loop with equal times run in the order of posting. Keeps
 * the loop alive until it has run. */
void sim_loop_post(uv_loop_t *loop, uint64_t when, void (*run)(void *arg), void *arg);
/* In a node: blocks the calling coroutine (thread) for so long, as a system call does. */
void sim_block(uint64_t ns);
/* Runs the world's events until that time. */
void sim_run_until(uint64_t when);
/* ... until done says so (asked after a step, each 10 ms of the world, and at the end) or limit has passed; true: done.
 */
bool sim_run_while(bool (*done)(void *arg), void *arg, uint64_t limit);

/* ---- nodes: one process each ---- */
enum sim_end {
    SIM_KILL,  /* kill -9: what was written stays written */
    SIM_POWER, /* unsynced writes are lost or torn (sim_disk_power is called) */
    SIM_DIED,  /* by itself: panic (what the disk holds stays as with SIM_KILL) */
};
unsigned sim_node(void); /* the node whose code runs; 0 in the world */
/* A new process whose main thread runs main. The node must be dead. */
void sim_node_start(unsigned node, void (*main)(void *arg), void *arg);
/* From the world or from a step of the node itself (then it does not return). */
void sim_node_crash(unsigned node, enum sim_end how);
void sim_node_pause(unsigned node);
void sim_node_resume(unsigned node);
bool sim_node_alive(unsigned node); /* also while paused */
bool sim_node_paused(unsigned node);
uint64_t sim_node_life(unsigned node); /* counts the starts */
/* Told after each end of a life: text of a panic or "". world.c sets it. */
extern void (*sim_on_end)(unsigned node, enum sim_end how, const char *text);

/* Clocks. boot: CLOCK_BOOTTIME and CLOCK_MONOTONIC, goes on while paused; a reboot (SIM_POWER) may begin it anew. */
uint64_t sim_node_boot_ns(unsigned node);
uint64_t sim_node_wall_ms(unsigned node);
void sim_clock_rate(unsigned node, int64_t ppm);     /* of boot and wall, from now on */
void sim_clock_jump(unsigned node, int64_t wall_ms); /* wall clock only */

/* ---- steps: where a node may die ---- */
/* Each substituted call that changes something outside the process begins and ends with one. Also slows a node down by
 * the schedule. May not return (an armed crash comes true). */
void sim_step(const char *what);
/* The node dies at its n-th step from now; 0: not at all. Nothing when it is dead. */
void sim_arm(unsigned node, uint64_t steps, enum sim_end how);

/* ---- trace ---- */
bool sim_tracing(void);
/* A line with time and node when tracing; always part of trace_hash. Cheap when not tracing: format only hashed as
 * what, number as its number. */
void sim_trace(const char *what, uint64_t number);
__attribute__((format(printf, 1, 2))) void sim_tracef(const char *format, ...); /* tracing only; not hashed */
/* Counts it in the result's `seen`; log events are counted by themselves. */
void sim_see(const char *prefix, const char *what);
/* Every log_event of a node's program; world.c sets it. */
extern void (*sim_on_log)(unsigned node, enum log_level level, const char *event, const struct log_field *fields,
                          size_t count);

/* ---- disk (sim_disk.c): a file system a node, and Raft's log on it ---- */
void sim_disk_new(unsigned node); /* empty, of 1 GiB; also a wiped one */
void sim_disk_size(unsigned node, uint64_t bytes);
void sim_disk_power(unsigned node); /* by sim_node_crash */
enum sim_disk_fault {
    SIM_DISK_SLOW,        /* value: ns added to each sync */
    SIM_DISK_HANG,        /* nothing comes back until it is 0 again */
    SIM_DISK_FULL,        /* value 1: no space; 0: space again */
    SIM_DISK_WRITE_FAILS, /* value: the n-th write from now gives EIO, once; 0: none */
    SIM_DISK_SYNC_FAILS,  /* as before, of syncs */
    SIM_DISK_READS_FAIL,  /* value: one read in so many of what is not in memory any more gives EIO, once; 0: none */
    SIM_DISK_FAULTS,
};
void sim_disk_fault(unsigned node, enum sim_disk_fault fault, uint64_t value);
/* Flips one bit of what is durable, while the node is dead or alive. Where: a part of the path ("spool", "raft",
 * "journal", "identity") or, for Raft's log and snapshots, "raft". False: there was nothing to flip. */
bool sim_disk_flip(unsigned node, const char *where);
/* Cuts a file's end off, at rest (node dead). */
bool sim_disk_truncate(unsigned node, const char *where);
/* In a node: as fsync(2) or fdatasync(2) in the calling coroutine, blocking; 0 or -errno. For uv_fs_fsync and
 * uv_fs_fdatasync of sim_uv.c. sim_raft_io.c asks sim_uv.c for: uv_timer, uv_prepare, uv_check, uv_queue_work, uv_now.
 */
int sim_file_sync(int fd, bool data_only);
/* In the world: until it is called with 0, POSIX calls of the world's own code go to this node's disk, without steps,
 * time or faults. */
void sim_files_as(unsigned node);
/* What a check may ask, of a node that is dead or alive: what its page cache has. */
struct sim_raft_view {
    uint64_t term, vote; /* 0: nothing, or not readable */
    bool readable;       /* the log, as a start would read it */
    uint64_t first, last, snapshot;
    uint64_t told_term, told_vote; /* the last that the program was told to be stored */
};
void sim_raft_view(unsigned node, struct sim_raft_view *out);

/* ---- net (sim_net.c) ---- */
void sim_net_start(unsigned nodes);
void sim_net_cut(unsigned from, unsigned to, bool cut); /* one direction */
bool sim_net_is_cut(unsigned from, unsigned to);
void sim_net_drop(unsigned a, unsigned b); /* the connections between them break now */
/* Of frames of Raft alone: libraft must stand all of that. The rest is on TCP: late, or the connection breaks. */
void sim_net_raft(double loss, double duplicate, double reorder);
void sim_net_delay(uint64_t least_ns, uint64_t most_ns, double spike, uint64_t spike_ns);
void sim_net_slow(unsigned node, uint64_t bytes_per_s); /* 0: no limit */
void sim_net_heal(void);                                /* everything above */
/* By sim_node_crash, when nothing of the node runs any more: its kernel ends the connections, or, after a power cut, is
 * silent until the node's next life. */
void sim_net_node_ended(unsigned node, enum sim_end how);
/* Node n has the address 127.0.0.n and the names that end in its number ("n3", "node3"), at any port; links are
 * `insecure`. What the links need of uv_tcp_*, uv_getaddrinfo and sockets is in sim_links.c: uv_close must take a
 * uv_tcp_t as any handle. */

/* ---- plan of faults (sim_plan.c) ---- */
/* Draws the plan for the seed and sets its events. Faults end by heal_at at the latest. */
void sim_plan_start(const struct sim_options *options, unsigned nodes, uint64_t begin, uint64_t heal_at);
uint64_t sim_plan_faults(void);
/* True when the plan did to this node what excuses its panic or its refusal (a failed write, a flipped bit, ...). */
bool sim_plan_excuses(unsigned node);
/* True when what its disk held may be gone or wrong, by flips, cuts or a wipe: for good. */
bool sim_plan_damaged(unsigned node);
/* Heals everything, starts every node that is dead; after it only the world's load goes on (and the supervisor, which
 * starts nodes that die). */
void sim_plan_heal(void);

/* ---- world (sim_world.c) ---- */
/* (Re)starts mailraft on a node with its disk as it is. */
void sim_world_boot(unsigned node);
/* The raft id of the newest leader that the world knows, by node number; 0: none. */
unsigned sim_world_leader(void);
/* Whether this node's data are lost to the cluster for good (refused to start, wiped): the plan keeps them a minority.
 */
bool sim_world_lost(unsigned node);
/* SIGTERM: it drains and ends by itself; the world starts it again, as it does after a panic that the plan excuses.
 * Nothing when it is not up. */
void sim_world_drain(unsigned node);
/* A new, empty disk under the old name; the node is ended first (kill) if it lives. It is lost from then on: started
 * again it must be refused. */
void sim_world_wipe(unsigned node);

/* One of its threads does nothing for so long, as when a call to the disk hangs: 0 the core's, else a worker's. */
void sim_world_stall(unsigned node, unsigned thread, uint64_t ns);

/* Next hops: 0..sim_hops()-1, there after sim_world_run has begun. */
enum sim_hop_fault {
    SIM_HOP_FINE,
    SIM_HOP_SLOW,      /* seconds between a command and its reply */
    SIM_HOP_DEAD,      /* no connection comes about, those that stand break */
    SIM_HOP_REFUSES_4, /* most recipients get 4xx */
    SIM_HOP_REFUSES_5, /* most get 5xx */
    SIM_HOP_DROPS,     /* takes the message, and the connection ends before the reply to the dot */
    SIM_HOP_LIES,      /* answers 250 and drops the message: only to see whether the checker sees it */
};
unsigned sim_hops(void);
void sim_hops_fault(unsigned hop, enum sim_hop_fault kind, uint64_t until);
void sim_hops_heal(void);

#endif
