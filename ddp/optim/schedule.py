"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math

from ddp.config import ScheduleConfig


def learning_rate(config: ScheduleConfig, base_lr: float, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    Linear warm-up (Goyal et al. 2017) reaches the full rate at its last step; cosine annealing
    (Loshchilov and Hutter 2017, without restarts) then falls to 0 over the steps that remain.

    Args:
        config: the `schedule` section.
        base_lr: the full rate.
        step: counted from 0.
        total_steps: steps of all epochs.
        steps_per_epoch: steps of one epoch.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return base_lr * (step + 1) / warmup_steps
    if config.name == "constant":
        return base_lr
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base_lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
