/* test_smtp_command.c - command lines and the arguments of MAIL and RCPT. */
#include "node/server/smtp_command.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
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

#define ALL 0xffffffffU

static void test_mail(void **state)
{
    static const struct {
        const char *args;
        unsigned offered;
        unsigned code; /* 0: taken */
        const char *status;
        size_t address_len;
        uint64_t size;
        enum smtp_body body;
    } rows[] = {
        {"FROM:<>", 0, 0, "", 0, 0, 0},
        {"from:<a@b>", 0, 0, "", 3, 0, 0},
        {"FROM: <a@b>", 0, 0, "", 3, 0, 0},
        {"FROM:<a@b> SIZE=1000 BODY=8BITMIME", ALL, 0, "", 3, 1000, BODY_8BITMIME},
        {"FROM:<a@b> body=7bit  size=0", ALL, 0, "", 3, 0, BODY_7BIT},
        {"FROM:<a@b> BODY=BINARYMIME", ALL, 0, "", 3, 0, BODY_BINARYMIME},
        {"FROM:<a@b> BODY=BINARYMIME", SMTP_8BITMIME, 555, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> BODY=9BIT", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> BODY", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> BODY=7BIT", SMTP_SIZE, 555, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE=18446744073709551615", ALL, 0, "", 3, UINT64_MAX, 0},
        {"FROM:<a@b> SIZE=99999999999999999999", ALL, 0, "", 3, UINT64_MAX, 0},
        {"FROM:<a@b> SIZE=18446744073709551616", ALL, 0, "", 3, UINT64_MAX, 0},
        {"FROM:<a@b> SIZE=999999999999999999999", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE=", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE=-1", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE=1x", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE=1 SIZE=2", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE=1", 0, 555, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> BODY=7BIT BODY=8BITMIME", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> =1", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SIZE=1=2", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> NOTIFY=NEVER", ALL, 555, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> X-WHAT=1", ALL, 555, "5.5.4", 0, 0, 0},
        {"FROM:<a@b>SIZE=1", ALL, 501, "5.1.7", 0, 0, 0},
        {"FROM:<a@b>>", ALL, 501, "5.1.7", 0, 0, 0},
        {"FROM:<a@b> garbage!", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:a@b", ALL, 501, "5.1.7", 0, 0, 0},
        {"FROM:", ALL, 501, "5.1.7", 0, 0, 0},
        {"FROM:<user>", ALL, 501, "5.1.7", 0, 0, 0},
        {"TO:<a@b>", ALL, 501, "5.1.7", 0, 0, 0},
        {"FROM:<\xc3\xa9@b>", ALL, 553, "5.6.7", 0, 0, 0},
        {"FROM:<\xc3\xa9@b> SIZE=1", ALL, 553, "5.6.7", 0, 0, 0},
        {"FROM:<\xc3\xa9@b> SMTPUTF8", 0, 553, "5.6.7", 0, 0, 0},
        {"FROM:<\xc3\xa9@b> SMTPUTF8", ALL, 0, "", 4, 0, 0},
        {"FROM:<\"\xc3\xa9 \"@\xc3\xa9.example> SMTPUTF8", ALL, 0, "", 16, 0, 0},
        {"FROM:<\xc3@b> SMTPUTF8", ALL, 501, "5.1.7", 0, 0, 0},
        {"FROM:<\xc0\xaf@b> SMTPUTF8", ALL, 501, "5.1.7", 0, 0, 0},         /* overlong */
        {"FROM:<\xed\xa0\x80@b> SMTPUTF8", ALL, 501, "5.1.7", 0, 0, 0},     /* surrogate */
        {"FROM:<\xc2\x85@b> SMTPUTF8", ALL, 501, "5.1.7", 0, 0, 0},         /* C1 control */
        {"FROM:<\xe2\x80\xa8@b> SMTPUTF8", ALL, 501, "5.1.7", 0, 0, 0},     /* line separator */
        {"FROM:<\xf4\x90\x80\x80@b> SMTPUTF8", ALL, 501, "5.1.7", 0, 0, 0}, /* beyond Unicode */
        {"FROM:<a@b> SMTPUTF8=1", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SMTPUTF8 SMTPUTF8", ALL, 501, "5.5.4", 0, 0, 0},
        {"FROM:<a@b> SMTPUTF8", SMTP_SIZE, 555, "5.5.4", 0, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smtp_mail mail;
        const struct smtp_reply *why;
        int rc = smtp_mail_parse(slice(rows[i].args), rows[i].offered, &mail, &why);

        if (rc != (rows[i].code == 0 ? 0 : MR_REFUSED))
            fail_msg("%s: %d", rows[i].args, rc);
        if (rows[i].code == 0) {
            assert_null(why);
            assert_int_equal(mail.path.len, rows[i].address_len);
            assert_true(mail.size == rows[i].size);
            assert_int_equal(mail.body, rows[i].body);
        } else {
            if (why->code != rows[i].code)
                fail_msg("%s: %u", rows[i].args, why->code);
            assert_string_equal(why->status, rows[i].status);
        }
    }
}

/* Values that are taken, or refused with 501; and 555 when the extension is not offered. */
static void check_parameter(const char *parameter, unsigned extension, bool taken, struct smtp_mail *mail)
{
    static char line[1024];
    const struct smtp_reply *why;
    int rc;

    snprintf(line, sizeof(line), "FROM:<a@b.example> %s", parameter);
    rc = smtp_mail_parse(slice(line), extension, mail, &why);
    if (rc != (taken ? 0 : MR_REFUSED))
        fail_msg("%s: %d", parameter, rc);
    if (!taken)
        assert_int_equal(why->code, 501);
    assert_int_equal(smtp_mail_parse(slice(line), ALL & ~extension, mail, &why), MR_REFUSED);
    assert_int_equal(why->code, line[strlen(line) - 1] == '=' ? 501 : 555); /* an empty value is no parameter at all */
    if (taken) {
        size_t n = strlen(line);

        snprintf(line + n, sizeof(line) - n, " %s", parameter);
        assert_int_equal(smtp_mail_parse(slice(line), extension, mail, &why), MR_REFUSED);
        assert_int_equal(why->code, 501); /* twice */
        line[n] = '\0';
        assert_int_equal(smtp_mail_parse(slice(line), extension, mail, &why), 0);
    }
}

static void test_dsn_parameters(void **state)
{
    static const char *const bad[] = {"RET",    "RET=",      "RET=BODY",   "ENVID",
                                      "ENVID=", "ENVID=a+2", "ENVID=a+GG", "ENVID=+00"};
    char envid[128] = "ENVID=";
    struct smtp_mail m;

    (void)state;
    check_parameter("RET=full", SMTP_DSN, true, &m);
    assert_int_equal(m.ret, RET_FULL);
    check_parameter("RET=HDRS", SMTP_DSN, true, &m);
    assert_int_equal(m.ret, RET_HDRS);
    check_parameter("ENVID=QQ+2B3+3D", SMTP_DSN, true, &m);
    assert_memory_equal(m.envid.at, "QQ+2B3+3D", m.envid.len);
    memset(envid + 6, 'e', 100);
    check_parameter(envid, SMTP_DSN, true, &m);
    memset(envid + 6, 'e', 101);
    check_parameter(envid, SMTP_DSN, false, &m);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        check_parameter(bad[i], SMTP_DSN, false, &m);
}

static void test_auth_parameter(void **state)
{
    struct smtp_mail m;

    (void)state;
    check_parameter("AUTH=<>", SMTP_AUTH, true, &m);
    check_parameter("AUTH=e+3Dmc2@example.com", SMTP_AUTH, true, &m);
    check_parameter("AUTH=user", SMTP_AUTH, false, &m);
    check_parameter("AUTH=<a@b>", SMTP_AUTH, false, &m);
    check_parameter("AUTH=a+0D@b", SMTP_AUTH, false, &m);
    check_parameter("AUTH", SMTP_AUTH, false, &m);
}

static void test_priority(void **state)
{
    static const char *const bad[] = {"", "=", "=10", "=-10", "=-0", "=+1", "=x", "=1x", "=00"};
    char text[32];
    struct smtp_mail m;

    (void)state;
    for (int p = -9; p <= 9; p++) {
        snprintf(text, sizeof(text), "MT-PRIORITY=%d", p);
        check_parameter(text, SMTP_MT_PRIORITY, true, &m);
        assert_true(m.has_priority);
        assert_int_equal(m.priority, p);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(text, sizeof(text), "MT-PRIORITY%s", bad[i]);
        check_parameter(text, SMTP_MT_PRIORITY, false, &m);
    }
}

static void test_deliver_by(void **state)
{
    static const char *const bad[] = {"BY",      "BY=",      "BY=1",   "BY=1;",   "BY=;N",           "BY=1;X",
                                      "BY=1;NX", "BY=1;NTT", "BY=0;R", "BY=-1;R", "BY=1234567890;N", "BY=--1;N",
                                      "BY=+;N",  "BY=1 ;N",  "BY=-;N"};
    struct smtp_mail m;

    (void)state;
    check_parameter("BY=120;R", SMTP_DELIVERBY, true, &m);
    assert_int_equal(m.by, BY_RETURN);
    assert_int_equal(m.by_s, 120);
    assert_false(m.by_trace);
    check_parameter("BY=-30;nt", SMTP_DELIVERBY, true, &m);
    assert_int_equal(m.by, BY_NOTIFY);
    assert_int_equal(m.by_s, -30);
    assert_true(m.by_trace);
    check_parameter("BY=+999999999;RT", SMTP_DELIVERBY, true, &m);
    assert_int_equal(m.by_s, 999999999);
    check_parameter("BY=0;N", SMTP_DELIVERBY, true, &m);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        check_parameter(bad[i], SMTP_DELIVERBY, false, &m);
}

static void test_hold(void **state)
{
    static const char *const bad[] = {"HOLDFOR",
                                      "HOLDFOR=0",
                                      "HOLDFOR=-1",
                                      "HOLDFOR=1234567890",
                                      "HOLDFOR=1s",
                                      "HOLDUNTIL",
                                      "HOLDUNTIL=tomorrow",
                                      "HOLDUNTIL=2026-02-29T00:00:00Z",
                                      "HOLDUNTIL=2026-13-01T00:00:00Z",
                                      "HOLDUNTIL=2026-01-01T00:00:00",
                                      "HOLDUNTIL=2026-01-01T24:00:00Z",
                                      "HOLDUNTIL=2026-01-01T00:00:00Zx",
                                      "HOLDUNTIL=2026-01-01T00:00:00.Z",
                                      "HOLDFOR=1 HOLDUNTIL=2026-01-01T00:00:00Z"};
    struct smtp_mail m;

    (void)state;
    check_parameter("HOLDFOR=3600", SMTP_FUTURERELEASE, true, &m);
    assert_int_equal(m.hold, HOLD_FOR);
    assert_int_equal(m.hold_at, 3600);
    check_parameter("HOLDUNTIL=2026-03-01T12:00:00Z", SMTP_FUTURERELEASE, true, &m);
    assert_int_equal(m.hold, HOLD_UNTIL);
    assert_true(m.hold_at == 1772366400000);
    check_parameter("HOLDUNTIL=2026-03-01t14:30:00.25+02:30", SMTP_FUTURERELEASE, true, &m);
    assert_true(m.hold_at == 1772366400000);
    check_parameter("HOLDUNTIL=2028-02-29T00:00:00Z", SMTP_FUTURERELEASE, true, &m);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        check_parameter(bad[i], SMTP_FUTURERELEASE, false, &m);
}

static void test_require_tls(void **state)
{
    struct smtp_mail m;

    (void)state;
    check_parameter("REQUIRETLS", SMTP_REQUIRETLS, true, &m);
    assert_true(m.require_tls);
    check_parameter("REQUIRETLS=1", SMTP_REQUIRETLS, false, &m);
}

static void test_rcpt(void **state)
{
    static const struct {
        const char *args;
        bool utf8;
        unsigned code;
        const char *status;
        unsigned notify;
    } rows[] = {
        {"TO:<a@b>", false, 0, "", 0},
        {"to:<PostMaster>", false, 0, "", 0},
        {"TO:<@r:a@b>", false, 0, "", 0},
        {"TO:<>", false, 501, "5.1.3", 0},
        {"TO:<user>", false, 501, "5.1.3", 0},
        {"TO:<a@b> trailing", false, 555, "5.5.4", 0},
        {"TO:<a@b> SIZE=1", false, 555, "5.5.4", 0},
        {"TO:<a@b>x", false, 501, "5.1.3", 0},
        {"TO:<a@b> ;", false, 501, "5.5.4", 0},
        {"FROM:<a@b>", false, 501, "5.1.3", 0},
        {"TO:<a@\xff>", false, 501, "5.1.3", 0},
        {"TO:<a@\xc3\xa9>", false, 553, "5.6.7", 0},
        {"TO:<a@\xc3\xa9>", true, 0, "", 0},
        {"TO:<a@b> NOTIFY=NEVER", false, 0, "", NOTIFY_NEVER},
        {"TO:<a@b> notify=success,delay,Failure", false, 0, "", NOTIFY_SUCCESS | NOTIFY_DELAY | NOTIFY_FAILURE},
        {"TO:<a@b> NOTIFY=NEVER,DELAY", false, 501, "5.5.4", 0},
        {"TO:<a@b> NOTIFY=DELAY,DELAY", false, 501, "5.5.4", 0},
        {"TO:<a@b> NOTIFY=DELAY,", false, 501, "5.5.4", 0},
        {"TO:<a@b> NOTIFY=,DELAY", false, 501, "5.5.4", 0},
        {"TO:<a@b> NOTIFY=SOMETIMES", false, 501, "5.5.4", 0},
        {"TO:<a@b> NOTIFY", false, 501, "5.5.4", 0},
        {"TO:<a@b> NOTIFY=DELAY NOTIFY=DELAY", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=rfc822;a+2Bx@b", false, 0, "", 0},
        {"TO:<a@b> ORCPT=x400;/c+3Dde", false, 0, "", 0},
        {"TO:<a@b> ORCPT=rfc822;a+@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=rfc822", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=;a@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=rfc822;", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=r(c;a@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=rfc822;\xc3\xa9@b", true, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=rfc822;+C3+A9@b", true, 0, "", 0}, /* Postfix */
        {"TO:<a@b> ORCPT=rfc822;+C3+A9@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=rfc822;+C3@b", true, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=rfc822;+C3+A9+0A@b", true, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=utf-8;\xc3\xa9@b", true, 0, "", 0},
        {"TO:<a@b> ORCPT=utf-8;\xc3\xa9@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=utf-8;\\x{E9}\\x{1F600}@b", false, 0, "", 0},
        {"TO:<a@b> ORCPT=utf-8;\\x{D800}@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=utf-8;\\x{110000}@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=utf-8;\\x{}@b", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=utf-8;\\x{E9", false, 501, "5.5.4", 0},
        {"TO:<a@b> ORCPT=utf-8;a+b", false, 501, "5.5.4", 0},
    };
    char line[600] = "TO:<a@b> ORCPT=rfc822;";
    size_t n = strlen(line);
    struct smtp_rcpt rcpt;
    const struct smtp_reply *why;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int rc = smtp_rcpt_parse(slice(rows[i].args), ALL, rows[i].utf8, &rcpt, &why);

        if (rc != (rows[i].code == 0 ? 0 : MR_REFUSED))
            fail_msg("%s: %d", rows[i].args, rc);
        if (rows[i].code == 0) {
            assert_int_equal(rcpt.notify, rows[i].notify);
        } else {
            assert_int_equal(why->code, rows[i].code);
            assert_string_equal(why->status, rows[i].status);
        }
    }
    assert_int_equal(smtp_rcpt_parse(slice("TO:<a@b> NOTIFY=NEVER"), ALL & ~(unsigned)SMTP_DSN, false, &rcpt, &why),
                     MR_REFUSED);
    assert_int_equal(why->code, 555);
    memset(line + n, 'o', 493);
    assert_int_equal(smtp_rcpt_parse(slice(line), ALL, false, &rcpt, &why), 0);
    assert_int_equal(rcpt.orcpt.len, SMTP_MAX_ORCPT);
    line[n + 493] = 'o';
    assert_int_equal(smtp_rcpt_parse(slice(line), ALL, false, &rcpt, &why), MR_REFUSED);
}

static void test_bdat(void **state)
{
    static const struct {
        const char *args;
        int rc;
        uint64_t octets;
        bool last;
    } rows[] = {
        {"0", 0, 0, false},
        {"100", 0, 100, false},
        {"100 last", 0, 100, true},
        {"0\tLAST", 0, 0, true},
        {"18446744073709551616", 0, UINT64_MAX, false},
        {"99999999999999999999 LAST", 0, UINT64_MAX, true},
        {"", MR_MALFORMED, 0, false},
        {"LAST", MR_MALFORMED, 0, false},
        {"-1", MR_MALFORMED, 0, false},
        {"+1", MR_MALFORMED, 0, false},
        {"0x10", MR_MALFORMED, 0, false},
        {"10 FIRST", MR_MALFORMED, 0, false},
        {"10 LAST x", MR_MALFORMED, 0, false},
        {"999999999999999999999", MR_MALFORMED, 0, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t octets = 0;
        bool last = false;

        assert_int_equal(smtp_bdat_parse(slice(rows[i].args), &octets, &last), rows[i].rc);
        if (rows[i].rc == 0) {
            assert_true(octets == rows[i].octets);
            assert_int_equal(last, rows[i].last);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),           cmocka_unit_test(test_mail),
        cmocka_unit_test(test_dsn_parameters), cmocka_unit_test(test_auth_parameter),
        cmocka_unit_test(test_priority),       cmocka_unit_test(test_deliver_by),
        cmocka_unit_test(test_hold),           cmocka_unit_test(test_require_tls),
        cmocka_unit_test(test_rcpt),           cmocka_unit_test(test_bdat),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
