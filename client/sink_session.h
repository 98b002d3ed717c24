/* sink_session.h - one connection to the sink: SMTP (RFC 5321) or LMTP (RFC 2033) with pipelining (RFC 2920).
 *
 * Input is consumed as it comes; while a stall lasts it waits, up to SINK_INPUT_MAX, and an end of the connection is
 * still noticed. A message is streamed through sink_data and sink_message and is never whole in memory. Thread: the
 * server's loop. The session frees itself when its handles are closed. */
#ifndef MR_CLIENT_SINK_SESSION_H
#define MR_CLIENT_SINK_SESSION_H

#include "client/endpoint.h"
#include "client/sink_data.h"
#include "client/sink_fault.h"
#include "client/sink_message.h"
#include "client/sink_server.h"
#include "client/smtp_line.h"

#include <stdio.h>

enum {
    SINK_INPUT_MAX = 262144, /* unconsumed bytes; no more is read above it */
    SINK_OUTPUT_MAX = 65536, /* unsent replies; no command is taken above it */
    SINK_RECIPIENTS_MAX = 1000,
};

enum sink_state { SINK_NEW, SINK_READY, SINK_MAIL, SINK_RCPT, SINK_DATA };
enum sink_step { SINK_STEP_BANNER, SINK_STEP_COMMAND, SINK_STEP_BODY, SINK_STEP_DOT };

struct sink_session {
    struct sink_server *server;
    struct sink_session *next, *prev;
    uv_tcp_t tcp;
    uv_timer_t stall;
    uv_write_t write;
    unsigned handles; /* open */
    uint64_t number;
    uint64_t transactions;
    char peer[ENDPOINT_TEXT_SIZE];
    enum sink_state state;
    bool closed; /* handles are closing */
    bool ending; /* close as soon as the output is written */
    bool writing;
    bool reading;
    bool skip_line;   /* the rest of a line that was too long */
    bool bare_lf;     /* a command ended with LF alone */
    bool body_rolled; /* the body's fault was decided for this message */
    /* a step that waits for the end of a stall */
    bool stalled;
    enum sink_step step;
    struct fault_hit hit;
    size_t held_len;
    char held[SMTP_COMMAND_MAX];
    /* the transaction */
    char sender[SMTP_ADDRESS_MAX + 1];
    size_t recipient_count;
    char **recipients;
    size_t recipients_cap;
    struct sink_data data;
    struct sink_message message;
    FILE *kept;
    bool keep_failed;
    /* bytes */
    char *input;
    size_t input_len, input_cap;
    char *output;
    size_t output_len, output_cap;
    char *flying; /* what uv_write holds */
};

/* Takes the waiting connection of the listener. */
void sink_session_accept(struct sink_server *server);
void sink_session_close(struct sink_session *s);

/* For sink_command.c and sink_record.c. */
__attribute__((format(printf, 2, 3))) void sink_reply(struct sink_session *s, const char *format, ...);
void sink_end(struct sink_session *s);
void sink_reset_transaction(struct sink_session *s);

/* sink_command.c: the verb's place in the table of faults; FAULT_VERBS: none. */
enum fault_verb sink_command_fault(const char *line, size_t len);
void sink_command_run(struct sink_session *s, const char *line, size_t len);

/* sink_record.c: after the final dot. */
void sink_record_begin(struct sink_session *s);
void sink_record_take(void *arg, const char *bytes, size_t len);
void sink_record_dot(struct sink_session *s, struct fault_hit hit);
/* The message was not recorded: its kept file goes. */
void sink_record_forget(struct sink_session *s);

#endif
