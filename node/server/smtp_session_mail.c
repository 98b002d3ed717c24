/* smtp_session_mail.c - MAIL and RCPT: who may send what to whom, and what was asked for with it.
 *
 * Happy path: parse (smtp_command.h) -> policy of this listener and client -> limits of this server -> envelope.
 * Everything that this server cannot honour is refused here, before the text. */
#include "node/server/smtp_session.h"

#include "node/auth/auth.h"
#include "node/mail/smtp_idn.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The mailbox with its domain in A-labels, so that one domain is never two. MR_MALFORMED, MR_LIMIT. */
static int to_ascii_domain(const struct smtp_path *path, char out[SMTP_MAX_ADDRESS + 1])
{
    memcpy(out, path->address, path->len);
    out[path->len] = '\0';
    if (!path->utf8_domain)
        return 0;
    return smtp_idn_to_ascii(path->domain, path->domain_len, out + path->local_len + 1);
}

/* ---- MAIL ---- */

/* NULL: this client may send as this user, on this listener. */
static const struct smtp_reply *check_client(const struct smtp_session *s)
{
    static const struct smtp_reply authenticate = {530, "5.7.0", "Authentication required"};

    return s->profile == PROFILE_SUBMISSION && !s->relay && s->user[0] == '\0' ? &authenticate : NULL;
}

static const struct smtp_reply *check_sender(const struct smtp_session *s, const char *reverse_path)
{
    static const struct smtp_reply not_own = {553, "5.7.1", "This user may not send from this address"};
    const struct worker *w = s->server->worker;

    /* The null path is for reports, which programs of a user may have to send. */
    if (s->user[0] == '\0' || reverse_path[0] == '\0' || w->auth == NULL ||
        auth_sender_allowed(auth_shared(w->auth), s->user, reverse_path))
        return NULL;
    return &not_own;
}

/* RFC 2852 section 4; the shortest time is for by-mode R only: who wants only to be told may ask for anything. */
static const struct smtp_reply *take_deliver_by(const struct smtp_session *s, const struct smtp_mail *m,
                                                struct smtp_envelope *e)
{
    static const struct smtp_reply too_short = {555, "5.5.4", "BY= asks for less time than DELIVERBY allows"};

    if (m->by == BY_NOT_GIVEN)
        return NULL;
    if (m->by == BY_RETURN && (uint64_t)m->by_s * 1000 < s->server->worker->config->smtp.min_deliver_by_ms)
        return &too_short;
    e->by = m->by;
    e->by_trace = m->by_trace;
    /* A time that has passed already is as good as one that passes at once. */
    e->by_for_ms = m->by_s > 0 ? (uint64_t)m->by_s * 1000 : 1;
    return NULL;
}

/* RFC 4865; a time that has passed holds nothing up. */
static const struct smtp_reply *take_hold(const struct smtp_session *s, const struct smtp_mail *m,
                                          struct smtp_envelope *e)
{
    static const struct smtp_reply too_long = {501, "5.5.4",
                                               "HOLDFOR or HOLDUNTIL is longer than FUTURERELEASE allows"};
    uint64_t now = mr_wall_ms(&mr_clock_real);

    if (m->hold == HOLD_FOR)
        e->hold_for_ms = m->hold_at * 1000;
    else if (m->hold == HOLD_UNTIL)
        e->hold_for_ms = m->hold_at > now ? m->hold_at - now : 0;
    return e->hold_for_ms > s->server->worker->config->smtp.max_hold_ms ? &too_long : NULL;
}

/* Copies what is asked for. NULL: all of it can be done. */
static const struct smtp_reply *take_wishes(const struct smtp_session *s, const struct smtp_mail *m,
                                            struct smtp_envelope *e)
{
    static const struct smtp_reply too_large = {552, "5.3.4", "Message too large"};
    const struct smtp_reply *why;

    if (m->size > s->server->limits.message_size)
        return &too_large;
    e->size = m->size;
    e->body = m->body;
    e->utf8 = m->utf8;
    e->utf8_addresses = m->path.utf8_local;
    e->flags = m->require_tls ? MESSAGE_REQUIRETLS : 0;
    e->ret = m->ret;
    memcpy(e->envid, m->envid.len > 0 ? m->envid.at : "", m->envid.len);
    memcpy(e->user, s->user, sizeof(e->user));
    /* RFC 6710 section 4.1: of whom nobody knows, nobody takes orders. */
    e->has_priority = m->has_priority;
    e->priority = s->relay || s->user[0] != '\0' ? m->priority : 0;
    why = take_deliver_by(s, m, e);
    return why != NULL ? why : take_hold(s, m, e);
}

void smtp_session_mail(struct smtp_session *s, struct smtp_slice args)
{
    static const struct smtp_reply bad_domain = {553, "5.1.7", "Not a domain of internationalized names"};
    const struct smtp_reply *why = check_client(s);
    struct smtp_envelope *e;
    struct smtp_mail mail;
    bool changed;

    if (why == NULL && !smtp_session_is_ready(s, SMTP_AT_MAIL))
        return;
    if (why == NULL && s->transactions >= s->server->limits.transactions) {
        smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Too many messages in one session, connect again"));
        return;
    }
    if (why != NULL || smtp_mail_parse(args, s->extensions, &mail, &why) != 0) {
        smtp_session_refuse(s, why);
        return;
    }
    if (smtp_session_limited(s, CLIENT_MESSAGE_RATE))
        return;
    s->transaction = smtp_transaction_begin(s->server, s->id);
    e = &s->transaction->envelope;
    smtp_session_move(s, SMTP_MAIL);
    why = to_ascii_domain(&mail.path, e->reverse_path) != 0 ? &bad_domain : check_sender(s, e->reverse_path);
    if (why == NULL)
        why = take_wishes(s, &mail, e);
    if (why != NULL) {
        smtp_session_refuse(s, why);
        if (s->transaction != NULL)
            smtp_session_reset(s);
        return;
    }
    s->transactions++;
    changed = mail.has_priority && e->priority != mail.priority;
    smtp_session_reply(s, changed ? SMTP_REPLY(250, "2.3.6", "0 is the priority, as you may not ask for another")
                                  : SMTP_REPLY(250, "2.1.0", "Ok"));
}

/* ---- RCPT ---- */

/* The domain whose postmaster is meant by "<postmaster>" (RFC 5321 section 4.5.1): this host's name or a parent of it,
 * if mail for it is local. NULL: there is none. */
static const char *postmaster_domain(const Mailraft__Rules *rules, const char *hostname)
{
    char next_hop[ROUTE_MAX];

    for (const char *domain = hostname; domain != NULL;) {
        bool local = false;
        const char *dot;

        if (route_lookup(rules, domain, strlen(domain), next_hop, &local) == 0 && local)
            return domain;
        dot = strchr(domain, '.');
        domain = dot != NULL ? dot + 1 : NULL;
    }
    return NULL;
}

static const struct smtp_reply *check_recipient(const struct smtp_session *s, const char *domain)
{
    static const struct smtp_reply denied = {554, "5.7.1", "Relay access denied"};
    static const struct smtp_reply no_route = {550, "5.4.4", "No route to the domain"};
    char next_hop[ROUTE_MAX];
    bool local = false;
    int rc;

    rc = route_lookup(s->server->worker->rules->rules, domain, strlen(domain), next_hop, &local);
    if (!s->relay && (rc != 0 || !local))
        return &denied;
    return rc == 0 ? NULL : &no_route;
}

/* NULL: it may be added, as this address; domain (may be NULL) is to be put behind it. */
static const struct smtp_reply *look_up(const struct smtp_session *s, const struct smtp_path *path,
                                        char address[SMTP_MAX_ADDRESS + 1], const char **domain)
{
    static const struct smtp_reply no_postmaster = {550, "5.1.1", "No local domain here for postmaster: give one"};
    static const struct smtp_reply bad_domain = {553, "5.1.3", "Not a domain of internationalized names"};
    const struct worker *w = s->server->worker;

    *domain = NULL;
    if (to_ascii_domain(path, address) != 0)
        return &bad_domain;
    if (path->domain_len > 0)
        return check_recipient(s, address + path->local_len + 1);
    *domain = postmaster_domain(w->rules->rules, w->config->smtp.hostname);
    return *domain == NULL ? &no_postmaster : NULL;
}

void smtp_session_rcpt(struct smtp_session *s, struct smtp_slice args)
{
    static const struct smtp_reply too_many = {452, "4.5.3", "Too many recipients"};
    struct smtp_envelope *e = &s->transaction->envelope;
    char address[SMTP_MAX_ADDRESS + 1];
    const struct smtp_reply *why;
    struct smtp_rcpt rcpt;
    const char *domain = NULL;

    if (smtp_rcpt_parse(args, s->extensions, e->utf8, &rcpt, &why) == 0)
        why = look_up(s, &rcpt.path, address, &domain);
    if (why == NULL && smtp_session_limited(s, CLIENT_RECIPIENT_RATE))
        return;
    if (why == NULL && (e->n >= s->server->limits.recipients ||
                        smtp_envelope_add(e, address, strlen(address), domain, rcpt.notify, rcpt.orcpt) != 0))
        why = &too_many;
    if (why != NULL) {
        smtp_session_refuse(s, why);
        return;
    }
    e->utf8_addresses = e->utf8_addresses || rcpt.path.utf8_local;
    if (s->state == SMTP_MAIL)
        smtp_session_move(s, SMTP_RCPT);
    smtp_session_reply(s, SMTP_REPLY(250, "2.1.5", "Ok"));
}
