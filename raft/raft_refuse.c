/* raft_refuse.c - see raft_refuse.h. */
#include "raft/raft_refuse.h"

#include <stdbool.h>

/* libraft's own search is hidden in the shared library. 0: not in the log. */
static raft_term term_at(const struct raft_trail *t, raft_index index)
{
    if (index > t->offset) {
        for (unsigned at = t->front; at != t->back; at = (at + 1) % t->size)
            if (index <= t->records[at].index)
                return t->records[at].term;
    }
    return index == t->snapshot.index ? t->snapshot.term : 0;
}

static bool differs(const struct raft *r, raft_index index, raft_term term)
{
    raft_term ours = index > r->commit_index ? 0 : term_at(&r->trail, index);

    return ours != 0 && ours != term;
}

static bool contradicts(const struct raft *r, const struct raft_append_entries *a)
{
    if (a->term < r->current_term)
        return false; /* libraft does not look into it, and its answer is of use */
    if (a->prev_log_index > 0 && differs(r, a->prev_log_index, a->prev_log_term))
        return true;
    for (unsigned i = 0; i < a->n_entries && a->prev_log_index + 1 + i <= r->commit_index; i++)
        if (differs(r, a->prev_log_index + 1 + i, a->entries[i].term))
            return true;
    return false;
}

enum raft_refusal raft_refuse(struct raft *r, const struct raft_message *m)
{
    bool leading = raft_state(r) == RAFT_LEADER;

    switch (m->type) {
    case RAFT_REQUEST_VOTE_RESULT:
        return raft_state(r) != RAFT_CANDIDATE ? RAFT_REFUSE_LATE : RAFT_REFUSE_NOTHING;
    case RAFT_APPEND_ENTRIES:
        if (leading && m->append_entries.term == r->current_term)
            return RAFT_REFUSE_SECOND_LEADER;
        return contradicts(r, &m->append_entries) ? RAFT_REFUSE_CONTRADICTION : RAFT_REFUSE_NOTHING;
    case RAFT_INSTALL_SNAPSHOT:
        return leading && m->install_snapshot.term == r->current_term ? RAFT_REFUSE_SECOND_LEADER : RAFT_REFUSE_NOTHING;
    default:
        return RAFT_REFUSE_NOTHING;
    }
}
