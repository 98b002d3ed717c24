/* fuzz_dns_answer.c - any datagram: the readers stay inside it and what they tell is well-formed. */
#include "node/dns/dns_answer.h"
#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const char name[256])
{
    mr_assert(strnlen(name, 256) < 256);
}

static void read_mx(const uint8_t *data, size_t size)
{
    static struct dns_mx_answer mx;
    if (dns_read_mx(data, size, &mx) != 0)
        return;
    mr_assert(mx.n <= DNS_MAX_MX);
    for (unsigned i = 0; i < mx.n; i++)
        check_name(mx.list[i].host);
}

static void read_addresses(const uint8_t *data, size_t size)
{
    static struct dns_address_answer found;
    if (dns_read_addresses(data, size, &found) != 0)
        return;
    mr_assert(found.n <= DNS_MAX_ADDRESSES);
    check_name(found.name);
}

static void read_tlsa(const uint8_t *data, size_t size)
{
    static struct dns_tlsa_answer tlsa;
    static volatile uint8_t sum;
    if (dns_read_tlsa(data, size, &tlsa) != 0)
        return;
    mr_assert(tlsa.n <= DNS_MAX_TLSA);
    for (unsigned i = 0; i < tlsa.n; i++)
        for (size_t k = 0; k < tlsa.list[i].len; k++) /* a sanitizer sees what is not in the answer */
            sum = (uint8_t)(sum + tlsa.list[i].data[k]);
}

static void read_txt(const uint8_t *data, size_t size)
{
    static struct dns_txt_answer txt;
    if (dns_read_txt(data, size, &txt) != 0)
        return;
    mr_assert(txt.n <= DNS_MAX_TXT);
    for (unsigned i = 0; i < txt.n; i++)
        mr_assert(strnlen(txt.list[i], sizeof(txt.list[i])) <= DNS_MAX_TXT_LEN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dns_head head;
    int rc = dns_read_head(data, size, &head);
    mr_assert(rc == MR_MALFORMED || (rc == 0 && head.rcode < 16));
    read_mx(data, size);
    read_addresses(data, size);
    read_tlsa(data, size);
    read_txt(data, size);
    return 0;
}
