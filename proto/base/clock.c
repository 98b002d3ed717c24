#include "proto/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t real_boot_ns(const struct mr_clock *clock)
{
    struct timespec t;
    (void)clock;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * MR_NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t real_wall_ms(const struct mr_clock *clock)
{
    struct timespec t;
    (void)clock;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / MR_NS_PER_MS;
}

const struct mr_clock mr_clock_real = {real_boot_ns, real_wall_ms};

char *mr_rfc3339(uint64_t unix_ms, char text[MR_RFC3339_SIZE])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(text, MR_RFC3339_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text + n, MR_RFC3339_SIZE - n, ".%03uZ", (unsigned)(unix_ms % 1000));
    return text;
}

/* The last n digits; printf costs ten times as much, and a date is written for each message. */
static void put_digits(char *at, int n, int value)
{
    while (n-- > 0) {
        at[n] = (char)('0' + value % 10);
        value /= 10;
    }
}

char *mr_rfc5322_date(uint64_t unix_ms, char text[MR_RFC5322_DATE_SIZE])
{
    /* strftime's names follow the locale; mail's do not. */
    static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    static const char shape[] = "Ddd, 00 Mmm 0000 00:00:00 +0000";
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    memcpy(text, shape, sizeof(shape));
    memcpy(text, days[tm.tm_wday % 7], 3);
    put_digits(text + 5, 2, tm.tm_mday);
    memcpy(text + 8, months[tm.tm_mon % 12], 3);
    put_digits(text + 12, 4, tm.tm_year + 1900);
    put_digits(text + 17, 2, tm.tm_hour);
    put_digits(text + 20, 2, tm.tm_min);
    put_digits(text + 23, 2, tm.tm_sec);
    return text;
}
