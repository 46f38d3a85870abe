"""The first page of a report: what a study has shown, in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from launch.scaling.factors import MEANINGS
from launch.scaling.flags import Bits
from launch.scaling.study import STRONG, WEAK, Study
from launch.scaling.summary import GOOD, Row, Series, threshold
from launch.scaling.tables import between, efficiency, percent
from launch.wording import capitalised, count

WORTH_TELLING = 0.98
"""A factor above this has lost too little for a word."""
FEW_REPEATS = 5


def summary(study: Study, series: Sequence[Series], bits: Bits | None, missing: int) -> list[str]:
    """The sentences, what matters most first; each stands for itself."""
    compared = [one for one in series if one.others]
    lines = [f"**{capitalised(one.name)}**: {best(one)} {where_it_falls(one)} {what_limits(one)}" for one in compared]
    lines += smaller_parts(compared)
    lines += ranks_or_threads(compared)
    if not compared and study.curves():
        lines.append("There is nothing to compare yet: only the baseline, or nothing, was measured.")
    lines += same_bits_in_words(study, bits)
    lines += doubts(series)
    if missing:
        total = len(study.runs())
        lines.append(
            f"**{missing} of {count(total, 'run')} missing**: the study was interrupted, or runs have failed. The same"
            " command with `--output` of this folder goes on."
        )
    return [line for line in lines if line]


def baseline_rule(study: Study, series: Sequence[Series]) -> str:
    """What all is compared with."""
    sentences = [f"Baseline: {study.baseline}."]
    for one in series:
        if (fewest := one.baseline.point.ranks) > study.baseline_ranks:
            sentences.append(
                f"For {one.name} the runs on {count(study.baseline_ranks, 'rank')} are missing, so those on {fewest}"
                " are the baseline."
            )
    return " ".join(sentences)


def best(series: Series) -> str:
    """The fastest point; a doubtful one only if there is no other."""
    trusted = [row for row in series.others if not row.is_doubtful]
    row = max(trusted or series.others, key=lambda row: row.speed_up.value)
    doubtful = "" if trusted else f", but that is doubtful: {_flag_names([row])}"
    if series.baseline.is_doubtful:
        doubtful += f"; the baseline is doubtful: {_flag_names([series.baseline])}"
    return (
        f"at best {between(row.speed_up)} times the samples a second of {count(series.baseline.point.ranks, 'rank')},"
        f" with {count(row.point.ranks, 'rank')}; efficiency {efficiency(row)}{doubtful}."
    )


def where_it_falls(series: Series) -> str:
    """Up to how many ranks efficiency is good."""
    good, bad = threshold(series)
    if bad is None:
        return f"It is {percent(GOOD)} or more at all measured numbers of ranks."
    (row,) = (row for row in series.rows if row.point.ranks == bad)
    doubtful = f" (but {bad} ranks are doubtful: {_flag_names([row])})" if row.is_doubtful else ""
    return f"It falls below {percent(GOOD)} between {good} and {bad} ranks{doubtful}."


def what_limits(series: Series) -> str:
    """Where the efficiency of the most ranks goes, by factors; of the most that are not doubtful, if there are any."""
    trusted = [row for row in series.others if not row.is_doubtful]
    row = (trusted or series.others)[-1]
    losses = sorted((value, name) for name, value in row.factors.by_name.items() if value < WORTH_TELLING)
    start = f"With {count(row.point.ranks, 'rank')}"
    if not losses:
        return f"{start} nothing worth telling is lost."
    told = [f"{MEANINGS[name]} (factor {value:.2f})" for value, name in losses]
    return f"{start} most is lost by {', then by '.join(told)}."


def smaller_parts(series: Sequence[Series]) -> list[str]:
    """Slower computing by cause, where both modes tell: weak scaling keeps a rank's work, strong scaling cuts it."""
    by_mode = {(one.mode, one.threads): one for one in series}
    lines = []
    for (mode, threads), strong in by_mode.items():
        weak = by_mode.get((WEAK, threads))
        if mode != STRONG or weak is None:
            continue
        pairs = {row.point.ranks: row for row in weak.others}
        for row in reversed(strong.others):
            if (other := pairs.get(row.point.ranks)) is not None:
                shared, both = other.factors.compute, row.factors.compute
                if min(shared, both) < WORTH_TELLING:
                    lines.append(
                        f"Computing a sample, {count(row.point.ranks, 'rank')} x {count(threads, 'thread')}: factor"
                        f" {shared:.2f} with the same work on each rank, which is what ranks take from each other"
                        f" (memory bandwidth, clock, shared cores); {both / shared:.2f} more for the smaller parts of"
                        " strong scaling (smaller matrices, calls)."
                    )
                break
    return lines


def ranks_or_threads(series: Sequence[Series]) -> list[str]:
    """Where the same number of threads was split in several ways: which is best for the same batch."""
    ways: defaultdict[int, dict[int, Row]] = defaultdict(dict)
    for row in (row for one in series if one.mode == STRONG for row in one.rows):
        ways[row.point.ranks * row.point.threads][row.point.ranks] = row
    lines = []
    for threads, rows in sorted(ways.items()):
        if len(rows) > 1:
            ranked = sorted(rows.values(), key=lambda row: -row.times.samples_per_s)
            texts = [
                f"{count(row.point.ranks, 'rank')} x {count(row.point.threads, 'thread')}"
                f" {row.times.samples_per_s:,.0f}{' (doubtful)' if row.is_doubtful else ''}"
                for row in ranked
            ]
            best = ranked[0].times.samples_per_s
            one = f"; the best is {best / rows[1].times.samples_per_s:.2f} times one rank" if 1 in rows else ""
            lines.append(f"With {count(threads, 'thread')} in all, samples a second: {', '.join(texts)}{one}.")
    return lines


def same_bits_in_words(study: Study, bits: Bits | None) -> list[str]:
    """Whether the points did the same work."""
    if bits is not None:
        text = f"{capitalised(bits.text)}."
        return [text if bits.same else f"**{text}**"]
    if not study.exact:
        return ["Sums are not exact here (`comm.exact`, compression, local SGD): points need not train the same bits."]
    return []


def doubts(series: Sequence[Series]) -> list[str]:
    """How many points are doubtful, and how sure the intervals are."""
    rows = list({row.point: row for one in series for row in one.rows}.values())
    doubtful = [row for row in rows if row.is_doubtful]
    lines = []
    if doubtful:
        lines.append(
            f"{len(doubtful)} of {count(len(rows), 'point')} doubtful, marked in every table and hollow or hatched in"
            f" every plot: {_flag_names(doubtful)}."
        )
    if rows and (fewest := min(row.repeats for row in rows)) < FEW_REPEATS:
        lines.append(
            f"Some points have {count(fewest, 'repeat')}: intervals are too narrow, or missing, with less than"
            f" {FEW_REPEATS}."
        )
    return lines


def _flag_names(rows: Sequence[Row]) -> str:
    names: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        for flag in row.flags:
            names[flag.name] += 1
    return ", ".join(names) if len(rows) == 1 else ", ".join(f"{name} ({n})" for name, n in names.items())
