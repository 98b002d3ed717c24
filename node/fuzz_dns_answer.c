/* fuzz_dns_answer.c - any datagram: the reader stays inside it and its answer is well-formed. */
#include "node/dns_answer.h"
#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct dns_mx_answer mx;
    int rc = dns_read_mx(data, size, &mx);
    mr_assert(rc == 0 || rc == MR_MALFORMED);
    if (rc != 0)
        return 0;
    mr_assert(mx.n <= DNS_MAX_MX);
    for (unsigned i = 0; i < mx.n; i++)
        mr_assert(strnlen(mx.list[i].host, sizeof(mx.list[i].host)) < sizeof(mx.list[i].host));
    return 0;
}
