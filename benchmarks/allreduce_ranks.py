"""One rank of `benchmarks.allreduce`: every way to sum a buffer over the ranks, in turn, again and again.

Rank 0 writes a line of JSON to standard output: what the ranks are, then one for each size.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from ddp.comm import environment

environment.prepare()

import numpy as np  # noqa: E402
from mpi4py import MPI  # noqa: E402

from benchmarks.contestants.task import MOMENTUM  # noqa: E402
from ddp.comm.collectives import FlatBuffers, turn  # noqa: E402
from ddp.comm.reducers import NodeSharedReducer, build_reducer  # noqa: E402
from ddp.comm.reducers.bucketed import BucketedReducer  # noqa: E402
from ddp.comm.reducers.node_shared import shared_memory_shortage  # noqa: E402
from ddp.comm.reports import ShardReports  # noqa: E402
from ddp.comm.world import PIECE, World  # noqa: E402
from ddp.config import BatchConfig, CommConfig  # noqa: E402
from ddp.kernels.jit import exclusive_cache  # noqa: E402
from ddp.kernels.types import GradientSum  # noqa: E402
from ddp.kernels.update import make_blocks  # noqa: E402
from ddp.observe import provenance  # noqa: E402
from ddp.optim import SGD  # noqa: E402
from ddp.partition import block_partition  # noqa: E402

KINDS = {"float32": np.float32, "int32": np.int32}
RUNGS = ("naive", "flat", "bucketed", "node_shared", "sharded", "dummy")
COMPRESSED = "flat, bf16"
"""A reducer, and how its gradients are compressed: of float32 sums."""
TENSORS = 8
"""Parameter tensors of a buffer, equally long: `naive` sums each by itself, `bucketed` hears of one after the other."""
MOST_STEPS = 1000
"""In one turn of a contestant."""


class Contestant(Protocol):
    """A way to sum."""

    def reduce(self) -> None:
        """Sum the buffer over the ranks."""

    def reduce_and_update(self) -> None:
        """And let every rank have updated parameters."""

    def close(self) -> None:
        """Give back what belongs to MPI."""


class Buffers:
    """Memory that all contestants of a size share, so that none is cached better than another."""

    def __init__(self, count: int) -> None:
        """Make it, for so many parameters; touched, so that pages are there."""
        self.parameters, self.velocity, self.gradient, self.spare = np.full((4, count), 0, np.float32)
        edges = [block_partition(count, TENSORS, index) for index in range(TENSORS)]
        self.slices = {str(k): slice(part.start, part.stop) for k, part in enumerate(edges) if len(part)}


def network(buffers: Buffers, kind: str) -> FlatBuffers:
    """What a reducer needs of a model, with sums of one kind, in the shared memory."""
    return FlatBuffers(buffers.parameters, cast("GradientSum", buffers.gradient.view(KINDS[kind])), buffers.slices)


class Rung:
    """A reducer, driven as the trainer drives it, with nothing computed in between."""

    def __init__(self, name: str, kind: str, world: World, buffers: Buffers) -> None:
        """Build it; collective."""
        self.world, self.network = world, network(buffers, kind)
        self.reports = ShardReports(BatchConfig().shards, len(buffers.slices), 0).integers
        blocks = make_blocks(buffers.slices.values())
        reducer, _, compression = name.partition(", ")
        config = CommConfig(reducer=reducer, compression=compression or "none")  # type: ignore[arg-type]
        self.reducer = build_reducer(config, world, self.network, blocks)
        parameters, addends, blocks, (velocity,) = self.reducer.mine()
        if not isinstance(self.reducer, NodeSharedReducer):
            velocity = buffers.velocity[self.reducer.part.where]
        self.optimizer = SGD(parameters, addends, MOMENTUM, blocks=blocks, velocity=velocity)
        self.scales = np.ones(len(buffers.slices), np.float32)
        self.squares = np.zeros(len(self.reducer.part.blocks))

    def warm_up(self) -> None:
        """Compile."""
        self.reducer.warm_up()
        self.optimizer.warm_up()

    def _sum(self) -> None:
        self.reducer.begin()
        for where in reversed(self.network.parameter_slices.values()):
            self.reducer.ready(where)
        if self.reducer.communicates:
            self.world.all_reduce(self.reports, "sum of reports")
        self.reducer.finish()

    def reduce(self) -> None:
        """Sum, and give all ranks all parameters, as after an update; what the update would add is added alone."""
        self._sum()
        if len(self.optimizer.addends.rows) > 1:
            self.optimizer.add_up(self.scales)
        self.reducer.publish(self.squares)

    def reduce_and_update(self) -> None:
        """A step of SGD without its computing."""
        self._sum()
        self.optimizer.step(1.0, self.scales)
        self.reducer.publish(self.optimizer.squares)

    def close(self) -> None:
        """Give back memory and communicators."""
        self.reducer.close()


class Allreduce:
    """The bare call, in place."""

    def __init__(self, kind: str, world: World, buffers: Buffers) -> None:
        """Take the buffers."""
        self.comm, self.network = world.comm, network(buffers, kind)
        blocks = make_blocks(buffers.slices.values())
        self.scales = np.ones(len(buffers.slices), np.float32)
        self.optimizer = SGD(
            self.network.parameters, self.network.gradient_sums, MOMENTUM, blocks=blocks, velocity=buffers.velocity
        )

    def reduce(self) -> None:
        """Sum."""
        self.comm.Allreduce(MPI.IN_PLACE, self.network.gradient_sums, op=MPI.SUM)

    def reduce_and_update(self) -> None:
        """Every rank updates all parameters."""
        self.reduce()
        self.optimizer.step(1.0, self.scales)

    def close(self) -> None:
        """Nothing."""


class ScatterGather:
    """Reduce_scatter, then Allgather of the parameters: the two halves of an Allreduce."""

    def __init__(self, kind: str, world: World, buffers: Buffers) -> None:
        """Cut the buffers into equal parts."""
        self.comm, self.network, count = world.comm, network(buffers, kind), buffers.parameters.size
        parts = [block_partition(count, world.size, rank) for rank in range(world.size)]
        self.lengths = [len(part) for part in parts]
        mine = slice(parts[world.rank].start, parts[world.rank].stop)
        self.sums = cast("GradientSum", np.zeros(len(parts[world.rank]), KINDS[kind]))
        self.optimizer = SGD(self.network.parameters[mine], self.sums, MOMENTUM, velocity=buffers.velocity[mine])

    def reduce(self, update: Callable[[], object] = lambda: None) -> None:
        """Sum, and gather."""
        self.comm.Reduce_scatter(self.network.gradient_sums, self.sums, self.lengths, op=MPI.SUM)
        update()
        self.comm.Allgatherv(MPI.IN_PLACE, [self.network.parameters, self.lengths])

    def reduce_and_update(self) -> None:
        """Every rank updates its part."""
        self.reduce(lambda: self.optimizer.step(1.0, 1.0))

    def close(self) -> None:
        """Nothing."""


class Message:
    """A message to the next rank, while one comes in from the one before: alpha and beta of the cost model."""

    def __init__(self, world: World, buffers: Buffers) -> None:
        """Take the buffers."""
        self.comm, self.buffers = world.comm, buffers
        self.next, self.previous = (world.rank + 1) % world.size, (world.rank - 1) % world.size

    def reduce(self) -> None:
        """Send and receive."""
        self.comm.Sendrecv(self.buffers.gradient, self.next, recvbuf=self.buffers.spare, source=self.previous)

    reduce_and_update = reduce

    def close(self) -> None:
        """Nothing."""


class Addition:
    """Adding one buffer to another: gamma of the cost model."""

    def __init__(self, buffers: Buffers) -> None:
        """Take the buffers."""
        self.buffers = buffers

    def reduce(self) -> None:
        """Add."""
        np.add(self.buffers.gradient, self.buffers.spare, out=self.buffers.spare)

    reduce_and_update = reduce

    def close(self) -> None:
        """Nothing."""


@contextmanager
def contestants(world: World, count: int) -> Iterator[dict[tuple[str, str], Contestant]]:
    """All of them, by name and kind of sums, for so many parameters; collective.

    Without `node_shared` where the nodes have too little shared memory.
    """
    buffers = Buffers(count)
    shortage = shared_memory_shortage(world, len(KINDS) * count)
    rungs = [name for name in RUNGS if shortage is None or name != "node_shared"]
    everyone: dict[tuple[str, str], Contestant] = {}
    if world.size > 1:
        everyone["message", ""] = Message(world, buffers)
    everyone["addition", ""] = Addition(buffers)
    for kind in KINDS:
        everyone["Allreduce", kind] = Allreduce(kind, world, buffers)
        everyone["Reduce_scatter, Allgather", kind] = ScatterGather(kind, world, buffers)
        everyone |= {(name, kind): Rung(name, kind, world, buffers) for name in rungs}
    everyone[COMPRESSED, "float32"] = Rung(COMPRESSED, "float32", world, buffers)
    try:
        yield everyone
    finally:
        for contestant in everyone.values():
            contestant.close()


def check(world: World, rung: Rung, name: str) -> None:
    """One step of SGD on gradients of which the sum is known: nobody is fast by doing something else."""
    rung.network.gradient_sums.fill(world.rank + 1)
    world.comm.Barrier()
    rung.reduce_and_update()
    expected = world.rank + 1 if name == "dummy" else world.size * (world.size + 1) // 2
    assert (rung.network.parameters == -expected).all(), f"{name} does not sum"
    world.comm.Barrier()
    for array in (rung.network.gradient_sums, rung.network.parameters, *rung.optimizer.state.values()):
        array.fill(0)
    world.comm.Barrier()


def fresh_bytes(world: World, action: Callable[[], object]) -> int:
    """Bytes of memory that this rank touches for the first time in a step, although all was done before."""

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    steps = 3
    turn(world, action, 1)
    before = faults()
    turn(world, action, steps)
    return (faults() - before) // steps * resource.getpagesize()


def measure(world: World, num_bytes: int, repeats: int, seconds: float) -> dict[str, Any]:
    """All contestants at one size: `repeats` rounds, in each of which everyone has a turn of about `seconds`."""
    with contestants(world, num_bytes // 4) as everyone:
        for (name, _), contestant in everyone.items():
            if isinstance(contestant, Rung):
                check(world, contestant, name)
        actions = {
            (*key, column): getattr(contestant, column)
            for key, contestant in everyone.items()
            for column in ("reduce", "reduce_and_update")
        }
        steps = {}
        for key, action in actions.items():
            turn(world, action, 1)
            once = max(turn(world, action, 2), 1e-9)
            steps[key] = max(1, min(MOST_STEPS, round(seconds / once)))
        rounds = [{key: turn(world, action, steps[key]) for key, action in actions.items()} for _ in range(repeats)]
        fresh = fresh_bytes(world, actions["Allreduce", "float32", "reduce"])
        reducers = [each.reducer for each in everyone.values() if isinstance(each, Rung)]
        bucketed = next(reducer for reducer in reducers if isinstance(reducer, BucketedReducer))
        buckets = [4 * (part.stop - part.start) for part in bucketed.buckets]
        tensors = [4 * (part.stop - part.start) for part in bucketed.model.parameter_slices.values()]
    results = [
        {"name": name, "sums": kind, "column": column, "seconds": [times[name, kind, column] for times in rounds]}
        for name, kind, column in actions
    ]
    about = {"bytes": num_bytes, "buckets": buckets, "tensors": tensors, "fresh_bytes": fresh}
    return {**about, "contestants": results}


def compile_kernels(world: World) -> None:
    """Compile, one rank of a node before the others."""
    with contestants(world, TENSORS) as everyone:
        rungs = [contestant for contestant in everyone.values() if isinstance(contestant, Rung)]

        def warm_up() -> None:
            for rung in rungs:
                rung.warm_up()

        def lead() -> None:
            with exclusive_cache():
                warm_up()

        world.first_on_node(lead, warm_up)


def facts(world: World) -> dict[str, Any]:
    """What the report needs to know of the ranks; collective."""
    return {
        "ranks": world.size,
        "nodes": world.num_nodes,
        "piece_bytes": 4 * PIECE,
        "report_bytes": ShardReports(BatchConfig().shards, TENSORS, 0).integers.nbytes,
        "hosts": sorted(set(world.all_gather(world.host, "hosts"))),
        "cpu": provenance.cpu_model(),
        "mpi_library": world.mpi_library(),
    }


def main() -> None:
    """Measure all sizes."""
    task = json.loads(sys.argv[1])
    signal.alarm(task["limit_s"])  # a rank that hangs ends, and with it the job
    world = World()
    compile_kernels(world)
    known = facts(world)
    if world.is_root:
        print(json.dumps(known), flush=True)
    for num_bytes in task["sizes"]:
        result = measure(world, num_bytes, task["repeats"], task["seconds"])
        if world.is_root:
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
