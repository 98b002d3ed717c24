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
    X(MUTANT_ONE_BODY, "one-body", "a body on the acceptor alone counts as a majority (3.2)")                          \
    X(MUTANT_NO_FSYNC, "no-fsync", "a body counts as durable before its fsync (3.1)")                                  \
    X(MUTANT_NO_GRACE, "no-grace", "the collector takes bodies that no envelope names at once (3.4)")                  \
    X(MUTANT_NO_CHECKSUM, "no-checksum", "pieces of bodies are read without their checksum")                           \
    X(MUTANT_LEASE_IGNORED, "lease-ignored", "transactions and dots without a lease (5.7)")                            \
    X(MUTANT_EARLY_DOWN, "early-down", "a node is declared down while its lease may run (5.5)")                        \
    X(MUTANT_DOT_NOT_JOURNALLED, "dot-not-journalled", "the outcome journal has no dots (5.8)")                        \
    X(MUTANT_DOUBT_NOT_COUNTED, "doubt-not-counted", "what a fallen node may have delivered is not counted (5.7)")     \
    X(MUTANT_STALE_OUTCOME, "stale-outcome", "the outcome of an old attempt counts for the running one (5.9)")         \
    X(MUTANT_DSN_APART, "dsn-apart", "a DSN is taken though its outcome is refused (7.1)")                             \
    X(MUTANT_FORGETS_FINISHED, "forgets-finished", "an enqueue of a finished message applies again (4.2)")             \
    X(MUTANT_EARLY_GRANTS, "early-grants", "a new leader grants before all nodes reported (6.1)")                      \
    X(MUTANT_SLOT_FORGOTTEN, "slot-forgotten", "a slot is given away with an attempt on its way to it (6.1)")          \
    X(MUTANT_SNAPSHOT_FIELD, "snapshot-field", "a snapshot without the attempts' numbers")                             \
    X(MUTANT_LOCAL_CLOCK, "local-clock", "applying asks the node's own clock (4.7)")                                   \
    X(MUTANT_OWN_CLOCK, "own-clock", "a new leader's first entry has the time of its own clock (1.1)")                 \
    X(MUTANT_LYING_HOP, "lying-hop", "a next hop of the simulation takes a message and keeps nothing")

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
