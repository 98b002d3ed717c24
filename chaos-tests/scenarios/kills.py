"""kill -9: of the leader, of a follower, of all; and the orderly end of one after the other."""

from scenarios import fault, scenario


@scenario("kill-leader", "kill -9 of the leader, which is started again when the others have taken over", quick=True)
def kill_leader(world):
    leader = world.leader()
    with world.band(f"{leader.name} dead"):
        leader.kill()
        world.wait_accepted(world.rng.randrange(200, 400))
        leader.start()
    world.wait_ready([leader])


@scenario("kill-follower", "kill -9 of a follower, which stays away until its deliveries have been taken over")
def kill_follower(world):
    node = world.rng.choice(world.followers())
    with world.band(f"{node.name} dead"):
        node.kill()
        if world.rng.random() < 0.5:
            world.run_for(6)  # node_timeout is 5 s
        world.wait_accepted(100)
        node.start()
    world.wait_ready([node])


@scenario("kill-all", "kill -9 of all nodes at once, then all are started again", takeover=False)
def kill_all(world):
    for _ in range(2):
        with world.band("all dead"):
            for node in world.nodes:
                node.kill()
            for node in world.rng.sample(world.nodes, len(world.nodes)):
                node.start()
            world.wait_ready()
        world.wait_accepted(100)


@scenario("kill-leaders", "kill -9 of each leader as soon as there is one, five times")
def kill_leaders(world):
    dead = None
    for _ in range(5):
        leader = world.leader()
        with world.band(f"{leader.name} dead"):
            leader.kill()
            if dead and not dead.alive():
                dead.start()
            world.wait_accepted(world.rng.randrange(1, 60))
        dead = leader
        dead.start()
    world.wait_ready()


@scenario("restart-rolling", "SIGTERM to each node in turn: each ends by itself with status 0, and nothing is sent twice",
          quick=True)
def restart_rolling(world):
    for node in world.rng.sample(world.nodes, len(world.nodes)):
        with world.band(f"{node.name} restarts"):
            status = node.terminate()
            assert status == 0, f"{node.name} ended with {status}"
            node.start()
            world.wait_ready([node])
        world.wait_accepted(50)


@scenario("majority-lost", "two of three die: the third accepts nothing; one comes back, then the other",
          takeover=False, needs=("down",))
def majority_lost(world):
    survivor = world.rng.choice(world.nodes)
    dead = [n for n in world.nodes if n is not survivor]
    world.rng.shuffle(dead)
    with world.band("majority dead"):
        for node in dead:
            node.kill()
        world.wait_for(lambda: survivor.status_code("/readyz") == 503, "the survivor says that it is not ready")
        count = world.accepted()
        world.run_for(2)
        assert world.accepted() == count, f"{world.accepted() - count} messages got 250 without a majority"
        dead[0].start()
        world.wait_ready([survivor, dead[0]])
    world.wait_accepted(100)
    dead[1].start()
    world.wait_ready()


@scenario("kill-backlog", "the next hop is away and thousands wait; the leader dies, then all nodes; the next hop comes back", rate=500,
          sessions=24)
def kill_backlog(world):
    with world.band("next hop away"):
        world.sink.kill()
        world.wait_accepted(1500)
        leader = world.leader()
        leader.kill()
        world.wait_accepted(300)
        leader.start()
        world.wait_ready([leader])
        for node in world.nodes:
            node.kill()
        for node in world.nodes:
            node.start()
        world.wait_ready()
        world.wait_accepted(300)
        world.sink.heal()


@fault("kill a node")
def kill_one(world):
    node = world.claim(world.nodes)
    node.kill()
    yield
    node.start()


@fault("kill the leader")
def kill_the_leader(world):
    node = world.claim([world.leader()])
    node.kill()
    yield
    node.start()


@fault("restart a node")
def restart_one(world):
    node = world.claim(world.nodes)
    node.terminate()
    yield
    node.start()


@fault("kill all")
def kill_every(world):
    for node in world.claim_all():
        node.kill()
    for node in world.nodes:
        node.start()
    yield
