/* auth.h - who a client is: SASL exchanges of one worker, against a file of users or Dovecot's auth process.
 *
 *     auth_begin -> auth_step with each message of the client -> CHALLENGE: give it to the client, and so on
 *                                                             -> WAIT: the callback brings the answer
 *                                                             -> ACCEPTED, DENIED, AWAY, MALFORMED: it is over
 *     auth_end, once, at any time.
 *
 * A1: the callback comes at most once for each WAIT, never during auth_step, never after auth_end.
 * A2: nothing here blocks: hashes are computed on a thread of their own, Dovecot is asked over a socket.
 * A3: no secret is logged or left in memory that was freed by us.
 * Thread: the worker's. */
#ifndef MR_AUTH_AUTH_H
#define MR_AUTH_AUTH_H

#include "node/auth/auth_store.h"
#include "node/tls/tls.h"

struct auth;
struct auth_exchange;

enum auth_verdict {
    AUTH_WAIT,
    AUTH_CHALLENGE, /* text: base64 for the client, perhaps empty */
    AUTH_ACCEPTED,  /* text: the user */
    AUTH_DENIED,    /* text: the user as far as known, for the log */
    AUTH_AWAY,      /* cannot be known now; text: why, for the log */
    AUTH_MALFORMED, /* the client's message is none of this mechanism */
};
/* text lives until the next step or auth_end. */
struct auth_answer {
    enum auth_verdict verdict;
    const char *text;
};
typedef void (*auth_cb)(void *arg, const struct auth_answer *answer);

/* What is known of a client before it says who it is. Copied. */
struct auth_client {
    const char *remote, *local; /* addresses; local may be NULL */
    const struct tls *tls;      /* NULL: plain text, over loopback */
};

/* mailbox and loop: the worker's. Neither file nor Dovecot configured: offers nothing. */
void auth_open(struct auth **out, uv_loop_t *loop, struct mailbox *mailbox, struct auth_store *store,
               const struct config *c);
/* Every exchange has ended; cb comes when what they left under way has. */
void auth_close(struct auth *a, void (*cb)(void *arg), void *arg);
struct auth_store *auth_shared(const struct auth *a);

/* Mechanisms (SASL_...) for a client on this connection. */
unsigned auth_offered(const struct auth *a, const struct tls *tls);
/* mechanism: one that is offered. The first message is auth_step's, also when the client gave none. */
struct auth_exchange *auth_begin(struct auth *a, unsigned mechanism, const struct auth_client *client, auth_cb cb,
                                 void *arg);
/* The client's next message, without base64; data NULL: it gave no initial response. */
struct auth_answer auth_step(struct auth_exchange *e, const char *data, size_t len);
unsigned auth_mechanism_of(const struct auth_exchange *e);
void auth_end(struct auth_exchange *e); /* NULL: nothing */

/* ---- for whoever else has something slow to compute (delivery's logins at smarthosts) ---- */

/* work and done are set by the caller; done comes on the worker's loop, before auth_close's cb, and ends with
 * auth_job_done. MR_BUSY: too much waits. */
int auth_job(struct auth *a, struct slow_job *job);
void auth_job_done(struct auth *a);

#endif
