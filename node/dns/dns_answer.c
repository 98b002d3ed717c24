#include "node/dns/dns_answer.h"

#include "proto/base/error.h"

#include <ares.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum { HEADER = 12, CLASS_IN = 1, FLAG_QR = 0x80, FLAG_AD = 0x20 };

static uint16_t u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t u32(const uint8_t *p)
{
    return (uint32_t)u16(p) << 16 | u16(p + 2);
}

/* ---- records, one after the other ---- */

struct reader {
    const uint8_t *answer;
    size_t len, at;
    unsigned left;  /* records of the answer section */
    uint32_t ttl;   /* smallest so far */
    char name[256]; /* of the question, then where its aliases lead to */
    bool alias;
};
struct record {
    uint16_t type;
    const uint8_t *data;
    size_t at, size; /* of the data in the answer */
};

/* Reads the name at *at; moves *at behind it. */
static int read_name(const struct reader *r, size_t *at, char *out, size_t out_len)
{
    char *name;
    long used;
    if (*at >= r->len || ares_expand_name(r->answer + *at, r->answer, (int)r->len, &name, &used) != ARES_SUCCESS)
        return MR_MALFORMED;
    size_t size = strlen(name);
    int rc = used <= 0 || (size_t)used > r->len - *at || size >= out_len ? MR_MALFORMED : 0;
    if (rc == 0) {
        memcpy(out, name, size + 1);
        *at += (size_t)used;
    }
    ares_free_string(name);
    return rc;
}

static int begin(struct reader *r, const uint8_t *answer, size_t len)
{
    char name[256];
    memset(r, 0, sizeof(*r));
    if (len < HEADER || len > INT_MAX)
        return MR_MALFORMED;
    r->answer = answer;
    r->len = len;
    r->at = HEADER;
    r->ttl = UINT32_MAX;
    r->left = u16(answer + 6);
    unsigned questions = u16(answer + 4);
    for (unsigned i = 0; i < questions; i++) {
        if (read_name(r, &r->at, i == 0 ? r->name : name, sizeof(name)) != 0 || len - r->at < 4)
            return MR_MALFORMED;
        r->at += 4;
    }
    return 0;
}

/* 1: there is a record of class IN. 0: no more. */
static int next(struct reader *r, struct record *out)
{
    char owner[256];
    while (r->left > 0) {
        r->left--;
        if (read_name(r, &r->at, owner, sizeof(owner)) != 0 || r->len - r->at < 10)
            return MR_MALFORMED;
        const uint8_t *head = r->answer + r->at;
        uint32_t ttl = u32(head + 4);
        *out = (struct record){.type = u16(head), .data = head + 10, .at = r->at + 10, .size = u16(head + 8)};
        if (r->len - out->at < out->size)
            return MR_MALFORMED;
        r->at = out->at + out->size;
        if (ttl < r->ttl)
            r->ttl = ttl > INT32_MAX ? 0 : ttl; /* RFC 2181 8; that of a CNAME on the way counts too */
        if (u16(head + 2) != CLASS_IN)
            continue;
        if (out->type == DNS_TYPE_CNAME && strcasecmp(owner, r->name) == 0) {
            size_t at = out->at;
            if (read_name(r, &at, r->name, sizeof(r->name)) != 0 || at != r->at)
                return MR_MALFORMED;
            r->alias = true;
        }
        return 1;
    }
    return 0;
}

/* ---- what is asked for ---- */

int dns_read_head(const uint8_t *answer, size_t len, struct dns_head *out)
{
    if (len < HEADER || (answer[2] & FLAG_QR) == 0)
        return MR_MALFORMED;
    out->rcode = answer[3] & 0x0f;
    out->ad = (answer[3] & FLAG_AD) != 0;
    return 0;
}

int dns_read_mx(const uint8_t *answer, size_t len, struct dns_mx_answer *out)
{
    struct reader r;
    struct record record;
    int rc = begin(&r, answer, len);

    memset(out, 0, sizeof(*out));
    while (rc == 0 && (rc = next(&r, &record)) > 0) {
        rc = 0;
        if (record.type != DNS_TYPE_MX || out->n == DNS_MAX_MX)
            continue;
        struct dns_mx *mx = &out->list[out->n];
        size_t at = record.at + 2;
        if (record.size < 3 || read_name(&r, &at, mx->host, sizeof(mx->host)) != 0 || at != r.at)
            return MR_MALFORMED;
        mx->preference = u16(record.data);
        out->n++;
    }
    out->ttl = r.ttl;
    return rc;
}

int dns_read_addresses(const uint8_t *answer, size_t len, struct dns_address_answer *out)
{
    struct reader r;
    struct record record;
    int rc = begin(&r, answer, len);

    memset(out, 0, sizeof(*out));
    while (rc == 0 && (rc = next(&r, &record)) > 0) {
        rc = 0;
        if ((record.type != DNS_TYPE_A && record.type != DNS_TYPE_AAAA) || out->n == DNS_MAX_ADDRESSES)
            continue;
        if (record.size != (record.type == DNS_TYPE_A ? 4 : 16))
            return MR_MALFORMED;
        struct dns_address *a = &out->list[out->n++];
        a->family = record.type == DNS_TYPE_A ? AF_INET : AF_INET6;
        memcpy(a->bytes, record.data, record.size);
    }
    out->ttl = r.ttl;
    if (rc == 0 && r.alias)
        memcpy(out->name, r.name, sizeof(out->name));
    return rc;
}

int dns_read_tlsa(const uint8_t *answer, size_t len, struct dns_tlsa_answer *out)
{
    struct reader r;
    struct record record;
    int rc = begin(&r, answer, len);

    memset(out, 0, sizeof(*out));
    while (rc == 0 && (rc = next(&r, &record)) > 0) {
        rc = 0;
        if (record.type != DNS_TYPE_TLSA || out->n == DNS_MAX_TLSA)
            continue;
        if (record.size < 3)
            return MR_MALFORMED;
        out->list[out->n++] = (struct dns_tlsa){.usage = record.data[0],
                                                .selector = record.data[1],
                                                .matching = record.data[2],
                                                .data = record.data + 3,
                                                .len = record.size - 3};
    }
    out->ttl = r.ttl;
    return rc;
}

/* The strings of one record, joined (RFC 7208 3.3, which RFC 8461 3.1 goes by). */
static int join_strings(const struct record *record, char out[DNS_MAX_TXT_LEN + 1])
{
    size_t n = 0;
    for (size_t at = 0; at < record->size;) {
        size_t size = record->data[at++];
        if (size > record->size - at)
            return MR_MALFORMED;
        for (size_t i = 0; i < size && n < DNS_MAX_TXT_LEN; i++)
            out[n++] = record->data[at + i] == 0 ? '?' : (char)record->data[at + i];
        at += size;
    }
    out[n] = 0;
    return 0;
}

int dns_read_txt(const uint8_t *answer, size_t len, struct dns_txt_answer *out)
{
    struct reader r;
    struct record record;
    int rc = begin(&r, answer, len);

    memset(out, 0, sizeof(*out));
    while (rc == 0 && (rc = next(&r, &record)) > 0) {
        rc = 0;
        if (record.type != DNS_TYPE_TXT || out->n == DNS_MAX_TXT)
            continue;
        if (join_strings(&record, out->list[out->n++]) != 0)
            return MR_MALFORMED;
    }
    out->ttl = r.ttl;
    return rc;
}
