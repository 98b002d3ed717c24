/* stderr_line.c - O_NONBLOCK on file descriptor 2 would be that of everybody who shares it: a shell, other nodes, a
 * supervisor. So a socket is asked not to wait for each line; a pipe is opened a second time, with a state of its own,
 * and where that is not allowed poll goes before each write: it promises room for PIPE_BUF octets, which only another
 * process could take away meanwhile. */
#include "proto/base/stderr_line.h"

#include "proto/base/clock.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WAIT_MS = 50, EACH_MS = 1000, LAST_MS = 500, PIPE_ROOM = 1 << 20 };

static struct {
    pthread_mutex_t lock;
    dev_t dev; /* which pipe or socket this is about */
    ino_t ino;
    int fd;                       /* the pipe, opened by us; -1: it is not */
    bool stuck;                   /* the last line was not taken */
    uint64_t since_ns, waited_ns; /* of the current second */
    char *rest;                   /* of a line that went in part; NULL: none */
    size_t rest_len;
    atomic_bool torn; /* there is a rest */
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static void drop_rest(void)
{
    free(sink.rest);
    sink.rest = NULL;
    atomic_store_explicit(&sink.torn, false, memory_order_relaxed);
}

/* Stderr is this now. */
static void look_at(const struct stat *st)
{
    if (st->st_dev == sink.dev && st->st_ino == sink.ino)
        return;
    if (sink.fd >= 0)
        (void)close(sink.fd);
    drop_rest();
    sink.dev = st->st_dev;
    sink.ino = st->st_ino;
    sink.stuck = false;
    sink.fd = -1;
    if (S_ISFIFO(st->st_mode)) {
        sink.fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        /* A burst of a large cluster is more than the usual 64 KiB, and comes sooner than a reader can wake up. */
        (void)fcntl(STDERR_FILENO, F_SETPIPE_SZ, PIPE_ROOM);
    }
}

static bool has_room(int timeout_ms)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

    return poll(&p, 1, timeout_ms) > 0;
}

/* True: try again. */
static bool wait_for_room(void)
{
    uint64_t now = mr_boot_ns(&mr_clock_real);
    uint64_t most = WAIT_MS * MR_NS_PER_MS;

    if (now - sink.since_ns >= EACH_MS * MR_NS_PER_MS) {
        sink.since_ns = now;
        sink.waited_ns = 0;
    }
    if (sink.stuck || sink.waited_ns >= most)
        return false;
    (void)has_room((int)((most - sink.waited_ns) / MR_NS_PER_MS + 1));
    sink.waited_ns += mr_boot_ns(&mr_clock_real) - now;
    return true;
}

/* Some of it. -1: errno. */
static ssize_t put(bool is_socket, const char *p, size_t len)
{
    if (is_socket)
        return send(STDERR_FILENO, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (len > PIPE_BUF)
        len = PIPE_BUF;
    if (sink.fd >= 0)
        return write(sink.fd, p, len);
    if (has_room(0))
        return write(STDERR_FILENO, p, len);
    errno = EAGAIN;
    return -1;
}

/* Returns what went. */
static size_t push(bool is_socket, const char *p, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = put(is_socket, p + done, len - done);

        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR && (errno != EAGAIN || !wait_for_room()))
            break;
    }
    return done;
}

static bool push_rest(bool is_socket)
{
    size_t n;

    if (sink.rest == NULL)
        return true;
    n = push(is_socket, sink.rest, sink.rest_len);
    sink.rest_len -= n;
    memmove(sink.rest, sink.rest + n, sink.rest_len);
    if (sink.rest_len > 0)
        return false;
    drop_rest();
    return true;
}

static bool push_line(bool is_socket, const char *text, size_t len)
{
    size_t n = push_rest(is_socket) ? push(is_socket, text, len) : 0;

    sink.stuck = n < len;
    if (n > 0 && n < len) {
        sink.rest_len = len - n;
        sink.rest = mr_memdup(text + n, sink.rest_len);
        atomic_store_explicit(&sink.torn, true, memory_order_relaxed);
    }
    return n > 0;
}

bool stderr_line(const char *text, size_t len)
{
    struct stat st;
    bool taken;

    if (fstat(STDERR_FILENO, &st) != 0)
        return false;
    if (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode))
        return write(STDERR_FILENO, text, len) == (ssize_t)len;
    pthread_mutex_lock(&sink.lock);
    look_at(&st);
    taken = push_line(S_ISSOCK(st.st_mode), text, len);
    pthread_mutex_unlock(&sink.lock);
    return taken;
}

static void on_alarm(int number)
{
    (void)number;
    abort();
}

void stderr_last_line(const char *line, size_t len)
{
    const struct itimerval soon = {.it_value = {.tv_usec = LAST_MS * 1000}};
    char end[] = "\n"; /* of the line before that went in part */
    struct iovec parts[] = {{end, atomic_load_explicit(&sink.torn, memory_order_relaxed) ? 1 : 0}, {(void *)line, len}};
    sigset_t alarm_only;

    (void)signal(SIGALRM, on_alarm);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    (void)pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL); /* other threads than the main one take no signals */
    (void)setitimer(ITIMER_REAL, &soon, NULL);
    if (writev(STDERR_FILENO, parts, 2) < 0)
        return; /* nobody to tell */
}
