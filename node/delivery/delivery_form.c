#include "node/delivery/delivery_form.h"

#include "cluster/state.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <idn2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- the body ---- */

static bool has(const struct smtp_capabilities *can, unsigned all)
{
    return (can->flags & all) == all;
}

struct send_form form_choose(uint32_t flags, const struct smtp_capabilities *can)
{
    struct send_form f = {.body = FORM_PLAIN};
    bool eight = has(can, CAP_8BITMIME);

    if (flags & MESSAGE_BINARYMIME) {
        /* Without CHUNKING binary content cannot be told apart from the end of data. */
        f.bdat = has(can, CAP_CHUNKING | CAP_BINARYMIME);
        f.body = f.bdat ? FORM_BINARY : eight ? FORM_8BIT : FORM_PLAIN;
        f.convert = f.bdat ? FORM_AS_IT_IS : eight ? FORM_TO_8BIT : FORM_TO_7BIT;
    } else if (eight) {
        f.body = flags & MESSAGE_8BITMIME ? FORM_8BIT : FORM_PLAIN;
    } else {
        f.convert = FORM_TO_7BIT; /* also of what was not declared: clients forget it */
    }
    if (flags & MESSAGE_SMTPUTF8) {
        f.utf8 = has(can, CAP_SMTPUTF8 | CAP_8BITMIME); /* RFC 6531 3.1 item 8: the one brings the other */
        f.ascii_only = !f.utf8;
    }
    f.scan = f.convert != FORM_AS_IT_IS || f.ascii_only;
    /* A chunk's length says where the text ends: nobody on the way can be made to see another end in it (smuggling). */
    if (!f.scan && has(can, CAP_CHUNKING))
        f.bdat = true;
    return f;
}

/* ---- deliver-by ---- */

const char *form_deliver_by_refusal(Mailraft__DeliverBy mode, int64_t left_s, bool final_delivery,
                                    const struct smtp_capabilities *can)
{
    if (mode != MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN)
        return NULL;
    if (left_s <= 0)
        return "the time that the sender allowed for the delivery has passed";
    if (final_delivery)
        return NULL;
    if (!has(can, CAP_DELIVERBY))
        return "the sender asked for a delivery in time or none, and the next hop does not know DELIVERBY";
    if ((uint64_t)left_s < can->deliver_by_min)
        return "the sender asked for a delivery sooner than the next hop promises any";
    return NULL;
}

/* ---- addresses ---- */

bool form_is_ascii(const char *text)
{
    for (; *text != 0; text++)
        if ((unsigned char)*text >= 0x80)
            return false;
    return true;
}

char *form_ascii_address(const char *address)
{
    const char *at = strrchr(address, '@');
    char *domain = NULL, *out = NULL;
    size_t local = at == NULL ? strlen(address) : (size_t)(at - address);

    if (form_is_ascii(address))
        return mr_strdup(address);
    for (size_t i = 0; i < local; i++)
        if ((unsigned char)address[i] >= 0x80)
            return NULL;
    if (at == NULL || idn2_to_ascii_8z(at + 1, &domain, IDN2_NONTRANSITIONAL | IDN2_NFC_INPUT) != IDN2_OK)
        return NULL;
    size_t size = local + 1 + strlen(domain) + 1;
    out = mr_malloc(size);
    (void)snprintf(out, size, "%.*s@%s", (int)local, address, domain);
    idn2_free(domain);
    return out;
}

/* ---- text ---- */

static void grow(struct form_text *t, size_t more)
{
    if (t->len + more < t->size)
        return;
    t->size = (t->len + more) * 2 + 256;
    t->text = mr_realloc(t->text, t->size);
}

void form_add(struct form_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    mr_assert(n >= 0);
    grow(t, (size_t)n + 1);
    va_start(args, format);
    (void)vsnprintf(t->text + t->len, (size_t)n + 1, format, args);
    va_end(args);
    t->len += (size_t)n;
}

void form_append(struct form_text *t, const char *data, size_t len)
{
    grow(t, len);
    if (len > 0)
        memcpy(t->text + t->len, data, len);
    t->len += len;
}

/* xtext (RFC 3461 section 4): "+", "=" and what is not printable as +XX. */
static void add_xtext(struct form_text *t, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != 0; p++) {
        if (*p > ' ' && *p < 0x7f && *p != '+' && *p != '=')
            form_add(t, "%c", *p);
        else
            form_add(t, "+%02X", *p);
    }
}

/* A character of UTF-8 at p; *len its octets. Malformed octets count as characters of their own (U+FFFD). */
static uint32_t utf8_next(const unsigned char *p, size_t *len)
{
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc2 ? 2 : 1;
    uint32_t c = n == 4 ? p[0] & 7U : n == 3 ? p[0] & 15U : p[0] & 31U;
    *len = 1;
    if (p[0] < 0x80)
        return p[0];
    if (n == 1 || p[0] > 0xf4)
        return 0xfffd;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0xfffd;
        c = c << 6 | (p[i] & 63U);
    }
    *len = n;
    return c;
}

/* UTF-8 as it is where SMTPUTF8 goes with it, else as \\x{HEX} (RFC 6533 section 3). */
static size_t add_utf8(struct form_text *t, const unsigned char *p, bool utf8)
{
    size_t len;
    uint32_t c = utf8_next(p, &len);
    if (utf8 && c != 0xfffd)
        form_add(t, "%.*s", (int)len, (const char *)p);
    else
        form_add(t, "\\x{%02X}", c);
    return len;
}

/* An address that nobody has encoded yet. */
static void add_utf8_address(struct form_text *t, const char *text, bool utf8)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != 0;) {
        if (*p >= 0x80) {
            p += add_utf8(t, p, utf8);
            continue;
        }
        if (*p > ' ' && *p < 0x7f && *p != '+' && *p != '=' && *p != '\\')
            form_add(t, "%c", *p);
        else
            form_add(t, "\\x{%02X}", *p);
        p++;
    }
}

/* ENVID and ORCPT are kept as they came, encoded. What came in UTF-8 may go on in ASCII; a blank cannot have come, and
 * would end the parameter. */
static void add_encoded(struct form_text *t, const char *text, bool utf8)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != 0;) {
        if (*p >= 0x80) {
            p += add_utf8(t, p, utf8);
            continue;
        }
        form_add(t, *p > ' ' && *p < 0x7f ? "%c" : "+%02X", *p);
        p++;
    }
}

/* ---- MAIL ---- */

static void add_deliver_by(struct form_text *t, struct send_form *form, const struct attempt *a, int64_t left_s,
                           const struct smtp_capabilities *can)
{
    const int64_t most = 999999999; /* nine digits */
    if (a->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_NONE || !has(can, CAP_DELIVERBY))
        return;
    left_s = left_s > most ? most : left_s < -most ? -most : left_s;
    bool notify = a->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY;
    form_add(t, " BY=%lld;%c%s", (long long)left_s, notify ? 'N' : 'R', a->deliver_by_trace ? "T" : "");
    form->deliver_by = true;
}

void form_add_mail(struct form_text *t, struct send_form *form, const struct attempt *a, const struct form_mail *m,
                   const struct smtp_capabilities *can)
{
    static const char *const bodies[] = {
        [FORM_PLAIN] = "", [FORM_8BIT] = " BODY=8BITMIME", [FORM_BINARY] = " BODY=BINARYMIME"};
    form_add(t, "MAIL FROM:<%s>", m->reverse_path);
    if (m->size > 0 && has(can, CAP_SIZE))
        form_add(t, " SIZE=%llu", (unsigned long long)m->size);
    form_add(t, "%s%s", bodies[form->body], form->utf8 ? " SMTPUTF8" : "");
    form->dsn = has(can, CAP_DSN);
    if (form->dsn && a->ret != 0)
        form_add(t, " RET=%s", a->ret == 1 ? "FULL" : "HDRS");
    if (form->dsn && a->envid != NULL && a->envid[0] != 0) {
        form_add(t, " ENVID=");
        add_encoded(t, a->envid, false);
    }
    if ((a->flags & MESSAGE_REQUIRETLS) && has(can, CAP_REQUIRETLS))
        form_add(t, " REQUIRETLS");
    if (a->priority != 0 && has(can, CAP_MT_PRIORITY))
        form_add(t, " MT-PRIORITY=%d", (int)a->priority);
    add_deliver_by(t, form, a, m->left_s, can);
    if (m->authenticated && has(can, CAP_AUTH)) /* RFC 4954 section 5: of whom it is, is not for us to vouch */
        form_add(t, " AUTH=<>");
    form_add(t, "\r\n");
}

/* ---- RCPT ---- */

static void add_notify(struct form_text *t, uint32_t notify)
{
    static const struct {
        uint32_t bit;
        const char *word;
    } words[] = {{NOTIFY_SUCCESS, "SUCCESS"}, {NOTIFY_FAILURE, "FAILURE"}, {NOTIFY_DELAY, "DELAY"}};
    const char *before = " NOTIFY=";
    if (notify & NOTIFY_NEVER) {
        form_add(t, " NOTIFY=NEVER");
        return;
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (notify & words[i].bit) {
            form_add(t, "%s%s", before, words[i].word);
            before = ",";
        }
    }
}

/* RFC 3461 5.2.1: what was asked is asked again; who was meant first is named, so that the report of a later host can
 * be told apart. */
static void add_dsn(struct form_text *t, const struct send_form *form, const struct attempt *a,
                    const struct attempt_recipient *to)
{
    bool given = to->orcpt != NULL && to->orcpt[0] != 0;
    uint32_t notify = to->notify;
    if (notify == 0 && a->reverse_path[0] == 0 && (a->flags & MESSAGE_DSN))
        notify = NOTIFY_NEVER; /* nobody waits for a report about a report */
    add_notify(t, notify);
    if (given) {
        form_add(t, " ORCPT=");
        add_encoded(t, to->orcpt, form->utf8);
    } else if (notify != 0 && !(notify & NOTIFY_NEVER)) {
        form_add(t, " ORCPT=%s;", form_is_ascii(to->address) ? "rfc822" : "utf-8");
        if (form_is_ascii(to->address))
            add_xtext(t, to->address);
        else
            add_utf8_address(t, to->address, form->utf8);
    }
}

void form_add_rcpt(struct form_text *t, const struct send_form *form, const struct attempt *a,
                   const struct attempt_recipient *to, const char *address)
{
    form_add(t, "RCPT TO:<%s>", address);
    if (form->dsn)
        add_dsn(t, form, a, to);
    form_add(t, "\r\n");
}
