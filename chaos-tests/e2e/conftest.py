import pytest

import harness


@pytest.fixture
def make_cluster(request):
    """make_cluster(...) gives a Cluster whose processes end with the test."""
    made = []
    with harness.folder(request.node.name) as (path, keep):

        def make(**kwargs):
            cluster = harness.Cluster(path, **kwargs)
            made.append(cluster)
            return cluster

        try:
            yield make
        finally:
            if getattr(request.node, "failed", False):
                keep()
            for cluster in made:
                cluster.close()


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and outcome.get_result().failed:
        item.failed = True
