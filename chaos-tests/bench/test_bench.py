"""The bench itself: what it counts, what it writes, and that each server can be run and ended. Says nothing of speed."""

import os
import pathlib
import signal
import subprocess
import sys
import xml.etree.ElementTree

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import loads  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import servers  # noqa: E402
import stores  # noqa: E402
import syncs  # noqa: E402
from harness import folder, wait_for  # noqa: E402

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="peers have to be started by root")
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
# Two children that burn 0.3 s each and end, waited for; then it stays.
PARENT = f"""
import subprocess, sys, time
for _ in range(2): subprocess.run([sys.executable, "-S", "-c", {BURN!r}])
open(sys.argv[1], "w").close()
time.sleep(600)
"""
# A child whose parent has ended before it.
ORPHAN = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-S", "-c", {BURN!r} + "open(%r, 'w').close()" % sys.argv[1]])
"""


def group():
    try:
        return measure.Group()
    except OSError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("make", [group, measure.Tree], ids=["group", "tree"])
def test_cpu_of_children_that_ended(make, tmp_path):
    account = make()
    done = tmp_path / "done"
    before = account.cpu_seconds()
    parent = subprocess.Popen([*account.prefix, sys.executable, "-S", "-c", PARENT, done])
    try:
        if isinstance(account, measure.Tree):
            account.roots.append(parent.pid)
        wait_for(done.exists, "the children ended")
        assert 0.55 < account.cpu_seconds() - before < 3
        assert account.pids() == [parent.pid]
    finally:
        account.close()
        account.close()  # does nothing
        parent.wait()


def test_cpu_of_orphans(tmp_path):
    account = group()
    done = tmp_path / "done"
    try:
        subprocess.run([*account.prefix, sys.executable, "-S", "-c", ORPHAN, done], check=True)
        wait_for(done.exists, "the orphan ended")
        wait_for(lambda: not account.pids(), "it is gone")
        assert 0.28 < account.cpu_seconds() < 3
    finally:
        account.close()
    assert not account.path.exists()


def test_closing_ends_everybody():
    account = group()
    child = subprocess.Popen([*account.prefix, "sh", "-c", "sleep 600 & sleep 600"])
    wait_for(lambda: len(account.pids()) >= 2, "both sleep")
    account.close()
    assert child.wait() == -signal.SIGKILL


def test_statistics():
    assert measure.percentile(range(1, 101), 99) == 99
    assert measure.percentile([5], 99) == 5
    assert measure.percentile([3, 1, 2], 50) == 2
    assert measure.spread([3, None, 1, 2]) == (2, 1, 3)
    assert measure.spread([None]) is None
    assert loads.shares(20, 3) == [7, 7, 6]
    assert [load.key for load in loads.chosen(["b", "c"])] == ["b1", "b2", "c"]
    with pytest.raises(SystemExit):
        loads.chosen(["z"])


def runs(field, *values):
    return {"runs": [{field: v, "cpu_per_1000": v / 1000} if v else {"error": "it | broke\nhere"} for v in values]}


def results():
    machine = {"cores": 2, "cpu": "<x & y>", "memory_gib": 1, "kernel": "6", "file_system": "ext4", "load_average": 0.1, "date": "2026-01-02"}
    section = {"command": "run --only a,b", "commit": "1234567-dirty", "machine": machine}
    return {
        "loads": {**section, "servers": {name: {"version": "1", "copies": 1, "notes": ["held"]} for name in servers.SERVERS}, "rows": {
            "a1": {"title": "accept", "serial": False, "deliver": False, "messages": 10, "run": section, "servers": {
                "postfix": runs("accepted_per_second", 700, 800, 600), "exim": runs("accepted_per_second", 100, None, 300),
                "opensmtpd": runs("accepted_per_second", None, None, None), "mailraft": runs("accepted_per_second", 3500, 3600, 1000)}},
            "c": {"title": "serial <&>", "serial": True, "deliver": False, "messages": 10, "run": {**section, "command": "run c"}, "servers": {
                "postfix": runs("p50_ms", 2.0), "mailraft": runs("p50_ms", 1.0)}}}},
        "nodes": {**section, "rows": {"a2": {"title": "accept", "serial": False, "deliver": False, "nodes": {
            "3": runs("accepted_per_second", 500), "11": runs("accepted_per_second", 250)}}}},
        "queue": {**section, "rows": [{"what": "accept", "value": "7", "number": 7}]},
        "strace": {**section, "servers": {"postfix": {"messages": 4, "calls_per_message": {"fsync": 1.0}, "before_250": "4 of 4"},
                                          "opensmtpd": {"messages": 4, "calls_per_message": {}, "before_250": "0 of 4"}}},
        "stores": {**section, "left_out": ["RabbitMQ: no"], "stores": {"etcd": {"title": "etcd", "version": "3", "notes": "x", "runs": [
            {"per_second": 10.0}, {"error": "gone"}]}}},
    }


def test_report(tmp_path):
    report.write(results(), tmp_path)
    assert report.read(tmp_path / "results.json") == results()
    assert report.read(tmp_path / "none.json") == {}
    text = (tmp_path / "RESULTS.md").read_text()
    for line in (
        "| a1: accept | Postfix | 700 (600 to 800)/s | 1.00 | - | 0.70 (0.60 to 0.80) | - |",
        "| a1: accept | Exim | 200 (100 to 300)/s; failed 1 times: it / broke here | 0.29 | - | 0.20 (0.10 to 0.30) | - |",
        "| a1: accept | OpenSMTPD | -/s; failed 3 times: it / broke here | - | - | - | - |",
        "| a1: accept | mailraft | 3,500 (1,000 to 3,600)/s | 5.00 | - | 3.50 (1.00 to 3.60) | - |",
        "| c: serial <&> | mailraft | 1.00 (1.00 to 1.00) ms to 250 (p50) | 2.00 | - | 0.00 (0.00 to 0.00) | - |",
        "| a2: accept | 11 | 250 (250 to 250)/s | 0.25 (0.25 to 0.25) | - |",
        "| Postfix | 4 | fsync 1.00 | 4 of 4 |",
        "| OpenSMTPD | 4 | none | 0 of 4 |",
        "| etcd | 3 | 10.0 (10.0 to 10.0) gone | x |",
    ):
        assert line in text, line
    assert "Loads a1:\n\n    run --only a,b\n\nmailraft of commit 1234567-dirty. Machine: 2 cores" in text and "Loads c:\n\n    run c" in text
    assert text.index("| a2: accept | 3 |") < text.index("| a2: accept | 11 |")
    chart = xml.etree.ElementTree.parse(tmp_path / "results.svg").getroot()
    words = [t.text for t in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert "c: serial <&>" in words and "3,500/s (5.0 x)" in words and "700/s" in words
    width = float(chart.get("width"))
    assert all(float(r.get("x", 0)) + float(r.get("width")) <= width for r in chart.iter("{http://www.w3.org/2000/svg}rect") if r.get("x"))


TRACE = """\
10 100.000000 fsync(3</d/mx1/spool/1.seg>) = 0 <0.500000>
10 101.000000 fdatasync(4</d/mx1/spool/1.seg> <unfinished ...>
11 101.100000 io_submit(0x7f, 1, [{aio_data=0x7a, aio_rw_flags=RWF_DSYNC|RWF_NOWAIT, aio_lio_opcode=IOCB_CMD_PWRITEV, \
aio_fildes=39</d/mx1/data/raft/open-1>, aio_offset=0}]) = 1 <0.000043>
11 101.200000 io_getevents(0x7f, 1, 1, [{data=0x7a, obj=0x7b, res=-11, res2=0}], NULL) = 1 <0.000009>
12 101.300000 io_getevents(0x7f, 1, 1, [{data=0x7a, obj=0x7b, res=4096, res2=0}], NULL) = 1 <0.000000>
10 101.400000 <... fdatasync resumed>) = 0 <0.400000>
10 102.000000 fsync(3</d/x>) = -1 EIO (Input/output error) <0.000001>
13 103.000000 pwritev2(3</d/x>, [], 1, 0, 0) = 5 <0.1>
"""


def test_what_strace_saw():
    found = syncs.parse(TRACE)
    assert found == [(100.5, "fsync", "/d/mx1/spool/1.seg"), (101.3, "write with RWF_DSYNC", "/d/mx1/data/raft/open-1"),
                     (101.4, "fdatasync", "/d/mx1/spool/1.seg")]
    windows = [(101.0, 101.5), (101.0, 101.35), (100.0, 101.0)]
    assert [len(calls) for calls in syncs.before(found, windows)] == [2, 1, 1]
    assert syncs.judge_mailraft({"mx1": found, "mx2": found, "mx3": []}, windows) == 1
    assert syncs.judge_mailraft({"mx1": found, "mx2": [], "mx3": []}, windows) == 0


@pytest.fixture(scope="module")
def shop():
    """Not below pytest's own folders: peers run as users of their own, who are not let in there."""
    with folder("bench-test") as (path, _):
        path.chmod(0o755)
        resolver = servers.Resolver(path) if os.geteuid() == 0 else None
        try:
            yield path, resolver
        finally:
            if resolver:
                resolver.close()


@ROOT_ONLY
@pytest.mark.parametrize("name", servers.SERVERS)
def test_few_messages(shop, name, monkeypatch):
    """Through to the sink, and one after another with deliveries held: each accepted, counted, and nobody left."""
    # No client here tries a 451 again, and beside other tests, under sanitizers, a leader may be silent for a second.
    monkeypatch.setattr(servers.Mailraft, "settings", {"election_timeout": "3s", "lease": "10s", "node_timeout": "20s"})
    kind = servers.SERVERS[name]
    if kind.root and not servers.may_mount():
        pytest.skip("root may not mount here")
    if kind.missing():
        pytest.skip(f"{kind.missing()} is not installed: deploy/install-deps.sh --bench")
    deliver = loads.Load("b1", "deliver", 20, sessions=5, deliver=True)
    serial = loads.Load("c", "serial", 20, sessions=1, many=True, serial=True)
    for load in (deliver, serial):
        if kind.fails(load):
            continue
        result = loads.run(load, kind, shop[0] / f"{name}-{load.key}", shop[1], None)
        assert "error" not in result, result
        assert result["messages"] == 20 and result["cpu_per_1000"] > 0
        assert result["p50_ms"] > 0 if load.serial else result["delivered_per_second"] > 0
    assert not (measure.mounted("cgroup2") and list(measure.mounted("cgroup2").glob(f"mailraft-bench-{os.getpid()}-*")))


@pytest.mark.parametrize("kind", stores.KINDS, ids=lambda kind: kind.name)
def test_few_writes(kind):
    """Three nodes of each store that is installed find each other and confirm."""
    if not os.access(kind.program, os.X_OK):
        pytest.skip(f"{kind.title} is not installed: deploy/install-deps.sh --bench")
    with folder("bench-stores") as (path, _):
        result, _ = stores.one_round(kind, path, 200)
        assert "error" not in result, result
        assert result["per_second"] > 0


def descendants(pid):
    tree = measure.Tree()
    tree.roots.append(pid)
    return [p for p in tree.pids() if p != pid]


@ROOT_ONLY
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_half_way(tmp_path, number):
    """Nothing stays: no process, no folder, no group."""
    bench = subprocess.Popen([HERE / "run", "--only", "a2", "--peers", "", "--messages", "50", "--dir", tmp_path, "--out", tmp_path / "out"],
                             stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(b"smtp-source" in command(p) for p in descendants(bench.pid)) or bench.poll() is not None, "the load runs")
        started = descendants(bench.pid)
        bench.send_signal(number)
        assert bench.wait(60) == 130
    finally:
        bench.kill()
        bench.wait()
    assert [p for p in started if os.path.exists(f"/proc/{p}")] == []
    assert not list(tmp_path.glob("mailraft-bench-*")) and not (tmp_path / "out").exists()
    assert not (measure.mounted("cgroup2") and list(measure.mounted("cgroup2").glob(f"mailraft-bench-{bench.pid}-*")))


def command(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
