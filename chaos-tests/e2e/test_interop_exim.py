"""Exim on both sides, as Postfix is in test_interop_postfix.py. Exim sends by BDAT whatever it may, and notes in its log
(K) which messages went or came that way."""

import types

import pytest

from harness import free_port, wait_for
from interop import Message, by, secured, send, users, wait_report
from peers import PASSWORD, USER, Pki
from peers_exim import Exim

BOX = "box.test"  # kept by the receiving Exim
ALICE = f"alice@{BOX}"
REFUSE = """\
  deny local_parts = refused
       message = 5.7.1 not this one
  defer local_parts = later
       condition = ${if !exists{%s/now}}
       message = 4.2.0 not yet
  require message = 5.7.0 who are you
       authenticated = *
"""


@pytest.fixture(scope="module")
def chain(shared_cluster):
    """smtplib -> .out (Exim) -> .c (mailraft) -> .box (Exim)."""
    c = shared_cluster(n=1)
    tls = secured(c)
    box = Exim(c.dir, "box", 1, local=BOX, tls=c.pki.issue("box.test"), auth=True, acl=REFUSE % c.dir)
    c.peers.append(box)
    other = Pki(c.dir / "other-pki")
    stranger = Exim(c.dir, "stranger", 1, local="stranger.test", tls=other.issue("box.test"), auth=True)
    c.peers.append(stranger)
    submission = free_port()
    credentials = c.dir / "credentials"
    credentials.write_text(f"127.0.0.1:{box.port} {USER} {PASSWORD}\n")
    credentials.chmod(0o600)
    c.reconfigure(
        smtp={
            "tls": tls,
            "auth": {"file": str(users(c.dir)), "senders": "any"},
            "relay_from": [],
            "listeners": [
                {"listen": f"127.0.0.1:{c.nodes[0].smtp}"},
                {"listen": f"127.0.0.1:{submission}", "profile": "submission"},
            ],
        },
        domains=[{"name": BOX, "route": f"smtp://{USER}@127.0.0.1:{box.port}"}],
        routes={"default": f"smtp://127.0.0.1:{stranger.port}"},
        delivery={
            "retry": {"first": "1s", "factor": 1.5, "max": "3s"},
            "connect_timeout": "5s",
            "tls": {"default": {"policy": "verify", "names": ["box.test"]}},
            "tls_ca": str(c.pki.ca),
            "credentials": str(credentials),
        },
    )
    c.start(sink=False)
    out = Exim(c.dir, "out", submission, tls=c.pki.issue("out.test"), ca=c.pki.ca, login=(USER, PASSWORD))
    c.peers.append(out)
    return types.SimpleNamespace(c=c, out=out, box=box, submission=submission, stranger=stranger)


def through(chain, message, recipient, sender=ALICE, **more):
    """Gives the message to the first Exim; the header fields on top of it in the last one's Maildir."""
    assert not send(chain.out.port, sender, recipient, message.data, **more)
    return message.same(chain.box.wait_mail(message))


def flags(line):
    return line.split(" ")


def test_tls_auth_and_bdat_on_both_sides(chain):
    m = Message(ALICE, f"bob@{BOX}")
    top = through(chain, m, f"bob@{BOX}")
    assert "with ESMTPSA" in by(top, "mx1.test")
    # It verified our certificate, logged in, and sent by BDAT (K), with PIPELINING (L).
    sent = chain.out.wait_line(" => ", f"bob@{BOX}")
    assert " X=TLS1.3:" in sent and " CV=yes " in sent and " A=plain" in sent, sent
    assert "K" in flags(sent) and "L" in flags(sent), sent
    # We verified its certificate, logged in, and sent by BDAT.
    got = chain.box.wait_line(" <= ", m.key)
    assert " P=esmtpsa " in got and " X=TLS1.3:" in got and f" A=plain:{USER}" in got, got
    assert "K" in flags(got), got


def test_many_chunks(chain):
    """Megabytes, which Exim cuts into chunks of its own choice."""
    m = Message(ALICE, f"bob@{BOX}", body=b"".join(b"%015d\r\n" % i for i in range(300000)))
    through(chain, m, f"bob@{BOX}")
    assert "K" in flags(chain.out.wait_line(" => ", m.key) if chain.out.lines(" => ", m.key) else chain.out.lines(" => ")[-1])
    assert "K" in flags(chain.box.wait_line(" <= ", m.key))


def test_data_where_bdat_is_not_used(chain):
    """The same by DATA: dots are stuffed and unstuffed between the same two programs."""
    p = Exim(chain.c.dir, "outdata", chain.submission, tls=chain.c.pki.issue("outdata.test"), ca=chain.c.pki.ca,
             login=(USER, PASSWORD), chunking=False)
    chain.c.peers.append(p)
    m = Message(ALICE, f"bob@{BOX}")
    send(p.port, ALICE, f"bob@{BOX}", m.data)
    m.same(chain.box.wait_mail(m))
    assert "K" not in flags(p.wait_line(" => ", f"bob@{BOX}"))


def test_smtputf8(chain):
    sender, recipient = f"jürgen@{BOX}", f"δοκιμή@{BOX}"
    m = Message(sender, recipient, subject="Grüße aus Köln")
    top = through(chain, m, recipient, sender=sender, mail=["SMTPUTF8", "BODY=8BITMIME"])
    assert "with UTF8SMTPSA" in by(top, "mx1.test"), top.get_all("Received")
    got = chain.box.wait_line(" <= ", m.key)
    assert " P=utf8esmtpsa " in got and f" <= {sender} " in got, got


def test_dsn_success_is_passed_on(chain):
    m = Message(ALICE, f"bob@{BOX}")
    through(chain, m, f"bob@{BOX}", mail=["RET=HDRS", "ENVID=env1"], rcpt=["NOTIFY=SUCCESS", f"ORCPT=rfc822;Bob@{BOX}"])
    whole, each, _ = wait_report(chain.box, "env1")
    assert "box.test" in whole["Reporting-MTA"]
    assert each[f"bob@{BOX}"]["Action"] == "delivered"


def test_one_recipient_refused_one_later(chain):
    """Each recipient has its own fate: one is delivered, one comes back, one is tried again until it is taken."""
    m = Message(ALICE, f"bob@{BOX}")
    send(chain.submission, ALICE, [f"bob@{BOX}", f"refused@{BOX}", f"later@{BOX}"], m.data, mail=["ENVID=three"],
         tls=chain.c.pki.ca, login=(USER, PASSWORD))
    _, each, _ = wait_report(chain.box, "three")
    assert list(each) == [f"refused@{BOX}"]
    assert each[f"refused@{BOX}"]["Status"] == "5.7.1" and "not this one" in each[f"refused@{BOX}"]["Diagnostic-Code"]
    whole = lambda: [s for s in chain.box.messages(m.marker) if s.endswith(m.data) and b"Original-Envelope-Id" not in s]  # noqa: E731
    wait_for(lambda: len(whole()) == 1, "bob has it")
    (chain.c.dir / "now").touch()
    wait_for(lambda: len(whole()) == 2, "the deferred recipient has it")
    chain.c.wait_empty()
    assert len(whole()) == 2


def test_wrong_certificate(chain):
    """A next hop whose certificate is nobody's that we trust gets nothing, whatever it offers, under `verify`."""
    c = chain.c
    m = Message(ALICE, "x@stranger.test")
    send(chain.submission, ALICE, "x@stranger.test", m.data, tls=c.pki.ca, login=(USER, PASSWORD))

    def deferred():
        return [e for e in c.nodes[0].events("deferred") if e.get("recipient") == "x@stranger.test"]

    wait_for(deferred, "the delivery is put off")
    assert "certificate" in deferred()[0]["reply"], deferred()[0]
    assert not chain.stranger.messages() and not chain.stranger.lines(" <= ")
