/* sink_fault.h - how the sink misbehaves: which fault, at which verb, how often.
 *
 * A specification is a list of clauses with commas between:
 *   stall@VERB=SECONDS[:RATE]   wait before doing what the verb asks
 *   refuse@VERB=CODE[:RATE]     answer CODE (400..599) instead
 *   drop@VERB[:RATE]            close the connection instead of an answer
 *   lie@dot[:RATE]              record the message, then close without an answer
 *   accept-drop@dot[:RATE]      record, answer 250, then close
 *   seed=N
 * VERB: connect ehlo mail rcpt data body dot quit. RATE: 0..1 or a percentage ("5%"), 1 when left out. Each clause
 * rolls for itself; of those that hit, stalls add up and the first of the others counts. Thread: a set belongs to one
 * thread. */
#ifndef MR_CLIENT_SINK_FAULT_H
#define MR_CLIENT_SINK_FAULT_H

#include "client/rng.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fault_verb {
    FAULT_AT_CONNECT,
    FAULT_AT_EHLO,
    FAULT_AT_MAIL,
    FAULT_AT_RCPT,
    FAULT_AT_DATA,
    FAULT_AT_BODY, /* while the message comes in, once a message */
    FAULT_AT_DOT,
    FAULT_AT_QUIT,
    FAULT_VERBS,
};

enum fault_kind { FAULT_NONE, FAULT_STALL, FAULT_REFUSE, FAULT_DROP, FAULT_LIE, FAULT_ACCEPT_DROP };

enum { FAULT_CLAUSES_MAX = 64, FAULT_STALL_MAX_S = 86400 };

struct fault_clause {
    enum fault_kind kind;
    enum fault_verb verb;
    unsigned code;     /* of a refusal */
    uint64_t stall_ms; /* of a stall */
    double rate;
};

struct fault_set {
    struct rng rng;
    uint64_t seed;
    size_t count;
    struct fault_clause clauses[FAULT_CLAUSES_MAX];
};

struct fault_hit {
    enum fault_kind kind; /* FAULT_NONE: only the stall, if any */
    unsigned code;
    uint64_t stall_ms;
};

/* spec NULL: no faults. MR_INVAL: *wrong points at the clause within spec, *wrong_len is its length. */
int fault_parse(const char *spec, uint64_t default_seed, struct fault_set *out, const char **wrong, size_t *wrong_len);
/* Rolls the dice for one event. */
struct fault_hit fault_roll(struct fault_set *set, enum fault_verb verb);
/* Only the refusals of that verb, or all but them: LMTP rolls refusals at the dot for each recipient. */
struct fault_hit fault_roll_refusals(struct fault_set *set, enum fault_verb verb);
struct fault_hit fault_roll_others(struct fault_set *set, enum fault_verb verb);

#endif
