/* smtp_line.h - the lines of SMTP: replies as a client reads them, commands as a next hop reads them.
 *
 * Pure: consumes bytes, produces values, does no I/O (RFC 5321 sections 4.1.1, 4.2 and 4.5.3.1).
 * S1: no input makes a parser hold more than its struct.
 * Thread: any; a struct belongs to one thread. */
#ifndef MR_CLIENT_SMTP_LINE_H
#define MR_CLIENT_SMTP_LINE_H

#include <stdbool.h>
#include <stddef.h>

enum {
    SMTP_REPLY_LINE_MAX = 1024, /* a longer line of a reply is an error; RFC 5321 asks for 512 */
    SMTP_REPLY_TEXT_MAX = 2048, /* of all lines together; what is over it is dropped */
    SMTP_REPLY_LINES_MAX = 128,
    SMTP_COMMAND_MAX = 2048,
    SMTP_ADDRESS_MAX = 320, /* 64 + @ + 255 */
};

struct smtp_reply {
    int code; /* 200..599 once complete */
    unsigned lines;
    size_t len;
    char text[SMTP_REPLY_TEXT_MAX + 1]; /* lines without codes, joined by '\n'; zero byte behind */
    size_t line_len;
    char line[SMTP_REPLY_LINE_MAX];
};

void smtp_reply_reset(struct smtp_reply *reply);
/* 0: complete, *used bytes belong to it; reset before the next. MR_MORE: all was used.
 * MR_MALFORMED: no reply, or codes that differ. MR_LIMIT: a line or a reply that is too long. */
int smtp_reply_feed(struct smtp_reply *reply, const char *in, size_t len, size_t *used);
/* Does a line after the first of an EHLO reply start with this keyword? */
bool smtp_reply_offers(const struct smtp_reply *reply, const char *keyword);
/* The last line of the text. */
const char *smtp_reply_last(const struct smtp_reply *reply);

enum smtp_verb {
    SMTP_UNKNOWN,
    SMTP_HELO,
    SMTP_EHLO,
    SMTP_LHLO,
    SMTP_MAIL,
    SMTP_RCPT,
    SMTP_DATA,
    SMTP_RSET,
    SMTP_NOOP,
    SMTP_VRFY,
    SMTP_HELP,
    SMTP_QUIT,
};

/* line is without its line end. *args points into it, blanks at both ends removed. */
enum smtp_verb smtp_command_parse(const char *line, size_t len, const char **args, size_t *args_len);
/* "FROM:<a@b> SIZE=1": keyword is "FROM:" or "TO:". Writes the address without brackets and source route; it may be
 * empty. MR_MALFORMED: no such path. MR_LIMIT: over SMTP_ADDRESS_MAX. */
int smtp_path_parse(const char *args, size_t len, const char *keyword, char out[SMTP_ADDRESS_MAX + 1]);

#endif
