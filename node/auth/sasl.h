/* sasl.h - names of the SASL mechanisms that are spoken here, as server and as client. Pure.
 *
 * PLAIN (RFC 4616), LOGIN (never a standard, wanted by old clients), SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677).
 * Thread: any. */
#ifndef MR_AUTH_SASL_H
#define MR_AUTH_SASL_H

#include <stddef.h>

/* Bits of a set; the order is the one in which they are offered, weakest first. */
enum sasl_mechanism {
    SASL_PLAIN = 1,
    SASL_LOGIN = 2,
    SASL_SCRAM_SHA_256 = 4,
    SASL_SCRAM_SHA_256_PLUS = 8,
    SASL_ALL = 15,
    SASL_PASSWORD_SENT = SASL_PLAIN | SASL_LOGIN, /* the server sees the password */
};

enum {
    SASL_USER_MAX = 255,     /* octets of a user's name */
    SASL_NAMES = 64,         /* enough for all names with blanks between them and a zero byte */
    SASL_BASE64_MAX = 12288, /* RFC 4954 section 4 */
};

/* NULL: no such bit. */
const char *sasl_name(unsigned mechanism);
/* Any case; 0: unknown. */
unsigned sasl_find(const char *name, size_t len);
/* "PLAIN LOGIN"; returns out. */
char *sasl_names(unsigned set, char out[SASL_NAMES]);

#endif
