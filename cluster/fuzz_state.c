/* Fuzz target: entries and snapshots from anywhere. The input is records: a byte of kind, two bytes of
 * length (little-endian), and the data: an entry to apply, or a snapshot's bytes to restore, sealed with a good
 * checksum first. Whatever comes, every invariant holds, and a snapshot of what came out restores to the same hash. */
#include "cluster/state.h"
#include "cluster/state_records.h"
#include "proto/base/hash.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void restore(struct state *s, uint64_t index, const uint8_t *data, size_t len)
{
    enum { END = SNAPSHOT_RECORD_HEADER + SNAPSHOT_CHECKSUM };
    static const uint8_t preamble[SNAPSHOT_PREAMBLE] = SNAPSHOT_MAGIC "\1";
    size_t total = sizeof(preamble) + len + END;
    uint8_t *all = calloc(1, total), *end = all + total - END;
    XXH128_canonical_t sum;

    if (all == NULL)
        return;
    memcpy(all, preamble, sizeof(preamble));
    if (len > 0)
        memcpy(all + sizeof(preamble), data, len);
    end[0] = RECORD_END;
    end[4] = SNAPSHOT_CHECKSUM;
    XXH128_canonicalFromHash(&sum, XXH3_128bits(all, total - END));
    memcpy(end + SNAPSHOT_RECORD_HEADER, sum.digest, SNAPSHOT_CHECKSUM);
    (void)state_restore(s, index, all, total);
    free(all);
}

static void same_after_restore(const struct state *s)
{
    struct state *other = state_open(NULL);
    struct state_buffer *buffers;
    unsigned count;
    uint8_t a[16], b[16];

    state_snapshot(s, &buffers, &count);
    mr_assert(count == 1 && state_restore(other, state_index(s), buffers[0].base, buffers[0].len) == 0);
    state_check(other);
    state_hash(s, a);
    state_hash(other, b);
    mr_assert(memcmp(a, b, sizeof(a)) == 0);
    mr_assert(state_next_due_ms(s) == state_next_due_ms(other));
    state_snapshot_free(buffers, count);
    state_close(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct state *s = state_open(NULL);
    uint64_t index = 0;

    while (size >= 3) {
        uint8_t kind = data[0];
        size_t len = (size_t)data[1] | (size_t)data[2] << 8;
        data += 3;
        size -= 3;
        if (len > size)
            len = size;
        uint8_t results[8];
        size_t n = sizeof(results);
        if (kind % 4 == 0)
            restore(s, ++index, data, len);
        else
            (void)state_apply(s, ++index, data, len, results, &n);
        state_check(s);
        data += len;
        size -= len;
    }
    same_after_restore(s);
    state_close(s);
    return 0;
}
