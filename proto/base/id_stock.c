#include "proto/base/id_stock.h"

#include "proto/base/panic.h"

#include <string.h>
#include <sys/random.h>

struct mr_id mr_id_take(struct mr_id_stock *stock, uint64_t unix_ms)
{
    struct mr_id id;
    if (stock->left == 0) {
        ssize_t n = getrandom(stock->random, sizeof(stock->random), 0);
        if (n != (ssize_t)sizeof(stock->random))
            mr_panic("getrandom gave %zd bytes", n);
        stock->left = MR_ID_STOCK;
    }
    stock->left--;
    for (int i = 0; i < 6; i++)
        id.bytes[i] = (uint8_t)(unix_ms >> (40 - 8 * i));
    memcpy(id.bytes + 6, stock->random[stock->left], sizeof(stock->random[0]));
    return id;
}
