/* journal_format.h - the records of an outcome journal (proto/FORMAT.md, "Outcome journal") and the table of the open
 * ones.
 *
 * Pure: no I/O. Thread: one at a time. */
#ifndef MR_CLUSTER_JOURNAL_FORMAT_H
#define MR_CLUSTER_JOURNAL_FORMAT_H

#include "ops.pb-c.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    JOURNAL_HEAD = 24,
    JOURNAL_KEY = MR_ID_SIZE + 8,
    JOURNAL_KEY_RECORD = JOURNAL_HEAD + JOURNAL_KEY,
    JOURNAL_MAX_PAYLOAD = 16 << 20, /* of an Outcome with its DSN; ten thousand recipients are some 6 MiB */
};

enum journal_type { JOURNAL_DOT = 1, JOURNAL_REPLY = 2, JOURNAL_DONE = 3 };

struct journal_key {
    struct mr_id id;
    uint32_t delivery, attempt;
};

void journal_key_encode(uint8_t out[JOURNAL_KEY_RECORD], enum journal_type type, const struct journal_key *key);
void journal_key_decode(const uint8_t in[JOURNAL_KEY], struct journal_key *key);
/* malloc. Panics over JOURNAL_MAX_PAYLOAD. */
uint8_t *journal_reply_encode(const Mailraft__Outcome *outcome, size_t *len);
/* One record at the front of data. 0: *payload points into data, *size is the whole record's. MR_MORE: data ends within
 * it. MR_MALFORMED, MR_CHECKSUM, MR_VERSION. */
int journal_record_decode(const uint8_t *data, size_t len, enum journal_type *type, const uint8_t **payload,
                          size_t *payload_len, size_t *size);

struct journal_entry {
    struct journal_entry *next; /* in its bucket */
    struct journal_key key;
    uint64_t offset; /* of its newest record in the file */
    uint32_t len;
    bool reply;
    uint64_t generation;
    /* Of the journal that is written: replies that no sync covers yet, oldest first. */
    struct journal_entry *older, *newer;
    uint64_t since_ms;
    Mailraft__Outcome *outcome; /* the replay's; the table's owner frees it */
};

struct journal_table {
    struct journal_entry **buckets;
    size_t room; /* a power of two */
    size_t count;
};

struct journal_entry *journal_table_find(const struct journal_table *t, const struct journal_key *key);
struct journal_entry *journal_table_add(struct journal_table *t, const struct journal_key *key); /* key not in it */
void journal_table_remove(struct journal_table *t, struct journal_entry *e);                     /* frees e */
void journal_table_each(struct journal_table *t, void (*each)(void *arg, struct journal_entry *e), void *arg);
void journal_table_clear(struct journal_table *t);

#endif
