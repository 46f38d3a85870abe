"""The cluster that the tests share; they are skipped where there can be none, but must run where it is demanded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.jobs import SHORT, TRAIN, Mpi, final_sha256, find_mpi
from tests.cluster.requirements import missing
from tests.system.jobs import Job

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


@pytest.fixture(params=["mpich", "openmpi"])
def mpi(request: pytest.FixtureRequest) -> Mpi:
    """Each of two MPIs."""
    found = find_mpi(request.param)
    if isinstance(found, str):
        skip(found)
    assert isinstance(found, Mpi)
    return found


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The final bits of SHORT, trained by one process on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = Job([sys.executable, *TRAIN, *SHORT], folder).finish()
    assert finished.code == 0, finished.text
    return final_sha256(folder)
