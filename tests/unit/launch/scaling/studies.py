"""Studies that never ran: made from constants that are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from launch.scaling.collectives import Collectives, Sample
from launch.scaling.fitting import Constants, Medium, together
from launch.scaling.observations import sample_schedules
from launch.scaling.records import PHASES, Measurement, Point
from launch.scaling.step_model import Place, StepModel, Work

KIB, MIB = 1 << 10, 1 << 20
NETWORK = Medium(latency=50e-6, handshake=80e-6, per_byte=8e-9, both_ways=2e-9)
NODE = Medium(latency=2e-6, handshake=5e-6, per_byte=0.3e-9)
CONSTANTS = Constants(NODE, NETWORK, 1 << 16, 1 << 20, 0.2e-9, 10e-6, 20e-6, 0.5)
WORK = Work(
    fixed=1e-3,
    per_sample=0.1e-3,
    sharing=0.2,
    backward=0.6,
    data_fixed=0.05e-3,
    data_per_sample=1e-6,
    update=0.5e-3,
    other=0.1e-3,
    deviation=0.03,
    comm_alone=0.0,
    alone=0.25,
)
TENSORS = (1152, 128, 73728, 256, 4718592, 512, 5120, 40)
BUCKETS = (65536, MIB, MIB, MIB, MIB, 539688)
SIZES = {
    "barrier": [0],
    "addition": [64 * KIB, 4 * MIB],
    "message": [4, 16 * KIB, 64 * KIB, MIB, 4 * MIB],
    "allreduce": [4, 256, KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB],
    "iallreduce": [4 * KIB, 64 * KIB, 256 * KIB, MIB],
}
RUNGS = ("flat", "bucketed", "naive", "sharded")
Noise = Callable[[], float]
"""Factors of times."""


def quiet() -> float:
    return 1.0


def noisy(seed: int, deviation: float) -> Noise:
    generator = np.random.default_rng(seed)
    return lambda: float(np.exp(generator.normal(0, deviation)))


def job(ranks: int, nodes: int, library: str = "MPICH 5.0.2") -> Collectives:
    """What is to be sent; nothing is measured."""
    hosts = tuple(f"node{rank * nodes // ranks + 1}" for rank in range(ranks))
    return Collectives(ranks, nodes, 1, hosts, library, 4 * MIB, 256, TENSORS, BUCKETS, (), ())


def collectives(
    ranks: int,
    nodes: int,
    constants: Constants = CONSTANTS,
    noise: Noise = quiet,
    repeats: int = 5,
    library: str = "MPICH 5.0.2",
) -> Collectives:
    """As they would be measured on a machine of these constants."""
    one = job(ranks, nodes, library)
    sizes = SIZES | {rung: [sum(TENSORS)] for rung in RUNGS}
    if ranks > nodes:
        sizes["node_shared"] = [sum(TENSORS)]
    samples = [
        Sample(what, size, tuple(seconds(one, what, size, constants) * noise() for _ in range(repeats)))
        for what, each in sizes.items()
        for size in each
    ]
    return replace(one, samples=tuple(samples))


def seconds(one: Collectives, what: str, size: int, constants: Constants) -> float:
    """Of one action."""
    if what == "addition":
        return size * constants.per_added_byte
    schedules = sample_schedules(one, what, size)
    assert schedules is not None
    return together([constants.cost(each, what not in ("iallreduce", "bucketed")) for each in schedules])


def model(one: Collectives, constants: Constants = CONSTANTS, work: Work = WORK) -> StepModel:
    """What the fit should find."""
    return StepModel(work, constants, one, None, {})


def measurements(
    true: StepModel,
    points: Sequence[Point],
    nodes: Callable[[int], int],
    cores: int,
    noise: Noise = quiet,
    repeats: int = 5,
    reducer: str = "flat",
) -> list[Measurement]:
    """Runs at points, of which nodes have so many cores each."""
    return [
        _measurement(true, point, repeat, nodes(point.ranks), cores, noise, reducer)
        for repeat in range(repeats)
        for point in points
    ]


def _measurement(
    true: StepModel, point: Point, repeat: int, nodes: int, cores: int, noise: Noise, reducer: str
) -> Measurement:
    place = Place(point.ranks, nodes, point.ranks * point.threads / (cores * nodes))
    step = true.step(place, point.batch, reducer, point.shards / 8)
    work, samples = true.work, point.batch / point.ranks
    data = work.data_fixed + work.data_per_sample * samples
    phases = {
        "data": data,
        "forward": step.compute * (1 - work.backward),
        "backward": step.compute * work.backward,
        "update": work.update,
        "comm": step.comm,
        "wait": step.wait,
        "other": step.serial - data - work.update,
    }
    phases_ms = {name: phases[name] * 1e3 * noise() for name in PHASES}
    step_ms = sum(phases_ms.values())
    hosts = tuple(f"node{rank * nodes // point.ranks + 1}" for rank in range(point.ranks))
    return Measurement(
        point, repeat, f"{point.name}-{repeat}", "2026-01-31T12:00:00Z", 5.0, 100, (step_ms,), step_ms, phases_ms,
        0.01, point.batch / step_ms * 1e3, reducer, True, sum(TENSORS) // 4, "", {}, hosts, cores * nodes,
    )  # fmt: skip


def points(ranks: Sequence[int], batch: int, threads: int = 1) -> list[Point]:
    """Strong and weak, one rank once."""
    strong = [Point(number, threads, batch, 8) for number in ranks]
    weak = [Point(number, threads, batch * number, 8 * number) for number in ranks if number > 1]
    return [*strong, *weak]


def write_collectives(folder: Path, measured: Sequence[Collectives]) -> None:
    """As a study keeps them."""
    lines = []
    for one in measured:
        line = asdict(one)
        line["samples"] = [
            {"what": each.what, "bytes": each.num_bytes, "seconds": each.seconds} for each in one.samples
        ]
        lines.append(json.dumps(line) + "\n")
    (folder / "collectives.jsonl").write_text("".join(lines))
