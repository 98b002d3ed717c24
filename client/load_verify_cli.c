/* Options, files, report. */
#include "client/load_verify_cli.h"

#include "client/load_verify.h"
#include "client/options.h"
#include "client/report.h"
#include "proto/base/error.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "Usage: mailraft-load verify --sent FILE... --received FILE... [options]\n"
    "Compares the load generator's journals with those of the sinks.\n"
    "\n"
    "  --sent FILE...      journals of mailraft-load\n"
    "  --received FILE...  journals of mailraft-sink\n"
    "  --queued FILE       messages that are still queued: lines of KEY or KEY RECIPIENT\n"
    "  --show-lost N       list up to N each of what is lost, duplicated, altered, invented, delivered though refused\n"
    "  --json              print JSON\n"
    "\n"
    "Counted for each key and recipient: accepted, delivered, bounced, queued, lost, duplicated (copies that no "
    "attempt of\n"
    "the client and no order of the sink explains), explained (copies that one does), refused, refused_but_delivered,\n"
    "indeterminate, indeterminate_delivered. Counted for each delivery: altered, invented.\n"
    "Exit status: 0 nothing lost, altered, invented or delivered though refused, and all lines readable; 1 otherwise;\n"
    "2 usage, or a file that cannot be read.\n";

enum { OPT_SENT = 256, OPT_RECEIVED, OPT_QUEUED, OPT_SHOW, OPT_JSON, OPT_HELP };

static const struct option long_options[] = {
    {"sent", required_argument, NULL, OPT_SENT},
    {"received", required_argument, NULL, OPT_RECEIVED},
    {"queued", required_argument, NULL, OPT_QUEUED},
    {"show-lost", required_argument, NULL, OPT_SHOW},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

struct files {
    int sent, received;
    bool failed;
};

static int add(struct verify *v, int kind, const char *path, struct files *files)
{
    int rc = kind == OPT_SENT       ? verify_add_sent(v, path)
             : kind == OPT_RECEIVED ? verify_add_received(v, path)
                                    : verify_add_queued(v, path);

    files->sent += kind == OPT_SENT;
    files->received += kind == OPT_RECEIVED;
    if (rc != 0) {
        (void)fprintf(stderr, "mailraft-load verify: %s: %s\n", path, strerror(errno));
        files->failed = true;
    }
    return rc;
}

static void fill(const struct verify *v, const struct verify_result *r, bool lists, struct report *report)
{
    static const char *const names[VERIFY_LISTS] = {"lost_key", "duplicated_key", "altered_key", "invented_key",
                                                    "refused_but_delivered_key"};

    report_count(report, "messages", r->messages);
    report_count(report, "accepted", r->accepted);
    report_count(report, "delivered", r->delivered);
    report_count(report, "bounced", r->bounced);
    report_count(report, "queued", r->queued);
    report_count(report, "lost", r->lost);
    report_count(report, "duplicated", r->duplicated);
    report_count(report, "explained", r->explained);
    report_count(report, "altered", r->altered);
    report_count(report, "invented", r->invented);
    report_count(report, "refused", r->refused);
    report_count(report, "refused_but_delivered", r->refused_but_delivered);
    report_count(report, "indeterminate", r->indeterminate);
    report_count(report, "indeterminate_delivered", r->indeterminate_delivered);
    report_count(report, "unrecorded", r->unrecorded);
    report_count(report, "deliveries", r->deliveries);
    report_count(report, "dsn", r->dsn);
    report_count(report, "torn_lines", r->sent_lines.torn + r->received_lines.torn);
    report_count(report, "malformed_lines", r->sent_lines.malformed + r->received_lines.malformed);
    for (int i = 0; lists && i < VERIFY_LISTS; i++)
        report_list(report, names[i], json_incref((json_t *)verify_listed(v, (enum verify_list)i)));
}

static int judge(struct verify *v, bool json, bool lists)
{
    struct verify_result r;
    struct report report = {0};

    verify_judge(v, &r);
    fill(v, &r, lists, &report);
    int rc = report_print(&report, report_form(json, stdout), stdout);
    report_free(&report);
    bool good = r.lost == 0 && r.altered == 0 && r.invented == 0 && r.refused_but_delivered == 0 &&
                r.sent_lines.malformed == 0 && r.received_lines.malformed == 0;
    return rc == 0 && good ? 0 : 1;
}

/* 0: all options were taken; else the exit status, with -1 for the answered --help. */
static int take_options(int argc, char **argv, struct verify *v, struct files *files, bool *json)
{
    int kind = 0; /* of the files that follow without an option: the option before them */
    int opt;

    optind = 0;
    while ((opt = getopt_long(argc, argv, "-", long_options, NULL)) != -1) {
        switch (opt) {
        case OPT_SENT:
        case OPT_RECEIVED:
        case OPT_QUEUED:
            kind = opt;
            (void)add(v, kind, optarg, files);
            break;
        case 1:
            if (kind == 0) {
                (void)fputs("mailraft-load verify: a file without --sent or --received; try --help\n", stderr);
                return 2;
            }
            (void)add(v, kind, optarg, files);
            break;
        case OPT_SHOW:
            kind = 0;
            break; /* was read before */
        case OPT_JSON:
            *json = true;
            break;
        case OPT_HELP:
            (void)fputs(help, stdout);
            return -1;
        default:
            return 2;
        }
    }
    return 0;
}

/* The lists' length must be known before the first line is read. */
static int find_show(int argc, char **argv, uint64_t *show)
{
    int opt;

    *show = 0;
    optind = 0;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, "-", long_options, NULL)) != -1) {
        if (opt == OPT_SHOW && options_number(optarg, 0, 1000000, show) != 0) {
            (void)fprintf(stderr, "mailraft-load verify: --show-lost: \"%s\" is not usable\n", optarg);
            return MR_INVAL;
        }
    }
    opterr = 1;
    return 0;
}

int load_verify_main(int argc, char **argv)
{
    struct files files = {0};
    uint64_t show = 0;
    bool json = false;

    if (find_show(argc, argv, &show) != 0)
        return 2;
    struct verify *v = verify_open(show);
    int status = take_options(argc, argv, v, &files, &json);
    if (status == 0 && (files.sent == 0 || files.received == 0)) {
        (void)fputs("mailraft-load verify: --sent FILE and --received FILE are needed; try --help\n", stderr);
        status = 2;
    }
    if (status == 0)
        status = files.failed ? 2 : judge(v, json, show > 0);
    verify_close(v);
    return status == -1 ? 0 : status;
}
