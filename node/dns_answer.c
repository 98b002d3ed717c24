#include "node/dns_answer.h"

#include "proto/base/error.h"

#include <ares.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { HEADER = 12, TYPE_MX = 15, CLASS_IN = 1 };

static uint16_t u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t u32(const uint8_t *p)
{
    return (uint32_t)u16(p) << 16 | u16(p + 2);
}

/* Reads the name at *at; moves *at behind it. */
static int read_name(const uint8_t *answer, size_t len, size_t *at, char *out, size_t out_len)
{
    char *name;
    long used;
    if (*at >= len || ares_expand_name(answer + *at, answer, (int)len, &name, &used) != ARES_SUCCESS)
        return MR_MALFORMED;
    size_t size = strlen(name);
    int rc = used <= 0 || (size_t)used > len - *at || size >= out_len ? MR_MALFORMED : 0;
    if (rc == 0) {
        memcpy(out, name, size + 1);
        *at += (size_t)used;
    }
    ares_free_string(name);
    return rc;
}

int dns_read_mx(const uint8_t *answer, size_t len, struct dns_mx_answer *out)
{
    char name[256];
    size_t at = HEADER;

    memset(out, 0, sizeof(*out));
    out->ttl = UINT32_MAX;
    if (len < HEADER || len > INT_MAX)
        return MR_MALFORMED;
    unsigned questions = u16(answer + 4), answers = u16(answer + 6);
    for (unsigned i = 0; i < questions; i++) {
        if (read_name(answer, len, &at, name, sizeof(name)) != 0 || len - at < 4)
            return MR_MALFORMED;
        at += 4;
    }
    for (unsigned i = 0; i < answers; i++) {
        if (read_name(answer, len, &at, name, sizeof(name)) != 0 || len - at < 10)
            return MR_MALFORMED;
        uint16_t type = u16(answer + at), class = u16(answer + at + 2), size = u16(answer + at + 8);
        uint32_t ttl = u32(answer + at + 4);
        at += 10;
        if (len - at < size)
            return MR_MALFORMED;
        size_t next = at + size;
        if (ttl < out->ttl)
            out->ttl = ttl > INT32_MAX ? 0 : ttl; /* RFC 2181 8; that of a CNAME on the way counts too */
        if (type == TYPE_MX && class == CLASS_IN && out->n < DNS_MAX_MX) {
            struct dns_mx *mx = &out->list[out->n];
            if (size < 3)
                return MR_MALFORMED;
            mx->preference = u16(answer + at);
            at += 2;
            if (read_name(answer, len, &at, mx->host, sizeof(mx->host)) != 0 || at != next)
                return MR_MALFORMED;
            out->n++;
        }
        at = next;
    }
    return 0;
}
