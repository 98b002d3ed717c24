#include "proto/base/id.h"

#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <string.h>
#include <sys/random.h>

static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

struct mr_id mr_id_random(void)
{
    struct mr_id id;
    ssize_t n = getrandom(id.bytes, sizeof(id.bytes), 0);
    if (n != (ssize_t)sizeof(id.bytes))
        mr_panic("getrandom gave %zd bytes", n);
    return id;
}

struct mr_id mr_id_at(uint64_t unix_ms)
{
    struct mr_id id = mr_id_random();
    for (int i = 0; i < 6; i++)
        id.bytes[i] = (uint8_t)(unix_ms >> (40 - 8 * i));
    return id;
}

char *mr_id_format(struct mr_id id, char text[MR_ID_TEXT + 1])
{
    /* 130 bits of text for 128 of id: the first character holds three bits. */
    unsigned bits = 2, value = 0;
    char *out = text;
    for (size_t i = 0; i < MR_ID_SIZE; i++) {
        value = (value << 8) | id.bytes[i];
        bits += 8;
        while (bits >= 5) {
            bits -= 5;
            *out++ = alphabet[(value >> bits) & 31];
        }
        value &= (1U << bits) - 1;
    }
    *out = 0;
    return text;
}

int mr_id_parse(const char *text, size_t len, struct mr_id *out)
{
    if (len != MR_ID_TEXT)
        return MR_MALFORMED;
    unsigned bits = 0, value = 0;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = text[i] >= 'a' && text[i] <= 'z' ? text[i] - 'a' + 'A' : text[i];
        const char *at = c == 0 ? NULL : strchr(alphabet, c);
        if (at == NULL)
            return MR_MALFORMED;
        unsigned digit = (unsigned)(at - alphabet);
        if (i == 0) {
            if (digit > 7)
                return MR_MALFORMED;
            value = digit;
            bits = 3;
            continue;
        }
        value = (value << 5) | digit;
        bits += 5;
        if (bits >= 8) {
            bits -= 8;
            out->bytes[n++] = (uint8_t)(value >> bits);
            value &= (1U << bits) - 1;
        }
    }
    mr_assert(n == MR_ID_SIZE && bits == 0);
    return 0;
}

int mr_id_from_bytes(const uint8_t *bytes, size_t len, struct mr_id *out)
{
    if (len != MR_ID_SIZE)
        return MR_MALFORMED;
    memcpy(out->bytes, bytes, MR_ID_SIZE);
    return 0;
}

bool mr_id_equal(struct mr_id a, struct mr_id b)
{
    return memcmp(a.bytes, b.bytes, MR_ID_SIZE) == 0;
}

int mr_id_compare(struct mr_id a, struct mr_id b)
{
    return memcmp(a.bytes, b.bytes, MR_ID_SIZE);
}

bool mr_id_is_zero(struct mr_id id)
{
    static const struct mr_id zero;
    return mr_id_equal(id, zero);
}

uint64_t mr_id_hash(struct mr_id id)
{
    uint64_t a, b;
    memcpy(&a, id.bytes, 8);
    memcpy(&b, id.bytes + 8, 8);
    a ^= b * 0x9E3779B97F4A7C15ULL;
    a ^= a >> 29;
    return a * 0xBF58476D1CE4E5B9ULL;
}
