/* load_run.h - one run of the load generator: what all sessions share.
 *
 * L1: each message number is given to one session, which keeps it until it is accepted, refused or given up.
 * L2: a message counts once: accepted + refused + given_up = finished; unsent = messages - finished at the end.
 * L3: each attempt that ended has its journal line before the session goes on.
 * Thread: everything runs on the one loop. */
#ifndef MR_CLIENT_LOAD_RUN_H
#define MR_CLIENT_LOAD_RUN_H

#include "client/journal.h"
#include "client/latency.h"
#include "client/load_message.h"
#include "client/load_options.h"
#include "client/rng.h"

#include <uv.h>

enum { LOAD_READ_SIZE = 65536, LOAD_TICK_MS = 100 };

struct load_session;

struct load_counts {
    /* messages */
    uint64_t accepted; /* 250 for every recipient */
    uint64_t refused;  /* 5xx for some recipient */
    uint64_t given_up;
    /* attempts, by how they ended */
    uint64_t sent;
    uint64_t temporary; /* 4xx */
    uint64_t permanent; /* 5xx */
    uint64_t broken;
    uint64_t indeterminate;
    uint64_t bytes; /* of what was answered 250 */
};

struct load_run {
    const struct load_options *options;
    uv_loop_t loop;
    uv_timer_t tick;
    uv_timer_t pace;
    uv_signal_t interrupt, term;
    struct load_text text;
    struct rng rng;          /* of pauses */
    struct journal *journal; /* NULL: none */
    struct journal_line line;
    struct load_session *sessions;
    size_t session_count;
    size_t open_sessions;
    struct load_session *idle_first, *idle_last; /* sessions that wait for their turn */
    uint64_t next_number;
    uint64_t pace_next_ns;
    bool stopping;
    bool journal_failed;
    struct load_counts counts;
    struct latency latency; /* from the dot to 250 */
    uint64_t started_ns, ended_ns;
    uint64_t last_sent_ns; /* 0: no 250 yet */
    uint64_t silence_ns;   /* longest time between two 250 */
    uint64_t progress_ns, progress_sent;
    char read_buffer[LOAD_READ_SIZE]; /* used up within each read callback */
};

/* Exit status of the program: 0 all accepted, 1 not. */
int load_run(const struct load_options *options);

/* For sessions. */
enum load_turn { LOAD_TURN_NOW, LOAD_TURN_WAIT, LOAD_TURN_NONE };
/* NOW: *number is the session's. WAIT: load_session_wake comes. NONE: there is nothing left to do. */
enum load_turn load_run_take(struct load_run *run, struct load_session *s, uint64_t *number);
void load_run_accepted(struct load_run *run, uint64_t dot_ns, uint64_t now_ns, uint64_t bytes);
void load_run_session_done(struct load_run *run);
void load_run_write(struct load_run *run);
uint64_t load_run_now(void);

#endif
