/* busy.h - says to other threads that this one is inside of a call that may hang (to the disk).
 *
 * One struct belongs to one line of calls, of which one is under way at a time: those of a thread, or an asynchronous
 * one and the next. Whoever watches keeps the number that it saw: the same odd one later means the same call, still
 * inside. Functions take NULL: nobody watches. Thread: begin, step and end one at a time; reading any. */
#ifndef MR_BASE_BUSY_H
#define MR_BASE_BUSY_H

#include <stdatomic.h>
#include <stddef.h>

struct busy {
    atomic_uint turns; /* odd: inside */
};

static inline void busy_begin(struct busy *b)
{
    if (b != NULL)
        atomic_fetch_add_explicit(&b->turns, 1, memory_order_relaxed);
}

/* That call came back, and the next begins. */
static inline void busy_step(struct busy *b)
{
    if (b != NULL)
        atomic_fetch_add_explicit(&b->turns, 2, memory_order_relaxed);
}

static inline void busy_end(struct busy *b)
{
    if (b != NULL)
        atomic_fetch_add_explicit(&b->turns, 1, memory_order_relaxed);
}

#endif
