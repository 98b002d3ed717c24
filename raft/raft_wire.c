/* raft_wire.c - see raft_wire.h; the layout is in FORMAT.md. */
#include "raft/raft_wire.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { WIRE_VERSION = 1, ENTRY_SIZE = 16, CHECKED_FROM = 16 };
#define WIRE_MAGIC 0x3152524dU /* "MRR1" */

/* Offsets of the fixed part. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_TYPE = 5,
    AT_STRUCT = 6,
    AT_SUM = 8,
    AT_LEN = 16,
    AT_TAIL_LEN = 24,
    AT_TAIL_SUM = 32
};

static void put16(uint8_t **p, uint16_t v)
{
    for (unsigned i = 0; i < 2; i++)
        *(*p)++ = (uint8_t)(v >> (8 * i));
}

static void put32(uint8_t **p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        *(*p)++ = (uint8_t)(v >> (8 * i));
}

static void put64(uint8_t **p, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        *(*p)++ = (uint8_t)(v >> (8 * i));
}

/* Reads never pass the end: they give 0 and mark the reader bad. */
struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool bad;
};

static uint64_t get(struct reader *r, unsigned bytes)
{
    uint64_t v = 0;

    if ((size_t)(r->end - r->at) < bytes) {
        r->bad = true;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)r->at[i] << (8 * i);
    r->at += bytes;
    return v;
}

static uint64_t peek(const uint8_t *head, unsigned offset, unsigned bytes)
{
    struct reader r = {head + offset, head + offset + bytes, false};

    return get(&r, bytes);
}

/* The checksum of a head covers everything but itself: its first 8 bytes are the seed. */
static uint64_t head_sum(const uint8_t *head, size_t len)
{
    return XXH3_64bits_withSeed(head + CHECKED_FROM, len - CHECKED_FROM, peek(head, 0, 8));
}

static size_t body_size(const struct raft_message *m)
{
    size_t size = 0;

    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        return 5 * sizeof(uint64_t) + (size_t)m->append_entries.n_entries * ENTRY_SIZE;
    case RAFT_APPEND_ENTRIES_RESULT:
        return 3 * 8 + 4;
    case RAFT_REQUEST_VOTE:
        return 4 * 8 + 2;
    case RAFT_REQUEST_VOTE_RESULT:
        return 8 + 2 + 4;
    case RAFT_INSTALL_SNAPSHOT:
        size = 4 * 8 + 4;
        for (unsigned i = 0; i < m->install_snapshot.conf.n; i++)
            size += 8 + 1 + 2 + strlen(m->install_snapshot.conf.servers[i].address);
        return size;
    case RAFT_TIMEOUT_NOW:
        return 3 * sizeof(uint64_t);
    }
    return 0;
}

static int check_limits(const struct raft_message *m)
{
    uint64_t bytes = 0;

    if (m->type == RAFT_APPEND_ENTRIES) {
        if (m->append_entries.n_entries > RAFT_WIRE_MAX_ENTRIES)
            return MR_LIMIT;
        for (unsigned i = 0; i < m->append_entries.n_entries; i++)
            bytes += m->append_entries.entries[i].buf.len;
        return bytes > RAFT_WIRE_MAX_BATCH ? MR_LIMIT : MR_OK;
    }
    if (m->type == RAFT_INSTALL_SNAPSHOT) {
        const struct raft_configuration *conf = &m->install_snapshot.conf;

        if (conf->n > RAFT_WIRE_MAX_MEMBERS || m->install_snapshot.data.len > RAFT_WIRE_MAX_SNAPSHOT)
            return MR_LIMIT;
        for (unsigned i = 0; i < conf->n; i++)
            if (strlen(conf->servers[i].address) > RAFT_WIRE_MAX_NAME)
                return MR_LIMIT;
    }
    return MR_OK;
}

static unsigned struct_version(const struct raft_message *m)
{
    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        return m->append_entries.version;
    case RAFT_APPEND_ENTRIES_RESULT:
        return m->append_entries_result.version;
    case RAFT_REQUEST_VOTE:
        return m->request_vote.version;
    case RAFT_REQUEST_VOTE_RESULT:
        return m->request_vote_result.version;
    case RAFT_INSTALL_SNAPSHOT:
        return m->install_snapshot.version;
    case RAFT_TIMEOUT_NOW:
        return m->timeout_now.version;
    }
    return 0;
}

static void put_entries(uint8_t **p, const struct raft_append_entries *m, uint64_t *tail_len, uint64_t *tail_sum)
{
    XXH3_state_t *sum = XXH3_createState();

    mr_assert(sum != NULL);
    XXH3_64bits_reset(sum);
    put64(p, m->term);
    put64(p, m->prev_log_index);
    put64(p, m->prev_log_term);
    put64(p, m->leader_commit);
    put64(p, m->n_entries);
    for (unsigned i = 0; i < m->n_entries; i++) {
        const struct raft_entry *e = &m->entries[i];

        put64(p, e->term);
        put32(p, (uint32_t)e->buf.len);
        put32(p, (uint32_t)e->type);
        XXH3_64bits_update(sum, e->buf.base, e->buf.len);
        *tail_len += e->buf.len;
    }
    if (m->n_entries > 0)
        *tail_sum = XXH3_64bits_digest(sum);
    XXH3_freeState(sum);
}

static void put_snapshot(uint8_t **p, const struct raft_install_snapshot *m)
{
    put64(p, m->term);
    put64(p, m->last_index);
    put64(p, m->last_term);
    put64(p, m->conf_index);
    put32(p, m->conf.n);
    for (unsigned i = 0; i < m->conf.n; i++) {
        const struct raft_server *s = &m->conf.servers[i];
        size_t len = strlen(s->address);

        put64(p, s->id);
        *(*p)++ = (uint8_t)s->role;
        put16(p, (uint16_t)len);
        memcpy(*p, s->address, len);
        *p += len;
    }
}

static void put_body(uint8_t **p, const struct raft_message *m, uint64_t *tail_len, uint64_t *tail_sum)
{
    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        put_entries(p, &m->append_entries, tail_len, tail_sum);
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        put64(p, m->append_entries_result.term);
        put64(p, m->append_entries_result.rejected);
        put64(p, m->append_entries_result.last_log_index);
        put16(p, m->append_entries_result.features);
        put16(p, m->append_entries_result.capacity);
        break;
    case RAFT_REQUEST_VOTE:
        put64(p, m->request_vote.term);
        put64(p, m->request_vote.candidate_id);
        put64(p, m->request_vote.last_log_index);
        put64(p, m->request_vote.last_log_term);
        *(*p)++ = m->request_vote.disrupt_leader;
        *(*p)++ = m->request_vote.pre_vote;
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        put64(p, m->request_vote_result.term);
        *(*p)++ = m->request_vote_result.vote_granted;
        *(*p)++ = m->request_vote_result.pre_vote;
        put16(p, m->request_vote_result.features);
        put16(p, m->request_vote_result.capacity);
        break;
    case RAFT_INSTALL_SNAPSHOT:
        put_snapshot(p, &m->install_snapshot);
        *tail_len = m->install_snapshot.data.len;
        break;
    case RAFT_TIMEOUT_NOW:
        put64(p, m->timeout_now.term);
        put64(p, m->timeout_now.last_log_index);
        put64(p, m->timeout_now.last_log_term);
        break;
    }
}

int raft_wire_encode(const struct raft_message *message, uint8_t **head, size_t *head_len)
{
    uint64_t tail_len = 0;
    uint64_t tail_sum = 0;
    uint8_t *p;
    int rc;

    rc = check_limits(message);
    if (rc != 0)
        return rc;
    *head_len = RAFT_WIRE_HEAD_FIXED + body_size(message);
    *head = mr_calloc(1, *head_len);
    p = *head + RAFT_WIRE_HEAD_FIXED;
    put_body(&p, message, &tail_len, &tail_sum);
    mr_assert(p == *head + *head_len);
    p = *head;
    put32(&p, WIRE_MAGIC);
    *p++ = WIRE_VERSION;
    *p++ = (uint8_t)message->type;
    *p++ = (uint8_t)struct_version(message);
    p = *head + AT_LEN;
    put64(&p, *head_len);
    put64(&p, tail_len);
    put64(&p, tail_sum);
    raft_wire_seal(*head, *head_len);
    return MR_OK;
}

void raft_wire_seal(uint8_t *head, size_t head_len)
{
    uint8_t *p = head + AT_SUM;

    put64(&p, head_sum(head, head_len));
}

bool raft_wire_is_snapshot(const uint8_t *head, size_t head_len)
{
    return head_len > AT_TYPE && head[AT_TYPE] == RAFT_INSTALL_SNAPSHOT;
}

/* Entries' headers were read into m->entries; the batch is the tail, whose slices they become. */
static int slice_batch(struct raft_append_entries *m, uint8_t *tail, size_t tail_len, const uint8_t *head)
{
    size_t at = 0;

    for (unsigned i = 0; i < m->n_entries; i++) {
        if (m->entries[i].buf.len > tail_len - at)
            return MR_MALFORMED;
        m->entries[i].buf.base = tail + at;
        m->entries[i].batch = tail;
        at += m->entries[i].buf.len;
    }
    if (at != tail_len)
        return MR_MALFORMED;
    return XXH3_64bits(tail, tail_len) == peek(head, AT_TAIL_SUM, 8) ? MR_OK : MR_CHECKSUM;
}

static int get_entry(struct reader *r, uint64_t term, struct raft_entry *e)
{
    uint64_t type;

    e->term = get(r, 8);
    e->buf.len = get(r, 4);
    type = get(r, 4);
    e->type = (enum raft_entry_type)type;
    if (r->bad || e->term == 0 || e->term > term || e->buf.len == 0 || e->buf.len % 8 != 0)
        return MR_MALFORMED;
    if (type != RAFT_COMMAND && type != RAFT_BARRIER && type != RAFT_CHANGE)
        return MR_MALFORMED;
    return MR_OK;
}

/* Takes *tail (sets it to NULL) only on success. */
static int get_append(struct reader *r, const uint8_t *head, uint8_t **tail, size_t tail_len,
                      struct raft_append_entries *m)
{
    uint64_t n;
    int rc = MR_OK;

    m->term = get(r, 8);
    m->prev_log_index = get(r, 8);
    m->prev_log_term = get(r, 8);
    m->leader_commit = get(r, 8);
    n = get(r, 8);
    m->entries = NULL;
    m->n_entries = 0;
    if (r->bad || (m->prev_log_index == 0) != (m->prev_log_term == 0) || m->prev_log_term > m->term)
        return MR_MALFORMED;
    if (n > RAFT_WIRE_MAX_ENTRIES || tail_len > RAFT_WIRE_MAX_BATCH)
        return MR_LIMIT;
    if (n == 0)
        return tail_len == 0 ? MR_OK : MR_MALFORMED;
    m->entries = raft_calloc((size_t)n, sizeof(*m->entries));
    m->n_entries = (unsigned)n;
    for (unsigned i = 0; i < m->n_entries && rc == 0; i++)
        rc = get_entry(r, m->term, &m->entries[i]);
    if (rc == 0)
        rc = slice_batch(m, *tail, tail_len, head);
    if (rc != 0) {
        raft_free(m->entries);
        m->entries = NULL;
        m->n_entries = 0;
        return rc;
    }
    *tail = NULL;
    return MR_OK;
}

static int get_member(struct reader *r, struct raft_configuration *conf)
{
    char name[RAFT_WIRE_MAX_NAME + 1];
    uint64_t id = get(r, 8);
    int role = (int)get(r, 1);
    size_t len = get(r, 2);

    if (r->bad || id == 0 || len == 0 || len > RAFT_WIRE_MAX_NAME || (size_t)(r->end - r->at) < len)
        return MR_MALFORMED;
    if (memchr(r->at, 0, len) != NULL)
        return MR_MALFORMED;
    memcpy(name, r->at, len);
    name[len] = '\0';
    r->at += len;
    return raft_configuration_add(conf, id, name, role) == 0 ? MR_OK : MR_MALFORMED;
}

static int get_snapshot(struct reader *r, uint8_t **tail, size_t tail_len, struct raft_install_snapshot *m)
{
    uint64_t n;
    int rc = MR_OK;

    m->term = get(r, 8);
    m->last_index = get(r, 8);
    m->last_term = get(r, 8);
    m->conf_index = get(r, 8);
    n = get(r, 4);
    if (r->bad || m->last_index == 0 || m->last_term == 0 || m->last_term > m->term || m->conf_index > m->last_index)
        return MR_MALFORMED;
    if (n > RAFT_WIRE_MAX_MEMBERS || tail_len > RAFT_WIRE_MAX_SNAPSHOT)
        return MR_LIMIT;
    if (n == 0 || tail_len == 0)
        return MR_MALFORMED;
    raft_configuration_init(&m->conf);
    for (uint64_t i = 0; i < n && rc == 0; i++)
        rc = get_member(r, &m->conf);
    if (rc != 0) {
        raft_configuration_close(&m->conf);
        return rc;
    }
    m->data.base = *tail;
    m->data.len = tail_len;
    *tail = NULL;
    return MR_OK;
}

static bool get_flag(struct reader *r)
{
    uint64_t flag = get(r, 1);

    r->bad = r->bad || flag > 1;
    return flag == 1;
}

static int get_result(struct reader *r, struct raft_append_entries_result *m)
{
    m->term = get(r, 8);
    m->rejected = get(r, 8);
    m->last_log_index = get(r, 8);
    m->features = (unsigned short)get(r, 2);
    m->capacity = (unsigned short)get(r, 2);
    /* libraft leaves the index unset when it rejects an old term (UPSTREAM.md 20). */
    if (m->rejected > 0 && m->last_log_index >= m->rejected)
        m->last_log_index = m->rejected - 1;
    return MR_OK;
}

static int get_small(struct reader *r, unsigned version, struct raft_message *out)
{
    switch (out->type) {
    case RAFT_APPEND_ENTRIES_RESULT:
        out->append_entries_result.version = (unsigned char)version;
        return get_result(r, &out->append_entries_result);
    case RAFT_REQUEST_VOTE:
        out->request_vote.version = (unsigned char)version;
        out->request_vote.term = get(r, 8);
        out->request_vote.candidate_id = get(r, 8);
        out->request_vote.last_log_index = get(r, 8);
        out->request_vote.last_log_term = get(r, 8);
        out->request_vote.disrupt_leader = get_flag(r);
        out->request_vote.pre_vote = get_flag(r);
        return out->request_vote.candidate_id == out->server_id ? MR_OK : MR_MALFORMED;
    case RAFT_REQUEST_VOTE_RESULT:
        out->request_vote_result.version = (unsigned char)version;
        out->request_vote_result.term = get(r, 8);
        out->request_vote_result.vote_granted = get_flag(r);
        out->request_vote_result.pre_vote = get_flag(r);
        out->request_vote_result.features = (unsigned short)get(r, 2);
        out->request_vote_result.capacity = (unsigned short)get(r, 2);
        return MR_OK;
    case RAFT_TIMEOUT_NOW:
        out->timeout_now.version = (unsigned char)version;
        out->timeout_now.term = get(r, 8);
        out->timeout_now.last_log_index = get(r, 8);
        out->timeout_now.last_log_term = get(r, 8);
        return MR_OK;
    default:
        return MR_MALFORMED;
    }
}

static int check_head(const uint8_t *head, size_t head_len, size_t tail_len)
{
    if (head_len < RAFT_WIRE_HEAD_FIXED || head_len > RAFT_WIRE_MAX_HEAD + RAFT_WIRE_MAX_MEMBERS * RAFT_WIRE_MAX_NAME)
        return MR_MALFORMED;
    if (peek(head, AT_MAGIC, 4) != WIRE_MAGIC)
        return MR_MALFORMED;
    if (head[AT_VERSION] != WIRE_VERSION)
        return MR_VERSION;
    if (peek(head, AT_SUM, 8) != head_sum(head, head_len))
        return MR_CHECKSUM;
    if (peek(head, AT_LEN, 8) != head_len || peek(head, AT_TAIL_LEN, 8) != tail_len)
        return MR_MALFORMED;
    return MR_OK;
}

int raft_wire_decode(uint64_t from, const char *name, const uint8_t *head, size_t head_len, uint8_t *tail,
                     size_t tail_len, struct raft_message *out)
{
    struct reader r;
    int rc;

    rc = check_head(head, head_len, tail_len);
    if (rc != 0)
        goto out;
    r = (struct reader){head + RAFT_WIRE_HEAD_FIXED, head + head_len, false};
    memset(out, 0, sizeof(*out));
    out->type = (enum raft_message_type)head[AT_TYPE];
    out->server_id = from;
    out->server_address = name;
    if (out->type == RAFT_APPEND_ENTRIES) {
        out->append_entries.version = head[AT_STRUCT];
        rc = get_append(&r, head, &tail, tail_len, &out->append_entries);
    } else if (out->type == RAFT_INSTALL_SNAPSHOT) {
        out->install_snapshot.version = head[AT_STRUCT];
        rc = get_snapshot(&r, &tail, tail_len, &out->install_snapshot);
    } else {
        rc = tail_len == 0 ? get_small(&r, head[AT_STRUCT], out) : MR_MALFORMED;
    }
    if (rc == 0 && (r.bad || r.at != r.end)) {
        raft_wire_free(out);
        rc = MR_MALFORMED;
    }
out:
    raft_free(tail);
    return rc;
}

void raft_wire_free(struct raft_message *message)
{
    if (message->type == RAFT_APPEND_ENTRIES && message->append_entries.n_entries > 0) {
        raft_free(message->append_entries.entries[0].batch);
        raft_free(message->append_entries.entries);
    } else if (message->type == RAFT_INSTALL_SNAPSHOT) {
        raft_configuration_close(&message->install_snapshot.conf);
        raft_free(message->install_snapshot.data.base);
    }
}
