/* Happy path: slow_thread_offer -> (thread) work -> mailbox of the home -> done. */
#include "node/auth/slow_thread.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

struct slow_thread {
    uv_thread_t thread;
    uv_mutex_t mutex; /* of all below */
    uv_cond_t changed;
    struct slow_job *first, **last;
    unsigned waiting;
    bool closing;
};

static void run_done(struct mail *mail)
{
    struct slow_job *job = MR_CONTAINER(mail, struct slow_job, mail);

    job->done(job); /* may free it */
}

static void run(void *arg)
{
    struct slow_thread *t = arg;

    uv_mutex_lock(&t->mutex);
    for (;;) {
        struct slow_job *job = t->first;

        if (job == NULL && t->closing)
            break;
        if (job == NULL) {
            uv_cond_wait(&t->changed, &t->mutex);
            continue;
        }
        t->first = job->next;
        if (t->first == NULL)
            t->last = &t->first;
        t->waiting--;
        uv_mutex_unlock(&t->mutex);
        job->work(job);
        job->mail.run = run_done;
        mailbox_post(job->home, &job->mail);
        uv_mutex_lock(&t->mutex);
    }
    uv_mutex_unlock(&t->mutex);
}

int slow_thread_open(struct slow_thread **out)
{
    struct slow_thread *t = mr_calloc(1, sizeof(*t));

    t->last = &t->first;
    mr_assert(uv_mutex_init(&t->mutex) == 0);
    mr_assert(uv_cond_init(&t->changed) == 0);
    if (uv_thread_create(&t->thread, run, t) != 0) {
        uv_cond_destroy(&t->changed);
        uv_mutex_destroy(&t->mutex);
        free(t);
        return MR_IO;
    }
    *out = t;
    return 0;
}

int slow_thread_offer(struct slow_thread *t, struct slow_job *job)
{
    int rc = MR_BUSY;

    uv_mutex_lock(&t->mutex);
    if (t->waiting < SLOW_QUEUE && !t->closing) {
        job->next = NULL;
        *t->last = job;
        t->last = &job->next;
        t->waiting++;
        uv_cond_signal(&t->changed);
        rc = 0;
    }
    uv_mutex_unlock(&t->mutex);
    return rc;
}

void slow_thread_close(struct slow_thread *t)
{
    if (t == NULL)
        return;
    uv_mutex_lock(&t->mutex);
    t->closing = true;
    uv_cond_signal(&t->changed);
    uv_mutex_unlock(&t->mutex);
    uv_thread_join(&t->thread);
    uv_cond_destroy(&t->changed);
    uv_mutex_destroy(&t->mutex);
    free(t);
}
