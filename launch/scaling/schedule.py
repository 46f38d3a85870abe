"""When each bucket of the gradient is ready, as a traced run of one rank tells.

A layer's gradient is ready when its `backward_weight` (of batch normalisation its `backward`) is over; a bucket when
all layers are ready that it has a part of. One rank sends nothing, so that nothing slows down what is looked at.
Where a step has several backward passes, these are looked at as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from launch.errors import UsageError
from launch.scaling.collectives import layer_bytes

PASSES = ("backward_weight", "backward")
"""Those after which a layer's gradient may be ready; the first that a layer has counts."""
SKIPPED_STEPS = 2
"""Of the trace: memory is touched for the first time."""


@dataclass(frozen=True)
class Bucket:
    """A part of the gradient that is sent at once."""

    num_bytes: int
    ready: float
    """The part of the backward pass that is over then: 0 to 1."""


@dataclass(frozen=True)
class BucketSchedule:
    """The buckets of a step, in the order in which they are sent."""

    backward_s: float
    """Of the run that was traced."""
    buckets: tuple[Bucket, ...]

    def exposed(self, backward_s: float, latencies: Sequence[float], work: Sequence[float]) -> float:
        """Seconds from the end of the backward pass until the last bucket is summed, one after the other.

        A bucket starts when it is ready and the one before is done.

        Args:
            backward_s: of the step that is asked for.
            latencies: seconds of each bucket in which others may be on their way.
            work: those in which it needs the link for itself.
        """
        free = 0.0
        for bucket, latency, busy in zip(self.buckets, latencies, work, strict=True):
            free = max(free, bucket.ready * backward_s) + latency + busy
        return max(0.0, free - backward_s)

    def overlapped(self, backward_s: float, alone: Sequence[float], busy: Sequence[float]) -> float:
        """The same where all that are ready are on their way at once, as MPI libraries have them.

        The link carries one after the other, and none takes less time than alone.

        Args:
            backward_s: of the step that is asked for.
            alone: seconds of each bucket.
            busy: the part of it in which a bucket keeps the others from the link.
        """
        link = done = 0.0
        for bucket, seconds, work in zip(self.buckets, alone, busy, strict=True):
            ready = bucket.ready * backward_s
            link = max(link, ready) + work
            done = max(done, link, ready + seconds)
        return max(0.0, done - backward_s)

    def and_then(self, num_bytes: int) -> BucketSchedule:
        """With something more that is sent when the backward pass is over."""
        return BucketSchedule(self.backward_s, (*self.buckets, Bucket(num_bytes, 1.0)))


def save(schedule: BucketSchedule, path: Path) -> None:
    """Write it as JSON."""
    path.write_text(json.dumps(asdict(schedule), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> BucketSchedule:
    """Read what `save` wrote.

    Raises:
        UsageError: if it is something else, naming the file.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        buckets = tuple(Bucket(int(each["num_bytes"]), float(each["ready"])) for each in whole["buckets"])
        return BucketSchedule(float(whole["backward_s"]), buckets)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no schedule of buckets ({error}): delete it") from None


def at_the_end(buckets: Sequence[int], backward_s: float) -> BucketSchedule:
    """All buckets are ready when the backward pass is over: where nothing is known, or nothing can be hidden."""
    return BucketSchedule(backward_s, tuple(Bucket(size, 1.0) for size in buckets))


def read_trace(run: Path, buckets: Sequence[int]) -> BucketSchedule:
    """The schedule of buckets of so many bytes, from the directory of a traced run of one rank.

    Raises:
        ValueError: if the directory lacks the trace or the model, or they do not fit each other; names it.
    """
    try:
        (path, *_) = sorted(run.glob("trace-rank*.json")) or [run / "trace-rank00000.json"]
        events = [event for event in json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if event["ph"] == "X"]
        layers = layer_bytes(run)
        return _schedule(events, layers, buckets)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{run}: no trace of a run to take a schedule from ({error}); trace it again") from None


def _schedule(events: Sequence[Mapping[str, Any]], layers: Mapping[int, int], buckets: Sequence[int]) -> BucketSchedule:
    if sum(layers.values()) != sum(buckets):
        raise ValueError(f"a model of {sum(layers.values())} bytes, but buckets of {sum(buckets)}")
    by_step: dict[int, list[Mapping[str, Any]]] = {}
    for event in events:
        by_step.setdefault(event["args"]["step"], []).append(event)
    steps = [each for _, each in sorted(by_step.items()) if any(event["name"] == "backward" for event in each)]
    counted = steps[SKIPPED_STEPS:] or steps
    if not counted:
        raise ValueError("no step in it")
    found = [_of_step(each, layers, buckets) for each in counted]
    fractions = [median(column) for column in zip(*(fractions for _, fractions in found), strict=True)]
    together = zip(buckets, fractions, strict=True)
    return BucketSchedule(median(seconds for seconds, _ in found), tuple(Bucket(*each) for each in together))


def _of_step(
    events: Sequence[Mapping[str, Any]], layers: Mapping[int, int], buckets: Sequence[int]
) -> tuple[float, list[float]]:
    """Seconds of a step's backward passes, and the part of them after which each bucket is ready.

    With `batch.accumulation` there are several: gradients are whole in the last one.
    """
    *others, backward = sorted((event for event in events if event["name"] == "backward"), key=lambda one: one["ts"])
    earlier = sum(event["dur"] for event in others)
    whole = earlier + backward["dur"]
    ends: dict[int, dict[str, float]] = {}
    for event in events:
        if event["ts"] < backward["ts"]:
            continue
        index, _, rest = event["name"].partition(" ")
        kind = rest.rpartition(" ")[2]
        if index.isdecimal() and kind in PASSES:
            ends.setdefault(int(index), {})[kind] = event["ts"] + event["dur"]
    ready, last = {}, 0.0
    for layer in sorted(layers, reverse=True):
        known = [ends[layer][kind] for kind in PASSES if kind in ends.get(layer, {})]
        last = max(last, known[0] if known else backward["ts"] + backward["dur"])
        ready[layer] = last  # slices become ready from the last to the first
    starts = dict(zip(sorted(layers), accumulate((layers[layer] for layer in sorted(layers)), initial=0), strict=False))
    fractions, end = [], sum(buckets)
    for size in buckets:
        end -= size
        layer = max(layer for layer, start in starts.items() if start <= end)
        fractions.append(min(1.0, max(0.0, (earlier + ready[layer] - backward["ts"]) / whole)))
    return whole * 1e-6, fractions
