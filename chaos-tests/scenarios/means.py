"""The means by which scenarios break a node from outside: strace that makes system calls fail or slow, file systems that are
small, memory cgroups, the relay between namespaces, a library that tells a wrong time.

What each of these can and cannot do, as tried on Debian 12 with a kernel without netem, device-mapper and NFQUEUE:

  strace -e inject   attaches to a running node and lets go of it. Error codes and delays of single system calls; calls that raft_uv
                     hands to the kernel (io_submit) fail or wait before the kernel sees them, so a write that the kernel has begun
                     cannot be made to fail or hang half-way: the simulation does that. A delayed call holds its thread alone.
                     Traced calls cost some microseconds; only the named calls are traced.
  libfaketime        wall clock alone (jumps, while the program runs, by a file) or all clocks at another rate. CLOCK_BOOTTIME jumps
                     are not tried: the kernel never makes them.
  tmpfs              a disk of its own for a node that can be filled; its pages are memory of the machine. ENOSPC comes as on a disk,
                     write errors and torn writes do not.
  memory cgroup      version 1 or 2, whichever is mounted; the kernel kills the node at its limit.
  prlimit            descriptors of a running node.
  fs.aio-max-nr      is the whole machine's: instead of lowering it, io_setup fails by strace.
  relay.py           delay, loss, reordering and duplication of IP packets; TCP above it sees them as on a bad line.
  tbf                a slow link, on the device of the node's namespace.
Power loss, torn and unsynced writes cannot be made with processes: chaos-tests/sim has them.
"""

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

from scenarios.common import wait_for

FAKETIME = "/usr/lib/{}/faketime/libfaketimeMT.so.1"
EPOLL_CALLS = {"232", "281", "441", "22"}  # epoll_wait, epoll_pwait, epoll_pwait2 of x86_64; epoll_pwait of aarch64


# ---- ends that a fault is meant to bring ----


def wait_end(world, node, what, limit=30):
    """Waits until the node has ended by itself, as the fault wants it; its last words."""
    node.wanted = False
    world.wait_for(lambda: not node.alive(), f"{node.name} ends: {what}", limit)
    world.mark(f"{node.name} ended by itself")
    return last_words(node)


def wait_panic(world, node, what, limit=30):
    """Waits until the node has said that it gives up; for a node whose threads a tracer holds, which cannot end yet."""
    node.wanted = False
    offset = log_size(node)
    world.wait_for(lambda: not node.alive() or "mailraft: panic" in log_since(node, max(0, offset - 4096)),
                   f"{node.name} ends: {what}", limit)
    world.mark(f"{node.name} gave up")


def last_words(node):
    """Why it ended: its line of panic, which need not be the last one, since its other threads went on for a moment."""
    lines = node.text().strip().splitlines()[-200:]
    for n in range(len(lines) - 1, -1, -1):
        if lines[n].startswith("mailraft: panic"):
            return lines[n]
        if '"event":"starting"' in lines[n]:
            break
    return "\n".join(lines[-3:])


def log_since(node, offset):
    with open(node.log, "rb") as f:
        f.seek(offset)
        return f.read().decode(errors="replace")


def log_size(node):
    return node.log.stat().st_size if node.log.exists() else 0


# ---- strace ----


def disk_threads(pid):
    """The threads that do not turn an event loop: those that write and sync files."""
    threads, loops = set(os.listdir(f"/proc/{pid}/task")), set()
    for _ in range(40):
        for thread in threads - loops:
            with contextlib.suppress(OSError, IndexError):
                if pathlib.Path(f"/proc/{pid}/task/{thread}/syscall").read_text().split()[0] in EPOLL_CALLS:
                    loops.add(thread)
        time.sleep(0.005)
    return sorted(threads - loops)


class Strace:
    """System calls of a running node fail or wait until end()."""

    def __init__(self, world, node, calls, injection, threads=None, paths=()):
        self.world = world
        self.log = world.dir / f"strace-{node.name}-{len(world.cleanups)}.log"
        args = ["strace", "-q", "-o", str(self.log), "-e", f"trace={calls}", "-e", f"inject={calls}:{injection}",
                "-e", "signal=none", *(word for path in paths for word in ("-P", str(path)))]
        if threads is None:
            args += ["-f", "-p", str(node.pid)]
        else:
            for thread in threads:
                args += ["-p", thread]
        self.err = open(self.log.with_suffix(".err"), "wb")
        # A group of its own, so that a ^C on the terminal does not let go of the node before the runner heals it.
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=self.err, stderr=self.err,
                                        start_new_session=True)
        world.cleanup(self.end)
        wait_for(lambda: self.process.poll() is not None or traced(node.pid, threads), "strace has hold of the node", 20)
        assert self.process.poll() is None or not node.alive(), self.log.with_suffix(".err").read_text()

    def end(self):
        """Lets go: what waited goes on at once. strace itself is slow to leave threads that it holds up, the kernel is not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.err.close()

    def hits(self):
        """How many calls were tampered with."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text.count("(INJECTED)") + text.count("(DELAYED)")


def traced(pid, threads=None):
    """All threads have a tracer."""
    try:
        for thread in threads or os.listdir(f"/proc/{pid}/task"):
            if "TracerPid:\t0\n" in pathlib.Path(f"/proc/{pid}/task/{thread}/status").read_text():
                return False
    except OSError:
        return False
    return True


@contextlib.contextmanager
def tampered(world, node, calls, injection, threads=None, paths=()):
    tracer = Strace(world, node, calls, injection, threads, paths)
    try:
        yield tracer
    finally:
        tracer.end()


# ---- a clock ----


def faketime_library():
    """Its path, or None where it is not installed."""
    machine = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}.get(os.uname().machine, "")
    path = FAKETIME.format(machine)
    return path if os.path.exists(path) else None


def movable_clock(world):
    """Called before the start: each node's wall clock can be moved by move_clock()."""
    for node in world.nodes:
        node.clock = world.dir / f"{node.name}.clock"
        node.clock.write_text("+0\n")
        node.env = {**(node.env or {}), "LD_PRELOAD": faketime_library(), "FAKETIME_TIMESTAMP_FILE": str(node.clock),
                    "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def move_clock(world, node, seconds):
    """To that distance from the true time, at once."""
    new = node.clock.with_suffix(".new")
    new.write_text(f"{seconds:+d}\n")
    new.rename(node.clock)  # never half a line
    world.mark(f"{node.name} clock {seconds:+d} s")


def clock_rates(world, rates):
    """Called before the start: all clocks of the nodes run at these rates."""
    for node, rate in zip(world.nodes, rates):
        node.env = {**(node.env or {}), "LD_PRELOAD": faketime_library(), "FAKETIME": f"+0 x{rate:.3f}"}


# ---- a small disk ----


class SmallDisk:
    """A data directory on a file system of its own, with a file that takes up what is to be missing."""

    SIZE = 320 << 20

    def __init__(self, world, node, size=SIZE):
        self.world, self.node, self.path = world, node, node.data
        self.path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path)], check=True)
        world.cleanup(self.close)
        self.filler = self.path / "filler"

    def free(self):
        s = os.statvfs(self.path)
        return s.f_bavail * s.f_frsize

    def leave(self, free):
        """Takes space until only so much is left; the node may take some meanwhile."""
        self.world.mark(f"{self.node.name} disk: {free >> 20} MiB left")
        with open(self.filler, "ab") as f:
            while (extra := self.free() - free) > 0:
                try:
                    os.posix_fallocate(f.fileno(), f.tell(), min(extra, 8 << 20))
                    f.seek(0, os.SEEK_END)
                except OSError:
                    if self.free() >= 4096:
                        with contextlib.suppress(OSError):
                            f.write(b"x" * 4096)
                            f.flush()
                        continue
                    return

    def relieve(self):
        self.filler.unlink(missing_ok=True)
        self.world.mark(f"{self.node.name} disk freed")

    def close(self):
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)


def small_disks(world):
    for node in world.nodes:
        node.disk = SmallDisk(world, node)


# ---- memory ----


class MemoryLimit:
    """A memory cgroup with one node in it."""

    def __init__(self, world, node, limit):
        v1 = pathlib.Path("/sys/fs/cgroup/memory")
        self.root = v1 if (v1 / "memory.limit_in_bytes").exists() else pathlib.Path("/sys/fs/cgroup")
        self.dir = self.root / f"mailraft-{os.getpid()}-{node.name}"
        self.dir.mkdir()
        world.cleanup(self.close)
        self.file = self.dir / ("memory.limit_in_bytes" if self.root == v1 else "memory.max")
        (self.dir / "cgroup.procs").write_text(str(node.pid))
        if limit:
            self.set(limit)

    def set(self, limit):
        self.file.write_text(str(limit))

    def kills(self):
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                for line in (self.dir / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        return 0

    def close(self):
        with contextlib.suppress(OSError):
            for pid in (self.dir / "cgroup.procs").read_text().split():
                (self.root / "cgroup.procs").write_text(pid)
            self.dir.rmdir()


# ---- the line between the nodes ----


class Wire:
    """relay.py between the nodes; .set(delay=..., ...) from now on, .end() and the usual bridge is used again."""

    def __init__(self, world):
        self.world = world
        places = [f"{n.name}={world.net.address(n)}" for n in world.nodes]
        seed = world.rng.randrange(1 << 31)
        self.process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("relay.py")), str(seed), *places],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        world.cleanup(self.end)
        assert self._answer() == "ready", "the relay does not run"

    def _answer(self):
        ready, _, _ = select.select([self.process.stdout], [], [], 20)
        assert ready, "the relay does not answer"
        return self.process.stdout.readline().strip()

    def set(self, **settings):
        """ms for delay, jitter, hold; shares of 1 for loss, reorder, duplicate. The counters until now."""
        self.process.stdin.write(json.dumps(settings) + "\n")
        self.process.stdin.flush()
        self.world.mark("wire: " + (", ".join(f"{k} {v}" for k, v in settings.items()) or "well"))
        return json.loads(self._answer())

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def wire(world, **settings):
    line = Wire(world)
    try:
        line.set(**settings)
        yield line
    finally:
        line.end()

