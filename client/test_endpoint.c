/* HOST:PORT: what is taken, what is refused, and the way back from an address. */
#include "client/endpoint.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static int parse(const char *text, struct endpoint *out)
{
    return endpoint_parse(text, strlen(text), out);
}

static void takes_names_and_literals(void **state)
{
    struct endpoint ep;
    struct sockaddr_storage address;
    char text[ENDPOINT_TEXT_SIZE];

    (void)state;
    assert_int_equal(parse("mx1.example.net:25", &ep), 0);
    assert_string_equal(ep.host, "mx1.example.net");
    assert_int_equal(ep.port, 25);
    assert_int_equal(endpoint_literal(&ep, &address), MR_NOTFOUND);

    assert_int_equal(parse("[2001:db8::1]:2525", &ep), 0);
    assert_string_equal(ep.host, "2001:db8::1");
    assert_int_equal(endpoint_literal(&ep, &address), 0);
    assert_string_equal(endpoint_format(&address, text), "[2001:db8::1]:2525");

    assert_int_equal(parse("127.0.0.1:0", &ep), 0);
    assert_int_equal(endpoint_literal(&ep, &address), 0);
    assert_string_equal(endpoint_format(&address, text), "127.0.0.1:0");
}

static void refuses_what_is_no_endpoint(void **state)
{
    static const char *const wrong[] = {"",         "host",    "host:",  ":25",   "host:65536",
                                        "host:2x5", "[::1]25", "::1:25", "[]:25", "host:000025"};
    struct endpoint ep;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(parse(wrong[i], &ep), MR_INVAL);
    char longest[400];
    memset(longest, 'a', sizeof(longest));
    memcpy(longest + sizeof(longest) - 4, ":25", 4);
    assert_int_equal(parse(longest, &ep), MR_INVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_names_and_literals),
        cmocka_unit_test(refuses_what_is_no_endpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
