/* sink_server.h - the sink as a whole: one listener, its sessions, the journal and the counters.
 *
 * V1: a message is answered 250 only after its journal line was written.
 * V2: each connection is a session from accept until both its handles are closed; the server outlives them all.
 * Thread: everything runs on the one loop. */
#ifndef MR_CLIENT_SINK_SERVER_H
#define MR_CLIENT_SINK_SERVER_H

#include "client/journal.h"
#include "client/sink_options.h"
#include "client/sink_stats.h"

#include <uv.h>

enum { SINK_READ_SIZE = 65536 };

struct sink_session;

struct sink_server {
    struct sink_options *options;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_timer_t every_second;
    uv_signal_t term, interrupt, usr1;
    struct sink_stats stats;
    struct journal *journal; /* NULL: none */
    struct journal_line line;
    struct sink_session *sessions; /* list of those that are open */
    uint16_t port;
    bool stopping;
    bool journal_failed;              /* was said once */
    char read_buffer[SINK_READ_SIZE]; /* used up within each read callback */
};

/* Runs until SIGTERM or SIGINT; prints the final counters. 0, or an error that was said on stderr. */
int sink_server_run(struct sink_options *options);
uint64_t sink_server_now_ms(void);

#endif
