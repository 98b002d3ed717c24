#include "proto/base/error.h"
#include "proto/base/id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void text_and_back(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) {
        struct mr_id id = i % 2 == 0 ? mr_id_random() : mr_id_at((uint64_t)i * 1000003), back;
        char text[MR_ID_TEXT + 1];
        assert_ptr_equal(mr_id_format(id, text), text);
        assert_int_equal(strlen(text), MR_ID_TEXT);
        assert_int_equal(mr_id_parse(text, MR_ID_TEXT, &back), 0);
        assert_true(mr_id_equal(id, back));
        for (char *c = text; *c != 0; c++)
            if (*c >= 'A' && *c <= 'Z')
                *c = (char)(*c - 'A' + 'a');
        assert_int_equal(mr_id_parse(text, MR_ID_TEXT, &back), 0);
        assert_true(mr_id_equal(id, back));
    }
}

static void known_texts(void **state)
{
    (void)state;
    struct mr_id id;
    char text[MR_ID_TEXT + 1];
    memset(&id, 0, sizeof(id));
    assert_true(mr_id_is_zero(id));
    assert_string_equal(mr_id_format(id, text), "00000000000000000000000000");
    id.bytes[15] = 33;
    assert_false(mr_id_is_zero(id));
    assert_string_equal(mr_id_format(id, text), "00000000000000000000000011");
    memset(&id, 0xff, sizeof(id));
    assert_string_equal(mr_id_format(id, text), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
}

static void the_text_sorts_as_the_id(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) {
        struct mr_id a = mr_id_random(), b = mr_id_random();
        if (i % 3 == 0) { /* nearly equal */
            b = a;
            b.bytes[i % MR_ID_SIZE] ^= 1;
        }
        char x[MR_ID_TEXT + 1], y[MR_ID_TEXT + 1];
        int by_text = strcmp(mr_id_format(a, x), mr_id_format(b, y));
        int by_id = mr_id_compare(a, b);
        assert_true((by_text < 0) == (by_id < 0) && (by_text > 0) == (by_id > 0));
        assert_int_equal(mr_id_equal(a, b), by_id == 0);
    }
    assert_true(mr_id_compare(mr_id_at(1000), mr_id_at(1001)) < 0);
    assert_true(mr_id_compare(mr_id_at(255), mr_id_at(256)) < 0);
}

static void the_time_stands_in_front(void **state)
{
    (void)state;
    struct mr_id id = mr_id_at(0x0123456789ABULL);
    static const uint8_t front[6] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xAB};
    assert_memory_equal(id.bytes, front, sizeof(front));
    assert_false(mr_id_equal(id, mr_id_at(0x0123456789ABULL)));
}

static void what_is_no_id(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "0000000000000000000000000",   /* 25 */
                                        "000000000000000000000000000", /* 27 */
                                        "80000000000000000000000000",  /* over 128 bits */
                                        "0000000000000000000000000I",
                                        "0000000000000000000000000L",
                                        "0000000000000000000000000O",
                                        "0000000000000000000000000U",
                                        "000000000000 0000000000000",
                                        "0000000000000000000000000-"};
    struct mr_id id;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(mr_id_parse(wrong[i], strlen(wrong[i]), &id), MR_MALFORMED);
    assert_int_equal(mr_id_parse("0000000000000\0000000000000", MR_ID_TEXT, &id), MR_MALFORMED);
    uint8_t bytes[17] = {1, 2, 3};
    assert_int_equal(mr_id_from_bytes(bytes, 15, &id), MR_MALFORMED);
    assert_int_equal(mr_id_from_bytes(bytes, 17, &id), MR_MALFORMED);
    assert_int_equal(mr_id_from_bytes(NULL, 0, &id), MR_MALFORMED);
    assert_int_equal(mr_id_from_bytes(bytes, 16, &id), 0);
    assert_memory_equal(id.bytes, bytes, 16);
}

static void hashes_spread(void **state)
{
    enum { BUCKETS = 256, EACH = 64 };
    static unsigned low[BUCKETS], high[BUCKETS];
    (void)state;
    for (int i = 0; i < BUCKETS * EACH; i++) {
        uint64_t hash = mr_id_hash(mr_id_at(1700000000000ULL + (uint64_t)i / 10)); /* as a busy node makes them */
        low[hash % BUCKETS]++;
        high[hash >> 56]++;
    }
    for (int i = 0; i < BUCKETS; i++) { /* 8 standard deviations: a false alarm is out of the question */
        assert_in_range(low[i], EACH - 64, EACH + 64);
        assert_in_range(high[i], EACH - 64, EACH + 64);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_and_back),
        cmocka_unit_test(known_texts),
        cmocka_unit_test(the_text_sorts_as_the_id),
        cmocka_unit_test(the_time_stands_in_front),
        cmocka_unit_test(what_is_no_id),
        cmocka_unit_test(hashes_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
