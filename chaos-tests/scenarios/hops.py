"""Next hops that are slow, that break off, that refuse, that lie, and that are away."""

import json
import subprocess

from scenarios import scenario
from scenarios.common import harness

VERBS = ["connect", "ehlo", "mail", "rcpt", "data", "body", "dot", "quit"]


@scenario("hop-slow", "the next hop is slow at each verb in turn", rate=100, needs=("config",),
          config={"delivery": {"command_timeout": "10s"}})
def hop_slow(world):
    for verb in world.rng.sample(VERBS, len(VERBS)):
        with world.band(f"slow at {verb}"):
            world.sink.fault(f"stall@{verb}={world.rng.choice([1, 2])}:0.5")
            world.wait_accepted(60)
    world.sink.heal()


@scenario("hop-drops", "the next hop drops the connection at each verb in turn, and after the dot with and without having kept the message",
          rate=100)
def hop_drops(world):
    faults = [f"drop@{verb}:0.3" for verb in VERBS] + ["lie@dot:0.2", "accept-drop@dot:0.5"]
    for spec in world.rng.sample(faults, len(faults)):
        with world.band(spec):
            world.sink.fault(spec)
            world.wait_accepted(50)
    world.sink.heal()


def picky(world):
    """A further next hop for picky.test; what it sends back comes to the usual one."""
    world.picky = world.another_sink("picky", start=False)
    for node in world.nodes:
        node.overlay = {"routes": {"picky.test": f"smtp://{world.picky.address}"}}


def sent_keys(load):
    return {e["key"] for e in harness.read_journal(load.journal) if e["event"] == "sent"}


@scenario("hop-refuses", "a next hop answers 4xx and 5xx in any mixture: each message is delivered or comes back, never both", rate=50,
          prepare=picky, needs=("config",))
def hop_refuses(world):
    world.picky.start()
    world.picky.fault("refuse@mail=452:0.15", "refuse@rcpt=550:0.2", "refuse@data=451:0.1", "refuse@dot=554:0.15",
                      "refuse@ehlo=421:0.05")
    with world.band("refusals"):
        load = world.start_load(rate=60, extra=["--rcpt", "rcpt-%r@picky.test"])
        world.wait_for(lambda: load.accepted() >= 300, "mail for it is accepted")
        load.stop()

        def settled():
            delivered = {e["key"] for e in world.picky.received()}
            returned = {e["original_key"] for e in world.sink.received() if e.get("dsn")}
            return len(delivered | returned) >= load.accepted() and (delivered, returned)

        delivered, returned = world.wait_for(settled, "each is delivered or has come back", 60)
    world.note("delivered", len(delivered))
    world.note("returned", len(returned))
    assert returned and delivered, (len(returned), len(delivered))
    assert not delivered & returned, f"{len(delivered & returned)} were delivered and came back"
    assert sent_keys(load) <= delivered | returned


def liar(world):
    """A next hop for liar.test that says 250 and keeps nothing: its journal is not one of those that count."""
    world.liar = world.target.new_sink("liar")
    for node in world.nodes:
        node.overlay = {"routes": {"liar.test": f"smtp://{world.liar.address}"}}


@scenario("hop-lies", "a next hop answers 250 and throws the message away: the comparison must show exactly these as lost", rate=50,
          prepare=liar, needs=("config",))
def hop_lies(world):
    world.liar.start()
    world.cleanup(world.liar.end)
    with world.band("lies"):
        load = world.start_load(rate=60, extra=["--rcpt", "rcpt-%r@liar.test"])
        world.wait_for(lambda: load.accepted() >= 100, "mail for it is accepted")
        load.stop()
        world.wait_for(lambda: len(world.liar.received()) >= load.accepted(), "it has said 250 to all of it")
    done = subprocess.run([str(harness.BIN / "mailraft-load"), "verify", "--json", "--sent", str(load.journal), "--received",
                           str(world.sink.journal)], capture_output=True, text=True, check=False)
    counts = json.loads(done.stdout)
    world.note("lost by the liar", counts["lost"])
    assert done.returncode == 1 and counts["lost"] == load.accepted(), counts
    # What the comparison of the run itself does not know of, it does not count; it was seen here.
    load.journal.rename(world.dir / "liars-load.jsonl")
    world.loads.remove(load)


def tarpit(world):
    world.tar = world.another_sink("tarpit", start=False)
    for node in world.nodes:
        node.overlay = {"routes": {"tar.test": f"smtp://{world.tar.address}"},
                        "delivery": {"command_timeout": "4s", "connect_timeout": "4s",
                                     "retry": {"first": "1s", "factor": 1.5, "max": "3s"}}}


@scenario("hop-tarpit", "a next hop that keeps every connection waiting takes nobody else's place", rate=100, prepare=tarpit,
          needs=("config",))
def hop_tarpit(world):
    world.tar.start()
    world.tar.fault(f"stall@{world.rng.choice(['connect', 'ehlo', 'rcpt', 'dot'])}=60")
    with world.band("tarpit"):
        load = world.start_load(rate=100, extra=["--rcpt", "rcpt-%r@tar.test"])
        world.wait_for(lambda: load.accepted() >= 300, "mail for it is accepted")
        load.stop()
        count = len(world.sink.received())
        world.wait_for(lambda: len(world.sink.received()) >= count + 300, "the mail of others is delivered")
        waiting = sum(d["ready"] + d["assigned"] + d["deferred"] for d in world.leader().get("/v1/queue")["next_hops"]
                      if world.tar.address in d["next_hop"])
        assert waiting > 200, f"{waiting} wait for the tarpit"
    world.tar.heal()


@scenario("hop-away", "the next hop is not there, again and again: the queue grows and goes, without a storm of attempts", rate=200)
def hop_away(world):
    for _ in range(3):
        with world.band("next hop away"):
            world.sink.kill()
            world.wait_accepted(200)
            world.sink.heal()
        world.wait_accepted(50)


@scenario("hop-hangs", "the next hop hangs with connections open, and goes on", rate=150)
def hop_hangs(world):
    with world.band("next hop hangs"):
        world.sink.pause()
        world.wait_accepted(400)
        world.run_for(world.rng.uniform(1, 5))
        world.sink.resume()
    world.wait_accepted(50)
