/* smtp_session_commands.c - the commands: may it be given now, and what it does, from one table. */
#include "node/server/smtp_session.h"
#include "node/server/smtp_xclient.h"

#include "node/mail/smtp_text.h"
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
    if (esmtp) {
        smtp_session_greet_back(s);
        return;
    }
    s->extensions = 0;
    smtp_session_reply(s, SMTP_REPLY(250, NULL, s->server->worker->config->smtp.hostname));
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

/* ---- may mail be taken? ---- */

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
        [CLUSTER_SLOW_DISK] = {{451, "4.3.2", "Disk too slow now, try later or another server"}, {0, NULL, NULL}},
        [CLUSTER_QUEUE_FULL] = {{452, "4.3.1", "Queue full, try later"}, {0, NULL, NULL}},
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

bool smtp_session_is_ready(struct smtp_session *s, enum smtp_moment moment)
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

/* RFC 6531 section 3.7.4.2: an address that is not ASCII needs the parameter. The reply names no address. */
static void do_vrfy(struct smtp_session *s, struct smtp_slice args)
{
    static const char parameter[] = " SMTPUTF8";
    size_t n = sizeof(parameter) - 1;
    bool given = args.len > n && smtp_slice_is((struct smtp_slice){args.at + args.len - n, n}, parameter);

    if (given && !(s->extensions & SMTP_SMTPUTF8))
        smtp_session_refuse(s, SMTP_REPLY(555, "5.5.4", "SMTPUTF8 is not offered here"));
    else if (smtp_has_8bit(args.at, args.len) && !given)
        smtp_session_refuse(s, SMTP_REPLY(553, "5.6.7", "Non-ASCII address: give SMTPUTF8, where it is offered"));
    else if (!smtp_utf8_valid(args.at, args.len))
        smtp_session_refuse(s, SMTP_REPLY(501, "5.1.3", "Not valid UTF-8"));
    else
        smtp_session_reply(s, SMTP_REPLY(252, "2.5.2", "Cannot verify; send the message and see"));
}

static void do_help(struct smtp_session *s, struct smtp_slice args);

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
#define ANY       (IN(GREETED) | IN(READY) | IN(MAIL) | IN(RCPT) | IN(BDAT))

enum arguments { NO_ARGUMENT, MAY_HAVE, MUST_HAVE };
/* RFC 2920 section 3.1: some commands have to be the last of a group, as the client cannot go on without their answer.
 * (NOOP, which the section also names, harms nobody.) Behind LAST_OF_ALL there may be what is no command: the text of
 * somebody's message, a handshake, a password. */
enum order { ANYWHERE, LAST, LAST_OF_ALL };

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
    enum order order;
    void (*action)(struct smtp_session *s, struct smtp_slice args);
} verbs[] = {
    {"MAIL", IN(READY), "EHLO or HELO first, then one MAIL a message", MUST_HAVE, true, false, ANYWHERE,
     smtp_session_mail},
    {"RCPT", IN(MAIL) | IN(RCPT), "MAIL first", MUST_HAVE, true, false, ANYWHERE, smtp_session_rcpt},
    {"DATA", IN(MAIL) | IN(RCPT), "MAIL and RCPT first", NO_ARGUMENT, false, false, LAST_OF_ALL, smtp_session_data},
    {"BDAT", ANY, "", MAY_HAVE, false, false, ANYWHERE, smtp_session_bdat},
    {"QUIT", ANY, "", NO_ARGUMENT, false, false, ANYWHERE, do_quit},
    {"EHLO", ANY, "", MUST_HAVE, true, true, LAST, do_ehlo},
    {"HELO", ANY, "", MUST_HAVE, true, true, LAST, do_helo},
    {"LHLO", ANY, "", MUST_HAVE, true, true, LAST, do_lhlo},
    {"XCLIENT", IN(GREETED) | IN(READY), "Not in a transaction", MUST_HAVE, true, true, LAST_OF_ALL, do_xclient},
    {"RSET", ANY, "", NO_ARGUMENT, false, true, ANYWHERE, do_rset},
    {"NOOP", ANY, "", MAY_HAVE, false, true, ANYWHERE, do_noop},
    {"VRFY", ANY, "", MUST_HAVE, true, true, LAST, do_vrfy},
    {"HELP", ANY, "", MAY_HAVE, false, true, ANYWHERE, do_help},
    {"STARTTLS", IN(READY) | IN(MAIL) | IN(RCPT), "EHLO first", NO_ARGUMENT, false, true, ANYWHERE, do_starttls},
    {"AUTH", ANY, "", MUST_HAVE, false, false, LAST_OF_ALL, smtp_login_begin},
    /* Known, and not offered. */
    {"ETRN", ANY, "", MAY_HAVE, false, false, ANYWHERE, do_nothing},
    {"EXPN", ANY, "", MAY_HAVE, true, false, LAST, do_nothing},
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

/* The verbs of the table that do something. */
static void do_help(struct smtp_session *s, struct smtp_slice args)
{
    char text[256];
    size_t len = 0;

    (void)args;
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (verbs[i].action != do_nothing)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i > 0 ? " " : "", verbs[i].verb);
    mr_assert(len < sizeof(text));
    smtp_session_reply(s, SMTP_REPLY(214, "2.0.0", text));
}

/* True: the client did not wait where it had to, or does not know that it need not. The refusal was given. What comes
 * behind a refused DATA could be another's words, so that the connection ends: never may they become commands. */
static bool is_improper(struct smtp_session *s, const struct smtp_verb *v)
{
    static const struct smtp_reply improper = {503, "5.5.0", "Improper use of pipelining"};

    /* STARTTLS has an answer of its own, and nothing is lost behind QUIT. */
    if (s->behind == 0 || strcmp(v->verb, "QUIT") == 0 || strcmp(v->verb, "STARTTLS") == 0)
        return false;
    if (v->order == ANYWHERE && (s->extensions & SMTP_PIPELINING) != 0)
        return false;
    if (v->order == LAST_OF_ALL)
        smtp_session_bye(s, &improper);
    else
        smtp_session_refuse(s, &improper);
    return true;
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
    const struct smtp_verb *v;

    if (smtp_line_parse(line, len, &verb, &args) != 0) {
        smtp_session_unreadable(s, line, len, SMTP_REPLY(500, "5.5.2", "Command not recognized"));
        return;
    }
    v = find_verb(verb);
    if (v == NULL || !speaks(s, v)) {
        smtp_session_refuse(s, SMTP_REPLY(500, v == NULL ? "5.5.2" : "5.5.1", "Command not recognized"));
        return;
    }
    if (v->junk && ++s->junk > s->server->limits.junk) {
        smtp_session_junk(s);
        return;
    }
    s->verb = (struct smtp_slice){v->verb, strlen(v->verb)};
    if (v->logged)
        s->argument = args;
    if (v->action == smtp_session_bdat) {
        smtp_session_bdat(s, args); /* whatever is wrong with it, its chunk has to be dealt with */
    } else if (is_improper(s, v)) {
        /* the reply was given */
    } else if (smtp_session_needs_tls(s) && !may_precede_tls(v))
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
