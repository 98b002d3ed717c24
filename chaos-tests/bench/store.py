"""What the replicated stores of stores.py have in common."""

import measure
from servers import Process, can_connect, wait_for

SIZE = 10240  # of a value


class Store:
    def __init__(self, folder):
        self.dir = folder / self.name
        self.dir.mkdir()
        self.account = measure.account()
        self.children = []
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def spawn(self, name, *args):
        child = Process([*self.account.prefix, *args], self.dir / f"{name}.log")
        self.children.append(child)
        if isinstance(self.account, measure.Tree):
            self.account.roots.append(child.pid)

    def wait(self, ports):
        for port in ports:
            wait_for(lambda port=port: can_connect(port) or not all(c.alive() for c in self.children), f"{self.title} listens")
        dead = [c for c in self.children if not c.alive()]
        assert not dead, dead[0].text()[-1000:]

    def close(self):
        for child in self.children:
            child.kill()
        self.account.close()
