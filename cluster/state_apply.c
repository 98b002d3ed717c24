/* Applying one entry: decode all, then what time brings, then the operations in order.
 *
 * An entry that is malformed or holds anything unknown changes nothing; the caller stops the process (PROTOCOL.md 4.6).
 * The one exception is an unknown field inside an enqueue that came in parts, which is seen only when its last part
 * applies: MR_VERSION then comes after part of the entry applied, and as the process stops, nobody sees that state. */
#include "cluster/state_internal.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

/* ---- decoding ---- */

static bool known_field(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    const char *base = (const char *)m;

    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t n = *(const size_t *)(const void *)(base + f->quantifier_offset);
        ProtobufCMessage *const *items = *(ProtobufCMessage *const *const *)(const void *)(base + f->offset);
        for (size_t i = 0; i < n; i++)
            if (!state_known_fields(items[i]))
                return false;
        return true;
    }
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
        *(const uint32_t *)(const void *)(base + f->quantifier_offset) != f->id)
        return true;
    const ProtobufCMessage *item = *(ProtobufCMessage *const *)(const void *)(base + f->offset);
    return item == NULL || state_known_fields(item);
}

/* No field, at any depth, that this program's .proto files do not have. The depth is theirs, and they do not recurse.
 */
bool state_known_fields(const ProtobufCMessage *m)
{
    if (m->n_unknown_fields > 0)
        return false;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++)
        if (m->descriptor->fields[i].type == PROTOBUF_C_TYPE_MESSAGE && !known_field(m, &m->descriptor->fields[i]))
            return false;
    return true;
}

static int decode(struct state *s, const uint8_t *data, size_t len, Mailraft__Batch **out)
{
    ProtobufCAllocator allocator = state_arena_allocator(&s->arena);

    state_arena_reset(&s->arena);
    Mailraft__Batch *batch = mailraft__batch__unpack(&allocator, len, data);
    if (batch == NULL || batch->stamp_ms > STATE_MAX_MS)
        return MR_MALFORMED;
    if (!state_known_fields(&batch->base))
        return MR_VERSION;
    for (size_t i = 0; i < batch->n_ops; i++) {
        if (batch->ops[i]->kind_case == MAILRAFT__OP__KIND__NOT_SET)
            return MR_MALFORMED;
        if (batch->ops[i]->kind_case == MAILRAFT__OP__KIND_SET_VERSION &&
            batch->ops[i]->set_version->version > STATE_VERSION)
            return MR_VERSION;
    }
    *out = batch;
    return 0;
}

/* ---- operations ---- */

#define OPERATION(name, member, function)                                                                              \
    static enum apply_result name(struct state *s, const Mailraft__Op *op, int *fatal)                                 \
    {                                                                                                                  \
        (void)fatal;                                                                                                   \
        return function(s, op->member);                                                                                \
    }
OPERATION(do_enqueue, enqueue, state_enqueue)
OPERATION(do_assign, assign, state_assign)
OPERATION(do_outcome, outcome, state_outcome)
OPERATION(do_cancel, cancel, state_cancel)
OPERATION(do_node_up, node_up, state_node_up)
OPERATION(do_node_down, node_down, state_node_down)
OPERATION(do_rules, rules, state_set_rules)
OPERATION(do_notice, notice, state_notice)
OPERATION(do_assign_notice, assign_notice, state_assign_notice)
OPERATION(do_form, form, state_form)
OPERATION(do_set_version, set_version, state_set_version)
OPERATION(do_release, release, state_release)
OPERATION(do_site_memory, site_memory, state_site_memory)
#undef OPERATION

static enum apply_result do_enqueue_part(struct state *s, const Mailraft__Op *op, int *fatal)
{
    return state_enqueue_part(s, op->enqueue_part, fatal);
}

static enum apply_result (*const operations[])(struct state *s, const Mailraft__Op *op, int *fatal) = {
    [MAILRAFT__OP__KIND_ENQUEUE] = do_enqueue,
    [MAILRAFT__OP__KIND_ASSIGN] = do_assign,
    [MAILRAFT__OP__KIND_OUTCOME] = do_outcome,
    [MAILRAFT__OP__KIND_CANCEL] = do_cancel,
    [MAILRAFT__OP__KIND_NODE_UP] = do_node_up,
    [MAILRAFT__OP__KIND_NODE_DOWN] = do_node_down,
    [MAILRAFT__OP__KIND_RULES] = do_rules,
    [MAILRAFT__OP__KIND_NOTICE] = do_notice,
    [MAILRAFT__OP__KIND_ASSIGN_NOTICE] = do_assign_notice,
    [MAILRAFT__OP__KIND_ENQUEUE_PART] = do_enqueue_part,
    [MAILRAFT__OP__KIND_FORM] = do_form,
    [MAILRAFT__OP__KIND_SET_VERSION] = do_set_version,
    [MAILRAFT__OP__KIND_RELEASE] = do_release,
    [MAILRAFT__OP__KIND_SITE_MEMORY] = do_site_memory,
};

int state_apply(struct state *s, uint64_t index, const uint8_t *data, size_t len, uint8_t *results, size_t *n_results)
{
    Mailraft__Batch *batch = NULL;
    int fatal = decode(s, data, len, &batch);

    if (fatal != 0)
        return fatal;
    mr_assert(index > s->index);
    s->index = index;
    if (batch->stamp_ms > s->now_ms)
        s->now_ms = batch->stamp_ms;
    if (MR_MUTANT(MUTANT_LOCAL_CLOCK) && mr_wall_ms(&mr_clock_real) > s->now_ms)
        s->now_ms = mr_wall_ms(&mr_clock_real);
    delivery_release_due(s, STATE_RELEASE_BATCH);
    finished_expire(s, STATE_RELEASE_BATCH);
    state_parts_expire(s);
    sites_expire(s, STATE_RELEASE_BATCH);
    users_expire(s, STATE_RELEASE_BATCH);
    for (size_t i = 0; i < batch->n_ops && fatal == 0; i++) {
        const Mailraft__Op *op = batch->ops[i];
        mr_assert((size_t)op->kind_case < sizeof(operations) / sizeof(operations[0]));
        enum apply_result r = operations[op->kind_case](s, op, &fatal);
        if (results != NULL && i < *n_results)
            results[i] = (uint8_t)r;
    }
    if (n_results != NULL)
        *n_results = batch->n_ops;
    return fatal;
}
