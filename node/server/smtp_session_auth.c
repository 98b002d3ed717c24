/* smtp_session_auth.c - AUTH (RFC 4954): who may try, the lines of an exchange, and what came of it.
 *
 * Happy path: AUTH -> auth_begin, auth_step -> 334 and a line of the client, as often as the mechanism wants -> 235.
 * A "no" is told after a pause, during which nothing of this client is looked at; the loop serves others meanwhile. */
#include "node/server/smtp_session.h"

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <gsasl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_FAILURES = 3,     /* a session; then 421 */
    DELAY_MS = 1000,       /* after the first failure; doubles */
    MOST_CHALLENGE = 1536, /* octets of base64: what a reply of ours may hold; a client's nonce is part of it */
};

static const struct smtp_reply malformed = {501, "5.5.2", "That is no message of this mechanism"};
static const struct smtp_reply no_base64 = {501, "5.5.2", "That is not base64"};
static const struct smtp_reply cancelled = {501, "5.7.0", "Authentication cancelled"};
static const struct smtp_reply too_long = {500, "5.5.6", "Authentication exchange line is too long"};

static void on_answer(void *arg, const struct auth_answer *answer);

/* ---- who may try ---- */

static bool is_loopback(const struct smtp_session *s)
{
    static struct network networks[] = {{AF_INET, {127}, 8}, {AF_INET6, {[15] = 1}, 128}};
    static const struct network_list loopback = {networks, 2};

    return network_contains(&loopback, &s->address.any);
}

/* Passwords cross this connection unseen. */
static bool is_private(const struct smtp_session *s)
{
    return s->tls != NULL || (s->login.plain && is_loopback(s));
}

/* Logins belong to submission (RFC 6409); a port that takes mail from everyone would only lend itself to guessing. */
static unsigned offered(const struct smtp_session *s)
{
    const struct worker *w = s->server->worker;

    if (w->auth == NULL || s->profile != PROFILE_SUBMISSION || (w->config->smtp.disable & SMTP_AUTH))
        return 0;
    return auth_offered(w->auth, s->tls);
}

bool smtp_login_capability(const struct smtp_session *s, char out[SASL_NAMES + 8])
{
    unsigned set = is_private(s) && s->user[0] == '\0' ? offered(s) : 0;
    char names[SASL_NAMES];

    out[0] = '\0';
    if (set == 0)
        return false;
    (void)snprintf(out, SASL_NAMES + 8, "AUTH %s", sasl_names(set, names));
    return true;
}

/* ---- the end of an exchange ---- */

void smtp_login_drop(struct smtp_session *s)
{
    auth_end(s->login.exchange);
    s->login.exchange = NULL;
    s->login.waiting = false;
    s->login.until_ms = 0;
}

void smtp_login_forget(struct smtp_session *s)
{
    if (s->user[0] == '\0')
        return;
    OPENSSL_cleanse(s->user, sizeof(s->user));
    s->relay = s->login.relay;
}

/* It is over: back to commands. */
static void leave(struct smtp_session *s)
{
    smtp_login_drop(s);
    if (s->state == SMTP_LOGIN)
        smtp_session_move(s, SMTP_READY);
}

static void count(atomic_ullong *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void accept_user(struct smtp_session *s, const char *user, const char *mechanism)
{
    (void)snprintf(s->user, sizeof(s->user), "%s", user);
    s->user_told = false;
    s->login.relay = s->relay;
    s->relay = true;
    s->login.failures = 0;
    count(&s->server->worker->counters->logins);
    log_event(LOG_INFO, "auth_ok", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
              LOG_S("helo", s->client.helo), LOG_S("user", s->user), LOG_S("mechanism", mechanism),
              LOG_B("tls", s->tls != NULL));
    leave(s);
    smtp_session_reply(s, SMTP_REPLY(235, "2.7.0", "Authentication successful"));
}

static void deny(struct smtp_session *s, const char *user, const char *mechanism)
{
    s->login.failures++;
    count(&s->server->worker->counters->logins_failed);
    log_event(LOG_WARN, "auth_failed", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
              LOG_S("helo", s->client.helo), LOG_S("user", user), LOG_S("mechanism", mechanism),
              LOG_B("tls", s->tls != NULL), LOG_N("failures", s->login.failures));
    smtp_session_login_failed(s);
    smtp_login_drop(s);
    s->login.waiting = true;
    s->login.until_ms = uv_now(&s->server->worker->loop) + ((uint64_t)DELAY_MS << (s->login.failures - 1));
}

uint64_t smtp_login_deadline(const struct smtp_session *s)
{
    /* An answer comes in any case: who checks has limits of its own. */
    return s->login.until_ms != 0 ? s->login.until_ms : uv_now(&s->server->worker->loop) + s->server->limits.idle_ms;
}

void smtp_login_timeout(struct smtp_session *s)
{
    if (s->login.until_ms == 0)
        return;
    s->active_ms = uv_now(&s->server->worker->loop);
    leave(s);
    smtp_session_refuse(s, SMTP_REPLY(535, "5.7.8", "Authentication failed"));
    if (s->state == SMTP_READY && s->login.failures >= MOST_FAILURES)
        smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Too many failed logins"));
}

/* ---- the exchange ---- */

/* The clients that come meanwhile set no pace for the log. */
static void log_away(const struct smtp_session *s, const char *mechanism, const char *reason)
{
    struct smtp_server *server = s->server;
    uint64_t now = uv_now(&server->worker->loop);

    if (server->away_logged_ms != 0 && now - server->away_logged_ms < SMTP_LOG_AWAY_MS) {
        server->away_unlogged++;
        return;
    }
    log_event(LOG_ERROR, "auth_unavailable", LOG_S("client", s->client.address), LOG_S("mechanism", mechanism),
              LOG_S("reason", reason), LOG_N("not_logged", server->away_unlogged));
    server->away_logged_ms = now;
    server->away_unlogged = 0;
}

static void challenge(struct smtp_session *s, const char *text)
{
    if (strlen(text) > MOST_CHALLENGE) {
        leave(s);
        smtp_session_refuse(s, &too_long);
        return;
    }
    smtp_session_challenge(s, text);
}

static void take_answer(struct smtp_session *s, const struct auth_answer *answer)
{
    const char *mechanism = sasl_name(auth_mechanism_of(s->login.exchange));

    s->login.waiting = answer->verdict == AUTH_WAIT;
    switch (answer->verdict) {
    case AUTH_WAIT:
        break;
    case AUTH_CHALLENGE:
        challenge(s, answer->text);
        break;
    case AUTH_ACCEPTED:
        accept_user(s, answer->text, mechanism);
        break;
    case AUTH_DENIED:
        deny(s, answer->text, mechanism);
        break;
    case AUTH_AWAY:
        count(&s->server->worker->counters->logins_unavailable);
        log_away(s, mechanism, answer->text);
        leave(s);
        smtp_session_refuse(s, SMTP_REPLY(454, "4.7.0", "Temporary authentication failure, try later"));
        smtp_session_error(s); /* no fault of the client, but it may not ask for ever */
        break;
    case AUTH_MALFORMED:
        leave(s);
        smtp_session_refuse(s, &malformed);
        break;
    }
}

/* s lives: its end ends the exchange, and with it this callback. */
static void on_answer(void *arg, const struct auth_answer *answer)
{
    struct smtp_session *s = arg;

    s->active_ms = uv_now(&s->server->worker->loop);
    take_answer(s, answer);
    smtp_session_resume(s);
}

/* base64 of the client. False: it is none. */
static bool decode(const char *text, size_t len, char **out, size_t *out_len)
{
    char *raw;

    if (len == 0) {
        *out = mr_strdup("");
        *out_len = 0;
        return true;
    }
    if (gsasl_base64_from(text, len, &raw, out_len) != GSASL_OK)
        return false;
    *out = mr_memdup(raw, *out_len);
    OPENSSL_cleanse(raw, *out_len);
    gsasl_free(raw);
    return true;
}

static void step(struct smtp_session *s, const char *data, size_t len)
{
    struct auth_answer answer = auth_step(s->login.exchange, data, len);

    take_answer(s, &answer);
}

void smtp_login_line(struct smtp_session *s, const char *line, size_t len)
{
    const struct smtp_reply *why = NULL;
    char *data = NULL;
    size_t n = 0;

    if (line == NULL || len > SASL_BASE64_MAX)
        why = &too_long;
    else if (len == 1 && line[0] == '*')
        why = &cancelled;
    else if (!decode(line, len, &data, &n))
        why = &no_base64;
    if (why != NULL) {
        leave(s);
        smtp_session_refuse(s, why);
        return;
    }
    step(s, data, n);
    OPENSSL_cleanse(data, n);
    free(data);
}

/* Why AUTH cannot be begun; NULL: it can. */
static const struct smtp_reply *check(const struct smtp_session *s, unsigned set)
{
    static const struct smtp_reply twice = {503, "5.5.1", "Authenticated already"};
    static const struct smtp_reply not_now = {503, "5.5.1", "EHLO first, and not within a transaction"};
    static const struct smtp_reply not_here = {502, "5.5.1", "No authentication here"};
    static const struct smtp_reply no_tls = {538, "5.7.11", "Encryption required: STARTTLS first"};

    if (set == 0)
        return &not_here;
    if (s->user[0] != '\0')
        return &twice;
    if (s->state != SMTP_READY || !s->client.esmtp)
        return &not_now;
    return is_private(s) ? NULL : &no_tls;
}

void smtp_login_begin(struct smtp_session *s, struct smtp_slice args)
{
    static const struct smtp_reply unknown = {504, "5.5.4", "Mechanism not offered"};
    unsigned set = offered(s);
    const struct smtp_reply *why = check(s, set);
    const char *blank = memchr(args.at, ' ', args.len);
    size_t name_len = blank != NULL ? (size_t)(blank - args.at) : args.len;
    unsigned mechanism = sasl_find(args.at, name_len);
    struct smtp_slice initial = {args.at + name_len, args.len - name_len};
    struct auth_client client = {.remote = s->client.address, .tls = s->tls};
    char *data = NULL;
    size_t len = 0;

    while (initial.len > 0 && *initial.at == ' ')
        initial = (struct smtp_slice){initial.at + 1, initial.len - 1};
    if (why == NULL && (mechanism & set) == 0)
        why = &unknown;
    if (why == NULL && initial.len > SASL_BASE64_MAX)
        why = &too_long;
    /* "=" is an initial response of nothing; no initial response is none. */
    if (why == NULL && initial.len > 0 &&
        !decode(initial.at, smtp_slice_is(initial, "=") ? 0 : initial.len, &data, &len))
        why = &no_base64;
    if (why != NULL) {
        smtp_session_refuse(s, why);
        return;
    }
    if (smtp_session_login_allowed(s)) {
        smtp_session_move(s, SMTP_LOGIN);
        s->login.exchange = auth_begin(s->server->worker->auth, mechanism, &client, on_answer, s);
        step(s, data, len);
    }
    if (data != NULL)
        OPENSSL_cleanse(data, len);
    free(data);
}
