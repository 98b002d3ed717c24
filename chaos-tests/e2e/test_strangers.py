"""Strangers at the doors: bytes that are no frames, no SMTP, no TLS, or not from us. Nodes live on and mail flows."""

import contextlib
import os
import random
import signal
import socket
import ssl
import struct

import pytest

from harness import BIN, run, try_send, wait_for

CLIENT_HELLO = bytes.fromhex("16030100f1010000ed0303") + os.urandom(230)
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def frame(kind, meta, tail=b"", meta_len=None, tail_len=None, version=1, checksum=b"\0\0\0\0"):
    """A frame's header with lengths of its own; the checksum is wrong."""
    return (
        b"MR" + bytes([version, kind])
        + struct.pack(">II", len(meta) if meta_len is None else meta_len, len(tail) if tail_len is None else tail_len)
        + checksum + meta + tail
    )


def garbage(seed):
    rng = random.Random(seed)
    return [
        b"", b"\0", b"M", b"MR", b"MR\1\1", CLIENT_HELLO, CLIENT_HELLO[:7], HTTP, b"EHLO x\r\n" * 1000,
        frame(1, b"x" * 100), frame(1, b"x" * 10, meta_len=100), frame(1, b"", meta_len=0xFFFFFFFF),
        frame(14, b"", tail_len=0xFFFFFFFF), frame(14, b"", tail_len=1 << 20), frame(200, b"x"), frame(1, b"x", version=9),
        frame(5, b"\x08\x01"), *(rng.randbytes(rng.randrange(1, 5000)) for _ in range(30)),
        *(frame(rng.randrange(0, 20), rng.randbytes(rng.randrange(300)), checksum=rng.randbytes(4)) for _ in range(30)),
    ]


def throw(port, data, wait=True):
    """Sends it, says that nothing more comes, and reads to the end; what came back."""
    back = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s, contextlib.suppress(ConnectionError, BrokenPipeError):
        s.sendall(data)
        if wait:
            s.shutdown(socket.SHUT_WR)
            while piece := s.recv(65536):
                back += piece
    return back


def check_alive(c, starts=1):
    assert all(n.alive() and n.starts == starts for n in c.nodes)
    for node in c.nodes:
        assert try_send(node.smtp)[0] == 250
    c.wait_empty()


def test_garbage(make_cluster):
    """At each node's cluster port and SMTP port, while mail flows; some strangers stay, and hold nobody up."""
    c = make_cluster().start()
    load = c.load(600, extra=["--rate", "150"])
    staying = []
    for node in c.nodes:
        for port in (node.peer, node.smtp):
            for i, data in enumerate(garbage(port == node.smtp)):
                throw(port, data, wait=i % 3 != 0)
            for data in (b"", b"MR\1\1", b"x"):
                s = socket.create_connection(("127.0.0.1", port), timeout=20)
                s.sendall(data)
                staying.append(s)
    for node in c.nodes:  # more connections than a cluster of this size ever has
        for _ in range(300):
            staying.append(socket.create_connection(("127.0.0.1", node.peer), timeout=20))
    assert load.popen.wait(300) == 0, load.text()
    c.wait_empty()
    assert c.check_no_loss()["delivered"] == 600
    check_alive(c)
    for s in staying:
        s.close()


def test_strangers_do_not_keep_a_node_out(make_cluster):
    """All inbound connections of a node are taken by strangers that say nothing; a restarted peer gets through."""
    c = make_cluster().start()
    taken = []
    for node in c.nodes:
        for _ in range(300):
            taken.append(socket.create_connection(("127.0.0.1", node.peer), timeout=20))
    c.nodes[0].kill()
    c.nodes[0].start()
    c.wait_ready()
    for s in taken:
        s.close()


# ---- TLS ----


def authority(folder, *nodes):
    run([BIN / "mailraftctl", "pki", "init", folder])
    for node in nodes:
        run([BIN / "mailraftctl", "pki", "issue", folder, node])
    return folder


def shake_hands(port, context, hello=b""):
    """What a TLS client reads from the node: bytes, or the error that ended it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw, context.wrap_socket(raw) as s:
            # With TLS 1.3 a server tells what it thinks of the client's certificate after the handshake.
            s.sendall(hello)
            return s.recv(65536)
    except (ssl.SSLError, ConnectionError) as e:
        return e


def client(folder=None, name=None, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    if folder is not None:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@pytest.fixture
def tls_cluster(make_cluster):
    return make_cluster(tls=True).start()


def test_tls_strangers(tls_cluster):
    """No certificate, one of another authority, an old TLS, none at all: a closed connection and not a byte."""
    c = tls_cluster
    port = c.nodes[0].peer
    other = authority(c.dir / "other", "mx2")
    hello = frame(1, b"hello")
    for context in (client(), client(other, "mx2"), client(c.dir / "pki", "mx2", ssl.TLSVersion.TLSv1_2)):
        got = shake_hands(port, context, hello)
        assert isinstance(got, Exception) or got == b"", got
    for data in garbage(5):
        assert b"MR" not in throw(port, data)
    # A certificate of ours opens the door, but not for somebody who says nothing that we understand.
    got = shake_hands(port, client(c.dir / "pki", "mx2"), hello)
    assert isinstance(got, Exception) or got == b"", got
    assert c.nodes[0].events("link_rejected"), "strangers are told in the log"
    check_alive(c)


def test_tls_certificate_of_another_name(make_cluster):
    """A node with a certificate for another node's name is let in by nobody."""
    c = make_cluster(tls=True)
    (c.dir / "pki" / "mx3.pem").write_bytes((c.dir / "pki" / "mx2.pem").read_bytes())
    (c.dir / "pki" / "mx3.key").write_bytes((c.dir / "pki" / "mx2.key").read_bytes())
    c.start_sink()
    for node in c.nodes:
        node.start()
    impostor = c.nodes[2]
    for node in c.nodes[:2]:
        wait_for(
            lambda n=node: any(e["claims"] == "mx3" and "another name" in e["reason"] for e in n.events("link_rejected")),
            "it is told in the log",
        )
    assert impostor.status_code("/readyz") != 200
    assert all(n.alive() for n in c.nodes)
    assert not any(n.events("formed") for n in c.nodes), "formed with an impostor"


def shown(port):
    """The certificate of a node's links, as PEM."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw, client().wrap_socket(raw) as s:
        return ssl.DER_cert_to_PEM_cert(s.getpeercert(binary_form=True))


def test_tls_certificates_of_links_are_renewed(make_cluster):
    """They end soon, and the log says so. New ones, SIGHUP: links that are made from then on show them; wrong ones change
    nothing, and that is told."""
    c = make_cluster(tls=True)
    pki = c.dir / "pki"

    def renew(days):
        for node in c.nodes:
            for file in (pki / f"{node.name}.pem", pki / f"{node.name}.key"):
                file.unlink()
            run([BIN / "mailraftctl", "pki", "issue", pki, node.name, "--days", days])

    def of_links(node, event):
        return [e for e in node.events(event) if e["key"] == "cluster.tls.cert"]

    renew(9)
    c.start()
    for node in c.nodes:
        assert len(of_links(node, "tls_certificate")) == len(of_links(node, "tls_certificate_expires")) == 1
        assert {e["key"] for e in node.events("tls_certificate")} == {"cluster.tls.cert", "cluster.tls.ca"}
    renew(90)
    for node in c.nodes:
        node.signal(signal.SIGHUP)
    for node in c.nodes:
        wait_for(lambda n=node: len(of_links(n, "tls_certificate")) == 2, "the new certificate is logged")
        assert of_links(node, "tls_certificate")[1]["days_left"] >= 89
        assert len(of_links(node, "tls_certificate_expires")) == 1
    assert ssl.PEM_cert_to_DER_cert(shown(c.nodes[0].peer)) == ssl.PEM_cert_to_DER_cert((pki / "mx1.pem").read_text())
    (pki / "mx1.pem").write_text("no certificate\n")
    c.nodes[0].signal(signal.SIGHUP)
    failed = wait_for(lambda: c.nodes[0].events("reload_failed"), "the wrong file is told")[0]
    assert "mx1.pem" in failed["reason"]
    c.nodes[1].kill()  # so all its links are made anew
    c.nodes[1].start()
    c.wait_ready()


def test_tls_load_and_leader_kill(tls_cluster):
    c = tls_cluster
    load = c.load(500, extra=["--rate", "250"])
    wait_for(lambda: c.accepted() >= 150, "the load runs")
    leader = c.leader()
    leader.kill()
    assert load.popen.wait(300) == 0, load.text()
    leader.start()
    c.wait_ready([leader])
    c.wait_empty()
    counts = c.check_no_loss()
    assert counts["accepted"] == counts["delivered"] == 500, counts
