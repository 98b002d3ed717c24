/* bodies_kept.c - bodies that this node accepted just now, kept in memory until their first attempt.
 *
 * By default the acceptor delivers, within milliseconds: what it sends on is then what it still has, without a read of
 * the disk and the way to a reader thread and back. Happy path: a put of one piece ends -> kept_add -> assigned here ->
 * bodies_take. What is kept is only ever a copy of a durable body: the oldest go when it is more than BODIES_KEPT, all
 * with their envelopes, and who finds nothing here reads the spool. It is handed out only if it is what the envelope
 * names, by length and checksum (B2). */
#include "cluster/bodies_internal.h"

#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct kept {
    struct id_entry entry;
    struct blist link; /* oldest first */
    uint8_t *data;
    size_t len;
};

static void remove_kept(struct bodies *b, struct kept *k)
{
    id_table_remove(&b->kept, &k->entry);
    blist_remove(&k->link);
    b->kept_bytes -= k->len + sizeof(*k);
    free(k);
}

static void drop(struct bodies *b, struct kept *k)
{
    free(k->data);
    remove_kept(b, k);
}

void kept_add(struct bodies *b, struct mr_id id, uint8_t *data, size_t len)
{
    struct kept *k;

    if (len == 0 || b->closing || id_table_find(&b->kept, id) != NULL) {
        free(data);
        return;
    }
    k = mr_calloc(1, sizeof(*k));
    k->entry.id = id;
    k->data = data;
    k->len = len;
    id_table_add(&b->kept, &k->entry);
    blist_append(&b->kept_list, &k->link);
    b->kept_bytes += len + sizeof(*k); /* so that tiny bodies are bounded too */
    while (b->kept_bytes > BODIES_KEPT)
        drop(b, MR_CONTAINER(b->kept_list.next, struct kept, link));
}

void kept_removed(struct bodies *b, struct mr_id id)
{
    struct kept *k = (struct kept *)id_table_find(&b->kept, id);

    if (k != NULL)
        drop(b, k);
}

void kept_close(struct bodies *b)
{
    while (!blist_empty(&b->kept_list))
        drop(b, MR_CONTAINER(b->kept_list.next, struct kept, link));
}

static bool is_body(const struct message_view *v, const uint8_t *data, size_t len)
{
    XXH128_canonical_t sum;

    if (len != v->body_length)
        return false;
    XXH128_canonicalFromHash(&sum, XXH3_128bits(data, len));
    return memcmp(sum.digest, v->body_checksum, sizeof(sum.digest)) == 0;
}

uint8_t *bodies_take(struct bodies *b, const struct message_view *v, bool again, size_t *len)
{
    struct kept *k = (struct kept *)id_table_find(&b->kept, v->id);
    uint8_t *data;

    if (k == NULL) { /* a slow peer may not have it yet */
        const uint8_t *put = put_whole(b, v->id, len);
        return put != NULL && is_body(v, put, *len) ? mr_memdup(put, *len) : NULL;
    }
    if (!is_body(v, k->data, k->len)) {
        drop(b, k); /* whatever that is: the spool's copy decides */
        return NULL;
    }
    *len = k->len;
    if (again)
        return mr_memdup(k->data, k->len);
    data = k->data;
    remove_kept(b, k);
    return data;
}
