/* Crash argument of each change: the new file is written whole under another name, fsynced, renamed over the old one,
 * and the directory is fsynced. Before the rename the old record counts, after it the new one; a torn file has another
 * name. What memory says changes only after that, and what is told to others comes from memory. A failure to write (no
 * space) leaves the old record in force and is returned; a failed fsync ends the process: what the disk then holds is
 * not known. */
#include "cluster/identity.h"

#include "cluster/identity_record.h"
#include "proto/base/error.h"
#include "proto/base/fileio.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct identity {
    const struct mr_fileio *io;
    char *dir, *path, *new_path;
    int lock;
    struct mr_id life;
    struct identity_record record;
    char reason[600]; /* of identity_check_peer */
};

/* ---- file ---- */

static int save(struct identity *id, const struct identity_record *next)
{
    const struct mr_fileio *io = id->io;
    size_t len;
    char *text = identity_record_print(next, &len);
    struct iovec iov = {.iov_base = text, .iov_len = len};
    int fd = io->open_file(io, id->new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? fd : mr_fileio_write_full(io, fd, &iov, 1, 0);
    free(text);
    if (rc == 0 && (rc = io->sync_data(io, fd)) != 0)
        mr_panic("fsync of %s: %s", id->new_path, strerror(-rc));
    if (fd >= 0)
        (void)io->close_file(io, fd);
    if (rc == 0)
        rc = io->rename_file(io, id->new_path, id->path);
    if (rc != 0) {
        log_event(LOG_ERROR, "identity_not_written", LOG_S("file", id->new_path), LOG_S("reason", strerror(-rc)));
        return rc == -ENOSPC ? MR_NOSPACE : MR_IO;
    }
    rc = io->sync_dir(io, id->dir);
    if (rc != 0)
        mr_panic("fsync of %s: %s", id->dir, strerror(-rc));
    id->record = *next;
    return 0;
}

/* MR_NOTFOUND: no file. */
static int load(struct identity *id, char *error, size_t error_len)
{
    const struct mr_fileio *io = id->io;
    int fd = io->open_file(io, id->path, O_RDONLY | O_CLOEXEC, 0);
    if (fd == -ENOENT)
        return MR_NOTFOUND;
    if (fd < 0) {
        (void)snprintf(error, error_len, "%s: %s", id->path, strerror(-fd));
        return MR_IO;
    }
    char *text = mr_malloc(IDENTITY_FILE_MAX + 1);
    ssize_t n = mr_fileio_read_full(io, fd, text, IDENTITY_FILE_MAX + 1, 0);
    (void)io->close_file(io, fd);
    int rc = MR_IO;
    if (n < 0)
        (void)snprintf(error, error_len, "%s: %s", id->path, strerror((int)-n));
    else if (n > IDENTITY_FILE_MAX)
        rc = MR_MALFORMED;
    else
        rc = identity_record_parse(&id->record, text, (size_t)n);
    free(text);
    if (rc == MR_VERSION)
        (void)snprintf(error, error_len, "%s was written by a newer version of mailraft", id->path);
    else if (rc == MR_MALFORMED || rc == MR_CHECKSUM)
        (void)snprintf(error, error_len,
                       "%s is damaged (%s): restore the file if you have an exact copy of it, else leave this node "
                       "out: the cluster goes on with the rest",
                       id->path, mr_strerror(rc));
    return rc;
}

static void note_entry(void *arg, const char *name)
{
    (void)name;
    *(bool *)arg = true;
}

/* A Raft log without an identity: whose votes and acknowledgements it holds is not known. */
static int check_is_fresh(struct identity *id, char *error, size_t error_len)
{
    bool found = false;
    char *raft = mr_asprintf("%s/raft", id->dir);
    int rc = id->io->list_dir(id->io, raft, note_entry, &found);
    free(raft);
    if (rc == -ENOENT || (rc == 0 && !found))
        return 0;
    (void)snprintf(
        error, error_len,
        "%s has a Raft log but no identity file: restore the file, or leave this node out: the cluster goes on with "
        "the rest",
        id->dir);
    return MR_REFUSED;
}

static int take_lock(struct identity *id, char *error, size_t error_len)
{
    char *path = mr_asprintf("%s/lock", id->dir);
    int rc = 0;
    id->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (id->lock < 0) {
        (void)snprintf(error, error_len, "%s: %s", path, strerror(errno));
        rc = MR_IO;
    } else if (flock(id->lock, LOCK_EX | LOCK_NB) != 0) {
        rc = errno == EWOULDBLOCK ? MR_BUSY : MR_IO;
        (void)snprintf(error, error_len, "%s: %s", path,
                       rc == MR_BUSY ? "another process uses this data directory" : strerror(errno));
    }
    free(path);
    return rc;
}

/* ---- life ---- */

static int open_record(struct identity *id, const char *name, char *error, size_t error_len)
{
    int rc = load(id, error, error_len);
    if (rc == MR_NOTFOUND) {
        rc = check_is_fresh(id, error, error_len);
        memset(&id->record, 0, sizeof(id->record));
        (void)snprintf(id->record.name, sizeof(id->record.name), "%s", name);
        id->record.directory = mr_id_random();
    } else if (rc == 0 && strcmp(id->record.name, name) != 0) {
        (void)snprintf(error, error_len, "%s belongs to node %s, but node.name is %s: a directory keeps its name",
                       id->dir, id->record.name, name);
        rc = MR_REFUSED;
    }
    if (rc != 0)
        return rc;
    struct identity_record *next = mr_memdup(&id->record, sizeof(id->record));
    next->incarnation++;
    rc = save(id, next);
    free(next);
    if (rc != 0)
        (void)snprintf(error, error_len, "cannot write %s: %s", id->path, mr_strerror(rc));
    return rc;
}

int identity_open(struct identity **out, const char *dir, const char *name, char *error, size_t error_len)
{
    if (!identity_name_is_valid(name)) {
        (void)snprintf(error, error_len, "node.name \"%s\": letters, digits, '.', '_' and '-' only, at most 127", name);
        return MR_INVAL;
    }
    struct identity *id = mr_calloc(1, sizeof(*id));
    id->io = &mr_fileio_real;
    id->lock = -1;
    id->life = mr_id_random();
    id->dir = mr_strdup(dir);
    id->path = mr_asprintf("%s/identity", dir);
    id->new_path = mr_asprintf("%s/identity.new", dir);
    int rc = id->io->make_dir(id->io, dir);
    if (rc != 0) {
        (void)snprintf(error, error_len, "%s: %s", dir, strerror(-rc));
        rc = MR_IO;
    }
    if (rc == 0)
        rc = take_lock(id, error, error_len);
    if (rc == 0)
        rc = open_record(id, name, error, error_len);
    if (rc != 0) {
        identity_close(id);
        return rc;
    }
    *out = id;
    return 0;
}

void identity_close(struct identity *id)
{
    if (id->lock >= 0)
        close(id->lock);
    free(id->dir);
    free(id->path);
    free(id->new_path);
    free(id);
}

/* ---- who we are ---- */

struct mr_id identity_directory(const struct identity *id)
{
    return id->record.directory;
}

struct mr_id identity_cluster(const struct identity *id)
{
    return id->record.cluster;
}

uint32_t identity_node(const struct identity *id)
{
    return id->record.node;
}

int identity_rise(struct identity *id)
{
    struct identity_record next = id->record;
    next.incarnation++;
    return save(id, &next);
}

uint64_t identity_incarnation(const struct identity *id)
{
    return id->record.incarnation;
}

bool identity_formed(const struct identity *id)
{
    return !mr_id_is_zero(id->record.cluster);
}

unsigned identity_members(const struct identity *id)
{
    return id->record.n_members;
}

const struct identity_member *identity_member(const struct identity *id, unsigned i)
{
    mr_assert(i < id->record.n_members);
    return &id->record.members[i];
}

bool identity_bootstrapped(const struct identity *id)
{
    return id->record.bootstrapped;
}

int identity_set_bootstrapped(struct identity *id)
{
    mr_assert(identity_formed(id));
    if (id->record.bootstrapped)
        return 0;
    struct identity_record *next = mr_memdup(&id->record, sizeof(id->record));
    next->bootstrapped = true;
    int rc = save(id, next);
    free(next);
    return rc;
}

/* The fields point into the identity. */
void identity_hello(const struct identity *id, Mailraft__Hello *out)
{
    struct identity *own = (struct identity *)(uintptr_t)id; /* protobuf-c has no const */
    out->name = own->record.name;
    out->node = own->record.node;
    out->directory = (ProtobufCBinaryData){.data = own->record.directory.bytes, .len = MR_ID_SIZE};
    out->cluster =
        (ProtobufCBinaryData){.data = own->record.cluster.bytes, .len = identity_formed(id) ? MR_ID_SIZE : 0};
    out->incarnation = own->record.incarnation;
    out->life = (ProtobufCBinaryData){.data = own->life.bytes, .len = MR_ID_SIZE};
}

/* ---- formation ---- */

static bool members_are_valid(const struct identity *id, const struct identity_member *members, unsigned n)
{
    bool own = false;
    if (n == 0 || n > IDENTITY_MAX_MEMBERS)
        return false;
    for (unsigned i = 0; i < n; i++) {
        const struct identity_member *m = &members[i];
        if (m->node == 0 || mr_id_is_zero(m->directory) || !identity_name_is_valid(m->name) ||
            !identity_address_is_valid(m->address))
            return false;
        for (unsigned k = 0; k < i; k++)
            if (members[k].node == m->node || strcmp(members[k].name, m->name) == 0 ||
                mr_id_equal(members[k].directory, m->directory))
                return false;
        bool same_name = strcmp(m->name, id->record.name) == 0;
        bool same_directory = mr_id_equal(m->directory, id->record.directory);
        if (same_name != same_directory)
            return false;
        own = own || same_name;
    }
    return own;
}

static bool same_members(const struct identity_record *r, const struct identity_member *members, unsigned n)
{
    if (r->n_members != n)
        return false;
    for (unsigned i = 0; i < n; i++)
        if (r->members[i].node != members[i].node || strcmp(r->members[i].name, members[i].name) != 0 ||
            !mr_id_equal(r->members[i].directory, members[i].directory))
            return false;
    return true;
}

int identity_form(struct identity *id, struct mr_id cluster, const struct identity_member *members, unsigned n)
{
    if (mr_id_is_zero(cluster) || !members_are_valid(id, members, n))
        return MR_INVAL;
    if (identity_formed(id))
        return mr_id_equal(id->record.cluster, cluster) && same_members(&id->record, members, n) ? 0 : MR_EXISTS;
    struct identity_record *next = mr_memdup(&id->record, sizeof(id->record));
    next->cluster = cluster;
    next->n_members = n;
    next->n_peers = 0;
    memcpy(next->members, members, n * sizeof(members[0]));
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(members[i].name, next->name) == 0)
            next->node = members[i].node;
        else
            next->peers[next->n_peers++] =
                (struct identity_peer){.node = members[i].node, .directory = members[i].directory};
    }
    int rc = save(id, next);
    free(next);
    return rc;
}

int identity_replace(struct identity *id, uint32_t node, struct mr_id directory)
{
    if (node == 0 || node == id->record.node || mr_id_is_zero(directory))
        return MR_INVAL;
    struct identity_record *next = mr_memdup(&id->record, sizeof(id->record));
    struct identity_peer *p = identity_record_peer(next, node);
    int rc = 0;
    if (p == NULL && next->n_peers < IDENTITY_MAX_PEERS)
        p = &next->peers[next->n_peers++];
    if (p == NULL) {
        rc = MR_LIMIT;
    } else if (p->node != node || !mr_id_equal(p->directory, directory)) {
        *p = (struct identity_peer){.node = node, .directory = directory};
        rc = save(id, next);
    }
    free(next);
    return rc;
}

/* ---- peers ---- */

__attribute__((format(printf, 2, 3))) static const char *refuse(struct identity *id, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(id->reason, sizeof(id->reason), format, args);
    va_end(args);
    return id->reason;
}

static const char *refuse_directory(struct identity *id, const char *name, uint32_t node, struct mr_id known,
                                    struct mr_id shown)
{
    char a[MR_ID_TEXT + 1], b[MR_ID_TEXT + 1];
    return refuse(id,
                  "node %s (raft id %u) is known by data directory %s but comes with %s: its disk was lost, wiped or "
                  "exchanged. What it voted and acknowledged is gone, so it may not come back under its old raft id: "
                  "start it with its own directory again, or leave it out: the cluster goes on with the rest",
                  name, node, mr_id_format(known, a), mr_id_format(shown, b));
}

/* Which node holds this directory; 0: none that we know. */
static uint32_t holder_of(const struct identity *id, struct mr_id directory)
{
    for (unsigned i = 0; i < id->record.n_peers; i++)
        if (mr_id_equal(id->record.peers[i].directory, directory))
            return id->record.peers[i].node;
    return 0;
}

/* Durably, before the peer hears that it is welcome. */
static const char *remember(struct identity *id, uint32_t node, struct mr_id directory, const Mailraft__Hello *hello)
{
    struct identity_record *next = mr_memdup(&id->record, sizeof(id->record));
    struct identity_peer *p = identity_record_peer(next, node);
    const char *reason = NULL;
    if (p == NULL && next->n_peers == IDENTITY_MAX_PEERS) {
        reason = refuse(id, "too many nodes were members of this cluster (%d)", IDENTITY_MAX_PEERS);
    } else {
        if (p == NULL)
            p = &next->peers[next->n_peers++];
        *p = (struct identity_peer){.node = node, .directory = directory, .incarnation = hello->incarnation};
        (void)mr_id_from_bytes(hello->life.data, hello->life.len, &p->life);
        int rc = save(id, next);
        if (rc != 0)
            reason = refuse(id, "node %s cannot note it on its disk: %s", id->record.name, mr_strerror(rc));
    }
    free(next);
    return reason;
}

/* The directory is the right one. Is it the newest state of it? (2.3) */
static const char *check_incarnation(struct identity *id, const struct identity_peer *known,
                                     const Mailraft__Hello *hello)
{
    struct mr_id life = {{0}};
    (void)mr_id_from_bytes(hello->life.data, hello->life.len, &life);
    bool other_life = !mr_id_is_zero(life) && !mr_id_is_zero(known->life) && !mr_id_equal(life, known->life);
    if (hello->incarnation < known->incarnation || (hello->incarnation == known->incarnation && other_life))
        return refuse(id,
                      "node %s announces start number %llu, but %llu was seen: its data directory is a copy from the "
                      "past (a restored machine or backup). Start it with its newest directory, or leave it out: the "
                      "cluster goes on with the rest",
                      hello->name, (unsigned long long)hello->incarnation, (unsigned long long)known->incarnation);
    if (hello->incarnation == known->incarnation && (mr_id_is_zero(life) || mr_id_equal(life, known->life)))
        return NULL;
    return remember(id, known->node, known->directory, hello);
}

static const char *check_member(struct identity *id, const Mailraft__Hello *hello, uint32_t node,
                                struct mr_id directory)
{
    const struct identity_peer *known = identity_record_peer(&id->record, node);
    if (known != NULL && !mr_id_equal(known->directory, directory))
        return refuse_directory(id, hello->name, node, known->directory, directory);
    if (known != NULL)
        return check_incarnation(id, known, hello);
    uint32_t holder = holder_of(id, directory);
    if (holder != 0)
        return refuse(id, "node %s comes with the data directory of the node with raft id %u", hello->name, holder);
    if (hello->cluster.len == 0)
        return NULL; /* a new node that is no member yet: nothing to remember it by */
    return remember(id, node, directory, hello);
}

const char *identity_check_peer(struct identity *id, const Mailraft__Hello *peer, uint32_t expected_node)
{
    struct mr_id directory, cluster = {{0}};
    char a[MR_ID_TEXT + 1], b[MR_ID_TEXT + 1];
    if (mr_id_from_bytes(peer->directory.data, peer->directory.len, &directory) != 0 || mr_id_is_zero(directory))
        return refuse(id, "node %s does not say which data directory it has", peer->name);
    if (mr_id_equal(directory, id->record.directory))
        return refuse(id, "node %s runs on a copy of the data directory of %s", peer->name, id->record.name);
    if (peer->cluster.len > 0 &&
        (mr_id_from_bytes(peer->cluster.data, peer->cluster.len, &cluster) != 0 || mr_id_is_zero(cluster)))
        return refuse(id, "node %s names no valid cluster", peer->name);
    if (!identity_formed(id))
        return NULL; /* the formation decides */
    if (peer->cluster.len > 0 && !mr_id_equal(cluster, id->record.cluster))
        return refuse(id,
                      "node %s belongs to cluster %s, node %s to cluster %s: check cluster.initial on both; the one in "
                      "the wrong cluster has to start with an empty data directory",
                      peer->name, mr_id_format(cluster, a), id->record.name, mr_id_format(id->record.cluster, b));
    if (expected_node != 0 && peer->node != 0 && peer->node != expected_node)
        return refuse(id, "node %s says that its raft id is %u, but it is known as %u", peer->name, peer->node,
                      expected_node);
    uint32_t node = expected_node != 0 ? expected_node : peer->node;
    if (node == 0)
        return NULL; /* no member: nothing is known of it */
    if (node == id->record.node)
        return refuse(id, "node %s claims raft id %u, which is that of %s", peer->name, node, id->record.name);
    return check_member(id, peer, node, directory);
}
