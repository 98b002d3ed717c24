/* fuzz_smtp_capabilities.c - any reply to EHLO: the names of mechanisms stay inside their room and of their alphabet,
 * and to read the same lines twice changes nothing. */
#include "node/delivery/smtp_capabilities.h"
#include "proto/base/panic.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(struct smtp_capabilities *c, const char *text, size_t size)
{
    while (size > 0) {
        const char *end = memchr(text, '\n', size);
        size_t len = end == NULL ? size : (size_t)(end - text);
        smtp_capabilities_line(c, text, len);
        size -= end == NULL ? len : len + 1;
        text += end == NULL ? len : len + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct smtp_capabilities c, again;
    smtp_capabilities_clear(&c);
    read_all(&c, (const char *)data, size);
    size_t len = strnlen(c.mechanism_names, sizeof(c.mechanism_names));
    mr_assert(len < sizeof(c.mechanism_names));
    mr_assert(strspn(c.mechanism_names, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_ ") == len);
    mr_assert(((c.flags & CAP_AUTH) != 0) == (len > 0));
    mr_assert((c.mechanisms == 0) || (c.flags & CAP_AUTH));
    mr_assert((c.flags & CAP_DELIVERBY) || c.deliver_by_min == 0);
    mr_assert((c.flags & CAP_SIZE) || c.size == 0);
    again = c;
    read_all(&again, (const char *)data, size);
    mr_assert(memcmp(&again, &c, sizeof(c)) == 0 || len + 22 >= sizeof(c.mechanism_names));
    return 0;
}
