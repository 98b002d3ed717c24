/* test_smtp_xclient.c - attributes that are taken, and those that are not. */
#include "node/server/smtp_xclient.h"

#include "proto/base/error.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int parse(const char *text, struct smtp_xclient *x, const struct smtp_reply **why)
{
    size_t len = strlen(text);
    char *copy = malloc(len + (len == 0));
    int rc;

    assert_non_null(copy);
    memcpy(copy, text, len);
    rc = smtp_xclient_parse((struct smtp_slice){copy, len}, x, why);
    free(copy);
    return rc;
}

static void test_taken(void **state)
{
    const struct smtp_reply *why;
    struct smtp_xclient x;
    char text[INET6_ADDRSTRLEN];

    (void)state;
    assert_int_equal(parse("NAME=mx.example.org ADDR=192.0.2.7 PORT=4711 PROTO=esmtp HELO=helo.example LOGIN=u+40x+2B1 "
                           "destaddr=ipv6:2001:db8::1  DESTPORT=25",
                           &x, &why),
                     0);
    assert_int_equal(x.given, 0xff);
    assert_string_equal(x.name, "mx.example.org");
    assert_int_equal(x.address.any.sa_family, AF_INET);
    assert_string_equal(inet_ntop(AF_INET, &x.address.v4.sin_addr, text, sizeof(text)), "192.0.2.7");
    assert_int_equal(x.port, 4711);
    assert_true(x.esmtp);
    assert_string_equal(x.helo, "helo.example");
    assert_string_equal(x.login, "u@x+1");
    assert_int_equal(x.destination.any.sa_family, AF_INET6);
    assert_string_equal(inet_ntop(AF_INET6, &x.destination.v6.sin6_addr, text, sizeof(text)), "2001:db8::1");
    assert_int_equal(x.destination_port, 25);

    assert_int_equal(parse("NAME=[tempunavail] ADDR=[UNAVAILABLE] PORT=[Unavailable] HELO=+5BUNAVAILABLE+5D "
                           "LOGIN=[UNAVAILABLE] PROTO=SMTP",
                           &x, &why),
                     0);
    assert_string_equal(x.name, "");
    assert_int_equal(x.address.any.sa_family, AF_UNSPEC);
    assert_int_equal(x.port, 0);
    assert_string_equal(x.helo, "");
    assert_string_equal(x.login, "");
    assert_false(x.esmtp);
    assert_int_equal(parse("HELO=[192.0.2.1]", &x, &why), 0);
    assert_int_equal(x.given, XCLIENT_HELO);
}

static void test_refused(void **state)
{
    static const char *const rows[] = {
        "",
        "NAME",
        "NAME=",
        "=x",
        "NAME=a NAME=b",
        "COLOUR=red",
        "ADDR=192.0.2",
        "ADDR=2001:db8::1",
        "ADDR=IPV6:192.0.2.1",
        "ADDR=IPV6:",
        "ADDR=[192.0.2.1]",
        "PORT=65536",
        "PORT=-1",
        "PORT=4a",
        "PROTO=LMTP",
        "HELO=a b",
        "HELO=a+0D+0Ab",
        "HELO=a..b",
        "NAME=a+20b",
        "LOGIN=a+0",
        "LOGIN=a+zz",
        "LOGIN=a+4a",
        "LOGIN=a+00b",
        "LOGIN=a+7F",
    };
    const struct smtp_reply *why;
    struct smtp_xclient x;
    char line[400];

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (parse(rows[i], &x, &why) != MR_REFUSED)
            fail_msg("\"%s\" was taken", rows[i]);
        assert_int_equal(why->code, 501);
    }
    memset(line, 'x', sizeof(line));
    memcpy(line, "LOGIN=", 6);
    line[6 + 255] = '\0';
    assert_int_equal(parse(line, &x, &why), 0);
    line[6 + 255] = 'x';
    line[6 + 256] = '\0';
    assert_int_equal(parse(line, &x, &why), MR_REFUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
