/* identity.h - who this data directory is (PROTOCOL.md 2.1 to 2.3), and the first formation (2.2).
 *
 * I1: everything here is fsynced (file and directory) before the function returns; a failed fsync panics.
 * I2: the directory id is random and never changes. The incarnation rises by one at each identity_open and
 *     identity_rise.
 * I3: which directory id belongs to a peer's raft id is kept, first come, and never replaced but by identity_replace.
 * Thread: the core's; functions do short synchronous file I/O and are called at start, at first contact and at
 * formation only. */
#ifndef MR_CLUSTER_IDENTITY_H
#define MR_CLUSTER_IDENTITY_H

#include "frame.pb-c.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IDENTITY_MAX_MEMBERS = 64 };

struct identity_member {
    uint32_t node;
    char name[128];
    char address[300];
    struct mr_id directory;
};
struct identity; /* opaque */

/* Reads or creates DIR/identity (and takes a lock on the directory: MR_BUSY when another process has it). name: must be
 * the one stored, if any: MR_REFUSED; letters, digits, '.', '_', '-': MR_INVAL otherwise. A damaged file is
 * MR_CHECKSUM, MR_MALFORMED or MR_VERSION and is never taken for an empty directory; nor is a directory without the
 * file but with a Raft log (MR_REFUSED). MR_IO. */
int identity_open(struct identity **out, const char *dir, const char *name, char *error, size_t error_len);
void identity_close(struct identity *id);

struct mr_id identity_directory(const struct identity *id);
struct mr_id identity_cluster(const struct identity *id); /* zero: belongs to none yet */
uint32_t identity_node(const struct identity *id);        /* raft id; 0: none yet */
uint64_t identity_incarnation(const struct identity *id);
/* The next incarnation of a process that goes on (5.3): it was declared down and comes back without a restart. Durable
 * at return. MR_IO. */
int identity_rise(struct identity *id);
bool identity_formed(const struct identity *id);
unsigned identity_members(const struct identity *id); /* of the first formation */
const struct identity_member *identity_member(const struct identity *id, unsigned i);

/* Durable acceptance of a formation. MR_EXISTS: formed otherwise already; MR_INVAL: this directory is not in it. Again
 * with the same one: 0. */
int identity_form(struct identity *id, struct mr_id cluster, const struct identity_member *members, unsigned n);

/* May a peer that says this of itself be talked to? Remembers a directory id seen first (durably, I3) and the highest
 * incarnation (2.3; in memory and, lazily, on disk). NULL: yes; else why not and what to do, static or valid until the
 * next call. expected_node: its raft id by `initial` or the members, 0 unknown. */
const char *identity_check_peer(struct identity *id, const Mailraft__Hello *peer, uint32_t expected_node);
/* A committed operation says that another directory now stands for this raft id. */
int identity_replace(struct identity *id, uint32_t node, struct mr_id directory);
void identity_hello(const struct identity *id, Mailraft__Hello *out);
/* Whether Raft's first configuration was ever written in this directory. Set it (durable at return) after the bootstrap
 * and before Raft is started: a formed identity that had it set and whose log is gone must not bootstrap again, it
 * would vote twice. */
bool identity_bootstrapped(const struct identity *id);
int identity_set_bootstrapped(struct identity *id);

/* ---- first formation ----
 * Raft ids come from the names in `initial`, sorted: 1, 2, ... The first name asks every other that has shown itself
 * empty whether it agrees with this list of names (a FormRequest without a cluster); when all have said so it makes the
 * cluster's id, writes the formation durably and sends it (a FormRequest with a cluster). The others write it before
 * they answer. Nobody starts Raft before its own record is durable.
 *
 * F1: a directory accepts one formation in its life, and only one that names this directory. So two formations that
 *     both reach a majority would need one directory in both.
 * F2: nothing is written anywhere before every name in `initial` has agreed: a wrong list is found before it binds.
 *
 * Crash points. Before the first one's record: all are empty, it begins again. After it: its record names the
 * directories; each formed node hands it on to members that still show themselves empty with the directory named. A
 * member that lost its directory meanwhile is refused by the formed ones (identity_check_peer), and its new directory
 * is in no formation (F1). */
struct formation;
struct formation_handler {
    void *arg;
    /* Send a FormRequest / FormReply to a peer (raft id by `initial`). */
    void (*send)(void *arg, uint32_t peer, bool request, const ProtobufCMessage *message);
    /* Formed here: identity_cluster and identity_node say what; called once, also when it was formed before (from
     * formation_start). */
    void (*formed)(void *arg);
    /* This node cannot be formed with the others: why and what to do. May come again with another text. */
    void (*refused)(void *arg, const char *reason);
};
struct formation_peer {
    const char *name;
    const char *address;
};
int formation_open(struct formation **out, struct identity *id, const char *self, const struct formation_peer *initial,
                   unsigned n, const struct formation_handler *handler, char *error, size_t error_len);
/* Raft id of a name in `initial`; 0: not in it. */
uint32_t formation_node(const struct formation *f, const char *name);
void formation_start(struct formation *f);
/* A peer's Hello or HelloReply was seen. */
void formation_peer_seen(struct formation *f, uint32_t peer, const Mailraft__Hello *hello);
void formation_request(struct formation *f, uint32_t peer, const Mailraft__FormRequest *request);
void formation_reply(struct formation *f, uint32_t peer, const Mailraft__FormReply *reply);
/* About each 200 ms, also after `formed` came: sends again what was not answered. A formed node hands the formation on
 * to members that have not yet got it (the one that proposed it may be gone). Costs nothing once formation_settled. */
void formation_tick(struct formation *f);
/* Formed here, and every other member is known to be formed too. */
bool formation_settled(const struct formation *f);
void formation_close(struct formation *f);

#endif
