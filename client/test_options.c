/* Values of the command line, and the file that is replaced as a whole. */
#include "client/options.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void numbers(void **state)
{
    static const char *const wrong[] = {"", "-1", "+1", " 1", "1 ", "0x1", "1e3", "101", "99999999999999999999"};
    uint64_t n = 0;

    (void)state;
    assert_int_equal(options_number("100", 0, 100, &n), 0);
    assert_int_equal(n, 100);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(options_number(wrong[i], 0, 100, &n), MR_INVAL);
    assert_int_equal(options_number("1", 2, 100, &n), MR_INVAL);
}

static void sizes(void **state)
{
    uint64_t n = 0;

    (void)state;
    assert_int_equal(options_size("4KiB", 0, UINT64_MAX, &n), 0);
    assert_int_equal(n, 4096);
    assert_int_equal(options_size("3GiB", 0, UINT64_MAX, &n), 0);
    assert_int_equal(n, UINT64_C(3) << 30);
    assert_int_equal(options_size("17", 0, UINT64_MAX, &n), 0);
    assert_int_equal(n, 17);
    assert_int_equal(options_size("KiB", 0, UINT64_MAX, &n), MR_INVAL);
    assert_int_equal(options_size("4kb", 0, UINT64_MAX, &n), MR_INVAL);
    assert_int_equal(options_size("99999999999GiB", 0, UINT64_MAX, &n), MR_INVAL);
    assert_int_equal(options_size("2MiB", 0, 1000000, &n), MR_INVAL);
}

static void reals(void **state)
{
    double x = 0;

    (void)state;
    assert_int_equal(options_real("0.5", 0, 1, &x), 0);
    assert_true(x == 0.5);
    assert_int_equal(options_real("1.1", 0, 1, &x), MR_INVAL);
    assert_int_equal(options_real("1.1.1", 0, 2, &x), MR_INVAL);
    assert_int_equal(options_real("nan", 0, 2, &x), MR_INVAL);
    assert_int_equal(options_real("", 0, 2, &x), MR_INVAL);
    assert_int_equal(options_real(".", 0, 2, &x), MR_INVAL);
}

static void file_is_replaced(void **state)
{
    char dir[] = "/tmp/mailraft-options-XXXXXX";
    char path[64];
    char text[16] = "";

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/f", dir);
    assert_int_equal(options_replace_file(path, "old\n"), 0);
    assert_int_equal(options_replace_file(path, "new\n"), 0);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof(text), file));
    assert_string_equal(text, "new\n");
    (void)fclose(file);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); /* no temporary file stayed */
    assert_int_equal(options_replace_file(path, "x"), MR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),
        cmocka_unit_test(sizes),
        cmocka_unit_test(reals),
        cmocka_unit_test(file_is_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
