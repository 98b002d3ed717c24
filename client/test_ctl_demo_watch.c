/* Files that grow, and the times that follow from them. */
#include "client/ctl_demo_watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void count_line(void *arg, const json_t *line)
{
    int *sum = arg;
    *sum += (int)json_integer_value(json_object_get(line, "n"));
}

static void growing_file(void **state)
{
    char dir[] = "/tmp/mailraft-watch-XXXXXX";
    char path[64];
    int sum = 0;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/log", dir);
    struct tail t = {.path = path};
    tail_read(&t, count_line, &sum); /* not there yet */
    FILE *out = fopen(path, "we");
    assert_non_null(out);
    tail_read(&t, count_line, &sum);
    (void)fputs("{\"n\":1}\n{\"n\":2", out);
    (void)fflush(out);
    tail_read(&t, count_line, &sum);
    assert_int_equal(sum, 1);
    (void)fputs("0}\nno json\n[5]\n{\"n\":300}\n", out);
    (void)fflush(out);
    tail_read(&t, count_line, &sum);
    assert_int_equal(sum, 321);
    for (int i = 0; i <= TAIL_LINE_MAX; i++) /* too long to be kept: passed over whole */
        (void)fputc('x', out);
    (void)fputs("\n{\"n\":4000}\n", out);
    (void)fflush(out);
    tail_read(&t, count_line, &sum);
    assert_int_equal(sum, 4321);
    tail_read(&t, count_line, &sum);
    assert_int_equal(sum, 4321);
    tail_close(&t);
    (void)fclose(out);
    (void)unlink(path);
    (void)rmdir(dir);
}

static void check_silence(const double *at, size_t n, double killed, double expected)
{
    struct moments m = {0};
    double after = -1;

    for (size_t i = 0; i < n; i++)
        moments_add(&m, at[i]);
    bool found = silence_ended(&m, killed, &after);
    moments_free(&m);
    assert_true(found == (expected >= 0));
    if (found)
        assert_true(after - expected < 1e-9 && expected - after < 1e-9);
}

static void silence(void **state)
{
    (void)state;
    const double usual[] = {100.0, 100.1, 101.3, 101.4, 101.5};
    check_silence(usual, 5, 100.2, 1.1);
    const double straggler[] = {100.0, 100.25, 101.5, 101.6}; /* one 250 that was under way at the kill */
    check_silence(straggler, 4, 100.2, 1.3);
    const double mixed[] = {101.6, 100.0, 101.5, 100.25};
    check_silence(mixed, 4, 100.2, 1.3);
    const double before[] = {90.0, 99.0, 100.0}; /* nothing came after it */
    check_silence(before, 3, 100.2, -1);
    const double none_before[] = {103.0, 103.1};
    check_silence(none_before, 2, 100.0, 3.0);
    const double late[] = {99.9, 100.4, 100.5, 116.0, 140.0}; /* the pause at 116 is none of the kill's */
    check_silence(late, 5, 100.0, 16.0);
    const double later[] = {99.9, 100.4, 115.5, 140.0};
    check_silence(later, 4, 100.0, 15.5);
    check_silence(NULL, 0, 100.0, -1);
}

static void times(void **state)
{
    (void)state;
    assert_true(unix_seconds("1970-01-01T00:00:01Z") == 1);
    double t = unix_seconds("2026-03-01T12:00:00.125Z");
    assert_true(t == 1772366400.125);
    assert_true(unix_seconds("2026-03-01 12:00:00") < 0);
    assert_true(unix_seconds("2026-03-01T12:00:00.1") < 0);
    assert_true(unix_seconds("") < 0);
    assert_true(unix_seconds(NULL) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(growing_file), cmocka_unit_test(silence),
                                       cmocka_unit_test(times)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
