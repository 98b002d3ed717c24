/* panic.h - the end of the process for a bug or for lost durability.
 *
 * mr_assert is always on, has no side effect, and is never used on what disk, network or a peer says.
 * Thread: any; mr_panic writes one line to stderr and aborts, at the latest after half a second. */
#ifndef MR_BASE_PANIC_H
#define MR_BASE_PANIC_H

__attribute__((noreturn, format(printf, 3, 4))) void mr_panic_at(const char *file, int line, const char *format, ...);

#define mr_panic(...) mr_panic_at(__FILE__, __LINE__, __VA_ARGS__)
#define mr_assert(condition)                                                                                           \
    do {                                                                                                               \
        if (__builtin_expect(!(condition), 0))                                                                         \
            mr_panic("assertion failed: %s", #condition);                                                              \
    } while (0)

#endif
