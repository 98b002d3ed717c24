#include "node/dns/dns_answer.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

static uint8_t answer[8192];
static size_t at;

static void put16(unsigned v)
{
    answer[at++] = (uint8_t)(v >> 8);
    answer[at++] = (uint8_t)v;
}

static void put_name(const char *name)
{
    while (*name != 0) {
        size_t n = strcspn(name, ".");
        answer[at++] = (uint8_t)n;
        memcpy(answer + at, name, n);
        at += n;
        name += n + (name[n] == '.');
    }
    answer[at++] = 0;
}

/* Header and the question "example.org MX". */
static void begin(unsigned answers)
{
    memset(answer, 0, sizeof(answer));
    at = 4;
    put16(1);
    put16(answers);
    put16(0);
    put16(0);
    put_name("example.org");
    put16(15);
    put16(1);
}

static void put_record(unsigned type, uint32_t ttl, const char *data, size_t len)
{
    put16(0xc00c);
    put16(type);
    put16(1);
    put16(ttl >> 16);
    put16(ttl & 0xffff);
    put16((unsigned)len);
    if (len > 0)
        memcpy(answer + at, data, len);
    at += len;
}

static void put_mx(unsigned preference, const char *host, uint32_t ttl)
{
    put_record(15, ttl, NULL, 0);
    size_t start = at;
    put16(preference);
    put_name(host);
    answer[start - 2] = (uint8_t)((at - start) >> 8);
    answer[start - 1] = (uint8_t)(at - start);
}

/* In memory of its exact size, so that a sanitizer sees what is read behind it. */
static int read_len(size_t len, struct dns_mx_answer *out)
{
    uint8_t *copy = mr_malloc(len > 0 ? len : 1);
    memcpy(copy, answer, len);
    int rc = dns_read_mx(copy, len, out);
    free(copy);
    return rc;
}

static void records(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(2);
    put_mx(10, "a.example.org", 300);
    put_mx(65535, "b.example.org", 200);
    assert_int_equal(read_len(at, &mx), 0);
    assert_int_equal(mx.n, 2);
    assert_int_equal(mx.ttl, 200);
    assert_int_equal(mx.list[0].preference, 10);
    assert_string_equal(mx.list[0].host, "a.example.org");
    assert_int_equal(mx.list[1].preference, 65535);
    assert_string_equal(mx.list[1].host, "b.example.org");
}

static void null_mx_and_none(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(1);
    put_mx(0, "", 300);
    assert_int_equal(read_len(at, &mx), 0);
    assert_int_equal(mx.n, 1);
    assert_string_equal(mx.list[0].host, "");
    begin(0);
    assert_int_equal(read_len(at, &mx), 0);
    assert_int_equal(mx.n, 0);
}

static void behind_a_cname(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(3);
    put_record(5, 60, "\x01z\x00", 3);
    put_record(16, 300, "\x01x", 2);
    put_mx(10, "a.example.org", 300);
    assert_int_equal(read_len(at, &mx), 0);
    assert_int_equal(mx.n, 1);
    assert_int_equal(mx.ttl, 60);
}

static void a_ttl_with_the_sign_bit_is_zero(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(1);
    put_mx(10, "a.example.org", 0x80000001U);
    assert_int_equal(read_len(at, &mx), 0);
    assert_int_equal(mx.ttl, 0);
}

static void too_many_are_left_out(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(DNS_MAX_MX + 5);
    for (unsigned i = 0; i < DNS_MAX_MX + 5; i++)
        put_mx(i, "a.example.org", 300);
    assert_int_equal(read_len(at, &mx), 0);
    assert_int_equal(mx.n, DNS_MAX_MX);
    assert_int_equal(mx.list[DNS_MAX_MX - 1].preference, DNS_MAX_MX - 1);
}

/* Cut anywhere it is malformed, and nothing behind its end is read. */
static void cut_anywhere(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(2);
    put_mx(10, "a.example.org", 300);
    put_mx(20, "b.example.org", 300);
    for (size_t len = 0; len < at; len++)
        assert_int_equal(read_len(len, &mx), MR_MALFORMED);
    assert_int_equal(read_len(at, &mx), 0);
}

static void lengths_that_lie(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(1);
    put_record(15, 300, "\x00\x0a", 2); /* no name */
    assert_int_equal(read_len(at, &mx), MR_MALFORMED);
    begin(1);
    put_record(15, 300, "\x00\x0a\x01x\x00y", 6); /* something behind the name */
    assert_int_equal(read_len(at, &mx), MR_MALFORMED);
    begin(1);
    put_record(15, 300, "\x00\x0a\x05x\x00", 5); /* the name leaves the record */
    assert_int_equal(read_len(at, &mx), MR_MALFORMED);
}

static void pointers_that_turn_in_circles(void **state)
{
    struct dns_mx_answer mx;
    (void)state;
    begin(1);
    size_t self = at + 12 + 2;
    char data[4] = {0, 10, (char)(0xc0 | self >> 8), (char)self};
    put_record(15, 300, data, 4);
    assert_int_equal(read_len(at, &mx), MR_MALFORMED);
}

/* ---- other types ---- */

static void head_and_ad(void **state)
{
    struct dns_head head;
    (void)state;
    begin(0);
    assert_int_equal(dns_read_head(answer, at, &head), MR_MALFORMED); /* a question */
    answer[2] = 0x81;
    answer[3] = 0xa3;
    assert_int_equal(dns_read_head(answer, at, &head), 0);
    assert_true(head.ad);
    assert_int_equal(head.rcode, 3);
    answer[3] = 0x80;
    assert_int_equal(dns_read_head(answer, at, &head), 0);
    assert_false(head.ad);
    assert_int_equal(dns_read_head(answer, 11, &head), MR_MALFORMED);
}

static void addresses_and_where_aliases_lead(void **state)
{
    struct dns_address_answer found;
    (void)state;
    begin(3);
    put_record(5, 60, "\x01z\x00", 3);
    put_record(1, 300, "\xc0\x00\x02\x01", 4);
    put_record(28, 300, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    assert_int_equal(dns_read_addresses(answer, at, &found), 0);
    assert_int_equal(found.n, 2);
    assert_int_equal(found.ttl, 60);
    assert_string_equal(found.name, "z");
    assert_int_equal(found.list[0].family, AF_INET);
    assert_int_equal(found.list[1].family, AF_INET6);
    assert_int_equal(found.list[1].bytes[15], 1);
    begin(1);
    put_record(1, 300, "\xc0\x00\x02\x01", 4);
    assert_int_equal(dns_read_addresses(answer, at, &found), 0);
    assert_string_equal(found.name, "");
    begin(1);
    put_record(1, 300, "\xc0\x00\x02\x01\x01", 5);
    assert_int_equal(dns_read_addresses(answer, at, &found), MR_MALFORMED);
}

static void tlsa_records(void **state)
{
    struct dns_tlsa_answer tlsa;
    (void)state;
    begin(2);
    put_record(52, 300, "\3\1\1abcd", 7);
    put_record(52, 100, "\2\0\2", 3); /* without data: a record, though nobody can use it */
    assert_int_equal(dns_read_tlsa(answer, at, &tlsa), 0);
    assert_int_equal(tlsa.n, 2);
    assert_int_equal(tlsa.ttl, 100);
    assert_int_equal(tlsa.list[0].usage, 3);
    assert_int_equal(tlsa.list[0].selector, 1);
    assert_int_equal(tlsa.list[0].matching, 1);
    assert_int_equal(tlsa.list[0].len, 4);
    assert_memory_equal(tlsa.list[0].data, "abcd", 4);
    assert_int_equal(tlsa.list[1].len, 0);
    begin(1);
    put_record(52, 300, "\3\1", 2);
    assert_int_equal(dns_read_tlsa(answer, at, &tlsa), MR_MALFORMED);
}

static void txt_strings_are_joined(void **state)
{
    static char much[4 * 256];
    struct dns_txt_answer txt;
    (void)state;
    begin(2);
    put_record(16, 300, "\x08v=STSv1;\x05 id=1", 15);
    put_record(16, 300,
               "\x03"
               "a\0b",
               4);
    assert_int_equal(dns_read_txt(answer, at, &txt), 0);
    assert_int_equal(txt.n, 2);
    assert_string_equal(txt.list[0], "v=STSv1; id=1");
    assert_string_equal(txt.list[1], "a?b");
    begin(1);
    put_record(16, 300, "\x09v=STSv1;", 9); /* the string leaves its record */
    assert_int_equal(dns_read_txt(answer, at, &txt), MR_MALFORMED);
    memset(much, 'x', sizeof(much));
    for (size_t i = 0; i < sizeof(much); i += 256)
        much[i] = (char)255;
    begin(1);
    put_record(16, 300, much, sizeof(much));
    assert_int_equal(dns_read_txt(answer, at, &txt), 0);
    assert_int_equal(strlen(txt.list[0]), DNS_MAX_TXT_LEN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records),
        cmocka_unit_test(null_mx_and_none),
        cmocka_unit_test(behind_a_cname),
        cmocka_unit_test(a_ttl_with_the_sign_bit_is_zero),
        cmocka_unit_test(too_many_are_left_out),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(lengths_that_lie),
        cmocka_unit_test(pointers_that_turn_in_circles),
        cmocka_unit_test(head_and_ad),
        cmocka_unit_test(addresses_and_where_aliases_lead),
        cmocka_unit_test(tlsa_records),
        cmocka_unit_test(txt_strings_are_joined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
