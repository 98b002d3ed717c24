/* auth_file.h - the file of users: "user:hash" lines, where hash is one of crypt(3)'s or
 * "{SCRAM-SHA-256}iterations,salt,StoredKey,ServerKey" (base64). A user may have one line of each kind; the first
 * serves passwords that are sent (PLAIN, LOGIN), the second SCRAM, and passwords too where there is no first.
 * '#' begins a comment line. Names are kept as SASLprep (RFC 4013) makes them.
 *
 * F1: immutable once loaded; reference-counted, so that a login that has begun ends with the file that it began with.
 * F2: a user who is not there is answered like one who is: the same kinds of hashes, a salt that stays the same.
 * Thread: any. */
#ifndef MR_AUTH_AUTH_FILE_H
#define MR_AUTH_AUTH_FILE_H

#include <stdbool.h>
#include <stddef.h>

enum {
    AUTH_LINE_MAX = 1024,
    AUTH_HASH_MAX = 384,                 /* crypt(3)'s output size */
    AUTH_SCRAM_SALT_MAX = 64,            /* octets before base64 */
    AUTH_SCRAM_ITERATIONS_MIN = 4096,    /* RFC 7677 section 4 */
    AUTH_SCRAM_ITERATIONS_MAX = 1 << 20, /* over a second of work a login */
    AUTH_SCRAM_KEY = 32,                 /* octets of SHA-256 */
};

struct auth_scram {
    unsigned iterations;                        /* 0: none */
    const char *salt, *stored_key, *server_key; /* base64 */
};

struct auth_entry {
    const char *user;
    const char *hash; /* crypt(3); NULL: none */
    struct auth_scram scram;
};

/* What a login is checked against, for a user who is there or not. */
struct auth_lookup {
    bool known;              /* false: whatever comes out, it is "no" */
    struct auth_entry entry; /* of another user, for passwords, when not known */
    struct auth_scram scram; /* iterations 0: nobody here has SCRAM secrets */
    char made_up[3][((AUTH_SCRAM_SALT_MAX + 2) / 3) * 4 + 1];
};

struct auth_file;

/* MR_CONFIG, MR_IO: error has one problem a line, "FILE:LINE: what is wrong". */
int auth_file_load(struct auth_file **out, const char *path, char *error, size_t error_len);
/* The same from memory; name stands in messages. Pure. */
int auth_file_parse(struct auth_file **out, const char *name, const char *text, size_t len, char *error,
                    size_t error_len);
struct auth_file *auth_file_ref(struct auth_file *f);
void auth_file_unref(struct auth_file *f);
size_t auth_file_users(const struct auth_file *f);
/* Some user has SCRAM secrets. */
bool auth_file_has_scram(const struct auth_file *f);
/* user: prepared by auth_prepare. out points into the file and into itself. */
void auth_file_find(const struct auth_file *f, const char *user, struct auth_lookup *out);
/* Does the password (prepared) fit? Milliseconds of computing: never on a loop. */
bool auth_entry_verify(const struct auth_entry *e, const char *password);

/* SASLprep of a name or password. NULL: not allowed, empty, or longer than most octets; else free(). */
char *auth_prepare(const char *text, size_t most);

#endif
