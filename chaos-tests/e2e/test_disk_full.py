"""A node's disk runs full, bit by bit or at once: it says so in time, what was accepted is whole, and space is enough to
bring it back."""

import contextlib
import os
import signal
import subprocess

import pytest

from harness import Talk, wait_for

MB = 1 << 20
DISK = 320 * MB  # its reserve is a twentieth
RESERVE = DISK // 20


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
        return all(n.ready() for n in c.nodes) and condition()

    wait_for(there, "all is well again")


def test_low_disk(small):
    """Below its reserve a node takes no mail and no bodies, and says so; the others go on; it fills up what it missed
    when there is space."""
    c, node = small, small.nodes[1]
    c.start(sink=False)
    c.disks[node].leave(RESERVE // 2)
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
    c.disks[node].leave(0)
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
    """The leader's disk is the full one: it goes on or gives way, but nothing that got 250 is lost."""
    c = small.start()
    node = c.leader()
    load = c.load(800, size=20000, extra=["--rate", "200", "--timeout", "30"])
    wait_for(lambda: c.accepted() >= 200, "the load runs")
    c.disks[node].leave(0)
    assert load.popen.wait(300) == 0, load.text()
    c.disks[node].relieve()
    come_back(c, node)
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["accepted"] == counts["delivered"] == 800, counts


def test_full_disk_until_the_log_is_full(small):
    """The Raft log of the full node runs out of the segments that it had prepared. It stays, and says why it stands
    still; the others go on; with space it catches up by itself."""
    c, node = small, small.nodes[1]
    delivery = c.config(node)["delivery"]
    c.reconfigure(delivery={**delivery, "suspended": True})
    c.start()
    long = "r" * 40 + "%r@" + ".".join(["d" * 50] * 3) + ".test"
    load = c.load(300, sessions=5, extra=["--recipients", "500", "--rcpt", long, "--rate", "60", "--timeout", "30"])
    wait_for(lambda: c.accepted() >= 30, "the load runs")
    c.disks[node].leave(0)
    assert load.popen.wait(300) == 0, load.text()
    others = [n for n in c.nodes if n is not node]
    wait_for(lambda: c.queued(others) == 300, "the others have it all")
    wait_for(lambda: not node.alive() or node.events("raft_disk_full"), "the log of the full node is full")
    # What cannot be had for lack of space is not asked for again and again.
    assert len(node.events("body_pull_failed")) < 100, len(node.events("body_pull_failed"))
    c.disks[node].relieve()
    come_back(c, node, lambda: node.metric("spool_bodies") == 300)
    c.reconfigure(delivery=delivery)
    for n in c.nodes:
        n.signal(signal.SIGHUP)
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["accepted"] == counts["delivered"] == 300 * 500, counts
