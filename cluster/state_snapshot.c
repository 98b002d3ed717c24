/* The snapshot's records, and hashing the state: the same bytes, kept or only hashed, so that nothing replicated can be
 * in the one and not in the other. state_held.c writes them in a thread.
 *
 * The records are protobuf in its canonical form (fields in order, defaults left out), written field by field without
 * unpacked copies: a million messages are to be written in a second. */
#include "cluster/state_internal.h"
#include "cluster/state_records.h"
#include "cluster/state_writer.h"
#include "proto/base/hash.h"
#include "proto/base/le.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { FLUSH = 64 * 1024, GROW = 4096, END_BYTES = SNAPSHOT_RECORD_HEADER + SNAPSHOT_CHECKSUM };

/* ---- bytes ---- */

static void reserve(struct state_writer *w, size_t n)
{
    if (w->size - w->len >= n)
        return;
    w->size += w->size / 2 + n + GROW;
    w->base = mr_realloc(w->base, w->size);
}

static void put(struct state_writer *w, const void *data, size_t len)
{
    reserve(w, len);
    memcpy(w->base + w->len, data, len);
    w->len += len;
}

static void put_varint(struct state_writer *w, uint64_t value)
{
    reserve(w, 10);
    while (value >= 0x80) {
        w->base[w->len++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    w->base[w->len++] = (uint8_t)value;
}

/* ---- protobuf fields; numbers below 16 take one byte, all below 2048 two ---- */

enum { VARINT = 0, BYTES = 2 };

static void put_tag(struct state_writer *w, uint32_t field, uint32_t type)
{
    put_varint(w, field << 3 | type);
}

static void put_number(struct state_writer *w, uint32_t field, uint64_t value)
{
    if (value == 0)
        return;
    put_tag(w, field, VARINT);
    put_varint(w, value);
}

/* sint32: zigzag */
static void put_signed(struct state_writer *w, uint32_t field, int32_t value)
{
    put_number(w, field, value < 0 ? (uint32_t)(-(value + 1)) * 2U + 1 : (uint32_t)value * 2U);
}

static void put_bytes(struct state_writer *w, uint32_t field, const void *data, size_t len)
{
    if (len == 0)
        return;
    put_tag(w, field, BYTES);
    put_varint(w, len);
    put(w, data, len);
}

static void put_string(struct state_writer *w, uint32_t field, const char *text)
{
    put_bytes(w, field, text, strlen(text));
}

/* A message inside: room for a length of one byte, made wider at its end where it must be. */
static size_t begin(struct state_writer *w, uint32_t field)
{
    put_tag(w, field, BYTES);
    reserve(w, 1);
    w->len++;
    return w->len;
}

static void end(struct state_writer *w, size_t start)
{
    size_t len = w->len - start, more = 0;

    for (size_t rest = len; rest >= 0x80; rest >>= 7)
        more++;
    if (more > 0) {
        reserve(w, more);
        memmove(w->base + start + more, w->base + start, len);
        w->len += more;
    }
    uint8_t *at = w->base + start - 1;
    for (; len >= 0x80; len >>= 7)
        *at++ = (uint8_t)(len | 0x80);
    *at = (uint8_t)len;
}

/* ---- records ---- */

static void record_begin(struct state_writer *w, enum snapshot_record kind)
{
    reserve(w, SNAPSHOT_RECORD_HEADER);
    mr_put_le32(w->base + w->len, kind);
    w->len += SNAPSHOT_RECORD_HEADER;
    w->record = w->len;
}

static void record_end(struct state_writer *w)
{
    size_t len = w->len - w->record;

    /* A message's limits keep it far below (50,000 recipients of some 2,600 bytes). */
    mr_assert(len <= UINT32_MAX);
    mr_put_le32(w->base + w->record - 4, (uint32_t)len);
    if (w->hash != NULL && w->len >= FLUSH) {
        XXH3_128bits_update(w->hash, w->base, w->len);
        w->len = 0;
    }
}

static void write_header(struct state_writer *w, const struct state *s)
{
    record_begin(w, RECORD_HEADER);
    put_number(w, 1, s->now_ms);
    put_number(w, 2, s->version);
    if (!mr_id_is_zero(s->cluster))
        put_bytes(w, 3, s->cluster.bytes, MR_ID_SIZE);
    put_number(w, 4, s->next_sequence);
    put_number(w, 5, s->counts.messages);
    put_number(w, 6, s->finished.count);
    put_number(w, 7, s->n_nodes);
    put_number(w, 8, s->parts.all.count);
    if (s->rules != NULL) {
        size_t start = begin(w, 9), len = mailraft__rules__get_packed_size(s->rules);
        reserve(w, len);
        mailraft__rules__pack(s->rules, w->base + w->len);
        w->len += len;
        end(w, start);
    }
    put_number(w, 10, s->counts.in_doubt);
    put_number(w, 11, s->counts.possibly_in_doubt);
    put_number(w, 12, s->counts.accepted);
    put_number(w, 13, s->counts.delivered);
    put_number(w, 14, s->counts.failed);
    put_number(w, 15, s->counts.expired);
    put_number(w, 16, s->sites.index.count);
    put_number(w, 17, s->users.index.count);
    if (s->sites.next_number != 1) /* so that what never remembered a site reads as before version 2 */
        put_number(w, 18, s->sites.next_number);
    record_end(w);
}

static void write_node(struct state_writer *w, const struct state_node *n)
{
    record_begin(w, RECORD_NODE);
    put_number(w, 1, n->id);
    put_string(w, 2, n->name);
    put_bytes(w, 3, n->directory.bytes, MR_ID_SIZE);
    put_number(w, 4, n->incarnation);
    put_number(w, 5, n->up);
    put_number(w, 6, n->voter);
    put_string(w, 7, n->address);
    put_string(w, 8, n->version);
    record_end(w);
}

static void write_body(struct state_writer *w, const struct state_message *m)
{
    size_t start = begin(w, 3);

    put_number(w, 1, m->body_length);
    put_bytes(w, 2, m->body_checksum, sizeof(m->body_checksum));
    put_number(w, 3, m->body_stamp_ms);
    if (m->holders != 0) {
        size_t packed = begin(w, 4);
        for (uint32_t i = 1; i <= STATE_MAX_NODES; i++)
            if ((m->holders >> i & 1) != 0)
                put_varint(w, i);
        end(w, packed);
    }
    end(w, start);
}

static void write_recipient(struct state_writer *w, const struct state_recipient *r)
{
    const char *orcpt = r->address + r->address_len + 1;
    size_t start = begin(w, 5), inner = begin(w, 1);

    put_bytes(w, 1, r->address, r->address_len);
    put_number(w, 2, r->delivery);
    put_string(w, 3, orcpt);
    put_number(w, 4, r->notify);
    end(w, inner);
    put_number(w, 2, r->state);
    if (r->answer != NULL) {
        put_string(w, 3, r->answer + strlen(r->answer) + 1);
        put_string(w, 4, r->answer);
    }
    end(w, start);
}

static void write_delivery(struct state_writer *w, const struct state_delivery *d)
{
    size_t start = begin(w, 6);

    put_bytes(w, 1, d->hop->name, d->hop->name_len);
    put_number(w, 2, d->state);
    put_number(w, 3, MR_MUTANT(MUTANT_SNAPSHOT_FIELD) ? 0 : d->attempt);
    put_number(w, 4, d->failures);
    put_number(w, 5, d->due_ms);
    if (d->state == DELIVERY_ASSIGNED) {
        size_t inner = begin(w, 6);
        put_number(w, 1, d->index);
        put_number(w, 2, d->attempt);
        put_number(w, 3, d->node);
        put_number(w, 4, d->incarnation);
        put_number(w, 5, d->slot);
        put_number(w, 6, d->deadline_for_ms);
        end(w, inner);
    }
    put_number(w, 7, d->avoid_node);
    put_number(w, 8, d->order);
    end(w, start);
}

void state_write_message(struct state_writer *w, const struct state_message *m)
{
    record_begin(w, RECORD_MESSAGE);
    put_bytes(w, 1, m->id.bytes, MR_ID_SIZE);
    put_number(w, 2, message_sequence(m));
    write_body(w, m);
    put_string(w, 4, m->reverse_path);
    for (uint32_t i = 0; i < m->n_recipients; i++)
        write_recipient(w, &m->recipients[i]);
    for (uint32_t i = 0; i < m->n_deliveries; i++)
        write_delivery(w, &m->deliveries[i]);
    put_number(w, 7, m->flags);
    put_number(w, 8, m->acceptor);
    put_number(w, 9, m->arrived_ms);
    put_number(w, 10, m->warn_ms);
    put_number(w, 11, m->expire_ms);
    put_string(w, 12, m->envid);
    put_number(w, 13, m->ret);
    put_string(w, 14, m->client);
    put_number(w, 15, m->notice_due_ms);
    put_number(w, 16, m->notice_kind);
    put_number(w, 17, m->notice_attempt);
    put_number(w, 18, m->notice_node);
    put_number(w, 19, m->notice_incarnation);
    put_signed(w, 20, message_priority(m));
    if (m->has_extras) {
        const struct state_extras *x = message_extras(m);
        put_number(w, 21, x->hold_for_ms);
        put_number(w, 22, x->deliver_by_for_ms);
        put_number(w, 23, x->deliver_by);
        put_number(w, 24, x->deliver_by_trace);
        put_string(w, 25, x->user);
    }
    record_end(w);
}

void state_write_finished(struct state_writer *w, const struct state_finished *f)
{
    record_begin(w, RECORD_FINISHED);
    put_bytes(w, 1, f->id.bytes, MR_ID_SIZE);
    put_number(w, 2, f->finished_ms);
    put_number(w, 3, f->cancelled);
    put_number(w, 4, f->delivery);
    put_number(w, 5, f->attempt);
    put_number(w, 6, f->node);
    record_end(w);
}

static void write_parts(struct state_writer *w, const struct state_parts *p)
{
    record_begin(w, RECORD_PARTS);
    put_bytes(w, 1, p->id.bytes, MR_ID_SIZE);
    put_number(w, 2, p->parts);
    put_number(w, 3, p->begun_ms);
    put_bytes(w, 4, p->data, p->len);
    put_number(w, 5, p->have);
    record_end(w);
}

static void write_site(struct state_writer *w, const struct state_site *site)
{
    record_begin(w, RECORD_SITE);
    put_string(w, 1, site->name);
    put_number(w, 2, site->number);
    put_number(w, 3, site->tls_failed_until_ms);
    put_string(w, 4, site->tls_reason);
    put_string(w, 5, site->sts_id);
    put_number(w, 6, site->sts_mode);
    for (uint32_t i = 0; i < site->n_sts_mx; i++)
        put_string(w, 7, site->sts_mx[i]);
    put_number(w, 8, site->sts_expires_ms);
    record_end(w);
}

static void write_user(struct state_writer *w, const struct state_user *u)
{
    uint32_t n = STATE_USER_MINUTES;

    while (n > 0 && u->recipients[(u->minute + STATE_USER_MINUTES - (n - 1)) % STATE_USER_MINUTES] == 0)
        n--;
    record_begin(w, RECORD_USER);
    put_string(w, 1, u->name);
    put_number(w, 2, u->minute);
    if (n > 0) {
        size_t packed = begin(w, 3);
        for (uint32_t i = 0; i < n; i++)
            put_varint(w, u->recipients[(u->minute + STATE_USER_MINUTES - i) % STATE_USER_MINUTES]);
        end(w, packed);
    }
    record_end(w);
}

void state_write_head(struct state_writer *w, const struct state *s)
{
    uint8_t preamble[SNAPSHOT_PREAMBLE] = {0};

    memcpy(preamble, SNAPSHOT_MAGIC, sizeof(SNAPSHOT_MAGIC)); /* its zero byte goes under the format */
    mr_put_le32(preamble + 8, SNAPSHOT_FORMAT);
    put(w, preamble, sizeof(preamble));
    write_header(w, s);
    for (uint32_t i = 1; i <= STATE_MAX_NODES; i++)
        if (s->nodes[i] != NULL)
            write_node(w, s->nodes[i]);
}

void state_write_tail(struct state_writer *w, const struct state *s)
{
    for (const struct state_link *l = s->parts.all.head; l != NULL; l = l->next)
        write_parts(w, MR_CONTAINER(l, struct state_parts, in_all));
    for (const struct state_tree_node *n = state_tree_first(&s->sites.by_expiry); n != NULL;
         n = state_tree_after(&s->sites.by_expiry, n->major, n->minor))
        write_site(w, MR_CONTAINER(n, struct state_site, by_expiry));
    for (const struct state_link *l = s->users.all.head; l != NULL; l = l->next)
        write_user(w, MR_CONTAINER(l, struct state_user, in_all));
}

void state_write_end(struct state_writer *w, XXH128_hash_t sum)
{
    XXH128_canonical_t checksum;

    XXH128_canonicalFromHash(&checksum, sum);
    record_begin(w, RECORD_END);
    put(w, checksum.digest, SNAPSHOT_CHECKSUM);
    record_end(w);
}

/* Everything that is replicated, in an order that is: sequence, raft id, time. */
static void write_all(struct state_writer *w, const struct state *s)
{
    const struct state_chunk *of_messages = NULL;
    const struct state_finished_chunk *of_finished = NULL;
    const struct state_message *m;
    const struct state_finished *f;
    unsigned slot = 0;
    size_t place = 0;

    state_write_head(w, s);
    while ((m = state_chunks_next(s, &of_messages, &slot)) != NULL)
        state_write_message(w, m);
    while ((f = finished_next(s, &of_finished, &place)) != NULL)
        state_write_finished(w, f);
    state_write_tail(w, s);
}

/* What state_bytes promises; the head's generous share apart, so that it hides nothing. */
static void check_size(const struct state *s, size_t len)
{
    struct state_writer head = {0};

    state_write_head(&head, s);
    mr_assert(head.len <= STATE_HEAD_BYTES && len - head.len <= state_bytes(s) - STATE_HEAD_BYTES + END_BYTES);
    free(head.base);
}

void state_snapshot(const struct state *s, struct state_buffer **buffers, unsigned *count)
{
    struct state_writer w = {0};

    /* Most of the state ends up in it: one allocation in the usual case, and the rest is given back. */
    reserve(&w, s->memory + s->parts.bytes + s->finished.count * 40 + FLUSH);
    write_all(&w, s);
    state_write_end(&w, XXH3_128bits(w.base, w.len));
    check_size(s, w.len);
    *buffers = mr_malloc(sizeof(**buffers));
    (*buffers)->base = mr_realloc(w.base, w.len);
    (*buffers)->len = w.len;
    *count = 1;
}

void state_snapshot_free(struct state_buffer *buffers, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        free(buffers[i].base);
    free(buffers);
}

/* The same as a snapshot's checksum. */
void state_hash(const struct state *s, uint8_t hash[16])
{
    struct state_writer w = {.hash = XXH3_createState()};
    XXH128_canonical_t checksum;

    if (w.hash == NULL)
        mr_panic("out of memory");
    XXH3_128bits_reset(w.hash);
    write_all(&w, s);
    XXH3_128bits_update(w.hash, w.base, w.len);
    XXH128_canonicalFromHash(&checksum, XXH3_128bits_digest(w.hash));
    memcpy(hash, checksum.digest, SNAPSHOT_CHECKSUM);
    XXH3_freeState(w.hash);
    free(w.base);
}
