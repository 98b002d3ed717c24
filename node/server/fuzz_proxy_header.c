/* fuzz_proxy_header.c - any octets: whole, and cut at a place that the input chooses, they come to the same end, within
 * the bounds, and nothing behind the header is touched. */
#include "node/server/proxy_header.h"
#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header whole, cut;
    size_t used, first, second = 0, at;
    int rc, rc2;

    if (size == 0)
        return 0;
    at = data[size - 1] % size;
    proxy_header_init(&whole);
    rc = proxy_header_feed(&whole, data, size, &used);
    proxy_header_init(&cut);
    rc2 = proxy_header_feed(&cut, data, at, &first);
    if (rc2 == MR_MORE)
        rc2 = proxy_header_feed(&cut, data + first, size - first, &second);
    mr_assert(rc == rc2 && used == first + second && used <= size);
    mr_assert(used <= PROXY_V2_MAX && (rc != MR_MORE || used == size));
    if (rc != 0)
        return 0;
    mr_assert(whole.known == cut.known);
    if (whole.known) {
        mr_assert(memcmp(&whole.source, &cut.source, sizeof(whole.source)) == 0);
        mr_assert(whole.source.any.sa_family == AF_INET || whole.source.any.sa_family == AF_INET6);
        mr_assert(whole.source.any.sa_family == whole.destination.any.sa_family);
    }
    return 0;
}
