/* Replies to EHLO as servers in the field write them, and as none should. */
#include "node/delivery/smtp_capabilities.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct smtp_capabilities c;

static void begin(void)
{
    memset(&c, 0xff, sizeof(c));
    smtp_capabilities_clear(&c);
    assert_int_equal(c.flags, 0);
}

static void line(const char *text)
{
    char *copy = malloc(strlen(text) + 1); /* its end is guarded by the sanitizer */
    assert_non_null(copy);
    memcpy(copy, text, strlen(text));
    smtp_capabilities_line(&c, copy, strlen(text));
    free(copy);
}

static void all_of_them(void **state)
{
    static const struct {
        const char *line;
        unsigned flag;
    } lines[] = {
        {"PIPELINING", CAP_PIPELINING},
        {"8BITMIME", CAP_8BITMIME},
        {"ENHANCEDSTATUSCODES", CAP_ENHANCED},
        {"SMTPUTF8", CAP_SMTPUTF8},
        {"chunking", CAP_CHUNKING},
        {"BinaryMime", CAP_BINARYMIME},
        {"DSN", CAP_DSN},
        {"STARTTLS", CAP_STARTTLS},
        {"REQUIRETLS", CAP_REQUIRETLS},
        {"MT-PRIORITY MIXER", CAP_MT_PRIORITY},
        {"SIZE", CAP_SIZE},
        {"DELIVERBY", CAP_DELIVERBY},
        {"AUTH PLAIN", CAP_AUTH},
        {"PIPELININGS", 0},
        {"XDSN", 0},
        {"8BIT", 0},
        {"", 0},
        {"  ", 0},
        {"VRFY", 0},
        {"AUTH", 0},
        {"AUTH=", 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        begin();
        line(lines[i].line);
        assert_int_equal(c.flags, lines[i].flag);
    }
}

static void numbers(void **state)
{
    (void)state;
    begin();
    line("SIZE 52428800");
    line("DELIVERBY 120");
    assert_int_equal(c.size, 52428800);
    assert_int_equal(c.deliver_by_min, 120);
    begin();
    line("SIZE 0");
    line("DELIVERBY 60,x");
    assert_true((c.flags & CAP_SIZE) != 0 && c.size == 0);
    assert_int_equal(c.deliver_by_min, 60);
    begin();
    line("SIZE 99999999999999999999999999999999");
    assert_true(c.size == 1ULL << 50);
    begin();
    line("SIZE -1");
    line("DELIVERBY -1");
    assert_true((c.flags & CAP_SIZE) != 0 && c.size == 0);
    assert_true((c.flags & CAP_DELIVERBY) != 0 && c.deliver_by_min == 0);
}

static void limits(void **state)
{
    (void)state;
    begin();
    line("LIMITS MAILMAX=10 rcptmax=50  RCPTDOMAINMAX=1 SOMETHING=7");
    assert_int_equal(c.mail_max, 10);
    assert_int_equal(c.rcpt_max, 50);
    assert_int_equal(c.rcpt_domain_max, 1);
    begin();
    line("LIMITS MAILMAX=0 RCPTMAX=x RCPTMAX= =5 RCPTDOMAINMAX=99999999999999");
    assert_int_equal(c.mail_max, 0);
    assert_int_equal(c.rcpt_max, 0);
    assert_true(c.rcpt_domain_max == UINT32_MAX);
    begin();
    line("LIMITS");
    assert_int_equal(c.rcpt_max, 0);
}

static void mechanisms(void **state)
{
    (void)state;
    begin();
    line("AUTH PLAIN login SCRAM-SHA-256 XOAUTH2");
    line("AUTH=PLAIN LOGIN CRAM-MD5");
    assert_string_equal(c.mechanism_names, "PLAIN LOGIN SCRAM-SHA-256 XOAUTH2 CRAM-MD5");
    assert_int_equal(c.mechanisms, MECHANISM_PLAIN | MECHANISM_LOGIN | MECHANISM_SCRAM_SHA_256 | MECHANISM_CRAM_MD5);
    assert_true(smtp_capabilities_mechanism(&c, "xoauth2"));
    assert_false(smtp_capabilities_mechanism(&c, "SCRAM-SHA-256-PLUS"));
    assert_false(smtp_capabilities_mechanism(&c, "OAUTH2"));
    begin();
    line("AUTH A.B \x01\x02 ABCDEFGHIJKLMNOPQRSTUV GSSAPI");
    assert_string_equal(c.mechanism_names, "GSSAPI");
    begin();
    for (int i = 0; i < 1000; i++) { /* more than there is room for */
        char text[32];
        (void)snprintf(text, sizeof(text), "AUTH MECH-%d", i);
        line(text);
    }
    assert_true(strlen(c.mechanism_names) < sizeof(c.mechanism_names));
    assert_true(smtp_capabilities_mechanism(&c, "MECH-0"));
    assert_false(smtp_capabilities_mechanism(&c, "MECH-999"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_them),
        cmocka_unit_test(numbers),
        cmocka_unit_test(limits),
        cmocka_unit_test(mechanisms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
