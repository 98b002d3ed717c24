"""One HTML page for a run of the runner: a table of figures, and a time line for each scenario. Nothing in it comes from elsewhere:
styles and drawings are inline, so that the file can be sent by mail and opened years later."""

import html
import time

WIDTH, HEIGHT = 900, 72  # of one panel's drawing area, in units of the drawing
LEFT, GAP = 52, 26
MAX_POINTS = 600  # of a line: long runs are summed up

# ---- what is kept of a run ----


def collect(run):
    """Series for the page, from the journals and the watch; times in seconds from the beginning of the load."""
    world = run.world
    accepted = [(e["time"], e["seconds"]) for e in run.sent_events() if e.get("event") == "sent"]
    delivered = [e["time"] for s in world.sinks for e in s.received()]
    start = world.began
    end = max([start + 1, *(t for t, _ in accepted), *delivered, *(m[0] for m in world.marks if m[0] < start + 1e6)])
    step = 0.5 if end - start < 60 else max(1.0, (end - start) / MAX_POINTS)
    count = int((end - start) / step) + 1
    series = {
        "start": start, "length": end - start, "step": step,
        "accepted": _rate([t for t, _ in accepted], start, step, count),
        "delivered": _rate(delivered, start, step, count),
        "p50": _quantile(accepted, start, step, count, 0.5),
        "p99": _quantile(accepted, start, step, count, 0.99),
        "queue": [(s["time"] - start, s["queue"]) for s in _thin(world.watch.samples if world.watch else [])],
        "leaders": _leaders(world, start, end),
        "bands": [(b["name"], b["begin"] - start, (b["end"] or end) - start) for b in world.bands],
        "marks": [(t - start, text) for t, text in world.marks if t >= start],
        "nodes": [n.name for n in world.nodes],
    }
    return series


def _thin(samples):
    every = max(1, len(samples) // MAX_POINTS)
    return samples[::every]


def _slots(times, start, step, count):
    slots = [[] for _ in range(count)]
    for item in times:
        at = int(((item[0] if isinstance(item, tuple) else item) - start) / step)
        if 0 <= at < count:
            slots[at].append(item)
    return slots


def _rate(times, start, step, count):
    return [len(s) / step for s in _slots(times, start, step, count)]


def _quantile(accepted, start, step, count, q):
    found = []
    for slot in _slots(accepted, start, step, count):
        values = sorted(seconds for _, seconds in slot)
        found.append(values[min(len(values) - 1, int(q * len(values)))] if values else None)
    return found


def _leaders(world, start, end):
    """Stretches of one leader, as the nodes' own answers tell: (node or None, from, to)."""
    stretches = []
    for s in world.watch.samples if world.watch else []:
        at = s["time"] - start
        if stretches and stretches[-1][0] == s["leader"]:
            stretches[-1][2] = at
        else:
            if stretches:
                stretches[-1][2] = at
            stretches.append([s["leader"], at, at])
    if stretches:
        stretches[0][1] = 0.0
        stretches[-1][2] = end - start
    return [tuple(s) for s in stretches]


# ---- drawing ----


def _nice(value):
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10 ** len(str(int(value))) / 10 if value >= 1 else 1.0
    while power > value:
        power /= 10
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * 0.999)


def _number(value):
    return f"{value:g}"


class Panel:
    """One row of the time line: a scale at the left, faults as bands behind, lines above."""

    def __init__(self, series, top, title, unit, highest, height=HEIGHT):
        self.series = series
        self.top = top
        self.height = height
        self.highest = _nice(highest)
        self.parts = [f'<text class="title" x="{LEFT}" y="{top - 6}">{html.escape(title)}'
                      f'<tspan class="unit"> {html.escape(unit)}</tspan></text>']
        for name, begin, end in series["bands"]:
            x, w = self.x(begin), max(1.5, self.x(end) - self.x(begin))
            self.parts.append(f'<rect class="band" x="{x:.1f}" y="{top}" width="{w:.1f}" height="{height}">'
                              f"<title>{html.escape(name)}: {begin:.1f} s to {end:.1f} s</title></rect>")
        for value in (0, self.highest / 2, self.highest):
            y = self.y(value)
            self.parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
                              f'<text class="scale" x="{LEFT - 6}" y="{y + 4:.1f}">{_number(value)}</text>')

    def x(self, seconds):
        return LEFT + WIDTH * min(1, max(0, seconds / self.series["length"]))

    def y(self, value):
        return self.top + self.height * (1 - min(1, value / self.highest))

    def line(self, points, css):
        """points: (seconds, value or None); None breaks the line."""
        path, pen = [], "M"
        for seconds, value in points:
            if value is None:
                pen = "M"
                continue
            path.append(f"{pen}{self.x(seconds):.1f} {self.y(value):.1f}")
            pen = "L"
        self.parts.append(f'<path class="line {css}" d="{" ".join(path)}"/>')

    def slots(self, values, css):
        step = self.series["step"]
        self.line([((i + 0.5) * step, v) for i, v in enumerate(values)], css)


def _labels(series, top):
    """Names of the bands above the first panel, in rows where they do not overlap; what has no room is a title only."""
    rows = [-1e9] * 3
    parts = []
    for name, begin, end in sorted(series["bands"], key=lambda b: b[1]):
        x = LEFT + WIDTH * begin / series["length"]
        width = 6.6 * len(name) + 10
        x = min(x, LEFT + WIDTH - width + 10)
        for i, until in enumerate(rows):
            if x >= until:
                rows[i] = x + width
                y = top + 14 * i
                parts.append(f'<text class="band-name" x="{x:.1f}" y="{y}">{html.escape(name)}</text>')
                break
    return parts, sum(until > -1e9 for until in rows)


def drawing(series):
    nodes = {name: i % 7 for i, name in enumerate(series["nodes"])}
    top = 16
    parts, rows = _labels(series, top)
    top += 14 * rows + 14

    p = Panel(series, top, "Messages a second", "accepted, delivered", max([1, *series["accepted"], *series["delivered"]]))
    p.slots(series["delivered"], "delivered")
    p.slots(series["accepted"], "accepted")
    parts += p.parts
    top += HEIGHT + GAP

    highest = max([0.01, *(v for v in series["p99"] if v is not None)])
    p = Panel(series, top, "Dot to 250", "seconds: median, 99th percentile", highest)
    p.slots(series["p99"], "p99")
    p.slots(series["p50"], "p50")
    parts += p.parts
    top += HEIGHT + GAP

    p = Panel(series, top, "Queue", "messages", max([1, *(v for _, v in series["queue"] if v is not None)]))
    p.line(series["queue"], "queue")
    parts += p.parts
    top += HEIGHT + GAP

    parts.append(f'<text class="title" x="{LEFT}" y="{top - 6}">Leader</text>')
    for name, begin, end in series["leaders"]:
        x = LEFT + WIDTH * max(0, begin) / series["length"]
        w = max(1, LEFT + WIDTH * min(1, end / series["length"]) - x)
        css = f"node{nodes[name]}" if name in nodes else "none"
        parts.append(f'<rect class="{css}" x="{x:.1f}" y="{top}" width="{w:.1f}" height="22"><title>'
                     f"{html.escape(name or 'none')}: {begin:.1f} s to {end:.1f} s</title></rect>")
        if name and w > 30:
            parts.append(f'<text class="on" x="{x + w / 2:.1f}" y="{top + 15}">{html.escape(name)}</text>')
    for at, text in series["marks"]:
        x = LEFT + WIDTH * min(1, at / series["length"])
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 24}" y2="{top + 32}">'
                     f"<title>{at:.2f} s: {html.escape(text)}</title></line>")
    top += 40
    step = _nice(series["length"] / 8)
    at = 0.0
    while at <= series["length"] + 1e-6:
        x = LEFT + WIDTH * at / series["length"]
        parts.append(f'<text class="time" x="{x:.1f}" y="{top + 8}">{_number(at)} s</text>')
        at += step
    return (f'<svg viewBox="0 0 {LEFT + WIDTH + 24} {top + 16}" role="img" aria-label="time line">' + "".join(parts) + "</svg>")


# ---- the page ----

STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --fg: #1c2128; --soft: #5c6570; --rule: #d9dde2; --card: #ffffff;
  --band: #e8590c; --a: #1668c7; --b: #2b8a3e; --c: #9c36b5; --bad: #c92a2a; --ok: #2b8a3e;
  --n0: #1668c7; --n1: #c2500a; --n2: #2b8a3e; --n3: #9c36b5; --n4: #0b7285; --n5: #a61e4d; --n6: #6d5f00; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --fg: #e4e7ea; --soft: #9aa4af; --rule: #323a43; --card: #1b2026;
  --band: #ff922b; --a: #6cb2ff; --b: #69db7c; --c: #da77f2; --bad: #ff8787; --ok: #69db7c;
  --n0: #3b8be0; --n1: #d9691f; --n2: #3f9d52; --n3: #ae4fc6; --n4: #2a8ea3; --n5: #c23a68; --n6: #8c7c14; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.2rem 1rem 4rem; background: var(--bg); color: var(--fg);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 0; }
p { margin: .4rem 0; } .soft { color: var(--soft); } .bad { color: var(--bad); } .ok { color: var(--ok); }
.scroll { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; } td:first-child, th:first-child { text-align: left; }
a { color: var(--a); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
details > summary { cursor: pointer; } code { font-size: .9em; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; margin: .4rem 0; } .events { columns: 18rem; font-size: .85rem; }
.chart { overflow-x: auto; } svg { display: block; width: 100%; min-width: 40rem; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--fg); } .title { font-weight: 600; } .unit, svg .scale, svg .time { fill: var(--soft); font-weight: 400; }
.scale { text-anchor: end; } .time { text-anchor: middle; } .grid { stroke: var(--rule); }
.band { fill: var(--band); opacity: .16; } svg .band-name { fill: var(--band); font-size: 11.5px; }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round; } .accepted, .p50 { stroke: var(--a); } .delivered { stroke: var(--b); }
.p99 { stroke: var(--c); } .queue { stroke: var(--a); } .mark { stroke: var(--soft); stroke-width: 1.5; } .none { fill: var(--rule); }
.node0 { fill: var(--n0); } .node1 { fill: var(--n1); } .node2 { fill: var(--n2); } .node3 { fill: var(--n3); }
.node4 { fill: var(--n4); } .node5 { fill: var(--n5); } .node6 { fill: var(--n6); }
svg .on { fill: #fff; text-anchor: middle; font-weight: 600; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .9em; vertical-align: -.05em; }
"""

COLUMNS = [("messages", "messages"), ("lost", "lost"), ("altered", "altered"), ("duplicated", "second_copies"), ("in doubt", "in_doubt"),
           ("silence, s", "silence"), ("takeover, s", "takeover"), ("recovery, s", "recovery"), ("states compared", "compared")]


def _cell(value):
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else f"{value:,}".replace(",", " ")


def _row(i, run):
    ok = run["result"] == "passed"
    cells = "".join(f"<td>{_cell(run['figures'].get(key))}</td>" for _, key in COLUMNS)
    return (f'<tr><td><a href="#run{i}">{html.escape(run["scenario"])}</a></td><td>{run["seed"]}</td>'
            f'<td class="{"ok" if ok else "bad"}">{run["result"]}</td>{cells}</tr>')


def _section(i, run, series, open_):
    ok = run["result"] == "passed"
    parts = [f'<section id="run{i}"><details{" open" if open_ or not ok else ""}><summary><h2 style="display:inline">'
             f'{html.escape(run["scenario"])} <span class="soft">seed {run["seed"]}</span> '
             f'<span class="{"ok" if ok else "bad"}">{run["result"]}</span></h2></summary>']
    parts.append(f'<p class="soft">{html.escape(run["what"])}</p>')
    for kind, css in (("failures", "bad"), ("allowed", "soft")):
        if run[kind]:
            parts.append(f'<ul class="{css}">' + "".join(f"<li>{html.escape(t)}</li>" for t in run[kind]) + "</ul>")
    if not ok and run["logs"]:
        parts.append(f"<p>Logs and journals: <code>{html.escape(run['logs'])}</code></p>")
    if series:
        nodes = [(f"--n{i % 7}", name) for i, name in enumerate(series["nodes"])]
        keys = "".join(f'<span class="key" style="background:var({v})"></span>{html.escape(t)}' for v, t in (
            ("--a", "accepted, median, queue"), ("--b", "delivered"), ("--c", "99th percentile"), ("--band", "fault"), *nodes))
        parts.append(f'<p class="soft">{keys}</p><div class="chart">{drawing(series)}</div>')
        events = "".join(f"<li>{at:.2f} s {html.escape(text)}</li>" for at, text in series["marks"])
        parts.append(f'<details><summary class="soft">{len(series["marks"])} events</summary><ol class="events">{events}</ol></details>')
    notes = "".join(f"<li>{html.escape(str(k))}: {html.escape(str(v))}</li>" for k, v in run["notes"].items())
    parts.append(f"<ul>{notes}</ul><p>Again: <code>{html.escape(run['again'])}</code></p></details></section>")
    return "".join(parts)


def page(results, series):
    runs = results["runs"]
    bad = sum(r["result"] != "passed" for r in runs)
    total = sum(r["figures"].get("messages") or 0 for r in runs)
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(results["began"]))
    verdict = f'<span class="bad">{bad} failed</span>' if bad else '<span class="ok">all passed</span>'
    head = "".join(f"<th>{name}</th>" for name in ["scenario", "seed", "result", *(n for n, _ in COLUMNS)])
    rows = "".join(_row(i, r) for i, r in enumerate(runs))
    skipped = "".join(f"<li>{html.escape(s['scenario'])}: {html.escape(s['why'])}</li>" for s in results["skipped"])
    sections = "".join(_section(i, r, s, len(runs) <= 6) for i, (r, s) in enumerate(zip(runs, series)))
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            f'initial-scale=1"><title>mailraft: fault scenarios</title><style>{STYLE}</style></head><body>'
            f"<h1>Fault scenarios</h1><p>{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {verdict}; {_cell(total)} messages; target {html.escape(results['target'])}; "
            f'<span class="soft">{began}, {results["seconds"]:.0f} s, seed {results["seed"]}</span></p>'
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
            + (f"<p>Skipped:</p><ul>{skipped}</ul>" if skipped else "") + sections + "</body></html>\n")
