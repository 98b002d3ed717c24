/* sim_chance.h - the streams' begin; sim.h has the rest. */
#ifndef MR_SIM_CHANCE_H
#define MR_SIM_CHANCE_H

#include "chaos-tests/sim/sim.h"

void sim_chance_init(uint64_t seed);

#endif
