/* pthread_* of program code, by the linker's --wrap: a thread is a coroutine, and what it waits for is a line of
 * coroutines inside the program's own pthread_mutex_t and pthread_cond_t (all zero is free, as PTHREAD_*_INITIALIZER).
 *
 * A mutex can be found locked only when its owner waits for something else while it holds it. */
#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

struct mutex {
    const void *owner; /* NULL: free */
    struct sim_waiters waiters;
};

struct condition {
    struct sim_waiters waiters;
    clockid_t clock;
};

_Static_assert(sizeof(struct mutex) <= sizeof(pthread_mutex_t), "room for our mutex");
_Static_assert(sizeof(struct condition) <= sizeof(pthread_cond_t), "room for our condition");

int __wrap_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int __wrap_pthread_join(pthread_t thread, void **result);
pthread_t __wrap_pthread_self(void);
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old);
int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr);
int __wrap_pthread_mutex_destroy(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr);
int __wrap_pthread_cond_destroy(pthread_cond_t *c);
int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);
int __wrap_pthread_cond_signal(pthread_cond_t *c);
int __wrap_pthread_cond_broadcast(pthread_cond_t *c);

/* ---- threads ---- */

int __wrap_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    (void)attr;
    mr_assert(sim_self() != NULL);
    *out = (pthread_t)sim_thread_new(sim_node(), run, arg);
    return 0;
}

int __wrap_pthread_join(pthread_t thread, void **result)
{
    void *r = sim_thread_join((struct sim_thread *)thread);
    if (result != NULL)
        *result = r;
    return 0;
}

pthread_t __wrap_pthread_self(void)
{
    return (pthread_t)sim_self();
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    (void)how;
    (void)set;
    if (old != NULL)
        sigemptyset(old);
    return 0;
}

/* ---- mutexes ---- */

static const char the_world;

static const void *caller(void)
{
    return sim_self() != NULL ? (const void *)sim_self() : &the_world;
}

int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
    (void)attr;
    memset(m, 0, sizeof(*m));
    return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *m)
{
    const struct mutex *mutex = (const struct mutex *)m;
    mr_assert(mutex->owner == NULL && mutex->waiters.first == NULL);
    return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
    struct mutex *mutex = (struct mutex *)m;
    mr_assert(mutex->owner != caller());
    while (mutex->owner != NULL) {
        mr_assert(sim_self() != NULL); /* the world cannot wait */
        sim_wait_add(&mutex->waiters, sim_self());
        (void)sim_park(SIM_NEVER);
    }
    mutex->owner = caller();
    return 0;
}

int __wrap_pthread_mutex_trylock(pthread_mutex_t *m)
{
    struct mutex *mutex = (struct mutex *)m;
    if (mutex->owner != NULL)
        return EBUSY;
    mutex->owner = caller();
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
    struct mutex *mutex = (struct mutex *)m;
    mr_assert(mutex->owner == caller());
    mutex->owner = NULL;
    struct sim_thread *next = sim_wait_take(&mutex->waiters);
    if (next != NULL)
        sim_unpark(next);
    return 0;
}

/* ---- conditions ---- */

int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr)
{
    struct condition *condition = (struct condition *)c;
    clockid_t clock = CLOCK_REALTIME;
    memset(c, 0, sizeof(*c));
    if (attr != NULL)
        (void)pthread_condattr_getclock(attr, &clock);
    condition->clock = clock;
    return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *c)
{
    mr_assert(((const struct condition *)c)->waiters.first == NULL);
    return 0;
}

/* False: not signalled before the deadline of the boot clock. */
static bool wait_until(struct condition *c, pthread_mutex_t *m, uint64_t deadline)
{
    struct sim_thread *self = sim_self();
    mr_assert(self != NULL);
    sim_wait_add(&c->waiters, self);
    (void)__wrap_pthread_mutex_unlock(m);
    bool signalled = sim_park(deadline);
    if (!signalled)
        sim_wait_remove(&c->waiters, self);
    (void)__wrap_pthread_mutex_lock(m);
    return signalled;
}

int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
    (void)wait_until((struct condition *)c, m, SIM_NEVER);
    return 0;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
    struct condition *condition = (struct condition *)c;
    uint64_t deadline = (uint64_t)until->tv_sec * MR_NS_PER_S + (uint64_t)until->tv_nsec;
    mr_assert(condition->clock == CLOCK_MONOTONIC); /* nobody waits by the wall */
    return wait_until(condition, m, deadline) ? 0 : ETIMEDOUT;
}

int __wrap_pthread_cond_signal(pthread_cond_t *c)
{
    struct sim_thread *t = sim_wait_take(&((struct condition *)c)->waiters);
    if (t != NULL)
        sim_unpark(t);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *c)
{
    struct sim_thread *t;
    while ((t = sim_wait_take(&((struct condition *)c)->waiters)) != NULL)
        sim_unpark(t);
    return 0;
}
