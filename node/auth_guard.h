/* auth_guard.h - how often logins from an address have failed lately, in memory that does not grow.
 *
 * One failure is forgotten every AUTH_GUARD_FORGET_MS. An address is an IPv4 address or an IPv6 /64. When its bucket is
 * full, a new address takes the place of the one with the fewest failures: a botnet costs precision, not memory.
 * Thread: one at a time (its holder locks). */
#ifndef MR_NODE_AUTH_GUARD_H
#define MR_NODE_AUTH_GUARD_H

#include <stdbool.h>
#include <stdint.h>

enum { AUTH_GUARD_MOST = 20, AUTH_GUARD_FORGET_MS = 60000 };

struct auth_guard;

struct auth_guard *auth_guard_open(void);
void auth_guard_close(struct auth_guard *g);
/* address: text, as inet_ntop gives it; anything else stands for itself. */
void auth_guard_failed(struct auth_guard *g, const char *address, uint64_t now_ms);
/* A login that worked; people mistype before. */
void auth_guard_worked(struct auth_guard *g, const char *address);
/* AUTH_GUARD_MOST have failed: no more tries now. */
bool auth_guard_closed_to(struct auth_guard *g, const char *address, uint64_t now_ms);

#endif
