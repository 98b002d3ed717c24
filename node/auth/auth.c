/* auth.c - the front: what is offered, and one exchange whoever checks it. */
#include "node/auth/auth_internal.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

void auth_open(struct auth **out, uv_loop_t *loop, struct mailbox *mailbox, struct auth_store *store,
               const struct config *c)
{
    struct auth *a = mr_calloc(1, sizeof(*a));

    a->loop = loop;
    a->mailbox = mailbox;
    a->store = store;
    a->mechanisms = c->smtp.auth.mechanisms;
    a->dovecot_closed = true;
    if (c->smtp.auth.dovecot != NULL) {
        a->dovecot_closed = false;
        a->dovecot = auth_dovecot_open(a, c->smtp.auth.dovecot);
    } else if (c->smtp.auth.file != NULL) {
        a->gsasl = auth_local_open();
    }
    *out = a;
}

void auth_check_closed(struct auth *a)
{
    void (*closed)(void *arg) = a->closed;
    void *arg = a->closed_arg;

    if (!a->closing || a->jobs > 0 || !a->dovecot_closed)
        return;
    if (a->gsasl != NULL)
        gsasl_done(a->gsasl);
    free(a);
    closed(arg);
}

void auth_close(struct auth *a, void (*cb)(void *arg), void *arg)
{
    a->closing = true;
    a->closed = cb;
    a->closed_arg = arg;
    if (a->dovecot != NULL)
        auth_dovecot_close(a->dovecot);
    else
        auth_check_closed(a);
}

int auth_job(struct auth *a, struct slow_job *job)
{
    int rc;

    job->home = a->mailbox;
    rc = slow_thread_offer(auth_store_thread(a->store), job);
    if (rc == 0)
        a->jobs++;
    return rc;
}

void auth_job_done(struct auth *a)
{
    mr_assert(a->jobs > 0);
    a->jobs--;
    auth_check_closed(a);
}

struct auth_store *auth_shared(const struct auth *a)
{
    return a->store;
}

static bool can_bind(const struct tls *tls)
{
    uint8_t bytes[TLS_MAX_BINDING];
    size_t len;

    return tls != NULL && (tls_channel_binding(tls, TLS_BINDING_EXPORTER, bytes, &len) == 0 ||
                           tls_channel_binding(tls, TLS_BINDING_UNIQUE, bytes, &len) == 0);
}

unsigned auth_offered(const struct auth *a, const struct tls *tls)
{
    struct auth_file *file;
    unsigned set = a->mechanisms;

    if (a->dovecot != NULL)
        /* Its protocol carries no channel binding. */
        return set & auth_dovecot_mechanisms(a->dovecot) & ~(unsigned)SASL_SCRAM_SHA_256_PLUS;
    file = auth_store_file(a->store);
    if (file == NULL)
        return 0;
    if (!auth_file_has_scram(file))
        set &= SASL_PASSWORD_SENT;
    if (!can_bind(tls))
        set &= ~(unsigned)SASL_SCRAM_SHA_256_PLUS;
    auth_file_unref(file);
    return set;
}

struct auth_exchange *auth_begin(struct auth *a, unsigned mechanism, const struct auth_client *client, auth_cb cb,
                                 void *arg)
{
    struct auth_exchange *e =
        a->dovecot != NULL ? auth_dovecot_begin(a->dovecot, mechanism, client) : auth_local_begin(a, mechanism, client);

    e->a = a;
    e->mechanism = mechanism;
    e->cb = cb;
    e->arg = arg;
    return e;
}

struct auth_answer auth_step(struct auth_exchange *e, const char *data, size_t len)
{
    struct auth_answer answer;

    mr_assert(!e->waiting && !e->ended);
    free(e->challenge);
    e->challenge = NULL;
    answer = e->step(e, data, len);
    e->begun = true;
    e->waiting = answer.verdict == AUTH_WAIT;
    return answer;
}

unsigned auth_mechanism_of(const struct auth_exchange *e)
{
    return e->mechanism;
}

void auth_end(struct auth_exchange *e)
{
    if (e == NULL)
        return;
    free(e->challenge);
    e->challenge = NULL;
    e->waiting = false;
    e->ended = true;
    e->close(e);
}

void auth_answer_now(struct auth_exchange *e, enum auth_verdict verdict, const char *text)
{
    const struct auth_answer answer = {verdict, text};

    mr_assert(e->waiting);
    e->waiting = false;
    e->cb(e->arg, &answer);
}

struct auth_answer auth_challenge(struct auth_exchange *e, const char *data, size_t len)
{
    free(e->challenge);
    e->challenge = mr_malloc((len + 2) / 3 * 4 + 1);
    e->challenge[0] = '\0';
    if (len > 0)
        (void)EVP_EncodeBlock((uint8_t *)e->challenge, (const uint8_t *)data, (int)len);
    return (struct auth_answer){AUTH_CHALLENGE, e->challenge};
}
