/* client_table.h - how much each client address asks of this node: connections, messages, recipients, failed logins.
 *
 * One table for all workers of a node, where else they share nothing: the kernel spreads a client's connections over
 * the workers' listeners, so a limit that each worker counted by itself would be some number between N and N times
 * the workers, and different each time. What is shared is counters only, in shards with a mutex each, held for one
 * look-up in a short chain (about 150 ns, under a microsecond while a flood of new addresses empties the caches),
 * never across I/O, an allocation or a call out.
 *
 * "Address": an IPv4 address (also a mapped one), or the /64 of an IPv6 address, as a host has all of its /64 and a
 * limit on single ones would limit nobody. "Network": IPv4 /24, IPv6 /56.
 *
 * C1: connections: open at one time. A refused one is not counted.
 * C2: rates: N events in a unit of time U. A bucket of N tokens, full at first, gains N tokens in U evenly; an event
 *     takes one, without a token it is refused and takes none. So in any span of time W at most N + W * N / U events
 *     pass, and who keeps to the rate is never refused. Times come from the caller: monotonic nanoseconds.
 * C3: bounded: a fixed number of entries. An address that has connections open is never forgotten; of the others the
 *     one longest unused in its shard makes room (it would start with full buckets again: to make use of that, a
 *     client has to own more addresses than the table has entries). A shard in which all have connections open takes
 *     no further address: CLIENT_TABLE_FULL.
 * C4: which shard and chain an address falls in depends on a random seed.
 * Thread: any. */
#ifndef MR_SERVER_CLIENT_TABLE_H
#define MR_SERVER_CLIENT_TABLE_H

#include "node/config/config.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { CLIENT_TABLE_ENTRIES = 1 << 16, CLIENT_TABLE_SHARDS = 64 };

enum client_limit {
    CLIENT_OK,
    CLIENT_CONNECTIONS,         /* open, of the address */
    CLIENT_NETWORK_CONNECTIONS, /* open, of the network */
    CLIENT_CONNECTION_RATE,     /* these and the next are of the address */
    CLIENT_MESSAGE_RATE,
    CLIENT_RECIPIENT_RATE,
    CLIENT_AUTH_FAILURES,
    CLIENT_TABLE_FULL,
};
enum { CLIENT_LIMITS = CLIENT_TABLE_FULL + 1 };
/* As in the configuration, for the log: "connections". */
const char *client_limit_name(enum client_limit limit);

/* Failed logins of an address: enough for a person with several programs and an old password, few for a dictionary. */
#define CLIENT_AUTH_FAILURE_RATE ((struct client_rate){30, 600 * 1000})
struct client_limits {
    unsigned connections, network_connections; /* 0: unlimited */
    struct client_rate connection_rate, message_rate, recipient_rate, auth_failures;
    struct network_list exempt; /* counted for nothing; the networks must live as long as the table */
    unsigned entries;           /* 0: CLIENT_TABLE_ENTRIES */
};

struct client_table;
void client_table_open(struct client_table **out, const struct client_limits *limits);
/* Nobody may hold a pass any more. */
void client_table_close(struct client_table *t);

/* A connection's place in the table; all zeros: none. */
struct client_key {
    uint8_t bytes[16];
    uint8_t kind; /* 0: none */
};
struct client_pass {
    struct client_key address, network;
};

/* Counts a connection; CLIENT_OK: until client_leave, of an exempt address or one that is no IP address with an empty
 * pass. Else it is not counted, and this is the limit. */
enum client_limit client_enter(struct client_table *t, const struct sockaddr *address, uint64_t now_ns,
                               struct client_pass *pass);
/* An empty pass is allowed, and is what is left. */
void client_leave(struct client_table *t, struct client_pass *pass);
bool client_is_exempt(const struct client_table *t, const struct sockaddr *address);

/* Takes a token of CLIENT_MESSAGE_RATE, CLIENT_RECIPIENT_RATE, CLIENT_AUTH_FAILURES. False: there was none. Always true
 * with an empty pass. */
bool client_take(struct client_table *t, const struct client_pass *pass, enum client_limit rate, uint64_t now_ns);
/* Is there one? Takes none. For logins: asked before a try, taken when it fails. */
bool client_may(struct client_table *t, const struct client_pass *pass, enum client_limit rate, uint64_t now_ns);

/* Addresses and networks that are known, for tests and the state of a node. */
unsigned client_table_entries(struct client_table *t);

#endif
