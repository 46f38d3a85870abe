"""Run directories and measurements as a study makes them, without running anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.scaling.records import PHASES, Measurement, Point

CONFIG: dict[str, Any] = {
    "model": {"name": "mlp"},
    "data": {"name": "digits"},
    "batch": {"size": 64, "shards": 8},
    "comm": {"exact": True, "reducer": "auto", "bucket_mb": 1.0, "compression": "none", "sync_every": 1},
}


def start_record(ranks: int = 1, hosts: Sequence[str] = (), affinity: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
    return {
        "event": "start",
        "time_s": 1.0,
        "versions": {"python": "3.11.7"},
        "hosts": list(hosts) or ["node1"] * ranks,
        "affinity": [list(cores) for cores in affinity] or [[0, 1]] * ranks,
        "parameters": 300,
        "data": "digits",
        "samples": {"train": 1437, "test": 360},
    }


def step_record(step: int, step_ms: float = 10.0, slowest: int = 0, covered: float = 1.0) -> dict[str, Any]:
    """A record whose phases take `covered` of the step."""
    phases = dict(zip(PHASES, (0.05, 0.3, 0.4, 0.1, 0.1, 0.05), strict=False))
    times = {f"{name}_ms": share * covered * step_ms for name, share in phases.items()}
    times["comm_exposed_ms"] = times.pop("comm_ms")
    samples_per_s = 64 / step_ms * 1e3
    common = {"event": "step", "step": step, "step_ms": step_ms, "samples_per_s": samples_per_s}
    return {**common, "slowest_rank": slowest, **times}


END = {"event": "end", "time_s": 9.0, "steps": 100, "wall_s": 3.0, "train_s": 1.0, "parameters_sha256": "ab" * 32}


def write_run(folder: Path, records: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def measurement(
    ranks: int = 1,
    threads: int = 1,
    *,
    batch: int = 64,
    shards: int = 8,
    repeat: int = 0,
    step_ms: float = 10.0,
    sha: str = "aa",
    exact: bool = True,
    hosts: Sequence[str] = (),
    affinity: Sequence[Sequence[int]] = (),
    **facts: Any,
) -> Measurement:
    hosts = tuple(hosts) or ("node1",) * ranks
    point = Point(ranks, threads, batch, shards)
    return Measurement(
        point=point,
        repeat=repeat,
        run=f"{point.name}-repeat-{repeat}",
        started_at="2026-01-31T12:00:00Z",
        wall_s=3.0,
        steps=90,
        records_ms=(step_ms,),
        step_ms=step_ms,
        phases_ms={name: step_ms / len(PHASES) for name in PHASES},
        uncovered=0.01,
        samples_per_s=batch / step_ms * 1e3,
        reducer="flat",
        exact=exact,
        parameters=300,
        parameters_sha256=sha,
        slowest={"0": 1.0},
        hosts=hosts,
        cores=2,
        provenance={"affinity": list(affinity) or [[0, 1]] * ranks, **facts},
    )
