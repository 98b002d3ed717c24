/* clock.h - where time comes from: one interface, so that a simulation can replace it.
 *
 * boot: CLOCK_BOOTTIME in nanoseconds: goes on while the machine sleeps, never steps back. For leases and timeouts.
 * wall: CLOCK_REALTIME in milliseconds since the Unix epoch. For mail headers, logs and the steering of committed time.
 * Thread: the real clock: any. */
#ifndef MR_BASE_CLOCK_H
#define MR_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

struct mr_clock {
    uint64_t (*boot_ns)(const struct mr_clock *clock);
    uint64_t (*wall_ms)(const struct mr_clock *clock);
};

#define MR_NS_PER_MS 1000000ULL
#define MR_NS_PER_S  1000000000ULL

extern const struct mr_clock mr_clock_real;

static inline uint64_t mr_boot_ns(const struct mr_clock *clock)
{
    return clock->boot_ns(clock);
}

static inline uint64_t mr_wall_ms(const struct mr_clock *clock)
{
    return clock->wall_ms(clock);
}

enum { MR_RFC3339_SIZE = 32, MR_RFC5322_DATE_SIZE = 40 };
/* "2026-03-01T12:00:00.123Z"; returns text. */
char *mr_rfc3339(uint64_t unix_ms, char text[MR_RFC3339_SIZE]);
/* RFC 5322 section 3.3, in UTC: "Sun, 01 Mar 2026 12:00:00 +0000"; returns text. */
char *mr_rfc5322_date(uint64_t unix_ms, char text[MR_RFC5322_DATE_SIZE]);

#endif
