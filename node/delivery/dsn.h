/* dsn.h - delivery status notifications (RFC 3464, 6522, 6533): builds one, stores its body, gives the enqueue for it.
 *
 * What the report says about each recipient comes from the caller; the original's header section is read from the body
 * plane. Thread: the worker's. */
#ifndef MR_DELIVERY_DSN_H
#define MR_DELIVERY_DSN_H

#include "node/worker.h"

enum dsn_action { DSN_NONE, DSN_FAILED, DSN_DELAYED, DSN_DELIVERED, DSN_RELAYED };
enum { DSN_MAX_ORIGINAL = 64 * 1024 /* bytes of the original that a report carries */ };

struct dsn_recipient {
    const char *address, *orcpt; /* orcpt: as it came, "type;xtext"; "" or NULL: none */
    enum dsn_action action;
    const char *status, *reply;
    const char *remote; /* "host[address]:port"; "" none */
};
struct dsn_report {
    struct mr_id id; /* of the original */
    const char *reverse_path;
    const char *envid; /* as it came, in xtext */
    uint32_t ret;
    bool utf8; /* the original came with SMTPUTF8 */
    /* The original came with REQUIRETLS: nothing of it is shown, so that the report may travel without (RFC 8689 5);
     * the way back to the sender may well not know it, and then the sender would learn nothing at all. */
    bool redacted;
    uint64_t arrived_ms, expire_ms;
    const struct dsn_recipient *recipients;
    uint32_t n_recipients;
};
/* The report is copied. done comes once: status 0 and the enqueue (protobuf-c's default allocator, ownership passes),
 * or why its body could not be stored. */
void dsn_make(struct worker *w, const struct dsn_report *report,
              void (*done)(void *arg, int status, Mailraft__Enqueue *dsn), void *arg);

/* Pure: the text of the report, CR LF lines; malloc. headers: the original's header section (or whole, RET=FULL), may
 * be empty. */
char *dsn_text(const struct dsn_report *report, const char *hostname, struct mr_id own_id, uint64_t now_ms,
               const char *original, size_t original_len, bool whole, size_t *len);

/* Does it hold a byte that 7-bit transport would not carry? */
bool dsn_eight_bit(const char *text, size_t len);
/* Is the report in the form of RFC 6533: with addresses and a header that are not ASCII as they are? */
bool dsn_global(const struct dsn_report *report, const char *original, size_t original_len);

#endif
