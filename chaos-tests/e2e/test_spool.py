"""Copies of bodies that are lost or damaged on one node come back from the others, and are never delivered wrong."""

import shutil

from harness import wait_for


def queue_500(make_cluster):
    c = make_cluster().start(sink=False)
    assert c.load(500, size=20000).popen.wait(300) == 0
    assert c.queued() == 500
    wait_for(lambda: all(n.metric("spool_bodies") == 500 for n in c.nodes), "each node holds each body")
    return c


def stop_all(c):
    for node in c.nodes:
        node.kill()


def deliver(c):
    c.start_sink()
    for node in c.nodes:
        node.start()
    c.wait_ready()
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["delivered"] == 500 and counts["altered"] == 0, counts


def test_spool_deleted(make_cluster):
    c = queue_500(make_cluster)
    stop_all(c)
    shutil.rmtree(c.nodes[0].dir / "data" / "spool")
    deliver(c)
    assert c.nodes[0].metric("bodies_pulled_total") > 0


def test_byte_flipped(make_cluster):
    """One byte in the middle of each of ten places of a node's spool."""
    c = queue_500(make_cluster)
    stop_all(c)
    spool = c.nodes[0].dir / "data" / "spool"
    segments = [p for p in spool.iterdir() if p.stat().st_size > 0]
    assert segments
    flipped = 0
    for path in segments:
        data = bytearray(path.read_bytes())
        used = len(data.rstrip(b"\0"))
        for i in range(10):
            data[used * (2 * i + 1) // 20] ^= 0x10
            flipped += 1
        path.write_bytes(data)
    assert flipped >= 10
    deliver(c)


def test_node_back_after_it_missed_bodies(make_cluster):
    """What was accepted while a node was down is copied to it when it is back."""
    c = make_cluster().start(sink=False)
    down = c.nodes[2]
    down.kill()
    assert c.load(300, to=c.nodes[:2], size=5000).popen.wait(300) == 0
    down.start()
    c.wait_ready([down])
    wait_for(lambda: down.metric("spool_bodies") == 300 and down.metric("bodies_missing") == 0, "the copies are there")
    c.start_sink()
    c.wait_empty()
    assert c.check_no_loss()["delivered"] == 300
