/* Verbs of a session: a table says where each is legal and which fault belongs to it; the action does it. */
#include "client/sink_session.h"

#include "client/options.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define IN(state) (1U << (state))
#define ANY       (IN(SINK_NEW) | IN(SINK_READY) | IN(SINK_MAIL) | IN(SINK_RCPT))
#define GREETED   (IN(SINK_READY) | IN(SINK_MAIL) | IN(SINK_RCPT))

static void greet(struct sink_session *s, bool extended)
{
    sink_reset_transaction(s);
    s->state = SINK_READY;
    if (!extended) {
        sink_reply(s, "250 sink.invalid");
        return;
    }
    sink_reply(s, "250-sink.invalid\r\n250-PIPELINING\r\n250-SIZE %llu\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES",
               (unsigned long long)s->server->options->max_size);
}

static void hello(struct sink_session *s, size_t len, bool lmtp, bool extended)
{
    if (s->server->options->lmtp != lmtp)
        sink_reply(s, lmtp ? "500 5.5.1 this is not LMTP" : "500 5.5.1 this is LMTP");
    else if (len == 0)
        sink_reply(s, "501 5.5.4 a name is needed");
    else
        greet(s, extended);
}

static void do_ehlo(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    hello(s, len, false, true);
}

static void do_helo(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    hello(s, len, false, false);
}

static void do_lhlo(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    hello(s, len, true, true);
}

/* Value of SIZE= among MAIL's parameters (RFC 1870); 0: not given. MR_INVAL: no number. */
static int declared_size(const char *args, size_t len, uint64_t *out)
{
    char text[SMTP_COMMAND_MAX];
    char *save = NULL;

    *out = 0;
    memcpy(text, args, len);
    text[len] = '\0';
    for (char *word = strtok_r(text, " \t", &save); word != NULL; word = strtok_r(NULL, " \t", &save)) {
        if (strncasecmp(word, "SIZE=", 5) == 0)
            return options_number(word + 5, 0, UINT64_MAX, out);
    }
    return 0;
}

static void do_mail(struct sink_session *s, const char *args, size_t len)
{
    uint64_t size = 0;

    if (smtp_path_parse(args, len, "FROM:", s->sender) != 0 || declared_size(args, len, &size) != 0) {
        sink_reply(s, "501 5.5.4 MAIL FROM:<address> is needed");
    } else if (size > s->server->options->max_size) {
        sink_reply(s, "552 5.3.4 message too big");
    } else {
        s->state = SINK_MAIL;
        sink_reply(s, "250 2.1.0 Ok");
    }
}

static void do_rcpt(struct sink_session *s, const char *args, size_t len)
{
    char address[SMTP_ADDRESS_MAX + 1];

    if (smtp_path_parse(args, len, "TO:", address) != 0 || address[0] == '\0') {
        sink_reply(s, "501 5.5.4 RCPT TO:<address> is needed");
        return;
    }
    if (s->recipient_count == SINK_RECIPIENTS_MAX) {
        sink_reply(s, "452 4.5.3 too many recipients");
        return;
    }
    if (s->recipient_count == s->recipients_cap) {
        s->recipients_cap = s->recipients_cap != 0 ? s->recipients_cap * 2 : 4;
        s->recipients = mr_realloc(s->recipients, s->recipients_cap * sizeof(*s->recipients));
    }
    s->recipients[s->recipient_count++] = mr_strdup(address);
    s->state = SINK_RCPT;
    sink_reply(s, "250 2.1.5 Ok");
}

static void do_data(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    if (len > 0) {
        sink_reply(s, "501 5.5.4 DATA takes nothing");
        return;
    }
    s->state = SINK_DATA;
    s->body_rolled = false;
    sink_record_begin(s);
    sink_reply(s, "354 go on");
}

static void do_rset(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    (void)len;
    sink_reset_transaction(s);
    sink_reply(s, "250 2.0.0 Ok");
}

static void do_noop(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    (void)len;
    sink_reply(s, "250 2.0.0 Ok");
}

static void do_vrfy(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    (void)len;
    sink_reply(s, "252 2.5.0 send mail and see");
}

static void do_help(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    (void)len;
    sink_reply(s, "214 2.0.0 this is a test's next hop");
}

static void do_quit(struct sink_session *s, const char *args, size_t len)
{
    (void)args;
    (void)len;
    sink_reply(s, "221 2.0.0 bye");
    sink_end(s);
}

static const struct sink_command {
    enum smtp_verb verb;
    unsigned legal;
    enum fault_verb fault;
    void (*action)(struct sink_session *s, const char *args, size_t len);
} commands[] = {
    /* verb     legal in         fault          action */
    {SMTP_EHLO, ANY, FAULT_AT_EHLO, do_ehlo},
    {SMTP_HELO, ANY, FAULT_AT_EHLO, do_helo},
    {SMTP_LHLO, ANY, FAULT_AT_EHLO, do_lhlo},
    {SMTP_MAIL, IN(SINK_READY), FAULT_AT_MAIL, do_mail},
    {SMTP_RCPT, IN(SINK_MAIL) | IN(SINK_RCPT), FAULT_AT_RCPT, do_rcpt},
    {SMTP_DATA, IN(SINK_RCPT), FAULT_AT_DATA, do_data},
    {SMTP_RSET, GREETED | IN(SINK_NEW), FAULT_VERBS, do_rset},
    {SMTP_NOOP, ANY, FAULT_VERBS, do_noop},
    {SMTP_VRFY, ANY, FAULT_VERBS, do_vrfy},
    {SMTP_HELP, ANY, FAULT_VERBS, do_help},
    {SMTP_QUIT, ANY, FAULT_AT_QUIT, do_quit},
};

static const struct sink_command *find(enum smtp_verb verb)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (commands[i].verb == verb)
            return &commands[i];
    }
    return NULL;
}

enum fault_verb sink_command_fault(const char *line, size_t len)
{
    const char *args = NULL;
    size_t args_len = 0;
    const struct sink_command *command = find(smtp_command_parse(line, len, &args, &args_len));

    return command != NULL ? command->fault : FAULT_VERBS;
}

void sink_command_run(struct sink_session *s, const char *line, size_t len)
{
    const char *args = NULL;
    size_t args_len = 0;
    const struct sink_command *command = find(smtp_command_parse(line, len, &args, &args_len));

    if (command == NULL)
        sink_reply(s, "500 5.5.2 unknown command");
    else if (!(command->legal & IN(s->state)))
        sink_reply(s, "503 5.5.1 bad sequence of commands");
    else
        command->action(s, args, args_len);
}
