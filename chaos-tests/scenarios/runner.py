"""The course of a run: cluster, load, scenario, healing, judgement; and of many runs one after another."""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from scenarios import SCENARIOS, check, load_families, report
from scenarios.common import harness, read_slim
from scenarios.progress import Progress, markdown, summary, table
from scenarios.target_local import LocalTarget
from scenarios.world import World

RECOVERY = 30  # seconds within which a healed cluster is whole again (invariant 13)


def parse(argv):
    p = argparse.ArgumentParser(
        prog="chaos-tests/run",
        description="Tries faults on real mailraftd processes under load, and checks that nothing is lost, altered or sent twice.",
        epilog="Exit status: 0 all passed, 1 one failed, 2 usage. Without names: all scenarios but the long ones.")
    p.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    p.add_argument("--list", action="store_true", help="the scenarios, and what cannot be run here")
    p.add_argument("--seed", type=int, help="repeat the choices of an earlier run")
    p.add_argument("--minutes", type=float, help="how long `mix` runs (default 1)")
    p.add_argument("--repeat", type=int, default=1, metavar="N", help="each scenario N times, with seeds S, S+1 ...")
    p.add_argument("--quick", action="store_true", help="those that ./check runs")
    p.add_argument("--target", default="local", help="local (default) or kubernetes")
    p.add_argument("--report", type=pathlib.Path, metavar="FILE", help="where the HTML page goes (default: in the run's folder)")
    p.add_argument("--results", type=pathlib.Path, metavar="FILE", help="results as JSON (default: in the run's folder)")
    p.add_argument("--dir", type=pathlib.Path, help="folder for logs and journals (default: a new one below /tmp)")
    p.add_argument("--bin", type=pathlib.Path, help="folder of mailraftd and the others (default build/release/bin)")
    p.add_argument("--tabulate", nargs="+", type=pathlib.Path, metavar="FILE",
                   help="run nothing: a table in Markdown of what these files of --results have")
    p.add_argument("--keep", action="store_true", help="keep logs and journals of what passed too")
    p.add_argument("--rate", type=float, help="messages a second, instead of each scenario's own rate")
    p.add_argument("--until-failure", action="store_true", help="end at the first failure")
    from scenarios import target_kubernetes
    target_kubernetes.add_options(p)
    return p.parse_args(argv)


def usage(text):
    print(f"chaos-tests/run: {text}", file=sys.stderr)
    sys.exit(2)


def choose(options):
    if options.scenarios:
        unknown = [n for n in options.scenarios if n not in SCENARIOS]
        if unknown:
            usage(f"no scenario {', '.join(unknown)}; --list shows them")
        return [SCENARIOS[n] for n in options.scenarios]
    return [s for s in SCENARIOS.values() if not s.long and (s.quick or not options.quick)]


def lacking(scenario, capabilities):
    """None, or why the target cannot do it."""
    for need in scenario.needs:
        if need.startswith("tool:"):
            why = None if shutil.which(need[5:]) else f"{need[5:]} is not installed"
        else:
            why = capabilities.get(need, f"this target has no {need}")
        if why:
            return why
    return None


class Run:
    """One scenario with one seed."""

    def __init__(self, scenario, seed, folder, shared, make_target, options, capabilities):
        self.scenario = scenario
        self.capabilities = capabilities
        self.seed = seed
        self.dir = folder
        self.shared = shared
        self.make_target = make_target
        self.options = options
        self.failures = []  # (check, text)
        self.allowed = []
        self.figures = {}
        self.world = None
        self.sent = []
        self.took = 0.0
        self.series = {}

    @property
    def passed(self):
        return not self.failures

    def fail(self, what, text):
        if what in self.scenario.allow:
            self.allowed.append((what, text, self.scenario.allow[what]))
        else:
            self.failures.append((what, text))

    def go(self, tell):
        began = time.time()
        world = None
        try:
            world = self.world = World(self.scenario, self.seed, self.dir, self.shared, self.make_target)
            world.tell = tell
            world.minutes = self.options.minutes
            world.capabilities = self.capabilities
            self._course(world, tell)
        except (Exception, KeyboardInterrupt) as e:  # whatever goes wrong is this run's failure, and the others go on
            (self.dir / "error.txt").write_text(traceback.format_exc())
            self.fail("run", f"{type(e).__name__}: {e}")
            if isinstance(e, KeyboardInterrupt):
                raise
        finally:
            if world:
                with contextlib.suppress(Exception):
                    self.series = report.collect(self)
                world.close()
            self.took = time.time() - began
        return self

    # ---- the course ----

    def _course(self, world, tell):
        tell("starts")
        world.sink = world.target.new_sink("sink", self.scenario.sink)
        world.sinks.append(world.sink)
        if self.scenario.prepare:
            self.scenario.prepare(world)
        world.target.configure_all()
        world.sink.start()
        world.target.start_all()
        world.wait_ready(limit=60)
        before = {n.name: n.figures() for n in world.nodes}
        world.begin_watch()
        world.wait_for(world.watch.leader_name, "the watch sees the leader")
        world.began = time.time()
        if self.scenario.load:
            world.start_usual_load(self.options.rate)
            world.wait_accepted(50)
        try:
            self.scenario.run(world)
        except AssertionError as e:
            self.fail("scenario", str(e) or traceback.format_exc())
            (self.dir / "error.txt").write_text(traceback.format_exc())
        crashed = [n.name for n in world.nodes if n.crashed()]
        tell("heals")
        healed = time.time()
        world.heal()
        self._recover(world, healed)
        tell("drains")
        self._end_load(world)
        self._mail_everywhere(world)
        self._drain(world)
        after = {n.name: n.figures() for n in world.nodes}
        world.watch.stop()
        self._stop(world, crashed)
        tell("judges")
        self._judge(world, before, after)

    def _recover(self, world, healed):
        """Every node ready within RECOVERY, and mail flows for a moment."""
        try:
            world.wait_ready(limit=RECOVERY)
            self.figures["recovery"] = max(world.recovery, time.time() - healed)
            if world.loads:
                world.wait_accepted(50, RECOVERY)
        except AssertionError as e:
            self.fail("after", f"after healing: {e}")

    def _end_load(self, world):
        for load in world.loads:
            try:
                load.stop()
            except AssertionError as e:
                self.fail("after", str(e))

    def _mail_everywhere(self, world):
        """One leader, and each node takes mail."""
        try:
            world.leader()
        except AssertionError as e:
            self.fail("after", str(e))
        for node in world.nodes:
            if not world.target.send_by(node, self.dir / "load-after.jsonl", "load-after.log"):
                self.fail("after", f"{node.name} does not accept mail")

    def _drain(self, world):
        def empty():
            counts = [s["queue"]["messages"] for s in (n.get("/v1/status") for n in world.nodes) if s]
            return len(counts) == len(world.nodes) and not any(counts)

        begun = time.time()
        try:
            world.wait_for(empty, "the queue is empty", RECOVERY + 30)
        except AssertionError as e:
            self.fail("after", str(e))
        self.figures["drained"] = time.time() - begun

    def _stop(self, world, crashed):
        for name in crashed + [n.name for n in world.nodes if n.crashed()]:
            self.fail("alive", f"{name} ended by itself; see its log")
        world.target.stop_all(lambda name, text: self.fail("alive", f"{name}: {text}"))
        for sink in world.sinks:
            sink.end()

    # ---- the judgement ----

    def _judge(self, world, before, after):
        sent = self.sent_events()
        received = [e for s in world.sinks for e in s.received()]
        logs = {n.name: check.read_log(world.target.log_of(n)) for n in world.nodes}
        traces = {n.name: world.target.trace_of(n) for n in world.nodes}
        # A scenario's own messages have no key; each copy of one counts as invented in verify.
        own = sum(1 for e in received if "key" not in e and not e.get("dsn") and e.get("sender") in world.own_senders)
        failures = list(check.loss(self._verify(world), own)) + check.owed(world.owed, received)
        figures, more, doubts = check.states({k: v for k, v in traces.items() if v})
        failures += more
        unchecked = world.target.unchecked
        if unchecked:
            world.note("not checked", "; ".join(f"{what}: {why}" for what, why in unchecked.items()))
        if not any(traces.values()) and "states" not in unchecked:
            failures.append(("states", "no node wrote an apply trace"))
        self.figures.update(figures)
        doubts |= check.told_doubts(logs)
        figures, more = check.copies(sent, received, doubts)
        self.figures.update(figures)
        failures += more
        for figures, more in (check.terms(logs), check.attempts(logs)):
            self.figures.update(figures)
            failures += more
        for node in world.nodes:
            if node.peers():
                pauses = [p for p in world.pauses if p["node"] == node.name]
                stretches, more = check.without_lease(logs[node.name], pauses, time.time())
                failures += [(what, f"{node.name}: {text}") for what, text in more]
                failures += check.fencing(stretches, received, node.peers())
            failures += check.flat(node.name, before[node.name], after[node.name])
        for what, text in failures:
            self.fail(what, text)
        self.figures["in_doubt"] = len(doubts)
        gap, at = check.silence(sent)
        self.figures["silence"], self.figures["silence_at"] = gap, at
        took = check.takeovers(world.leader_hits, logs) if self.scenario.takeover else []
        self.figures["takeovers"] = [seconds for _, seconds in took]
        self.figures["takeover"] = max(self.figures["takeovers"], default=None)
        self.figures["silences"] = check.silences_after(took, sent)

    def sent_events(self):
        """Of all loads, read once when they have ended."""
        if not self.sent:
            keys = ("event", "time", "key", "verb", "code", "seconds")
            self.sent = [e for load in self._sent_files() for e in read_slim(load, keys)]
        return self.sent

    def _sent_files(self):
        return sorted(self.dir.glob("load-*.jsonl"))

    def _verify(self, world):
        args = [harness.BIN / "mailraft-load", "verify", "--json"]
        for path in self._sent_files():
            args += ["--sent", path]
        for sink in world.sinks:
            args += ["--received", sink.journal]
        done = subprocess.run([str(a) for a in args], capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"mailraft-load verify: {done.stderr}")
        counts = json.loads(done.stdout)
        self.figures.update({k: counts[k] for k in ("messages", "accepted", "lost", "altered", "invented", "deliveries",
                                                    "indeterminate", "bounced")})
        return counts

    # ---- for the files ----

    def result(self):
        return {
            "scenario": self.scenario.name, "what": self.scenario.what, "seed": self.seed, "result": "passed" if self.passed else "FAILED",
            "seconds": round(self.took, 1), "failures": [f"{c}: {t}" for c, t in self.failures],
            "allowed": [f"{c}: {t} (allowed: {why})" for c, t, why in self.allowed],
            "figures": self.figures, "notes": self.world.notes if self.world else {},
            "logs": str(self.dir) if self.dir.exists() else None,
            "again": f"chaos-tests/run {self.scenario.name} --seed {self.seed}"
                     + (f" --minutes {self.options.minutes:g}" if self.options.minutes and self.scenario.long else ""),
        }


def show_list(capabilities):
    width = max(map(len, SCENARIOS))
    for s in SCENARIOS.values():
        why = lacking(s, capabilities)
        print(f"{s.name:{width}}  {s.what}" + (f"  [skipped here: {why}]" if why else "") + ("  [only by name]" if s.long else ""))


def make_target_of(options):
    if options.target == "local":
        return LocalTarget.capabilities(), lambda world, folder, s: LocalTarget(world, folder, s.nodes, **s.config)
    if options.target == "kubernetes":
        from scenarios.target_kubernetes import KubernetesTarget
        return (KubernetesTarget.capabilities(options),
                lambda world, folder, s: KubernetesTarget(world, folder, options))
    return usage(f"unknown target {options.target}: local, kubernetes")


def break_off(_number, _frame):
    """What was started is ended then, too; also where a shell has SIGINT ignored, as for a job in the background."""
    raise KeyboardInterrupt


def main(argv):
    options = parse(argv)
    if options.tabulate:
        print(markdown([json.loads(path.read_text()) for path in options.tabulate]))
        return 0
    load_families()
    if options.bin:
        harness.BIN = options.bin.resolve()
    if not (harness.BIN / "mailraftd").exists() and not options.list:
        usage(f"{harness.BIN} has no mailraftd: cmake --preset release && ninja -C build/release, or --bin")
    capabilities, make_target = make_target_of(options)
    if options.list:
        show_list(capabilities)
        return 0
    chosen = choose(options)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 1000000)
    folder = options.dir or pathlib.Path(tempfile.mkdtemp(prefix="mailraft-scenarios-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, break_off)
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    progress = Progress(len(chosen) * options.repeat)
    done, skipped = [], []
    began = time.time()
    try:
        for scenario in chosen:
            why = lacking(scenario, capabilities)
            if why:
                skipped.append((scenario.name, why))
                progress.line(f"{scenario.name}: skipped: {why}")
                continue
            for n in range(options.repeat):
                where = folder / f"{scenario.name}-{seed + n}"
                shutil.rmtree(where, ignore_errors=True)
                where.mkdir()
                run = Run(scenario, seed + n, where, shared, make_target, options, capabilities)
                progress.begin(scenario.name, seed + n)
                try:
                    run.go(progress.tell)
                finally:
                    done.append(run)
                progress.done(run)
                if run.passed and not options.keep:
                    shutil.rmtree(where, ignore_errors=True)
                if not run.passed and options.until_failure:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        progress.line("broken off")
    progress.close()
    results = {"seed": seed, "target": options.target, "seconds": round(time.time() - began, 1),
               "began": began, "runs": [r.result() for r in done],
               "skipped": [{"scenario": n, "why": w} for n, w in skipped]}
    page = options.report or folder / "report.html"
    page.write_text(report.page(results, [r.series for r in done]))
    (options.results or folder / "results.json").write_text(json.dumps(results, indent=1))
    print(table(results))
    print(summary(results))
    failed = [r for r in done if not r.passed]
    for run in failed:
        print(f"\n{run.scenario.name} --seed {run.seed} FAILED; logs and journals: {run.dir}")
        for what, text in run.failures:
            print(f"  {what}: {text}")
    for name, why in skipped:
        print(f"skipped {name}: {why}")
    shutil.rmtree(shared, ignore_errors=not failed)
    print(f"report: {page}")
    return 1 if failed or not done else 0


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main(sys.argv[1:]))
