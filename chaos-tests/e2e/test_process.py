"""What mailraftd asks of its system for itself."""

import collections
import contextlib
import json
import os
import shlex
import signal
import subprocess
import time

from harness import BIN, Talk, can_connect, wait_for


def policy(node):
    """Of its threads, but for one at most: that of a sanitizer begins before main."""
    found = collections.Counter()
    for thread in os.listdir(f"/proc/{node.pid}/task"):
        try:
            found[os.sched_getscheduler(int(thread))] += 1
        except ProcessLookupError:  # it has ended
            pass
    usual, threads = found.most_common(1)[0]
    assert threads >= found.total() - 1, found
    return usual


def test_scheduling_policy(make_cluster):
    """SCHED_BATCH for all its threads; who was started under another policy keeps that."""
    c = make_cluster(n=1).start(sink=False)
    node = c.nodes[0]
    assert policy(node) == os.SCHED_BATCH
    node.kill()
    node.prefix = ["chrt", "--idle", "0"]
    node.start()
    # It may never get ready beside other tests: it only has to have more than the main thread.
    wait_for(lambda: len(os.listdir(f"/proc/{node.pid}/task")) > 4, "it has begun")
    assert policy(node) == os.SCHED_IDLE


def in_data(node):
    talk = Talk(node.smtp)
    talk.begin()
    talk.send(b"Subject: x\r\n\r\nthe first half\r\n")
    return talk


def alive(talk):
    return talk.say("NOOP")[0] == 250


def test_told_to_end_amid_mail(make_cluster):
    """SIGTERM: what clients have begun to send is taken, others hear 421; the node ends when the last one is done."""
    c = make_cluster(n=3).start(sink=False)
    node = c.leader()
    with in_data(node) as data, Talk(node.smtp) as begun, Talk(node.smtp) as idle:
        assert begun.say("MAIL FROM:<a@client.test>")[0] == 250
        node.signal(signal.SIGTERM)
        assert idle.reply()[0] == 421
        wait_for(lambda: alive(begun) and not can_connect(node.smtp), "it takes no connections")
        wait_for(lambda: alive(begun) and node.events("leadership_handed_over"), "another one leads")
        assert node.status_code("/readyz") == 503 and node.metric("smtp_transactions") == 2
        data.send(b"the other half\r\n.\r\n")
        assert data.reply()[0] == 250
        assert data.reply()[0] == 421
        assert alive(begun)
        assert begun.say("RCPT TO:<b@example.test>")[0] == 250
        assert begun.say("DATA")[0] == 354
        begun.send(b"x\r\n.\r\n")
        assert begun.reply()[0] == 250
        assert node.popen.wait(60) == 0, node.text()[-3000:]
    assert all(e.get("reply") == "Shutting down" for e in node.events("rejected")), node.text()[-3000:]


def test_told_to_end_and_client_does_not(make_cluster):
    """One who never comes to the end of his message is cut off when the time is up."""
    c = make_cluster(n=1, node={"shutdown_timeout": "1s"}).start(sink=False)
    node = c.nodes[0]
    with in_data(node) as data:
        node.signal(signal.SIGTERM)
        assert data.reply()[0] == 421
        assert node.popen.wait(60) == 0, node.text()[-3000:]


def test_told_to_end_and_client_is_silent(make_cluster):
    """Who has not begun to send his message is not waited for as those are who have."""
    c = make_cluster(n=1, node={"shutdown_timeout": "60s"}).start(sink=False)
    node = c.nodes[0]
    with in_data(node) as data, Talk(node.smtp) as silent:
        assert silent.say("MAIL FROM:<a@client.test>")[0] == 250
        node.signal(signal.SIGTERM)
        assert silent.reply()[0] == 421
        data.send(b"the other half\r\n.\r\n")
        assert data.reply()[0] == 250
        assert node.popen.wait(30) == 0, node.text()[-3000:]


def test_told_twice_to_end(make_cluster):
    """A second signal ends the wait; but not one that comes with the first, from a terminal and a supervisor."""
    c = make_cluster(n=1, node={"shutdown_timeout": "600s"}).start(sink=False)
    node = c.nodes[0]
    with Talk(node.smtp) as talk:
        assert talk.say("MAIL FROM:<a@client.test>")[0] == 250
        node.signal(signal.SIGINT)
        node.signal(signal.SIGTERM)
        wait_for(lambda: alive(talk) and node.events("stopping"), "it ends")
        node.signal(signal.SIGHUP)  # too late to be of use
        begun = time.monotonic()
        wait_for(lambda: alive(talk) and time.monotonic() - begun > 1.5, "it waits for him who talks")
        assert not node.events("stopping_now")
        node.signal(signal.SIGTERM)
        assert node.popen.wait(60) == 0, node.text()[-3000:]
        assert node.events("stopping_now") and not node.events("reloaded")


def test_nobody_reads_the_log(make_cluster):
    """Mail does not wait for who reads stderr; what was dropped is told of when there is a reader again."""
    c = make_cluster(n=1)
    node = c.nodes[0]
    pipe = c.dir / "stderr"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    node.prefix = ["sh", "-c", f'exec "$@" 2>{shlex.quote(str(pipe))}', "sh"]
    c.start()
    c.wait_ready()
    c.load(1500)
    wait_for(lambda: c.accepted() == 1500, "all is accepted")
    c.wait_empty()
    assert node.metric("log_lines_lost_total") > 0
    assert node.metric("lease_held") == 1
    assert node.metric("core_max_tick_gap_microseconds") < 2500000
    text = b""

    def read():
        nonlocal text
        with contextlib.suppress(BlockingIOError):
            while True:
                text += os.read(reader, 1 << 20)
        return text[: text.rfind(b"\n") + 1].decode().splitlines()

    def told():
        return sum(e["count"] for e in map(json.loads, read()) if e["event"] == "log_lines_lost")

    read()
    c.load(1, journal="one.jsonl", log="one.log")
    # A short line may have found room before the reader was back: they may be told of in parts.
    wait_for(lambda: told() == node.metric("log_lines_lost_total"), "the lost lines are told of")
    events = [json.loads(line) for line in read()]
    assert not [e for e in events if e["event"] in ("lease_ended", "worker_hangs")]
    assert node.end() == 0
    os.close(reader)


def test_signals_during_the_start(make_cluster):
    """A node that is told to reload while it starts does so; one that is told to end then ends at once, in order."""
    c = make_cluster(n=1)
    node = c.nodes[0].start()
    wait_for(lambda: node.events("starting"), "it starts", every=0.001)
    while not node.ready():
        assert node.alive(), f"{node.popen.poll()}: {node.text()[-2000:]}"
        node.signal(signal.SIGHUP)
        time.sleep(0.001)
    wait_for(lambda: node.events("reloaded"), "it has read its configuration again")
    node.kill()
    node.log.write_text("")
    node.start()
    wait_for(lambda: node.events("starting"), "it starts", every=0.001)
    assert node.end() == 0, node.text()[-2000:]


def test_rules_that_are_too_many(make_cluster):
    """What a start would refuse is refused by --check-config and by a reload as well, which then changes nothing."""
    c = make_cluster(n=1).start(sink=False)
    node = c.nodes[0]
    routes = {f"domain{i}.example": "smtp://127.0.0.1:25" for i in range(3000)}
    c.reconfigure(routes=routes, log={"level": "debug"})
    check = subprocess.run(
        [BIN / "mailraftd", "--config", node.config, "--check-config"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 1 and "too many" in check.stderr, check
    node.signal(signal.SIGHUP)
    wait_for(lambda: node.events("reload_failed", "reloaded"), "it has looked")
    (said,) = node.events("reload_failed", "reloaded", "rules_refused")
    assert said["event"] == "reload_failed" and "too many" in said["reason"], said
    assert node.end() == 0
    node.start()
    assert node.popen.wait(30) == 1 and "too many" in node.text()
