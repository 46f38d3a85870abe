"""The sections `checkpoint` and `output`: what a run leaves behind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddp.config.checks import require


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept to resume from."""

    every_steps: int = 0
    """Steps between checkpoints; 0: none by steps."""
    every_epochs: int = 1
    """Epochs between checkpoints; 0: none by epochs."""
    keep: int = 2
    """Newest checkpoints kept; 0: all."""
    grace_s: float = 30.0
    """Seconds from SIGTERM or SIGUSR1 within which the run ends; 0.1 or more."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 0, "checkpoint.every_steps", self.every_steps, "use 0 or more")
        require(self.every_epochs >= 0, "checkpoint.every_epochs", self.every_epochs, "use 0 or more")
        require(self.keep >= 0, "checkpoint.keep", self.keep, "use 0 or more")
        fix = "use a finite number of seconds, 0.1 or more"
        require(0.1 <= self.grace_s < math.inf, "checkpoint.grace_s", self.grace_s, fix)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where results go."""

    dir: str = "runs"
    """Directory that holds run directories."""
    name: str = ""
    """Name of this run's directory; empty: <model>-<data>-<time>."""
    log_every: int = 10
    """Steps between `step` records in metrics.jsonl."""
    noise_scale_every: int = 0
    """Steps between measurements of the gradient noise scale, which `step` records then have; 0: never."""
    profile: bool = False
    """Whether to time every layer, and end with a table of time, operations, bytes and fraction of peak."""
    trace: bool = False
    """Whether each rank writes what it does when into trace-rankNNNNN.json (docs/tracing.md)."""
    tensorboard: bool = False
    """Whether losses, accuracy and times are written for TensorBoard, too; needs the extra tensorboard."""

    def __post_init__(self) -> None:
        require(self.log_every >= 1, "output.log_every", self.log_every, "use 1 or more")
        require(self.noise_scale_every >= 0, "output.noise_scale_every", self.noise_scale_every, "use 0 or more")
        fix = "use a single directory name, printable and without a slash"
        is_name = "/" not in self.name and self.name not in (".", "..") and self.name.isprintable()
        require(is_name, "output.name", repr(self.name), fix)
