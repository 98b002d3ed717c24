/* identity_record.h - what the identity file holds, and its text. Pure: no I/O.
 *
 * The file is text, so that an operator with nothing but a shell can see who a directory is (FORMAT.md has the lines).
 * Its last line is a checksum over all before it. Thread: any; nothing is shared. */
#ifndef MR_CLUSTER_IDENTITY_RECORD_H
#define MR_CLUSTER_IDENTITY_RECORD_H

#include "cluster/identity.h"

enum { IDENTITY_MAX_PEERS = 256, IDENTITY_FILE_MAX = 256 << 10 };

/* What is known of a peer's directory (2.1, 2.3). */
struct identity_peer {
    uint32_t node;
    struct mr_id directory;
    uint64_t incarnation; /* highest seen; 0: none yet */
    struct mr_id life;    /* of that incarnation; zero: not known */
};

struct identity_record {
    char name[128];
    struct mr_id directory;
    uint64_t incarnation;
    struct mr_id cluster; /* zero: not formed */
    uint32_t node;
    bool bootstrapped;
    unsigned n_members, n_peers;
    struct identity_member members[IDENTITY_MAX_MEMBERS];
    struct identity_peer peers[IDENTITY_MAX_PEERS];
};

/* New memory; *len without the zero byte behind. */
char *identity_record_print(const struct identity_record *r, size_t *len);
/* MR_MALFORMED, MR_CHECKSUM, MR_VERSION. text need not end with a zero byte. */
int identity_record_parse(struct identity_record *out, const char *text, size_t len);
/* 1 to 127 letters, digits, '.', '_', '-', not beginning with '.' or '-'. */
bool identity_name_is_valid(const char *name);
/* 1 to 299 bytes without blanks and control characters. */
bool identity_address_is_valid(const char *address);
struct identity_peer *identity_record_peer(struct identity_record *r, uint32_t node);

#endif
