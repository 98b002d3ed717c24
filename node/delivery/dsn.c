/* Happy path: dsn_make -> first piece of the original's body -> text -> stored like any body, a piece after the other
 * (thousands of recipients do not fit into one), on a majority -> enqueue
 * handed to the caller, who proposes it together with its cause (PROTOCOL.md 7.1). Failure: an original that cannot be
 * read leaves its part out; a body that cannot be stored is told to the caller (7.2). */
#include "node/delivery/dsn.h"

#include "cluster/spool.h"
#include "node/delivery/delivery_internal.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct making {
    struct worker *w;
    struct dsn_report report;
    struct dsn_recipient *recipients;
    struct mr_id id;
    bool eight_bit, global;
    char *text;
    size_t len, stored;
    struct cluster_body *body;
    char next_hop[ROUTE_MAX];
    void (*done)(void *arg, int status, Mailraft__Enqueue *dsn);
    void *arg;
};

static void finish(struct making *m, int status, Mailraft__Enqueue *dsn)
{
    m->done(m->arg, status, dsn);
    for (uint32_t i = 0; i < m->report.n_recipients; i++) {
        const char *strings[] = {m->recipients[i].address, m->recipients[i].orcpt, m->recipients[i].status,
                                 m->recipients[i].reply, m->recipients[i].remote};
        for (size_t k = 0; k < sizeof(strings) / sizeof(strings[0]); k++)
            free((char *)(uintptr_t)strings[k]);
    }
    free(m->recipients);
    free((char *)(uintptr_t)m->report.reverse_path);
    free((char *)(uintptr_t)m->report.envid);
    free(m->text);
    free(m);
}

static void on_stored(void *arg, int status, Mailraft__Body *body)
{
    struct making *m = arg;
    if (status != 0) {
        finish(m, status, NULL);
        return;
    }
    Mailraft__Enqueue *e = mr_malloc(sizeof(*e));
    mailraft__enqueue__init(e);
    e->id.data = mr_memdup(m->id.bytes, MR_ID_SIZE);
    e->id.len = MR_ID_SIZE;
    e->body = body;
    e->flags = MESSAGE_DSN | (m->eight_bit || m->global ? (uint32_t)MESSAGE_8BITMIME : 0U) |
               (m->global ? (uint32_t)MESSAGE_SMTPUTF8 : 0U);
    e->n_next_hops = 1;
    e->next_hops = mr_calloc(1, sizeof(*e->next_hops));
    e->next_hops[0] = mr_strdup(m->next_hop);
    e->n_recipients = 1;
    e->recipients = mr_calloc(1, sizeof(*e->recipients));
    e->recipients[0] = mr_malloc(sizeof(*e->recipients[0]));
    mailraft__recipient__init(e->recipients[0]);
    e->recipients[0]->address.len = strlen(m->report.reverse_path);
    e->recipients[0]->address.data = mr_memdup(m->report.reverse_path, e->recipients[0]->address.len);
    finish(m, 0, e);
}

static void store_next(struct making *m);

static void on_piece(void *arg, int status)
{
    struct making *m = arg;
    if (status == 0) {
        store_next(m);
        return;
    }
    delivery_backend.body_abort(m->body);
    finish(m, status, NULL);
}

static void store_next(struct making *m)
{
    size_t left = m->len - m->stored;
    size_t len = left > SPOOL_MAX_PIECE ? SPOOL_MAX_PIECE : left;
    uint8_t *piece = mr_memdup(m->text + m->stored, len);
    m->stored += len;
    if (len < left) {
        delivery_backend.body_piece(m->body, piece, len, on_piece, m);
        return;
    }
    XXH128_canonical_t checksum;
    XXH128_canonicalFromHash(&checksum, XXH3_128bits(m->text, m->len));
    delivery_backend.body_finish(m->body, piece, len, m->len, checksum.digest, on_stored, m);
}

static void store(struct making *m, const char *original, size_t original_len, bool whole)
{
    m->text = dsn_text(&m->report, m->w->config->smtp.hostname, m->id, mr_wall_ms(&mr_clock_real), original,
                       original_len, whole, &m->len);
    m->eight_bit = dsn_eight_bit(original, original_len);
    m->global = dsn_global(&m->report, original, original_len);
    m->body = delivery_backend.body_begin(m->w->port, m->id);
    store_next(m);
}

/* RFC 3461 4.3: RET=FULL is of failures; a report of a success or a delay carries the header. */
static bool any_failed(const struct dsn_report *r)
{
    for (uint32_t i = 0; i < r->n_recipients; i++)
        if (r->recipients[i].action == DSN_FAILED)
            return true;
    return false;
}

static void on_original(void *arg, int status, uint8_t *data, size_t len, bool last)
{
    enum { RET_FULL = 1 };
    struct making *m = arg;
    size_t take = 0;
    bool whole = false;

    if (status == 0 && !m->report.redacted) {
        const char *end = memmem(data, len, "\r\n\r\n", 4);
        whole = m->report.ret == RET_FULL && any_failed(&m->report) && last && len <= DSN_MAX_ORIGINAL &&
                memchr(data, 0, len) == NULL; /* binary content fits into no report */
        take = whole ? len : end != NULL ? (size_t)(end - (const char *)data) + 2 : len;
        if (take > DSN_MAX_ORIGINAL) { /* cut at a line's end */
            take = DSN_MAX_ORIGINAL;
            while (take > 0 && data[take - 1] != '\n')
                take--;
        }
    }
    store(m, (const char *)data, take, whole);
    free(data);
}

static char *copy(const char *s)
{
    return mr_strdup(s == NULL ? "" : s);
}

void dsn_make(struct worker *w, const struct dsn_report *report,
              void (*done)(void *arg, int status, Mailraft__Enqueue *dsn), void *arg)
{
    struct making *m = mr_calloc(1, sizeof(*m));
    const char *at = strrchr(report->reverse_path, '@');

    m->w = w;
    m->report = *report;
    m->report.reverse_path = copy(report->reverse_path);
    m->report.envid = copy(report->envid);
    m->recipients = mr_calloc(report->n_recipients, sizeof(*m->recipients));
    for (uint32_t i = 0; i < report->n_recipients; i++) {
        const struct dsn_recipient *r = &report->recipients[i];
        m->recipients[i] = (struct dsn_recipient){.address = copy(r->address),
                                                  .orcpt = copy(r->orcpt),
                                                  .action = r->action,
                                                  .status = copy(r->status),
                                                  .reply = copy(r->reply),
                                                  .remote = copy(r->remote)};
    }
    m->report.recipients = m->recipients;
    m->id = mr_id_at(mr_wall_ms(&mr_clock_real));
    m->done = done;
    m->arg = arg;
    const char *domain = at == NULL ? w->config->smtp.hostname : at + 1;
    if (w->rules == NULL || route_lookup(w->rules->rules, domain, strlen(domain), m->next_hop, NULL) != 0) {
        finish(m, MR_NOTFOUND, NULL);
        return;
    }
    delivery_backend.body_read(w->port, report->id, 0, on_original, m);
}
