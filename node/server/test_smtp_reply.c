/* test_smtp_reply.c - replies: form, limits, and that text from outside stays text. */
#include "node/server/smtp_reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check(const struct smtp_reply *reply, const char *expected)
{
    char out[SMTP_MAX_REPLY];
    size_t n = smtp_reply_write(out, sizeof(out), reply);

    assert_int_equal(n, strlen(expected));
    assert_memory_equal(out, expected, n);
}

static void test_form(void **state)
{
    (void)state;
    check(&(struct smtp_reply){250, "2.1.0", "Ok"}, "250 2.1.0 Ok\r\n");
    check(&(struct smtp_reply){354, NULL, "Go"}, "354 Go\r\n");
    check(&(struct smtp_reply){250, NULL, "mx\nSIZE 1\nPIPELINING"}, "250-mx\r\n250-SIZE 1\r\n250 PIPELINING\r\n");
    check(&(struct smtp_reply){550, "5.1.1", "a\r\x01z\xc3"}, "550 5.1.1 a??z?\r\n");
}

static void test_limits(void **state)
{
    char text[2000];
    char out[SMTP_MAX_REPLY];
    size_t n;

    (void)state;
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    n = smtp_reply_write(out, sizeof(out), &(struct smtp_reply){250, "2.0.0", text});
    assert_int_equal(n, SMTP_MAX_REPLY_LINE);
    assert_memory_equal(out + n - 2, "\r\n", 2);
    assert_int_equal(smtp_reply_write(out, 10, &(struct smtp_reply){250, "2.0.0", text}), 0);
    /* The second line does not fit: the first ends the reply. */
    n = smtp_reply_write(out, 12, &(struct smtp_reply){250, NULL, "one\nlonger"});
    assert_int_equal(n, 9);
    assert_memory_equal(out, "250 one\r\n", 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
