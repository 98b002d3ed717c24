/* smtp_received.c - writing one trace field. */
#include "node/server/smtp_received.h"

#include "proto/base/clock.h"
#include "proto/base/panic.h"

#include <stdarg.h>
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

/* Behind what is there; a field is well below its maximum by the limits of its parts. */
static int add(char out[SMTP_MAX_RECEIVED], int n, const char *format, ...)
{
    va_list args;
    int more;

    va_start(args, format);
    more = vsnprintf(out + n, (size_t)(SMTP_MAX_RECEIVED - n), format, args);
    va_end(args);
    mr_assert(more >= 0 && n + more < SMTP_MAX_RECEIVED);
    return n + more;
}

size_t smtp_received_write(const struct smtp_received *r, char out[SMTP_MAX_RECEIVED])
{
    char id[MR_ID_TEXT + 1];
    char date[MR_RFC5322_DATE_SIZE];
    int n;

    n = add(out, 0, "Received: from %s ([%s])\r\n", r->helo, r->client);
    if (r->tls != NULL)
        n = add(out, n, "\t%s\r\n", r->tls);
    n = add(out, n, "\tby %s with %s id %s", r->hostname, smtp_protocol_name(r->how), mr_id_format(r->id, id));
    if (r->recipient != NULL)
        n = add(out, n, "\r\n\tfor <%.*s>", (int)r->recipient_len, r->recipient);
    if (r->has_priority) /* RFC 5321 section 4.4: clauses that came later stand behind "for" */
        n = add(out, n, "\r\n\tpriority %d", r->priority);
    return (size_t)add(out, n, ";\r\n\t%s\r\n", mr_rfc5322_date(r->unix_ms, date));
}
