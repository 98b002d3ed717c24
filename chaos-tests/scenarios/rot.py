"""Files that have changed while a node was down: a bit is another, or the end is missing. The node is refused with a clear text, or
repairs itself from the others; it never delivers a wrong octet, and the others go on.

A node that was refused gets its files back as they were before the damage, and is whole with them: it has promised nothing meanwhile.
The whole folder is put back, since libraft closes segments when it reads them. A node that went on keeps what it made of the damage."""

import shutil

from scenarios import scenario
from scenarios.means import last_words, log_since, log_size

NEEDS = ("files", "local")


def flip(world, path, among=None):
    """One bit of the part of the file that is in use, or of that range of it."""
    data = bytearray(path.read_bytes())
    begin, end = among or (0, len(data.rstrip(b"\0")))
    at = world.rng.randrange(begin, max(begin + 1, end))
    bit = world.rng.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {path.name} ({len(data)} bytes)"


def cut(world, path, among=None):
    """The end is gone, from somewhere in the part in use on."""
    data = path.read_bytes()
    begin, end = among or (0, len(data.rstrip(b"\0")))
    at = world.rng.randrange(begin, max(begin + 1, end))
    path.write_bytes(data[:at])
    return f"{path.name} ends after {at} of {len(data)} bytes"


def damage(world, path, among=None):
    return world.rng.choice([flip, cut])(world, path, among)


def copy(source, target):
    """Of a file or a folder, in place of what is there."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def outcome(world, node, offset):
    """What has become of it ("refused", "ended" or "ready"), and its reason."""
    found = []

    def look():
        if not node.alive():
            words = last_words(node).splitlines()[-1]
            assert "free()" not in words and "double free" not in words and "assertion" not in words, words
            found[:] = ["ended", words]
        elif node.ready():
            found[:] = ["ready", ""]
        else:
            refused = [e for e in node_events(log_since(node, offset)) if e.get("event") == "refused"]
            status = node.get("/v1/status", 2)
            if refused or status and status["refused"]:
                found[:] = ["refused", refused[-1]["reason"] if refused else status["refused"]]
        return found

    node.wanted = False
    world.wait_for(look, f"{node.name} goes on, or says why not", 40)
    return found


def node_events(text):
    from scenarios.check import read_log

    return read_log(text)


def rot(world, node, path, how=damage, expected=("refused", "ended", "ready"), reasons=(), among=None):
    """Stop, damage, start, see, put right. Returns the outcome, and what it said."""
    others = [n for n in world.nodes if n is not node]
    node.kill()
    # Of the identity only the file: the incarnation rises at each start, and what lies behind is an old copy.
    whole = path.parent if path.parent != node.data else path
    away = world.dir / f"{node.name}-before"
    copy(whole, away)
    what = how(world, path, among)
    offset = log_size(node)
    with world.band(f"{node.name}: {path.parent.name}/{path.name}"):
        node.start()
        result, reason = outcome(world, node, offset)
        world.note(what, f"{result} {reason}".strip()[:300])
        world.mark(f"{node.name} {result}: {what}")
        assert result in expected, f"{what}: {node.name} is {result}: {reason}"
        if result != "ready":
            assert len(reason) > 20, f"{what}: no reason: {reason!r}"
            assert not reasons or any(r in reason for r in reasons), f"{what}: the reason is not clear: {reason}"
            world.wait_accepted(50)
            assert all(n.alive() for n in others)
            node.kill()
            copy(away, whole)
            node.start()
        node.wanted = True
        world.wait_ready([node], 60)
    return result, log_since(node, offset)


def segments(node, pattern):
    return sorted(p for p in (node.data / "raft").glob(pattern) if p.stat().st_size > 0)


@scenario("rot-log", "bits of a node's Raft log flip, or its end is missing", needs=NEEDS, rate=150, quick=True)
def rot_log(world):
    for node in world.rng.sample(world.nodes, 2):
        world.wait_accepted(100)
        # open-1 has its head, and the entries behind it.
        used = [p for p in segments(node, "open-*") if p.read_bytes()[:4096].strip(b"\0")]
        rot(world, node, world.rng.choice(used or segments(node, "0*-0*")))


@scenario("rot-closed", "bits of a closed segment of a node's Raft log flip, or its end is missing", needs=NEEDS, rate=150)
def rot_closed(world):
    node = world.rng.choice(world.nodes)
    for _ in range(3):  # an orderly end closes the segment that is open
        world.wait_accepted(50)
        assert node.terminate() == 0
        node.start()
        world.wait_ready([node])
    closed = [p for p in segments(node, "0*-0*") if p.name.count("-") == 1]
    rot(world, node, world.rng.choice(closed), expected=("refused", "ended"))


@scenario("rot-snapshot", "bits of a node's snapshot flip, or its end is missing", needs=NEEDS, rate=400, sessions=24)
def rot_snapshot(world):
    node = world.rng.choice(world.nodes)
    world.wait_for(lambda: list((node.data / "raft").glob("snapshot-*-*-*")) and node.metric("raft_snapshots_taken_total") > 0,
                   "there is a snapshot", 60)
    node.kill()
    files = sorted(p for p in (node.data / "raft").glob("snapshot-*") if not p.name.endswith(".meta"))
    metas = sorted((node.data / "raft").glob("snapshot-*.meta"))
    assert files and metas, list((node.data / "raft").iterdir())
    # Of two snapshots the newer one counts.
    rot(world, node, files[-1], expected=("refused", "ended"))
    # Its checksum has four bytes in a word of eight; nobody reads the other four.
    read = world.rng.choice([(0, 12), (16, metas[-1].stat().st_size)])
    rot(world, node, metas[-1], expected=("refused", "ended"), among=read)


@scenario("rot-metadata", "a node's files of term and vote, each alone, flip a bit or end early", needs=NEEDS, rate=100)
def rot_metadata(world):
    for name in world.rng.sample(["metadata1", "metadata2"], 2):
        node = world.rng.choice(world.nodes)
        # raft_uv writes them in turn. Of the older one nobody needs to know; with the newer one a vote may be lost.
        rot(world, node, node.data / "raft" / name)


@scenario("rot-identity", "a node's identity flips a bit or ends early: it must not start as somebody else", needs=NEEDS, rate=100)
def rot_identity(world):
    for how in (flip, cut):
        node = world.rng.choice(world.nodes)
        rot(world, node, node.data / "identity", how, expected=("refused", "ended"))


@scenario("rot-acked", "the record of what a node acknowledged flips a bit or ends early: told, and no reason to stop", needs=NEEDS,
          rate=100)
def rot_acked(world):
    for how in (flip, cut):
        node = world.rng.choice(world.nodes)
        world.wait_for(lambda n=node: (n.data / "raft" / "acked").stat().st_size == 32, "there is a record")
        result, said = rot(world, node, node.data / "raft" / "acked", how)
        assert result != "ready" or "raft_acked_unreadable" in said or how is cut, said[-1000:]


@scenario("rot-spool", "bits of a node's spool flip, its end is missing: its bodies come from the others, nothing wrong is delivered",
          needs=NEEDS, rate=150, size=4096)
def rot_spool(world):
    world.sink.kill()  # a queue, so that what is damaged is wanted
    world.wait_accepted(150)
    for node in world.rng.sample(world.nodes, 2):
        path = world.rng.choice([p for p in (node.data / "spool").iterdir() if p.suffix == ".seg" and p.stat().st_size])

        def much(world, path, among):
            return "; ".join([flip(world, path, among) for _ in range(5)] +
                             ([cut(world, path, among)] if world.rng.random() < 0.5 else []))

        rot(world, node, path, much, expected=("ready",))
    # Its own copies are asked for now.
    world.sink.heal()
    world.note("pulled", sum(n.metric("bodies_pulled_total") for n in world.nodes))
    world.note("repaired", sum(n.metric("bodies_repaired_total") for n in world.nodes))


@scenario("rot-journal", "bits of a node's outcome journal flip, or its end is missing", needs=NEEDS, rate=150)
def rot_journal(world):
    for _ in range(2):
        node = world.rng.choice(world.nodes)
        world.wait_accepted(100)

        def used(n=node):
            return sorted(p for p in (n.data / "journal").iterdir() if p.stat().st_size > 0)

        world.wait_for(used, f"{node.name} has delivered something")
        node.kill()
        files = used()
        rot(world, node, files[-1])
