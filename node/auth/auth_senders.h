/* auth_senders.h - which senders a user may name: lines "user address-or-@domain" of a file.
 *
 * Immutable; reference-counted by its holder (auth_store.c). Thread: any. */
#ifndef MR_AUTH_AUTH_SENDERS_H
#define MR_AUTH_AUTH_SENDERS_H

#include <stdbool.h>
#include <stddef.h>

enum { AUTH_SENDERS_MAX = 1000000, AUTH_SENDER_LINE_MAX = 1024 };

struct auth_senders;

/* MR_CONFIG, MR_IO: error has one problem a line, "FILE:LINE: what is wrong". */
int auth_senders_load(struct auth_senders **out, const char *path, char *error, size_t error_len);
int auth_senders_parse(struct auth_senders **out, const char *name, char *text, size_t len, char *error,
                       size_t error_len); /* text: changed, with a zero byte behind it */
void auth_senders_free(struct auth_senders *s);
/* Is the address, or its domain, on one of the user's lines? Any case. */
bool auth_senders_allow(const struct auth_senders *s, const char *user, const char *address);
/* The address (or "@domain") with its domain in A-labels, as reverse-paths have it; the caller frees it. NULL: no such
 * domain can be. */
char *auth_sender_ascii(const char *address);

#endif
