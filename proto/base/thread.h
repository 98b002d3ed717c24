/* thread.h - how this project's threads are started. */
#ifndef MR_BASE_THREAD_H
#define MR_BASE_THREAD_H

#include <pthread.h>

/* As pthread_create, with all signals blocked in the new thread: they are the main thread's. 0 or an errno. */
int mr_thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg);
/* A condition variable whose timed waits count by CLOCK_MONOTONIC. */
void mr_cond_init(pthread_cond_t *cond);

#endif
