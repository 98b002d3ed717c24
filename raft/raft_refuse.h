/* raft_refuse.h - messages that decode, but that libraft must not be given in the state that it is in: it takes them
 * for impossible, and its release build does not check, or checks and then handles them wrongly (UPSTREAM.md 18, 26,
 * 27).
 *
 * To drop a message is always safe: Raft's network may lose any. Thread: the replica's loop. Nothing is changed. */
#ifndef MR_RAFT_RAFT_REFUSE_H
#define MR_RAFT_RAFT_REFUSE_H

#include <raft.h>

enum raft_refusal {
    RAFT_REFUSE_NOTHING,
    RAFT_REFUSE_LATE,          /* an answer to a candidate that is none any more; happens in any election */
    RAFT_REFUSE_SECOND_LEADER, /* of the term in which we lead */
    RAFT_REFUSE_CONTRADICTION, /* an entry that is committed here has another term there */
};
enum raft_refusal raft_refuse(struct raft *r, const struct raft_message *message);

#endif
