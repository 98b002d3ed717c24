/* own_hosts.h - which of the hosts that MX records lead to are ourselves or another member of our cluster. Mail that is
 * sent to one of these comes back as a new message, tried at once: a domain that we are the backup of would not wait
 * for its primary but go round until its Received fields are too many, and be bounced (RFC 5321 section 5.1).
 *
 * O1: by name: smtp.hostname, smtp.own_hosts; and names and hosts in cluster.initial when one of our listeners takes
 *     SMTP at the port of MX hosts, else another server does so there. What we say in EHLO (delivery.hostname) may be
 *     the name of an address translation, and other servers' behind it.
 * O2: an address of this machine, its loopback networks included, when one of our listeners takes SMTP there, at that
 *     port. Another server that runs beside us is not we, whatever O3 says.
 * O3: an address of a host in cluster.initial, with the port of one of our listeners that take SMTP, at any address or
 *     at one of those hosts': members are expected to have the same ones.
 * O4: an address that smtp.own_hosts has, or that a name there leads to, with any port: a balancer's ports are its own.
 * O5: interfaces are looked at, and names asked for, again every OWN_HOSTS_FRESH_MS when there is mail by MX; a name
 *     that is not known for now keeps the addresses that it had.
 * Thread: the resolver's. */
#ifndef MR_DNS_OWN_HOSTS_H
#define MR_DNS_OWN_HOSTS_H

#include "node/config/config.h"
#include "node/dns/resolver.h"

enum { OWN_HOSTS_FRESH_MS = 60 * 1000 };

struct own_hosts;
/* config has to live as long. */
struct own_hosts *own_hosts_make(const struct config *config);
/* After the resolver was closed. */
void own_hosts_free(struct own_hosts *o);
/* O5, if it is time. */
void own_hosts_refresh(struct own_hosts *o, struct resolver *r);
/* O1. */
bool own_hosts_has_name(const struct own_hosts *o, const char *name);
/* Leaves of a resolution by MX what is better than the best of our own hosts (in any order). When that is nothing: a
 * permanent failure if ours is the best that the domain has, else a temporary one. */
void own_hosts_cut(const struct own_hosts *o, const char *domain, struct resolution *resolution);

#endif
