/* smtp_session_opening.c - from a connection to the greeting: who is it, may it come in, does it wait its turn.
 *
 * begin -> [PROXY header] -> admit (address known: limits, rights) -> [TLS handshake] -> [greeting delay] -> greeting
 * Each wait has one deadline, whatever comes in: smtp_opening_deadline. A connection that fails before it is known to
 * speak plain SMTP is closed without a word. */
#include "node/server/smtp_session_internal.h"
#include "node/server/smtp_xclient.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t now_ms(const struct smtp_session *s)
{
    return uv_now(&s->server->worker->loop);
}

/* ---- who ---- */

static char *put_number(char *at, unsigned n)
{
    if (n >= 10)
        at = put_number(at, n / 10);
    *at = (char)('0' + n % 10);
    return at + 1;
}

static void put_v4(char *at, const uint8_t octets[4])
{
    for (unsigned i = 0; i < 4; i++) {
        at = put_number(at, octets[i]);
        *at++ = i < 3 ? '.' : '\0';
    }
}

/* The address as text, for replies, Received and the log. Without printf, which was half of the work of taking a
 * connection. */
static void name_client(struct smtp_session *s)
{
    const union proxy_address *a = &s->address;
    const char *open = "", *close = "";
    unsigned port;
    char *end;

    if (a->any.sa_family != AF_INET && a->any.sa_family != AF_INET6) { /* XCLIENT ADDR=[UNAVAILABLE] */
        snprintf(s->client.address, sizeof(s->client.address), "unknown");
        snprintf(s->client.peer, sizeof(s->client.peer), "unknown");
        return;
    }
    if (a->any.sa_family == AF_INET6) {
        port = ntohs(a->v6.sin6_port);
        if (IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr))
            put_v4(s->client.address, &a->v6.sin6_addr.s6_addr[12]);
        else
            uv_inet_ntop(AF_INET6, &a->v6.sin6_addr, s->client.address, sizeof(s->client.address));
    } else {
        port = ntohs(a->v4.sin_port);
        put_v4(s->client.address, (const uint8_t *)&a->v4.sin_addr);
    }
    if (strchr(s->client.address, ':') != NULL)
        open = "[", close = "]";
    end = put_number(stpcpy(stpcpy(stpcpy(stpcpy(s->client.peer, open), s->client.address), close), ":"), port);
    *end = '\0';
}

/* ---- limits ---- */

/* The reply, or NULL: the client may go on. Counted and logged. */
static const struct smtp_reply *limit_reply(struct smtp_session *s, enum client_limit limit)
{
    static const struct smtp_reply replies[CLIENT_LIMITS] = {
        [CLIENT_CONNECTIONS] = {421, "4.7.0", "Too many connections from your address, try later"},
        [CLIENT_NETWORK_CONNECTIONS] = {421, "4.7.0", "Too many connections from your network, try later"},
        [CLIENT_CONNECTION_RATE] = {421, "4.7.0", "Too many connections in a short time, try later"},
        [CLIENT_MESSAGE_RATE] = {450, "4.7.1", "Too many messages in a short time, try later"},
        [CLIENT_RECIPIENT_RATE] = {450, "4.7.1", "Too many recipients in a short time, try later"},
        [CLIENT_AUTH_FAILURES] = {421, "4.7.0", "Too many failed logins, try later"},
        [CLIENT_TABLE_FULL] = {421, "4.7.0", "Too many clients, try later"},
    };
    struct cluster_counters *c = s->server->worker->counters;
    atomic_ullong *const counters[CLIENT_LIMITS] = {
        [CLIENT_CONNECTIONS] = &c->limited_connections,
        [CLIENT_NETWORK_CONNECTIONS] = &c->limited_network_connections,
        [CLIENT_CONNECTION_RATE] = &c->limited_connection_rate,
        [CLIENT_MESSAGE_RATE] = &c->limited_messages,
        [CLIENT_RECIPIENT_RATE] = &c->limited_recipients,
        [CLIENT_AUTH_FAILURES] = &c->limited_logins,
        [CLIENT_TABLE_FULL] = &c->limited_clients,
    };

    if (limit == CLIENT_OK)
        return NULL;
    atomic_fetch_add_explicit(counters[limit], 1, memory_order_relaxed);
    log_event(LOG_INFO, "limited", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
              LOG_S("helo", s->client.helo), LOG_S("limit", client_limit_name(limit)));
    return &replies[limit];
}

void smtp_session_junk(struct smtp_session *s)
{
    atomic_fetch_add_explicit(&s->server->worker->counters->junk_clients, 1, memory_order_relaxed);
    smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Too many commands without mail"));
}

bool smtp_session_limited(struct smtp_session *s, enum client_limit rate)
{
    struct client_table *table = s->server->worker->clients;

    if (client_take(table, &s->pass, rate, mr_boot_ns(&mr_clock_real)))
        return false;
    if (++s->junk > s->server->limits.junk) /* it has been told often enough */
        smtp_session_junk(s);
    else
        smtp_session_refuse(s, limit_reply(s, rate));
    return true;
}

bool smtp_session_login_allowed(struct smtp_session *s)
{
    struct client_table *table = s->server->worker->clients;

    if (client_may(table, &s->pass, CLIENT_AUTH_FAILURES, mr_boot_ns(&mr_clock_real)))
        return true;
    smtp_session_bye(s, limit_reply(s, CLIENT_AUTH_FAILURES));
    return false;
}

void smtp_session_login_failed(struct smtp_session *s)
{
    (void)client_take(s->server->worker->clients, &s->pass, CLIENT_AUTH_FAILURES, mr_boot_ns(&mr_clock_real));
}

/* ---- greeting ---- */

/* Before the greeting: the last word, if the client can read one. */
static void refuse(struct smtp_session *s, const struct smtp_reply *why)
{
    if (s->tls_mode == TLS_IMPLICIT && s->opening != OPENING_DELAY) {
        log_event(LOG_INFO, "rejected", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("stage", "opening"), LOG_N("code", why->code), LOG_S("status", why->status),
                  LOG_S("reply", why->text));
        atomic_fetch_add_explicit(&s->server->worker->counters->rejected, 1, memory_order_relaxed);
        smtp_session_drop(s);
        return;
    }
    smtp_session_bye(s, why);
    s->linger = false; /* nothing was read that a reset could follow; a flood of clients is not waited for */
}

static void greeting(struct smtp_session *s)
{
    char text[SMTP_MAX_DOMAIN + 32];

    (void)stpcpy(stpcpy(stpcpy(text, s->server->worker->config->smtp.hostname), s->lmtp ? " LMTP" : " ESMTP"),
                 " mailraft");
    s->active_ms = now_ms(s);
    smtp_session_reply(s, SMTP_REPLY(220, NULL, text));
}

static void greet(struct smtp_session *s)
{
    const struct smtp_reply *why = smtp_readiness(s->server, SMTP_AT_GREETING);

    if (why != NULL) {
        refuse(s, why);
        return;
    }
    smtp_session_move(s, SMTP_GREETED);
    greeting(s);
}

void smtp_opening_secured(struct smtp_session *s)
{
    const struct smtp_limits *limits = &s->server->limits;

    s->opening = OPENING_DELAY;
    /* Programs that people wait for are not kept waiting; a queue that delivers locally does not guess either. */
    if (limits->greeting_delay_ms == 0 || s->profile != PROFILE_MX || s->xclient ||
        client_is_exempt(s->server->worker->clients, &s->address.any)) {
        greet(s);
        return;
    }
    s->greet_ms = now_ms(s) + limits->greeting_delay_ms;
}

/* RFC 5321 section 4.3.1: a client waits for the greeting. Who does not is a program that has no queue. */
void smtp_opening_early(struct smtp_session *s)
{
    atomic_fetch_add_explicit(&s->server->worker->counters->early_talkers, 1, memory_order_relaxed);
    smtp_session_bye(s, SMTP_REPLY(554, "5.5.1", "You have to wait for the greeting"));
}

/* ---- admission ---- */

/* Its address is known. */
static void admit(struct smtp_session *s)
{
    const struct config *c = s->server->worker->config;
    const struct smtp_reply *why;

    s->relay = network_contains(&c->smtp.relay_from, &s->address.any);
    s->xclient = network_contains(&c->smtp.xclient_from, &s->address.any) && (c->smtp.disable & SMTP_XCLIENT) == 0;
    /* Who speaks for others is counted as them. */
    if (!s->xclient) {
        why = limit_reply(
            s, client_enter(s->server->worker->clients, &s->address.any, mr_boot_ns(&mr_clock_real), &s->pass));
        if (why != NULL) {
            refuse(s, why);
            return;
        }
    }
    s->opening = OPENING_TLS;
    if (s->tls_mode == TLS_IMPLICIT)
        smtp_tls_begin(s);
    else
        smtp_opening_secured(s);
}

void smtp_opening_begin(struct smtp_session *s, const struct smtp_listener *listener)
{
    static const struct smtp_reply too_many = {421, "4.7.0", "Too many sessions, try later"};
    const struct worker *w = s->server->worker;

    name_client(s);
    if (atomic_load_explicit(&w->counters->sessions_open, memory_order_relaxed) > s->server->limits.sessions) {
        refuse(s, &too_many);
        return;
    }
    if (!listener->proxy) {
        admit(s);
        return;
    }
    if (!network_contains(&w->config->smtp.proxy_from, &s->address.any)) {
        atomic_fetch_add_explicit(&w->counters->rejected, 1, memory_order_relaxed);
        log_event(LOG_WARN, "proxy_refused", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("reason", "not one of smtp.proxy_from"));
        smtp_session_drop(s);
        return;
    }
    s->opening = OPENING_PROXY;
    s->proxy = mr_malloc(sizeof(*s->proxy));
    proxy_header_init(s->proxy);
}

size_t smtp_opening_feed(struct smtp_session *s, const uint8_t *bytes, size_t len)
{
    size_t used;
    int rc = proxy_header_feed(s->proxy, bytes, len, &used);

    if (rc == MR_MORE)
        return len;
    if (rc != 0) {
        atomic_fetch_add_explicit(&s->server->worker->counters->rejected, 1, memory_order_relaxed);
        log_event(LOG_WARN, "proxy_refused", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("reason", mr_strerror(rc)));
        smtp_session_drop(s);
        return len;
    }
    if (s->proxy->known) {
        s->address = s->proxy->source;
        name_client(s);
    }
    free(s->proxy);
    s->proxy = NULL;
    admit(s);
    return used;
}

/* ---- XCLIENT ---- */

/* As if the client had connected itself. What is not given stays as it was, but for the name that it gave itself. */
static void take_place(struct smtp_session *s, const struct smtp_xclient *x)
{
    const struct config *c = s->server->worker->config;
    in_port_t port = s->address.any.sa_family == AF_INET6 ? s->address.v6.sin6_port : s->address.v4.sin_port;

    if ((x->given & XCLIENT_ADDR) != 0)
        s->address = x->address;
    if ((x->given & XCLIENT_PORT) != 0)
        port = htons(x->port);
    if (s->address.any.sa_family == AF_INET6)
        s->address.v6.sin6_port = port;
    else if (s->address.any.sa_family == AF_INET)
        s->address.v4.sin_port = port;
    name_client(s);
    /* What the proxy itself has proved to be, by a login or a certificate, is not this client's; and another address is
     * another client, who is not the user that the one before it was. */
    if (!s->user_told || (x->given & XCLIENT_ADDR) != 0)
        smtp_login_forget(s);
    if ((x->given & XCLIENT_LOGIN) != 0) {
        (void)snprintf(s->user, sizeof(s->user), "%s", x->login);
        s->user_told = true;
    }
    s->login.relay = network_contains(&c->smtp.relay_from, &s->address.any);
    s->relay = s->login.relay || s->user[0] != '\0';
    s->client.helo[0] = '\0';
    if ((x->given & XCLIENT_HELO) != 0)
        memcpy(s->client.helo, x->helo, sizeof(x->helo));
    s->client.esmtp = (x->given & XCLIENT_PROTO) == 0 || x->esmtp;
    /* Only who has said EHLO, or is said to have, may use what is offered; and to it other things may be. */
    s->extensions = s->client.helo[0] != '\0' && s->client.esmtp ? smtp_session_offers(s) : 0;
}

void smtp_session_become(struct smtp_session *s, const struct smtp_xclient *x)
{
    struct client_table *table = s->server->worker->clients;
    char by[sizeof(s->client.peer)];
    const struct smtp_reply *why;

    memcpy(by, s->client.peer, sizeof(by));
    take_place(s, x);
    client_leave(table, &s->pass);
    why = limit_reply(s, client_enter(table, &s->address.any, mr_boot_ns(&mr_clock_real), &s->pass));
    log_event(LOG_INFO, "xclient", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer), LOG_S("by", by),
              LOG_S("name", x->name[0] != '\0' ? x->name : NULL), LOG_S("user", s->user[0] != '\0' ? s->user : NULL));
    if (why != NULL) {
        smtp_session_bye(s, why);
        return;
    }
    if (s->state == SMTP_READY)
        smtp_session_move(s, SMTP_GREETED);
    why = smtp_readiness(s->server, SMTP_AT_GREETING);
    if (why != NULL) {
        smtp_session_bye(s, why);
        return;
    }
    greeting(s);
    if (s->client.helo[0] != '\0')
        smtp_session_move(s, SMTP_READY);
}

/* ---- time ---- */

uint64_t smtp_opening_deadline(const struct smtp_session *s)
{
    return s->opening == OPENING_DELAY ? s->greet_ms : s->started_ms + s->server->limits.opening_ms;
}

void smtp_opening_timeout(struct smtp_session *s)
{
    if (s->opening == OPENING_DELAY) {
        greet(s);
        return;
    }
    log_event(LOG_INFO, "opening_timeout", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
              LOG_S("awaited", s->opening == OPENING_PROXY ? "PROXY header" : "TLS handshake"));
    smtp_session_drop(s);
}
