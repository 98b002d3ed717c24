/* What the worlds of a run have seen, as a table: what stays at 0 or is missing, the faults do not reach. */
#include "chaos-tests/sim/sim_runner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sim_seen_add(struct run_totals *t, const struct sim_result *r)
{
    for (unsigned i = 0; i < r->n_seen; i++) {
        unsigned at = 0;
        while (at < t->n_seen && strcmp(t->seen[at].sum.name, r->seen[i].name) != 0)
            at++;
        if (at == SIM_SEEN_MAX)
            continue;
        if (at == t->n_seen)
            t->seen[t->n_seen++].sum = (struct sim_seen){0};
        memcpy(t->seen[at].sum.name, r->seen[i].name, SIM_SEEN_NAME);
        t->seen[at].sum.count += r->seen[i].count;
        t->seen[at].seeds++;
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct seen_total *)a)->sum.name, ((const struct seen_total *)b)->sum.name);
}

void sim_seen_print(const struct run_totals *t)
{
    struct seen_total sorted[SIM_SEEN_MAX];
    memcpy(sorted, t->seen, sizeof(sorted));
    qsort(sorted, t->n_seen, sizeof(*sorted), by_name);
    printf("%-40s %10s %10s\n", "seen", "times", "in seeds");
    for (unsigned i = 0; i < t->n_seen; i++)
        printf("%-40s %10" PRIu64 " %10" PRIu64 "\n", sorted[i].sum.name, sorted[i].sum.count, sorted[i].seeds);
}
