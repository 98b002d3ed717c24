"""What the replicated queue itself keeps of a message: its user's limit, priority, release and deadline."""

import concurrent.futures
import email
import email.policy
import pathlib
import smtplib
import time

from harness import free_port, read_journal, wait_for
from interop import Message, secured, send, users
from peers import PASSWORD, USER

SENDER = "alice@client.test"
TO = "bob@example.test"
LIMIT = 20


def test_hourly_limit_is_exact_for_the_cluster(make_cluster):
    """Three nodes at once, and a death of the leader: no more recipients than the limit get in, and no fewer."""
    c = make_cluster()
    ports = [free_port() for _ in c.nodes]
    c.reconfigure(
        smtp={"tls": secured(c),
              "auth": {"file": str(users(c.dir)), "senders": "any", "recipients_per_hour": LIMIT}})
    for node, port in zip(c.nodes, ports):
        config = c.config(node)
        config["smtp"]["listeners"].append({"listen": f"127.0.0.1:{port}", "profile": "submission"})
        node.configure(config)
    c.start()

    def submit(i):
        try:
            send(ports[i % 3], SENDER, [f"r{i}-{k}@example.test" for k in range(2)], Message(SENDER, TO).data, tls=c.pki.ca,
                 login=(USER, PASSWORD))
            return None
        except smtplib.SMTPDataError as e:
            return e.smtp_code, e.smtp_error

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(submit, range(25)))
    assert answers.count(None) == LIMIT // 2, answers
    refused = [a for a in answers if a is not None]
    assert all(code == 450 and text.startswith(b"4.7.1") for code, text in refused), refused
    # The next leader knows it too; who is nobody has no limit.
    leader = c.leader()
    leader.kill()
    rest = [i for i, n in enumerate(c.nodes) if n is not leader]
    c.leader(among=[c.nodes[i] for i in rest])
    c.wait_ready([c.nodes[i] for i in rest])
    assert submit(rest[0])[0] == 450
    send(c.nodes[rest[1]].smtp, SENDER, TO, Message(SENDER, TO).data)
    wait_for(lambda: len(delivered(c)) >= LIMIT // 2 + 1, "what was taken is delivered")


def delivered(c):
    return [e for e in read_journal(c.sink_journal) if e["event"] == "received"]


def test_urgent_mail_overtakes(make_cluster):
    """A queue that stood still for a while goes on with what is urgent; `show` says what was asked for."""
    c = make_cluster(n=1, delivery={"suspended": True, "limits": {"default": {"connections": 1}}})
    c.start()
    node = c.nodes[0]
    order = [0, -9, 9, 4, 0, -1, 9, 3]
    messages = []
    for i, priority in enumerate(order):
        send(node.smtp, SENDER, f"p{i}@example.test", Message(SENDER, TO).data, mail=[f"MT-PRIORITY={priority}"])
        messages.append(i)
    shown = node.get("/v1/messages")["messages"]
    assert sorted(m["priority"] for m in shown) == sorted(order), shown
    c.reconfigure(delivery={"limits": {"default": {"connections": 1}}})
    node.signal(1)
    wait_for(lambda: len(delivered(c)) == len(order), "all are delivered")
    got = [int(e["recipients"][0].strip("<>").split("@")[0][1:]) for e in delivered(c)]
    assert got == sorted(messages, key=lambda i: (-order[i], i)), got


def test_held_mail_is_released_in_time(make_cluster):
    c = make_cluster(n=1)
    port = free_port()
    c.reconfigure(smtp={"tls": secured(c), "auth": {"file": str(users(c.dir)), "senders": "any"}, "max_hold": "1h",
                        "listeners": [{"listen": f"127.0.0.1:{port}", "profile": "submission"}]})
    c.start()
    node = c.nodes[0]
    began = time.time()
    send(port, SENDER, TO, Message(SENDER, TO).data, tls=c.pki.ca, login=(USER, PASSWORD), mail=["HOLDFOR=3"])
    (shown,) = node.get("/v1/messages")["messages"]
    assert shown["hold"] and shown["user"] == USER, shown
    assert shown["recipients"][0]["state"] == "deferred", shown
    # A restart does not let it go early.
    assert node.end() == 0
    node.start()
    c.wait_ready()
    wait_for(lambda: delivered(c), "it is released")
    assert delivered(c)[0]["time"] >= began + 2.9


def reports(c):
    found = [email.message_from_bytes(p.read_bytes(), policy=email.policy.default)
             for p in pathlib.Path(c.dir / "bodies").glob("*.eml")]
    return [m for m in found if m.get_content_type() == "multipart/report"]


def test_deadline_returns_or_tells(make_cluster):
    """RFC 2852: by mode R a message comes back when its time is up, by mode N its delay is told and it goes on."""
    c = make_cluster(n=1)
    (c.dir / "bodies").mkdir()
    c.sink_args = ["--keep-bodies", c.dir / "bodies"]
    slow = c.another_sink("slow", "--fault", "refuse@rcpt=450")
    c.reconfigure(
        routes={"default": f"smtp://127.0.0.1:{c.sink_port}", "slow.test": f"smtp://127.0.0.1:{slow.port}"},
        smtp={"listeners": [{"listen": f"127.0.0.1:{c.nodes[0].smtp}"}], "relay_from": ["127.0.0.0/8"],
              "hostname": "mx1.test", "min_deliver_by": "1s"})
    c.start()
    node = c.nodes[0]
    send(node.smtp, SENDER, "back@slow.test", Message(SENDER, TO).data, mail=["BY=2;R"])
    send(node.smtp, SENDER, "told@slow.test", Message(SENDER, TO).data, mail=["BY=2;N"])
    send(node.smtp, SENDER, "quiet@slow.test", Message(SENDER, TO).data, mail=["BY=2;N"], rcpt=["NOTIFY=NEVER"])
    wait_for(lambda: len(reports(c)) == 2, "two reports")
    said = {}
    for m in reports(c):
        _, fields = m.get_payload()[1].get_payload()
        said[fields["Final-Recipient"].split(";")[1].strip()] = fields["Action"], fields["Status"]
    assert said == {"back@slow.test": ("failed", "5.4.7"), "told@slow.test": ("delayed", "4.4.7")}, said
    wait_for(lambda: len(node.get("/v1/messages")["messages"]) == 2, "the others wait on")
    assert len(reports(c)) == 2
