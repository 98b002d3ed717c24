/* le.h - little-endian numbers in byte strings, as the files on disk have them, at any place: nothing needs to be
 * aligned.
 *
 * Thread: any. */
#ifndef MR_BASE_LE_H
#define MR_BASE_LE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline void mr_put_le32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof(v));
}

static inline void mr_put_le64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof(v));
}

static inline uint32_t mr_get_le32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

static inline uint64_t mr_get_le64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return le64toh(v);
}

#endif
