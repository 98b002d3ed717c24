#include "cluster/route.h"

#include "proto/base/ascii.h"
#include "proto/base/error.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* RFC 1035's letters, digits, hyphen, with the underscore that is met in practice, and UTF-8 (RFC 6531). No empty
 * label. */
static int parse_name(const char *text, size_t len, char host[256])
{
    if (len > 0 && text[len - 1] == '.')
        len--;
    if (len == 0 || len > 255)
        return MR_MALFORMED;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)ascii_lower(text[i]);
        bool label = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c >= 0x80;
        bool dot = c == '.' && i > 0 && i + 1 < len && text[i - 1] != '.';
        if (!label && !dot)
            return MR_MALFORMED;
        host[i] = (char)c;
    }
    host[len] = '\0';
    return 0;
}

/* "[...]": an address literal (RFC 5321 section 4.1.3), or an address as in a URL. */
static int parse_literal(const char *text, size_t len, char host[256])
{
    char inner[64];
    struct in6_addr six;
    struct in_addr four;

    if (len < 2 || text[0] != '[' || text[len - 1] != ']')
        return MR_MALFORMED;
    text++;
    len -= 2;
    bool tagged = len >= 5 && strncasecmp(text, "IPv6:", 5) == 0;
    if (tagged) {
        text += 5;
        len -= 5;
    }
    if (len == 0 || len >= sizeof(inner) || memchr(text, '\0', len) != NULL)
        return MR_MALFORMED;
    memcpy(inner, text, len);
    inner[len] = '\0';
    if (inet_pton(AF_INET6, inner, &six) == 1)
        return inet_ntop(AF_INET6, &six, host, 256) != NULL ? 0 : MR_MALFORMED;
    if (!tagged && inet_pton(AF_INET, inner, &four) == 1)
        return inet_ntop(AF_INET, &four, host, 256) != NULL ? 0 : MR_MALFORMED;
    return MR_MALFORMED;
}

static int parse_host(const char *text, size_t len, char host[256])
{
    return len > 0 && text[0] == '[' ? parse_literal(text, len, host) : parse_name(text, len, host);
}

/* Digits up to the end; 1..65535. */
static int parse_port(const char *text, uint16_t *port)
{
    unsigned value = 0;

    if (*text == '\0')
        return MR_MALFORMED;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return MR_MALFORMED;
        value = value * 10 + (unsigned)(*text - '0');
        if (value > 65535)
            return MR_MALFORMED;
    }
    if (value == 0)
        return MR_MALFORMED;
    *port = (uint16_t)value;
    return 0;
}

/* The user may hold an "@" (the last one ends it), but nothing that a password or a path would need. */
static int parse_user(const char *text, size_t len, struct next_hop *out)
{
    if (out->kind != NEXT_HOP_SMTP || len == 0 || len >= sizeof(out->user))
        return MR_MALFORMED;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c <= ' ' || c == 0x7f || c == ':' || c == '/')
            return MR_MALFORMED;
    }
    memcpy(out->user, text, len);
    return 0;
}

static int parse_authority(const char *text, struct next_hop *out)
{
    const char *at = strrchr(text, '@');

    if (at != NULL) {
        int r = parse_user(text, (size_t)(at - text), out);
        if (r != 0)
            return r;
        text = at + 1;
    }
    size_t len = text[0] == '[' ? strcspn(text, "]") + 1 : strcspn(text, ":");
    if (len > strlen(text))
        return MR_MALFORMED;
    int r = parse_host(text, len, out->host);
    if (r != 0)
        return r;
    if (text[len] == '\0') {
        out->port = out->kind == NEXT_HOP_LMTP ? 24 : 25;
        return 0;
    }
    return text[len] == ':' ? parse_port(text + len + 1, &out->port) : MR_MALFORMED;
}

int next_hop_parse(const char *text, struct next_hop *out)
{
    struct next_hop hop = {.kind = NEXT_HOP_MX};
    int r = 0;

    if (strnlen(text, NEXT_HOP_MAX) >= NEXT_HOP_MAX)
        return MR_MALFORMED;
    if (strncasecmp(text, "smtp://", 7) == 0) {
        hop.kind = NEXT_HOP_SMTP;
        r = parse_authority(text + 7, &hop);
    } else if (strncasecmp(text, "lmtp://", 7) == 0) {
        hop.kind = NEXT_HOP_LMTP;
        r = parse_authority(text + 7, &hop);
    } else if (strncasecmp(text, "mx:", 3) == 0) {
        r = parse_host(text + 3, strlen(text + 3), hop.host);
    } else if (strcasecmp(text, "mx") != 0) {
        r = MR_MALFORMED;
    }
    /* "[USER@]HOST:PORT" at their longest do not fit NEXT_HOP_MAX together; a name that long is none. */
    if (r == 0 && strlen(hop.user) + strlen(hop.host) + sizeof("smtp://@[]:65535") > NEXT_HOP_MAX)
        r = MR_MALFORMED;
    if (r == 0)
        *out = hop;
    return r;
}

/* ":25" */
static void put_port(char *at, unsigned port)
{
    char digits[5];
    unsigned n = 0;

    do {
        digits[n++] = (char)('0' + port % 10);
        port /= 10;
    } while (port > 0);
    *at++ = ':';
    while (n > 0)
        *at++ = digits[--n];
    *at = '\0';
}

/* Without printf: a route is looked up twice for each recipient of a message. */
char *next_hop_format(const struct next_hop *hop, char text[NEXT_HOP_MAX])
{
    static const char *const schemes[] = {
        [NEXT_HOP_MX] = "mx:", [NEXT_HOP_SMTP] = "smtp://", [NEXT_HOP_LMTP] = "lmtp://"};
    char all[sizeof(hop->user) + sizeof(hop->host) + 32];
    bool six = strchr(hop->host, ':') != NULL;
    char *end = all;

    end = stpcpy(end, schemes[hop->kind]);
    end = stpcpy(end, hop->user);
    end = stpcpy(end, hop->user[0] != '\0' ? "@" : "");
    end = stpcpy(end, six ? "[" : "");
    end = stpcpy(end, hop->host);
    end = stpcpy(end, six ? "]" : "");
    if (hop->kind != NEXT_HOP_MX)
        put_port(end, hop->port);
    if (hop->kind == NEXT_HOP_MX && hop->host[0] == '\0')
        all[2] = '\0';
    size_t len = strnlen(all, NEXT_HOP_MAX - 1); /* what next_hop_parse gave fits */
    memcpy(text, all, len);
    text[len] = '\0';
    return text;
}

/* Where this host's text ends: at the end, or at a comma before another scheme (a user's name may have commas). */
static const char *host_end(const char *text, const char **next)
{
    for (const char *p = text; *p != '\0'; p++) {
        const char *after = p + 1 + strspn(p + 1, " \t");
        if (*p == ',' && (strncasecmp(after, "smtp://", 7) == 0 || strncasecmp(after, "lmtp://", 7) == 0)) {
            *next = after;
            return p;
        }
    }
    *next = NULL;
    return text + strlen(text);
}

int next_hop_list_parse(const char *text, struct next_hop_list *out)
{
    size_t length = 0;

    out->n = 0; /* the rest of it is large, and needs no zeros */
    if (strlen(text) >= 2 * ROUTE_MAX)
        return MR_MALFORMED;
    for (const char *next; text != NULL; text = next) {
        char one[NEXT_HOP_MAX] = "";
        size_t len = (size_t)(host_end(text, &next) - text);
        if (out->n == NEXT_HOP_MAX_HOSTS)
            return MR_LIMIT;
        if (len >= sizeof(one))
            return MR_MALFORMED;
        memcpy(one, text, len);
        one[len] = '\0';
        if (next_hop_parse(one, &out->at[out->n]) != 0 || out->at[out->n].kind != out->at[0].kind)
            return MR_MALFORMED;
        length += strlen(next_hop_format(&out->at[out->n], one)) + 1;
        out->n++;
    }
    if (length > ROUTE_MAX)
        return MR_LIMIT;
    return 0;
}

char *next_hop_list_format(const struct next_hop_list *list, char text[ROUTE_MAX])
{
    size_t len = 0;

    for (unsigned i = 0; i < list->n; i++) {
        char one[NEXT_HOP_MAX];
        size_t n = strlen(next_hop_format(&list->at[i], one));
        if (len + n + 2 > ROUTE_MAX) /* what next_hop_list_parse gave fits */
            break;
        if (i > 0)
            text[len++] = ',';
        memcpy(text + len, one, n);
        len += n;
    }
    text[len] = '\0';
    return text;
}

static const char default_name[] = "default";

static bool same_name(const char *name, const char *domain, size_t len)
{
    return strncasecmp(name, domain, len) == 0 && (name[len] == '\0' || (name[len] == '.' && name[len + 1] == '\0'));
}

int route_lookup(const Mailraft__Rules *rules, const char *domain, size_t len, char next_hop[ROUTE_MAX], bool *local)
{
    const Mailraft__Route *exact = NULL, *otherwise = NULL;
    bool is_local = false;
    struct next_hop_list hops;

    if (len == 0 || len > 255 || memchr(domain, '\0', len) != NULL)
        return MR_MALFORMED;
    for (size_t i = 0; i < rules->n_routes; i++) {
        const Mailraft__Route *route = rules->routes[i];
        if (strcasecmp(route->domain, default_name) == 0) {
            if (otherwise == NULL)
                otherwise = route;
        } else if (same_name(route->domain, domain, len)) {
            is_local = is_local || route->local;
            if (exact == NULL)
                exact = route;
        }
    }
    if (local != NULL)
        *local = is_local;
    const Mailraft__Route *route = exact != NULL ? exact : otherwise;
    if (route == NULL)
        return MR_NOTFOUND;
    int r = next_hop_list_parse(route->route, &hops);
    if (r == 0 && hops.at[0].kind == NEXT_HOP_MX && hops.at[0].host[0] == '\0')
        r = parse_host(domain, len, hops.at[0].host);
    if (r == 0)
        next_hop_list_format(&hops, next_hop);
    return r;
}

char *route_site(const char *next_hop, char text[ROUTE_MAX])
{
    struct next_hop hop;
    char first[NEXT_HOP_MAX] = "";
    const char *next;
    size_t len = (size_t)(host_end(next_hop, &next) - next_hop);

    hop.host[0] = '\0';
    if (len < sizeof(first)) {
        memcpy(first, next_hop, len);
        first[len] = '\0';
        if (next_hop_parse(first, &hop) != 0)
            hop.host[0] = '\0';
    }
    memcpy(text, hop.host, strlen(hop.host) + 1);
    return text;
}

const Mailraft__Limit *route_limit(const Mailraft__Rules *rules, const char *next_hop)
{
    static const Mailraft__Limit unlimited = MAILRAFT__LIMIT__INIT;
    const Mailraft__Limit *otherwise = &unlimited;
    char site[ROUTE_MAX];

    if (rules == NULL)
        return &unlimited;
    route_site(next_hop, site);
    for (size_t i = 0; i < rules->n_limits; i++) {
        const Mailraft__Limit *limit = rules->limits[i];
        if (strcasecmp(limit->site, default_name) == 0)
            otherwise = limit;
        else if (site[0] != '\0' && strcasecmp(limit->site, site) == 0)
            return limit;
    }
    return otherwise;
}

const Mailraft__TlsRule *route_tls(const Mailraft__Rules *rules, const char *next_hop)
{
    static const Mailraft__TlsRule standard = MAILRAFT__TLS_RULE__INIT; /* policy DEFAULT: see the enum */
    const Mailraft__TlsRule *otherwise = &standard;
    char site[ROUTE_MAX];

    if (rules == NULL)
        return &standard;
    route_site(next_hop, site);
    for (size_t i = 0; i < rules->n_tls; i++) {
        const Mailraft__TlsRule *rule = rules->tls[i];
        if (strcasecmp(rule->site, default_name) == 0)
            otherwise = rule;
        else if (site[0] != '\0' && strcasecmp(rule->site, site) == 0)
            return rule;
    }
    return otherwise;
}
