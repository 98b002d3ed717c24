/* ctl_password.c: its lines verify with the libraries that read them. */
#include "client/ctl_password.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <crypt.h>
#include <gsasl.h>

static int lines_of(const char *user, const char *password, char **text)
{
    char error[256];
    size_t len;
    FILE *out = open_memstream(text, &len);
    int rc = ctl_password_lines(out, user, password, error, sizeof(error));

    assert_int_equal(fclose(out), 0);
    if (rc != 0)
        assert_true(strlen(error) > 10);
    return rc;
}

static void check_scram(char *text, const char *password)
{
    char salted[32], client[32], server[32], stored[32], *raw, *made;
    char *save, *salt, *stored64, *server64;
    size_t n;
    unsigned iterations = (unsigned)strtoul(strtok_r(text, ",", &save), NULL, 10);

    salt = strtok_r(NULL, ",", &save);
    stored64 = strtok_r(NULL, ",", &save);
    server64 = strtok_r(NULL, ",\n", &save);
    assert_int_equal(gsasl_base64_from(salt, strlen(salt), &raw, &n), GSASL_OK);
    assert_int_equal(gsasl_scram_secrets_from_password(GSASL_HASH_SHA256, password, iterations, raw, n, salted, client,
                                                       server, stored),
                     GSASL_OK);
    gsasl_free(raw);
    assert_int_equal(gsasl_base64_to(stored, 32, &made, NULL), GSASL_OK);
    assert_string_equal(made, stored64);
    gsasl_free(made);
    assert_int_equal(gsasl_base64_to(server, 32, &made, NULL), GSASL_OK);
    assert_string_equal(made, server64);
    gsasl_free(made);
}

static void test_lines(void **state)
{
    struct crypt_data data = {0};
    char *text, *hash, *scram;

    (void)state;
    assert_int_equal(lines_of("alice@example.net", "correct horse", &text), 0);
    assert_memory_equal(text, "alice@example.net:$y$", 21);
    hash = strchr(text, ':') + 1;
    scram = strchr(hash, '\n');
    *scram++ = '\0';
    assert_string_equal(crypt_r("correct horse", hash, &data), hash);
    assert_memory_equal(scram, "alice@example.net:{SCRAM-SHA-256}", 33);
    check_scram(scram + 33, "correct horse");
    free(text);
}

/* Two ways to type the same letter are one password, and one name. */
static void test_prepared(void **state)
{
    struct crypt_data data = {0};
    char *text, *hash;

    (void)state;
    assert_int_equal(lines_of("re\xcc\x81n\xc3\xa9", "caf\x65\xcc\x81", &text), 0);
    assert_memory_equal(text, "r\xc3\xa9n\xc3\xa9:$y$", 10);
    hash = strchr(text, ':') + 1;
    *strchr(hash, '\n') = '\0';
    assert_string_equal(crypt_r("caf\xc3\xa9", hash, &data), hash);
    free(text);
}

static void test_refused(void **state)
{
    static const char *const users[] = {"", "a:b", "#a", "\xff", "a\nb"};
    char *text;

    (void)state;
    for (size_t i = 0; i < sizeof(users) / sizeof(users[0]); i++) {
        assert_int_equal(lines_of(users[i], "x", &text), MR_INVAL);
        assert_string_equal(text, "");
        free(text);
    }
    assert_int_equal(lines_of("a", "", &text), MR_INVAL);
    free(text);
    assert_int_equal(lines_of("a", "b\tc", &text), MR_INVAL);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_prepared),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
