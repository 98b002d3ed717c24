/* smtp_capabilities.h - what a next hop says of itself in its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1). Pure.
 *
 * Keywords are read in any case; what is unknown or malformed counts as not offered, as to trust half an offer would
 * cost a refusal later. Everything is forgotten with smtp_capabilities_clear, which has to be called before each EHLO:
 * what was said before TLS means nothing after it (RFC 3207 section 4.2). Thread: any; one struct a connection. */
#ifndef MR_DELIVERY_SMTP_CAPABILITIES_H
#define MR_DELIVERY_SMTP_CAPABILITIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum smtp_capability {
    CAP_PIPELINING = 1 << 0,   /* RFC 2920 */
    CAP_SIZE = 1 << 1,         /* RFC 1870 */
    CAP_8BITMIME = 1 << 2,     /* RFC 6152 */
    CAP_ENHANCED = 1 << 3,     /* RFC 2034 */
    CAP_SMTPUTF8 = 1 << 4,     /* RFC 6531 */
    CAP_CHUNKING = 1 << 5,     /* RFC 3030 */
    CAP_BINARYMIME = 1 << 6,   /* RFC 3030; of use only together with CHUNKING */
    CAP_DSN = 1 << 7,          /* RFC 3461 */
    CAP_STARTTLS = 1 << 8,     /* RFC 3207 */
    CAP_REQUIRETLS = 1 << 9,   /* RFC 8689 */
    CAP_MT_PRIORITY = 1 << 10, /* RFC 6710 */
    CAP_DELIVERBY = 1 << 11,   /* RFC 2852 */
    CAP_AUTH = 1 << 12,        /* RFC 4954 */
};

/* Mechanisms of AUTH that this program knows. */
enum smtp_mechanism {
    MECHANISM_PLAIN = 1 << 0,
    MECHANISM_LOGIN = 1 << 1,
    MECHANISM_SCRAM_SHA_256 = 1 << 2,
    MECHANISM_SCRAM_SHA_256_PLUS = 1 << 3,
    MECHANISM_SCRAM_SHA_1 = 1 << 4,
    MECHANISM_SCRAM_SHA_1_PLUS = 1 << 5,
    MECHANISM_CRAM_MD5 = 1 << 6,
    MECHANISM_EXTERNAL = 1 << 7,
};

enum { SMTP_MECHANISMS_TEXT = 512 };

struct smtp_capabilities {
    unsigned flags;          /* enum smtp_capability */
    uint64_t size;           /* octets; 0: none given */
    uint64_t deliver_by_min; /* seconds: the shortest BY= that it takes; 0: any */
    /* LIMITS (RFC 9422); 0: not given. Transactions a connection, recipients a transaction, domains of those. */
    uint32_t mail_max, rcpt_max, rcpt_domain_max;
    unsigned mechanisms;                        /* enum smtp_mechanism */
    char mechanism_names[SMTP_MECHANISMS_TEXT]; /* all, in capitals, a space between: as the server orders them */
};

void smtp_capabilities_clear(struct smtp_capabilities *c);
/* One line of the reply without its code and line end. The first line of the reply, which greets, is not for here. */
void smtp_capabilities_line(struct smtp_capabilities *c, const char *text, size_t len);
/* Does the server offer this mechanism by name (any case)? */
bool smtp_capabilities_mechanism(const struct smtp_capabilities *c, const char *name);

#endif
