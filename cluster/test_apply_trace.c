/* The trace says what was applied, life after life, and its own failures stop nothing. */
#include "cluster/apply_trace.h"
#include "cluster/state_testing.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void hex(const uint8_t *hash, char text[33])
{
    for (unsigned i = 0; i < 16; i++)
        (void)snprintf(text + (size_t)2 * i, 3, "%02x", hash[i]);
}

static void hash_of_state(const struct state *s, char text[33])
{
    uint8_t hash[16];
    state_hash(s, hash);
    hex(hash, text);
}

static size_t entry(uint64_t term, uint8_t *out)
{
    Mailraft__Batch batch = MAILRAFT__BATCH__INIT;
    batch.term = term;
    batch.stamp_ms = 1000;
    return mailraft__batch__pack(&batch, out);
}

static void read_file(const char *file, char *text, size_t size)
{
    FILE *f = fopen(file, "r");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = 0;
    (void)fclose(f);
}

static void lines_of_two_lives(void **arg)
{
    char file[] = "/tmp/test-apply-trace-XXXXXX", empty[33], bytes[33], expected[2048], got[2048];
    struct apply_trace *t;
    struct state *s = state_open(&(struct state_observer){0});
    uint8_t data[64];
    size_t len = entry(7, data);
    XXH128_canonical_t canonical;
    (void)arg;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, len));
    hex(canonical.digest, bytes);
    hash_of_state(s, empty);
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    (void)close(fd);

    assert_int_equal(apply_trace_open(&t, file, 10), 0);
    apply_trace_entry(t, 9, data, len);
    apply_trace_doubt(t, "in_doubt", test_id(1), 2, 3, 4);
    apply_trace_applied(t, 9, s); /* 10 does not divide it */
    apply_trace_entry(t, 10, data, len);
    apply_trace_applied(t, 10, s);
    apply_trace_close(t, s);
    assert_int_equal(apply_trace_open(&t, file, 1000), 0);
    apply_trace_restored(t, 20, s);
    apply_trace_close(t, s);

    char id[MR_ID_TEXT + 1];
    (void)snprintf(expected, sizeof(expected),
                   "O 10\nE 9 7 %s\nD 9 in_doubt %s 2 3 4\nE 10 7 %s\nS 10 %s\nS 10 %s\nO 1000\nR 20 %s\nS 20 %s\n",
                   bytes, mr_id_format(test_id(1), id), bytes, empty, empty, empty, empty);
    read_file(file, got, sizeof(got));
    assert_string_equal(got, expected);
    (void)unlink(file);
    state_close(s);
}

/* What a life without an entry leaves is its first line: no state is claimed for an index that was never reached. */
static void a_life_without_entries(void **arg)
{
    char file[] = "/tmp/test-apply-trace-XXXXXX", got[256];
    struct apply_trace *t;
    struct state *s = state_open(&(struct state_observer){0});
    (void)arg;
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(apply_trace_open(&t, file, 1), 0);
    apply_trace_close(t, s);
    read_file(file, got, sizeof(got));
    assert_string_equal(got, "O 1\n");
    (void)unlink(file);
    state_close(s);
}

static void failures_stop_nothing(void **arg)
{
    struct apply_trace *t;
    struct state *s = state_open(&(struct state_observer){0});
    uint8_t data[64];
    size_t len = entry(1, data);
    (void)arg;

    assert_int_equal(apply_trace_open(&t, "/nonexistent/trace", 1), MR_IO);
    assert_int_equal(apply_trace_open(&t, "/dev/full", 1), 0);
    apply_trace_entry(t, 1, data, len);
    apply_trace_applied(t, 1, s);
    apply_trace_close(t, s);
    /* An entry that does not decode has its line too: the process stops after it. */
    assert_int_equal(apply_trace_open(&t, "/dev/null", 1), 0);
    apply_trace_entry(t, 1, (const uint8_t *)"\xff\xff\xff", 3);
    apply_trace_close(t, s);
    /* Off. */
    apply_trace_entry(NULL, 1, data, len);
    apply_trace_applied(NULL, 1, s);
    apply_trace_restored(NULL, 1, s);
    apply_trace_doubt(NULL, "in_doubt", test_id(1), 0, 1, 1);
    apply_trace_close(NULL, s);
    state_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_of_two_lives),
        cmocka_unit_test(a_life_without_entries),
        cmocka_unit_test(failures_stop_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
