/* sasl.c - one table of names. */
#include "node/auth/sasl.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    unsigned bit;
    const char *name;
} mechanisms[] = {
    {SASL_PLAIN, "PLAIN"},
    {SASL_LOGIN, "LOGIN"},
    {SASL_SCRAM_SHA_256, "SCRAM-SHA-256"},
    {SASL_SCRAM_SHA_256_PLUS, "SCRAM-SHA-256-PLUS"},
};

enum { N_MECHANISMS = sizeof(mechanisms) / sizeof(mechanisms[0]) };

const char *sasl_name(unsigned mechanism)
{
    for (size_t i = 0; i < N_MECHANISMS; i++)
        if (mechanisms[i].bit == mechanism)
            return mechanisms[i].name;
    return NULL;
}

unsigned sasl_find(const char *name, size_t len)
{
    for (size_t i = 0; i < N_MECHANISMS; i++)
        if (strlen(mechanisms[i].name) == len && strncasecmp(mechanisms[i].name, name, len) == 0)
            return mechanisms[i].bit;
    return 0;
}

char *sasl_names(unsigned set, char out[SASL_NAMES])
{
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < N_MECHANISMS; i++)
        if (set & mechanisms[i].bit)
            n += (size_t)snprintf(out + n, SASL_NAMES - n, "%s%s", n > 0 ? " " : "", mechanisms[i].name);
    return out;
}
