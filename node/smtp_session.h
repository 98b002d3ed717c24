/* smtp_session.h - one connection of a client, and the commands on it (RFC 5321).
 *
 * I1: commands are looked at in order, and none while a reply is not yet in the kernel or the answer to a final dot is
 *     awaited; what was read meanwhile is kept, and nothing more is read.
 * I2: replies are gathered and written once, when the input is used up or a wait begins (RFC 2920).
 * I3: state changes go through smtp_session_move.
 * Life: open (accept) -> commands -> bye (reply, shutdown, linger) or close. The memory goes with the last uv handle.
 * Thread: the worker's. */
#ifndef MR_NODE_SMTP_SESSION_H
#define MR_NODE_SMTP_SESSION_H

#include "node/smtp_command.h"
#include "node/smtp_server_internal.h"
#include "node/smtp_transaction.h"

enum smtp_state {
    SMTP_GREETED, /* no EHLO or HELO yet */
    SMTP_READY,
    SMTP_MAIL, /* a sender, no recipient yet */
    SMTP_RCPT, /* recipients */
    SMTP_DATA,
    SMTP_WAIT,    /* for the answer to the final dot */
    SMTP_CLOSING, /* the last reply was given */
};

struct smtp_session {
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct smtp_server *server;
    uint64_t id; /* 0: closed */
    enum smtp_state state;
    enum listener_profile profile;
    struct smtp_client client;
    bool relay; /* its address may relay anywhere */
    bool reading;
    bool writing; /* the rest of the last replies */
    bool linger;  /* shutdown before close, so that the last reply is not lost in a reset */
    bool lingering;
    bool skipping; /* the rest of a command line that is too long */
    unsigned handles;
    unsigned errors;
    unsigned transactions;
    uint64_t started_ms, active_ms, timer_ms; /* of the loop's clock */
    struct smtp_transaction *transaction;     /* NULL in GREETED, READY */
    struct smtp_slice verb, argument;         /* of the command being looked at, for the log */
    struct {
        char *bytes;
        size_t len;
    } unsent, queued; /* being written; behind that: the answer to a final dot, a last reply */
    struct {
        uint8_t *bytes;
        size_t len, cap;
    } in; /* read, not looked at */
};

/* Takes a connection that was accepted. The session frees itself; errors are its own matter. */
void smtp_session_open(struct smtp_listener *listener);
/* Something that it waited for has come. */
void smtp_session_resume(struct smtp_session *s);
/* The answer to its final dot: NULL: accepted. Ends the transaction. */
void smtp_session_answer(struct smtp_session *s, const struct smtp_reply *refusal);
/* Ends it now, if it is in no transaction; else once the answer was given. */
void smtp_session_drain(struct smtp_session *s);
/* Ends it; one that waits for the answer to a final dot gets it first. */
void smtp_session_stop(struct smtp_session *s);

/* ---- for the commands ---- */

void smtp_session_move(struct smtp_session *s, enum smtp_state to);
void smtp_session_reply(struct smtp_session *s, const struct smtp_reply *reply);
/* A reply that refuses: counted, logged; too many end the session. */
void smtp_session_refuse(struct smtp_session *s, const struct smtp_reply *reply);
/* The last reply; the connection closes. */
void smtp_session_bye(struct smtp_session *s, const struct smtp_reply *reply);
/* Drops the transaction, if there is one; back to READY. */
void smtp_session_reset(struct smtp_session *s);
/* One command line without its CR LF (smtp_session_commands.c). */
void smtp_session_command(struct smtp_session *s, const char *line, size_t len);
enum smtp_moment { SMTP_AT_GREETING, SMTP_AT_MAIL, SMTP_AT_DATA };
/* NULL: mail may be taken. Code 421: the session is to end with it. */
const struct smtp_reply *smtp_readiness(const struct smtp_server *server, enum smtp_moment moment);

/* For a reply that is given at once: it lives no longer than the block that it stands in. */
#define SMTP_REPLY(c, s, t) (&(const struct smtp_reply){(c), (s), (t)})

#endif
