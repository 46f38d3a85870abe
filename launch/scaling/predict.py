"""What a study predicts: step times that were not measured, how far to trust them, and answers in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.scaling.networks import NETWORKS, Network
from launch.scaling.records import Measurement

PRESENT = "as measured"
"""The network of predictions for the hosts that the study ran on."""
BAND = 0.95
"""Of resampled repeats, how many lie within a band."""


@dataclass(frozen=True)
class Band:
    """A prediction, and between what it lies in BAND of all cases when the repeats are drawn anew (bootstrap).

    It knows of the repeats' spread alone: each draw keeps the shape of the fit (which constants there are, and from
    which size a message is long). How wrong the model itself is, the leave-one-out errors tell.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """One row: a step at a number of ranks, with one rung, on one network. Milliseconds are of one step."""

    network: str
    """PRESENT, or the name of a stated network."""
    mode: str
    """strong or weak."""
    ranks: int
    threads: int
    """Of each rank."""
    batch: int
    """Samples of a step, over all ranks."""
    reducer: str
    is_best: bool
    """Whether this rung has the shortest step of all rungs at these ranks on this network."""
    is_extrapolated: bool
    """Whether more ranks than any measured run had."""
    step_ms: Band
    compute_ms: float
    """Forward and backward."""
    comm_ms: Band
    """Exposed communication."""
    hidden_ms: float
    """Communication behind the backward pass."""
    serial_ms: float
    """data, update, other."""
    wait_ms: float
    """For the slowest rank."""
    samples_per_s: float
    speed_up: float
    """Samples a second, against those predicted for the study's baseline: the fewest ranks that were measured, of as
    many threads, by the same mode. Both are predicted, so that errors that they share cancel."""
    efficiency: Band
    """`speed_up` / how many times more ranks than the baseline."""
    error: float
    """Mean absolute relative error of the step time when each number of several ranks is left out in turn and predicted
    from the others, for this mode and threads; not a number (nan) if too few were measured to leave one out. 0.1 is
    10 %."""


@dataclass(frozen=True)
class Check:
    """A measurement beside what the model makes of it: with it, and without."""

    what: str
    """`step`, or a collective without computing: `flat`, `bucketed`, ..."""
    mode: str
    """strong or weak for `step`, else empty. One rank is both, and named strong."""
    ranks: int
    threads: int
    batch: int
    """0 for a collective."""
    reducer: str
    measured_ms: float
    """Median of the repeats."""
    fitted_ms: float
    """By the model that knows this measurement."""
    left_out_ms: float
    """By the model that was fitted without this number of ranks; nan if there were too few others."""

    @property
    def error(self) -> float:
        """Relative error of `left_out_ms`: 0.1 is 10 % too long."""
        return self.left_out_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Constant:
    """A number of the fitted model."""

    name: str
    """Such as `alpha of Allreduce`, `beta of Allreduce`, `seconds a sample`."""
    value: float
    low: float
    high: float
    """The band, as of `Band`."""
    unit: str
    meaning: str
    """In words."""


@dataclass(frozen=True)
class Answer:
    """One question, and what the model says."""

    question: str
    text: str
    """Whole sentences, numbers included."""


@dataclass(frozen=True)
class Predictions:
    """All that the model says of a study."""

    networks: tuple[Network, ...] = ()
    """The stated ones; PRESENT comes besides."""
    rows: tuple[Prediction, ...] = ()
    """By network, mode, threads, ranks, rung. Empty, with a sentence in `notes`, if there is too little to fit."""
    checks: tuple[Check, ...] = ()
    constants: tuple[Constant, ...] = ()
    answers: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences: what is assumed, what is missing and why."""
    slow_links: tuple[str, ...] = ()
    """Hosts or pairs of hosts whose network is slow, in words; each a finding."""

    def best(self, network: str, mode: str, threads: int) -> list[Prediction]:
        """The rows of the best rung at each number of ranks, ascending."""
        wanted = network, mode, threads
        return sorted(
            (row for row in self.rows if row.is_best and (row.network, row.mode, row.threads) == wanted),
            key=lambda row: row.ranks,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain objects; what is not a number is null."""
        whole = asdict(self)
        for check, plain in zip(self.checks, whole["checks"], strict=True):
            plain["error"] = check.error
        cleaned: dict[str, Any] = _without_nan(whole)
        return cleaned


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if value != value else value


def predict_study(
    folder: Path,
    measurements: Sequence[Measurement],
    networks: Sequence[Network] = NETWORKS,
    config: Mapping[str, Any] | None = None,
) -> Predictions:
    """Fit the model to a study, and predict.

    Args:
        folder: of the study, with `collectives.jsonl` and `schedule-threads-T.json` if they were measured.
        measurements: its runs.
        networks: those to predict for, besides the present one.
        config: of the trainer, by section; None: nothing that the model does not know.

    Raises:
        UsageError: if a file of the folder cannot be read, naming it.
    """
    from launch.scaling import forecast  # loads scipy

    comm = (config or {}).get("comm", {})
    if reason := _not_modelled(comm.get("compression", "none"), comm.get("sync_every", 1)):
        return Predictions(tuple(networks), notes=(reason,), slow_links=forecast.slow(folder))
    return forecast.forecast(folder, measurements, networks)


def _not_modelled(compression: str, sync_every: int) -> str:
    """Why nothing is predicted; empty if something is."""
    if compression != "none":
        what = f"comm.compression = {compression}"
    elif sync_every > 1:
        what = f"comm.sync_every = {sync_every}"
    else:
        return ""
    return (
        f"Nothing is predicted: the study has {what}, and the model knows of whole gradients only, sent in every step."
    )
