"""The same scenarios at a cluster that runs in Kubernetes as a StatefulSet, by kubectl.

What it asks of the cluster: no other mail; a route for the load's domain (load.invalid, or the default) that leads to
--sink-listen on the machine where this runs; leave to relay for 127.0.0.1, from where a port-forward comes. What
Kubernetes does not let a scenario do is told as a missing capability, and the scenarios that need it are skipped:

  pause     a signal from inside does not stop PID 1 of a container: needs shareProcessNamespace in the pod
  down      a dead pod is started again by the kubelet, at once: nothing stays dead
  network   a NetworkPolicy leaves connections alone that stand already, so it is no cut: not offered
  files, local, strace   data directories and processes are not on this machine

kill -9 is `kubectl exec ... kill -9` where the process is not PID 1, else `delete pod --force --grace-period=0`, before whose SIGKILL
the kubelet may send a SIGTERM. What could not be judged (states without --trace-file, fencing behind address translation, the exit
status of a deleted pod) is listed with the result as not checked.
"""

import datetime
import json
import pathlib
import subprocess
import sys
import threading
import time

from scenarios.common import LIMIT, Node, Process, harness, wait_for
from scenarios.load import Sink

PROGRAM = "mailraftd"


def add_options(parser):
    group = parser.add_argument_group("--target kubernetes")
    group.add_argument("--namespace", default="default", metavar="NS")
    group.add_argument("--statefulset", default="mailraft", metavar="NAME")
    group.add_argument("--container", default="mailraftd", metavar="NAME")
    group.add_argument("--context", metavar="NAME", help="of the kubeconfig")
    group.add_argument("--smtp-port", type=int, default=25, metavar="PORT", help="in the pod (default 25)")
    group.add_argument("--http-port", type=int, default=8025, metavar="PORT", help="in the pod (default 8025)")
    group.add_argument("--token-file", type=pathlib.Path, help="what http.token_file has")
    group.add_argument("--trace-file", metavar="FILE", help="debug.apply_trace in the pod's configuration")
    group.add_argument("--sink-listen", default="0.0.0.0:2526", metavar="HOST:PORT", help="where the cluster's route leads")


class Kubectl:
    def __init__(self, options):
        self.options = options
        self.base = ["kubectl", *(["--context", options.context] if options.context else []), "-n", options.namespace]

    def args(self, *args):
        return [*self.base, *map(str, args)]

    def run(self, *args, limit=30, check=True):
        done = subprocess.run(self.args(*args), capture_output=True, text=True, check=False, timeout=limit)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(map(str, args))}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else None

    def json(self, *args):
        return json.loads(self.run(*args, "-o", "json"))

    def exec(self, pod, *command, check=True):
        return self.run("exec", pod, "-c", self.options.container, "--", *command, check=check)

    def pod(self, name):
        """uid, restarts and whether the container runs; None when there is no such pod."""
        text = self.run("get", "pod", name, "-o", "json", check=False)
        if text is None:
            return None
        pod = json.loads(text)
        mine = next((c for c in pod["status"].get("containerStatuses", []) if c["name"] == self.options.container), {})
        return {"uid": pod["metadata"]["uid"], "restarts": mine.get("restartCount", 0), "running": "running" in mine.get("state", {}),
                "leaving": "deletionTimestamp" in pod["metadata"]}

    def process(self, pod):
        """Process id of mailraftd as a command in its container sees it; None when that cannot be found out."""
        text = self.exec(pod, "pidof", PROGRAM, check=False)
        return int(text.split()[0]) if text and text.split() else None


class Supervised:
    """A kubectl that ends whenever its pod does (port-forward, logs -f), and is begun again until close."""

    def __init__(self, make_args, log):
        self.make_args = make_args
        self.log = log
        self.ended = threading.Event()
        self.process = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.ended.is_set():
            self.process = Process(self.make_args(), self.log)
            while self.process.alive() and not self.ended.wait(0.1):
                pass
            self.process.kill()
            self.ended.wait(0.3)

    def close(self):
        self.ended.set()
        self.thread.join(10)


class KubernetesNode(Node):
    # The base class makes a process of this machine: none of that is wanted here, only what it asks by HTTP.
    def __init__(self, target, pod):  # pylint: disable=super-init-not-called
        self.target = target
        self.pod = pod
        self.name = pod
        self.dir = target.dir / pod
        self.dir.mkdir(exist_ok=True)
        self.log = self.dir / "log"
        self.host = "127.0.0.1"
        self.smtp = harness.free_port()
        self.http = harness.free_port()
        self.token = target.token
        self.prefix, self.env, self.overlay = [], {}, {}
        self.paused = False
        self.popen = None
        self.seen = target.kubectl.pod(pod)
        self.known_alive, self.known_until = False, 0.0
        self.forward = self.follow = None

    def connect(self):
        options = self.target.options
        kubectl = self.target.kubectl
        self.forward = Supervised(
            lambda: kubectl.args("port-forward", f"pod/{self.pod}", f"{self.smtp}:{options.smtp_port}", f"{self.http}:{options.http_port}"),
            self.dir / "port-forward.log")
        since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.follow = Supervised(
            lambda: kubectl.args("logs", "-f", self.pod, "-c", options.container, f"--since-time={since}"), self.log)

    def close(self):
        for child in (self.forward, self.follow):
            if child:
                child.close()

    @property
    def smtp_address(self):
        return f"127.0.0.1:{self.smtp}"

    def peers(self):
        return None

    def alive(self):
        """As the API server said within the last second: it is asked by a process of its own each time, and asked often."""
        if time.monotonic() > self.known_until:
            pod = self.target.kubectl.pod(self.pod)
            self.known_alive = bool(pod and pod["running"] and not pod["leaving"])
            self.known_until = time.monotonic() + 1
        return self.known_alive

    def ready(self):
        return self.status_code("/readyz") == 200

    def text(self):
        """The log, each line once: a follower that was begun again tells anew what the one before has told."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(dict.fromkeys(lines))

    def _replaced(self, before):
        def look():
            now = self.target.kubectl.pod(self.pod)
            if now and now["running"] and not now["leaving"] and (now["uid"], now["restarts"]) != (before["uid"], before["restarts"]):
                self.seen = now
                self.known_until = 0.0
                return True
            return False

        return look

    def start(self):
        """Kubernetes starts it; this waits until it runs."""
        wait_for(self.alive, f"{self.pod} runs", 120, 0.3)
        self.seen = self.target.kubectl.pod(self.pod)
        self.paused = False
        self.target.world.mark(f"{self.name} runs again")
        return self

    def kill(self):
        kubectl = self.target.kubectl
        self.target.world.leader_hit(self.name)
        before = self.seen
        pid = kubectl.process(self.pod)
        if pid and pid != 1:
            kubectl.exec(self.pod, "kill", "-9", pid)
        else:
            kubectl.run("delete", "pod", self.pod, "--force", "--grace-period=0", "--wait=false")
        self.paused = False
        self.target.world.mark(f"{self.name} killed")
        wait_for(self._replaced(before), f"{self.pod} was started again", 120, 0.3)

    def terminate(self, limit=LIMIT):
        """Kubernetes does not tell the exit status of a pod that it deletes: 0 stands for an end within the limit."""
        before = self.seen
        self.target.world.leader_hit(self.name)
        self.target.world.mark(f"{self.name} deleted")
        self.target.kubectl.run("delete", "pod", self.pod, "--wait=false")
        wait_for(self._replaced(before), f"{self.pod} was started again", limit + 90, 0.3)
        return 0

    def pause(self):
        self.target.world.leader_hit(self.name)
        self.target.world.paused_at(self.name)
        self.target.kubectl.exec(self.pod, "kill", "-STOP", self.target.kubectl.process(self.pod))
        self.paused = True
        self.target.world.mark(f"{self.name} paused")

    def resume(self):
        if self.paused:
            self.target.world.resumed_at(self.name)
            self.target.kubectl.exec(self.pod, "kill", "-CONT", self.target.kubectl.process(self.pod))
            self.paused = False
            self.target.world.mark(f"{self.name} resumed")

    def crashed(self):
        now = self.target.kubectl.pod(self.pod)
        return now is None or (now["uid"], now["restarts"]) != (self.seen["uid"], self.seen["restarts"])

    def figures(self):
        pid = self.target.kubectl.process(self.pod)
        if pid is None:
            return None
        files = self.target.kubectl.exec(self.pod, "ls", f"/proc/{pid}/fd", check=False)
        status = self.target.kubectl.exec(self.pod, "cat", f"/proc/{pid}/status", check=False)
        if files is None or status is None:
            return None
        rss = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
        return {"fds": len(files.split()), "rss_kib": rss, "pid": (self.seen["uid"], self.seen["restarts"])}


class KubernetesTarget:
    name = "kubernetes"

    def __init__(self, world, folder, options):
        self.world = world
        self.dir = folder
        self.options = options
        self.kubectl = Kubectl(options)
        self.net = None
        self.children = []
        self.token = options.token_file.read_text().split("\n")[0] if options.token_file else None
        self.unchecked = {"fencing": "the next hop sees translated addresses", "alive": "exit status of deleted pods"}
        if not options.trace_file:
            self.unchecked["states"] = "no --trace-file"
        count = self.kubectl.json("get", "statefulset", options.statefulset)["spec"]["replicas"]
        self.nodes = [KubernetesNode(self, f"{options.statefulset}-{i}") for i in range(count)]

    @staticmethod
    def capabilities(options):
        kubectl = Kubectl(options)
        try:
            pid = kubectl.process(f"{options.statefulset}-0")
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as e:
            sys.exit(f"chaos-tests/run: {e}")
        pause = None
        if pid is None:
            pause = f"pidof {PROGRAM} does not work in the container"
        elif pid == 1:
            pause = "mailraftd is PID 1 of its container, which no signal from inside stops (shareProcessNamespace would help)"
        elsewhere = "the processes are not on this machine"
        return {"pause": pause, "down": "Kubernetes starts a dead pod again at once",
                "network": "a NetworkPolicy does not cut connections that stand already", "local": elsewhere, "files": elsewhere,
                "strace": elsewhere, "faketime": elsewhere, "root": elsewhere, "config": "the cluster has its own configuration"}

    def new_sink(self, name, args=()):
        host, _, port = self.options.sink_listen.rpartition(":")
        return Sink(self.world, name, host, int(port), args)

    def configure_all(self):
        """The cluster's configuration is its owner's."""

    def start_all(self):
        for node in self.nodes:
            node.connect()
        for node in self.nodes:
            status = wait_for(lambda n=node: n.get("/v1/status", 2), f"{node.pod} answers through the port-forward", 60, 0.2)
            node.name = status["node"]

    def stop_all(self, fail):
        """It goes on: it is not ours. What has to be read from the pods is read now."""

    @staticmethod
    def log_of(node):
        return node.text()

    def trace_of(self, node):
        if not self.options.trace_file:
            return ""
        return self.kubectl.exec(node.pod, "cat", self.options.trace_file, check=False) or ""

    def spawn(self, args, log):
        child = Process(args, self.dir / log)
        self.children.append(child)
        return child

    def spawn_load(self, args, log):
        return self.spawn([harness.BIN / "mailraft-load", *args], log)

    def spawn_sink(self, args, log):
        return self.spawn([harness.BIN / "mailraft-sink", *args], log)

    def send_by(self, node, journal, log):
        child = self.spawn_load(["--to", node.smtp_address, "--messages", 3, "--sessions", 1, "--size", 100, "--journal", journal,
                                 "--give-up", "20", "--quiet"], log)
        try:
            return child.popen.wait(40) == 0
        except subprocess.TimeoutExpired:
            child.kill()
            return False

    def close(self):
        for node in self.nodes:
            try:
                node.resume()
            except RuntimeError as e:
                print(f"{node.pod} may still be paused: {e}", file=sys.stderr)
            node.close()
        for child in self.children:
            child.kill()
