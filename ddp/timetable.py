"""When a run evaluates, saves, compares and logs, and its learning rate: pure functions of the step."""

from __future__ import annotations

from ddp.config import Config
from ddp.schedule import full_learning_rate, learning_rate


class Timetable:
    """What is to happen after which step.

    Attributes:
        steps_per_epoch: SGD steps of one pass over the training set.
        total_steps: SGD steps after which training ends.
    """

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        """Take the configuration, and the length of an epoch."""
        self.config, self.steps_per_epoch = config, steps_per_epoch
        self._full_rate = full_learning_rate(config)
        self._steps_of_all_epochs = config.train.epochs * steps_per_epoch
        self.total_steps = min(self._steps_of_all_epochs, config.train.steps or self._steps_of_all_epochs)

    def epoch(self, step: int) -> int:
        """The epoch, counted from 1, of the last of so many steps."""
        return -(-step // self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """That of a step, counted from 0; a run that `train.steps` ends early has the rates of the whole one."""
        epochs = self._steps_of_all_epochs, self.steps_per_epoch
        return learning_rate(self.config.schedule, self._full_rate, step, *epochs)

    def is_synced(self, step: int) -> bool:
        """Whether all ranks have the same parameters after a step: always, but for local SGD between averages."""
        return step % self.steps_per_epoch % self.config.comm.sync_every == 0 or step == self.total_steps

    def is_evaluation_due(self, step: int) -> bool:
        """Whether an epoch has just ended after which to evaluate."""
        return self._is_due(self.config.train.evaluate_every, step)

    def is_checkpoint_due(self, step: int, since: int) -> bool:
        """Whether to save after a step, where `since` was the last one before it at which that could be done."""
        settings = self.config.checkpoint
        return _has_come(settings.every_steps, step, since) or self._is_due(settings.every_epochs, step)

    def is_log_due(self, step: int, since: int) -> bool:
        """Whether to log a step; `since` as of `is_checkpoint_due`."""
        return _has_come(self.config.output.log_every, step, since) or step == self.total_steps

    def is_check_due(self, every: int, step: int, since: int) -> bool:
        """Whether to compare the ranks' parameters: each `every` steps, before they are saved, and at the end."""
        return _has_come(every, step, since) or step == self.total_steps or self.is_checkpoint_due(step, since)

    def _is_due(self, every_epochs: int, step: int) -> bool:
        epochs, rest = divmod(step, self.steps_per_epoch)
        return every_epochs > 0 and rest == 0 and epochs % every_epochs == 0


def _has_come(every: int, step: int, since: int) -> bool:
    """Whether a multiple of `every` lies after `since`, and not after `step`; never of 0."""
    return every > 0 and step // every > since // every
