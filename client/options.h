/* options.h - values of the command lines of the load generator and of the sink.
 *
 * Each returns 0 or MR_INVAL. Thread: any. */
#ifndef MR_CLIENT_OPTIONS_H
#define MR_CLIENT_OPTIONS_H

#include <stdint.h>

/* Decimal digits only. */
int options_number(const char *text, uint64_t least, uint64_t most, uint64_t *out);
/* A size: digits, or digits with KiB, MiB or GiB. */
int options_size(const char *text, uint64_t least, uint64_t most, uint64_t *out);
/* Digits with at most one point. */
int options_real(const char *text, double least, double most, double *out);
/* Writes text to path so that a reader sees the old or the new file as a whole. MR_IO with errno. */
int options_replace_file(const char *path, const char *text);

#endif
