"""Where the time of forward and backward goes: layer by layer, and how far from the machine's limits.

A profile listens to the passes of the layers that it is given; without one nothing is timed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ddp.observe.passes import Listener, watch_passes

FLOAT32, FLOAT64 = 4, 8  # bytes


class Layer(Protocol):
    """What a profile needs to know of a layer; that of `ddp.nn` has it all."""

    passes: tuple[str, ...]
    input_shape: tuple[int, ...]
    shape: tuple[int, ...]

    def parameter_specs(self) -> Sequence[Any]:
        """The layer's parameters, each with a `size`."""

    def pass_flops(self) -> int:
        """Operations of one of the passes for one sample."""


@dataclass
class PassTimer:
    """One method of one layer: what a call does, and how long all calls took."""

    layer: str
    name: str
    flops: int
    """Of one sample."""
    sample_bytes: int
    """Input and output of one sample."""
    call_bytes: int
    """Parameters or their gradient, once a call."""
    calls: int = 0
    samples: int = 0
    seconds: float = 0.0
    is_free: bool = True
    """Whether every call gave its argument back: work that a neighbour has done, or a mere change of shape."""

    def count(self, start: float, stop: float, values: Any, result: Any) -> None:
        """Add a call: a `ddp.observe.passes.Listener`."""
        self.seconds += stop - start
        self.calls, self.samples = self.calls + 1, self.samples + len(values)
        self.is_free &= result is not None and np.may_share_memory(result, values)


@dataclass(frozen=True)
class Row:
    """One pass of one layer in an average step, of this rank's share of the batch."""

    layer: str
    name: str
    ms: float
    flops: float
    bytes: float
    """Of its input, output and parameters (or their gradient, float64), each moved once."""
    gflops: float | None
    """GFLOP/s; None for layers whose operations are not counted, those without products."""
    fraction_of_peak: float | None


class Profile:
    """Times the training passes of layers from now on."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Listen to the layers' `passes`; they must have been built."""
        self._timers: list[PassTimer] = []
        watch_passes(layers, self._timer)

    def _timer(self, index: int, layer: Layer, name: str) -> Listener:
        values = math.prod(layer.input_shape) + math.prod(layer.shape)
        parameters = sum(spec.size for spec in layer.parameter_specs())
        size = FLOAT64 if name == "backward_weight" else FLOAT32
        label = f"{index} {type(layer).__name__}"
        timer = PassTimer(label, name, layer.pass_flops(), FLOAT32 * values, size * parameters)
        self._timers.append(timer)
        return timer.count

    def rows(self, peak_gflops: float) -> list[Row]:
        """Averages over the steps so far, in the order of the layers; passes that do nothing are left out."""
        return [_row(timer, peak_gflops) for timer in self._timers if timer.calls and not timer.is_free]


def _row(timer: PassTimer, peak_gflops: float) -> Row:
    flops = timer.flops * timer.samples / timer.calls
    size = timer.sample_bytes * timer.samples / timer.calls + timer.call_bytes
    seconds = timer.seconds / timer.calls
    gflops = flops / seconds / 1e9 if flops else None
    share = gflops / peak_gflops if gflops is not None and math.isfinite(peak_gflops) else None
    return Row(timer.layer, timer.name, seconds * 1e3, flops, size, gflops, share)


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of a table for a person, with the time of all rows at its end."""
    total = sum(row.ms for row in rows)
    lines = [
        f"{'layer':14} {'pass':16} {'ms/step':>9} {'time':>5} {'MFLOP':>9} {'MB':>8} {'GFLOP/s':>8} {'of peak':>7}"
    ]
    for row in rows:
        rate = "" if row.gflops is None else f"{row.gflops:.1f}"
        share = "" if row.fraction_of_peak is None else f"{row.fraction_of_peak:.2f}"
        lines.append(
            f"{row.layer:14} {row.name:16} {row.ms:9.3f} {row.ms / total:5.0%} {row.flops / 1e6:9.1f}"
            f" {row.bytes / 1e6:8.2f} {rate:>8} {share:>7}".rstrip()
        )
    return [*lines, f"{'all':31} {total:9.3f}"]
