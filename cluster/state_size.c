/* What a snapshot of the state may come to, in O(1): by the longest form of every number in a record and the true
 * length of every text. What changes while a message is in the queue is counted at its longest from the start, so that
 * attempts, deferrals and status codes make nothing grow; but for the replies of next hops, and for what is assigned,
 * both of which are counted as they come. */
#include "cluster/state_internal.h"
#include "cluster/state_records.h"

#include <string.h>

/* Bytes of a field with its tag; of those numbered 16 and above one more. */
enum {
    NUMBER = 1 + 10,
    NUMBER_32 = 1 + 5,
    SMALL = 1 + 1,
    TEXT = 1 + 2, /* without the text, which is shorter than 16 KiB; a message inside too */
    ID = 1 + 1 + MR_ID_SIZE,
};

enum {
    BODY = TEXT + NUMBER + (1 + 1 + 16) + NUMBER + SMALL, /* without the holders, a byte each */
    MESSAGE = SNAPSHOT_RECORD_HEADER + ID + NUMBER + BODY + TEXT + 2 * NUMBER_32 + 3 * NUMBER + 2 * TEXT + NUMBER_32 +
              NUMBER + (1 + NUMBER_32) + (1 + SMALL),
    EXTRAS = 2 * (1 + NUMBER) + 2 * (1 + SMALL) + (1 + TEXT),
    RECIPIENT = TEXT + TEXT + TEXT + NUMBER_32 + TEXT + NUMBER_32 + SMALL + TEXT + (SMALL + STATE_MAX_STATUS),
    DELIVERY = TEXT + TEXT + SMALL + 2 * NUMBER_32 + NUMBER /* due or order */ + SMALL,
    ASSIGNED = NUMBER /* both */ + TEXT + 3 * NUMBER_32 + NUMBER + 2 * NUMBER_32,
    NOTICE = 2 * (1 + SMALL) + (1 + NUMBER),
    FINISHED = SNAPSHOT_RECORD_HEADER + ID + NUMBER + SMALL + 2 * NUMBER_32 + SMALL,
    PARTS = SNAPSHOT_RECORD_HEADER + ID + NUMBER_32 + NUMBER + NUMBER_32 + NUMBER_32,
    USER = SNAPSHOT_RECORD_HEADER + TEXT + STATE_MAX_SITE + NUMBER + TEXT + STATE_USER_MINUTES * 5,
};
_Static_assert(STATE_HEAD_BYTES > 128 * 1024 + STATE_MAX_NODES * 3 * (STATE_MAX_TEXT + TEXT + NUMBER), "nodes fit in");

static uint64_t envelope_bytes(size_t recipients, size_t deliveries, size_t holders, bool extras, size_t texts)
{
    return MESSAGE + recipients * (uint64_t)RECIPIENT + deliveries * (uint64_t)DELIVERY + holders +
           (extras ? EXTRAS : 0U) + texts;
}

uint64_t state_enqueue_bytes(const Mailraft__Enqueue *e)
{
    size_t texts = state_enqueue_texts(e);

    for (size_t i = 0; i < e->n_next_hops; i++)
        texts += strlen(e->next_hops[i]);
    return envelope_bytes(e->n_recipients, e->n_next_hops, e->body != NULL ? e->body->n_holders : 0,
                          state_enqueue_has_extras(e), texts);
}

uint64_t state_message_bytes(const struct state_message *m)
{
    size_t texts = m->memory - sizeof(*m) - m->n_deliveries * sizeof(struct state_delivery) -
                   m->n_recipients * sizeof(struct state_recipient) - (m->has_extras ? sizeof(struct state_extras) : 0);

    for (uint32_t i = 0; i < m->n_deliveries; i++)
        texts += m->deliveries[i].hop->name_len;
    return envelope_bytes(m->n_recipients, m->n_deliveries, (size_t)__builtin_popcountll(m->holders), m->has_extras,
                          texts);
}

uint64_t state_bytes(const struct state *s)
{
    uint64_t notices = 0;

    for (uint32_t i = 1; i <= STATE_MAX_NODES; i++)
        if (s->nodes[i] != NULL)
            notices += s->nodes[i]->notices.count;
    return STATE_HEAD_BYTES + s->message_bytes + s->counts.assigned * ASSIGNED + notices * NOTICE +
           s->finished.count * FINISHED + s->parts.bytes + s->parts.all.count * PARTS + s->sites.bytes +
           s->users.index.count * USER;
}
