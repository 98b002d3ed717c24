/* Conversions of messages as programs write them and as none should; each cut at every place, fed octet by octet. */
#include "node/mail/mime_convert.h"
#include "node/mail/mime_walk.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct text {
    char *at;
    size_t len;
};

static void collect(void *arg, const char *data, size_t len)
{
    struct text *t = arg;
    t->at = mr_realloc(t->at, t->len + len + 1);
    if (len > 0)
        memcpy(t->at + t->len, data, len);
    t->len += len;
    t->at[t->len] = 0;
}

static struct mime_plan *plan;

static struct mime_found scan(enum mime_target target, const char *message, size_t len, size_t step)
{
    struct mime_scan *s = mime_scan_open(target);
    for (size_t at = 0; at < len; at += step)
        mime_scan_feed(s, message + at, len - at < step ? len - at : step);
    return mime_scan_end(s, &plan);
}

/* The converted message; it is the same for every cut. free it. */
static char *convert_octets(enum mime_target target, const char *message, size_t len)
{
    static const size_t steps[] = {1, 2, 3, 7, 64, 1 << 20};
    char *result = NULL;
    size_t result_len = 0;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct mime_found found = scan(target, message, len, steps[i]);
        if (found.why_not != NULL)
            fail_msg("cannot be converted: %s", found.why_not);
        assert_true(found.convert);
        struct text t = {0};
        struct mime_convert *c = mime_convert_open(plan, collect, &t);
        for (size_t at = 0; at < len; at += steps[i])
            mime_convert_feed(c, message + at, len - at < steps[i] ? len - at : steps[i]);
        assert_int_equal(mime_convert_end(c), 0);
        mime_plan_free(plan);
        if (result != NULL) {
            assert_int_equal(t.len, result_len);
            assert_memory_equal(t.at, result, t.len);
            free(t.at);
        } else {
            result = t.at;
            result_len = t.len;
        }
    }
    return result;
}

static void assert_converts(enum mime_target target, const char *message, const char *wanted)
{
    char *result = convert_octets(target, message, strlen(message));
    assert_string_equal(result, wanted);
    free(result);
}

static struct mime_found found_in(enum mime_target target, const char *message)
{
    struct mime_found found = scan(target, message, strlen(message), 5);
    mime_plan_free(plan);
    return found;
}

#define TO_7BIT MIME_TARGET_7BIT
#define TO_8BIT MIME_TARGET_8BIT

/* ---- leaves ---- */

static void text_becomes_quoted(void **state)
{
    (void)state;
    assert_converts(TO_7BIT,
                    "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
                    "Content-Transfer-Encoding: 8bit\r\nTo: y\r\n\r\nGr\xc3\xbc\xc3\x9f"
                    "e = 1 \r\n\ttab\t\r\n.\r\n",
                    "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\nTo: y\r\n\r\nGr=C3=BC=C3=9Fe =3D 1=20\r\n"
                    "\ttab=09\r\n.\r\n");
}

static void without_any_field(void **state)
{
    (void)state;
    assert_converts(TO_7BIT, "Subject: x\r\n\r\nna\xefve",
                    "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\nna=EFve");
    assert_converts(TO_7BIT, "\r\nna\xefve\r\n",
                    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\nna=EFve\r\n");
}

static void others_become_base64(void **state)
{
    (void)state;
    assert_converts(TO_7BIT,
                    "MIME-Version: 1.0\r\ncontent-transfer-encoding:\r\n 8bit\r\nContent-Type: image/x\r\n\r\n"
                    "\xff\x01\r\nab",
                    "MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\nContent-Type: image/x\r\n\r\n"
                    "/wENCmFi");
}

static void long_lines_are_broken(void **state)
{
    char message[6000] = "MIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n";
    size_t head = strlen(message);
    (void)state;
    memset(message + head, 'a', 5000);
    message[head + 2500] = '\xe4';
    char *result = convert_octets(TO_7BIT, message, head + 5000);
    for (const char *line = result; line != NULL;) {
        const char *end = strstr(line, "\r\n");
        assert_true((end == NULL ? strlen(line) : (size_t)(end - line)) <= 76);
        line = end == NULL ? NULL : end + 2;
    }
    assert_non_null(strstr(result, "=E4"));
    free(result);
}

/* Where a line is broken, its rest must not become a delimiter. */
static void no_delimiter_by_a_break(void **state)
{
    static const char dots[] = "...........................................................................";
    char message[400], wanted[600];
    (void)state;
    assert_int_equal(strlen(dots), 75);
    (void)snprintf(message, sizeof(message),
                   "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\xe4\r\n%s--b\r\n--b--\r\n", dots);
    (void)snprintf(wanted, sizeof(wanted),
                   "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
                   "Content-Type: text/plain; charset=unknown-8bit\r\n"
                   "Content-Transfer-Encoding: quoted-printable\r\n\r\n=E4\r\n%s=\r\n=2D-b\r\n--b--\r\n",
                   dots);
    assert_converts(TO_7BIT, message, wanted);
}

/* Nor must what stands for an octet: boundaries may have "=", "?" and, as they are written, "*". */
static void no_delimiter_by_a_replacement(void **state)
{
    (void)state;
    assert_converts(TO_7BIT,
                    "Content-Type: multipart/mixed; boundary=\"=E2b\"\r\n\r\n--=E2b\r\n\r\n--\xe2"
                    "b\r\n\r\n-- \r\n--=E2b--\r\n",
                    "Content-Type: multipart/mixed; boundary=\"=E2b\"\r\n\r\n--=E2b\r\n"
                    "Content-Type: text/plain; charset=unknown-8bit\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n=2D-=E2b\r\n\r\n=2D-=20\r\n--=E2b--\r\n");
    assert_converts(TO_7BIT,
                    "Content-Type: multipart/mixed; boundary=\"=E2b\"\r\n\r\n--=E2b\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n--\xe2"
                    "b\r\n--c\r\n--=E2b--\r\n",
                    "Content-Type: multipart/mixed; boundary=\"=E2b\"\r\n\r\n--=E2b\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n=2D-=E2b\r\n--c\r\n--=E2b--\r\n");
    assert_converts(TO_7BIT,
                    "Content-Type: multipart/mixed; boundary=*\r\n\r\n--*\r\n"
                    "Content-Transfer-Encoding: base64\r\n\r\n--\xe2\r\nYWJj\r\n--*--\r\n",
                    "Content-Type: multipart/mixed; boundary=*\r\n\r\n--*\r\n"
                    "Content-Transfer-Encoding: base64\r\n\r\n*-*\r\nYWJj\r\n--*--\r\n");
    assert_converts(TO_7BIT,
                    "Content-Type: multipart/mixed; boundary=?\r\n\r\n--\xe2 \r\n-\xe2\r\n--?\r\n\r\na\r\n"
                    "--?--\r\n--\xe2\r\n",
                    "Content-Type: multipart/mixed; boundary=?\r\n\r\n?-? \r\n??\r\n--?\r\n\r\na\r\n"
                    "--?--\r\n?-?\r\n");
}

static void only_labelled(void **state)
{
    (void)state;
    assert_false(found_in(TO_7BIT, "Content-Transfer-Encoding: 8bit\r\n\r\nall ascii\r\n").convert);
    assert_false(found_in(TO_8BIT, "Content-Transfer-Encoding: binary\r\n\r\nall \xff lines\r\n").convert);
    assert_false(found_in(TO_8BIT, "Content-Transfer-Encoding: 8bit\r\n\r\n\xff\r\n").convert);
    struct mime_found found = found_in(TO_7BIT, "Subject: \xc3\xa4\r\n\r\nall ascii\r\n");
    assert_true(found.eight_bit_header && !found.convert && !found.eight_bit);
    found = found_in(TO_7BIT, "Subject: a\r\n\r\n\xc3\xa4\r\n");
    assert_true(!found.eight_bit_header && found.convert && found.eight_bit);
}

static void broken_encodings_are_mended(void **state)
{
    (void)state;
    assert_converts(TO_7BIT, "Content-Transfer-Encoding: quoted-printable\r\n\r\na=3D\xe4=\r\nb\r\n",
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\na=3D=E4=\r\nb\r\n");
    assert_converts(TO_7BIT, "Content-Transfer-Encoding: base64\r\n\r\nYW\xe4Jj\r\n",
                    "Content-Transfer-Encoding: base64\r\n\r\nYW*Jj\r\n");
    /* What stands before a delimiter's text keeps it from being one. */
    assert_converts(TO_7BIT,
                    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
                    "Content-Transfer-Encoding: base64\r\n\r\nYW\xe4\r\n\x11--b\r\n--b--\r\n",
                    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
                    "Content-Transfer-Encoding: base64\r\n\r\nYW*\r\n*--b\r\n--b--\r\n");
}

static void binary(void **state)
{
    static const char text[] = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\nContent-Type: text/plain"
                               "\r\n\r\na\nb\rc\0d\xe4\r\n";
    (void)state;
    for (int target = 0; target < 2; target++) {
        char *result = convert_octets(target == 0 ? TO_7BIT : TO_8BIT, text, sizeof(text) - 1);
        assert_string_equal(result, "MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n"
                                    "Content-Type: text/plain\r\n\r\na=0Ab=0Dc=00d=E4\r\n");
        free(result);
    }
}

/* ---- structure ---- */

static void multiparts(void **state)
{
    (void)state;
    assert_converts(TO_7BIT,
                    "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"a b\"\r\n"
                    "Content-Transfer-Encoding: 8bit\r\n\r\n"
                    "pr\xe4"
                    "amble\r\n--a b\r\nContent-Type: multipart/alternative; boundary=(c)in\r\n\r\n"
                    "--in\r\n\r\nplain\r\n--inner\r\n--in\r\nContent-Type: text/html\r\n\r\n\xe4\r\n\r\n--in--\r\n"
                    "--a b  \r\nContent-Type: application/x\r\n\r\n\xff--a b\r\n--a b-- \r\nepil\xf6g\r\n",
                    "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"a b\"\r\n"
                    "Content-Transfer-Encoding: 7bit\r\n\r\n"
                    "pr?amble\r\n--a b\r\nContent-Type: multipart/alternative; boundary=(c)in\r\n\r\n"
                    "--in\r\n\r\nplain\r\n--inner\r\n--in\r\nContent-Type: text/html\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n=E4\r\n\r\n--in--\r\n"
                    "--a b  \r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\n"
                    "/y0tYSBi\r\n--a b-- \r\nepil?g\r\n");
}

static void messages_in_messages(void **state)
{
    (void)state;
    assert_converts(TO_7BIT,
                    "Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\nSubject: one\r\n\r\n\xe4\r\n--d\r\n"
                    "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
                    "MIME-Version: 1.0\r\nSubject: two\r\n\r\n\xf6\r\n--d--\r\n",
                    "Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\nSubject: one\r\n"
                    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n=E4\r\n--d\r\n"
                    "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
                    "MIME-Version: 1.0\r\nSubject: two\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n=F6\r\n--d--\r\n");
}

static void parts_cut_short(void **state)
{
    (void)state;
    /* a part without a body, one that is empty, no end */
    assert_converts(TO_7BIT,
                    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n--b\r\n\r\n"
                    "--b\r\n\r\n\xe4",
                    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n--b\r\n\r\n"
                    "--b\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
                    "Content-Transfer-Encoding: quoted-printable\r\n\r\n=E4");
}

static void impossible(void **state)
{
    static const char *const messages[] = {
        "Content-Type: message/partial; id=x\r\n\r\n\xe4\r\n",
        "Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\n\xe4\r\n",
        "Content-Transfer-Encoding: x-uuencode\r\n\r\n\xe4\r\n",
        "Subject: x\r\nno field\r\n\r\n\xe4\r\n",
        " starts with a continuation\r\n\r\n\xe4\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        struct mime_found found = found_in(TO_7BIT, messages[i]);
        assert_true(found.convert);
        assert_non_null(found.why_not);
        char clean[200]; /* without the octet it goes as it is, broken or not */
        (void)snprintf(clean, sizeof(clean), "%s", messages[i]);
        *strchr(clean, '\xe4') = 'a';
        found = found_in(TO_7BIT, clean);
        assert_true(!found.convert && found.why_not == NULL);
    }
}

/* What costs memory or time elsewhere has a limit here. */
static void limits(void **state)
{
    struct text t = {0};
    (void)state;
    for (int i = 0; i < MIME_MAX_DEPTH + 1; i++) {
        char part[128];
        int n = snprintf(part, sizeof(part), "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i);
        collect(&t, part, (size_t)n);
    }
    collect(&t, "\r\n\xe4\r\n", 5);
    struct mime_found found = found_in(TO_7BIT, t.at);
    assert_true(found.convert && found.why_not != NULL);
    t.len = 0;
    collect(&t, "Content-Type: multipart/mixed; boundary=b\r\n\r\n", 45);
    for (int i = 0; i < MIME_MAX_PARTS + 1; i++)
        collect(&t, "--b\r\n\r\n\xe4\r\n", 10);
    found = found_in(TO_7BIT, t.at);
    assert_true(found.convert && found.why_not != NULL);
    t.len = 0;
    collect(&t, "Content-Type: text/plain;\r\n", 27);
    for (int i = 0; i < 1000; i++)
        collect(&t, " x=\"01234567890123456789\";\r\n", 28);
    collect(&t, "\r\n\xe4\r\n", 5);
    found = found_in(TO_7BIT, t.at);
    assert_true(found.convert && found.why_not != NULL);
    t.len = 0;
    collect(&t, "Subject: ", 9); /* other fields may be of any length */
    for (int i = 0; i < 10000; i++)
        collect(&t, "0123456789", 10);
    collect(&t, "\r\n\r\n\xe4\r\n", 7);
    found = found_in(TO_7BIT, t.at);
    assert_true(found.convert && found.why_not == NULL);
    free(t.at);
}

static void given_up(void **state)
{
    (void)state;
    struct mime_scan *s = mime_scan_open(TO_7BIT);
    mime_scan_feed(s, "a", 1);
    mime_scan_abort(s);
    mime_scan_abort(NULL);
    (void)scan(TO_7BIT, "\r\n\xe4", 3, 1);
    struct text t = {0};
    struct mime_convert *c = mime_convert_open(plan, collect, &t);
    mime_convert_feed(c, "\r\nx", 3);
    mime_convert_abort(c);
    mime_plan_free(plan);
    mime_plan_free(NULL);
    free(t.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_becomes_quoted),
        cmocka_unit_test(without_any_field),
        cmocka_unit_test(others_become_base64),
        cmocka_unit_test(long_lines_are_broken),
        cmocka_unit_test(no_delimiter_by_a_break),
        cmocka_unit_test(no_delimiter_by_a_replacement),
        cmocka_unit_test(only_labelled),
        cmocka_unit_test(broken_encodings_are_mended),
        cmocka_unit_test(binary),
        cmocka_unit_test(multiparts),
        cmocka_unit_test(messages_in_messages),
        cmocka_unit_test(parts_cut_short),
        cmocka_unit_test(impossible),
        cmocka_unit_test(limits),
        cmocka_unit_test(given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
