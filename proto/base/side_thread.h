/* side_thread.h - a thread for one piece of work, whose end is told on a loop.
 *
 * T1: done comes exactly once, on the loop, never before side_thread_start has returned; the thread has ended then, and
 * nothing of the struct is used any more: done may free it. The loop goes on until then.
 * Thread: the loop's; work has its own. No thread to be had is a panic. */
#ifndef MR_BASE_SIDE_THREAD_H
#define MR_BASE_SIDE_THREAD_H

#include <pthread.h>
#include <uv.h>

struct side_thread {
    pthread_t thread;
    uv_async_t ended;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

void side_thread_start(struct side_thread *t, uv_loop_t *loop, void (*work)(void *arg), void (*done)(void *arg),
                       void *arg);

#endif
