/* test_proxy_header.c - headers of both versions, in every cut, and what is refused. */
#include "node/server/proxy_header.h"

#include "proto/base/error.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* In pieces of step octets, each in memory of its exact size. */
static int feed(struct proxy_header *p, const void *data, size_t len, size_t step, size_t *used)
{
    int rc = MR_MORE;

    proxy_header_init(p);
    *used = 0;
    while (rc == MR_MORE && *used < len) {
        size_t n = len - *used < step ? len - *used : step, eaten;
        uint8_t *copy = malloc(n);

        assert_non_null(copy);
        memcpy(copy, (const uint8_t *)data + *used, n);
        rc = proxy_header_feed(p, copy, n, &eaten);
        free(copy);
        assert_true(eaten <= n && (rc != MR_MORE || eaten == n));
        *used += eaten;
    }
    return rc;
}

static const char *text(const union proxy_address *a, char out[80])
{
    char address[INET6_ADDRSTRLEN] = "";

    if (a->any.sa_family == AF_INET6)
        inet_ntop(AF_INET6, &a->v6.sin6_addr, address, sizeof(address));
    else
        inet_ntop(AF_INET, &a->v4.sin_addr, address, sizeof(address));
    snprintf(out, 80, "%s %u", address, ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port));
    return out;
}

static void expect(const struct proxy_header *p, const char *source, const char *destination)
{
    char out[80];

    assert_int_equal(p->known, source != NULL);
    if (source == NULL)
        return;
    assert_string_equal(text(&p->source, out), source);
    assert_string_equal(text(&p->destination, out), destination);
}

static void test_v1(void **state)
{
    static const struct {
        const char *line, *source, *destination;
    } rows[] = {
        {"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", "192.0.2.7 4711", "198.51.100.1 25"},
        {"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255 65535",
         "255.255.255.255 65535"},
        {"PROXY TCP6 2001:db8::7 ::1 0 465\r\n", "2001:db8::7 0", "::1 465"},
        {"PROXY UNKNOWN\r\n", NULL, NULL},
        {"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", NULL, NULL},
    };
    struct proxy_header p;
    size_t used;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        size_t len = strlen(rows[i].line);
        char with_more[128];

        for (size_t step = 1; step <= len; step++) {
            assert_int_equal(feed(&p, rows[i].line, len, step, &used), 0);
            assert_int_equal(used, len);
            expect(&p, rows[i].source, rows[i].destination);
        }
        for (size_t cut = 0; cut < len; cut++)
            assert_int_equal(feed(&p, rows[i].line, cut, 64, &used), MR_MORE);
        /* What comes behind it is left alone. */
        snprintf(with_more, sizeof(with_more), "%sEHLO x\r\n", rows[i].line);
        assert_int_equal(feed(&p, with_more, strlen(with_more), 128, &used), 0);
        assert_int_equal(used, len);
        assert_int_equal(proxy_header_feed(&p, (const uint8_t *)"x", 1, &used), MR_MALFORMED);
    }
}

static void test_v1_refused(void **state)
{
    static const char *const rows[] = {
        "EHLO x\r\n",
        "proxy TCP4 192.0.2.7 198.51.100.1 4711 25\r\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 4711 25\r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 4711 25\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25 26\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 04711 25\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 -1\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 99999999999\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 4711 25\r\n",
        "PROXY TCP4 2001:db8::1 ::1 4711 25\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 4711 25\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 4711 25\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "PROXY\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\rX\n",
        "\r\nQUIT\r\n",
        "\n",
    };
    struct proxy_header p;
    char line[256];
    size_t used;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t step = 1; step < 64; step += 7)
            assert_int_equal(feed(&p, rows[i], strlen(rows[i]), step, &used), MR_MALFORMED);
    assert_int_equal(feed(&p, "PROXY UNKNOWN \0\r\n", 17, 64, &used), MR_MALFORMED);
    /* 107 octets are the most; the header ends there whatever comes. */
    memset(line, 'x', sizeof(line));
    memcpy(line, "PROXY UNKNOWN ", 14);
    memcpy(line + 105, "\r\n", 2);
    assert_int_equal(feed(&p, line, 107, 11, &used), 0);
    memset(line + 105, 'x', 2);
    assert_int_equal(feed(&p, line, sizeof(line), 11, &used), MR_LIMIT);
    assert_int_equal(used, 107);
}

/* ---- version 2 ---- */

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V4        "\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19"

static void test_v2(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *source, *destination;
    } rows[] = {
#define ROW(b) b, sizeof(b) - 1
        {ROW(SIGNATURE "\x21" V4), "192.0.2.7 4711", "198.51.100.1 25"},
        {ROW(SIGNATURE "\x21\x21\x00\x24"
                       "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
                       "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
                       "\x12\x67\x01\xd1"),
         "2001:db8::7 4711", "::1 465"},
        /* TLVs: ALPN, one of an unknown kind without a value */
        {ROW(SIGNATURE "\x21\x11\x00\x16\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19"
                       "\x01\x00\x04smtp"
                       "\xe0\x00\x00"),
         "192.0.2.7 4711", "198.51.100.1 25"},
        {ROW(SIGNATURE "\x20\x00\x00\x00"), NULL, NULL},
        /* LOCAL: whatever else it says */
        {ROW(SIGNATURE "\x20\x11\x00\x03xyz"), NULL, NULL},
        {ROW(SIGNATURE "\x21\x00\x00\x02zz"), NULL, NULL},
    };
    struct proxy_header p;
    size_t used;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char with_more[256];

        for (size_t step = 1; step <= rows[i].len; step++) {
            assert_int_equal(feed(&p, rows[i].bytes, rows[i].len, step, &used), 0);
            assert_int_equal(used, rows[i].len);
            expect(&p, rows[i].source, rows[i].destination);
        }
        for (size_t cut = 0; cut < rows[i].len; cut++)
            assert_int_equal(feed(&p, rows[i].bytes, cut, 64, &used), MR_MORE);
        memcpy(with_more, rows[i].bytes, rows[i].len);
        memcpy(with_more + rows[i].len, "EHLO x\r\n", 8);
        assert_int_equal(feed(&p, with_more, rows[i].len + 8, 256, &used), 0);
        assert_int_equal(used, rows[i].len);
    }
}

/* Calculated from the definition, bit by bit, to check the table in the source. */
static uint32_t crc32c(const uint8_t *data, size_t len)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78 : 0);
    }
    return crc ^ UINT32_MAX;
}

static void test_checksum(void **state)
{
    uint8_t header[] = SIGNATURE "\x21\x11\x00\x18\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19"
                                 "\x03\x00\x04\0\0\0\0"
                                 "\x04\x00\x02zz";
    const size_t len = sizeof(header) - 1, at = 31;
    struct proxy_header p;
    uint32_t crc;
    size_t used;

    (void)state;
    assert_int_equal(crc32c((const uint8_t *)"123456789", 9), 0xe3069283); /* the value that every catalogue names */
    crc = crc32c(header, len);
    for (int i = 0; i < 4; i++)
        header[at + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
    for (size_t step = 1; step <= len; step++)
        assert_int_equal(feed(&p, header, len, step, &used), 0);
    for (size_t i = 16; i < len; i++) {
        /* Not where the TLVs' kinds and lengths stand: those make another error. */
        if ((i >= 28 && i < 31) || (i >= 36 && i < 38))
            continue;
        header[i] ^= 0x10;
        assert_int_equal(feed(&p, header, len, 64, &used), MR_CHECKSUM);
        header[i] ^= 0x10;
    }
    assert_int_equal(feed(&p, header, len, 64, &used), 0);
}

static void test_v2_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        int rc;
    } rows[] = {
        {ROW("\r\n\r\n\0\r\nQUIX\n\x21" V4), MR_MALFORMED},
        {ROW(SIGNATURE "\x11" V4), MR_VERSION},
        {ROW(SIGNATURE "\x31" V4), MR_VERSION},
        {ROW(SIGNATURE "\x22" V4), MR_MALFORMED},                      /* command */
        {ROW(SIGNATURE "\x21\x41\x00\x0cxxxxxxxxxxxx"), MR_MALFORMED}, /* family */
        {ROW(SIGNATURE "\x21\x12\x00\x0cxxxxxxxxxxxx"), MR_MALFORMED}, /* datagrams */
        {ROW(SIGNATURE "\x21\x13\x00\x0cxxxxxxxxxxxx"), MR_MALFORMED}, /* transport */
        {ROW(SIGNATURE "\x21\x11\x00\x0bxxxxxxxxxxx"), MR_MALFORMED},  /* too short for its addresses */
        {ROW(SIGNATURE "\x21\x21\x00\x23xxxxxxxxxxx"), MR_MALFORMED},
        {ROW(SIGNATURE "\x21\x11\xff\xff"), MR_LIMIT},
        {ROW(SIGNATURE "\x20\x00\x20\x01"), MR_LIMIT},
        {ROW(SIGNATURE "\x21\x11\x00\x0exxxxxxxxxxxxzz"), MR_MALFORMED},           /* half a TLV */
        {ROW(SIGNATURE "\x21\x11\x00\x0fxxxxxxxxxxxx\x01\x00\x01"), MR_MALFORMED}, /* one beyond the end */
        {ROW(SIGNATURE "\x21\x11\x00\x12xxxxxxxxxxxx\x03\x00\x03xyz"), MR_MALFORMED},
    };
    struct proxy_header p;
    size_t used;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t step = 1; step <= rows[i].len; step++)
            assert_int_equal(feed(&p, rows[i].bytes, rows[i].len, step, &used), rows[i].rc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v1),       cmocka_unit_test(test_v1_refused), cmocka_unit_test(test_v2),
        cmocka_unit_test(test_checksum), cmocka_unit_test(test_v2_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
