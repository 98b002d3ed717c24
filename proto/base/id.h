/* id.h - 128-bit names: of a message, of a data directory, of a cluster.
 *
 * A message id is 48 bits of Unix milliseconds, big-endian, and 80 random bits; its text is 26 characters of
 * Crockford's base 32 (the alphabet without I, L, O, U), upper case, which sorts as the id does.
 * Directory and cluster ids are random and are written in the same text form.
 * Thread: any; nothing is shared. */
#ifndef MR_BASE_ID_H
#define MR_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MR_ID_SIZE = 16, MR_ID_TEXT = 26 };

struct mr_id {
    uint8_t bytes[MR_ID_SIZE];
};

/* Random from the kernel (getrandom); panics when there is none. */
struct mr_id mr_id_random(void);
struct mr_id mr_id_at(uint64_t unix_ms);
/* Writes MR_ID_TEXT characters and a zero byte; returns text. */
char *mr_id_format(struct mr_id id, char text[MR_ID_TEXT + 1]);
/* MR_MALFORMED: not 26 characters of the alphabet (lower case is taken too). */
int mr_id_parse(const char *text, size_t len, struct mr_id *out);
/* From a protobuf bytes field. MR_MALFORMED: not 16 bytes. */
int mr_id_from_bytes(const uint8_t *bytes, size_t len, struct mr_id *out);
bool mr_id_equal(struct mr_id a, struct mr_id b);
int mr_id_compare(struct mr_id a, struct mr_id b);
bool mr_id_is_zero(struct mr_id id);
/* For hash tables inside one process; not for disk or wire. */
uint64_t mr_id_hash(struct mr_id id);

#endif
