"""The runner as a person uses it: on loopback without any privilege, its refusals, and Kubernetes by a kubectl that is a stub."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from scenarios.common import harness  # noqa: E402  pylint: disable=wrong-import-position

RUN = HERE.parent / "run"
pytestmark = pytest.mark.skipif(not (harness.BIN / "mailraftd").exists(), reason="mailraftd is not built")


def run(*args, **env):
    return subprocess.run([sys.executable, RUN, *map(str, args)], capture_output=True, text=True, check=False,
                          env={**os.environ, "MAILRAFT_BIN": str(harness.BIN), **env}, timeout=300)


def test_list_and_refusals():
    done = run("--list")
    assert done.returncode == 0 and "kill-leader" in done.stdout and "mix" in done.stdout
    done = run("no-such-thing")
    assert done.returncode == 2 and "no-such-thing" in done.stderr
    assert run("--target", "moon", "kill-leader").returncode == 2
    assert run("kill-leader", "--bin", "/nonexistent").returncode == 2


def test_without_namespaces(tmp_path):
    """On loopback: what needs a network is skipped, and said to be; the rest runs, with the same judgement."""
    done = run("kill-leader", "part-leader", "--seed", 5, "--dir", tmp_path / "run", "--results", tmp_path / "results.json",
               MAILRAFT_OWN_NAMESPACE="0", MAILRAFT_NO_NAMESPACE="namespaces are not allowed here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped part-leader: namespaces are not allowed here" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["scenario"] for r in results["runs"]] == ["kill-leader"]
    figures = results["runs"][0]["figures"]
    assert figures["lost"] == 0 and figures["messages"] > 100 and figures["compared"] > 100 and figures["takeover"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<svg" in page and "kill-leader" in page


STUB = '''#!%(python)s
"""A kubectl for tests: answers from the processes of a local cluster, and writes down how it was called."""
import json, os, pathlib, signal, socket, sys, threading, time
here = pathlib.Path(%(dir)r)
args = sys.argv[1:]
with open(here / "calls", "a") as f:
    f.write(json.dumps(args) + "\\n")
assert args[:2] == ["-n", "mail"], args
args = args[2:]
def pods():
    return json.loads((here / "pods.json").read_text())
def exec_(pod, command):
    p = pods()[pod]
    if command[0] == "pidof":
        print(p["pid"] if %(shared)r else 1)
    elif command[0] == "kill":
        assert int(command[2]) == p["pid"], command
        os.kill(p["pid"], getattr(signal, "SIG" + command[1][1:]) if not command[1][1:].isdigit() else int(command[1][1:]))
    else:
        os.execvp(command[0], [c.replace("/proc/1/", f"/proc/{p['pid']}/").replace("/trace", p["trace"]) for c in command])
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        a.close(); b.close()
def forward(local, remote):
    server = socket.create_server(("127.0.0.1", local))
    while True:
        a, _ = server.accept()
        try:
            b = socket.create_connection(("127.0.0.1", remote))
        except OSError:
            a.close()
            continue
        for pair in ((a, b), (b, a)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
if args[:2] == ["get", "statefulset"]:
    print(json.dumps({"spec": {"replicas": len(pods())}}))
elif args[:2] == ["get", "pod"]:
    p = pods()[args[2]]
    print(json.dumps({"metadata": {"uid": p["uid"]}, "status": {"containerStatuses": [
        {"name": "mailraftd", "restartCount": p["restarts"], "state": {"running": {}} if p["pid"] else {}}]}}))
elif args[0] == "exec":
    assert args[2:5] == ["-c", "mailraftd", "--"], args
    exec_(args[1], args[5:])
elif args[:2] == ["delete", "pod"]:
    (here / ("delete-" + args[2])).touch()
    os.kill(pods()[args[2]]["pid"], signal.SIGKILL if "--force" in args else signal.SIGTERM)
elif args[0] == "port-forward":
    pod = args[1].split("/")[1]
    p = pods()[pod]
    for pair in args[2:]:
        local, remote = pair.split(":")
        threading.Thread(target=forward, args=(int(local), p["smtp"] if remote == "25" else p["http"]), daemon=True).start()
    while pods()[pod]["pid"] == p["pid"]:  # as the real one, it ends with its pod
        time.sleep(0.1)
elif args[0] == "logs":
    os.execvp("tail", ["tail", "-n", "+1", "--pid=%%d" %% os.getppid(), "-f", pods()[args[2]]["log"]])
else:
    sys.exit("unknown: " + repr(args))
'''


class Kubelet:
    """A local cluster whose nodes are started again when they die, as pods are; tells the stub about them by a file."""

    def __init__(self, folder, shared):
        self.dir = folder
        self.cluster = harness.Cluster(folder / "cluster-of-pods")
        self.sink_port = self.cluster.sink_port
        self.uid = {n.name: 0 for n in self.cluster.nodes}
        self.restarts = {n.name: 0 for n in self.cluster.nodes}
        self.ended = threading.Event()
        for node in self.cluster.nodes:
            config = self.cluster.config(node)
            config["debug"] = {"apply_trace": str(node.dir / "trace"), "state_hash_every": 50}
            node.configure(config)
            node.start()
        (folder / "bin").mkdir()
        (folder / "bin" / "kubectl").write_text(STUB % {"python": sys.executable, "dir": str(folder), "shared": shared})
        (folder / "bin" / "kubectl").chmod(0o755)
        self.tell()
        self.thread = threading.Thread(target=self.keep, daemon=True)
        self.thread.start()

    def tell(self):
        pods = {f"mr-{i}": {"pid": n.pid if n.alive() else 0, "smtp": n.smtp, "http": n.http, "log": str(n.log),
                            "trace": str(n.dir / "trace"), "uid": f"u{self.uid[n.name]}", "restarts": self.restarts[n.name]}
                for i, n in enumerate(self.cluster.nodes)}
        (self.dir / "pods.new").write_text(json.dumps(pods))
        (self.dir / "pods.new").rename(self.dir / "pods.json")

    def keep(self):
        while not self.ended.wait(0.05):
            for i, node in enumerate(self.cluster.nodes):
                if not node.alive():
                    deleted = self.dir / f"delete-mr-{i}"
                    if deleted.exists():
                        deleted.unlink()
                        self.uid[node.name] += 1
                    else:
                        self.restarts[node.name] += 1
                    time.sleep(0.5)
                    node.start()
                    self.tell()

    def close(self):
        self.ended.set()
        self.thread.join()
        for node in self.cluster.nodes:
            node.signal(signal.SIGCONT)
        self.cluster.close()


@pytest.mark.parametrize("shared", [True, False])
def test_kubernetes_by_a_stub(tmp_path, shared):
    (tmp_path / "cluster-of-pods").mkdir()
    kubelet = Kubelet(tmp_path, shared)
    wanted = ["kill-leader", "restart-rolling", "pause-election", "majority-lost"] if shared else ["kill-leader", "pause-election"]
    try:
        done = run("--target", "kubernetes", "--namespace", "mail", "--statefulset", "mr", "--sink-listen",
                   f"127.0.0.1:{kubelet.sink_port}", "--trace-file", "/trace", "--seed", 3, "--rate", 100, "--dir", tmp_path / "run",
                   *wanted,
                   PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    finally:
        kubelet.close()
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [r["scenario"] for r in results["runs"]] == (wanted[:3] if shared else wanted[:1])
    assert [s["scenario"] for s in results["skipped"]] == (wanted[3:] if shared else wanted[1:])
    for r in results["runs"]:
        assert r["figures"]["messages"] > 50 and r["figures"]["compared"] > 50 and "fencing" in r["notes"]["not checked"]
    calls = [json.loads(line)[2:] for line in (tmp_path / "calls").read_text().splitlines()]
    deleted = [c for c in calls if c[:2] == ["delete", "pod"]]
    assert any("--force" in c for c in deleted) != shared
    assert sum("--force" not in c for c in deleted) == (3 if shared else 0)  # each once, in order
    stopped = [c for c in calls if c[0] == "exec" and c[5:7] == ["kill", "-STOP"]]
    assert bool(stopped) == shared
