"""SIGSTOP: a process that stands still and goes on as if no time had passed."""

from scenarios import fault, scenario
from scenarios.common import Talk


@scenario("pause-leader", "the leader stands still, longer than its lease and longer than node_timeout: others lead and deliver",
          needs=("pause",), quick=True)
def pause_leader(world):
    for seconds in (world.rng.uniform(3.3, 4.5), world.rng.uniform(5.5, 7.5)):
        leader = world.leader()
        with world.band(f"{leader.name} paused"):
            leader.pause()
            world.run_for(seconds)
            leader.resume()
        world.wait_ready()


@scenario("pause-election", "each leader stands still for about an election timeout, some a little less, some a little more",
          needs=("pause",))
def pause_election(world):
    for _ in range(6):
        leader = world.leader()
        with world.band(f"{leader.name} paused"):
            leader.pause()
            world.run_for(world.rng.uniform(0.3, 1.3))
            leader.resume()
        world.wait_accepted(world.rng.randrange(20, 80))


@scenario("pause-data", "a follower stands still while a client is within DATA, longer than node_timeout; then the client goes on",
          needs=("pause",))
def pause_data(world):
    node = world.rng.choice(world.followers())
    with Talk(node.smtp, host=node.host, limit=60) as client:
        client.begin(sender="data@load.invalid", recipient="data@load.invalid")
        client.send("Subject: half\r\n\r\nfirst half\r\n")
        with world.band(f"{node.name} paused"):
            node.pause()
            world.run_for(world.rng.uniform(5.5, 7))
            client.send("second half\r\n.\r\n")
            node.resume()
        code, text = client.reply()
    world.note("reply after the pause", f"{code} {text}")
    assert code in (250, 421, 451, 452, 0), (code, text)
    if code == 250:
        world.owe(text.rsplit(None, 1)[-1])
    world.wait_ready([node])


@scenario("pause-all", "all nodes stand still at once, longer than every lease, and go on in another order", needs=("pause",),
          takeover=False)
def pause_all(world):
    for seconds in (1.5, 6.5):
        with world.band("all paused"):
            for node in world.rng.sample(world.nodes, len(world.nodes)):
                node.pause()
            world.run_for(world.rng.uniform(seconds - 0.5, seconds + 0.5))
            for node in world.rng.sample(world.nodes, len(world.nodes)):
                node.resume()
                world.run_for(world.rng.uniform(0, 0.3))
        world.wait_ready()
        world.wait_accepted(50)


@fault("pause a node", needs=("pause",), weight=2)
def pause_one(world):
    node = world.claim(world.nodes)
    node.pause()
    yield
    node.resume()


@fault("pause the leader", needs=("pause",))
def pause_the_leader(world):
    node = world.claim([world.leader()])
    node.pause()
    yield
    node.resume()
