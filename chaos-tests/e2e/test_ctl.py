"""mailraftctl against real nodes: every command, on a pipe and on a terminal, with right and wrong input."""

import email
import http.server
import json
import os
import pty
import re
import signal
import subprocess
import threading

import pytest

from harness import BIN, LIMIT, ROOT, Process, free_port, read_journal, try_send, wait_for

DONE, REFUSED, USAGE, UNAVAILABLE = 0, 1, 2, 3
UNKNOWN_ID = "0" * 26


def ctl(*args, server=None, env=None):
    command = [BIN / "mailraftctl", *args]
    if server is not None:
        command += ["--server", f"http://127.0.0.1:{server}"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAILRAFT_")}
    return subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, timeout=LIMIT, env={**clean, **(env or {})}
    )


def good(*args, **kwargs):
    done = ctl(*args, **kwargs)
    assert done.returncode == DONE, (args, done)
    assert done.stderr == ""
    return done.stdout


def rows(text):
    return [line.split("\t") for line in text.splitlines()]


def pairs(text):
    return {r[0]: r[1] for r in rows(text) if len(r) == 2}


def refused(done, status, *words):
    assert done.returncode == status, done
    assert done.stdout == "" and done.stderr.startswith("mailraftctl: "), done
    for word in words:
        assert word in done.stderr, done


@pytest.fixture
def full(make_cluster):
    """Three nodes whose next hop is away, and three messages that wait."""
    c = make_cluster().start(sink=False)
    assert try_send(c.nodes[0].smtp, "anna@one.test", "bob@two.test", "first body")[0] == 250
    assert try_send(c.nodes[1].smtp, "anna@one.test", "carl@three.test", "second body")[0] == 250
    assert try_send(c.nodes[2].smtp, "dora@four.test", "bob@two.test", "third body")[0] == 250
    wait_for(lambda: all(n.get("/v1/status")["queue"]["messages"] == 3 for n in c.nodes), "all nodes know of three")
    return c


def test_status_and_nodes(full):
    leader = full.leader().name
    for node in full.nodes:
        status = pairs(good("status", server=node.http))
        assert status["node"] == node.name and status["leader"] == leader and status["quorum"] == "yes"
        assert status["messages"] == "3"
        members = [r for r in rows(good("status", server=node.http)) if r[0] == "member"]
        assert [(m[1], m[2]) for m in members] == [("mx1", "up"), ("mx2", "up"), ("mx3", "up")]
        nodes = rows(good("nodes", server=node.http))
        assert [r[0] for r in nodes] == ["mx1", "mx2", "mx3"]
        assert [r[2] for r in nodes].count("leader") == 1
        assert {len(r) for r in nodes} == {8}
        parsed = json.loads(good("--json", "status", server=node.http))
        assert parsed["node"] == node.name and len(parsed["nodes"]) == 3
        assert [n["name"] for n in json.loads(good("nodes", "--json", server=node.http))] == ["mx1", "mx2", "mx3"]
    assert pairs(good("status", env={"MAILRAFT_SERVER": f"127.0.0.1:{full.nodes[1].http}"}))["node"] == "mx2"


def test_queue(full):
    hop = f"smtp://127.0.0.1:{full.sink_port}"
    wait_for(lambda: full.nodes[0].get("/v1/queue")["next_hops"][0]["last_reply"], "an attempt has failed")
    (row,) = rows(good("queue", server=full.nodes[0].http))
    assert row[0] == hop and len(row) == 9
    assert sum(int(n) for n in row[1:5]) == 3
    assert json.loads(good("queue", "--json", server=full.nodes[0].http))["next_hops"][0]["next_hop"] == hop
    full.start_sink()
    full.wait_empty()
    assert good("queue", server=full.nodes[0].http) == ""


def test_list(full):
    server = full.nodes[2].http
    everything = rows(good("list", server=server))
    assert len(everything) == 3 and {len(r) for r in everything} == {9}
    assert all(re.fullmatch("[0-9A-Z]{26}", r[0]) for r in everything)

    def found(*filters):
        return sorted((r[5], r[6]) for r in rows(good("list", *filters, server=server)))

    first, second, third = sorted((r[5], r[6]) for r in everything)
    assert found("--sender", "anna@") == [first, second]
    assert found("--recipient", "bob") == [first, third]
    assert found("--domain", "THREE.test") == [second]
    assert found("--sender", "anna", "--recipient", "bob") == [first]
    assert found("--next-hop", f"smtp://127.0.0.1:{full.sink_port}") == [first, second, third]
    assert found("--next-hop", "smtp://127.0.0.1:1") == []
    assert found("--age", "1d") == [] and found("--state", "failed") == []
    assert found("--sender", "a&limit=1") == []
    assert len(rows(good("list", "--limit", "2", server=server))) == 2
    parsed = json.loads(good("list", "--json", server=server))
    assert len(parsed["messages"]) == 3 and parsed["next"] is None
    page = json.loads(good("list", "--json", "--limit", "2", server=server))
    rest = json.loads(good("list", "--json", "--after", str(page["next"]), server=server))
    assert [m["id"] for m in page["messages"] + rest["messages"]] == [m["id"] for m in parsed["messages"]]
    assert json.loads(good("list", "--json", "--sender", "nobody", server=server)) == {"messages": [], "next": None}


def test_list_pages(make_cluster):
    """More messages than a page holds: each once, in order, in lines and in JSON."""
    c = make_cluster(delivery={"suspended": True}).start(sink=False)
    assert c.load(1203, size=100).popen.wait(300) == 0
    wait_for(lambda: c.nodes[0].get("/v1/status")["queue"]["messages"] == 1203, "the node knows of all")
    ids = [r[0] for r in rows(good("list", server=c.nodes[0].http))]
    parsed = json.loads(good("list", "--json", server=c.nodes[0].http))
    assert len(ids) == len(set(ids)) == 1203
    assert [m["id"] for m in parsed["messages"]] == ids
    assert [r[0] for r in rows(good("list", "--limit", "777", server=c.nodes[0].http))] == ids[:777]
    # A reader that stops early ends the list and nothing else.
    command = f"'{BIN}/mailraftctl' list --server http://127.0.0.1:{c.nodes[0].http} | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=LIMIT)
    assert done.stdout.startswith(ids[0]) and done.stderr == ""


def test_show_and_cat(full):
    wanted = next(r for r in rows(good("list", "--sender", "dora", server=full.nodes[0].http)))
    for node in full.nodes:
        text = good("show", wanted[0], server=node.http)
        shown = pairs(text)
        assert shown["id"] == wanted[0] and shown["sender"] == "dora@four.test" and shown["accepted_by"] == "mx3"
        (recipient,) = [r for r in rows(text) if r[0] == "recipient"]
        assert recipient[1] == "bob@two.test" and len(recipient) == 9
        assert json.loads(good("show", wanted[0].lower(), "--json", server=node.http))["id"] == wanted[0]
        raw = subprocess.run(
            [BIN / "mailraftctl", "cat", wanted[0], "--server", f"127.0.0.1:{node.http}"],
            capture_output=True, check=True, timeout=LIMIT,
        ).stdout
        message = email.message_from_bytes(raw)
        assert message["Subject"] == "test" and message.get_payload() == "third body\r\n"
        assert int(shown["size"]) == len(raw)
    refused(ctl("show", UNKNOWN_ID, server=full.nodes[0].http), REFUSED, "no such message")
    refused(ctl("cat", UNKNOWN_ID, server=full.nodes[0].http), REFUSED)


def test_terminal(full):
    """On a terminal: headings, columns under each other, colours unless they are not wanted."""
    plain = on_terminal(full, "nodes", env={"NO_COLOR": "1"})
    lines = plain.splitlines()
    assert lines[0].split()[:3] == ["NODE", "STATE", "ROLE"] and "\033" not in plain and "\t" not in plain
    assert {line.index("up") for line in lines[1:4]} == {lines[0].index("STATE")}
    assert "\033[32mup" in on_terminal(full, "nodes")
    assert "leader" in on_terminal(full, "status") and "NEXT HOP" in on_terminal(full, "queue")
    assert on_terminal(full, "list", env={"NO_COLOR": "1"}).splitlines()[0].startswith("ID ")
    full.start_sink()
    full.wait_empty()
    assert "The queue is empty." in on_terminal(full, "queue")


def on_terminal(c, *args, env=None):
    """What the command writes to a terminal 200 columns wide."""
    command = [str(BIN / "mailraftctl"), *args, "--server", f"http://127.0.0.1:{c.nodes[0].http}"]
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm", "COLUMNS": "200", **(env or {})})
        os.execv(command[0], command)
    text = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not piece:
            break
        text += piece
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DONE, text
    return text.decode().replace("\r\n", "\n")


def test_no_quorum(make_cluster):
    c = make_cluster().start(sink=False)
    survivor, *others = c.nodes
    for node in others:
        node.kill()
    wait_for(lambda: survivor.status_code("/readyz") == 503, "the survivor knows")
    for command in ("status", "nodes"):
        done = ctl(command, server=survivor.http)
        assert done.returncode == UNAVAILABLE and "mx1" in done.stdout and "no quorum" in done.stderr, done
    parsed = ctl("status", "--json", server=survivor.http)
    assert parsed.returncode == UNAVAILABLE and json.loads(parsed.stdout)["quorum"] is False


def test_unreachable():
    refused(ctl("status", server=free_port()), UNAVAILABLE, "--server")
    refused(ctl("list", "--server", "http://no-such-host.invalid:1"), UNAVAILABLE)


def test_usage():
    wrong = (
        [], ["sttus"], ["status", "--limit", "5"], ["show"], ["show", "x"], ["cat", "/etc/passwd"], ["list", "--age", "old"],
        ["list", "--colour", "red"], ["pki", "issue"], ["demo", "--nodes", "1"], ["status", "--server", "ftp://x"],
        ["status", "--server", "http://a b/"],
    )  # fmt: skip
    for args in wrong:
        refused(ctl(*args), USAGE)
    assert "Usage:" in good("--help") and re.fullmatch(r"mailraftctl \d+\.\d+\.\d+\n", good("--version"))


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {"/v1/status": (200, b"<html>hello"), "/v1/queue": (200, b"[]"), "/v1/messages": (302, b"")}
        code, text = answers.get(self.path.split("?")[0], (404, b"nothing here"))
        self.send_response(code)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


def test_stranger():
    """Something that is no mailraft node answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        for args in (["status"], ["queue"], ["list"], ["show", UNKNOWN_ID], ["cat", UNKNOWN_ID]):
            refused(ctl(*args, server=port), REFUSED, "node")
        server.shutdown()


def test_token(make_cluster, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("guess\n")
    empty = tmp_path / "empty"
    empty.write_text("\n")
    c = make_cluster(http={"token_file": str(token)}).start(sink=False)
    port = c.nodes[0].http
    refused(ctl("status", server=port), REFUSED, "token")
    refused(ctl("status", "--token-file", wrong, server=port), REFUSED, "token")
    refused(ctl("status", "--token-file", empty, server=port), USAGE)
    refused(ctl("status", "--token-file", tmp_path / "none", server=port), REFUSED)
    assert pairs(good("status", "--token-file", token, server=port))["node"] == "mx1"
    assert pairs(good("status", server=port, env={"MAILRAFT_TOKEN_FILE": str(token)}))["node"] == "mx1"


def test_pki(tmp_path):
    pki = tmp_path / "pki"
    assert good("pki", "init", pki, "--name", "my cluster").splitlines() == [f"{pki}/ca.pem", f"{pki}/ca.key"]
    assert good("pki", "issue", pki, "mx1", "mx1.example.net", "10.0.0.1", "--days", "30").splitlines()[0] == f"{pki}/mx1.pem"
    assert (pki / "ca.key").stat().st_mode & 0o777 == 0o600 and (pki / "mx1.key").stat().st_mode & 0o777 == 0o600
    verify = ["openssl", "verify", "-CAfile", pki / "ca.pem", "-verify_hostname", "mx1.example.net", pki / "mx1.pem"]
    subprocess.run(verify, check=True, capture_output=True)
    before = (pki / "mx1.pem").read_bytes()
    refused(ctl("pki", "init", pki), REFUSED)
    refused(ctl("pki", "issue", pki, "mx1"), REFUSED)
    refused(ctl("pki", "issue", pki, "../x"), USAGE)
    refused(ctl("pki", "issue", tmp_path / "none", "mx1"), REFUSED)
    assert (pki / "mx1.pem").read_bytes() == before and not (tmp_path / "x.pem").exists()


def test_tls_cluster(make_cluster):
    """Nodes with certificates of mailraftctl talk to each other."""
    c = make_cluster(tls=True).start()
    assert try_send(c.nodes[0].smtp)[0] == 250
    c.wait_empty()
    assert pairs(good("status", server=c.nodes[1].http))["quorum"] == "yes"


def test_documented_configurations(tmp_path):
    """The example and the README's configuration are what mailraftd takes."""
    shown = tmp_path / "readme.yaml"
    shown.write_text(re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1])
    for path in (ROOT / "deploy" / "mailraft.yaml.example", shown):
        done = subprocess.run(
            [BIN / "mailraftd", "--config", path, "--check-config"], capture_output=True, text=True, check=False
        )
        # Its node.name is given, so the name of this machine does not matter.
        assert done.returncode == 0, done


# ---- demo ----


def processes_of(folder):
    """Pids of processes whose command line names the folder."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as f:
                    if str(folder).encode() in f.read():
                        found.append(int(entry))
            except OSError:
                continue
    return found


def test_demo_once(tmp_path):
    done = subprocess.run(
        [BIN / "mailraftctl", "demo", "--once", "--json", "--messages", "400"],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == DONE, done
    result = json.loads(done.stdout)
    assert result["messages"] == result["accepted"] == result["delivered"] == 400
    assert result["lost"] == result["altered"] == result["invented"] == 0
    assert result["duplicated"] <= result["in_doubt"]
    assert result["killed"] in ("mx1", "mx2", "mx3") and result["accepting_again_after_s"] > 0
    assert result["deliveries_taken_over_after_s"] > 0
    assert "kill -9 of the leader" in done.stderr and "\r" not in done.stderr
    assert os.listdir(tmp_path) == [] and processes_of(tmp_path) == []


def test_demo_stays(tmp_path):
    """Without --once the cluster goes on, heals after a kill, and ends with ctrl-C; --dir keeps the folder."""
    folder = tmp_path / "demo"
    demo = Process([BIN / "mailraftctl", "demo", "--messages", "40", "--nodes", "5", "--dir", folder], tmp_path / "out")
    try:
        wait_for(lambda: "goes on running" in demo.text() or not demo.alive(), "the demo has run")
        found = re.findall(r"(mx\d)  http://127.0.0.1:(\d+)/\S+ +SMTP 127.0.0.1:(\d+) +pid (\d+)", demo.text())
        assert len(found) == 5, demo.text()
        assert "\naccepted=40\n" in demo.text() and "\nlost=0\n" in demo.text()
        (_, port, smtp, _), (name, _, _, pid), *_ = found
        assert pairs(good("status", server=port))["quorum"] == "yes"
        os.kill(int(pid), signal.SIGKILL)
        assert try_send(int(smtp), recipient="late@example.test")[0] == 250
        journal = folder / "received.jsonl"
        wait_for(lambda: any("late@example.test" in e.get("recipients", []) for e in read_journal(journal)), "it arrives")
        wait_for(lambda: f"{name} is started again" in demo.text(), "the demo starts the node again")
        demo.signal(signal.SIGINT)
        assert demo.popen.wait(LIMIT) == DONE, demo.text()
    finally:
        demo.kill()
    assert processes_of(folder) == [] and (folder / "mx1" / "log.jsonl").exists()
    done = ctl("demo", "--once", "--dir", folder)
    assert done.returncode == REFUSED and "not empty" in done.stderr, done
    assert (folder / "mx1" / "log.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_demo_ended(tmp_path, number):
    """However the demo dies, nothing of it goes on running; told to end, it also clears up."""
    demo = Process([BIN / "mailraftctl", "demo", "--messages", "100000"], tmp_path / "out",
                   env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    try:
        wait_for(lambda: "kill -9 of the leader" in demo.text() or "accepted 2" in demo.text(), "the load runs")
        assert len(processes_of(tmp_path / "mailraft-demo-")) >= 4
        demo.signal(number)
        demo.popen.wait(LIMIT)
    finally:
        demo.kill()
    wait_for(lambda: processes_of(tmp_path / "mailraft-demo-") == [], "its children are gone")
    left = [p for p in tmp_path.iterdir() if p.name.startswith("mailraft-demo-")]
    if number == signal.SIGTERM:
        assert demo.popen.returncode == REFUSED and left == []


def test_questions_until_the_end(make_cluster):
    """A node that is asked all the time ends in order nevertheless."""
    c = make_cluster(n=1).start(sink=False)
    node = c.nodes[0]
    assert c.load(3).popen.wait(60) == 0
    message = node.get("/v1/messages")["messages"][0]["id"]
    for _ in range(6):
        ended = threading.Event()

        def ask(path):
            while not ended.is_set():  # pylint: disable=cell-var-from-loop
                node.get(path, 1)

        askers = [threading.Thread(target=ask, args=(p,)) for p in ("/v1/status", "/metrics", f"/v1/messages/{message}/body") * 3]
        for asker in askers:
            asker.start()
        wait_for(lambda: node.metric("raft_applied_index") > 0, "it answers")
        status = node.end()
        ended.set()
        for asker in askers:
            asker.join()
        assert status == 0, node.text()[-500:]
        node.start()
        c.wait_ready()
