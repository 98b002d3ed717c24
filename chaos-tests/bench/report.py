"""Results as JSON, and of it the Markdown table and the chart; nothing here measures."""

import html
import json

import measure

NAMES = {"nothing": "nothing kept", "postfix": "Postfix", "exim": "Exim", "opensmtpd": "OpenSMTPD", "mailraft": "mailraft"}
COLOURS = {"postfix": "#8c8c8c", "exim": "#b8a26b", "opensmtpd": "#7fa37f", "mailraft": "#2f6db5"}
BASE = "postfix"


def read(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def write(results, folder):
    """results.json, RESULTS.md and results.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    (folder / "RESULTS.md").write_text(markdown(results))
    if results.get("loads"):
        (folder / "results.svg").write_text(chart(results["loads"]))


def values(row, server, field):
    return [r.get(field) for r in row["servers"].get(server, {}).get("runs", [])]


def main_field(row):
    """What a load is judged by."""
    return "p50_ms" if row["serial"] else "delivered_per_second" if row["deliver"] else "accepted_per_second"


def form(value, digits=None):
    if value is None:
        return "-"
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def median_and_spread(numbers, digits=None):
    there = measure.spread(numbers)
    if there is None:
        return "-"
    return f"{form(there[0], digits)} ({form(there[1], digits)} to {form(there[2], digits)})"


def percent(numbers):
    there = measure.spread(numbers)
    return "-" if there is None else f"{there[0]:.0f} %"


def ratio(row, server):
    """How many times BASE's median; of times, how many times shorter."""
    mine, base = (measure.spread(values(row, name, main_field(row))) for name in (server, BASE))
    if mine is None or base is None or not mine[0] or not base[0]:
        return None
    return base[0] / mine[0] if row["serial"] else mine[0] / base[0]


def one_line(words):
    return " ".join(words.replace("|", "/").split())


def table(lines):
    head, *rest = lines
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(line) + " |" for line in rest)]) + "\n"


def load_table(rows):
    """Each load and server: median, spread, ratio to Postfix, CPU seconds."""
    lines = [("load", "server", "median (smallest to largest)", "times Postfix", "p99, ms", "CPU s for 1,000 messages", "idle", "stolen")]
    for key in sorted(rows):
        row = rows[key]
        unit = " ms to 250 (p50)" if row["serial"] else " delivered/s" if row["deliver"] else "/s"
        for server in sorted(row["servers"], key=list(NAMES).index):
            broken = [r["error"] for r in row["servers"][server]["runs"] if "error" in r]
            field = main_field(row)
            times = ratio(row, server)
            p99 = measure.spread(values(row, server, "p99_ms"))
            lines.append((
                f"{key}: {row['title']}", NAMES[server],
                median_and_spread(values(row, server, field)) + unit + (f"; failed {len(broken)} times: {one_line(broken[0])}" if broken else ""),
                "-" if times is None else form(times, 2), form(p99[0] if p99 else None),
                median_and_spread(values(row, server, "cpu_per_1000"), 2), percent(values(row, server, "idle_percent")),
                percent(values(row, server, "stolen_percent"))))
    return table(lines)


def machine_text(m):
    return (f"{m['cores']} cores ({m['cpu']}), {m['memory_gib']} GiB, Linux {m['kernel']}, {m['file_system']}; load average before: "
            f"{m['load_average']}; {m['date']}")


def section_machine(section):
    program = f"mailraft of commit {section['commit']}. " if section.get("commit") else ""
    return f"    {section['command']}\n\n{program}Machine: {machine_text(section['machine'])}.\n"


def markdown(results):
    parts = ["# Figures\n", "Written by `chaos-tests/bench/run` from results.json beside this file. All servers, the client and the sink share one "
             "machine and one disk.\n"]
    for name, part in (("loads", loads_part), ("nodes", nodes_part), ("queue", queue_part), ("strace", strace_part), ("stores", stores_part)):
        if results.get(name):
            parts.append(part(results[name]))
    return "\n".join(parts)


def by_run(rows):
    """The commands that the rows come from, each with its machine and, where there are several, its loads."""
    runs = []
    for key, row in sorted(rows.items()):
        known = next((keys for run, keys in runs if run == row["run"]), None)
        if known is None:
            runs.append((row["run"], [key]))
        else:
            known.append(key)
    return "\n".join((f"Loads {', '.join(keys)}:\n\n" if len(runs) > 1 else "") + section_machine(run) for run, keys in runs)


def loads_part(section):
    rows = section["rows"]
    servers = section["servers"]
    notes = [f"- {NAMES[name]} {servers[name]['version']}, {servers[name]['copies']} "
             f"{'copy' if servers[name]['copies'] == 1 else 'copies'}: {'; '.join(servers[name]['notes'])}" for name in NAMES if name in servers]
    rounds = sorted({len(s["runs"]) for row in rows.values() for s in row["servers"].values()})
    counts = ", ".join(f"{key} {row['messages']:,}" for key, row in sorted(rows.items()))
    return (
        f"## Side by side\n\n{by_run(rows)}\n"
        f"Rounds: {' or '.join(map(str, rounds))}; in each round every server in turn, newly started in an empty folder. Messages are 10 KB "
        f"unless said; a run's messages: {counts}, and fewer for who says so below. Client: smtp-source, which ends when each message has its "
        "250; over STARTTLS through stunnel, which resumes its sessions; c by a small client of the bench's own that times each message from the first octet of its "
        "text to its 250, a session to each node in turn. smtp-sink counts what is delivered. A load without \"deliver\" is accepted and held. "
        "CPU seconds are those of all processes of the server, ended ones included. \"idle\": of all processors, while the load ran; \"stolen\": what the "
        "hypervisor gave to other machines meanwhile, which also makes CPU seconds look longer.\n\n"
        + "\n".join(notes) + "\n\nDurability is each package's default (`--strace` shows what they sync).\n\n" + load_table(rows) + "\n![chart](results.svg)\n")


def nodes_part(section):
    lines = [("load", "nodes", "median (smallest to largest)", "CPU s for 1,000 messages", "idle")]
    for key in sorted(section["rows"]):
        row = section["rows"][key]
        for nodes in sorted(row["nodes"], key=int):
            runs = row["nodes"][nodes]["runs"]
            pick = lambda field, runs=runs: [r.get(field) for r in runs]  # noqa: E731
            lines.append((f"{key}: {row['title']}", nodes, median_and_spread(pick(main_field(row))) + (" ms" if row["serial"] else "/s"),
                          median_and_spread(pick("cpu_per_1000"), 2), percent(pick("idle_percent"))))
    return (f"## More nodes on the same machine\n\n{section_machine(section)}\nEach message's body is on three nodes, its envelope on all. What "
            f"bounds it: the processors, where \"idle\" is near 0.\n\n{table(lines)}")


def queue_part(section):
    lines = [("figure", "value")] + [(row["what"], row["value"]) for row in section["rows"]]
    return f"## As the queue grows\n\n{section_machine(section)}\n{table(lines)}"


def strace_part(section):
    lines = [("server", "messages", "system calls that sync, a message", "before its 250")]
    for name in NAMES:
        if name in section["servers"]:
            s = section["servers"][name]
            calls = ", ".join(f"{call} {count:.2f}" for call, count in sorted(s["calls_per_message"].items())) or "none"
            lines.append((NAMES[name], str(s["messages"]), calls, s["before_250"]))
    return (f"## What is synced before 250\n\n{section_machine(section)}\nOne serial session, the server under `strace -f`; a call counts for a "
            f"message when it ended between the first octet of its text and its 250.\n\n{table(lines)}")


def stores_part(section):
    lines = [("store", "version", "puts/s, median (smallest to largest)", "as set")]
    for name, s in sorted(section["stores"].items()):
        broken = "; ".join({r["error"] for r in s["runs"] if "error" in r})
        lines.append((s["title"], s["version"], median_and_spread([r.get("per_second") for r in s["runs"]]) + (f" {broken}" if broken else ""),
                      s["notes"]))
    missing = "".join(f"\n{line}\n" for line in section.get("left_out", []))
    return (f"## Replicated stores\n\n{section_machine(section)}\nThree local nodes, values of 10 KB, 64 in flight, by a client of the bench's "
            f"own.\n\n{table(lines)}{missing}")


# ---- chart ----

WIDTH, BAR, GAP, LEFT, RIGHT = 960, 15, 16, 390, 120


def chart(section):
    """Bars of each load, scaled to the best of it: Postfix beside the others, with the spread of the rounds."""
    body, y = [], 44
    for key in sorted(section["rows"]):
        row = section["rows"][key]
        field = main_field(row)
        spreads = {name: measure.spread(values(row, name, field)) for name in COLOURS if name in row["servers"]}
        top = max((s[2] for s in spreads.values() if s), default=0)
        if not top:
            continue
        body.append(text(LEFT - 10, y + len(spreads) * BAR / 2 + 4, f"{key}: {row['title']}", "end"))
        for name, s in spreads.items():
            if s:
                body.append(bar(y, s, top, name, row["serial"], ratio(row, name)))
            y += BAR
        y += GAP
    legend = "".join(f'<rect x="{LEFT + i * 110}" y="14" width="12" height="12" fill="{COLOURS[name]}"/>' + text(LEFT + i * 110 + 17, 24, title, "start")
                     for i, (name, title) in enumerate((name, NAMES[name]) for name in COLOURS) if name in section["servers"])
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" '
            f'font-size="11">\n<rect width="100%" height="100%" fill="#ffffff"/>\n{legend}\n' + "\n".join(body) + "\n</svg>\n")


def text(x, y, words, anchor):
    return f'<text x="{x}" y="{y:.0f}" text-anchor="{anchor}" fill="#222222">{html.escape(words)}</text>'


def bar(y, spread, top, name, serial, times):
    room = WIDTH - LEFT - RIGHT
    median, least, most = (room * v / top for v in spread)
    label = form(spread[0]) + (" ms" if serial else "/s") + (f" ({times:.1f} x)" if times and name != BASE else "")
    middle = y + BAR / 2 - 1
    return (f'<rect x="{LEFT}" y="{y}" width="{median:.1f}" height="{BAR - 2}" fill="{COLOURS[name]}"/>'
            f'<path d="M{LEFT + least:.1f} {middle} H{LEFT + most:.1f}" stroke="#222222"/>'
            + text(LEFT + most + 6, y + BAR - 4, label, "start"))
