/* disk_watch.c - see disk_watch.h. A look compares each slot's number with that of the look before: the same odd one is
 * the same call. */
#include "cluster/disk_watch.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "proto/base/thread.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

struct slot {
    struct busy busy;
    const char *what;
    unsigned seen;    /* turns at the last look */
    uint64_t seen_ns; /* running time when they were first seen */
};

struct disk_watch {
    struct slot slots[DISK_WATCH_SLOTS];
    unsigned n_slots;
    uint64_t last_ns;    /* of the last look; 0: none */
    uint64_t running_ns; /* W2 */
    _Atomic uint64_t slow_ms;
    const char *_Atomic slow_what;
    bool started;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop; /* mutex */
};

struct disk_watch *disk_watch_open(void)
{
    return mr_calloc(1, sizeof(struct disk_watch));
}

struct busy *disk_watch_add(struct disk_watch *w, const char *what)
{
    mr_assert(!w->started && w->n_slots < DISK_WATCH_SLOTS);
    struct slot *s = &w->slots[w->n_slots++];
    s->what = what;
    return &s->busy;
}

uint64_t disk_watch_look(struct disk_watch *w, uint64_t now_ns)
{
    const struct slot *oldest = NULL;
    uint64_t age_ns = 0;

    if (w->last_ns != 0 && now_ns > w->last_ns) {
        uint64_t gap = now_ns - w->last_ns;
        w->running_ns += gap > DISK_GAP_MS * MR_NS_PER_MS ? DISK_GAP_MS * MR_NS_PER_MS : gap;
    }
    w->last_ns = now_ns;
    for (unsigned i = 0; i < w->n_slots; i++) {
        struct slot *s = &w->slots[i];
        unsigned turns = atomic_load_explicit(&s->busy.turns, memory_order_relaxed);
        if (turns % 2 == 0 || turns != s->seen) {
            s->seen = turns;
            s->seen_ns = w->running_ns;
        } else if (w->running_ns - s->seen_ns > age_ns) {
            age_ns = w->running_ns - s->seen_ns;
            oldest = s;
        }
    }
    uint64_t age_ms = age_ns / MR_NS_PER_MS;
    if (age_ms >= DISK_DEAD_MS)
        mr_panic("%s has not come back for %llu ms: the disk hangs", oldest->what, (unsigned long long)age_ms);
    if (age_ms >= DISK_SLOW_MS)
        atomic_store(&w->slow_what, oldest->what);
    atomic_store(&w->slow_ms, age_ms >= DISK_SLOW_MS ? age_ms : 0);
    return age_ms;
}

uint64_t disk_watch_slow_ms(const struct disk_watch *w, const char **what)
{
    uint64_t slow = atomic_load(&w->slow_ms);

    if (what != NULL)
        *what = slow == 0 ? NULL : atomic_load(&w->slow_what);
    return slow;
}

/* ---- thread ---- */

static void *run(void *arg)
{
    struct disk_watch *w = arg;

    pthread_mutex_lock(&w->mutex);
    while (!w->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(DISK_LOOK_MS * MR_NS_PER_MS);
        until.tv_sec += until.tv_nsec / (long)MR_NS_PER_S;
        until.tv_nsec %= (long)MR_NS_PER_S;
        (void)pthread_cond_timedwait(&w->wake, &w->mutex, &until);
        (void)disk_watch_look(w, mr_boot_ns(&mr_clock_real));
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

int disk_watch_start(struct disk_watch *w)
{
    mr_cond_init(&w->wake);
    pthread_mutex_init(&w->mutex, NULL);
    w->started = mr_thread_start(&w->thread, run, w) == 0;
    if (w->started)
        return 0;
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->wake);
    return MR_NOMEM;
}

void disk_watch_close(struct disk_watch *w)
{
    if (w->started) {
        pthread_mutex_lock(&w->mutex);
        w->stop = true;
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->mutex);
        pthread_join(w->thread, NULL);
        pthread_mutex_destroy(&w->mutex);
        pthread_cond_destroy(&w->wake);
    }
    free(w);
}
