"""The watchdogs of a rank that does not come and of those that wait for it, up to the abort."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from ddp.comm import watchdog as module
from ddp.comm.agreement import Agreement
from ddp.comm.failure import Abort
from ddp.comm.watchdog import Watchdog, watchdog
from ddp.comm.world import World
from tests.mpi.test_agreement import with_run
from tests.mpi.test_trainer import MLP

pytestmark = pytest.mark.mpi


class Recording(Abort):
    """Ends nothing: takes note of how it was to end, and wakes the rank that sleeps."""

    def __init__(self, world: World, sleeper: int) -> None:
        super().__init__()
        self.world, self.sleeper = world, sleeper
        self.codes: list[int] = []
        self.expected = False

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.begun = True
        self.world.comm.send(None, self.sleeper)

    def within(self, seconds: float, code: int) -> None:
        self.begun = self.expected = True

    def sleep(self) -> None:
        request = self.world.comm.irecv()
        while not request.test()[0]:
            time.sleep(0.05)


@pytest.fixture(autouse=True)
def _no_waiting_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stagger", lambda rank: None)


@pytest.fixture
def last(world: World) -> int:
    if world.size == 1:
        pytest.skip("one rank waits for nobody")
    return world.size - 1


def hang(world: World, sleeper: int) -> list[tuple[list[int], bool]]:
    """A collective that a rank comes to only when a watchdog wakes it; how each rank was to end."""
    abort = Recording(world, sleeper)
    with watchdog(world, 0.5, abort):
        if world.rank == sleeper:
            abort.sleep()
        world.meet("planted meeting")
    return world.all_gather((abort.codes, abort.expected), "how each was to end")


def test_the_rank_that_does_not_come_is_named_once(
    last: int, world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for patience in ("CALL_S", "COLLECT_S"):  # a busy machine may keep a watchdog from its turn for seconds
        monkeypatch.setattr(module, patience, 30.0)
    monkeypatch.setattr(world.activity, "step", 6 if world.rank == last else 7)
    assert hang(world, last) == [([4], False)] + [([], True)] * (world.size - 1)
    reports = world.all_gather(capfd.readouterr().err, "reports")
    assert set(reports[1:]) == {""}
    first, *lines = reports[0].splitlines()
    host = re.escape(world.activity.host)
    assert re.fullmatch(
        rf"error: step 7: planted meeting \(collective \d+, 0 bytes\) did not finish within 0\.5 s:"
        rf" rank {last} on {host} did not arrive",
        first,
    )
    where = r"test_watchdog\.py:\d+ sleep < test_watchdog\.py:\d+ hang < "
    assert re.match(rf"  rank {last} on {host}: step 6, in no collective, .*: {where}", lines[0])
    for rank, line in enumerate(lines[1 : world.size]):
        assert re.match(rf"  rank {rank} on {host}: step 7, in planted meeting .* for \d\.\d s: ", line)
    assert reports[0].count("self.comm.Barrier()") == 1  # the stacks of those that wait are alike
    assert reports[0].count("time.sleep(0.05)") == 1


def test_whoever_waits_finds_another_coordinator(
    last: int, world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 sleeps, and so does its watchdog."""
    monkeypatch.setattr(module, "COLLECT_S", 0.5)
    monkeypatch.setattr(module, "CALL_S", 4.0)  # for rank 1, which may not have its turn at once
    if world.rank == 0:
        monkeypatch.setattr(Watchdog, "start", lambda self: None)
        monkeypatch.setattr(Watchdog, "stop", lambda self: None)
    assert hang(world, 0) == [([], False), ([4], False)] + [([], True)] * (world.size - 2)
    reports = world.all_gather(capfd.readouterr().err, "reports")
    assert f"rank 0 on {world.activity.host} did not answer\n" in reports[1]
    assert [bool(report) for report in reports] == [rank == 1 for rank in range(world.size)]


@pytest.mark.parametrize("timeout_s", [20.0, 0.0])
def test_a_late_rank_is_waited_for(
    timeout_s: float, last: int, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    abort = Recording(world, last)
    with watchdog(world, timeout_s, abort):
        if world.rank == last:
            time.sleep(1.0)
        world.meet("planted meeting")
    assert (abort.codes, abort.expected) == ([], False)
    assert capfd.readouterr().err == ""


class Announced:
    """A communicator that is to be used in announced collectives only."""

    def __init__(self, comm: MPI.Intracomm, world: World) -> None:
        self.comm, self.world = comm, world
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.comm, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self.check(name)
            result = found(*arguments, **named)
            return _AnnouncedRequest(result, self) if isinstance(result, MPI.Request) else result

        return call

    def check(self, name: str) -> None:
        self.calls.append(name)
        assert name.startswith("I") or self.world.activity.current is not None, f"{name} was not announced"


class _AnnouncedRequest:
    def __init__(self, request: MPI.Request, comm: Announced) -> None:
        self.request, self.comm = request, comm

    def __getattr__(self, name: str) -> Any:
        self.comm.check(name)
        return getattr(self.request, name)


@pytest.fixture
def announced() -> World:
    """A world that notices every collective which is not announced."""
    world = World()
    world.comm, world.node = Announced(world.comm, world), Announced(world.node, world)  # type: ignore[assignment]
    return world


def test_every_collective_of_a_run_is_announced(announced: World, mpi_tmp_path: Any) -> None:
    from ddp.start import start_facts

    trainer = with_run(MLP, announced, mpi_tmp_path)
    announced.first_on_node(trainer.warm_up, trainer.warm_up)
    announced.any_rank(False)
    announced.check_agreement({"parameters": trainer.parameters_sha256()})
    announced.node_cores()
    announced.threads_per_rank()
    array = announced.share_on_node(lambda: np.zeros(3))
    start_facts(announced, trainer)
    trainer.train()
    Agreement(announced, False, lambda: 0).now()
    announced.meet("end of the run")
    trainer.metrics.close()
    del array
    calls = {*announced.comm.calls, *announced.node.calls}  # type: ignore[attr-defined]
    assert {"allgather", "bcast", "allreduce", "Allgather", "Barrier", "gather", "Ibarrier"} <= calls
    assert announced.size == 1 or {"Allreduce", "Iallreduce"} <= calls
    # All ranks have counted the same.
    assert len(set(announced.all_gather(announced.activity.last.sequence, "count"))) == 1
    assert announced.activity.step == trainer.total_steps


def test_nodes_of_different_sizes_count_alike(last: int) -> None:
    """The last rank is alone on its node, and shares with nobody there."""
    world = World()
    world.node = world.comm.Split(color=int(world.rank == last))
    world.local_rank, world.local_size = world.node.rank, world.node.size
    world.share_on_node(lambda: np.zeros(3))
    counts = world.all_gather(world.activity.last.sequence, "counts")
    assert len(set(counts)) == 1
