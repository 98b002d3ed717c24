/* Numbers, durations and sizes: what is of their form, what is not, and where they end. */
#include "node/config/config_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

typedef bool (*parser)(const char *text, uint64_t *out);

static void takes(parser parse, const char *text, uint64_t value)
{
    uint64_t out = ~value;

    if (!parse(text, &out))
        fail_msg("\"%s\" is not taken", text);
    assert_int_equal(out, value);
}

static void refuses(parser parse, const char *const *texts)
{
    uint64_t out;

    for (; *texts != NULL; texts++)
        if (parse(*texts, &out))
            fail_msg("\"%s\" is taken", *texts);
}

static void numbers(void **state)
{
    static const char *const wrong[] = {"", " 1", "1 ", "+1", "-1", "0x10", "1.5", "one", "18446744073709551616", NULL};

    (void)state;
    takes(config_parse_number, "0", 0);
    takes(config_parse_number, "007", 7);
    takes(config_parse_number, "18446744073709551615", UINT64_MAX);
    refuses(config_parse_number, wrong);
}

static void durations(void **state)
{
    static const char *const wrong[] = {
        "", "5", "s", "-1s", " 1s", "1s ", "1 s", "1y", "1h5m", "1.5h", "1S", "13032w1s", "1125899906842624ms", NULL};

    (void)state;
    takes(config_parse_duration, "0", 0);
    takes(config_parse_duration, "0s", 0);
    takes(config_parse_duration, "100ms", 100);
    takes(config_parse_duration, "90s", 90000);
    takes(config_parse_duration, "5m", 300000);
    takes(config_parse_duration, "4h", 14400000);
    takes(config_parse_duration, "5d", 432000000);
    takes(config_parse_duration, "2w", 1209600000);
    takes(config_parse_duration, "1125899906842623ms", (1ULL << 50) - 1);
    refuses(config_parse_duration, wrong);
}

/* A product that leaves 64 bits is not a small one. */
static void sizes(void **state)
{
    static const char *const wrong[] = {
        "", "B", "-1", "1 KiB", "1kib", "1TiB", "1.5M", "1048576G", "1125899906842624", "17179869184GiB", NULL};

    (void)state;
    takes(config_parse_size, "0", 0);
    takes(config_parse_size, "1000", 1000);
    takes(config_parse_size, "7B", 7);
    takes(config_parse_size, "10KiB", 10240);
    takes(config_parse_size, "50MiB", 52428800);
    takes(config_parse_size, "3GiB", 3221225472);
    takes(config_parse_size, "1K", 1024);
    takes(config_parse_size, "1M", 1048576);
    takes(config_parse_size, "1G", 1073741824);
    takes(config_parse_size, "1kB", 1000);
    takes(config_parse_size, "1MB", 1000000);
    takes(config_parse_size, "1GB", 1000000000);
    takes(config_parse_size, "1125899906842623", (1ULL << 50) - 1);
    refuses(config_parse_size, wrong);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
