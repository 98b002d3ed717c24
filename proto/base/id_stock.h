/* id_stock.h - message ids for who makes many: random octets are fetched from the kernel for MR_ID_STOCK ids at a time.
 *
 * They are no worse for having been fetched before, and each is used once; an id is no secret. All zeros at first.
 * Thread: its owner's. */
#ifndef MR_BASE_ID_STOCK_H
#define MR_BASE_ID_STOCK_H

#include "proto/base/id.h"

enum { MR_ID_STOCK = 64 };
struct mr_id_stock {
    uint8_t random[MR_ID_STOCK][MR_ID_SIZE - 6];
    unsigned left;
};
/* As mr_id_at; panics when the kernel has no random octets. */
struct mr_id mr_id_take(struct mr_id_stock *stock, uint64_t unix_ms);

#endif
