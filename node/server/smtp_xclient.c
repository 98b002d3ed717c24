/* smtp_xclient.c - one row an attribute. */
#include "node/server/smtp_xclient.h"

#include "proto/base/error.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

enum { VALUE_MAX = SMTP_MAX_DOMAIN };

struct value {
    char text[VALUE_MAX + 1];
    size_t len;
    bool unavailable; /* [UNAVAILABLE], [TEMPUNAVAIL] */
};

/* ---- xtext ---- */

static int hex(char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    return ch >= 'A' && ch <= 'F' ? ch - 'A' + 10 : -1;
}

static bool decode(struct smtp_slice in, struct value *out)
{
    out->len = 0;
    for (size_t i = 0; i < in.len; i++) {
        unsigned char ch = (unsigned char)in.at[i];

        if (ch == '+') {
            int high = i + 2 < in.len ? hex(in.at[i + 1]) : -1;
            int low = i + 2 < in.len ? hex(in.at[i + 2]) : -1;

            if (high < 0 || low < 0)
                return false;
            ch = (unsigned char)(high << 4 | low);
            i += 2;
        }
        if (ch < 32 || ch == 127 || out->len == VALUE_MAX)
            return false;
        out->text[out->len++] = (char)ch;
    }
    out->text[out->len] = '\0';
    out->unavailable = strcasecmp(out->text, "[UNAVAILABLE]") == 0 || strcasecmp(out->text, "[TEMPUNAVAIL]") == 0;
    return out->len > 0;
}

/* ---- values ---- */

static bool take_domain(const struct value *v, char out[SMTP_MAX_DOMAIN + 1])
{
    out[0] = '\0';
    if (v->unavailable)
        return true;
    if (smtp_domain_parse(v->text, v->len) != 0)
        return false;
    memcpy(out, v->text, v->len + 1);
    return true;
}

static bool take_address(const struct value *v, union proxy_address *out)
{
    memset(out, 0, sizeof(*out));
    out->any.sa_family = AF_UNSPEC;
    if (v->unavailable)
        return true;
    if (strncasecmp(v->text, "IPV6:", 5) == 0) {
        out->any.sa_family = AF_INET6;
        return inet_pton(AF_INET6, v->text + 5, &out->v6.sin6_addr) == 1;
    }
    out->any.sa_family = AF_INET;
    return inet_pton(AF_INET, v->text, &out->v4.sin_addr) == 1;
}

static bool take_port(const struct value *v, uint16_t *out)
{
    unsigned n = 0;

    *out = 0;
    if (v->unavailable)
        return true;
    for (size_t i = 0; i < v->len; i++) {
        if (v->text[i] < '0' || v->text[i] > '9')
            return false;
        n = n * 10 + (unsigned)(v->text[i] - '0');
        if (n > 65535)
            return false;
    }
    *out = (uint16_t)n;
    return true;
}

static bool take_name(const struct value *v, struct smtp_xclient *x)
{
    return take_domain(v, x->name);
}

static bool take_addr(const struct value *v, struct smtp_xclient *x)
{
    return take_address(v, &x->address);
}

static bool take_client_port(const struct value *v, struct smtp_xclient *x)
{
    return take_port(v, &x->port);
}

static bool take_proto(const struct value *v, struct smtp_xclient *x)
{
    x->esmtp = strcasecmp(v->text, "ESMTP") == 0;
    return x->esmtp || strcasecmp(v->text, "SMTP") == 0;
}

static bool take_helo(const struct value *v, struct smtp_xclient *x)
{
    return take_domain(v, x->helo);
}

static bool take_login(const struct value *v, struct smtp_xclient *x)
{
    x->login[0] = '\0';
    if (!v->unavailable)
        memcpy(x->login, v->text, v->len + 1);
    return true;
}

static bool take_destination(const struct value *v, struct smtp_xclient *x)
{
    return take_address(v, &x->destination);
}

static bool take_destination_port(const struct value *v, struct smtp_xclient *x)
{
    return take_port(v, &x->destination_port);
}

static const struct {
    const char *name;
    enum smtp_xclient_attribute bit;
    bool (*take)(const struct value *v, struct smtp_xclient *x);
} attributes[] = {
    {"NAME", XCLIENT_NAME, take_name},
    {"ADDR", XCLIENT_ADDR, take_addr},
    {"PORT", XCLIENT_PORT, take_client_port},
    {"PROTO", XCLIENT_PROTO, take_proto},
    {"HELO", XCLIENT_HELO, take_helo},
    {"LOGIN", XCLIENT_LOGIN, take_login},
    {"DESTADDR", XCLIENT_DESTADDR, take_destination},
    {"DESTPORT", XCLIENT_DESTPORT, take_destination_port},
};

/* ---- the arguments ---- */

static const struct smtp_reply *take_attribute(struct smtp_slice name, struct smtp_slice text, struct smtp_xclient *out)
{
    static const struct smtp_reply unknown = {501, "5.5.4", "XCLIENT attribute not known"};
    static const struct smtp_reply twice = {501, "5.5.4", "XCLIENT attribute given twice"};
    static const struct smtp_reply bad = {501, "5.5.4", "Bad value of an XCLIENT attribute"};
    struct value value;

    for (size_t i = 0; i < sizeof(attributes) / sizeof(attributes[0]); i++) {
        if (!smtp_slice_is(name, attributes[i].name))
            continue;
        if ((out->given & attributes[i].bit) != 0)
            return &twice;
        out->given |= attributes[i].bit;
        return decode(text, &value) && attributes[i].take(&value, out) ? NULL : &bad;
    }
    return &unknown;
}

int smtp_xclient_parse(struct smtp_slice args, struct smtp_xclient *out, const struct smtp_reply **why)
{
    static const struct smtp_reply syntax = {501, "5.5.4", "Syntax: XCLIENT attribute=value ..."};
    const char *at = args.at, *end = args.at + args.len;

    memset(out, 0, sizeof(*out));
    *why = args.len == 0 ? &syntax : NULL;
    while (*why == NULL && at < end) {
        const char *word = at, *equals;

        if (*at == ' ' || *at == '\t') {
            at++;
            continue;
        }
        while (at < end && *at != ' ' && *at != '\t')
            at++;
        equals = memchr(word, '=', (size_t)(at - word));
        if (equals == NULL)
            *why = &syntax;
        else
            *why = take_attribute((struct smtp_slice){word, (size_t)(equals - word)},
                                  (struct smtp_slice){equals + 1, (size_t)(at - equals - 1)}, out);
    }
    return *why == NULL ? 0 : MR_REFUSED;
}
