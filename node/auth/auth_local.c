/* auth_local.c - exchanges against the file of users, with GNU SASL for the mechanisms.
 *
 * Happy path, PLAIN and LOGIN: messages -> GNU SASL asks for validation: name and password are kept -> it is done ->
 * the hash is computed on the slow thread -> the callback. SCRAM: messages -> GNU SASL asks for the user's secrets and
 * checks the proof by itself, a few HMACs -> its last word is a challenge, which the client has to answer with nothing
 * before it is let in (RFC 4954 section 4). */
#include "node/auth/auth_internal.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSWORD_MAX = 1024 };

struct local {
    struct auth_exchange e;
    struct slow_job job;
    Gsasl_session *session;
    struct auth_file *file;
    struct auth_lookup lookup;
    bool looked_up;
    bool proven; /* SCRAM: the client has shown that it knows; our own proof is on its way to it */
    char *name, *authorize, *password; /* as they came */
    char *prepared;                    /* the password */
    bool fits;
    bool busy; /* the job is under way */
    unsigned prompts;
    char exporter[AUTH_BINDING_TEXT], unique[AUTH_BINDING_TEXT];
};

#define LOCAL(exchange) MR_CONTAINER(exchange, struct local, e)

static void wipe(char **text)
{
    if (*text != NULL) {
        OPENSSL_cleanse(*text, strlen(*text));
        free(*text);
    }
    *text = NULL;
}

static char *copy_property(Gsasl_session *session, Gsasl_property property)
{
    const char *text = gsasl_property_fast(session, property);

    return text != NULL ? mr_strdup(text) : NULL;
}

/* ---- what GNU SASL asks ---- */

/* False: the name is not usable. */
static bool look_up(struct local *l)
{
    char *user;

    if (l->looked_up)
        return true;
    user = l->name != NULL ? auth_prepare(l->name, SASL_USER_MAX) : NULL;
    if (user == NULL)
        return false;
    memcpy(l->e.user, user, strlen(user) + 1);
    free(user);
    auth_file_find(l->file, l->e.user, &l->lookup);
    l->looked_up = true;
    return true;
}

static int give_scram(struct local *l)
{
    const struct auth_scram *scram = &l->lookup.scram;
    char iterations[16];

    if (l->name == NULL) {
        l->name = copy_property(l->session, GSASL_AUTHID);
        l->authorize = copy_property(l->session, GSASL_AUTHZID);
    }
    if (!look_up(l) || scram->iterations == 0)
        return GSASL_AUTHENTICATION_ERROR;
    (void)snprintf(iterations, sizeof(iterations), "%u", scram->iterations);
    if (gsasl_property_set(l->session, GSASL_SCRAM_ITER, iterations) != GSASL_OK ||
        gsasl_property_set(l->session, GSASL_SCRAM_SALT, scram->salt) != GSASL_OK ||
        gsasl_property_set(l->session, GSASL_SCRAM_STOREDKEY, scram->stored_key) != GSASL_OK ||
        gsasl_property_set(l->session, GSASL_SCRAM_SERVERKEY, scram->server_key) != GSASL_OK)
        return GSASL_MALLOC_ERROR;
    return GSASL_OK;
}

static int give_binding(Gsasl_session *session, Gsasl_property property, const char *text)
{
    if (text[0] == '\0')
        return GSASL_NO_CALLBACK;
    return gsasl_property_set(session, property, text);
}

static int on_property(Gsasl *gsasl, Gsasl_session *session, Gsasl_property property)
{
    struct local *l = session != NULL ? gsasl_session_hook_get(session) : NULL;

    (void)gsasl;
    if (l == NULL)
        return GSASL_NO_CALLBACK;
    switch (property) {
    case GSASL_VALIDATE_SIMPLE:
        l->name = copy_property(session, GSASL_AUTHID);
        l->authorize = copy_property(session, GSASL_AUTHZID);
        l->password = copy_property(session, GSASL_PASSWORD);
        return GSASL_OK; /* the answer is ours to give, later */
    case GSASL_SCRAM_ITER:
    case GSASL_SCRAM_SALT:
    case GSASL_SCRAM_STOREDKEY:
    case GSASL_SCRAM_SERVERKEY:
        return give_scram(l);
    case GSASL_CB_TLS_EXPORTER:
        return give_binding(session, property, l->exporter);
    case GSASL_CB_TLS_UNIQUE:
        return give_binding(session, property, l->unique);
    default:
        return GSASL_NO_CALLBACK;
    }
}

Gsasl *auth_local_open(void)
{
    Gsasl *gsasl;

    mr_assert(gsasl_init(&gsasl) == GSASL_OK);
    gsasl_callback_set(gsasl, on_property);
    return gsasl;
}

/* ---- passwords ---- */

static void work(struct slow_job *job)
{
    struct local *l = MR_CONTAINER(job, struct local, job);

    l->fits = auth_entry_verify(&l->lookup.entry, l->prepared);
}

static void release(struct local *l)
{
    wipe(&l->prepared);
    auth_file_unref(l->file);
    free(l);
}

static void done(struct slow_job *job)
{
    struct local *l = MR_CONTAINER(job, struct local, job);
    struct auth *a = l->e.a;

    l->busy = false;
    wipe(&l->prepared);
    if (l->e.ended)
        release(l);
    else
        auth_answer_now(&l->e, l->fits && l->lookup.known ? AUTH_ACCEPTED : AUTH_DENIED, l->e.user);
    auth_job_done(a);
}

/* A user may be nobody but itself. */
static bool is_itself(const struct local *l)
{
    char *prepared;
    bool same;

    if (l->authorize == NULL || l->authorize[0] == '\0')
        return true;
    prepared = auth_prepare(l->authorize, SASL_USER_MAX);
    same = prepared != NULL && strcmp(prepared, l->e.user) == 0;
    free(prepared);
    return same;
}

static struct auth_answer check_password(struct local *l)
{
    struct auth *a = l->e.a;

    l->prepared = l->password != NULL ? auth_prepare(l->password, PASSWORD_MAX) : NULL;
    wipe(&l->password);
    gsasl_property_free(l->session, GSASL_PASSWORD);
    if (!look_up(l) || l->prepared == NULL || !is_itself(l) || auth_file_users(l->file) == 0)
        return (struct auth_answer){AUTH_DENIED, l->e.user};
    l->job.work = work;
    l->job.done = done;
    if (auth_job(a, &l->job) != 0)
        return (struct auth_answer){AUTH_AWAY, "too many logins at once"};
    l->busy = true;
    return (struct auth_answer){AUTH_WAIT, NULL};
}

/* ---- steps ---- */

static struct auth_answer challenge(struct local *l, const char *text, size_t len)
{
    /* Some clients look for these two words, which are not GNU SASL's. */
    static const char *const prompts[] = {"Username:", "Password:"};

    if (l->e.mechanism != SASL_LOGIN)
        return auth_challenge(&l->e, text, len);
    text = prompts[strncmp(text, "Pass", len < 4 ? len : 4) == 0 && len > 0];
    return auth_challenge(&l->e, text, strlen(text));
}

static struct auth_answer proven(struct local *l, const char *text, size_t len)
{
    if (!is_itself(l) || !l->lookup.known)
        return (struct auth_answer){AUTH_DENIED, l->e.user};
    l->proven = true;
    return auth_challenge(&l->e, text, len);
}

static struct auth_answer refused(struct local *l, int rc)
{
    switch (rc) {
    case GSASL_MECHANISM_PARSE_ERROR:
    case GSASL_BASE64_ERROR:
        return (struct auth_answer){AUTH_MALFORMED, l->e.user};
    case GSASL_MALLOC_ERROR:
    case GSASL_CRYPTO_ERROR:
        return (struct auth_answer){AUTH_AWAY, gsasl_strerror(rc)};
    default:
        return (struct auth_answer){AUTH_DENIED, l->e.user};
    }
}

static struct auth_answer step(struct auth_exchange *e, const char *data, size_t len)
{
    struct local *l = LOCAL(e);
    struct auth_answer answer;
    char *out = NULL;
    size_t out_len = 0;
    int rc;

    if (l->proven)
        return (struct auth_answer){len == 0 ? AUTH_ACCEPTED : AUTH_MALFORMED, e->user};
    /* Every message of these mechanisms says something; only LOGIN lets the server speak first. */
    if (len == 0 && data != NULL && (e->begun || e->mechanism != SASL_LOGIN))
        return (struct auth_answer){AUTH_MALFORMED, e->user};
    if (!e->begun && e->mechanism == SASL_LOGIN && len > 0) {
        /* An initial response is the name; GNU SASL would ask for it all the same. */
        rc = gsasl_step(l->session, "", 0, &out, &out_len);
        gsasl_free(out);
        if (rc != GSASL_NEEDS_MORE)
            return refused(l, rc);
        out = NULL;
    }
    rc = gsasl_step(l->session, data != NULL ? data : "", len, &out, &out_len);
    if (rc == GSASL_NEEDS_MORE)
        answer = challenge(l, out, out_len);
    else if (rc != GSASL_OK)
        answer = refused(l, rc);
    else if (e->mechanism & SASL_PASSWORD_SENT)
        answer = check_password(l);
    else
        answer = proven(l, out, out_len);
    gsasl_free(out);
    return answer;
}

static void close_local(struct auth_exchange *e)
{
    struct local *l = LOCAL(e);

    gsasl_finish(l->session);
    l->session = NULL;
    wipe(&l->name);
    wipe(&l->authorize);
    wipe(&l->password);
    if (!l->busy)
        release(l);
}

static void read_binding(const struct tls *tls, enum tls_binding type, char out[AUTH_BINDING_TEXT])
{
    uint8_t bytes[TLS_MAX_BINDING];
    size_t len;

    if (tls_channel_binding(tls, type, bytes, &len) == 0)
        (void)EVP_EncodeBlock((uint8_t *)out, bytes, (int)len);
}

struct auth_exchange *auth_local_begin(struct auth *a, unsigned mechanism, const struct auth_client *client)
{
    struct local *l = mr_calloc(1, sizeof(*l));

    l->e.step = step;
    l->e.close = close_local;
    l->file = auth_store_file(a->store);
    mr_assert(l->file != NULL);
    /* Where binding is not offered a client may say that it could have (RFC 5802 section 6: gs2-cbind-flag "y"). */
    if (client->tls != NULL && (a->mechanisms & SASL_SCRAM_SHA_256_PLUS)) {
        read_binding(client->tls, TLS_BINDING_EXPORTER, l->exporter);
        read_binding(client->tls, TLS_BINDING_UNIQUE, l->unique);
    }
    mr_assert(gsasl_server_start(a->gsasl, sasl_name(mechanism), &l->session) == GSASL_OK);
    gsasl_session_hook_set(l->session, l);
    return &l->e;
}
