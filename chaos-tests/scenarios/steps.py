"""kill -9 between any two steps of a message: strace kills the process as it enters its N-th call of one kind.

The calls are the steps: fdatasync makes a body durable in the spool, io_submit appends to the Raft log, pwrite64 writes the outcome
journal (the dot is about to be written; its reply) and the acknowledged index, write to a socket sends replies to clients, final dots
to next hops and frames to peers. N is counted by strace in each thread from when it is attached, so that it hits any place of the
load that runs.
"""

from scenarios import scenario
from scenarios.common import harness

CALLS = {"fdatasync": 40, "io_submit": 120, "pwrite64": 150, "write": 500}  # and the highest N


def kill_at(world, node, call, n, limit=25):
    """Attaches to the node's process and waits until it is dead."""
    world.mark(f"{node.name} to die at {call} {n}")
    node.wanted = False
    tracer = harness.Process(
        ["strace", "-f", "-q", "-p", node.pid, "-o", "/dev/null", "-e", f"trace={call}",
         "-e", f"inject={call}:signal=SIGKILL:when={n}"], world.dir / "strace.log")
    try:
        world.wait_for(lambda: not node.alive(), f"{node.name} dies at its {n}th {call}; see strace.log", limit)
    finally:
        tracer.signal(2)
        tracer.popen.wait(10)
    world.mark(f"{node.name} died at {call}")


def die_at(world, call):
    for leads in world.rng.sample((True, False), 2):
        node = world.leader() if leads else world.rng.choice(world.followers())
        n = world.rng.randrange(1, CALLS[call])
        with world.band(f"{node.name} dies at {call}"):
            kill_at(world, node, call, n)
            if leads:
                world.leader_hits.append((world.now(), node.name))
            world.wait_accepted(world.rng.randrange(1, 100))
            node.start()
            world.wait_ready([node])


@scenario("step-spool", "leader and follower die as they sync the spool", needs=("strace", "local"))
def step_spool(world):
    die_at(world, "fdatasync")


@scenario("step-append", "leader and follower die as they append to the log", needs=("strace", "local"), quick=True)
def step_append(world):
    die_at(world, "io_submit")


@scenario("step-journal", "leader and follower die as they write the outcome journal: before the dot, or before its reply is known",
          needs=("strace", "local"))
def step_journal(world):
    die_at(world, "pwrite64")


@scenario("step-send", "leader and follower die as they send: a reply to a client, a dot to a next hop, a frame to a peer",
          needs=("strace", "local"))
def step_send(world):
    die_at(world, "write")


@scenario("step-dot", "leader and follower die when next hops have taken what they sent, and the answers to the dots do not reach them",
          sink=["--fault", "stall@dot=1:0.7"], rate=60, needs=("network",))
def step_dot(world):
    for leads in world.rng.sample((True, False), 2):
        node = world.leader() if leads else world.rng.choice(world.followers())
        with world.band(f"{node.name} dies between dot and reply"):
            world.wait_accepted(world.rng.randrange(30, 90))
            # What waits for the answer to its dot now is taken by the next hop within a second, in vain.
            world.net.one_way("hop", node)
            world.run_for(world.rng.uniform(1, 1.3))
            node.kill()
            world.net.join("hop", node)
            world.wait_accepted(world.rng.randrange(1, 60))
            node.start()
            world.wait_ready([node])


@scenario("step-reply", "nodes die when they have committed and their clients have not read the 250: the clients send again",
          needs=("network",))
def step_reply(world):
    for leads in world.rng.sample((True, False), 2):
        node = world.leader() if leads else world.rng.choice(world.followers())
        with world.band(f"{node.name} dies between commit and 250"):
            world.net.one_way(node, "load")
            world.run_for(world.rng.uniform(0.2, 1))
            node.kill()
            world.net.join(node, "load")
            world.wait_accepted(world.rng.randrange(1, 100))
            node.start()
            world.wait_ready([node])
