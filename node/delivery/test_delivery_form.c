/* Which parameters a message has for which next hop, and their text. */
#include "node/delivery/delivery_form.h"

#include "cluster/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const unsigned everything = CAP_PIPELINING | CAP_SIZE | CAP_8BITMIME | CAP_SMTPUTF8 | CAP_CHUNKING |
                                   CAP_BINARYMIME | CAP_DSN | CAP_REQUIRETLS | CAP_MT_PRIORITY | CAP_DELIVERBY |
                                   CAP_AUTH;

static char line[2048];

static const char *mail(const struct attempt *a, unsigned caps, int64_t left_s, bool authenticated)
{
    struct smtp_capabilities can = {.flags = caps};
    struct send_form form = form_choose(a->flags, &can);
    struct form_mail m = {
        .reverse_path = a->reverse_path, .size = a->body_length, .left_s = left_s, .authenticated = authenticated};
    struct form_text t = {0};
    form_add_mail(&t, &form, a, &m, &can);
    (void)snprintf(line, sizeof(line), "%.*s", (int)t.len, t.text);
    free(t.text);
    return line;
}

static const char *rcpt(const struct attempt *a, unsigned caps, const struct attempt_recipient *to)
{
    struct smtp_capabilities can = {.flags = caps};
    struct send_form form = form_choose(a->flags, &can);
    struct form_mail m = {.reverse_path = a->reverse_path};
    struct form_text t = {0};
    form_add_mail(&t, &form, a, &m, &can);
    t.len = 0;
    form_add_rcpt(&t, &form, a, to, to->address);
    (void)snprintf(line, sizeof(line), "%.*s", (int)t.len, t.text);
    free(t.text);
    return line;
}

static struct attempt full(void)
{
    return (struct attempt){.reverse_path = "s@example.net",
                            .envid = "QQ+2B3+3D1+20+7F",
                            .ret = 1,
                            .flags = MESSAGE_8BITMIME | MESSAGE_SMTPUTF8 | MESSAGE_REQUIRETLS,
                            .body_length = 1234,
                            .priority = -3,
                            .deliver_by = MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN,
                            .deliver_by_trace = true};
}

static void of_mail(void **state)
{
    struct attempt a = full();
    (void)state;
    assert_string_equal(mail(&a, everything, 60, true),
                        "MAIL FROM:<s@example.net> SIZE=1234 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=QQ+2B3+3D1+20+7F "
                        "REQUIRETLS MT-PRIORITY=-3 BY=60;RT AUTH=<>\r\n");
    assert_string_equal(mail(&a, 0, 60, true), "MAIL FROM:<s@example.net>\r\n"); /* F1 */
    a.deliver_by = MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY;
    a.deliver_by_trace = false;
    a.ret = 2;
    a.envid = "";
    a.priority = 0;
    a.flags = 0;
    assert_string_equal(mail(&a, everything, -7, false), "MAIL FROM:<s@example.net> SIZE=1234 RET=HDRS BY=-7;N\r\n");
    assert_string_equal(mail(&a, CAP_DELIVERBY, INT64_MAX, false), "MAIL FROM:<s@example.net> BY=999999999;N\r\n");
    a.deliver_by = MAILRAFT__DELIVER_BY__DELIVER_BY_NONE;
    a.ret = 0;
    a.envid = NULL;
    a.flags = MESSAGE_BINARYMIME;
    a.reverse_path = "";
    assert_string_equal(mail(&a, everything, 0, false), "MAIL FROM:<> SIZE=1234 BODY=BINARYMIME\r\n");
    assert_string_equal(mail(&a, CAP_BINARYMIME | CAP_8BITMIME, 0, false), "MAIL FROM:<> BODY=8BITMIME\r\n");
}

static void of_rcpt(void **state)
{
    struct attempt a = full();
    struct attempt_recipient to = {.address = "a+b@example.org", .notify = NOTIFY_SUCCESS | NOTIFY_DELAY};
    (void)state;
    assert_string_equal(rcpt(&a, everything, &to), "RCPT TO:<a+b@example.org> NOTIFY=SUCCESS,DELAY "
                                                   "ORCPT=rfc822;a+2Bb@example.org\r\n");
    assert_string_equal(rcpt(&a, everything & ~(unsigned)CAP_DSN, &to), "RCPT TO:<a+b@example.org>\r\n");
    to.orcpt = "rfc822;old+3Dx@example.org";
    to.notify = 0;
    assert_string_equal(rcpt(&a, everything, &to), "RCPT TO:<a+b@example.org> ORCPT=rfc822;old+3Dx@example.org\r\n");
    to.orcpt = "";
    assert_string_equal(rcpt(&a, everything, &to), "RCPT TO:<a+b@example.org>\r\n");
    to.notify = NOTIFY_NEVER;
    assert_string_equal(rcpt(&a, everything, &to), "RCPT TO:<a+b@example.org> NOTIFY=NEVER\r\n");
    to.notify = NOTIFY_FAILURE;
    to.orcpt = "utf-8;\xc3\xa4\\x{2B}\\x{5C}@example.org";
    assert_string_equal(rcpt(&a, everything, &to),
                        "RCPT TO:<a+b@example.org> NOTIFY=FAILURE ORCPT=utf-8;\xc3\xa4\\x{2B}\\x{5C}@example.org\r\n");
    a.flags = 0;
    assert_string_equal(rcpt(&a, everything, &to),
                        "RCPT TO:<a+b@example.org> NOTIFY=FAILURE ORCPT=utf-8;\\x{E4}\\x{2B}\\x{5C}@example.org\r\n");
    to.orcpt = "";
    to.address = "\xe2\x82\xac@example.org";
    assert_non_null(strstr(rcpt(&a, everything, &to), " ORCPT=utf-8;\\x{20AC}@example.org\r\n"));
    to.address = "x@example.org";
    to.notify = 0;
    a.reverse_path = "";
    a.flags = MESSAGE_DSN; /* a report about a report is for nobody */
    assert_string_equal(rcpt(&a, everything, &to), "RCPT TO:<x@example.org> NOTIFY=NEVER\r\n");
}

static void of_the_body(void **state)
{
    static const struct {
        uint32_t flags;
        unsigned caps;
        struct send_form form;
    } cases[] = {
        {0, CAP_8BITMIME, {.body = FORM_PLAIN}},
        {0, 0, {.body = FORM_PLAIN, .convert = FORM_TO_7BIT, .scan = true}},
        {MESSAGE_8BITMIME, CAP_8BITMIME, {.body = FORM_8BIT}},
        {0, CAP_8BITMIME | CAP_CHUNKING, {.body = FORM_PLAIN, .bdat = true}},
        {MESSAGE_8BITMIME, CAP_8BITMIME | CAP_CHUNKING, {.body = FORM_8BIT, .bdat = true}},
        {0, CAP_CHUNKING, {.body = FORM_PLAIN, .convert = FORM_TO_7BIT, .scan = true}},
        {MESSAGE_8BITMIME, CAP_SIZE, {.body = FORM_PLAIN, .convert = FORM_TO_7BIT, .scan = true}},
        {MESSAGE_BINARYMIME, CAP_8BITMIME | CAP_CHUNKING | CAP_BINARYMIME, {.body = FORM_BINARY, .bdat = true}},
        {MESSAGE_BINARYMIME, CAP_8BITMIME | CAP_BINARYMIME, {.body = FORM_8BIT, .convert = FORM_TO_8BIT, .scan = true}},
        {MESSAGE_BINARYMIME, CAP_8BITMIME | CAP_CHUNKING, {.body = FORM_8BIT, .convert = FORM_TO_8BIT, .scan = true}},
        {MESSAGE_BINARYMIME, CAP_CHUNKING, {.body = FORM_PLAIN, .convert = FORM_TO_7BIT, .scan = true}},
        {MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME, CAP_8BITMIME | CAP_SMTPUTF8, {.body = FORM_8BIT, .utf8 = true}},
        {MESSAGE_SMTPUTF8 | MESSAGE_8BITMIME, CAP_8BITMIME, {.body = FORM_8BIT, .ascii_only = true, .scan = true}},
        {MESSAGE_SMTPUTF8, CAP_SMTPUTF8, {.convert = FORM_TO_7BIT, .ascii_only = true, .scan = true}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct smtp_capabilities can = {.flags = cases[i].caps};
        struct send_form f = form_choose(cases[i].flags, &can);
        assert_int_equal(f.body, cases[i].form.body);
        assert_int_equal(f.convert, cases[i].form.convert);
        assert_int_equal(f.scan, cases[i].form.scan);
        assert_int_equal(f.bdat, cases[i].form.bdat);
        assert_int_equal(f.utf8, cases[i].form.utf8);
        assert_int_equal(f.ascii_only, cases[i].form.ascii_only);
    }
}

static void in_time(void **state)
{
    struct smtp_capabilities can = {.flags = CAP_DELIVERBY, .deliver_by_min = 100}, without = {0};
    (void)state;
    assert_null(form_deliver_by_refusal(MAILRAFT__DELIVER_BY__DELIVER_BY_NONE, -1, false, &without));
    assert_null(form_deliver_by_refusal(MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY, -1, false, &without));
    assert_null(form_deliver_by_refusal(MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN, 100, false, &can));
    assert_non_null(form_deliver_by_refusal(MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN, 99, false, &can));
    assert_non_null(form_deliver_by_refusal(MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN, 100, false, &without));
    assert_null(form_deliver_by_refusal(MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN, 1, true, &without));
    assert_non_null(form_deliver_by_refusal(MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN, 0, true, &without));
}

static void assert_ascii(const char *address, const char *wanted)
{
    char *got = form_ascii_address(address);
    if (wanted == NULL)
        assert_null(got);
    else
        assert_string_equal(got, wanted);
    free(got);
}

static void addresses(void **state)
{
    (void)state;
    assert_ascii("", "");
    assert_ascii("a@example.org", "a@example.org");
    assert_ascii("a@b\xc3\xbc"
                 "cher.example",
                 "a@xn--bcher-kva.example");
    assert_ascii("\"x@y\"@b\xc3\xbc"
                 "cher.example",
                 "\"x@y\"@xn--bcher-kva.example");
    assert_ascii("\xc3\xbc@example.org", NULL);
    assert_ascii("\xc3\xbc", NULL);
    assert_ascii("a@\xff\xfe", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_mail), cmocka_unit_test(of_rcpt),   cmocka_unit_test(of_the_body),
        cmocka_unit_test(in_time), cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
