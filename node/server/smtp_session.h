/* smtp_session.h - one connection of a client, and the commands on it (RFC 5321).
 *
 * I1: commands are looked at in order, and none while a reply is not yet in the kernel or the answer to a final dot is
 *     awaited; what was read meanwhile is kept (one read at most), and nothing more is read.
 * I2: replies are gathered and written once, when the input is used up or a wait begins (RFC 2920).
 * I3: state changes go through smtp_session_move.
 * Life: open (accept) -> opening (smtp_session_opening.c) -> greeting -> commands -> bye (reply, shutdown, linger) or
 * close. The memory goes with the last uv handle. Thread: the worker's. */
#ifndef MR_SERVER_SMTP_SESSION_H
#define MR_SERVER_SMTP_SESSION_H

#include "node/auth/auth.h"
#include "node/auth/sasl.h"
#include "node/server/client_table.h"
#include "node/server/proxy_header.h"
#include "node/server/smtp_command.h"
#include "node/server/smtp_server_internal.h"
#include "node/server/smtp_transaction.h"
#include "node/tls/tls_server.h"

struct smtp_xclient; /* smtp_xclient.h */

enum smtp_state {
    SMTP_OPENING, /* no greeting yet */
    SMTP_GREETED, /* no EHLO or HELO yet */
    SMTP_READY,
    SMTP_LOGIN, /* an AUTH exchange (RFC 4954) */
    SMTP_MAIL,  /* a sender, no recipient yet */
    SMTP_RCPT,  /* recipients */
    SMTP_DATA,
    SMTP_BDAT,    /* between chunks */
    SMTP_CHUNK,   /* in one */
    SMTP_WAIT,    /* for the answer to the final dot */
    SMTP_CLOSING, /* the last reply was given */
};

/* What an OPENING session waits for. */
enum smtp_opening { OPENING_PROXY, OPENING_TLS, OPENING_DELAY };

/* smtp_session_auth.c's. */
struct smtp_login {
    struct auth_exchange *exchange; /* NULL: there is none */
    bool waiting;                   /* for its answer, or for the end of a delay: no line is looked at */
    uint64_t until_ms;              /* of the delay before a "no"; 0: the answer is awaited */
    unsigned failures;              /* of this session */
    bool plain;                     /* without TLS, too: for tests on one machine */
    bool relay;                     /* what the session's relay was before */
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
    bool lmtp; /* RFC 2033: the profile's */
    enum smtp_opening opening;
    struct proxy_header *proxy;  /* while it is awaited */
    union proxy_address address; /* the client's: the connection's own, or what a trusted proxy or XCLIENT told */
    struct client_pass pass;     /* its place in the node's table */
    struct smtp_client client;
    char user[SASL_USER_MAX + 1]; /* "": nobody has logged in */
    bool user_told;               /* XCLIENT said so, it has not logged in */
    bool relay;                   /* may relay anywhere: by its address, its certificate, its user */
    bool xclient;                 /* the connection is of one that may use XCLIENT */
    enum listener_tls tls_mode;
    struct tls *tls;             /* NULL: plain text */
    struct tls_server *contexts; /* while handshaking */
    enum tls_client certificate; /* shown in the handshake */
    bool handshaking;            /* no reply is written */
    bool starttls;               /* the command was accepted, the reply not given */
    uint64_t handshake_ms;       /* since when */
    bool reading;
    bool writing; /* the rest of the last replies */
    bool linger;  /* shutdown before close, so that the last reply is not lost in a reset */
    bool lingering;
    bool parting;        /* nothing came behind QUIT: the last reply may wait for the close */
    bool skipping;       /* the rest of a command line that is too long */
    unsigned extensions; /* enum smtp_extension: what the last EHLO offered; 0 after HELO */
    size_t behind;       /* octets that came behind the command being looked at */
    uint64_t skip;       /* octets of a refused chunk that are still to come */
    struct {
        uint64_t octets, left; /* in all, still to come */
        bool last;
    } chunk;
    unsigned handles;
    unsigned errors;
    unsigned deferrals; /* 4xx replies since the last message: of these no number ends the session */
    unsigned transactions;
    unsigned junk;                            /* commands that brought no mail, since the last message */
    uint64_t started_ms, active_ms, timer_ms; /* of the loop's clock */
    uint64_t greet_ms;                        /* in OPENING_DELAY */
    uint64_t line_ms;                         /* first octet of a command line that is not whole; 0: there is none */
    uint64_t pace_ms, pace_octets;            /* data phase: this window's begin (0: none), what came in it */
    struct smtp_login login;
    struct smtp_transaction *transaction; /* NULL in GREETED, READY */
    struct smtp_slice verb, argument;     /* of the command being looked at, for the log */
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
/* Ends it; one that waits for the answer to a final dot gets it first, and what is being written goes out, if the
 * client takes it within SMTP_LINGER_MS. */
void smtp_session_stop(struct smtp_session *s);

/* Ends it now, without a word. */
void smtp_session_drop(struct smtp_session *s);

/* ---- before the greeting (smtp_session_opening.c) ---- */

void smtp_opening_begin(struct smtp_session *s, const struct smtp_listener *listener);
/* In OPENING_PROXY: octets of the socket. Returns how many it took; the rest is the client's. */
size_t smtp_opening_feed(struct smtp_session *s, const uint8_t *bytes, size_t len);
/* In OPENING_TLS: the handshake is done, or there is none. */
void smtp_opening_secured(struct smtp_session *s);
/* In OPENING_DELAY: the client speaks already. */
void smtp_opening_early(struct smtp_session *s);
uint64_t smtp_opening_deadline(const struct smtp_session *s);
void smtp_opening_timeout(struct smtp_session *s);

/* XCLIENT: the session is another client's from here on, and at its greeting (or its end) again. */
void smtp_session_become(struct smtp_session *s, const struct smtp_xclient *x);

/* ---- logins (smtp_session_auth.c) ---- */

/* AUTH: its arguments. */
void smtp_login_begin(struct smtp_session *s, struct smtp_slice args);
/* A line of the client in LOGIN, without CR LF; NULL: one longer than SASL_BASE64_MAX. */
void smtp_login_line(struct smtp_session *s, const char *line, size_t len);
/* While login.waiting: when a delay ends or a wait is to be looked at again. */
uint64_t smtp_login_deadline(const struct smtp_session *s);
void smtp_login_timeout(struct smtp_session *s);
/* Drops an exchange under way. The state is the caller's matter. */
void smtp_login_drop(struct smtp_session *s);
/* Nobody is logged in any more (RFC 3207 section 4.2). */
void smtp_login_forget(struct smtp_session *s);
/* Line of the reply to EHLO: "AUTH PLAIN LOGIN". False, and "": nothing is offered on this connection now. */
bool smtp_login_capability(const struct smtp_session *s, char out[SASL_NAMES + 8]);

/* ---- limits of the client's address ---- */

/* CLIENT_MESSAGE_RATE, CLIENT_RECIPIENT_RATE: counts one. True: it was one too many, and the refusal was given. */
bool smtp_session_limited(struct smtp_session *s, enum client_limit rate);
/* Too many commands that brought no mail: the session ends. */
void smtp_session_junk(struct smtp_session *s);
/* Before a login is tried. False: too many failed, and the session ends with a reply. */
bool smtp_session_login_allowed(struct smtp_session *s);
void smtp_session_login_failed(struct smtp_session *s);

/* ---- for the commands ---- */

enum smtp_moment { SMTP_AT_GREETING, SMTP_AT_MAIL, SMTP_AT_DATA };

void smtp_session_move(struct smtp_session *s, enum smtp_state to);
void smtp_session_reply(struct smtp_session *s, const struct smtp_reply *reply);
/* 334 with base64 of at most 1536 octets: longer than the lines of other replies. */
void smtp_session_challenge(struct smtp_session *s, const char *base64);
/* A reply that refuses: counted, logged; too many end the session. */
void smtp_session_refuse(struct smtp_session *s, const struct smtp_reply *reply);
/* One error more, which every 5xx is by itself; too many end the session with a reply. */
void smtp_session_error(struct smtp_session *s);
/* The last reply; the connection closes. */
void smtp_session_bye(struct smtp_session *s, const struct smtp_reply *reply);
/* A reply to a whole message: LMTP has one for each recipient that was accepted (RFC 2033 section 4.2). */
void smtp_session_answer_each(struct smtp_session *s, const struct smtp_reply *reply);
/* Drops the transaction, if there is one; back to READY. */
void smtp_session_reset(struct smtp_session *s);
/* One command line without its CR LF (smtp_session_commands.c). */
void smtp_session_command(struct smtp_session *s, const char *line, size_t len);
/* True: the cluster takes mail now; else the refusal was given. */
bool smtp_session_is_ready(struct smtp_session *s, enum smtp_moment moment);
/* What may be used on this connection, as things are (smtp_ehlo.c): bits of enum smtp_extension. */
unsigned smtp_session_offers(const struct smtp_session *s);
/* The reply to EHLO or LHLO; from now on this is what is offered. */
void smtp_session_greet_back(struct smtp_session *s);
void smtp_session_mail(struct smtp_session *s, struct smtp_slice args);
void smtp_session_rcpt(struct smtp_session *s, struct smtp_slice args);
void smtp_session_data(struct smtp_session *s, struct smtp_slice args);
/* Legal at any time: a chunk follows, whatever the answer. */
void smtp_session_bdat(struct smtp_session *s, struct smtp_slice args);
/* A command line that is none, as far as it is here: refuses it; one that was to be BDAT ends the session, as the size
 * of the chunk behind it is not known. */
void smtp_session_unreadable(struct smtp_session *s, const char *line, size_t len, const struct smtp_reply *why);
/* In DATA and CHUNK: takes text; 0: blocked. */
size_t smtp_session_text(struct smtp_session *s, const uint8_t *p, size_t len);
/* Takes octets of a refused chunk. */
size_t smtp_session_skip(struct smtp_session *s, size_t len);
/* The client is to send text, wanted or not. */
static inline bool smtp_session_in_text(const struct smtp_session *s)
{
    return s->state == SMTP_DATA || s->state == SMTP_CHUNK || s->skip > 0;
}
/* The cluster has to take what is here before more is asked of the client. */
static inline bool smtp_session_blocked(const struct smtp_session *s)
{
    return (s->state == SMTP_DATA || s->state == SMTP_CHUNK) && smtp_transaction_blocked(s->transaction);
}
void smtp_session_starttls(struct smtp_session *s);
/* May STARTTLS be given now? Is mail refused until it was (530)? */
bool smtp_session_offers_tls(const struct smtp_session *s);
bool smtp_session_needs_tls(const struct smtp_session *s);
enum { SMTP_MAX_TLS_COMMENT = TLS_MAX_COMMENT + 64 };
/* For Received: "(using TLSv1.3 with cipher ... (256/256 bits))", and folded behind it whether a client's certificate
 * was verified, when it showed one; "" without TLS. */
const char *smtp_session_tls_comment(const struct smtp_session *s, char out[SMTP_MAX_TLS_COMMENT]);
/* NULL: mail may be taken. Code 421: the session is to end with it. */
const struct smtp_reply *smtp_readiness(const struct smtp_server *server, enum smtp_moment moment);

/* For a reply that is given at once: it lives no longer than the block that it stands in. */
#define SMTP_REPLY(c, s, t) (&(const struct smtp_reply){(c), (s), (t)})

#endif
