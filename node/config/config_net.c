#include "node/config/config_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Splits into host (without brackets) and port. */
static bool split(const char *text, char host[256], const char **port)
{
    const char *colon = strrchr(text, ':');
    size_t len;

    if (colon == NULL || colon == text)
        return false;
    *port = colon + 1;
    len = (size_t)(colon - text);
    if (text[0] == '[') {
        if (len < 3 || text[len - 1] != ']')
            return false;
        text++;
        len -= 2;
    } else if (memchr(text, ':', len) != NULL) {
        return false; /* IPv6 without brackets */
    }
    if (len == 0 || len >= 256)
        return false;
    memcpy(host, text, len);
    host[len] = 0;
    return true;
}

bool config_address_ok(const char *text, bool any_port)
{
    char host[256];
    const char *port;
    uint64_t n;
    return split(text, host, &port) && config_parse_number(port, &n) && n <= 65535 && (n > 0 || any_port);
}

bool config_address_is_loopback(const char *text)
{
    char host[256];
    const char *port;
    struct in_addr v4;
    struct in6_addr v6;

    if (!split(text, host, &port))
        return false;
    if (strcmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool config_parse_network(const char *text, struct network *out)
{
    char host[64];
    const char *slash = strchr(text, '/');
    size_t len = slash == NULL ? strlen(text) : (size_t)(slash - text);
    uint64_t prefix;

    if (len >= sizeof(host))
        return false;
    memcpy(host, text, len);
    host[len] = 0;
    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, host, out->address) == 1)
        out->family = AF_INET;
    else if (inet_pton(AF_INET6, host, out->address) == 1)
        out->family = AF_INET6;
    else
        return false;
    unsigned most = out->family == AF_INET ? 32 : 128;
    prefix = most;
    if (slash != NULL && (!config_parse_number(slash + 1, &prefix) || prefix > most))
        return false;
    out->prefix = (unsigned)prefix;
    return true;
}

static bool same_prefix(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    if (memcmp(a, b, bits / 8) != 0)
        return false;
    unsigned rest = bits % 8;
    return rest == 0 || (a[bits / 8] >> (8 - rest)) == (b[bits / 8] >> (8 - rest));
}

bool network_contains(const struct network_list *networks, const struct sockaddr *address)
{
    const uint8_t *bytes;
    int family = address->sa_family;

    if (family == AF_INET) {
        bytes = (const uint8_t *)&((const struct sockaddr_in *)(const void *)address)->sin_addr;
    } else if (family == AF_INET6) {
        const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        bytes = v6->s6_addr;
        if (IN6_IS_ADDR_V4MAPPED(v6)) {
            bytes += 12;
            family = AF_INET;
        }
    } else {
        return false;
    }
    for (unsigned i = 0; i < networks->n; i++)
        if (networks->at[i].family == family && same_prefix(networks->at[i].address, bytes, networks->at[i].prefix))
            return true;
    return false;
}
