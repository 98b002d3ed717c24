"""Who a data directory is, and who may not take part; configurations that are wrong, and that change."""

import json
import shutil
import signal
import subprocess

from harness import BIN, Node, read_journal, try_send, wait_for


def mailraftd(*args):
    return subprocess.run([str(a) for a in (BIN / "mailraftd", *args)], capture_output=True, text=True, check=False, timeout=60)


def refused(node):
    """The reason in its status, once there is one."""

    def look():
        status = node.get("/v1/status")
        return status and status["refused"]

    return wait_for(look, f"{node.name} says why it is refused")


# ---- identity ----


def test_wiped_directory(make_cluster):
    """It comes back empty under its old name: refused, and says why everywhere; the others go on and take mail."""
    c = make_cluster().start()
    assert c.load(100).popen.wait(60) == 0
    wiped = next(n for n in c.nodes if n is not c.leader())
    others = [n for n in c.nodes if n is not wiped]
    wiped.kill()
    shutil.rmtree(wiped.dir / "data")
    wiped.start()
    reason = refused(wiped)
    assert "director" in reason and "leave it out" in reason, reason
    status = wiped.get("/v1/status")
    assert status["readiness"] == "refused" and any(reason in a for a in status["alarms"])
    assert wiped.status_code("/healthz") == 200 and wiped.status_code("/readyz") == 503
    assert any(e["reason"] == reason for e in wiped.events("refused", "peer_refuses"))
    code, text = try_send(wiped.smtp)
    assert code == 421, (code, text)
    shown = subprocess.run([str(BIN / "mailraftctl"), "--server", f"http://127.0.0.1:{wiped.http}", "status"],
                           capture_output=True, text=True, check=False)
    assert "refused" in (shown.stdout + shown.stderr).lower(), shown
    assert c.load(100, to=others, journal="second.jsonl").popen.wait(60) == 0
    c.wait_empty(others)
    assert wiped.alive()
    for journal in ("load.jsonl", "second.jsonl"):
        assert c.verify(journal)["lost"] == 0


def test_wiped_directory_of_a_stopped_cluster(make_cluster):
    """All stop, one is wiped, all start: it must not be taken for an old voter, nor form a cluster anew with anybody."""
    c = make_cluster().start(sink=False)
    assert c.load(100).popen.wait(60) == 0
    for node in c.nodes:
        node.kill()
    wiped = c.nodes[1]
    shutil.rmtree(wiped.dir / "data")
    for node in c.nodes:
        node.start()
    others = [c.nodes[0], c.nodes[2]]
    c.wait_ready(others)
    refused(wiped)
    assert c.queued(others) == 100
    c.start_sink()
    c.wait_empty(others)
    assert c.verify()["lost"] == 0


def test_ended_in_its_bootstrap(make_cluster):
    """The first term was written, the first segment could not be: the next start bootstraps, and the one after finds its log."""
    c = make_cluster(n=1)
    node = c.nodes[0]
    config = c.config(node)
    config["cluster"]["initial"].append("mx2=127.0.0.1:1")  # who is not there: it has an identity, and waits
    node.configure(config)
    node.start()
    wait_for(lambda: node.status_code("/healthz") == 200, "it waits")
    node.kill()
    in_the_way = node.dir / "data" / "raft" / "tmp-0000000000000001-0000000000000001"
    in_the_way.mkdir(parents=True, exist_ok=True)
    node.configure(c.config(node))
    node.start()
    wait_for(lambda: not node.alive(), "it ends")
    assert "the first configuration was not stored" in node.log.read_text()
    assert (in_the_way.parent / "metadata1").exists()
    in_the_way.rmdir()
    c.start(sink=False)
    assert c.load(10).popen.wait(60) == 0
    node.kill()
    node.start()
    c.wait_ready()
    assert c.queued(c.nodes) == 10


def test_different_initial_lists(make_cluster):
    """Two configurations that disagree about who is in it make no cluster at all, least of all two."""
    c = make_cluster(n=4)
    lists = {"mx1": c.nodes[:3], "mx2": c.nodes[:3], "mx3": c.nodes[1:], "mx4": c.nodes[1:]}
    for node in c.nodes:
        config = c.config(node)
        config["cluster"]["initial"] = [f"{n.name}=127.0.0.1:{n.peer}" for n in lists[node.name]]
        node.configure(config)
    for node in c.nodes:
        node.start()
    # Those two that the other list does not know are told so by somebody who has the other list.
    for node in (c.nodes[0], c.nodes[3]):
        assert "cluster.initial" in refused(node)
    for node in c.nodes:
        assert node.alive() and node.status_code("/healthz") == 200 and node.status_code("/readyz") == 503
        assert not node.events("formed"), node.name
        assert try_send(node.smtp)[0] == 421
    # With the lists put right the same directories form one cluster.
    for node in c.nodes:
        node.kill()
        node.configure(c.config(node))
    for node in c.nodes:
        node.start()
    c.wait_ready()
    assert len({n.get("/v1/status")["cluster"] for n in c.nodes}) == 1


def test_directory_of_another(make_cluster):
    """Another node's directory, a directory in use, and a copy from the past."""
    c = make_cluster().start()
    a, b, d = c.nodes
    second = Node(c, "mx1")
    second.configure(c.config(a))
    done = mailraftd("--config", second.config)
    assert done.returncode == 1 and "another process uses this data directory" in done.stderr, done
    assert a.alive()
    b.kill()
    config = c.config(a)
    config["node"]["data_dir"] = str(b.dir / "data")
    other = c.dir / "other.yaml"
    other.write_text(json.dumps(config))
    done = mailraftd("--config", other)
    assert done.returncode == 1 and "belongs to node mx2" in done.stderr, done
    # A virtual machine is set back to yesterday: its incarnation is one that its peers have seen already.
    shutil.copytree(b.dir / "data", b.dir / "yesterday")
    for _ in range(2):
        b.start()
        c.wait_ready([b])
        b.kill()
    shutil.rmtree(b.dir / "data")
    (b.dir / "yesterday").rename(b.dir / "data")
    b.start()
    reason = refused(b)
    assert "copy" in reason or "incarnation" in reason, reason
    assert b.status_code("/readyz") == 503 and b.status_code("/healthz") == 200
    assert try_send(a.smtp)[0] == 250
    c.wait_empty([a, d])


# ---- configuration ----

BROKEN = """\
node:
  name: mx1
  data_dir: /tmp/nowhere
  wrokers: 4
cluster:
  listen: "127.0.0.1:7400"
  initial: ["mx1=127.0.0.1:7400"]
  insecure: true
smtp:
  hostname: mx1.test
  listeners: [{listen: "127.0.0.1:2525"}]
  max_message_size: enormous
delivery:
  retry: {first: 5 parsecs}
  limits:
    "gmail.com": {connections: -3}
"""


def test_wrong_configuration(make_cluster):
    """Everything that is wrong is told with file, line and key, and nothing is started."""
    c = make_cluster(n=1)
    path = c.dir / "broken.yaml"
    path.write_text(BROKEN)
    for args in (("--config", path, "--check-config"), ("--config", path)):
        done = mailraftd(*args)
        assert done.returncode == 1, done
        for line, key in ((4, "node.wrokers"), (12, "smtp.max_message_size"), (14, "delivery.retry.first"),
                          (16, "connections")):
            assert any(t.startswith(f"{path}:{line}: ") and key in t for t in done.stderr.splitlines()), (line, key, done.stderr)
    path.write_text("node: [unclosed\n")
    done = mailraftd("--config", path, "--check-config")
    assert done.returncode == 1 and f"{path}:" in done.stderr, done
    done = mailraftd("--config", c.dir / "none.yaml", "--check-config")
    assert done.returncode == 1 and "none.yaml" in done.stderr, done
    done = mailraftd("--config", c.nodes[0].config, "--check-config")
    assert done.returncode == 0 and not (c.nodes[0].dir / "data").exists(), done
    assert mailraftd().returncode == 2 and mailraftd("--nonsense").returncode == 2


def taken(c):
    return sum(e["event"] == "received" for e in read_journal(c.sink_journal))


def test_reload(make_cluster):
    """SIGHUP: a limit is in force for the whole cluster as soon as the leader's file has it; a broken file changes
    nothing and is told; other files of the nodes raise an alarm."""
    delivery = {"retry": {"first": "1s", "factor": 1.5, "max": "3s"}}
    c = make_cluster(delivery={**delivery, "limits": {"default": {"rate": "1/h"}}}).start()
    assert c.load(60).popen.wait(60) == 0
    assert c.queued() >= 58
    leader = c.leader()
    good = leader.config.read_text()
    leader.config.write_text(good + "nonsense: [")
    leader.signal(signal.SIGHUP)
    (event,) = wait_for(lambda: leader.events("reload_failed"), "the broken file is told")
    assert f"{leader.config}:" in event["reason"], event
    assert leader.ready() and c.queued() >= 58
    c.reconfigure(delivery={**delivery, "limits": {"default": {"rate": "unlimited"}}})
    leader.signal(signal.SIGHUP)
    wait_for(lambda: leader.events("reloaded"), "the good file is taken")
    c.wait_empty()
    wait_for(lambda: taken(c) == 60, "all are delivered")
    followers = [n for n in c.nodes if n is not leader]
    wait_for(
        lambda: all(any(f"{n.name} has other" in a for a in leader.get("/v1/status")["alarms"]) for n in followers),
        "the leader tells whose configuration differs",
    )
    for node in followers:
        node.signal(signal.SIGHUP)
    wait_for(lambda: leader.get("/v1/status")["alarms"] == [], "nobody's differs any more")
    assert leader.end() == 0
    wait_for(lambda: c.leader(followers), "another leads")
    assert c.load(60, to=followers, journal="second.jsonl").popen.wait(60) == 0
    c.wait_empty(followers)
    assert c.verify("second.jsonl")["lost"] == 0
