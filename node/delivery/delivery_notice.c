/* Delay warnings and expiries (PROTOCOL.md 7.3): one DSN for all recipients of a message that are due. A null
 * reverse-path is told nothing. */
#include "node/delivery/delivery_internal.h"
#include "node/delivery/dsn.h"

#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct telling {
    struct delivery *d;
    struct notice *notice;
};

static void ended(struct delivery *d, struct notice *n)
{
    notice_free(n);
    mr_assert(d->running > 0);
    d->running--;
    delivery_ended(d);
}

/* For the log, once it is known what became of it. */
struct told {
    char id[MR_ID_TEXT + 1];
    bool expired;
    bool dsn;
    uint32_t recipients;
    char sender[]; /* ends with 0 */
};

static void on_told(void *arg, int status, enum apply_result reason)
{
    struct told *t = arg;
    if (status == 0 && reason == APPLIED)
        log_event(LOG_WARN, t->expired ? "expired" : "delay_warning", LOG_S("id", t->id), LOG_S("sender", t->sender),
                  LOG_N("recipients", t->recipients), LOG_B("dsn", t->dsn));
    else
        log_event(LOG_INFO, "notice_refused", LOG_S("id", t->id), LOG_B("expiry", t->expired),
                  LOG_S("reason", status == 0 ? apply_result_text(reason) : mr_strerror(status)));
    free(t);
}

static void done(struct delivery *d, struct notice *n, Mailraft__Enqueue *dsn)
{
    size_t len = strlen(n->reverse_path) + 1;
    struct told *t = mr_malloc(sizeof(*t) + len);
    mr_id_format(n->id, t->id);
    t->expired = n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE;
    t->dsn = dsn != NULL;
    t->recipients = n->n_recipients;
    memcpy(t->sender, n->reverse_path, len);
    delivery_backend.notice_done(d->w->port, n, dsn, on_told, t);
    ended(d, n);
}

static void on_dsn(void *arg, int status, Mailraft__Enqueue *dsn)
{
    struct telling *t = arg;
    if (status == 0) {
        atomic_fetch_add(&t->d->w->counters->dsns, 1);
        done(t->d, t->notice, dsn);
    } else {
        delivery_backend.notice_failed(t->d->w->port, t->notice);
        ended(t->d, t->notice);
    }
    free(t);
}

/* RFC 3463 X.4.7, delivery time expired: for good where DELIVERBY's time is up by mode R, for now where mode N asks to
 * be told (RFC 2852 4.1.4). */
static const char *status_of(const struct notice *n, uint32_t i)
{
    bool by = n->deliver_by_ms != 0 && n->deliver_by_ms <= n->now_ms;

    if (n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE)
        return by && n->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN ? "5.4.7" : "4.4.7";
    return by ? "4.4.7" : n->recipients[i].status;
}

static struct dsn_recipient told_of(const struct notice *n, uint32_t i)
{
    bool expired = n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE;
    return (struct dsn_recipient){.address = n->recipients[i].address,
                                  .orcpt = n->recipients[i].orcpt,
                                  .action = expired ? DSN_FAILED : DSN_DELAYED,
                                  .status = status_of(n, i),
                                  .reply = n->recipients[i].reply,
                                  .remote = ""};
}

/* RFC 3461 4.1: NOTIFY given and without the bit: not told. RFC 2852 4: the delay of by-mode N is told unless NEVER was
 * asked for. */
static bool wants(const struct notice *n, uint32_t i)
{
    bool expired = n->kind == MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE;
    uint32_t notify = n->recipients[i].notify;
    if (!expired && n->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY)
        return (notify & NOTIFY_NEVER) == 0;
    return notify == 0 || (notify & (expired ? NOTIFY_FAILURE : NOTIFY_DELAY)) != 0;
}

void delivery_notice(struct delivery *d, struct notice *n)
{
    d->running++;
    if (d->draining || d->closing) {
        delivery_backend.notice_failed(d->w->port, n);
        ended(d, n);
        return;
    }
    struct dsn_recipient *told = mr_calloc(n->n_recipients, sizeof(*told));
    uint32_t count = 0;
    for (uint32_t i = 0; i < n->n_recipients; i++)
        if (wants(n, i))
            told[count++] = told_of(n, i);
    if (count == 0 || n->reverse_path[0] == 0) {
        done(d, n, NULL);
    } else {
        struct telling *t = mr_malloc(sizeof(*t));
        *t = (struct telling){d, n};
        struct dsn_report report = {.id = n->id,
                                    .reverse_path = n->reverse_path,
                                    .envid = n->envid,
                                    .ret = n->ret,
                                    .utf8 = (n->flags & MESSAGE_SMTPUTF8) != 0,
                                    .redacted = (n->flags & MESSAGE_REQUIRETLS) != 0,
                                    .arrived_ms = n->arrived_ms,
                                    .expire_ms = n->expire_ms,
                                    .recipients = told,
                                    .n_recipients = count};
        dsn_make(d->w, &report, on_dsn, t);
    }
    free(told);
}
