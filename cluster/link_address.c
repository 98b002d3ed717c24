#include "cluster/link_internal.h"

#include "proto/base/error.h"

#include <stdlib.h>
#include <string.h>

static bool all_digits(const char *s)
{
    return *s != 0 && strspn(s, "0123456789") == strlen(s);
}

int link_address_parse(struct link_address *out, const char *text)
{
    const char *colon = strrchr(text, ':');
    const char *begin = text, *end = colon;
    memset(out, 0, sizeof(*out));
    if (colon == NULL || strlen(colon + 1) >= sizeof(out->port) || !all_digits(colon + 1))
        return MR_INVAL;
    int port = atoi(colon + 1);
    if (port > 65535)
        return MR_INVAL;
    bool bracketed = *text == '[' && colon > text + 1 && colon[-1] == ']';
    if (bracketed)
        begin++, end--;
    size_t len = (size_t)(end - begin);
    if (len == 0 || len >= sizeof(out->host))
        return MR_INVAL;
    memcpy(out->host, begin, len);
    if (!bracketed && strpbrk(out->host, ":[]") != NULL)
        return MR_INVAL;
    memcpy(out->port, colon + 1, strlen(colon + 1) + 1);
    if (bracketed) {
        if (uv_ip6_addr(out->host, port, (struct sockaddr_in6 *)&out->address) != 0)
            return MR_INVAL;
        out->literal = true;
    } else {
        out->literal = uv_ip4_addr(out->host, port, (struct sockaddr_in *)&out->address) == 0;
    }
    return 0;
}

bool link_address_is_loopback(const struct sockaddr *address)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    if (address->sa_family != AF_INET6)
        return false;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || (memcmp(v6->s6_addr, mapped, sizeof(mapped)) == 0 && v6->s6_addr[12] == 127);
}
