"""A queue of its largest size (PROTOCOL.md 4.9): every node refuses new mail, whoever leads; what was accepted is whole, and
when deliveries have made room, mail is accepted again."""

from harness import Talk, wait_for

LIMIT = 1 << 20  # the smallest; a message takes some 340 bytes of it


def refuses(node):
    with Talk(node.smtp) as t:
        assert t.greeting[0] == 220
        code, text = t.say("MAIL FROM:<a@client.test>")
        assert code == 452 and text == "4.3.1 Queue full, try later", (code, text)


def test_full_queue(make_cluster):
    c = make_cluster(cluster={"max_state": "1MiB"})
    c.start(sink=False)  # nothing can be delivered
    load = c.load(1800, extra=["--give-up", "1"])
    wait_for(lambda: all(n.status_code("/readyz") == 503 for n in c.nodes), "the queue is full")
    load.popen.wait(120)
    refused = [e for e in c.sent() if e["event"] == "refused"]
    assert refused and all(e["code"] == 452 for e in refused), refused[:5]
    queued = c.queued()
    assert 1000 < queued < 2000 and queued == c.accepted(), queued
    for node in c.nodes:
        refuses(node)
        status = node.get("/v1/status")
        assert status["readiness"] == "queue_full" and any("queue full" in a for a in status["alarms"]), status
        assert node.metric("queue_full") == 1 and node.metric("state_max_bytes") == LIMIT
        assert LIMIT * 9 // 10 < node.metric("state_bytes") <= LIMIT * 17 // 16
        assert len(node.events("queue_full")) == 1 and node.events("queue_full")[0]["max"] == LIMIT
    # Another leader, and one that has read all of it from its log again.
    old = c.leader()
    old.kill()
    new = c.leader(c.alive())
    assert new != old
    refuses(new)
    old.start()
    wait_for(lambda: (old.get("/v1/status") or {}).get("readiness") == "queue_full", "it is back, and knows")
    refuses(old)
    c.start_sink()
    c.wait_empty()
    c.wait_ready()
    for node in c.nodes:
        assert node.metric("queue_full") == 0 and node.events("queue_full_ended")
        with Talk(node.smtp) as t:
            assert t.say("MAIL FROM:<a@client.test>")[0] == 250
    assert c.check_no_loss()["delivered"] == queued
