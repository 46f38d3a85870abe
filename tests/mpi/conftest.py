"""The worlds that the tests of this folder run in; they are collected under `python -m tests.mpi N` only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ddp.comm.world import World


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Importing these files starts MPI, which a pytest that itself starts mpirun must not do.
    return True if not config.getoption("--with-mpi") and collection_path.name.startswith("test_") else None


@pytest.fixture(scope="session")
def world() -> World:
    """All ranks."""
    from ddp.comm.world import World

    return World()


@pytest.fixture(scope="session")
def alone() -> World:
    """This process as a world of one rank: the reference for what any number of ranks must compute."""
    from mpi4py import MPI

    from ddp.comm.world import World

    return World(MPI.COMM_SELF)


@pytest.fixture(params=["one node", "nodes of two ranks", "a rank a node"])
def nodes(request: pytest.FixtureRequest, world: World) -> Iterator[World]:
    """The world, as if its ranks were on several nodes."""
    from mpi4py import MPI

    of_node = {"one node": world.size, "nodes of two ranks": 2, "a rank a node": 1}[request.param]
    real = world.node, world.local_rank, world.local_size, world.num_nodes, world.smallest_node
    world.node = world.comm.Split(world.rank // of_node, world.rank)
    world.local_rank, world.local_size = world.node.rank, world.node.size
    world.num_nodes = -(-world.size // of_node)
    world.smallest_node = world.comm.allreduce(world.local_size, op=MPI.MIN)
    yield world
    world.node.Free()
    world.node, world.local_rank, world.local_size, world.num_nodes, world.smallest_node = real


@pytest.fixture(autouse=True)
def _in_step(world: World) -> Iterator[None]:
    """No rank begins a test before all have ended the one before: they share files."""
    world.comm.Barrier()
    yield
    world.comm.Barrier()
