/* Looks every 20 ms; before the run there is nothing else to do. */
#include "client/load_wait.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static bool past(uint64_t deadline_ns)
{
    return mr_boot_ns(&mr_clock_real) >= deadline_ns;
}

static void a_moment(void)
{
    const struct timespec moment = {0, 20000000};
    (void)nanosleep(&moment, NULL);
}

/* Connects and reads the beginning of the banner. Each step waits at most a second. */
static bool greets(const struct endpoint *ep)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    const struct timeval second = {1, 0};
    struct addrinfo *list = NULL;
    char port[8];
    char banner[4] = "";
    bool greeted = false;

    (void)snprintf(port, sizeof(port), "%u", ep->port);
    if (getaddrinfo(ep->host, port, &hints, &list) != 0)
        return false;
    for (const struct addrinfo *ai = list; ai != NULL && !greeted; ai = ai->ai_next) {
        int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second));
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
        greeted = connect(fd, ai->ai_addr, ai->ai_addrlen) == 0 && recv(fd, banner, 3, MSG_WAITALL) == 3 &&
                  memcmp(banner, "220", 3) == 0;
        if (greeted)
            (void)send(fd, "QUIT\r\n", 6, MSG_NOSIGNAL);
        (void)close(fd);
    }
    freeaddrinfo(list);
    return greeted;
}

static int wait_file(const char *path, uint64_t deadline_ns)
{
    while (access(path, F_OK) != 0) {
        if (past(deadline_ns)) {
            (void)fprintf(stderr, "mailraft-load: %s did not appear\n", path);
            return MR_TIMEOUT;
        }
        a_moment();
    }
    return 0;
}

int load_wait(const struct load_options *options)
{
    uint64_t deadline_ns = mr_boot_ns(&mr_clock_real) + (uint64_t)(options->give_up_s * (double)MR_NS_PER_S);

    if (options->wait_file != NULL)
        return wait_file(options->wait_file, deadline_ns);
    for (size_t i = 0; options->wait_targets && i < options->target_count; i++) {
        while (!greets(&options->targets[i])) {
            if (past(deadline_ns)) {
                (void)fprintf(stderr, "mailraft-load: %s does not greet\n", options->targets[i].text);
                return MR_TIMEOUT;
            }
            a_moment();
        }
    }
    return 0;
}
