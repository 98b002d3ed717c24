/* Progress for people, numbers for the end. */
#include "client/load_summary.h"

#include "proto/base/clock.h"

#include <stdio.h>
#include <unistd.h>

static double seconds(uint64_t ns)
{
    return (double)ns / (double)MR_NS_PER_S;
}

static uint64_t finished(const struct load_run *run)
{
    return run->counts.accepted + run->counts.refused + run->counts.given_up;
}

void load_progress(struct load_run *run, uint64_t now_ns)
{
    const uint64_t total = run->options->messages;
    const uint64_t ended = finished(run);
    const uint64_t refused = run->counts.temporary + run->counts.permanent;
    const uint64_t broken = run->counts.broken + run->counts.indeterminate;

    if (run->options->quiet || !isatty(STDERR_FILENO) || now_ns - run->progress_ns < MR_NS_PER_S / 2)
        return;
    double rate = (double)(run->counts.sent - run->progress_sent) / seconds(now_ns - run->progress_ns);
    double mean = (double)ended / seconds(now_ns - run->started_ns);
    run->progress_ns = now_ns;
    run->progress_sent = run->counts.sent;
    (void)fprintf(stderr, "\r%llu of %llu  %.1f %%  %.0f/s", (unsigned long long)ended, (unsigned long long)total,
                  100.0 * (double)ended / (double)total, rate);
    if (mean > 0)
        (void)fprintf(stderr, "  %.0f s left", (double)(total - ended) / mean);
    (void)fprintf(stderr, "  refused %llu  broken %llu\033[K", (unsigned long long)refused, (unsigned long long)broken);
    (void)fflush(stderr);
}

void load_progress_end(struct load_run *run)
{
    if (!run->options->quiet && isatty(STDERR_FILENO))
        (void)fputs("\r\033[K", stderr);
}

static double milliseconds(uint64_t ns)
{
    return (double)ns / 1e6;
}

void load_summary(const struct load_run *run, struct report *report)
{
    const struct load_counts *c = &run->counts;
    double took = seconds(run->ended_ns - run->started_ns);

    report_count(report, "messages", run->options->messages);
    report_count(report, "accepted", c->accepted);
    report_count(report, "refused", c->refused);
    report_count(report, "given_up", c->given_up);
    report_count(report, "unsent", run->options->messages - finished(run));
    report_count(report, "attempts_sent", c->sent);
    report_count(report, "attempts_refused_4xx", c->temporary);
    report_count(report, "attempts_refused_5xx", c->permanent);
    report_count(report, "broken", c->broken);
    report_count(report, "indeterminate", c->indeterminate);
    report_real(report, "seconds", took, 3);
    report_real(report, "messages_per_s", took > 0 ? (double)c->sent / took : 0, 1);
    report_real(report, "mb_per_s", took > 0 ? (double)c->bytes / 1e6 / took : 0, 2);
    report_real(report, "p50_ms", milliseconds(latency_percentile(&run->latency, 0.5)), 2);
    report_real(report, "p90_ms", milliseconds(latency_percentile(&run->latency, 0.9)), 2);
    report_real(report, "p99_ms", milliseconds(latency_percentile(&run->latency, 0.99)), 2);
    report_real(report, "max_ms", milliseconds(run->latency.max), 2);
    report_real(report, "longest_silence_s", seconds(run->silence_ns), 3);
    report_count(report, "seed", run->options->seed);
    report_text(report, "key_prefix", run->options->prefix);
}
