"""What a scaling study runs: its settings, its points, and in which order (`study.json`)."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launch.errors import UsageError
from launch.scaling.records import Measurement, Point
from launch.verify import shards_for

FILE = "study.json"
STRONG, WEAK, ACCURACY = "strong", "weak", "accuracy"
MODES = {"strong": (STRONG,), "weak": (WEAK,), "both": (STRONG, WEAK)}

RUN_S = 4.0
"""How long the steps of a run at the baseline take, where the user does not say how many they are."""
STEPS = range(40, 20_001)
STEPS_TO_TRY = 144
"""With fewer, `comm.reducer = auto` does not try its four candidates, but runs the first: another program than a
training, which has more steps, may run."""
RECORDS, LEAST_STEPS = 20, 5
"""A run has about so many `step` records, each of so many steps at the least."""


@dataclass(frozen=True)
class Settings:
    """What the user asks for; a study that is continued must have the same."""

    ranks: tuple[int, ...]
    threads: tuple[int, ...]
    mode: str
    repeats: int
    steps: int
    """Of each run; 0: as many as take RUN_S seconds at the baseline."""
    seed: int
    """Of the order of the runs."""
    placement: tuple[str, ...]
    """Options of `launch run`: hosts, MPI, binding, variables."""
    trainer: tuple[str, ...]
    """Arguments of ddp.train."""

    def words(self) -> dict[str, str]:
        """As on the command line, by option."""
        return {
            "--ranks": ",".join(map(str, self.ranks)),
            "--threads": ",".join(map(str, self.threads)),
            "--mode": self.mode,
            "--repeats": str(self.repeats),
            "--steps": str(self.steps or "chosen by a trial"),
            "--seed": str(self.seed),
            "hosts, MPI, binding and variables": " ".join(self.placement) or "the default",
            "arguments after the --": " ".join(self.trainer) or "none",
        }


@dataclass(frozen=True)
class Curve:
    """The points of one mode with the same threads, by ranks: the first is the baseline of all."""

    mode: str
    """STRONG or WEAK."""
    threads: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Run:
    """A visit of a point."""

    point: Point
    repeat: int

    @property
    def name(self) -> str:
        """Of its run directory."""
        return f"{self.point.name}-repeat-{self.repeat}"


@dataclass(frozen=True)
class Study:
    """A study, as its folder holds it."""

    settings: Settings
    config: dict[str, Any]
    """Of the trainer, by section, as it resolves the arguments itself."""
    steps: int = 0
    """Of each run, warm-up included; 0: not known yet."""
    log_every: int = 0
    """Steps of a `step` record."""
    started_at: str = ""
    """UTC."""
    command: str = ""
    """What began it, as typed in a shell."""
    networks: str = ""
    """A file with networks to predict for."""
    timeout_s: float = 0.0
    """After which a run counts as hung; 0: as it is expected to take."""

    @property
    def title(self) -> str:
        """Model and data."""
        return f"{self.config['model']['name']} on {self.config['data']['name']}"

    @property
    def batch(self) -> int:
        """The configured `batch.size`: of strong scaling at any ranks, of weak scaling at one."""
        return int(self.config["batch"]["size"])

    @property
    def shards(self) -> int:
        """Logical shards of that batch: so many that the most ranks have work, unless the user decides."""
        return shards_for(max(self.settings.ranks), self.config, self.settings.trainer)

    @property
    def exact(self) -> bool:
        """Whether sums over ranks are exact, so that points of strong scaling must train the same bits."""
        comm = self.config["comm"]
        return bool(comm["exact"] and comm["compression"] == "none" and comm["sync_every"] == 1)

    @property
    def baseline_ranks(self) -> int:
        """Ranks of the baseline: one, or the fewest of the study."""
        return min(self.settings.ranks)

    @property
    def baseline(self) -> str:
        """The rule of the baseline, in words."""
        fewest = self.baseline_ranks
        ranks = "1 rank" if fewest == 1 else f"{fewest} ranks (the study has no run on 1)"
        return f"the median run on {ranks} with the same threads per rank"

    def point(self, mode: str, ranks: int, threads: int) -> Point:
        """Strong: the same batch at all ranks; weak: the same batch, and as many shards, on each rank."""
        times = ranks if mode == WEAK else 1
        return Point(ranks, threads, self.batch * times, self.shards * times)

    def curves(self) -> list[Curve]:
        """What is shown: both modes see the same run on one rank."""
        settings = self.settings
        return [
            Curve(mode, threads, tuple(self.point(mode, ranks, threads) for ranks in sorted(settings.ranks)))
            for mode in MODES.get(settings.mode, ())
            for threads in sorted(settings.threads)
        ]

    def points(self) -> list[Point]:
        """Each once."""
        return sorted({point for curve in self.curves() for point in curve.points})

    def runs(self) -> list[Run]:
        """In their order: each round visits every point once, in an order of its own.

        So what drifts while the study lasts (the clock, the temperature, other users) meets all points alike.
        """
        runs = []
        for repeat in range(self.settings.repeats):
            points = self.points()
            random.Random(f"{self.settings.seed} {repeat}").shuffle(points)
            runs += [Run(point, repeat) for point in points]
        return runs

    def missing(self, measurements: Iterable[Measurement]) -> list[Run]:
        """The runs that are still to be made."""
        done = {(measurement.point, measurement.repeat) for measurement in measurements}
        return [run for run in self.runs() if (run.point, run.repeat) not in done]

    def check(self) -> None:
        """Refuse what cannot run.

        Raises:
            UsageError: for more ranks than samples in a step of strong scaling.
        """
        most = max(self.settings.ranks)
        if STRONG in MODES.get(self.settings.mode, ()) and most > self.batch:
            raise UsageError(
                f"--ranks {most}: strong scaling keeps batch.size = {self.batch}, less than a sample for each rank;"
                f" give at most {self.batch}, --batch.size {most} after the --, or --mode weak"
            )

    def with_steps(self, steps: int) -> Study:
        """With the steps of each run."""
        return replace(self, steps=steps, log_every=steps_per_record(steps))

    @property
    def least_steps(self) -> int:
        """Of a run that says something of training."""
        tries = self.config["comm"]["reducer"] == "auto" and max(self.settings.ranks) > 1
        return STEPS_TO_TRY if tries else STEPS.start


def steps_for(step_s: float, least: int = STEPS.start) -> int:
    """Steps that take RUN_S: a whole number of records, the first of which is the warm-up."""
    steps = min(max(round(RUN_S / step_s), least), STEPS.stop - 1)
    every = steps_per_record(steps)
    return max(-(-steps // every), 2) * every


def steps_per_record(steps: int) -> int:
    """So that there are RECORDS of LEAST_STEPS or more; of a short run four, of a very short one as many as steps."""
    return max(1, min(LEAST_STEPS, steps // 4), steps // RECORDS)


def write_study(folder: Path, study: Study) -> None:
    """Put it into its folder; it is there as a whole or not at all."""
    text = json.dumps({"format": 1, **asdict(study), "baseline": study.baseline}, indent=1) + "\n"
    new = folder / f".{FILE}"
    new.write_text(text, encoding="utf-8")
    os.replace(new, folder / FILE)


def read_study(folder: Path) -> Study:
    """Of a study's folder.

    Raises:
        UsageError: if there is none, or it cannot be read.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{folder} holds no study: {FILE}: {error.strerror}; give the --output of one") from None
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error}): mend it, or begin anew in another --output") from None
    try:
        if values.pop("format") != 1:
            raise KeyError("format")
        values.pop("baseline")
        given: dict[str, Any] = values.pop("settings")
        given |= {name: tuple(given[name]) for name in ("ranks", "threads", "placement", "trainer")}
        return Study(settings=Settings(**given), **values)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is of no study of this version ({error}): begin anew in another --output") from None


def difference(old: Study, new: Study) -> str:
    """What is not the same in two studies, in words; empty if nothing that a continued study must keep."""
    words = old.settings.words(), new.settings.words()
    for name, before in words[0].items():
        if name == "--repeats" and new.settings.repeats > old.settings.repeats:
            continue  # what is there stays as it is
        if before != words[1][name]:
            return f"it has {name} {before}, not {words[1][name]}"
    for name, before, after in _fields(old.config, new.config):
        if before != after:
            return f"it has {name} = {before}, not {after}"
    return ""


def _fields(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Sequence[tuple[str, Any, Any]]:
    """The values of two nested dictionaries side by side, by their names with dots."""
    found: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _fields(before, after, f"{prefix}{key}.")
        else:
            found.append((prefix + key, before, after))
    return found
