"""The section `optimizer`: how a step changes the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import require


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule."""

    name: Literal["sgd"] = "sgd"
    """sgd: as torch.optim.SGD."""
    lr: float = 0.1
    """Learning rate (the slides' eta)."""
    momentum: float = 0.9
    """Momentum factor; 0: the slides' plain SGD."""
    nesterov: bool = False
    """Whether momentum looks ahead (Nesterov)."""
    weight_decay: float = 0.0
    """L2 penalty: weight_decay * w is added to the gradient."""
    clip_norm: float = 0.0
    """Largest norm of the gradient of all parameters: a longer one is scaled down to it; 0: no limit."""

    def __post_init__(self) -> None:
        require(0 <= self.lr < math.inf, "optimizer.lr", self.lr, "use a finite number, 0 or more")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "use a value in [0, 1)")
        fix = "use a finite number, 0 or more"
        require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, fix)
        require(0 <= self.clip_norm < math.inf, "optimizer.clip_norm", self.clip_norm, fix)
        fix = "needs optimizer.momentum above 0"
        require(not self.nesterov or self.momentum > 0, "optimizer.nesterov", "true", fix)
