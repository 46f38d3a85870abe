"""The section `optimizer`: how a step changes the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import require

MOST_PAST = 0.9999999
"""Float32 has little between it and 1, to which more is rounded."""
LEAST_EPS = 1e-37
"""Float32 has less only with few digits, or not at all."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule."""

    name: Literal["sgd", "lars", "adadelta", "adam", "adamw", "lamb"] = "sgd"
    """sgd, adadelta, adam, adamw: as in torch.optim; lars, lamb: You et al. 2017 and 2020, for large batches, sgd and
    adamw with a learning rate for each layer."""
    lr: float = 0.1
    """Learning rate (the slides' eta). Usual: 0.1 for sgd, 1 for adadelta, 0.001 for adam and adamw."""
    momentum: float = 0.9
    """Momentum factor of sgd and lars; 0: the slides' plain SGD."""
    nesterov: bool = False
    """Whether momentum looks ahead (Nesterov)."""
    dampening: float = 0.0
    """Share of the gradient that momentum leaves out, from the second step on; of sgd."""
    trust_coefficient: float = 0.001
    """Of lars: a weight tensor's learning rate is lr * trust_coefficient * |w| / (|gradient| + weight_decay * |w|)."""
    rho: float = 0.9
    """Weight of the past in the running means of adadelta."""
    beta1: float = 0.9
    """Weight of the past in the running mean of the gradients, of adam, adamw and lamb."""
    beta2: float = 0.999
    """Weight of the past in the running mean of their squares."""
    eps: float = 0.0
    """Added to denominators, of adadelta to the numerator too; 0: as published, 1e-6 for adadelta and lamb, 1e-8 for
    adam and adamw."""
    weight_decay: float = 0.0
    """L2 penalty: weight_decay * w is added to the gradient; of adamw and lamb to the direction instead."""
    decay_norm_and_bias: bool = True
    """Whether weight_decay is of batch normalisation and biases too, as PyTorch's is; of lars and lamb it never is."""
    clip_norm: float = 0.0
    """Largest norm of the gradient of all parameters: a longer one is scaled down to it; 0: no limit."""

    def __post_init__(self) -> None:
        require(0 <= self.lr < math.inf, "optimizer.lr", self.lr, "use a finite number, 0 or more")
        for field in ("momentum", "dampening", "rho", "beta1", "beta2"):
            value = getattr(self, field)
            require(0 <= value <= MOST_PAST, f"optimizer.{field}", value, f"use 0 to {MOST_PAST}")
        fix = "use a finite number, 0 or more"
        require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, fix)
        require(0 <= self.clip_norm < math.inf, "optimizer.clip_norm", self.clip_norm, fix)
        least = f"use 0, or a finite number, {LEAST_EPS} or more"
        require(self.eps == 0 or LEAST_EPS <= self.eps < math.inf, "optimizer.eps", self.eps, least)
        fix = "needs optimizer.momentum above 0"
        require(not self.nesterov or self.momentum > 0, "optimizer.nesterov", "true", fix)
        fix = f"is not of {self.name}; use optimizer.name = sgd or lars"
        require(not self.nesterov or self.name in ("sgd", "lars"), "optimizer.nesterov", "true", fix)
        fix = "needs optimizer.name = sgd, and no optimizer.nesterov"
        plain = self.name == "sgd" and not self.nesterov
        require(plain or not self.dampening, "optimizer.dampening", self.dampening, fix)
        fix = "use a finite number above 0"
        require(0 < self.trust_coefficient < math.inf, "optimizer.trust_coefficient", self.trust_coefficient, fix)

    @property
    def decays_all(self) -> bool:
        """Whether weight decay is of all parameters; else of weights alone."""
        return self.decay_norm_and_bias and self.name not in ("lars", "lamb")
