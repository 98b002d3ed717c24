/* ctl_options.h - the command line of mailraftctl.
 *
 * Options may stand before or behind the command; one that the command does not know is an error, so that a filter with
 * a wrong name never lists everything. Pure but for stdout (--help, --version) and stderr (what is wrong).
 * Strings point into argv or the environment. Thread: main. */
#ifndef MR_CLIENT_CTL_OPTIONS_H
#define MR_CLIENT_CTL_OPTIONS_H

#include "proto/base/id.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    CTL_URL_MAX = 1024,
    CTL_FILTER_MAX = 512,     /* bytes of one filter */
    CTL_DEMO_NODES_LEAST = 3, /* one of them is killed, and the others have to go on */
    CTL_DEMO_NODES_MOST = 9,
    CTL_DEMO_MESSAGES_MOST = 1000000,
};
#define CTL_DEFAULT_SERVER "http://127.0.0.1:8025"

/* Exit statuses. */
enum ctl_exit { CTL_DONE = 0, CTL_REFUSED = 1, CTL_USAGE = 2, CTL_UNAVAILABLE = 3 };

enum ctl_command {
    CTL_STATUS,
    CTL_QUEUE,
    CTL_LIST,
    CTL_SHOW,
    CTL_CAT,
    CTL_NODES,
    CTL_PKI_INIT,
    CTL_PKI_ISSUE,
    CTL_PASSWORD,
    CTL_DEMO,
    CTL_COMMANDS
};

struct ctl_list_options {
    const char *sender, *recipient, *domain, *next_hop, *state, *age; /* NULL: any */
    uint64_t limit;                                                   /* 0: all */
    uint64_t after;                                                   /* sequence behind which to begin */
};

struct ctl_demo_options {
    bool once;
    bool keep;
    uint64_t messages;
    uint64_t nodes;
    const char *dir; /* NULL: a new one below $TMPDIR */
};

struct ctl_options {
    enum ctl_command command;
    const char *server;
    const char *token_file; /* NULL: none */
    bool json;
    struct ctl_list_options list;
    struct ctl_demo_options demo;
    const char *pki_name;
    uint64_t pki_days;
    char **arguments; /* behind the command */
    unsigned n_arguments;
    struct mr_id id; /* CTL_SHOW, CTL_CAT */
};

/* 0; MR_INVAL: usage, said on stderr; MR_CLOSED: --help or --version was answered. Reorders argv. */
int ctl_options_parse(int argc, char **argv, struct ctl_options *out);

#endif
