/* Threads of our libuv: uv_thread_*, semaphores, and the pool that does a process's blocking work (four threads, made
 * with the first work, as libuv's). Also the small change: texts of errors, buffers. */
#include "chaos-tests/sim/sim_uv.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- threads ---- */

struct thread_start {
    uv_thread_cb run;
    void *arg;
};

static void *run_thread(void *arg)
{
    struct thread_start start = *(struct thread_start *)arg;
    free(arg);
    start.run(start.arg);
    return NULL;
}

int uv_thread_create(uv_thread_t *thread, uv_thread_cb run, void *arg)
{
    struct thread_start *start = mr_malloc(sizeof(*start));
    mr_assert(sim_self() != NULL);
    *start = (struct thread_start){run, arg};
    *thread = (uv_thread_t)sim_thread_new(sim_node(), run_thread, start);
    return 0;
}

int uv_thread_join(uv_thread_t *thread)
{
    (void)sim_thread_join((struct sim_thread *)*thread);
    return 0;
}

uv_thread_t uv_thread_self(void)
{
    return (uv_thread_t)sim_self();
}

int uv_thread_equal(const uv_thread_t *a, const uv_thread_t *b)
{
    return *a == *b;
}

/* ---- mutexes and conditions: those of sim_threads.c, by the linker's --wrap ---- */

int uv_mutex_init(uv_mutex_t *m)
{
    return -pthread_mutex_init(m, NULL);
}

void uv_mutex_destroy(uv_mutex_t *m)
{
    (void)pthread_mutex_destroy(m);
}

void uv_mutex_lock(uv_mutex_t *m)
{
    (void)pthread_mutex_lock(m);
}

int uv_mutex_trylock(uv_mutex_t *m)
{
    return -pthread_mutex_trylock(m);
}

void uv_mutex_unlock(uv_mutex_t *m)
{
    (void)pthread_mutex_unlock(m);
}

int uv_cond_init(uv_cond_t *c)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = -pthread_cond_init(c, &attr);
    (void)pthread_condattr_destroy(&attr);
    return rc;
}

void uv_cond_destroy(uv_cond_t *c)
{
    (void)pthread_cond_destroy(c);
}

void uv_cond_signal(uv_cond_t *c)
{
    (void)pthread_cond_signal(c);
}

void uv_cond_broadcast(uv_cond_t *c)
{
    (void)pthread_cond_broadcast(c);
}

void uv_cond_wait(uv_cond_t *c, uv_mutex_t *m)
{
    (void)pthread_cond_wait(c, m);
}

int uv_cond_timedwait(uv_cond_t *c, uv_mutex_t *m, uint64_t ns)
{
    uint64_t until = uv_hrtime() + ns;
    struct timespec t = {.tv_sec = (time_t)(until / MR_NS_PER_S), .tv_nsec = (long)(until % MR_NS_PER_S)};
    return -pthread_cond_timedwait(c, m, &t);
}

/* ---- semaphores ---- */

struct semaphore {
    struct sim_waiters waiters;
    unsigned value;
};
_Static_assert(sizeof(struct semaphore) <= sizeof(uv_sem_t), "room for our semaphore");

int uv_sem_init(uv_sem_t *sem, unsigned value)
{
    *(struct semaphore *)sem = (struct semaphore){.value = value};
    return 0;
}

void uv_sem_destroy(uv_sem_t *sem)
{
    mr_assert(((struct semaphore *)sem)->waiters.first == NULL);
}

void uv_sem_post(uv_sem_t *sem)
{
    struct semaphore *s = (struct semaphore *)sem;
    s->value++;
    struct sim_thread *t = sim_wait_take(&s->waiters);
    if (t != NULL)
        sim_unpark(t);
}

void uv_sem_wait(uv_sem_t *sem)
{
    struct semaphore *s = (struct semaphore *)sem;
    while (s->value == 0) {
        sim_wait_add(&s->waiters, sim_self());
        (void)sim_park(SIM_NEVER);
    }
    s->value--;
}

int uv_sem_trywait(uv_sem_t *sem)
{
    struct semaphore *s = (struct semaphore *)sem;
    if (s->value == 0)
        return UV_EAGAIN;
    s->value--;
    return 0;
}

/* ---- the pool ---- */

enum { POOL_THREADS = 4 };

struct work {
    struct work *next;
    uv_loop_t *loop;
    uv_req_t *req; /* uv_work_t or uv_fs_t */
};

struct sim_pool {
    struct work *first, **last;
    struct sim_waiters idle;
};

static void work_done(void *arg)
{
    struct work *w = arg;
    uv_req_t *req = w->req;
    int cancelled = w->next == w ? UV_ECANCELED : 0;
    free(w);
    if (req->type == UV_WORK) {
        uv_work_t *work = (uv_work_t *)req;
        if (work->after_work_cb != NULL)
            work->after_work_cb(work, cancelled);
        return;
    }
    uv_fs_t *fs = (uv_fs_t *)req;
    if (cancelled != 0)
        fs->result = cancelled;
    fs->cb(fs);
}

static void sync_file(uv_fs_t *req)
{
    int rc = req->fs_type == UV_FS_FSYNC ? fsync(req->file) : fdatasync(req->file);
    req->result = rc < 0 ? -errno : 0;
}

static void *run_pool(void *arg)
{
    struct sim_pool *pool = arg;
    for (;;) {
        while (pool->first == NULL) {
            sim_wait_add(&pool->idle, sim_self());
            (void)sim_park(SIM_NEVER);
        }
        struct work *w = pool->first;
        pool->first = w->next;
        if (pool->first == NULL)
            pool->last = &pool->first;
        w->next = NULL;
        w->req->reserved[0] = NULL; /* too late to cancel it */
        if (w->req->type == UV_WORK)
            ((uv_work_t *)w->req)->work_cb((uv_work_t *)w->req);
        else
            sync_file((uv_fs_t *)w->req);
        sim_loop_of(w->loop)->requests--; /* the completion counts from here on */
        sim_loop_complete(w->loop, work_done, w);
    }
    return NULL;
}

static struct sim_pool *pool_of(struct sim_node_state *n)
{
    if (n->pool != NULL)
        return n->pool;
    n->pool = mr_calloc(1, sizeof(*n->pool));
    n->pool->last = &n->pool->first;
    for (int i = 0; i < POOL_THREADS; i++)
        (void)sim_thread_new(sim_node(), run_pool, n->pool);
    return n->pool;
}

static void queue(uv_loop_t *loop, uv_req_t *req)
{
    struct sim_pool *pool = pool_of(sim_node_get(sim_node()));
    struct work *w = mr_calloc(1, sizeof(*w));
    w->loop = loop;
    w->req = req;
    req->reserved[0] = w;
    sim_loop_of(loop)->requests++;
    *pool->last = w;
    pool->last = &w->next;
    struct sim_thread *t = sim_wait_take(&pool->idle);
    if (t != NULL)
        sim_unpark(t);
}

int uv_queue_work(uv_loop_t *loop, uv_work_t *req, uv_work_cb work, uv_after_work_cb after)
{
    if (work == NULL)
        return UV_EINVAL;
    req->type = UV_WORK;
    req->loop = loop;
    req->work_cb = work;
    req->after_work_cb = after;
    queue(loop, (uv_req_t *)req);
    return 0;
}

static int fs_sync(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_fs_type type, uv_fs_cb cb)
{
    req->type = UV_FS;
    req->fs_type = type;
    req->loop = loop;
    req->file = file;
    req->cb = cb;
    req->result = 0;
    if (cb == NULL) {
        sync_file(req);
        return (int)req->result;
    }
    queue(loop, (uv_req_t *)req);
    return 0;
}

int uv_fs_fsync(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_fs_cb cb)
{
    return fs_sync(loop, req, file, UV_FS_FSYNC, cb);
}

int uv_fs_fdatasync(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_fs_cb cb)
{
    return fs_sync(loop, req, file, UV_FS_FDATASYNC, cb);
}

void uv_fs_req_cleanup(uv_fs_t *req)
{
    (void)req; /* a sync has nothing of its own */
}

int uv_cancel(uv_req_t *req)
{
    struct work *w = req->reserved[0];
    if ((req->type != UV_WORK && req->type != UV_FS) || w == NULL)
        return UV_EBUSY;
    struct sim_pool *pool = pool_of(sim_node_get(sim_node()));
    struct work **at = &pool->first;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    if (*at == NULL)
        pool->last = at;
    w->next = w; /* how work_done knows */
    req->reserved[0] = NULL;
    sim_loop_of(w->loop)->requests--;
    sim_loop_complete(w->loop, work_done, w);
    return 0;
}

/* ---- small change ---- */

const char *uv_strerror(int error)
{
    switch (error) {
#define TEXT(name, text)                                                                                               \
    case UV_##name:                                                                                                    \
        return text;
        UV_ERRNO_MAP(TEXT)
#undef TEXT
    default:
        return "unknown error";
    }
}

const char *uv_err_name(int error)
{
    switch (error) {
#define NAME(name, text)                                                                                               \
    case UV_##name:                                                                                                    \
        return #name;
        UV_ERRNO_MAP(NAME)
#undef NAME
    default:
        return "unknown";
    }
}

int uv_translate_sys_error(int error)
{
    return error <= 0 ? error : -error;
}

uv_buf_t uv_buf_init(char *base, unsigned len)
{
    return (uv_buf_t){.base = base, .len = len};
}

int uv_ip4_addr(const char *ip, int port, struct sockaddr_in *out)
{
    memset(out, 0, sizeof(*out));
    out->sin_family = AF_INET;
    out->sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, ip, &out->sin_addr) == 1 ? 0 : UV_EINVAL;
}

int uv_ip6_addr(const char *ip, int port, struct sockaddr_in6 *out)
{
    memset(out, 0, sizeof(*out));
    out->sin6_family = AF_INET6;
    out->sin6_port = htons((uint16_t)port);
    return inet_pton(AF_INET6, ip, &out->sin6_addr) == 1 ? 0 : UV_EINVAL;
}
