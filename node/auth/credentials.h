/* credentials.h - passwords for smarthosts: a file of lines "host[:port] user password". Blanks part the first two
 * words; the password is the rest of the line. '#' begins a comment line. Without a port the line is for every port of
 * the host.
 *
 * Immutable once loaded. Thread: any. */
#ifndef MR_AUTH_CREDENTIALS_H
#define MR_AUTH_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CREDENTIAL_MAX = 512, CREDENTIALS_MAX = 10000 };

struct credentials;

/* MR_CONFIG, MR_IO: error has "FILE:LINE: what is wrong", never a word of the line. */
int credentials_load(struct credentials **out, const char *path, char *error, size_t error_len);
int credentials_parse(struct credentials **out, const char *name, char *text, size_t len, char *error,
                      size_t error_len); /* text: changed, with a zero byte behind it */
void credentials_free(struct credentials *c);
/* A line with the port wins over one without. host in any case, without brackets. NULL: none. */
const char *credentials_find(const struct credentials *c, const char *host, uint16_t port, const char *user);

#endif
