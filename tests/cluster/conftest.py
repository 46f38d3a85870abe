"""The cluster that the tests share; they are skipped where there can be none, but must run where it is demanded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.requirements import missing

HERE = Path(__file__).parent
HOSTS = 4
DEMANDED = "DDP_REQUIRE_CLUSTER"
"""The variable of the environment that makes a failure of what would be skipped."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")


def skip(reason: str) -> None:
    """Skip the test, or fail where nothing may be skipped."""
    if os.environ.get(DEMANDED):
        pytest.fail(f"{DEMANDED} is set, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    if reason := missing():
        skip(reason)
    with Cluster(HOSTS) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Four hosts, all up, with their cables plugged and nothing running."""
    yield shared_cluster
    shared_cluster.heal()
