/* test_smtp_address.c - paths that are taken, and those that are not. */
#include "node/mail/smtp_address.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The text lies in memory of its exact size, so that a sanitizer sees each octet read beyond it. */
static int parse(const char *text, struct smtp_path *path, size_t *used, char **copy)
{
    size_t len = strlen(text);

    *copy = malloc(len + (len == 0));
    assert_non_null(*copy);
    memcpy(*copy, text, len);
    return smtp_path_parse(*copy, len, path, used);
}

static void test_taken(void **state)
{
    static const struct {
        const char *text, *address;
        size_t local, domain, used;
    } rows[] = {
        {"<>", "", 0, 0, 2},
        {"<a@b>", "a@b", 1, 1, 5},
        {"<user+tag@Example.NET> SIZE=1", "user+tag@Example.NET", 8, 11, 22},
        {"<a.b.c@x-y.example>", "a.b.c@x-y.example", 5, 11, 19},
        {"<postmaster>", "postmaster", 10, 0, 12},
        {"<\"a b\"@x>", "\"a b\"@x", 5, 1, 9},
        {"<\"a\\\"@>\"@x>", "\"a\\\"@>\"@x", 7, 1, 11},
        {"<\"\"@x>", "\"\"@x", 2, 1, 6},
        {"<@relay.example:u@x>", "u@x", 1, 1, 20},
        {"<@a,@b.c:u@x>", "u@x", 1, 1, 13},
        {"<u@[192.0.2.1]>", "u@[192.0.2.1]", 1, 11, 15},
        {"<u@[IPv6:2001:db8::1]>", "u@[IPv6:2001:db8::1]", 1, 18, 22},
        {"<u@my_host.example>", "u@my_host.example", 1, 15, 19},
        {"<!#$%&'*+-/=?^_`{|}~@x>", "!#$%&'*+-/=?^_`{|}~@x", 19, 1, 23},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smtp_path path;
        size_t used;
        char *copy;

        assert_int_equal(parse(rows[i].text, &path, &used, &copy), 0);
        assert_int_equal(path.len, strlen(rows[i].address));
        assert_memory_equal(path.address, rows[i].address, path.len);
        assert_int_equal(path.local_len, rows[i].local);
        assert_int_equal(path.domain_len, rows[i].domain);
        assert_int_equal(used, rows[i].used);
        free(copy);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *text;
        int error;
    } rows[] = {
        {"", MR_MALFORMED},
        {"a@b", MR_MALFORMED},
        {"<a@b", MR_MALFORMED},
        {"<", MR_MALFORMED},
        {"< >", MR_MALFORMED},
        {"<a@>", MR_MALFORMED},
        {"<@b>", MR_MALFORMED},
        {"<a b@c>", MR_MALFORMED},
        {"<.a@b>", MR_MALFORMED},
        {"<a.@b>", MR_MALFORMED},
        {"<a..b@c>", MR_MALFORMED},
        {"<a@b..c>", MR_MALFORMED},
        {"<a@b.>", MR_MALFORMED},
        {"<a@-b>", MR_MALFORMED},
        {"<a@b->", MR_MALFORMED},
        {"<a@b@c>", MR_MALFORMED},
        {"<\"a@b>", MR_MALFORMED},
        {"<\"a\"b@c>", MR_MALFORMED},
        {"<\"a\\", MR_MALFORMED},
        {"<a\"b@c>", MR_MALFORMED},
        {"<a@[1.2.3]>", MR_MALFORMED},
        {"<a@[]>", MR_MALFORMED},
        {"<a@[1.2.3.4>", MR_MALFORMED},
        {"<a@[IPv6:1.2.3.4]>", MR_MALFORMED},
        {"<@a:>", MR_MALFORMED},
        {"<@a,b:c@d>", MR_MALFORMED},
        {"<@a,:c@d>", MR_MALFORMED},
        {"<a@b\x01>", MR_MALFORMED},
        {"<\"a\x7f\"@b>", MR_MALFORMED},
        {"<a,b@c>", MR_MALFORMED},
        {"<\xc3@b>", MR_MALFORMED},
        {"<a@\xc3>", MR_MALFORMED},
        {"<\"\xff\"@b>", MR_MALFORMED},
        {"<a@[x400:foo]>", MR_MALFORMED},
        {"<<a@b>>", MR_MALFORMED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smtp_path path;
        size_t used;
        char *copy;

        assert_int_equal(parse(rows[i].text, &path, &used, &copy), rows[i].error);
        free(copy);
    }
}

/* "<" local "@" domain ">" with parts of these sizes; labels of at most `label`. */
static int parse_sized(size_t local, size_t domain, size_t label)
{
    char text[1024], *p = text, *copy;
    struct smtp_path path;
    size_t used;
    int rc;

    *p++ = '<';
    memset(p, 'l', local);
    p += local;
    *p++ = '@';
    for (size_t i = 1; i <= domain; i++)
        *p++ = i % (label + 1) == 0 ? '.' : 'd';
    *p++ = '>';
    *p = '\0';
    rc = parse(text, &path, &used, &copy);
    if (rc == 0)
        assert_int_equal(path.len, local + 1 + domain);
    free(copy);
    return rc;
}

static void test_lengths(void **state)
{
    (void)state;
    assert_int_equal(parse_sized(64, 255, 63), 0);
    assert_int_equal(parse_sized(65, 10, 63), MR_LIMIT);
    assert_int_equal(parse_sized(1, 257, 63), MR_LIMIT);
    assert_int_equal(parse_sized(1, 63, 63), 0);
    assert_int_equal(parse_sized(1, 64, 64), MR_LIMIT);
}

static void test_domain(void **state)
{
    (void)state;
    assert_int_equal(smtp_domain_parse("mx.example", 10), 0);
    assert_int_equal(smtp_domain_parse("MY_PC", 5), 0);
    assert_int_equal(smtp_domain_parse("[192.0.2.1]", 11), 0);
    assert_int_equal(smtp_domain_parse("[IPv6:::1]", 10), 0);
    assert_int_equal(smtp_domain_parse("", 0), MR_MALFORMED);
    assert_int_equal(smtp_domain_parse("a b", 3), MR_MALFORMED);
    assert_int_equal(smtp_domain_parse("a)(b", 4), MR_MALFORMED);
    assert_int_equal(smtp_domain_parse("\xc3\xbc", 2), MR_MALFORMED);
}

static void test_utf8(void **state)
{
    static const char input[] = "<\xc3\xbc.b@\xc3\xbc.example>", quoted[] = "<\"\xc3\xbc\"@b>", plain[] = "<a@b>";
    struct smtp_path path;
    size_t used;

    (void)state;
    assert_int_equal(smtp_path_parse(input, sizeof(input) - 1, &path, &used), 0);
    assert_true(path.utf8_local && path.utf8_domain);
    assert_int_equal(path.domain_len, 10);
    assert_int_equal(smtp_path_parse(quoted, sizeof(quoted) - 1, &path, &used), 0);
    assert_true(path.utf8_local && !path.utf8_domain);
    assert_int_equal(smtp_path_parse(plain, sizeof(plain) - 1, &path, &used), 0);
    assert_false(path.utf8_local || path.utf8_domain);
    assert_true(smtp_mailbox_valid("a@b", 3));
    assert_false(smtp_mailbox_valid("a@b ", 4));
    assert_false(smtp_mailbox_valid("a", 1));
    assert_false(smtp_mailbox_valid("a@\xc3\xbc", 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),    cmocka_unit_test(test_taken),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_domain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
