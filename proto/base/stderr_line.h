/* stderr_line.h - a line on stderr, from a program that must not stand still when nobody reads it there.
 *
 * W1: where stderr is a pipe or a socket, callers wait for its reader for at most 50 ms in each second, all together;
 * once that was not enough they do not wait at all, until a line went again. What cannot go is dropped. W2: lines go
 * whole and one after the other. Of one that went in part the rest is kept, and goes first. A file or a terminal is
 * simply written to. Thread: any. */
#ifndef MR_BASE_STDERR_LINE_H
#define MR_BASE_STDERR_LINE_H

#include <stdbool.h>
#include <stddef.h>

/* text: whole lines, which go together or not at all. False: dropped. */
bool stderr_line(const char *text, size_t len);
/* The last one of a process that is about to abort: it does so in here if the line cannot be written within half a
 * second, whatever stderr is. Waits for no lock. */
void stderr_last_line(const char *line, size_t len);

#endif
