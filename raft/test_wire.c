/* test_wire.c - every kind of message there and back; every truncation and every flipped byte is refused. */
#include "proto/base/error.h"
#include "raft/raft_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { KINDS = 7 };

struct sample {
    struct raft_message message;
    struct raft_entry entries[3];
    uint8_t data[64];
    uint8_t *head;
    size_t head_len;
    size_t tail_len;
};

static void fill_entries(struct sample *s)
{
    static const enum raft_entry_type types[] = {RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE};
    static const size_t lens[] = {32, 8, 24};
    size_t at = 0;

    for (unsigned i = 0; i < 3; i++) {
        s->entries[i] = (struct raft_entry){i + 3, types[i], {s->data + at, lens[i]}, NULL};
        at += lens[i];
    }
    s->tail_len = at;
    s->message.append_entries = (struct raft_append_entries){0, 9, 41, 8, 40, s->entries, 3};
}

static void fill_snapshot(struct sample *s)
{
    struct raft_install_snapshot *m = &s->message.install_snapshot;

    m->term = 12;
    m->last_index = 900;
    m->last_term = 11;
    m->conf_index = 17;
    m->data = (struct raft_buffer){s->data, 33};
    s->tail_len = 33;
    raft_configuration_init(&m->conf);
    assert_int_equal(raft_configuration_add(&m->conf, 1, "mx1", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&m->conf, 7, "a longer name", RAFT_STANDBY), 0);
    assert_int_equal(raft_configuration_add(&m->conf, UINT64_MAX, "s", RAFT_SPARE), 0);
}

static void make(struct sample *s, unsigned kind)
{
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < sizeof(s->data); i++)
        s->data[i] = (uint8_t)(i * 7 + 1);
    s->message.type = (enum raft_message_type)(kind == 0 ? RAFT_APPEND_ENTRIES : kind);
    s->message.server_id = 5;
    switch (kind) {
    case 0: /* a heartbeat */
        s->message.append_entries = (struct raft_append_entries){.term = 4, .leader_commit = 3};
        break;
    case RAFT_APPEND_ENTRIES:
        fill_entries(s);
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        s->message.append_entries_result = (struct raft_append_entries_result){2, 1ULL << 40, 77, 76, 1, 65535};
        break;
    case RAFT_REQUEST_VOTE:
        s->message.request_vote = (struct raft_request_vote){2, 8, 5, 100, 7, true, false};
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        s->message.request_vote_result = (struct raft_request_vote_result){2, 9, true, true, 1, 16384};
        break;
    case RAFT_INSTALL_SNAPSHOT:
        fill_snapshot(s);
        break;
    default:
        s->message.timeout_now = (struct raft_timeout_now){0, 5, 6, 4};
        break;
    }
    assert_int_equal(raft_wire_encode(&s->message, &s->head, &s->head_len), 0);
}

static void release(struct sample *s)
{
    if (s->message.type == RAFT_INSTALL_SNAPSHOT)
        raft_configuration_close(&s->message.install_snapshot.conf);
    free(s->head);
}

/* Decodes a copy whose end is the end of its allocation, so that the sanitizer sees each step beyond. */
static int decode(const uint8_t *head, size_t head_len, const uint8_t *tail, size_t tail_len, struct raft_message *out)
{
    uint8_t *exact = malloc(head_len > 0 ? head_len : 1);
    uint8_t *t = tail_len > 0 ? malloc(tail_len) : NULL;
    int rc;

    if (exact == NULL || head == NULL)
        abort();
    memcpy(exact, head, head_len);
    if (t != NULL)
        memcpy(t, tail, tail_len);
    rc = raft_wire_decode(5, "mx5", exact, head_len, t, tail_len, out);
    free(exact);
    return rc;
}

static void assert_same_entries(const struct raft_append_entries *a, const struct raft_append_entries *b)
{
    assert_true(a->term == b->term && a->prev_log_index == b->prev_log_index);
    assert_true(a->prev_log_term == b->prev_log_term && a->leader_commit == b->leader_commit);
    assert_int_equal(a->n_entries, b->n_entries);
    for (unsigned i = 0; i < a->n_entries; i++) {
        assert_true(a->entries[i].term == b->entries[i].term);
        assert_int_equal(a->entries[i].type, b->entries[i].type);
        assert_int_equal(a->entries[i].buf.len, b->entries[i].buf.len);
        assert_memory_equal(a->entries[i].buf.base, b->entries[i].buf.base, a->entries[i].buf.len);
        assert_ptr_equal(b->entries[i].batch, b->entries[0].batch);
    }
    if (b->n_entries > 0)
        assert_ptr_equal(b->entries[0].batch, b->entries[0].buf.base);
}

static void assert_same_snapshot(const struct raft_install_snapshot *a, const struct raft_install_snapshot *b)
{
    assert_true(a->term == b->term && a->last_index == b->last_index && a->last_term == b->last_term);
    assert_true(a->conf_index == b->conf_index);
    assert_int_equal(a->data.len, b->data.len);
    assert_memory_equal(a->data.base, b->data.base, a->data.len);
    assert_int_equal(a->conf.n, b->conf.n);
    for (unsigned i = 0; i < a->conf.n; i++) {
        assert_true(a->conf.servers[i].id == b->conf.servers[i].id);
        assert_int_equal(a->conf.servers[i].role, b->conf.servers[i].role);
        assert_string_equal(a->conf.servers[i].address, b->conf.servers[i].address);
    }
}

static void assert_same(const struct raft_message *a, const struct raft_message *b)
{
    assert_int_equal(a->type, b->type);
    assert_true(b->server_id == 5);
    assert_string_equal(b->server_address, "mx5");
    switch (a->type) {
    case RAFT_APPEND_ENTRIES:
        assert_same_entries(&a->append_entries, &b->append_entries);
        break;
    case RAFT_INSTALL_SNAPSHOT:
        assert_same_snapshot(&a->install_snapshot, &b->install_snapshot);
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        assert_memory_equal(&a->append_entries_result, &b->append_entries_result, sizeof(a->append_entries_result));
        break;
    case RAFT_REQUEST_VOTE:
        assert_memory_equal(&a->request_vote, &b->request_vote, sizeof(a->request_vote));
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        assert_memory_equal(&a->request_vote_result, &b->request_vote_result, sizeof(a->request_vote_result));
        break;
    case RAFT_TIMEOUT_NOW:
        assert_memory_equal(&a->timeout_now, &b->timeout_now, sizeof(a->timeout_now));
        break;
    }
}

static void goes_there_and_back(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        struct raft_message out;
        struct sample s;

        make(&s, kind);
        assert_int_equal(raft_wire_is_snapshot(s.head, s.head_len), kind == RAFT_INSTALL_SNAPSHOT);
        assert_int_equal(decode(s.head, s.head_len, s.data, s.tail_len, &out), 0);
        assert_same(&s.message, &out);
        raft_wire_free(&out);
        release(&s);
    }
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        struct raft_message out;
        struct sample s;

        make(&s, kind);
        for (size_t len = 0; len < s.head_len; len++)
            assert_int_not_equal(decode(s.head, len, s.data, s.tail_len, &out), 0);
        for (size_t len = 0; len < sizeof(s.data); len++)
            if (len != s.tail_len)
                assert_int_equal(decode(s.head, s.head_len, s.data, len, &out), MR_MALFORMED);
        release(&s);
    }
}

static void refuses_every_flipped_bit(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        struct raft_message out;
        struct sample s;

        make(&s, kind);
        for (size_t bit = 0; bit < s.head_len * 8; bit++) {
            s.head[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_not_equal(decode(s.head, s.head_len, s.data, s.tail_len, &out), 0);
            s.head[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        /* A snapshot's bytes are its state machine's to check. */
        for (size_t bit = 0; kind == RAFT_APPEND_ENTRIES && bit < s.tail_len * 8; bit++) {
            s.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(decode(s.head, s.head_len, s.data, s.tail_len, &out), MR_CHECKSUM);
            s.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        release(&s);
    }
}

/* A peer with a fault, or a hostile one, can make the checksum right. */
static void survives_garbage_with_a_right_checksum(void **state)
{
    uint64_t seed = 88172645463325252ULL;
    unsigned refused = 0;
    (void)state;

    for (unsigned round = 0; round < 200000; round++) {
        struct raft_message out;
        struct sample s;
        unsigned changes;

        make(&s, round % KINDS);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        changes = 1 + (unsigned)(seed % 4);
        for (unsigned i = 0; i < changes; i++)
            s.head[16 + (seed >> (8 * i)) % (s.head_len - 16)] = (uint8_t)(seed >> (16 + 8 * i));
        raft_wire_seal(s.head, s.head_len);
        if (decode(s.head, s.head_len, s.data, s.tail_len, &out) == 0)
            raft_wire_free(&out);
        else
            refused++;
        release(&s);
    }
    assert_true(refused > 10000);
}

static void expect_refused(struct sample *s)
{
    struct raft_message out;

    free(s->head);
    s->head = NULL;
    assert_int_equal(raft_wire_encode(&s->message, &s->head, &s->head_len), 0);
    assert_int_not_equal(decode(s->head, s->head_len, s->data, s->tail_len, &out), 0);
}

/* What libraft only asserts, and its release build does not. */
static void refuses_what_libraft_would_assert(void **state)
{
    struct sample s;
    (void)state;

    make(&s, RAFT_APPEND_ENTRIES);
    s.message.append_entries.prev_log_term = 0;
    expect_refused(&s);
    s.message.append_entries.prev_log_term = 8;
    s.entries[1].term = 0;
    expect_refused(&s);
    s.entries[1].term = 10; /* newer than the leader's */
    expect_refused(&s);
    s.entries[1].term = 4;
    s.entries[1].type = (enum raft_entry_type)9;
    expect_refused(&s);
    s.entries[1].type = RAFT_COMMAND;
    s.entries[0].buf.len = 31;
    s.tail_len--;
    expect_refused(&s);
    release(&s);

    make(&s, RAFT_REQUEST_VOTE);
    s.message.request_vote.candidate_id = 6; /* not the sender */
    expect_refused(&s);
    release(&s);

    make(&s, RAFT_INSTALL_SNAPSHOT);
    s.message.install_snapshot.last_term = 0;
    expect_refused(&s);
    s.message.install_snapshot.last_term = 11;
    s.message.install_snapshot.conf.servers[1].id = 1; /* twice */
    expect_refused(&s);
    release(&s);
}

/* libraft sends such a one when it rejects an old term; what it says of the log is chance. */
static void mends_a_rejection_without_an_index(void **state)
{
    struct raft_message out;
    struct sample s;
    (void)state;

    make(&s, RAFT_APPEND_ENTRIES_RESULT);
    s.message.append_entries_result.last_log_index = UINT64_MAX;
    free(s.head);
    s.head = NULL;
    assert_int_equal(raft_wire_encode(&s.message, &s.head, &s.head_len), 0);
    assert_int_equal(decode(s.head, s.head_len, s.data, s.tail_len, &out), 0);
    assert_true(out.append_entries_result.rejected == 77);
    assert_true(out.append_entries_result.last_log_index == 76);
    release(&s);
}

static void keeps_limits(void **state)
{
    struct raft_message m = {.type = RAFT_APPEND_ENTRIES};
    uint8_t *head = NULL;
    size_t len;
    (void)state;

    m.append_entries.n_entries = RAFT_WIRE_MAX_ENTRIES + 1;
    assert_int_equal(raft_wire_encode(&m, &head, &len), MR_LIMIT);
    assert_null(head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_there_and_back),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_every_flipped_bit),
        cmocka_unit_test(survives_garbage_with_a_right_checksum),
        cmocka_unit_test(refuses_what_libraft_would_assert),
        cmocka_unit_test(mends_a_rejection_without_an_index),
        cmocka_unit_test(keeps_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
