/* smtp_address.h - paths of MAIL and RCPT (RFC 5321 section 4.1.2, RFC 6531 section 3.3). Pure: reads the input, points
 * into it.
 *
 * A1: an accepted path is printable ASCII, or valid UTF-8, without controls or line breaks, so it may be written into a
 * header as it is. What is not ASCII is told (utf8_local, utf8_domain): the caller says whether it may be.
 * A2: local parts have at most 64 octets as written (quotes counted), domains at most 255, ASCII labels at most 63.
 * More than the RFC's grammar takes: underscores in domain labels, which hosts in the field have.
 * Thread: any. */
#ifndef MR_MAIL_SMTP_ADDRESS_H
#define MR_MAIL_SMTP_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

enum { SMTP_MAX_LOCAL = 64, SMTP_MAX_DOMAIN = 255, SMTP_MAX_ADDRESS = SMTP_MAX_LOCAL + 1 + SMTP_MAX_DOMAIN };

struct smtp_path {
    const char *address; /* the mailbox without angle brackets and source route; into the input */
    size_t len;          /* 0: the null path "<>" */
    size_t local_len;    /* of the local part, as written */
    const char *domain;  /* into the input; a literal with its brackets */
    size_t domain_len;   /* 0: no domain was given ("<postmaster>") */
    bool utf8_local;     /* has octets over 127 */
    bool utf8_domain;
};

/* Reads one path in angle brackets from the start of text; *used: bytes up to and with '>'.
 * MR_MALFORMED: no path. MR_LIMIT: a part is too long. */
int smtp_path_parse(const char *text, size_t len, struct smtp_path *out, size_t *used);
/* An ASCII domain or an address literal, as a whole; for EHLO and HELO. MR_MALFORMED, MR_LIMIT. */
int smtp_domain_parse(const char *text, size_t len);
/* A mailbox without brackets, as a whole; local@domain, both in ASCII. */
bool smtp_mailbox_valid(const char *text, size_t len);

#endif
