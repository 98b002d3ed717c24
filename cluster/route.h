/* route.h - from a recipient's domain to a next hop, by the rules in force. Pure.
 *
 * Next hops have one canonical text, lower case: "mx:DOMAIN", "smtp://[USER@]HOST:PORT", "lmtp://HOST:PORT"; an IPv6
 * address stands in brackets. The site of a next hop, which limits name, is its DOMAIN or HOST. Thread: any. */
#ifndef MR_CLUSTER_ROUTE_H
#define MR_CLUSTER_ROUTE_H

#include "ops.pb-c.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ROUTE_MAX = 320 }; /* bytes of a next hop's text, zero byte included */

enum next_hop_kind { NEXT_HOP_MX, NEXT_HOP_SMTP, NEXT_HOP_LMTP };
struct next_hop {
    enum next_hop_kind kind;
    char user[64];
    char host[256]; /* domain of mx; address literals without brackets */
    uint16_t port;  /* 0 for mx */
};

/* A route as the configuration writes it ("mx", "smtp://...", "lmtp://...") or a canonical next hop ("mx:...").
 * MR_MALFORMED. Default ports: smtp 25, lmtp 24. */
int next_hop_parse(const char *text, struct next_hop *out);
/* Canonical text; "mx" with an empty host gives "mx". Returns text. */
char *next_hop_format(const struct next_hop *hop, char text[ROUTE_MAX]);

/* Next hop of a domain (any case; without trailing dot). Exact name first, then "default". MR_NOTFOUND: no rule at all.
 * local (may be NULL): the domain is one of `domains`. */
int route_lookup(const Mailraft__Rules *rules, const char *domain, size_t len, char next_hop[ROUTE_MAX], bool *local);
/* The limit in force for a next hop: its site's entry, else "default", else a static unlimited one. Never NULL. */
const Mailraft__Limit *route_limit(const Mailraft__Rules *rules, const char *next_hop);
/* How connections to a next hop are secured: its site's entry, else "default", else a static one with
 * TLS_POLICY_DEFAULT. Never NULL. */
const Mailraft__TlsRule *route_tls(const Mailraft__Rules *rules, const char *next_hop);
/* Site of a canonical next hop; returns text. */
char *route_site(const char *next_hop, char text[ROUTE_MAX]);

#endif
