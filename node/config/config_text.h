/* config_text.h - numbers, durations and sizes as the configuration writes them, and the HTTP interface's questions.
 *
 * Pure. False: not of that form, or too large: numbers of 64 bits are taken, durations and sizes below 2^50. Thread:
 * any. */
#ifndef MR_CONFIG_CONFIG_TEXT_H
#define MR_CONFIG_CONFIG_TEXT_H

#include <stdbool.h>
#include <stdint.h>

/* Decimal digits and nothing else. */
bool config_parse_number(const char *text, uint64_t *n);
/* "0", "100ms", "90s", "5m", "4h", "5d", "1w". */
bool config_parse_duration(const char *text, uint64_t *ms);
/* "1000", "10KiB", "50MiB", "1G"; "kB", "MB", "GB" are of a thousand. */
bool config_parse_size(const char *text, uint64_t *bytes);

#endif
