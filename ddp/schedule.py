"""Learning-rate schedules: pure functions of the step.

The rate of a step is the full one (`optimizer.lr`, scaled with the batch where that is asked for), times the factor of
the schedule's shape, times that of the warm-up. Nothing here needs Numba or NumPy, so that `--print-config` can show
the rates at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ddp.config import Config, ScheduleConfig

STEPS_SHOWN = 1000
"""Steps of an epoch in `describe`, which does not know how many there are: fine enough for a smooth curve."""
RATES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Moment:
    """A step among all of a run."""

    step: int
    """Counted from 0."""
    warmup: int
    """Steps of the warm-up."""
    total: int
    """Steps of all epochs."""
    per_epoch: int
    """Steps of one epoch."""

    @property
    def progress(self) -> float:
        """How far it is from the end of the warm-up, and before it, 0, to the end of training, 1."""
        return min(1.0, max(0, self.step - self.warmup) / max(1, self.total - self.warmup))


def learning_rate(config: ScheduleConfig, base_lr: float, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    Linear warm-up (P. Goyal et al., "Accurate, Large Minibatch SGD", 2017) reaches the schedule's rate at its last
    step. Shapes that end with training fall over the steps that remain then; the others count epochs from the first.

    Args:
        config: the `schedule` section.
        base_lr: the full rate.
        step: counted from 0.
        total_steps: steps of all epochs.
        steps_per_epoch: steps of one epoch.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    rate = base_lr * SHAPES[config.name](config, Moment(step, warmup, total_steps, steps_per_epoch))
    if step >= warmup:
        return rate
    start = config.start_factor
    return rate * (start * warmup + (1 - start) * (step + 1)) / warmup


def full_learning_rate(config: Config) -> float:
    """The rate that the schedule is a share of: `optimizer.lr`, scaled from the base batch to the global batch.

    Linear scaling: Goyal et al. 2017; by the square root: A. Krizhevsky, "One weird trick for parallelizing
    convolutional neural networks", 2014, and Y. You et al., "Large Batch Optimization for Deep Learning", 2020.
    """
    schedule, lr = config.schedule, config.optimizer.lr
    if not schedule.base_batch:
        return lr
    factor = config.batch.size / schedule.base_batch
    return lr * (factor if schedule.batch_scaling == "linear" else math.sqrt(factor))


def describe(config: Config) -> str:
    """The rates at the beginning of some epochs, and at the end, on one line."""
    epochs, schedule, full = config.train.epochs, config.schedule, full_learning_rate(config)
    every = -(-epochs // RATES_SHOWN) or 1

    def rate(epoch: int) -> str:
        step = min(epoch * STEPS_SHOWN, max(epochs * STEPS_SHOWN - 1, 0))
        return f"{learning_rate(schedule, full, step, epochs * STEPS_SHOWN, STEPS_SHOWN):.4g}"

    rates = ", ".join(f"{epoch}: {rate(epoch)}" for epoch in dict.fromkeys([*range(0, epochs, every), epochs]))
    return f"full learning rate {full:.6g}; after epoch {rates}"


def _constant(config: ScheduleConfig, at: Moment) -> float:
    """1."""
    return 1.0


def _step(config: ScheduleConfig, at: Moment) -> float:
    """gamma^k after k times `step_epochs`, as torch.optim.lr_scheduler.StepLR."""
    return config.gamma ** (at.step // max(1, round(config.step_epochs * at.per_epoch)))


def _multi_step(config: ScheduleConfig, at: Moment) -> float:
    """gamma^k from the k-th milestone on, as MultiStepLR."""
    return config.gamma ** sum(at.step >= round(epoch * at.per_epoch) for epoch in config.milestones)


def _cosine(config: ScheduleConfig, at: Moment) -> float:
    """Half a cosine from 1 to f, as CosineAnnealingLR: f + (1 - f) (1 + cos(pi progress)) / 2.

    Source: I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, without restarts.
    """
    return config.final_factor + (1 - config.final_factor) * _half_cosine(at.progress)


def _polynomial(config: ScheduleConfig, at: Moment) -> float:
    """The line or curve f + (1 - f) (1 - progress)^power; with f = 0 PolynomialLR."""
    return config.final_factor + (1 - config.final_factor) * math.pow(1 - at.progress, config.power)


def _one_cycle(config: ScheduleConfig, at: Moment) -> float:
    """Half a cosine up to 1 in `pct_start` of all steps, and half a cosine down to f, as OneCycleLR.

    Source: L. N. Smith and N. Topin, "Super-Convergence", 2018. The momentum is left as it is.
    """
    total = max(1, at.total)
    peak, last = config.pct_start * total - 1, total - 1
    if at.step < peak:
        return 1 + (config.start_factor - 1) * _half_cosine(at.step / peak)
    down = min(1.0, (at.step - peak) / (last - peak))
    return config.final_factor + (1 - config.final_factor) * _half_cosine(down)


def _half_cosine(share: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


SHAPES: dict[str, Callable[[ScheduleConfig, Moment], float]] = {
    "constant": _constant,
    "step": _step,
    "multi_step": _multi_step,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "one_cycle": _one_cycle,
}
"""By `schedule.name`."""
