/* smtp_received.c - writing one trace field. */
#include "node/server/smtp_received.h"

#include "proto/base/clock.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <string.h>

const char *smtp_protocol_name(unsigned how)
{
    /* RFC 5321, RFC 3848, RFC 6531 section 4.3: UTF8 before, S and A behind; SMTP became ESMTP by EHLO. */
    static const char *const names[2][2][2][2] = {
        {{{"ESMTP", "ESMTPA"}, {"ESMTPS", "ESMTPSA"}}, {{"UTF8SMTP", "UTF8SMTPA"}, {"UTF8SMTPS", "UTF8SMTPSA"}}},
        {{{"LMTP", "LMTPA"}, {"LMTPS", "LMTPSA"}}, {{"UTF8LMTP", "UTF8LMTPA"}, {"UTF8LMTPS", "UTF8LMTPSA"}}},
    };

    if (!(how & PROTOCOL_LMTP) && !(how & PROTOCOL_EXTENDED))
        return "SMTP";
    return names[(how & PROTOCOL_LMTP) != 0][(how & PROTOCOL_UTF8) != 0][(how & PROTOCOL_TLS) != 0]
                [(how & PROTOCOL_AUTH) != 0];
}

/* Behind what is there; a field is well below its maximum by the limits of its parts. One is written for each message,
 * and printf would cost as much as all else that is done for it here. */
static size_t put(char out[SMTP_MAX_RECEIVED], size_t n, const char *text, size_t len)
{
    mr_assert(n + len < SMTP_MAX_RECEIVED);
    memcpy(out + n, text, len);
    return n + len;
}

static size_t add(char out[SMTP_MAX_RECEIVED], size_t n, const char *text)
{
    return put(out, n, text, strlen(text));
}

size_t smtp_received_write(const struct smtp_received *r, char out[SMTP_MAX_RECEIVED])
{
    char id[MR_ID_TEXT + 1];
    char date[MR_RFC5322_DATE_SIZE];
    size_t n;

    n = add(out, 0, "Received: from ");
    n = add(out, n, r->helo);
    n = add(out, n, " ([");
    n = add(out, n, r->client);
    n = add(out, n, "])\r\n");
    if (r->tls != NULL) {
        n = add(out, n, "\t");
        n = add(out, n, r->tls);
        n = add(out, n, "\r\n");
    }
    n = add(out, n, "\tby ");
    n = add(out, n, r->hostname);
    n = add(out, n, " with ");
    n = add(out, n, smtp_protocol_name(r->how));
    n = add(out, n, " id ");
    n = add(out, n, mr_id_format(r->id, id));
    if (r->recipient != NULL) {
        n = add(out, n, "\r\n\tfor <");
        n = put(out, n, r->recipient, r->recipient_len);
        n = add(out, n, ">");
    }
    if (r->has_priority) { /* RFC 5321 section 4.4: clauses that came later stand behind "for" */
        char priority[16];

        (void)snprintf(priority, sizeof(priority), "%d", r->priority);
        n = add(out, n, "\r\n\tpriority ");
        n = add(out, n, priority);
    }
    n = add(out, n, ";\r\n\t");
    n = add(out, n, mr_rfc5322_date(r->unix_ms, date));
    return add(out, n, "\r\n");
}
