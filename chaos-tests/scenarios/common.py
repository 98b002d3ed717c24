"""What the scenarios share with the end-to-end tests: their harness."""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import harness  # noqa: E402  pylint: disable=wrong-import-position
from harness import Node, Process, Talk, can_connect, free_port, read_journal, run, try_send, wait_for  # noqa: E402,F401


LIMIT = 30  # seconds: what a cluster without faults gets for whatever it has to do


def read_slim(path, keys):
    """A journal's events with these members alone: long runs have many."""
    found = []
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                try:
                    event = json.loads(line)
                except ValueError:  # torn by a kill
                    continue
                found.append({k: event[k] for k in keys if k in event})
    return found
