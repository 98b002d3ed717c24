/* Happy path: start (fork; the child is a world) -> SIGCHLD -> collect -> totals -> the next seed.
 * A child that ends in any other way than by its result is a finding: a signal, a sanitizer's exit, a limit. */
#include "chaos-tests/sim/sim_runner.h"

#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct job {
    pid_t pid; /* 0: free */
    struct sim_options options;
    struct sim_result *result; /* shared with the child */
    FILE *said;                /* its stderr */
    uint64_t first_hash;       /* of the first of two runs */
    bool second;
};

struct run {
    const struct run_wishes *wishes;
    struct run_totals totals;
    struct job jobs[RUN_MAX_JOBS];
    uint64_t next; /* seed */
    bool stopping;
    double began;
};

/* ---- the child ---- */

static void set_limit(int what, rlim_t value)
{
    struct rlimit limit = {value, value};
    (void)setrlimit((__rlimit_resource_t)what, &limit);
}

__attribute__((noreturn)) static void be_world(const struct run_wishes *wishes, struct job *job, const sigset_t *mask)
{
    int said = fileno(job->said);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_limit(RLIMIT_CORE, 0);
    /* Memory that was free once is needed again: asking the system each time costs a tenth of the speed. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 28);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    (void)mallopt(M_TOP_PAD, 4 << 20);
    set_limit(RLIMIT_CPU, wishes->cpu_limit_s);
    (void)alarm(wishes->cpu_limit_s * 4 + 30);
    if (!job->options.trace)
        (void)dup2(said, STDOUT_FILENO);
    (void)dup2(said, STDERR_FILENO);
    (void)sigprocmask(SIG_SETMASK, mask, NULL);
    sim_kernel_init(&job->options, job->result);
    sim_world_run(&job->options, job->result);
    sim_kernel_finish();
    job->result->finished = true;
    (void)fflush(NULL);
    _exit(0);
}

static void start(const struct run_wishes *wishes, struct job *job, const struct sim_options *options)
{
    sigset_t none;
    sigemptyset(&none);
    if (job->result == NULL) {
        job->result = mmap(NULL, sizeof(*job->result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        job->said = tmpfile();
    }
    if (job->result == MAP_FAILED || job->said == NULL) {
        perror("mailraft-sim");
        exit(70);
    }
    job->options = *options;
    memset(job->result, 0, sizeof(*job->result));
    (void)ftruncate(fileno(job->said), 0);
    (void)lseek(fileno(job->said), 0, SEEK_SET);
    (void)fflush(NULL);
    job->pid = fork();
    if (job->pid < 0) {
        perror("mailraft-sim: fork");
        exit(70);
    }
    if (job->pid == 0)
        be_world(wishes, job, &none);
}

/* ---- what came of it ---- */

static void read_tail(const struct job *job, char *out)
{
    off_t size = lseek(fileno(job->said), 0, SEEK_END);
    off_t from = size > RUN_TAIL - 1 ? size - (RUN_TAIL - 1) : 0;
    ssize_t n = pread(fileno(job->said), out, RUN_TAIL - 1, from);
    out[n > 0 ? n : 0] = 0;
}

/* A sanitizer's first line says most. */
static void describe_crash(struct sim_result *r, const char *tail, int status)
{
    const char *line = strstr(tail, "ERROR: ");
    if (line == NULL)
        line = strstr(tail, "runtime error: ");
    int n = line == NULL ? 0 : (int)strcspn(line, "\n");
    if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGALRM)) {
        r->invariant = SIM_STUCK;
        (void)snprintf(r->what, sizeof(r->what), "its limit of CPU time was used up");
    } else if (WIFSIGNALED(status)) {
        r->invariant = SIM_CRASHED;
        (void)snprintf(r->what, sizeof(r->what), "the process ended by signal %d (%s) %.*s", WTERMSIG(status),
                       strsignal(WTERMSIG(status)), n, n > 0 ? line : "");
    } else {
        r->invariant = SIM_CRASHED;
        (void)snprintf(r->what, sizeof(r->what), "the process ended with status %d %.*s", WEXITSTATUS(status), n,
                       n > 0 ? line : "");
    }
}

static void collect(struct job *job, int status, struct run_outcome *out)
{
    out->options = job->options;
    out->result = *job->result;
    out->tail[0] = 0;
    job->pid = 0;
    if (!job->result->finished || (WIFEXITED(status) && WEXITSTATUS(status) != 0 && out->result.invariant == 0)) {
        read_tail(job, out->tail);
        describe_crash(&out->result, out->tail, status);
    } else if (out->result.invariant != 0) {
        read_tail(job, out->tail);
    }
}

void sim_run_one(const struct run_wishes *wishes, const struct sim_options *options, struct run_outcome *out)
{
    static struct job job;
    int status = 0;
    start(wishes, &job, options);
    while (waitpid(job.pid, &status, 0) < 0 && errno == EINTR)
        ;
    collect(&job, status, out);
}

/* ---- many ---- */

static void add(struct run_totals *t, const struct sim_result *r)
{
    t->seeds++;
    t->node_ns += r->node_ns;
    t->events += r->events;
    t->faults += r->faults;
    t->submitted += r->submitted;
    t->accepted += r->accepted;
    t->delivered += r->delivered;
    t->bounced += r->bounced;
    t->duplicated += r->duplicated;
    t->in_doubt += r->in_doubt;
    t->crashes += r->crashes;
    t->power_cuts += r->power_cuts;
    t->pauses += r->pauses;
    t->cuts += r->cuts;
    t->leaders += r->leaders;
    t->snapshots += r->snapshots;
    sim_seen_add(t, r);
}

static void finding(struct run *run, const struct run_outcome *o)
{
    run->totals.findings++;
    sim_report_finding(run->wishes, o, false);
    if (run->wishes->shrink && o->result.invariant != SIM_DIVERGED) {
        struct run_outcome smallest;
        sim_shrink(run->wishes, o, &smallest);
        sim_report_finding(run->wishes, &smallest, true);
    }
    if (run->wishes->stop)
        run->stopping = true;
}

/* False: the job goes on with its second run. */
static bool ended(struct run *run, struct job *job, struct run_outcome *o)
{
    if (run->wishes->twice && !job->second && o->result.invariant == 0) {
        job->first_hash = o->result.trace_hash;
        job->second = true;
        start(run->wishes, job, &job->options);
        return false;
    }
    if (job->second && o->result.invariant == 0 && o->result.trace_hash != job->first_hash) {
        o->result.invariant = SIM_DIVERGED;
        (void)snprintf(o->result.what, sizeof(o->result.what), "two runs of the seed differ");
    }
    add(&run->totals, &o->result);
    if (run->wishes->sums)
        printf("sum %" PRIu64 " %016" PRIx64 "\n", o->options.seed, o->result.trace_hash);
    if (o->result.invariant != 0)
        finding(run, o);
    return true;
}

static unsigned reap(struct run *run)
{
    unsigned busy = 0;
    for (unsigned i = 0; i < run->wishes->jobs; i++) {
        struct job *job = &run->jobs[i];
        struct run_outcome o;
        int status;
        if (job->pid == 0)
            continue;
        if (waitpid(job->pid, &status, WNOHANG) == job->pid) {
            collect(job, status, &o);
            busy += ended(run, job, &o) ? 0 : 1;
        } else {
            busy++;
        }
    }
    return busy;
}

static bool more(const struct run *run)
{
    return !run->stopping && run->next <= run->wishes->last;
}

static void fill(struct run *run)
{
    for (unsigned i = 0; i < run->wishes->jobs; i++) {
        struct job *job = &run->jobs[i];
        if (job->pid != 0 || !more(run))
            continue;
        struct sim_options options = run->wishes->options;
        options.seed = run->next++;
        job->second = false;
        start(run->wishes, job, &options);
    }
}

static void kill_all(struct run *run)
{
    for (unsigned i = 0; i < run->wishes->jobs; i++)
        if (run->jobs[i].pid != 0)
            (void)kill(run->jobs[i].pid, SIGKILL);
}

static void watch_time(struct run *run)
{
    double minutes = run->wishes->minutes;
    if (minutes > 0 && sim_real_seconds() - run->began > minutes * 60)
        run->stopping = true;
    struct rusage usage;
    (void)getrusage(RUSAGE_CHILDREN, &usage);
    run->totals.cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                        (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    run->totals.wall_s = sim_real_seconds() - run->began;
}

int sim_run_seeds(const struct run_wishes *wishes)
{
    struct run *run = mr_calloc(1, sizeof(*run));
    sigset_t signals;
    run->wishes = wishes;
    run->next = wishes->first;
    run->began = sim_real_seconds();
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    for (;;) {
        fill(run);
        if (reap(run) == 0 && !more(run))
            break;
        struct timespec wait = {0, 250000000};
        int signal = sigtimedwait(&signals, NULL, &wait);
        if (signal == SIGINT || signal == SIGTERM) {
            kill_all(run);
            run->stopping = true;
            break;
        }
        watch_time(run);
        sim_report_progress(wishes, &run->totals, run->next);
    }
    watch_time(run);
    sim_report_summary(wishes, &run->totals);
    int status = run->totals.findings > 0 ? 1 : 0;
    free(run);
    return status;
}
