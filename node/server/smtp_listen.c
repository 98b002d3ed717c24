/* smtp_listen.c - one bound socket for each worker and listener. */
#include "node/server/smtp_server.h"
#include "proto/base/error.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* "host:port", "[v6]:port"; an empty host means any address. */
static int split(const char *address, char *host, size_t host_len, const char **port)
{
    const char *colon = strrchr(address, ':');
    const char *from = address;
    size_t n;

    if (colon == NULL || colon[1] == '\0')
        return MR_CONFIG;
    n = (size_t)(colon - address);
    if (*address == '[') {
        if (n < 2 || address[n - 1] != ']')
            return MR_CONFIG;
        from++;
        n -= 2;
    } else if (memchr(address, ':', n) != NULL) {
        return MR_CONFIG;
    }
    if (n >= host_len)
        return MR_CONFIG;
    memcpy(host, from, n);
    host[n] = '\0';
    *port = colon + 1;
    return 0;
}

static int bind_one(const struct addrinfo *a, int *out)
{
    int on = 1, off = 0;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return MR_IO;
    /* Each worker has a socket of its own on the same port. "[::]" takes IPv4 too. Replies are not held back for more
     * to send: the connections that are accepted inherit that. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0 &&
        (a->ai_family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) == 0) &&
        bind(fd, a->ai_addr, a->ai_addrlen) == 0) {
        *out = fd;
        return 0;
    }
    on = errno;
    close(fd);
    errno = on;
    return MR_IO;
}

static int write_bound(int fd, char *bound, size_t bound_len)
{
    struct sockaddr_storage at = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof(at);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&at, &len) != 0 ||
        getnameinfo((struct sockaddr *)&at, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return MR_IO;
    snprintf(bound, bound_len, at.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    return 0;
}

int smtp_listen(const char *address, int *fd, char *bound, size_t bound_len, char *error, size_t error_len)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char host[NI_MAXHOST];
    const char *port;
    int rc;

    if (split(address, host, sizeof(host), &port) != 0) {
        snprintf(error, error_len, "%s: not host:port or [v6]:port", address);
        return MR_CONFIG;
    }
    rc = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &found);
    if (rc != 0) {
        snprintf(error, error_len, "%s: %s", address, gai_strerror(rc));
        return MR_CONFIG;
    }
    rc = bind_one(found, fd);
    freeaddrinfo(found);
    if (rc == 0) {
        rc = write_bound(*fd, bound, bound_len);
        if (rc != 0)
            close(*fd);
    }
    if (rc != 0)
        snprintf(error, error_len, "%s: %s", address, strerror(errno));
    return rc;
}
