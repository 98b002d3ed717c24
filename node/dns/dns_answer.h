/* dns_answer.h - reads a DNS answer (RFC 1035 section 4): its header, and its records of one type with their TTL. Pure.
 *
 * A1: whether the resolver vouches for the answer (AD, RFC 4035 3.2.3, 6840 5.8) is told as the answer says it; who may
 * trust that is the caller's matter. A2: the owner of a record is not compared with the question: the answer comes from
 * the resolver that was asked, which put the records at the end of the question's aliases there.
 * c-ares' own readers tell neither AD nor, for MX and TXT, the TTL, and know no TLSA. Thread: any. */
#ifndef MR_DNS_DNS_ANSWER_H
#define MR_DNS_DNS_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DNS_MAX_MX = 64,
    DNS_MAX_ADDRESSES = 32,
    DNS_MAX_TLSA = 16,
    DNS_MAX_TXT = 16,
    DNS_MAX_TXT_LEN = 511, /* bytes of one record that are read, all its strings in one */
};
enum {
    DNS_TYPE_A = 1,
    DNS_TYPE_CNAME = 5,
    DNS_TYPE_MX = 15,
    DNS_TYPE_TXT = 16,
    DNS_TYPE_AAAA = 28,
    DNS_TYPE_TLSA = 52
};
enum { DNS_RCODE_NONE = 0, DNS_RCODE_NAME = 3 };

struct dns_head {
    unsigned rcode;
    bool ad;
};
/* MR_MALFORMED: shorter than a header, or no answer at all (QR not set). */
int dns_read_head(const uint8_t *answer, size_t len, struct dns_head *out);

struct dns_mx {
    uint16_t preference;
    char host[256]; /* without the last dot; "" for the root (null MX) */
};
struct dns_mx_answer {
    unsigned n;
    uint32_t ttl; /* smallest, aliases counted; seconds; UINT32_MAX: there is no record */
    struct dns_mx list[DNS_MAX_MX];
};
/* MR_MALFORMED. MX records beyond DNS_MAX_MX are left out; none at all is n 0. So it is for the types below. */
int dns_read_mx(const uint8_t *answer, size_t len, struct dns_mx_answer *out);

struct dns_address {
    int family; /* AF_INET, AF_INET6 */
    uint8_t bytes[16];
};
struct dns_address_answer {
    unsigned n;
    uint32_t ttl;
    char name[256]; /* where the aliases of the question lead to; "" when it has none */
    struct dns_address list[DNS_MAX_ADDRESSES];
};
/* A and AAAA. */
int dns_read_addresses(const uint8_t *answer, size_t len, struct dns_address_answer *out);

struct dns_tlsa {
    uint8_t usage, selector, matching;
    const uint8_t *data; /* in the answer */
    size_t len;
};
struct dns_tlsa_answer {
    unsigned n;
    uint32_t ttl;
    struct dns_tlsa list[DNS_MAX_TLSA];
};
/* RFC 6698 2.1. Data of any length is told, whatever the matching type says. */
int dns_read_tlsa(const uint8_t *answer, size_t len, struct dns_tlsa_answer *out);

struct dns_txt_answer {
    unsigned n;
    uint32_t ttl;
    char list[DNS_MAX_TXT][DNS_MAX_TXT_LEN + 1]; /* zero bytes become "?", so that each is one string */
};
int dns_read_txt(const uint8_t *answer, size_t len, struct dns_txt_answer *out);

#endif
