/* test_dns_server.h - a DNS server on loopback UDP whose zone and faults a test writes down. It answers when
 * dns_turn is called, so that it shares the test's one thread; DNS_SILENT and DNS_HELD are its ways not to. */
#ifndef MR_DNS_TEST_DNS_SERVER_H
#define MR_DNS_TEST_DNS_SERVER_H

#include "proto/base/clock.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DNS_A = 1, DNS_CNAME = 5, DNS_MX = 15, DNS_TXT = 16, DNS_AAAA = 28, DNS_TLSA = 52 };
enum { DNS_NOERROR, DNS_FORMERR, DNS_SERVFAIL, DNS_NXDOMAIN, DNS_REFUSED = 5, DNS_SILENT = 100, DNS_GARBAGE, DNS_HELD };
enum { DNS_MOST = 64, DNS_LOG = 512 };

struct dns_record {
    const char *name;
    uint16_t type;
    uint32_t ttl;
    uint16_t preference; /* of an MX */
    const char *value;   /* address, or host of an MX or CNAME: "" is the root; text; "3 1 1 HEX" of a TLSA */
};
/* What a question gets instead of the zone's answer. */
struct dns_fault {
    const char *name;
    uint16_t type; /* 0: any */
    int rcode;     /* or DNS_SILENT ... */
};

static struct {
    int fd;
    char text[64]; /* 127.0.0.1:port */
    struct dns_record zone[DNS_MOST];
    unsigned n_zone;
    struct dns_fault faults[DNS_MOST];
    unsigned n_faults;
    bool no_edns;   /* it knows nothing of EDNS */
    bool validates; /* sets AD where it was asked to (RFC 6840 5.7), but not for names below this one: */
    const char *unsigned_zone;
    struct {
        char name[256];
        uint16_t type;
    } log[DNS_LOG];
    unsigned n_log;
    uint8_t held[512]; /* the question of a DNS_HELD */
    size_t held_len;
    struct sockaddr_in held_from;
} dns;

static inline void dns_open(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    memset(&dns, 0, sizeof(dns));
    dns.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mr_assert(dns.fd >= 0 && bind(dns.fd, (struct sockaddr *)&at, sizeof(at)) == 0);
    mr_assert(getsockname(dns.fd, (struct sockaddr *)&at, &len) == 0);
    (void)snprintf(dns.text, sizeof(dns.text), "127.0.0.1:%u", ntohs(at.sin_port));
}

static inline void dns_close(void)
{
    if (dns.fd >= 0)
        (void)close(dns.fd);
    dns.fd = -1;
}

static inline void dns_add(struct dns_record record)
{
    mr_assert(dns.n_zone < DNS_MOST);
    dns.zone[dns.n_zone++] = record;
}

static inline void dns_mx(const char *name, uint16_t preference, const char *host, uint32_t ttl)
{
    dns_add((struct dns_record){name, DNS_MX, ttl, preference, host});
}

static inline void dns_a(const char *name, const char *address, uint32_t ttl)
{
    dns_add((struct dns_record){name, strchr(address, ':') != NULL ? DNS_AAAA : DNS_A, ttl, 0, address});
}

static inline void dns_fault(const char *name, uint16_t type, int rcode)
{
    mr_assert(dns.n_faults < DNS_MOST);
    dns.faults[dns.n_faults++] = (struct dns_fault){name, type, rcode};
}

static inline unsigned dns_asked(const char *name, uint16_t type)
{
    unsigned n = 0;
    for (unsigned i = 0; i < dns.n_log; i++)
        n += strcasecmp(dns.log[i].name, name) == 0 && dns.log[i].type == type;
    return n;
}

/* Name of the question; returns the octets behind it. */
static inline size_t dns_question(const uint8_t *in, size_t len, char name[256])
{
    size_t at = 12, used = 0;
    while (at < len && in[at] != 0) {
        size_t label = in[at++];
        mr_assert(label < 64 && at + label < len && used + label + 1 < 256);
        if (used > 0)
            name[used++] = '.';
        memcpy(name + used, in + at, label);
        used += label;
        at += label;
    }
    name[used] = 0;
    return at + 1;
}

static inline size_t dns_put_name(uint8_t *out, const char *name)
{
    size_t n = 0;
    while (*name != 0) {
        size_t label = strcspn(name, ".");
        out[n++] = (uint8_t)label;
        memcpy(out + n, name, label);
        n += label;
        name += label + (name[label] == '.');
    }
    out[n++] = 0;
    return n;
}

static inline void dns_put16(uint8_t *out, unsigned v)
{
    out[0] = (uint8_t)(v >> 8);
    out[1] = (uint8_t)v;
}

static inline size_t dns_put_tlsa(uint8_t *out, const char *text)
{
    unsigned usage, selector, matching, octet;
    int at;
    size_t n = 3;
    mr_assert(sscanf(text, "%u %u %u %n", &usage, &selector, &matching, &at) == 3);
    out[0] = (uint8_t)usage;
    out[1] = (uint8_t)selector;
    out[2] = (uint8_t)matching;
    for (text += at; sscanf(text, "%2x", &octet) == 1; text += 2)
        out[n++] = (uint8_t)octet;
    return n;
}

/* One record; returns its octets. */
static inline size_t dns_put_record(uint8_t *out, const struct dns_record *r)
{
    size_t size = 0;
    out += size = dns_put_name(out, r->name);
    dns_put16(out, r->type);
    dns_put16(out + 2, 1);
    dns_put16(out + 4, r->ttl >> 16);
    dns_put16(out + 6, r->ttl & 0xffff);
    size_t head = size + 10;
    if (r->type == DNS_MX) {
        dns_put16(out + 10, r->preference);
        size = 2 + dns_put_name(out + 12, r->value);
    } else if (r->type == DNS_CNAME) {
        size = dns_put_name(out + 10, r->value);
    } else if (r->type == DNS_TXT) {
        size = strlen(r->value) + 1;
        mr_assert(size <= 256);
        out[10] = (uint8_t)(size - 1);
        memcpy(out + 11, r->value, size - 1);
    } else if (r->type == DNS_TLSA) {
        size = dns_put_tlsa(out + 10, r->value);
    } else {
        size = r->type == DNS_A ? 4 : 16;
        mr_assert(inet_pton(r->type == DNS_A ? AF_INET : AF_INET6, r->value, out + 10) == 1);
    }
    dns_put16(out + 8, (unsigned)size);
    return head + size;
}

static inline bool dns_is_unsigned(const char *name)
{
    size_t zone = dns.unsigned_zone == NULL ? 0 : strlen(dns.unsigned_zone), len = strlen(name);
    return !dns.validates || (zone > 0 && len >= zone && strcasecmp(name + len - zone, dns.unsigned_zone) == 0);
}

static inline void dns_answer(const uint8_t *in, size_t len, const struct sockaddr_in *from, int fault)
{
    uint8_t out[4096] = {0};
    char name[256];
    size_t at = dns_question(in, len, name);
    unsigned type = (unsigned)in[at] << 8 | in[at + 1], answers = 0;
    bool exists = false, ad = (in[3] & 0x20) != 0;
    memcpy(out, in, at + 4);
    at += 4;
    ad = ad && !dns_is_unsigned(name);
    for (unsigned i = 0; i < dns.n_zone; i++) {
        const struct dns_record *r = &dns.zone[i];
        bool same = strcasecmp(r->name, name) == 0;
        exists = exists || same;
        if (fault < 0 && same && (r->type == type || r->type == DNS_CNAME)) {
            mr_assert(at < sizeof(out) - 600);
            at += dns_put_record(out + at, r);
            answers++;
            if (r->type != type) { /* an alias: the rest of the zone is looked through for where it leads */
                (void)snprintf(name, sizeof(name), "%s", r->value);
                ad = ad && !dns_is_unsigned(name);
            }
        }
    }
    int rcode = fault >= 0 && fault < DNS_SILENT ? fault : exists || fault == DNS_GARBAGE ? DNS_NOERROR : DNS_NXDOMAIN;
    out[2] = 0x85;
    out[3] = (uint8_t)(0x80 | (ad ? 0x20 : 0) | rcode);
    dns_put16(out + 4, 1);
    dns_put16(out + 6, fault == DNS_GARBAGE ? 3 : answers); /* three that are not there */
    dns_put16(out + 8, 0);
    dns_put16(out + 10, 0);
    (void)sendto(dns.fd, out, at, 0, (const struct sockaddr *)from, sizeof(*from));
}

/* Answers all that was asked. */
static inline void dns_turn(void)
{
    for (;;) {
        uint8_t in[512];
        char name[256];
        struct sockaddr_in from;
        socklen_t from_len = sizeof(from);
        ssize_t n = recvfrom(dns.fd, in, sizeof(in), 0, (struct sockaddr *)&from, &from_len);
        if (n < 0)
            return;
        mr_assert(n > 16);
        size_t at = dns_question(in, (size_t)n, name);
        uint16_t type = (uint16_t)(in[at] << 8 | in[at + 1]);
        mr_assert(dns.n_log < DNS_LOG);
        (void)snprintf(dns.log[dns.n_log].name, sizeof(dns.log[0].name), "%s", name);
        dns.log[dns.n_log++].type = type;
        int fault = -1;
        for (unsigned i = 0; i < dns.n_faults; i++)
            if (strcasecmp(dns.faults[i].name, name) == 0 && (dns.faults[i].type == 0 || dns.faults[i].type == type))
                fault = dns.faults[i].rcode;
        if (dns.no_edns && in[11] > 0)
            fault = DNS_FORMERR;
        if (fault == DNS_HELD) {
            memcpy(dns.held, in, (size_t)n);
            dns.held_len = (size_t)n;
            dns.held_from = from;
        } else if (fault != DNS_SILENT) {
            dns_answer(in, (size_t)n, &from, fault);
        }
    }
}

/* Answers the question that was held. */
static inline void dns_let_go(void)
{
    mr_assert(dns.held_len > 0);
    dns_answer(dns.held, dns.held_len, &dns.held_from, -1);
    dns.held_len = 0;
}

enum { LIMIT_MS = 30000 };

/* The test has a turn() of its own, in which dns_turn has its part. */
#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t end_ = mr_boot_ns(&mr_clock_real) + LIMIT_MS * MR_NS_PER_MS;                                          \
        while (!(condition)) {                                                                                         \
            if (mr_boot_ns(&mr_clock_real) > end_)                                                                     \
                fail_msg("never: %s", #condition);                                                                     \
            turn();                                                                                                    \
        }                                                                                                              \
    } while (0)

#endif
