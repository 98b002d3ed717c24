/* What the demo says: lines with the time, a progress that stays in its place, the table at the end. */
#include "client/ctl_demo_internal.h"

#include "client/ctl_table.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"

#include <inttypes.h>
#include <stdarg.h>

enum { TERMINAL_EVERY_MS = 100, PIPE_EVERY_MS = 2000 };

static double elapsed(const struct demo *d, uint64_t now)
{
    return (double)(now - d->started_ns) / (double)MR_NS_PER_S;
}

void demo_say(struct demo *d, const char *format, ...)
{
    va_list args;

    (void)fprintf(d->out, "%s%6.1f s  ", d->line_open ? "\r\033[K" : "", elapsed(d, mr_boot_ns(&mr_clock_real)));
    d->line_open = false;
    va_start(args, format);
    (void)vfprintf(d->out, format, args);
    va_end(args);
    (void)fputc('\n', d->out);
    (void)fflush(d->out);
}

void demo_progress(struct demo *d)
{
    uint64_t now = mr_boot_ns(&mr_clock_real);
    uint64_t every = (d->terminal ? TERMINAL_EVERY_MS : PIPE_EVERY_MS) * MR_NS_PER_MS;
    char name[32] = "";

    if (now - d->told_ns < every)
        return;
    double rate = (double)(d->accepted - d->told_accepted) / ((double)(now - d->told_ns) / (double)MR_NS_PER_S);
    d->told_ns = now;
    d->told_accepted = d->accepted;
    if (d->dead != NULL && !child_running(&d->dead->process))
        (void)snprintf(name, sizeof(name), "  %s is dead", d->dead->name);
    (void)fprintf(d->out,
                  "%s%6.1f s  accepted %" PRIu64 " of %" PRIu64 " (%.0f/s)  delivered %" PRIu64 "  remaining %" PRIu64
                  "%s%s",
                  d->terminal ? "\r" : "", elapsed(d, now), d->accepted, d->options->messages, rate, d->delivered,
                  d->options->messages > d->delivered ? d->options->messages - d->delivered : 0, name,
                  d->terminal ? "\033[K" : "\n");
    d->line_open = d->terminal;
    (void)fflush(d->out);
}

static void verdict(struct demo *d, bool good)
{
    bool colours;

    (void)ctl_terminal(stdout, &colours);
    (void)printf("%s%s%s\n",
                 !colours ? ""
                 : good   ? "\033[32m"
                          : "\033[31m",
                 !good                       ? "The promise was not kept, or not all was accepted."
                 : d->result.duplicated == 0 ? "Nothing lost, nothing altered, nothing doubled by the cluster."
                                             : "Nothing lost, nothing altered.",
                 colours ? "\033[0m" : "");
    if (d->result.duplicated > 0)
        (void)printf("Duplicated: a node died between the final dot and the next hop's answer, which the cluster "
                     "counts\nas in doubt.\n");
    if (d->result.resent > 0)
        (void)printf("Sent again by the client: the leader died before it could answer, and then both copies count.\n");
}

int demo_print_result(struct demo *d)
{
    struct report report = {0};
    bool good = d->result.accepted == d->options->messages && d->result.lost == 0 && d->result.altered == 0 &&
                d->result.invented == 0;

    report_count(&report, "messages", d->options->messages);
    report_count(&report, "accepted", d->result.accepted);
    report_count(&report, "delivered", d->result.delivered);
    report_count(&report, "lost", d->result.lost);
    report_count(&report, "altered", d->result.altered);
    report_count(&report, "invented", d->result.invented);
    report_count(&report, "duplicated", d->result.duplicated);
    report_count(&report, "sent_again_by_client", d->result.resent);
    report_count(&report, "in_doubt", d->result.in_doubt);
    if (d->dead != NULL)
        report_text(&report, "killed", d->dead->name);
    if (d->result.accepting_after >= 0)
        report_real(&report, "accepting_again_after_s", d->result.accepting_after, 3);
    if (d->taken_over_after >= 0)
        report_real(&report, "deliveries_taken_over_after_s", d->taken_over_after, 3);
    (void)fflush(d->out);
    if (!d->json)
        (void)fputc('\n', stdout);
    int rc = report_print(&report, report_form(d->json, stdout), stdout);
    report_free(&report);
    if (!d->json) {
        (void)fputc('\n', stdout);
        verdict(d, good);
    }
    if (!good)
        d->keep = true;
    return rc == 0 && good ? 0 : MR_REFUSED;
}
