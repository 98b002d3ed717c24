/* Preloaded into servers that were built with a short listen queue (OpenSMTPD: 5): with it, clients that come all at
 * once would measure how long the kernel waits before it tries a connection again, and nothing of the server. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>

int listen(int fd, int backlog)
{
    int (*next)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "listen");

    return next(fd, backlog < 4096 ? 4096 : backlog);
}
