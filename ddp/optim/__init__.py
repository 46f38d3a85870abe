"""Optimizers on flat buffers, and learning-rate schedules."""

from ddp.config import OptimizerConfig
from ddp.nn import Sequential
from ddp.optim.schedule import learning_rate
from ddp.optim.sgd import SGD

__all__ = ["SGD", "build_optimizer", "learning_rate"]


def build_optimizer(config: OptimizerConfig, model: Sequential) -> SGD:
    """The configured optimizer on a model's buffers."""
    factors = (config.momentum, config.nesterov, config.weight_decay)
    return SGD(model.parameters, model.gradient_sums, *factors, model.parameter_slices.values())
