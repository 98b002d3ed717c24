"""What people do to nodes: a data directory that is gone, an old copy of one, other programs, a node that was away for long.

A node that is kept out gets its own directory back at the end, moved away before and never copied: it has been its own all the time."""

import os
import pathlib
import shutil

from scenarios import scenario
from scenarios.common import harness, try_send

OLD = os.environ.get("MAILRAFT_OLD")  # a folder with mailraftd of an older version


def refused(world, node):
    """Why it is kept out, once it says so."""
    return world.wait_for(lambda: (node.get("/v1/status") or {}).get("refused"), f"{node.name} says why it is kept out")


def stays_out(world, node, words):
    """It says why, takes nothing, and the others go on."""
    reason = refused(world, node)
    assert any(w in reason for w in words), reason
    assert node.status_code("/readyz") == 503 and node.status_code("/healthz") == 200
    code, text = try_send(node.smtp, host=node.host)
    assert code in (0, 421), f"a node that is kept out took mail: {code} {text}"
    world.wait_accepted(150)
    assert refused(world, node) and node.alive()
    world.note(node.name, reason[:200])


@scenario("wiped", "a node's data directory is gone: it must not vote again under its old name, the others go on", needs=("files",))
def wiped(world):
    node = world.rng.choice([world.leader(), world.rng.choice(world.followers())])
    node.kill()
    away = node.data.with_name("away")
    node.data.rename(away)
    with world.band(f"{node.name} wiped"):
        node.start()
        stays_out(world, node, ("director",))
        # And not when all begin anew either.
        for other in world.nodes:
            other.kill()
        for other in world.nodes:
            other.start()
        world.wait_ready([n for n in world.nodes if n is not node])
        stays_out(world, node, ("director",))
        node.kill()
        shutil.rmtree(node.data)
        away.rename(node.data)
        node.start()
    world.wait_ready()


@scenario("old-copy", "an old copy of a node's data directory is put back: it must not vote again, the others go on", needs=("files",),
          quick=True)
def old_copy(world):
    node = world.rng.choice([world.leader(), world.rng.choice(world.followers())])
    node.kill()
    old, away = node.data.with_name("old"), node.data.with_name("away")
    shutil.copytree(node.data, old)
    for _ in range(world.rng.choice([1, 2])):
        node.start()
        world.wait_ready([node])
        world.wait_accepted(100)
        node.kill()
    node.data.rename(away)
    old.rename(node.data)
    with world.band(f"{node.name} from the past"):
        node.start()
        stays_out(world, node, ("copy", "incarnation"))
        node.kill()
        shutil.rmtree(node.data)
        away.rename(node.data)
        node.start()
    world.wait_ready()


@scenario("away-long", "a node comes back when the log that it lacks is gone: it gets a snapshot, and the bodies", rate=500, sessions=24,
          needs=("down",))
def away_long(world):
    node = world.rng.choice(world.followers())
    others = [n for n in world.nodes if n is not node]
    applied = node.metric("raft_applied_index")
    node.kill()
    with world.band(f"{node.name} away"):
        world.wait_for(lambda: all(n.metric("raft_snapshots_taken_total") > 0 for n in others) and
                       min(n.metric("raft_applied_index") for n in others) > applied + 4096 + 2048 + 100,
                       "the log is cut", 90)
        node.start()
        world.wait_ready([node], 60)
    world.wait_for(lambda: node.metric("raft_snapshots_installed_total") > 0, "it has got a snapshot")
    world.wait_for(lambda: node.metric("bodies_missing") == 0, "it has what it missed")


def old_programs(world):
    if OLD:
        for node in world.nodes:
            node.program = pathlib.Path(OLD) / "mailraftd"
            node.overlay = {"debug": None}  # a key that it does not know


@scenario("upgrade", "each node in turn ends with the program that MAILRAFT_OLD has and starts with the new one",
          needs=("upgrade", "config"), prepare=old_programs)
def upgrade(world):
    versions = {n.name: n.metric("cluster_version") for n in world.nodes}
    for node in world.rng.sample(world.nodes, len(world.nodes)):
        with world.band(f"{node.name} is replaced"):
            status = node.terminate()
            assert status == 0, f"{node.name} ended with {status}"
            node.program = harness.BIN / "mailraftd"
            node.overlay = {}
            node.configure(world.target.config(node))
            node.start()
            world.wait_ready([node])
        world.wait_accepted(100)
    world.note("cluster version", f"{versions} -> { {n.name: n.metric('cluster_version') for n in world.nodes} }")
    world.wait_for(lambda: len({n.metric("cluster_version") for n in world.nodes}) == 1, "all have one version")
