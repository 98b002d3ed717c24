"""What each server syncs to its disk before it says 250, seen by strace.

One serial session. Each message has a window of time, from the first octet of its text to its 250; strace notes when each
call that syncs ended, by the same clock. mailraft's log is written by asynchronous writes with RWF_DSYNC: such a write
counts when its completion was fetched and was no error.
"""

import contextlib
import re
import shutil

import loads
import servers

CALLS = ("fsync", "fdatasync", "syncfs", "sync", "sync_file_range", "msync", "pwritev2", "io_submit", "io_getevents")
LINE = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$")
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+).*?(?:<(\d+\.\d+)>)?$")
PATH = re.compile(r"\d+<([^>]*)>")
SUBMITTED = re.compile(r"aio_data=(0x[0-9a-f]+|0)?, aio_rw_flags=([A-Z_|]+).*?aio_fildes=\d+<([^>]*)>")
FETCHED = re.compile(r"data=(0x[0-9a-f]+|0), obj=(?:0x[0-9a-f]+), res=(-?\d+)")


def strace(output):
    """The command to put before a server."""
    return ["strace", "-f", "-qq", "-ttt", "-T", "-y", "-s", "16", "-o", str(output), "-e", "signal=none", "-e", f"trace={','.join(CALLS)}"]


def parse(text):
    """(when it ended, call, path) of each call in strace's output that has synced something, in order."""
    begun, writes, found = {}, {}, []
    for line in text.splitlines():
        m = LINE.match(line)
        if not m:
            continue
        pid, at, what = m[1], float(m[2]), m[3]
        if what.endswith("<unfinished ...>"):
            begun[pid] = what[: -len("<unfinished ...>")]
            continue
        resumed = RESUMED.match(what)
        if resumed:
            what = begun.pop(pid, resumed[1] + "(") + resumed[2]
        m = CALL.match(what)
        if m:
            # The time of a line is when the call began, that of a resumed one when it ended.
            end = at if resumed else at + float(m[4] or 0)
            found += ended(end, m[1], m[2], int(m[3]), writes)
    return sorted(found)


def ended(end, call, arguments, value, writes):
    if value < 0:
        return []
    if call == "io_submit":
        writes.update({data: path for data, flags, path in SUBMITTED.findall(arguments) if "RWF_DSYNC" in flags})
        return []
    if call == "io_getevents":
        return [(end, "write with RWF_DSYNC", writes.pop(data)) for data, result in FETCHED.findall(arguments)
                if data in writes and int(result) >= 0]
    if call == "pwritev2" and "DSYNC" not in arguments:
        return []
    path = PATH.search(arguments)
    return [(end, call, path[1] if path else "")]


def before(found, windows):
    """For each window (begun, answered) the calls that ended in it."""
    return [[f for f in found if begun <= f[0] <= answered] for begun, answered in windows]


def judge_mailraft(by_node, windows):
    """How many messages had, before their 250, their body synced on two nodes and the log on two nodes."""
    good = 0
    bodies = {node: before([f for f in found if "/spool/" in f[2]], windows) for node, found in by_node.items()}
    logs = {node: before([f for f in found if "/raft/" in f[2]], windows) for node, found in by_node.items()}
    for i in range(len(windows)):
        good += all(sum(1 for node in by_node if kind[node][i]) >= 2 for kind in (bodies, logs))
    return good


def trace(kind, folder, resolver, messages):
    """Runs one server under strace; its row of the report."""
    folder.mkdir()
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        server = kind(folder, resolver, servers.free_port(), True, None, tracer=strace)
        stack.callback(server.close)
        windows = []
        warm = max(3, messages // 10)
        for port, n in zip(server.ports, loads.shares(messages, len(server.ports))):
            session = loads.Serial(port, 10240)
            stack.callback(session.close)
            for i in range(n + warm):
                begun, answered, _ = session.message()
                if i >= warm:
                    windows.append((begun, answered))
            session.close()
        server.close()  # ends strace too: its files are whole
        by_node = {path.parent.name: parse(path.read_text(errors="replace")) for path in sorted(server.dir.rglob("strace"))}
    in_windows = [calls for found in by_node.values() for calls in before(found, windows)]
    counts = {}
    for calls in in_windows:
        for _, call, _ in calls:
            counts[call] = counts.get(call, 0) + 1
    if kind is servers.Mailraft:
        verdict = f"body and log on two nodes at least: {judge_mailraft(by_node, windows)} of {len(windows)}"
    else:
        verdict = f"something was synced: {sum(1 for calls in in_windows if calls)} of {len(windows)}"
    return {"messages": len(windows), "calls_per_message": {call: n / len(windows) for call, n in counts.items()}, "before_250": verdict}


def missing():
    return None if shutil.which("strace") else "strace"
