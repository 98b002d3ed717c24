/* dns_answer.h - reads the MX records of a DNS answer with their TTL (RFC 1035 section 4, RFC 5321 section 5). Pure.
 *
 * c-ares' own reader for MX tells no TTL. Thread: any. */
#ifndef MR_NODE_DNS_ANSWER_H
#define MR_NODE_DNS_ANSWER_H

#include <stddef.h>
#include <stdint.h>

enum { DNS_MAX_MX = 64 };

struct dns_mx {
    uint16_t preference;
    char host[256]; /* without the last dot; "" for the root (null MX) */
};
struct dns_mx_answer {
    unsigned n;
    uint32_t ttl; /* smallest; seconds */
    struct dns_mx list[DNS_MAX_MX];
};
/* MR_MALFORMED. MX records beyond DNS_MAX_MX are left out; none at all is n 0. */
int dns_read_mx(const uint8_t *answer, size_t len, struct dns_mx_answer *out);

#endif
