"""What senders are told: of recipients that failed, that wait long, that waited too long; each once, by a report that
a mail program that nobody here wrote can read."""

import collections
import email
import email.policy
import signal
import smtplib
import threading

from harness import read_journal, wait_for
from next_hop import NextHop

BAD = "bad.test"  # refuses each recipient for good
SLOW = "slow.test"  # for now, always


def cluster(make_cluster, **retry):
    """Senders' mail goes to the cluster's usual sink, which keeps what it gets; the two domains to sinks that refuse."""
    c = make_cluster()
    bodies = c.dir / "bodies"
    bodies.mkdir()
    c.sink_args = ["--keep-bodies", bodies]
    bad = c.another_sink("bad", "--fault", "refuse@rcpt=550")
    slow = c.another_sink("slow", "--fault", "refuse@rcpt=450")
    c.reconfigure(
        routes={
            "default": f"smtp://127.0.0.1:{c.sink_port}",
            BAD: f"smtp://127.0.0.1:{bad.port}",
            SLOW: f"smtp://127.0.0.1:{slow.port}",
        },
        delivery={"retry": {"first": "1s", "factor": 1.2, "max": "2s", **retry}},
    )
    return c.start()


def send(node, sender, *recipients, subject="hello", body="text"):
    with smtplib.SMTP("127.0.0.1", node.smtp, timeout=20) as s:
        refused = s.sendmail(
            sender, recipients, f"Subject: {subject}\r\nFrom: <{sender}>\r\nTo: <x@y.test>\r\n\r\n{body}\r\n"
        )
    assert not refused


def reports(c):
    """Journal lines of the bounces that came to senders."""
    return [e for e in read_journal(c.sink_journal) if e["event"] == "received" and e.get("dsn")]


def bodies(c):
    """What the sink keeps, parsed; a line in the journal comes after its file."""
    found = []
    for path in (c.dir / "bodies").glob("*.eml"):
        found.append(email.message_from_bytes(path.read_bytes(), policy=email.policy.default))
    return [m for m in found if m.get_content_type() == "multipart/report"]


def read_report(message, sender):
    """Checks RFC 3462, 3464 and 3834 as far as they bind us; the fields by recipient, and the original's header."""
    assert not message.defects, message.defects
    assert message.get_param("report-type") == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied" or message["Auto-Submitted"] == "auto-generated"
    assert message["To"].addresses[0].addr_spec == sender
    assert message["Message-ID"] and message["Date"].datetime and message["From"] and message["Subject"]
    text, status, original = message.get_payload()
    for part in message.walk():
        assert not part.defects, part.defects
    assert text.get_content_type() == "text/plain" and "mail system" in text.get_content()
    assert status.get_content_type() == "message/delivery-status"
    whole, *each = status.get_payload()
    assert whole["Reporting-MTA"].startswith("dns; mx") and whole["Arrival-Date"]
    assert original.get_content_type() in ("text/rfc822-headers", "message/rfc822")
    header = original.get_payload()
    header = header[0] if isinstance(header, list) else email.message_from_string(header)
    return {fields["Final-Recipient"].split(";")[1].strip(): fields for fields in each}, header


def reports_to(c, sender):
    return [m for m in bodies(c) if m["To"].addresses[0].addr_spec == sender]


def test_refused_recipients(make_cluster):
    """One recipient is taken, two are refused: one report of the two. A null sender is told nothing."""
    c = cluster(make_cluster)
    send(c.nodes[0], "", f"nobody@{BAD}")
    send(c.nodes[0], "a@sender.test", f"no@{BAD}", "yes@good.test", f"neither@{BAD}", subject="the original")
    c.wait_empty()
    assert len(reports(c)) == 1, reports(c)
    (report,) = reports(c)
    assert report["sender"] == "" and report["recipients"] == ["a@sender.test"]
    (message,) = bodies(c)
    fields, original = read_report(message, "a@sender.test")
    assert sorted(fields) == [f"neither@{BAD}", f"no@{BAD}"]
    for f in fields.values():
        assert f["Action"] == "failed" and f["Status"] == "5.7.0"
        assert f["Diagnostic-Code"].startswith("smtp; 550 5.7.0 refused by order")
        assert f["Remote-MTA"].startswith("dns; 127.0.0.1")
    assert original["Subject"] == "the original"
    taken = [e for e in read_journal(c.sink_journal) if e["event"] == "received" and not e.get("dsn")]
    assert [e["recipients"] for e in taken] == [["yes@good.test"]]
    totals = c.nodes[0].get("/v1/status")["totals"]
    assert totals["failed"] == 3 and totals["delivered"] == 2, totals


def one_report_each(c, n):
    """Each accepted message has one report; a second copy of the same report only where the cluster says so. An attempt of
    the client that read no 250 may have been accepted all the same (promise 3) and has a report of its own then."""
    unread = collections.Counter(
        e["key"] for e in c.sent() if e["event"] in ("indeterminate", "refused") and e.get("verb") == "dot")
    by_key = {}
    for message in bodies(c):
        _, original = read_report(message, "a@sender.test")
        by_key.setdefault(original["X-Load-Key"], []).append(message["Message-ID"])
    assert len(by_key) == n == len({e["original_key"] for e in reports(c)})
    for key, ids in by_key.items():
        assert 1 <= len(set(ids)) <= 1 + unread[key], (key, ids, unread[key])
    copies = sum(len(ids) - len(set(ids)) for ids in by_key.values())
    assert copies <= c.in_doubt(), (copies, c.in_doubt())


def test_refused_while_the_leader_dies(make_cluster):
    """Outcome and report are one operation: three hundred refusals through a failover make three hundred reports."""
    c = cluster(make_cluster)
    load = c.load(300, sessions=5, extra=["--from", "a@sender.test", "--rcpt", f"r%n@{BAD}", "--rate", "150"])
    wait_for(lambda: len(reports(c)) >= 50, "reports come")
    leader = c.leader()
    leader.kill()
    assert load.popen.wait(300) == 0, load.text()
    c.wait_empty(c.alive())
    one_report_each(c, 300)
    assert c.verify()["lost"] == 0


def test_killed_while_the_report_waits(make_cluster):
    """One recipient is refused, the other's message is taken while the node has no majority, so that the report cannot be
    stored; kill -9. What the next hop said is not forgotten: one copy for the one, one report of the other."""
    c = make_cluster(cluster={"node_timeout": "60s", "commit_timeout": "100s"})
    answer = threading.Event()
    hop = NextHop(refuse={"RCPT TO:<NO@": "550 5.1.1 nobody", ".": lambda line: None if answer.wait(100) else "421 4.0.0"})
    c.peers.append(hop)
    bodies_dir = c.dir / "bodies"
    bodies_dir.mkdir()
    c.sink_args = ["--keep-bodies", bodies_dir]
    c.reconfigure(routes={"default": f"smtp://127.0.0.1:{c.sink_port}", "hop.test": hop.route})
    c.start()
    send(c.nodes[0], "a@sender.test", "no@hop.test", "yes@hop.test", subject="the original")
    wait_for(lambda: hop.transactions, "the dot has come")
    (hello,) = [line for line in hop.lines if line.startswith("EHLO")]
    (node,) = [n for n in c.nodes if hello == f"EHLO {n.name}.test"]
    others = [n for n in c.nodes if n is not node]
    for other in others:
        other.signal(signal.SIGSTOP)
    answer.set()
    wait_for(lambda: len(node.events("delivered", "bounced")) == 2, "the next hop's answer is read")
    node.kill()
    node.start()
    wait_for(lambda: node.status_code("/healthz") == 200, "the killed node is back")
    for other in others:
        other.signal(signal.SIGCONT)
    c.wait_ready()
    c.wait_empty()
    taken = [t["rcpts"] for t in hop.transactions]
    assert len(taken) == 1 and taken[0][0].startswith("RCPT TO:<yes@hop.test>"), taken
    assert c.in_doubt() == 0
    (message,) = reports_to(c, "a@sender.test")
    fields, original = read_report(message, "a@sender.test")
    assert sorted(fields) == ["no@hop.test"] and fields["no@hop.test"]["Action"] == "failed"
    assert original["Subject"] == "the original"
    assert len(reports(c)) == 1


def test_delay_and_expiry(make_cluster):
    """A warning and an end for what never gets through, one of each, though the leader dies between the two."""
    c = cluster(make_cluster, warn_after="3s", expire="14s")
    send(c.nodes[1], "", f"silent@{SLOW}")
    for i in range(20):
        send(c.nodes[i % 3], f"s{i}@sender.test", f"one@{SLOW}", f"two@{SLOW}")
    told = lambda: sum(len(reports_to(c, f"s{i}@sender.test")) > 0 for i in range(20))  # noqa: E731
    wait_for(lambda: told() == 20, "all are warned")
    c.leader().kill()
    c.wait_empty(c.alive())
    for i in range(20):
        sender = f"s{i}@sender.test"
        by_action = {}
        for message in reports_to(c, sender):
            fields, _ = read_report(message, sender)
            assert sorted(fields) == [f"one@{SLOW}", f"two@{SLOW}"]
            for f in fields.values():
                by_action.setdefault(f["Action"], set()).add(message["Message-ID"])
                if f["Action"] == "delayed":
                    assert f["Status"].startswith("4.") and f["Will-Retry-Until"]
                    assert "450 4.7.0" in f["Diagnostic-Code"]
                else:
                    assert f["Status"] == "4.4.7", f["Status"]
        assert {a: len(ids) for a, ids in by_action.items()} == {"delayed": 1, "failed": 1}, (sender, by_action)
    assert {r for e in reports(c) for r in e["recipients"]} == {f"s{i}@sender.test" for i in range(20)}
    assert c.alive()[0].get("/v1/status")["totals"]["expired"] == 41
