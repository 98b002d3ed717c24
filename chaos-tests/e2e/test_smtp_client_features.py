"""What was accepted is honoured at the next hop: its parameters where the extension is offered, and where it is not, a
conversion, a report or a refusal. A cluster of one node between smtplib and next hops whose extensions are chosen."""

import email
import email.policy
import random
import smtplib

import pytest

from harness import wait_for
from next_hop import NextHop

MODERN = ["PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "SIZE 50000000", "MT-PRIORITY", "DELIVERBY"]


@pytest.fixture(scope="module")
def node(shared_cluster):
    """One node; a route for each next hop, by the recipient's domain. Senders at sender.test get their reports."""
    hops = {
        "modern.test": NextHop(MODERN),
        "b\u00fccher.test": NextHop(["8BITMIME"]),
        "old.test": NextHop([]),
        "eight.test": NextHop(["PIPELINING", "8BITMIME"]),
        "eightchunks.test": NextHop(["PIPELINING", "8BITMIME", "CHUNKING"]),
        "few.test": NextHop(["PIPELINING", "8BITMIME", "LIMITS RCPTMAX=3 MAILMAX=2"]),
        "toomany.test": NextHop(["PIPELINING", "8BITMIME"]),
        "box.test": NextHop(["PIPELINING", "8BITMIME"], lmtp=True),
        "sender.test": NextHop(["PIPELINING", "8BITMIME", "SMTPUTF8"]),
    }

    c = shared_cluster(n=1)
    c.peers += hops.values()
    routes = {name.encode("idna").decode(): hop.route for name, hop in hops.items()}
    c.reconfigure(routes={"default": "smtp://127.0.0.1:1", **routes}, smtp={"hostname": "mx1.test",
        "listeners": [{"listen": f"127.0.0.1:{c.nodes[0].smtp}"}], "relay_from": ["127.0.0.0/8"], "min_deliver_by": "1s"})
    c.start(sink=False)
    c.nodes[0].hops = hops
    return c.nodes[0]


def limited(hop, most):
    """The hop says 452 4.5.3 to more recipients than that in one transaction."""
    count = {"n": 0}

    def mail(_):
        count["n"] = 0

    def rcpt(_):
        count["n"] += 1
        return "452 4.5.3 too many recipients" if count["n"] > most else None

    hop.refuse = {"MAIL": mail, "RCPT": rcpt}


def send(node, sender, rcpts, message, mail_options=(), rcpt_options=(), chunks=None):
    """By smtplib, or with BDAT in these chunks; the MAIL line with its parameters is the caller's."""
    with smtplib.SMTP("127.0.0.1", node.smtp, timeout=20) as s:
        s.ehlo("client.test")
        s.command_encoding = "utf-8"
        code, text = s.mail(sender, mail_options)
        assert code == 250, text
        for r in rcpts:
            code, text = s.rcpt(r, rcpt_options)
            assert code == 250, text
        if chunks is None:
            code, text = s.data(message)
        else:
            for i, chunk in enumerate(chunks):
                s.send(f"BDAT {len(chunk)}{' LAST' if i == len(chunks) - 1 else ''}\r\n".encode() + chunk)
                code, text = s.getreply()
        assert code == 250, text


def got(hop, n=1):
    """The transactions that came since the last call, once there are n."""
    wait_for(lambda: len(hop.transactions) >= n, f"{n} transactions")
    with hop.lock:
        taken, hop.transactions[:] = list(hop.transactions), []
    assert len(taken) == n, taken
    return taken


def report(node, sender="s@sender.test"):
    """The one report that came to the sender."""
    (t,) = got(node.hops["sender.test"])
    assert t["mail"].startswith("MAIL FROM:<>") and t["rcpts"][0].startswith(f"RCPT TO:<{sender}>"), t
    message = email.message_from_bytes(t["body"], policy=email.policy.default.clone(utf8=True))
    assert message.get_content_type() == "multipart/report"
    return message


def status_fields(message):
    """The fields of the report's second part, by recipient, and those of the message."""
    part = message.get_payload()[1]
    if part.get_content_type() == "message/delivery-status":
        whole, *each = part.get_payload()
    else:  # of which Python's parser knows only that some message is in it
        policy = email.policy.default.clone(utf8=True, linesep="\n", max_line_length=0)
        text = part.get_payload()[0].as_bytes(policy=policy).decode()
        whole, *each = [email.message_from_string(block, policy=policy) for block in text.strip().split("\n\n")]
    return {f["Final-Recipient"].split(";")[1].strip(): f for f in each}, whole


def eight_bit(subject="x"):
    return (f"Subject: {subject}\r\nFrom: <s@sender.test>\r\nMIME-Version: 1.0\r\n"
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
            ".gr\u00fc\u00dfe\r\n..\r\n").encode()


# ---- parameters ----


def test_parameters_are_passed_on(node):
    send(node, "s@sender.test", ["r+1@modern.test"], eight_bit(),
         ["BODY=8BITMIME", "RET=HDRS", "ENVID=a+2Bb+3Dc", "MT-PRIORITY=4", "BY=3600;NT"],
         ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;first+2Bx@sender.test"])
    (t,) = got(node.hops["modern.test"])
    words = t["mail"].split(" ")
    assert words[0:2] == ["MAIL", "FROM:<s@sender.test>"]
    assert {"BODY=8BITMIME", "RET=HDRS", "ENVID=a+2Bb+3Dc", "MT-PRIORITY=4"} <= set(words), words
    (by,) = [w for w in words if w.startswith("BY=")]
    assert by.endswith(";NT") and 3590 <= int(by[3:-3]) <= 3600, by
    assert t["rcpts"] == ["RCPT TO:<r+1@modern.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;first+2Bx@sender.test"]
    fields, whole = status_fields(report(node))  # of the trace; the success is the next hop's to report
    assert fields["r+1@modern.test"]["Action"] == "relayed"
    assert whole["Original-Envelope-Id"] == "a+b=c"


def test_nothing_that_is_not_offered(node):
    send(node, "s@sender.test", ["r@eight.test"], eight_bit(), ["BODY=8BITMIME", "RET=HDRS", "ENVID=x", "MT-PRIORITY=4"],
         ["NOTIFY=FAILURE"])
    (t,) = got(node.hops["eight.test"])
    assert t["mail"] == "MAIL FROM:<s@sender.test> BODY=8BITMIME" and t["rcpts"] == ["RCPT TO:<r@eight.test>"]


# ---- reports of success ----


@pytest.mark.parametrize("domain,action", [("eight.test", "relayed"), ("box.test", "delivered")])
def test_success_is_reported_where_nobody_else_does(node, domain, action):
    send(node, "s@sender.test", [f"r@{domain}"], b"Subject: told\r\n\r\nx\r\n", ["ENVID=Q1", "RET=FULL"],
         ["NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;alias@{domain}"])
    got(node.hops[domain])
    message = report(node)
    assert message["Subject"] == "Successful Mail Delivery Report"
    fields, whole = status_fields(message)
    f = fields[f"r@{domain}"]
    assert f["Action"] == action and f["Status"] == "2.0.0"
    assert f["Original-Recipient"].replace(" ", "") == f"rfc822;alias@{domain}"
    assert f["Diagnostic-Code"] == "smtp; 250 2.0.0 taken" and whole["Original-Envelope-Id"] == "Q1"
    assert message.get_payload()[2].get_content_type() == "text/rfc822-headers"  # RET=FULL is for failures


def test_nobody_is_told_who_did_not_ask(node):
    for options in (["NOTIFY=NEVER"], ["NOTIFY=FAILURE"], []):
        send(node, "s@sender.test", ["r@eight.test"], b"Subject: x\r\n\r\nx\r\n", (), options)
    got(node.hops["eight.test"], 3)
    wait_for(lambda: node.get("/v1/status")["queue"]["messages"] == 0, "the queue is empty")
    assert node.hops["sender.test"].transactions == []


# ---- deliver-by ----


def test_in_time_or_not_at_all(node):
    send(node, "s@sender.test", ["r@eight.test"], b"Subject: x\r\n\r\nx\r\n", ["BY=3600;R"])
    fields, _ = status_fields(report(node))
    assert fields["r@eight.test"]["Action"] == "failed" and fields["r@eight.test"]["Status"] == "5.4.7"
    send(node, "s@sender.test", ["r@eight.test"], b"Subject: x\r\n\r\nx\r\n", ["BY=3600;N"])
    got(node.hops["eight.test"])
    fields, _ = status_fields(report(node))
    assert fields["r@eight.test"]["Action"] == "relayed"
    send(node, "s@sender.test", ["r@box.test"], b"Subject: x\r\n\r\nx\r\n", ["BY=3600;R"])
    got(node.hops["box.test"])  # where it gets to is no relay


# ---- encodings ----


def test_down_to_seven_bits(node):
    send(node, "s@sender.test", ["r@old.test"], eight_bit(), ["BODY=8BITMIME"])
    (t,) = got(node.hops["old.test"])
    assert max(t["body"]) < 128
    m = email.message_from_bytes(t["body"], policy=email.policy.default)
    assert m["Content-Transfer-Encoding"] == "quoted-printable"
    assert m.get_payload(decode=True) == ".gr\u00fc\u00dfe\r\n..\r\n".encode()
    wait_for(lambda: [e for e in node.events("delivered") if e["converted"] and not e["bdat"]], "the log says so")


def test_what_cannot_be_converted_bounces(node):
    text = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: message/partial; id=1\r\n\r\n\xc3\xa4\r\n"
    send(node, "s@sender.test", ["r@old.test"], text, ["BODY=8BITMIME"])
    fields, _ = status_fields(report(node))
    assert fields["r@old.test"]["Status"] == "5.6.3"


BINARY = (b"Subject: b\r\nFrom: <s@sender.test>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
          b"Content-Transfer-Encoding: binary\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n.text\r\n--b\r\n"
          b"Content-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n"
          + bytes(range(256)) * 300 + b"\r\n.\r\nRSET\r\n\n.\n\r\n--b--\r\n")


def octets(message):
    return email.message_from_bytes(message).get_payload()[1].get_payload(decode=True)


def test_binary(node):
    chunks = [BINARY[i:i + 10007] for i in range(0, len(BINARY), 10007)]
    for domain in ("modern.test", "eightchunks.test", "eight.test", "old.test"):
        send(node, "s@sender.test", [f"r@{domain}"], None, ["BODY=BINARYMIME"], chunks=chunks)
    (t,) = got(node.hops["modern.test"])
    assert "BODY=BINARYMIME" in t["mail"] and t["verbs"][-1] == "BDAT 0 LAST"
    assert t["body"].endswith(BINARY), (len(t["body"]), len(BINARY))  # our Received stands before it
    wanted = bytes(range(256)) * 300 + b"\r\n.\r\nRSET\r\n\n.\n"
    for domain in ("eightchunks.test", "eight.test", "old.test"):
        (t,) = got(node.hops[domain])
        assert t["verbs"] == ["DATA"] and max(t["body"]) < 128, t["verbs"]
        assert octets(t["body"]) == wanted


def test_text_in_chunks(node):
    """Where CHUNKING is offered text goes in chunks too; LAST is a command of its own."""
    send(node, "s@sender.test", ["r@modern.test"], eight_bit(), ["BODY=8BITMIME"])
    (t,) = got(node.hops["modern.test"])
    assert t["verbs"][0].startswith("BDAT ") and t["verbs"][-1] == "BDAT 0 LAST", t["verbs"]
    assert t["body"].endswith(eight_bit())
    wait_for(lambda: [e for e in node.events("delivered") if e["bdat"] and not e["converted"]], "the log says so")


def test_a_large_message_is_converted_in_pieces(node):
    """Many pieces of the spool; no more of it in memory than two."""
    line = "gr\u00fc\u00dfe ".encode() * 8 + b"\r\n"
    text = eight_bit() + line * 60000
    send(node, "s@sender.test", ["r@old.test"], text, ["BODY=8BITMIME"])
    (t,) = got(node.hops["old.test"])
    assert max(t["body"]) < 128 and max(len(s) for s in t["body"].split(b"\r\n")) <= 400
    assert email.message_from_bytes(t["body"]).get_payload(decode=True).endswith(line * 60000)


def test_chunks_without_line_ends_go_out_clean(node):
    """What came by BDAT has no stuffed dots and perhaps no line end at its end."""
    send(node, "s@sender.test", ["r@eight.test"], None, (), chunks=[b"Subject: x\r\n\r\n.\r\n", b".", b"a\r\n..b"])
    (t,) = got(node.hops["eight.test"])
    assert t["body"].endswith(b"\r\n\r\n.\r\n.a\r\n..b\r\n"), t["body"]


# ---- SMTPUTF8 ----


def test_utf8_is_passed_on(node):
    send(node, "s@sender.test", ["gr\u00fc\u00dfe@modern.test"], eight_bit("\u00e4"), ["SMTPUTF8", "BODY=8BITMIME"])
    (t,) = got(node.hops["modern.test"])
    assert "SMTPUTF8" in t["mail"].split(" ") and t["rcpts"][0].startswith("RCPT TO:<gr\u00fc\u00dfe@modern.test>")
    assert "Subject: \u00e4".encode() in t["body"]


def test_utf8_where_it_is_not_offered(node):
    """ASCII in all but name goes on; a domain has its A-labels; the rest bounces, in a report of RFC 6533."""
    send(node, "s@sender.test", ["r@eight.test"], eight_bit(), ["SMTPUTF8", "BODY=8BITMIME"])
    (t,) = got(node.hops["eight.test"])
    assert "SMTPUTF8" not in t["mail"]
    send(node, "s@sender.test", ["r@b\u00fccher.test"], eight_bit(), ["SMTPUTF8", "BODY=8BITMIME"])
    (t,) = got(node.hops["b\u00fccher.test"])
    assert t["rcpts"] == ["RCPT TO:<r@xn--bcher-kva.test>"]
    send(node, "s@sender.test", ["gr\u00fc\u00dfe@eight.test"], eight_bit(), ["SMTPUTF8", "BODY=8BITMIME"])
    message = report(node)
    assert message.get_param("report-type") == "global-delivery-status"
    assert [p.get_content_type() for p in message.get_payload()][1:] == ["message/global-delivery-status",
                                                                          "message/global-headers"]
    fields, _ = status_fields(message)
    assert fields["gr\u00fc\u00dfe@eight.test"]["Status"] == "5.6.7"
    send(node, "s@sender.test", ["r@eight.test"], eight_bit("\u00e4"), ["SMTPUTF8", "BODY=8BITMIME"])
    fields, _ = status_fields(report(node))
    assert fields["r@eight.test"]["Status"] == "5.6.7"


# ---- limits of the next hop ----


def test_no_more_recipients_than_it_takes(node):
    hop = node.hops["few.test"]
    send(node, "s@sender.test", [f"r{i}@few.test" for i in range(10)], b"Subject: x\r\n\r\nx\r\n")
    taken = got(hop, 4)
    assert max(len(t["rcpts"]) for t in taken) == 3
    assert sorted(r for t in taken for r in t["rcpts"]) == [f"RCPT TO:<r{i}@few.test>" for i in range(10)]
    connections = [t["connection"] for t in taken]
    assert max(connections.count(n) for n in connections) == 2  # MAILMAX


def test_too_many_recipients(node):
    hop = node.hops["toomany.test"]
    limited(hop, 4)
    send(node, "s@sender.test", [f"r{i}@toomany.test" for i in range(10)], b"Subject: x\r\n\r\nx\r\n")
    taken = got(hop, 3)
    assert sorted(r for t in taken for r in t["rcpts"]) == [f"RCPT TO:<r{i}@toomany.test>" for i in range(10)]
    assert len([line for line in hop.lines if line.startswith("RCPT")]) == 10 + 6  # it is told once only
    assert not [e for e in node.events("deferred") if "toomany" in e["recipient"]]
    assert hop.connections == 1


# ---- the converter against another reader of MIME ----


def lines_of(rnd):
    kinds = (
        lambda: b"", lambda: bytes(rnd.choice(b" \tabc=.-") for _ in range(rnd.randrange(100))),
        lambda: "gr\u00fc\u00dfe ".encode() * rnd.randrange(1, 40), lambda: b"--" + bytes(rnd.choice(b"bx-") for _ in range(4)),
        lambda: b"." * rnd.randrange(1, 4), lambda: b"x" * rnd.randrange(900),
        lambda: bytes(rnd.choice(range(1, 256)) for _ in range(60)).replace(b"\r", b"").replace(b"\n", b""),
    )
    return b"\r\n".join(rnd.choice(kinds)() for _ in range(rnd.randrange(12)))


def part(rnd, depth=0, message=False):
    kind = rnd.randrange(6) if depth < 4 else rnd.randrange(3)
    header = [b"Content-Transfer-Encoding: " + rnd.choice([b"8bit", b"7bit"])] if rnd.random() < 0.7 else []
    header += [b"Subject: x", b"MIME-Version: 1.0"] if message else []
    if kind <= 2:
        header.append(rnd.choice([b"Content-Type: text/plain; charset=utf-8", b"content-type: TEXT/html;\r\n\tcharset=utf-8",
                                  b"Content-Type: image/png; name=\"a;b\""]))
        body = lines_of(rnd)
    elif kind == 3:
        header.append(b"Content-Type: message/rfc822")
        body = part(rnd, depth + 1, True)
    else:
        boundary = b"=_%d x" % rnd.randrange(10**6)
        header.append(b"Content-Type: multipart/mixed;\r\n boundary=\"" + boundary + b"\"")
        body = rnd.choice([b"", b"preamble\r\n"])
        for _ in range(rnd.randrange(1, 4)):
            body += b"--" + boundary + b"\r\n" + part(rnd, depth + 1) + b"\r\n"
        body += b"--" + boundary + b"--" + rnd.choice([b"", b"\r\nepilogue\r\n"])
    rnd.shuffle(header)
    return b"\r\n".join(header) + b"\r\n\r\n" + body


def shape(message):
    if message.is_multipart():
        return message.get_content_type(), [shape(p) for p in message.get_payload()]
    return message.get_content_type(), message.get_content_charset(), message.get_payload(decode=True)


def test_conversions_mean_the_same(node):
    """Two hundred messages of any structure: read by Python's parser, each is the same after the way as before it."""
    seed = random.randrange(1 << 32)
    rnd = random.Random(seed)
    messages = [part(rnd, 0, True) + b"\r\n" for _ in range(200)]
    with smtplib.SMTP("127.0.0.1", node.smtp, timeout=20) as s:
        s.ehlo("client.test")
        for i, m in enumerate(messages):
            if i % 50 == 49:
                s.quit()
                s.connect("127.0.0.1", node.smtp)
                s.ehlo("client.test")
            s.sendmail("s@sender.test", [f"n{i}@old.test"], m, ["BODY=8BITMIME"])
    for t in got(node.hops["old.test"], len(messages)):
        i = int(t["rcpts"][0].split("<n")[1].split("@")[0])
        assert max(t["body"]) < 128 or max(messages[i].split(b"\r\n\r\n")[0]) > 127, (seed, i)
        before, after = email.message_from_bytes(messages[i]), email.message_from_bytes(t["body"])
        assert shape(before) == shape(after), (seed, i)
