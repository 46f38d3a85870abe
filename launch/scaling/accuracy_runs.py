"""Makes the trainings of `launch scale --mode accuracy`: each ends when the target is reached."""

from __future__ import annotations

import shlex
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.errors import UsageError
from launch.scaling import accuracy, noise
from launch.scaling.accuracy import Result, Training, Wanted
from launch.scaling.progress import Display, clock
from launch.scaling.records import append, read_lines
from launch.scaling.runs import RunFailed, tail
from launch.scaling.session import Session
from launch.scaling.study import Study
from launch.scaling.topology import busy_cores
from launch.supervise import EXIT_RESUMABLE
from launch.wording import count

NON_FINITE, MISTAKE = 3, 2
"""Exit codes of the trainer."""
STOPPED = (EXIT_RESUMABLE, 128 + signal.SIGTERM)
"""Those of a run that was asked to stop: before its last step, and when it was about to end by itself."""
LIMIT_S = 7 * 86400.0
"""Of a training, unless the user gives one: how long it takes to the target is what is to be found out. One that hangs
ends nevertheless, by the trainer's own watch over its ranks (comm.timeout_s)."""
Tell = Callable[[Sequence[float]], None]
"""Takes the accuracies of a training so far."""
RATES = 100
"""At most so many learning rates are kept of a training."""
OUTPUT, METRICS = "output.log", "metrics.jsonl"


def find_samples(session: Session, wanted: Wanted) -> tuple[int, str]:
    """Of the training set, how many and whose: from a run of one step, which also compiles the kernels.

    Raises:
        RunFailed: if that has not come to its end.
        UsageError: for a mistake of the user's, in the trainer's arguments too.
        Interrupted: after a signal.
    """
    for result in accuracy.read_results(session.folder):
        return int(result.provenance["samples"]["train"]), str(result.provenance["data"])
    start = _Jobs(session, wanted).first_step()
    return int(start["samples"]["train"]), str(start["data"])


def run_accuracy(session: Session, wanted: Wanted, samples: int, show: Display) -> list[Training]:
    """Make all trainings that are still missing; those that have failed are said, and returned.

    Args:
        session: the study.
        wanted: by the user.
        samples: of the training set.
        show: where progress is shown.

    Raises:
        UsageError: for a mistake of the user's, in the trainer's arguments too.
        Interrupted: after a signal.
    """
    accuracy.write_wanted(session.folder, wanted)
    jobs, trainings = _Jobs(session, wanted), Trainings(session, wanted)
    while (training := trainings.next()) is not None:
        try:
            result = jobs.train(training, -(-samples // training.batch), _teller(show, training, trainings.left_s()))
        except RunFailed as failure:
            show.say(f"error: {training.name} failed: {failure}; its last lines:\n{failure.tail}")
            trainings.failed.append(training)
        else:
            append(session.folder / accuracy.RESULTS, [result.line()])
            trainings.done[training.name] = result
            done, total = trainings.progress
            show.done(f"training {done} of {total}: {in_words(result, wanted.target)}", trainings.left_s())
    return trainings.failed


class Trainings:
    """Those of a study: which are done, which comes next, and how long all that are left may take."""

    def __init__(self, session: Session, wanted: Wanted) -> None:
        """Read what has been trained."""
        self.wanted, self.config = wanted, session.study.config
        self.done = {result.training.name: result for result in accuracy.read_results(session.folder)}
        self.failed: list[Training] = []

    @property
    def progress(self) -> tuple[int, int]:
        """How many are done, of how many."""
        planned = self._planned()
        return sum(training.name in self.done for training in planned), len(planned)

    def next(self) -> Training | None:
        """The first that is still to be made; None if there is none."""
        return next(iter(self._todo()), None)

    def left_s(self) -> float:
        """Of all that are still to be made, if they take as long as those like them have; 0 if nothing is known."""
        return sum(map(self._expected_s, self._todo()))

    def _planned(self) -> list[Training]:
        return accuracy.planned(self.wanted, self.config, self.done)

    def _todo(self) -> list[Training]:
        """In their order, so that one which confirms another comes after that; without those that cannot be made."""
        lost = {(training.batch, training.seed) for training in self.failed if training.ranks == max(self.wanted.ranks)}
        return [
            training
            for training in self._planned()
            if training.name not in self.done
            and training not in self.failed
            and (training.batch, training.seed) not in lost
        ]

    def _expected_s(self, training: Training) -> float:
        known = [result for result in self.done.values() if result.wall_s > 0]
        batch = [result for result in known if result.training.batch == training.batch]
        place = [result for result in batch if result.training.ranks == training.ranks]
        return statistics.median(result.wall_s for result in like) if (like := place or batch or known) else 0.0


def _teller(show: Display, training: Training, left_s: float) -> Tell:
    """Shows how far a training is."""
    began = time.monotonic()
    show.begin(training.words, left_s)

    def tell(accuracies: Sequence[float]) -> None:
        so_far_s = time.monotonic() - began
        epochs = f"epoch {len(accuracies)} of at most {training.epochs}, {accuracies[-1]:.1%}, " if accuracies else ""
        show.begin(f"{training.words}: {epochs}{clock(so_far_s)} so far", max(0.0, left_s - so_far_s))

    return tell


def what_is_missing(folder: Path, study: Study) -> str:
    """Which trainings, in a line; empty if all are there."""
    wanted = accuracy.read_wanted(folder)
    if wanted is None:
        return f"nothing is trained in {folder} yet; this begins it: {study.command}"
    done = {result.training.name: result for result in accuracy.read_results(folder)}
    planned = accuracy.planned(wanted, study.config, done)
    missing = [training.name for training in planned if training.name not in done]
    names = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
    return f"{count(len(missing), 'training')} of {len(planned)} are missing: {names}" if missing else ""


def in_words(result: Result, target: float) -> str:
    """What came of a training."""
    training, epochs = result.training, result.epochs_to(target)
    where = training.words
    if not result.is_finite:
        return f"{where}: a loss or a gradient was not finite"
    if epochs is None:
        best = max(result.accuracies, default=0.0)
        return f"{where}: not {target:.1%} in {count(len(result.accuracies), 'epoch')}, at best {best:.2%}"
    return f"{where}: {target:.1%} after {count(epochs, 'epoch')} of {result.epoch_s:.3g} s"


class _Jobs:
    """Runs of the trainer."""

    def __init__(self, session: Session, wanted: Wanted) -> None:
        self.study, self.place, self.runner, self.wanted = session.study, session.place, session.runner, wanted
        self.runner.limit_s = self.runner.limit_s or LIMIT_S

    def first_step(self) -> dict[str, Any]:
        """The `start` record of a run of one step, with the configured batch, or a sample a rank if that is more."""
        ranks = max(self.wanted.ranks)
        batch = max(ranks, self.wanted.configured)
        arguments = ["--train.steps", "1", "--train.evaluate_every", "0", "--checkpoint.every_epochs", "0"]
        arguments += ["--batch.size", str(batch)]
        arguments += ["--batch.shards", str(accuracy.shards(batch, ranks, self.study.config))]
        path = self.runner.folder / "accuracy-first-step"
        self._run(path, ranks, arguments)
        return _start(read_lines(path / METRICS))

    def train(self, training: Training, steps_per_epoch: int, tell: Tell) -> Result:
        """Train until the target is reached, or the last epoch; `tell` is told of it every now and then.

        Raises:
            RunFailed: if it came to neither.
            UsageError: if the trainer says that its user has made a mistake.
        """
        path = self.runner.folder / training.name
        plan, machines = self.place.plan(training.ranks, training.threads), self.place.machines
        facts: dict[str, Any] = {"machines": machines.of_ranks(plan), "siblings": machines.siblings}
        facts["others_busy_cores"] = round(busy_cores(), 3)
        started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        began = time.monotonic()

        def has_reached() -> bool:
            accuracies = _accuracies(path)
            tell(accuracies)
            return any(each >= self.wanted.target for each in accuracies)

        arguments = training.arguments(steps_per_epoch)
        code, facts["command"] = self._run(path, training.ranks, arguments, until=has_reached)
        wall_s = time.monotonic() - began
        result = _read(path, training, started_at, steps_per_epoch, code != NON_FINITE, facts)
        if code in STOPPED and result.epochs_to(self.wanted.target) is None:
            raise RunFailed("it was interrupted", tail((path / OUTPUT).read_text(errors="replace")))
        return replace(result, wall_s=wall_s)

    def _run(
        self, path: Path, ranks: int, arguments: Sequence[str], until: Callable[[], bool] | None = None
    ) -> tuple[int, str]:
        """Its exit code and command."""
        shutil.rmtree(path, ignore_errors=True)  # of a study that was ended
        path.mkdir(parents=True)
        place = ["--output.dir", str(path.parent), "--output.name", path.name]
        command = self.runner.command(ranks, self.wanted.threads, [*self.study.settings.trainer, *arguments, *place])
        code = self.runner.children.run(command, path / OUTPUT, until=until)
        (path / "model.safetensors").unlink(missing_ok=True)
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
        text = (path / OUTPUT).read_text(errors="replace")
        if code == MISTAKE:
            mistakes = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
            raise UsageError(mistakes[0] if mistakes else "the trainer ended with exit code 2")
        if code not in (0, NON_FINITE, *(STOPPED if until else ())):
            raise RunFailed(f"exit code {code}", tail(text))
        return code, shlex.join(command)


def _start(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return next(record for record in records if record["event"] == "start")


def _accuracies(path: Path) -> list[float]:
    return [record["accuracy"] for record in read_lines(path / METRICS) if record["event"] == "eval"]


def _read(
    path: Path, training: Training, started_at: str, steps_per_epoch: int, is_finite: bool, facts: dict[str, Any]
) -> Result:
    """The result, from what the run has recorded."""
    records = read_lines(path / METRICS)
    steps = [record for record in records if record["event"] == "step"]
    ends = [0, *(record["step"] for record in steps)]
    rows = [(record["step"] - before, record) for before, record in zip(ends, steps, strict=False)]
    counted = rows[1:] or rows
    num_steps = sum(number for number, _ in counted)
    evaluations = [record for record in records if record["event"] == "eval"]
    return Result(
        training=training,
        started_at=started_at,
        steps_per_epoch=steps_per_epoch,
        accuracies=tuple(record["accuracy"] for record in evaluations),
        losses=tuple(record["loss"] for record in evaluations),
        step_ms=sum(number * record["step_ms"] for number, record in counted) / max(1, num_steps),
        is_finite=is_finite,
        provenance=_start(records) | facts,
        rates=tuple((record["step"] / steps_per_epoch, record["lr"]) for record in steps[:: 1 + len(steps) // RATES]),
        noise_scale=noise.typical(steps),
    )
