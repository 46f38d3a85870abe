"""Optimizers on flat buffers, and learning-rate schedules."""

import numpy as np

from ddp.config import OptimizerConfig
from ddp.kernels.types import Addends, Float32, Int64
from ddp.optim.adadelta import AdaDelta
from ddp.optim.adam import Adam
from ddp.optim.optimizer import Mask, Optimizer, norm, tensor_norms
from ddp.optim.sgd import SGD
from ddp.schedule import learning_rate

__all__ = [
    "SGD",
    "AdaDelta",
    "Adam",
    "Optimizer",
    "build_optimizer",
    "learning_rate",
    "norm",
    "num_states",
    "tensor_norms",
]


def num_states(config: OptimizerConfig) -> int:
    """How many buffers the configured optimizer keeps beside the parameters."""
    return int(config.momentum > 0) if config.name in ("sgd", "lars") else 2


def build_optimizer(
    config: OptimizerConfig,
    parameters: Float32,
    sums: Addends,
    blocks: Int64,
    states: Float32 | None = None,
    is_weight: Mask | None = None,
) -> Optimizer:
    """The configured optimizer.

    Args:
        config: its factors.
        parameters: (N,) what it updates.
        sums: what adds up to those of the gradients.
        blocks: (M, 3) of the parameter tensors, from `ddp.kernels.update.make_blocks`.
        states: (`num_states`, N) zeros, memory for its state; default: its own.
        is_weight: (T,) which tensors are weights, not biases or batch normalisation's; default: all.
    """
    if is_weight is None:
        is_weight = np.ones(int(blocks[:, 2].max(initial=-1)) + 1, np.bool_)
    decays = np.where(is_weight | config.decays_all, config.weight_decay, 0).astype(np.float32)
    if config.name == "adadelta":
        return AdaDelta(parameters, sums, config.rho, config.eps or 1e-6, decays, blocks, states)
    if config.name in ("adam", "adamw", "lamb"):
        eps = config.eps or (1e-6 if config.name == "lamb" else 1e-8)
        kind = config.name != "adam", config.name == "lamb", is_weight
        return Adam(parameters, sums, config.beta1, config.beta2, eps, decays, *kind, blocks, states)
    velocity = states[0] if states is not None and config.momentum else None
    factors = config.momentum, config.nesterov, decays, blocks, velocity, config.dampening
    coefficient = config.trust_coefficient if config.name == "lars" else 0.0
    return SGD(parameters, sums, *factors, coefficient, is_weight)
