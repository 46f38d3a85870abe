"""What messages and sums cost between the ranks of a job: `mpirun -n P python -m ddp.comm.collectives TASK`.

For `python -m launch scale`. Everything has a turn in each round, so that drift of a shared machine meets all of it.
TASK is a JSON object, see `Task`. Rank 0 writes one line, MARK and a JSON object.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from ddp.comm import environment

environment.prepare()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from mpi4py import MPI  # noqa: E402

from ddp.comm.network import links_between_hosts  # noqa: E402
from ddp.comm.reducers import BucketedReducer, NodeSharedReducer, Reducer, build_reducer  # noqa: E402
from ddp.comm.reducers.node_shared import shared_memory_shortage  # noqa: E402
from ddp.comm.world import PIECE, World  # noqa: E402
from ddp.config import CommConfig  # noqa: E402
from ddp.kernels.jit import exclusive_cache  # noqa: E402
from ddp.kernels.types import Float32, GradientSum, Int32, Int64  # noqa: E402
from ddp.kernels.update import LANES, add_up, make_blocks  # noqa: E402

MARK = "ddp.comm.collectives: "
KIB, MIB = 1 << 10, 1 << 20
SUMS = (4, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB)
"""Bytes of the sums by `Allreduce`, of more than 4 MiB in pieces."""
BUCKETS = (4 * KIB, 64 * KIB, 256 * KIB, MIB)
"""Bytes of the sums by `Iallreduce`."""
MESSAGES = (4, KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
ADDITIONS = (64 * KIB, MIB, 4 * MIB)
MOST_STEPS = 1000
"""In one turn."""
FEWEST_ROUNDS = 3
MOST_OF_LIMIT = 0.02
"""What takes a larger part of the time limit in one step is left out."""
NEVER_LEFT_OUT = ("flat", "bucketed")

Action = Callable[[], object]
Key = tuple[str, int]
"""What is done, and bytes."""


@dataclass(frozen=True)
class Task:
    """What is to be measured."""

    tensors: Sequence[int]
    """Bytes of each parameter tensor of the network, in the order of the flat buffer."""
    report_bytes: int = 256
    """Of what the shards report, summed first in every step."""
    bucket_mb: float = 1.0
    """As `comm.bucket_mb`."""
    repeats: int = 7
    """Rounds, fewer if there is no time."""
    seconds: float = 0.02
    """Of a turn, about."""
    limit_s: float = 60.0
    """After this time no round begins, once there are FEWEST_ROUNDS."""


class FlatBuffers:
    """What a reducer needs of a network (`ddp.comm.reducers.Buffers`)."""

    def __init__(self, parameters: Float32, gradient_sums: GradientSum, slices: dict[str, slice]) -> None:
        """Take (N,) arrays, and where each tensor lies in them."""
        self.parameters, self.gradient_sums, self.parameter_slices = parameters, gradient_sums, slices

    @property
    def num_parameters(self) -> int:
        """Length of the flat buffers."""
        return int(self.parameters.size)

    def use_memory(self, parameters: Float32, gradient_sums: GradientSum) -> None:
        """Move: `node_shared` has memory of its own."""
        parameters.fill(0)
        gradient_sums.fill(0)
        self.parameters, self.gradient_sums = parameters, gradient_sums


class ComputingNothing:
    """A reducer, driven as the trainer drives it, but for forward, backward and update."""

    def __init__(self, config: CommConfig, world: World, model: FlatBuffers, reports: Int32) -> None:
        """Build it; collective. `reports` (n,) is summed first."""
        self.world, self.model, self.reports = world, model, reports
        self.blocks = make_blocks(model.parameter_slices.values())
        self.reducer: Reducer = build_reducer(config, world, model, self.blocks)
        self.squares = np.zeros(len(self.reducer.part.blocks))

    def sum(self) -> None:
        """From the beginning of the backward pass to where this rank has the sums that it needs for its update."""
        self.reducer.begin()
        for where in reversed(self.model.parameter_slices.values()):
            self.reducer.ready(where)
        if self.reducer.communicates:
            self.world.all_reduce(self.reports, "sum of reports")
        self.reducer.finish()

    def sum_and_publish(self) -> None:
        """And to where all ranks have all parameters; what `node_shared` leaves to the update to add is added."""
        self.sum()
        rows, own, start = self.reducer.addends
        if len(rows) > 1:
            _add_rows(rows, own, start, self.reducer.part.blocks, len(self.model.parameter_slices))
        self.reducer.publish(self.squares)

    def warm_up(self) -> None:
        """Compile; no rank waits for another."""
        self.reducer.warm_up()
        rows, own, start = self.reducer.addends
        if isinstance(self.reducer, NodeSharedReducer):
            _add_rows(rows[:, :0], own, start, self.blocks[:0], len(self.model.parameter_slices))

    def close(self) -> None:
        """Give back memory and communicators; collective."""
        self.reducer.close()


def _add_rows(rows: GradientSum, own: int, start: int, blocks: Int64, tensors: int) -> None:
    lanes, squares = np.empty((len(blocks), LANES)), np.empty(len(blocks))
    add_up(rows, own, start, blocks, np.ones(tensors, np.float32), lanes, squares)


class Message:
    """A message to the next rank, while one comes in from the one before."""

    def __init__(self, world: World) -> None:
        """Find the neighbours."""
        self.comm = world.comm
        self.next, self.previous = (world.rank + 1) % world.size, (world.rank - 1) % world.size

    def exchange(self, out: npt.NDArray[Any], spare: npt.NDArray[Any]) -> None:
        """Send one array, receive the other."""
        self.comm.Sendrecv(out, self.next, recvbuf=spare, source=self.previous)


def turn(world: World, action: Action, steps: int) -> float:
    """Seconds of a step, of the slowest rank: the same number on all."""
    world.comm.Barrier()
    start = time.perf_counter()
    for _ in range(steps):
        action()
    return float(world.comm.allreduce((time.perf_counter() - start) / steps, op=MPI.MAX))


def take_turns(world: World, actions: Mapping[Key, Action], task: Task) -> dict[Key, list[float]]:
    """Seconds of a step of each action in each round, without those that take too long; collective."""
    steps: dict[Key, int] = {}
    spent = 0.0
    for key, action in actions.items():
        is_kept = key[0] in NEVER_LEFT_OUT
        first = turn(world, action, 1)
        once = turn(world, action, 1) if is_kept or first < MOST_OF_LIMIT * task.limit_s else first
        spent += first + once
        if is_kept or once < MOST_OF_LIMIT * task.limit_s:
            steps[key] = max(1, min(MOST_STEPS, round(task.seconds / max(once, 1e-9))))
    seconds: dict[Key, list[float]] = {key: [] for key in steps}
    for number in range(task.repeats):
        # All ranks know the same times, so that they agree without a word.
        if number >= FEWEST_ROUNDS and spent > task.limit_s:
            break
        for key, times in seconds.items():
            times.append(turn(world, actions[key], steps[key]))
            spent += times[-1] * steps[key]
    return seconds


class Course:
    """All that has a turn, in memory that it shares, so that nothing is cached better than another."""

    def __init__(self, world: World, task: Task) -> None:
        """Make it; collective."""
        self.world, self.task = world, task
        count = sum(task.tensors) // 4
        self.sums, self.spare = np.zeros((2, max(count, max(SUMS) // 4)), np.int32)
        self.parameters = np.zeros(count, np.float32)
        self.reports = np.zeros(task.report_bytes // 4, np.int32)
        ends = np.cumsum([0, *task.tensors]) // 4
        self.slices = {str(k): slice(int(a), int(b)) for k, (a, b) in enumerate(itertools.pairwise(ends))}
        shares = world.size > world.num_nodes and shared_memory_shortage(world, count) is None
        names = ["flat", "bucketed", "naive", "sharded", *(["node_shared"] if shares else [])]
        self.rungs = {name: self._rung(name) for name in names}

    def _rung(self, name: str) -> ComputingNothing:
        config = CommConfig(reducer=name, bucket_mb=self.task.bucket_mb)  # type: ignore[arg-type]
        model = FlatBuffers(self.parameters, cast("GradientSum", self.sums[: self.parameters.size]), self.slices)
        return ComputingNothing(config, self.world, model, self.reports)

    @property
    def buckets(self) -> list[int]:
        """Bytes of each bucket, in the order in which they are sent."""
        reducer = self.rungs["bucketed"].reducer
        assert isinstance(reducer, BucketedReducer)
        return [4 * (part.stop - part.start) for part in reducer.buckets]

    def compile(self) -> None:
        """Compile what the rungs need, one rank of a node before the others; collective."""

        def warm_up() -> None:
            for rung in self.rungs.values():
                rung.warm_up()

        def lead() -> None:
            with exclusive_cache():
                warm_up()

        self.world.first_on_node(lead, warm_up)

    def actions(self) -> dict[Key, Action]:
        """What is done, by name and bytes."""
        world, comm, message = self.world, self.world.comm, Message(self.world)

        def bytes_of(array: npt.NDArray[Any], num_bytes: int) -> npt.NDArray[Any]:
            return array[: num_bytes // 4]

        def exchange(size: int) -> Action:
            out, spare = bytes_of(self.sums, size), bytes_of(self.spare, size)
            return lambda: message.exchange(out, spare)

        def add(size: int) -> Action:
            out, spare = bytes_of(self.sums, size), bytes_of(self.spare, size)
            return lambda: np.add(out, spare, out=spare)

        def all_reduce(size: int) -> Action:
            out = bytes_of(self.sums, size)
            return lambda: world.all_reduce(out)

        def start_and_wait(size: int) -> Action:
            out = bytes_of(self.sums, size)
            return lambda: comm.Iallreduce(MPI.IN_PLACE, out, op=MPI.SUM).Wait()

        return {
            ("barrier", 0): comm.Barrier,
            **{("addition", size): add(size) for size in ADDITIONS},
            **{("message", size): exchange(size) for size in MESSAGES},
            **{("allreduce", size): all_reduce(size) for size in sorted({*SUMS, self.reports.nbytes})},
            **{("iallreduce", size): start_and_wait(size) for size in BUCKETS},
            **{(name, sum(self.task.tensors)): rung.sum_and_publish for name, rung in self.rungs.items()},
        }

    def close(self) -> None:
        """Give back what belongs to MPI; collective."""
        for rung in self.rungs.values():
            rung.close()


def measure(world: World, task: Task) -> dict[str, Any]:
    """What the study keeps of a number of ranks; collective."""
    course = Course(world, task)
    course.compile()
    links = links_between_hosts(world) if world.size > 1 else []
    seconds = take_turns(world, course.actions(), task)
    facts = {
        "ranks": world.size,
        "nodes": world.num_nodes,
        "hosts": world.all_gather(world.host, "hosts"),
        "mpi_library": world.mpi_library(),
        "piece_bytes": 4 * PIECE,
        "report_bytes": course.reports.nbytes,
        "tensors": list(task.tensors),
        "buckets": course.buckets,
        "links": links,
        "samples": [{"what": what, "bytes": size, "seconds": times} for (what, size), times in seconds.items()],
    }
    course.close()
    return facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and tell."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    given = json.loads(text)
    task = Task(**{field.name: given[field.name] for field in fields(Task) if field.name in given})
    signal.alarm(int(given["alarm_s"]))  # a rank that hangs ends, and with it the job
    world = World()
    facts = measure(world, task)
    if world.is_root:
        sys.stdout.write(f"\n{MARK}{json.dumps(facts)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
