"""Disks that are full, slow, hung or that fail: what was accepted is whole, and a node that cannot store stops or stands aside."""

import contextlib

from scenarios import fault, scenario
from scenarios.common import try_send
from scenarios.means import disk_threads, log_since, log_size, small_disks, tampered, wait_end, wait_panic

MB = 1 << 20
STRACE = ("local", "strace", "root")
FULL = ("local", "files", "root")


# ---- full ----


@scenario("disk-full", "not a byte is left on one node's disk, then there is space again", needs=FULL, size=8192,
          prepare=small_disks)
def disk_full(world):
    node = world.rng.choice(world.nodes)
    with world.band(f"{node.name} disk full"):
        node.disk.leave(0)
        world.wait_for(lambda: node.status_code("/readyz") == 503, f"{node.name} says that it is not ready")
        world.wait_accepted(300)
        assert node.alive(), node.text()[-500:]
        node.disk.relieve()
    world.wait_ready()
    world.wait_for(lambda: node.metric("bodies_missing") == 0, f"{node.name} has what it missed")


@scenario("disk-low", "one node's disk has less left than its reserve: it takes nothing, says so, and gives way", needs=FULL,
          size=8192, prepare=small_disks)
def disk_low(world):
    node = world.leader()
    with world.band(f"{node.name} disk low"):
        node.disk.leave(8 * MB)
        world.wait_for(lambda: (node.get("/v1/status") or {}).get("readiness") == "low_disk", f"{node.name} says low_disk")
        world.wait_accepted(200)
        code, text = try_send(node.smtp, host=node.host)
        assert code == 452, (code, text)
        node.disk.relieve()
    world.wait_ready()


@scenario("disk-full-majority", "the disks of two of three nodes are full: nothing is accepted that could not be kept; freed, all goes on",
          needs=FULL, size=8192, prepare=small_disks)
def disk_full_majority(world):
    full = world.rng.sample(world.nodes, 2)
    with world.band(f"{full[0].name} and {full[1].name} disk full"):
        for node in full:
            node.disk.leave(0)
        for node in full:
            world.wait_for(lambda n=node: n.status_code("/readyz") == 503, f"{node.name} says that it is not ready")
        world.run_for(3)
        count = world.accepted()
        world.run_for(3)
        world.note("accepted_meanwhile", world.accepted() - count)
        first, second = world.rng.sample(full, 2)
        for node in full:
            assert node.alive(), node.text()[-500:]
        first.disk.relieve()
        world.wait_accepted(100)
        second.disk.relieve()
    world.wait_ready()


# ---- failing ----

FAILING = {
    "spool sync": ("fdatasync", (0, 20)),
    "spool write": ("pwritev", (0, 40)),
    "journal write": ("pwrite64", (0, 40)),
    "raft write": ("io_submit", (0, 60)),
}


def fail_disk(world, node, what, error="EIO"):
    """The node must end by itself, with the reason; and the others go on."""
    calls, (low, high) = FAILING[what]
    with world.band(f"{node.name}: {error} at {what}"):
        if world.leader() is node:
            world.lost_leader()
        with tampered(world, node, calls, f"error={error}:when={world.rng.randrange(low, high) + 1}+"):
            words = wait_end(world, node, f"{error} at {what}", 40)
        # raft_uv tells of the failure of a write that waited behind another one to nobody: the watchdog sees that it does not
        # come back (PROTOCOL.md 8.4).
        wanted = {"EIO": ("Input/output error", "I/O error", "i/o error", "was not synced", "has not come back"), "ENOSPC": ("No space left", "disk space")}[error]
        assert any(w in words for w in wanted), f"{node.name} ended without the reason: {words}"
        world.wait_accepted(100)
        node.start()
        world.wait_ready([node])


@scenario("eio-fsync", "fdatasync fails: the node stops with the reason, the others go on, and started again it is whole",
          needs=STRACE, quick=True)
def eio_fsync(world):
    fail_disk(world, world.leader(), "spool sync")
    fail_disk(world, world.rng.choice(world.followers()), "spool sync")


@scenario("eio-write", "writes fail, of spool, outcome journal and Raft log: the node stops, the others go on", needs=STRACE)
def eio_write(world):
    for what in world.rng.sample([w for w in FAILING if w.endswith("write")], 3):
        fail_disk(world, world.rng.choice(world.nodes), what)


@scenario("eio-meta", "term and vote cannot be written at an election: that node stops, the others elect", needs=STRACE)
def eio_meta(world):
    leader = world.leader()
    node = world.rng.choice([n for n in world.nodes if n is not leader])
    with world.band(f"{node.name}: EIO at the vote"):
        # raft_uv writes its metadata with a plain write; this node's log line of the same moment may get the error instead, so
        # only descriptors of files count: strace's path filter is by file.
        meta = [node.data / "raft" / "metadata1", node.data / "raft" / "metadata2"]
        with tampered(world, node, "openat", "error=EIO:when=1+", paths=meta):
            leader.kill()
            words = wait_end(world, node, "EIO at its vote")
        assert "was not stored" in words, words
        leader.start()
        node.start()
    world.wait_ready()


# ---- slow ----


def slow(world, node, ms):
    threads = disk_threads(node.pid)
    return tampered(world, node, "fdatasync,io_getevents", f"delay_enter={ms * 1000}", threads)


@scenario("slow-disk", "each write to one node's disk takes 50 to 500 ms: nobody waits for it but its own clients", needs=STRACE,
          rate=100)
def slow_disk(world):
    node = world.rng.choice(world.nodes)
    ms = world.rng.randrange(50, 500)
    with world.band(f"{node.name}: {ms} ms a sync"):
        with slow(world, node, ms) as tracer:
            world.wait_accepted(400, 60)
            assert node.alive(), node.text()[-500:]
        assert tracer.hits() > 5, "nothing was slow"
        world.note("slow_calls", tracer.hits())


@scenario("slow-disks", "each write to any node's disk takes 50 to 300 ms: slow, and no leader is lost by it", needs=STRACE, rate=60)
def slow_disks(world):
    leader = world.leader()
    ms = world.rng.randrange(50, 300)
    with world.band(f"all: {ms} ms a sync"), contextlib.ExitStack() as stack:
        tracers = [stack.enter_context(slow(world, n, ms)) for n in world.nodes]
        world.wait_accepted(150, 60)
    assert world.leader() is leader, "a slow disk is no reason for another leader"
    assert all(t.hits() > 5 for t in tracers), "nothing was slow"


def hang(world, node):
    threads = disk_threads(node.pid)
    return tampered(world, node, "fdatasync,io_getevents", "delay_enter=60000000", threads)


@scenario("disk-hangs-3s", "the leader's disk hangs for 3 s: another leads before it is over, and the node is back by itself",
          needs=STRACE, rate=100)
def disk_hangs_short(world):
    node = world.leader()
    with world.band(f"{node.name}: disk hangs"):
        world.lost_leader()
        with hang(world, node):
            world.run_for(3)
            assert node.alive(), node.text()[-500:]
            world.wait_for(lambda: world.watch.leader_name() not in (None, node.name), "another leads", 3)
    world.wait_accepted(100)
    assert node.alive(), node.text()[-500:]
    world.wait_ready()


@scenario("disk-hangs", "a node's disk hangs for good: it gives up its leadership, stops within 15 s, and the others go on", needs=STRACE,
          rate=100)
def disk_hangs(world):
    node = world.rng.choice([world.leader(), world.rng.choice(world.followers())])
    offset = log_size(node)
    with world.band(f"{node.name}: disk hangs"):
        if world.leader() is node:
            world.lost_leader()
        with hang(world, node):
            world.wait_accepted(200, 20)
            wait_panic(world, node, "its disk hangs", 20)
        wait_end(world, node, "its disk hangs")
        said = log_since(node, offset)
        assert "disk" in said or "did not come back" in said or "raft log" in said, said[-500:]
        world.wait_accepted(100)
        node.start()
    world.wait_ready()


# ---- for the mix ----


@fault("a slow disk", needs=STRACE)
def slow_one(world):
    node = world.claim(world.nodes)
    with slow(world, node, world.rng.randrange(50, 400)):
        yield


@fault("a disk that fails", needs=STRACE)
def failing_one(world):
    node = world.claim(world.nodes)
    calls, _ = FAILING[world.rng.choice(sorted(FAILING))]
    with tampered(world, node, calls, "error=EIO:when=1+"):
        node.wanted = False  # it ends at its first write; it has none while other faults keep it from its work
        yield
    if node.alive():
        node.kill()
    node.start()
