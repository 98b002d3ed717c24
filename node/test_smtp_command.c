/* test_smtp_command.c - command lines and the arguments of MAIL and RCPT. */
#include "node/smtp_command.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct smtp_slice slice(const char *text)
{
    return (struct smtp_slice){text, strlen(text)};
}

static void test_line(void **state)
{
    struct smtp_slice verb, args;

    (void)state;
    assert_int_equal(smtp_line_parse("mail  FROM:<a@b>  ", 18, &verb, &args), 0);
    assert_true(smtp_slice_is(verb, "MAIL"));
    assert_int_equal(args.len, 10);
    assert_int_equal(smtp_line_parse("", 0, &verb, &args), 0);
    assert_int_equal(verb.len, 0);
    assert_int_equal(smtp_line_parse("   ", 3, &verb, &args), 0);
    assert_int_equal(verb.len + args.len, 0);
    assert_int_equal(smtp_line_parse("NOOP\0x", 6, &verb, &args), MR_MALFORMED);
    assert_int_equal(smtp_line_parse("NO\rOP", 5, &verb, &args), MR_MALFORMED);
    assert_int_equal(smtp_line_parse("NOOP\x7f", 5, &verb, &args), MR_MALFORMED);
}

static void test_mail(void **state)
{
    static const struct {
        const char *args;
        unsigned code; /* 0: taken */
        const char *status;
        size_t address_len;
        uint64_t size;
        bool eight_bit;
    } rows[] = {
        {"FROM:<>", 0, "", 0, 0, false},
        {"from:<a@b>", 0, "", 3, 0, false},
        {"FROM: <a@b>", 0, "", 3, 0, false},
        {"FROM:<a@b> SIZE=1000 BODY=8BITMIME", 0, "", 3, 1000, true},
        {"FROM:<a@b> body=7bit  size=0", 0, "", 3, 0, false},
        {"FROM:<a@b> SIZE=18446744073709551615", 0, "", 3, UINT64_MAX, false},
        {"FROM:<a@b> SIZE=99999999999999999999", 0, "", 3, UINT64_MAX, false},
        {"FROM:<a@b> SIZE=999999999999999999999", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> SIZE=", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> SIZE", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> SIZE=-1", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> SIZE=1x", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> SIZE=1 SIZE=2", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> BODY=7BIT BODY=8BITMIME", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> BODY=BINARYMIME", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> =1", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> SIZE=1=2", 501, "5.5.4", 0, 0, false},
        {"FROM:<a@b> RET=FULL", 555, "5.5.4", 0, 0, false},
        {"FROM:<a@b> ENVID=x", 555, "5.5.4", 0, 0, false},
        {"FROM:<a@b> SMTPUTF8", 555, "5.5.4", 0, 0, false},
        {"FROM:<a@b> AUTH=<>", 555, "5.5.4", 0, 0, false},
        {"FROM:<a@b>SIZE=1", 501, "5.1.7", 0, 0, false},
        {"FROM:<a@b>>", 501, "5.1.7", 0, 0, false},
        {"FROM:<a@b> garbage!", 501, "5.5.4", 0, 0, false},
        {"FROM:a@b", 501, "5.1.7", 0, 0, false},
        {"FROM:", 501, "5.1.7", 0, 0, false},
        {"FROM:<user>", 501, "5.1.7", 0, 0, false},
        {"TO:<a@b>", 501, "5.1.7", 0, 0, false},
        {"FROM:<\xc3\xa9@b>", 553, "5.6.7", 0, 0, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smtp_mail mail;
        const struct smtp_reply *why;
        int rc = smtp_mail_parse(slice(rows[i].args), &mail, &why);

        if (rows[i].code == 0) {
            assert_int_equal(rc, 0);
            assert_null(why);
            assert_int_equal(mail.path.len, rows[i].address_len);
            assert_true(mail.size == rows[i].size);
            assert_int_equal(mail.eight_bit, rows[i].eight_bit);
        } else {
            assert_int_equal(rc, MR_REFUSED);
            assert_int_equal(why->code, rows[i].code);
            assert_string_equal(why->status, rows[i].status);
        }
    }
}

static void test_rcpt(void **state)
{
    static const struct {
        const char *args;
        unsigned code;
        const char *status;
    } rows[] = {
        {"TO:<a@b>", 0, ""},
        {"to:<PostMaster>", 0, ""},
        {"TO:<@r:a@b>", 0, ""},
        {"TO:<>", 501, "5.1.3"},
        {"TO:<user>", 501, "5.1.3"},
        {"TO:<a@b> trailing", 555, "5.5.4"},
        {"TO:<a@b> NOTIFY=NEVER", 555, "5.5.4"},
        {"TO:<a@b> ORCPT=rfc822;a@b", 555, "5.5.4"},
        {"TO:<a@b> SIZE=1", 555, "5.5.4"},
        {"TO:<a@b>x", 501, "5.1.3"},
        {"TO:<a@b> ;", 501, "5.5.4"},
        {"FROM:<a@b>", 501, "5.1.3"},
        {"TO:<a@\xff>", 553, "5.6.7"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smtp_path path;
        const struct smtp_reply *why;
        int rc = smtp_rcpt_parse(slice(rows[i].args), &path, &why);

        if (rows[i].code == 0) {
            assert_int_equal(rc, 0);
        } else {
            assert_int_equal(rc, MR_REFUSED);
            assert_int_equal(why->code, rows[i].code);
            assert_string_equal(why->status, rows[i].status);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_mail),
        cmocka_unit_test(test_rcpt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
