/* getopt_long finds the options wherever they stand; then the words, then what belongs together. */
#include "client/ctl_options.h"

#include "client/options.h"
#include "client/pki.h"
#include "proto/base/error.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DAYS_MOST = 36500 };

static const char help[] =
    "Usage: mailraftctl [--server URL] [--json] [--token-file FILE] COMMAND\n"
    "\n"
    "Ask a cluster (any node answers for it):\n"
    "  status                     who leads, which nodes are up, how much waits\n"
    "  nodes                      the nodes\n"
    "  queue                      what waits, by next hop\n"
    "  list [filter]              the messages in the queue, oldest first\n"
    "  show ID                    one message and its recipients\n"
    "  cat ID                     the message itself, byte by byte\n"
    "\n"
    "Filters of list:\n"
    "  --sender TEXT, --recipient TEXT   part of the address\n"
    "  --domain DOMAIN                   of a recipient\n"
    "  --next-hop HOP                    as queue shows it\n"
    "  --state STATE                     ready, assigned, deferred, held, delivered, failed, expired, cancelled\n"
    "  --age DURATION                    at least that old: 90s, 5m, 2h, 1d\n"
    "  --limit N                         stop after N messages\n"
    "  --after SEQUENCE                  begin behind this message's sequence\n"
    "\n"
    "Certificates for the links between nodes:\n"
    "  pki init DIR [--name NAME]                          a new authority: DIR/ca.pem, DIR/ca.key\n"
    "  pki issue DIR NODE [HOST-OR-ADDRESS...] [--days N]  DIR/NODE.pem, DIR/NODE.key\n"
    "\n"
    "Users who may send (smtp.auth.file):\n"
    "  password USER              asks for the password, or reads it from a pipe, and prints the user's lines\n"
    "\n"
    "See it work on this machine:\n"
    "  demo [--once] [--messages N] [--nodes N] [--dir DIR] [--keep]\n"
    "      starts a cluster on loopback, sends it mail, kills its leader half-way with SIGKILL, and counts what\n"
    "      arrived; then keeps the cluster running, or with --once ends it. --dir works in DIR (empty or new) and\n"
    "      keeps it; --keep keeps the folder that is made otherwise.\n"
    "\n"
    "  --server URL        node to ask (default " CTL_DEFAULT_SERVER ", or $MAILRAFT_SERVER)\n"
    "  --token-file FILE   file with the token that the node wants (default $MAILRAFT_TOKEN_FILE)\n"
    "  --json              print the node's JSON; demo: the result as JSON\n"
    "  --help, --version\n"
    "\n"
    "On a terminal tables; in a pipe lines with tabs between the columns, without headings: see mailraftctl(1).\n"
    "Exit status: 0 done, 1 refused or not found (demo: something was lost), 2 usage, 3 no quorum or unreachable.\n";

enum {
    OPT_SERVER = 256,
    OPT_TOKEN_FILE,
    OPT_JSON,
    OPT_SENDER,
    OPT_RECIPIENT,
    OPT_DOMAIN,
    OPT_NEXT_HOP,
    OPT_STATE,
    OPT_AGE,
    OPT_LIMIT,
    OPT_AFTER,
    OPT_NAME,
    OPT_DAYS,
    OPT_ONCE,
    OPT_KEEP,
    OPT_MESSAGES,
    OPT_NODES,
    OPT_DIR,
    OPT_HELP,
    OPT_VERSION
};

static const struct option long_options[] = {
    {"server", required_argument, NULL, OPT_SERVER},
    {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
    {"json", no_argument, NULL, OPT_JSON},
    {"sender", required_argument, NULL, OPT_SENDER},
    {"recipient", required_argument, NULL, OPT_RECIPIENT},
    {"domain", required_argument, NULL, OPT_DOMAIN},
    {"next-hop", required_argument, NULL, OPT_NEXT_HOP},
    {"state", required_argument, NULL, OPT_STATE},
    {"age", required_argument, NULL, OPT_AGE},
    {"limit", required_argument, NULL, OPT_LIMIT},
    {"after", required_argument, NULL, OPT_AFTER},
    {"name", required_argument, NULL, OPT_NAME},
    {"days", required_argument, NULL, OPT_DAYS},
    {"once", no_argument, NULL, OPT_ONCE},
    {"keep", no_argument, NULL, OPT_KEEP},
    {"messages", required_argument, NULL, OPT_MESSAGES},
    {"nodes", required_argument, NULL, OPT_NODES},
    {"dir", required_argument, NULL, OPT_DIR},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

#define BIT(n)    (1U << (n))
#define OPTION(o) BIT((o)-OPT_SERVER)
#define ASKING    (OPTION(OPT_SERVER) | OPTION(OPT_TOKEN_FILE))
#define FILTERS                                                                                                        \
    (OPTION(OPT_SENDER) | OPTION(OPT_RECIPIENT) | OPTION(OPT_DOMAIN) | OPTION(OPT_NEXT_HOP) | OPTION(OPT_STATE) |      \
     OPTION(OPT_AGE) | OPTION(OPT_LIMIT) | OPTION(OPT_AFTER))
#define DEMO (OPTION(OPT_ONCE) | OPTION(OPT_KEEP) | OPTION(OPT_MESSAGES) | OPTION(OPT_NODES) | OPTION(OPT_DIR))

static const struct {
    const char *word, *second; /* second: NULL, or the word behind it */
    unsigned options;          /* that it knows */
    int least, most;           /* arguments */
    const char *usage;
} commands[CTL_COMMANDS] = {
    [CTL_STATUS] = {"status", NULL, ASKING | OPTION(OPT_JSON), 0, 0, "status"},
    [CTL_QUEUE] = {"queue", NULL, ASKING | OPTION(OPT_JSON), 0, 0, "queue"},
    [CTL_LIST] = {"list", NULL, ASKING | OPTION(OPT_JSON) | FILTERS, 0, 0, "list [filter]"},
    [CTL_SHOW] = {"show", NULL, ASKING | OPTION(OPT_JSON), 1, 1, "show ID"},
    [CTL_CAT] = {"cat", NULL, ASKING, 1, 1, "cat ID"},
    [CTL_NODES] = {"nodes", NULL, ASKING | OPTION(OPT_JSON), 0, 0, "nodes"},
    [CTL_PKI_INIT] = {"pki", "init", OPTION(OPT_NAME), 1, 1, "pki init DIR [--name NAME]"},
    [CTL_PKI_ISSUE] = {"pki", "issue", OPTION(OPT_DAYS), 2, 2 + PKI_MAX_ALT_NAMES,
                       "pki issue DIR NODE [HOST-OR-ADDRESS...] [--days N]"},
    [CTL_PASSWORD] = {"password", NULL, 0, 1, 1, "password USER"},
    [CTL_DEMO] = {"demo", NULL, DEMO | OPTION(OPT_JSON), 0, 0,
                  "demo [--once] [--messages N] [--nodes N] [--dir DIR] [--keep]"},
};

__attribute__((format(printf, 1, 2))) static int complain(const char *format, ...)
{
    va_list args;

    (void)fputs("mailraftctl: ", stderr);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputs("; try mailraftctl --help\n", stderr);
    return MR_INVAL;
}

/* ---- values ---- */

/* What mailraftd reads, from a second up. */
static int check_duration(const char *text)
{
    static const char *const units[] = {"s", "m", "h", "d", "w"};
    size_t digits = strspn(text, "0123456789");

    if (digits == 0 || digits > 12)
        return MR_INVAL;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(text + digits, units[i]) == 0)
            return 0;
    }
    return MR_INVAL;
}

static int check_state(const char *text)
{
    static const char *const states[] = {"ready",     "assigned", "deferred", "held",
                                         "delivered", "failed",   "expired",  "cancelled"};

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(text, states[i]) == 0)
            return 0;
    }
    return MR_INVAL;
}

static int take_filter(const char **out, const char *value)
{
    *out = value;
    return value[0] != '\0' && strlen(value) <= CTL_FILTER_MAX ? 0 : MR_INVAL;
}

static int take_list_option(int opt, const char *value, struct ctl_list_options *o)
{
    switch (opt) {
    case OPT_SENDER:
        return take_filter(&o->sender, value);
    case OPT_RECIPIENT:
        return take_filter(&o->recipient, value);
    case OPT_DOMAIN:
        return take_filter(&o->domain, value);
    case OPT_NEXT_HOP:
        return take_filter(&o->next_hop, value);
    case OPT_STATE:
        o->state = value;
        return check_state(value);
    case OPT_AGE:
        o->age = value;
        return check_duration(value);
    case OPT_LIMIT:
        return options_number(value, 1, INT64_MAX, &o->limit);
    default:
        return options_number(value, 0, INT64_MAX, &o->after);
    }
}

static int take_text(const char **out, const char *value)
{
    *out = value;
    return value[0] != '\0' ? 0 : MR_INVAL;
}

static int take_option(int opt, const char *value, struct ctl_options *o)
{
    switch (opt) {
    case OPT_SERVER:
        return take_text(&o->server, value);
    case OPT_TOKEN_FILE:
        return take_text(&o->token_file, value);
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_NAME:
        return take_text(&o->pki_name, value);
    case OPT_DAYS:
        return options_number(value, 1, DAYS_MOST, &o->pki_days);
    case OPT_ONCE:
        o->demo.once = true;
        return 0;
    case OPT_KEEP:
        o->demo.keep = true;
        return 0;
    case OPT_MESSAGES:
        return options_number(value, 2, CTL_DEMO_MESSAGES_MOST, &o->demo.messages);
    case OPT_NODES:
        return options_number(value, CTL_DEMO_NODES_LEAST, CTL_DEMO_NODES_MOST, &o->demo.nodes);
    case OPT_DIR:
        return take_text(&o->demo.dir, value);
    default:
        return take_list_option(opt, value, &o->list);
    }
}

/* ---- words ---- */

static int find_command(struct ctl_options *o, char **words, unsigned n)
{
    bool known = false;

    if (n == 0)
        return complain("a command is missing");
    for (int i = 0; i < CTL_COMMANDS; i++) {
        if (strcmp(words[0], commands[i].word) != 0)
            continue;
        known = true;
        unsigned used = commands[i].second == NULL ? 1 : 2;
        if (used == 2 && (n < 2 || strcmp(words[1], commands[i].second) != 0))
            continue;
        o->command = (enum ctl_command)i;
        o->arguments = words + used;
        o->n_arguments = n - used;
        return 0;
    }
    return known ? complain("pki init or pki issue") : complain("unknown command \"%s\"", words[0]);
}

static int check_together(struct ctl_options *o, unsigned given)
{
    unsigned stray = given & ~commands[o->command].options;
    int n = (int)o->n_arguments;

    for (size_t i = 0; stray != 0 && long_options[i].name != NULL; i++) {
        if (stray & OPTION(long_options[i].val))
            return complain("--%s means nothing to %s (mailraftctl %s)", long_options[i].name,
                            commands[o->command].word, commands[o->command].usage);
    }
    if (n < commands[o->command].least || n > commands[o->command].most)
        return complain("too %s arguments (mailraftctl %s)", n < commands[o->command].least ? "few" : "many",
                        commands[o->command].usage);
    if ((o->command == CTL_SHOW || o->command == CTL_CAT) &&
        mr_id_parse(o->arguments[0], strlen(o->arguments[0]), &o->id) != 0)
        return complain("\"%s\" is not a message id, which has %d letters and digits", o->arguments[0], MR_ID_TEXT);
    if (strlen(o->server) > CTL_URL_MAX)
        return complain("--server: longer than %d characters", CTL_URL_MAX);
    return 0;
}

static const char *from_environment(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : otherwise;
}

int ctl_options_parse(int argc, char **argv, struct ctl_options *out)
{
    unsigned given = 0;
    int opt;

    *out = (struct ctl_options){
        .server = from_environment("MAILRAFT_SERVER", CTL_DEFAULT_SERVER),
        .token_file = from_environment("MAILRAFT_TOKEN_FILE", NULL),
        .pki_name = "mailraft",
        .pki_days = PKI_NODE_DAYS,
        .demo = {.messages = 1000, .nodes = 3},
    };
    optind = 0;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (opt == '?')
            return complain("unknown option \"%s\"", argv[optind - 1]);
        if (opt == ':')
            return complain("%s needs a value", argv[optind - 1]);
        if (opt == OPT_HELP) {
            (void)fputs(help, stdout);
            return MR_CLOSED;
        }
        if (opt == OPT_VERSION) {
            (void)puts("mailraftctl " MAILRAFT_VERSION);
            return MR_CLOSED;
        }
        given |= OPTION(opt);
        if (take_option(opt, optarg, out) != 0)
            return complain("--%s: \"%s\" is not usable", long_options[opt - OPT_SERVER].name, optarg);
    }
    if (find_command(out, argv + optind, (unsigned)(argc - optind)) != 0)
        return MR_INVAL;
    return check_together(out, given);
}
