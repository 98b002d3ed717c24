/* proxy_header.c - octet by octet, as a header comes once a connection and is short.
 *
 * FIRST -> V1 -> DONE
 * FIRST -> V2_FIXED -> V2_ADDRESSES -> (V2_TLV -> V2_VALUE)* -> DONE
 *                   -> V2_SKIP -> DONE: nothing in the payload is for us */
#include "node/server/proxy_header.h"

#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <string.h>

static const uint8_t signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};
static const char prefix[] = "PROXY ";
enum { TLV_HEAD = 3, TLV_CRC32C = 3, CRC_SIZE = 4, V4_ADDRESSES = 12, V6_ADDRESSES = 36 };

void proxy_header_init(struct proxy_header *p)
{
    memset(p, 0, sizeof(*p));
    p->crc = UINT32_MAX;
}

/* ---- version 1 ---- */

/* The next word of the line; a single blank parts them. NULL: none is left. */
static const char *next_word(char **at)
{
    char *word = *at;
    char *blank;

    if (word == NULL || *word == '\0' || *word == ' ')
        return NULL;
    blank = strchr(word, ' ');
    if (blank != NULL)
        *blank++ = '\0';
    *at = blank;
    return word;
}

/* Decimal without sign or leading zeros, at most 65535. */
static bool read_port(const char *text, in_port_t *port)
{
    unsigned value = 0;

    if (text == NULL || (text[0] == '0' && text[1] != '\0'))
        return false;
    for (const char *p = text; *p != '\0'; p++) {
        if (*p < '0' || *p > '9')
            return false;
        value = value * 10 + (unsigned)(*p - '0');
        if (value > 65535)
            return false;
    }
    *port = htons((uint16_t)value);
    return true;
}

static bool read_address(int family, const char *address, union proxy_address *out)
{
    out->any.sa_family = (sa_family_t)family;
    if (address == NULL)
        return false;
    return inet_pton(family, address, family == AF_INET ? (void *)&out->v4.sin_addr : (void *)&out->v6.sin6_addr) == 1;
}

static bool read_v1_port(const char *text, union proxy_address *out)
{
    return read_port(text, out->any.sa_family == AF_INET ? &out->v4.sin_port : &out->v6.sin6_port);
}

/* "TCP4 SOURCE DESTINATION PORT PORT", or "UNKNOWN" with anything behind it. */
static int read_line(struct proxy_header *p, char *line)
{
    char *at = line;
    const char *protocol = next_word(&at);
    int family;

    if (protocol == NULL)
        return MR_MALFORMED;
    if (strcmp(protocol, "UNKNOWN") == 0)
        return 0;
    if (strcmp(protocol, "TCP4") == 0)
        family = AF_INET;
    else if (strcmp(protocol, "TCP6") == 0)
        family = AF_INET6;
    else
        return MR_MALFORMED;
    if (!read_address(family, next_word(&at), &p->source) || !read_address(family, next_word(&at), &p->destination) ||
        !read_v1_port(next_word(&at), &p->source) || !read_v1_port(next_word(&at), &p->destination) || at != NULL)
        return MR_MALFORMED;
    p->known = true;
    return 0;
}

static int take_v1(struct proxy_header *p, uint8_t octet)
{
    char line[PROXY_V1_MAX];
    size_t len = (size_t)p->have + 1;

    mr_assert(len <= PROXY_V1_MAX);
    p->head[p->have++] = octet;
    if (len <= sizeof(prefix) - 1)
        return octet == (uint8_t)prefix[len - 1] ? MR_MORE : MR_MALFORMED;
    if (octet != '\n' && p->head[len - 2] == '\r')
        return MR_MALFORMED;
    if (octet != '\n')
        return octet == '\0' ? MR_MALFORMED : len == PROXY_V1_MAX ? MR_LIMIT : MR_MORE;
    if (p->head[len - 2] != '\r')
        return MR_MALFORMED;
    len -= sizeof(prefix) - 1 + 2;
    memcpy(line, p->head + sizeof(prefix) - 1, len);
    line[len] = '\0';
    return read_line(p, line);
}

/* ---- version 2 ---- */

/* Polynomial 0x1EDC6F41, reflected. */
static uint32_t crc32c(uint32_t crc, uint8_t octet)
{
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };

    crc = table[(crc ^ octet) & 15] ^ (crc >> 4);
    return table[(crc ^ (octet >> 4)) & 15] ^ (crc >> 4);
}

static int finish_v2(struct proxy_header *p)
{
    if (p->has_crc && p->told_crc != (p->crc ^ UINT32_MAX))
        return MR_CHECKSUM;
    return 0;
}

/* Before a TLV, or at the end of the payload. */
static int next_tlv(struct proxy_header *p)
{
    p->state = PROXY_V2_TLV;
    p->have = 0;
    p->want = TLV_HEAD;
    if (p->left == 0)
        return finish_v2(p);
    return p->left < TLV_HEAD ? MR_MALFORMED : MR_MORE;
}

static int after_fixed(struct proxy_header *p)
{
    unsigned command = p->head[12] & 15, family = p->head[13] >> 4, transport = p->head[13] & 15;

    p->left = (unsigned)p->head[14] << 8 | p->head[15];
    if (p->head[12] >> 4 != 2)
        return MR_VERSION;
    if (command > 1 || family > 3 || transport > 2)
        return MR_MALFORMED;
    if (p->left > PROXY_V2_PAYLOAD_MAX)
        return MR_LIMIT;
    /* LOCAL: the proxy speaks for itself. A family that has no IP address tells us nothing that we can use. */
    if (command == 0 || family == 0 || family == 3) {
        p->state = PROXY_V2_SKIP;
        return p->left == 0 ? 0 : MR_MORE;
    }
    if (transport != 1) /* SMTP never came in datagrams */
        return MR_MALFORMED;
    p->want = p->have + (family == 1 ? V4_ADDRESSES : V6_ADDRESSES);
    if (p->left < p->want - p->have)
        return MR_MALFORMED;
    p->state = PROXY_V2_ADDRESSES;
    return MR_MORE;
}

static int after_addresses(struct proxy_header *p)
{
    const uint8_t *at = p->head + PROXY_V2_HEAD;

    if (p->head[13] >> 4 == 1) {
        p->source.v4.sin_family = p->destination.v4.sin_family = AF_INET;
        memcpy(&p->source.v4.sin_addr, at, 4);
        memcpy(&p->destination.v4.sin_addr, at + 4, 4);
        memcpy(&p->source.v4.sin_port, at + 8, 2);
        memcpy(&p->destination.v4.sin_port, at + 10, 2);
    } else {
        p->source.v6.sin6_family = p->destination.v6.sin6_family = AF_INET6;
        memcpy(&p->source.v6.sin6_addr, at, 16);
        memcpy(&p->destination.v6.sin6_addr, at + 16, 16);
        memcpy(&p->source.v6.sin6_port, at + 32, 2);
        memcpy(&p->destination.v6.sin6_port, at + 34, 2);
    }
    p->known = true;
    return next_tlv(p);
}

static int after_tlv_head(struct proxy_header *p)
{
    p->value_left = (unsigned)p->head[1] << 8 | p->head[2];
    if (p->value_left > p->left)
        return MR_MALFORMED;
    p->is_crc = p->head[0] == TLV_CRC32C;
    if (p->is_crc && (p->has_crc || p->value_left != CRC_SIZE))
        return MR_MALFORMED;
    p->has_crc = p->has_crc || p->is_crc;
    if (p->value_left == 0)
        return next_tlv(p);
    p->state = PROXY_V2_VALUE;
    return MR_MORE;
}

static int take_value(struct proxy_header *p, uint8_t octet)
{
    /* The checksum is taken with its own field as zeros. */
    p->crc = crc32c(p->crc, p->is_crc ? 0 : octet);
    if (p->is_crc)
        p->told_crc = p->told_crc << 8 | octet;
    return --p->value_left == 0 ? next_tlv(p) : MR_MORE;
}

static int take_v2(struct proxy_header *p, uint8_t octet)
{
    if (p->state != PROXY_V2_FIXED)
        p->left--;
    if (p->state == PROXY_V2_SKIP)
        return p->left == 0 ? 0 : MR_MORE;
    if (p->state == PROXY_V2_VALUE)
        return take_value(p, octet);
    if (p->state == PROXY_V2_FIXED && p->have < sizeof(signature) && octet != signature[p->have])
        return MR_MALFORMED;
    p->crc = crc32c(p->crc, octet);
    p->head[p->have++] = octet;
    if (p->have < p->want)
        return MR_MORE;
    if (p->state == PROXY_V2_FIXED)
        return after_fixed(p);
    return p->state == PROXY_V2_ADDRESSES ? after_addresses(p) : after_tlv_head(p);
}

int proxy_header_feed(struct proxy_header *p, const uint8_t *data, size_t len, size_t *used)
{
    *used = 0;
    while (*used < len) {
        uint8_t octet = data[*used];
        int rc;

        if (p->state == PROXY_DONE)
            return MR_MALFORMED; /* was told before */
        if (p->state == PROXY_FIRST) {
            p->state = octet == signature[0] ? PROXY_V2_FIXED : PROXY_V1;
            p->want = PROXY_V2_HEAD;
        }
        ++*used;
        rc = p->state == PROXY_V1 ? take_v1(p, octet) : take_v2(p, octet);
        if (rc != MR_MORE) {
            p->state = PROXY_DONE;
            return rc;
        }
    }
    return p->state == PROXY_DONE ? MR_MALFORMED : MR_MORE;
}
