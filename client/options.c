/* Numbers that strtoull would bend (signs, blanks, overflow) are refused. */
#include "client/options.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int options_number(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    uint64_t value = 0;

    if (*text == '\0')
        return MR_INVAL;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || value > (UINT64_MAX - 9) / 10)
            return MR_INVAL;
        value = value * 10 + (uint64_t)(*text - '0');
    }
    if (value < least || value > most)
        return MR_INVAL;
    *out = value;
    return 0;
}

int options_size(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    static const struct {
        const char *name;
        unsigned shift;
    } units[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
    char digits[24];
    unsigned shift = 0;
    size_t len = strlen(text);

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (len > 3 && strcmp(text + len - 3, units[i].name) == 0) {
            shift = units[i].shift;
            len -= 3;
            break;
        }
    }
    if (len >= sizeof(digits))
        return MR_INVAL;
    memcpy(digits, text, len);
    digits[len] = '\0';
    uint64_t value = 0;
    if (options_number(digits, 0, UINT64_MAX >> shift, &value) != 0)
        return MR_INVAL;
    value <<= shift;
    if (value < least || value > most)
        return MR_INVAL;
    *out = value;
    return 0;
}

int options_real(const char *text, double least, double most, double *out)
{
    char *end = NULL;

    if (*text == '\0' || strspn(text, "0123456789.") != strlen(text))
        return MR_INVAL;
    double value = strtod(text, &end);
    if (*end != '\0' || !(value >= least) || !(value <= most))
        return MR_INVAL;
    *out = value;
    return 0;
}

int options_replace_file(const char *path, const char *text)
{
    char *temporary = mr_asprintf("%s.new", path);
    FILE *file = fopen(temporary, "we");
    int rc = MR_IO;

    if (file != NULL) {
        bool written = fputs(text, file) >= 0;
        rc = fclose(file) == 0 && written && rename(temporary, path) == 0 ? 0 : MR_IO;
        int saved = errno;
        if (rc != 0)
            (void)unlink(temporary);
        errno = saved;
    }
    free(temporary);
    return rc;
}
