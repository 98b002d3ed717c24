"""A node's disk runs full, bit by bit or at once: it says so in time, what was accepted is whole, and space is enough to
bring it back. The ballast lets outcomes be committed meanwhile. And a disk that hangs: leadership goes, then the process."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest

from harness import Talk, wait_for

MB = 1 << 20
DISK = 320 * MB  # its reserve is a twentieth, its ballast a tenth
RESERVE = DISK // 20
BALLAST = DISK // 10


class Disk:
    """A node's data directory on a file system of its own, with a file that takes up what is to be missing."""

    def __init__(self, node):
        self.path = node.dir / "data"
        self.path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.path)],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
        self.filler = self.path / "filler"

    def free(self):
        s = os.statvfs(self.path)
        return s.f_bavail * s.f_frsize

    def leave(self, free):
        """Takes space until only so much is left."""
        with self.filler.open("ab") as f:
            while (extra := self.free() - free) > 0:
                try:
                    os.posix_fallocate(f.fileno(), f.tell(), min(extra, 8 * MB))
                except OSError:  # somebody else took it meanwhile
                    with contextlib.suppress(OSError):
                        os.write(f.fileno(), b"x" * 4096)
                    if self.free() > 0:
                        continue
                    return
                f.seek(0, os.SEEK_END)

    def ballast(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "ballast").stat().st_size
        return 0

    def relieve(self):
        self.filler.unlink()

    def close(self):
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)


@pytest.fixture
def small(make_cluster):
    """A cluster of nodes with small disks of their own; those of c.disks that a test leaves alone are large enough."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a tmpfs")
    c = make_cluster()
    c.disks = {}
    try:
        for node in c.nodes:
            c.disks[node] = Disk(node)
        yield c
    finally:
        c.close()
        for disk in c.disks.values():
            disk.close()


def come_back(c, node, condition=lambda: True):
    """With space again the node is what it was, by itself: it never stopped (PROTOCOL.md 8.5)."""

    def there():
        assert node.alive(), node.text()[-2000:]
        return all(n.ready() for n in c.nodes) and c.disks[node].ballast() == BALLAST and condition()

    wait_for(there, "all is well again")


def fill(c, *nodes):
    """Not a byte is left; so the ballast is given back."""
    for node in nodes:
        c.disks[node].leave(0)
    for node in nodes:
        wait_for(lambda n=node: n.events("disk_full"), f"{node.name} gives its ballast back")
        assert c.disks[node].ballast() == 0


def test_low_disk(small):
    """Below its reserve a node takes no mail and no bodies, and says so; the others go on; it fills up what it missed
    when there is space."""
    c, node = small, small.nodes[1]
    c.start(sink=False)
    wait_for(lambda: all(d.ballast() == BALLAST for d in c.disks.values()), "there is ballast")
    c.disks[node].leave(RESERVE - 4 * MB)  # low, not full
    wait_for(lambda: node.status_code("/readyz") == 503, "it is not ready any more")
    with Talk(node.smtp) as t:
        assert t.greeting[0] == 220
        code, text = t.say("MAIL FROM:<a@client.test>")
        assert code == 452 and text.startswith("4.3.1"), (code, text)
    status = node.get("/v1/status")
    assert status["readiness"] == "low_disk" and any("disk" in a for a in status["alarms"]), status
    assert node.status_code("/healthz") == 200
    assert c.load(300, size=20000).popen.wait(120) == 0
    assert c.queued() == 300
    assert node.metric("spool_bodies") == 0
    assert node.metric("disk_ballast_bytes") == BALLAST and not node.events("disk_full")
    refused = [e for e in c.sent() if e["event"] == "refused"]
    assert all(e["code"] == 452 for e in refused), refused
    c.disks[node].relieve()
    c.wait_ready([node])
    wait_for(lambda: node.metric("spool_bodies") == 300, "it has fetched what it missed")
    with Talk(node.smtp) as t:
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
    c.start_sink()
    c.wait_empty()
    assert c.check_no_loss()["delivered"] == 300


def test_full_disk_under_load(small):
    """Not a byte is left, in the middle of the load: the node lives on. Killed then, it cannot start on a full disk, and says
    why; with space it can. Mail flows through the others, and all of it is delivered when there is space again."""
    c, node = small, small.nodes[1]
    c.start()
    load = c.load(1200, size=20000, extra=["--rate", "200", "--timeout", "30"])
    wait_for(lambda: c.accepted() >= 300, "the load runs")
    fill(c, node)
    wait_for(lambda: c.accepted() >= 800, "the others go on")
    assert node.alive(), node.text()[-2000:]
    node.kill()
    c.disks[node].leave(0)
    node.start()
    wait_for(lambda: not node.alive(), "it cannot write its new incarnation")
    assert "not enough disk space" in node.text().strip().splitlines()[-1]
    assert load.popen.wait(300) == 0, load.text()
    others = [n for n in c.nodes if n is not node]
    c.wait_ready(others)
    c.disks[node].relieve()
    node.start()
    come_back(c, node)
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["accepted"] == counts["delivered"] == 1200, counts


def test_full_disk_of_the_leader(small):
    """The leader's disk is the full one: it gives way, and nothing that got 250 is lost."""
    c = small.start()
    node = c.leader()
    load = c.load(800, size=20000, extra=["--rate", "200", "--timeout", "30"])
    wait_for(lambda: c.accepted() >= 200, "the load runs")
    fill(c, node)
    wait_for(lambda: c.leader() is not node, "another leads, who has room")
    assert load.popen.wait(300) == 0, load.text()
    assert c.leader() is not node
    c.disks[node].relieve()
    come_back(c, node)
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["accepted"] == counts["delivered"] == 800, counts


def test_full_disk_until_the_log_is_full(small):
    """The Raft log of the full node runs out of the segments that it had prepared. It stays, and says why it stands
    still; the others go on; with space it catches up by itself."""
    c, node = small, small.nodes[1]
    messages = 500  # 50 MB: more than the five segments of 8 MiB that the node can have had before its room was gone
    delivery = c.config(node)["delivery"]
    c.reconfigure(delivery={**delivery, "suspended": True})
    c.start()
    long = "r" * 40 + "%r@" + ".".join(["d" * 50] * 3) + ".test"
    load = c.load(messages, sessions=5, extra=["--recipients", "500", "--rcpt", long, "--rate", "60", "--timeout", "30"])
    wait_for(lambda: c.accepted() >= 30, "the load runs")
    fill(c, node)
    c.disks[node].leave(0)  # the ballast too
    assert load.popen.wait(300) == 0, load.text()
    others = [n for n in c.nodes if n is not node]
    wait_for(lambda: c.queued(others) == messages, "the others have it all")
    wait_for(lambda: not node.alive() or node.events("raft_disk_full"), "the log of the full node is full")
    # What cannot be had for lack of space is not asked for again and again.
    assert len(node.events("body_pull_failed")) < 100, len(node.events("body_pull_failed"))
    c.disks[node].relieve()
    come_back(c, node, lambda: node.metric("spool_bodies") == messages)
    c.reconfigure(delivery=delivery)
    for n in c.nodes:
        n.signal(signal.SIGHUP)
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["accepted"] == counts["delivered"] == messages * 500, counts


def test_full_disks_everywhere(small):
    """All disks are full. No node takes mail, but what was accepted is delivered and its outcomes are committed, which is how
    space comes back; a node that is killed then starts on its ballast; with space all take mail again."""
    c = small
    delivery = c.config(c.nodes[0])["delivery"]
    c.reconfigure(delivery={**delivery, "suspended": True})
    c.start()
    assert c.load(300, size=20000).popen.wait(120) == 0
    wait_for(lambda: all(d.ballast() == BALLAST for d in c.disks.values()), "there is ballast")
    fill(c, *c.nodes)
    wait_for(lambda: all(n.status_code("/readyz") == 503 for n in c.nodes), "nobody is ready")
    for node in c.nodes:
        with Talk(node.smtp) as t:
            code, text = t.say("MAIL FROM:<a@client.test>")
            assert code == 452 and text.startswith("4.3.1"), (code, text)
        assert any("ballast" in a for a in node.get("/v1/status")["alarms"])
    c.reconfigure(delivery=delivery)
    for n in c.nodes:
        n.signal(signal.SIGHUP)
    c.wait_empty()
    assert all(n.alive() for n in c.nodes)
    assert c.check_no_loss()["delivered"] == 300
    for disk in c.disks.values():
        disk.relieve()
    for node in c.nodes:
        come_back(c, node)
        assert node.events("disk_full_ended")
    # Filled while it was down, with the ballast in its place: that is what it starts on.
    node = c.nodes[0]
    node.kill()
    c.disks[node].leave(0)
    node.start()
    wait_for(lambda: node.get("/v1/status") is not None and node.get("/v1/status")["readiness"] == "low_disk", "it is back")
    assert c.disks[node].ballast() == 0
    c.disks[node].relieve()
    come_back(c, node)
    with Talk(node.smtp) as t:
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250


HANGS = "fsync,fdatasync,pwritev,pwritev2,io_getevents"


@contextlib.contextmanager
def hanging(c, node):
    """Each write and sync of a file hangs, for ever as far as this test goes. io_getevents is how raft_uv waits for a write."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    log = c.dir / "strace"
    strace = c.spawn(["strace", "-f", "-q", "-p", node.pid, "-o", log, "-e", f"trace={HANGS}",
                      "-e", f"inject={HANGS}:delay_enter=600000000"], "strace.log")
    # A tracer that may not trace says so and ends; one that may writes of the first call that it holds.
    wait_for(lambda: not strace.alive() or (log.exists() and log.stat().st_size > 0), "strace is there")
    if not strace.alive():
        pytest.skip(f"strace cannot trace here: {strace.text().strip()[-200:]}")
    try:
        yield
    finally:
        strace.kill()


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_hung_disk(make_cluster, who):
    """A disk that hangs under load: who leads on it hands over, the others take mail all the time, and the process stops, by
    itself and with the reason; started again it is whole."""
    c = make_cluster().start()
    leader = c.leader()
    node = leader if who == "leader" else next(n for n in c.nodes if n is not leader)
    others = [n for n in c.nodes if n is not node]
    load = c.load(4000, size=4000, to=others, extra=["--rate", "100", "--timeout", "30"])
    wait_for(lambda: c.accepted() >= 100, "the load runs")
    with hanging(c, node):
        wait_for(lambda: c.leader(others) is not node, "another leads")
        count = c.accepted()
        wait_for(lambda: c.accepted() >= count + 100, "the others take mail")
        wait_for(lambda: "has not come back" in node.text(), "it says why it stops")
    wait_for(lambda: not node.alive(), "it has stopped")
    load.kill()
    node.start()
    c.wait_ready()
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["delivered"] >= counts["accepted"] >= 200, counts
