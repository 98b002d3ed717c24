/* smtp_session_tls.c - TLS on a session: STARTTLS (RFC 3207) or from the first byte on (RFC 8314).
 *
 * Happy path: STARTTLS -> decide: 220, forget, begin -> feed (handshake) -> opened -> feed, plain text to the stream.
 * Failure: bytes behind STARTTLS end the session (CVE-2011-0411); so does whatever is no handshake, a broken record, a
 * handshake that takes too long. What TLS says about it is still sent, nothing in plain text is. */
#include "node/server/smtp_session_internal.h"

#include "node/tls/tls_server.h"
#include "proto/base/log.h"

#include <stdio.h>
#include <string.h>

static const char *certificate_text(enum tls_client certificate)
{
    static const char *const texts[] = {
        [TLS_CLIENT_NONE] = "none",
        [TLS_CLIENT_UNKNOWN] = "not verified",
        [TLS_CLIENT_VERIFIED] = "verified",
        [TLS_CLIENT_LISTED] = "listed",
    };

    return texts[certificate];
}

bool smtp_session_offers_tls(const struct smtp_session *s)
{
    const struct worker *w = s->server->worker;

    return s->tls == NULL && (s->tls_mode == TLS_OFFERED || s->tls_mode == TLS_REQUIRED) && w->tls != NULL &&
           (w->config->smtp.disable & SMTP_STARTTLS) == 0;
}

bool smtp_session_needs_tls(const struct smtp_session *s)
{
    return s->tls_mode == TLS_REQUIRED && s->tls == NULL;
}

const char *smtp_session_tls_comment(const struct smtp_session *s, char out[SMTP_MAX_TLS_COMMENT])
{
    size_t len;

    out[0] = '\0';
    if (s->tls == NULL || s->handshaking)
        return out;
    (void)tls_comment(s->tls, out);
    len = strlen(out);
    if (s->certificate != TLS_CLIENT_NONE)
        (void)snprintf(out + len, SMTP_MAX_TLS_COMMENT - len, "\r\n\t(client certificate %s)",
                       certificate_text(s->certificate));
    return out;
}

/* ---- STARTTLS ---- */

void smtp_session_starttls(struct smtp_session *s)
{
    if (s->tls != NULL)
        smtp_session_refuse(s, SMTP_REPLY(503, "5.5.1", "TLS is on already"));
    else if (s->tls_mode == TLS_OFF || (s->server->worker->config->smtp.disable & SMTP_STARTTLS) != 0)
        smtp_session_refuse(s, SMTP_REPLY(502, "5.5.1", "Command not implemented"));
    else if (s->server->worker->tls == NULL)
        smtp_session_refuse(s, SMTP_REPLY(454, "4.7.0", "TLS not available"));
    else
        s->starttls = true; /* the stream asks for the decision when it has looked what stands behind */
}

/* RFC 3207 section 4.2: nothing that was said without protection counts. */
static void forget(struct smtp_session *s)
{
    if (s->transaction != NULL)
        smtp_session_reset(s);
    if (s->state == SMTP_READY)
        smtp_session_move(s, SMTP_GREETED);
    s->client.helo[0] = '\0';
    s->client.esmtp = false;
    smtp_login_forget(s);
    s->extensions = 0;
    s->relay = network_contains(&s->server->worker->config->smtp.relay_from, &s->address.any);
}

void smtp_tls_decide(struct smtp_session *s, size_t behind)
{
    s->starttls = false;
    if (behind > 0) {
        log_event(LOG_WARN, "starttls_injection", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
                  LOG_S("helo", s->client.helo), LOG_N("octets", behind));
        smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Nothing may follow STARTTLS before the handshake, closing"));
        return;
    }
    smtp_session_reply(s, SMTP_REPLY(220, "2.0.0", "Ready to start TLS"));
    smtp_stream_flush(s);
    if (s->id == 0)
        return;
    forget(s);
    smtp_tls_begin(s);
}

void smtp_tls_begin(struct smtp_session *s)
{
    s->contexts = tls_server_ref(s->server->worker->tls);
    s->tls = tls_server_accept(s->contexts);
    s->handshaking = true;
    s->handshake_ms = smtp_session_now_ms(s);
}

/* ---- the handshake, and after it ---- */

static void opened(struct smtp_session *s)
{
    struct cluster_counters *counters = s->server->worker->counters;
    char name[256];

    atomic_fetch_add_explicit(&counters->tls_in, 1, memory_order_relaxed);
    if (tls_resumed(s->tls))
        atomic_fetch_add_explicit(&counters->tls_in_resumed, 1, memory_order_relaxed);
    s->handshaking = false;
    s->active_ms = smtp_session_now_ms(s);
    s->client.tls = tls_version(s->tls);
    s->certificate = tls_server_client(s->contexts, s->tls);
    tls_server_unref(s->contexts);
    s->contexts = NULL;
    if (s->certificate == TLS_CLIENT_VERIFIED || s->certificate == TLS_CLIENT_LISTED)
        s->relay = true;
    log_event(s->certificate == TLS_CLIENT_NONE ? LOG_DEBUG : LOG_INFO, "tls_opened",
              LOG_S("client", s->client.address), LOG_S("peer", s->client.peer), LOG_S("tls_version", s->client.tls),
              LOG_S("tls_cipher", tls_cipher(s->tls)), LOG_S("server_name", tls_server_name(s->tls)),
              LOG_B("resumed", tls_resumed(s->tls)), LOG_S("certificate", certificate_text(s->certificate)),
              LOG_S("certificate_name", tls_peer_name(s->tls, name, sizeof(name))));
    if (s->state == SMTP_OPENING)
        smtp_opening_secured(s);
}

/* A client that goes without close_notify, as many do, is no event; one that does not get through the handshake is. */
static void log_failure(const struct smtp_session *s, bool in_handshake, const char *why)
{
    atomic_fetch_add_explicit(&s->server->worker->counters->tls_in_failed, 1, memory_order_relaxed);
    log_event(LOG_INFO, "tls_failed", LOG_S("client", s->client.address), LOG_S("peer", s->client.peer),
              LOG_S("stage", in_handshake ? "handshake" : smtp_session_stage(s)),
              LOG_S("server_name", tls_server_name(s->tls)), LOG_S("reason", why));
}

void smtp_tls_ended(struct smtp_session *s, const char *why)
{
    if (s->handshaking) {
        tls_eof(s->tls);
        log_failure(s, true, why != NULL ? why : tls_error(s->tls));
        s->handshaking = false;
    }
    smtp_session_drop(s);
}

/* All records that are there, so that what stands behind a command is seen as it is in plain text. */
static size_t read_records(struct smtp_session *s)
{
    struct smtp_server *server = s->server;
    size_t len = 0, n;

    while (len < sizeof(server->in) && (n = tls_read(s->tls, server->in + len, sizeof(server->in) - len)) > 0)
        len += n;
    return len;
}

void smtp_tls_pump(struct smtp_session *s)
{
    struct smtp_server *server = s->server;
    size_t n;

    if (s->handshaking && tls_state(s->tls) == TLS_OPEN)
        opened(s);
    while (s->id != 0 && smtp_stream_can_consume(s) && (n = read_records(s)) > 0)
        smtp_stream_take(s, server->in, n);
    if (s->id == 0 || !smtp_stream_can_consume(s))
        return;
    if (tls_state(s->tls) == TLS_BROKEN) {
        log_failure(s, s->handshaking, tls_error(s->tls));
        s->handshaking = false;
    } else if (tls_state(s->tls) != TLS_ENDED) {
        return;
    }
    smtp_stream_flush(s); /* the replies to what came before the end, or the alert */
    if (s->id != 0)
        smtp_session_drop(s);
}

void smtp_tls_feed(struct smtp_session *s, const uint8_t *p, size_t len)
{
    tls_feed(s->tls, p, len);
    smtp_tls_pump(s);
}
