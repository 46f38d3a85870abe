"""Studies that nobody has run: with numbers that are known, and everything in its place."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.scaling.records import PHASES, Measurement, Point, append
from launch.scaling.study import Settings, Study, write_study

PHASES_MS = {"data": 0.2, "forward": 6.0, "backward": 12.0, "update": 0.6, "comm": 0.0, "wait": 0.0, "other": 0.1}
"""Of a step on one rank."""
DIGEST = "ab" * 32

PhasesOf = Callable[[Point], Mapping[str, float]]


def usual_phases(point: Point) -> dict[str, float]:
    """Computing shrinks with a rank's part of the batch, messages cost a little more with each doubling."""
    part = point.batch / point.ranks / 64
    rounds = point.ranks.bit_length() - 1
    computing = {name: PHASES_MS[name] * part for name in ("forward", "backward")}
    return {**PHASES_MS, **computing, "comm": 0.8 * rounds, "wait": 0.1 * rounds}


def made_run(
    point: Point,
    repeat: int = 0,
    phases_ms: Mapping[str, float] | None = None,
    *,
    factor: float = 1.0,
    slowest: Mapping[str, float] | None = None,
    hosts: Sequence[str] = (),
    cores: int = 64,
    digest: str = DIGEST,
    flags: Sequence[str] = (),
) -> Measurement:
    """A run at a point; `factor` makes all of it longer, `cores` are those of each host, all free to all its ranks."""
    phases = {name: time * factor for name, time in (phases_ms or usual_phases(point)).items()}
    step_ms = sum(phases.values())
    hosts = tuple(hosts) or ("node1",) * point.ranks
    return Measurement(
        point=point,
        repeat=repeat,
        run=f"{point.name}-repeat-{repeat}",
        started_at="2026-01-31T12:00:00Z",
        wall_s=5.0,
        steps=100,
        records_ms=(step_ms,) * 20,
        step_ms=step_ms,
        phases_ms={name: phases[name] for name in PHASES},
        uncovered=phases["other"] / step_ms,
        samples_per_s=point.batch / step_ms * 1e3,
        reducer="flat",
        exact=True,
        parameters=1000,
        parameters_sha256=digest,
        slowest=dict(slowest or {str(rank): 1 / point.ranks for rank in range(point.ranks)}),
        hosts=hosts,
        cores=min(cores * len(set(hosts)), point.ranks * cores),
        flags=tuple(flags),
        provenance={
            "affinity": [list(range(cores))] * point.ranks,
            "cpu": "a processor",
            "mpi_library": "an MPI",
            "versions": {"python": "3.11", "numpy": "2.0"},
            "git_revision": "0123456789",
            "command": f"python -m launch run -n {point.ranks} -- --batch.size {point.batch}",
        },
    )


def made_study(
    ranks: Sequence[int] = (1, 2, 4),
    threads: Sequence[int] = (1,),
    mode: str = "both",
    repeats: int = 5,
    batch: int = 64,
    model: str = "mnist_cnn",
) -> Study:
    """The settings of a study."""
    settings = Settings(tuple(ranks), tuple(threads), mode, repeats, 100, 0, (), ())
    config: dict[str, Any] = {
        "model": {"name": model},
        "data": {"name": "mnist"},
        "batch": {"size": batch, "shards": 8},
        "comm": {"exact": True, "compression": "none", "sync_every": 1},
    }
    command = "python -m launch scale --ranks 1,2,4"
    return Study(settings, config, 100, 5, "2026-01-31T12:00:00Z", command)


def made_runs(study: Study, phases: PhasesOf = usual_phases, noise: float = 0.01, **options: Any) -> list[Measurement]:
    """All runs of a study, that differ by noise."""
    random_numbers = random.Random(0)
    return [
        made_run(
            run.point, run.repeat, phases(run.point), factor=random_numbers.uniform(1 - noise, 1 + noise), **options
        )
        for run in study.runs()
    ]


def write_folder(folder: Path, study: Study, runs: Sequence[Measurement]) -> Path:
    """A study's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_study(folder, study)
    append(folder / "points.jsonl", [run.line() for run in runs])
    return folder
