"""What a person sees while it runs: one line that changes on a terminal, lines through a pipe; a table at the end."""

import shutil
import statistics
import sys
import time


class Progress:
    def __init__(self, total, out=sys.stderr):
        self.out = out
        self.total = total
        self.number = 0
        self.head = ""
        self.live = out.isatty()

    def begin(self, name, seed):
        self.number += 1
        self.head = f"[{self.number}/{self.total}] {name} (seed {seed})"
        self.began = time.time()
        self.tell("")

    def tell(self, text):
        if self.live:
            width = shutil.get_terminal_size().columns
            line = f"{self.head} {time.time() - self.began:3.0f} s {text}"
            self.out.write("\r\033[K" + line[: width - 1])
            self.out.flush()

    def line(self, text):
        if self.live:
            self.out.write("\r\033[K")
        self.out.write(text + "\n")
        self.out.flush()

    def done(self, run):
        first = f": {run.failures[0][0]}: {run.failures[0][1]}" if run.failures else ""
        self.line(f"{self.head} {'passed' if run.passed else 'FAILED'} in {run.took:.0f} s{first}")

    def close(self):
        if self.live:
            self.out.write("\r\033[K")


COLUMNS = [("scenario", None), ("seed", None), ("result", None), ("messages", "messages"), ("lost", "lost"), ("altered", "altered"),
           ("duplicated", "second_copies"), ("in doubt", "in_doubt"), ("silence s", "silence"), ("takeover s", "takeover"),
           ("recovery s", "recovery")]


def cell(run, column, key):
    if key is None:
        return str(run[column])
    value = run["figures"].get(key)
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def table(results):
    rows = [[name for name, _ in COLUMNS]]
    rows += [[cell(run, name, key) for name, key in COLUMNS] for run in results["runs"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(value.ljust(w) if i in (0, 2) else value.rjust(w) for i, (value, w) in enumerate(zip(row, widths)))
             for row in rows]
    passed = sum(run["result"] == "passed" for run in results["runs"])
    lines.append(f"{passed} of {len(results['runs'])} passed, {len(results['skipped'])} skipped, {results['seconds']:.0f} s, "
                 f"seed {results['seed']}")
    return "\n".join(lines)


def _spread(name, values):
    if not values:
        return None
    return f"{name} {statistics.median(values):.2f}, at most {max(values):.2f} ({len(values)})"


def summary(results):
    """All runs together; times are medians in seconds, and how many there were."""
    figures = [run["figures"] for run in results["runs"]]
    total = {key: sum(f.get(key) or 0 for f in figures) for key in ("messages", "lost", "altered", "second_copies", "in_doubt")}
    million = total["second_copies"] * 1e6 / total["messages"] if total["messages"] else 0
    counts = (f"{total['messages']:,}".replace(",", " ") + f" messages: lost {total['lost']}, altered {total['altered']}, duplicated "
              f"{total['second_copies']} ({million:.0f} a million), in doubt {total['in_doubt']}")
    times = [_spread("takeover", [t for f in figures for t in f.get("takeovers", [])]),
             _spread("silence of accept around it", [t for f in figures for t in f.get("silences", [])]),
             _spread("recovery", [f["recovery"] for f in figures if f.get("recovery") is not None])]
    return "\n".join(filter(None, [counts, "; ".join(t for t in times if t)]))


def _median_most(values):
    values = [v for v in values if v is not None]
    return f"{statistics.median(values):.2f} / {max(values):.2f}" if values else ""


def markdown(results):
    """Results of several runs of the runner, by scenario; times: median / longest, in seconds."""
    by_name = {}
    for run in (run for one in results for run in one["runs"]):
        by_name.setdefault(run["scenario"], []).append(run)
    lines = ["| scenario | passed | messages | lost | altered | duplicated | in doubt | takeover | silence around it | recovery |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for name, runs in by_name.items():
        figures = [run["figures"] for run in runs]
        total = {key: sum(f.get(key) or 0 for f in figures) for key in ("messages", "lost", "altered", "second_copies", "in_doubt")}
        passed = sum(run["result"] == "passed" for run in runs)
        lines.append(
            f"| {name} | {passed} of {len(runs)} | {total['messages']} | {total['lost']} | {total['altered']} | {total['second_copies']} | "
            f"{total['in_doubt']} | {_median_most([t for f in figures for t in f.get('takeovers', [])])} | "
            f"{_median_most([t for f in figures for t in f.get('silences', [])])} | {_median_most([f.get('recovery') for f in figures])} |")
    everything = {"runs": [run for one in results for run in one["runs"]]}
    return "\n".join(lines) + "\n\n" + summary(everything)
