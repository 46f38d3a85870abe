"""What ranks do together, against closed forms in the rank that hold for any number of ranks."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from ddp.comm import world as world_module
from ddp.comm.failure import DifferingRankError, UserError
from ddp.comm.world import World

pytestmark = pytest.mark.mpi


def test_the_fields_of_one_node(world: World) -> None:
    assert (world.rank, world.size) == (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
    assert (world.local_rank, world.local_size) == (world.rank, world.size)
    assert (world.node_rank, world.num_nodes) == (0, 1)
    assert world.host
    assert world.is_root == (world.rank == 0)


def test_a_world_of_one_rank(alone: World) -> None:
    assert (alone.rank, alone.size, alone.local_rank, alone.local_size) == (0, 1, 0, 1)
    assert (alone.node_rank, alone.num_nodes, alone.is_root) == (0, 1, True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_all_reduce_sums_the_ranks(dtype: type, world: World) -> None:
    array = np.arange(5, dtype=dtype) + world.rank
    world.all_reduce(array)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, world.size * np.arange(5) + world.size * (world.size - 1) / 2)


def test_all_reduce_of_an_empty_array(world: World) -> None:
    world.all_reduce(np.empty(0))


def test_all_gather_rows(world: World) -> None:
    rows = world.all_gather_rows(np.array([world.rank, world.rank**2, 7.0]), "rows")
    np.testing.assert_array_equal(rows, [[rank, rank**2, 7] for rank in range(world.size)])


def test_run_together_returns_each_ranks_own_result(world: World) -> None:
    assert world.run_together(lambda: world.rank**2) == world.rank**2


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_a_mistake_on_the_last_rank_reaches_all(error: type[Exception], world: World) -> None:
    def act() -> None:
        if world.rank == world.size - 1:
            raise error("planted")

    with pytest.raises(UserError, match=r"^planted$") as caught:
        world.run_together(act)
    assert caught.value.rank == world.size - 1


def test_of_several_mistakes_the_first_ranks_is_told(world: World) -> None:
    def act() -> None:
        raise ValueError(f"rank {world.rank}")

    with pytest.raises(UserError, match=r"^rank 0$") as caught:
        world.run_together(act)
    assert caught.value.rank == 0


def test_run_on_root(world: World) -> None:
    calls = []

    def act() -> tuple[str, Path]:
        calls.append(world.rank)
        return "result", Path("a")

    assert world.run_on_root(act) == ("result", Path("a"))
    assert calls == ([0] if world.rank == 0 else [])
    assert world.run_on_root(lambda: None) is None


def test_a_mistake_on_root_reaches_all(world: World) -> None:
    def act() -> None:
        raise ValueError("planted")

    with pytest.raises(UserError, match=r"^planted$") as caught:
        world.run_on_root(act)
    assert caught.value.rank == 0


class Load:
    """Makes an array that depends on how often, and on which rank, it was made."""

    def __init__(self, world: World) -> None:
        self.world, self.calls = world, 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return np.arange(10_000).reshape(100, 100) + self.world.rank


def test_share_on_node_loads_once(world: World, mpi_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(mpi_tmp_path))
    load = Load(world)
    array = world.share_on_node(load)
    assert world.comm.allreduce(load.calls) == world.num_nodes
    np.testing.assert_array_equal(array, np.arange(10_000).reshape(100, 100))
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    world.comm.Barrier()
    assert list(mpi_tmp_path.iterdir()) == []
    # Not only equal: the same pages, of a file without a name.
    device, inode, name = mapping_of(array)
    assert len(set(world.comm.allgather((device, inode)))) == 1 or world.size == 1
    if world.size > 1:
        assert inode != 0
        assert name == f"{array.filename} (deleted)"


def mapping_of(array: np.ndarray) -> tuple[str, int, str]:
    """Device, inode and name of the file whose pages hold an array; inode 0 if none does."""
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, device, inode, *name = line.split(maxsplit=5)
        first, last = (int(part, 16) for part in span.split("-"))
        if first <= address < last:
            return device, int(inode), name[0] if name else ""
    raise AssertionError(f"{address:x} is not mapped")


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_a_mistake_in_load_reaches_all(
    error: type[Exception], world: World, mpi_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(mpi_tmp_path))

    def load() -> np.ndarray:
        raise error("planted")

    with pytest.raises(error, match="planted"):
        world.share_on_node(load)
    world.comm.Barrier()
    assert list(mpi_tmp_path.iterdir()) == []


def test_no_file_is_left_where_the_array_cannot_be_saved(
    world: World, mpi_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world.size == 1:
        return  # a rank without neighbours saves nothing
    monkeypatch.setattr(tempfile, "tempdir", str(mpi_tmp_path))
    with pytest.raises(ValueError, match="allow_pickle"):
        world.share_on_node(lambda: np.array([object()]))
    world.comm.Barrier()
    assert list(mpi_tmp_path.iterdir()) == []


def test_first_on_node_leads_before_any_follows(world: World, mpi_tmp_path: Path) -> None:
    log = mpi_tmp_path / "log"

    def write(text: str) -> None:
        with log.open("a") as file:
            file.write(f"{text}\n")

    def lead() -> None:
        write(f"begin {world.rank}")
        time.sleep(0.2)
        write(f"end {world.rank}")

    world.first_on_node(lead, lambda: write(f"follow {world.rank}"))
    world.comm.Barrier()
    lines = log.read_text().splitlines()
    assert lines[:2] == ["begin 0", "end 0"]
    assert sorted(lines[2:]) == [f"follow {rank}" for rank in range(1, world.size)]


def test_agreement(world: World) -> None:
    world.check_agreement({"data": "abc", "configuration": "x" * 10_000})


@pytest.mark.parametrize("which", ["first", "last"])
def test_the_rank_that_differs_is_named(which: str, world: World) -> None:
    odd = 0 if which == "first" else world.size - 1
    facts = {"configuration": "same", "data checksum": "odd" if world.rank == odd else "common"}
    if world.size == 1:
        world.check_agreement(facts)
        return
    if world.size == 2:
        odd = 1  # of two that differ, neither is the odd one; rank 0's counts as common
    with pytest.raises(DifferingRankError) as caught:
        world.check_agreement(facts)
    assert f"rank {odd} on {world.host} has another data checksum" in str(caught.value)
    assert "configuration" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_threads_per_rank_share_the_cores(world: World, alone: World) -> None:
    cores = len(os.sched_getaffinity(0))
    assert world.threads_per_rank() == max(1, cores // world.size)
    assert alone.threads_per_rank() == cores


def test_threads_per_rank_never_exceed_the_cores_of_any_rank(world: World) -> None:
    cores = os.sched_getaffinity(0)
    try:
        if world.rank == world.size - 1:
            os.sched_setaffinity(0, {min(cores)})
        assert world.threads_per_rank() == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_a_rank_that_cannot_map_the_array_stops_all(
    world: World, mpi_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world.size == 1:
        return  # nothing is mapped
    monkeypatch.setattr(tempfile, "tempdir", str(mpi_tmp_path))

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("too many open files")

    if world.rank == world.size - 1:
        monkeypatch.setattr(np, "load", fail)
    with pytest.raises(OSError, match="too many open files"):
        world.share_on_node(lambda: np.arange(3))
    world.comm.Barrier()
    assert list(mpi_tmp_path.iterdir()) == []


def test_first_on_node_lets_all_ranks_leave_together(world: World, mpi_tmp_path: Path) -> None:
    """So that no rank's clock runs while another still loads: at the end each sees what all have done."""

    def work() -> None:
        time.sleep(0.1 * world.rank)
        (mpi_tmp_path / str(world.rank)).touch()

    world.first_on_node(work, work)
    done = sorted(int(path.name) for path in mpi_tmp_path.iterdir())
    assert done == list(range(world.size))


def test_once_on_node(world: World) -> None:
    calls = []

    def action() -> int:
        calls.append(world.rank)
        return world.rank + 100

    assert world.once_on_node(action) == 100
    assert world.comm.allreduce(len(calls)) == world.num_nodes


def test_a_lack_of_memory_is_the_users_mistake(world: World) -> None:
    def allocate() -> None:
        if world.rank == world.size - 1:
            raise MemoryError("Unable to allocate 931 GiB")

    with pytest.raises(UserError, match="931 GiB"):
        world.run_together(allocate)


def test_long_arrays_are_summed_as_short_ones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "PIECE", 7)
    for shape in ((), (0,), (1,), (7,), (8,), (40,), (5, 8)):
        numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        array = np.array(numbers + world.rank)
        world.all_reduce(array)
        np.testing.assert_array_equal(array, world.size * numbers + sum(range(world.size)))
