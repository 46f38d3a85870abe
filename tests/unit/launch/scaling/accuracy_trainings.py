"""A trainer that only writes what a test of `--mode accuracy` wants, and studies that it makes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.hosts import Host
from launch.placement import Available
from launch.scaling.accuracy import Training, Wanted, fitting
from launch.scaling.accuracy_runs import find_samples, run_accuracy
from launch.scaling.runs import Runner
from launch.scaling.session import Place, Session
from launch.scaling.study import Settings, Study
from launch.scaling.topology import Machines
from tests.unit.launch.scaling.run_records import start_record

CONFIG: dict[str, Any] = {
    "seed": 7,
    "model": {"name": "mlp"},
    "data": {"name": "digits"},
    "comm": {"exact": True, "reducer": "auto", "compression": "none", "sync_every": 1},
    "batch": {"size": 64, "shards": 8},
    "loss": {"reduction": "mean"},
    "optimizer": {"lr": 0.1},
    "schedule": {"name": "constant", "warmup_epochs": 0.0, "base_batch": 0, "batch_scaling": "linear"},
    "train": {"epochs": 18},
}
WANTED = Wanted(target=0.9, batches=(64, 256, 1024), configured=64, ranks=(1, 2), threads=1, repeats=3)
SAMPLES = 1024
# By batch, the epoch at which the target is reached with the first seed; one later with each other.
EPOCHS = {64: 4, 256: 5, 1024: 40}


class Trainer:
    """In place of `Children`: writes what a training would, and ends it when `until` says so."""

    def __init__(self, epochs: dict[int, int]) -> None:
        self.epochs, self.names = epochs, list[str]()
        self.codes: dict[str, int] = {}
        self.stopped = 75
        self.limits_s = set[float]()
        self.samples = SAMPLES
        self.affinity = [[0, 1]]
        self.noise_scales = {64: 1234.5, 256: 310.0}  # by batch
        self.noise: Callable[[int], float] = lambda ranks: 0.0

    def run(
        self, command: Sequence[str], output: Path, errors: Path | None = None, until: Callable[[], bool] | None = None
    ) -> int:
        values = dict(itertools.pairwise(command))
        folder = Path(values["--output.dir"]) / values["--output.name"]
        self.names.append(folder.name)
        self.limits_s.add(float(values["--timeout"]))
        output.write_text("error: lr = 9: use less\n" if self.codes.get(folder.name) == 2 else "the last line\n")
        ranks = int(values["-n"])
        with (folder / "metrics.jsonl").open("w") as log:

            def write(**record: Any) -> None:
                log.write(json.dumps(record) + "\n")
                log.flush()

            start = start_record(ranks, affinity=self.affinity * ranks) | {"samples": {"train": self.samples}}
            write(**start)
            if values.get("--train.evaluate_every") == "0":
                write(event="step", step=1, step_ms=9.0)
                write(event="end", steps=1)
                return 0
            if folder.name in self.codes:
                return self.codes[folder.name]
            batch, seed = int(values["--batch.size"]), int(values["--seed"])
            steps_per_epoch = -(-self.samples // batch)
            step = 0
            for epoch in range(1, int(values["--train.steps"]) // steps_per_epoch + 1):
                for _ in range(steps_per_epoch):
                    step += 1
                    if step % int(values["--output.log_every"]) == 0:
                        noise = {"noise_scale": self.noise_scales.get(batch)} if self.noise_scales else {}
                        step_ms = 99.0 if step <= 5 else 8.0 / ranks
                        write(event="step", step=step, lr=0.1 / step, step_ms=step_ms, **noise)
                reached = epoch >= self.epochs[batch] + seed - CONFIG["seed"]
                accuracy = 0.91 if reached else epoch / 1000
                write(event="eval", step=step, epoch=epoch, accuracy=accuracy, loss=1 / epoch + self.noise(ranks))
                if until is not None and until():
                    return self.stopped
        return 0


class Shown:
    """In place of a terminal."""

    def __init__(self) -> None:
        self.said, self.begun = list[str](), list[tuple[str, float]]()

    def begin(self, what: str, left_s: float) -> None:
        self.begun.append((what, left_s))

    def done(self, line: str, left_s: float) -> None:
        self.said.append(line)

    def say(self, line: str) -> None:
        self.said.append(line)


def made_session(folder: Path, trainer: Trainer, limit_s: float | None = None) -> Session:
    runner = Runner(folder, trainer, ["--mpi", "mpich"], limit_s)  # type: ignore[arg-type]
    place = Place((Available(Host("here"), (0, 1), "k"),), Machines({}))
    return Session(folder, study(trainer=("--config", "c.toml")), place, runner)


def run(
    folder: Path, trainer: Trainer, wanted: Wanted = WANTED, limit_s: float | None = None
) -> tuple[list[Training], list[str]]:
    show = Shown()
    session = made_session(folder, trainer, limit_s)
    samples, data = find_samples(session, wanted)
    return run_accuracy(session, fitting(wanted, samples, data, True), samples, show), show.said


def study(**changes: Any) -> Study:
    settings = Settings((2, 1), (1,), "accuracy", 5, 0, 0, (), ())
    return Study(replace(settings, **changes), CONFIG)
