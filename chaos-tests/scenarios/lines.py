"""Bad lines between the nodes: packets that are lost, late, out of order or doubled, and a slow link.

The nodes speak TCP, so what they see is delay, stalls and connections that break; nothing may be lost or done twice by it."""

import contextlib
import subprocess

from scenarios import fault, scenario
from scenarios.means import wire


def retransmitted(world):
    """TCP segments that the nodes had to send again, so far."""
    total = 0
    for node in world.nodes:
        lines = [x.split() for x in world.net.run(node, ["cat", "/proc/net/snmp"]).stdout.splitlines() if x.startswith("Tcp:")]
        total += int(dict(zip(lines[0], lines[1]))["RetransSegs"])
    return total


def pairs(world):
    return [(a, b) for a in world.nodes for b in world.nodes if a is not b]


@scenario("loss", "2, 5 or 10 % of the packets between the nodes are lost", needs=("network",), rate=100)
def loss(world):
    percent = world.rng.choice([2, 5, 10])
    before = retransmitted(world)
    with world.band(f"{percent} % lost"):
        for a, b in pairs(world):
            world.net.loss(a, b, percent)
        world.wait_accepted(500, 60)
    world.net.heal()
    again = retransmitted(world) - before
    world.note("retransmitted", again)
    assert again > 0, "no packet was lost"


@scenario("loss-one-way", "a third of what one node sends is lost, what it gets is whole", needs=("network",), rate=100)
def loss_one_way(world):
    node = world.rng.choice(world.nodes)
    before = retransmitted(world)
    with world.band(f"a third of {node.name}'s lost"):
        for other in world.nodes:
            if other is not node:
                world.net.loss(node, other, 33)
        world.wait_accepted(200, 60)
    world.net.heal()
    assert retransmitted(world) > before, "no packet was lost"


@scenario("delay", "every packet between the nodes takes 20 to 80 ms, more or less", needs=("network", "root"), rate=100)
def delay(world):
    ms = world.rng.randrange(20, 80)
    with world.band(f"{ms} ms late"), wire(world, delay=ms, jitter=ms // 2) as line:
        world.wait_accepted(400, 60)
        counters = line.set()
    world.note("packets", counters)
    assert counters["passed"] > 1000, counters


@scenario("reordering", "a fifth of the packets between the nodes is overtaken by later ones", needs=("network", "root"), rate=100)
def reordering(world):
    with world.band("reordering"), wire(world, delay=3, jitter=2, reorder=0.2, hold=world.rng.randrange(10, 50)) as line:
        world.wait_accepted(500, 60)
        counters = line.set()
    world.note("packets", counters)
    assert counters["reordered"] > 100, counters


@scenario("duplication", "a third of the packets between the nodes comes twice", needs=("network", "root"), rate=100)
def duplication(world):
    with world.band("duplication"), wire(world, delay=1, duplicate=0.33, hold=world.rng.randrange(5, 50)) as line:
        world.wait_accepted(500, 60)
        counters = line.set()
    world.note("packets", counters)
    assert counters["duplicated"] > 100, counters


@scenario("bad-line", "loss, delay, jitter, reordering and duplication at the same time, and worse in bursts",
          needs=("network", "root"), rate=80)
def bad_line(world):
    usual = {"delay": 15, "jitter": 10, "reorder": 0.05, "hold": 40, "duplicate": 0.05, "loss": 0.01}
    with world.band("bad line"), wire(world, **usual) as line:
        for _ in range(3):
            world.wait_accepted(100, 60)
            line.set(**{**usual, "loss": 0.3, "delay": 100})
            world.run_for(world.rng.uniform(0.3, 2))
            counters = line.set(**usual)
        world.wait_accepted(100, 60)
    world.note("packets", counters)
    assert min(counters[k] for k in ("lost", "reordered", "duplicated")) > 10, counters


@contextlib.contextmanager
def slowed(world, node, mbit):
    """The node's line, in both directions, to everybody."""
    shape = ["root", "tbf", "rate", f"{mbit}mbit", "burst", "32kb", "latency", "300ms"]
    ends = [(node, "eth0"), (None, f"v-{node.name}")]

    def tc(place, *args):
        return subprocess.run([*(world.net.prefix(place) if place else []), "tc", "qdisc", *args], capture_output=True,
                              text=True, check=False)

    for place, device in ends:
        done = tc(place, "add", "dev", device, *shape)
        assert done.returncode == 0, done.stderr
    world.mark(f"{node.name}: {mbit} Mbit/s")

    def fast():
        for place, device in ends:
            tc(place, "del", "dev", device, "root")

    world.cleanup(fast)
    try:
        yield
    finally:
        fast()
        world.mark(f"{node.name}: fast again")


@scenario("slow-link", "one follower's line carries less than the bodies that come: it falls behind, the others do not wait for it",
          needs=("network", "root", "tool:tc"), rate=60, size=24 * 1024)
def slow_link(world):
    node = world.rng.choice(world.followers())
    others = [n for n in world.nodes if n is not node]
    with world.band(f"{node.name}: slow link"), slowed(world, node, 2):
        more = world.start_load(to=others, rate=60)
        world.wait_accepted(800, 60)
        world.note("skipped", sum(n.metric("bodies_skipped_peers_total") for n in others))
        more.stop()
    world.wait_for(lambda: node.metric("bodies_missing") == 0 and node.ready(), f"{node.name} has what it missed", 60)


@scenario("slow-link-leader", "the leader's line carries less than the bodies that come", needs=("network", "root", "tool:tc"),
          rate=40, size=24 * 1024)
def slow_link_leader(world):
    node = world.leader()
    with world.band(f"{node.name}: slow link"), slowed(world, node, 2):
        world.wait_accepted(200, 60)


@fault("lossy lines", needs=("network",))
def lossy(world):
    world.claim_thing("network")
    percent = world.rng.choice([1, 3, 10])
    for a, b in pairs(world):
        world.net.loss(a, b, percent)
    yield
    for a, b in pairs(world):
        world.net.loss(a, b, 0)


@fault("bad lines", needs=("network", "root"))
def bad(world):
    world.claim_thing("network")
    with wire(world, delay=world.rng.randrange(1, 50), jitter=5, reorder=0.05, hold=30, duplicate=0.05, loss=0.01):
        yield
