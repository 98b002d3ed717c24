/* The text of a report. Lines end in CR LF; what comes from others (replies, addresses) is kept to printable ASCII, or
 * to UTF-8 without control characters where the report is one of RFC 6533, and folded, so that it can neither end a
 * header nor a part. */
#include "node/delivery/dsn.h"
#include "node/mail/smtp_text.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FOLD_AT = 76, LINE_MOST = 990 /* RFC 5322 2.1.1: 998 */ };

struct writer {
    FILE *out;
    const struct dsn_report *report;
    const char *hostname;
    bool global; /* UTF-8 as it is */
    uint64_t now_ms;
};

static bool ascii(const char *text)
{
    return text == NULL || !dsn_eight_bit(text, strlen(text));
}

/* Octets of the character at p; 0: no UTF-8 that could be written (RFC 3629). */
static size_t character(const unsigned char *p)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (n == 1)
        return p[0] >= 0x20 && p[0] != 0x7f;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xed && p[1] > 0x9f, too_high = p[0] == 0xf4 && p[1] > 0x8f;
    bool control = p[0] == 0xc2 && p[1] < 0xa0;
    return overlong || surrogate || too_high || control ? 0 : n;
}

/* Writes text as the value of a field, folded at spaces. column: where it begins. */
static void put_value(const struct writer *w, const char *text, size_t column)
{
    for (const char *p = text; *p != 0; p++) {
        if (*p == ' ' && column > FOLD_AT && p[1] != ' ' && p[1] != 0) { /* no line of spaces only */
            (void)fputs("\r\n ", w->out);
            column = 1;
            continue;
        }
        if (column >= LINE_MOST) { /* a word that long is none that anybody could use */
            (void)fputs("\r\n ", w->out);
            column = 1;
        }
        size_t n = character((const unsigned char *)p);
        if (n == 1 || (n > 1 && w->global))
            (void)fwrite(p, 1, n, w->out);
        else
            (void)fputc('?', w->out);
        column += n > 0 ? n : 1;
        p += n > 1 ? n - 1 : 0;
    }
}

static void put_field(const struct writer *w, const char *name, const char *text)
{
    (void)fprintf(w->out, "%s: ", name);
    put_value(w, text, strlen(name) + 2);
    (void)fputs("\r\n", w->out);
}

/* "name: type; address", the type in prefix. An address that is not ASCII (RFC 6533 section 3), where the report has to
 * be ASCII all the same, has what ASCII lacks as \x{HEX}. */
static void put_address(const struct writer *w, const char *name, const char *prefix, const char *address)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    mr_assert(out != NULL);
    (void)fputs(prefix, out);
    for (const unsigned char *p = (const unsigned char *)address; *p != 0; p++) {
        size_t n = character(p);
        if (n <= 1 || w->global) {
            (void)fputc(*p, out);
            continue;
        }
        unsigned code = n == 2 ? *p & 31U : n == 3 ? *p & 15U : *p & 7U;
        for (size_t i = 1; i < n; i++)
            code = code << 6 | (p[i] & 63U);
        (void)fprintf(out, "\\x{%02X}", code);
        p += n - 1;
    }
    mr_assert(fclose(out) == 0);
    put_field(w, name, text);
    free(text);
}

/* "\\x{HEX}" of RFC 6533 section 3 as UTF-8; out has room for as much as was given. */
static void decode_utf8_address(const char *text, char *out)
{
    unsigned code;
    int used;
    while (*text != 0) {
        if (sscanf(text, "\\x{%6x}%n", &code, &used) != 1 || used < 6 || text[used - 1] != '}' || code < 0x20 ||
            code > 0x10ffff) {
            *out++ = *text++;
            continue;
        }
        text += used;
        if (code < 0x80) {
            *out++ = (char)code;
            continue;
        }
        unsigned more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        *out++ = (char)((0xf0U << (3 - more)) | code >> (6 * more));
        while (more-- > 0)
            *out++ = (char)(0x80U | (code >> (6 * more) & 63U));
    }
    *out = 0;
}

/* ORCPT "type;address" with its address decoded (RFC 3464 2.3.1); of type utf-8 only where UTF-8 can be written. */
static void put_original_recipient(const struct writer *w, const char *orcpt)
{
    char prefix[32];
    const char *end = strchr(orcpt, ';');
    size_t len = end == NULL ? 0 : (size_t)(end - orcpt) + 1;
    if (len >= sizeof(prefix))
        len = 0;
    size_t rest = strlen(orcpt + len);
    char *address = mr_malloc(rest + 1);
    memcpy(prefix, orcpt, len);
    prefix[len] = 0;
    if (strcasecmp(prefix, "utf-8;") == 0 && w->global)
        decode_utf8_address(orcpt + len, address);
    else if (strcasecmp(prefix, "utf-8;") == 0 || smtp_xtext_decode(orcpt + len, rest, address, rest + 1) != 0)
        memcpy(address, orcpt + len, rest + 1);
    /* Postfix writes UTF-8 in plain xtext of the type rfc822; RFC 6533 gave it a type of its own. */
    bool other = strcasecmp(prefix, "rfc822;") == 0 && !ascii(address);
    put_address(w, "Original-Recipient", other ? "utf-8;" : prefix, address);
    free(address);
}

static void put_envid(const struct writer *w, const char *envid)
{
    size_t len = strlen(envid);
    char *text = mr_malloc(len + 1);
    put_field(w, "Original-Envelope-Id", smtp_xtext_decode(envid, len, text, len + 1) == 0 ? text : envid);
    free(text);
}

static bool any(const struct dsn_report *r, enum dsn_action action)
{
    for (uint32_t i = 0; i < r->n_recipients; i++)
        if (r->recipients[i].action == action)
            return true;
    return false;
}

static void put_header(const struct writer *w, const char *id, const char *boundary, bool eight_bit)
{
    char date[MR_RFC5322_DATE_SIZE];
    const struct dsn_report *r = w->report;
    const char *subject = any(r, DSN_FAILED)    ? "Undelivered Mail Returned to Sender"
                          : any(r, DSN_DELAYED) ? "Delayed Mail (still being retried)"
                                                : "Successful Mail Delivery Report";
    (void)fprintf(w->out, "Date: %s\r\n", mr_rfc5322_date(w->now_ms, date));
    (void)fprintf(w->out, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\n", w->hostname);
    (void)fputs("To: <", w->out);
    put_value(w, r->reverse_path, 5);
    (void)fputs(">\r\n", w->out);
    (void)fprintf(w->out, "Subject: %s\r\n", subject);
    (void)fprintf(w->out, "Message-ID: <%s@%s>\r\n", id, w->hostname);
    (void)fprintf(w->out,
                  "Auto-Submitted: auto-replied\r\n"
                  "MIME-Version: 1.0\r\n"
                  "Content-Type: multipart/report; report-type=%sdelivery-status;\r\n"
                  "\tboundary=\"%s\"\r\n"
                  "%s\r\n"
                  "This is a MIME-encapsulated message.\r\n\r\n",
                  w->global ? "global-" : "", boundary, eight_bit ? "Content-Transfer-Encoding: 8bit\r\n" : "");
}

static void put_summary(const struct writer *w)
{
    char date[MR_RFC5322_DATE_SIZE];
    const struct dsn_report *r = w->report;
    if (any(r, DSN_FAILED))
        (void)fputs("Your message could not be delivered to one or more recipients. It will not\r\n"
                    "be tried again for them. What the report below says of each recipient tells why.\r\n\r\n",
                    w->out);
    if (any(r, DSN_DELAYED))
        (void)fprintf(w->out,
                      "Your message could not be delivered yet. It will be retried until\r\n%s.\r\n"
                      "You need not send it again.\r\n\r\n",
                      mr_rfc5322_date(r->expire_ms, date));
    if (any(r, DSN_DELIVERED))
        (void)fputs("Your message was delivered, as you asked to be told.\r\n\r\n", w->out);
    if (any(r, DSN_RELAYED))
        (void)fputs("Your message was passed on to a mail system that does not report deliveries.\r\n"
                    "You will hear no more of it unless it fails there.\r\n\r\n",
                    w->out);
}

static void put_human(const struct writer *w, const char *boundary)
{
    const struct dsn_report *r = w->report;
    (void)fprintf(w->out,
                  "--%s\r\n"
                  "Content-Description: Notification\r\n"
                  "Content-Type: text/plain; charset=%s\r\n%s\r\n"
                  "This is the mail system at host %s.\r\n\r\n",
                  boundary, w->global ? "utf-8" : "us-ascii", w->global ? "Content-Transfer-Encoding: 8bit\r\n" : "",
                  w->hostname);
    put_summary(w);
    for (uint32_t i = 0; i < r->n_recipients; i++) {
        (void)fputc('<', w->out);
        put_value(w, r->recipients[i].address, 1);
        (void)fputs(">:\r\n    ", w->out);
        put_value(w, r->recipients[i].reply[0] != 0 ? r->recipients[i].reply : "delivery time expired", 4);
        (void)fputs("\r\n\r\n", w->out);
    }
}

static void put_recipient(const struct writer *w, const struct dsn_recipient *to)
{
    static const struct {
        const char *action, *status;
    } words[] = {[DSN_NONE] = {"failed", "5.0.0"},
                 [DSN_FAILED] = {"failed", "5.0.0"},
                 [DSN_DELAYED] = {"delayed", "4.0.0"},
                 [DSN_DELIVERED] = {"delivered", "2.0.0"},
                 [DSN_RELAYED] = {"relayed", "2.0.0"}};
    char date[MR_RFC5322_DATE_SIZE], line[1024];
    (void)fputs("\r\n", w->out);
    if (to->orcpt != NULL && to->orcpt[0] != 0)
        put_original_recipient(w, to->orcpt);
    put_address(w, "Final-Recipient", ascii(to->address) ? "rfc822; " : "utf-8; ", to->address);
    (void)fprintf(w->out, "Action: %s\r\n", words[to->action].action);
    put_field(w, "Status", to->status[0] != 0 ? to->status : words[to->action].status);
    if (to->remote[0] != 0) {
        size_t name = strcspn(to->remote, "[");
        (void)snprintf(line, sizeof(line), "dns; %.*s", (int)name, to->remote);
        put_field(w, "Remote-MTA", line);
    }
    if (to->reply[0] != 0) {
        bool smtp = strspn(to->reply, "0123456789") == 3 && (to->reply[3] == ' ' || to->reply[3] == 0);
        (void)snprintf(line, sizeof(line), "%s; %s", smtp ? "smtp" : "X-Mailraft", to->reply);
        put_field(w, "Diagnostic-Code", line);
    }
    if (to->action == DSN_DELAYED)
        (void)fprintf(w->out, "Will-Retry-Until: %s\r\n", mr_rfc5322_date(w->report->expire_ms, date));
}

static void put_status(const struct writer *w, const char *boundary)
{
    char date[MR_RFC5322_DATE_SIZE];
    const struct dsn_report *r = w->report;
    (void)fprintf(w->out,
                  "--%s\r\n"
                  "Content-Description: Delivery report\r\n"
                  "Content-Type: message/%sdelivery-status\r\n%s\r\n"
                  "Reporting-MTA: dns; %s\r\n",
                  boundary, w->global ? "global-" : "", w->global ? "Content-Transfer-Encoding: 8bit\r\n" : "",
                  w->hostname);
    if (r->envid != NULL && r->envid[0] != 0)
        put_envid(w, r->envid);
    (void)fprintf(w->out, "Arrival-Date: %s\r\n", mr_rfc5322_date(r->arrived_ms, date));
    for (uint32_t i = 0; i < r->n_recipients; i++)
        put_recipient(w, &r->recipients[i]);
    (void)fputs("\r\n", w->out);
}

static void put_original(const struct writer *w, const char *boundary, const char *original, size_t len, bool whole,
                         bool eight_bit)
{
    const char *type = whole ? (w->global ? "message/global" : "message/rfc822")
                             : (w->global ? "message/global-headers" : "text/rfc822-headers");
    (void)fprintf(w->out,
                  "--%s\r\n"
                  "Content-Description: %s\r\n"
                  "Content-Type: %s\r\n"
                  "%s\r\n",
                  boundary, whole ? "Undelivered message" : "Header of the message", type,
                  eight_bit ? "Content-Transfer-Encoding: 8bit\r\n" : "");
    (void)fwrite(original, 1, len, w->out);
    if (len < 2 || original[len - 1] != '\n')
        (void)fputs("\r\n", w->out);
    (void)fputs("\r\n", w->out);
}

bool dsn_eight_bit(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] >= 0x80)
            return true;
    return false;
}

bool dsn_global(const struct dsn_report *report, const char *original, size_t original_len)
{
    if (!report->utf8)
        return false;
    if (!ascii(report->reverse_path) || dsn_eight_bit(original, original_len))
        return true;
    for (uint32_t i = 0; i < report->n_recipients; i++)
        if (!ascii(report->recipients[i].address) || !ascii(report->recipients[i].orcpt))
            return true;
    return false;
}

char *dsn_text(const struct dsn_report *report, const char *hostname, struct mr_id own_id, uint64_t now_ms,
               const char *original, size_t original_len, bool whole, size_t *len)
{
    char *text = NULL;
    char id[MR_ID_TEXT + 1], boundary[MR_ID_TEXT + 16];
    struct writer w = {.out = open_memstream(&text, len),
                       .report = report,
                       .hostname = hostname,
                       .global = dsn_global(report, original, original_len),
                       .now_ms = now_ms};
    mr_assert(w.out != NULL);
    mr_id_format(own_id, id);
    /* The random part of the id stands in no other message. */
    (void)snprintf(boundary, sizeof(boundary), "%s/report", id);
    bool eight_bit = dsn_eight_bit(original, original_len);
    put_header(&w, id, boundary, eight_bit || w.global);
    put_human(&w, boundary);
    put_status(&w, boundary);
    if (original_len > 0)
        put_original(&w, boundary, original, original_len, whole, eight_bit);
    (void)fprintf(w.out, "--%s--\r\n", boundary);
    mr_assert(fclose(w.out) == 0);
    return text;
}
