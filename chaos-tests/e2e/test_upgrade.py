"""From one version to the next, node by node, while mail flows (PROTOCOL.md 4.6).

MAILRAFT_OLD is the folder with mailraftd of the version before (cluster version 1); without it there is nothing to do here.
"""

import os
import pathlib

import pytest
from harness import BIN, wait_for

OLD = os.environ.get("MAILRAFT_OLD")


@pytest.mark.skipif(OLD is None, reason="MAILRAFT_OLD does not name the programs of an older version")
def test_rolling_upgrade_under_load(make_cluster):
    """New programs speak as the old ones do until the last of these is gone; then the version rises by itself."""
    c = make_cluster()
    for node in c.nodes:
        node.program = pathlib.Path(OLD) / "mailraftd"
    c.start()
    load = c.load(3000, extra=["--rate", "200"])
    for i, node in enumerate(c.nodes):
        wait_for(lambda n=i: c.accepted() >= 400 * (n + 1), "the load goes on")
        assert node.end() == 0, node.text()[-2000:]
        node.program = BIN / "mailraftd"
        node.start()
        c.wait_ready([node])
        if i < 2:
            # It would stop the old ones.
            assert node.metric("cluster_version") == 1
    assert load.popen.wait(300) == 0, load.text()
    wait_for(lambda: all(n.metric("cluster_version") == 2 for n in c.nodes), "the version rises")
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["accepted"] == 3000 and counts["duplicated"] == 0, counts
    # Back to the old program: by its snapshot it takes no part and says why, or by its log it stops; the others go on.
    node = c.nodes[0]
    assert node.end() == 0
    node.program = pathlib.Path(OLD) / "mailraftd"
    node.start()
    wait_for(lambda: "unknown version" in node.text(), "the old program says that it is too old")
    assert not node.ready()
    c.wait_ready(c.nodes[1:])
