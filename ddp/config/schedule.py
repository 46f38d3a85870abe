"""The section `schedule`: how the learning rate changes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import LARGEST, require


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes."""

    name: Literal["constant", "step", "multi_step", "cosine", "polynomial", "one_cycle"] = "constant"
    """The shape: constant: the full rate throughout; step, multi_step: times gamma now and then; cosine, polynomial:
    from the full rate to final_factor of it one step after the last; one_cycle: up from start_factor, then down to
    final_factor of it at the last step."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate first rises linearly to its full value."""
    start_factor: float = 0.0
    """Share of the full rate from which the warm-up, or one_cycle, rises: with 0 the first step of one_cycle changes
    nothing; PyTorch's begins at 0.04."""
    final_factor: float = 0.0
    """Share of the full rate to which cosine, polynomial and one_cycle fall: with 0 the last step of one_cycle changes
    nothing."""
    step_epochs: float = 0.0
    """Epochs after which step multiplies the rate by gamma, again and again; step needs it."""
    milestones: tuple[float, ...] = ()
    """Epochs after each of which multi_step multiplies the rate by gamma, rising."""
    gamma: float = 0.1
    """Factor of step and multi_step."""
    power: float = 1.0
    """Exponent of polynomial; 1: a straight line."""
    pct_start: float = 0.3
    """Share of all steps in which one_cycle rises."""
    base_batch: int = 0
    """Global batch that optimizer.lr is for: with another batch.size it is scaled; 0: it is for any."""
    batch_scaling: Literal["linear", "sqrt"] = "linear"
    """How it is scaled: in proportion to batch.size / base_batch, or to its square root."""

    def __post_init__(self) -> None:
        fix = f"use 0 to {LARGEST}"
        require(0 <= self.warmup_epochs <= LARGEST, "schedule.warmup_epochs", self.warmup_epochs, fix)
        require(0 <= self.step_epochs <= LARGEST, "schedule.step_epochs", self.step_epochs, fix)
        require(0 <= self.base_batch <= LARGEST, "schedule.base_batch", self.base_batch, fix)
        for name in ("start_factor", "final_factor"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"schedule.{name}", value, "use a share of the full rate, 0 to 1")
        require(0 < self.gamma <= 1, "schedule.gamma", self.gamma, "use a factor above 0, at most 1")
        require(0 < self.power < math.inf, "schedule.power", self.power, "use a finite number above 0")
        require(0 < self.pct_start < 1, "schedule.pct_start", self.pct_start, "use a share between 0 and 1")
        self._check_name()

    def _check_name(self) -> None:
        """What one shape needs."""
        epochs = list(self.milestones)
        rising = all(0 <= before < after for before, after in itertools.pairwise([0.0, *epochs]))
        fix = f"give rising epochs, above 0 and at most {LARGEST}"
        usable = rising and max(epochs, default=0.0) <= LARGEST
        require(usable, "schedule.milestones", epochs, fix)
        fix = "multi_step needs schedule.milestones, such as [3, 6]"
        require(bool(epochs) or self.name != "multi_step", "schedule.name", self.name, fix)
        fix = "step needs schedule.step_epochs above 0"
        require(self.step_epochs > 0 or self.name != "step", "schedule.name", self.name, fix)
        fix = "one_cycle rises by itself; use 0, and schedule.pct_start for how long"
        alone = not self.warmup_epochs or self.name != "one_cycle"
        require(alone, "schedule.warmup_epochs", self.warmup_epochs, fix)

    @property
    def ends_with_training(self) -> bool:
        """Whether the rates depend on how many epochs there are."""
        return self.name in ("cosine", "polynomial", "one_cycle")
