"""What a node needs of its machine runs out: file descriptors, memory, contexts for asynchronous writes. And clients that use up what
there is, by doing nothing."""

import contextlib
import os
import selectors
import socket
import subprocess
import time

from scenarios import scenario
from scenarios.means import MemoryLimit, wait_end

LOCAL = ("local", "root")


def limit_files(node, count):
    """The soft limit of a running node; None: as it was."""
    subprocess.run(["prlimit", f"--pid={node.pid}", f"--nofile={count}:"], check=True)


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        words = f.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@scenario("descriptors", "a node may open no further file: it answers what it can, spins on nothing, and is whole with more",
          needs=(*LOCAL, "tool:prlimit"))
def descriptors(world):
    node = world.rng.choice([world.leader(), world.rng.choice(world.followers())])
    with open(f"/proc/{node.pid}/limits", encoding="ascii") as f:
        usual = next(line.split()[3] for line in f if line.startswith("Max open files"))
    used = len(os.listdir(f"/proc/{node.pid}/fd"))
    spare = world.rng.choice([0, 0, 1, 3, 10])
    with world.band(f"{node.name}: {spare} descriptors left"):
        limit_files(node, used + spare)
        began, cpu = time.monotonic(), processor_seconds(node.pid)
        with contextlib.ExitStack() as stack:  # who takes what is left
            for _ in range(20):
                with contextlib.suppress(OSError):
                    stack.enter_context(socket.create_connection((node.host, node.smtp), timeout=1))
            world.run_for(5)
            world.wait_accepted(200)
        share = (processor_seconds(node.pid) - cpu) / (time.monotonic() - began)
        world.note("processor", round(share, 2))
        assert share < 0.8, f"{node.name} used {share:.2f} of a processor while it could open nothing"
        limit_files(node, usual)
    if not node.alive():  # it may stop when it cannot store any more, never go on wrong
        node.start()
    world.wait_ready()


@scenario("memory", "a node is killed at the limit of its memory cgroup, and comes back with more", needs=LOCAL)
def memory(world):
    node = world.rng.choice(world.nodes)
    with world.band(f"{node.name}: out of memory"):
        if world.leader() is node:
            world.lost_leader()
        limit = MemoryLimit(world, node, 4 << 20)
        node.wanted = False
        more = world.start_load(to=[node], rate=200, size=200000)
        wait_end(world, node, "the memory limit", 40)
        more.stop()
        assert limit.kills() > 0, f"{node.name} ended, but not by the kernel's hand"
        world.wait_accepted(100)
        limit.close()
        node.start()
    world.wait_ready()


@scenario("aio-contexts", "a node starts on a machine that has no asynchronous I/O contexts left: it says so, and ends",
          needs=(*LOCAL, "strace"))
def aio_contexts(world):
    node = world.rng.choice(world.nodes)
    others = [n for n in world.nodes if n is not node]
    node.kill()
    with world.band(f"{node.name}: no AIO contexts"):
        # -D: the tracer is the grandchild, so that the node is the runner's own child.
        node.prefix = ["strace", "-D", "-f", "-q", "-o", str(world.dir / "strace-aio.log"), "-e", "trace=io_setup", "-e",
                       "inject=io_setup:error=EAGAIN"]
        node.start()
        node.prefix = []
        reason = wait_end(world, node, "it has no contexts")
        assert "fs.aio-max-nr" in reason, reason
        world.wait_accepted(100)
        assert all(n.alive() for n in others)
        node.start()
    world.wait_ready()


# ---- clients ----


class Idlers:
    """Many connections that say a letter now and then, from an address that is not the load's."""

    def __init__(self, world, nodes, count, start):
        self.sockets = []
        self.closed = 0
        self.replies = []
        self.selector = selectors.DefaultSelector()
        for n in range(count):
            node = nodes[n % len(nodes)]
            with contextlib.suppress(OSError):
                s = socket.create_connection((node.host, node.smtp), timeout=2)
                s.sendall(start)
                s.setblocking(False)
                self.selector.register(s, selectors.EVENT_READ)
                self.sockets.append(s)
        world.cleanup(self.close)

    def turn(self, text):
        """Each sends this; what has been closed is counted."""
        for s in list(self.sockets) if text else ():
            try:
                s.send(text)
            except BlockingIOError:
                pass
            except OSError:
                self._gone(s)
        for key, _ in self.selector.select(0):
            try:
                data = key.fileobj.recv(4096)
            except OSError:
                data = b""
            if data:
                self.replies.append(data)
            elif key.fileobj in self.sockets:
                self._gone(key.fileobj)

    def _gone(self, s):
        self.closed += 1
        self.selector.unregister(s)
        self.sockets.remove(s)
        s.close()

    def close(self):
        for s in self.sockets:
            s.close()
        self.sockets = []


STRICT = {"smtp": {"client_limits": {"connections": 30, "network_connections": 40, "connection_rate": "unlimited",
                                     "exempt": ["10.99.0.101/32"]},
                   "line_timeout": "3s", "idle_timeout": "6s", "data_timeout": "6s"}}


@scenario("slow-loris", "hundreds of connections that send a letter a second: kept to their number, sent away in time, nobody else is held up",
          needs=("network", "local"), config=STRICT)
def slow_loris(world):
    with world.band("slow loris"):
        idlers = Idlers(world, world.nodes, 300, b"EH")
        opened = len(idlers.sockets)
        for _ in range(9):
            idlers.turn(b"L")
            world.wait_accepted(50)
            world.run_for(0.7)
        idlers.turn(b"L")
        limited = sum(n.metric("smtp_limited_connections_total") for n in world.nodes)
        world.note("opened", opened)
        world.note("refused at once", limited)
        world.note("sent away", idlers.closed)
        assert opened >= 200 and limited >= opened - 30 * len(world.nodes), (opened, limited)
        assert idlers.closed >= opened * 0.9, f"{idlers.closed} of {opened} were sent away"


@scenario("slow-data", "clients that stop in the middle of a message: 421 in time, and nothing of it is kept", needs=("network", "local"),
          config=STRICT)
def slow_data(world):
    with world.band("clients stop in DATA"):
        idlers = Idlers(world, world.nodes, 60, b"EHLO x.test\r\n")

        def replied(code):
            idlers.turn(b"")
            return b"".join(idlers.replies).count(code) >= 60

        world.wait_for(lambda: replied(b"250 "), "all are greeted")
        idlers.turn(b"MAIL FROM:<slow@x.test>\r\nRCPT TO:<never@x.test>\r\nDATA\r\n")
        world.wait_for(lambda: replied(b"354 "), "all may send their message")
        idlers.turn(b"Subject: never\r\n\r\n")
        ended = time.monotonic() + 15
        while idlers.sockets and time.monotonic() < ended:
            world.wait_accepted(50)
            idlers.turn(b"")
        assert not idlers.sockets, f"{len(idlers.sockets)} of 60 still hold a session after 15 s"
    assert not [e for e in world.sink.received() if "never@x.test" in str(e["recipients"])], "a message without an end was delivered"


