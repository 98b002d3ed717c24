import contextlib

import pytest

import harness


@contextlib.contextmanager
def clusters(node, name, orderly=False):
    """make(...) gives a Cluster in a folder of `node`, whose processes end with it; further things with close() can be put
    into its .peers and end with it too. The folder stays when a test failed. orderly: where none did, the nodes end by SIGTERM
    and not by SIGKILL, so that a build with sanitizers finds what they leak."""
    made = []
    with harness.folder(name) as (path, keep):

        def make(**kwargs):
            cluster = harness.Cluster(path, **kwargs)
            cluster.peers = []
            made.append(cluster)
            return cluster

        try:
            yield make
            if orderly and not getattr(node, "failed", False):
                for mailraftd in (n for cluster in made for n in cluster.alive()):
                    status = mailraftd.end()
                    assert status == 0, f"{mailraftd.name} ended with {status}; see {mailraftd.log}"
        finally:
            if getattr(node, "failed", False):
                keep()
            for cluster in made:
                for peer in reversed(cluster.peers):
                    peer.close()
                cluster.close()


@pytest.fixture
def make_cluster(request):
    """make_cluster(...) gives a Cluster whose processes end with the test."""
    with clusters(request.node, request.node.name) as make:
        yield make


@pytest.fixture(scope="module")
def shared_cluster(request):
    """As make_cluster, for one cluster that all tests of a file share."""
    with clusters(request.node, request.node.name.removesuffix(".py"), orderly=True) as make:
        yield make


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.failed = item.getparent(pytest.Module).failed = True
