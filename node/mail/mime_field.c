#include "node/mail/mime_field.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

struct cursor {
    const char *at, *end;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Blanks and comments, which nest (RFC 5322 3.2.2). */
static void skip_space(struct cursor *c)
{
    unsigned depth = 0;
    for (; c->at < c->end; c->at++) {
        if (*c->at == '(')
            depth++;
        else if (depth > 0 && *c->at == ')')
            depth--;
        else if (depth > 0 && *c->at == '\\' && c->at + 1 < c->end)
            c->at++;
        else if (depth == 0 && !is_space(*c->at))
            return;
    }
}

static bool is_token(char c)
{
    return (unsigned char)c > ' ' && c != 0x7f && strchr("()<>@,;:\\\"/[]?=", c) == NULL;
}

struct token {
    const char *at;
    size_t len;
};

static struct token take_token(struct cursor *c)
{
    skip_space(c);
    struct token t = {c->at, 0};
    while (c->at < c->end && is_token(*c->at))
        c->at++;
    t.len = (size_t)(c->at - t.at);
    return t;
}

static bool is(struct token t, const char *word)
{
    return t.len == strlen(word) && strncasecmp(t.at, word, t.len) == 0;
}

static bool eat(struct cursor *c, char what)
{
    skip_space(c);
    if (c->at == c->end || *c->at != what)
        return false;
    c->at++;
    return true;
}

/* A parameter's value into out (size octets); SIZE_MAX: does not fit or has no end. */
static size_t take_value(struct cursor *c, char *out, size_t size)
{
    size_t n = 0;
    skip_space(c);
    if (c->at < c->end && *c->at == '"') {
        for (c->at++; c->at < c->end && *c->at != '"'; c->at++) {
            if (*c->at == '\r' || *c->at == '\n')
                continue; /* folding */
            if (*c->at == '\\' && c->at + 1 < c->end)
                c->at++;
            if (n == size)
                return SIZE_MAX;
            out[n++] = *c->at;
        }
        if (c->at == c->end)
            return SIZE_MAX;
        c->at++;
        return n;
    }
    /* More than a token's characters are taken: boundaries with "=", "/" or ":" go about unquoted. */
    while (c->at < c->end && *c->at != ';' && !is_space(*c->at)) {
        if (n == size)
            return SIZE_MAX;
        out[n++] = *c->at++;
    }
    return n;
}

static void take_parameters(struct cursor *c, struct mime_type *out)
{
    char other[1024];
    bool have = false;
    while (c->at < c->end) {
        if (!eat(c, ';')) {
            c->at++;
            continue;
        }
        struct token name = take_token(c);
        if (!eat(c, '='))
            continue;
        if (have || !is(name, "boundary")) {
            (void)take_value(c, other, sizeof(other));
            continue;
        }
        have = true;
        size_t n = take_value(c, out->boundary, MIME_MAX_BOUNDARY);
        out->boundary_len = n == SIZE_MAX ? 0 : n;
        while (out->boundary_len > 0 && is_space(out->boundary[out->boundary_len - 1]))
            out->boundary_len--; /* none ends in a blank (RFC 2046 5.1.1) */
        out->boundary[out->boundary_len] = 0;
    }
}

void mime_type_parse(const char *value, size_t len, struct mime_type *out)
{
    struct cursor c = {value, value + len};
    out->kind = MIME_TEXT;
    out->digest = false;
    out->boundary_len = 0;
    out->boundary[0] = 0;
    struct token type = take_token(&c);
    if (type.len == 0 || !eat(&c, '/'))
        return;
    struct token subtype = take_token(&c);
    if (is(type, "multipart")) {
        take_parameters(&c, out);
        out->kind = out->boundary_len > 0 ? MIME_MULTIPART : MIME_UNREADABLE;
        out->digest = is(subtype, "digest");
    } else if (is(type, "message")) {
        out->kind = is(subtype, "rfc822")                                    ? MIME_RFC822
                    : is(subtype, "partial") || is(subtype, "external-body") ? MIME_MESSAGE
                                                                             : MIME_OTHER;
    } else if (!is(type, "text")) {
        out->kind = MIME_OTHER;
    }
}

enum mime_encoding mime_encoding_parse(const char *value, size_t len)
{
    static const struct {
        const char *word;
        enum mime_encoding encoding;
    } words[] = {{"7bit", MIME_7BIT},
                 {"8bit", MIME_8BIT},
                 {"binary", MIME_BINARY},
                 {"quoted-printable", MIME_QUOTED},
                 {"base64", MIME_BASE64}};
    struct cursor c = {value, value + len};
    struct token t = take_token(&c);
    if (t.len == 0)
        return MIME_7BIT;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (is(t, words[i].word))
            return words[i].encoding;
    return MIME_UNKNOWN;
}
