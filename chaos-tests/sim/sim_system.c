/* What program code asks the system besides files: time, chance, the log, and its own end. By the linker's --wrap. */
#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/hash.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>

int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_gettimeofday(struct timeval *t, void *zone);
time_t __wrap_time(time_t *out);
ssize_t __wrap_getrandom(void *data, size_t len, unsigned flags);
int __wrap_rand(void);
void __wrap_srand(unsigned seed);
void __wrap_log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count);
__attribute__((noreturn, format(printf, 3, 4))) void __wrap_mr_panic_at(const char *file, int line, const char *format,
                                                                        ...);
__attribute__((noreturn)) void __wrap_abort(void);
__attribute__((noreturn)) void __wrap___assert_fail(const char *what, const char *file, unsigned line,
                                                    const char *function);

/* ---- time ---- */

/* In the world the clocks show the world's time since an arbitrary begin. */
static uint64_t clock_ns(clockid_t clock)
{
    unsigned node = sim_node();
    if (node == 0)
        return sim_now();
    return clock == CLOCK_REALTIME ? sim_node_wall_ms(node) * MR_NS_PER_MS : sim_node_boot_ns(node);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME) {
        errno = EINVAL;
        return -1;
    }
    uint64_t ns = clock_ns(clock);
    *t = (struct timespec){.tv_sec = (time_t)(ns / MR_NS_PER_S), .tv_nsec = (long)(ns % MR_NS_PER_S)};
    return 0;
}

int __wrap_gettimeofday(struct timeval *t, void *zone)
{
    (void)zone;
    uint64_t ns = clock_ns(CLOCK_REALTIME);
    *t = (struct timeval){.tv_sec = (time_t)(ns / MR_NS_PER_S), .tv_usec = (suseconds_t)(ns % MR_NS_PER_S / 1000)};
    return 0;
}

time_t __wrap_time(time_t *out)
{
    time_t t = (time_t)(clock_ns(CLOCK_REALTIME) / MR_NS_PER_S);
    if (out != NULL)
        *out = t;
    return t;
}

/* ---- chance ---- */

ssize_t __wrap_getrandom(void *data, size_t len, unsigned flags)
{
    (void)flags;
    uint8_t *at = data;
    for (size_t done = 0; done < len; done += 8) {
        uint64_t r = sim_random(SIM_PROGRAM);
        memcpy(at + done, &r, len - done < 8 ? len - done : 8);
    }
    return (ssize_t)len;
}

int __wrap_rand(void)
{
    return (int)(sim_random(SIM_PROGRAM) & RAND_MAX);
}

void __wrap_srand(unsigned seed)
{
    (void)seed;
}

/* ---- log ---- */

static void trace_fields(const struct log_field *fields, size_t count, char *out, size_t room)
{
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < count && n + 1 < room; i++) {
        const struct log_field *f = &fields[i];
        int m = 0;
        if (f->kind == LOG_FIELD_STRING && f->string != NULL)
            m = snprintf(out + n, room - n, " %s=\"%.*s\"", f->name,
                         (int)(f->len == SIZE_MAX ? strlen(f->string) : f->len), f->string);
        else if (f->kind == LOG_FIELD_NUMBER || f->kind == LOG_FIELD_BOOL)
            m = snprintf(out + n, room - n, " %s=%" PRId64, f->name, f->number);
        else if (f->kind == LOG_FIELD_REAL)
            m = snprintf(out + n, room - n, " %s=%g", f->name, f->real);
        n += m > 0 ? (size_t)m : 0;
    }
}

static uint64_t hash_fields(const struct log_field *fields, size_t count)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < count; i++) {
        const struct log_field *f = &fields[i];
        if (f->kind == LOG_FIELD_STRING && f->string != NULL)
            hash = XXH3_64bits_withSeed(f->string, f->len == SIZE_MAX ? strlen(f->string) : f->len, hash);
        else if (f->kind == LOG_FIELD_NUMBER)
            hash = hash * 31 + (uint64_t)f->number;
    }
    return hash;
}

void __wrap_log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    sim_mix(event, hash_fields(fields, count));
    sim_see("", event);
    if (sim_tracing()) {
        char text[2000];
        trace_fields(fields, count, text, sizeof(text));
        sim_tracef("log %s %s%s", levels[level], event, text);
    }
    if (sim_on_log != NULL)
        sim_on_log(sim_node(), level, event, fields, count);
}

/* ---- the end ---- */

void __wrap_mr_panic_at(const char *file, int line, const char *format, ...)
{
    char text[512];
    int n = snprintf(text, sizeof(text), "panic at %s:%d: ", file, line);
    va_list args;
    va_start(args, format);
    if (n > 0 && (size_t)n < sizeof(text))
        (void)vsnprintf(text + n, sizeof(text) - (size_t)n, format, args);
    va_end(args);
    sim_die(SIM_DIED, text);
}

void __wrap_abort(void)
{
    sim_die(SIM_DIED, "abort");
}

void __wrap___assert_fail(const char *what, const char *file, unsigned line, const char *function)
{
    char text[512];
    (void)snprintf(text, sizeof(text), "assertion of %s at %s:%u: %s", function, file, line, what);
    sim_die(SIM_DIED, text);
}
