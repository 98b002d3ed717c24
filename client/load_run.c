/* Happy path: sessions wake -> take ... take -> NONE -> each session done -> handles closed -> loop ends -> summary.
 * Failure: a journal that cannot be written stops the run: what is not written down was not tested.
 * Signal: the first lets attempts under way end, the second cuts them off. */
#include "client/load_run.h"

#include "client/load_session.h"
#include "client/load_summary.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* A rate that could not be kept for longer than this is not made up for. */
#define PACE_CATCH_UP_NS (100 * MR_NS_PER_MS)

uint64_t load_run_now(void)
{
    return mr_boot_ns(&mr_clock_real);
}

static bool exhausted(const struct load_run *run)
{
    return run->stopping || run->next_number == run->options->messages;
}

static void wake_idle(struct load_run *run)
{
    struct load_session *s = run->idle_first;

    run->idle_first = s->next_idle;
    if (run->idle_first == NULL)
        run->idle_last = NULL;
    s->next_idle = NULL;
    s->parked = false;
    load_session_wake(s);
}

static void on_pace(uv_timer_t *timer);

static void start_pace(struct load_run *run, uint64_t now_ns)
{
    uint64_t wait_ns = run->pace_next_ns > now_ns ? run->pace_next_ns - now_ns : 0;

    if (exhausted(run))
        wait_ns = 0;
    uv_update_time(&run->loop);
    mr_assert(uv_timer_start(&run->pace, on_pace, (wait_ns + MR_NS_PER_MS - 1) / MR_NS_PER_MS, 0) == 0);
}

static void on_pace(uv_timer_t *timer)
{
    struct load_run *run = timer->data;
    uint64_t now = load_run_now();

    while (run->idle_first != NULL && (exhausted(run) || run->pace_next_ns <= now))
        wake_idle(run);
    if (run->idle_first != NULL)
        start_pace(run, now);
}

static void park(struct load_run *run, struct load_session *s)
{
    mr_assert(!s->parked);
    s->parked = true;
    s->next_idle = NULL;
    if (run->idle_last != NULL)
        run->idle_last->next_idle = s;
    else
        run->idle_first = s;
    run->idle_last = s;
}

enum load_turn load_run_take(struct load_run *run, struct load_session *s, uint64_t *number)
{
    if (exhausted(run))
        return LOAD_TURN_NONE;
    if (run->options->rate > 0) {
        uint64_t now = load_run_now();
        if (run->pace_next_ns > now) {
            park(run, s);
            if (!uv_is_active((uv_handle_t *)&run->pace))
                start_pace(run, now);
            return LOAD_TURN_WAIT;
        }
        if (now - run->pace_next_ns > PACE_CATCH_UP_NS)
            run->pace_next_ns = now - PACE_CATCH_UP_NS;
        run->pace_next_ns += (uint64_t)((double)MR_NS_PER_S / run->options->rate);
    }
    *number = run->next_number++;
    return LOAD_TURN_NOW;
}

void load_run_accepted(struct load_run *run, uint64_t dot_ns, uint64_t now_ns, uint64_t bytes)
{
    run->counts.sent++;
    run->counts.bytes += bytes;
    latency_add(&run->latency, now_ns - dot_ns);
    if (run->last_sent_ns != 0 && now_ns - run->last_sent_ns > run->silence_ns)
        run->silence_ns = now_ns - run->last_sent_ns;
    run->last_sent_ns = now_ns;
}

static void stop(struct load_run *run, bool at_once)
{
    run->stopping = true;
    if (run->idle_first != NULL)
        start_pace(run, 0);
    for (size_t i = 0; i < run->session_count; i++)
        load_session_stop(&run->sessions[i], at_once);
}

/* The line in run->line. The stop comes from the tick: here a session is in the middle of its step. */
void load_run_write(struct load_run *run)
{
    if (run->journal_failed || journal_write(run->journal, &run->line) == 0)
        return;
    run->journal_failed = true;
    (void)fprintf(stderr, "mailraft-load: journal: %s\n", strerror(errno));
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct load_run *run = handle->data;

    (void)number;
    stop(run, run->stopping);
}

static void on_tick(uv_timer_t *timer)
{
    struct load_run *run = timer->data;
    uint64_t now = load_run_now();

    for (size_t i = 0; i < run->session_count; i++)
        load_session_check_deadline(&run->sessions[i], now);
    if (run->journal_failed && !run->stopping)
        stop(run, false);
    load_progress(run, now);
}

void load_run_session_done(struct load_run *run)
{
    mr_assert(run->open_sessions > 0);
    if (--run->open_sessions > 0)
        return;
    run->ended_ns = load_run_now();
    uv_close((uv_handle_t *)&run->tick, NULL);
    uv_close((uv_handle_t *)&run->pace, NULL);
    uv_close((uv_handle_t *)&run->interrupt, NULL);
    uv_close((uv_handle_t *)&run->term, NULL);
}

static void init_handles(struct load_run *run)
{
    mr_assert(uv_loop_init(&run->loop) == 0);
    mr_assert(uv_timer_init(&run->loop, &run->tick) == 0);
    mr_assert(uv_timer_init(&run->loop, &run->pace) == 0);
    mr_assert(uv_signal_init(&run->loop, &run->interrupt) == 0);
    mr_assert(uv_signal_init(&run->loop, &run->term) == 0);
    run->tick.data = run;
    run->pace.data = run;
    run->interrupt.data = run;
    run->term.data = run;
    mr_assert(uv_timer_start(&run->tick, on_tick, LOAD_TICK_MS, LOAD_TICK_MS) == 0);
    mr_assert(uv_signal_start(&run->interrupt, on_signal, SIGINT) == 0);
    mr_assert(uv_signal_start(&run->term, on_signal, SIGTERM) == 0);
}

static void raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* The verifier knows from it which keys belong to the run, also those whose attempt a kill kept from being written. */
static void write_begin(struct load_run *run)
{
    const struct load_options *o = run->options;
    char address[SMTP_ADDRESS_MAX + 1] = "";

    if (run->journal == NULL)
        return;
    (void)load_recipient(o->recipient, 0, 0, address);
    journal_line_begin(&run->line, "begin");
    journal_text(&run->line, "key_prefix", o->prefix);
    journal_number(&run->line, "messages", o->messages);
    journal_number(&run->line, "sessions", o->sessions);
    journal_number(&run->line, "size", o->size);
    journal_number(&run->line, "recipients_each", o->recipients);
    journal_text(&run->line, "recipient_pattern", o->recipient);
    journal_text(&run->line, "sender", o->sender);
    journal_number(&run->line, "seed", o->seed);
    load_run_write(run);
}

static void write_end(struct load_run *run)
{
    if (run->journal == NULL)
        return;
    journal_line_begin(&run->line, "end");
    journal_text(&run->line, "key_prefix", run->options->prefix);
    journal_number(&run->line, "accepted", run->counts.accepted);
    journal_number(&run->line, "refused", run->counts.refused);
    journal_number(&run->line, "given_up", run->counts.given_up);
    load_run_write(run);
}

static void run_sessions(struct load_run *run)
{
    const struct load_options *o = run->options;

    run->session_count = (size_t)(o->sessions < o->messages ? o->sessions : o->messages);
    run->open_sessions = run->session_count;
    run->sessions = mr_calloc(run->session_count, sizeof(*run->sessions));
    for (size_t i = 0; i < run->session_count; i++)
        load_session_init(&run->sessions[i], run, (unsigned)i);
    run->started_ns = load_run_now();
    run->pace_next_ns = run->started_ns;
    run->progress_ns = run->started_ns;
    for (size_t i = 0; i < run->session_count; i++)
        load_session_wake(&run->sessions[i]);
    (void)uv_run(&run->loop, UV_RUN_DEFAULT);
    mr_assert(uv_loop_close(&run->loop) == 0);
    for (size_t i = 0; i < run->session_count; i++)
        load_session_free(&run->sessions[i]);
    free(run->sessions);
}

static int finish(struct load_run *run)
{
    FILE *out = run->options->journal != NULL && strcmp(run->options->journal, "-") == 0 ? stderr : stdout;
    struct report report = {0};

    write_end(run);
    load_progress_end(run);
    load_summary(run, &report);
    int rc = report_print(&report, report_form(run->options->json, out), out);
    report_free(&report);
    return rc == 0 && run->counts.accepted == run->options->messages && !run->journal_failed ? 0 : 1;
}

int load_run(const struct load_options *options)
{
    struct load_run *run = mr_calloc(1, sizeof(*run));
    int status = 1;

    run->options = options;
    run->rng = rng_seeded(options->seed, UINT64_MAX - 1);
    (void)signal(SIGPIPE, SIG_IGN);
    raise_descriptors();
    load_text_init(&run->text, options->seed);
    if (options->journal == NULL || journal_open(&run->journal, options->journal) == 0) {
        init_handles(run);
        write_begin(run);
        run_sessions(run);
        status = finish(run);
    } else {
        (void)fprintf(stderr, "mailraft-load: %s: %s\n", options->journal, strerror(errno));
    }
    if (run->journal != NULL)
        journal_close(run->journal);
    journal_line_free(&run->line);
    free(run);
    return status;
}
