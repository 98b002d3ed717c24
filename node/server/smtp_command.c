/* smtp_command.c - lines into verbs and paths. Parameters are in smtp_parameters.c. */
#include "node/server/smtp_command.h"

#include "proto/base/error.h"

#include <string.h>
#include <strings.h>

bool smtp_slice_is(struct smtp_slice s, const char *word)
{
    size_t n = strlen(word);

    return s.len == n && strncasecmp(s.at, word, n) == 0;
}

static struct smtp_slice trim(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return (struct smtp_slice){at, (size_t)(end - at)};
}

int smtp_line_parse(const char *line, size_t len, struct smtp_slice *verb, struct smtp_slice *args)
{
    struct smtp_slice all = trim(line, line + len);
    const char *p = all.at;
    const char *end = all.at + all.len;

    for (size_t i = 0; i < len; i++) {
        unsigned char ch = (unsigned char)line[i];

        if ((ch < 32 && ch != '\t') || ch == 127)
            return MR_MALFORMED;
    }
    while (p < end && *p != ' ' && *p != '\t')
        p++;
    *verb = (struct smtp_slice){all.at, (size_t)(p - all.at)};
    *args = trim(p, end);
    return 0;
}

bool smtp_line_is_bdat(const char *line, size_t len)
{
    struct smtp_slice all = trim(line, line + len);

    return all.len >= 4 && strncasecmp(all.at, "BDAT", 4) == 0 &&
           (all.len == 4 || (unsigned char)all.at[4] <= ' ' || all.at[4] == 127);
}

/* ---- MAIL and RCPT ---- */

struct path_replies {
    struct smtp_reply syntax, length, utf8, no_domain;
};
static const struct path_replies sender_replies = {
    {501, "5.1.7", "Bad sender address syntax"},
    {501, "5.1.7", "Sender address too long"},
    {553, "5.6.7", "Non-ASCII sender address: give SMTPUTF8 with MAIL, where it is offered"},
    {501, "5.1.7", "Sender address needs a domain"},
};
static const struct path_replies recipient_replies = {
    {501, "5.1.3", "Bad recipient address syntax"},
    {501, "5.1.3", "Recipient address too long"},
    {553, "5.6.7", "Non-ASCII recipient address: SMTPUTF8 was not given with MAIL"},
    {501, "5.1.3", "Recipient address needs a domain"},
};

/* "FROM:" or "TO:", the path, then parameters after at least one blank. */
static const struct smtp_reply *take_path(struct smtp_slice args, const char *prefix,
                                          const struct path_replies *replies, struct smtp_path *out,
                                          struct smtp_slice *rest)
{
    size_t n = strlen(prefix);
    size_t used;
    struct smtp_slice text;
    int rc;

    if (args.len < n || strncasecmp(args.at, prefix, n) != 0)
        return &replies->syntax;
    /* A blank behind the colon is no RFC grammar, but common and harmless. */
    text = trim(args.at + n, args.at + args.len);
    rc = smtp_path_parse(text.at, text.len, out, &used);
    if (rc != 0)
        return rc == MR_LIMIT ? &replies->length : &replies->syntax;
    *rest = (struct smtp_slice){text.at + used, text.len - used};
    if (rest->len > 0 && rest->at[0] != ' ' && rest->at[0] != '\t')
        return &replies->syntax;
    return NULL;
}

static bool is_utf8(const struct smtp_path *path)
{
    return path->utf8_local || path->utf8_domain;
}

int smtp_mail_parse(struct smtp_slice args, unsigned offered, struct smtp_mail *out, const struct smtp_reply **why)
{
    struct smtp_slice rest;

    *out = (struct smtp_mail){.size = 0};
    *why = take_path(args, "FROM:", &sender_replies, &out->path, &rest);
    if (*why == NULL && out->path.len > 0 && out->path.domain_len == 0)
        *why = &sender_replies.no_domain;
    if (*why == NULL && is_utf8(&out->path) && !(offered & SMTP_SMTPUTF8))
        *why = &sender_replies.utf8;
    if (*why == NULL)
        *why = smtp_mail_parameters(rest, offered, out);
    if (*why == NULL && is_utf8(&out->path) && !out->utf8)
        *why = &sender_replies.utf8;
    return *why == NULL ? 0 : MR_REFUSED;
}

int smtp_rcpt_parse(struct smtp_slice args, unsigned offered, bool utf8, struct smtp_rcpt *out,
                    const struct smtp_reply **why)
{
    struct smtp_slice rest;

    *out = (struct smtp_rcpt){.notify = 0};
    *why = take_path(args, "TO:", &recipient_replies, &out->path, &rest);
    if (*why == NULL && out->path.domain_len == 0 &&
        !smtp_slice_is((struct smtp_slice){out->path.address, out->path.len}, "postmaster"))
        *why = out->path.len == 0 ? &recipient_replies.syntax : &recipient_replies.no_domain;
    if (*why == NULL && is_utf8(&out->path) && !utf8)
        *why = &recipient_replies.utf8;
    if (*why == NULL)
        *why = smtp_rcpt_parameters(rest, offered, utf8, out);
    return *why == NULL ? 0 : MR_REFUSED;
}

/* ---- BDAT ---- */

int smtp_bdat_parse(struct smtp_slice args, uint64_t *octets, bool *last)
{
    const char *end = args.at + args.len;
    const char *p = args.at;
    struct smtp_slice word;

    while (p < end && *p != ' ' && *p != '\t')
        p++;
    if (!smtp_number_parse((struct smtp_slice){args.at, (size_t)(p - args.at)}, octets))
        return MR_MALFORMED;
    word = trim(p, end);
    *last = word.len > 0;
    return word.len == 0 || smtp_slice_is(word, "LAST") ? 0 : MR_MALFORMED;
}
