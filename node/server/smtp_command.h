/* smtp_command.h - command lines, and the arguments of MAIL and RCPT (RFC 5321 section 4.1). Pure; points into the
 * line.
 *
 * C1: a parameter is taken only if its extension is in `offered`; else 555 5.5.4, as to one that nobody knows. Given
 * twice, or with a value that it cannot have: 501 5.5.4.
 * C2: what limits of this server's say to a value (size, times) is the caller's matter.
 * Thread: any. */
#ifndef MR_SERVER_SMTP_COMMAND_H
#define MR_SERVER_SMTP_COMMAND_H

#include "node/config/config.h"
#include "node/mail/smtp_address.h"
#include "node/server/smtp_reply.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    /* Octets of a command line, CR LF counted. RFC 5321 asks for 512 and each extension for some more: all that are
     * known come to less than this. */
    SMTP_MAX_COMMAND = 2048,
    SMTP_MAX_ENVID = 100, /* RFC 3461 section 4.4, as written */
    SMTP_MAX_ORCPT = 500, /* section 4.2 */
};

struct smtp_slice {
    const char *at;
    size_t len;
};

bool smtp_slice_is(struct smtp_slice s, const char *word); /* any case */

/* Parts a line (without its CR LF) into verb and arguments; blanks around both are dropped. MR_MALFORMED: control
 * characters. */
int smtp_line_parse(const char *line, size_t len, struct smtp_slice *verb, struct smtp_slice *args);
/* Does it begin with the verb BDAT, whatever is wrong with the rest? */
bool smtp_line_is_bdat(const char *line, size_t len);

enum smtp_body { BODY_NOT_GIVEN, BODY_7BIT, BODY_8BITMIME, BODY_BINARYMIME };
enum smtp_ret { RET_NOT_GIVEN, RET_FULL, RET_HDRS };     /* as in Enqueue.ret */
enum smtp_by { BY_NOT_GIVEN, BY_NOTIFY, BY_RETURN };     /* as in Enqueue.deliver_by */
enum smtp_hold { HOLD_NOT_GIVEN, HOLD_FOR, HOLD_UNTIL }; /* RFC 4865 */
enum smtp_notify { NOTIFY_NEVER = 1, NOTIFY_SUCCESS = 2, NOTIFY_FAILURE = 4, NOTIFY_DELAY = 8 }; /* Recipient.notify */

struct smtp_mail {
    struct smtp_path path;
    unsigned given; /* which parameters, for the parser */
    uint64_t size;  /* octets; UINT64_MAX for any number that is larger; 0: not given */
    enum smtp_body body;
    bool utf8;        /* SMTPUTF8 */
    bool require_tls; /* RFC 8689 */
    enum smtp_ret ret;
    struct smtp_slice envid; /* xtext as it came; len 0: none */
    bool has_priority;
    int priority; /* RFC 6710: -9..9 */
    enum smtp_by by;
    int64_t by_s; /* RFC 2852; below 1 only with BY_NOTIFY */
    bool by_trace;
    enum smtp_hold hold;
    uint64_t hold_at; /* HOLD_FOR: seconds; HOLD_UNTIL: Unix time, ms */
};
/* Arguments of MAIL: "FROM:<path> [parameters]"; offered: bits of enum smtp_extension. MR_REFUSED: *why is the reply to
 * give (static memory). */
int smtp_mail_parse(struct smtp_slice args, unsigned offered, struct smtp_mail *out, const struct smtp_reply **why);

struct smtp_rcpt {
    struct smtp_path path; /* without a domain only for postmaster */
    unsigned given;
    unsigned notify;         /* enum smtp_notify; 0: not given */
    struct smtp_slice orcpt; /* as it came, type and xtext; len 0: none */
};
/* Arguments of RCPT: "TO:<path> [parameters]". utf8: SMTPUTF8 was given with MAIL. MR_REFUSED as above. */
int smtp_rcpt_parse(struct smtp_slice args, unsigned offered, bool utf8, struct smtp_rcpt *out,
                    const struct smtp_reply **why);

/* "n [LAST]" (RFC 3030 section 2). MR_MALFORMED; a number that is too large for *octets: UINT64_MAX. */
int smtp_bdat_parse(struct smtp_slice args, uint64_t *octets, bool *last);

/* ---- for smtp_command.c (smtp_parameters.c) ---- */

/* NULL: all taken. */
const struct smtp_reply *smtp_mail_parameters(struct smtp_slice rest, unsigned offered, struct smtp_mail *m);
const struct smtp_reply *smtp_rcpt_parameters(struct smtp_slice rest, unsigned offered, bool utf8, struct smtp_rcpt *r);
/* At most 20 digits; too large: UINT64_MAX. False: no number. */
bool smtp_number_parse(struct smtp_slice text, uint64_t *out);

#endif
