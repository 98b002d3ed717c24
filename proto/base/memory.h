/* memory.h - allocation that never fails.
 *
 * A node that has no memory for a few hundred bytes cannot keep a promise: it stops and its peers take over. Sizes
 * that a peer or a client names are checked against their limits before they come here.
 * Thread: any. Memory is released with free(). */
#ifndef MR_BASE_MEMORY_H
#define MR_BASE_MEMORY_H

#include <stddef.h>

void *mr_malloc(size_t size);
void *mr_calloc(size_t count, size_t size);
void *mr_realloc(void *p, size_t size);
char *mr_strdup(const char *s);
char *mr_strndup(const char *s, size_t n);
/* Copy of n bytes with a zero byte behind; n may be 0. */
void *mr_memdup(const void *p, size_t n);
/* printf into new memory. */
__attribute__((format(printf, 1, 2))) char *mr_asprintf(const char *format, ...);

#endif
