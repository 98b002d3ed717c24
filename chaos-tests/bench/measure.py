"""What a server costs and what figures say: CPU time and memory of whole process trees, spreads, the machine.

A server's CPU time has to include children that have ended: Postfix and Exim fork for each session or delivery. A control
group counts all of them, to the microsecond; where none can be made (no root, no hierarchy) /proc is added up instead.
"""

import contextlib
import itertools
import math
import os
import pathlib
import platform
import signal
import statistics
import time

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CORES = len(os.sched_getaffinity(0))


def mounted(kind, option=None):
    """Where a file system of this kind (and with this mount option) is mounted, or None."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, path, this, options = line.split()[:4]
        if this == kind and (option is None or option in options.split(",")):
            return pathlib.Path(path)
    return None


class Group:
    """A control group: whoever is started through `prefix`, and all children, are in it. Version 2, or cpuacct of version 1."""

    numbers = itertools.count(1)

    def __init__(self):
        parent, self.file, self.unit = mounted("cgroup2"), "cpu.stat", 1e6
        if parent is None:
            parent, self.file, self.unit = mounted("cgroup", "cpuacct"), "cpuacct.usage", 1e9
        if parent is None:
            raise OSError("no control groups are mounted")
        self.path = parent / f"mailraft-bench-{os.getpid()}-{next(self.numbers)}"
        self.path.mkdir()
        try:
            self.cpu_seconds()
            self.pids()
        except (OSError, ValueError):
            self.path.rmdir()
            raise OSError("control groups do not count") from None

    @property
    def prefix(self):
        """Before a command: it joins the group, and then is the command."""
        return ["/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', str(self.path / "cgroup.procs")]

    def cpu_seconds(self):
        text = (self.path / self.file).read_text()
        return int(text.split()[1] if self.file == "cpu.stat" else text) / self.unit

    def pids(self):
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def close(self):
        """Ends whoever is still in it, by pid, and takes it away. A second time does nothing."""
        end = time.monotonic() + 30
        while self.path.exists():
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                self.path.rmdir()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)


class Tree:
    """The same by /proc: the processes that were named, their descendants that live, and what ended children left to those who
    waited for them. Blind to what ended without a parent that waits (a daemon's orphans)."""

    prefix = []

    def __init__(self):
        self.roots = []

    def pids(self):
        children = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    children.setdefault(int(stat_fields(entry.name)[1]), []).append(int(entry.name))
        found, ask = [], list(self.roots)
        while ask:
            pid = ask.pop()
            if pid in found or not os.path.exists(f"/proc/{pid}"):
                continue
            found.append(pid)
            ask += children.get(pid, [])
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += sum(int(f) for f in stat_fields(pid)[11:15])  # utime, stime, and those of children waited for
        return total / TICKS

    def close(self):
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stat_fields(pid):
    """The fields of /proc/PID/stat behind the name, which may itself hold spaces and brackets: state, parent ..."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def account():
    """A Group where one can be had, else a Tree, whose .roots its owner fills."""
    try:
        return Group()
    except OSError:
        return Tree()


def rss_bytes(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def settle(cpu_seconds, limit=10.0, step=0.25, busy=0.08):
    """Waits until a server that was given nothing more to do has done what it still had to: until it uses less than `busy` of
    one processor over a step."""
    end, before = time.monotonic() + limit, cpu_seconds()
    while time.monotonic() < end:
        time.sleep(step)
        now = cpu_seconds()
        if now - before < busy * step:
            return
        before = now


def percentile(values, p):
    """The smallest value that at least p percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * p / 100) - 1)]


def spread(values):
    """(median, smallest, largest) of the values that are there, or None."""
    there = [v for v in values if v is not None]
    return (statistics.median(there), min(there), max(there)) if there else None


def machine(folder):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    memory = int(open("/proc/meminfo").readline().split()[1]) / (1 << 20)
    kinds = {m.split()[1]: m.split()[2] for m in open("/proc/mounts")}
    at = next(str(p) for p in [pathlib.Path(folder).resolve(), *pathlib.Path(folder).resolve().parents] if str(p) in kinds)
    return {"cores": CORES, "cpu": cpu, "memory_gib": round(memory), "kernel": platform.release(),
            "file_system": kinds[at], "load_average": round(os.getloadavg()[0], 1),
            "date": time.strftime("%Y-%m-%d", time.gmtime())}
