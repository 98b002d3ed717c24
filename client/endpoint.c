/* Splitting HOST:PORT and writing addresses. */
#include "client/endpoint.h"

#include "proto/base/error.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static int parse_port(const char *s, size_t len, uint16_t *out)
{
    unsigned port = 0;

    if (len == 0 || len > 5)
        return MR_INVAL;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return MR_INVAL;
        port = port * 10 + (unsigned)(s[i] - '0');
    }
    if (port > UINT16_MAX)
        return MR_INVAL;
    *out = (uint16_t)port;
    return 0;
}

int endpoint_parse(const char *text, size_t len, struct endpoint *out)
{
    const char *host = text;
    const char *colon = memrchr(text, ':', len);

    if (colon == NULL || len >= sizeof(out->text))
        return MR_INVAL;
    size_t host_len = (size_t)(colon - text);
    if (host_len >= 2 && host[0] == '[' && host[host_len - 1] == ']') {
        host++;
        host_len -= 2;
    } else if (memchr(host, ':', host_len) != NULL) {
        return MR_INVAL; /* an IPv6 address without brackets: where its port starts cannot be told */
    }
    if (host_len == 0 || host_len >= sizeof(out->host))
        return MR_INVAL;
    memset(out, 0, sizeof(*out));
    memcpy(out->host, host, host_len);
    memcpy(out->text, text, len);
    return parse_port(colon + 1, len - (size_t)(colon + 1 - text), &out->port);
}

int endpoint_literal(const struct endpoint *ep, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, ep->host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(ep->port);
        return 0;
    }
    if (inet_pton(AF_INET6, ep->host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(ep->port);
        return 0;
    }
    return MR_NOTFOUND;
}

char *endpoint_format(const struct sockaddr_storage *address, char text[ENDPOINT_TEXT_SIZE])
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        (void)snprintf(text, ENDPOINT_TEXT_SIZE, "%s:%u", host, ntohs(v4->sin_port));
    } else {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        (void)snprintf(text, ENDPOINT_TEXT_SIZE, "[%s]:%u", host, ntohs(v6->sin6_port));
    }
    return text;
}
