"""What the model says to the questions that a user of a cluster has, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from launch.scaling.networks import Network
from launch.scaling.predict import PRESENT, Answer, Prediction, Predictions

if TYPE_CHECKING:
    from launch.scaling.forecast import Forecast

WANTED = 0.8
"""The efficiency that a batch should keep."""
LARGEST_BATCH = 1 << 24
ASKED = (4, 16, 64, 256, 1024)
"""Ranks for which the smallest batch is asked."""


def answers(predictions: Predictions, forecast: Forecast) -> Iterator[Answer]:
    """The answers for one number of threads a rank."""
    if forecast.model.job is None:
        return
    threads = forecast.threads
    ending = "" if len({row.threads for row in predictions.rows}) == 1 else f", with {threads} threads a rank"
    for mode in forecast.modes:
        texts = [balance(predictions, network, mode, threads) for network in _names(predictions)]
        yield Answer(f"Where does communication equal computation, by {mode} scaling{ending}?", " ".join(texts))
    mode = forecast.modes[0]
    texts = [best_rungs(predictions, network, mode, threads) for network in _names(predictions)]
    how = "" if mode == "strong" else f", by {mode} scaling"
    yield Answer(f"Which reducer is best at how many ranks{how}{ending}?", " ".join(texts))
    if mode != "strong":  # the smallest batch depends on what weak scaling does not tell
        return
    present: Sequence[Network | None] = [None, *predictions.networks]
    texts = [smallest_batches(forecast, network) for network in present]
    yield Answer(f"Which batch keeps efficiency above {WANTED:.0%}{ending}?", " ".join(texts))


def _names(predictions: Predictions) -> list[str]:
    return [PRESENT, *(network.name for network in predictions.networks)]


def _title(network: str) -> str:
    return "On this cluster" if network == PRESENT else f"On {network}"


def balance(predictions: Predictions, network: str, mode: str, threads: int) -> str:
    """From how many ranks on a step communicates longer than it computes, with the best rung."""
    rows = predictions.best(network, mode, threads)
    where = crossing(rows)
    if where is None:
        last = rows[-1]
        share = last.comm_ms.value / last.compute_ms
        return (
            f"{_title(network)}: not up to {last.ranks:,} ranks, where exposed communication is {share:.0%} of"
            " computing."
        )
    return f"{_title(network)}: {f'at about {where:,} ranks' if where > 1 else 'with 2 ranks already'}."


def crossing(rows: Sequence[Prediction]) -> int | None:
    """The number of ranks at which exposed communication equals computing, between two rows on a logarithmic scale."""
    before: Prediction | None = None
    for row in rows:
        if row.comm_ms.value >= row.compute_ms:
            if before is None or before.comm_ms.value <= 0:
                return row.ranks
            one, two = (each.comm_ms.value / each.compute_ms for each in (before, row))
            part = (1 - one) / (two - one)
            return round(before.ranks * float((row.ranks / before.ranks) ** part))
        before = row
    return None


def best_rungs(predictions: Predictions, network: str, mode: str, threads: int) -> str:
    """Ranges of ranks with the rung that has the shortest step."""
    rows = [row for row in predictions.best(network, mode, threads) if row.ranks > 1]
    spans: list[tuple[str, int, int]] = []
    for row in rows:
        if spans and spans[-1][0] == row.reducer:
            spans[-1] = (row.reducer, spans[-1][1], row.ranks)
        else:
            spans.append((row.reducer, row.ranks, row.ranks))
    if not spans:
        return f"{_title(network)}: the batch is too small for several ranks."
    texts = [f"`{rung}` {_range(first, last)}" for rung, first, last in spans]
    return f"{_title(network)}: {', '.join(texts)}."


def _range(first: int, last: int) -> str:
    return f"at {first:,} ranks" if first == last else f"from {first:,} to {last:,} ranks"


def smallest_batches(forecast: Forecast, network: Network | None) -> str:
    """For some numbers of ranks, the smallest batch with an efficiency of WANTED by strong scaling."""
    texts = []
    for ranks in ASKED:
        batch = smallest_batch(forecast, network, ranks)
        texts.append(f"none at {ranks:,} ranks" if batch is None else f"{batch:,} at {ranks:,} ranks")
        if batch is None:
            break
    return f"{_title(PRESENT if network is None else network.name)}: {', '.join(texts)}."


def smallest_batch(forecast: Forecast, network: Network | None, ranks: int) -> int | None:
    """The smallest global batch, at least a sample a rank, of which one rank would take WANTED x ranks as long.

    None: not even a very large one, as ranks slow each other down whatever they compute.
    """

    def is_enough(batch: int) -> bool:
        rungs = forecast.model.rungs(forecast.place(ranks, network))
        best = max(forecast.rate(forecast.model, network, ranks, batch, rung) for rung in rungs)
        return best >= WANTED * ranks * forecast.rate(forecast.model, network, 1, batch, "flat")

    low, high = ranks, ranks
    while not is_enough(high):
        low, high = high, 2 * high
        if high > LARGEST_BATCH:
            return None
    while high - low > max(1, low // 100):  # to two digits
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
