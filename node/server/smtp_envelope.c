/* smtp_envelope.c - recipients in one block of memory; grouped by next hop when the message is whole.
 *
 * Grouping goes through two small hash tables, so that its cost is linear in the recipients, also when each has its own
 * domain, or all share a local part. They are seeded with the message's id, which the client does not know yet: it
 * cannot choose addresses that meet in one place. */
#include "node/server/smtp_envelope.h"

#include "cluster/route.h"
#include "cluster/state.h"
#include "proto/base/ascii.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void smtp_envelope_close(struct smtp_envelope *e)
{
    free(e->records);
    e->records = NULL;
}

static void append(struct smtp_envelope *e, const char *text, size_t len)
{
    memcpy(e->records + e->used, text, len);
    e->used += len;
}

int smtp_envelope_add(struct smtp_envelope *e, const char *address, size_t len, const char *domain, unsigned notify,
                      struct smtp_slice orcpt)
{
    size_t domain_len = domain != NULL ? strlen(domain) : 0;
    size_t need = e->used + 1 + len + 1 + domain_len + 1 + orcpt.len + 1;
    char bits = (char)notify;

    if (need > SMTP_ENVELOPE_MAX)
        return MR_LIMIT;
    if (need > e->cap) {
        e->cap = e->cap == 0 ? 512 : e->cap * 2;
        if (e->cap < need)
            e->cap = need;
        e->records = mr_realloc(e->records, e->cap);
    }
    append(e, &bits, 1);
    append(e, address, len);
    if (domain != NULL) {
        append(e, "@", 1);
        append(e, domain, domain_len);
    }
    append(e, "", 1);
    append(e, orcpt.len > 0 ? orcpt.at : "", orcpt.len);
    append(e, "", 1);
    e->n++;
    return 0;
}

const char *smtp_envelope_first(const struct smtp_envelope *e)
{
    return e->records + 1;
}

/* Deliveries to one next hop: filled one after the other. */
struct group {
    uint32_t delivery; /* the one that is being filled */
    uint32_t count;    /* its recipients */
    uint32_t max;
};
struct builder {
    Mailraft__Enqueue *m;
    const Mailraft__Rules *rules;
    uint64_t seed; /* of both tables */
    size_t mask;
    uint32_t *by_hop;  /* group + 1; 0: free */
    uint32_t *by_name; /* recipient + 1 */
    struct group *groups;
    uint32_t n_groups;
};

static uint32_t add_next_hop(struct builder *b, const char *next_hop)
{
    b->m->next_hops[b->m->n_next_hops] = mr_strdup(next_hop);
    return (uint32_t)b->m->n_next_hops++;
}

static uint32_t find_delivery(struct builder *b, const char *next_hop)
{
    size_t at = XXH3_64bits_withSeed(next_hop, strlen(next_hop), b->seed) & b->mask;
    struct group *g;

    while (b->by_hop[at] != 0) {
        g = &b->groups[b->by_hop[at] - 1];
        if (strcmp(b->m->next_hops[g->delivery], next_hop) == 0) {
            if (g->count == g->max) {
                g->delivery = add_next_hop(b, next_hop);
                g->count = 0;
            }
            g->count++;
            return g->delivery;
        }
        at = (at + 1) & b->mask;
    }
    g = &b->groups[b->n_groups++];
    b->by_hop[at] = b->n_groups;
    g->max = route_limit(b->rules, next_hop)->recipients_per_message;
    if (g->max == 0)
        g->max = UINT32_MAX;
    g->delivery = add_next_hop(b, next_hop);
    g->count = 1;
    return g->delivery;
}

/* Where the domain begins; domains and literals have no '@'. */
static const char *domain_of(const char *address)
{
    return strrchr(address, '@') + 1;
}

/* The same for all ways to write the domain. */
static uint64_t hash_address(const struct builder *b, const char *address, size_t local, size_t len)
{
    uint64_t hash = XXH3_64bits_withSeed(address, local, b->seed);
    char lower[64];

    for (size_t i = local, n; i < len; i += n) {
        for (n = 0; n < sizeof(lower) && i + n < len; n++)
            lower[n] = ascii_lower(address[i + n]);
        hash = XXH3_64bits_withSeed(lower, n, hash);
    }
    return hash;
}

/* Local parts may differ by case, domains do not. True: given before. */
static bool is_known(struct builder *b, const char *address, size_t len)
{
    size_t local = (size_t)(domain_of(address) - address);
    size_t at = hash_address(b, address, local, len) & b->mask;

    while (b->by_name[at] != 0) {
        const Mailraft__Recipient *r = b->m->recipients[b->by_name[at] - 1];

        if (r->address.len == len && memcmp(r->address.data, address, local) == 0 &&
            strncasecmp((const char *)r->address.data + local, address + local, len - local) == 0)
            return true;
        at = (at + 1) & b->mask;
    }
    b->by_name[at] = (uint32_t)b->m->n_recipients + 1;
    return false;
}

/* *record moves behind it. */
static int add_recipient(struct builder *b, const char **record)
{
    char next_hop[ROUTE_MAX];
    unsigned notify = (unsigned char)**record;
    const char *address = *record + 1;
    size_t len = strlen(address);
    const char *domain = domain_of(address);
    const char *orcpt = address + len + 1;
    Mailraft__Recipient *r;
    int rc;

    *record = orcpt + strlen(orcpt) + 1;
    rc = route_lookup(b->rules, domain, len - (size_t)(domain - address), next_hop, NULL);
    if (rc != 0 || is_known(b, address, len))
        return rc;
    r = mr_malloc(sizeof(*r));
    mailraft__recipient__init(r);
    r->address.data = mr_memdup(address, len);
    r->address.len = len;
    r->delivery = find_delivery(b, next_hop);
    r->notify = notify;
    if (*orcpt != '\0') {
        r->orcpt.len = strlen(orcpt);
        r->orcpt.data = mr_memdup(orcpt, r->orcpt.len);
    }
    b->m->recipients[b->m->n_recipients++] = r;
    return 0;
}

static Mailraft__Enqueue *begin(const struct smtp_envelope *e, struct mr_id id, Mailraft__Body *body,
                                const char *client)
{
    Mailraft__Enqueue *m = mr_malloc(sizeof(*m));

    mailraft__enqueue__init(m);
    m->id.data = mr_memdup(id.bytes, MR_ID_SIZE);
    m->id.len = MR_ID_SIZE;
    m->body = body;
    if (e->reverse_path[0] != '\0') {
        m->reverse_path.len = strlen(e->reverse_path);
        m->reverse_path.data = mr_memdup(e->reverse_path, m->reverse_path.len);
    }
    m->flags = e->flags;
    m->client = mr_strdup(client);
    m->ret = e->ret;
    if (e->envid[0] != '\0')
        m->envid = mr_strdup(e->envid);
    m->priority = e->priority;
    m->hold_for_ms = e->hold_for_ms;
    m->deliver_by = (Mailraft__DeliverBy)e->by;
    m->deliver_by_for_ms = e->by_for_ms;
    m->deliver_by_trace = e->by_trace;
    if (e->user[0] != '\0')
        m->user = mr_strdup(e->user);
    m->recipients = mr_calloc(e->n, sizeof(void *));
    m->next_hops = mr_calloc(e->n, sizeof(m->next_hops[0]));
    return m;
}

int smtp_envelope_build(const struct smtp_envelope *e, const Mailraft__Rules *rules, struct mr_id id,
                        Mailraft__Body *body, const char *client, Mailraft__Enqueue **out)
{
    struct builder b = {.rules = rules, .seed = mr_id_hash(id), .mask = 3};
    const char *record = e->records;
    int rc = 0;

    b.m = begin(e, id, body, client);
    while (b.mask < 2 * (size_t)e->n)
        b.mask = b.mask * 2 + 1;
    b.by_hop = mr_calloc(b.mask + 1, sizeof(b.by_hop[0]));
    b.by_name = mr_calloc(b.mask + 1, sizeof(b.by_name[0]));
    b.groups = mr_calloc(e->n, sizeof(b.groups[0]));
    for (unsigned i = 0; i < e->n && rc == 0; i++)
        rc = add_recipient(&b, &record);
    free(b.by_hop);
    free(b.by_name);
    free(b.groups);
    if (rc != 0) {
        mailraft__enqueue__free_unpacked(b.m, NULL);
        b.m = NULL;
    }
    *out = b.m;
    return rc;
}
