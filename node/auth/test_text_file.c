/* What text_file.h promises: whose files are read, and which line a complaint names. */
#include "node/auth/text_file.h"
#include "proto/base/error.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void test_rights(void **state)
{
    static const struct {
        mode_t mode;
        bool plain, secret; /* may be read */
    } cases[] = {
        {0600, true, true}, {0640, true, true}, {0644, true, false}, {0660, false, false}, {0602, false, false}};
    char path[] = "/tmp/mailraft-text-XXXXXX", error[256];
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "one\ntwo", 7), 7);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(fchmod(fd, cases[i].mode), 0);
        for (int secret = 0; secret < 2; secret++) {
            char *text;
            size_t len;
            bool may = secret ? cases[i].secret : cases[i].plain;

            assert_int_equal(text_file_read(path, secret, &text, &len, error, sizeof(error)), may ? 0 : MR_CONFIG);
            if (!may) {
                assert_non_null(strstr(error, "chmod"));
                continue;
            }
            assert_int_equal(len, 7);
            assert_string_equal(text, "one\ntwo");
            free(text);
        }
    }
    assert_int_equal(close(fd), 0);
    assert_int_equal(unlink(path), 0);
}

static void test_no_file(void **state)
{
    char *text, error[256];
    size_t len;

    (void)state;
    assert_int_equal(text_file_read("/nowhere/file", false, &text, &len, error, sizeof(error)), MR_IO);
    assert_string_equal(error, "/nowhere/file: No such file or directory");
    assert_int_equal(text_file_read("/tmp", false, &text, &len, error, sizeof(error)), MR_CONFIG);
    assert_string_equal(error, "/tmp: not a file");
}

enum { SEEN = 64 };

static const char *collect(void *arg, char *line)
{
    char *seen = arg;
    size_t used = strlen(seen);

    (void)snprintf(seen + used, SEEN - used, "%s|", line);
    return strcmp(line, "bad") == 0 ? "is bad" : NULL;
}

static void test_lines(void **state)
{
    static const struct {
        const char *text, *seen;
        int rc;
    } cases[] = {
        {"", "", 0}, {"\n", "|", 0}, {"a", "a|", 0}, {"a\n\nb\n", "a||b|", 0}, {"a\nbad\nc\n", "a|bad|", MR_CONFIG},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[32], seen[SEEN] = "", error[64] = "";

        (void)snprintf(text, sizeof(text), "%s", cases[i].text);
        assert_int_equal(text_file_lines("f", text, strlen(text), collect, seen, error, sizeof(error)), cases[i].rc);
        assert_string_equal(seen, cases[i].seen);
        assert_string_equal(error, cases[i].rc == 0 ? "" : "f:2: is bad");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rights),
        cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
