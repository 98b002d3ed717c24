/* The world's loop: takes the first event of the heap, sets the time to it, runs it. Trace and end of the world. */
#include "chaos-tests/sim/sim_kernel.h"

#include "chaos-tests/sim/sim_chance.h"
#include "proto/base/hash.h"
#include "proto/base/panic.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    STUCK_STEPS = 20000000, /* at one time of the world: something turns in a circle */
    ASK_NS = 10000000,      /* how often sim_run_while asks */
};

static struct {
    uint64_t now, events, hash, steps_now;
    bool running, trace;
    struct sim_result *result;
} world;

void (*sim_on_log)(unsigned node, enum log_level level, const char *event, const struct log_field *fields,
                   size_t count);

void sim_kernel_init(const struct sim_options *options, struct sim_result *result)
{
    world.trace = options->trace;
    world.result = result;
    world.hash = options->seed;
    sim_chance_init(options->seed);
    sim_nodes_init();
}

uint64_t sim_now(void)
{
    return world.now;
}

struct sim_result *sim_result(void)
{
    return world.result;
}

/* Its length; out has zeros behind it. */
static size_t join(char out[SIM_SEEN_NAME], const char *prefix, const char *what)
{
    size_t n = strnlen(prefix, SIM_SEEN_NAME - 1), m = strnlen(what, SIM_SEEN_NAME - 1 - n);
    memset(out, 0, SIM_SEEN_NAME);
    memcpy(out, prefix, n);
    memcpy(out + n, what, m);
    return n + m;
}

void sim_see(const char *prefix, const char *what)
{
    static uint8_t places[256]; /* by the name's hash: where a name of it stood last */
    char name[SIM_SEEN_NAME];
    struct sim_result *r = world.result;
    uint8_t *place = &places[XXH3_64bits(name, join(name, prefix, what)) & 255];
    unsigned i = *place;
    if (i >= r->n_seen || memcmp(r->seen[i].name, name, sizeof(name)) != 0)
        for (i = 0; i < r->n_seen && memcmp(r->seen[i].name, name, sizeof(name)) != 0;)
            i++;
    if (i == SIM_SEEN_MAX)
        return;
    *place = (uint8_t)i;
    if (i == r->n_seen) {
        memcpy(r->seen[i].name, name, sizeof(name));
        r->n_seen++;
    }
    r->seen[i].count++;
}

/* ---- events ---- */

void sim_at(uint64_t when, void (*run)(void *arg), void *arg)
{
    struct sim_call *c = sim_call_new();
    c->run = run;
    c->arg = arg;
    sim_event_set(&c->event, when);
}

static void run_call(struct sim_call *c)
{
    void (*run)(void *arg) = c->run;
    void *arg = c->arg;
    sim_call_free(c);
    run(arg);
}

static void mix(uint64_t v)
{
    world.hash = (world.hash ^ v) * 0x9E3779B97F4A7C15ULL;
    world.hash ^= world.hash >> 32;
}

static void run_thread(struct sim_thread *t)
{
    struct sim_node_state *n = sim_node_get(t->node);
    if (n->paused) {
        t->held = true;
        return;
    }
    mix(world.now ^ ((uint64_t)t->node << 60) ^ ((uint64_t)t->number << 48));
    sim_thread_run(t);
    sim_node_ending();
}

static void note_progress(uint64_t when)
{
    if (when > world.now) {
        world.now = when;
        world.steps_now = 0;
    } else if (++world.steps_now > STUCK_STEPS) {
        sim_violation(SIM_STUCK, "time stands still");
    }
}

static bool step(uint64_t limit)
{
    uint64_t when;
    struct sim_event *e = sim_event_first(&when);
    if (e == NULL || when > limit)
        return false;
    sim_event_remove(e);
    note_progress(when);
    world.events++;
    switch (e->kind) {
    case SIM_EVENT_WAKE:
        run_thread((struct sim_thread *)e);
        break;
    case SIM_EVENT_CALL:
        run_call((struct sim_call *)e);
        break;
    case SIM_EVENT_POST:
        sim_loop_deliver((struct sim_post *)e);
        break;
    }
    return true;
}

bool sim_run_while(bool (*done)(void *arg), void *arg, uint64_t limit)
{
    uint64_t ask = 0;
    bool is_done = false;
    mr_assert(!world.running && sim_self() == NULL);
    world.running = true;
    for (;;) {
        if (done != NULL && world.now >= ask) {
            is_done = done(arg);
            ask = world.now + ASK_NS;
        }
        if (is_done || !step(limit))
            break;
    }
    if (!is_done && done != NULL)
        is_done = done(arg);
    if (!is_done && limit > world.now)
        world.now = limit;
    world.running = false;
    return is_done;
}

void sim_run_until(uint64_t when)
{
    (void)sim_run_while(NULL, NULL, when);
}

/* ---- trace ---- */

bool sim_tracing(void)
{
    return world.trace;
}

static void print_head(void)
{
    printf("%llu.%09llu ", world.now / MR_NS_PER_S, world.now % MR_NS_PER_S);
    if (sim_self() != NULL)
        printf("n%u/%u ", sim_self()->node, sim_self()->number);
    else
        printf("-    ");
}

void sim_mix(const char *what, uint64_t number)
{
    mix(XXH3_64bits(what, strlen(what)) ^ number ^ ((uint64_t)sim_node() << 60));
}

void sim_trace(const char *what, uint64_t number)
{
    sim_mix(what, number);
    if (!world.trace)
        return;
    print_head();
    printf("%s %" PRIu64 "\n", what, number);
}

void sim_tracef(const char *format, ...)
{
    if (!world.trace)
        return;
    va_list args;
    va_start(args, format);
    print_head();
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

/* ---- the end ---- */

void sim_kernel_finish(void)
{
    world.result->events = world.events;
    world.result->trace_hash = world.hash;
    world.result->node_ns = 0;
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node_state *n = sim_node_get(i);
        world.result->node_ns += n->alive_ns + (n->alive ? world.now - n->alive_since : 0);
    }
}

void sim_violation(int invariant, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    struct sim_result *r = world.result;
    r->invariant = invariant;
    (void)vsnprintf(r->what, sizeof(r->what), format, args);
    va_end(args);
    sim_tracef("VIOLATION of invariant %d: %s", invariant, r->what);
    sim_kernel_finish();
    r->finished = true;
    (void)fflush(NULL);
    _exit(2);
}
