/* libuv's loop over simulated time: loops, polling, posts, asyncs, closing. Timers and watchers: sim_uv_handles.c;
 * threads, semaphores and the pool: sim_uv_threads.c.
 *
 * The order of a turn is libuv 1.44's: timers, idle, prepare, poll, check, closing. To poll is to park until something
 * comes or the next timer is due; with nothing to wait for it only lets others run. What is not here does not link:
 * the build checks that the program takes no uv_ symbol from a shared library. */
#include "chaos-tests/sim/sim_uv.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- rings ---- */

static void **next_of(void **queue)
{
    return queue[0];
}

void sim_ring_init(sim_ring *ring)
{
    (*ring)[0] = (*ring)[1] = ring;
}

bool sim_ring_empty(const sim_ring *ring)
{
    return (*ring)[0] == (const void *)ring;
}

static void insert(void **queue, void **before, void **after)
{
    queue[0] = after;
    queue[1] = before;
    before[0] = queue;
    after[1] = queue;
}

void sim_ring_add_first(sim_ring *ring, void **queue)
{
    insert(queue, *ring, (*ring)[0]);
}

void sim_ring_add_last(sim_ring *ring, void **queue)
{
    insert(queue, (*ring)[1], *ring);
}

void sim_ring_remove(void **queue)
{
    void **before = queue[1], **after = queue[0];
    before[0] = after;
    after[1] = before;
}

void sim_ring_move(sim_ring *ring, sim_ring *to)
{
    sim_ring_init(to);
    if (sim_ring_empty(ring))
        return;
    void **first = (*ring)[0], **last = (*ring)[1];
    (*to)[0] = first;
    (*to)[1] = last;
    first[1] = to;
    last[0] = to;
    sim_ring_init(ring);
}

/* ---- loops ---- */

int uv_loop_init(uv_loop_t *loop)
{
    void *data = loop->data;
    struct sim_loop *l = mr_calloc(1, sizeof(*l));
    mr_assert(sim_node() != 0);
    memset(loop, 0, sizeof(*loop));
    loop->data = data;
    loop->internal_fields = l;
    l->node = sim_node();
    l->life = sim_node_life(l->node);
    sim_ring_init(&l->idle);
    sim_ring_init(&l->prepare);
    sim_ring_init(&l->check);
    sim_ring_init(&l->asyncs);
    uv_update_time(loop);
    return 0;
}

int uv_loop_close(uv_loop_t *loop)
{
    struct sim_loop *l = sim_loop_of(loop);
    if (l->handles > 0 || l->requests > 0)
        return UV_EBUSY;
    free(l->timers);
    free(l);
    loop->internal_fields = NULL;
    return 0;
}

int uv_loop_alive(const uv_loop_t *loop)
{
    const struct sim_loop *l = sim_loop_of(loop);
    return l->active > 0 || l->requests > 0 || l->closing != NULL;
}

void uv_update_time(uv_loop_t *loop)
{
    loop->time = sim_node_boot_ns(sim_loop_of(loop)->node) / MR_NS_PER_MS;
}

uint64_t uv_now(const uv_loop_t *loop)
{
    return loop->time;
}

uint64_t uv_hrtime(void)
{
    return sim_node() == 0 ? sim_now() : sim_node_boot_ns(sim_node());
}

void uv_stop(uv_loop_t *loop)
{
    loop->stop_flag = 1;
}

void sim_loop_wake(struct sim_loop *l)
{
    if (l->waiting != NULL)
        sim_unpark(l->waiting);
}

/* ---- posts ---- */

static struct sim_post *post_new(uv_loop_t *loop, void (*run)(void *arg), void *arg)
{
    struct sim_loop *l = sim_loop_of(loop);
    struct sim_post *p = sim_post_new();
    p->node = l->node;
    p->life = l->life;
    p->loop = loop;
    p->run = run;
    p->arg = arg;
    l->requests++;
    return p;
}

void sim_loop_post(uv_loop_t *loop, uint64_t when, void (*run)(void *arg), void *arg)
{
    struct sim_post *p = post_new(loop, run, arg);
    sim_event_set(&p->event, when);
}

static void enqueue(struct sim_post *p)
{
    struct sim_loop *l = sim_loop_of(p->loop);
    p->next = NULL;
    if (l->posts == NULL)
        l->posts = p;
    else
        l->posts_last->next = p;
    l->posts_last = p;
    sim_loop_wake(l);
}

void sim_loop_complete(uv_loop_t *loop, void (*run)(void *arg), void *arg)
{
    enqueue(post_new(loop, run, arg));
}

void sim_loop_deliver(struct sim_post *p)
{
    if (!sim_node_alive(p->node) || sim_node_life(p->node) != p->life) {
        sim_post_free(p);
        return;
    }
    enqueue(p);
}

static void run_posts(struct sim_loop *l)
{
    const struct sim_post *end = l->posts_last;
    while (l->posts != NULL) {
        struct sim_post *p = l->posts;
        void (*run)(void *arg) = p->run;
        void *arg = p->arg;
        bool last = p == end;
        l->posts = p->next;
        sim_post_free(p);
        l->requests--;
        run(arg);
        if (last)
            return; /* what came meanwhile has the next turn */
    }
}

/* ---- asyncs ---- */

int uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb cb)
{
    sim_handle_init(loop, (uv_handle_t *)async, UV_ASYNC);
    async->async_cb = cb;
    async->pending = 0;
    sim_ring_add_last(&sim_loop_of(loop)->asyncs, async->queue);
    sim_handle_start((uv_handle_t *)async);
    return 0;
}

int uv_async_send(uv_async_t *async)
{
    struct sim_loop *l = sim_loop_of(async->loop);
    if (async->pending)
        return 0;
    async->pending = 1;
    l->asyncs_pending++;
    sim_loop_wake(l);
    return 0;
}

static void run_asyncs(struct sim_loop *l)
{
    sim_ring now;
    if (l->asyncs_pending == 0)
        return;
    sim_ring_move(&l->asyncs, &now);
    while (!sim_ring_empty(&now)) {
        void **queue = next_of(now);
        uv_async_t *async = (uv_async_t *)((char *)queue - offsetof(uv_async_t, queue));
        sim_ring_remove(queue);
        sim_ring_add_last(&l->asyncs, queue);
        if (!async->pending)
            continue;
        async->pending = 0;
        l->asyncs_pending--;
        if (async->async_cb != NULL)
            async->async_cb(async);
    }
}

/* ---- closing ---- */

void uv_close(uv_handle_t *handle, uv_close_cb cb)
{
    struct sim_loop *l = sim_loop_of(handle->loop);
    mr_assert((handle->flags & (HANDLE_CLOSING | HANDLE_CLOSED)) == 0);
    switch (handle->type) {
    case UV_TIMER:
        (void)uv_timer_stop((uv_timer_t *)handle);
        break;
    case UV_IDLE:
        (void)uv_idle_stop((uv_idle_t *)handle);
        break;
    case UV_PREPARE:
        (void)uv_prepare_stop((uv_prepare_t *)handle);
        break;
    case UV_CHECK:
        (void)uv_check_stop((uv_check_t *)handle);
        break;
    case UV_ASYNC:
        if (((uv_async_t *)handle)->pending)
            l->asyncs_pending--;
        ((uv_async_t *)handle)->pending = 0;
        sim_ring_remove(((uv_async_t *)handle)->queue);
        sim_handle_stop(handle);
        break;
    case UV_TCP: /* a listening one; sim_links.c has no other */
        sim_handle_stop(handle);
        break;
    default:
        mr_panic("uv_close of a handle of type %d", (int)handle->type);
    }
    handle->flags |= HANDLE_CLOSING;
    handle->close_cb = cb;
    handle->next_closing = l->closing;
    l->closing = handle;
}

static void run_closing(struct sim_loop *l)
{
    uv_handle_t *handle = l->closing;
    l->closing = NULL;
    while (handle != NULL) {
        uv_handle_t *next = handle->next_closing;
        handle->flags |= HANDLE_CLOSED;
        l->handles--;
        if (handle->close_cb != NULL)
            handle->close_cb(handle); /* may free it */
        handle = next;
    }
}

/* ---- a turn ---- */

static bool must_not_wait(const uv_loop_t *loop)
{
    const struct sim_loop *l = sim_loop_of(loop);
    return loop->stop_flag != 0 || (l->active == 0 && l->requests == 0) || !sim_ring_empty(&l->idle) ||
           l->closing != NULL;
}

/* The boot clock's time at which the poll ends by itself; 0: at once. */
static uint64_t poll_deadline(const uv_loop_t *loop)
{
    uint64_t due;
    if (must_not_wait(loop))
        return 0;
    if (!sim_timers_next(loop, &due))
        return SIM_NEVER;
    if (due <= loop->time)
        return 0;
    return due < SIM_NEVER / MR_NS_PER_MS ? due * MR_NS_PER_MS : SIM_NEVER;
}

static void poll(uv_loop_t *loop, bool wait)
{
    struct sim_loop *l = sim_loop_of(loop);
    uint64_t deadline = wait ? poll_deadline(loop) : 0;
    if (deadline == 0 || l->posts != NULL || l->asyncs_pending > 0) {
        sim_yield(0);
    } else {
        l->waiting = sim_self();
        (void)sim_park(deadline);
        l->waiting = NULL;
    }
    uv_update_time(loop);
    if (l->posts != NULL && l->asyncs_pending > 0 && sim_below(SIM_SCHEDULE, 2) == 0) {
        run_asyncs(l);
        run_posts(l);
    } else {
        run_posts(l);
        run_asyncs(l);
    }
}

int uv_run(uv_loop_t *loop, uv_run_mode mode)
{
    struct sim_loop *l = sim_loop_of(loop);
    mr_assert(sim_node() == l->node && l->waiting == NULL);
    int alive = uv_loop_alive(loop);
    if (!alive)
        uv_update_time(loop);
    while (alive && loop->stop_flag == 0) {
        uv_update_time(loop);
        sim_timers_run(loop);
        sim_watchers_run(loop, UV_IDLE);
        sim_watchers_run(loop, UV_PREPARE);
        poll(loop, mode != UV_RUN_NOWAIT);
        sim_watchers_run(loop, UV_CHECK);
        run_closing(l);
        if (mode == UV_RUN_ONCE) { /* it promises progress, and a timer may be all that the poll has waited for */
            uv_update_time(loop);
            sim_timers_run(loop);
        }
        alive = uv_loop_alive(loop);
        if (mode != UV_RUN_DEFAULT)
            break;
    }
    loop->stop_flag = 0;
    return alive;
}
