#include "proto/base/panic.h"

#include "proto/base/stderr_line.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void mr_panic_at(const char *file, int line, const char *format, ...)
{
    char text[1024];
    va_list args;
    int n = snprintf(text, sizeof(text), "mailraft: panic at %s:%d: ", file, line);

    va_start(args, format);
    if (n > 0 && (size_t)n < sizeof(text)) {
        int m = vsnprintf(text + n, sizeof(text) - (size_t)n, format, args);
        n += m > 0 ? m : 0;
    }
    va_end(args);
    if (n > (int)sizeof(text) - 2)
        n = (int)sizeof(text) - 2;
    text[n++] = '\n';
    stderr_last_line(text, (size_t)n);
    abort();
}
