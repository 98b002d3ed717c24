#include "node/config/config_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool config_parse_number(const char *text, uint64_t *n)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    *n = strtoull(text, &end, 10);
    return errno == 0 && *end == 0;
}

struct unit {
    const char *name;
    uint64_t factor;
};

static bool parse_with_unit(const char *text, const struct unit *units, uint64_t *out)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0)
        return false;
    for (const struct unit *u = units; u->name != NULL; u++) {
        if (strcmp(end, u->name) != 0)
            continue;
        return !__builtin_mul_overflow(n, u->factor, out);
    }
    return false;
}

bool config_parse_duration(const char *text, uint64_t *ms)
{
    static const struct unit units[] = {{"ms", 1},
                                        {"s", 1000},
                                        {"m", 60 * 1000},
                                        {"h", 3600 * 1000},
                                        {"d", 24 * 3600 * 1000},
                                        {"w", 7 * 24 * 3600 * 1000},
                                        {NULL, 0}};
    if (strcmp(text, "0") == 0) {
        *ms = 0;
        return true;
    }
    return parse_with_unit(text, units, ms) && *ms < (1ULL << 50);
}

bool config_parse_size(const char *text, uint64_t *bytes)
{
    static const struct unit units[] = {{"", 1},          {"B", 1},        {"KiB", 1 << 10},   {"MiB", 1 << 20},
                                        {"GiB", 1 << 30}, {"K", 1 << 10},  {"M", 1 << 20},     {"G", 1 << 30},
                                        {"kB", 1000},     {"MB", 1000000}, {"GB", 1000000000}, {NULL, 0}};
    return parse_with_unit(text, units, bytes) && *bytes < (1ULL << 50);
}
