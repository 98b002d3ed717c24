/* The snapshot: whole, all or nothing, canonical, and its examples in proto/examples (FORMAT.md).
 *
 * MR_BENCH=<messages> measures snapshot, hash and restore; MR_WRITE_EXAMPLES=1 writes the examples of the current
 * version anew. */
#include "cluster/state_records.h"
#include "cluster/state_testing.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "snapshot.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

/* What came with version 2. */
static void fill_new(struct rig *rig)
{
    struct mail mail = {.n = 201, .recipients = 2, .hops = 2, .user = "alice", .priority = 4, .hold = 9000};

    assert_int_equal(apply(rig, set_version_op(rig, 2)), APPLIED);
    assert_int_equal(rules_apply(rig, limits_of(rig, 8, 100, 1000)), APPLIED);
    assert_int_equal(enqueue(rig, mail), APPLIED);
    pass(rig, 120000);
    mail = (struct mail){.n = 202,
                         .user = "alice",
                         .priority = -9,
                         .flags = MESSAGE_REQUIRETLS,
                         .deliver_by = 60000,
                         .deliver_by_mode = MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN};
    assert_int_equal(enqueue(rig, mail), APPLIED);
    mail = (struct mail){.n = 203, .user = "bulk", .priority = 9, .assign_node = 2, .assign_incarnation = 1};
    assert_int_equal(enqueue(rig, mail), APPLIED);
    mail.n = 204;
    mail.assign_node = 0;
    assert_int_equal(enqueue(rig, mail), APPLIED);
    assert_int_equal(apply(rig, site_op(rig, "plain.example", 7000000)), APPLIED);
    Mailraft__Op *op = site_op(rig, "sts.example", 0);
    op->site_memory->sts = sts_of(rig, "20261122T", 3, 2, 80000000);
    assert_int_equal(apply(rig, op), APPLIED);
    op = site_op(rig, "both.example", 1000);
    op->site_memory->sts = sts_of(rig, "1", 1, 0, 90000000);
    assert_int_equal(apply(rig, op), APPLIED);
}

/* One of everything that a snapshot can hold, but what only a later version makes. */
static void fill(struct rig *rig)
{
    static const uint8_t some[5] = {1, 2, 3, 4, 5};

    rig_cluster(rig);
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_RULES);
    op->rules = rules_of(rig, 9);
    assert_int_equal(apply(rig, op), APPLIED);
    assert_int_equal(node_up(rig, 7, 3), APPLIED);
    uint64_t warn = rig->now + 50, expire = rig->now + 5000000;
    for (uint32_t n = 1; n <= 8; n++)
        assert_int_equal(enqueue(rig, (struct mail){.n = n,
                                                    .recipients = n,
                                                    .hops = (n + 1) / 2,
                                                    .warn = warn + n * n % 5,
                                                    .expire = n == 4 ? 0 : expire,
                                                    .from = n == 5 ? "" : NULL,
                                                    .flags = n % 4,
                                                    .assign_node = 1 + n % 3,
                                                    .assign_incarnation = 1}),
                         APPLIED);
    assert_int_equal(outcome_apply(rig, outcome_of(rig, 8, 0, 1, 3, "dt", 4)), APPLIED);
    assert_int_equal(outcome_apply(rig, outcome_of(rig, 7, 0, 1, 2, "fn", 4)), APPLIED);
    assert_int_equal(outcome(rig, 1, 0, 1, 2, "d"), APPLIED);
    assert_int_equal(apply(rig, release_op(rig, 6, 0, 1, 1)), APPLIED);
    assert_int_equal(assign(rig, 6, 2, 1, 7, 3), APPLIED);
    assert_int_equal(cancel(rig, 100), APPLIED);
    op = new_op(rig, MAILRAFT__OP__KIND_ENQUEUE_PART);
    BUILD(rig, Mailraft__EnqueuePart, mailraft__enqueue_part__init, part);
    part->id = id_bytes(rig, 101);
    part->parts = 2;
    part->data = bytes_of(rig, some, sizeof(some));
    op->enqueue_part = part;
    assert_int_equal(apply(rig, op), APPLIED);
    pass(rig, 100);
    assert_int_equal(assign_notice(rig, 2, MAILRAFT__NOTICE_KIND__NOTICE_WARN, 1, 7, 3), APPLIED);
    assert_int_equal(node_down(rig, 1, 1), APPLIED);
    assert_int_equal(node_up(rig, 3, 2), APPLIED);
    fill_new(rig);
}

static uint8_t *snapshot(const struct state *s, size_t *len)
{
    struct state_buffer *buffers;
    unsigned count;
    size_t at = 0;

    state_snapshot(s, &buffers, &count);
    *len = 0;
    for (unsigned i = 0; i < count; i++)
        *len += buffers[i].len;
    uint8_t *all = malloc(*len);
    for (unsigned i = 0; i < count; i++) {
        memcpy(all + at, buffers[i].base, buffers[i].len);
        at += buffers[i].len;
    }
    state_snapshot_free(buffers, count);
    return all;
}

static void seal(uint8_t *data, size_t len)
{
    XXH128_canonical_t sum;

    XXH128_canonicalFromHash(&sum, XXH3_128bits(data, len - SNAPSHOT_RECORD_HEADER - SNAPSHOT_CHECKSUM));
    memcpy(data + len - SNAPSHOT_CHECKSUM, sum.digest, SNAPSHOT_CHECKSUM);
}

static void restored_state_is_the_same(void **arg)
{
    struct rig rig;
    uint8_t before[16], after[16];
    size_t len, again_len;
    struct state_counts a, b;
    (void)arg;
    fill(&rig);
    uint8_t *data = snapshot(rig.s, &len);
    state_hash(rig.s, before);
    assert_memory_equal(before, data + len - SNAPSHOT_CHECKSUM, 16); /* the checksum is the hash */
    struct state *other = state_open(NULL);
    assert_int_equal(state_restore(other, 77, data, len), 0);
    state_check(other);
    state_hash(other, after);
    assert_memory_equal(before, after, 16);
    assert_int_equal(state_index(other), 77);
    assert_int_equal(state_now_ms(other), state_now_ms(rig.s));
    uint8_t *again = snapshot(other, &again_len);
    assert_int_equal(again_len, len);
    assert_memory_equal(again, data, len);
    state_counts(rig.s, &a);
    state_counts(other, &b);
    a.memory_bytes = b.memory_bytes = 0;
    assert_memory_equal(&a, &b, sizeof(a));
    /* Into itself, over what is there. */
    rig_quiet(&rig);
    assert_int_equal(state_restore(rig.s, 78, data, len), 0);
    assert_string_equal(rig.told, "");
    state_check(rig.s);
    free(again);
    free(data);
    state_close(other);
    rig_close(&rig);
}

static void empty_state_has_a_snapshot(void **arg)
{
    struct state *a = state_open(NULL), *b = state_open(NULL);
    uint8_t x[16], y[16];
    size_t len;
    (void)arg;
    uint8_t *data = snapshot(a, &len);
    assert_int_equal(state_restore(b, 1, data, len), 0);
    state_hash(a, x);
    state_hash(b, y);
    assert_memory_equal(x, y, 16);
    assert_int_equal(state_next_due_ms(b), UINT64_MAX);
    free(data);
    state_close(a);
    state_close(b);
}

/* A snapshot cut by a crash, or changed at rest: refused, and the node still has what it had. */
static void damaged_snapshot_changes_nothing(void **arg)
{
    struct rig rig;
    uint8_t before[16], after[16];
    size_t len;
    (void)arg;
    fill(&rig);
    uint8_t *data = snapshot(rig.s, &len);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 55}), APPLIED);
    state_hash(rig.s, before);
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *copy = malloc(cut + 1);
        memcpy(copy, data, cut);
        int r = state_restore(rig.s, 99, copy, cut);
        assert_true(r == MR_MALFORMED || r == MR_CHECKSUM);
        free(copy);
    }
    for (size_t at = 0; at < len; at++) {
        data[at] ^= (uint8_t)(1 << at % 8);
        int r = state_restore(rig.s, 99, data, len);
        assert_true(r == MR_MALFORMED || r == MR_CHECKSUM || (r == MR_VERSION && at >= 8 && at < 16));
        data[at] ^= (uint8_t)(1 << at % 8);
    }
    state_hash(rig.s, after);
    assert_memory_equal(before, after, 16);
    assert_int_equal(state_index(rig.s), rig.index);
    state_check(rig.s);
    free(data);
    rig_close(&rig);
}

/* One with a good checksum that a program with a bug wrote: refused, or a state whose invariants hold. */
static void wrong_snapshot_never_breaks_an_invariant(void **arg)
{
    struct rig rig;
    size_t len, taken = 0, refused = 0;
    (void)arg;
    fill(&rig);
    uint8_t *data = snapshot(rig.s, &len), *copy = malloc(len);
    for (size_t at = SNAPSHOT_PREAMBLE; at + SNAPSHOT_RECORD_HEADER + SNAPSHOT_CHECKSUM < len; at++) {
        for (int change = 0; change < 4; change++) {
            static const uint8_t masks[] = {0x01, 0x04, 0x80, 0xff};
            memcpy(copy, data, len);
            copy[at] ^= masks[change];
            seal(copy, len);
            if (state_restore(rig.s, rig.index, copy, len) == 0) {
                state_check(rig.s);
                taken++;
            } else {
                refused++;
            }
        }
    }
    assert_true(taken > 0 && refused > 0);
    free(copy);
    free(data);
    rig_close(&rig);
}

/* The hand-written encoder against protobuf's own. */
static void records_are_canonical_protobuf(void **arg)
{
    static const ProtobufCMessageDescriptor *const kinds[] = {
        NULL,
        &mailraft__snapshot_header__descriptor,
        &mailraft__snapshot_node__descriptor,
        &mailraft__snapshot_message__descriptor,
        &mailraft__snapshot_finished__descriptor,
        &mailraft__snapshot_parts__descriptor,
        NULL,
        &mailraft__snapshot_site__descriptor,
        &mailraft__snapshot_user__descriptor,
    };
    struct rig rig;
    size_t len, seen[RECORD_KINDS] = {0};
    (void)arg;
    fill(&rig);
    uint8_t *data = snapshot(rig.s, &len);
    for (size_t at = SNAPSHOT_PREAMBLE; data[at] != RECORD_END;) {
        size_t size = (size_t)data[at + 4] | (size_t)data[at + 5] << 8 | (size_t)data[at + 6] << 16;
        const uint8_t *payload = data + at + SNAPSHOT_RECORD_HEADER;
        ProtobufCMessage *m = protobuf_c_message_unpack(kinds[data[at]], NULL, size, payload);
        assert_non_null(m);
        assert_int_equal(m->n_unknown_fields, 0);
        assert_int_equal(protobuf_c_message_get_packed_size(m), size);
        uint8_t *packed = malloc(size + 1);
        protobuf_c_message_pack(m, packed);
        assert_memory_equal(packed, payload, size);
        free(packed);
        protobuf_c_message_free_unpacked(m, NULL);
        seen[data[at]]++;
        at += SNAPSHOT_RECORD_HEADER + size;
    }
    assert_int_equal(seen[RECORD_HEADER], 1);
    assert_int_equal(seen[RECORD_NODE], 4);
    assert_int_equal(seen[RECORD_MESSAGE], 11);
    assert_int_equal(seen[RECORD_SITE], 3);
    assert_int_equal(seen[RECORD_USER], 2);
    assert_int_equal(seen[RECORD_FINISHED], 2);
    assert_int_equal(seen[RECORD_PARTS], 1);
    free(data);
    rig_close(&rig);
}

/* The order of ready lists decides what goes first; of assigned ones, what a fallen node gives back first. */
static void orders_survive(void **arg)
{
    struct rig rig;
    size_t len;
    (void)arg;
    rig_cluster(&rig);
    for (uint32_t n = 1; n <= 9; n++)
        assert_int_equal(enqueue(&rig, (struct mail){.n = n}), APPLIED);
    static const uint32_t order[] = {7, 2, 9, 4};
    for (int i = 0; i < 4; i++)
        assert_int_equal(assign(&rig, order[i], 0, 1, 2, 1), APPLIED);
    assert_int_equal(apply(&rig, release_op(&rig, 9, 0, 1, 2)), APPLIED);
    uint8_t *data = snapshot(rig.s, &len);
    assert_int_equal(state_restore(rig.s, rig.index, data, len), 0);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "9 1 3 5 6 8");
    assert_int_equal(node_down(&rig, 2, 1), APPLIED);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "7 2 4 9 1 3 5 6 8");
    free(data);
    rig_close(&rig);
}

/* ---- examples kept in git ---- */

static const char *const example_snapshots[] = {"../proto/examples/queue-snapshot-1.bin",
                                                "../proto/examples/queue-snapshot-2.bin"};
static const char *const example_entries[] = {"../proto/examples/entry-1.bin", "../proto/examples/entry-2.bin"};

static void write_file(const char *path, const uint8_t *data, size_t len)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static uint8_t *read_example(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(1 << 20);

    assert_non_null(f);
    *len = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

/* An entry with an operation of each kind, and what came with version 2. */
static size_t example_batch(struct rig *rig, uint8_t **data)
{
    Mailraft__Op *ops[16];
    size_t n = 0;

    ops[n] = new_op(rig, MAILRAFT__OP__KIND_FORM);
    ops[n++]->form = form_of(rig, 3);
    ops[n] = new_op(rig, MAILRAFT__OP__KIND_NODE_UP);
    ops[n++]->node_up = node_up_of(rig, 1, 1);
    ops[n++] = set_version_op(rig, 2);
    ops[n] = new_op(rig, MAILRAFT__OP__KIND_RULES);
    ops[n++]->rules = limits_of(rig, 1, 100, 0);
    ops[n] = new_op(rig, MAILRAFT__OP__KIND_ENQUEUE);
    ops[n++]->enqueue = enqueue_of(rig, (struct mail){.n = 1,
                                                      .recipients = 2,
                                                      .hops = 2,
                                                      .expire = 9999999,
                                                      .priority = -4,
                                                      .user = "alice",
                                                      .deliver_by = 60000,
                                                      .deliver_by_mode = MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY});
    ops[n] = new_op(rig, MAILRAFT__OP__KIND_ENQUEUE);
    ops[n++]->enqueue = enqueue_of(rig, (struct mail){.n = 2, .hold = 60000, .flags = MESSAGE_REQUIRETLS});
    ops[n] = site_op(rig, "both.example", 5000);
    ops[n++]->site_memory->sts = sts_of(rig, "20261122T", 2, 1, 60000);
    ops[n++] = assign_op(rig, 1, 1, 1, 1, 1);
    ops[n] = new_op(rig, MAILRAFT__OP__KIND_OUTCOME);
    ops[n++]->outcome = outcome_of(rig, 1, 1, 1, 1, "t", 2);
    ops[n++] = assign_op(rig, 1, 0, 1, 1, 1);
    ops[n] = release_op(rig, 1, 0, 1, 1);
    ops[n++]->release->overdue = true;
    return pack_batch(rig, rig->now, ops, n, data);
}

static void write_examples(void)
{
    struct rig rig;
    size_t len;

    fill(&rig);
    uint8_t *data = snapshot(rig.s, &len);
    write_file(example_snapshots[STATE_VERSION - 1], data, len);
    free(data);
    rig_close(&rig);
    rig_open(&rig);
    len = example_batch(&rig, &data);
    write_file(example_entries[STATE_VERSION - 1], data, len);
    rig_close(&rig);
}

static void example_snapshot_is_read(const char *path)
{
    uint8_t hash[16];
    size_t len;
    struct state *s = state_open(NULL);
    uint8_t *data = read_example(path, &len);

    assert_int_equal(state_restore(s, 1, data, len), 0);
    state_check(s);
    state_hash(s, hash);
    assert_memory_equal(hash, data + len - 16, 16);
    free(data);
    state_close(s);
}

static void example_entry_is_read(const char *path, size_t operations, const uint8_t after[16])
{
    uint8_t hash[16], results[16];
    size_t len, n = sizeof(results);
    struct state *s = state_open(NULL);
    uint8_t *data = read_example(path, &len);

    assert_int_equal(state_apply(s, 1, data, len, results, &n), 0);
    assert_int_equal(n, operations);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(results[i], APPLIED);
    state_hash(s, hash);
    if (getenv("MR_WRITE_EXAMPLES") != NULL)
        for (int i = 0; i < 16; i++)
            print_message("0x%02x, ", hash[i]);
    assert_memory_equal(hash, after, 16);
    free(data);
    state_close(s);
}

/* Written once and never again: what an older program left on disk must be read by this one. */
static void examples_are_still_read(void **arg)
{
    static const uint8_t after_entry_1[16] = {0x54, 0xa8, 0x7a, 0x11, 0xb0, 0x0b, 0x69, 0x71,
                                              0x45, 0x34, 0x4c, 0xb1, 0x87, 0xc5, 0x1e, 0x90};
    static const uint8_t after_entry_2[16] = {0xdf, 0xd2, 0xc7, 0xb1, 0x77, 0x03, 0xbc, 0x97,
                                              0x6c, 0x34, 0x52, 0x88, 0xdd, 0x64, 0x1f, 0x40};
    (void)arg;
    if (getenv("MR_WRITE_EXAMPLES") != NULL)
        write_examples();
    for (int i = 0; i < STATE_VERSION; i++)
        example_snapshot_is_read(example_snapshots[i]);
    example_entry_is_read(example_entries[0], 8, after_entry_1);
    example_entry_is_read(example_entries[1], 11, after_entry_2);
}

/* ---- cost ---- */

static double cpu_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* others may share the machine */
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void bench(void **arg)
{
    const char *wanted = getenv("MR_BENCH");
    struct rig rig;
    struct state_counts c;
    uint8_t hash[16], *data;
    double applying = 0, t;
    size_t len;
    (void)arg;
    uint32_t many = wanted != NULL ? (uint32_t)strtoul(wanted, NULL, 10) : 2000;
    rig_cluster(&rig);
    size_t start_len;
    uint8_t *start = snapshot(rig.s, &start_len);
    state_close(rig.s);
    rig.s = state_open(NULL); /* the effects' texts would be most of the cost */
    assert_int_equal(state_restore(rig.s, rig.index, start, start_len), 0);
    free(start);
    Mailraft__Op *ops[100];
    for (uint32_t done = 0; done < many; done += 100) {
        for (uint32_t i = 0; i < 100; i++) {
            ops[i] = new_op(&rig, MAILRAFT__OP__KIND_ENQUEUE);
            ops[i]->enqueue = enqueue_of(&rig, (struct mail){.n = done + i + 1,
                                                             .hop = text(&rig, "mx:d%u.example", i),
                                                             .expire = rig.now + 400000000,
                                                             .assign_node = 1,
                                                             .assign_incarnation = 1});
        }
        len = pack_batch(&rig, ++rig.now, ops, 100, &data);
        t = cpu_ms();
        assert_int_equal(state_apply(rig.s, ++rig.index, data, len, NULL, NULL), 0);
        applying += cpu_ms() - t;
        for (uint32_t i = 0; i < 100; i++) {
            ops[i] = new_op(&rig, MAILRAFT__OP__KIND_OUTCOME);
            ops[i]->outcome = outcome_of(&rig, done + i + 1, 0, 1, 1, "t", 1);
        }
        len = pack_batch(&rig, ++rig.now, ops, 100, &data);
        t = cpu_ms();
        assert_int_equal(state_apply(rig.s, ++rig.index, data, len, NULL, NULL), 0);
        applying += cpu_ms() - t;
        state_arena_reset(&rig.arena);
    }
    state_counts(rig.s, &c);
    assert_int_equal(c.deferred, many);
    assert_true(c.memory_bytes / many < 1024);
    print_message("%u messages: %.2f us an operation, %llu bytes a message\n", many, applying * 500 / many,
                  (unsigned long long)c.memory_bytes / many);
    struct state_buffer *buffers;
    unsigned count;
    t = cpu_ms();
    state_snapshot(rig.s, &buffers, &count);
    print_message("snapshot %.1f ms, %zu bytes\n", cpu_ms() - t, buffers[0].len);
    t = cpu_ms();
    state_hash(rig.s, hash);
    print_message("hash %.1f ms\n", cpu_ms() - t);
    t = cpu_ms();
    assert_int_equal(state_restore(rig.s, rig.index, buffers[0].base, buffers[0].len), 0);
    print_message("restore %.1f ms\n", cpu_ms() - t);
    state_check(rig.s);
    state_snapshot_free(buffers, count);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(restored_state_is_the_same),       cmocka_unit_test(empty_state_has_a_snapshot),
        cmocka_unit_test(damaged_snapshot_changes_nothing), cmocka_unit_test(wrong_snapshot_never_breaks_an_invariant),
        cmocka_unit_test(records_are_canonical_protobuf),   cmocka_unit_test(orders_survive),
        cmocka_unit_test(examples_are_still_read),          cmocka_unit_test(bench),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
