/* Frames from an unknown peer: any bytes, cut anywhere. */
#include "proto/frame.h"

#include "proto/base/panic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    while (size > 0) {
        struct frame_header h;
        if (frame_decode_header(data, size, &h) != 0)
            return 0;
        mr_assert(h.meta_len <= FRAME_MAX_META && h.tail_len <= FRAME_MAX_TAIL);
        size_t total = FRAME_HEADER + (size_t)h.meta_len + h.tail_len;
        if (size < total)
            return 0;
        if (frame_check_meta(data, &h, data + FRAME_HEADER) == 0) {
            uint8_t again[FRAME_HEADER];
            frame_encode_header(again, (enum frame_type)h.type, data + FRAME_HEADER, h.meta_len, h.tail_len);
            mr_assert(__builtin_memcmp(again, data, FRAME_HEADER) == 0);
        }
        data += total;
        size -= total;
    }
    return 0;
}
