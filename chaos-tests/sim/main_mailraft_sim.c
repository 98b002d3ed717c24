/* mailraft-sim: clusters of mailraft in one process each, over simulated machines, with faults by a seed. */
#include "chaos-tests/sim/sim_runner.h"

#include "proto/base/mutation.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <unistd.h>

static const char usage[] =
    "usage: mailraft-sim [OPTION...]\n"
    "\n"
    "Runs clusters of mailraft over simulated time, network, disks, clients and next hops, with faults by the seed,\n"
    "and checks that no message is lost, invented or altered and that the cluster recovers. A seed replays exactly.\n"
    "\n"
    "What to run:\n"
    "  --seeds A..B        these seeds (default 1..1000)\n"
    "  --seed N            this one\n"
    "  --jobs N            so many at once (default: the machine's processors)\n"
    "  --minutes M         start no seed after so many minutes of real time\n"
    "  --twice             each seed two times; they must agree\n"
    "  --stop              stop at the first finding\n"
    "  --cpu-limit S       of one seed, in seconds of CPU time (default 300); more is a finding\n"
    "  --mutation NAME     with this deliberate fault (builds with MAILRAFT_MUTATIONS); 'list' names them\n"
    "\n"
    "What each seed is (default: as the seed says):\n"
    "  --nodes N           3, 5 or 7\n"
    "  --seconds S         of load and faults, in simulated time\n"
    "  --faults N          only the first N faults of the plan\n"
    "  --without BITS      leave out fault i of the plan where bit i is set\n"
    "  --messages N        at most so many messages\n"
    "\n"
    "What to tell:\n"
    "  --trace             a line for each event, on stdout (one seed only)\n"
    "  --shrink            for each finding, look for the smallest run that still shows it\n"
    "  --json              findings and summary as JSON, a line each\n"
    "  --sums              a line for each seed with its sum over all events: builds that run alike have the same\n"
    "  --seen              a table of log events, faults and ends of nodes: how often, in how many seeds\n"
    "  --quiet             no line of progress\n"
    "\n"
    "A machine hour is an hour of one node in simulated time: the sum over the nodes, without the time that each was\n"
    "dead. CPU minutes are user and system time of all seeds' processes (getrusage), load and waits do not count.\n"
    "\n"
    "Exit status: 0 nothing found, 1 something found, 64 wrong usage.\n";

__attribute__((noreturn)) static void wrong(const char *what, const char *value)
{
    (void)fprintf(stderr, "mailraft-sim: %s: %s\n%s", what, value, usage);
    exit(64);
}

static uint64_t number(const char *name, const char *text)
{
    char *end;
    errno = 0;
    uint64_t n = strtoull(text, &end, 0);
    if (errno != 0 || end == text || *end != 0 || *text == '-')
        wrong(name, text);
    return n;
}

static void parse_seeds(struct run_wishes *w, const char *text)
{
    char *end;
    w->first = w->last = strtoull(text, &end, 10);
    if (strncmp(end, "..", 2) == 0) {
        w->last = strtoull(end + 2, &end, 10);
    }
    if (*text < '0' || *text > '9' || *end != 0 || w->last < w->first)
        wrong("--seeds takes A..B", text);
}

#ifdef MAILRAFT_MUTATIONS
static void set_mutation(const char *name)
{
#define MUTATION(id, its_name, text)                                                                                   \
    if (strcmp(name, "list") == 0)                                                                                     \
        printf("%-20s %s\n", its_name, text);                                                                          \
    else if (strcmp(name, its_name) == 0)                                                                              \
        mr_mutation = id;
    MR_MUTATION_MAP(MUTATION)
#undef MUTATION
    if (strcmp(name, "list") == 0)
        exit(0);
    if (mr_mutation == MUTANT_NONE)
        wrong("unknown mutation", name);
}
#else
static void set_mutation(const char *name)
{
    wrong("built without MAILRAFT_MUTATIONS", name);
}
#endif

static const struct option options[] = {{"seeds", required_argument, NULL, 'S'},
                                        {"seed", required_argument, NULL, 's'},
                                        {"jobs", required_argument, NULL, 'j'},
                                        {"minutes", required_argument, NULL, 'm'},
                                        {"twice", no_argument, NULL, '2'},
                                        {"stop", no_argument, NULL, 'x'},
                                        {"cpu-limit", required_argument, NULL, 'c'},
                                        {"mutation", required_argument, NULL, 'M'},
                                        {"nodes", required_argument, NULL, 'n'},
                                        {"seconds", required_argument, NULL, 't'},
                                        {"faults", required_argument, NULL, 'f'},
                                        {"without", required_argument, NULL, 'w'},
                                        {"messages", required_argument, NULL, 'N'},
                                        {"trace", no_argument, NULL, 'T'},
                                        {"shrink", no_argument, NULL, 'k'},
                                        {"json", no_argument, NULL, 'J'},
                                        {"seen", no_argument, NULL, 'e'},
                                        {"sums", no_argument, NULL, 'H'},
                                        {"quiet", no_argument, NULL, 'q'},
                                        {"help", no_argument, NULL, 'h'},
                                        {NULL, 0, NULL, 0}};

static void set_world(struct run_wishes *w, int option, const char *value)
{
    switch (option) {
    case 'n':
        w->options.nodes = (unsigned)number("--nodes", value);
        if (w->options.nodes > SIM_MAX_NODES)
            wrong("--nodes", value);
        break;
    case 't':
        w->options.seconds = number("--seconds", value);
        break;
    case 'f':
        w->options.faults_max = number("--faults", value);
        break;
    case 'w':
        w->options.faults_off = number("--without", value);
        break;
    case 'N':
        w->options.messages_max = number("--messages", value);
        break;
    case 'T':
        w->options.trace = true;
        break;
    default:
        (void)fputs(usage, stderr);
        exit(64);
    }
}

static void set(struct run_wishes *w, int option, const char *value)
{
    switch (option) {
    case 'S':
    case 's':
        parse_seeds(w, value);
        break;
    case 'j':
        w->jobs = (unsigned)number("--jobs", value);
        if (w->jobs < 1 || w->jobs > RUN_MAX_JOBS)
            wrong("--jobs", value);
        break;
    case 'm':
        w->minutes = strtod(value, NULL);
        break;
    case '2':
        w->twice = true;
        break;
    case 'x':
        w->stop = true;
        break;
    case 'c':
        w->cpu_limit_s = (unsigned)number("--cpu-limit", value);
        break;
    case 'M':
        set_mutation(value);
        w->mutation = value;
        break;
    case 'k':
        w->shrink = true;
        break;
    case 'J':
        w->json = true;
        break;
    case 'e':
        w->seen = true;
        break;
    case 'H':
        w->sums = true;
        break;
    case 'q':
        w->quiet = true;
        break;
    case 'h':
        (void)fputs(usage, stdout);
        exit(0);
    default:
        set_world(w, option, value);
    }
}

/* Addresses that change from run to run could change what a run does (an order by pointers, a hash of one). */
static void fix_addresses(char **argv)
{
    int persona = personality(0xffffffff);
    if (persona == -1 || (persona & ADDR_NO_RANDOMIZE) != 0 ||
        personality((unsigned long)persona | ADDR_NO_RANDOMIZE) == -1)
        return; /* where a container forbids it, runs are still alike in all that matters */
    (void)execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    struct run_wishes w = {.first = 1, .last = 1000, .cpu_limit_s = 300, .program = argv[0]};
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    fix_addresses(argv);
    w.jobs = processors < 1 ? 1 : processors > RUN_MAX_JOBS ? RUN_MAX_JOBS : (unsigned)processors;
    w.options.faults_max = UINT64_MAX;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        set(&w, option, optarg);
    if (optind < argc)
        wrong("unknown argument", argv[optind]);
    if (w.options.trace) {
        if (w.first != w.last)
            wrong("--trace takes one seed", "--seed");
        w.quiet = true;
        (void)setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    }
    return sim_run_seeds(&w);
}
