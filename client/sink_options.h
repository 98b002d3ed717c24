/* sink_options.h - the command line of mailraft-sink. */
#ifndef MR_CLIENT_SINK_OPTIONS_H
#define MR_CLIENT_SINK_OPTIONS_H

#include "client/endpoint.h"
#include "client/sink_fault.h"

#include <stdbool.h>
#include <stdint.h>

struct sink_options {
    struct endpoint listen;
    const char *journal;     /* NULL: none */
    const char *port_file;   /* NULL: none */
    const char *stats_file;  /* NULL: none */
    const char *keep_bodies; /* NULL: not kept */
    int ready_fd;            /* -1: none */
    bool lmtp;
    bool json;
    bool quiet;
    uint64_t max_size; /* bytes of one message */
    uint64_t max_connections;
    struct fault_set faults;
};

/* 0; MR_INVAL: usage, said on stderr; MR_CLOSED: --help or --version was answered. Strings point into argv. */
int sink_options_parse(int argc, char **argv, struct sink_options *out);

#endif
