/* smtp_session_commands.c - the commands: may it be given now, and what it does, from one table. */
#include "node/smtp_session.h"
#include "node/smtp_xclient.h"

#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <string.h>

static void no_memory_of_mail(struct smtp_session *s)
{
    if (s->transaction != NULL)
        smtp_session_reset(s);
}

/* ---- EHLO, HELO ---- */

static void greet(struct smtp_session *s, struct smtp_slice name, bool esmtp)
{
    struct smtp_server *server = s->server;
    char text[sizeof(server->ehlo) + 96 + SASL_NAMES];
    char login[SASL_NAMES + 8];

    if (name.len == 0 || name.len >= sizeof(s->client.helo) || smtp_domain_parse(name.at, name.len) != 0) {
        smtp_session_refuse(s, SMTP_REPLY(501, "5.5.4", "A host name or an address literal is needed"));
        return;
    }
    no_memory_of_mail(s);
    memcpy(s->client.helo, name.at, name.len);
    s->client.helo[name.len] = '\0';
    s->client.esmtp = esmtp;
    if (s->state == SMTP_GREETED)
        smtp_session_move(s, SMTP_READY);
    if (!esmtp) {
        smtp_session_reply(s, SMTP_REPLY(250, NULL, server->worker->config->smtp.hostname));
        return;
    }
    snprintf(text, sizeof(text), "%s%s%s%s%s", server->ehlo, smtp_session_offers_tls(s) ? "\nSTARTTLS" : "",
             smtp_login_capability(s, login) ? "\n" : "", login,
             s->xclient ? "\nXCLIENT " SMTP_XCLIENT_ATTRIBUTES : "");
    smtp_session_reply(s, SMTP_REPLY(250, NULL, text));
}

static void do_ehlo(struct smtp_session *s, struct smtp_slice args)
{
    greet(s, args, true);
}

static void do_helo(struct smtp_session *s, struct smtp_slice args)
{
    greet(s, args, false);
}

/* RFC 2033 section 4.1: LHLO takes the place of EHLO and HELO. */
static void do_lhlo(struct smtp_session *s, struct smtp_slice args)
{
    greet(s, args, true);
}

/* ---- XCLIENT ---- */

static void do_xclient(struct smtp_session *s, struct smtp_slice args)
{
    const struct smtp_reply *why;
    struct smtp_xclient x;

    if (!s->xclient)
        smtp_session_refuse(s, SMTP_REPLY(550, "5.7.0", "Insufficient authorization"));
    else if (smtp_xclient_parse(args, &x, &why) != 0)
        smtp_session_refuse(s, why);
    else
        smtp_session_become(s, &x);
}

/* ---- MAIL ---- */

const struct smtp_reply *smtp_readiness(const struct smtp_server *server, enum smtp_moment moment)
{
    static const struct smtp_reply draining = {421, "4.3.2", "Shutting down"};
    /* Low disk and a full queue may pass before MAIL; without a quorum the client had better ask another node at once.
     */
    static const struct {
        struct smtp_reply mail, greeting; /* code 0: go on */
    } replies[] = {
        [CLUSTER_STARTING] = {{451, "4.3.0", "Starting, no quorum yet, try later or another server"},
                              {421, "4.3.2", "Starting, no quorum yet, try later or another server"}},
        [CLUSTER_NO_QUORUM] = {{451, "4.3.0", "No quorum, try later or another server"},
                               {421, "4.3.2", "No quorum, try later or another server"}},
        [CLUSTER_LOW_DISK] = {{452, "4.3.1", "Not enough disk space, try later"}, {0, NULL, NULL}},
        [CLUSTER_BUSY] = {{451, "4.3.2", "Too much queued, try later"}, {0, NULL, NULL}},
        [CLUSTER_REFUSED] = {{451, "4.3.0", "This node may not take part in the cluster, no quorum here"},
                             {421, "4.3.2", "This node may not take part in the cluster, no quorum here"}},
    };
    enum cluster_readiness ready = server->ops->readiness(server->worker->cluster);
    const struct smtp_reply *why;

    if (server->draining || ready == CLUSTER_DRAINING)
        return moment == SMTP_AT_DATA ? NULL : &draining; /* a transaction that has begun may finish */
    if (ready == CLUSTER_READY) {
        if (server->worker->rules != NULL)
            return NULL;
        ready = CLUSTER_STARTING;
    }
    mr_assert((size_t)ready < sizeof(replies) / sizeof(replies[0]));
    why = moment == SMTP_AT_GREETING ? &replies[ready].greeting : &replies[ready].mail;
    return why->code != 0 ? why : NULL;
}

/* True: the cluster takes mail now; else the refusal was given. */
static bool is_ready(struct smtp_session *s, enum smtp_moment moment)
{
    const struct smtp_reply *why = smtp_readiness(s->server, moment);

    if (why == NULL)
        return true;
    if (why->code == 421)
        smtp_session_bye(s, why);
    else
        smtp_session_refuse(s, why);
    return false;
}

static void do_mail(struct smtp_session *s, struct smtp_slice args)
{
    const struct smtp_limits *limits = &s->server->limits;
    const struct smtp_reply *why;
    struct smtp_envelope *e;
    struct smtp_mail mail;

    if (!is_ready(s, SMTP_AT_MAIL))
        return;
    if (s->profile == PROFILE_SUBMISSION && !s->relay) {
        smtp_session_refuse(s, SMTP_REPLY(554, "5.7.1", "Submission is not open to this address"));
        return;
    }
    if (s->transactions >= limits->transactions) {
        smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Too many messages in one session, connect again"));
        return;
    }
    if (smtp_mail_parse(args, &mail, &why) != 0) {
        smtp_session_refuse(s, why);
        return;
    }
    if (mail.size > limits->message_size) {
        smtp_session_refuse(s, SMTP_REPLY(552, "5.3.4", "Message too large"));
        return;
    }
    if (smtp_session_limited(s, CLIENT_MESSAGE_RATE))
        return;
    s->transaction = smtp_transaction_begin(s->server, s->id);
    s->transactions++;
    e = &s->transaction->envelope;
    memcpy(e->reverse_path, mail.path.address, mail.path.len);
    e->reverse_path[mail.path.len] = '\0';
    e->eight_bit = mail.eight_bit;
    e->size = mail.size;
    smtp_session_move(s, SMTP_MAIL);
    smtp_session_reply(s, SMTP_REPLY(250, "2.1.0", "Ok"));
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

static const struct smtp_reply *check_recipient(const struct smtp_session *s, const struct smtp_path *path)
{
    static const struct smtp_reply denied = {554, "5.7.1", "Relay access denied"};
    static const struct smtp_reply no_route = {550, "5.4.4", "No route to the domain"};
    char next_hop[ROUTE_MAX];
    bool local = false;
    int rc;

    rc = route_lookup(s->server->worker->rules->rules, path->domain, path->domain_len, next_hop, &local);
    if (!s->relay && (rc != 0 || !local))
        return &denied;
    return rc == 0 ? NULL : &no_route;
}

static void do_rcpt(struct smtp_session *s, struct smtp_slice args)
{
    static const struct smtp_reply no_postmaster = {550, "5.1.1", "No local domain here for postmaster: give one"};
    static const struct smtp_reply too_many = {452, "4.5.3", "Too many recipients"};
    const struct worker *w = s->server->worker;
    struct smtp_envelope *e = &s->transaction->envelope;
    const char *domain = NULL;
    const struct smtp_reply *why;
    struct smtp_path path;

    if (smtp_rcpt_parse(args, &path, &why) != 0) {
        smtp_session_refuse(s, why);
        return;
    }
    if (path.domain_len == 0) {
        domain = postmaster_domain(w->rules->rules, w->config->smtp.hostname);
        why = domain == NULL ? &no_postmaster : NULL;
    } else {
        why = check_recipient(s, &path);
    }
    if (why == NULL && smtp_session_limited(s, CLIENT_RECIPIENT_RATE))
        return;
    if (why == NULL &&
        (e->n >= s->server->limits.recipients || smtp_envelope_add(e, path.address, path.len, domain) != 0))
        why = &too_many;
    if (why != NULL) {
        smtp_session_refuse(s, why);
        return;
    }
    if (s->state == SMTP_MAIL)
        smtp_session_move(s, SMTP_RCPT);
    smtp_session_reply(s, SMTP_REPLY(250, "2.1.5", "Ok"));
}

/* ---- DATA ---- */

static void do_data(struct smtp_session *s, struct smtp_slice args)
{
    struct smtp_transaction *t = s->transaction;
    char client[INET6_ADDRSTRLEN + 8];
    struct smtp_received received = {
        .helo = s->client.helo,
        .client = client,
        .hostname = s->server->worker->config->smtp.hostname,
        .protocol = s->lmtp           ? "LMTP"
                    : s->client.esmtp ? "ESMTP"
                                      : "SMTP",
    };

    (void)args;
    if (t->envelope.n == 0) {
        /* RFC 2033 section 4.2 asks for 503: with no recipient there would be no reply after the dot. */
        smtp_session_refuse(s, SMTP_REPLY(s->lmtp ? 503 : 554, "5.5.1", "No valid recipients"));
        return;
    }
    if (!is_ready(s, SMTP_AT_DATA))
        return;
    snprintf(client, sizeof(client), "%s%s", strchr(s->client.address, ':') != NULL ? "IPv6:" : "", s->client.address);
    if (t->envelope.n == 1) {
        received.recipient = t->envelope.addresses;
        received.recipient_len = strlen(received.recipient);
    }
    smtp_transaction_data(t, &received);
    smtp_session_move(s, SMTP_DATA);
    smtp_session_reply(s, SMTP_REPLY(354, NULL, "End data with <CR><LF>.<CR><LF>"));
}

/* ---- the rest ---- */

static void do_rset(struct smtp_session *s, struct smtp_slice args)
{
    (void)args;
    no_memory_of_mail(s);
    smtp_session_reply(s, SMTP_REPLY(250, "2.0.0", "Ok"));
}

static void do_noop(struct smtp_session *s, struct smtp_slice args)
{
    (void)args;
    smtp_session_reply(s, SMTP_REPLY(250, "2.0.0", "Ok"));
}

static void do_vrfy(struct smtp_session *s, struct smtp_slice args)
{
    (void)args;
    smtp_session_reply(s, SMTP_REPLY(252, "2.5.2", "Cannot verify; send the message and see"));
}

static void do_help(struct smtp_session *s, struct smtp_slice args)
{
    (void)args;
    smtp_session_reply(s, SMTP_REPLY(214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT"));
}

static void do_quit(struct smtp_session *s, struct smtp_slice args)
{
    (void)args;
    smtp_session_bye(s, SMTP_REPLY(221, "2.0.0", "Bye"));
}

static void do_nothing(struct smtp_session *s, struct smtp_slice args)
{
    (void)args;
    smtp_session_refuse(s, SMTP_REPLY(502, "5.5.1", "Command not implemented"));
}

/* ---- the table ---- */

#define IN(state) (1U << SMTP_##state)
#define ANY       (IN(GREETED) | IN(READY) | IN(MAIL) | IN(RCPT))

enum arguments { NO_ARGUMENT, MAY_HAVE, MUST_HAVE };

static void do_starttls(struct smtp_session *s, struct smtp_slice args)
{
    (void)args;
    smtp_session_starttls(s);
}

static const struct smtp_verb {
    const char *verb;
    unsigned legal;
    const char *otherwise; /* text of the 503 */
    enum arguments arguments;
    bool logged; /* the arguments may stand in the log */
    bool junk;   /* brings no mail */
    void (*action)(struct smtp_session *s, struct smtp_slice args);
} verbs[] = {
    {"MAIL", IN(READY), "EHLO or HELO first, then one MAIL a message", MUST_HAVE, true, false, do_mail},
    {"RCPT", IN(MAIL) | IN(RCPT), "MAIL first", MUST_HAVE, true, false, do_rcpt},
    {"DATA", IN(MAIL) | IN(RCPT), "MAIL and RCPT first", NO_ARGUMENT, false, false, do_data},
    {"QUIT", ANY, "", NO_ARGUMENT, false, false, do_quit},
    {"EHLO", ANY, "", MUST_HAVE, true, true, do_ehlo},
    {"HELO", ANY, "", MUST_HAVE, true, true, do_helo},
    {"LHLO", ANY, "", MUST_HAVE, true, true, do_lhlo},
    {"XCLIENT", IN(GREETED) | IN(READY), "Not in a transaction", MUST_HAVE, true, true, do_xclient},
    {"RSET", ANY, "", NO_ARGUMENT, false, true, do_rset},
    {"NOOP", ANY, "", MAY_HAVE, false, true, do_noop},
    {"VRFY", ANY, "", MUST_HAVE, true, true, do_vrfy},
    {"HELP", ANY, "", MAY_HAVE, false, true, do_help},
    {"STARTTLS", IN(READY) | IN(MAIL) | IN(RCPT), "EHLO first", NO_ARGUMENT, false, true, do_starttls},
    {"AUTH", ANY, "", MUST_HAVE, false, false, smtp_login_begin},
    /* Known, and not offered. */
    {"BDAT", ANY, "", MAY_HAVE, false, false, do_nothing},
    {"ETRN", ANY, "", MAY_HAVE, false, false, do_nothing},
    {"EXPN", ANY, "", MAY_HAVE, true, false, do_nothing},
};

/* RFC 3207 section 4: what a server that asks for TLS must take before it; RSET and HELP tell nothing. */
static bool may_precede_tls(const struct smtp_verb *v)
{
    static const char *const allowed[] = {"EHLO", "HELO", "LHLO", "NOOP", "QUIT", "RSET", "HELP", "STARTTLS"};

    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
        if (strcmp(v->verb, allowed[i]) == 0)
            return true;
    return false;
}

static const struct smtp_verb *find_verb(struct smtp_slice verb)
{
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (smtp_slice_is(verb, verbs[i].verb))
            return &verbs[i];
    return NULL;
}

/* LHLO is no SMTP, EHLO and HELO no LMTP (RFC 2033 section 4.1). */
static bool speaks(const struct smtp_session *s, const struct smtp_verb *v)
{
    return s->lmtp ? v->action != do_ehlo && v->action != do_helo : v->action != do_lhlo;
}

void smtp_session_command(struct smtp_session *s, const char *line, size_t len)
{
    struct smtp_slice verb, args;
    const struct smtp_verb *v = NULL;

    if (smtp_line_parse(line, len, &verb, &args) == 0)
        v = find_verb(verb);
    if (v == NULL || !speaks(s, v)) {
        smtp_session_refuse(s, SMTP_REPLY(500, v == NULL ? "5.5.2" : "5.5.1", "Command not recognized"));
        return;
    }
    if (v->junk && ++s->junk > s->server->limits.junk) {
        atomic_fetch_add_explicit(&s->server->worker->counters->junk_clients, 1, memory_order_relaxed);
        smtp_session_bye(s, SMTP_REPLY(421, "4.7.0", "Too many commands without mail"));
        return;
    }
    s->verb = (struct smtp_slice){v->verb, strlen(v->verb)};
    if (v->logged)
        s->argument = args;
    if (smtp_session_needs_tls(s) && !may_precede_tls(v))
        smtp_session_refuse(s, SMTP_REPLY(530, "5.7.0", "Must issue a STARTTLS command first"));
    else if (!(v->legal & (1U << s->state)))
        smtp_session_refuse(s, SMTP_REPLY(503, "5.5.1", v->otherwise));
    else if (v->arguments == NO_ARGUMENT && args.len > 0)
        smtp_session_refuse(s, SMTP_REPLY(501, "5.5.4", "No argument is allowed"));
    else if (v->arguments == MUST_HAVE && args.len == 0)
        smtp_session_refuse(s, SMTP_REPLY(501, "5.5.4", "An argument is needed"));
    else
        v->action(s, args);
    s->verb = s->argument = (struct smtp_slice){NULL, 0};
}
