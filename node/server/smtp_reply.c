/* smtp_reply.c - one line after the other; the mark that says "more follows" is mended at the end. */
#include "node/server/smtp_reply.h"

#include <string.h>

/* "250-2.1.0 text\r\n"; 0 when it does not fit. */
static size_t write_line(char *out, size_t cap, const struct smtp_reply *r, const char *text, size_t len)
{
    size_t status_len = r->status != NULL ? strlen(r->status) + 1 : 0;
    size_t head = 4 + status_len;
    char *p = out;

    if (head + len + 2 > SMTP_MAX_REPLY_LINE)
        len = SMTP_MAX_REPLY_LINE - head - 2;
    if (head + len + 2 > cap)
        return 0;
    *p++ = (char)('0' + r->code / 100 % 10);
    *p++ = (char)('0' + r->code / 10 % 10);
    *p++ = (char)('0' + r->code % 10);
    *p++ = '-';
    if (status_len > 0) {
        memcpy(p, r->status, status_len - 1);
        p += status_len - 1;
        *p++ = ' ';
    }
    for (size_t i = 0; i < len; i++)
        *p++ = text[i] >= 32 && text[i] < 127 ? text[i] : '?';
    *p++ = '\r';
    *p++ = '\n';
    return (size_t)(p - out);
}

size_t smtp_reply_write(char *out, size_t cap, const struct smtp_reply *reply)
{
    const char *text = reply->text;
    char *last = NULL;
    size_t used = 0;

    for (;;) {
        const char *end = strchrnul(text, '\n');
        size_t n = write_line(out + used, cap - used, reply, text, (size_t)(end - text));

        if (n == 0)
            break;
        last = out + used;
        used += n;
        if (*end == '\0')
            break;
        text = end + 1;
    }
    if (last != NULL)
        last[3] = ' ';
    return used;
}
