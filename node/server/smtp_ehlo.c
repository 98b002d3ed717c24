/* smtp_ehlo.c - what is offered to this client now, and the reply to EHLO that says so. What is not offered is not
 * taken: parameters are read by the same bits. */
#include "node/server/smtp_session.h"

#include "node/mail/smtp_text.h"
#include "node/server/smtp_xclient.h"
#include "proto/base/clock.h"
#include "proto/base/panic.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

unsigned smtp_session_offers(const struct smtp_session *s)
{
    const struct config *c = s->server->worker->config;
    unsigned offered = SMTP_PIPELINING | SMTP_SIZE | SMTP_8BITMIME | SMTP_SMTPUTF8 | SMTP_CHUNKING | SMTP_BINARYMIME |
                       SMTP_DSN | SMTP_ENHANCEDSTATUSCODES | SMTP_LIMITS | SMTP_MT_PRIORITY | SMTP_DELIVERBY |
                       SMTP_HELP;
    char login[SASL_NAMES + 8];

    if (s->profile == PROFILE_SUBMISSION) /* RFC 4865 section 3: for submission only */
        offered |= SMTP_FUTURERELEASE;
    if (smtp_session_offers_tls(s))
        offered |= SMTP_STARTTLS;
    if (s->tls != NULL) /* RFC 8689 section 2 */
        offered |= SMTP_REQUIRETLS;
    if (s->xclient)
        offered |= SMTP_XCLIENT;
    /* Also for the parameter of MAIL, after a login. */
    if (s->user[0] != '\0' || smtp_login_capability(s, login))
        offered |= SMTP_AUTH;
    /* Some node would not know what such a message asks for. */
    if (s->server->ops->version(s->server->worker->cluster) < 2)
        offered &=
            ~(unsigned)(SMTP_BINARYMIME | SMTP_REQUIRETLS | SMTP_MT_PRIORITY | SMTP_DELIVERBY | SMTP_FUTURERELEASE);
    offered &= ~c->smtp.disable;
    /* Each stands on another: RFC 6531 section 3.1, RFC 3030 section 3. */
    if (!(offered & SMTP_8BITMIME))
        offered &= ~(unsigned)(SMTP_SMTPUTF8 | SMTP_BINARYMIME);
    if (!(offered & SMTP_CHUNKING))
        offered &= ~(unsigned)SMTP_BINARYMIME;
    return offered;
}

struct lines {
    char text[1024];
    size_t len;
};

static void add_text(struct lines *l, const char *text)
{
    size_t n = strlen(text);

    mr_assert(n < sizeof(l->text) - l->len);
    memcpy(l->text + l->len, text, n + 1);
    l->len += n;
}

__attribute__((format(printf, 2, 3))) static void add(struct lines *l, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(l->text + l->len, sizeof(l->text) - l->len, format, args);
    va_end(args);
    mr_assert(n >= 0 && (size_t)n < sizeof(l->text) - l->len); /* each part has its own limit */
    l->len += (size_t)n;
}

/* Keywords that say how much, or which. */
static void add_limits(struct lines *l, const struct smtp_session *s, unsigned offered)
{
    const struct config *c = s->server->worker->config;
    const struct smtp_limits *limits = &s->server->limits;
    char until[SMTP_TIME_SIZE];
    char login[SASL_NAMES + 8];

    if (offered & SMTP_SIZE)
        add(l, "\nSIZE %" PRIu64, limits->message_size);
    if (offered & SMTP_LIMITS)
        /* RFC 9422 section 4 has numbers of at most six digits. */
        add(l, "\nLIMITS MAILMAX=%u RCPTMAX=%u", limits->transactions < 999999 ? limits->transactions : 999999,
            limits->recipients);
    if (offered & SMTP_DELIVERBY)
        add(l, "\nDELIVERBY %" PRIu64, c->smtp.min_deliver_by_ms / 1000);
    if (offered & SMTP_FUTURERELEASE)
        add(l, "\nFUTURERELEASE %" PRIu64 " %s", c->smtp.max_hold_ms / 1000,
            smtp_time_format(mr_wall_ms(&mr_clock_real) + c->smtp.max_hold_ms, until));
    if ((offered & SMTP_AUTH) && smtp_login_capability(s, login))
        add(l, "\n%s", login);
    if (offered & SMTP_XCLIENT)
        add(l, "\nXCLIENT " SMTP_XCLIENT_ATTRIBUTES);
}

void smtp_session_greet_back(struct smtp_session *s)
{
    static const struct {
        unsigned extension;
        const char *line;
    } plain[] = {
        {SMTP_PIPELINING, "\nPIPELINING"},
        {SMTP_8BITMIME, "\n8BITMIME"},
        {SMTP_SMTPUTF8, "\nSMTPUTF8"},
        {SMTP_CHUNKING, "\nCHUNKING"},
        {SMTP_BINARYMIME, "\nBINARYMIME"},
        {SMTP_DSN, "\nDSN"},
        {SMTP_REQUIRETLS, "\nREQUIRETLS"},
        {SMTP_MT_PRIORITY, "\nMT-PRIORITY"},
        {SMTP_ENHANCEDSTATUSCODES, "\nENHANCEDSTATUSCODES"},
        {SMTP_STARTTLS, "\nSTARTTLS"},
        {SMTP_HELP, "\nHELP"},
    };
    unsigned offered = smtp_session_offers(s);
    struct lines l;

    s->extensions = offered;
    l.len = 0;
    add_text(&l, s->server->worker->config->smtp.hostname);
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
        if (offered & plain[i].extension)
            add_text(&l, plain[i].line);
    add_limits(&l, s, offered);
    smtp_session_reply(s, SMTP_REPLY(250, NULL, l.text));
}
