/* Reply: bytes are gathered to a line, a line is checked and added to the text, the line with a space behind its code
 * ends the reply. A line may end with LF alone: what a peer says is judged by its code, not by its line ends. */
#include "client/smtp_line.h"

#include "proto/base/error.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

void smtp_reply_reset(struct smtp_reply *reply)
{
    reply->code = 0;
    reply->lines = 0;
    reply->len = 0;
    reply->text[0] = '\0';
    reply->line_len = 0;
}

static void add_text(struct smtp_reply *reply, const char *text, size_t len)
{
    size_t room = SMTP_REPLY_TEXT_MAX - reply->len;

    if (reply->lines > 1 && room > 0) {
        reply->text[reply->len++] = '\n';
        room--;
    }
    if (len > room)
        len = room;
    memcpy(reply->text + reply->len, text, len);
    reply->len += len;
    reply->text[reply->len] = '\0';
}

/* 0: that was the last line; MR_MORE: another follows. */
static int take_line(struct smtp_reply *reply, const char *line, size_t len)
{
    if (len > 0 && line[len - 1] == '\r')
        len--;
    if (len < 3 || line[0] < '2' || line[0] > '5' || !isdigit((unsigned char)line[1]) ||
        !isdigit((unsigned char)line[2]))
        return MR_MALFORMED;
    int code = (line[0] - '0') * 100 + (line[1] - '0') * 10 + (line[2] - '0');
    if (len > 3 && line[3] != ' ' && line[3] != '-')
        return MR_MALFORMED;
    if (reply->lines > 0 && code != reply->code)
        return MR_MALFORMED;
    if (reply->lines == SMTP_REPLY_LINES_MAX)
        return MR_LIMIT;
    reply->code = code;
    reply->lines++;
    add_text(reply, line + (len > 3 ? 4 : 3), len > 3 ? len - 4 : 0);
    return len > 3 && line[3] == '-' ? MR_MORE : 0;
}

int smtp_reply_feed(struct smtp_reply *reply, const char *in, size_t len, size_t *used)
{
    size_t at = 0;

    while (at < len) {
        const char *start = in + at;
        const char *end = memchr(start, '\n', len - at);
        size_t n = end != NULL ? (size_t)(end - start) : len - at;
        if (reply->line_len + n > sizeof(reply->line))
            return MR_LIMIT;
        if (end == NULL || reply->line_len > 0) {
            memcpy(reply->line + reply->line_len, start, n);
            reply->line_len += n;
            start = reply->line;
        }
        at += n;
        if (end == NULL)
            break;
        at++;
        size_t line_len = reply->line_len > 0 ? reply->line_len : n;
        reply->line_len = 0;
        int rc = take_line(reply, start, line_len);
        if (rc != MR_MORE) {
            *used = at;
            return rc;
        }
    }
    *used = len;
    return MR_MORE;
}

bool smtp_reply_offers(const struct smtp_reply *reply, const char *keyword)
{
    size_t len = strlen(keyword);
    const char *line = strchr(reply->text, '\n');

    while (line != NULL) {
        line++;
        if (strncasecmp(line, keyword, len) == 0 && (line[len] == '\0' || line[len] == ' ' || line[len] == '\n'))
            return true;
        line = strchr(line, '\n');
    }
    return false;
}

const char *smtp_reply_last(const struct smtp_reply *reply)
{
    const char *last = strrchr(reply->text, '\n');
    return last != NULL ? last + 1 : reply->text;
}

static const struct {
    char name[5];
    enum smtp_verb verb;
} verbs[] = {
    {"MAIL", SMTP_MAIL}, {"RCPT", SMTP_RCPT}, {"DATA", SMTP_DATA}, {"RSET", SMTP_RSET},
    {"NOOP", SMTP_NOOP}, {"QUIT", SMTP_QUIT}, {"EHLO", SMTP_EHLO}, {"HELO", SMTP_HELO},
    {"LHLO", SMTP_LHLO}, {"VRFY", SMTP_VRFY}, {"HELP", SMTP_HELP},
};

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

enum smtp_verb smtp_command_parse(const char *line, size_t len, const char **args, size_t *args_len)
{
    size_t n = 0;

    while (n < len && !blank(line[n]))
        n++;
    size_t from = n;
    while (from < len && blank(line[from]))
        from++;
    while (len > from && blank(line[len - 1]))
        len--;
    *args = line + from;
    *args_len = len - from;
    if (n != 4)
        return SMTP_UNKNOWN;
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (strncasecmp(line, verbs[i].name, 4) == 0)
            return verbs[i].verb;
    }
    return SMTP_UNKNOWN;
}

/* Index of the bracket that ends the path which starts behind the opening one; len when there is none. A bracket inside
 * a quoted local part ends nothing (RFC 5321 section 4.1.2). */
static size_t path_end(const char *s, size_t len)
{
    bool quoted = false;

    for (size_t i = 0; i < len; i++) {
        if (quoted && s[i] == '\\')
            i++;
        else if (s[i] == '"')
            quoted = !quoted;
        else if (s[i] == '>' && !quoted)
            return i;
    }
    return len;
}

int smtp_path_parse(const char *args, size_t len, const char *keyword, char out[SMTP_ADDRESS_MAX + 1])
{
    size_t n = strlen(keyword);

    if (len < n || strncasecmp(args, keyword, n) != 0)
        return MR_MALFORMED;
    while (n < len && blank(args[n]))
        n++;
    if (n == len || args[n] != '<')
        return MR_MALFORMED;
    const char *path = args + n + 1;
    size_t room = len - n - 1;
    size_t end = path_end(path, room);
    if (end >= room || (end + 1 < room && !blank(path[end + 1])))
        return MR_MALFORMED;
    if (end > 0 && path[0] == '@') { /* a source route is taken and ignored (RFC 5321 appendix C) */
        const char *colon = memchr(path, ':', end);
        if (colon == NULL)
            return MR_MALFORMED;
        end -= (size_t)(colon + 1 - path);
        path = colon + 1;
    }
    if (end > SMTP_ADDRESS_MAX)
        return MR_LIMIT;
    memcpy(out, path, end);
    out[end] = '\0';
    return 0;
}
