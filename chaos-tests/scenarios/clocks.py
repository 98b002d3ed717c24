"""Wrong clocks: a wall clock that jumps by days, clocks that run too fast or too slow. Mail comes back neither early nor late by it,
and is not tried in a storm (PROTOCOL.md 1)."""

import collections
import datetime

from scenarios import scenario
from scenarios.means import clock_rates, move_clock, movable_clock

NEEDS = ("local", "faketime")
DAY = 86400
STUCK = 20  # messages that wait for a next hop that says "later"


def deaf(world):
    """A further next hop that takes nothing now, for mail to stuck.test, and clocks that can be moved."""
    movable_clock(world)
    stuck(world)


def stuck(world):
    world.deaf = world.another_sink("deaf", start=False)
    for node in world.nodes:
        node.overlay = {"routes": {"stuck.test": f"smtp://{world.deaf.address}"},
                        "delivery": {"retry": {"first": "1s", "factor": 1.5, "max": "2s", "warn_after": "4d", "expire": "5d"}}}


def send_stuck(world):
    world.deaf.fault("refuse@rcpt=450")
    load = world.start_load(rate=100, extra=["--rcpt", "stuck-%r@stuck.test"])
    world.wait_for(lambda: load.accepted() >= STUCK, "mail for the deaf next hop is accepted")
    load.stop()
    return load.accepted()


def tries(world):
    """Attempts for stuck.test until now, by message."""
    count = collections.Counter()
    for node in world.nodes:
        for e in node.events("deferred"):
            if e["recipient"].endswith("@stuck.test"):
                count[e["id"]] += 1
    return count


def reports(world):
    return [e for e in world.sink.received() if e.get("dsn")]


def committed(world):
    text = world.leader().get("/v1/status")["committed_time"]
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def waits_on(world, count):
    """All of the stuck mail is there, nothing was reported, and no message is tried more often than its schedule says."""
    assert not reports(world), f"{len(reports(world))} reports came back early"
    assert sum(tries(world).values()) >= count, "it was never tried"
    states = collections.Counter()
    for message in world.leader().get("/v1/messages?domain=stuck.test&limit=1000")["messages"]:
        states.update(r["state"] for r in message["recipients"])
    assert sum(states.values()) == count and not states["expired"] and not states["failed"], states


def storm(world, count, seconds, before):
    """Further tries in that time: two messages of the schedule in a second are too many, however the clocks stand."""
    made = sum(tries(world).values()) - before
    world.note("tries", made)
    most = count * (seconds + 3)  # at least 1 s apart each
    assert made <= most, f"{made} attempts for {count} messages in {seconds} s"
    return made


def release(world):
    world.deaf.heal()


def jump(world, nodes, seconds, length=5):
    """Their wall clocks jump there, and back afterwards."""
    count = send_stuck(world)
    before = sum(tries(world).values())
    began = committed(world)
    names = " ".join(n.name for n in nodes)
    with world.band(f"{names}: {seconds / DAY:+.1f} days"):
        for node in nodes:
            move_clock(world, node, seconds)
        world.run_for(length)
        world.wait_accepted(150)
        waits_on(world, count)
        made = storm(world, count, length + 5, before)
        moved = committed(world) - began
        world.note("committed_time_moved_s", round(moved, 1))
    for node in nodes:
        move_clock(world, node, 0)
    world.run_for(1)
    waits_on(world, count)
    release(world)
    return moved, made


@scenario("clock-forward", "one node's wall clock jumps six days ahead, and back: nothing is returned, nothing is hurried", needs=NEEDS,
          rate=100, prepare=deaf)
def clock_forward(world):
    node = world.rng.choice([world.leader(), world.rng.choice(world.followers())])
    moved, _ = jump(world, [node], 6 * DAY)
    assert moved < 60, f"committed time moved by {moved:.0f} s"


@scenario("clock-back", "one node's wall clock jumps six days back, and forward again", needs=NEEDS, rate=100, prepare=deaf)
def clock_back(world):
    node = world.rng.choice([world.leader(), world.rng.choice(world.followers())])
    moved, made = jump(world, [node], -6 * DAY)
    assert 0 <= moved < 60, f"committed time moved by {moved:.0f} s"
    assert made > 0, "nothing was tried any more"


@scenario("clock-all-forward", "all wall clocks jump two days ahead: committed time follows, what is due is tried once, nothing expires",
          needs=NEEDS, rate=100, prepare=deaf)
def clock_all_forward(world):
    moved, _ = jump(world, world.nodes, 2 * DAY)
    assert abs(moved - 2 * DAY) < 120, f"committed time moved by {moved:.0f} s"


@scenario("clock-all-back", "all wall clocks jump two days back: committed time goes on, and so do the tries", needs=NEEDS, rate=100,
          prepare=deaf)
def clock_all_back(world):
    moved, made = jump(world, world.nodes, -2 * DAY)
    assert 0 < moved < 60, f"committed time moved by {moved:.0f} s"
    assert made > 0, "nothing was tried any more"


@scenario("clock-restart", "a node starts with a clock six days ahead, becomes leader, and dies again", needs=NEEDS, rate=100,
          prepare=deaf)
def clock_restart(world):
    count = send_stuck(world)
    node = world.rng.choice(world.nodes)
    node.kill()
    move_clock(world, node, 6 * DAY)
    node.start()
    world.wait_ready([node])
    for _ in range(6):  # until it leads
        leader = world.leader()
        if leader is node:
            break
        assert leader.terminate() == 0
        leader.start()
        world.wait_ready()
    world.note("led", world.leader() is node)
    world.wait_accepted(100)
    waits_on(world, count)
    node.kill()
    move_clock(world, node, 0)
    node.start()
    world.wait_ready()
    waits_on(world, count)
    release(world)


def rates(world):
    speeds = [1.01, 0.99, 1.0]
    world.rng.shuffle(speeds)
    clock_rates(world, speeds)
    stuck(world)
    world.note("rates", speeds)


@scenario("clock-rates", "the clocks of the nodes, monotonic ones too, run 1 % too fast and 1 % too slow", needs=NEEDS, rate=100,
          prepare=rates)
def clock_rates_differ(world):
    count = send_stuck(world)
    before = sum(tries(world).values())
    with world.band("clock rates differ"):
        world.run_for(6)
        leader = world.leader()
        leader.kill()
        world.wait_accepted(200)
        leader.start()
        world.wait_ready([leader])
        waits_on(world, count)
        storm(world, count, 25, before)
    release(world)
