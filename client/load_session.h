/* load_session.h - one SMTP session of the load generator, with the message that it carries.
 *
 * A session keeps its message through refusals and broken connections: it goes on to the next node with it after a
 * pause. load_session.c has the connection, load_attempt.c the transaction. Thread: the run's loop. Sessions live in
 * the run's array. */
#ifndef MR_CLIENT_LOAD_SESSION_H
#define MR_CLIENT_LOAD_SESSION_H

#include "client/load_run.h"
#include "client/smtp_line.h"

enum load_state {
    LOAD_IDLE,    /* no connection */
    LOAD_BACKOFF, /* no connection, the timer runs */
    LOAD_RESOLVE,
    LOAD_CONNECT,
    LOAD_BANNER,
    LOAD_EHLO,
    LOAD_HELO,
    LOAD_READY,    /* connected, between messages */
    LOAD_ENVELOPE, /* MAIL, RCPT, DATA */
    LOAD_BODY,
    LOAD_DOT, /* the last piece, with the dot, was handed to the kernel or to libuv */
    LOAD_RSET,
    LOAD_QUIT,
    LOAD_CLOSING,
    LOAD_DONE,
    LOAD_STATES,
};

enum load_recipient_state {
    LOAD_RCPT_WAITING,
    LOAD_RCPT_TAKEN, /* 250 to RCPT in this transaction */
    LOAD_RCPT_SENT,
    LOAD_RCPT_REFUSED,
};

struct load_session {
    struct load_run *run;
    unsigned number;
    size_t target;
    enum load_state state;
    enum { LOAD_THEN_WORK, LOAD_THEN_BACKOFF, LOAD_THEN_DONE } then; /* when the connection is closed */
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_getaddrinfo_t resolve;
    uv_write_t write;
    uv_timer_t pause;
    bool writing;
    bool parked;
    uint64_t deadline_ns;          /* 0: none */
    unsigned failures;             /* in a row */
    uint64_t sent_here;            /* messages of this connection */
    bool pipelining, size_offered; /* by this connection's EHLO */
    struct smtp_reply reply;
    struct load_session *next_idle;
    /* the message */
    bool busy;
    uint64_t message_number;
    unsigned attempt;
    uint64_t first_ns;
    uint8_t *recipients; /* enum load_recipient_state, options->recipients of them */
    char key[LOAD_KEY_SIZE];
    struct load_message message;
    bool rendered;
    /* the transaction */
    uint16_t *tried; /* recipients of this transaction */
    size_t tried_count;
    size_t next_command, next_reply; /* 0 MAIL, 1.. RCPT, tried_count + 1 DATA */
    size_t taken;
    bool mail_refused;
    bool empty; /* all recipients were refused and DATA was pipelined: only a dot is sent */
    uint64_t dot_ns;
    char *out;
    size_t out_len, out_cap;
};

void load_session_init(struct load_session *s, struct load_run *run, unsigned number);
void load_session_free(struct load_session *s);
/* Begins, or goes on when a turn has come. */
void load_session_wake(struct load_session *s);
void load_session_check_deadline(struct load_session *s, uint64_t now_ns);
/* No further attempt. A message under way is cut off when at_once, else it may end. */
void load_session_stop(struct load_session *s, bool at_once);

/* Between load_session.c and load_attempt.c. */
void load_session_enter(struct load_session *s, enum load_state state);
/* data stays as it is until the write is done. true: it is done; false: load_attempt_written comes, or the session
 * broke. */
bool load_session_send(struct load_session *s, const char *data, size_t len);
/* No reply can be had: the attempt ends here, the connection too. */
void load_session_break(struct load_session *s, const char *why);
/* The attempt is over and was written down: QUIT, then the next node after a pause. */
void load_session_move_on(struct load_session *s);
/* The message is done with; the connection can be used further. */
void load_session_next(struct load_session *s, bool reset);

/* load_attempt.c */
void load_attempt_begin(struct load_session *s);
void load_attempt_reply(struct load_session *s);
void load_attempt_written(struct load_session *s);
/* Journal and counters for an attempt that ended without a reply. */
void load_attempt_broken(struct load_session *s, const char *why);
/* The node refused the session: at the banner or EHLO. */
void load_attempt_refused_session(struct load_session *s);
/* Gives the message up when its time is over. */
void load_attempt_give_up(struct load_session *s, uint64_t now_ns);

#endif
