/* frame.c: what was written reads back; whatever else comes is refused or asks for more, never read past its end. */
#include "proto/frame.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525U + 1013904223U;
    return *seed >> 8;
}

static void round_trip(void **state)
{
    static const uint32_t lens[] = {0, 1, 15, 16, 499, 500, 501, 4096, FRAME_MAX_META};
    (void)state;
    uint8_t *meta = mr_malloc(FRAME_MAX_META);
    for (size_t i = 0; i < FRAME_MAX_META; i++)
        meta[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
        for (unsigned type = 1; type < FRAME_TYPE_END; type++) {
            uint8_t header[FRAME_HEADER];
            struct frame_header h;
            uint32_t tail = (uint32_t)(FRAME_MAX_TAIL - i);
            frame_encode_header(header, (enum frame_type)type, meta, lens[i], tail);
            assert_int_equal(frame_decode_header(header, sizeof(header), &h), 0);
            assert_int_equal(h.type, type);
            assert_int_equal(h.meta_len, lens[i]);
            assert_int_equal(h.tail_len, tail);
            assert_int_equal(frame_check_meta(header, &h, meta), 0);
        }
    free(meta);
}

static void short_input_asks_for_more(void **state)
{
    (void)state;
    uint8_t header[FRAME_HEADER];
    frame_encode_header(header, FRAME_RAFT, NULL, 0, 3);
    for (size_t n = 0; n < FRAME_HEADER; n++) {
        uint8_t *part = malloc(n > 0 ? n : 1); /* of its own size, so that the sanitizer sees a read past its end */
        struct frame_header h;
        assert_non_null(part);
        memcpy(part, header, n);
        assert_int_equal(frame_decode_header(part, n, &h), MR_MORE);
        free(part);
    }
}

static int decode_with(size_t offset, uint8_t value)
{
    uint8_t header[FRAME_HEADER];
    struct frame_header h;
    frame_encode_header(header, FRAME_RAFT, NULL, 0, 3);
    header[offset] = value;
    return frame_decode_header(header, sizeof(header), &h);
}

static void each_field_is_checked(void **state)
{
    (void)state;
    assert_int_equal(decode_with(0, 'G'), MR_MALFORMED);
    assert_int_equal(decode_with(1, 'E'), MR_MALFORMED);
    assert_int_equal(decode_with(2, 0), MR_VERSION);
    assert_int_equal(decode_with(2, FRAME_VERSION + 1), MR_VERSION);
    assert_int_equal(decode_with(3, 0), MR_MALFORMED);
    assert_int_equal(decode_with(3, FRAME_TYPE_END), MR_MALFORMED);
    assert_int_equal(decode_with(4, 0xff), MR_MALFORMED);
    assert_int_equal(decode_with(8, 0xff), MR_MALFORMED);
    assert_int_equal(decode_with(11, 4), 0); /* another tail length is found by the checksum */
}

/* Each single flipped bit of header or meta is noticed by one of the two functions. */
static void flipped_bits_are_found(void **state)
{
    (void)state;
    uint8_t frame[FRAME_HEADER + 40];
    for (size_t i = 0; i < 40; i++)
        frame[FRAME_HEADER + i] = (uint8_t)(i * 31);
    frame_encode_header(frame, FRAME_PROPOSE, frame + FRAME_HEADER, 40, 9);
    for (size_t bit = 0; bit < sizeof(frame) * 8; bit++) {
        struct frame_header h;
        frame[bit / 8] ^= (uint8_t)(1U << bit % 8);
        int rc = frame_decode_header(frame, FRAME_HEADER, &h);
        if (rc == 0 && h.meta_len <= 40)
            rc = frame_check_meta(frame, &h, frame + FRAME_HEADER);
        else if (rc == 0)
            rc = MR_MORE; /* would wait for bytes that then do not match */
        assert_true(rc < 0);
        frame[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
}

static void garbage_is_refused(void **state)
{
    (void)state;
    uint32_t seed = 12345;
    for (int round = 0; round < 200000; round++) {
        uint8_t bytes[FRAME_HEADER];
        struct frame_header h;
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)next_random(&seed);
        if (round % 2 == 0) { /* past the first checks */
            memcpy(bytes, "MR\x01", 3);
            bytes[4] = bytes[8] = 0;
        }
        int rc = frame_decode_header(bytes, sizeof(bytes), &h);
        if (rc == 0) {
            assert_in_range(h.type, 1, FRAME_TYPE_END - 1);
            assert_true(h.meta_len <= FRAME_MAX_META && h.tail_len <= FRAME_MAX_TAIL);
        } else {
            assert_true(rc == MR_MALFORMED || rc == MR_VERSION);
        }
    }
}

/* The stored frame was written by version 1; every later version must read it, byte for byte. */
static void stored_example_reads(void **state)
{
    static const char meta[] = "example meta";
    (void)state;
    uint8_t bytes[64], again[FRAME_HEADER];
    struct frame_header h;
    FILE *file = fopen("testdata/frame_v1.bin", "rb");
    assert_non_null(file);
    size_t n = fread(bytes, 1, sizeof(bytes), file);
    (void)fclose(file);
    assert_int_equal(n, FRAME_HEADER + sizeof(meta) - 1 + 4);
    assert_int_equal(frame_decode_header(bytes, n, &h), 0);
    assert_int_equal(h.type, FRAME_BODY_PIECE);
    assert_int_equal(h.tail_len, 4);
    assert_int_equal(h.meta_len, sizeof(meta) - 1);
    assert_memory_equal(bytes + FRAME_HEADER, meta, sizeof(meta) - 1);
    assert_int_equal(frame_check_meta(bytes, &h, bytes + FRAME_HEADER), 0);
    frame_encode_header(again, FRAME_BODY_PIECE, (const uint8_t *)meta, sizeof(meta) - 1, 4);
    assert_memory_equal(again, bytes, FRAME_HEADER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(short_input_asks_for_more),
        cmocka_unit_test(each_field_is_checked),
        cmocka_unit_test(flipped_bits_are_found),
        cmocka_unit_test(garbage_is_refused),
        cmocka_unit_test(stored_example_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
