/* dovecot_line.h - lines of Dovecot's authentication protocol, version 1.x, from the auth process. Pure.
 *
 * A line is a command and its parameters, parted by tabs; in a value \001 escapes. Unknown commands and parameters are
 * passed over, as the protocol asks. Thread: any. */
#ifndef MR_AUTH_DOVECOT_LINE_H
#define MR_AUTH_DOVECOT_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DOVECOT_LINE_MAX = 16384 };

enum dovecot_command {
    DOVECOT_OTHER,
    DOVECOT_VERSION, /* number: major */
    DOVECOT_MECH,    /* text: name; hidden */
    DOVECOT_DONE,
    DOVECOT_OK,   /* number: id; user */
    DOVECOT_FAIL, /* number: id; user, temporary */
    DOVECOT_CONT, /* number: id; text: base64 */
};

/* Points into the line. */
struct dovecot_line {
    enum dovecot_command command;
    uint32_t number;
    const char *text;
    const char *user; /* NULL: not told */
    bool hidden;
    bool temporary;
};

/* line: without its LF, with a zero byte behind it; changed. MR_MALFORMED. */
int dovecot_line_parse(char *line, size_t len, struct dovecot_line *out);

#endif
