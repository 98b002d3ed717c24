#include "proto/base/memory.h"

#include "proto/base/panic.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *mr_malloc(size_t size)
{
    void *p = malloc(size > 0 ? size : 1);
    if (p == NULL)
        mr_panic("out of memory: %zu bytes", size);
    return p;
}

void *mr_calloc(size_t count, size_t size)
{
    void *p = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    if (p == NULL)
        mr_panic("out of memory: %zu x %zu bytes", count, size);
    return p;
}

void *mr_realloc(void *old, size_t size)
{
    void *p = realloc(old, size > 0 ? size : 1);
    if (p == NULL)
        mr_panic("out of memory: %zu bytes", size);
    return p;
}

void *mr_memdup(const void *p, size_t n)
{
    char *copy = mr_malloc(n + 1);
    if (n > 0)
        memcpy(copy, p, n);
    copy[n] = 0;
    return copy;
}

char *mr_strdup(const char *s)
{
    return mr_memdup(s, strlen(s));
}

char *mr_strndup(const char *s, size_t n)
{
    return mr_memdup(s, strnlen(s, n));
}

char *mr_asprintf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    mr_assert(n >= 0);
    char *text = mr_malloc((size_t)n + 1);
    va_start(args, format);
    (void)vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}
