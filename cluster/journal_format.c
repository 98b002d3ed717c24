#include "cluster/journal_format.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/le.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, FIRST_ROOM = 64 };

static const uint8_t magic[4] = {'M', 'R', 'o', 'j'};

/* magic 4, version 1, type 1, zero 2, payload length 4, zero 4, checksum of the record but for itself 8 */
static uint64_t record_sum(const uint8_t *record, const uint8_t *payload, size_t len)
{
    return XXH3_64bits_withSeed(payload, len, XXH3_64bits(record, 16));
}

static void head_encode(uint8_t *out, enum journal_type type, size_t len)
{
    memset(out, 0, JOURNAL_HEAD);
    memcpy(out, magic, 4);
    out[4] = VERSION;
    out[5] = (uint8_t)type;
    mr_put_le32(out + 8, (uint32_t)len);
    mr_put_le64(out + 16, record_sum(out, out + JOURNAL_HEAD, len));
}

void journal_key_encode(uint8_t out[JOURNAL_KEY_RECORD], enum journal_type type, const struct journal_key *key)
{
    memcpy(out + JOURNAL_HEAD, key->id.bytes, MR_ID_SIZE);
    mr_put_le32(out + JOURNAL_HEAD + 16, key->delivery);
    mr_put_le32(out + JOURNAL_HEAD + 20, key->attempt);
    head_encode(out, type, JOURNAL_KEY);
}

void journal_key_decode(const uint8_t in[JOURNAL_KEY], struct journal_key *key)
{
    memcpy(key->id.bytes, in, MR_ID_SIZE);
    key->delivery = mr_get_le32(in + 16);
    key->attempt = mr_get_le32(in + 20);
}

uint8_t *journal_reply_encode(const Mailraft__Outcome *outcome, size_t *len)
{
    size_t payload = mailraft__outcome__get_packed_size(outcome);
    mr_assert(payload <= JOURNAL_MAX_PAYLOAD);
    uint8_t *record = mr_malloc(JOURNAL_HEAD + payload);
    mailraft__outcome__pack(outcome, record + JOURNAL_HEAD);
    head_encode(record, JOURNAL_REPLY, payload);
    *len = JOURNAL_HEAD + payload;
    return record;
}

int journal_record_decode(const uint8_t *data, size_t len, enum journal_type *type, const uint8_t **payload,
                          size_t *payload_len, size_t *size)
{
    if (memcmp(data, magic, len < sizeof(magic) ? len : sizeof(magic)) != 0)
        return MR_MALFORMED;
    if (len < JOURNAL_HEAD)
        return MR_MORE;
    size_t n = mr_get_le32(data + 8);
    if (n > JOURNAL_MAX_PAYLOAD)
        return MR_MALFORMED;
    if (len - JOURNAL_HEAD < n)
        return MR_MORE;
    if (mr_get_le64(data + 16) != record_sum(data, data + JOURNAL_HEAD, n))
        return MR_CHECKSUM;
    if (data[4] != VERSION || data[5] < JOURNAL_DOT || data[5] > JOURNAL_DONE)
        return MR_VERSION;
    if (data[5] != JOURNAL_REPLY && n != JOURNAL_KEY)
        return MR_MALFORMED;
    *type = (enum journal_type)data[5];
    *payload = data + JOURNAL_HEAD;
    *payload_len = n;
    *size = JOURNAL_HEAD + n;
    return 0;
}

/* ---- table ---- */

static bool same(const struct journal_key *a, const struct journal_key *b)
{
    return a->attempt == b->attempt && a->delivery == b->delivery && mr_id_equal(a->id, b->id);
}

static struct journal_entry **bucket(const struct journal_table *t, const struct journal_key *key)
{
    uint64_t hash = (mr_id_hash(key->id) >> 20) + key->delivery * 31ULL + key->attempt;
    return &t->buckets[hash & (t->room - 1)];
}

struct journal_entry *journal_table_find(const struct journal_table *t, const struct journal_key *key)
{
    if (t->room == 0)
        return NULL;
    struct journal_entry *e = *bucket(t, key);
    while (e != NULL && !same(&e->key, key))
        e = e->next;
    return e;
}

static void grow(struct journal_table *t)
{
    struct journal_table old = *t;
    t->room = old.room == 0 ? FIRST_ROOM : old.room * 2;
    t->buckets = mr_calloc(t->room, sizeof(struct journal_entry *));
    for (size_t i = 0; i < old.room; i++) {
        struct journal_entry *next;
        for (struct journal_entry *e = old.buckets[i]; e != NULL; e = next) {
            next = e->next;
            struct journal_entry **b = bucket(t, &e->key);
            e->next = *b;
            *b = e;
        }
    }
    free(old.buckets);
}

struct journal_entry *journal_table_add(struct journal_table *t, const struct journal_key *key)
{
    if (t->count >= t->room)
        grow(t);
    struct journal_entry *e = mr_calloc(1, sizeof(*e));
    struct journal_entry **b = bucket(t, key);
    e->key = *key;
    e->next = *b;
    *b = e;
    t->count++;
    return e;
}

void journal_table_remove(struct journal_table *t, struct journal_entry *e)
{
    struct journal_entry **at = bucket(t, &e->key);
    while (*at != e) {
        mr_assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = e->next;
    free(e);
    t->count--;
}

void journal_table_each(struct journal_table *t, void (*each)(void *arg, struct journal_entry *e), void *arg)
{
    for (size_t i = 0; i < t->room; i++)
        for (struct journal_entry *e = t->buckets[i]; e != NULL; e = e->next)
            each(arg, e);
}

void journal_table_clear(struct journal_table *t)
{
    for (size_t i = 0; i < t->room; i++) {
        struct journal_entry *next;
        for (struct journal_entry *e = t->buckets[i]; e != NULL; e = next) {
            next = e->next;
            free(e);
        }
    }
    free(t->buckets);
    memset(t, 0, sizeof(*t));
}
