/* smtp_command.c - lines into verbs, paths and parameters. Each parameter that is taken is a row of a table. */
#include "node/smtp_command.h"

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

/* ---- parameters ---- */

static const struct smtp_reply bad_parameter = {501, "5.5.4", "Bad parameter"};
static const struct smtp_reply unknown_parameter = {555, "5.5.4", "Parameter not recognized or not implemented"};
static const struct smtp_reply twice = {501, "5.5.4", "Parameter given twice"};

static const struct smtp_reply *take_size(struct smtp_mail *m, struct smtp_slice value)
{
    uint64_t n = 0;

    if (m->has_size)
        return &twice;
    if (value.len == 0 || value.len > 20) /* RFC 1870: at most 20 digits */
        return &bad_parameter;
    for (size_t i = 0; i < value.len; i++) {
        unsigned digit = (unsigned)(unsigned char)value.at[i] - '0';

        if (digit > 9)
            return &bad_parameter;
        if (__builtin_mul_overflow(n, (uint64_t)10, &n) || __builtin_add_overflow(n, (uint64_t)digit, &n)) {
            n = UINT64_MAX;
            break;
        }
    }
    for (size_t i = 0; i < value.len; i++)
        if (value.at[i] < '0' || value.at[i] > '9')
            return &bad_parameter;
    m->has_size = true;
    m->size = n;
    return NULL;
}

static const struct smtp_reply *take_body(struct smtp_mail *m, struct smtp_slice value)
{
    if (smtp_slice_is(value, "8BITMIME"))
        m->eight_bit = true;
    else if (!smtp_slice_is(value, "7BIT"))
        return &bad_parameter;
    return NULL;
}

static const struct {
    const char *keyword;
    const struct smtp_reply *(*take)(struct smtp_mail *m, struct smtp_slice value);
} mail_parameters[] = {
    {"SIZE", take_size},
    {"BODY", take_body},
};

/* esmtp-param of RFC 5321 section 4.1.2: keyword [ "=" value ]. *end: just behind it. False: not of that form. */
static bool split_parameter(const char *at, const char *limit, struct smtp_slice *keyword, struct smtp_slice *value,
                            const char **end)
{
    const char *p = at;

    while (p < limit && ((*p >= '0' && *p <= '9') || ((*p | 32) >= 'a' && (*p | 32) <= 'z') || (p > at && *p == '-')))
        p++;
    *keyword = (struct smtp_slice){at, (size_t)(p - at)};
    *value = (struct smtp_slice){p, 0};
    if (p < limit && *p == '=') {
        const char *from = ++p;

        while (p<limit && * p> 32 && *p < 127 && *p != '=')
            p++;
        *value = (struct smtp_slice){from, (size_t)(p - from)};
        if (p == from)
            return false;
    }
    *end = p;
    return keyword->len > 0 && (p == limit || *p == ' ' || *p == '\t');
}

/* m NULL: RCPT, which knows none. */
static const struct smtp_reply *take_parameters(struct smtp_slice rest, struct smtp_mail *m)
{
    const char *at = rest.at;
    const char *limit = rest.at + rest.len;
    bool body_given = false;

    while (at < limit) {
        struct smtp_slice keyword, value;
        const struct smtp_reply *why = &unknown_parameter;

        if (*at == ' ' || *at == '\t') {
            at++;
            continue;
        }
        if (!split_parameter(at, limit, &keyword, &value, &at))
            return &bad_parameter;
        for (size_t i = 0; m != NULL && i < sizeof(mail_parameters) / sizeof(mail_parameters[0]); i++) {
            if (smtp_slice_is(keyword, mail_parameters[i].keyword))
                why = mail_parameters[i].take(m, value);
        }
        if (why == NULL && smtp_slice_is(keyword, "BODY")) {
            if (body_given)
                return &twice;
            body_given = true;
        }
        if (why != NULL)
            return why;
    }
    return NULL;
}

/* ---- MAIL and RCPT ---- */

struct path_replies {
    struct smtp_reply syntax, length, utf8;
};
static const struct path_replies sender_replies = {
    {501, "5.1.7", "Bad sender address syntax"},
    {501, "5.1.7", "Sender address too long"},
    {553, "5.6.7", "Non-ASCII sender address: SMTPUTF8 is not offered"},
};
static const struct path_replies recipient_replies = {
    {501, "5.1.3", "Bad recipient address syntax"},
    {501, "5.1.3", "Recipient address too long"},
    {553, "5.6.7", "Non-ASCII recipient address: SMTPUTF8 is not offered"},
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
    if (rc == MR_REFUSED)
        return &replies->utf8;
    if (rc != 0)
        return rc == MR_LIMIT ? &replies->length : &replies->syntax;
    *rest = (struct smtp_slice){text.at + used, text.len - used};
    if (rest->len > 0 && rest->at[0] != ' ' && rest->at[0] != '\t')
        return &replies->syntax;
    return NULL;
}

int smtp_mail_parse(struct smtp_slice args, struct smtp_mail *out, const struct smtp_reply **why)
{
    static const struct smtp_reply no_domain = {501, "5.1.7", "Sender address needs a domain"};
    struct smtp_slice rest;

    *out = (struct smtp_mail){.size = 0};
    *why = take_path(args, "FROM:", &sender_replies, &out->path, &rest);
    if (*why == NULL && out->path.len > 0 && out->path.domain_len == 0)
        *why = &no_domain;
    if (*why == NULL)
        *why = take_parameters(rest, out);
    return *why == NULL ? 0 : MR_REFUSED;
}

int smtp_rcpt_parse(struct smtp_slice args, struct smtp_path *out, const struct smtp_reply **why)
{
    static const struct smtp_reply no_domain = {501, "5.1.3", "Recipient address needs a domain"};
    struct smtp_slice rest;

    *why = take_path(args, "TO:", &recipient_replies, out, &rest);
    if (*why == NULL && out->domain_len == 0 &&
        !smtp_slice_is((struct smtp_slice){out->address, out->len}, "postmaster"))
        *why = out->len == 0 ? &recipient_replies.syntax : &no_domain;
    if (*why == NULL)
        *why = take_parameters(rest, NULL);
    return *why == NULL ? 0 : MR_REFUSED;
}
