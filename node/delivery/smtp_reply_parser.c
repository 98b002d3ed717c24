#include "node/delivery/smtp_reply_parser.h"

#include "proto/base/error.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

void smtp_reply_begin(struct smtp_reply_parser *p)
{
    p->line_len = 0;
    p->lines = 0;
    p->code = 0;
    p->text_len = 0;
    p->text[0] = 0;
}

static void keep(struct smtp_reply_parser *p, const char *s, size_t len)
{
    size_t room = REPLY_TEXT - p->text_len;
    if (len > room)
        len = room;
    for (size_t i = 0; i < len; i++) /* no control characters in logs and reports */
        p->text[p->text_len++] = (unsigned char)s[i] < 0x20 || s[i] == 0x7f ? ' ' : s[i];
    p->text[p->text_len] = 0;
}

/* One line without its end. 0: the last of its reply. */
static int take_line(struct smtp_reply_parser *p)
{
    const char *l = p->line;
    size_t len = p->line_len;

    p->line_len = 0;
    if (len < 3 || !isdigit((unsigned char)l[0]) || !isdigit((unsigned char)l[1]) || !isdigit((unsigned char)l[2]))
        return MR_MALFORMED;
    if (l[0] < '2' || l[0] > '5' || (len > 3 && l[3] != ' ' && l[3] != '-'))
        return MR_MALFORMED;
    int code = (l[0] - '0') * 100 + (l[1] - '0') * 10 + (l[2] - '0');
    if (p->lines == 0)
        keep(p, l, len > 3 ? 4 : 3);
    else if (code != p->code)
        return MR_MALFORMED;
    else
        keep(p, "; ", 2);
    if (p->lines == 0 && len > 3)
        p->text[3] = ' ';
    p->code = code;
    if (len > 4)
        keep(p, l + 4, len - 4);
    if (p->on_line != NULL)
        p->on_line(p->arg, p->lines, len > 4 ? l + 4 : l + len, len > 4 ? len - 4 : 0);
    p->lines++;
    if (len > 3 && l[3] == '-')
        return p->lines >= REPLY_MAX_LINES ? MR_LIMIT : MR_MORE;
    return 0;
}

int smtp_reply_feed(struct smtp_reply_parser *p, const char *data, size_t len, size_t *used)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] != '\n') {
            if (p->line_len == sizeof(p->line)) {
                *used = i;
                return MR_LIMIT;
            }
            p->line[p->line_len++] = data[i];
            continue;
        }
        if (p->line_len > 0 && p->line[p->line_len - 1] == '\r')
            p->line_len--;
        int rc = take_line(p);
        if (rc != MR_MORE) {
            *used = i + 1;
            return rc;
        }
    }
    *used = len;
    return MR_MORE;
}

/* Length of "C.S.D" at s with class `class`; 0: none. */
static size_t enhanced_len(const char *s, char class)
{
    size_t i = 0;
    if (s[i++] != class || s[i++] != '.')
        return 0;
    for (int part = 0; part < 2; part++) {
        size_t digits = 0;
        while (isdigit((unsigned char)s[i]) && digits < 3) {
            i++;
            digits++;
        }
        if (digits == 0 || (part == 0 && s[i++] != '.'))
            return 0;
    }
    return s[i] == 0 || s[i] == ' ' || s[i] == ';' ? i : 0;
}

char *smtp_reply_status(int code, const char *text, char out[16])
{
    char class = (char)('0' + code / 100);
    const char *at = strlen(text) > 4 && isdigit((unsigned char)text[0]) ? text + 4 : text;
    size_t len = enhanced_len(at, class);
    if (len > 0 && len < 16) {
        memcpy(out, at, len);
        out[len] = 0;
    } else {
        (void)snprintf(out, 16, "%c.0.0", class);
    }
    return out;
}
