"""Faults by chance, several at once, round after round, for as long as --minutes says."""

import time

from scenarios import FAULTS, Busy, scenario


@scenario("mix", "random faults, up to three at once, for --minutes (default 1), with healing and checks between the rounds", long=True)
def mix(world):
    end = time.monotonic() + 60 * (world.minutes or 1)
    rounds = 0
    counts = {}
    while time.monotonic() < end:
        rounds += 1
        _round(world, counts)
        world.wait_ready(limit=30)
        world.wait_accepted(50)
        world.check_round()
    world.note("rounds", rounds)
    world.note("faults", ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))


@scenario("mix-five", "the same with five nodes", long=True, nodes=5)
def mix_five(world):
    mix(world)


def _round(world, counts):
    chosen = [f for f in FAULTS.values() if not world.lacking(f)]
    weights = [f.weight for f in chosen]
    under_way = []
    for fault in world.rng.choices(chosen, weights, k=world.rng.randrange(1, 4)):
        claimed = world.claiming = []
        course = fault.run(world)
        began = world.now()
        try:
            next(course)
            name = " ".join([fault.name, *claimed])
            world.begin(name, began)
            under_way.append((name, course, claimed))
            counts[fault.name] = counts.get(fault.name, 0) + 1
        except (Busy, AssertionError) as e:  # all nodes are taken, or there is no leader to be hit: another round
            world.claims -= set(claimed)
            if isinstance(e, AssertionError):
                world.mark(f"{fault.name}: {e}")
        finally:
            world.claiming = None
        world.run_for(world.rng.uniform(0, 2))
    world.run_for(world.rng.uniform(0.5, 6))
    world.rng.shuffle(under_way)
    for name, course, claimed in under_way:
        for _ in course:
            raise RuntimeError(f"the fault {name} yields twice")
        world.claims -= set(claimed)
        world.end(name)
        world.run_for(world.rng.uniform(0, 1))
