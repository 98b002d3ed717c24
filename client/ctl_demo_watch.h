/* ctl_demo_watch.h - what the demo learns from journals and logs while they grow, and the times that follow from it.
 *
 * Only whole lines are read; a line that is no JSON object is passed over. Thread: main. */
#ifndef MR_CLIENT_CTL_DEMO_WATCH_H
#define MR_CLIENT_CTL_DEMO_WATCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { TAIL_LINE_MAX = 1 << 20 };

/* A file that grows. Zeroed at first but for path, which stays the caller's; the file need not be there yet. */
struct tail {
    const char *path;
    FILE *file;
    char *line; /* the beginning of one that is not whole yet */
    size_t len;
};
/* Visits the lines that came since the last call. */
void tail_read(struct tail *tail, void (*visit)(void *arg, const json_t *line), void *arg);
void tail_close(struct tail *tail);

/* Moments of one kind, in Unix seconds. Zeroed at first. */
struct moments {
    double *at;
    size_t n, cap;
};
void moments_add(struct moments *moments, double at);
void moments_free(struct moments *moments);

enum { SILENCE_WINDOW_S = 15 }; /* a silence that began later after the kill has another cause */
/* How long after the kill mail was accepted again: the end of the longest silence among these 250s that the kill lies
 * in, or that began within SILENCE_WINDOW_S after it. Sorts. False: no 250 came after the kill. */
bool silence_ended(struct moments *accepted, double killed, double *after);

/* "2026-03-01T12:00:00.123Z" as Unix seconds; negative: it is none. */
double unix_seconds(const char *rfc3339);

#endif
