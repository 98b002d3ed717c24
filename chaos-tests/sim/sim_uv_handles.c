/* Handles of our libuv: what all have in common, timers, and the three watchers of a loop's turns. */
#include "chaos-tests/sim/sim_uv.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <stdlib.h>

/* ---- any handle ---- */

void sim_handle_init(uv_loop_t *loop, uv_handle_t *handle, uv_handle_type type)
{
    handle->loop = loop;
    handle->type = type;
    handle->flags = HANDLE_REF;
    handle->close_cb = NULL;
    handle->next_closing = NULL;
    sim_loop_of(loop)->handles++;
}

void sim_handle_start(uv_handle_t *handle)
{
    if ((handle->flags & HANDLE_ACTIVE) != 0)
        return;
    handle->flags |= HANDLE_ACTIVE;
    if ((handle->flags & HANDLE_REF) != 0)
        sim_loop_of(handle->loop)->active++;
}

void sim_handle_stop(uv_handle_t *handle)
{
    if ((handle->flags & HANDLE_ACTIVE) == 0)
        return;
    handle->flags &= ~(unsigned)HANDLE_ACTIVE;
    if ((handle->flags & HANDLE_REF) != 0)
        sim_loop_of(handle->loop)->active--;
}

void uv_ref(uv_handle_t *handle)
{
    if ((handle->flags & HANDLE_REF) != 0)
        return;
    handle->flags |= HANDLE_REF;
    if ((handle->flags & HANDLE_ACTIVE) != 0)
        sim_loop_of(handle->loop)->active++;
}

void uv_unref(uv_handle_t *handle)
{
    if ((handle->flags & HANDLE_REF) == 0)
        return;
    handle->flags &= ~(unsigned)HANDLE_REF;
    if ((handle->flags & HANDLE_ACTIVE) != 0)
        sim_loop_of(handle->loop)->active--;
}

int uv_has_ref(const uv_handle_t *handle)
{
    return (handle->flags & HANDLE_REF) != 0;
}

int uv_is_active(const uv_handle_t *handle)
{
    return (handle->flags & HANDLE_ACTIVE) != 0;
}

int uv_is_closing(const uv_handle_t *handle)
{
    return (handle->flags & (HANDLE_CLOSING | HANDLE_CLOSED)) != 0;
}

void *uv_handle_get_data(const uv_handle_t *handle)
{
    return handle->data;
}

void uv_handle_set_data(uv_handle_t *handle, void *data)
{
    handle->data = data;
}

uv_loop_t *uv_handle_get_loop(const uv_handle_t *handle)
{
    return handle->loop;
}

/* ---- timers: by time, then by the order of starting ---- */

static bool earlier(const uv_timer_t *a, const uv_timer_t *b)
{
    return a->timeout != b->timeout ? a->timeout < b->timeout : a->start_id < b->start_id;
}

static void put(struct sim_loop *l, uint32_t at, uv_timer_t *timer)
{
    l->timers[at] = timer;
    timer->heap_node[0] = (void *)(uintptr_t)at;
}

static void settle(struct sim_loop *l, uint32_t at, uv_timer_t *timer)
{
    while (at > 0 && earlier(timer, l->timers[(at - 1) / 2])) {
        put(l, at, l->timers[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (uint32_t child; (child = at * 2 + 1) < l->timers_count; at = child) {
        if (child + 1 < l->timers_count && earlier(l->timers[child + 1], l->timers[child]))
            child++;
        if (!earlier(l->timers[child], timer))
            break;
        put(l, at, l->timers[child]);
    }
    put(l, at, timer);
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer)
{
    sim_handle_init(loop, (uv_handle_t *)timer, UV_TIMER);
    timer->timer_cb = NULL;
    timer->timeout = timer->repeat = 0;
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
{
    struct sim_loop *l = sim_loop_of(timer->loop);
    if (uv_is_closing((uv_handle_t *)timer) || cb == NULL)
        return UV_EINVAL;
    (void)uv_timer_stop(timer);
    timer->timer_cb = cb;
    timer->timeout = timeout > UINT64_MAX - timer->loop->time ? UINT64_MAX : timer->loop->time + timeout;
    timer->repeat = repeat;
    timer->start_id = l->next_timer++;
    if (l->timers_count == l->timers_room) {
        l->timers_room = l->timers_room == 0 ? 16 : l->timers_room * 2;
        l->timers = mr_realloc(l->timers, l->timers_room * sizeof(struct uv_timer_s *));
    }
    settle(l, l->timers_count++, timer);
    sim_handle_start((uv_handle_t *)timer);
    return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
    struct sim_loop *l = sim_loop_of(timer->loop);
    if (!uv_is_active((uv_handle_t *)timer))
        return 0;
    uint32_t at = (uint32_t)(uintptr_t)timer->heap_node[0];
    uv_timer_t *last = l->timers[--l->timers_count];
    if (last != timer)
        settle(l, at, last);
    sim_handle_stop((uv_handle_t *)timer);
    return 0;
}

int uv_timer_again(uv_timer_t *timer)
{
    if (timer->timer_cb == NULL)
        return UV_EINVAL;
    if (timer->repeat == 0)
        return 0;
    (void)uv_timer_stop(timer);
    return uv_timer_start(timer, timer->timer_cb, timer->repeat, timer->repeat);
}

void uv_timer_set_repeat(uv_timer_t *timer, uint64_t repeat)
{
    timer->repeat = repeat;
}

uint64_t uv_timer_get_repeat(const uv_timer_t *timer)
{
    return timer->repeat;
}

uint64_t uv_timer_get_due_in(const uv_timer_t *timer)
{
    return timer->loop->time >= timer->timeout ? 0 : timer->timeout - timer->loop->time;
}

bool sim_timers_next(const uv_loop_t *loop, uint64_t *timeout_ms)
{
    const struct sim_loop *l = sim_loop_of(loop);
    if (l->timers_count == 0)
        return false;
    *timeout_ms = l->timers[0]->timeout;
    return true;
}

void sim_timers_run(uv_loop_t *loop)
{
    struct sim_loop *l = sim_loop_of(loop);
    while (l->timers_count > 0 && l->timers[0]->timeout <= loop->time) {
        uv_timer_t *timer = l->timers[0];
        (void)uv_timer_stop(timer);
        (void)uv_timer_again(timer);
        timer->timer_cb(timer);
    }
}

/* ---- idle, prepare, check ---- */

static sim_ring *ring_of(struct sim_loop *l, uv_handle_type type)
{
    return type == UV_IDLE ? &l->idle : type == UV_PREPARE ? &l->prepare : &l->check;
}

static int watcher_start(uv_handle_t *handle, void **queue)
{
    if (uv_is_active(handle))
        return 0;
    sim_ring_add_first(ring_of(sim_loop_of(handle->loop), handle->type), queue); /* the newest is first */
    sim_handle_start(handle);
    return 0;
}

static int watcher_stop(uv_handle_t *handle, void **queue)
{
    if (!uv_is_active(handle))
        return 0;
    sim_ring_remove(queue);
    sim_handle_stop(handle);
    return 0;
}

#define WATCHER(name, NAME)                                                                                            \
    int uv_##name##_init(uv_loop_t *loop, uv_##name##_t *handle)                                                       \
    {                                                                                                                  \
        sim_handle_init(loop, (uv_handle_t *)handle, NAME);                                                            \
        handle->name##_cb = NULL;                                                                                      \
        return 0;                                                                                                      \
    }                                                                                                                  \
    int uv_##name##_start(uv_##name##_t *handle, uv_##name##_cb cb)                                                    \
    {                                                                                                                  \
        if (uv_is_active((uv_handle_t *)handle))                                                                       \
            return 0;                                                                                                  \
        if (cb == NULL)                                                                                                \
            return UV_EINVAL;                                                                                          \
        handle->name##_cb = cb;                                                                                        \
        return watcher_start((uv_handle_t *)handle, handle->queue);                                                    \
    }                                                                                                                  \
    int uv_##name##_stop(uv_##name##_t *handle)                                                                        \
    {                                                                                                                  \
        return watcher_stop((uv_handle_t *)handle, handle->queue);                                                     \
    }                                                                                                                  \
    static void name##_run(void **queue)                                                                               \
    {                                                                                                                  \
        uv_##name##_t *handle = (uv_##name##_t *)((char *)queue - offsetof(uv_##name##_t, queue));                     \
        handle->name##_cb(handle);                                                                                     \
    }

WATCHER(idle, UV_IDLE)
WATCHER(prepare, UV_PREPARE)
WATCHER(check, UV_CHECK)

static void watcher_run(void **queue, uv_handle_type type)
{
    if (type == UV_IDLE)
        idle_run(queue);
    else if (type == UV_PREPARE)
        prepare_run(queue);
    else
        check_run(queue);
}

void sim_watchers_run(uv_loop_t *loop, uv_handle_type type)
{
    sim_ring *ring = ring_of(sim_loop_of(loop), type);
    sim_ring now;
    if (sim_ring_empty(ring))
        return;
    if ((*ring)[0] == (*ring)[1]) { /* the only one stays where it is; what it starts has the next turn */
        watcher_run((*ring)[0], type);
        return;
    }
    sim_ring_move(ring, &now);
    while (!sim_ring_empty(&now)) {
        void **queue = now[0];
        sim_ring_remove(queue);
        sim_ring_add_last(ring, queue);
        watcher_run(queue, type);
    }
}
