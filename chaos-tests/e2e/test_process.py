"""What mailraftd asks of its system for itself."""

import collections
import os

from harness import wait_for


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
