"""Optimizers on flat buffers, and learning-rate schedules."""

from ddp.config import OptimizerConfig
from ddp.kernels.types import Addends, Float32, Int64
from ddp.optim.sgd import SGD, norm
from ddp.schedule import learning_rate

__all__ = ["SGD", "build_optimizer", "learning_rate", "norm"]


def build_optimizer(
    config: OptimizerConfig, parameters: Float32, sums: Addends, blocks: Int64, state: Float32 | None = None
) -> SGD:
    """The configured optimizer.

    Args:
        config: its factors.
        parameters: (N,) what it updates.
        sums: what adds up to those of the gradients.
        blocks: (M, 3) of the parameter tensors, from `ddp.kernels.update.make_blocks`.
        state: (N,) zeros, memory for its state; default: its own.
    """
    return SGD(parameters, sums, config.momentum, config.nesterov, config.weight_decay, blocks, state)
