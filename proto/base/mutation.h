/* mutation.h - deliberate faults, to prove that the simulation's checker sees.
 *
 * Built in only with -DMAILRAFT_MUTATIONS=ON, for chaos-tests/sim alone; in every other build MR_MUTANT is the constant
 * false. Each breaks one rule of PROTOCOL.md at the place that keeps it. Thread: set once, before anything runs. */
#ifndef MR_BASE_MUTATION_H
#define MR_BASE_MUTATION_H

#include <stdbool.h>

/* name, what is broken */
#define MR_MUTATION_MAP(X)                                                                                             \
    X(MUTANT_EARLY_250, "early-250", "250 before the enqueue is committed (promise 1)")                                \
    X(MUTANT_ONE_BODY, "one-body", "a body on the acceptor alone counts as a majority (3.2)")

enum mr_mutation {
    MUTANT_NONE,
#define MR_MUTATION_ENUM(id, name, text) id,
    MR_MUTATION_MAP(MR_MUTATION_ENUM)
#undef MR_MUTATION_ENUM
        MUTANT_END
};

#ifdef MAILRAFT_MUTATIONS
extern enum mr_mutation mr_mutation; /* mutation.c */
#define MR_MUTANT(id) (mr_mutation == (id))
#else
#define MR_MUTANT(id) false
#endif

#endif
