/* The turn of a loop: timers, pending callbacks, idle, prepare, poll (socket callbacks), check, close callbacks. */
#include "cluster/link_env.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

static void on_own_closed(uv_handle_t *handle)
{
    struct link_env *env = handle->data;
    mr_assert(env->own > 0);
    if (--env->own > 0)
        return;
    while (env->spare != NULL) {
        struct link_chunk *chunk = env->spare;
        env->spare = chunk->next;
        free(chunk);
    }
    env->closed_cb(env->closed_arg);
}

static void close_when_unused(struct link_env *env)
{
    if (!env->closing || env->handles > 0 || env->first != NULL || uv_is_closing((uv_handle_t *)&env->prepare))
        return;
    uv_close((uv_handle_t *)&env->prepare, on_own_closed);
    uv_close((uv_handle_t *)&env->check, on_own_closed);
    uv_close((uv_handle_t *)&env->idle, on_own_closed);
}

/* Runs those that wait now; what they queue waits for the next pass, so that a fast reader cannot keep us here for
 * ever. */
static void flush(struct link_env *env)
{
    struct link_turn *turn = env->first;
    if (turn == NULL)
        return;
    env->first = NULL;
    env->end = &env->first;
    env->flushing = true;
    while (turn != NULL) {
        struct link_turn *next = turn->next;
        turn->queued = false;
        turn->next = NULL;
        turn->run(turn);
        turn = next;
    }
    env->flushing = false;
    if (env->first == NULL)
        uv_idle_stop(&env->idle);
    close_when_unused(env);
}

static void on_prepare(uv_prepare_t *handle)
{
    flush(handle->data);
}

static void on_check(uv_check_t *handle)
{
    flush(handle->data);
}

static void on_idle(uv_idle_t *handle)
{
    (void)handle; /* that it is active keeps the loop from sleeping */
}

void link_env_init(struct link_env *env, uv_loop_t *loop)
{
    *env = (struct link_env){.loop = loop, .own = 3};
    env->end = &env->first;
    uv_prepare_init(loop, &env->prepare);
    uv_check_init(loop, &env->check);
    uv_idle_init(loop, &env->idle);
    env->prepare.data = env->check.data = env->idle.data = env;
    uv_prepare_start(&env->prepare, on_prepare);
    uv_check_start(&env->check, on_check);
    uv_unref((uv_handle_t *)&env->prepare);
    uv_unref((uv_handle_t *)&env->check);
}

void link_env_close(struct link_env *env, void (*closed_cb)(void *arg), void *arg)
{
    mr_assert(!env->closing);
    env->closing = true;
    env->closed_cb = closed_cb;
    env->closed_arg = arg;
    close_when_unused(env);
}

void link_env_handle_opened(struct link_env *env)
{
    env->handles++;
}

void link_env_handle_closed(struct link_env *env)
{
    mr_assert(env->handles > 0);
    env->handles--;
    close_when_unused(env);
}

void link_env_turn(struct link_env *env, struct link_turn *turn)
{
    if (turn->queued)
        return;
    if (env->first == NULL)
        uv_idle_start(&env->idle, on_idle);
    turn->queued = true;
    turn->next = NULL;
    *env->end = turn;
    env->end = &turn->next;
}

void link_env_forget(struct link_env *env, struct link_turn *turn)
{
    if (!turn->queued)
        return;
    mr_assert(!env->flushing);
    struct link_turn **at = &env->first;
    while (*at != turn)
        at = &(*at)->next;
    *at = turn->next;
    if (env->end == &turn->next)
        env->end = at;
    turn->queued = false;
}

struct link_chunk *link_env_chunk(struct link_env *env)
{
    struct link_chunk *chunk = env->spare;
    if (chunk != NULL) {
        env->spare = chunk->next;
        env->spares--;
    } else {
        chunk = mr_malloc(sizeof(*chunk));
    }
    chunk->next = NULL;
    chunk->begin = chunk->end = 0;
    return chunk;
}

void link_env_chunk_free(struct link_env *env, struct link_chunk *chunk)
{
    if (env->spares >= LINK_SPARE_CHUNKS) {
        free(chunk);
        return;
    }
    chunk->next = env->spare;
    env->spare = chunk;
    env->spares++;
}
