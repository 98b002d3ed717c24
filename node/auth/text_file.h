/* text_file.h - small files of lines that people write: users, senders, credentials.
 *
 * L1: a file that others may change is refused, and so is a secret one that everybody may read.
 * L2: at most TEXT_FILE_MAX octets are read.
 * Thread: any that may block. */
#ifndef MR_AUTH_TEXT_FILE_H
#define MR_AUTH_TEXT_FILE_H

#include <stdbool.h>
#include <stddef.h>

enum { TEXT_FILE_MAX = 64 << 20 /* octets */ };

/* The whole of a file, with a zero byte behind it; free(). MR_CONFIG (L1, L2, not a file), MR_IO: error says why. */
int text_file_read(const char *path, bool secret, char **text, size_t *len, char *error, size_t error_len);

/* What is wrong with a line (without its line feed; may be changed); NULL: nothing. */
typedef const char *(*text_line_cb)(void *arg, char *line);
/* Each line of text[0..len), which has a zero byte behind it and is cut up. The first wrong one ends it: MR_CONFIG,
 * error: "NAME:LINE: what is wrong". */
int text_file_lines(const char *name, char *text, size_t len, text_line_cb cb, void *arg, char *error,
                    size_t error_len);

#endif
