"""The sections `batch`, `loss` and `train`: what a step is, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import require


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The global minibatch."""

    size: int = 64
    """Samples of one SGD step, over all ranks."""
    shards: int = 8
    """Logical shards of a step, dealt to the ranks in contiguous runs; more ranks than shards leaves ranks idle."""

    accumulation: int = 1
    """Micro-batches in which a rank computes its shards of a step, one after the other: memory for less than all."""

    def __post_init__(self) -> None:
        require(self.size >= 1, "batch.size", self.size, "a step needs at least 1 sample")
        require(self.shards >= 1, "batch.shards", self.shards, "use 1 or more")
        fix = f"more shards than the {self.size} samples of batch.size; use at most {self.size}"
        require(self.shards <= self.size, "batch.shards", self.shards, fix)
        fix = f"a shard is not divided: use 1 to the {self.shards} of batch.shards, or more shards"
        require(1 <= self.accumulation <= self.shards, "batch.accumulation", self.accumulation, fix)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective."""

    reduction: Literal["mean", "sum"] = "mean"
    """Whether a step descends the mean loss of its samples, or their sum as the slides write it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train and when to look."""

    epochs: int = 20
    """Passes over the training set."""
    steps: int = 0
    """SGD steps after which to end early; 0: run all epochs."""
    evaluate_every: int = 1
    """Epochs between evaluations on the test set; 0: never."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when a gradient has a NaN or an infinity: stop with exit code 3, or skip that update."""

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "train.epochs", self.epochs, "use 0 or more")
        require(self.steps >= 0, "train.steps", self.steps, "use 0 or more")
        require(self.evaluate_every >= 0, "train.evaluate_every", self.evaluate_every, "use 0 or more")
