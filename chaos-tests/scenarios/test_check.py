"""The judge judged: journals, logs and traces that are right pass, and each kind of wrong in them is seen."""

import copy
import json
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scenarios import check, progress, report, runner  # noqa: E402  pylint: disable=wrong-import-position
from scenarios.common import harness  # noqa: E402  pylint: disable=wrong-import-position

HASH = "0123456789abcdef0123456789abcdef"
OTHER = "f123456789abcdef0123456789abcdef"


def names(failures):
    return {what for what, _ in failures}


# ---- journals ----


def sent(key, event="sent", verb="dot", code=250, at=1.0):
    return {"time": at, "event": event, "key": key, "verb": verb, "code": code, "seconds": 0.01, "recipients": ["r@x"],
            "size": 10, "sum": HASH, "sender": "load@x", "session": 1, "target": "t", "attempt": 1, "text": ""}


def received(key, message, at=1.1, replied=True, recipient="r@x", peer="10.99.0.1:4000"):
    return {"time": at, "event": "received", "key": key, "message_id": message, "recipients": [recipient], "replied": replied,
            "sum_ok": True, "sum": HASH, "size": 10, "peer": peer, "sender": "load@x"}


def test_copies_of_a_clean_run():
    figures, failures = check.copies([sent("k1"), sent("k2")], [received("k1", "M1"), received("k2", "M2")], set())
    assert failures == [] and figures == {"second_copies": 0, "second_copies_in_doubt": 0, "resent_by_client": 0}


def test_a_second_copy_needs_a_doubt():
    twice = [received("k1", "M1"), received("k1", "M1", at=7)]
    assert names(check.copies([sent("k1")], twice, set())[1]) == {"duplicated"}
    assert names(check.copies([sent("k1")], twice, {("M2", "1")})[1]) == {"duplicated"}
    figures, failures = check.copies([sent("k1")], twice, {("M1", "1")})
    assert failures == [] and figures["second_copies"] == figures["second_copies_in_doubt"] == 1


def test_one_doubt_explains_one_copy():
    thrice = [received("k1", "M1", at=t) for t in (1, 2, 3)]
    assert names(check.copies([sent("k1")], thrice, {("M1", "1")})[1]) == {"duplicated"}
    assert check.copies([sent("k1")], thrice, {("M1", "1"), ("M1", "2")})[1] == []


def test_a_copy_that_the_next_hop_did_not_answer_is_none():
    assert check.copies([sent("k1")], [received("k1", "M1", replied=False), received("k1", "M1")], set())[1] == []


def test_recipients_of_one_message_are_counted_apart():
    both = [received("k1", "M1"), received("k1", "M1", recipient="s@x")]
    assert check.copies([sent("k1")], both, set())[1] == []


def test_a_second_message_of_a_key_needs_an_attempt_without_reply():
    two = [received("k1", "M1"), received("k1", "M2")]
    assert names(check.copies([sent("k1")], two, set())[1]) == {"duplicated"}
    assert check.copies([sent("k1", "indeterminate", code=0), sent("k1")], two, set())[1] == []
    assert check.copies([sent("k1", "refused", code=451), sent("k1")], two, set())[1] == []
    assert names(check.copies([sent("k1", "refused", "rcpt", 451), sent("k1")], two, set())[1]) == {"duplicated"}
    assert names(check.copies([sent("k1", "refused", code=550), sent("k1")], two, set())[1]) == {"duplicated"}


def test_messages_of_the_scenario_itself():
    assert check.owed(["M1"], [received(None, "M1")]) == []
    assert names(check.owed(["M1", "M2"], [received(None, "M1")])) == {"lost"}


VERIFIED = {"lost": 0, "altered": 0, "invented": 0, "refused_but_delivered": 0, "malformed_lines": 0}


@pytest.mark.parametrize("count, what", [("lost", "lost"), ("altered", "altered"), ("invented", "invented"),
                                         ("refused_but_delivered", "refused"), ("malformed_lines", "lost")])
def test_each_count_of_verify(count, what):
    assert not list(check.loss(VERIFIED))
    assert names(check.loss({**VERIFIED, count: 1})) == {what}


def test_own_messages_are_not_invented_but_others_are():
    assert not list(check.loss({**VERIFIED, "invented": 1}, own=1))
    assert names(check.loss({**VERIFIED, "invented": 2}, own=1)) == {"invented"}


@pytest.fixture(name="verify")
def verify_fixture(tmp_path):
    """mailraft-load verify itself, over journals as they are written: the runner's way."""
    if not (harness.BIN / "mailraft-load").exists():
        pytest.skip("mailraft-load is not built")

    def verify(load, sink):
        (tmp_path / "load.jsonl").write_text("".join(json.dumps(e) + "\n" for e in load))
        (tmp_path / "sink.jsonl").write_text("".join(json.dumps(e) + "\n" for e in sink))
        done = subprocess.run([harness.BIN / "mailraft-load", "verify", "--json", "--sent", tmp_path / "load.jsonl", "--received",
                               tmp_path / "sink.jsonl"], capture_output=True, text=True, check=False)
        return names(check.loss(json.loads(done.stdout)))

    return verify


def test_verify_sees_loss_change_and_invention(verify):
    assert verify([sent("k1")], [received("k1", "M1")]) == set()
    assert verify([sent("k1"), sent("k2")], [received("k1", "M1")]) == {"lost"}
    assert "altered" in verify([sent("k1")], [{**received("k1", "M1"), "sum_ok": False, "sum": OTHER}])
    assert "invented" in verify([sent("k1")], [received("k1", "M1"), received("k9", "M9")])
    assert "refused" in verify([sent("k1", "refused", code=550)], [received("k1", "M1")])


# ---- traces ----


def trace(*lines):
    return "\n".join(("O 100", *lines)) + "\n"


def entries(first, last, term=2):
    return [f"E {i} {term} {i:032x}" for i in range(first, last + 1)]


GOOD = {"mx1": trace(*entries(4, 9), f"S 9 {HASH}"), "mx2": trace(*entries(4, 9), f"S 9 {HASH}", *entries(10, 12))}


def states(**changed):
    return names(check.states({**GOOD, **changed})[1])


def test_equal_traces():
    figures, failures, doubts = check.states(GOOD)
    assert failures == [] and doubts == set() and figures["entries"] == 9 and figures["compared"] == 7


def test_a_lie_in_a_trace():
    assert states(mx3=trace(*entries(4, 8), f"E 9 2 {OTHER}")) == {"states"}  # another entry
    assert states(mx3=trace(*entries(4, 8), f"E 9 3 {9:032x}")) == {"states"}  # another term
    assert states(mx3=trace(*entries(4, 9), f"S 9 {OTHER}")) == {"states"}  # another state
    assert states(mx3=trace(f"R 9 {OTHER}")) == {"states"}  # a snapshot that is another state
    assert states(mx3=trace(*entries(4, 6), *entries(8, 9))) == {"states"}  # an entry left out
    assert states(mx3=trace(*entries(4, 6), *entries(6, 9))) == {"states"}  # an entry twice
    assert states(mx3=trace(*entries(4, 9), f"R 7 {HASH}")) == {"states"}  # back in time
    assert states(mx3="rubbish\n" * 5) == {"states"}


def test_restarts_and_restores_are_no_lies():
    assert states(mx3=trace(*entries(4, 6)) + trace(*entries(4, 9))) == set()
    assert states(mx3=trace(f"R 9 {HASH}", *entries(10, 12))) == set()
    assert states(mx3=trace(*entries(4, 5), f"R 9 {HASH}", *entries(10, 11))) == set()
    assert states(mx3=trace(*entries(4, 6))[:-9]) == set()  # killed within a line
    assert states(mx3=trace(*entries(4, 6)) + trace(*entries(4, 5), f"E 6 2 {OTHER}")) == {"states"}  # another one at replay


def test_doubts_of_traces_and_logs():
    line = "D 7 possibly_in_doubt M1 0 3 2"
    assert check.states({"mx1": trace(*entries(4, 7), line)})[2] == {("M1", "3")}
    logs = {"mx1": [{"event": "late_outcome", "id": "M1", "attempt": 3}, {"event": "delivered", "id": "M2", "attempt": 1}]}
    assert check.told_doubts(logs) == {("M1", "3")}


# ---- logs ----


def event(name, at, **more):
    return {"event": name, "time": f"2026-01-01T00:00:{at:06.3f}Z", **more}


def test_terms():
    good = {"mx1": [event("leading", 1, term=2), event("leader", 1, term=2, leader=1), event("leader", 9, term=3, leader=2)],
            "mx2": [event("leader", 1, term=2, leader=1), event("leading", 9, term=3), event("leader", 9, term=3, leader=2)]}
    assert check.terms(good)[1] == []
    two = copy.deepcopy(good)
    two["mx2"].append(event("leading", 10, term=4))
    two["mx1"].append(event("leading", 10, term=4))
    assert names(check.terms(two)[1]) == {"terms"}
    back = copy.deepcopy(good)
    back["mx1"].append(event("leader", 10, term=2, leader=1))
    assert names(check.terms(back)[1]) == {"terms"}
    told = copy.deepcopy(good)
    told["mx2"][2]["leader"] = 1
    assert names(check.terms(told)[1]) == {"terms"}


def test_attempts():
    a = {"event": "assigned", "id": "M1", "delivery": 0, "attempt": 1}
    assert check.attempts({"mx1": [a, {**a, "id": "M2"}], "mx2": [{**a, "attempt": 2}]})[1] == []
    assert names(check.attempts({"mx1": [a], "mx2": [a]})[1]) == {"attempts"}


BASE = check.seconds_of("2026-01-01T00:00:00.000Z")


def test_fencing():
    log = [event("starting", 0), event("lease", 1), event("lease_ended", 10), event("lease", 14)]
    stretches, failures = check.without_lease(log, [], BASE + 60)
    assert stretches == [(BASE + 10, BASE + 14)] and not failures

    def fenced(at, peer="10.99.0.1:4000"):
        return names(check.fencing(stretches, [received("k", "M", at=BASE + at, peer=peer)], "10.99.0.1"))

    assert fenced(9.9) == fenced(10.2) == fenced(14.1) == fenced(12, "10.99.0.2:4000") == set()
    assert fenced(12) == {"fencing"}


def test_fencing_of_a_pause():
    """The lease ended within the pause, though the log could say so only afterwards."""
    log = [event("lease", 1), event("lease_ended", 20), event("lease", 20.5)]
    pause = {"begin": BASE + 12, "end": BASE + 19.9}
    stretches, failures = check.without_lease(log, [pause], BASE + 60)
    assert (BASE + 12 + check.LEASE, BASE + 20.5) in stretches and not failures
    assert names(check.without_lease(log[:1], [pause], BASE + 60)[1]) == {"fencing"}  # it went on as if nothing had been
    before = [log[0], event("lease_ended", 11), event("lease", 21)]  # it had none when it was stopped
    assert check.without_lease(before, [pause], BASE + 60) == ([(BASE + 11, BASE + 21)], [])
    late = [log[0], event("lease_ended", 40)]  # that of the orderly end
    assert names(check.without_lease(late, [pause], BASE + 60)[1]) == {"fencing"}
    assert not check.without_lease([log[0]], [{"begin": BASE + 12, "end": BASE + 14}], BASE + 60)[1]
    assert names(check.fencing([[BASE + 15, BASE + 20.5]], [received("k", "M", at=BASE + 20)], "10.99.0.1")) == {"fencing"}


def test_flat():
    before = {"fds": 30, "rss_kib": 20000, "pid": 7}
    assert check.flat("mx1", before, {**before, "fds": 40}) == []
    assert names(check.flat("mx1", before, {**before, "fds": 90})) == {"flat"}
    assert names(check.flat("mx1", before, {**before, "rss_kib": 400000})) == {"flat"}
    assert check.flat("mx1", before, {**before, "fds": 90, "pid": 8}) == []  # another life


def test_takeovers():
    logs = {"mx2": [event("leading", 1), event("leading", 10.8), event("leading", 40)]}
    assert [round(t, 3) for _, t in check.takeovers([(BASE + 10, "mx1")], logs)] == [0.8]
    assert check.takeovers([(BASE + 15, "mx1")], logs) == []  # it went on: the next term came long after
    assert [round(t, 3) for _, t in check.takeovers([(BASE + 9, "mx1"), (BASE + 10, "mx1")], logs)] == [0.8]


def test_silence():
    assert check.silence([sent("a", at=1), sent("b", at=1.5), sent("c", "refused", code=451, at=2), sent("d", at=4)]) == (2.5, 1.5)


def test_silences_after_takeovers():
    times = [sent("a", at=t) for t in (1, 2, 9.9, 10.1, 11.5, 12, 20)]
    assert [round(t, 3) for t in check.silences_after([(10.0, 0.8)], times)] == [1.4]
    assert check.silences_after([], times) == []


def test_summary():
    one = {"figures": {"messages": 600000, "lost": 0, "altered": 0, "second_copies": 3, "in_doubt": 5, "takeovers": [1.0, 3.0],
                       "silences": [1.1], "recovery": 2.0}}
    text = progress.summary({"runs": [one, one, {"figures": {}}]})
    table = progress.markdown([{"runs": [{**one, "scenario": "a", "result": "passed"}] * 2}, {"runs": [
        {**one, "scenario": "a", "result": "FAILED"}]}])
    assert "| a | 2 of 3 | 1800000 | 0 | 0 | 9 | 15 | 2.00 / 3.00 | 1.10 / 1.10 | 2.00 / 2.00 |" in table
    assert "1 200 000 messages" in text and "duplicated 6 (5 a million)" in text and "takeover 2.00, at most 3.00 (4" in text


# ---- the runner ----


def test_allowed_failures_are_told_but_do_not_fail():
    from scenarios import Scenario

    class Options:
        minutes = None

    run = runner.Run(Scenario("x", "y", None, allow={"flat": "the fault leaks"}), 1, pathlib.Path("/nonexistent"), None, None, Options,
                     {})
    run.fail("flat", "90 files")
    assert run.passed and run.allowed
    run.fail("lost", "one")
    assert not run.passed


def test_the_page_needs_nothing_from_elsewhere():
    run = {"scenario": "<kill>", "what": "a & b", "seed": 3, "result": "FAILED", "failures": ["lost: <1>"], "allowed": [], "figures": {
        "messages": 5, "lost": 1, "silence": 0.5}, "notes": {"k": "v"}, "logs": "/tmp/x", "again": "again"}
    series = {"start": 0, "length": 10, "step": 1, "accepted": [1] * 10, "delivered": [1] * 10, "p50": [0.1, None] * 5,
              "p99": [0.2] * 10, "queue": [(1, 3), (2, None), (3, 4)], "leaders": [("mx1", 0, 5), (None, 5, 6), ("mx2", 6, 10)],
              "bands": [("mx1 <dead>", 4, 6)], "marks": [(4, "mx1 killed")], "nodes": ["mx1", "mx2"]}
    text = report.page({"runs": [run], "began": 0, "seconds": 1, "seed": 3, "target": "local",
                        "skipped": [{"scenario": "s", "why": "<w>"}]}, [series])
    assert "<kill>" not in text and "&lt;kill&gt;" in text and "mx1 &lt;dead&gt;" in text
    for outside in ("http://", "https://", "src=", "<script", "@import", "url("):
        assert outside not in text
