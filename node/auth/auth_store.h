/* auth_store.h - what all workers of a node share for logins: the files, and the thread that computes hashes.
 *
 * The files are immutable; a reload puts new ones in their place, and who is in the middle of a login keeps the old.
 * A lock is held only to take a reference or look up a line.
 * Thread: open, reload and close: the main one; the rest: any. */
#ifndef MR_AUTH_AUTH_STORE_H
#define MR_AUTH_AUTH_STORE_H

#include "node/auth/auth_file.h"
#include "node/auth/credentials.h"
#include "node/auth/slow_thread.h"
#include "node/config/config.h"

struct auth_store;

/* MR_CONFIG, MR_IO: error has one problem a line. Does nothing and gives a store that offers nothing when the
 * configuration names no files. */
int auth_store_open(struct auth_store **out, const struct config *c, char *error, size_t error_len);
/* Reads the files that the fresh configuration names. An error: what was read before stays. */
int auth_store_reload(struct auth_store *s, const struct config *fresh, char *error, size_t error_len);
/* For --check-config: the files alone. */
int auth_store_check(const struct config *c, char *error, size_t error_len);
/* After all workers have ended. */
void auth_store_close(struct auth_store *s);

/* NULL: there is no file of users. auth_file_unref. */
struct auth_file *auth_store_file(struct auth_store *s);
/* May this user name this sender (MAIL's path, without brackets)? The empty path always: it is for notices. */
bool auth_sender_allowed(struct auth_store *s, const char *user, const char *reverse_path);
/* The password for a smarthost's user; false: there is none. password: the caller cleanses it. */
bool auth_store_credential(struct auth_store *s, const char *host, uint16_t port, const char *user,
                           char password[CREDENTIAL_MAX]);
struct slow_thread *auth_store_thread(struct auth_store *s);

#endif
