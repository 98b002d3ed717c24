/* slow_thread.h - a thread for computing that takes milliseconds: password hashes. Neither a worker's loop nor libuv's
 * pool, which belongs to the log (PROTOCOL.md 8.6), may be held up by it.
 *
 * W1: work runs on the thread, then done exactly once on the loop of the job's home. W2: jobs run in the order in which
 * they were taken. W3: at most SLOW_QUEUE wait; more are refused at once, so that a storm of logins costs bounded
 * memory and an honest client learns soon that it should come back.
 * Thread: offer from any. */
#ifndef MR_AUTH_SLOW_THREAD_H
#define MR_AUTH_SLOW_THREAD_H

#include "proto/base/mailbox.h"

enum { SLOW_QUEUE = 256 };

struct slow_thread;

/* Embedded in the caller's own request, which stays until done. */
struct slow_job {
    struct mail mail; /* ours */
    struct slow_job *next;
    struct mailbox *home;
    void (*work)(struct slow_job *job);
    void (*done)(struct slow_job *job);
};

/* MR_IO: no thread to be had. */
int slow_thread_open(struct slow_thread **out);
/* home, work and done are set by the caller. MR_BUSY: too many wait; nothing was taken. */
int slow_thread_offer(struct slow_thread *t, struct slow_job *job);
/* What waits still runs. Homes must outlive it or have nothing under way. */
void slow_thread_close(struct slow_thread *t);

#endif
