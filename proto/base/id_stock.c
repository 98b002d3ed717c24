#include "proto/base/id_stock.h"

#include "proto/base/panic.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* Of more than 256 octets the kernel may give fewer, or none, when a signal comes (getrandom(2)). */
static void fetch(struct mr_id_stock *stock)
{
    uint8_t *at = stock->random[0];
    for (size_t left = sizeof(stock->random); left > 0;) {
        ssize_t n = getrandom(at, left, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            mr_panic("getrandom: %s", n < 0 ? strerror(errno) : "nothing");
        at += n;
        left -= (size_t)n;
    }
    stock->left = MR_ID_STOCK;
}

struct mr_id mr_id_take(struct mr_id_stock *stock, uint64_t unix_ms)
{
    struct mr_id id;
    if (stock->left == 0)
        fetch(stock);
    stock->left--;
    for (int i = 0; i < 6; i++)
        id.bytes[i] = (uint8_t)(unix_ms >> (40 - 8 * i));
    memcpy(id.bytes + 6, stock->random[stock->left], sizeof(stock->random[0]));
    return id;
}
