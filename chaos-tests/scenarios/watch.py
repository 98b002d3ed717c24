"""Looks at the nodes several times a second, for the time line: who leads, how much waits."""

import threading
import time

EVERY = 0.25


class Watch:
    def __init__(self, world):
        self.world = world
        self.samples = []  # {time, leader, queue, ready: [names]}
        self.ended = threading.Event()
        self.latest = {}
        self.threads = [threading.Thread(target=self._look, args=(n,), daemon=True) for n in world.nodes]
        self.threads.append(threading.Thread(target=self._sample, daemon=True))

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(10)

    def _look(self, node):
        while not self.ended.wait(EVERY):
            status = None
            if node.alive() and not node.paused:
                status = node.get("/v1/status", 1)
            self.latest[node.name] = (time.time(), status)

    def _sample(self):
        while not self.ended.wait(EVERY):
            now = time.time()
            fresh = {n: s for n, (t, s) in list(self.latest.items()) if s and now - t < 1}
            self.samples.append({
                "time": now,
                "leader": self.leader_name(),
                "queue": max((s["queue"]["messages"] for s in fresh.values()), default=None),
                "ready": sorted(n for n, s in fresh.items() if s["readiness"] == "ready"),
            })

    def leader_name(self):
        """Of the newest term that anybody leads in; None when nobody says that he does."""
        leads = [(s["term"], n) for n, (_, s) in list(self.latest.items()) if s and s["role"] == "leader" and s["quorum"]]
        return max(leads)[1] if leads else None
