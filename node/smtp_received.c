/* smtp_received.c - writing one trace field, counting the others. */
#include "node/smtp_received.h"

#include "proto/base/clock.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <string.h>

size_t smtp_received_write(const struct smtp_received *r, char out[SMTP_MAX_RECEIVED])
{
    char id[MR_ID_TEXT + 1];
    char date[MR_RFC5322_DATE_SIZE];
    int n;

    n = snprintf(out, SMTP_MAX_RECEIVED, "Received: from %s ([%s])\r\n\tby %s with %s id %s", r->helo, r->client,
                 r->hostname, r->protocol, mr_id_format(r->id, id));
    mr_assert(n > 0 && n < SMTP_MAX_RECEIVED);
    if (r->recipient != NULL)
        n +=
            snprintf(out + n, (size_t)(SMTP_MAX_RECEIVED - n), "\r\n\tfor <%.*s>", (int)r->recipient_len, r->recipient);
    mr_assert(n < SMTP_MAX_RECEIVED);
    n += snprintf(out + n, (size_t)(SMTP_MAX_RECEIVED - n), ";\r\n\t%s\r\n", mr_rfc5322_date(r->unix_ms, date));
    mr_assert(n < SMTP_MAX_RECEIVED);
    return (size_t)n;
}

static const char field[] = "received:";
enum { FIELD = sizeof(field) - 1, OTHER = FIELD + 1 };

/* One octet near the start of a line, where the field's name may still stand. */
static void take_octet(struct smtp_hops *h, uint8_t ch)
{
    uint8_t lower = ch >= 'A' && ch <= 'Z' ? (uint8_t)(ch | 32) : ch;

    if (ch == '\n') {
        if (h->line == 0)
            h->in_body = 1;
        h->matched = 0;
        h->line = 0;
        return;
    }
    if (ch == '\r')
        return;
    h->line = 1;
    if (h->matched > FIELD)
        return;
    /* RFC 5322 section 4.5: an obsolete field may have blanks before its colon. */
    if ((ch == ' ' || ch == '\t') && h->matched == FIELD - 1)
        return;
    if (h->matched < FIELD && lower == (uint8_t)field[h->matched]) {
        h->matched++;
        if (h->matched < FIELD)
            return;
        if (h->count < UINT32_MAX)
            h->count++;
    }
    h->matched = OTHER;
}

void smtp_hops_feed(struct smtp_hops *h, const uint8_t *text, size_t len)
{
    size_t i = 0;

    while (i < len && !h->in_body) {
        if (h->matched == OTHER) {
            const uint8_t *lf = memchr(text + i, '\n', len - i);

            if (lf == NULL)
                return;
            i = (size_t)(lf - text);
        }
        take_octet(h, text[i++]);
    }
}
