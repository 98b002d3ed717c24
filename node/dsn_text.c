/* The text of a report. Lines end in CR LF; what comes from others (replies, addresses) is kept to printable ASCII and
 * folded, so that it can neither end a header nor a part. */
#include "node/dsn.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOLD_AT = 76, LINE_MOST = 990 /* RFC 5322 2.1.1: 998 */ };

/* Writes text as the value of a field: printable ASCII, folded at spaces. column: where it begins. */
static void put_value(FILE *out, const char *text, size_t column)
{
    for (const char *p = text; *p != 0; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == ' ' && column > FOLD_AT && p[1] != ' ' && p[1] != 0) { /* no line of spaces only */
            (void)fputs("\r\n ", out);
            column = 1;
            continue;
        }
        if (column >= LINE_MOST) { /* a word that long is none that anybody could use */
            (void)fputs("\r\n ", out);
            column = 1;
        }
        (void)fputc(c >= 0x20 && c < 0x7f ? c : '?', out);
        column++;
    }
}

static void put_field(FILE *out, const char *name, const char *text)
{
    (void)fprintf(out, "%s: ", name);
    put_value(out, text, strlen(name) + 2);
    (void)fputs("\r\n", out);
}

static void put_header(FILE *out, const struct dsn_report *r, const char *hostname, const char *id,
                       const char *boundary, bool eight_bit, uint64_t now_ms)
{
    char date[MR_RFC5322_DATE_SIZE];
    bool failed = r->action == DSN_FAILED;
    (void)fprintf(out, "Date: %s\r\n", mr_rfc5322_date(now_ms, date));
    (void)fprintf(out, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\n", hostname);
    (void)fputs("To: <", out);
    put_value(out, r->reverse_path, 5);
    (void)fputs(">\r\n", out);
    (void)fprintf(out, "Subject: %s\r\n",
                  failed ? "Undelivered Mail Returned to Sender" : "Delayed Mail (still being retried)");
    (void)fprintf(out, "Message-ID: <%s@%s>\r\n", id, hostname);
    (void)fprintf(out,
                  "Auto-Submitted: auto-replied\r\n"
                  "MIME-Version: 1.0\r\n"
                  "Content-Type: multipart/report; report-type=delivery-status;\r\n"
                  "\tboundary=\"%s\"\r\n"
                  "%s\r\n"
                  "This is a MIME-encapsulated message.\r\n\r\n",
                  boundary, eight_bit ? "Content-Transfer-Encoding: 8bit\r\n" : "");
}

static void put_human(FILE *out, const struct dsn_report *r, const char *hostname, const char *boundary)
{
    char date[MR_RFC5322_DATE_SIZE];
    (void)fprintf(out,
                  "--%s\r\n"
                  "Content-Description: Notification\r\n"
                  "Content-Type: text/plain; charset=us-ascii\r\n\r\n"
                  "This is the mail system at host %s.\r\n\r\n",
                  boundary, hostname);
    if (r->action == DSN_FAILED)
        (void)fputs("Your message could not be delivered to one or more recipients. It will not\r\n"
                    "be tried again for them. What the report below says of each recipient tells why.\r\n\r\n",
                    out);
    else
        (void)fprintf(out,
                      "Your message could not be delivered yet. It will be retried until\r\n%s.\r\n"
                      "You need not send it again.\r\n\r\n",
                      mr_rfc5322_date(r->expire_ms, date));
    for (uint32_t i = 0; i < r->n_recipients; i++) {
        (void)fputc('<', out);
        put_value(out, r->recipients[i].address, 1);
        (void)fputs(">:\r\n    ", out);
        put_value(out, r->recipients[i].reply[0] != 0 ? r->recipients[i].reply : "delivery time expired", 4);
        (void)fputs("\r\n\r\n", out);
    }
}

static void put_status(FILE *out, const struct dsn_report *r, const char *hostname, const char *boundary)
{
    char date[MR_RFC5322_DATE_SIZE], line[1024];
    (void)fprintf(out,
                  "--%s\r\n"
                  "Content-Description: Delivery report\r\n"
                  "Content-Type: message/delivery-status\r\n\r\n"
                  "Reporting-MTA: dns; %s\r\n",
                  boundary, hostname);
    if (r->envid != NULL && r->envid[0] != 0)
        put_field(out, "Original-Envelope-Id", r->envid);
    (void)fprintf(out, "Arrival-Date: %s\r\n", mr_rfc5322_date(r->arrived_ms, date));
    for (uint32_t i = 0; i < r->n_recipients; i++) {
        const struct dsn_recipient *to = &r->recipients[i];
        (void)fputs("\r\n", out);
        if (to->orcpt != NULL && to->orcpt[0] != 0)
            put_field(out, "Original-Recipient", to->orcpt);
        (void)snprintf(line, sizeof(line), "rfc822; %s", to->address);
        put_field(out, "Final-Recipient", line);
        (void)fprintf(out, "Action: %s\r\n", r->action == DSN_FAILED ? "failed" : "delayed");
        put_field(out, "Status", to->status[0] != 0 ? to->status : r->action == DSN_FAILED ? "5.0.0" : "4.0.0");
        if (to->remote[0] != 0) {
            size_t name = strcspn(to->remote, "[");
            (void)snprintf(line, sizeof(line), "dns; %.*s", (int)name, to->remote);
            put_field(out, "Remote-MTA", line);
        }
        if (to->reply[0] != 0) {
            bool smtp = strspn(to->reply, "0123456789") == 3 && (to->reply[3] == ' ' || to->reply[3] == 0);
            (void)snprintf(line, sizeof(line), "%s; %s", smtp ? "smtp" : "X-Mailraft", to->reply);
            put_field(out, "Diagnostic-Code", line);
        }
        if (r->action == DSN_DELAYED)
            (void)fprintf(out, "Will-Retry-Until: %s\r\n", mr_rfc5322_date(r->expire_ms, date));
    }
    (void)fputs("\r\n", out);
}

bool dsn_eight_bit(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] >= 0x80)
            return true;
    return false;
}

char *dsn_text(const struct dsn_report *report, const char *hostname, struct mr_id own_id, uint64_t now_ms,
               const char *original, size_t original_len, bool whole, size_t *len)
{
    char *text = NULL;
    char id[MR_ID_TEXT + 1], boundary[MR_ID_TEXT + 16];
    FILE *out = open_memstream(&text, len);
    mr_assert(out != NULL);
    mr_id_format(own_id, id);
    /* The random part of the id stands in no other message. */
    (void)snprintf(boundary, sizeof(boundary), "%s/report", id);
    bool eight_bit = dsn_eight_bit(original, original_len);
    put_header(out, report, hostname, id, boundary, eight_bit, now_ms);
    put_human(out, report, hostname, boundary);
    put_status(out, report, hostname, boundary);
    if (original_len > 0) {
        (void)fprintf(out,
                      "--%s\r\n"
                      "Content-Description: %s\r\n"
                      "Content-Type: %s\r\n"
                      "%s\r\n",
                      boundary, whole ? "Undelivered message" : "Header of the message",
                      whole ? "message/rfc822" : "text/rfc822-headers",
                      eight_bit ? "Content-Transfer-Encoding: 8bit\r\n" : "");
        (void)fwrite(original, 1, original_len, out);
        if (original_len < 2 || original[original_len - 1] != '\n')
            (void)fputs("\r\n", out);
        (void)fputs("\r\n", out);
    }
    (void)fprintf(out, "--%s--\r\n", boundary);
    (void)fclose(out);
    return text;
}
