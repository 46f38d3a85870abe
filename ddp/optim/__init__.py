"""Optimizers on flat buffers, and learning-rate schedules."""

import numpy as np

from ddp.config import OptimizerConfig
from ddp.kernels.types import Addends, Float32, Int64
from ddp.optim.optimizer import Mask, Optimizer, norm, tensor_norms
from ddp.optim.sgd import SGD
from ddp.schedule import learning_rate

__all__ = ["SGD", "Optimizer", "build_optimizer", "learning_rate", "norm", "tensor_norms"]


def build_optimizer(
    config: OptimizerConfig,
    parameters: Float32,
    sums: Addends,
    blocks: Int64,
    state: Float32 | None = None,
    is_weight: Mask | None = None,
) -> Optimizer:
    """The configured optimizer.

    Args:
        config: its factors.
        parameters: (N,) what it updates.
        sums: what adds up to those of the gradients.
        blocks: (M, 3) of the parameter tensors, from `ddp.kernels.update.make_blocks`.
        state: (N,) zeros, memory for its state; default: its own.
        is_weight: (T,) which tensors are weights, not biases or batch normalisation's; default: all.
    """
    if is_weight is None:
        is_weight = np.ones(int(blocks[:, 2].max(initial=-1)) + 1, np.bool_)
    decays = np.where(is_weight | config.decays_all, config.weight_decay, 0).astype(np.float32)
    factors = config.momentum, config.nesterov, decays, blocks, state, config.dampening
    coefficient = config.trust_coefficient if config.name == "lars" else 0.0
    return SGD(parameters, sums, *factors, coefficient, is_weight)
