/* fuzz_mime_convert.c - any message: the plan of a scan is one that the conversion can follow, cuts change nothing, and
 * what comes out is what the target carries: scanned again, nothing is left to convert. */
#include "node/mail/mime_convert.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct text {
    char *at;
    size_t len, size;
};

static void collect(void *arg, const char *data, size_t len)
{
    struct text *t = arg;
    if (t->len + len > t->size) {
        t->size = (t->len + len) * 2;
        t->at = mr_realloc(t->at, t->size);
    }
    if (len > 0)
        memcpy(t->at + t->len, data, len);
    t->len += len;
}

static struct mime_found scan(enum mime_target target, const char *data, size_t len, size_t step,
                              struct mime_plan **plan)
{
    struct mime_scan *s = mime_scan_open(target);
    for (size_t at = 0; at < len; at += step)
        mime_scan_feed(s, data + at, len - at < step ? len - at : step);
    return mime_scan_end(s, plan);
}

static struct text convert(const struct mime_plan *plan, const char *data, size_t len, size_t step)
{
    struct text t = {0};
    struct mime_convert *c = mime_convert_open(plan, collect, &t);
    for (size_t at = 0; at < len; at += step)
        mime_convert_feed(c, data + at, len - at < step ? len - at : step);
    mr_assert(mime_convert_end(c) == 0);
    return t;
}

static void check(enum mime_target target, const char *data, size_t len, size_t step)
{
    struct mime_plan *plan, *again;
    struct mime_found found = scan(target, data, len, len + 1, &plan);
    struct mime_found cut = scan(target, data, len, step, &again);
    mr_assert(found.convert == cut.convert && found.why_not == cut.why_not && found.eight_bit == cut.eight_bit &&
              found.eight_bit_header == cut.eight_bit_header);
    if (found.convert && found.why_not == NULL) {
        struct text whole = convert(plan, data, len, len + 1), pieces = convert(again, data, len, step);
        mr_assert(whole.len == pieces.len && memcmp(whole.at, pieces.at, whole.len) == 0);
        struct mime_plan *left;
        struct mime_found after = scan(target, whole.at, whole.len, whole.len + 1, &left);
        /* The one field that was eight-bit may have been the one that was replaced. */
        mr_assert(!after.convert && (!after.eight_bit_header || found.eight_bit_header));
        mr_assert(target == MIME_TARGET_8BIT || !after.eight_bit);
        mime_plan_free(left);
        free(whole.at);
        free(pieces.at);
    }
    mime_plan_free(plan);
    mime_plan_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t step = 1 + data[0] % 31;
    check(data[0] & 0x80 ? MIME_TARGET_8BIT : MIME_TARGET_7BIT, (const char *)data + 1, size - 1, step);
    return 0;
}
