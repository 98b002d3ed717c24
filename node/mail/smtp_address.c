/* smtp_address.c - a hand-written descent over RFC 5321's grammar: each take_* eats one production or gives an error.
 */
#include "node/mail/smtp_address.h"

#include "node/mail/smtp_text.h"
#include "proto/base/error.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

struct cursor {
    const char *at;
    const char *end;
    bool utf8; /* a character over 127 was eaten */
};

static int peek(const struct cursor *c)
{
    return c->at < c->end ? (unsigned char)*c->at : -1;
}

static bool is_alnum(int ch)
{
    return (ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z');
}

static bool is_atext(int ch)
{
    return is_alnum(ch) || (ch > 0 && strchr("!#$%&'*+-/=?^_`{|}~", ch) != NULL);
}

/* A whole character over 127 (RFC 6531: UTF8-non-ascii). */
static bool take_utf8(struct cursor *c)
{
    size_t n = peek(c) > 127 ? smtp_utf8_character(c->at, c->end) : 0;

    c->at += n;
    c->utf8 = c->utf8 || n > 0;
    return n > 0;
}

static bool take_atext(struct cursor *c)
{
    if (!is_atext(peek(c)))
        return take_utf8(c);
    c->at++;
    return true;
}

static int take_dot_string(struct cursor *c)
{
    for (;;) {
        if (!take_atext(c))
            return MR_MALFORMED;
        while (take_atext(c))
            continue;
        if (peek(c) != '.')
            return 0;
        c->at++;
    }
}

static int take_quoted_string(struct cursor *c)
{
    c->at++; /* the opening quote */
    for (;;) {
        int ch = peek(c);

        if (ch > 127 && take_utf8(c))
            continue;
        if (ch < 32 || ch > 126)
            return MR_MALFORMED;
        c->at++;
        if (ch == '"')
            return 0;
        if (ch == '\\') {
            ch = peek(c);
            if (ch < 32 || ch > 126)
                return MR_MALFORMED;
            c->at++;
        }
    }
}

static int take_local(struct cursor *c)
{
    const char *from = c->at;
    int rc = peek(c) == '"' ? take_quoted_string(c) : take_dot_string(c);

    if (rc == 0 && c->at - from > SMTP_MAX_LOCAL)
        rc = MR_LIMIT;
    return rc;
}

/* "[192.0.2.1]" or "[IPv6:2001:db8::1]"; no other kind of literal is registered. */
static int take_literal(struct cursor *c)
{
    const char *close = memchr(c->at, ']', (size_t)(c->end - c->at));
    char text[INET6_ADDRSTRLEN + 8];
    unsigned char address[16];
    size_t len;
    int ok;

    if (close == NULL)
        return MR_MALFORMED;
    len = (size_t)(close - c->at) - 1;
    if (len == 0 || len >= sizeof(text))
        return MR_MALFORMED;
    memcpy(text, c->at + 1, len);
    text[len] = '\0';
    if (strlen(text) != len)
        return MR_MALFORMED;
    if (strncasecmp(text, "IPv6:", 5) == 0)
        ok = inet_pton(AF_INET6, text + 5, address);
    else
        ok = inet_pton(AF_INET, text, address);
    if (ok != 1)
        return MR_MALFORMED;
    c->at = close + 1;
    return 0;
}

static bool take_label_character(struct cursor *c)
{
    if (!is_alnum(peek(c)) && peek(c) != '-' && peek(c) != '_')
        return take_utf8(c);
    c->at++;
    return true;
}

/* U-labels are only read here: whether IDNA knows them, and how long they are as A-labels, is smtp_idn's matter. */
static int take_domain(struct cursor *c)
{
    const char *from = c->at;

    for (;;) {
        const char *label = c->at;

        while (take_label_character(c))
            continue;
        if (c->at == label || *label == '-' || c->at[-1] == '-')
            return MR_MALFORMED;
        if (c->at - label > 63 && !c->utf8)
            return MR_LIMIT;
        if (peek(c) != '.')
            break;
        c->at++;
    }
    return c->at - from > SMTP_MAX_DOMAIN ? MR_LIMIT : 0;
}

static int take_host(struct cursor *c)
{
    return peek(c) == '[' ? take_literal(c) : take_domain(c);
}

/* "@a.example,@b.example:" is read and left out, as RFC 5321 appendix C wants. */
static int take_source_route(struct cursor *c)
{
    while (peek(c) == '@') {
        int rc;

        c->at++;
        rc = take_host(c);
        if (rc != 0)
            return rc;
        if (peek(c) == ':') {
            c->at++;
            return 0;
        }
        if (peek(c) != ',')
            return MR_MALFORMED;
        c->at++;
    }
    return MR_MALFORMED;
}

static int take_mailbox(struct cursor *c, struct smtp_path *out)
{
    int rc;

    out->address = c->at;
    c->utf8 = false;
    rc = take_local(c);
    if (rc != 0)
        return rc;
    out->local_len = (size_t)(c->at - out->address);
    out->utf8_local = c->utf8;
    c->utf8 = false;
    if (peek(c) == '@') {
        c->at++;
        out->domain = c->at;
        rc = take_host(c);
        if (rc != 0)
            return rc;
        out->domain_len = (size_t)(c->at - out->domain);
        out->utf8_domain = c->utf8;
    }
    out->len = (size_t)(c->at - out->address);
    return 0;
}

int smtp_path_parse(const char *text, size_t len, struct smtp_path *out, size_t *used)
{
    struct cursor c = {text, text + len, false};
    int rc = 0;

    *out = (struct smtp_path){.address = text, .domain = text};
    if (peek(&c) != '<')
        return MR_MALFORMED;
    c.at++;
    if (peek(&c) == '>') {
        *used = 2;
        return 0;
    }
    if (peek(&c) == '@')
        rc = take_source_route(&c);
    if (rc == 0)
        rc = take_mailbox(&c, out);
    if (rc == 0 && peek(&c) != '>')
        rc = MR_MALFORMED;
    if (rc != 0)
        return rc;
    *used = (size_t)(c.at + 1 - text);
    return 0;
}

int smtp_domain_parse(const char *text, size_t len)
{
    struct cursor c = {text, text + len, false};
    int rc;

    rc = take_host(&c);
    if (rc == 0 && (c.at != c.end || c.utf8))
        rc = MR_MALFORMED;
    return rc;
}

bool smtp_mailbox_valid(const char *text, size_t len)
{
    struct cursor c = {text, text + len, false};
    struct smtp_path path = {.len = 0};

    return take_mailbox(&c, &path) == 0 && c.at == c.end && path.domain_len > 0 && !path.utf8_local &&
           !path.utf8_domain;
}
