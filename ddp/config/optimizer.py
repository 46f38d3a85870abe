"""The section `optimizer`: how a step changes the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import require


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule."""

    name: Literal["sgd", "lars"] = "sgd"
    """sgd: as torch.optim.SGD; lars: You et al. 2017, a learning rate for each layer, for large batches."""
    lr: float = 0.1
    """Learning rate (the slides' eta)."""
    momentum: float = 0.9
    """Momentum factor of sgd and lars; 0: the slides' plain SGD."""
    nesterov: bool = False
    """Whether momentum looks ahead (Nesterov)."""
    dampening: float = 0.0
    """Share of the gradient that momentum leaves out, from the second step on; of sgd."""
    trust_coefficient: float = 0.001
    """Of lars: a weight tensor's learning rate is lr * trust_coefficient * |w| / (|gradient| + weight_decay * |w|)."""
    weight_decay: float = 0.0
    """L2 penalty: weight_decay * w is added to the gradient."""
    decay_norm_and_bias: bool = True
    """Whether weight_decay is of batch normalisation and biases too, as PyTorch's is; of lars it never is."""
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
        require(0 <= self.dampening < 1, "optimizer.dampening", self.dampening, "use a value in [0, 1)")
        fix = "needs optimizer.name = sgd, and no optimizer.nesterov"
        plain = self.name == "sgd" and not self.nesterov
        require(plain or not self.dampening, "optimizer.dampening", self.dampening, fix)
        fix = "use a finite number above 0"
        require(0 < self.trust_coefficient < math.inf, "optimizer.trust_coefficient", self.trust_coefficient, fix)

    @property
    def decays_all(self) -> bool:
        """Whether weight decay is of all parameters; else of weights alone."""
        return self.decay_norm_and_bias and self.name != "lars"
