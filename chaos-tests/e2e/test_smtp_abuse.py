"""Who may speak, how much and how slowly: PROXY headers, XCLIENT, limits by address over all workers, clients that drip or
do not wait, and LMTP."""

import concurrent.futures
import contextlib
import smtplib
import socket
import ssl
import struct

import pytest

from harness import Talk, can_connect, free_port, read_journal, try_send, wait_for
from tls_fixture import Authority

STRANGERS = "198.51.100.0/24"


class Raw(Talk):
    """A client that may say something before the greeting, from any address of loopback."""

    def __init__(self, port, first=b"", source="127.0.0.1", limit=20):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=limit, source_address=(source, 0))
        self.file = self.socket.makefile("rb")
        if first:
            self.send(first)
        self.greeting = self.reply()

    def hello(self):
        assert self.greeting[0] == 220, self.greeting
        code, text = self.say("EHLO client.test")
        assert code == 250, text
        return text.splitlines()


def v1(source="198.51.100.7", port=4711):
    return f"PROXY TCP4 {source} 192.0.2.1 {port} 25\r\n".encode()


def v2(source="2001:db8::7", tlvs=b""):
    family, version = (0x21, socket.AF_INET6) if ":" in source else (0x11, socket.AF_INET)
    to = "2001:db8::1" if ":" in source else "192.0.2.1"
    payload = socket.inet_pton(version, source) + socket.inet_pton(version, to) + struct.pack(">HH", 4711, 25) + tlvs
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, family]) + struct.pack(">H", len(payload)) + payload


def make(make_cluster, listeners=({},), workers=1, **smtp):
    """One node; .ports: its listeners."""
    c = make_cluster(n=1)
    node = c.nodes[0]
    c.ports = [node.smtp] + [free_port() for _ in listeners[1:]]
    c.overrides["node"] = {"workers": workers}
    c.overrides["smtp"] = {"listeners": [{"listen": f"127.0.0.1:{p}", **l} for p, l in zip(c.ports, listeners)], **smtp}
    c.reconfigure()
    return c.start()


def received(c):
    return [e for e in read_journal(c.sink_journal) if e["event"] == "received"]


def accepted(c, number):
    """The log's events of so many accepted messages."""
    return wait_for(lambda: (e := c.nodes[0].events("accepted"), len(e) >= number and e)[1], f"{number} are accepted")


def deliver(t, recipient="b@example.test"):
    t.begin(recipient=recipient)
    t.send("Subject: x\r\n\r\nx\r\n.\r\n")
    return t.reply()


# ---- PROXY ----


def test_proxy(make_cluster):
    """The address in the header decides who may relay, and stands in log and trace field."""
    c = make(make_cluster, [{}, {"proxy": True}], proxy_from=["127.0.0.0/8"], relay_from=[STRANGERS, "2001:db8::/64"])
    plain, proxied = c.ports
    for number, (header, address) in enumerate(
        [(v1(), "198.51.100.7"), (v2(), "2001:db8::7"), (v2(tlvs=b"\x01\0\4smtp\xe0\0\0"), "2001:db8::7")], 1
    ):
        with Raw(proxied, header) as t:
            t.hello()
            assert deliver(t)[0] == 250
        assert accepted(c, number)[-1]["client"] == address
    with Raw(proxied, v1("203.0.113.1")) as t:
        t.hello()
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
        assert t.say("RCPT TO:<b@example.test>")[0] == 554
    with Raw(plain, v1()) as t:  # another listener takes it for what it is there: no command
        assert t.greeting[0] == 220 and t.reply()[0] == 500
    for wrong in (b"EHLO client.test\r\n", b"PROXY TCP4 1.2.3.4\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"):
        with Raw(proxied, wrong) as t:
            assert t.greeting == (0, "closed")
    assert len(c.nodes[0].events("proxy_refused")) == 3
    c.wait_empty()


def test_proxy_from_a_stranger(make_cluster):
    """Who is no trusted proxy gets no word, whatever it says."""
    c = make(make_cluster, [{}, {"proxy": True}], proxy_from=["127.0.0.7/32"])
    with Raw(c.ports[1], v1()) as t:
        assert t.greeting == (0, "closed")
    assert [e["client"] for e in c.nodes[0].events("proxy_refused")] == ["127.0.0.1"]
    with Raw(c.ports[1], v1(), source="127.0.0.7") as t:
        t.hello()


def test_proxy_before_tls(make_cluster):
    """Header, handshake, greeting delay, greeting: the handshake is no talk, and what is said behind it too early is."""
    c = make_cluster(n=1)
    authority = Authority(c.dir)
    cert = authority.issue("mx1.test")
    port = c.nodes[0].smtp
    c.overrides["smtp"] = {
        "listeners": [{"listen": f"127.0.0.1:{port}", "tls": "implicit", "proxy": True}], "greeting_delay": "1s",
        "proxy_from": ["127.0.0.0/8"], "relay_from": [STRANGERS],
        "client_limits": {"connections": 1, "exempt": ["198.51.100.200/32"]},
        "tls": {"cert": str(cert.cert), "key": str(cert.key)},
    }
    c.reconfigure()
    c.start()
    context = ssl.create_default_context(cafile=str(authority.cert))

    def secured(header, early=b""):
        t = Raw.__new__(Raw)
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        plain.sendall(header)
        t.socket = context.wrap_socket(plain, server_hostname="mx1.test")
        t.file = t.socket.makefile("rb")
        t.send(early)
        t.greeting = t.reply()
        return t

    with secured(v1()) as t:
        t.hello()
        assert deliver(t)[0] == 250
        assert accepted(c, 1)[-1]["client"] == "198.51.100.7" and accepted(c, 1)[-1]["tls"]
        with pytest.raises((ssl.SSLError, ConnectionError)):  # one more than may be: no word in plain text
            secured(v1(port=4712))
    with secured(v1("198.51.100.8"), b"EHLO spammer.test\r\n") as t:
        assert t.greeting[0] == 554
    with secured(v1("198.51.100.200"), b"EHLO friend.test\r\n") as t:
        assert t.greeting[0] == 220 and t.reply()[0] == 250
    c.wait_empty()


# ---- XCLIENT ----


def test_xclient(make_cluster):
    c = make(make_cluster, xclient_from=["127.0.0.7/32"], relay_from=[STRANGERS])
    with Raw(c.ports[0]) as t:
        assert not [line for line in t.hello() if line.startswith("XCLIENT")]
        assert t.say("XCLIENT ADDR=198.51.100.7")[0] == 550
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
        assert t.say("RCPT TO:<b@example.test>")[0] == 554
    with Raw(c.ports[0], source="127.0.0.7") as t:
        assert "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT" in t.hello()
        assert t.say("XCLIENT ADDR=nonsense")[0] == 501
        assert t.say("XCLIENT NAME=spike.test ADDR=198.51.100.7 PORT=99")[0] == 220
        assert t.say("MAIL FROM:<a@client.test>")[0] == 503
        t.greeting = (220, "")
        t.hello()
        assert deliver(t)[0] == 250
        assert accepted(c, 1)[-1]["peer"] == "198.51.100.7:99"
        assert t.say("XCLIENT ADDR=IPV6:2001:db8::1")[0] == 220
        t.hello()
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
        assert t.say("XCLIENT ADDR=198.51.100.8")[0] == 503
        assert t.say("RCPT TO:<b@example.test>")[0] == 554
    c.wait_empty()


# ---- limits ----


def test_connections_over_all_workers(make_cluster):
    """Three connections of an address and eight of a network at a time are three and eight, wherever they land."""
    c = make(make_cluster, workers=4, client_limits={"connections": 3, "network_connections": 8, "exempt": []})
    with contextlib.ExitStack() as stack:
        talks = [stack.enter_context(Raw(c.ports[0])) for _ in range(20)]
        assert sorted(t.greeting[0] for t in talks) == [220] * 3 + [421] * 17
        assert {t.greeting[1] for t in talks if t.greeting[0] == 421} == {
            "4.7.0 Too many connections from your address, try later"}
        others = [stack.enter_context(Raw(c.ports[0], source=f"127.0.0.{i}")) for i in range(2, 12)]
        assert sorted(t.greeting[0] for t in others) == [220] * 5 + [421] * 5
        assert stack.enter_context(Raw(c.ports[0], source="127.0.1.1")).greeting[0] == 220
    assert c.nodes[0].metric("smtp_limited_connections_total") == 17
    assert c.nodes[0].metric("smtp_limited_network_connections_total") == 5
    limits = [e["limit"] for e in c.nodes[0].events("limited")]
    assert limits.count("connections") == 17 and limits.count("network_connections") == 5

    def again():
        with Raw(c.ports[0]) as t:
            return t.greeting[0] == 220

    wait_for(again, "the connections that ended are forgotten")


def test_rates_over_all_workers(make_cluster):
    """The rates of an address hold over its connections, those of its messages and recipients too."""
    c = make(make_cluster, workers=4, relay_from=["127.0.0.0/8"], client_limits={
        "connection_rate": "12/h", "message_rate": "5/h", "recipient_rate": "4/h", "exempt": []})
    codes = [try_send(c.ports[0])[0] for _ in range(20)]
    assert codes == [250] * 4 + [450] * 8 + [421] * 8, codes
    node = c.nodes[0]
    assert node.metric("smtp_limited_recipient_rate_total") == 1  # the fifth; from then on none got beyond MAIL
    assert node.metric("smtp_limited_message_rate_total") == 7
    assert node.metric("smtp_limited_connection_rate_total") == 8
    with Raw(c.ports[0], source="127.0.0.9") as t:
        t.hello()
        assert deliver(t)[0] == 250
    c.wait_empty()
    assert len(received(c)) == 5


# ---- time ----


def drip(port, data, source):
    """Sends an octet at a time until the server has enough; its last words."""
    with Raw(port, source=source) as t:
        assert t.greeting[0] == 220, t.greeting
        t.socket.settimeout(0.05)
        while True:
            with contextlib.suppress(TimeoutError):
                return t.reply()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                t.send(data)
            t.file.close()
            t.file = t.socket.makefile("rb")


def test_slow_clients_hold_nothing_up(make_cluster):
    """Two hundred that drip their first command are ended, and mail flows meanwhile."""
    c = make(make_cluster, line_timeout="2s", client_limits={"network_connections": "unlimited"})
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        slow = [pool.submit(drip, c.ports[0], b"E", f"127.0.{i // 50}.{1 + i % 50}") for i in range(200)]
        wait_for(lambda: c.nodes[0].metric("smtp_sessions") >= 150, "they are there")
        assert c.load(200, sessions=10).popen.wait(120) == 0
        for f in slow:
            assert f.result() == (421, "4.4.2 Timed out waiting for the end of a line")
    assert c.nodes[0].metric("smtp_slow_clients_total") == 200
    c.wait_empty()
    assert c.check_no_loss()["delivered"] == 200


def test_greeting_delay(make_cluster):
    c = make(make_cluster, [{}, {"proxy": True}], greeting_delay="1s", proxy_from=["127.0.0.0/8"],
             client_limits={"exempt": ["127.0.0.9/32"]})
    with Raw(c.ports[0]) as t:
        t.hello()
    with Raw(c.ports[0], b"EHLO spammer.test\r\n") as t:
        assert t.greeting == (554, "5.5.1 You have to wait for the greeting")
        assert t.reply() == (0, "closed")
    with Raw(c.ports[0], b"EHLO friend.test\r\n", source="127.0.0.9") as t:
        assert t.greeting[0] == 220 and t.reply()[0] == 250
    with Raw(c.ports[1], v1()) as t:  # the header is no talk
        t.hello()
    with Raw(c.ports[1], v1() + b"EHLO spammer.test\r\n") as t:
        assert t.greeting[0] == 554
    assert c.nodes[0].metric("smtp_early_talkers_total") == 2


def test_commands_without_mail(make_cluster):
    c = make(make_cluster)
    with Raw(c.ports[0]) as t:
        t.hello()
        codes = [t.say("NOOP")[0] for _ in range(100)]
    assert codes == [250] * 99 + [421], codes


# ---- LMTP ----


@pytest.fixture
def lmtp(make_cluster):
    c = make_cluster(n=1)
    c.ports = [c.nodes[0].smtp, free_port()]
    c.overrides["smtp"] = {"relay_from": [STRANGERS], "listeners": [
        {"listen": f"127.0.0.1:{c.ports[0]}"}, {"listen": f"127.0.0.1:{c.ports[1]}", "profile": "lmtp"}]}
    c.overrides["domains"] = [{"name": "local.test", "route": f"smtp://127.0.0.1:{c.sink_port}"}]
    c.reconfigure()
    return c.start()


def test_lmtp(lmtp):
    """A reply for each recipient that was accepted, in order; local domains only; LHLO and nothing else."""
    with Raw(lmtp.ports[1]) as t:
        assert t.greeting[0] == 220 and " LMTP " in t.greeting[1]
        assert t.say("EHLO client.test")[0] == 500 and t.say("HELO client.test")[0] == 500
        assert t.say("LHLO client.test")[0] == 250
        assert t.say("MAIL FROM:<a@client.test>")[0] == 250
        assert [t.say(f"RCPT TO:<{r}>")[0] for r in ("u1@local.test", "u@far.test", "u2@local.test")] == [250, 554, 250]
        assert t.say("DATA")[0] == 354
        t.send("Subject: x\r\n\r\nx\r\n.\r\nNOOP\r\n")
        replies = [t.reply() for _ in range(3)]
        assert [r[0] for r in replies] == [250] * 3
        assert replies[0] == replies[1] and "queued as" in replies[0][1] and replies[2][1] == "2.0.0 Ok"
        assert t.say("DATA")[0] == 503
    with smtplib.LMTP("127.0.0.1", lmtp.ports[1], timeout=20) as s:
        assert s.sendmail("a@client.test", ["u3@local.test"], "Subject: x\r\n\r\nx\r\n") == {}
    with Raw(lmtp.ports[0]) as t:
        assert t.say("LHLO client.test")[0] == 500
    lmtp.wait_empty()
    assert sorted(r for e in received(lmtp) for r in e["recipients"]) == [f"u{i}@local.test" for i in (1, 2, 3)]


# ---- routes that name several hosts ----


def test_route_of_several_hosts(make_cluster):
    """The second takes over from the first when that dies, without a deferral; and gives it back some time after."""
    c = make_cluster(n=1)
    second = c.another_sink("second")
    c.reconfigure(routes={"default": f"smtp://127.0.0.1:{c.sink_port}, smtp://127.0.0.1:{second.port}"})
    c.start()
    node = c.nodes[0]
    assert try_send(node.smtp)[0] == 250
    c.wait_empty()
    assert len(received(c)) == 1
    c.sink.kill()
    wait_for(lambda: not can_connect(c.sink_port), "the first is gone")
    assert c.load(100, sessions=10).popen.wait(120) == 0
    c.wait_empty()
    taken = [e for e in read_journal(second.journal) if e["event"] == "received"]
    assert len(taken) == 100 and not node.events("deferred"), (len(taken), node.events("deferred")[:3])
    assert len(received(c)) == 1


def test_source_address(make_cluster):
    """Next hops see the configured address; one that the host has not is an event and a deferral."""
    c = make_cluster(n=1)
    c.overrides["delivery"] = {"source": ["127.0.0.5", "2001:db8::5"]}
    c.reconfigure()
    with socket.create_server(("127.0.0.1", c.sink_port)) as hop:
        c.start(sink=False)
        assert try_send(c.nodes[0].smtp)[0] == 250
        hop.settimeout(60)
        connection, peer = hop.accept()
        connection.close()
        assert peer[0] == "127.0.0.5"
    c.nodes[0].end()
    c.overrides["delivery"] = {"source": ["192.0.2.1"], "retry": {"first": "200ms", "factor": 1, "max": "200ms"}}
    c.reconfigure()
    c.start()
    wait_for(lambda: c.nodes[0].events("source_failed"), "the event")
    wait_for(lambda: c.nodes[0].events("deferred"), "the deferral")
    assert not received(c)
