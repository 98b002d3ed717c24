"""Clients and next hops that nobody here wrote: swaks, smtp-source, smtp-sink, Postfix on both sides."""

import subprocess

import pytest

from harness import BIN, can_connect, read_journal, run, wait_for
from peers import Postfix


def test_swaks(make_cluster):
    c = make_cluster().start()
    out = run(["swaks", "--server", "127.0.0.1", "--port", c.nodes[1].smtp, "--from", "a@client.test", "--to",
               "b@example.test,c@example.test", "--ehlo", "client.test", "--header", "X-Load-Key: swaks-1"])
    assert "250 2.0.0 Ok: queued as" in out
    c.wait_empty()
    got = [e for e in read_journal(c.sink_journal) if e.get("key") == "swaks-1"]
    assert sorted(r for e in got for r in e["recipients"]) == ["b@example.test", "c@example.test"]
    refused = subprocess.run(["swaks", "--server", "127.0.0.1", "--port", str(c.nodes[1].smtp), "--from", "a@client.test",
                              "--to", "not an address", "--ehlo", "client.test"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "501 5.1.3" in refused.stdout + refused.stderr, refused.stdout


def test_smtp_source_to_smtp_sink(make_cluster):
    """Postfix's own load tools on both sides: 2,000 messages over 20 sessions, one a session and many a session."""
    c = make_cluster()
    c.spawn(["/usr/sbin/smtp-sink", "-u", "nobody", f"127.0.0.1:{c.sink_port}", "1000"], "smtp-sink.log")
    wait_for(lambda: can_connect(c.sink_port), "smtp-sink listens")
    c.start(sink=False)
    for args in ([], ["-d"]):
        run(["/usr/sbin/smtp-source", "-s", "20", "-m", "1000", "-l", "10240", *args, "-f", "a@client.test", "-t",
             "b@example.test", f"127.0.0.1:{c.nodes[0].smtp}"])
    c.wait_empty()
    totals = c.nodes[0].get("/v1/status")["totals"]
    assert totals["accepted"] == 2000 and totals["delivered"] == 2000, totals


@pytest.fixture
def postfix():
    """postfix(...) gives a Postfix that ends with the test."""
    made = []

    def make(*args, **kwargs):
        made.append(Postfix(*args, **kwargs))
        return made[-1]

    yield make
    for p in made:
        p.close()


def wait_sink(c, n):
    wait_for(lambda: c.sink_journal.exists() and c.sink_journal.read_text().count("\n") >= n, f"the sink has {n}")


def test_postfix_as_next_hop(make_cluster, postfix):
    """mailraft -> Postfix -> sink: everything arrives whole."""
    c = make_cluster()
    c.start_sink()
    p = postfix(c.dir, "nexthop", c.sink_port)
    c.overrides["routes"] = {"default": f"smtp://127.0.0.1:{p.port}"}
    for node in c.nodes:
        node.configure(c.config(node))
    c.start(sink=False)
    assert c.load(500).popen.wait(300) == 0
    c.wait_empty()
    wait_sink(c, 500)
    assert c.check_no_loss()["delivered"] == 500


def test_postfix_as_sender(make_cluster, postfix):
    """load -> Postfix -> mailraft -> sink, and the leader dies in the middle: Postfix's queue keeps what got no 250."""
    c = make_cluster().start()
    follower = next(n for n in c.nodes if n is not c.leader())
    p = postfix(c.dir, "sender", follower.smtp)
    load = c.spawn([BIN / "mailraft-load", "--to", f"127.0.0.1:{p.port}", "--messages", "1000", "--sessions", "10",
                    "--size", "4096", "--journal", c.dir / "load.jsonl", "--give-up", "100"], "load.log")
    wait_for(lambda: c.sink_journal.exists() and c.sink_journal.read_text().count("\n") > 200, "mail flows")
    leader = c.leader()
    leader.kill()
    assert load.popen.wait(300) == 0, load.text()
    wait_sink(c, 1000)
    c.wait_empty(c.alive())
    counts = c.verify()
    assert counts["lost"] == 0 and counts["altered"] == 0 and counts["delivered"] == 1000, counts


def test_swaks_through_a_dead_next_hop(make_cluster):
    """A next hop that is down shows in `queue` with the reason, and the message goes out when it is back."""
    c = make_cluster().start(sink=False)
    run(["swaks", "--server", "127.0.0.1", "--port", c.nodes[0].smtp, "--from", "a@client.test", "--to", "b@example.test",
         "--ehlo", "client.test"])

    def told():
        hops = c.nodes[1].get("/v1/queue")["next_hops"]
        return hops and "refused" in hops[0]["last_reply"] and hops[0]["deferred"] == 1

    wait_for(told, "the queue tells why")
    c.start_sink()
    c.wait_empty()
    assert len(read_journal(c.sink_journal)) >= 1
