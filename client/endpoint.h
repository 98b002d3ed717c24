/* endpoint.h - HOST:PORT as the command line names it.
 *
 * An IPv6 address stands in brackets. The name is looked up at each connect, never kept: a pod's address may change.
 * Thread: any; nothing is shared. */
#ifndef MR_CLIENT_ENDPOINT_H
#define MR_CLIENT_ENDPOINT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { ENDPOINT_HOST_SIZE = 256, ENDPOINT_TEXT_SIZE = ENDPOINT_HOST_SIZE + 9 };

struct endpoint {
    char host[ENDPOINT_HOST_SIZE]; /* without brackets */
    uint16_t port;
    char text[ENDPOINT_TEXT_SIZE]; /* as given */
};

/* MR_INVAL: no host, no port, or a port over 65535. Port 0 is taken: a listener lets the kernel choose. */
int endpoint_parse(const char *text, size_t len, struct endpoint *out);
/* An address literal without a lookup; MR_NOTFOUND when host is a name. */
int endpoint_literal(const struct endpoint *ep, struct sockaddr_storage *out);
/* "192.0.2.1:25" or "[2001:db8::1]:25"; returns text. */
char *endpoint_format(const struct sockaddr_storage *address, char text[ENDPOINT_TEXT_SIZE]);

#endif
