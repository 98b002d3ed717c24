#include "node/delivery/sts_policy.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void records(void **state)
{
    static const struct {
        const char *text, *id; /* NULL: malformed; "": not about STS */
    } cases[] = {
        {"v=STSv1; id=20260101T1;", "20260101T1"},
        {"v=STSv1;id=1", "1"},
        {"v=STSv1 ;\tid=abcDEF019 ; ", "abcDEF019"},
        {"v=STSv1; x=y; id=7; z=1 2 3", "7"},
        {"v=STSv1; id=12345678901234567890123456789012;", "12345678901234567890123456789012"},
        {"v=STSv1; id=123456789012345678901234567890123;", NULL},
        {"v=STSv1; id=;", NULL},
        {"v=STSv1; id=a-b;", NULL},
        {"v=STSv1; id=a; id=b;", NULL},
        {"v=STSv1;", NULL},
        {"v=STSv1; id", NULL},
        {"v=STSv1; ID=1", NULL},
        {"v=STSv1; =1; id=1", NULL},
        {"v=STSv1", ""},
        {"v=STSv2; id=1", ""},
        {"v=STSv10; id=1", ""},
        {"v=stsv1; id=1", ""},
        {" v=STSv1; id=1", ""},
        {"v=spf1 -all", ""},
        {"", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char id[STS_MAX_ID + 1];
        char *copy = mr_strdup(cases[i].text); /* of its exact size, for sanitizers */
        int rc = sts_read_record(copy, id);
        int want = cases[i].id == NULL ? MR_MALFORMED : cases[i].id[0] == 0 ? MR_NOTFOUND : 0;
        if (rc != want)
            fail_msg("\"%s\": %d", cases[i].text, rc);
        if (rc == 0)
            assert_string_equal(id, cases[i].id);
        free(copy);
    }
}

static int read_text(const char *text, struct sts_policy **out)
{
    size_t len = strlen(text);
    char *copy = len > 0 ? mr_memdup(text, len) : NULL;
    int rc = sts_read_policy(copy, len, out);
    free(copy);
    return rc;
}

static void whole_policies(void **state)
{
    struct sts_policy *p;
    (void)state;
    assert_int_equal(read_text("version: STSv1\r\nmode: enforce\r\nmx: mail.Example.com\r\nmx: *.example.net\r\n"
                               "mx: backupmx.example.com\r\nmax_age: 604800\r\n",
                               &p),
                     0);
    assert_int_equal(p->mode, STS_ENFORCE);
    assert_int_equal(p->n, 3);
    assert_int_equal(p->max_age_s, 604800);
    assert_string_equal(p->mx[0], "mail.example.com");
    sts_unref(p);
    /* LF alone, no last line end, fields of later versions, empty lines, other order, the first of two counts. */
    assert_int_equal(
        read_text("max_age:99999999\n\nmode:testing\nmode: enforce\nnew: thing: x\nmx: a.b\nversion:STSv1", &p), 0);
    assert_int_equal(p->mode, STS_TESTING);
    assert_int_equal(p->max_age_s, STS_MAX_AGE_S);
    sts_unref(p);
    assert_int_equal(read_text("version: STSv1\nmode: none\nmax_age: 0\n", &p), 0);
    assert_int_equal(p->mode, STS_NONE);
    sts_unref(p);
}

static void malformed_policies(void **state)
{
    static const char *const cases[] = {
        "",
        "version: STSv1\nmode: enforce\nmax_age: 1\n", /* no mx */
        "version: STSv1\nmode: enforce\nmx: a.b\n",    /* no max_age */
        "version: STSv1\nmx: a.b\nmax_age: 1\n",       /* no mode */
        "mode: enforce\nmx: a.b\nmax_age: 1\n",        /* no version */
        "version: STSv2\nmode: enforce\nmx: a.b\nmax_age: 1\n",
        "version: STSv1\nmode: Enforce\nmx: a.b\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx: a.b\nmax_age: -1\n",
        "version: STSv1\nmode: enforce\nmx: a.b\nmax_age: 1d\n",
        "version: STSv1\nmode: enforce\nmx: a.b\nmax_age:\n",
        "version: STSv1\nmode: enforce\nmx: a.*.b\nmax_age: 1\n", /* the star stands first or nowhere */
        "version: STSv1\nmode: enforce\nmx: *\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx: *.\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx: .b\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx: a..b\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx: a b\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx:\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx: a.b\nmax_age: 1\nwhat\n", /* no field at all */
        "<html><body>404 version: STSv1</body></html>",
    };
    struct sts_policy *p;
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (read_text(cases[i], &p) != MR_MALFORMED)
            fail_msg("taken: %s", cases[i]);
    char *much = mr_calloc(1, STS_MAX_POLICY + 1);
    memset(much, '\n', STS_MAX_POLICY + 1);
    assert_int_equal(sts_read_policy(much, STS_MAX_POLICY + 1, &p), MR_MALFORMED);
    size_t at = (size_t)sprintf(much, "version: STSv1\nmode: enforce\nmax_age: 1\n");
    for (unsigned i = 0; i <= STS_MAX_MX; i++)
        at += (size_t)sprintf(much + at, "mx: m%u.example.org\n", i);
    assert_int_equal(sts_read_policy(much, at, &p), MR_MALFORMED);
    free(much);
}

static void hosts(void **state)
{
    static const char *const mx[] = {"mail.example.com", "*.example.net"};
    struct sts_policy *p = sts_make_policy("1", STS_ENFORCE, 10, mx, 2);
    (void)state;
    assert_true(sts_matches(p, "mail.example.com"));
    assert_true(sts_matches(p, "MAIL.example.COM"));
    assert_false(sts_matches(p, "a.mail.example.com"));
    assert_false(sts_matches(p, "example.com"));
    assert_true(sts_matches(p, "a.example.net"));
    assert_false(sts_matches(p, "a.b.example.net")); /* one label only */
    assert_false(sts_matches(p, "example.net"));
    assert_false(sts_matches(p, ".example.net"));
    assert_false(sts_matches(p, ""));
    assert_false(sts_matches(p, "aexample.net"));
    sts_unref(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records),
        cmocka_unit_test(whole_policies),
        cmocka_unit_test(malformed_policies),
        cmocka_unit_test(hosts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
