/* getopt_long; each value is checked where it is read, what belongs together at the end. */
#include "client/load_options.h"

#include "client/options.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/id.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "Usage: mailraft-load --to HOST:PORT[,HOST:PORT...] --messages N --sessions S --size BYTES [options]\n"
    "       mailraft-load verify --sent FILE --received FILE... [options]   (see mailraft-load verify --help)\n"
    "Sends messages that each carry a key and a checksum, tries each until it is answered 250 or 5xx.\n"
    "\n"
    "  --to LIST              nodes; sessions are spread over them and move on when refused or broken\n"
    "  --messages N           how many messages (default 1000)\n"
    "  --sessions S           how many SMTP sessions at one time (default 10)\n"
    "  --size BYTES           exact size of the body: 0, or 2 and more; KiB and MiB are known (default 4KiB)\n"
    "  --rate R               begin at most R messages a second; time lost in an outage is not made up\n"
    "  --journal FILE         append one JSON line for each final reply of an attempt (- is standard output)\n"
    "  --from ADDR            sender; empty: the null sender (default load@load.invalid)\n"
    "  --rcpt PATTERN         recipient; %n: number of the message, %r: of the recipient in it, %100n: modulo 100\n"
    "                         (default rcpt-%r@load.invalid)\n"
    "  --recipients K         recipients of each message (default 1)\n"
    "  --messages-per-session M   QUIT after M messages and connect to the next node (default: no limit)\n"
    "  --key-prefix P         keys are P and the number (default: unique for each run)\n"
    "  --seed N               repeat the bodies of an earlier run\n"
    "  --timeout SECONDS      wait for one reply (default 60)\n"
    "  --give-up SECONDS      stop trying a message after this long (default 300)\n"
    "  --backoff-max SECONDS  longest pause of a session after failures (default 1)\n"
    "  --pipelining on|off    use PIPELINING when offered (default on)\n"
    "  --helo NAME            name in EHLO (default [127.0.0.1])\n"
    "  --wait[=FILE]          begin when each node greets; with FILE: when that file exists\n"
    "  --json                 print the summary as JSON\n"
    "  --quiet                print no progress\n"
    "  --help, --version\n"
    "\n"
    "Journal members: time (Unix seconds), event, key, session, target, attempt (from 1), verb (where it ended: "
    "connect,\n"
    "banner, ehlo, mail, rcpt, data, body, dot), code and text (the reply, or what broke), seconds (from the dot to "
    "the\n"
    "reply), size and sum (XXH3-128) of the body, sender, recipients (that the line is about). Events: sent (250),\n"
    "refused (4xx or 5xx), broken (no reply, the dot was not written), indeterminate (no reply, the dot was written),\n"
    "given_up (no more attempts), begin and end (of the run).\n"
    "Exit status: 0 all were accepted, 1 some were not, 2 usage.\n";

enum {
    OPT_TO = 256,
    OPT_MESSAGES,
    OPT_SESSIONS,
    OPT_SIZE,
    OPT_RATE,
    OPT_JOURNAL,
    OPT_FROM,
    OPT_RCPT,
    OPT_RECIPIENTS,
    OPT_PER_SESSION,
    OPT_PREFIX,
    OPT_SEED,
    OPT_TIMEOUT,
    OPT_GIVE_UP,
    OPT_BACKOFF,
    OPT_PIPELINING,
    OPT_HELO,
    OPT_WAIT,
    OPT_JSON,
    OPT_QUIET,
    OPT_HELP,
    OPT_VERSION
};

static const struct option long_options[] = {
    {"to", required_argument, NULL, OPT_TO},
    {"messages", required_argument, NULL, OPT_MESSAGES},
    {"sessions", required_argument, NULL, OPT_SESSIONS},
    {"size", required_argument, NULL, OPT_SIZE},
    {"rate", required_argument, NULL, OPT_RATE},
    {"journal", required_argument, NULL, OPT_JOURNAL},
    {"from", required_argument, NULL, OPT_FROM},
    {"rcpt", required_argument, NULL, OPT_RCPT},
    {"recipients", required_argument, NULL, OPT_RECIPIENTS},
    {"messages-per-session", required_argument, NULL, OPT_PER_SESSION},
    {"key-prefix", required_argument, NULL, OPT_PREFIX},
    {"seed", required_argument, NULL, OPT_SEED},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"give-up", required_argument, NULL, OPT_GIVE_UP},
    {"backoff-max", required_argument, NULL, OPT_BACKOFF},
    {"pipelining", required_argument, NULL, OPT_PIPELINING},
    {"helo", required_argument, NULL, OPT_HELO},
    {"wait", optional_argument, NULL, OPT_WAIT},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

int load_recipient(const char *pattern, uint64_t message, uint64_t recipient, char out[SMTP_ADDRESS_MAX + 1])
{
    size_t len = 0;

    for (const char *p = pattern; *p != '\0'; p++) {
        char text[24] = {*p, '\0'};
        if (*p == '%') {
            uint64_t modulo = 0;
            for (p++; *p >= '0' && *p <= '9' && modulo < UINT32_MAX; p++)
                modulo = modulo * 10 + (uint64_t)(*p - '0');
            uint64_t value = *p == 'n' ? message : recipient;
            if (*p == 'n' || *p == 'r')
                (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)(modulo > 0 ? value % modulo : value));
            else if (*p != '%')
                return MR_INVAL;
        }
        size_t n = strlen(text);
        if (len + n > SMTP_ADDRESS_MAX)
            return MR_LIMIT;
        memcpy(out + len, text, n);
        len += n;
    }
    out[len] = '\0';
    return 0;
}

static int take_targets(struct load_options *o, const char *list)
{
    while (list != NULL) {
        const char *comma = strchr(list, ',');
        size_t len = comma != NULL ? (size_t)(comma - list) : strlen(list);
        if (o->target_count == LOAD_TARGETS_MAX)
            return MR_LIMIT;
        struct endpoint *ep = &o->targets[o->target_count++];
        if (endpoint_parse(list, len, ep) != 0 || ep->port == 0)
            return MR_INVAL;
        list = comma != NULL ? comma + 1 : NULL;
    }
    return 0;
}

/* An address stands between <> in a command line: nothing may end it early. */
static int check_address(const char *address)
{
    size_t len = strlen(address);

    if (len > SMTP_ADDRESS_MAX)
        return MR_LIMIT;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)address[i] <= ' ' || address[i] == 0x7f || address[i] == '<' || address[i] == '>')
            return MR_INVAL;
    }
    return 0;
}

static int take_prefix(struct load_options *o, const char *value)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

    if (*value == '\0' || strlen(value) > LOAD_PREFIX_MAX || strspn(value, allowed) != strlen(value))
        return MR_INVAL;
    (void)snprintf(o->prefix, sizeof(o->prefix), "%s", value);
    return 0;
}

static int take_number(int opt, const char *value, struct load_options *o)
{
    switch (opt) {
    case OPT_MESSAGES:
        return options_number(value, 1, LOAD_MESSAGES_MAX, &o->messages);
    case OPT_SESSIONS:
        return options_number(value, 1, LOAD_SESSIONS_MAX, &o->sessions);
    case OPT_SIZE:
        return options_size(value, 0, LOAD_SIZE_MAX, &o->size) == 0 && o->size != 1 ? 0 : MR_INVAL;
    case OPT_RATE:
        return options_real(value, 0, 1e9, &o->rate);
    case OPT_RECIPIENTS:
        return options_number(value, 1, LOAD_RECIPIENTS_MAX, &o->recipients);
    case OPT_PER_SESSION:
        return options_number(value, 0, LOAD_MESSAGES_MAX, &o->per_session);
    case OPT_SEED:
        return options_number(value, 0, UINT64_MAX, &o->seed);
    case OPT_TIMEOUT:
        return options_real(value, 0.01, 86400, &o->timeout_s);
    case OPT_GIVE_UP:
        return options_real(value, 0, 864000, &o->give_up_s);
    default:
        return options_real(value, 0, 3600, &o->backoff_max_s);
    }
}

static int take_text(int opt, const char *value, struct load_options *o)
{
    switch (opt) {
    case OPT_TO:
        return take_targets(o, value);
    case OPT_JOURNAL:
        o->journal = value;
        return 0;
    case OPT_FROM:
        o->sender = value;
        return check_address(value);
    case OPT_RCPT:
        o->recipient = value;
        return *value != '\0' ? check_address(value) : MR_INVAL;
    case OPT_PREFIX:
        return take_prefix(o, value);
    case OPT_PIPELINING:
        o->pipelining = strcmp(value, "on") == 0;
        return o->pipelining || strcmp(value, "off") == 0 ? 0 : MR_INVAL;
    case OPT_HELO:
        o->helo = value;
        return *value != '\0' ? check_address(value) : MR_INVAL;
    case OPT_WAIT:
        o->wait_file = value;
        o->wait_targets = value == NULL;
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_QUIET:
        o->quiet = true;
        return 0;
    default:
        return take_number(opt, value, o);
    }
}

static int complain(const char *text)
{
    (void)fprintf(stderr, "mailraft-load: %s; try --help\n", text);
    return MR_INVAL;
}

static int check_together(const struct load_options *o)
{
    char first[SMTP_ADDRESS_MAX + 1];
    char second[SMTP_ADDRESS_MAX + 1];

    if (o->target_count == 0)
        return complain("--to HOST:PORT is needed");
    if (load_recipient(o->recipient, o->messages, o->recipients - 1, first) != 0)
        return complain("--rcpt: not a usable pattern");
    if (o->recipients > 1) {
        (void)load_recipient(o->recipient, 0, 0, first);
        (void)load_recipient(o->recipient, 0, 1, second);
        if (strcmp(first, second) == 0)
            return complain("--recipients over 1 needs %r in --rcpt");
    }
    return 0;
}

int load_options_parse(int argc, char **argv, struct load_options *out)
{
    char id[MR_ID_TEXT + 1];
    int opt;

    *out = (struct load_options){
        .messages = 1000,
        .sessions = 10,
        .size = 4096,
        .sender = "load@load.invalid",
        .recipient = "rcpt-%r@load.invalid",
        .recipients = 1,
        .timeout_s = 60,
        .give_up_s = 300,
        .backoff_max_s = 1,
        .pipelining = true,
        .seed = mr_id_hash(mr_id_random()) % 1000000007,
    };
    (void)mr_id_format(mr_id_at(mr_wall_ms(&mr_clock_real)), id);
    (void)snprintf(out->prefix, sizeof(out->prefix), "%s-", id);
    optind = 0;
    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (opt == '?')
            return complain("unknown option or value missing");
        if (opt == OPT_HELP) {
            (void)fputs(help, stdout);
            return MR_CLOSED;
        }
        if (opt == OPT_VERSION) {
            (void)puts("mailraft-load " MAILRAFT_VERSION);
            return MR_CLOSED;
        }
        if (take_text(opt, optarg, out) != 0) {
            (void)fprintf(stderr, "mailraft-load: --%s: \"%s\" is not usable; try --help\n",
                          long_options[opt - OPT_TO].name, optarg);
            return MR_INVAL;
        }
    }
    if (optind < argc)
        return complain("an argument without an option");
    return check_together(out);
}
