/* proxy_header.h - the PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): who is behind the proxy that
 * connected. Pure, incremental: nothing is allocated, however long the header claims to be.
 *
 * P1: not one octet behind the header is consumed. How the input is cut into pieces makes no difference.
 * P2: version 1 is at most PROXY_V1_MAX octets, version 2 at most PROXY_V2_MAX. The specification allows 65535
 *     octets of payload; what proxies send (addresses, TLS information, at most a certificate's name) stays far
 *     below ours.
 * P3: strict. A header that is not wholly of the form is an error, for a receiver that guesses can be made to take a
 *     client's words for a proxy's. TLVs are walked over and must fill the payload exactly; a CRC32C must be right.
 * Thread: any. */
#ifndef MR_SERVER_PROXY_HEADER_H
#define MR_SERVER_PROXY_HEADER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROXY_V1_MAX = 107, PROXY_V2_HEAD = 16, PROXY_V2_PAYLOAD_MAX = 8192 };
enum { PROXY_V2_MAX = PROXY_V2_HEAD + PROXY_V2_PAYLOAD_MAX };

union proxy_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct proxy_header {
    /* The result, once feed gave 0. */
    bool known; /* false: LOCAL, UNKNOWN, a socket of no IP family: the connection's own addresses count */
    union proxy_address source, destination;
    /* How far it is. */
    enum {
        PROXY_FIRST,
        PROXY_V1,
        PROXY_V2_FIXED,
        PROXY_V2_ADDRESSES,
        PROXY_V2_TLV,
        PROXY_V2_VALUE,
        PROXY_V2_SKIP,
        PROXY_DONE
    } state;
    uint8_t head[PROXY_V1_MAX]; /* the line of version 1; head and addresses of version 2; one TLV's head */
    unsigned have, want;        /* octets of head */
    unsigned left;              /* octets of the payload, not read yet */
    unsigned value_left;        /* octets of the TLV's value */
    uint32_t crc, told_crc;
    bool is_crc, has_crc;
};

void proxy_header_init(struct proxy_header *p);
/* *used: octets consumed. 0: the header is whole. MR_MORE: all was consumed, more is needed. MR_MALFORMED, MR_VERSION,
 * MR_LIMIT, MR_CHECKSUM: it is none, and stays so. */
int proxy_header_feed(struct proxy_header *p, const uint8_t *data, size_t len, size_t *used);

#endif
