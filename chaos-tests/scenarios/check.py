"""What must hold after a run: the invariants of which the outside of real processes tells something.

Everything here is a function of what was written down (journals of the load and of the next hops, the nodes' logs and apply
traces), so that test_check.py can show it doctored ones: a check that cannot fail is none. The names of the checks are those that
a scenario may allow to fail (`allow`), with its reason.

    lost, altered, invented, refused   mailraft-load verify: invariants 1, 2, 3, 12
    duplicated   invariant 4: a second copy of a message only where the cluster itself counted it in doubt, or the next hop's answer
                 was lost after the dot; invariant 3: a second message of one key only for an attempt whose reply the client lost
    states       invariant 7: entry, term and hash of the state at each index, on all nodes, after restarts and restores too
    terms        invariant 8: one leader a term, and no node's term goes back
    attempts     invariant 5: one attempt of a delivery is one node's alone
    fencing      invariant 5: no dot of a node between the end of its lease and its next one
    after        invariant 13: one leader, mail accepted by every node, the queue drains
    alive        invariant 13: no process ended that nobody ended, none that was ended orderly failed
    flat         invariant 13: open files and memory are what they were
"""

import bisect
import calendar
import collections
import json
import re
import time

LEASE = 3.0  # seconds, cluster.lease's default
DOUBTS = ("in_doubt", "possibly_in_doubt", "late_outcome")


def seconds_of(text):
    """Unix time of a log line's RFC 3339 time."""
    whole, _, rest = text.partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float("0." + rest.rstrip("Z"))


# ---- journals ----


def loss(counts, own=0):
    """counts: of mailraft-load verify; own: deliveries of messages that the scenario sent itself, without a key. Yields (check,
    what)."""
    for check, names in {"lost": ("lost",), "altered": ("altered",), "invented": ("invented",),
                         "refused": ("refused_but_delivered",)}.items():
        for name in names:
            if counts[name] > (own if name == "invented" else 0):
                yield check, f"{counts[name]} {name}"
    if counts.get("malformed_lines"):
        yield "lost", f"{counts['malformed_lines']} lines of the journals are unreadable"


def owed(ids, received):
    """Messages that the scenario sent itself and got 250 for."""
    arrived = {e.get("message_id") for e in received}
    return [("lost", f"{i} got 250 and did not arrive") for i in ids if i not in arrived]


def copies(sent, received, doubts):
    """Second copies, by message and by key. Returns (figures, failures).

    sent: events of the load; received: those of the next hops; doubts: set of (id, attempt) that the cluster counted.
    """
    failures = []
    by_message = collections.Counter()
    by_key = collections.defaultdict(set)
    for e in received:
        if e.get("dsn"):
            continue
        for recipient in e["recipients"]:
            if e.get("replied", True):
                by_message[(e["message_id"], recipient)] += 1
            if e.get("key"):
                by_key[(e["key"], recipient)].add(e["message_id"])
    counted = collections.Counter(message for message, _ in doubts)
    second = {k: n - 1 for k, n in by_message.items() if n > 1}
    allowed = 0
    for (message, recipient), extra in sorted(second.items()):
        known = counted[message]
        allowed += min(extra, known)
        if extra > known:
            failures.append(("duplicated", f"{message} to {recipient} was delivered {extra + 1} times, in doubt {known}"))
    tries = collections.Counter()
    for e in sent:
        if e.get("event") == "indeterminate" or e.get("event") == "refused" and e.get("verb") == "dot" and e["code"] < 500:
            tries[e["key"]] += 1
        elif e.get("event") == "sent":
            tries[e["key"]] += 1
    resent = 0
    for (key, recipient), messages in sorted(by_key.items()):
        resent += len(messages) - 1
        if len(messages) > max(1, tries[key]):
            failures.append(("duplicated", f"{key} to {recipient} came as {len(messages)} messages of {tries[key]} attempts"))
    figures = {"second_copies": sum(second.values()), "second_copies_in_doubt": allowed, "resent_by_client": resent}
    return figures, failures


def told_doubts(logs):
    """(id, attempt) of what the nodes' logs say may have been delivered: by a leader, or by the node that lost the answer."""
    return {(e["id"], str(e["attempt"])) for events in logs.values() for e in events if e.get("event") in DOUBTS}


# ---- apply traces ----

TRACE_LINE = re.compile(
    r"^(?:O \d+|E \d+ \d+ [0-9a-f]{32}|[SR] \d+ [0-9a-f]{32}|D \d+ (?:in_doubt|possibly_in_doubt|late_outcome) \w+ \d+ \d+ \d+)$"
)


def read_trace(text):
    """Lives of one node: lists of (kind, index, values). A torn last line of a killed process is left out."""
    lives = []
    torn = 0
    for line in text.splitlines():
        if not TRACE_LINE.match(line):
            torn += 1
            continue
        kind, *words = line.split()
        if kind == "O":
            lives.append([])
            continue
        if not lives:
            lives.append([])
        lives[-1].append((kind, int(words[0]), tuple(words[1:])))
    return lives, torn


def states(traces):
    """traces: node -> text. Returns (figures, failures, doubts)."""
    failures = []
    entries, hashes = {}, {}  # index -> (value, node)
    stretches = []  # (node, [indexes]) without a restart or restore between
    doubts = set()
    compared = 0
    for node, text in sorted(traces.items()):
        lives, torn = read_trace(text)
        if torn > len(lives):
            failures.append(("states", f"{node}: {torn} unreadable lines in the apply trace"))
        for life in lives:
            at, run = 0, []
            for kind, index, values in life:
                if kind == "E":
                    if index <= at:
                        failures.append(("states", f"{node}: entry {index} was applied after {at}"))
                    at = index
                    run.append(index)
                    compared += _same(entries, index, values, node, "entry or term", failures)
                elif kind in "SR":
                    compared += _same(hashes, index, values, node, "hash of the state", failures)
                    if kind == "R":
                        if index < at:
                            failures.append(("states", f"{node}: restored {index} after {at} was applied"))
                        stretches.append((node, run))
                        at, run = index, []
                else:
                    doubts.add((values[1], values[3]))
            stretches.append((node, run))
    everything = sorted(entries)
    for node, run in stretches:
        failures += _gaps(node, run, everything)
    figures = {"entries": len(entries), "compared": compared, "hashes": len(hashes)}
    return figures, failures[:20], doubts


def _same(table, index, values, node, what, failures):
    if index not in table:
        table[index] = (values, node)
        return 0
    if table[index][0] != values:
        failures.append(("states", f"index {index}: {what} differ: {table[index][1]} {' '.join(table[index][0])}, "
                                   f"{node} {' '.join(values)}"))
    return 1


def _gaps(node, run, everything):
    """What others applied between this stretch's first and last entry, it has applied too."""
    if not run:
        return []
    there = everything[bisect.bisect_left(everything, run[0]) : bisect.bisect_right(everything, run[-1])]
    if len(there) == len(run):  # both rise, and what this one applied is among all
        return []
    mine = set(run)
    missing = [i for i in there if i not in mine]
    return [("states", f"{node} did not apply {missing[:5]}, others did")] if missing else []


# ---- logs ----


JUDGED = ("leader", "leading", "lease", "lease_ended", "starting", "assigned", *DOUBTS)
NEEDED = re.compile("|".join(f'"event":"{name}"' for name in JUDGED))


def read_log(text):
    """The events that something is judged by, and none of the many others."""
    events = []
    for line in text.splitlines():
        if line.startswith("{") and NEEDED.search(line):
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return events


def terms(logs):
    failures = []
    led = collections.defaultdict(set)
    for node, events in sorted(logs.items()):
        last = 0
        for e in events:
            if e.get("event") not in ("leader", "leading"):
                continue
            if e["term"] < last:
                failures.append(("terms", f"{node}: term {e['term']} after {last}"))
            last = max(last, e["term"])
            if e["event"] == "leading":
                led[e["term"]].add(node)
    for term, nodes in sorted(led.items()):
        if len(nodes) > 1:
            failures.append(("terms", f"term {term} was led by {sorted(nodes)}"))
    told = collections.defaultdict(set)
    for events in logs.values():
        for e in events:
            if e.get("event") == "leader":
                told[e["term"]].add(e["leader"])
    for term, leaders in sorted(told.items()):
        if len(leaders) > 1:
            failures.append(("terms", f"term {term} has leaders {sorted(leaders)}"))
    return {"terms": len(led)}, failures


def attempts(logs):
    failures = []
    owner = {}
    for node, events in sorted(logs.items()):
        for e in events:
            if e.get("event") == "assigned":
                key = (e["id"], e["delivery"], e["attempt"])
                if owner.setdefault(key, node) != node:
                    failures.append(("attempts", f"attempt {key[2]} of {key[0]} is {owner[key]}'s and {node}'s"))
    return {"attempts": len(owner)}, failures[:20]


def without_lease(events, pauses, end):
    """Stretches of time in which this node has no lease, by its log and the pauses that it could not log itself. Returns (stretches,
    failures): one that slept longer than a lease has to notice it before it does anything else."""
    found, failures = [], []
    since = None
    for e in events:
        if e.get("event") == "lease_ended" and since is None:
            since = seconds_of(e["time"])
        elif e.get("event") == "lease" and since is not None:
            found.append((since, seconds_of(e["time"])))
            since = None
        elif e.get("event") == "starting":
            since = None
    if since is not None:
        found.append((since, end))
    for pause in pauses:
        if not pause["end"] or pause["end"] - pause["begin"] < LEASE + 0.2:
            continue
        if any(begin <= pause["begin"] and pause["end"] <= until for begin, until in found):
            continue  # it had none when it was stopped
        noticed = [stretch for stretch in found if stretch[0] >= pause["begin"]]
        if noticed and noticed[0][0] < pause["end"] + 2:
            found.append((pause["begin"] + LEASE, noticed[0][1]))
        elif any(pause["end"] - 1 < seconds_of(e["time"]) < pause["end"] + 2 for e in events if e.get("event") == "starting"):
            continue  # it was killed before it could
        else:
            failures.append(("fencing", f"a pause of {pause['end'] - pause['begin']:.1f} s ended no lease"))
    return found, failures


def fencing(stretches, received, address, slack=0.5):
    """stretches: of without_lease. A message that the next hop took from this node well within one was written after its end."""
    failures = []
    mine = sorted((e for e in received if e["peer"].rpartition(":")[0] == address), key=lambda e: e["time"])
    times = [e["time"] for e in mine]
    for begin, end in stretches:
        for e in mine[bisect.bisect_right(times, begin + slack) :]:
            if e["time"] >= end - 0.05:
                break
            failures.append(("fencing", f"{e.get('message_id')} came from {address} {e['time'] - begin:.2f} s after the end of "
                                        f"its lease, {end - e['time']:.2f} s before the next"))
    return failures[:20]


# ---- processes ----

FLAT_FILES = 24  # further open files: connections and segments that come and go
FLAT_RSS_KIB = 96 * 1024  # what is remembered for ten minutes, at the loads of these runs, and the allocator's slack


def flat(node, before, after):
    """Open files and memory of one process at two quiet times; None: it did not run then, or another process did."""
    if not before or not after or before["pid"] != after["pid"]:
        return []
    failures = []
    if after["fds"] > before["fds"] + FLAT_FILES:
        failures.append(("flat", f"{node}: {before['fds']} open files before, {after['fds']} after"))
    if after["rss_kib"] > before["rss_kib"] + FLAT_RSS_KIB:
        failures.append(("flat", f"{node}: {before['rss_kib']} KiB before, {after['rss_kib']} KiB after"))
    return failures


# ---- figures ----


def silence(sent):
    """Longest time between two 250s, in seconds, and when it began."""
    times = sorted(e["time"] for e in sent if e.get("event") == "sent")
    gaps = [(b - a, a) for a, b in zip(times, times[1:])]
    return max(gaps, default=(0.0, None))


TAKEOVER_LIMIT = 10


def takeovers(hits, logs):
    """(when, seconds) from each loss of a leader to the next beginning of a term by anybody. A hit after which the leader went on, as a
    short pause is, has none: the next term began for another reason, after another hit or long after."""
    begun = sorted(seconds_of(e["time"]) for events in logs.values() for e in events if e.get("event") == "leading")
    found = []
    hits = sorted(hits)
    for i, (at, _) in enumerate(hits):
        until = min(at + TAKEOVER_LIMIT, hits[i + 1][0] if i + 1 < len(hits) else float("inf"))
        later = [t for t in begun if at - 0.001 <= t < until]
        if later:
            found.append((at, later[0] - at))
    return found


def silences_after(took, sent):
    """For each takeover the longest time without a 250 that began from just before the loss until just after the new term."""
    times = sorted(e["time"] for e in sent if e.get("event") == "sent")
    found = []
    for at, seconds in took:
        first, last = bisect.bisect_left(times, at - 0.5), bisect.bisect_right(times, at + seconds + 0.5)
        found.append(max((b - a for a, b in zip(times[first:last], times[first + 1 : last + 1])), default=0.0))
    return found
