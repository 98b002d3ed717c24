/* Members, their lives (incarnations), rules and version, as the queue sees them.
 *
 * Happy path: Form names the voters -> NodeUp of each -> NodeDown of one that went silent -> NodeUp of its next
 * incarnation. A node's assignments never outlive the incarnation that they name: NodeDown and NodeUp release them. */
#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

struct state_node *node_find(const struct state *s, uint32_t node)
{
    return node == 0 || node > STATE_MAX_NODES ? NULL : s->nodes[node];
}

static void set_text(struct state *s, char **text, const char *value)
{
    if (*text != NULL)
        s->memory -= strlen(*text) + 1;
    free(*text);
    *text = mr_strdup(value);
    s->memory += strlen(value) + 1;
}

struct state_node *node_add(struct state *s, uint32_t node, const char *name, struct mr_id directory)
{
    struct state_node *n = mr_calloc(1, sizeof(*n));

    mr_assert(node != 0 && node <= STATE_MAX_NODES && s->nodes[node] == NULL);
    n->id = node;
    n->directory = directory;
    s->memory += sizeof(*n);
    set_text(s, &n->name, name);
    set_text(s, &n->address, "");
    set_text(s, &n->version, "");
    s->nodes[node] = n;
    s->n_nodes++;
    return n;
}

void node_free(struct state_node *n)
{
    free(n->name);
    free(n->address);
    free(n->version);
    free(n);
}

void node_set_texts(struct state *s, struct state_node *n, const char *address, const char *version)
{
    set_text(s, &n->address, address);
    set_text(s, &n->version, version);
}

enum apply_result node_may_run(const struct state *s, uint32_t node, uint64_t incarnation)
{
    const struct state_node *n = node_find(s, node);

    if (n == NULL)
        return APPLY_NOT_FOUND;
    return n->up && n->incarnation == incarnation ? APPLIED : APPLY_OLD_INCARNATION;
}

void node_view_of(const struct state_node *n, struct node_view *out)
{
    *out = (struct node_view){
        .node = n->id,
        .name = n->name,
        .address = n->address,
        .version = n->version,
        .directory = n->directory,
        .incarnation = n->incarnation,
        .up = n->up,
        .voter = n->voter,
    };
}

static void tell_changed(struct state *s, const struct state_node *n)
{
    struct node_view view;

    node_view_of(n, &view);
    TELL(s, node_changed, &view);
}

/* Back to the front of the ready lists, from the newest, so that the oldest comes first; notices are due at once. */
static void release_all(struct state *s, struct state_node *n, bool fell)
{
    while (n->assigned.tail != NULL) {
        struct state_delivery *d = DELIVERY_OF(n->assigned.tail, in_node);
        struct mr_id id = delivery_message(d)->id;
        delivery_requeue(s, d, AT_FRONT);
        if (fell && !MR_MUTANT(MUTANT_DOUBT_NOT_COUNTED)) {
            s->counts.possibly_in_doubt++;
            TELL(s, in_doubt, id, d->index, d->attempt, n->id, true);
        }
    }
    while (n->notices.head != NULL) {
        struct state_message *m = MR_CONTAINER(n->notices.head, struct state_message, in_node);
        notice_end(s, m, m->notice_due_ms);
    }
}

static bool name_valid(const char *name)
{
    size_t len = strnlen(name, STATE_MAX_TEXT + 1);
    return len > 0 && len <= STATE_MAX_TEXT;
}

static enum apply_result node_up_check(const struct state *s, const Mailraft__NodeUp *up, struct mr_id *directory)
{
    if (up->node == 0 || up->node > STATE_MAX_NODES || up->incarnation == 0 || !name_valid(up->name) ||
        strnlen(up->version, STATE_MAX_TEXT + 1) > STATE_MAX_TEXT ||
        mr_id_from_bytes(up->directory.data, up->directory.len, directory) != 0)
        return APPLY_INVALID;
    const struct state_node *n = s->nodes[up->node];
    if (n == NULL)
        return APPLIED;
    if (strcmp(n->name, up->name) != 0)
        return APPLY_INVALID;
    if (!mr_id_equal(n->directory, *directory) || up->incarnation < n->incarnation)
        return APPLY_OLD_INCARNATION;
    return up->incarnation == n->incarnation ? APPLY_DUPLICATE : APPLIED;
}

enum apply_result state_node_up(struct state *s, const Mailraft__NodeUp *up)
{
    struct mr_id directory;
    enum apply_result r = node_up_check(s, up, &directory);

    if (r != APPLIED)
        return r;
    struct state_node *n = s->nodes[up->node];
    if (n == NULL)
        n = node_add(s, up->node, up->name, directory);
    /* Each outcome stands for itself: one that has no effect does not keep the node out. */
    for (size_t i = 0; i < up->n_journal; i++)
        if (up->journal[i]->node == up->node)
            (void)state_outcome(s, up->journal[i]);
    for (size_t i = 0; i < up->n_in_doubt; i++) {
        const Mailraft__InDoubt *doubt = up->in_doubt[i];
        struct mr_id id;
        if (mr_id_from_bytes(doubt->id.data, doubt->id.len, &id) != 0)
            continue;
        s->counts.in_doubt++;
        TELL(s, in_doubt, id, doubt->delivery, doubt->attempt, up->node, false);
    }
    release_all(s, n, false);
    n->incarnation = up->incarnation;
    n->up = true;
    set_text(s, &n->version, up->version);
    tell_changed(s, n);
    return APPLIED;
}

enum apply_result state_node_down(struct state *s, const Mailraft__NodeDown *down)
{
    struct state_node *n = node_find(s, down->node);

    if (n == NULL)
        return APPLY_NOT_FOUND;
    if (n->incarnation != down->incarnation)
        return APPLY_OLD_INCARNATION;
    if (!n->up)
        return APPLY_DUPLICATE;
    n->up = false;
    release_all(s, n, true);
    tell_changed(s, n);
    return APPLIED;
}

/* ---- formation ---- */

static bool member_valid(const struct state *s, const Mailraft__Form *f, size_t i)
{
    const Mailraft__Member *m = f->members[i];
    struct mr_id directory;

    if (m->node == 0 || m->node > STATE_MAX_NODES || !name_valid(m->name) ||
        strnlen(m->address, STATE_MAX_TEXT + 1) > STATE_MAX_TEXT ||
        mr_id_from_bytes(m->directory.data, m->directory.len, &directory) != 0)
        return false;
    for (size_t k = 0; k < i; k++)
        if (f->members[k]->node == m->node || strcmp(f->members[k]->name, m->name) == 0)
            return false;
    const struct state_node *known = s->nodes[m->node];
    return known == NULL || (strcmp(known->name, m->name) == 0 && mr_id_equal(known->directory, directory));
}

enum apply_result state_form(struct state *s, const Mailraft__Form *f)
{
    struct mr_id cluster, directory;

    if (mr_id_from_bytes(f->cluster.data, f->cluster.len, &cluster) != 0 || mr_id_is_zero(cluster) ||
        f->n_members == 0 || f->n_members > STATE_MAX_NODES)
        return APPLY_INVALID;
    if (!mr_id_is_zero(s->cluster))
        return mr_id_equal(cluster, s->cluster) ? APPLY_DUPLICATE : APPLY_INVALID;
    for (size_t i = 0; i < f->n_members; i++)
        if (!member_valid(s, f, i))
            return APPLY_INVALID;
    s->cluster = cluster;
    for (size_t i = 0; i < f->n_members; i++) {
        const Mailraft__Member *m = f->members[i];
        struct state_node *n = s->nodes[m->node];
        (void)mr_id_from_bytes(m->directory.data, m->directory.len, &directory);
        if (n == NULL)
            n = node_add(s, m->node, m->name, directory);
        n->voter = true;
        set_text(s, &n->address, m->address);
        tell_changed(s, n);
    }
    return APPLIED;
}

uint64_t state_voters(const struct state *s)
{
    uint64_t voters = 0;

    for (uint32_t i = 1; i <= STATE_MAX_NODES; i++)
        if (s->nodes[i] != NULL && s->nodes[i]->voter)
            voters |= UINT64_C(1) << i;
    return voters;
}

unsigned state_majority(const struct state *s)
{
    unsigned voters = (unsigned)__builtin_popcountll(state_voters(s));
    return voters == 0 ? 0 : voters / 2 + 1;
}

unsigned state_nodes(const struct state *s)
{
    return s->n_nodes;
}

void state_node_view(const struct state *s, unsigned position, struct node_view *out)
{
    mr_assert(position < s->n_nodes);
    for (uint32_t i = 1; i <= STATE_MAX_NODES; i++)
        if (s->nodes[i] != NULL && position-- == 0) {
            node_view_of(s->nodes[i], out);
            return;
        }
}

bool state_node_by_id(const struct state *s, uint32_t node, struct node_view *out)
{
    const struct state_node *n = node_find(s, node);

    if (n != NULL)
        node_view_of(n, out);
    return n != NULL;
}

/* ---- rules, version ---- */

/* A copy of its own, by way of the packed form, so that nothing of the entry's memory is kept. */
void rules_replace(struct state *s, const Mailraft__Rules *rules)
{
    size_t len = mailraft__rules__get_packed_size(rules);
    uint8_t *packed = mr_malloc(len + 1);

    mailraft__rules__pack(rules, packed);
    if (s->rules != NULL)
        mailraft__rules__free_unpacked(s->rules, NULL);
    s->rules = mailraft__rules__unpack(NULL, len, packed);
    free(packed);
    if (s->rules == NULL)
        mr_panic("cannot copy the rules: out of memory");
    users_limits(s);
}

enum apply_result state_set_rules(struct state *s, const Mailraft__Rules *rules)
{
    if (rules->hash.len != 16)
        return APPLY_INVALID;
    if (s->rules != NULL && memcmp(s->rules->hash.data, rules->hash.data, 16) == 0)
        return APPLY_DUPLICATE;
    rules_replace(s, rules);
    TELL(s, rules_changed, s->rules);
    return APPLIED;
}

enum apply_result state_set_version(struct state *s, const Mailraft__SetVersion *v)
{
    if (v->version == s->version)
        return APPLY_DUPLICATE;
    if (v->version < s->version)
        return APPLY_INVALID;
    s->version = v->version; /* not above STATE_VERSION: state_apply looked */
    return APPLIED;
}
