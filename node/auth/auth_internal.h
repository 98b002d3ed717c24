/* auth_internal.h - what the front (auth.c) and the two that check (auth_local.c, auth_dovecot.c) know of each other.
 *
 * Thread: the worker's. */
#ifndef MR_AUTH_AUTH_INTERNAL_H
#define MR_AUTH_AUTH_INTERNAL_H

#include "node/auth/auth.h"
#include "node/auth/sasl.h"

#include <gsasl.h>

enum { AUTH_BINDING_TEXT = (TLS_MAX_BINDING + 2) / 3 * 4 + 1 };

struct auth_dovecot;

struct auth {
    uv_loop_t *loop;
    struct mailbox *mailbox;
    struct auth_store *store;
    unsigned mechanisms;          /* configured */
    struct auth_dovecot *dovecot; /* NULL: the file */
    Gsasl *gsasl;                 /* NULL: Dovecot */
    unsigned jobs;                /* on the slow thread */
    bool closing, dovecot_closed;
    void (*closed)(void *arg);
    void *closed_arg;
};

struct auth_exchange {
    struct auth *a;
    unsigned mechanism;
    auth_cb cb;
    void *arg;
    bool waiting; /* cb is owed */
    bool ended;   /* by the owner, while a job was under way: the job frees it */
    bool begun;
    char user[SASL_USER_MAX + 1];
    char *challenge; /* free() */
    void (*close)(struct auth_exchange *e);
    struct auth_answer (*step)(struct auth_exchange *e, const char *data, size_t len);
};

/* For the callback that is owed. e may be gone afterwards. */
void auth_answer_now(struct auth_exchange *e, enum auth_verdict verdict, const char *text);
/* Keeps base64 of a message for the client. */
struct auth_answer auth_challenge(struct auth_exchange *e, const char *data, size_t len);
void auth_check_closed(struct auth *a);

/* auth_local.c */
Gsasl *auth_local_open(void);
struct auth_exchange *auth_local_begin(struct auth *a, unsigned mechanism, const struct auth_client *client);

/* auth_dovecot.c */
struct auth_dovecot *auth_dovecot_open(struct auth *a, const char *path);
void auth_dovecot_close(struct auth_dovecot *d); /* then dovecot_closed and auth_check_closed */
unsigned auth_dovecot_mechanisms(const struct auth_dovecot *d);
struct auth_exchange *auth_dovecot_begin(struct auth_dovecot *d, unsigned mechanism, const struct auth_client *client);

#endif
