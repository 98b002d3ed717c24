/* smtp_xclient.h - the arguments of XCLIENT (Postfix's XCLIENT_README): a trusted client says for whom it speaks. Pure.
 *
 * Values are xtext (RFC 3461 section 4). [UNAVAILABLE], [TEMPUNAVAIL] and IPV6: in any case. What is given twice, is
 * not of its form, or would not be fit for a header or the log after decoding is refused as a whole.
 * Thread: any. */
#ifndef MR_SERVER_SMTP_XCLIENT_H
#define MR_SERVER_SMTP_XCLIENT_H

#include "node/server/proxy_header.h"
#include "node/server/smtp_command.h"

#include <stdint.h>

/* Behind "XCLIENT " in the reply to EHLO. */
#define SMTP_XCLIENT_ATTRIBUTES "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"

enum smtp_xclient_attribute {
    XCLIENT_NAME = 1 << 0,
    XCLIENT_ADDR = 1 << 1,
    XCLIENT_PORT = 1 << 2,
    XCLIENT_PROTO = 1 << 3,
    XCLIENT_HELO = 1 << 4,
    XCLIENT_LOGIN = 1 << 5,
    XCLIENT_DESTADDR = 1 << 6,
    XCLIENT_DESTPORT = 1 << 7,
};

struct smtp_xclient {
    unsigned given;                           /* enum smtp_xclient_attribute */
    char name[SMTP_MAX_DOMAIN + 1];           /* "": unavailable */
    union proxy_address address, destination; /* without ports; AF_UNSPEC: unavailable */
    uint16_t port, destination_port;          /* 0: unavailable */
    bool esmtp;
    char helo[SMTP_MAX_DOMAIN + 1]; /* "": unavailable */
    char login[SMTP_MAX_DOMAIN + 1];
};

/* MR_REFUSED: *why is the reply to give (static memory). */
int smtp_xclient_parse(struct smtp_slice args, struct smtp_xclient *out, const struct smtp_reply **why);

#endif
