/* delivery_tls.h - how the connection of a slot is secured (delivery_tls.c); part of delivery_internal.h.
 *
 * X1: a demand is decided for each address before it is connected to, and never lowered but from MAY to PLAIN.
 * X2: nothing that was said before the handshake counts after it.
 * X3: a connection is used for another message only when it satisfies that message's demand too. Thread: the
 * worker's. */
#ifndef MR_DELIVERY_DELIVERY_TLS_H
#define MR_DELIVERY_DELIVERY_TLS_H

#include "node/delivery/sts.h"
#include "node/dns/dns_answer.h"
#include "node/tls/tls.h"
#include "ops.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

/* Each is at least what those before it are, for a message that only asks for TLS. From NAMES on the host is proven. */
enum demand {
    DEMAND_PLAIN, /* no STARTTLS */
    DEMAND_MAY,   /* where offered and working */
    DEMAND_TLS,   /* whoever it is with */
    DEMAND_NAMES, /* with a certificate of an authority for certain names */
    DEMAND_STS,   /* the same, for an MX host that the domain's policy names (RFC 8461) */
    DEMAND_DANE,  /* with a certificate that the TLSA records name (RFC 7672) */
};

struct secure {
    enum demand demand;
    Mailraft__TlsPolicy policy; /* when the connection was made */
    bool testing;               /* STS policy in testing mode: verified, but only for the log */
    bool plain;                 /* STARTTLS failed with this address: plain text now */
    bool own_fault;             /* our own files are at fault: nothing that the cluster should remember of the site */
    char *session_key;          /* what the handshake under way, or done, is good for; NULL: not to be resumed */
    const char *verified;       /* how, for logs: none, verify, sts, dane; NULL: no TLS */
    const char *status; /* enhanced status of what went wrong with the address; NULL: not a matter of security */
    bool temporary;     /* some address of this attempt failed in a way that may pass */
    /* TLSA records of the address */
    struct question *question;
    bool asking_alias, tlsa_known;
    uint8_t *tlsa_answer; /* `tlsa` points into it */
    struct dns_tlsa_answer tlsa;
    char tlsa_base[256]; /* name that they were found at, without port and protocol */
    /* the domain's policy of MTA-STS, for all addresses of the attempt */
    struct sts_wait *sts_wait;
    bool sts_known;
    struct sts_policy *sts; /* a reference of our own; NULL: none */
};

struct slot;
struct delivery;

/* The address is chosen: finds out its demand; then slot_dial, or slot_lost for one that cannot be used. */
void slot_secure(struct slot *s);
/* The next address, or none: what was found out about this one is dropped. */
void slot_secure_forget(struct slot *s);
/* What was found out about the domain is dropped too. */
void slot_secure_reset(struct slot *s);
/* After EHLO's reply. False: nothing to do, the connection is as secure as it has to be. */
bool slot_starttls(struct slot *s);
/* more: bytes stand behind the reply. */
void slot_starttls_reply(struct slot *s, int code, const char *text, bool more);
/* Bytes were fed: sends what TLS has to say, and goes on when the handshake is done or has failed. */
void slot_tls_progress(struct slot *s);
/* After the last EHLO. False: the message demands what the next hop lacks; the address was given up. */
bool slot_may_transfer(struct slot *s);
/* This address will not do; like slot_lost, with an enhanced status. */
__attribute__((format(printf, 3, 4))) void slot_refuse(struct slot *s, const char *status, const char *format, ...);
/* The connection failed before it was ready. True: it did in STARTTLS, which nobody demands; the same address shall be
 * tried again in plain text. */
bool slot_tls_fallback(struct slot *s, const char *why);
/* May the idle connection be used for the slot's job? */
bool slot_secure_enough(const struct slot *s);
/* Does the message ask for REQUIRETLS? Its failure then says nothing about the next hop's other messages. */
bool slot_requires_tls(const struct slot *s);
/* The connection's TLS goes; its session is kept for the next one. */
void slot_tls_end(struct slot *s);

/* delivery_tls_context.c. NULL: the configuration's files cannot be used (logged). */
SSL_CTX *delivery_tls_context(struct delivery *d, bool verified);
/* Before the handshake: offers the session that was kept under this key. */
void delivery_tls_resume(struct delivery *d, const char *key, struct tls *t);
void delivery_tls_keep(struct delivery *d, const char *key, struct tls *t);
void delivery_tls_close(struct delivery *d);

#endif
