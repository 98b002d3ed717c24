/* getopt_long; each value is checked where it is read. */
#include "client/sink_options.h"

#include "client/options.h"
#include "proto/base/error.h"
#include "proto/base/id.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "Usage: mailraft-sink --listen HOST:PORT [options]\n"
    "A next hop for tests: takes mail by SMTP or LMTP and writes down what it answered 250.\n"
    "\n"
    "  --listen HOST:PORT   where to listen; port 0 lets the system choose\n"
    "  --journal FILE       append one JSON line for each message, before its 250 (- is standard output)\n"
    "  --fault SPEC         misbehave; see below\n"
    "  --lmtp               speak LMTP: one answer for each recipient after the dot\n"
    "  --port-file FILE     write the port there once it listens\n"
    "  --ready-fd N         write the port and a line end to descriptor N once it listens, then close it\n"
    "  --stats-file FILE    write the counters there every second, as JSON, replacing the file as a whole\n"
    "  --keep-bodies DIR    keep each recorded message as DIR/CONNECTION-NUMBER.eml\n"
    "  --max-size BYTES     largest message (default 1 GiB)\n"
    "  --max-connections N  answer 421 above (default 10000)\n"
    "  --json               print the final counters as JSON\n"
    "  --quiet              print no final counters\n"
    "  --help, --version\n"
    "\n"
    "Faults, separated by commas; RATE is 0..1 or 5%, and 1 when left out:\n"
    "  stall@VERB=SECONDS[:RATE]  wait before the answer\n"
    "  refuse@VERB=CODE[:RATE]    answer CODE (400..599)\n"
    "  drop@VERB[:RATE]           close the connection without an answer; at the dot: nothing is recorded\n"
    "  lie@dot[:RATE]             record the message, then close without an answer\n"
    "  accept-drop@dot[:RATE]     record, answer 250, then close\n"
    "  seed=N                     repeat the dice of an earlier run\n"
    "VERB is connect, ehlo, mail, rcpt, data, body (within the message), dot or quit.\n"
    "\n"
    "Journal members: time (Unix seconds), event, key (X-Load-Key), sum_ok, sum (XXH3-128 of the body), size (of the\n"
    "body), message_size, message_id (of a Received header), session, connection, peer, sender, recipients (those\n"
    "answered 250), replied (false: no answer was given on purpose), bare_lf, bare_cr; for a bounce dsn, "
    "original_key,\n"
    "original_id, reports. Event \"received\" is a message; \"connections\" holds the counters, written at SIGUSR1 and "
    "at\n"
    "the end. SIGTERM or SIGINT ends the sink.\n";

enum {
    OPT_LISTEN = 256,
    OPT_JOURNAL,
    OPT_FAULT,
    OPT_LMTP,
    OPT_PORT_FILE,
    OPT_READY_FD,
    OPT_STATS,
    OPT_KEEP,
    OPT_SIZE,
    OPT_CONNECTIONS,
    OPT_JSON,
    OPT_QUIET,
    OPT_HELP,
    OPT_VERSION
};

static const struct option long_options[] = {
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"journal", required_argument, NULL, OPT_JOURNAL},
    {"fault", required_argument, NULL, OPT_FAULT},
    {"lmtp", no_argument, NULL, OPT_LMTP},
    {"port-file", required_argument, NULL, OPT_PORT_FILE},
    {"ready-fd", required_argument, NULL, OPT_READY_FD},
    {"stats-file", required_argument, NULL, OPT_STATS},
    {"keep-bodies", required_argument, NULL, OPT_KEEP},
    {"max-size", required_argument, NULL, OPT_SIZE},
    {"max-connections", required_argument, NULL, OPT_CONNECTIONS},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

static int wrong(const char *option, const char *value)
{
    (void)fprintf(stderr, "mailraft-sink: --%s: \"%s\" is not usable; try --help\n", option, value);
    return MR_INVAL;
}

static int take_fault(struct sink_options *o, const char *spec)
{
    const char *where = NULL;
    size_t len = 0;
    uint64_t seed = mr_id_hash(mr_id_random());

    if (fault_parse(spec, seed % 1000000007, &o->faults, &where, &len) == 0)
        return 0;
    (void)fprintf(stderr, "mailraft-sink: --fault: \"%.*s\" is no fault; try --help\n", (int)len, where);
    return MR_INVAL;
}

static int take_text(int opt, const char *value, struct sink_options *o)
{
    uint64_t number = 0;

    switch (opt) {
    case OPT_LISTEN:
        return endpoint_parse(value, strlen(value), &o->listen) == 0 ? 0 : wrong("listen", value);
    case OPT_FAULT:
        return take_fault(o, value);
    case OPT_READY_FD:
        if (options_number(value, 0, 1 << 20, &number) != 0)
            return wrong("ready-fd", value);
        o->ready_fd = (int)number;
        return 0;
    case OPT_SIZE:
        return options_number(value, 1, UINT64_C(1) << 40, &o->max_size) == 0 ? 0 : wrong("max-size", value);
    case OPT_CONNECTIONS:
        return options_number(value, 1, 1000000, &o->max_connections) == 0 ? 0 : wrong("max-connections", value);
    default:
        return MR_INVAL;
    }
}

int sink_options_parse(int argc, char **argv, struct sink_options *out)
{
    int opt;

    *out = (struct sink_options){.ready_fd = -1, .max_size = UINT64_C(1) << 30, .max_connections = 10000};
    out->faults.rng = rng_seeded(0, 0);
    optind = 0;
    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (opt) {
        case OPT_JOURNAL:
            out->journal = optarg;
            break;
        case OPT_PORT_FILE:
            out->port_file = optarg;
            break;
        case OPT_STATS:
            out->stats_file = optarg;
            break;
        case OPT_KEEP:
            out->keep_bodies = optarg;
            break;
        case OPT_LMTP:
            out->lmtp = true;
            break;
        case OPT_JSON:
            out->json = true;
            break;
        case OPT_QUIET:
            out->quiet = true;
            break;
        case OPT_HELP:
            (void)fputs(help, stdout);
            return MR_CLOSED;
        case OPT_VERSION:
            (void)puts("mailraft-sink " MAILRAFT_VERSION);
            return MR_CLOSED;
        default:
            if (take_text(opt, optarg, out) != 0)
                return MR_INVAL;
        }
    }
    if (optind < argc)
        return wrong("listen", argv[optind]);
    if (out->listen.host[0] == '\0') {
        (void)fputs("mailraft-sink: --listen HOST:PORT is needed; try --help\n", stderr);
        return MR_INVAL;
    }
    return 0;
}
