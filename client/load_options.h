/* load_options.h - the command line of mailraft-load (sending; "verify" has its own in load_verify_cli.c). */
#ifndef MR_CLIENT_LOAD_OPTIONS_H
#define MR_CLIENT_LOAD_OPTIONS_H

#include "client/endpoint.h"
#include "client/smtp_line.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LOAD_TARGETS_MAX = 64,
    LOAD_SESSIONS_MAX = 10000,
    LOAD_RECIPIENTS_MAX = 1000, /* of one message */
    LOAD_PREFIX_MAX = 64,
};
#define LOAD_MESSAGES_MAX UINT64_C(1000000000)
#define LOAD_SIZE_MAX     (UINT64_C(1) << 30)

struct load_options {
    struct endpoint targets[LOAD_TARGETS_MAX];
    size_t target_count;
    uint64_t messages;
    uint64_t sessions;
    uint64_t size;       /* bytes of a body; 0, or 2 and more: it ends with CRLF */
    double rate;         /* messages a second; 0: as fast as they go */
    const char *journal; /* NULL: none */
    const char *sender;
    const char *recipient; /* a pattern */
    const char *helo;      /* NULL: address literal */
    const char *wait_file; /* NULL: none */
    bool wait_targets;
    uint64_t per_session; /* messages before QUIT; 0: no limit */
    uint64_t recipients;
    char prefix[LOAD_PREFIX_MAX + 1];
    uint64_t seed;
    double timeout_s;
    double give_up_s;
    double backoff_max_s;
    bool pipelining;
    bool json;
    bool quiet;
};

/* 0; MR_INVAL: usage, said on stderr; MR_CLOSED: --help or --version was answered. Strings point into argv. */
int load_options_parse(int argc, char **argv, struct load_options *out);

/* Expands a recipient's pattern: %n the number of the message, %r that of the recipient in it; a decimal between
 * % and the letter takes the remainder ("%100n"); %% is a percent sign. MR_INVAL: another letter. MR_LIMIT: too long.
 */
int load_recipient(const char *pattern, uint64_t message, uint64_t recipient, char out[SMTP_ADDRESS_MAX + 1]);

#endif
