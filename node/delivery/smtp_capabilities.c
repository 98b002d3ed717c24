#include "node/delivery/smtp_capabilities.h"

#include <string.h>
#include <strings.h>

struct word {
    const char *at;
    size_t len;
};

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The next word of *rest, which it is taken from; its length is 0 at the end. */
static struct word next_word(struct word *rest)
{
    while (rest->len > 0 && blank(*rest->at)) {
        rest->at++;
        rest->len--;
    }
    struct word w = {rest->at, 0};
    while (w.len < rest->len && !blank(rest->at[w.len]))
        w.len++;
    rest->at += w.len;
    rest->len -= w.len;
    return w;
}

static bool is(struct word w, const char *text)
{
    return w.len > 0 && (w.at[0] | 0x20) == (text[0] | 0x20) && w.len == strlen(text) &&
           strncasecmp(w.at, text, w.len) == 0;
}

/* Digits only, at most `most`, which stands for all that is larger. */
static bool number(struct word w, uint64_t most, uint64_t *out)
{
    uint64_t n = 0;
    if (w.len == 0)
        return false;
    for (size_t i = 0; i < w.len; i++) {
        if (w.at[i] < '0' || w.at[i] > '9')
            return false;
        if (n <= most)
            n = n * 10 + (uint64_t)(w.at[i] - '0');
    }
    *out = n > most ? most : n;
    return true;
}

static const uint64_t most_size = 1ULL << 50;

static void take_size(struct smtp_capabilities *c, struct word rest)
{
    uint64_t n;
    c->flags |= CAP_SIZE;
    c->size = number(next_word(&rest), most_size, &n) ? n : 0;
}

/* "DELIVERBY [seconds][,further]" (RFC 2852 section 2) */
static void take_deliver_by(struct smtp_capabilities *c, struct word rest)
{
    struct word w = next_word(&rest);
    const char *comma = w.len > 0 ? memchr(w.at, ',', w.len) : NULL;
    uint64_t n;
    c->flags |= CAP_DELIVERBY;
    if (comma != NULL)
        w.len = (size_t)(comma - w.at);
    c->deliver_by_min = number(w, 999999999, &n) ? n : 0;
}

/* "NAME=value"; a limit of 0 could not be kept and is none. */
static void take_limits(struct smtp_capabilities *c, struct word rest)
{
    static const char *const names[] = {"MAILMAX", "RCPTMAX", "RCPTDOMAINMAX"};
    uint32_t *const values[] = {&c->mail_max, &c->rcpt_max, &c->rcpt_domain_max};
    for (struct word w; (w = next_word(&rest)).len > 0;) {
        const char *equals = memchr(w.at, '=', w.len);
        uint64_t n;
        if (equals == NULL)
            continue;
        struct word name = {w.at, (size_t)(equals - w.at)};
        struct word value = {equals + 1, w.len - name.len - 1};
        for (size_t i = 0; i < 3; i++)
            if (is(name, names[i]) && number(value, UINT32_MAX, &n))
                *values[i] = (uint32_t)n;
    }
}

static void take_mechanism(struct smtp_capabilities *c, struct word w)
{
    static const struct {
        const char *name;
        enum smtp_mechanism bit;
    } known[] = {
        {"PLAIN", MECHANISM_PLAIN},
        {"LOGIN", MECHANISM_LOGIN},
        {"SCRAM-SHA-256", MECHANISM_SCRAM_SHA_256},
        {"SCRAM-SHA-256-PLUS", MECHANISM_SCRAM_SHA_256_PLUS},
        {"SCRAM-SHA-1", MECHANISM_SCRAM_SHA_1},
        {"SCRAM-SHA-1-PLUS", MECHANISM_SCRAM_SHA_1_PLUS},
        {"CRAM-MD5", MECHANISM_CRAM_MD5},
        {"EXTERNAL", MECHANISM_EXTERNAL},
    };
    enum { MOST = 20 }; /* RFC 4422 3.1: a mechanism's name */
    size_t have = strlen(c->mechanism_names);
    char name[MOST + 1] = "";

    if (w.len == 0 || w.len > MOST)
        return;
    for (size_t i = 0; i < w.len; i++) {
        char ch = w.at[i];
        if (ch >= 'a' && ch <= 'z')
            ch = (char)(ch - 'a' + 'A');
        if (!((ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_'))
            return;
        name[i] = ch;
    }
    if (smtp_capabilities_mechanism(c, name))
        return; /* "AUTH" and "AUTH=" say the same twice */
    if (have + 1 + w.len >= sizeof(c->mechanism_names))
        return;
    if (have > 0)
        c->mechanism_names[have++] = ' ';
    memcpy(c->mechanism_names + have, name, w.len + 1);
    c->flags |= CAP_AUTH;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(name, known[i].name) == 0)
            c->mechanisms |= known[i].bit;
}

static void take_auth(struct smtp_capabilities *c, struct word rest)
{
    for (struct word w; (w = next_word(&rest)).len > 0;)
        take_mechanism(c, w);
}

bool smtp_capabilities_mechanism(const struct smtp_capabilities *c, const char *name)
{
    struct word rest = {c->mechanism_names, strlen(c->mechanism_names)};
    for (struct word w; (w = next_word(&rest)).len > 0;)
        if (is(w, name))
            return true;
    return false;
}

void smtp_capabilities_clear(struct smtp_capabilities *c)
{
    memset(c, 0, sizeof(*c));
}

void smtp_capabilities_line(struct smtp_capabilities *c, const char *text, size_t len)
{
    static const struct {
        const char *name;
        unsigned flag;
        void (*take)(struct smtp_capabilities *c, struct word rest);
    } keywords[] = {
        {"PIPELINING", CAP_PIPELINING, NULL},
        {"8BITMIME", CAP_8BITMIME, NULL},
        {"ENHANCEDSTATUSCODES", CAP_ENHANCED, NULL},
        {"SMTPUTF8", CAP_SMTPUTF8, NULL},
        {"CHUNKING", CAP_CHUNKING, NULL},
        {"BINARYMIME", CAP_BINARYMIME, NULL},
        {"DSN", CAP_DSN, NULL},
        {"STARTTLS", CAP_STARTTLS, NULL},
        {"REQUIRETLS", CAP_REQUIRETLS, NULL},
        {"MT-PRIORITY", CAP_MT_PRIORITY, NULL},
        {"SIZE", 0, take_size},
        {"DELIVERBY", 0, take_deliver_by},
        {"LIMITS", 0, take_limits},
        {"AUTH", 0, take_auth},
    };
    struct word rest = {text, len};
    struct word keyword = next_word(&rest);

    if (keyword.len > 5 && strncasecmp(keyword.at, "AUTH=", 5) == 0) { /* as servers before RFC 2554 wrote it */
        take_mechanism(c, (struct word){keyword.at + 5, keyword.len - 5});
        take_auth(c, rest);
        return;
    }
    for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++) {
        if (!is(keyword, keywords[i].name))
            continue;
        c->flags |= keywords[i].flag;
        if (keywords[i].take != NULL)
            keywords[i].take(c, rest);
        return;
    }
}
