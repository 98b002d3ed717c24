/* What earlier lives left: the files are read in the order in which they were begun, record by record.
 *
 * A file that ends within a record was torn by the crash; a record that is wrong ends its file, for nothing behind it
 * can be trusted to be where it seems. What is lost with it errs on the safe side: a dot without its reply is in doubt,
 * an outcome without its done is proposed again, which changes nothing. */
#include "cluster/journal.h"
#include "cluster/journal_format.h"
#include "proto/base/error.h"
#include "proto/base/fileio.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct file {
    char *path;
    unsigned worker, seq;
    uint64_t incarnation;
};

struct listing {
    const char *dir;
    struct file *files;
    size_t count;
};

static void each_name(void *arg, const char *name)
{
    struct listing *l = arg;
    struct file f = {0};
    unsigned long long incarnation;
    int end = 0;
    if (sscanf(name, "outcomes-%9u.%16llx.%9u%n", &f.worker, &incarnation, &f.seq, &end) != 3 || name[end] != 0)
        return;
    f.incarnation = incarnation;
    f.path = mr_asprintf("%s/%s", l->dir, name);
    l->files = mr_realloc(l->files, (l->count + 1) * sizeof(*l->files));
    l->files[l->count++] = f;
}

static int by_age(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    if (x->incarnation != y->incarnation)
        return x->incarnation < y->incarnation ? -1 : 1;
    if (x->worker != y->worker)
        return x->worker < y->worker ? -1 : 1;
    return (x->seq > y->seq) - (x->seq < y->seq);
}

static int list_files(const char *dir, struct listing *l)
{
    memset(l, 0, sizeof(*l));
    l->dir = dir;
    int rc = mr_fileio_real.list_dir(&mr_fileio_real, dir, each_name, l);
    if (rc < 0 && rc != -ENOENT) {
        log_event(LOG_ERROR, "journal_list", LOG_S("dir", dir), LOG_S("error", strerror(-rc)));
        return MR_IO;
    }
    if (l->count > 0)
        qsort(l->files, l->count, sizeof(*l->files), by_age);
    return 0;
}

static void free_files(struct listing *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->files[i].path);
    free(l->files);
}

static int read_file(const char *path, uint8_t **bytes, size_t *len)
{
    const struct mr_fileio *io = &mr_fileio_real;
    uint64_t size = 0;
    int fd = io->open_file(io, path, O_RDONLY, 0);
    ssize_t n = fd < 0 ? fd : io->file_size(io, fd, &size);
    if (n >= 0) {
        *bytes = mr_malloc(size);
        n = mr_fileio_read_full(io, fd, *bytes, size, 0);
        if (n < 0)
            free(*bytes);
    }
    if (fd >= 0)
        (void)io->close_file(io, fd);
    if (n < 0) {
        log_event(LOG_ERROR, "journal_read", LOG_S("path", path), LOG_S("error", strerror((int)-n)));
        return MR_IO;
    }
    *len = (size_t)n;
    return 0;
}

static int apply_reply(struct journal_table *t, const uint8_t *payload, size_t len)
{
    struct journal_key key;
    Mailraft__Outcome *outcome = mailraft__outcome__unpack(NULL, len, payload);
    if (outcome == NULL)
        return MR_MALFORMED;
    if (mr_id_from_bytes(outcome->id.data, outcome->id.len, &key.id) != 0) {
        mailraft__outcome__free_unpacked(outcome, NULL);
        return MR_MALFORMED;
    }
    key.delivery = outcome->delivery;
    key.attempt = outcome->attempt;
    struct journal_entry *e = journal_table_find(t, &key);
    if (e == NULL)
        e = journal_table_add(t, &key);
    if (e->outcome != NULL)
        mailraft__outcome__free_unpacked(e->outcome, NULL);
    e->outcome = outcome;
    return 0;
}

static int apply_record(struct journal_table *t, enum journal_type type, const uint8_t *payload, size_t len)
{
    struct journal_key key;
    if (type == JOURNAL_REPLY)
        return apply_reply(t, payload, len);
    journal_key_decode(payload, &key);
    struct journal_entry *e = journal_table_find(t, &key);
    if (type == JOURNAL_DOT && e == NULL)
        (void)journal_table_add(t, &key);
    if (type == JOURNAL_DONE && e != NULL) {
        if (e->outcome != NULL)
            mailraft__outcome__free_unpacked(e->outcome, NULL);
        journal_table_remove(t, e);
    }
    return 0;
}

static int replay_file(struct journal_table *t, const char *path)
{
    uint8_t *bytes = NULL;
    size_t len = 0, at = 0;
    int rc = read_file(path, &bytes, &len);
    if (rc != 0)
        return rc;
    while (at < len && rc == 0) {
        enum journal_type type;
        const uint8_t *payload;
        size_t payload_len, size;
        rc = journal_record_decode(bytes + at, len - at, &type, &payload, &payload_len, &size);
        if (rc == 0)
            rc = apply_record(t, type, payload, payload_len);
        if (rc == 0)
            at += size;
    }
    if (rc != 0)
        log_event(rc == MR_MORE ? LOG_INFO : LOG_WARN, rc == MR_MORE ? "journal_torn" : "journal_damage",
                  LOG_S("path", path), LOG_N("offset", at), LOG_N("lost", len - at), LOG_S("error", mr_strerror(rc)));
    free(bytes);
    return 0;
}

static int by_key(const void *a, const void *b)
{
    const struct journal_key *x = &(*(struct journal_entry *const *)a)->key;
    const struct journal_key *y = &(*(struct journal_entry *const *)b)->key;
    int order = mr_id_compare(x->id, y->id);
    if (order != 0)
        return order;
    if (x->delivery != y->delivery)
        return x->delivery < y->delivery ? -1 : 1;
    return (x->attempt > y->attempt) - (x->attempt < y->attempt);
}

struct gather {
    struct journal_entry **entries;
    size_t count;
};

static void gather_entry(void *arg, struct journal_entry *e)
{
    struct gather *g = arg;
    g->entries[g->count++] = e;
}

static Mailraft__InDoubt *doubt_of(const struct journal_key *key)
{
    /* As protobuf-c's own unpacking allocates, so that its free takes it. */
    Mailraft__InDoubt *d = mr_malloc(sizeof(*d));
    mailraft__in_doubt__init(d);
    d->id.data = mr_memdup(key->id.bytes, MR_ID_SIZE);
    d->id.len = MR_ID_SIZE;
    d->delivery = key->delivery;
    d->attempt = key->attempt;
    return d;
}

/* In the order of ids: the operation that carries them is the same however the table lay. */
static void hand_out(struct journal_table *t, struct journal_left *out)
{
    struct gather g = {.entries = mr_calloc(t->count, sizeof(struct journal_entry *))};
    journal_table_each(t, gather_entry, &g);
    if (g.count > 0)
        qsort(g.entries, g.count, sizeof(struct journal_entry *), by_key);
    out->outcomes = mr_calloc(g.count, sizeof(Mailraft__Outcome *));
    out->in_doubt = mr_calloc(g.count, sizeof(Mailraft__InDoubt *));
    for (size_t i = 0; i < g.count; i++) {
        if (g.entries[i]->outcome != NULL)
            out->outcomes[out->n_outcomes++] = g.entries[i]->outcome;
        else
            out->in_doubt[out->n_in_doubt++] = doubt_of(&g.entries[i]->key);
    }
    free(g.entries);
    journal_table_clear(t);
}

int journal_replay(const char *dir, struct journal_left *out)
{
    struct listing l;
    struct journal_table t = {0};
    memset(out, 0, sizeof(*out));
    int rc = list_files(dir, &l);
    for (size_t i = 0; i < l.count && rc == 0; i++)
        rc = replay_file(&t, l.files[i].path);
    free_files(&l);
    hand_out(&t, out);
    if (rc != 0)
        journal_left_free(out);
    return rc;
}

void journal_left_free(struct journal_left *left)
{
    for (size_t i = 0; i < left->n_outcomes; i++)
        mailraft__outcome__free_unpacked(left->outcomes[i], NULL);
    for (size_t i = 0; i < left->n_in_doubt; i++)
        mailraft__in_doubt__free_unpacked(left->in_doubt[i], NULL);
    free(left->outcomes);
    free(left->in_doubt);
    memset(left, 0, sizeof(*left));
}

int journal_forget_replayed(const char *dir, uint64_t incarnation)
{
    struct listing l;
    int rc = list_files(dir, &l);
    for (size_t i = 0; i < l.count; i++) {
        int error =
            l.files[i].incarnation < incarnation ? mr_fileio_real.unlink_file(&mr_fileio_real, l.files[i].path) : 0;
        if (error < 0 && error != -ENOENT) {
            log_event(LOG_ERROR, "journal_unlink", LOG_S("path", l.files[i].path), LOG_S("error", strerror(-error)));
            rc = MR_IO;
        }
    }
    free_files(&l);
    if (rc == 0 && mr_fileio_real.sync_dir(&mr_fileio_real, dir) < 0)
        rc = MR_IO;
    return rc;
}
