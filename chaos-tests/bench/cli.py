"""The command line: what is run, in what order, and where the results go."""

import argparse
import contextlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import growth
import loads
import measure
import report
import servers
import stores
import syncs

HERE = pathlib.Path(__file__).resolve().parent


def options(arguments):
    parser = argparse.ArgumentParser(
        prog="chaos-tests/bench/run",
        description="The same load against Postfix, Exim, OpenSMTPD and three nodes of mailraft, alternately, on this machine.",
        epilog="Without --nodes, --queue, --strace and --stores: the loads side by side. Builds nothing: first deploy/install-deps.sh --bench; "
               "cmake --preset release -DMAILRAFT_TESTS=OFF && cmake --build --preset release, or MAILRAFT_BIN names the programs. Needs root: "
               "each peer runs as users of its own. Takes a quiet machine for an hour.")
    parser.add_argument("--rounds", type=int, default=3, help="of each load and server (default 3)")
    parser.add_argument("--only", type=lambda s: s.split(","), metavar="a,b", help="loads: " + ", ".join(load.key for load in loads.LOADS))
    parser.add_argument("--peers", type=lambda s: [p for p in s.split(",") if p], default=["nothing", "postfix", "exim", "opensmtpd"],
                        metavar="postfix,exim", help="what mailraft is compared with (default all; '' is nobody)")
    parser.add_argument("--messages", type=float, default=1.0, metavar="SCALE", help="times the messages of a run (default 1)")
    parser.add_argument("--nodes", type=lambda s: [int(n) for n in s.split(",")], metavar="3,5,7",
                        help="instead: mailraft with so many nodes, the loads a2, b2 and c (or --only)")
    parser.add_argument("--queue", type=int, metavar="N", help="instead: mailraft with N messages queued")
    parser.add_argument("--strace", action="store_true", help="instead: what each server syncs before its 250")
    parser.add_argument("--stores", action="store_true", help="instead: replicated stores that might keep a queue")
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()), help="where the servers work: the disk that is measured")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parents[1] / "build" / "bench",
                        help="folder for results.json, RESULTS.md and results.svg (default build/bench); what is there is added to")
    parser.add_argument("--rest", type=float, default=0.0, metavar="SECONDS",
                        help="before each run: a rented machine may be fast for a short while only (default 0)")
    parser.add_argument("--keep", action="store_true", help="leave the servers' folders")
    return parser.parse_args(arguments)


def say(words):
    print(words, file=sys.stderr, flush=True)


def kinds(opts):
    unknown = [p for p in opts.peers if p not in servers.SERVERS]
    if unknown:
        raise SystemExit(f"no such peer: {', '.join(unknown)}; there are {', '.join(servers.SERVERS)}")
    chosen = [servers.SERVERS[p] for p in servers.SERVERS if p in (*opts.peers, "mailraft")]
    for kind in chosen:
        if kind.missing():
            raise SystemExit(f"{kind.title} lacks {kind.missing()}: deploy/install-deps.sh --bench")
        if kind.root and not servers.may_mount():
            raise SystemExit(f"{kind.title} has to be started by root, who may mount (unshare --mount); --peers '' measures mailraft alone")
    return chosen


@contextlib.contextmanager
def workshop(opts):
    """(folder, resolver, certificate and key): what all runs share; gone afterwards, whatever ended them."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mailraft-bench-", dir=opts.dir))
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        if opts.keep:
            stack.callback(lambda: say(f"kept: {folder}"))
        else:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        resolver = None
        if os.geteuid() == 0:
            resolver = servers.Resolver(folder)
            stack.callback(resolver.close)
        yield folder, resolver, servers.tested.Pki(folder / "pki").issue("localhost", "IP:127.0.0.1")


def commit():
    """Of what is measured: the checkout, with "-dirty" where it was changed; None where MAILRAFT_BIN names programs from elsewhere."""
    if "MAILRAFT_BIN" in os.environ:
        return None
    done = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty", "--exclude", "*"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def head(opts):
    """What every section of the results begins with."""
    return {"command": "chaos-tests/bench/run " + shlex.join(sys.argv[1:]), "commit": commit(), "machine": measure.machine(opts.dir)}


def one_run(opts, shop, load, kind, number):
    folder, resolver, tls = shop
    here = folder / f"{load.key}-{kind.name}-{number}"
    time.sleep(opts.rest)
    result = loads.run(load, kind, here, resolver, tls, opts.messages)
    if not opts.keep:
        shutil.rmtree(here, ignore_errors=True)
    say(f"  {load.key} {kind.title}: " + ", ".join(f"{k} {report.form(v) if isinstance(v, float) else v}" for k, v in result.items()
                                                if not isinstance(v, list)))
    return result


def side_by_side(opts, results):
    chosen, section = kinds(opts), head(opts)  # of the newest run; each row has its own
    section["servers"] = {k.name: {"version": k.version(), "copies": 3 if k is servers.Mailraft else k.copies, "notes": list(k.notes)} for k in chosen}
    rows = section["rows"] = {**results.get("loads", {}).get("rows", {})}
    section["servers"] = {**results.get("loads", {}).get("servers", {}), **section["servers"]}
    with workshop(opts) as shop:
        for load in loads.chosen(opts.only):
            say(f"{load.key}: {load.title}")
            here = [kind for kind in chosen if kind is not servers.Nothing or not kind.fails(load)]
            row = {"title": load.title, "serial": load.serial, "deliver": load.deliver,
                   "run": {part: section[part] for part in ("command", "commit", "machine")},
                   "servers": {kind.name: {"runs": []} for kind in here}}
            for number in range(opts.rounds):
                # Each round begins with another server, so that none is always the one behind a busy one.
                turn = number % len(here)
                for kind in here[turn:] + here[:turn]:
                    result = one_run(opts, shop, load, kind, number)
                    row["messages"] = max(row.get("messages", 0), result.pop("messages"))
                    row["servers"][kind.name]["runs"].append(result)
            rows[load.key] = row
    results["loads"] = section
    print(report.load_table({load.key: rows[load.key] for load in loads.chosen(opts.only)}))


def by_nodes(opts, results):
    section = {**head(opts), "rows": {}}
    chosen = loads.chosen(opts.only or ["a2", "b2", "c"])
    sizes = {n: type("Mailraft", (servers.Mailraft,), {"nodes": n, "title": f"{n} nodes"}) for n in opts.nodes}
    with workshop(opts) as shop:
        for load in chosen:
            row = {"title": load.title, "serial": load.serial, "deliver": load.deliver, "nodes": {str(n): {"runs": []} for n in sizes}}
            for number in range(opts.rounds):
                for n, kind in sizes.items():
                    row["nodes"][str(n)]["runs"].append(one_run(opts, shop, load, kind, f"{number}-{n}"))
            section["rows"][load.key] = row
    results["nodes"] = section
    print(report.nodes_part(section))


def queue(opts, results):
    section = head(opts)
    with workshop(opts) as (folder, _, _):
        section["rows"] = growth.measure_queue(folder, opts.queue, opts.rounds, opts.messages, opts.rest, say)
    results["queue"] = section
    print(report.queue_part(section))


def strace(opts, results):
    if syncs.missing():
        raise SystemExit(f"{syncs.missing()} is missing: deploy/install-deps.sh --bench")
    section = {**head(opts), "servers": {}}
    with workshop(opts) as (folder, resolver, _):
        for kind in kinds(opts):
            row = section["servers"][kind.name] = syncs.trace(kind, folder / f"strace-{kind.name}", resolver, max(6, int(100 * opts.messages)))
            say(f"  {kind.title}: {row['calls_per_message']}; {row['before_250']}")
    results["strace"] = section
    print(report.strace_part(section))


def replicated_stores(opts, results):
    section = head(opts)
    with workshop(opts) as (folder, _, _):
        section.update(stores.measure_stores(folder, opts.rounds, max(200, int(10000 * opts.messages)), say))
    results["stores"] = section
    print(report.stores_part(section))


def main(arguments=None):
    opts = options(arguments)
    opts.dir.mkdir(parents=True, exist_ok=True)
    loads.end_in_order()
    results = report.read(opts.out / "results.json")
    parts = [(opts.nodes, by_nodes), (opts.queue, queue), (opts.strace, strace), (opts.stores, replicated_stores)]
    wanted = [part for asked, part in parts if asked] or [side_by_side]
    try:
        for part in wanted:
            part(opts, results)
            report.write(results, opts.out)  # each part as soon as it is there
    except KeyboardInterrupt:
        say("ended before it was done")
        return 130
    say(f"results: {opts.out}/RESULTS.md, results.json, results.svg")
    return 0
