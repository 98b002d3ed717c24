"""The server's extensions from outside: chunks, UTF-8, submission without a login on loopback, pipelining and smuggling,
by smtplib, swaks and raw bytes, and what of it reaches a next hop. A cluster of one node."""

import datetime
import email
import email.policy
import random
import shutil
import smtplib
import subprocess
import time

import pytest

from harness import Talk, free_port, wait_for
from next_hop import NextHop

MODERN = ["PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "SIZE 50000000", "MT-PRIORITY", "DELIVERBY"]
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def node(shared_cluster):
    """mx: as usual; submission: a listener of that profile on loopback, without TLS; mended: its clients' bare CR and LF are
    mended. hop takes everything but old.test's mail, which goes to one that knows no extension."""
    hop, old = NextHop(MODERN), NextHop([])
    c = shared_cluster(n=1)
    c.peers += [hop, old]
    n = c.nodes[0]
    n.hop, n.old, n.submission = hop, old, free_port()
    c.reconfigure(
        routes={"default": hop.route, "old.test": old.route},
        smtp={
            "hostname": "mx1.test",
            "listeners": [
                {"listen": f"127.0.0.1:{n.smtp}"},
                {"listen": f"127.0.0.1:{n.submission}", "profile": "submission", "tls": "off"},
            ],
            "relay_from": ["127.0.0.0/8"],
            "normalize_from": ["127.0.0.9/32"],
            "max_message_size": "1MiB",
            "max_recipients": 50,
            "max_hold": "1h",
            "min_deliver_by": "10s",
        })
    c.start(sink=False)
    return n


def arrived(hop):
    """The one transaction that came since the last call."""
    wait_for(lambda: hop.transactions, "a transaction")
    with hop.lock:
        taken, hop.transactions[:] = list(hop.transactions), []
    assert len(taken) == 1, taken
    return taken[0]


def own_text(body):
    """What the client sent: behind our Received field."""
    assert body.startswith(b"Received: from ")
    end = body.index(b"+0000\r\n") + 7
    return body[end:]


def envelope(t, rcpt="b@far.test", parameters="", sender="a@client.test"):
    code, text = t.say(f"MAIL FROM:<{sender}>{parameters}")
    assert code == 250, text
    assert t.say(f"RCPT TO:<{rcpt}>")[0] == 250


def test_offers(node):
    with smtplib.SMTP("127.0.0.1", node.smtp, timeout=20) as s:
        s.ehlo("client.test")
        assert s.esmtp_features["size"] == str(LIMIT)
        assert s.esmtp_features["limits"].split()[1] == "RCPTMAX=50"
        assert s.esmtp_features["deliverby"] == "10"
        assert not s.has_extn("futurerelease") and not s.has_extn("requiretls")
    with smtplib.SMTP("127.0.0.1", node.submission, timeout=20) as s:
        s.ehlo("client.test")
        seconds, until = s.esmtp_features["futurerelease"].split()
        assert seconds == "3600"
        until = datetime.datetime.fromisoformat(until.replace("Z", "+00:00"))
        assert abs(until.timestamp() - time.time() - 3600) < 60


# ---- chunks ----


@pytest.mark.parametrize("binary", [False, True])
def test_chunks(node, binary):
    """Chunks cut anywhere come out as one message; a binary one with every octet that it had."""
    rng = random.Random(7)
    if binary:
        body = rng.randbytes(300_000) + b"\r\n.\r\n\n.\n\r\r"
    else:
        body = b"".join(b"." * rng.randrange(4) + b"x" * rng.randrange(70) + b"\r\n" for _ in range(8000))
    text = b"Subject: chunks\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n" \
           b"Content-Transfer-Encoding: " + (b"binary" if binary else b"7bit") + b"\r\n\r\n" + body
    with Talk(node.smtp) as t:
        envelope(t, parameters=" BODY=BINARYMIME" if binary else "")
        at, wire, chunks = 0, b"", 0
        while at < len(text):
            n = rng.choice((0, 1, 2, 100, 5000, 70_000))
            piece = text[at:at + n]
            at += len(piece)
            wire += b"BDAT %d%s\r\n" % (len(piece), b" LAST" if at == len(text) else b"") + piece
            chunks += 1
        t.send(wire)  # all at once: BDAT may be pipelined
        for _ in range(chunks):
            code, reply = t.reply()
            assert code == 250, reply
        assert "queued as" in reply
    got = arrived(node.hop)
    assert own_text(got["body"]) == text
    assert ("BODY=BINARYMIME" in got["mail"]) == binary


def test_chunks_refused(node):
    """Whatever stands in a refused chunk is skipped, and the session goes on."""
    evil = b"QUIT\r\nMAIL FROM:<evil@far.test>\r\n"
    with Talk(node.smtp) as t:
        t.send(b"BDAT %d LAST\r\n" % len(evil) + evil + b"NOOP\r\n")
        assert t.reply()[0] == 503 and t.reply()[0] == 250
        envelope(t)
        t.send(b"BDAT %d\r\n" % (LIMIT + 1))
        assert t.reply()[0] == 552  # before it has come
        t.send(b"x" * (LIMIT + 1) + b"BDAT 5 LAST\r\nQUIT\r" + b"RSET\r\n")
        assert t.reply()[0] == 503 and t.reply()[0] == 250
        envelope(t)
        t.send(b"BDAT 3\r\na\nbBDAT 2 LAST\r\n\r\n")
        assert t.reply()[0] == 550 and t.reply()[0] == 503
        envelope(t, parameters=" BODY=BINARYMIME")
        assert t.say("DATA")[0] == 503
        t.send(b"BDAT 14 LAST\r\nSubject: a\r\n\r\n")
        assert t.reply()[0] == 250
    arrived(node.hop)
    with Talk(node.smtp) as t:
        envelope(t)
        t.send(b"BDAT 99999999999999999999 LAST\r\nRSET\r\n")
        assert t.reply()[0] == 552 and t.reply()[0] == 0
    with Talk(node.smtp) as t:
        t.send(b"BDAT many\r\nRSET\r\n")
        assert t.reply()[0] == 521 and t.reply()[0] == 0


# ---- UTF-8 ----


def test_utf8(node):
    with smtplib.SMTP("127.0.0.1", node.smtp, timeout=20) as s:
        message = email.message_from_string("Subject: Gr\u00fc\u00dfe\n\nhello\n", policy=email.policy.SMTPUTF8)
        s.send_message(message, "j\u00fcrgen@b\u00fccher.test", ["\u5f20@far.test"])
    got = arrived(node.hop)
    assert got["mail"].startswith("MAIL FROM:<j\u00fcrgen@xn--bcher-kva.test>") and "SMTPUTF8" in got["mail"]
    assert got["rcpts"][0].startswith("RCPT TO:<\u5f20@far.test>")
    assert b"with UTF8SMTP id" in got["body"] and "Gr\u00fc\u00dfe".encode() in got["body"]
    with Talk(node.smtp) as t:
        assert t.say("MAIL FROM:<j\u00fcrgen@far.test>")[0] == 553
        for bad in (b"\xff@far.test", b"\xc0\xaf@far.test", b"\xed\xa0\x80@far.test", b"a\xc2\x85@far.test"):
            t.send(b"MAIL FROM:<" + bad + b"> SMTPUTF8\r\n")
            assert t.reply()[0] == 501
        assert t.say("VRFY j\u00fcrgen")[0] == 553
        assert t.say("VRFY j\u00fcrgen SMTPUTF8")[0] == 252


def test_utf8_domain_alone(node):
    """A domain is as good in ASCII, so that any next hop can be given the message."""
    with Talk(node.smtp) as t:
        envelope(t, "b@old.test", " SMTPUTF8", "a@b\u00fccher.test")
        assert t.say("DATA")[0] == 354
        assert t.say("Subject: x\r\n\r\nhello\r\n.")[0] == 250
    assert arrived(node.old)["mail"].startswith("MAIL FROM:<a@xn--bcher-kva.test>")


# ---- parameters ----


def test_parameters(node):
    with Talk(node.smtp) as t:
        for bad, code in (("SIZE=1 SIZE=1", 501), ("RET=SOME", 501), ("ENVID=a+zz", 501), ("MT-PRIORITY=10", 501), ("BY=0;R", 501),
                          ("BY=9;R", 555), ("HOLDFOR=1", 555), ("AUTH=<>", 555), ("REQUIRETLS", 555), ("X=1", 555),
                          (f"SIZE={LIMIT + 1}", 552), ("BODY=EIGHT", 501)):
            assert t.say(f"MAIL FROM:<a@client.test> {bad}")[0] == code, bad
            if bad == "BY=9;R":  # a session has an error budget
                t.close()
                t.__init__(node.smtp)
        envelope(t, parameters=" RET=HDRS ENVID=id+2B7 MT-PRIORITY=4 BY=3600;N BODY=8BITMIME SIZE=20")
        assert t.say("RCPT TO:<c@far.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Bc@far.test")[0] == 250
        assert t.say("RCPT TO:<d@far.test> NOTIFY=NEVER,DELAY")[0] == 501
        assert t.say("DATA")[0] == 354
        assert t.say("Subject: x\r\n\r\nhello\r\n.")[0] == 250
    got = arrived(node.hop)
    for parameter in ("RET=HDRS", "ENVID=id+2B7", "MT-PRIORITY=4", "BODY=8BITMIME", "BY="):
        assert parameter in got["mail"], got["mail"]
    assert "NOTIFY=SUCCESS,DELAY" in got["rcpts"][1] and "ORCPT=rfc822;old+2Bc@far.test" in got["rcpts"][1]
    assert b"priority 4" in got["body"]


def test_future_release(node):
    with Talk(node.submission) as t:
        assert t.say("MAIL FROM:<a@client.test> HOLDFOR=3601")[0] == 501
        assert t.say("MAIL FROM:<a@client.test> HOLDFOR=60 HOLDUNTIL=2030-01-01T00:00:00Z")[0] == 501
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=3)
        envelope(t, parameters=f" HOLDUNTIL={until.strftime('%Y-%m-%dT%H:%M:%SZ')}")
        assert t.say("DATA")[0] == 354
        accepted = time.time()
        assert t.say("Subject: later\r\n\r\nhello\r\n.")[0] == 250
    got = arrived(node.hop)
    assert b"Subject: later" in got["body"]
    assert time.time() - accepted > 1.5, got


# ---- submission ----


def test_submission_completes(node):
    with smtplib.SMTP("127.0.0.1", node.submission, timeout=20) as s:
        s.sendmail("a@client.test", ["b@far.test"], "Subject: x\r\n\r\nhello\r\n")
    message = email.message_from_bytes(arrived(node.hop)["body"])
    assert message["Message-ID"].endswith("@mx1.test>") and message["Date"].endswith("+0000")
    assert message["Subject"] == "x" and message.get_payload() == "hello\r\n"
    with smtplib.SMTP("127.0.0.1", node.submission, timeout=20) as s:
        s.sendmail("a@client.test", ["b@far.test"], "just text")
    message = email.message_from_bytes(arrived(node.hop)["body"])
    assert message["Message-ID"] and message["Date"] and message.get_payload() == "just text\r\n"


# ---- pipelining and smuggling ----


def test_pipelining(node):
    with Talk(node.smtp) as t:
        t.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<b@far.test>\r\nDATA\r\n")
        assert [t.reply()[0] for _ in range(3)] == [250, 250, 354]
        t.send("Subject: 1\r\n\r\n1\r\n.\r\nMAIL FROM:<c@client.test>\r\nRSET\r\nQUIT\r\n")
        assert [t.reply()[0] for _ in range(5)] == [250, 250, 250, 221, 0]
    arrived(node.hop)
    with Talk(node.smtp) as t:  # text that did not wait for the 354 becomes neither text nor commands
        t.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<b@far.test>\r\nDATA\r\nMAIL FROM:<evil@client.test>\r\n.\r\n")
        assert [t.reply()[0] for _ in range(4)] == [250, 250, 503, 0]
    with Talk(node.smtp, greet=False) as t:
        assert t.say("HELO client.test")[0] == 250
        t.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<b@far.test>\r\n")
        assert [t.reply()[0] for _ in range(2)] == [503, 503]


ENDS = ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\n.\r", "\r.\n", "\r\n.\r\r\n"]


@pytest.mark.parametrize("end", ENDS, ids=[repr(e) for e in ENDS])
def test_smuggling(node, end):
    """A false end is none: refused as a rule, mended for those who are known to write it, and one message either way."""
    text = f"Subject: x\r\n\r\none{end}MAIL FROM:<evil@client.test>\r\nRCPT TO:<v@far.test>\r\nDATA\r\ntwo\r\n.\r\n"
    with Talk(node.smtp) as t:
        t.begin("a@client.test", "b@far.test")
        t.send(text)
        assert t.reply()[0] == 550
        assert t.say("NOOP")[0] == 250
    with smtplib.SMTP("127.0.0.1", node.smtp, timeout=20, source_address=("127.0.0.9", 0)) as s:
        s.ehlo("client.test")
        s.mail("a@client.test")
        s.rcpt("b@far.test")
        assert s.docmd("DATA")[0] == 354
        s.send(text.encode())
        assert s.getreply()[0] == 250
        assert s.noop()[0] == 250
    got = arrived(node.hop)["body"]  # which the next hop read to its own end: exactly one
    lines = own_text(got).split(b"\r\n")
    assert b"." not in lines and not any(b"\r" in line or b"\n" in line for line in lines)
    assert b"MAIL FROM:<evil@client.test>" in lines and b"two" in lines


# ---- swaks ----


@pytest.mark.skipif(shutil.which("swaks") is None, reason="no swaks")
@pytest.mark.parametrize("pipeline", [False, True])
def test_swaks(node, pipeline):
    done = subprocess.run(
        ["swaks", "--server", "127.0.0.1", "--port", str(node.submission), "--ehlo", "client.test", "--from", "a@client.test", "--to",
         "b@far.test,c@far.test", "--body", "hello", *(["--pipeline"] if pipeline else [])],
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "queued as" in done.stdout, done.stdout
    assert len(arrived(node.hop)["rcpts"]) == 2
