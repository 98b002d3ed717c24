"""Scenarios: faults on real mailraftd processes under load, and what must hold afterwards.

`chaos-tests/run` runs them. This is how one is written; the families are kills.py, pauses.py, partitions.py, steps.py ...
and a new file of scenarios stands in this folder, with its name in FAMILIES below.

A SCENARIO is a function with a name:

    from scenarios import scenario

    @scenario("kill_leader", "kill -9 of the leader, twice; started again each time", rate=300)
    def kill_leader(world):
        for _ in range(2):
            leader = world.leader()
            with world.band(f"{leader.name} dead"):
                leader.kill()
                world.wait_accepted(100)
                leader.start()
            world.wait_ready()

The runner has a cluster ready and load running when it calls it, and heals everything afterwards (starts who is dead, resumes
who is paused, restores the network and the next hop), waits for the end of the queue, and judges (check.py). A scenario need
not check what check.py checks; what is special to it, it asserts. It ends by healing what it broke where that is a part of what
is tried. All chance comes from world.rng (a random.Random seeded with the run's seed and the scenario's name).

    @scenario(name, what, needs=(), nodes=3, rate=200, sessions=12, size=1024, config={}, sink=(), prepare=None,
              quick=False, load=True, load_args=(), allow=None, long=False, takeover=True)
        needs     what the target must be able to do, else the scenario is skipped, and said to be:
                  "network" (links between nodes can be cut), "files" (data directories can be read and written),
                  "local" (processes on this machine: prefix, env, /proc), "pause", "down" (a dead node stays dead), "config"
                  (own configuration), "strace", "faketime", "root", "upgrade" (an older program is there), "tool:NAME"
        config    sections that are laid over each node's configuration, as harness.Cluster's
        sink      options of mailraft-sink, e.g. ["--fault", "stall@dot=1"]
        prepare   prepare(world), called before the cluster starts: world.node("mx1").prefix, .env, .overlay (configuration
                  of that node alone), mounts (world.cleanup(f) runs f at the end), further next hops
        quick     `./check` runs it
        allow     names of checks that the fault itself may fail, each with a reason: {"flat": "..."}; see check.py
        long      not run unless it is named
        takeover  False where no majority is left to take over, so that the time says nothing

means.py has what faults are made with (strace, a movable clock, small disks, a bad line, a memory limit), and says what cannot be
made on Debian 12 with processes.

A FAULT is a generator that the random mix (mix.py) can put together with others: what comes before its yield makes the fault,
what comes after heals it. Only what it has claimed may it touch; a claim that cannot be had raises Busy, and the mix chooses
another fault.

    from scenarios import fault

    @fault("pause a follower", needs=("pause",))
    def pause_follower(world):
        node = world.claim(world.followers())   # one that no other fault has
        node.pause()
        yield
        node.resume()

        world.claim(nodes)           one of these nodes; world.claim_all() every node
        world.claim_thing("sink")    or "network", or any other name

THE WORLD
    world.rng, world.seed, world.dir (folder of the run: logs, journals)
    world.nodes, world.node(name), world.alive(), world.leader(among=None) (waits for one), world.followers()
    node.start() .kill() .terminate() (SIGTERM, waits; the status) .pause() .resume() .wipe() .ready() .alive()
    node.name .dir .data (data directory) .pid .prefix .env .overlay .log .events("name", ...) .get("/v1/status")
    world.net.cut(a, b) .one_way(a, b) (what a sends to b is lost) .join(a, b) .isolate(a) .heal()
        .loss(a, b, percent) .cut_hop(a) (from the next hop) .isolate_clients(a); names and nodes are both good
        .run(place, args) runs a command in the namespace of a node, "load" or "hop"; .address(place)
    world.sink.fault("stall@dot=2", ...) starts the next hop anew with faults; .heal(); .kill(); .start(); .pause(); .resume()
    world.another_sink(name, *args) a further next hop: .address "HOST:PORT", counted in the end as the first is
    world.accepted() messages with 250 so far; world.start_load(rate=..., to=[...], **more) a further one (.stop())
    world.wait_for(condition, what, limit=30); world.wait_accepted(n) n more 250s; world.wait_ready(nodes=None)
    world.run_for(seconds): lets time pass where a length of time is the fault itself (a pause beyond a lease)
    world.band("name") with-statement: the fault's band in the time line; world.begin(name) / world.end(name) the same in two
        parts; world.mark("text"): a point. kill, pause, cut ... make their own marks.
    world.owe(id): the scenario's own client got 250 for this message (sender data@load.invalid, or add to world.own_senders)
    world.lost_leader(): call it when a fault has just taken the leader by other means than kill, pause or isolate: the
        takeover time counts from here
    world.note(key, value): a figure of this scenario for the report
    world.cleanup(function): at the end, whatever happens
"""

import importlib

FAMILIES = ["kills", "pauses", "partitions", "steps", "lines", "disks", "rot", "clocks", "scarce", "hops", "names", "nodes", "mix"]

SCENARIOS = {}
FAULTS = {}


class Busy(Exception):
    """What a fault wants to break is broken by another one already."""


class Scenario:
    def __init__(self, name, what, run, needs=(), nodes=3, rate=200, sessions=12, size=1024, config=None, sink=(),
                 prepare=None, quick=False, load=True, load_args=(), allow=None, long=False, takeover=True):
        self.name = name
        self.what = what
        self.run = run
        self.needs = (*needs, *(["config"] if config or prepare else []), *(["local"] if nodes != 3 else []))
        self.nodes = nodes
        self.rate = rate
        self.sessions = sessions
        self.size = size
        self.config = config or {}
        self.sink = list(sink)
        self.prepare = prepare
        self.quick = quick
        self.load = load
        self.load_args = list(load_args)
        self.allow = dict(allow or {})
        self.long = long
        self.takeover = takeover


class Fault:
    def __init__(self, name, run, needs=(), weight=1):
        self.name = name
        self.run = run
        self.needs = tuple(needs)
        self.weight = weight


def scenario(name, what, **options):
    def register(run):
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(name, what, run, **options)
        return run

    return register


def fault(name, **options):
    def register(run):
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, run, **options)
        return run

    return register


def load_families():
    for family in FAMILIES:
        importlib.import_module(f"scenarios.{family}")
