/* route.h - from a recipient's domain to a next hop, by the rules in force. Pure.
 *
 * Next hops have one canonical text, lower case: "mx:DOMAIN", "smtp://[USER@]HOST:PORT", "lmtp://HOST:PORT"; an IPv6
 * address stands in brackets. A list, whose hosts are tried in order, is several of one of the last two kinds with
 * commas between: "smtp://a.example:25,smtp://b.example:25"; everywhere else it is one next hop like any other. The
 * site of a next hop, which limits name, is its DOMAIN or (first) HOST. Thread: any. */
#ifndef MR_CLUSTER_ROUTE_H
#define MR_CLUSTER_ROUTE_H

#include "ops.pb-c.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NEXT_HOP_MAX = 320, /* bytes of the text of one host of a next hop, zero byte included */
    ROUTE_MAX = 1024,   /* of the whole */
    NEXT_HOP_MAX_HOSTS = 8,
};

enum next_hop_kind { NEXT_HOP_MX, NEXT_HOP_SMTP, NEXT_HOP_LMTP };
struct next_hop {
    enum next_hop_kind kind;
    char user[64];
    char host[256]; /* domain of mx; address literals without brackets */
    uint16_t port;  /* 0 for mx */
};

/* A route as the configuration writes it ("mx", "smtp://...", "lmtp://...") or a canonical next hop ("mx:..."); not a
 * list. MR_MALFORMED. Default ports: smtp 25, lmtp 24. */
int next_hop_parse(const char *text, struct next_hop *out);
/* Canonical text; "mx" with an empty host gives "mx". Returns text. */
char *next_hop_format(const struct next_hop *hop, char text[NEXT_HOP_MAX]);

struct next_hop_list {
    unsigned n; /* at least 1 */
    struct next_hop at[NEXT_HOP_MAX_HOSTS];
};
/* As next_hop_parse, and lists; blanks after the commas are allowed. MR_LIMIT: too many hosts. On error *out holds
 * nothing of use. */
int next_hop_list_parse(const char *text, struct next_hop_list *out);
char *next_hop_list_format(const struct next_hop_list *list, char text[ROUTE_MAX]);

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
