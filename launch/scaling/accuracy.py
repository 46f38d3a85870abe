"""`launch scale --mode accuracy`: time and epochs to a target accuracy, over global batches and ranks.

Scaling that loses accuracy is no scaling: more ranks want a larger batch, and from some size on that wants more epochs.
The learning rate follows the batch by the linear rule with warm-up (P. Goyal et al., "Accurate, Large Minibatch SGD:
Training ImageNet in 1 Hour", 2017), or by the square root if `schedule.batch_scaling` says so. With exact sums the
ranks change nothing in what is learned, so the epochs are found on the most ranks, and one training of each batch is
repeated on the others, to confirm that and to be timed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from launch.errors import UsageError
from launch.scaling.flags import flags_of_run, real_cores
from launch.scaling.records import Measurement, Point, read_lines
from launch.scaling.study import Study
from launch.wording import count

RESULTS, SETTINGS = "accuracy.jsonl", "accuracy.json"
WARMUP_SHARE = 5 / 90
"""Of the configured epochs, for a batch above the configured one: Goyal et al. took 5 of 90."""
LINEAR, SQUARE_ROOT = 1.0, 0.5
RULES = {LINEAR: "linear", SQUARE_ROOT: "square-root"}
"""The rules of the learning rate, by the power of the batch."""
NOISE_EVERY = 25
"""Steps between measurements of the gradient noise scale."""
LOG_EVERY = 5
"""Steps of a `step` record."""


@dataclass(frozen=True)
class Wanted:
    """What the user asks for."""

    target: float
    """Test accuracy, as a fraction."""
    batches: tuple[int, ...]
    """Global."""
    configured: int
    """The batch that the configured learning rate is for."""
    ranks: tuple[int, ...]
    threads: int
    """Of each rank."""
    repeats: int
    """Trainings of a batch, each with a seed of its own: how many epochs it takes depends on the draws."""

    @property
    def words(self) -> str:
        """In short."""
        ranks, batches = (", ".join(map(str, numbers)) for numbers in (self.ranks, self.batches))
        return (
            f"to {self.target:.1%} with batches of {batches} on {ranks} {'rank' if self.ranks == (1,) else 'ranks'} x"
            f" {count(self.threads, 'thread')},"
            f" {count(self.repeats, 'seed')} a batch"
        )


@dataclass(frozen=True)
class Training:
    """One training that is to be made: a batch and a seed, on some ranks."""

    batch: int
    ranks: int
    threads: int
    seed: int
    lr: float
    """The full one, scaled with the batch."""
    warmup_epochs: float
    shards: int
    epochs: int
    """After which it ends at the latest."""
    schedule_epochs: int
    """Over which the schedule of the learning rate goes: as configured."""
    base_batch: int = 0
    """That the configured learning rate is for; 0: it is for any."""
    power: float = LINEAR
    """Of the batch to which the learning rate is proportional."""
    noise_every: int = 0
    """Steps between measurements of the gradient noise scale; 0: it cannot be measured."""

    @property
    def words(self) -> str:
        """For messages."""
        return f"batch {self.batch}, {count(self.ranks, 'rank')}, seed {self.seed}"

    @property
    def name(self) -> str:
        """Of its run directory."""
        return f"accuracy-batch-{self.batch}-ranks-{self.ranks}-threads-{self.threads}-seed-{self.seed}"

    def arguments(self, steps_per_epoch: int) -> list[str]:
        """Of the trainer, after the user's own."""
        values = {
            "batch.size": self.batch,
            "batch.shards": self.shards,
            "schedule.base_batch": self.base_batch,
            "schedule.warmup_epochs": self.warmup_epochs,
            "seed": self.seed,
            "train.epochs": self.schedule_epochs,
            "train.steps": self.epochs * steps_per_epoch,
            "train.evaluate_every": 1,
            "checkpoint.every_epochs": 0,
            "checkpoint.every_steps": 0,
            "output.log_every": min(LOG_EVERY, steps_per_epoch),
            "output.noise_scale_every": self.noise_every,
        }
        return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Result:
    """What came of a training: one line of `accuracy.jsonl`."""

    training: Training
    started_at: str
    """UTC, as `2026-01-31T12:00:00Z`."""
    steps_per_epoch: int
    accuracies: tuple[float, ...]
    """On the test set, after each epoch."""
    losses: tuple[float | None, ...]
    """The same of the mean loss; None if it is not finite."""
    step_ms: float
    """Mean of the steps, without evaluations and the first record, if there are others; 0 if none was logged."""
    is_finite: bool
    """False if training ended because a loss or a gradient was not."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The `start` record (versions, CPU, MPI library, affinity, revision, ...), the command, `machines`, `siblings` and
    `others_busy_cores`."""
    wall_s: float = 0.0
    """Of the whole run; 0: not recorded."""
    rates: tuple[tuple[float, float], ...] = ()
    """Epochs done and the learning rate of some steps, for a plot."""
    noise_scale: float | None = None
    """The gradient noise scale in the second half of training, in samples; None if it is not known."""

    @property
    def measurement(self) -> Measurement:
        """As a run of a study of the other modes, as far as that goes: the machine, and how fast it was."""
        training = self.training
        point = Point(training.ranks, training.threads, training.batch, training.shards)
        made = Measurement(
            point=point,
            repeat=training.seed,
            run=training.name,
            started_at=self.started_at,
            wall_s=self.wall_s,
            steps=self.steps_per_epoch * len(self.accuracies),
            records_ms=(self.step_ms,),
            step_ms=self.step_ms,
            phases_ms={},
            uncovered=0.0,
            samples_per_s=training.batch / self.step_ms * 1e3 if self.step_ms else 0.0,
            reducer="",
            exact=False,
            parameters=int(self.provenance["parameters"]),
            parameters_sha256="",
            slowest={},
            hosts=tuple(self.provenance["hosts"]),
            cores=0,
            provenance=self.provenance,
        )
        return replace(made, cores=real_cores(made))

    def epochs_to(self, target: float) -> int | None:
        """The first epoch after which the accuracy is at least the target; None if there is none."""
        return next((epoch for epoch, accuracy in enumerate(self.accuracies, 1) if accuracy >= target), None)

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch, evaluations not counted."""
        return self.step_ms * self.steps_per_epoch / 1e3

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


def wanted_of(study: Study, target: float, batches: Sequence[int]) -> Wanted:
    """What a study in this mode is to find out.

    Raises:
        UsageError: for what cannot be measured; one line that names the value and the fix.
    """
    given, model = study.settings, study.config["model"]["name"]
    if model == "polynomial":
        raise UsageError("--mode accuracy with model.name = polynomial: it has no accuracy; use another model")
    most = max(given.ranks)
    if min(batches) < most:
        fix = f"give batches of {most} samples or more, or fewer ranks"
        raise UsageError(f"--batches {min(batches)}: less than a sample for each of {most} ranks; {fix}")
    ranks = tuple(sorted(set(given.ranks)))
    return Wanted(target, tuple(sorted(set(batches))), study.batch, ranks, given.threads[0], given.repeats)


def fitting(wanted: Wanted, samples: int, data: str, are_given: bool) -> Wanted:
    """With those of the batches for which there are samples enough.

    Args:
        wanted: by the user.
        samples: of the training set.
        data: its name.
        are_given: whether the user has asked for these batches: then none is left out.

    Raises:
        UsageError: if there are too few samples for one that is given.
    """
    fit = tuple(batch for batch in wanted.batches if batch <= samples)
    if are_given and fit != wanted.batches:
        only = f"{data} has only {samples} training samples; give at most that"
        raise UsageError(f"--batches {max(wanted.batches)}: {only}")
    return replace(wanted, batches=fit)


def base_batch(config: Mapping[str, Any]) -> int:
    """That the configured learning rate is for; 0: any, as a loss that is summed over the batch scales the step."""
    if config["loss"]["reduction"] != "mean":
        return 0
    return int(config["schedule"].get("base_batch", 0)) or int(config["batch"]["size"])


def scaling_power(config: Mapping[str, Any]) -> float:
    """Of the batch to which the learning rate is proportional."""
    return SQUARE_ROOT if config["schedule"].get("batch_scaling") == "sqrt" else LINEAR


def learning_rate(batch: int, config: Mapping[str, Any]) -> float:
    """What the trainer makes of the configured one for a batch."""
    base = base_batch(config)
    return float(config["optimizer"]["lr"]) * ((batch / base) ** scaling_power(config) if base else 1.0)


def warmup_epochs(batch: int, config: Mapping[str, Any]) -> float:
    """As configured; for a batch above the configured one at least WARMUP_SHARE of all epochs, but of one-cycle."""
    configured = float(config["schedule"]["warmup_epochs"])
    share = round(WARMUP_SHARE * int(config["train"]["epochs"]), 2)
    rises_itself = config["schedule"]["name"] == "one_cycle"
    return max(configured, share) if batch > int(config["batch"]["size"]) and not rises_itself else configured


def finding(wanted: Wanted, config: Mapping[str, Any]) -> list[Training]:
    """The trainings that find the epochs out, on the most ranks: in rounds of all batches, each round with its seed."""
    ranks, epochs = max(wanted.ranks), int(config["train"]["epochs"])
    return [
        Training(
            batch=batch,
            ranks=ranks,
            threads=wanted.threads,
            seed=int(config["seed"]) + repeat,
            lr=learning_rate(batch, config),
            warmup_epochs=warmup_epochs(batch, config),
            shards=shards(batch, ranks, config),
            epochs=epochs,
            schedule_epochs=epochs,
            base_batch=base_batch(config),
            power=scaling_power(config),
            noise_every=NOISE_EVERY if measures_noise(shards(batch, ranks, config), config) else 0,
        )
        for repeat in range(wanted.repeats)
        for batch in wanted.batches
    ]


def confirming(found: Result, wanted: Wanted) -> list[Training]:
    """The same training on the other ranks, as long as it took; none if it became infinite: then no time is told."""
    epochs = found.epochs_to(wanted.target) or len(found.accuracies)
    if not found.is_finite or not epochs:
        return []
    others = [ranks for ranks in wanted.ranks if ranks != found.training.ranks]
    return [replace(found.training, ranks=ranks, epochs=epochs) for ranks in others]


def measures_noise(num_shards: int, config: Mapping[str, Any]) -> bool:
    """Whether the trainer can measure the gradient noise scale: it needs several shards' gradients in each step."""
    comm = config["comm"]
    has_sums = comm["sync_every"] == 1 and comm["compression"] == "none" and comm["reducer"] != "dummy"
    return num_shards > 1 and has_sums


def shards(batch: int, ranks: int, config: Mapping[str, Any]) -> int:
    """Logical shards of a batch: as configured, but as many as the most ranks at the least, so that all have work."""
    return min(batch, max(ranks, int(config["batch"]["shards"])))


def planned(wanted: Wanted, config: Mapping[str, Any], done: Mapping[str, Result]) -> list[Training]:
    """All trainings of a study in their order; those that confirm one that is not done yet are as long as it may take.

    Args:
        wanted: by the user.
        config: the trainer's, by section.
        done: what came of those that were made, by name.
    """
    trainings = []
    for training in finding(wanted, config):
        trainings.append(training)
        if training.seed == int(config["seed"]):
            found = done.get(training.name)
            others = [replace(training, ranks=ranks) for ranks in wanted.ranks if ranks != training.ranks]
            trainings += others if found is None else confirming(found, wanted)
    return trainings


def read_results(folder: Path) -> list[Result]:
    """All trainings of a study so far.

    Raises:
        UsageError: if a line cannot be read, naming it.
    """
    path, results = folder / RESULTS, []
    try:
        lines = read_lines(path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text ({error.reason}): remove that file, or what is no text in it") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    for number, values in enumerate(lines, 1):
        try:
            results.append(_result(values))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"{path}, line {number} is no training ({reason}): remove that line") from None
    return results


def _result(values: Mapping[str, Any]) -> Result:
    """Of a line; whatever is wrong with it raises here, not where it is used."""
    lists: dict[str, Any] = {name: tuple(values[name]) for name in ("accuracies", "losses")}
    lists["rates"] = tuple((epochs, rate) for epochs, rate in values.get("rates", ()))
    result = Result(**{**values, **lists, "training": Training(**values["training"])})
    optional = (*result.losses, result.noise_scale)
    known = [number for number in optional if number is not None] + [part for pair in result.rates for part in pair]
    for number in (*asdict(result.training).values(), *result.accuracies, *known, result.step_ms, result.wall_s):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{number!r} is no number")
    facts = result.provenance
    if len(result.accuracies) != len(result.losses) or len(facts["affinity"]) != len(facts["hosts"]):
        raise ValueError("lists that belong together have different lengths")
    RULES[result.training.power]
    flags_of_run(result.measurement)
    int(facts["samples"]["train"])
    return result


def read_wanted(folder: Path) -> Wanted | None:
    """What was asked for; None if the folder holds no such study.

    Raises:
        UsageError: if the file cannot be read.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        batches, ranks = (tuple(map(int, values.pop(name))) for name in ("batches", "ranks"))
        configured, threads, repeats = (int(values.pop(name)) for name in ("configured", "threads", "repeats"))
        wanted = Wanted(float(values.pop("target")), batches, configured, ranks, threads, repeats)
        if not batches or not ranks or min(*batches, *ranks, configured, threads, repeats) < 1 or values:
            raise ValueError("it has other values")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        mistake = f"line {error.lineno}, {error.msg}" if isinstance(error, json.JSONDecodeError) else repr(error)
        fix = "remove that file, and give the study's command again"
        raise UsageError(f"{path} does not say what was asked for ({mistake}): {fix}") from None
    return wanted


def write_wanted(folder: Path, wanted: Wanted) -> None:
    """Keep what is asked for, so that a study that goes on is the same one, but perhaps with more repeats.

    Raises:
        UsageError: if the folder holds another.
    """
    before = read_wanted(folder) if read_results(folder) else None
    for name, value in asdict(wanted).items():
        if before is not None and name != "repeats" and getattr(before, name) != value:
            given = f"{folder} holds a study with {name} = {_text(getattr(before, name))}, not {_text(value)}"
            raise UsageError(f"{given}: give that, or another --output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(asdict(wanted), indent=1) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
