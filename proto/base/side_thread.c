#include "proto/base/side_thread.h"

#include "proto/base/panic.h"
#include "proto/base/thread.h"

static void *run(void *arg)
{
    struct side_thread *t = arg;

    t->work(t->arg);
    (void)uv_async_send(&t->ended);
    return NULL;
}

static void closed(uv_handle_t *handle)
{
    struct side_thread *t = handle->data;

    t->done(t->arg);
}

static void on_ended(uv_async_t *handle)
{
    struct side_thread *t = handle->data;

    if (uv_is_closing((uv_handle_t *)handle))
        return;
    pthread_join(t->thread, NULL);
    uv_close((uv_handle_t *)handle, closed);
}

void side_thread_start(struct side_thread *t, uv_loop_t *loop, void (*work)(void *arg), void (*done)(void *arg),
                       void *arg)
{
    t->work = work;
    t->done = done;
    t->arg = arg;
    t->ended.data = t;
    if (uv_async_init(loop, &t->ended, on_ended) != 0 || mr_thread_start(&t->thread, run, t) != 0)
        mr_panic("no thread to be had");
}
