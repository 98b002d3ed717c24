/* xxHash, with the widest vectors that the processor has: the library's own names stand for SSE2 on x86. The values are
 * the same. */
#ifndef MR_BASE_HASH_H
#define MR_BASE_HASH_H

#ifdef MAILRAFT_HASH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
