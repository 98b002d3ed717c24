/* What one node learned of a site, for all: that STARTTLS does not work there, its MTA-STS policy (RFC 8461).
 *
 * Hints with an end: the tree holds the sites by the time when the last of what is known expires; at STATE_MAX_SITES or
 * STATE_MAX_SITES_BYTES the first of them goes. A change makes the site's one allocation anew. */
#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct state_site *site_find(const struct state *s, const char *name)
{
    for (struct state_index_node *n = state_index_first(&s->sites.index, state_name_hash(s, name, strlen(name)));
         n != NULL; n = state_index_next(n)) {
        struct state_site *site = MR_CONTAINER(n, struct state_site, by_name);
        if (strcmp(site->name, name) == 0)
            return site;
    }
    return NULL;
}

uint64_t site_bytes(const struct state_site *site)
{
    enum { SITE = 120, PATTERN = 8, TEXTS = 3 };
    uint64_t bytes = SITE + TEXTS + strlen(site->name) + strlen(site->tls_reason) + strlen(site->sts_id);

    for (uint32_t i = 0; i < site->n_sts_mx; i++)
        bytes += PATTERN + strlen(site->sts_mx[i]) + 1;
    return bytes;
}

static void unlink_site(struct state *s, struct state_site *site)
{
    state_index_remove(&s->sites.index, &site->by_name);
    state_tree_remove(&s->sites.by_expiry, &site->by_expiry);
    s->sites.bytes -= site_bytes(site);
    s->memory -= site->memory;
}

static void drop_first(struct state *s)
{
    struct state_site *first = MR_CONTAINER(state_tree_first(&s->sites.by_expiry), struct state_site, by_expiry);

    unlink_site(s, first);
    free(first);
}

void sites_expire(struct state *s, unsigned max)
{
    const struct state_tree_node *first;

    for (unsigned n = 0; n < max && (first = state_tree_first(&s->sites.by_expiry)) != NULL; n++) {
        if (first->major > s->now_ms)
            break;
        drop_first(s);
    }
}

void sites_close(struct state *s)
{
    while (s->sites.by_expiry.count > 0)
        drop_first(s);
    state_index_close(&s->sites.index);
}

/* ---- making one ---- */

static bool short_text(const char *text, bool may_be_empty)
{
    size_t len = strnlen(text, STATE_MAX_SITE + 1);
    return len <= STATE_MAX_SITE && (may_be_empty || len > 0);
}

bool site_valid(const struct site_texts *t)
{
    if (!short_text(t->name, false) || !short_text(t->sts_id, true) || t->n_sts_mx > STATE_MAX_STS_MX ||
        strnlen(t->tls_reason, STATE_MAX_REPLY + 1) > STATE_MAX_REPLY)
        return false;
    for (size_t i = 0; i < t->n_sts_mx; i++)
        if (!short_text(t->sts_mx[i], false))
            return false;
    return true;
}

static const char *put_text(char **at, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = memcpy(*at, text, size);

    *at += size;
    return copy;
}

static struct state_site *make(const struct site_texts *t)
{
    size_t size = sizeof(struct state_site) + t->n_sts_mx * sizeof(char *);

    size += strlen(t->name) + strlen(t->tls_reason) + strlen(t->sts_id) + 3;
    for (size_t i = 0; i < t->n_sts_mx; i++)
        size += strlen(t->sts_mx[i]) + 1;
    struct state_site *site = mr_calloc(1, size);
    const char **mx = (const char **)(void *)(site + 1);
    char *at = (char *)(mx + t->n_sts_mx);
    site->memory = size;
    site->name = put_text(&at, t->name);
    site->tls_reason = put_text(&at, t->tls_reason);
    site->sts_id = put_text(&at, t->sts_id);
    for (size_t i = 0; i < t->n_sts_mx; i++)
        mx[i] = put_text(&at, t->sts_mx[i]);
    site->sts_mx = mx;
    site->n_sts_mx = (uint32_t)t->n_sts_mx;
    return site;
}

void site_add(struct state *s, const struct site_texts *t, uint64_t number, uint64_t tls_failed_until_ms,
              uint32_t sts_mode, uint64_t sts_expires_ms)
{
    struct state_site *site = make(t);
    uint64_t expires = tls_failed_until_ms > sts_expires_ms ? tls_failed_until_ms : sts_expires_ms;

    site->number = number;
    site->tls_failed_until_ms = tls_failed_until_ms;
    site->sts_mode = sts_mode;
    site->sts_expires_ms = sts_expires_ms;
    state_index_insert(&s->sites.index, &site->by_name, state_name_hash(s, site->name, strlen(site->name)));
    state_tree_insert(&s->sites.by_expiry, &site->by_expiry, expires, number);
    s->sites.bytes += site_bytes(site);
    s->memory += site->memory;
}

/* ---- operation ---- */

static uint64_t until(const struct state *s, uint64_t for_ms)
{
    return s->now_ms + (for_ms < STATE_MAX_SITE_FOR_MS ? for_ms : STATE_MAX_SITE_FOR_MS);
}

enum apply_result state_site_memory(struct state *s, const Mailraft__SiteMemory *memory)
{
    static char none[] = "";
    const Mailraft__StsPolicy *sts = memory->sts;
    struct state_site *old = site_find(s, memory->site);
    bool keep_tls = memory->tls_failed_for_ms == 0 && old != NULL && old->tls_failed_until_ms > s->now_ms;
    bool keep_sts = sts == NULL && !memory->sts_gone && old != NULL && old->sts_expires_ms > s->now_ms;
    struct site_texts t = {.name = memory->site, .tls_reason = none, .sts_id = none};
    uint64_t tls_until = 0, sts_until = 0;
    uint32_t mode = 0;

    if (memory->tls_failed_for_ms != 0) {
        tls_until = until(s, memory->tls_failed_for_ms);
        t.tls_reason = memory->tls_reason;
    } else if (keep_tls) {
        tls_until = old->tls_failed_until_ms;
        t.tls_reason = old->tls_reason;
    }
    if (sts != NULL) {
        if (sts->mode < 1 || sts->mode > 3 || sts->id[0] == '\0')
            return APPLY_INVALID;
        t.sts_id = sts->id;
        t.sts_mx = sts->mx;
        t.n_sts_mx = sts->n_mx;
        mode = sts->mode;
        sts_until = sts->max_age_for_ms != 0 ? until(s, sts->max_age_for_ms) : 0;
    } else if (keep_sts) {
        t.sts_id = old->sts_id;
        t.sts_mx = (char *const *)(uintptr_t)old->sts_mx;
        t.n_sts_mx = old->n_sts_mx;
        mode = old->sts_mode;
        sts_until = old->sts_expires_ms;
    }
    if (!site_valid(&t))
        return APPLY_INVALID;
    if (old != NULL)
        unlink_site(s, old);
    if (sts_until == 0) {
        t.sts_id = none;
        t.n_sts_mx = 0;
        mode = 0;
    }
    if (tls_until != 0 || sts_until != 0)
        site_add(s, &t, s->sites.next_number++, tls_until, mode, sts_until);
    free(old); /* its texts were copied */
    while (s->sites.by_expiry.count > STATE_MAX_SITES || s->sites.bytes > STATE_MAX_SITES_BYTES)
        drop_first(s);
    return APPLIED;
}

/* ---- reading ---- */

bool state_site(const struct state *s, const char *name, struct site_view *out)
{
    const struct state_site *site = site_find(s, name);

    *out = (struct site_view){.tls_reason = ""};
    if (site == NULL)
        return false;
    if (site->tls_failed_until_ms > s->now_ms) {
        out->tls_failed_until_ms = site->tls_failed_until_ms;
        out->tls_reason = site->tls_reason;
    }
    if (site->sts_expires_ms > s->now_ms) {
        out->sts_id = site->sts_id;
        out->sts_mode = site->sts_mode;
        out->sts_mx = site->sts_mx;
        out->n_sts_mx = site->n_sts_mx;
        out->sts_expires_ms = site->sts_expires_ms;
    }
    return out->tls_failed_until_ms != 0 || out->sts_id != NULL;
}
