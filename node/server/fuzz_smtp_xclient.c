/* fuzz_smtp_xclient.c - any arguments: what is taken is zero-terminated, without control characters, of the forms that
 * the header names. */
#include "node/server/smtp_xclient.h"
#include "proto/base/panic.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text, size_t cap)
{
    size_t n = strnlen(text, cap);

    mr_assert(n < cap);
    for (size_t i = 0; i < n; i++)
        mr_assert((unsigned char)text[i] >= 32 && text[i] != 127);
}

static void check_address(const union proxy_address *a)
{
    mr_assert(a->any.sa_family == AF_UNSPEC || a->any.sa_family == AF_INET || a->any.sa_family == AF_INET6);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct smtp_xclient x;
    const struct smtp_reply *why = NULL;

    if (smtp_xclient_parse((struct smtp_slice){(const char *)data, size}, &x, &why) != 0) {
        mr_assert(why != NULL && why->code == 501);
        return 0;
    }
    mr_assert(why == NULL && size > 0);
    check_text(x.name, sizeof(x.name));
    check_text(x.helo, sizeof(x.helo));
    check_text(x.login, sizeof(x.login));
    mr_assert(x.helo[0] == '\0' || smtp_domain_parse(x.helo, strlen(x.helo)) == 0);
    check_address(&x.address);
    check_address(&x.destination);
    return 0;
}
