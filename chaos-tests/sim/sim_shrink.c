/* Shrinking: the same violation with less of everything. The plan's faults are numbered, so that leaving one out
 * changes no other; what is tried in the end (shorter, fewer nodes) is another world, in which the violation may be
 * gone. */
#include "chaos-tests/sim/sim_runner.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct shrink {
    const struct run_wishes *wishes;
    struct run_outcome *best;
    unsigned tries;
};

static bool try_with(struct shrink *s, struct sim_options options)
{
    struct run_outcome o;
    s->tries++;
    sim_run_one(s->wishes, &options, &o);
    if (isatty(STDERR_FILENO) && !s->wishes->quiet)
        (void)fprintf(stderr, "\rshrinking: %u tries\033[K", s->tries);
    if (o.result.invariant != s->best->result.invariant)
        return false;
    *s->best = o;
    return true;
}

static void fewer_faults(struct shrink *s)
{
    uint64_t low = 0, high = s->best->options.faults_max;
    if (high > s->best->result.faults)
        high = s->best->result.faults;
    while (low < high) {
        struct sim_options o = s->best->options;
        o.faults_max = low + (high - low) / 2;
        if (try_with(s, o))
            high = o.faults_max;
        else
            low = o.faults_max + 1;
    }
    for (uint64_t i = 0; i < high && i < 64; i++) {
        struct sim_options o = s->best->options;
        o.faults_max = high;
        o.faults_off |= 1ULL << i;
        if (o.faults_off != s->best->options.faults_off)
            (void)try_with(s, o);
    }
}

static void fewer_messages(struct shrink *s)
{
    uint64_t low = 1, high = s->best->result.submitted;
    while (low < high) {
        struct sim_options o = s->best->options;
        o.messages_max = low + (high - low) / 2;
        if (try_with(s, o))
            high = o.messages_max;
        else
            low = o.messages_max + 1;
    }
}

static void shorter(struct shrink *s)
{
    static const uint64_t seconds[] = {5, 10, 20, 30, 60, 120, 300};
    for (size_t i = 0; i < sizeof(seconds) / sizeof(seconds[0]); i++) {
        struct sim_options o = s->best->options;
        if (o.seconds != 0 && o.seconds <= seconds[i])
            return;
        o.seconds = seconds[i];
        if (try_with(s, o))
            return;
    }
}

static void fewer_nodes(struct shrink *s)
{
    for (unsigned nodes = 3; nodes <= 5; nodes += 2) {
        struct sim_options o = s->best->options;
        if (o.nodes != 0 && o.nodes <= nodes)
            return;
        o.nodes = nodes;
        if (try_with(s, o))
            return;
    }
}

void sim_shrink(const struct run_wishes *wishes, const struct run_outcome *found, struct run_outcome *smallest)
{
    struct shrink s = {wishes, smallest, 0};
    *smallest = *found;
    fewer_nodes(&s);
    shorter(&s);
    fewer_faults(&s);
    fewer_messages(&s);
    if (isatty(STDERR_FILENO) && !wishes->quiet)
        (void)fprintf(stderr, "\r\033[K");
}
