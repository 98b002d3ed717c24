/* What the runner tells: a line of progress on a terminal, findings with the command that replays them, a summary. */
#include "chaos-tests/sim/sim_runner.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int __real_clock_gettime(clockid_t clock, struct timespec *t);

double sim_real_seconds(void)
{
    struct timespec t;
    (void)__real_clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double hours(const struct run_totals *t)
{
    return (double)t->node_ns / 3.6e12;
}

static double hours_a_minute(const struct run_totals *t)
{
    return t->cpu_s > 0 ? hours(t) * 60 / t->cpu_s : 0;
}

void sim_report_progress(const struct run_wishes *w, const struct run_totals *t, uint64_t next)
{
    static double last;
    double now = sim_real_seconds();
    if (w->quiet || w->json || !isatty(STDERR_FILENO) || now - last < 0.5)
        return;
    last = now;
    (void)fprintf(stderr,
                  "\r%" PRIu64 " seeds (at %" PRIu64 ")  %.0f s  %.1f machine hours, %.1f a CPU minute  %" PRIu64
                  " findings\033[K",
                  t->seeds, next, t->wall_s, hours(t), hours_a_minute(t), t->findings);
}

static void clear_line(const struct run_wishes *w)
{
    if (!w->quiet && !w->json && isatty(STDERR_FILENO))
        (void)fprintf(stderr, "\r\033[K");
}

static const char *name_of(int invariant, char *text, size_t room)
{
    switch (invariant) {
    case SIM_PANIC:
        return "panic";
    case SIM_STUCK:
        return "stuck";
    case SIM_LIMITS:
        return "limits";
    case SIM_CRASHED:
        return "crash of the simulation";
    case SIM_DIVERGED:
        return "divergence";
    default:
        (void)snprintf(text, room, "invariant %d", invariant);
        return text;
    }
}

static size_t add_option(char *out, size_t room, size_t n, const char *name, uint64_t value)
{
    int m = n < room ? snprintf(out + n, room - n, " --%s %" PRIu64, name, value) : 0;
    return n + (size_t)(m > 0 ? m : 0);
}

void sim_command(const struct run_wishes *w, const struct sim_options *o, char *out, size_t room)
{
    int m = snprintf(out, room, "%s --seed %" PRIu64, w->program, o->seed);
    size_t n = m > 0 ? (size_t)m : 0;
    if (o->nodes != 0)
        n = add_option(out, room, n, "nodes", o->nodes);
    if (o->seconds != 0)
        n = add_option(out, room, n, "seconds", o->seconds);
    if (o->faults_max != UINT64_MAX)
        n = add_option(out, room, n, "faults", o->faults_max);
    if (o->faults_off != 0)
        n = add_option(out, room, n, "without", o->faults_off);
    if (o->messages_max != 0)
        n = add_option(out, room, n, "messages", o->messages_max);
    if (w->mutation != NULL && n < room)
        (void)snprintf(out + n, room - n, " --mutation %s", w->mutation);
}

static json_t *finding_object(const struct run_wishes *w, const struct run_outcome *o, bool shrunk)
{
    char command[400];
    sim_command(w, &o->options, command, sizeof(command));
    json_t *object = json_pack("{s:s, s:I, s:i, s:b, s:s}", "kind", "finding", "seed", (json_int_t)o->options.seed,
                               "invariant", o->result.invariant, "shrunk", (int)shrunk, "replay", command);
    json_t *what = json_string(o->result.what);
    if (object != NULL && what != NULL)
        json_object_set_new(object, "what", what);
    return object;
}

static void print_json(json_t *object)
{
    if (object != NULL) {
        (void)json_dumpf(object, stdout, JSON_COMPACT);
        (void)putchar('\n');
        (void)fflush(stdout);
        json_decref(object);
    }
}

void sim_report_finding(const struct run_wishes *w, const struct run_outcome *o, bool shrunk)
{
    char command[400], text[40];
    clear_line(w);
    if (w->json) {
        print_json(finding_object(w, o, shrunk));
        return;
    }
    sim_command(w, &o->options, command, sizeof(command));
    printf("%s %" PRIu64 ": %s: %s\n    %s --trace\n", shrunk ? "smallest, seed" : "seed", o->options.seed,
           name_of(o->result.invariant, text, sizeof(text)), o->result.what, command);
    if (o->tail[0] != 0 && !shrunk) {
        const char *at = o->tail;
        while (*at != 0) {
            size_t n = strcspn(at, "\n");
            printf("    | %.*s\n", (int)n, at);
            at += n + (at[n] == '\n' ? 1 : 0);
        }
    }
    (void)fflush(stdout);
}

static const struct total {
    const char *name, *key;
    size_t offset;
} counted[] = {
#define TOTAL(name, field)                                                                                             \
    {                                                                                                                  \
        name, #field, offsetof(struct run_totals, field)                                                               \
    }
    TOTAL("steps", events),          TOTAL("faults in plans", faults), TOTAL("submitted", submitted),
    TOTAL("accepted", accepted),     TOTAL("delivered", delivered),    TOTAL("bounced", bounced),
    TOTAL("duplicated", duplicated), TOTAL("in doubt", in_doubt),      TOTAL("crashes", crashes),
    TOTAL("power cuts", power_cuts), TOTAL("pauses", pauses),          TOTAL("links cut", cuts),
    TOTAL("leaders", leaders),       TOTAL("snapshots", snapshots),
#undef TOTAL
};

static uint64_t value_of(const struct run_totals *t, const struct total *c)
{
    uint64_t v;
    memcpy(&v, (const char *)t + c->offset, sizeof(v));
    return v;
}

static void summary_json(const struct run_totals *t)
{
    json_t *object = json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f}", "kind", "summary", "seeds", (json_int_t)t->seeds,
                               "findings", (json_int_t)t->findings, "machine_hours", hours(t), "hours_a_cpu_minute",
                               hours_a_minute(t), "cpu_s", t->cpu_s, "wall_s", t->wall_s);
    for (size_t i = 0; object != NULL && i < sizeof(counted) / sizeof(counted[0]); i++)
        json_object_set_new(object, counted[i].key, json_integer((json_int_t)value_of(t, &counted[i])));
    print_json(object);
}

void sim_report_summary(const struct run_wishes *w, const struct run_totals *t)
{
    clear_line(w);
    if (w->json) {
        summary_json(t);
        return;
    }
    printf("%" PRIu64 " seeds, %" PRIu64 " findings, in %.1f s (%.1f s of CPU)\n", t->seeds, t->findings, t->wall_s,
           t->cpu_s);
    printf("%.2f machine hours, %.2f a CPU minute\n", hours(t), hours_a_minute(t));
    for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++)
        printf("%s%s %" PRIu64, i == 0 ? "" : ", ", counted[i].name, value_of(t, &counted[i]));
    printf("\n");
    if (w->seen)
        sim_seen_print(t);
}
