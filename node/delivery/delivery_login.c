/* Logging in at a smarthost, the next hop of a route with a user (RFC 4954).
 *
 * Happy path: slot_login -> AUTH and the mechanism's first message -> 334, step, line, as often as it takes -> 235 ->
 * slot_ready. Steps that hash are computed on the slow thread.
 * Failure: the credentials are ours, so whatever the next hop says of them, no message is to blame: the address is
 * given up as if it had not been reached, the mail waits, and the log tells the operator (smarthost_login_failed).
 *
 * What the connection has to be (decided in delivery_tls.c and here): the host proven, by an authority or TLSA records,
 * whatever the policy says but `encrypt` (any TLS will do, then with passwords too) and `none` (no TLS: SCRAM only,
 * which shows nobody the password). */
#include "node/delivery/delivery_internal.h"

#include "node/auth/auth.h"
#include "node/auth/sasl_client.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CHALLENGES = 8 };

struct slot_login {
    struct slot *slot; /* NULL: the connection has ended; the job frees it */
    struct auth *auth;
    struct sasl_client *client;
    unsigned mechanism;
    unsigned challenges;
    struct slow_job job;
    bool busy;
    char challenge[REPLY_TEXT + 1];
    char line[SASL_CLIENT_LINE];
    int rc;
};

static void free_login(struct slot_login *l)
{
    sasl_client_close(l->client);
    OPENSSL_cleanse(l, sizeof(*l));
    free(l);
}

void slot_login_drop(struct slot *s)
{
    struct slot_login *l = s->login;

    s->login = NULL;
    s->logged_in = false;
    if (l == NULL)
        return;
    l->slot = NULL;
    if (!l->busy)
        free_login(l);
}

__attribute__((format(printf, 3, 4))) static void fail(struct slot *s, const char *status, const char *format, ...)
{
    char why[REPLY_TEXT + 100];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    atomic_fetch_add(&s->d->w->counters->smarthost_logins_failed, 1);
    log_event(LOG_ERROR, "smarthost_login_failed", LOG_S("next_hop", s->next_hop), LOG_S("peer", s->peer),
              LOG_S("user", s->hop.user), LOG_S("mechanism", s->login != NULL ? sasl_name(s->login->mechanism) : NULL),
              LOG_B("tls", s->tls != NULL), LOG_S("reason", why));
    slot_refuse(s, status, "%s", why);
}

/* ---- steps ---- */

static void send_line(struct slot *s, const char *before)
{
    char text[SASL_CLIENT_LINE + 64];
    int n = snprintf(text, sizeof(text), "%s%s\r\n", before, s->login->line);

    mr_assert(n > 0 && (size_t)n < sizeof(text));
    slot_write(s, text, (size_t)n);
    OPENSSL_cleanse(text, sizeof(text));
    OPENSSL_cleanse(s->login->line, sizeof(s->login->line));
    slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
}

static void stepped(struct slot *s)
{
    struct slot_login *l = s->login;

    if (l->rc == 0)
        send_line(s, "");
    else if (l->rc == MR_REFUSED)
        fail(s, "4.7.0", "the next hop does not prove that it knows the user, or asks for too little or too much work");
    else
        fail(s, "4.7.0", "the next hop does not speak %s", sasl_name(l->mechanism));
}

static void work(struct slow_job *job)
{
    struct slot_login *l = MR_CONTAINER(job, struct slot_login, job);

    l->rc = sasl_client_step(l->client, l->challenge, l->line);
}

static void done(struct slow_job *job)
{
    struct slot_login *l = MR_CONTAINER(job, struct slot_login, job);
    struct auth *a = l->auth;

    l->busy = false;
    if (l->slot == NULL)
        free_login(l);
    else
        stepped(l->slot);
    auth_job_done(a);
}

/* "334 text": what stands behind the code. */
static const char *challenge_of(const char *text)
{
    const char *blank = strchr(text, ' ');

    return blank != NULL ? blank + 1 : "";
}

static void step(struct slot *s, const char *text)
{
    struct slot_login *l = s->login;
    const char *challenge = challenge_of(text);

    if (++l->challenges > MOST_CHALLENGES || strlen(text) >= REPLY_TEXT) {
        fail(s, "4.7.0", "the next hop asks for too much");
        return;
    }
    (void)snprintf(l->challenge, sizeof(l->challenge), "%s", challenge);
    if (!sasl_client_slow(l->client)) {
        l->rc = sasl_client_step(l->client, l->challenge, l->line);
        stepped(s);
        return;
    }
    l->job.work = work;
    l->job.done = done;
    if (auth_job(l->auth, &l->job) != 0)
        fail(s, "4.7.0", "too many logins at once on this node");
    else
        l->busy = true;
}

void slot_login_reply(struct slot *s, int code, const char *text)
{
    struct slot_login *l = s->login;

    if (l->busy) {
        fail(s, "4.7.0", "the next hop spoke out of turn: %s", text);
    } else if (code == 334) {
        step(s, text);
    } else if (code != 235) {
        fail(s, code / 100 == 5 ? "4.7.8" : "4.7.0", "%s", text);
    } else if (!sasl_client_done(l->client)) {
        fail(s, "4.7.0", "the next hop accepted the login without proving that it knows the user");
    } else {
        log_event(LOG_DEBUG, "smarthost_login", LOG_S("next_hop", s->next_hop), LOG_S("peer", s->peer),
                  LOG_S("user", s->hop.user), LOG_S("mechanism", sasl_name(l->mechanism)));
        slot_login_drop(s);
        s->logged_in = true;
        slot_ready(s);
    }
}

/* ---- the beginning ---- */

static bool trusted(const struct slot *s)
{
    return s->secure.demand >= DEMAND_NAMES || s->secure.policy == MAILRAFT__TLS_POLICY__TLS_POLICY_ENCRYPT;
}

static unsigned offered(const struct slot *s)
{
    static const struct {
        unsigned theirs, ours;
    } map[] = {
        {MECHANISM_PLAIN, SASL_PLAIN},
        {MECHANISM_LOGIN, SASL_LOGIN},
        {MECHANISM_SCRAM_SHA_256, SASL_SCRAM_SHA_256},
        {MECHANISM_SCRAM_SHA_256_PLUS, SASL_SCRAM_SHA_256_PLUS},
    };
    unsigned set = 0;

    for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
        if (s->can.mechanisms & map[i].theirs)
            set |= map[i].ours;
    return set;
}

static void begin(struct slot *s, unsigned mechanism, const char *password)
{
    struct slot_login *l = mr_calloc(1, sizeof(*l));
    char before[32];

    l->slot = s;
    l->auth = s->d->w->auth;
    l->mechanism = mechanism;
    l->client = sasl_client_open(mechanism, s->hop.user, password, s->tls);
    s->login = l;
    s->phase = PHASE_LOGIN;
    (void)snprintf(before, sizeof(before), "AUTH %s%s", sasl_name(mechanism), mechanism != SASL_LOGIN ? " " : "");
    /* LOGIN has no initial response that every server understands. */
    if (l->client == NULL || (mechanism != SASL_LOGIN && sasl_client_step(l->client, NULL, l->line) != 0))
        fail(s, "4.7.0", "the login cannot be begun");
    else
        send_line(s, before);
}

bool slot_login(struct slot *s)
{
    struct worker *w = s->d->w;
    char password[CREDENTIAL_MAX];
    unsigned mechanism;

    if (s->hop.user[0] == '\0' || s->logged_in)
        return false;
    s->phase = PHASE_LOGIN;
    mechanism = sasl_client_choose(offered(s), s->tls, trusted(s));
    if (w->auth == NULL || !auth_store_credential(w->auth_store, s->hop.host, s->hop.port, s->hop.user, password)) {
        fail(s, "4.7.8", "delivery.credentials has no password for this host and user");
        return true;
    }
    if (mechanism == 0)
        fail(s, "4.7.0", "of the mechanisms that %s offers (%s) none may be used here", s->peer,
             s->can.mechanism_names[0] != '\0' ? s->can.mechanism_names : "none");
    else
        begin(s, mechanism, password);
    OPENSSL_cleanse(password, sizeof(password));
    return true;
}
