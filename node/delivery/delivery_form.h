/* delivery_form.h - the form that a message takes for one next hop: what of its envelope can be said there, in which
 * encoding its body goes, and the text of MAIL and RCPT. Pure: no I/O.
 *
 * F1: a parameter is written only if the next hop offers its extension. F2: what the sender was promised when the
 * message was accepted and what this next hop cannot do is done otherwise (a conversion, a report of ours) or refused
 * with the code of its RFC before the data; never left out in silence. Thread: any. */
#ifndef MR_DELIVERY_DELIVERY_FORM_H
#define MR_DELIVERY_DELIVERY_FORM_H

#include "cluster/cluster.h"
#include "node/delivery/smtp_capabilities.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum form_body { FORM_PLAIN, FORM_8BIT, FORM_BINARY }; /* BODY=: none, 8BITMIME, BINARYMIME */
enum form_target { FORM_AS_IT_IS, FORM_TO_8BIT, FORM_TO_7BIT };

struct send_form {
    enum form_body body;
    enum form_target convert; /* down-conversion of MIME (RFC 6152 section 3); if scan: only should it be needed */
    bool scan;                /* the message has to be read before MAIL */
    bool bdat;                /* BDAT instead of DATA (RFC 3030) */
    bool utf8;                /* MAIL has SMTPUTF8 */
    bool ascii_only;          /* a SMTPUTF8 message for a next hop without: only with ASCII addresses and header */
    bool dsn, deliver_by;     /* RFC 3461, 2852: the request was passed on */
};

/* What of `can` the message needs and gets. */
struct send_form form_choose(uint32_t flags, const struct smtp_capabilities *can);

/* Deliver-by (RFC 2852 section 4): may the message go to this next hop? NULL, or why it has to be returned (5.4.7).
 * left_s: seconds that are left, may be negative. */
const char *form_deliver_by_refusal(Mailraft__DeliverBy mode, int64_t left_s, bool final_delivery,
                                    const struct smtp_capabilities *can);

/* A mailbox without octets over 127: its domain as A-labels (RFC 5891). NULL: its local part has them, or its domain
 * is none; malloc. */
char *form_ascii_address(const char *address);
bool form_is_ascii(const char *text);

/* Text that grows; free text when done. */
struct form_text {
    char *text;
    size_t len, size;
};
__attribute__((format(printf, 2, 3))) void form_add(struct form_text *t, const char *format, ...);
void form_append(struct form_text *t, const char *data, size_t len);

struct form_mail {
    const char *reverse_path;
    uint64_t size; /* 0: not said */
    int64_t left_s;
    bool authenticated; /* this connection */
};
/* "MAIL FROM:<...> ..." with its line end. Sets form->dsn and form->deliver_by. */
void form_add_mail(struct form_text *t, struct send_form *form, const struct attempt *a, const struct form_mail *m,
                   const struct smtp_capabilities *can);
/* "RCPT TO:<...> ..."; address: in the form that it has for this next hop. */
void form_add_rcpt(struct form_text *t, const struct send_form *form, const struct attempt *a,
                   const struct attempt_recipient *to, const char *address);

/* NOTIFY bits of RFC 3461, as struct attempt_recipient has them. */
enum { NOTIFY_NEVER = 1, NOTIFY_SUCCESS = 2, NOTIFY_FAILURE = 4, NOTIFY_DELAY = 8 };

#endif
