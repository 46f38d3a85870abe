"""The cluster that the tests share; they are skipped where there can be none, but must run where it is demanded."""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddp.kernels.jit import CACHE
from tests.cluster import failures
from tests.cluster.cluster import Cluster
from tests.cluster.failures import EXIT_FAILURE, FAULTS, SILENT, Row
from tests.cluster.jobs import TRAIN, Bits, ClusterJob, Ends, Mpi, final_sha256, find_mpi
from tests.cluster.requirements import missing
from tests.cluster.slurm import Slurm
from tests.cluster.slurm import missing as slurm_missing
from tests.system.jobs import Finished, Job

HERE = Path(__file__).parent
HOSTS = 4
MPIRUNS_OWN = re.compile(r"BAD TERMINATION|prterun|MPI_ABORT|MPI_Abort|ARE_FATAL")
CACHE_VARIABLE = "NUMBA_CACHE_DIR"
"""The variable of the environment without which each host has compiled kernels of its own."""
DEMANDED = "DDP_REQUIRE_CLUSTER"
"""The variable of the environment that makes a failure of what would be skipped."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-failures", action="store_true", help="render docs/failures.md from what was measured")


@pytest.fixture(autouse=True)
def no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study would simulate hundreds of hosts for half a minute where SimGrid is installed."""
    monkeypatch.setenv("DDP_SIMGRID_PYTHON", "")


@pytest.fixture(autouse=True)
def one_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosts are one machine: what it has compiled, none of them compiles again: a minute of five."""
    if CACHE_VARIABLE not in os.environ:
        monkeypatch.setenv(CACHE_VARIABLE, str(CACHE.parent))


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """What came of the faults that were tried."""
    rows: list[Row] = []
    yield rows
    if request.config.getoption("--write-failures", default=False):
        failures.write(rows)


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
    return demanded(request.param)


@pytest.fixture
def mpich() -> Mpi:
    """One MPI is enough for what has nothing to do with MPI."""
    return demanded("mpich")


def demanded(name: str) -> Mpi:
    """An MPI by name; without it the test is skipped."""
    found = find_mpi(name)
    if isinstance(found, str):
        skip(found)
    assert isinstance(found, Mpi)
    return found


@pytest.fixture
def slurm(cluster: Cluster) -> Iterator[Slurm]:
    """Slurm on the four hosts, with nothing queued."""
    if reason := slurm_missing():
        skip(reason)
    with Slurm(cluster) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Bits:
    """The final bits of a job, trained by one process on this machine."""

    @functools.cache
    def bits(arguments: tuple[str, ...]) -> str:
        folder = tmp_path_factory.mktemp("undisturbed")
        finished = Job([sys.executable, *TRAIN, *arguments], folder).finish()
        assert finished.code == 0, finished.text
        return final_sha256(folder)

    return bits


@pytest.fixture
def ends(mpi: Mpi, measured: list[Row]) -> Ends:
    """Checks what comes of a fault, and keeps it for the table; `since` is when the fault set in."""

    def check(job: ClusterJob, name: str, since: float) -> Finished:
        fault = FAULTS[name]
        assert mpi.option in fault.mpis
        finished = job.end(fault.limit_s - (time.monotonic() - since))
        seconds = time.monotonic() - since
        code = finished.code if finished.code >= 0 else 128 - finished.code
        assert code == fault.code, finished.text
        said = finished.err.splitlines()
        told = [line for line in said if re.fullmatch(fault.message, line)]
        told = [SILENT] if fault.message == SILENT else told
        assert len(told) == 1, finished.text
        if code == EXIT_FAILURE:
            assert [line for line in said if line.startswith("error: ")] == told, finished.text
            assert not MPIRUNS_OWN.search(finished.err.partition(told[0])[2]), finished.text
        measured.append(Row(name, mpi.option, told[0], code, seconds))
        return finished

    return check
