"""What the trainings of `--mode accuracy` say, in words and tables (Markdown)."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from launch.scaling.accuracy import RULES, Result, Wanted, read_results, read_wanted
from launch.scaling.closing import aligned
from launch.scaling.flags import MEANING, Flag, flags_of_point
from launch.scaling.noise import advice, in_samples
from launch.scaling.records import Measurement
from launch.wording import count

COLUMNS = (
    *("batch", "ranks", "threads", "shards", "cores", "target", "lr", "warmup_epochs", "steps_per_epoch", "seeds"),
    *("reached", "epochs", "best_accuracy", "noise_scale", "rule", "step_ms", "epoch_s", "target_s", "is_same"),
    "flags",
)
"""Of `accuracy.csv`."""
RULE_FACTOR = 1.25
"""A rule holds as long as a batch takes at most so many times the epochs of the reference, or one more."""


@dataclass(frozen=True)
class Batch:
    """All trainings of a global batch."""

    batch: int
    results: tuple[Result, ...]
    """On the most ranks, one a seed."""
    target: float

    @property
    def reached(self) -> list[int]:
        """Epochs to the target, ascending, of the seeds that reached it."""
        return sorted(epochs for each in self.results if (epochs := each.epochs_to(self.target)) is not None)

    @property
    def epochs(self) -> float | None:
        """Their median over all seeds; None if half of the seeds or more did not reach the target."""
        missing = len(self.results) - len(self.reached)
        if 2 * missing >= len(self.results):
            return None
        return float(statistics.median([*self.reached, *[float("inf")] * missing]))

    @property
    def rule(self) -> str:
        """How the learning rate follows the batch."""
        return f"{RULES[self.results[0].training.power]} rule"

    @property
    def best(self) -> float:
        """The best accuracy of any epoch and seed."""
        return max((accuracy for each in self.results for accuracy in each.accuracies), default=0.0)

    @property
    def noise_scale(self) -> float | None:
        """The median over the seeds of the gradient noise scale late in training, in samples; None if not known.

        A seed that measured without coming to a number is one of a large scale: noise hid the gradient.
        """
        seeds = [each.noise_scale for each in self.results if each.training.noise_every or each.noise_scale is not None]
        median = statistics.median(math.inf if scale is None else scale for scale in seeds) if seeds else math.inf
        return median if math.isfinite(median) else None

    def keeps_rule(self, reference: Batch) -> bool:
        """Whether it takes about the epochs of the reference."""
        if self.epochs is None or reference.epochs is None:
            return False
        return self.epochs <= max(RULE_FACTOR * reference.epochs, reference.epochs + 1)


@dataclass(frozen=True)
class Place:
    """A global batch on some ranks."""

    batch: int
    ranks: int
    step_ms: float
    """Median over the trainings there."""
    epoch_s: float
    target_s: float | None
    """Epochs to the target, times the seconds of one; None if it is not reached."""
    is_same: bool
    """Whether the accuracies and losses have the bits of those on the most ranks, after every epoch."""
    cores: int
    """Physical cores for all ranks."""
    flags: tuple[Flag, ...]
    """What makes its times doubtful."""


def batches_of(results: Sequence[Result], wanted: Wanted) -> list[Batch]:
    """By size, those that were trained."""
    most = max(wanted.ranks)
    groups = [
        Batch(
            size,
            tuple(each for each in results if each.training.batch == size and each.training.ranks == most),
            wanted.target,
        )
        for size in wanted.batches
    ]
    return [group for group in groups if group.results]


def places_of(results: Sequence[Result], batches: Sequence[Batch], wanted: Wanted) -> list[Place]:
    """By batch and ranks, those that were timed."""
    places = []
    for batch in batches:
        for ranks in sorted(wanted.ranks):
            here = [each for each in results if (each.training.batch, each.training.ranks) == (batch.batch, ranks)]
            timed = [each for each in here if each.step_ms > 0]
            if timed:
                step_ms = statistics.median(each.step_ms for each in timed)
                epoch_s = step_ms * timed[0].steps_per_epoch / 1e3
                target_s = None if batch.epochs is None else batch.epochs * epoch_s
                same = all(_is_same(each, batch) for each in here)
                runs = [each.measurement for each in timed]
                cores, flags = min(run.cores for run in runs), flags_of_point(runs)
                places.append(Place(batch.batch, ranks, step_ms, epoch_s, target_s, same, cores, flags))
    return places


def _is_same(result: Result, batch: Batch) -> bool:
    """As the training of the same seed on the most ranks, as far as both went."""
    for other in batch.results:
        if other.training.seed == result.training.seed:
            mine = list(zip(result.accuracies, result.losses, strict=True))
            theirs = list(zip(other.accuracies, other.losses, strict=True))
            both = min(len(mine), len(theirs))
            return mine[:both] == theirs[:both]
    return True


def accuracy_section(folder: Path) -> str:
    """The section of the report, as Markdown; empty if the folder holds no such study."""
    wanted = read_wanted(folder)
    results = read_results(folder)
    if wanted is None or not results:
        return ""
    batches = batches_of(results, wanted)
    places = places_of(results, batches, wanted)
    words = " ".join(_words(batches, places, wanted))
    tables = [*_epochs_table(batches, wanted), "", *_time_table(places), "", _what_is_timed(results)]
    return "\n".join(["## Batch size and accuracy", "", words, "", *tables, ""])


def _what_is_timed(results: Sequence[Result]) -> str:
    noise = min((each.training.noise_every for each in results if each.training.noise_every), default=0)
    measured = f", but with what measures the gradient noise scale, in one step of {noise}" if noise else ""
    return f"Times are of training alone: without start, compilation and evaluations{measured}."


def machine_runs(folder: Path) -> list[Measurement]:
    """The trainings as runs on a machine; none if the folder holds no such study."""
    return [] if read_wanted(folder) is None else [result.measurement for result in read_results(folder)]


def accuracy_json(folder: Path) -> dict[str, Any] | None:
    """The section as plain objects; None if the folder holds no such study."""
    wanted = read_wanted(folder)
    if wanted is None:
        return None
    results = read_results(folder)
    batches = batches_of(results, wanted)
    places = places_of(results, batches, wanted)
    return {
        "wanted": asdict(wanted),
        "summary": _words(batches, places, wanted) if batches else [],
        "batches": [_batch_values(batch, batches, wanted) for batch in batches],
        "places": [asdict(place) for place in places],
        "trainings": [asdict(replace(result, provenance={})) for result in results],
    }


def _batch_values(batch: Batch, batches: Sequence[Batch], wanted: Wanted) -> dict[str, Any]:
    training = batch.results[0].training
    return {
        "batch": batch.batch,
        "threads": training.threads,
        "shards": training.shards,
        "lr": training.lr,
        "warmup_epochs": training.warmup_epochs,
        "steps_per_epoch": batch.results[0].steps_per_epoch,
        "seeds": len(batch.results),
        "reached": len(batch.reached),
        "epochs": batch.epochs,
        "best_accuracy": batch.best,
        "noise_scale": batch.noise_scale,
        "rule": _verdict(batch, reference_of(batches, wanted)),
    }


def accuracy_csv(folder: Path) -> str:
    """A line for each batch on some ranks, for spreadsheets; empty if the folder holds no such study."""
    document = accuracy_json(folder)
    if document is None:
        return ""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for batch in document["batches"]:
        # A batch whose trainings ended before a step was timed has no place.
        for place in [each for each in document["places"] if each["batch"] == batch["batch"]] or [{}]:
            flags = " ".join(flag["name"] for flag in place.get("flags", ()))
            writer.writerow(batch | place | {"target": document["wanted"]["target"], "flags": flags})
    return file.getvalue()


def sentences(folder: Path) -> list[str]:
    """The findings in words; none if the folder holds no such study."""
    wanted = read_wanted(folder)
    results = read_results(folder)
    if wanted is None or not results:
        return []
    batches = batches_of(results, wanted)
    return _words(batches, places_of(results, batches, wanted), wanted)


HEADINGS = ("batch", "ranks", "cores", "step ms", "epoch s", "epochs", "target s", "flags")


def closing_lines(folder: Path) -> list[str]:
    """What a terminal shows at the end: a table, and the findings below; nothing if nothing is trained."""
    wanted = read_wanted(folder)
    results = read_results(folder)
    if wanted is None or not results:
        return []
    batches = batches_of(results, wanted)
    places = places_of(results, batches, wanted)
    epochs = {batch.batch: batch.epochs for batch in batches}
    rows = [
        (
            *(str(number) for number in (place.batch, place.ranks, place.cores)),
            f"{place.step_ms:.4g}",
            f"{place.epoch_s:.3g}",
            _number(epochs[place.batch]),
            "-" if place.target_s is None else f"{place.target_s:.3g}",
            ", ".join(flag.name for flag in place.flags),
        )
        for place in places
    ]
    names = {flag.name for place in places for flag in place.flags}
    meanings = [f"{name}: {meaning}" for name, meaning in MEANING.items() if name in names]
    words = [sentence.replace("**", "") for sentence in _words(batches, places, wanted)]
    return [f"to a test accuracy of {wanted.target:.1%}", *aligned([HEADINGS, *rows]), *meanings, *words]


def reference_of(batches: Sequence[Batch], wanted: Wanted) -> Batch:
    """What the rule is judged against: the configured batch, else the smallest."""
    return next((each for each in batches if each.batch == wanted.configured), batches[0])


def _words(batches: Sequence[Batch], places: Sequence[Place], wanted: Wanted) -> list[str]:
    reference = reference_of(batches, wanted)
    noise = advice(reference.batch, reference.noise_scale)
    words = _fastest(places, batches, wanted), _rule(batches, wanted), noise, _ranks(places, wanted)
    return [sentence for sentence in words if sentence]


def _fastest(places: Sequence[Place], batches: Sequence[Batch], wanted: Wanted) -> str:
    reaching = [place for place in places if place.target_s is not None]
    if not reaching:
        best = max(batch.best for batch in batches)
        return (
            f"**No batch reached {wanted.target:.1%}**; the best test accuracy was {best:.2%}. Give more"
            " train.epochs, or a lower --target."
        )
    trusted = [place for place in reaching if not place.flags]
    best_place = min(trusted or reaching, key=lambda place: place.target_s or 0.0)
    epochs = next(batch.epochs for batch in batches if batch.batch == best_place.batch)
    doubt = "" if trusted else f" But that is doubtful: {', '.join(flag.name for flag in best_place.flags)}."
    return (
        f"The shortest time to a test accuracy of {wanted.target:.1%} is **{_seconds(best_place.target_s)}**: batch"
        f" {best_place.batch} on {count(best_place.ranks, 'rank')}, {_epochs(epochs)} of"
        f" {_seconds(best_place.epoch_s)}.{doubt}"
    )


def _rule(batches: Sequence[Batch], wanted: Wanted) -> str:
    reference = reference_of(batches, wanted)
    larger = [batch for batch in batches if batch.batch > reference.batch]
    if reference.epochs is None or not larger:
        return ""
    kept = [batch for batch in larger if batch.keeps_rule(reference)]
    broken = [batch for batch in larger if not batch.keeps_rule(reference)]
    base = f"batch {reference.batch}, which needs {_epochs(reference.epochs)}"
    if not broken:
        return f"The {reference.rule} holds up to batch {larger[-1].batch}, the largest tried, against {base}."
    first = broken[0]
    needs = f"does not reach {wanted.target:.1%}" if first.epochs is None else f"needs {_number(first.epochs)}"
    before = [batch.batch for batch in kept if batch.batch < first.batch]
    holds = f"holds up to batch {before[-1]}" if before else f"does not hold above batch {reference.batch}"
    return f"The {reference.rule} {holds} and **breaks at batch {first.batch}**: it {needs}, against {base}."


def _ranks(places: Sequence[Place], wanted: Wanted) -> str:
    others = [place for place in places if place.ranks != max(wanted.ranks)]
    if not others:
        return ""
    ranks = ", ".join(str(number) for number in sorted({place.ranks for place in places}))
    different = [place for place in others if not place.is_same]
    if different:
        where = f"batch {different[0].batch} on {count(different[0].ranks, 'rank')}"
        return f"**Ranks change what is learned**: {where} differs from {max(wanted.ranks)} ranks. Is comm.exact set?"
    return f"On {ranks} ranks accuracy and loss were the same to the last bit after every epoch: only the time differs."


def _epochs_table(batches: Sequence[Batch], wanted: Wanted) -> list[str]:
    reference = reference_of(batches, wanted)
    rows = [
        "| batch | learning rate | warm-up, epochs | steps an epoch | epochs to the target: median (range) | seeds that"
        f" reached it | best accuracy | noise scale, samples | {reference.rule} |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for batch in batches:
        training = batch.results[0].training
        spread = f" ({batch.reached[0]} to {batch.reached[-1]})" if batch.reached else ""
        epochs = ("not reached" if batch.epochs is None else _number(batch.epochs)) + spread
        verdict = _verdict(batch, reference)
        cells = [
            str(batch.batch),
            f"{training.lr:.4g}",
            f"{training.warmup_epochs:g}",
            str(batch.results[0].steps_per_epoch),
            epochs,
            f"{len(batch.reached)} of {len(batch.results)}",
            f"{batch.best:.2%}",
            in_samples(batch.noise_scale),
            f"**{verdict}**" if verdict == "breaks" else verdict,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _verdict(batch: Batch, reference: Batch) -> str:
    return "reference" if batch is reference else "holds" if batch.keeps_rule(reference) else "breaks"


def _time_table(places: Sequence[Place]) -> list[str]:
    """Doubtful places are marked by letters, which are explained below."""
    names = dict.fromkeys(flag.name for place in places for flag in place.flags)
    letters = dict(zip(names, ascii_lowercase, strict=False))
    rows = [
        "| batch | ranks | cores | step | epoch | time to the target | against the fewest ranks | same bits |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for place in places:
        fewest = next(each for each in places if each.batch == place.batch)
        marks = sorted(letters[flag.name] for flag in place.flags)
        cells = [
            str(place.batch),
            str(place.ranks) + (f" ({', '.join(marks)})" if marks else ""),
            str(place.cores),
            f"{place.step_ms:.3g} ms",
            _seconds(place.epoch_s),
            _seconds(place.target_s),
            f"{fewest.epoch_s / place.epoch_s:.2f} times",
            "yes" if place.is_same else "**no**",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    notes = [f"- ({letter}) doubtful, {name}: {_where(places, name)}." for name, letter in letters.items()]
    return [*rows, "", *notes] if notes else rows


def _where(places: Sequence[Place], name: str) -> str:
    """At how many ranks and which batches there is a flag, and what it says there."""
    texts: dict[str, dict[int, list[str]]] = {}
    for place in places:
        for flag in place.flags:
            if flag.name == name:
                texts.setdefault(flag.text, {}).setdefault(place.ranks, []).append(str(place.batch))
    told = []
    for text, by_ranks in texts.items():
        where = [f"{ranks} (batch {', '.join(batches)})" for ranks, batches in sorted(by_ranks.items())]
        told.append(f"P = {', '.join(where)}: {text}")
    return "; ".join(told)


def _seconds(value: float | None) -> str:
    if value is None:
        return "not reached"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _epochs(value: float | None) -> str:
    return f"{_number(value)} epoch{'' if value == 1 else 's'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
