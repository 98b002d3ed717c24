/* smtp_command.h - command lines, and the arguments of MAIL and RCPT (RFC 5321 section 4.1). Pure; points into the
 * line.
 *
 * Thread: any. */
#ifndef MR_NODE_SMTP_COMMAND_H
#define MR_NODE_SMTP_COMMAND_H

#include "node/smtp_address.h"
#include "node/smtp_reply.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Octets of a command line, CR LF counted. RFC 5321 asks for 512 and more for each extension; 2048 holds all that are
 * known. */
enum { SMTP_MAX_COMMAND = 2048 };

struct smtp_slice {
    const char *at;
    size_t len;
};

bool smtp_slice_is(struct smtp_slice s, const char *word); /* any case */

/* Parts a line (without its CR LF) into verb and arguments; blanks around both are dropped. MR_MALFORMED: control
 * characters. */
int smtp_line_parse(const char *line, size_t len, struct smtp_slice *verb, struct smtp_slice *args);

struct smtp_mail {
    struct smtp_path path;
    bool has_size;
    uint64_t size;  /* octets; UINT64_MAX for any number that is larger */
    bool eight_bit; /* BODY=8BITMIME */
};
/* Arguments of MAIL: "FROM:<path> [parameters]". MR_REFUSED: *why is the reply to give (static memory). */
int smtp_mail_parse(struct smtp_slice args, struct smtp_mail *out, const struct smtp_reply **why);
/* Arguments of RCPT: "TO:<path> [parameters]". MR_REFUSED as above. A path without a domain is given only for
 * postmaster. */
int smtp_rcpt_parse(struct smtp_slice args, struct smtp_path *out, const struct smtp_reply **why);

#endif
