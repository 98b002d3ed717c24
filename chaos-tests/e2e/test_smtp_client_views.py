"""What clients see that are wrong, hostile, strangers, or gone: each gets its reply, and nothing of theirs is kept."""

import contextlib
import socket

import pytest

from harness import Talk, read_journal, try_send, wait_for

MB = 1 << 20


@pytest.fixture
def relay(make_cluster):
    """A cluster for clients who may relay, without patience for large messages and many recipients."""
    c = make_cluster()
    c.overrides["smtp"] = {"max_message_size": "1MiB", "max_recipients": 10}
    c.reconfigure()
    return c.start()


def check_nothing_kept(c):
    """Neither queued nor delivered, and no body left behind on any node."""
    assert c.queued() == 0
    wait_for(lambda: all(n.metric("spool_bodies") == 0 for n in c.nodes), "bodies are forgotten")
    assert not [e for e in read_journal(c.sink_journal) if e["event"] == "received"]
    assert c.nodes[0].get("/v1/status")["totals"]["accepted"] == 0


# What ends the message for one program and not for another (SMTP smuggling, CVE-2023-51764 and its kin).
ENDS = [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n\n.\r\n", b"\r\r\n.\r\n", b"\n\n.\n\n"]
SMUGGLED = b"MAIL FROM:<admin@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"


def test_smuggling(relay):
    """A bare CR or LF is never an end of the message, and a message that holds one is refused as a whole."""
    for i, end in enumerate(ENDS):
        with Talk(relay.nodes[i % 3].smtp) as t:
            t.begin()
            t.send(b"Subject: carrier\r\n\r\ntext" + end + SMUGGLED + b"\r\n.\r\n")
            code, text = t.reply()
            assert (code, text[:5]) == (550, "5.6.0"), (end, code, text)
            if b"\r\n.\r\n" in end:  # the true end too: what follows are commands, whose DATA did not wait for its answer
                assert [t.reply()[0] for _ in range(4)] == [250, 250, 503, 0], end
            else:
                assert t.say("NOOP")[0] == 250, end
    for line_end in (b"\n", b"\r"):
        with Talk(relay.nodes[0].smtp) as t:
            t.send(b"MAIL FROM:<a@client.test>" + line_end + b"RCPT TO:<b@example.test>" + line_end + b"\r\n")
            assert t.reply()[0] in (500, 501)
    relay.wait_empty()
    assert not [e for e in read_journal(relay.sink_journal) if e["event"] == "received"]


def test_limits_of_a_message(relay):
    """Too large, said before and found out; too many recipients; too long lines; too many errors."""
    with Talk(relay.nodes[0].smtp) as t:
        assert t.say(f"MAIL FROM:<a@client.test> SIZE={MB + 1}") == (552, "5.3.4 Message too large")
        t.begin()
        t.send((b"x" * 998 + b"\r\n") * 2000 + b".\r\n")
        assert t.reply() == (552, "5.3.4 Message too large")
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
        codes = [t.say(f"RCPT TO:<r{i}@example.test>") for i in range(12)]
        assert [code for code, _ in codes] == [250] * 10 + [452] * 2, codes
        assert codes[-1][1].startswith("4.5.3")
        assert t.say("RSET")[0] == 250
        assert t.say("NOOP " + "x" * 4000) == (500, "5.5.2 Line too long")
        assert t.say("NOOP")[0] == 250
    with Talk(relay.nodes[0].smtp) as t:
        replies = [t.say("NONSENSE") for _ in range(20)]
        assert {code for code, _ in replies} == {500}, replies
        assert t.reply()[0] == 421 and t.reply() == (0, "closed")
    with Talk(relay.nodes[0].smtp) as t:  # a line that never ends takes no memory
        with contextlib.suppress(ConnectionError, socket.timeout):
            for _ in range(64):
                t.send(b"x" * 65536)
    check_nothing_kept(relay)


def test_order_of_commands(relay):
    with Talk(relay.nodes[1].smtp, greet=False) as t:
        assert t.greeting[0] == 220 and "mx2.test" in t.greeting[1]
        for line in ("MAIL FROM:<a@client.test>", "RCPT TO:<b@example.test>", "DATA"):
            assert t.say(line)[0] == 503, line
        assert t.say("EHLO client.test")[0] == 250
        assert t.say("RCPT TO:<b@example.test>")[0] == 503
        assert t.say("DATA")[0] == 503
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
        assert t.say("MAIL FROM:<a@client.test>")[0] == 503
        assert t.say("DATA")[0] in (503, 554)
        assert t.say("RCPT TO:<b@example.test>")[0] == 250
        assert t.say("EHLO client.test")[0] == 250  # forgets the transaction (RFC 5321 4.1.4)
        assert t.say("DATA")[0] == 503
        assert t.say("DATA with an argument")[0] in (501, 503)
        assert t.say("QUIT")[0] == 221
        assert t.reply() == (0, "closed")
    check_nothing_kept(relay)


def test_relay_is_denied_to_strangers(make_cluster):
    """Who may not relay reaches the domains that are ours, and no other, in any way of writing an address."""
    c = make_cluster()
    c.overrides["smtp"] = {"relay_from": []}
    c.overrides["domains"] = [{"name": "ours.test", "route": f"smtp://127.0.0.1:{c.sink_port}"}]
    c.reconfigure()
    c.start()
    foreign = (
        "b@example.test", "b@ours.test.example.test", "b%example.test@[127.0.0.1]", "b@sub.ours.test", "b@ours.test.",
        '"b@example.test"@example.test', "@ours.test:b@example.test",
    )
    with Talk(c.nodes[0].smtp) as t:
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
        for address in foreign:
            code, text = t.say(f"RCPT TO:<{address}>")
            assert code in (501, 550, 553, 554) and (code != 554 or text == "5.7.1 Relay access denied"), (address, code)
        assert t.say("RCPT TO:<b@example.test>") == (554, "5.7.1 Relay access denied")
        assert t.say("DATA")[0] in (503, 554)
    assert try_send(c.nodes[0].smtp, recipient="b@OURS.test")[0] == 250
    c.wait_empty()
    got = [e["recipients"] for e in read_journal(c.sink_journal) if e["event"] == "received"]
    assert [r.lower() for r in got[0]] == ["b@ours.test"] and len(got) == 1, got


def has_pieces(node):
    """Bytes of the body below are on the node's disk."""
    for path in (node.dir / "data" / "spool").iterdir():
        with path.open("rb") as f:
            if b"y" * 998 in f.read(MB):
                return True
    return False


def test_client_gone_in_the_middle(relay):
    """A message whose dot never came is nobody's: not queued, not delivered, its pieces forgotten on every node."""
    held = [Talk(relay.nodes[i % 3].smtp) for i in range(6)]
    for t in held:
        t.begin()
        t.send((b"y" * 998 + b"\r\n") * 900)  # more than a piece: some of it is in spools already
    wait_for(lambda: all(has_pieces(n) for n in relay.nodes), "pieces are in spools")
    for i, t in enumerate(held):
        if i % 2:  # a reset
            t.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        t.close()
    check_nothing_kept(relay)
    assert relay.load(50).popen.wait(60) == 0
    relay.wait_empty()
    assert relay.check_no_loss()["delivered"] == 50


def test_node_gone_in_the_middle(relay):
    """The acceptor dies in DATA: its client reads no reply, and the others keep nothing."""
    node = next(n for n in relay.nodes if n is not relay.leader())
    with Talk(node.smtp) as t:
        t.begin()
        t.send((b"y" * 998 + b"\r\n") * 900)
        others = [n for n in relay.nodes if n is not node]
        wait_for(lambda: all(has_pieces(n) for n in others), "pieces are at the others")
        node.kill()
        assert t.reply() == (0, "closed")
    assert relay.queued(others) == 0
    assert all(n.metric("spool_bodies") == 0 or not n.get("/v1/messages")["messages"] for n in others)
    node.start()
    relay.wait_ready([node])
    assert relay.queued() == 0 and node.get("/v1/status")["totals"]["accepted"] == 0
