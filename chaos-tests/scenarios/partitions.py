"""Links that lose everything, one way or both, between namespaces."""

import itertools

from scenarios import fault, scenario


@scenario("part-follower", "a follower is alone for longer than node_timeout: its deliveries run elsewhere", needs=("network",))
def part_follower(world):
    node = world.rng.choice(world.followers())
    with world.band(f"{node.name} alone"):
        world.net.isolate(node)
        world.wait_accepted(100)
        world.run_for(6)
        world.net.rejoin(node)
    world.wait_ready()


@scenario("part-leader", "the leader is alone, and its clients still reach it: it accepts nothing, the others lead", needs=("network",),
          quick=True)
def part_leader(world):
    for _ in range(2):
        leader = world.leader()
        others = [n for n in world.nodes if n is not leader]
        with world.band(f"{leader.name} alone"):
            world.net.isolate(leader)
            world.wait_for(lambda old=leader: old.status_code("/readyz") == 503, "the lonely leader says that it is not ready")
            assert world.leader(others) is not leader
            world.wait_accepted(100)
            world.run_for(world.rng.uniform(0, 4))
            world.net.rejoin(leader)
        world.wait_ready()


@scenario("part-one-way", "what the leader sends to the others is lost, then what they send to it, then the same for a follower",
          needs=("network",))
def part_one_way(world):
    for leads, sends in ((True, True), (True, False), (False, True), (False, False)):
        node = world.leader() if leads else world.rng.choice(world.followers())
        if leads:
            world.leader_hit(node.name)
        with world.band(f"{node.name} {'mute' if sends else 'deaf'}"):
            for other in world.nodes:
                if other is not node:
                    world.net.one_way(*((node, other) if sends else (other, node)))
            world.wait_accepted(world.rng.randrange(50, 300))
            world.net.heal()
        world.wait_ready()


@scenario("part-bridge", "five nodes: two and two that cannot see each other, and one that sees all", needs=("network",), nodes=5)
def part_bridge(world):
    nodes = world.rng.sample(world.nodes, 5)
    bridge, one, two = nodes[0], nodes[1:3], nodes[3:]
    if world.rng.random() < 0.5:  # or the bridge leads
        leader = world.leader()
        nodes.remove(leader)
        bridge, one, two = leader, nodes[:2], nodes[2:]
    with world.band(f"bridge {bridge.name}"):
        for a, b in itertools.product(one, two):
            world.net.cut(a, b)
        world.wait_accepted(300)
        world.run_for(world.rng.uniform(0, 4))
        world.wait_accepted(100)
        world.net.heal()
    world.wait_ready()


@scenario("part-links", "links are cut one by one until none is left, and joined in another order", needs=("network",))
def part_links(world):
    links = list(itertools.combinations(world.nodes, 2))
    for _ in range(2):
        with world.band("links cut"):
            for a, b in world.rng.sample(links, len(links)):
                world.net.cut(a, b)
                world.run_for(world.rng.uniform(0.2, 2))
            for a, b in world.rng.sample(links, len(links)):
                world.net.join(a, b)
                world.run_for(world.rng.uniform(0.2, 2))
        world.wait_ready()
        world.wait_accepted(50)


@scenario("part-flapping", "a link between the leader and each other node goes away and comes back many times a second",
          needs=("network",))
def part_flapping(world):
    leader = world.leader()
    with world.band(f"{leader.name}'s links flap"):
        for _ in range(25):
            other = world.rng.choice([n for n in world.nodes if n is not leader])
            world.net.cut(leader, other)
            world.run_for(world.rng.uniform(0.05, 0.4))
            world.net.join(leader, other)
            world.run_for(world.rng.uniform(0.02, 0.2))
    world.wait_ready()
    world.wait_accepted(50)


@scenario("part-hop", "a node does not reach the next hop, and then neither does another: the others deliver", needs=("network",))
def part_hop(world):
    for node in world.rng.sample(world.nodes, 2):
        with world.band(f"{node.name} without next hop"):
            world.net.cut_hop(node)
            world.wait_accepted(world.rng.randrange(100, 400))
            world.net.join(node, "hop")
    world.wait_accepted(50)


@fault("isolate a node", needs=("network",), weight=2)
def isolate_one(world):
    node = world.claim(world.nodes)
    world.net.isolate(node)
    yield
    world.net.rejoin(node)


@fault("isolate the leader", needs=("network",))
def isolate_leader(world):
    node = world.claim([world.leader()])
    world.net.isolate(node)
    yield
    world.net.rejoin(node)


@fault("cut a link", needs=("network",))
def cut_link(world):
    a = world.claim(world.nodes)
    b = world.claim(world.nodes)
    world.net.cut(a, b)
    yield
    world.net.join(a, b)


@fault("one way", needs=("network",))
def one_way(world):
    a = world.claim(world.nodes)
    b = world.claim(world.nodes)
    world.net.one_way(a, b)
    yield
    world.net.join(a, b)


@fault("a node without next hop", needs=("network",))
def without_hop(world):
    node = world.claim(world.nodes)
    world.net.cut_hop(node)
    yield
    world.net.join(node, "hop")
