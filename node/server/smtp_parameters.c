/* smtp_parameters.c - the parameters of MAIL and RCPT: a row of a table and a function for each. */
#include "node/server/smtp_command.h"

#include "node/mail/smtp_text.h"

#include <string.h>
#include <strings.h>

static const struct smtp_reply bad_parameter = {501, "5.5.4", "Bad parameter"};
static const struct smtp_reply unknown_parameter = {555, "5.5.4", "Parameter not recognized or not offered here"};
static const struct smtp_reply twice = {501, "5.5.4", "Parameter given twice"};

/* A value of length 0: none was given. */
typedef const struct smtp_reply *take_mail(struct smtp_mail *m, struct smtp_slice value, unsigned offered);
typedef const struct smtp_reply *take_rcpt(struct smtp_rcpt *r, struct smtp_slice value, bool utf8);

bool smtp_number_parse(struct smtp_slice text, uint64_t *out)
{
    uint64_t n = 0;
    bool overflow = false;

    if (text.len == 0 || text.len > 20)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        unsigned digit = (unsigned)(unsigned char)text.at[i] - '0';

        if (digit > 9)
            return false;
        overflow =
            overflow || __builtin_mul_overflow(n, (uint64_t)10, &n) || __builtin_add_overflow(n, (uint64_t)digit, &n);
    }
    *out = overflow ? UINT64_MAX : n;
    return true;
}

/* RFC 1870 */
static const struct smtp_reply *take_size(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    (void)offered;
    return smtp_number_parse(value, &m->size) ? NULL : &bad_parameter;
}

/* RFC 6152, RFC 3030 */
static const struct smtp_reply *take_body(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    static const struct smtp_reply not_offered = {555, "5.5.4", "BODY=BINARYMIME is not offered here"};

    if (smtp_slice_is(value, "7BIT"))
        m->body = BODY_7BIT;
    else if (smtp_slice_is(value, "8BITMIME"))
        m->body = BODY_8BITMIME;
    else if (smtp_slice_is(value, "BINARYMIME"))
        m->body = BODY_BINARYMIME;
    else
        return &bad_parameter;
    return m->body == BODY_BINARYMIME && !(offered & SMTP_BINARYMIME) ? &not_offered : NULL;
}

/* RFC 6531 */
static const struct smtp_reply *take_utf8(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    (void)offered;
    m->utf8 = true;
    return value.len == 0 ? NULL : &bad_parameter;
}

/* RFC 8689 */
static const struct smtp_reply *take_require_tls(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    (void)offered;
    m->require_tls = true;
    return value.len == 0 ? NULL : &bad_parameter;
}

/* RFC 3461 section 4.3 */
static const struct smtp_reply *take_ret(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    (void)offered;
    m->ret = smtp_slice_is(value, "FULL") ? RET_FULL : smtp_slice_is(value, "HDRS") ? RET_HDRS : RET_NOT_GIVEN;
    return m->ret != RET_NOT_GIVEN ? NULL : &bad_parameter;
}

/* RFC 3461 section 4.4 */
static const struct smtp_reply *take_envid(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    (void)offered;
    m->envid = value;
    return value.len <= SMTP_MAX_ENVID && smtp_xtext_valid(value.at, value.len) ? NULL : &bad_parameter;
}

/* RFC 4954 section 5: "<>" or a mailbox in xtext. Nobody is trusted to name another as the submitter, so the value is
 * only looked at. */
static const struct smtp_reply *take_auth(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    char mailbox[500 + 1]; /* the section's own limit */

    (void)m;
    (void)offered;
    if (value.len == 2 && memcmp(value.at, "<>", 2) == 0)
        return NULL;
    if (value.len == 0 || smtp_xtext_decode(value.at, value.len, mailbox, sizeof(mailbox)) != 0 ||
        !smtp_mailbox_valid(mailbox, strlen(mailbox)))
        return &bad_parameter;
    return NULL;
}

/* RFC 6710 section 3: "0", or an optional sign and one digit that is not 0. */
static const struct smtp_reply *take_priority(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    bool minus = value.len == 2 && value.at[0] == '-';
    char digit = value.len == 1 || minus ? value.at[value.len - 1] : 'x';

    (void)offered;
    if (digit < '0' || digit > '9' || (minus && digit == '0'))
        return &bad_parameter;
    m->has_priority = true;
    m->priority = minus ? '0' - digit : digit - '0';
    return NULL;
}

/* RFC 2852 section 4: [sign] 1*9digits ";" ("N" / "R") ["T"]. */
static const struct smtp_reply *take_by(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    const char *semicolon = value.len > 0 ? memchr(value.at, ';', value.len) : NULL;
    struct smtp_slice digits, mode;
    bool minus;
    uint64_t n;

    (void)offered;
    if (semicolon == NULL)
        return &bad_parameter;
    digits = (struct smtp_slice){value.at, (size_t)(semicolon - value.at)};
    mode = (struct smtp_slice){semicolon + 1, value.len - digits.len - 1};
    minus = digits.len > 0 && digits.at[0] == '-';
    if (minus || (digits.len > 0 && digits.at[0] == '+')) {
        digits.at++;
        digits.len--;
    }
    if (digits.len > 9 || !smtp_number_parse(digits, &n))
        return &bad_parameter;
    m->by_s = minus ? -(int64_t)n : (int64_t)n;
    m->by_trace = mode.len == 2 && (mode.at[1] | 32) == 't';
    if (mode.len != 1 && !m->by_trace)
        return &bad_parameter;
    m->by = (mode.at[0] | 32) == 'n' ? BY_NOTIFY : (mode.at[0] | 32) == 'r' ? BY_RETURN : BY_NOT_GIVEN;
    if (m->by == BY_NOT_GIVEN || (m->by == BY_RETURN && m->by_s < 1))
        return &bad_parameter;
    return NULL;
}

/* RFC 4865 section 4; at most one of both. */
static const struct smtp_reply *take_hold_for(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    (void)offered;
    if (m->hold != HOLD_NOT_GIVEN)
        return &twice;
    m->hold = HOLD_FOR;
    return value.len <= 9 && smtp_number_parse(value, &m->hold_at) && m->hold_at > 0 ? NULL : &bad_parameter;
}

static const struct smtp_reply *take_hold_until(struct smtp_mail *m, struct smtp_slice value, unsigned offered)
{
    (void)offered;
    if (m->hold != HOLD_NOT_GIVEN)
        return &twice;
    m->hold = HOLD_UNTIL;
    return value.len > 0 && smtp_time_parse(value.at, value.len, &m->hold_at) ? NULL : &bad_parameter;
}

/* RFC 3461 section 4.1: NEVER alone, or any of the others, each at most once. */
static const struct smtp_reply *take_notify(struct smtp_rcpt *r, struct smtp_slice value, bool utf8)
{
    static const struct {
        const char *word;
        unsigned bit;
    } words[] = {
        {"NEVER", NOTIFY_NEVER}, {"SUCCESS", NOTIFY_SUCCESS}, {"FAILURE", NOTIFY_FAILURE}, {"DELAY", NOTIFY_DELAY}};
    const char *at = value.at, *end = value.at + value.len;

    (void)utf8;
    while (at != NULL && value.len > 0) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        struct smtp_slice word = {at, (size_t)((comma != NULL ? comma : end) - at)};
        unsigned bit = 0;

        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
            if (smtp_slice_is(word, words[i].word))
                bit = words[i].bit;
        if (bit == 0 || (r->notify & bit) != 0)
            return &bad_parameter;
        r->notify |= bit;
        at = comma != NULL ? comma + 1 : NULL;
    }
    return r->notify != 0 && (r->notify == NOTIFY_NEVER || !(r->notify & NOTIFY_NEVER)) ? NULL : &bad_parameter;
}

/* What Postfix makes of an internationalized address: the octets of its UTF-8 in plain xtext, where RFC 6533 wants the
 * type utf-8. To refuse it would be to refuse all mail from there to such addresses. */
static bool xtext_of_utf8(struct smtp_slice text)
{
    char decoded[SMTP_MAX_ORCPT + 1];

    return smtp_xtext_decode(text.at, text.len, decoded, sizeof(decoded)) == 0 &&
           smtp_utf8_valid(decoded, strlen(decoded));
}

/* RFC 3461 section 4.2: addr-type ";" xtext; type "utf-8" of RFC 6533 section 3 has an encoding of its own. */
static const struct smtp_reply *take_orcpt(struct smtp_rcpt *r, struct smtp_slice value, bool utf8)
{
    const char *semicolon = value.len > 0 ? memchr(value.at, ';', value.len) : NULL;
    struct smtp_slice type, address;

    if (semicolon == NULL || semicolon == value.at || value.len > SMTP_MAX_ORCPT)
        return &bad_parameter;
    type = (struct smtp_slice){value.at, (size_t)(semicolon - value.at)};
    address = (struct smtp_slice){semicolon + 1, value.len - type.len - 1};
    for (size_t i = 0; i < type.len; i++)
        if (type.at[i] <= 32 || type.at[i] == 127 || strchr("()<>@,:\\\"/[]?=", type.at[i]) != NULL)
            return &bad_parameter; /* an atom; types are registered names */
    r->orcpt = value;
    if (smtp_slice_is(type, "utf-8"))
        return smtp_utf8_xtext_valid(address.at, address.len, utf8) ? NULL : &bad_parameter;
    return smtp_xtext_valid(address.at, address.len) || (utf8 && xtext_of_utf8(address)) ? NULL : &bad_parameter;
}

static const struct {
    const char *keyword;
    unsigned extension; /* has to be offered */
    take_mail *take;
} mail_parameters[] = {
    {"SIZE", SMTP_SIZE, take_size},
    {"BODY", SMTP_8BITMIME, take_body},
    {"SMTPUTF8", SMTP_SMTPUTF8, take_utf8},
    {"RET", SMTP_DSN, take_ret},
    {"ENVID", SMTP_DSN, take_envid},
    {"AUTH", SMTP_AUTH, take_auth},
    {"REQUIRETLS", SMTP_REQUIRETLS, take_require_tls},
    {"MT-PRIORITY", SMTP_MT_PRIORITY, take_priority},
    {"BY", SMTP_DELIVERBY, take_by},
    {"HOLDFOR", SMTP_FUTURERELEASE, take_hold_for},
    {"HOLDUNTIL", SMTP_FUTURERELEASE, take_hold_until},
};
static const struct {
    const char *keyword;
    unsigned extension;
    take_rcpt *take;
} rcpt_parameters[] = {
    {"NOTIFY", SMTP_DSN, take_notify},
    {"ORCPT", SMTP_DSN, take_orcpt},
};

static bool is_keyword_octet(char ch, bool first)
{
    return (ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'z') || (!first && ch == '-');
}

/* esmtp-param of RFC 5321 section 4.1.2: keyword [ "=" value ], with the UTF-8 of RFC 6531 section 3.3 in values; who
 * takes a value says whether it may be there. *at moves behind it. False: not of that form. */
static bool split_parameter(const char **at, const char *limit, struct smtp_slice *keyword, struct smtp_slice *value)
{
    const char *from = *at;
    const char *p = from;

    while (p < limit && is_keyword_octet(*p, p == from))
        p++;
    *keyword = (struct smtp_slice){from, (size_t)(p - from)};
    *value = (struct smtp_slice){p, 0};
    if (p < limit && *p == '=') {
        from = ++p;
        while (p < limit && ((unsigned char)*p > 127 || (*p > 32 && *p < 127 && *p != '=')))
            p++;
        *value = (struct smtp_slice){from, (size_t)(p - from)};
        if (p == from)
            return false;
    }
    *at = p;
    return keyword->len > 0 && (p == limit || *p == ' ' || *p == '\t');
}

/* The next parameter of the rest. False: none is left, or *why. */
static bool next_parameter(struct smtp_slice *rest, struct smtp_slice *keyword, struct smtp_slice *value,
                           const struct smtp_reply **why)
{
    const char *at = rest->at, *limit = rest->at + rest->len;

    *why = NULL;
    while (at < limit && (*at == ' ' || *at == '\t'))
        at++;
    if (at == limit)
        return false;
    if (!split_parameter(&at, limit, keyword, value))
        *why = &bad_parameter;
    *rest = (struct smtp_slice){at, (size_t)(limit - at)};
    return *why == NULL;
}

/* Notes that row i was given. */
static const struct smtp_reply *once(unsigned *given, size_t i)
{
    unsigned bit = 1U << i;

    if (*given & bit)
        return &twice;
    *given |= bit;
    return NULL;
}

const struct smtp_reply *smtp_mail_parameters(struct smtp_slice rest, unsigned offered, struct smtp_mail *m)
{
    enum { ROWS = sizeof(mail_parameters) / sizeof(mail_parameters[0]) };
    struct smtp_slice keyword, value;
    const struct smtp_reply *why;

    while (next_parameter(&rest, &keyword, &value, &why)) {
        size_t i = 0;

        while (i < ROWS && !smtp_slice_is(keyword, mail_parameters[i].keyword))
            i++;
        if (i == ROWS || !(offered & mail_parameters[i].extension))
            return &unknown_parameter;
        why = once(&m->given, i);
        if (why == NULL)
            why = mail_parameters[i].take(m, value, offered);
        if (why != NULL)
            return why;
    }
    return why;
}

const struct smtp_reply *smtp_rcpt_parameters(struct smtp_slice rest, unsigned offered, bool utf8, struct smtp_rcpt *r)
{
    enum { ROWS = sizeof(rcpt_parameters) / sizeof(rcpt_parameters[0]) };
    struct smtp_slice keyword, value;
    const struct smtp_reply *why;

    while (next_parameter(&rest, &keyword, &value, &why)) {
        size_t i = 0;

        while (i < ROWS && !smtp_slice_is(keyword, rcpt_parameters[i].keyword))
            i++;
        if (i == ROWS || !(offered & rcpt_parameters[i].extension))
            return &unknown_parameter;
        why = once(&r->given, i);
        if (why == NULL)
            why = rcpt_parameters[i].take(r, value, utf8);
        if (why != NULL)
            return why;
    }
    return why;
}
